//! Hashes of whole files, in lower-case hex; those of large files are kept, so that no file is read twice for its hash.
//!
//! A file is the one that was hashed as long as its path and its [stamp](Stamp) are: size, inode and both times of change.
//! The time of the last change of any kind is set by the kernel alone, so that bytes replaced with size and modification
//! time preserved are seen; only whoever sets the machine's clock back is not.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use md5::Md5;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::fs::{cache_folder, file};

/// Lower-case hex hash of a file: "md5", else "sha256".
pub(crate) fn hash(path: &Path, kind: &str) -> Result<String> {
    match kind {
        "md5" => digest::<Md5>(path),
        _ => digest::<Sha256>(path),
    }
}

/// Lower-case hex hash of a file, read piece by piece.
fn digest<D: Digest>(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let mut hasher = D::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        match file::next_bytes(&mut file, &mut chunk).map_err(Error::io("read", path))? {
            [] => return Ok(hex(&hasher.finalize())),
            bytes => hasher.update(bytes),
        }
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Files of fewer bytes are hashed each time: that takes less than a tenth of a second.
const LARGE: u64 = 64 << 20;

/// Known hashes of files, by their real path.
type HashCache = BTreeMap<PathBuf, KnownHash>;

/// The state of a file: while it is the same, so are the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    size: u64,
    inode: u64,
    /// Seconds and nanoseconds of the last change of the bytes.
    changed: (i64, i64),
    /// Of the last change of bytes, name or rights: no program can set it back.
    touched: (i64, i64),
}

/// A file that was hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KnownHash {
    #[serde(flatten)]
    stamp: Stamp,
    sha256: String,
}

impl Stamp {
    /// The state of a file now; links are followed.
    ///
    /// # Errors
    /// [`Error::Io`] when there is none.
    pub fn of(path: &Path) -> Result<Self> {
        let found = fs::metadata(path).map_err(Error::io("read", path))?;
        Ok(Self {
            size: found.size(),
            inode: found.ino(),
            changed: (found.mtime(), found.mtime_nsec()),
            touched: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// Lower-case hex SHA-256 of each file. Files are hashed side by side; of large ones the hashes are kept in the
/// cache folder.
///
/// # Errors
/// [`Error::Io`] when one cannot be read.
pub fn sha256(files: &[PathBuf]) -> Result<Vec<String>> {
    sha256_with(files, &cache_folder().join("hashed.json"), LARGE)
}

/// Keeps the hash of a file that was checked just now.
pub(crate) fn keep(file: &Path, sha256: &str) {
    let kept = stamped(file, sha256).and_then(|(path, hashed)| {
        if hashed.stamp.size < LARGE {
            return Ok(());
        }
        let memory = cache_folder().join("hashed.json");
        let mut all = read(&memory);
        all.insert(path, hashed);
        write(&memory, all)
    });
    if let Err(error) = kept {
        tracing::debug!("{error}: the file will be hashed again");
    }
}

/// The real path of a file, and its state now with a hash.
fn stamped(file: &Path, sha256: &str) -> Result<(PathBuf, KnownHash)> {
    let path = file.canonicalize().map_err(Error::io("read", file))?;
    let stamp = Stamp::of(&path)?;
    let sha256 = sha256.into();
    Ok((path, KnownHash { stamp, sha256 }))
}

fn sha256_with(files: &[PathBuf], memory: &Path, large: u64) -> Result<Vec<String>> {
    let mut files: Vec<(PathBuf, KnownHash)> = files.iter().map(|file| stamped(file, "")).collect::<Result<_>>()?;
    let known = if files.iter().any(|(_, file)| file.stamp.size >= large) {
        read(memory)
    } else {
        HashCache::new()
    };
    for (path, file) in &mut files {
        if let Some(known) = known.get(path).filter(|known| known.stamp == file.stamp) {
            file.sha256.clone_from(&known.sha256);
        }
    }
    let unknown: u64 = files
        .iter()
        .filter(|(_, file)| file.sha256.is_empty())
        .map(|(_, file)| file.stamp.size)
        .sum();
    if unknown >= large {
        tracing::info!("hashing {:.1} GB of weights, once", unknown as f64 / 1e9);
    }
    let hashed: Vec<(PathBuf, KnownHash)> = files
        .into_par_iter()
        .map(|(path, mut file)| {
            if file.sha256.is_empty() {
                file.sha256 = hash(&path, "sha256")?;
            }
            Ok((path, file))
        })
        .collect::<Result<_>>()?;
    let mut all = known.clone();
    for (path, file) in hashed.iter().filter(|(_, file)| file.stamp.size >= large) {
        // One that changed while it was read has a hash of neither state.
        if Stamp::of(path).is_ok_and(|now| now == file.stamp) {
            all.insert(path.clone(), file.clone());
        }
    }
    if all != known
        && let Err(error) = write(memory, all)
    {
        // Only time is lost, e.g. with a cache that is read-only.
        tracing::debug!("{error}: files will be hashed again next time");
    }
    Ok(hashed.into_iter().map(|(_, file)| file.sha256).collect())
}

fn read(memory: &Path) -> HashCache {
    file::read_json(memory).unwrap_or_default()
}

/// Files that are gone are forgotten.
fn write(memory: &Path, mut all: HashCache) -> Result<()> {
    all.retain(|path, _| path.exists());
    file::replace_json_in_cache(memory, "list of hashed files", serde_json::to_vec_pretty(&all))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::Sha256;

    /// Replaces the kept hash of a file by a text that is no hash: whoever gets it back did not read the file.
    fn poison(memory: &Path) {
        let mut all = read(memory);
        all.values_mut().for_each(|file| file.sha256 = "kept".into());
        write(memory, all).unwrap();
    }

    #[test]
    fn a_large_file_is_hashed_once_until_it_changes() {
        let scratch = tempfile::tempdir().unwrap();
        let (memory, file) = (scratch.path().join("cache/hashed.json"), scratch.path().join("a"));
        fs::write(&file, "one").unwrap();
        let ask = || sha256_with(std::slice::from_ref(&file), &memory, 3).unwrap().remove(0);
        let one = ask();
        assert_eq!(one, hex(&Sha256::digest("one")));
        assert_eq!(ask(), one);
        poison(&memory);
        assert_eq!(ask(), "kept");
        // Of the same size, and with the time of change that it had.
        let changed = fs::metadata(&file).unwrap().modified().unwrap();
        fs::write(&file, "two").unwrap();
        fs::File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_modified(changed)
            .unwrap();
        assert_eq!(ask(), hex(&Sha256::digest("two")));
        // Another file under its name.
        poison(&memory);
        fs::write(scratch.path().join("b"), "six").unwrap();
        fs::rename(scratch.path().join("b"), &file).unwrap();
        assert_eq!(ask(), hex(&Sha256::digest("six")));
    }

    #[test]
    fn small_files_leave_nothing_and_a_torn_memory_is_no_error() {
        let scratch = tempfile::tempdir().unwrap();
        let (memory, file) = (scratch.path().join("hashed.json"), scratch.path().join("a"));
        fs::write(&file, "one").unwrap();
        let ask = |large| {
            sha256_with(std::slice::from_ref(&file), &memory, large)
                .unwrap()
                .remove(0)
        };
        let one = ask(4);
        assert!(!memory.exists());
        fs::write(&memory, "{\"a").unwrap();
        assert_eq!(ask(3), one);
        assert_eq!(read(&memory).len(), 1);
    }
}
