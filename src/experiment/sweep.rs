//! A sweep: every cell that is not finished yet, shared with whoever works on the same results folder; then ledger,
//! tables and figures.
//!
//! Cells that ask one model about the same test images, of which it cannot keep all that its tower saw, go together: block by
//! block of images they are asked one after the other, so that each image is read and seen once for all cells of a round. All of
//! them are trained before. A cell's last training state stays on the disk until the cell is stored, and so does every batch of
//! answers: a kill costs no more than it costs a cell that runs alone. The tower's seconds count for the cell that is asked
//! first.
//!
//! Cells run side by side, each on its share of the threads: where products are small, threads that share one wait for each
//! other most of the time. Which cells run beside each other decides nothing about any of them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use crate::data::LabelledImage;
use crate::error::{Error, Result};
use crate::experiment::cell::{self, Event, Provenance, Trained};
use crate::experiment::config::Sweep;
use crate::experiment::folder;
use crate::experiment::plan::Cell;
use crate::learner::TOGETHER;
use crate::store::claim::{Claim, ClaimOutcome, Claims};
use crate::store::record::{Failure, Record};
use crate::store::{FailureMark, Store};

/// The `index`-th of `of` parts, counted from 0 as `$SLURM_ARRAY_TASK_ID` and `$JOB_COMPLETION_INDEX` count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    of: usize,
}

impl Shard {
    /// True if the cell of that place in the plan is part of it: cells I, I+N, I+2N, …, so that every part has its
    /// share of every dataset.
    #[must_use]
    pub fn has(self, cell: usize) -> bool {
        cell % self.of == self.index
    }

    /// Those of a plan's cells that are part of it.
    pub(crate) fn part<T>(self, cells: impl IntoIterator<Item = T>) -> impl Iterator<Item = T> {
        let numbered = cells.into_iter().enumerate();
        numbered
            .filter(move |(place, _)| self.has(*place))
            .map(|(_, cell)| cell)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("`{text}` is not of the form I/N, e.g. 0/4 for the first of four parts");
        let (index, of) = text.split_once('/').ok_or_else(form)?;
        let (index, of) = (index.parse().map_err(|_| form())?, of.parse().map_err(|_| form())?);
        if index >= of {
            return Err(format!(
                "there is no part {index} of {of}: parts count from 0, so that I is below N"
            ));
        }
        Ok(Self { index, of })
    }
}

/// The watcher of a sweep.
pub trait Progress: Send {
    /// Before the first cell: all cells, how many of them are finished, images still to process.
    fn begin(&mut self, cells: usize, finished: usize, images: u64);
    /// A cell starts; others may be running.
    fn start(&mut self, cell: &Cell);
    /// A cell moves on.
    fn event(&mut self, cell: &Cell, event: Event);
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
enum Attempt {
    /// It is finished, by this call or by another process.
    Finished(Box<Record>),
    /// It failed, here or elsewhere.
    Failed(Error),
    /// Another process runs it, with its name.
    Busy(String),
}

/// Runs cells of a sweep.
pub struct Sweeper<'a> {
    sweep: &'a Sweep,
    store: &'a Store,
    claims: Mutex<Claims>,
    /// What records say of this process, with as many jobs as were asked for.
    provenance: Provenance<'a>,
    progress: Mutex<&'a mut dyn Progress>,
}

/// Cells that are put aside because others run them, with their owners, and the number of those that failed.
type Aside<'c> = (Vec<(&'c Cell, String)>, usize);

impl<'a> Sweeper<'a> {
    /// Of `jobs` cells side by side; 0 counts as 1. `commit` is that of the source tree, where known.
    pub fn new(
        sweep: &'a Sweep,
        store: &'a Store,
        claims: Claims,
        commit: Option<&'a str>,
        progress: &'a mut dyn Progress,
        jobs: usize,
    ) -> Self {
        let threads = rayon::current_num_threads();
        Self {
            sweep,
            store,
            claims: Mutex::new(claims),
            provenance: Provenance { commit, threads, jobs },
            progress: Mutex::new(progress),
        }
    }

    /// Runs the cells of `shard` that are missing. A cell that another process runs is put aside, and in the end
    /// waited for: until it is finished there, or falls silent and is taken over. A failed cell is recorded and the
    /// rest goes on, unless the failure cannot be recorded either (folder gone) or no cell can fare better (disk full
    /// or read-only): then the sweep stops with the cell's error. Gives the number of cells that failed since this call
    /// began, here or elsewhere.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn run(&self, cells: &[Cell], shard: Shard) -> Result<usize> {
        self.store.write_sweep_config(&self.sweep.to_toml()?)?;
        let all = shard.part(cells).count();
        let mut missing: Vec<&Cell> = Vec::new();
        for cell in shard.part(cells) {
            if self.store.finished(&cell.run_id)?.is_none() {
                missing.push(cell);
            }
        }
        let images = missing.iter().map(|cell| cell.images()).sum();
        self.watcher().begin(all, all - missing.len(), images);
        let before = self.failures(&missing)?;
        let mut failed = 0;
        while !missing.is_empty() {
            let (busy, more) = self.side_by_side(rounds(&missing), &before)?;
            failed += more;
            if !busy.is_empty() {
                self.watcher().wait(&busy);
                thread::sleep(lock(&self.claims).pause());
            }
            missing = busy.into_iter().map(|(cell, _)| cell).collect();
        }
        self.watcher().end();
        Ok(failed)
    }

    /// Runs rounds of cells, several at once. After an error no further round begins.
    fn side_by_side<'c>(&self, rounds: Vec<Vec<&'c Cell>>, before: &HashMap<String, FailureMark>) -> Result<Aside<'c>> {
        let jobs = self.provenance.jobs.clamp(1, rounds.len());
        let provenance = Provenance {
            jobs,
            ..self.provenance
        };
        let (queue, aside) = (Mutex::new(VecDeque::from(rounds)), Mutex::new((Vec::new(), 0)));
        let work = || -> Result<()> {
            loop {
                // In a statement of its own: the queue is free while the round runs.
                let round = next(&mut lock(&queue), jobs);
                let Some(round) = round else { return Ok(()) };
                let ended = self.round(&round, before, provenance);
                let ended = ended.inspect_err(|_| lock(&queue).clear())?;
                let (busy, failed) = &mut *lock(&aside);
                for (cell, attempt) in ended {
                    match attempt {
                        Attempt::Finished(_) => {}
                        Attempt::Failed(_) => *failed += 1,
                        Attempt::Busy(owner) => busy.push((cell, owner)),
                    }
                }
            }
        };
        if jobs == 1 {
            work()?;
        } else {
            let threads = self.provenance.threads;
            let share = |job: usize| (threads / jobs + usize::from(job < threads % jobs)).max(1);
            thread::scope(|scope| {
                let start = |job: usize| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(share(job)).build();
                    let work = &work;
                    scope.spawn(move || {
                        pool.map_err(|error| Error::io("start threads for", ".")(io::Error::other(error)))?
                            .install(work)
                    })
                };
                let jobs: Vec<_> = (0..jobs).map(start).collect();
                jobs.into_iter()
                    .try_for_each(|job| job.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            })?;
        }
        Ok(aside.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn watcher(&self) -> MutexGuard<'_, &'a mut dyn Progress> {
        lock(&self.progress)
    }

    /// Runs one cell unless it is finished, or waits for the process that runs it.
    ///
    /// # Errors
    /// The cell's own, here or elsewhere, or the store cannot be written.
    pub fn run_one(&self, cell: &Cell) -> Result<Record> {
        if let Some(record) = self.store.finished(&cell.run_id)? {
            self.watcher().begin(1, 1, 0);
            self.store.remove_leftovers(&HashSet::from([cell.run_id.as_str()]))?;
            return Ok(record);
        }
        self.watcher().begin(1, 0, cell.images());
        let before = self.failures(&[cell])?;
        loop {
            let attempt = match self.take(cell, &before)? {
                Ok(claim) => self.alone(cell, &claim, self.provenance)?,
                Err(settled) => settled,
            };
            match attempt {
                Attempt::Finished(record) => {
                    self.watcher().end();
                    return Ok(*record);
                }
                Attempt::Failed(error) => return Err(error),
                Attempt::Busy(owner) => {
                    self.watcher().wait(&[(cell, owner)]);
                    thread::sleep(lock(&self.claims).pause());
                }
            }
        }
    }

    /// Failures of earlier calls, to be told from those of processes that run now.
    fn failures(&self, cells: &[&Cell]) -> Result<HashMap<String, FailureMark>> {
        let mark = |cell: &&Cell| Ok((cell.run_id.clone(), self.store.failure_mark(&cell.run_id)?));
        cells.iter().map(mark).collect()
    }

    /// Claims a cell if it is missing and free; else gives what came of it.
    fn take(&self, cell: &Cell, before: &HashMap<String, FailureMark>) -> Result<Result<Claim, Attempt>> {
        if let Some(settled) = self.settled(cell, before)? {
            return Ok(Err(settled));
        }
        let claim = match lock(&self.claims).take(&cell.run_id)? {
            ClaimOutcome::Ours(claim) => claim,
            ClaimOutcome::Theirs(owner) => return Ok(Err(Attempt::Busy(owner))),
        };
        // Its owner may have come to an end since the last look: only now nobody can any more.
        Ok(self.settled(cell, before)?.map_or(Ok(claim), Err))
    }

    /// Runs a cell that is claimed.
    fn alone(&self, cell: &Cell, claim: &Claim, provenance: Provenance) -> Result<Attempt> {
        self.watcher().start(cell);
        let on = &mut |event| self.hear(cell, claim, event);
        let ran = cell::run(cell, self.store, self.sweep, provenance, on);
        self.ended(cell, claim, ran)
    }

    /// Settles a cell that was run to its end or to an error.
    fn ended(&self, cell: &Cell, claim: &Claim, ran: Result<Record>) -> Result<Attempt> {
        match ran {
            Ok(record) => {
                self.watcher().finish(&record);
                Ok(Attempt::Finished(Box::new(record)))
            }
            Err(error) => self.failed(cell, claim, error),
        }
    }

    /// The end that another process has brought a cell to, if any.
    fn settled(&self, cell: &Cell, before: &HashMap<String, FailureMark>) -> Result<Option<Attempt>> {
        if let Some(record) = self.store.finished(&cell.run_id)? {
            self.watcher().found(&record, cell);
            return Ok(Some(Attempt::Finished(Box::new(record))));
        }
        let mark = self.store.failure_mark(&cell.run_id)?;
        if mark.is_some() && before.get(&cell.run_id) != Some(&mark) {
            let error = Error::FailedElsewhere {
                run_id: cell.run_id.clone(),
                reason: self.store.failure(&cell.run_id)?,
            };
            self.watcher().fail(cell, &error);
            return Ok(Some(Attempt::Failed(error)));
        }
        Ok(None)
    }

    /// Settles a cell that failed.
    fn failed(&self, cell: &Cell, claim: &Claim, error: Error) -> Result<Attempt> {
        // A cell that was taken over may fail of that: its state is in the hands of another.
        if let Err(lost @ Error::TakenOver { .. }) = claim.confirm() {
            self.watcher().lose(cell, &lost);
            return Ok(Attempt::Busy("another process".into()));
        }
        if hopeless(&error) {
            return Err(error);
        }
        self.watcher().fail(cell, &error);
        if self.store.fail(&Failure::new(&cell.run_id, &cell.key, &error)).is_err() {
            return Err(error);
        }
        Ok(Attempt::Failed(error))
    }

    /// Runs the cells of a round that are missing and free.
    fn round<'c>(
        &self,
        round: &[&'c Cell],
        before: &HashMap<String, FailureMark>,
        provenance: Provenance,
    ) -> Result<Vec<(&'c Cell, Attempt)>> {
        let (mut ended, mut ours) = (Vec::new(), Vec::new());
        for &cell in round {
            match self.take(cell, before)? {
                Ok(claim) => ours.push((cell, claim)),
                Err(settled) => ended.push((cell, settled)),
            }
        }
        let test = match &ours[..] {
            [(first, _), _, ..] => first.test().ok(),
            _ => None,
        };
        let Some(test) = test else {
            for (cell, claim) in ours {
                ended.push((cell, self.alone(cell, &claim, provenance)?));
            }
            return Ok(ended);
        };
        let mut trained = Vec::new();
        for (cell, claim) in ours {
            self.watcher().start(cell);
            let on = &mut |event| self.hear(cell, &claim, event);
            match Trained::train(cell, &test, self.store, self.sweep, on) {
                Ok(mut done) => {
                    done.release();
                    trained.push((done, claim));
                }
                Err(error) => ended.push((cell, self.failed(cell, &claim, error)?)),
            }
        }
        let trained = self.ask_in_turn(trained, &test, &mut ended)?;
        for (mut one, claim) in trained {
            let cell = one.cell;
            let on = &mut |event| self.hear(cell, &claim, event);
            // What is missing here could not be read in turn: its own error is told.
            let ran = one
                .predict(on)
                .and_then(|()| one.finish(self.store, self.sweep, provenance, on));
            ended.push((cell, self.ended(cell, &claim, ran)?));
        }
        Ok(ended)
    }

    /// Asks cells about block after block of their test images, up to the first that cannot be read; gives those that did not
    /// fail.
    fn ask_in_turn<'c, 't>(
        &self,
        mut trained: Vec<(Trained<'c, 't>, Claim)>,
        test: &'t [LabelledImage],
        ended: &mut Vec<(&'c Cell, Attempt)>,
    ) -> Result<Vec<(Trained<'c, 't>, Claim)>> {
        let mut at = trained.iter().map(|(one, _)| one.predicted()).min().unwrap_or(0);
        while let Some((first, _)) = trained.first_mut()
            && at < test.len()
        {
            let batch = first.batch().max(1);
            let block = batch * (first.cell.capacity().unwrap_or(0) / batch).clamp(1, BATCHES);
            let images = test.get(at..test.len().min(at + block)).unwrap_or_default();
            let start = Instant::now();
            let Some(views) = first.preprocess(images) else {
                break;
            };
            let preprocessing = start.elapsed().as_secs_f64() / (trained.len() * images.len()) as f64;
            let mut others = Vec::with_capacity(trained.len());
            for (mut one, claim) in trained {
                let cell = one.cell;
                let on = &mut |event| self.hear(cell, &claim, event);
                let mut asked = Ok(());
                for (number, (images, views)) in images.chunks(batch).zip(views.chunks(batch)).enumerate() {
                    // An earlier process has asked this one further than others.
                    if asked.is_ok() && one.predicted() == at + number * batch {
                        asked = one.predict_views(images, views, preprocessing * images.len() as f64, on);
                    }
                }
                one.release();
                match asked {
                    Ok(()) => others.push((one, claim)),
                    Err(error) => ended.push((cell, self.failed(cell, &claim, error)?)),
                }
            }
            trained = others;
            at += images.len();
        }
        Ok(trained)
    }

    /// Passes on what a cell tells, as long as it is this process's to run.
    fn hear(&self, cell: &Cell, claim: &Claim, event: Event) -> Result<()> {
        match event {
            Event::Complete => claim.confirm()?,
            Event::Trained(_) | Event::Predicted(_) => claim.check()?,
        }
        tracing::debug!("cell {}: {event:?}", cell.run_id);
        self.watcher().event(cell, event);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The round to run next: the first, and near the end the longest, so that no job is left alone with it.
fn next<'c>(queue: &mut VecDeque<Vec<&'c Cell>>, jobs: usize) -> Option<Vec<&'c Cell>> {
    let images = |round: &[&Cell]| round.iter().map(|cell| cell.images()).sum::<u64>();
    let few = jobs > 1 && queue.len() <= 4 * jobs;
    let longest = queue.iter().enumerate().rev().max_by_key(|(_, round)| images(round));
    let place = longest.filter(|_| few).map_or(0, |(place, _)| place);
    queue.remove(place)
}

/// True if every other cell would fail of the same.
fn hopeless(error: &Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), Error::Io { source, .. }
        if matches!(source.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem))
}

/// Most batches of a block. For each block every adapter is added into a copy of the adapted weights again, which takes one
/// multiplication a weight and rank where answers take one a weight and token; the images of eight batches, at 480 pixels,
/// take 177 MB.
const BATCHES: usize = 8;

/// Cells in rounds, in order but for what goes together.
fn rounds<'c>(cells: &[&'c Cell]) -> Vec<Vec<&'c Cell>> {
    let mut rounds: Vec<Vec<&Cell>> = Vec::new();
    for &cell in cells {
        let fits = |round: &&mut Vec<&Cell>| {
            round.len() < TOGETHER
                && round
                    .iter()
                    .all(|other| other.capacity().is_some() && other.shares_views_with(cell))
        };
        match rounds.iter_mut().find(fits) {
            Some(round) => round.push(cell),
            None => rounds.push(vec![cell]),
        }
    }
    rounds
}

/// Rebuilds the ledger of all finished cells of a plan, whoever ran them, and of the sweeps before it in the same folder; has tables
/// and figures drawn, and removes what is left of their running. All is made again when another process has finished a cell meanwhile: so the one
/// that ends last leaves the whole behind.
///
/// # Errors
/// The store cannot be read or written, or what `draw` reports.
pub fn conclude<T>(
    sweep: &Sweep,
    cells: &[Cell],
    store: &Store,
    mut draw: impl FnMut(&[Record]) -> Result<T>,
) -> Result<T> {
    let stored = || cells.iter().filter(|cell| store.is_stored(&cell.run_id)).count();
    loop {
        let before = stored();
        let records = folder::listed(sweep, cells, store)?;
        let finished: HashSet<&str> = records.iter().map(|record| record.run_id.as_str()).collect();
        store.remove_leftovers(&finished)?;
        store.remove_unfinished();
        store.write_ledger(&records)?;
        let drawn = draw(&records)?;
        if stored() == before {
            return Ok(drawn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Shard = Shard { index: 0, of: 1 };

    #[test]
    fn parts_are_disjoint_and_whole() {
        for of in 1..6 {
            let parts: Vec<Shard> = (0..of).map(|i| format!("{i}/{of}").parse().unwrap()).collect();
            for cell in 0..20 {
                assert_eq!(parts.iter().filter(|part| part.has(cell)).count(), 1);
            }
        }
        assert!((0..9).all(|cell| WHOLE.has(cell)));
    }

    #[test]
    fn what_is_no_part_is_refused() {
        for wrong in ["", "1", "1/", "/2", "a/2", "-1/2", "2/2", "0/0", "1/2/3", "0.5/2"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
        assert!("4/4".parse::<Shard>().unwrap_err().contains("count from 0"));
    }
}
