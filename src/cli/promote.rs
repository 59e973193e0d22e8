//! `kshot promote`: results made small enough to be committed.

use std::path::PathBuf;

use clap::Args;

use super::output;
use crate::cli::plot;
use crate::error::Result;
use crate::store::Store;
use crate::store::promote;

/// Write the compact form of a results folder, with all predictions, and print its table.
///
/// Every finished cell of its ledger.csv goes in: cells/, one predictions.parquet for all of them,
/// sweep.toml, ledger.csv, timings.csv and figures/, but no splits and no adapters. `kshot plot` reads it
/// as it reads any results folder. An older compact form in DIR is replaced in one step: whenever this is killed, DIR is
/// the old form or the new one.
#[derive(Debug, Args)]
#[command(after_help = "Example: kshot promote results/mini-full results/reference/mini-full")]
pub(super) struct Arguments {
    /// A results folder, as `kshot sweep` writes it.
    results: PathBuf,
    /// Where the compact form goes.
    dir: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    // Drawn from what was written, which is thereby read back once.
    let (records, tables) = promote::promote(&Store::open_existing(&arguments.results)?, &arguments.dir, plot::draw)?;
    tracing::info!("{} cells are in `{}`", records.len(), arguments.dir.display());
    output(&plot::plain(&tables))
}
