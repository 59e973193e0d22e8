//! Files as several processes share them: written whole or not at all, locked, hashed, and with room on the disk.

use std::env;
use std::path::PathBuf;

pub mod file;
pub mod hash;
pub(crate) mod space;

/// The folder of unpacked data and of hashes of large files: `KSHOT_CACHE`, else in the platform's cache folder.
#[must_use]
pub fn cache_folder() -> PathBuf {
    let folder = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    folder("KSHOT_CACHE")
        .or_else(|| folder("XDG_CACHE_HOME").map(|f| f.join("kshot")))
        .or_else(|| folder("HOME").map(|f| f.join(".cache").join("kshot")))
        .unwrap_or_else(|| env::temp_dir().join("kshot"))
}
