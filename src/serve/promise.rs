//! Results that are not there yet: a request is answered at once with the id of its promise, which the client asks for until
//! it is kept.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;

use super::refusal::{Refusal, is_users, told};
use super::wire;
use crate::error::Error;

/// A kept promise stays for so long after it was first read: an answer may be lost on its way.
const READ: Duration = Duration::from_secs(120);
/// One that nobody has read yet stays for so long.
const UNREAD: Duration = Duration::from_secs(3600);
/// Bytes of results that are kept; beyond it the oldest go.
const BYTES: usize = 1 << 30;

/// The end of an operation.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// A JSON object, which has no key `error`.
    Json(Value),
    /// Losses of examples.
    ForwardBackward(wire::ForwardBackwardOutput),
    /// Continuations.
    Sample(wire::SampleResponse),
    /// It failed.
    Failed {
        /// Reason, for people.
        message: String,
        /// The request is at fault, rather than the server.
        user: bool,
    },
}

impl Outcome {
    /// A failure that the request is to blame for.
    pub(super) fn refused(refusal: &Refusal) -> Self {
        Self::Failed {
            message: refusal.message.clone(),
            user: true,
        }
    }

    /// Bytes that it takes, nearly.
    fn size(&self) -> usize {
        match self {
            Self::Json(_) => 1 << 10,
            Self::ForwardBackward(output) => prost::Message::encoded_len(output),
            Self::Sample(output) => prost::Message::encoded_len(output),
            Self::Failed { message, .. } => message.len(),
        }
    }
}

impl From<Error> for Outcome {
    fn from(error: Error) -> Self {
        Self::Failed {
            message: told(&error),
            user: is_users(&error),
        }
    }
}

type Kept = Option<Arc<Outcome>>;

/// The side that keeps a promise. Dropped without it, the promise has failed.
#[derive(Debug)]
pub(super) struct Resolver {
    sender: watch::Sender<Kept>,
}

impl Resolver {
    /// Keeps the promise.
    pub(super) fn keep(self, outcome: impl Into<Outcome>) {
        self.sender.send_replace(Some(Arc::new(outcome.into())));
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let lost = || {
            Some(Arc::new(Outcome::Failed {
                message: "the operation was given up: its model was unloaded, or the server is stopping".into(),
                user: false,
            }))
        };
        self.sender.send_if_modified(|kept| {
            let open = kept.is_none();
            if open {
                *kept = lost();
            }
            open
        });
    }
}

#[derive(Debug)]
struct Entry {
    receiver: watch::Receiver<Kept>,
    /// When it was seen to be kept, and how large it is.
    kept: Option<(Instant, usize)>,
    read: Option<Instant>,
}

/// All promises of a server.
#[derive(Debug)]
pub(super) struct Promises {
    /// Random, so that a promise of an earlier process is known as such.
    process: String,
    next: AtomicU64,
    entries: Mutex<HashMap<u64, Entry>>,
}

impl Promises {
    pub(super) fn new(process: String) -> Self {
        Self {
            process,
            next: AtomicU64::new(0),
            entries: Mutex::default(),
        }
    }

    /// A new promise: its id and the side that keeps it.
    pub(super) fn open(&self) -> (String, Resolver) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = watch::channel(None);
        let entry = Entry {
            receiver,
            kept: None,
            read: None,
        };
        self.lock().insert(number, entry);
        (format!("{}-{number}", self.process), Resolver { sender })
    }

    /// Waits for a promise; `None` if it is not kept in time.
    ///
    /// # Errors
    /// A refusal when there never was such a promise, or its result is not kept any more.
    pub(super) async fn wait(&self, id: &str, time: Duration) -> Result<Kept, Refusal> {
        let number = self.number(id)?;
        let receiver = self.lock().get(&number).map(|entry| entry.receiver.clone());
        let Some(mut receiver) = receiver else {
            return Err(Refusal::gone(format!(
                "the result of request `{id}` is not kept any more"
            )));
        };
        // The sender keeps the promise before it goes, so that the value is there in any case.
        let _ = tokio::time::timeout(time, receiver.wait_for(Option::is_some)).await;
        let kept = receiver.borrow().clone();
        if kept.is_some()
            && let Some(entry) = self.lock().get_mut(&number)
        {
            entry.read.get_or_insert_with(Instant::now);
        }
        Ok(kept)
    }

    /// # Errors
    /// As [`Promises::wait`].
    fn number(&self, id: &str) -> Result<u64, Refusal> {
        let unknown = || {
            Refusal::not_found(format!(
                "there is no request `{}`",
                id.chars().take(80).collect::<String>()
            ))
        };
        let (process, number) = id.rsplit_once('-').ok_or_else(unknown)?;
        let number: u64 = number.parse().map_err(|_| unknown())?;
        if process.len() == self.process.len() && process != self.process {
            return Err(Refusal::gone("the server was started again since: the result is lost"));
        }
        if process != self.process || number >= self.next.load(Ordering::Relaxed) {
            return Err(unknown());
        }
        Ok(number)
    }

    /// Drops results that nobody needs any more. To be called now and then.
    pub(super) fn tidy(&self) {
        let now = Instant::now();
        let mut entries = self.lock();
        let mut total = 0;
        for entry in entries.values_mut() {
            if entry.kept.is_none() {
                let size = entry.receiver.borrow().as_ref().map(|outcome| outcome.size());
                entry.kept = size.map(|size| (now, size));
            }
            total += entry.kept.map_or(0, |(_, size)| size);
        }
        entries.retain(|_, entry| match (entry.kept, entry.read) {
            (None, _) => true,
            (Some(_), Some(read)) => now.duration_since(read) < READ,
            (Some((kept, _)), None) => now.duration_since(kept) < UNREAD,
        });
        if total > BYTES {
            let mut old: Vec<(Instant, u64, usize)> = entries
                .iter()
                .filter_map(|(&number, entry)| entry.kept.map(|(at, size)| (at, number, size)))
                .collect();
            old.sort_unstable();
            for (_, number, size) in old {
                if total <= BYTES {
                    break;
                }
                total -= size;
                entries.remove(&number);
            }
        }
    }

    /// Promises that are not kept yet.
    pub(super) fn pending(&self) -> usize {
        let entries = self.lock();
        entries
            .values()
            .filter(|entry| entry.receiver.borrow().is_none())
            .count()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(promises: &Promises, id: &str) -> Result<Kept, Refusal> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(promises.wait(id, Duration::from_millis(20)))
    }

    #[test]
    fn a_promise_is_read_as_often_as_asked_and_a_dropped_one_has_failed() {
        let promises = Promises::new("p".into());
        let (id, resolver) = promises.open();
        assert!(wait(&promises, &id).unwrap().is_none());
        assert_eq!(promises.pending(), 1);
        resolver.keep(Outcome::Json(Value::Null));
        for _ in 0..2 {
            assert!(matches!(*wait(&promises, &id).unwrap().unwrap(), Outcome::Json(_)));
        }
        let (id, resolver) = promises.open();
        drop(resolver);
        assert!(matches!(
            *wait(&promises, &id).unwrap().unwrap(),
            Outcome::Failed { .. }
        ));
        for (unknown, status) in [("x", 404), ("p-2", 404), ("q-0", 410), ("", 404)] {
            assert_eq!(wait(&promises, unknown).unwrap_err().status, status, "{unknown}");
        }
    }
}
