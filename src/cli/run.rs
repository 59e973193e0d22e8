//! `kshot run`: one cell, as a cluster's scheduler calls it.

use clap::Args;

use super::sweep::{Lease, commit};
use super::{output, places::places};
use crate::cli::sweep::Config;
use crate::cli::terminal::SweepBars;
use crate::error::{Error, Result};
use crate::experiment::plan;
use crate::experiment::sweep::Sweeper;
use crate::store::Store;

/// Train and evaluate one cell of a sweep and print its key, accuracy and record.
///
/// May be called again and again: a finished cell is not run again, one that was cut short goes on where it was, and
/// one that another process runs is waited for. Tables, figures and the ledger are not made: `kshot sweep` with the
/// same config makes them once the cells are finished, and `kshot plot` draws them again.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kshot sweep --config configs/mini-full.toml --dry-run            the cells with their RUN_ID
  kshot run --config configs/mini-full.toml --cell 0123456789abcdef")]
pub(super) struct Arguments {
    #[command(flatten)]
    config: Config,
    /// The cell, as `kshot sweep --dry-run` lists it.
    #[arg(long, value_name = "RUN_ID")]
    cell: String,
    #[command(flatten)]
    lease: Lease,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let places = places();
    let (sweep, folder) = arguments.config.read()?;
    let cells = plan::plan(&sweep, &places)?;
    let unknown = || Error::UnknownCell {
        run_id: arguments.cell.clone(),
        cells: cells.len(),
    };
    let cell = cells
        .iter()
        .find(|cell| cell.run_id == arguments.cell)
        .ok_or_else(unknown)?;
    let store = Store::open(&folder)?;
    store.write_sweep_config(&sweep.to_toml()?)?;
    let record = Sweeper {
        sweep: &sweep,
        store: &store,
        claims: arguments.lease.claims(&folder)?,
        commit: commit(&places.home).as_deref(),
        progress: &mut SweepBars::new(),
    }
    .run_one(cell)?;
    let path = store.cell_path(&record.run_id);
    output(&format!(
        "{} · {:.1} % · {}\n",
        record.key,
        100.0 * record.value(),
        path.display()
    ))
}
