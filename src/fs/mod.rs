//! Files as several processes share them: written whole or not at all, locked, hashed, and with room on the disk.

use std::collections::BTreeMap;
use std::env;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

pub mod file;
pub mod hash;

/// The folder of unpacked data and of hashes of large files: `KSHOT_CACHE`, else in the platform's cache folder.
#[must_use]
pub fn cache_folder() -> PathBuf {
    let folder = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    folder("KSHOT_CACHE")
        .or_else(|| folder("XDG_CACHE_HOME").map(|f| f.join("kshot")))
        .or_else(|| folder("HOME").map(|f| f.join(".cache").join("kshot")))
        .unwrap_or_else(|| env::temp_dir().join("kshot"))
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
        let existing = folder.ancestors().find(|folder| folder.exists()).unwrap_or(folder);
        let device = std::fs::metadata(existing).map_err(Error::io("read", existing))?.dev();
        let (_, needed) = devices.entry(device).or_insert_with(|| (existing.into(), 0));
        *needed = needed.saturating_add(bytes);
    }
    for (folder, needed) in devices.into_values() {
        let found = rustix::fs::statvfs(&folder).map_err(|e| Error::io("read", &folder)(e.into()))?;
        let free = found.f_bavail.saturating_mul(found.f_frsize);
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
