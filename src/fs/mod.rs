//! Files as several processes share them: written whole or not at all, locked, hashed, and with room on the disk.

use std::collections::BTreeMap;
use std::env;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::environment::Variable;
use crate::error::{Error, Result};

pub mod file;
pub(crate) mod folder;
pub mod hash;

/// The folder of unpacked data and of hashes of large files: `KSHOT_CACHE`, else in the platform's cache folder.
#[must_use]
pub fn cache_folder() -> PathBuf {
    let below = |folder: PathBuf| folder.join("kshot");
    Variable::Cache
        .path()
        .or_else(|| Variable::CacheHome.path().map(below))
        .or_else(|| Variable::UserHome.path().map(|home| below(home.join(".cache"))))
        .unwrap_or_else(|| below(env::temp_dir()))
}

/// The platform's folder for a user's data, with `kshot` in it; none where the environment names no home.
#[must_use]
pub fn data_folder() -> Option<PathBuf> {
    let home = || Some(Variable::UserHome.path()?.join(".local/share"));
    Some(Variable::DataHome.path().or_else(home)?.join("kshot"))
}

/// The folder, or the first above it that is there; the working folder where the path names none.
fn existing(folder: &Path) -> &Path {
    let found = folder.ancestors().find(|folder| folder.exists());
    found
        .filter(|folder| *folder != Path::new(""))
        .unwrap_or(Path::new("."))
}

/// True if files can be made in a folder, or it can be made itself.
pub(crate) fn is_writable(folder: &Path) -> bool {
    let existing = existing(folder);
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    existing.is_dir() && rustix::fs::access(existing, access).is_ok()
}

/// Bytes that are free on the device of a folder, which need not be there yet.
///
/// # Errors
/// [`Error::Io`] when it cannot be asked.
pub fn free_space(folder: &Path) -> Result<u64> {
    let existing = existing(folder);
    let found = rustix::fs::statvfs(existing).map_err(|e| Error::io("read", existing)(e.into()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Bytes that unpacked images take, per byte of their archives: these hold JPEGs and hardly shrink them.
const UNPACKED: f64 = 1.2;

/// Bytes that unpacking needs for archives of so many bytes.
pub(crate) fn unpacked_size(archives: u64) -> u64 {
    (archives as f64 * UNPACKED) as u64
}

/// Demands that each device has room for all that is to be written below its folders.
pub(crate) fn check_space(needs: &[(&Path, u64)]) -> Result<()> {
    let mut devices: BTreeMap<u64, (PathBuf, u64)> = BTreeMap::new();
    for &(folder, bytes) in needs {
        let existing = existing(folder);
        let device = std::fs::metadata(existing).map_err(Error::io("read", existing))?.dev();
        let (_, needed) = devices.entry(device).or_insert_with(|| (existing.into(), 0));
        *needed = needed.saturating_add(bytes);
    }
    for (folder, needed) in devices.into_values() {
        let free = free_space(&folder)?;
        if needed > free {
            return Err(Error::DiskSpace { folder, needed, free });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_below_one_device_adds_up() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a/b"), folder.path().join("c"));
        check_space(&[(&a, 1), (&b, 1)]).unwrap();
        let half = u64::MAX / 2;
        let error = check_space(&[(&a, half), (&b, half)]).unwrap_err();
        let Error::DiskSpace {
            folder: named,
            needed,
            free,
        } = &error
        else {
            panic!("{error:?}")
        };
        assert_eq!((named.as_path(), *needed), (folder.path(), u64::MAX - 1));
        assert!(*free > 0 && *free < half);
        assert!(error.hint().is_some());
    }
}
