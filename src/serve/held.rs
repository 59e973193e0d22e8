//! Folders of weights in use: they stay on the disk for as long as anybody needs them, whatever becomes of their checkpoints.

use std::collections::HashMap;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::error::{Error, Result};

/// A folder that is in use. Two are equal if they are of one path: no path is given to other weights again.
#[derive(Debug)]
pub(super) struct HeldFolder {
    path: PathBuf,
    /// True if it goes when nobody holds it any more.
    unwanted: AtomicBool,
}

impl HeldFolder {
    /// A folder that nobody removes while the server runs.
    pub(super) fn lasting(path: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            path,
            unwanted: AtomicBool::new(false),
        })
    }

    /// A folder that goes with its last holder.
    pub(super) fn passing(path: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            path,
            unwanted: AtomicBool::new(true),
        })
    }

    /// The folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl PartialEq for HeldFolder {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for HeldFolder {}

impl Hash for HeldFolder {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.path.hash(state);
    }
}

impl Drop for HeldFolder {
    fn drop(&mut self) {
        if self.unwanted.load(Ordering::Relaxed)
            && let Err(error) = remove(&self.path)
        {
            tracing::warn!("{error}");
        }
    }
}

/// The folders of checkpoints that are in use.
#[derive(Debug, Default)]
pub(super) struct Holds(Mutex<HashMap<PathBuf, Weak<HeldFolder>>>);

impl Holds {
    /// Holds a folder.
    pub(super) fn hold(&self, path: PathBuf) -> Arc<HeldFolder> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = all.get(&path).and_then(Weak::upgrade) {
            return held;
        }
        all.retain(|_, held| held.strong_count() > 0);
        let held = HeldFolder::lasting(path.clone());
        all.insert(path, Arc::downgrade(&held));
        held
    }

    /// Removes a folder: at once, or when nobody holds it any more.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be removed.
    pub(super) fn discard(&self, path: &Path) -> Result<()> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
        match held.and_then(|held| held.upgrade()) {
            Some(held) => {
                held.unwanted.store(true, Ordering::Relaxed);
                Ok(())
            }
            None => remove(path),
        }
    }
}

/// Removes a folder with all that is in it, if it is there.
///
/// # Errors
/// [`Error::Io`] when it stays.
pub(super) fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", dir)(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_stays_until_its_last_holder_goes() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| {
            let path = scratch.path().join(name);
            fs::create_dir_all(&path).unwrap();
            path
        };
        let holds = Holds::default();
        let (one, two) = (holds.hold(at("a")), holds.hold(at("a")));
        assert!(Arc::ptr_eq(&one, &two));
        holds.discard(&at("a")).unwrap();
        drop(one);
        assert!(two.path().is_dir());
        drop(two);
        assert!(!scratch.path().join("a").exists());
        // What nobody holds goes at once, what is held and wanted stays.
        drop(holds.hold(at("b")));
        assert!(scratch.path().join("b").is_dir());
        holds.discard(&at("b")).unwrap();
        assert!(!scratch.path().join("b").exists());
        drop(HeldFolder::passing(at("c")));
        drop(HeldFolder::lasting(at("d")));
        assert!(!scratch.path().join("c").exists() && scratch.path().join("d").is_dir());
    }
}
