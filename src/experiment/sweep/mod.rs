//! A sweep: every cell that is not finished yet, shared with whoever works on the same results folder; then ledger,
//! tables and figures.

mod together;

pub(crate) use together::TOGETHER;

use std::collections::{HashMap, HashSet};
use std::io;
use std::thread;

use crate::config::Sweep;
use crate::error::{Error, Result};
use crate::experiment::cell::{self, Event};
use crate::experiment::plan::Cell;
use crate::experiment::shard::Shard;
use crate::store::FailureMark;
use crate::store::Store;
use crate::store::claim;
use crate::store::claim::{Claim, Claims};
use crate::store::record::{Failure, Record};

/// Who watches a sweep.
pub trait Progress {
    /// Before the first cell: all cells, how many of them are finished, images still to process.
    fn begin(&mut self, cells: usize, finished: usize, images: u64);
    /// A cell starts.
    fn start(&mut self, cell: &Cell);
    /// So many cells, which have started, are asked about each test image one after the other: what moves on from here on is
    /// any of them.
    fn together(&mut self, cells: usize);
    /// A cell moves on.
    fn event(&mut self, event: Event);
    /// A cell is stored.
    fn finish(&mut self, record: &Record);
    /// A cell was finished by another process.
    fn found(&mut self, record: &Record, cell: &Cell);
    /// A cell failed, here or elsewhere; the sweep goes on.
    fn fail(&mut self, cell: &Cell, error: &Error);
    /// The work of a cell is dropped: another process has taken it over.
    fn lose(&mut self, cell: &Cell, error: &Error);
    /// Nothing is left but cells that others run, each with who does.
    fn wait(&mut self, others: &[(&Cell, String)]);
    /// After the last cell.
    fn end(&mut self);
}

/// What a sweep did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Cells that were trained or fitted in this call.
    pub ran: usize,
    /// Cells that failed since this call began, here or elsewhere.
    pub failed: usize,
}

/// What came of a cell.
enum Turn {
    /// This call ran it.
    Ran(Box<Record>),
    /// Another process finished it.
    Found(Box<Record>),
    /// It failed, here or elsewhere.
    Failed(Error),
    /// Another process runs it: who.
    Busy(String),
}

/// Whether a cell is this process's to run.
enum Taken {
    Ours(Claim),
    Not(Turn),
}

/// What every cell of a sweep is run with.
pub struct Sweeper<'a> {
    /// The sweep.
    pub sweep: &'a Sweep,
    /// Where results go.
    pub store: &'a Store,
    /// Who runs which cell.
    pub claims: Claims,
    /// Commit of the source tree, where known.
    pub commit: Option<&'a str>,
    /// Who watches.
    pub progress: &'a mut dyn Progress,
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
                for (cell, turn) in self.round(&round, &before)? {
                    match turn {
                        Turn::Ran(_) => outcome.ran += 1,
                        Turn::Found(_) => {}
                        Turn::Failed(_) => outcome.failed += 1,
                        Turn::Busy(owner) => busy.push((cell, owner)),
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
            match self.turn(cell, &before)? {
                Turn::Ran(record) | Turn::Found(record) => {
                    self.progress.end();
                    return Ok(*record);
                }
                Turn::Failed(error) => return Err(error),
                Turn::Busy(owner) => {
                    self.progress.wait(&[(cell, owner)]);
                    thread::sleep(self.claims.pause());
                }
            }
        }
    }

    /// Failures of earlier calls, to be told from those of processes that run now.
    fn failures(&self, cells: &[&Cell]) -> Result<HashMap<String, FailureMark>> {
        let mark = |cell: &&Cell| Ok((cell.run_id.clone(), self.store.failure_mark(&cell.run_id)?));
        cells.iter().map(mark).collect()
    }

    /// Runs a cell if it is missing and free.
    fn turn(&mut self, cell: &Cell, before: &HashMap<String, FailureMark>) -> Result<Turn> {
        match self.take(cell, before)? {
            Taken::Ours(claim) => self.alone(cell, &claim),
            Taken::Not(turn) => Ok(turn),
        }
    }

    /// Claims a cell if it is missing and free.
    fn take(&mut self, cell: &Cell, before: &HashMap<String, FailureMark>) -> Result<Taken> {
        if let Some(settled) = self.settled(cell, before)? {
            return Ok(Taken::Not(settled));
        }
        let claim = match self.claims.take(&cell.run_id)? {
            claim::ClaimOutcome::Ours(claim) => claim,
            claim::ClaimOutcome::Theirs(owner) => return Ok(Taken::Not(Turn::Busy(owner))),
        };
        // Its owner may have come to an end since the last look: only now nobody can any more.
        Ok(match self.settled(cell, before)? {
            Some(settled) => Taken::Not(settled),
            None => Taken::Ours(claim),
        })
    }

    /// Runs a cell that is claimed.
    fn alone(&mut self, cell: &Cell, claim: &Claim) -> Result<Turn> {
        self.progress.start(cell);
        let on = &mut |event| hear(self.progress, cell, claim, event);
        let ran = cell::run(cell, self.store, self.sweep, self.commit, on);
        self.ended(cell, claim, ran)
    }

    /// What comes of a cell that was run to its end or to an error.
    fn ended(&mut self, cell: &Cell, claim: &Claim, ran: Result<Record>) -> Result<Turn> {
        match ran {
            Ok(record) => {
                self.progress.finish(&record);
                Ok(Turn::Ran(Box::new(record)))
            }
            Err(error) => self.failed(cell, claim, error),
        }
    }

    /// What another process has made of a cell.
    fn settled(&mut self, cell: &Cell, before: &HashMap<String, FailureMark>) -> Result<Option<Turn>> {
        if let Some(record) = self.store.finished(&cell.run_id)? {
            self.progress.found(&record, cell);
            return Ok(Some(Turn::Found(Box::new(record))));
        }
        let mark = self.store.failure_mark(&cell.run_id)?;
        if mark.is_some() && before.get(&cell.run_id) != Some(&mark) {
            let error = Error::FailedElsewhere {
                run_id: cell.run_id.clone(),
                reason: self.store.failure(&cell.run_id)?,
            };
            self.progress.fail(cell, &error);
            return Ok(Some(Turn::Failed(error)));
        }
        Ok(None)
    }

    /// What is to be done about an error in a cell.
    fn failed(&mut self, cell: &Cell, claim: &Claim, error: Error) -> Result<Turn> {
        // A cell that was taken over may fail of that: its state is in the hands of another.
        if let Err(lost @ Error::TakenOver { .. }) = claim.confirm() {
            self.progress.lose(cell, &lost);
            return Ok(Turn::Busy("another process".into()));
        }
        if hopeless(&error) {
            return Err(error);
        }
        self.progress.fail(cell, &error);
        if self.store.fail(&Failure::new(&cell.run_id, &cell.key, &error)).is_err() {
            return Err(error);
        }
        Ok(Turn::Failed(error))
    }
}

/// Passes on what a cell tells, as long as it is this process's to run.
fn hear(progress: &mut dyn Progress, cell: &Cell, claim: &Claim, event: Event) -> Result<()> {
    match event {
        Event::Complete => claim.confirm()?,
        Event::Trained(_) | Event::Predicted(_) => claim.check()?,
    }
    tracing::debug!("cell {}: {event:?}", cell.run_id);
    progress.event(event);
    Ok(())
}

/// Whether every other cell would fail of the same.
fn hopeless(error: &Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), Error::Io { source, .. }
        if matches!(source.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem))
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
