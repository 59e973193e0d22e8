//! Order of the operations of training clients: those of one client run one after the other by their numbers, those of
//! different clients beside each other, on a few threads.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// An operation whose lower numbers have not come waits for them so long. The SDK sends the parts of a large
/// forward_backward at once with the lowest number last; numbers that it gave away for nothing never come.
const PATIENCE: Duration = Duration::from_secs(2);

/// Work of one operation.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// Operations of one client.
#[derive(Default)]
struct Lane {
    pending: BTreeMap<u64, Job>,
    /// The lowest number that was neither done nor refused.
    next: u64,
    /// Numbers above it that were.
    done: BTreeSet<u64>,
    /// True while one of them runs.
    busy: bool,
    /// When it last became clear that a number is missing.
    since: Option<Instant>,
    /// A turn counter: who ran longest ago comes first.
    turn: u64,
}

impl Lane {
    fn finish(&mut self, number: u64) {
        self.done.insert(number);
        while self.done.remove(&self.next) {
            self.next += 1;
        }
        // What comes late after a gap is done out of turn.
        self.done = self.done.split_off(&self.next);
    }

    /// True if its first operation may run; else, if there is one, the time until it may.
    fn ready(&mut self, now: Instant) -> Result<bool, Duration> {
        let Some((&first, _)) = self.pending.first_key_value() else {
            return Ok(false);
        };
        if self.busy {
            return Ok(false);
        }
        if first <= self.next {
            self.since = None;
            return Ok(true);
        }
        let waited = now.duration_since(*self.since.get_or_insert(now));
        if waited >= PATIENCE {
            Ok(true)
        } else {
            Err(PATIENCE - waited)
        }
    }
}

#[derive(Default)]
struct State {
    lanes: HashMap<String, Lane>,
    turns: u64,
    stopping: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lanes of all clients, and the threads that work on them.
pub(super) struct Lanes {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Lanes {
    /// Lanes with so many threads.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let spawn = |number| {
            let shared = shared.clone();
            let thread = thread::Builder::new().name(format!("training-{number}"));
            thread.spawn(move || work(&shared))
        };
        let threads: Vec<JoinHandle<()>> = (0..threads.max(1)).map(spawn).collect::<Result<_, _>>()?;
        let threads = Mutex::new(threads);
        Ok(Self { shared, threads })
    }

    /// Adds an operation; numbers begin with 0. One with a lower number than others that were done already runs next.
    pub(super) fn push(&self, client: &str, number: u64, job: Job) {
        let mut state = self.shared.lock();
        state
            .lanes
            .entry(client.to_owned())
            .or_default()
            .pending
            .insert(number, job);
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Counts a number as done that was refused: nobody waits for it.
    pub(super) fn skip(&self, client: &str, number: u64) {
        let mut state = self.shared.lock();
        if let Some(lane) = state.lanes.get_mut(client) {
            lane.finish(number);
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Operations of a client that wait.
    pub(super) fn waiting(&self, client: &str) -> usize {
        self.shared
            .lock()
            .lanes
            .get(client)
            .map_or(0, |lane| lane.pending.len())
    }

    /// Operations of all clients that wait or run.
    pub(super) fn unfinished(&self) -> usize {
        let state = self.shared.lock();
        state
            .lanes
            .values()
            .map(|lane| lane.pending.len() + usize::from(lane.busy))
            .sum()
    }

    /// Forgets a client; what waits is dropped.
    pub(super) fn remove(&self, client: &str) {
        let lane = self.shared.lock().lanes.remove(client);
        drop(lane); // not under the lock: it holds promises
    }

    /// Waits for the operations that run, and drops those that wait.
    pub(super) fn stop(&self) {
        let dropped: Vec<Lane> = {
            let mut state = self.shared.lock();
            state.stopping = true;
            state.lanes.drain().map(|(_, lane)| lane).collect()
        };
        drop(dropped);
        self.shared.changed.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A thread ends only when told to: jobs that panic are caught.
            let _ = thread.join();
        }
    }
}

/// Takes one ready operation after the other.
fn work(shared: &Shared) {
    let mut state = shared.lock();
    while !state.stopping {
        let now = Instant::now();
        let mut wait: Option<Duration> = None;
        let mut best: Option<(u64, String)> = None;
        for (client, lane) in &mut state.lanes {
            match lane.ready(now) {
                Ok(true) if best.as_ref().is_none_or(|(turn, _)| lane.turn < *turn) => {
                    best = Some((lane.turn, client.clone()));
                }
                Ok(_) => {}
                Err(left) => wait = Some(wait.map_or(left, |wait| wait.min(left))),
            }
        }
        let Some((_, client)) = best else {
            let timeout = wait.unwrap_or(Duration::from_secs(3600));
            let woken = shared.changed.wait_timeout(state, timeout);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
            continue;
        };
        state.turns += 1;
        let turn = state.turns;
        let taken = state.lanes.get_mut(&client).and_then(|lane| {
            let (number, job) = lane.pending.pop_first()?;
            lane.busy = true;
            lane.turn = turn;
            Some((number, job))
        });
        drop(state);
        let number = taken.map(|(number, job)| {
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                tracing::error!("an operation of `{client}` panicked");
            }
            number
        });
        state = shared.lock();
        if let (Some(number), Some(lane)) = (number, state.lanes.get_mut(&client)) {
            lane.busy = false;
            // A gap that was waited for in vain is given up.
            lane.next = lane.next.max(number);
            lane.finish(number);
        }
        shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn run(lanes: &Lanes, order: &[u64], done: &mpsc::Sender<u64>) {
        for &number in order {
            let done = done.clone();
            lanes.push("a", number, Box::new(move || done.send(number).unwrap()));
        }
    }

    #[test]
    fn operations_run_by_number_whatever_order_they_come_in() {
        let lanes = Lanes::start(3).unwrap();
        let (sender, done) = mpsc::channel();
        run(&lanes, &[3, 1, 2], &sender);
        thread::sleep(Duration::from_millis(50));
        run(&lanes, &[0], &sender);
        let found: Vec<u64> = (0..4).map(|_| done.recv().unwrap()).collect();
        assert_eq!(found, [0, 1, 2, 3]);
        // Refused numbers are not waited for.
        let begun = Instant::now();
        run(&lanes, &[6], &sender);
        lanes.skip("a", 4);
        lanes.skip("a", 5);
        assert_eq!(done.recv().unwrap(), 6);
        assert!(begun.elapsed() < PATIENCE / 2);
        lanes.stop();
    }

    #[test]
    fn a_number_that_never_comes_is_given_up_and_a_late_one_still_runs() {
        let lanes = Lanes::start(1).unwrap();
        let (sender, done) = mpsc::channel();
        run(&lanes, &[0, 2], &sender);
        assert_eq!(done.recv().unwrap(), 0);
        assert_eq!(done.recv_timeout(2 * PATIENCE).unwrap(), 2);
        run(&lanes, &[1, 3], &sender);
        assert_eq!((done.recv().unwrap(), done.recv().unwrap()), (1, 3));
        lanes.push("a", 4, Box::new(|| panic!("on purpose")));
        run(&lanes, &[5], &sender);
        assert_eq!(done.recv().unwrap(), 5);
        lanes.stop();
    }
}
