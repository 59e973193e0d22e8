//! A sweep: every cell that is not finished yet, then ledger, table and figures.

use crate::config::Sweep;
use crate::error::{Error, Result};
use crate::experiment::cell::{self, Event};
use crate::experiment::plan::Cell;
use crate::results::record::{Failure, Record};
use crate::results::store::Store;

/// Who watches a sweep.
pub trait Progress {
    /// Before the first cell: all cells, how many of them are finished, images still to process.
    fn begin(&mut self, cells: usize, finished: usize, images: u64);
    /// A cell starts.
    fn start(&mut self, cell: &Cell);
    /// A cell moves on.
    fn event(&mut self, event: Event);
    /// A cell is stored.
    fn finish(&mut self, record: &Record);
    /// A cell failed; the sweep goes on.
    fn fail(&mut self, cell: &Cell, error: &Error);
    /// After the last cell.
    fn end(&mut self);
}

/// What a sweep did.
#[derive(Debug)]
pub struct Outcome {
    /// Records of all finished cells of this sweep, old and new, in order of their keys.
    pub records: Vec<Record>,
    /// Cells that were trained or fitted in this call.
    pub ran: usize,
    /// Cells that failed in this call.
    pub failed: usize,
}

/// Runs what is missing. A failed cell is recorded and the rest goes on, unless the failure cannot
/// be recorded either (full disk, folder gone): then the sweep stops with the cell's error.
///
/// # Errors
/// The store cannot be written.
pub fn run(
    sweep: &Sweep,
    cells: &[Cell],
    store: &Store,
    commit: Option<&str>,
    progress: &mut dyn Progress,
) -> Result<Outcome> {
    store.write_sweep_config(&sweep.to_toml()?)?;
    let mut records = Vec::new();
    let mut missing = Vec::new();
    for cell in cells {
        match store.finished(&cell.run_id)? {
            Some(record) => records.push(record),
            None => missing.push(cell),
        }
    }
    progress.begin(cells.len(), records.len(), missing.iter().map(|c| c.images()).sum());
    let (mut ran, mut failed) = (0, 0);
    for cell in missing {
        progress.start(cell);
        match cell::run(cell, store, sweep, commit, &mut |event| {
            progress.event(event);
            Ok(())
        }) {
            Ok(record) => {
                progress.finish(&record);
                records.push(record);
                ran += 1;
            }
            Err(error) => {
                progress.fail(cell, &error);
                if store.fail(&Failure::new(&cell.run_id, &cell.key, &error)).is_err() {
                    return Err(error);
                }
                failed += 1;
            }
        }
    }
    progress.end();
    records.sort_by(|a, b| a.key.cmp(&b.key));
    store.write_ledger(&records)?;
    Ok(Outcome { records, ran, failed })
}
