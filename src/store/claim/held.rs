//! A claim that this process holds: it beats, finds out when it was lost, and goes when it is dropped.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::fs::file;
use crate::store::claim::{BEATS, Content, generations, path, read};
use crate::store::record::utc_now;

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
    pub(super) fn new(folder: &Path, generation: u64, content: Content, lease: Duration) -> Self {
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
    pub(super) fn beating(mut self) -> Self {
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
        let seen = *self.file.seen.lock().unwrap_or_else(PoisonError::into_inner);
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
    pub(super) fn withdraw(self) -> Result<()> {
        file::remove_if_present(&self.file.path)
    }

    #[cfg(test)]
    pub(super) fn beat(&self) -> Result<()> {
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
        let content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        Error::TakenOver {
            run_id: content.run_id.clone(),
            lease_seconds: content.lease_seconds,
        }
    }

    /// The opened file and its content, if both are this claim's and no higher generation is there.
    fn confirm(&self, opened: std::io::Result<File>) -> Result<(File, Content)> {
        let mut own = match opened {
            Ok(own) => own,
            Err(e) if gone(&e) => return Err(self.taken_over()),
            Err(e) => return Err(Error::io("open", &self.path)(e)),
        };
        let mut bytes = Vec::new();
        match own.read_to_end(&mut bytes) {
            Ok(_) => {}
            Err(e) if gone(&e) => return Err(self.taken_over()),
            Err(e) => return Err(Error::io("read", &self.path)(e)),
        }
        let content = self.content.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let there = Content::parse(&bytes, &content.run_id);
        let above = path(&self.folder, &content.run_id, self.generation + 1);
        // A file of ours that a crash of its server has torn is still ours.
        let another = there.is_ok_and(|there| there.token != content.token);
        if another || self.lost.load(Ordering::Relaxed) || read(&above)?.is_some() {
            return Err(self.taken_over());
        }
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Ok((own, content))
    }

    fn beat(&self) -> Result<()> {
        let opened = OpenOptions::new().read(true).write(true).open(&self.path);
        let (mut own, mut content) = self.confirm(opened)?;
        content.beat += 1;
        content.time = utc_now();
        let bytes = content
            .to_bytes()
            .map_err(|e| Error::io("write", &self.path)(e.into()))?;
        own.rewind()
            .and_then(|()| own.write_all(&bytes))
            .map_err(Error::io("write", &self.path))?;
        *self.content.lock().unwrap_or_else(PoisonError::into_inner) = content;
        Ok(())
    }

    /// Removes the claims below, then this one; only this one, if it is there, when the cell was taken over.
    fn remove(&self) -> Result<()> {
        match self.confirm(File::open(&self.path)) {
            Ok((_, content)) => {
                let all = generations(&self.folder, &content.run_id)?;
                // One that cannot be removed must not keep this one here.
                let lower = all.into_iter().filter(|generation| *generation < self.generation);
                let removed: Vec<Result<()>> = lower
                    .map(|lower| file::remove_if_present(&path(&self.folder, &content.run_id, lower)))
                    .collect();
                file::remove_if_present(&self.path)?;
                removed.into_iter().collect()
            }
            Err(Error::TakenOver { .. }) => {
                let own = self.content.lock().unwrap_or_else(PoisonError::into_inner).clone();
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

/// Whether a file is no longer there: by name, or by the handle that a server has forgotten.
pub(super) fn gone(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::NotFound | std::io::ErrorKind::StaleNetworkFileHandle
    )
}
