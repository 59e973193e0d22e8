//! Claims on cells, for many processes on many machines that share one results folder.
//!
//! A cell is claimed by a file `claims/<run_id>.<generation>.json`, generation 0, 1, 2, …; the highest generation
//! owns the cell. All that is asked of the file system is that a hard link is made atomically and fails when the
//! name exists, and that opening a file shows what was written before (local file systems, NFS, Lustre, GPFS).
//!
//! * **Claiming.** The file is written under a name of its own and linked to its place: whoever links generation g
//!   first has it, whole from the first moment. Where a server repeats a request, the link may be there although
//!   it is refused: then the file's random token says whose it is.
//! * **Renewing.** While the cell runs, a thread raises the `beat` in the file every quarter of the lease. It opens
//!   the file, makes sure that it is its own, and overwrites it in place: that needs no space on a full disk, can
//!   never bring back a file that was removed, and no reader minds seeing it half-done, for any change is a beat.
//! * **Taking over.** Generation g+1 may be made once g is stale: when its owner is a process that certainly has ended,
//!   because this one sees the same processes under the same numbers (see [`Process::is_gone`]), at once; else when the file has not changed for a whole lease *as watched by the
//!   process that waits, on its own monotonic clock*. Clocks of two machines are never compared. Between two looks
//!   at most a quarter of the lease counts, so that a waiting process that was itself stopped, with its machine or
//!   alone, does not take its own sleep for the owner's silence. A torn or empty file, a claim on
//!   another cell and a lease that is none count as a silent owner, for the lease of the one who waits.
//! * **Finishing.** The owner stores the record, then removes lower generations, and its own last.
//!
//! Why a cell is run once and stored once:
//!
//! * *Two takers of one stale claim* want the same name g+1: one link succeeds.
//! * *A claim is made when the cell has just been finished* (its claims are gone): whoever gets a claim looks for
//!   the record again before it starts, and the record is stored before the claims go.
//! * *A taker sleeps between looking and linking*, and the claim it looked at is gone or alive again: it looks at
//!   generation g once more after it has g+1, and steps back when it is not what it had judged.
//! * *The owner sleeps longer than its lease and comes back*: it finds a higher generation, or its own file gone or
//!   another's, at its next beat; before that it looks itself whenever its last beat is old
//!   ([`Claim::check`], at every step and batch) and before the record is stored ([`Claim::confirm`]). Its
//!   work is dropped. Should it sleep in the last instant between looking and storing, both store the same: a cell's
//!   predictions follow from its `run_id`, files are replaced whole, and a record beside predictions that are not
//!   those it was made from is not trusted.
//! * *The owner dies between record and removal*: the cell is finished, nobody claims it again, and the next sweep
//!   removes the claims of finished cells ([`Store::remove_leftovers`](crate::store::Store)).

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::fs::file;
use crate::process::{Process, random_token};
use crate::store::record::utc_now;

/// Version of the file.
const SCHEMA: u32 = 1;
/// Beats per lease.
const BEATS: u32 = 4;
/// No lease is longer, in seconds: a claim that says more is not kshot's.
pub const LONGEST_LEASE: u64 = 86_400;
/// No generation is higher: one is made a takeover.
const HIGHEST: u64 = 1_000_000_000;
/// Bytes of a claim's file that are read: kshot's own have one block.
const READ: u64 = 1 << 16;
/// Times that a claim is tried for at once while others make, renew and remove theirs.
const TRIES: u32 = 8;
/// Claims are padded to a multiple of this, so that a beat does not change a file's size.
const BLOCK: usize = 512;

/// Contents of a claim's file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    schema: u32,
    run_id: String,
    owner: Process,
    /// Tells this claim from every other one, of this process too.
    token: String,
    lease_seconds: f64,
    /// Raised at every sign of life.
    beat: u64,
    /// Of the last beat by the owner's clock: to be read by people only.
    time: String,
}

impl Content {
    fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.resize((bytes.len() + 1).next_multiple_of(BLOCK) - 1, b' ');
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// A claim on `run_id`.
    fn parse(bytes: &[u8], run_id: &str) -> Result<Self, String> {
        let content: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if content.schema != SCHEMA {
            let found = content.schema;
            return Err(format!("schema {found} is not known, this version reads {SCHEMA}"));
        }
        if content.run_id != run_id {
            return Err(format!("it is a claim on {}", content.run_id));
        }
        if content.lease().is_none() {
            let found = content.lease_seconds;
            return Err(format!(
                "a lease of {found} s is none: they are above 0 and at most {LONGEST_LEASE} s"
            ));
        }
        Ok(content)
    }

    /// The lease that the owner promised, if it makes sense.
    fn lease(&self) -> Option<Duration> {
        Duration::try_from_secs_f64(self.lease_seconds)
            .ok()
            .filter(|lease| !lease.is_zero() && *lease <= Duration::from_secs(LONGEST_LEASE))
    }
}

/// Outcome of asking for a cell.
#[derive(Debug)]
pub enum ClaimOutcome {
    /// The cell is this process's to run, as long as the claim is held.
    Ours(Claim),
    /// Another one runs it: who, to be shown.
    Theirs(String),
}

/// The claims of a results folder, as one process sees them.
#[derive(Debug)]
pub struct Claims {
    folder: PathBuf,
    owner: Process,
    lease: Duration,
    watched: HashMap<String, Watch>,
}

/// Silence of a claim.
#[derive(Debug)]
struct Watch {
    generation: u64,
    content: Vec<u8>,
    looked: Instant,
    silent: Duration,
}

impl Claims {
    /// The claims in `results/claims`, which is made where needed. A claim of this process goes stale when it is
    /// silent for `lease`.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be written.
    pub fn open(results: &Path, lease: Duration) -> Result<Self> {
        Self::of(results, lease, Process::this().clone())
    }

    fn of(results: &Path, lease: Duration, owner: Process) -> Result<Self> {
        let folder = results.join("claims");
        file::make_writable_folder(&folder)?;
        Ok(Self {
            folder,
            owner,
            lease,
            watched: HashMap::new(),
        })
    }

    /// Time to sleep between two looks at claims of others.
    #[must_use]
    pub fn pause(&self) -> Duration {
        (self.lease / (2 * BEATS)).min(Duration::from_secs(1))
    }

    /// Claims a cell, if it is free or its owner is gone or silent. To be asked again and again while it is
    /// another's: silence shows only to those who look. Whoever gets a claim still has to see whether the cell
    /// has been finished meanwhile.
    ///
    /// # Errors
    /// [`Error::Io`] when claims cannot be read or made.
    pub fn take(&mut self, run_id: &str) -> Result<ClaimOutcome> {
        self.take_at(run_id, Instant::now())
    }

    fn take_at(&mut self, run_id: &str, now: Instant) -> Result<ClaimOutcome> {
        for _ in 0..TRIES {
            let Some(judged) = highest(&self.folder, run_id)? else {
                continue;
            };
            let next = match &judged {
                None => 0,
                Some((generation, content)) => match self.judge(run_id, *generation, content, now) {
                    Some(owner) => return Ok(ClaimOutcome::Theirs(owner)),
                    None => generation + 1,
                },
            };
            // Lost to another: what it made is looked at next.
            let Some(claim) = self.make(run_id, next)? else {
                continue;
            };
            if let Some((generation, content)) = judged {
                let path = path(&self.folder, run_id, generation);
                if read(&path)?.as_ref() != Some(&content) {
                    claim.withdraw()?;
                    continue;
                }
            }
            self.watched.remove(run_id);
            return Ok(ClaimOutcome::Ours(claim.beating()));
        }
        // Never met by kshot's own doing: a listing that a network file system has kept, or something that makes claims.
        let folder = self.folder.display();
        tracing::warn!("the claims on {run_id} in `{folder}` change each time they are looked at");
        Ok(ClaimOutcome::Theirs("processes whose claims come and go".into()))
    }

    /// Owner of a claim; `None` when it is stale.
    fn judge(&mut self, run_id: &str, generation: u64, bytes: &[u8], now: Instant) -> Option<String> {
        let path = path(&self.folder, run_id, generation);
        let parsed = Content::parse(bytes, run_id);
        let lease = parsed.as_ref().ok().and_then(Content::lease).unwrap_or(self.lease);
        let known = self.watched.get_mut(run_id);
        let known = known.filter(|watch| watch.generation == generation && watch.content == bytes);
        let silent = if let Some(watch) = known {
            watch.silent += now.saturating_duration_since(watch.looked).min(lease / BEATS);
            watch.looked = now;
            watch.silent
        } else {
            if let Err(reason) = &parsed {
                let path = path.display();
                tracing::warn!("claim `{path}` is torn or no claim, its owner counts as silent: {reason}");
            }
            let watch = Watch {
                generation,
                content: bytes.to_vec(),
                looked: now,
                silent: Duration::ZERO,
            };
            self.watched.insert(run_id.into(), watch);
            Duration::ZERO
        };
        let owner = match parsed {
            Ok(content) if content.owner.is_gone() => {
                tracing::info!("cell {run_id} is taken over: {} has ended", content.owner);
                return None;
            }
            Ok(content) => content.owner.to_string(),
            Err(_) => format!("the unknown owner of `{}`", path.display()),
        };
        if silent < lease {
            return Some(owner);
        }
        let lease = lease.as_secs_f64();
        tracing::warn!("cell {run_id} is taken over: {owner} was silent for {lease} s");
        None
    }

    /// Makes a generation of claims, unless another process has it already.
    fn make(&self, run_id: &str, generation: u64) -> Result<Option<Claim>> {
        let path = path(&self.folder, run_id, generation);
        let content = Content {
            schema: SCHEMA,
            run_id: run_id.into(),
            owner: self.owner.clone(),
            token: random_token(),
            lease_seconds: self.lease.as_secs_f64(),
            beat: 0,
            time: utc_now(),
        };
        let temporary = file::temporary(&path);
        let bytes = content.to_bytes().map_err(|e| Error::io("write", &path)(e.into()))?;
        let linked = file::write_through(&temporary, &bytes).and_then(|()| fs::hard_link(&temporary, &path));
        // The claim stands or falls with its own name; this one would only waste space.
        let _ = fs::remove_file(&temporary);
        let ours = match linked {
            Ok(()) => true,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => read(&path)?.is_some_and(|there| there == bytes),
            Err(e) => return Err(Error::io("claim a cell by", &path)(e)),
        };
        Ok(ours.then(|| Claim::new(&self.folder, generation, content, self.lease)))
    }
}

fn path(folder: &Path, run_id: &str, generation: u64) -> PathBuf {
    folder.join(format!("{run_id}.{generation}.json"))
}

/// Cell and generation of a claim's file name.
pub(super) fn parse_name(name: &str) -> Option<(&str, u64)> {
    let (run_id, generation) = name.strip_suffix(".json")?.rsplit_once('.')?;
    let number: u64 = generation.parse().ok()?;
    // No other spelling: each name has one generation, each generation one name.
    (number < HIGHEST && number.to_string() == generation).then_some((run_id, number))
}

/// The content of a claim's file, whatever it is: nothing, if it is no file. `None` when nothing has that name.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let found = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        found => found.map_err(Error::io("read", path))?,
    };
    if !found.is_file() {
        return Ok(Some(Vec::new()));
    }
    let mut bytes = Vec::new();
    match fs::File::open(path).and_then(|file| file.take(READ).read_to_end(&mut bytes)) {
        Ok(_) => Ok(Some(bytes)),
        Err(e) if gone(&e) => Ok(None),
        Err(e) => Err(Error::io("read", path)(e)),
    }
}

/// Generations of a cell's claims that the folder lists, lowest first.
fn generations(folder: &Path, run_id: &str) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let name = entry.map_err(Error::io("read", folder))?.file_name();
        let claim = name.to_str().and_then(parse_name);
        found.extend(claim.filter(|(of, _)| *of == run_id).map(|(_, generation)| generation));
    }
    found.sort_unstable();
    Ok(found)
}

/// Generation of a claim and the bytes of its file.
type Written = (u64, Vec<u8>);

/// The highest generation of a cell's claims with the bytes of its file, if there is one; `None` when all that were listed
/// are gone by the time they are read.
fn highest(folder: &Path, run_id: &str) -> Result<Option<Option<Written>>> {
    let Some(mut generation) = generations(folder, run_id)?.last().copied() else {
        return Ok(Some(None));
    };
    let Some(mut bytes) = read(&path(folder, run_id, generation))? else {
        return Ok(None);
    };
    // A list that a network file system has kept may be old; what is opened by name is not.
    while let Some(next) = read(&path(folder, run_id, generation + 1))? {
        (generation, bytes) = (generation + 1, next);
    }
    Ok(Some(Some((generation, bytes))))
}

/// A cell that this process may run, until dropped. Dropping it removes the claim and those it took over from.
#[derive(Debug)]
pub struct Claim {
    file: Arc<OwnFile>,
    heart: Option<(Sender<()>, JoinHandle<()>)>,
}

#[derive(Debug)]
struct OwnFile {
    folder: PathBuf,
    path: PathBuf,
    generation: u64,
    lease: Duration,
    content: Mutex<Content>,
    /// When the claim was last seen to be this process's, on its own clock.
    seen: Mutex<Instant>,
    lost: AtomicBool,
}

impl Claim {
    fn new(folder: &Path, generation: u64, content: Content, lease: Duration) -> Self {
        Self {
            file: Arc::new(OwnFile {
                folder: folder.into(),
                path: path(folder, &content.run_id, generation),
                generation,
                lease,
                content: Mutex::new(content),
                seen: Mutex::new(Instant::now()),
                lost: AtomicBool::new(false),
            }),
            heart: None,
        }
    }

    /// Starts the thread that renews the claim.
    fn beating(mut self) -> Self {
        let (stop, stopped) = mpsc::channel();
        let file = self.file.clone();
        let started = thread::Builder::new().name("heartbeat".into()).spawn(move || {
            let mut silent = false;
            while stopped.recv_timeout(file.lease / BEATS) == Err(RecvTimeoutError::Timeout) {
                match file.beat() {
                    Ok(()) => silent = false,
                    Err(Error::TakenOver { .. }) => break,
                    // A disk that is full for now must not cost the cell; others wait for a whole lease.
                    Err(error) if !silent => {
                        silent = true;
                        let cause = std::error::Error::source(&error).map(|e| format!(": {e}"));
                        tracing::warn!("the claim is not renewed: {error}{}", cause.unwrap_or_default());
                    }
                    Err(_) => {}
                }
            }
        });
        match started {
            Ok(thread) => self.heart = Some((stop, thread)),
            // Without beats it is taken over after a lease at worst, and finds out in `check`.
            Err(error) => tracing::warn!("the claim on a cell cannot be renewed: {error}"),
        }
        self
    }

    /// Makes sure that the cell has not been taken over. Cheap while the claim beats as it should; looks at the
    /// disk when the last beat is old, as after a sleep of this process.
    ///
    /// # Errors
    /// As [`Claim::confirm`].
    pub fn check(&self) -> Result<()> {
        if self.file.lost.load(Ordering::Relaxed) {
            return Err(self.file.taken_over());
        }
        let seen = *lock(&self.file.seen);
        if seen.elapsed() > self.file.lease / 2 {
            return self.confirm();
        }
        Ok(())
    }

    /// Makes sure, by looking at the disk, that the cell has not been taken over.
    ///
    /// # Errors
    /// [`Error::TakenOver`] when it has; [`Error::Io`] when the claim cannot be read.
    pub fn confirm(&self) -> Result<()> {
        let own = File::open(&self.file.path);
        self.file.confirm(own).map(drop)
    }

    /// Takes the claim back as if it had never been made: those below stay.
    fn withdraw(self) -> Result<()> {
        file::remove_if_present(&self.file.path)
    }

    #[cfg(test)]
    fn beat(&self) -> Result<()> {
        self.file.beat()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some((stop, heart)) = self.heart.take() {
            drop(stop);
            // It cannot panic; if it did, there is no heart to stop.
            let _ = heart.join();
        }
        if let Err(error) = self.file.remove() {
            tracing::warn!("a claim stays behind: {error}");
        }
    }
}

impl OwnFile {
    fn taken_over(&self) -> Error {
        self.lost.store(true, Ordering::Relaxed);
        let content = lock(&self.content);
        Error::TakenOver {
            run_id: content.run_id.clone(),
            lease_seconds: content.lease_seconds,
        }
    }

    /// The opened file and its content, if both are this claim's and no higher generation is there.
    fn confirm(&self, opened: std::io::Result<File>) -> Result<(File, Content)> {
        let failed = |action, e: std::io::Error| {
            if gone(&e) {
                self.taken_over()
            } else {
                Error::io(action, &self.path)(e)
            }
        };
        let mut own = opened.map_err(|e| failed("open", e))?;
        let mut bytes = Vec::new();
        own.read_to_end(&mut bytes).map_err(|e| failed("read", e))?;
        let content = lock(&self.content).clone();
        let there = Content::parse(&bytes, &content.run_id);
        let above = path(&self.folder, &content.run_id, self.generation + 1);
        // A file of ours that a crash of its server has torn is still ours.
        let another = there.is_ok_and(|there| there.token != content.token);
        if another || self.lost.load(Ordering::Relaxed) || read(&above)?.is_some() {
            return Err(self.taken_over());
        }
        *lock(&self.seen) = Instant::now();
        Ok((own, content))
    }

    fn beat(&self) -> Result<()> {
        let opened = OpenOptions::new().read(true).write(true).open(&self.path);
        let (mut own, mut content) = self.confirm(opened)?;
        content.beat += 1;
        content.time = utc_now();
        let failed = Error::io("write", &self.path);
        let written = content.to_bytes().map_err(std::io::Error::from).and_then(|bytes| {
            own.rewind()?;
            own.write_all(&bytes)
        });
        written.map_err(failed)?;
        *lock(&self.content) = content;
        Ok(())
    }

    /// Removes the claims below, then this one; only this one, if it is there, when the cell was taken over.
    fn remove(&self) -> Result<()> {
        match self.confirm(File::open(&self.path)) {
            Ok((_, content)) => {
                let all = generations(&self.folder, &content.run_id)?;
                // One that cannot be removed must not keep this one here.
                let lower = all.into_iter().filter(|generation| *generation < self.generation);
                let remove = |lower| file::remove_if_present(&path(&self.folder, &content.run_id, lower));
                let removed: Vec<Result<()>> = lower.map(remove).collect();
                file::remove_if_present(&self.path)?;
                removed.into_iter().collect()
            }
            Err(Error::TakenOver { .. }) => {
                let own = lock(&self.content).clone();
                let there = read(&self.path)?;
                match there.and_then(|bytes| Content::parse(&bytes, &own.run_id).ok()) {
                    Some(there) if there.token == own.token => file::remove_if_present(&self.path),
                    _ => Ok(()),
                }
            }
            Err(error) => Err(error),
        }
    }
}

/// A value that no panic leaves half-changed.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// True if a file is no longer there: by name, or by the handle that a server has forgotten.
fn gone(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::NotFound | std::io::ErrorKind::StaleNetworkFileHandle
    )
}

#[cfg(test)]
mod tests;
