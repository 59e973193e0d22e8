//! `kshot verify`: every number again, from stored predictions.

use std::path::PathBuf;

use clap::Args;

use super::places::places;
use super::{Verdict, output};
use crate::error::{Error, Result};
use crate::experiment::plan::Places;
use crate::experiment::verify;
use crate::store::Store;
use crate::store::verify::{Findings, Images};

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
pub(super) struct Arguments {
    /// A results folder, as `kshot sweep` or `kshot promote` writes it.
    results: PathBuf,
    /// Hash every image behind the results again, of the training and of the test.
    #[arg(long)]
    images: bool,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<Verdict> {
    let store = Store::open_existing(&arguments.results)?;
    let mut findings = verify::verify(&store)?;
    if arguments.images {
        let Places { datasets, cache, .. } = places();
        verify::images(&store, &Images { datasets, cache }, &mut findings)?;
    }
    let text = if arguments.json {
        serde_json::to_string_pretty(&findings).map_err(|e| Error::io("write", "stdout")(e.into()))? + "\n"
    } else {
        plain(&findings)
    };
    output(&text)?;
    Ok(findings.hold().into())
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
