//! `kshot control`: are the numbers about the pictures and the labels, and about nothing else?

use std::io::{self, Write as _};

use clap::Args;

use super::places::places;
use super::sweep::commit;
use super::{Verdict, output};
use crate::cli::plot;
use crate::cli::sweep::Config;
use crate::error::{Error, Result};
use crate::experiment::control;
use crate::experiment::plan::{self, Cell};
use crate::store::Store;
use crate::store::control::Controls;
use crate::store::record::Record;

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
pub(super) struct Arguments {
    #[command(flatten)]
    config: Config,
    /// Control this cell instead (repeatable); `kshot sweep --dry-run` lists them.
    #[arg(long, value_name = "RUN_ID")]
    cell: Vec<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<Verdict> {
    let places = places();
    let (sweep, folder) = arguments.config.read()?;
    let cells = plan::plan(&sweep, &places)?;
    let chosen = control::choose(&cells, sweep.seeds.first().copied(), &arguments.cell)?;
    // Only read as a whole: a folder of the compact form has no place for running cells.
    let store = Store::open_existing(&folder);
    let finished = finished(&chosen, store.as_ref().ok(), &arguments.config)?;
    let store = store?;
    let commit = commit(&places.home);
    let mut all = Vec::new();
    for (number, (cell, record)) in (1..).zip(chosen.iter().zip(&finished)) {
        let controls = match store.controls(record)? {
            Some(known) => known,
            None => {
                let on = |control| tracing::info!("{}: {control}", cell.key);
                control::run(cell, &store, record, &places.home, commit.as_deref(), &mut { on })?
            }
        };
        // Decoration: without a terminal to write to, the table is all there is.
        let _ = writeln!(
            io::stderr(),
            "[{number}/{}] {} · {} · {:.1} s",
            chosen.len(),
            cell.key,
            controls.mark(),
            controls.seconds
        );
        all.push(controls);
    }
    let red = all.iter().filter(|controls| controls.is_red()).count();
    let listed = store.mark_ledger()?;
    if red > 0 && !listed.is_empty() {
        plot::draw(&store, &listed)?;
    }
    output(&table(&all, red))?;
    Ok((red == 0).into())
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
    Err(Error::Uncontrolled {
        cell: missing.join("; "),
        reason: if missing.len() == 1 {
            "it is not finished"
        } else {
            "they are not finished"
        }
        .into(),
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
