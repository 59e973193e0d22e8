//! One attempt at a cell: claimed, run, recorded or failed.

use std::collections::HashMap;
use std::io;

use crate::error::{Error, Result};
use crate::experiment::cell;
use crate::experiment::config::Sweep;
use crate::experiment::event::Event;
use crate::experiment::plan::Cell;
use crate::store::FailureMark;
use crate::store::Store;
use crate::store::claim::{self, Claim, Claims};
use crate::store::record::{Failure, Record};

/// The watcher of a sweep.
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
    /// Nothing is left but cells that others run, each with the name of the process.
    fn wait(&mut self, others: &[(&Cell, String)]);
    /// After the last cell.
    fn end(&mut self);
}

/// The end of an attempt at a cell.
pub(super) enum Attempt {
    /// This call ran it.
    Ran(Box<Record>),
    /// Another process finished it.
    Found(Box<Record>),
    /// It failed, here or elsewhere.
    Failed(Error),
    /// Another process runs it, with its name.
    Busy(String),
}

/// A claimed cell, or the reason why it is none.
pub(super) enum Taken {
    Ours(Claim),
    Not(Attempt),
}

/// Runs cells of a sweep.
pub struct Sweeper<'a> {
    /// The sweep.
    pub sweep: &'a Sweep,
    /// The results.
    pub store: &'a Store,
    /// Claims on cells.
    pub claims: Claims,
    /// Commit of the source tree, where known.
    pub commit: Option<&'a str>,
    /// The watcher.
    pub progress: &'a mut dyn Progress,
}

impl Sweeper<'_> {
    /// Failures of earlier calls, to be told from those of processes that run now.
    pub(super) fn failures(&self, cells: &[&Cell]) -> Result<HashMap<String, FailureMark>> {
        let mark = |cell: &&Cell| Ok((cell.run_id.clone(), self.store.failure_mark(&cell.run_id)?));
        cells.iter().map(mark).collect()
    }

    /// Runs a cell if it is missing and free.
    pub(super) fn attempt(&mut self, cell: &Cell, before: &HashMap<String, FailureMark>) -> Result<Attempt> {
        match self.take(cell, before)? {
            Taken::Ours(claim) => self.alone(cell, &claim),
            Taken::Not(attempt) => Ok(attempt),
        }
    }

    /// Claims a cell if it is missing and free.
    pub(super) fn take(&mut self, cell: &Cell, before: &HashMap<String, FailureMark>) -> Result<Taken> {
        if let Some(settled) = self.settled(cell, before)? {
            return Ok(Taken::Not(settled));
        }
        let claim = match self.claims.take(&cell.run_id)? {
            claim::ClaimOutcome::Ours(claim) => claim,
            claim::ClaimOutcome::Theirs(owner) => return Ok(Taken::Not(Attempt::Busy(owner))),
        };
        // Its owner may have come to an end since the last look: only now nobody can any more.
        Ok(match self.settled(cell, before)? {
            Some(settled) => Taken::Not(settled),
            None => Taken::Ours(claim),
        })
    }

    /// Runs a cell that is claimed.
    pub(super) fn alone(&mut self, cell: &Cell, claim: &Claim) -> Result<Attempt> {
        self.progress.start(cell);
        let on = &mut |event| hear(self.progress, cell, claim, event);
        let ran = cell::run(cell, self.store, self.sweep, self.commit, on);
        self.ended(cell, claim, ran)
    }

    /// Settles a cell that was run to its end or to an error.
    pub(super) fn ended(&mut self, cell: &Cell, claim: &Claim, ran: Result<Record>) -> Result<Attempt> {
        match ran {
            Ok(record) => {
                self.progress.finish(&record);
                Ok(Attempt::Ran(Box::new(record)))
            }
            Err(error) => self.failed(cell, claim, error),
        }
    }

    /// The end that another process has brought a cell to, if any.
    fn settled(&mut self, cell: &Cell, before: &HashMap<String, FailureMark>) -> Result<Option<Attempt>> {
        if let Some(record) = self.store.finished(&cell.run_id)? {
            self.progress.found(&record, cell);
            return Ok(Some(Attempt::Found(Box::new(record))));
        }
        let mark = self.store.failure_mark(&cell.run_id)?;
        if mark.is_some() && before.get(&cell.run_id) != Some(&mark) {
            let error = Error::FailedElsewhere {
                run_id: cell.run_id.clone(),
                reason: self.store.failure(&cell.run_id)?,
            };
            self.progress.fail(cell, &error);
            return Ok(Some(Attempt::Failed(error)));
        }
        Ok(None)
    }

    /// Settles a cell that failed.
    pub(super) fn failed(&mut self, cell: &Cell, claim: &Claim, error: Error) -> Result<Attempt> {
        // A cell that was taken over may fail of that: its state is in the hands of another.
        if let Err(lost @ Error::TakenOver { .. }) = claim.confirm() {
            self.progress.lose(cell, &lost);
            return Ok(Attempt::Busy("another process".into()));
        }
        if hopeless(&error) {
            return Err(error);
        }
        self.progress.fail(cell, &error);
        if self.store.fail(&Failure::new(&cell.run_id, &cell.key, &error)).is_err() {
            return Err(error);
        }
        Ok(Attempt::Failed(error))
    }
}

/// Passes on what a cell tells, as long as it is this process's to run.
pub(super) fn hear(progress: &mut dyn Progress, cell: &Cell, claim: &Claim, event: Event) -> Result<()> {
    match event {
        Event::Complete => claim.confirm()?,
        Event::Trained(_) | Event::Predicted(_) => claim.check()?,
    }
    tracing::debug!("cell {}: {event:?}", cell.run_id);
    progress.event(event);
    Ok(())
}

/// True if every other cell would fail of the same.
fn hopeless(error: &Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), Error::Io { source, .. }
        if matches!(source.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem))
}
