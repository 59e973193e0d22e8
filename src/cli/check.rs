//! `kshot control`: are the numbers about the pictures and the labels, and about nothing else? `kshot verify`: every number again,
//! from stored predictions.

use std::path::PathBuf;

use clap::Args;

use super::sweep::Config;
use super::terminal::Bars;
use super::version::COMMIT;
use super::{interrupt, output, output_json, plot};
use crate::error::{Error, Result};
use crate::experiment::plan::{self, Cell, Places};
use crate::experiment::{control, verify};
use crate::store::Store;
use crate::store::control::Controls;
use crate::store::record::Record;
use crate::store::verify::{Findings, Images, images};

/// Sanity controls of finished cells: shuffled images, shuffled labels, adapter off and on, reload parity, prompt
/// without image.
///
/// Of each dataset and each learner with an adapter, the cell with the most shots under the first seed is trained again
/// and controlled. What was found goes to controls/<run_id>.json, one file a cell; a cell that has been controlled is
/// not controlled again. A red control marks the numbers of its cell as not to be used, in ledger.csv, tables and
/// figures, and `kshot gate` refuses them. Exit code 1 if one is red.
///
/// The two shuffled controls are red by bad luck in at most one of 1,000 cells each, the others never.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kshot control                                     after kshot sweep
  kshot control --config configs/mini-full.toml --cell 47daa5a31e43bf27")]
pub(super) struct ControlArguments {
    #[command(flatten)]
    config: Config,
    /// Control this cell instead (repeatable); `kshot sweep --dry-run` lists them.
    #[arg(long, value_name = "RUN_ID")]
    cell: Vec<String>,
}

pub(super) fn control(arguments: &ControlArguments) -> Result<bool> {
    let places = Places::from_env();
    let (sweep, folder) = arguments.config.read()?;
    interrupt::promise(interrupt::GOES_ON);
    let cells = plan::plan(&sweep, &places)?;
    let chosen = control::choose(&cells, sweep.seeds.first().copied(), &arguments.cell)?;
    // Only read as a whole: a folder of the compact form has no place for running cells.
    let store = Store::open_existing(&folder);
    let finished = finished(&chosen, store.as_ref().ok(), &arguments.config)?;
    let store = store?;
    let (mut all, bars) = (Vec::new(), Bars::new());
    for (number, (cell, record)) in (1..).zip(chosen.iter().zip(&finished)) {
        let controls = match store.controls(record)? {
            Some(known) => known,
            None => {
                let on = |control| tracing::info!("{}: {control}", cell.key);
                control::run(cell, &store, record, &places.home, COMMIT, &mut { on })?
            }
        };
        bars.line(&format!(
            "[{number}/{}] {} · {} · {:.1} s",
            chosen.len(),
            cell.key,
            controls.mark(),
            controls.seconds
        ));
        all.push(controls);
    }
    let red = all.iter().filter(|controls| controls.is_red()).count();
    let listed = store.mark_ledger()?;
    if red > 0 && !listed.is_empty() {
        plot::draw(&store, &listed)?;
    }
    output(&table(&all, red))?;
    Ok(red == 0)
}

/// The records of all cells, or an error that names those that are missing and what makes them.
fn finished(cells: &[&Cell], store: Option<&Store>, config: &Config) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    let mut missing = Vec::new();
    for cell in cells {
        match store.map(|store| store.finished(&cell.run_id)).transpose()?.flatten() {
            Some(record) => records.push(record),
            None => missing.push(cell.key.to_string()),
        }
    }
    if missing.is_empty() {
        return Ok(records);
    }
    let they = if missing.len() == 1 { "it is" } else { "they are" };
    Err(Error::Uncontrolled {
        cell: missing.join("; "),
        reason: format!("{they} not finished"),
        remedy: format!("`{}` makes them", config.command("sweep")),
    })
}

fn table(all: &[Controls], red: usize) -> String {
    let mut text = String::new();
    for controls in all {
        text += &format!("{}  ({})\n", controls.key, controls.run_id);
        for control in &controls.controls {
            let mut head = format!("{:<11}{:<19}", control.verdict, control.name);
            for measure in &control.measures {
                text += &format!("  {head} {measure}\n");
                head = " ".repeat(30);
            }
        }
        text.push('\n');
    }
    let cells = if all.len() == 1 { "cell" } else { "cells" };
    text += &match red {
        0 => format!("{} {cells} controlled, none is red\n", all.len()),
        _ => format!("{red} of {} {cells} red: their numbers are not to be used\n", all.len()),
    };
    text
}

/// Prove that a results folder holds what it says.
///
/// Records, predictions and splits are whole and belong together, every metric computed again from the predictions is
/// the stored one to the last bit, every `run_id` is that of its record and split, and ledger and timings are what the cells and
/// `sweep.toml` give. With --images every image file behind the results is hashed again too. Exit code 1 when something does not
/// hold.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kshot verify results/quickstart --images
  kshot verify results/reference/mini-full --json")]
pub(super) struct VerifyArguments {
    /// A results folder, as `kshot sweep` or `kshot promote` writes it.
    results: PathBuf,
    /// Hash every image behind the results again, of the training and of the test.
    #[arg(long)]
    images: bool,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn verify(arguments: &VerifyArguments) -> Result<bool> {
    let store = Store::open_existing(&arguments.results)?;
    let mut findings = verify::verify(&store)?;
    if arguments.images {
        let Places { datasets, cache, .. } = Places::from_env();
        images(&store, &Images { datasets, cache }, &verify::read, &mut findings)?;
    }
    if arguments.json {
        output_json(&findings)?;
    } else {
        output(&plain(&findings))?;
    }
    Ok(findings.hold())
}

fn plain(findings: &Findings) -> String {
    let mut text = format!(
        "{} cells are whole; their metrics were computed again from {} predictions\n",
        findings.cells, findings.predictions
    );
    text += &format!(
        "{} of them have the `run_id` that record and images give\n",
        findings.identities
    );
    if findings.splits > 0 {
        text += &format!("{} of them have their split beside them\n", findings.splits);
    }
    if !findings.rebuilt.is_empty() {
        text += &format!("rebuilt to the same bytes: {}\n", findings.rebuilt.join(", "));
    }
    if let Some(images) = findings.images {
        text += &format!("{images} images behind them were hashed again\n");
    }
    for note in &findings.notes {
        text += &format!("note: {note}\n");
    }
    for problem in &findings.problems {
        text += &format!("WRONG: `{}`: {}\n", problem.file, problem.reason);
    }
    text += &match findings.problems.len() {
        0 => "everything holds\n".to_owned(),
        1 => "1 thing does not hold\n".to_owned(),
        n => format!("{n} things do not hold\n"),
    };
    text
}
