//! A sweep: every cell that is not finished yet, shared with whoever works on the same results folder; then ledger,
//! tables and figures.

mod attempt;
mod together;

use std::collections::HashSet;
use std::thread;

use crate::error::Result;
use crate::experiment::plan::Cell;
use crate::experiment::shard::Shard;
use crate::store::Store;
use crate::store::record::Record;
use attempt::Attempt;
pub use attempt::{Progress, Sweeper};

/// The account of a sweep.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Cells that were trained or fitted in this call.
    pub ran: usize,
    /// Cells that failed since this call began, here or elsewhere.
    pub failed: usize,
}

impl Sweeper<'_> {
    /// Runs the cells of `shard` that are missing. A cell that another process runs is put aside, and in the end
    /// waited for: until it is finished there, or falls silent and is taken over. A failed cell is recorded and the
    /// rest goes on, unless the failure cannot be recorded either (folder gone) or no cell can fare better (disk full
    /// or read-only): then the sweep stops with the cell's error.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn run(&mut self, cells: &[Cell], shard: Shard) -> Result<Outcome> {
        self.store.write_sweep_config(&self.sweep.to_toml()?)?;
        let own = || cells.iter().enumerate().filter(|(place, _)| shard.has(*place));
        let mut missing: Vec<&Cell> = Vec::new();
        for (_, cell) in own() {
            if self.store.finished(&cell.run_id)?.is_none() {
                missing.push(cell);
            }
        }
        let all = own().count();
        let images = missing.iter().map(|cell| cell.images()).sum();
        self.progress.begin(all, all - missing.len(), images);
        let before = self.failures(&missing)?;
        let mut outcome = Outcome::default();
        while !missing.is_empty() {
            let mut busy = Vec::new();
            for round in together::rounds(&missing) {
                for (cell, attempt) in self.round(&round, &before)? {
                    match attempt {
                        Attempt::Ran(_) => outcome.ran += 1,
                        Attempt::Found(_) => {}
                        Attempt::Failed(_) => outcome.failed += 1,
                        Attempt::Busy(owner) => busy.push((cell, owner)),
                    }
                }
            }
            if !busy.is_empty() {
                self.progress.wait(&busy);
                thread::sleep(self.claims.pause());
            }
            missing = busy.into_iter().map(|(cell, _)| cell).collect();
        }
        self.progress.end();
        Ok(outcome)
    }

    /// Runs one cell unless it is finished, or waits for the process that runs it.
    ///
    /// # Errors
    /// The cell's own, here or elsewhere, or the store cannot be written.
    pub fn run_one(&mut self, cell: &Cell) -> Result<Record> {
        if let Some(record) = self.store.finished(&cell.run_id)? {
            self.progress.begin(1, 1, 0);
            self.store.remove_leftovers(&HashSet::from([cell.run_id.as_str()]))?;
            return Ok(record);
        }
        self.progress.begin(1, 0, cell.images());
        let before = self.failures(&[cell])?;
        loop {
            match self.attempt(cell, &before)? {
                Attempt::Ran(record) | Attempt::Found(record) => {
                    self.progress.end();
                    return Ok(*record);
                }
                Attempt::Failed(error) => return Err(error),
                Attempt::Busy(owner) => {
                    self.progress.wait(&[(cell, owner)]);
                    thread::sleep(self.claims.pause());
                }
            }
        }
    }
}

/// Rebuilds the ledger of all finished cells of a plan, whoever ran them, has tables and figures drawn, and removes
/// what is left of their running. All is made again when another process has finished a cell meanwhile: so the one
/// that ends last leaves the whole behind.
///
/// # Errors
/// The store cannot be read or written, or what `draw` reports.
pub fn conclude<T>(cells: &[Cell], store: &Store, mut draw: impl FnMut(&[Record]) -> Result<T>) -> Result<T> {
    let stored = || cells.iter().filter(|cell| store.is_stored(&cell.run_id)).count();
    loop {
        let before = stored();
        let mut records = Vec::new();
        for cell in cells {
            records.extend(store.finished(&cell.run_id)?);
        }
        records.sort_by(|a, b| a.key.cmp(&b.key));
        let finished: HashSet<&str> = records.iter().map(|record| record.run_id.as_str()).collect();
        store.remove_leftovers(&finished)?;
        store.write_ledger(&records)?;
        let drawn = draw(&records)?;
        if stored() == before {
            return Ok(drawn);
        }
    }
}
