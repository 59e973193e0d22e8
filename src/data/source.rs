//! Are the manifest's files those that it promises?

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use md5::Md5;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::hex;
use super::manifest::{Manifest, SourceFile};
use crate::error::{Error, Result};

/// A file as it was when its hash was right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    size: u64,
    /// Nanoseconds since 1970.
    changed: u128,
    digest: String,
}

/// Checks size and hash of every file.
///
/// Files whose size and time of change are those of an earlier check are not hashed again; these stamps
/// are kept in `cache/verified.json`. A file altered within its size and with its time set back passes:
/// the stamps guard against accidents, the hashes of the images themselves are in every result.
pub(super) fn verify(manifest: &Manifest, cache: &Path) -> Result<()> {
    let memory = cache.join("verified.json");
    let known: BTreeMap<PathBuf, Stamp> = std::fs::read(&memory)
        .ok()
        .and_then(|json| serde_json::from_slice(&json).ok())
        .unwrap_or_default();
    let check = |file: &SourceFile| {
        let path = manifest.place(file);
        let path = path.canonicalize().map_err(Error::io("read", &path))?;
        let stamp = stamp(&path, file)?;
        if known.get(&path) != Some(&stamp) {
            compare_digest(&path, file)?;
        }
        Ok((path, stamp))
    };
    let checked: Vec<Result<_>> = manifest.files.par_iter().map(check).collect();
    let mut all = known.clone();
    for result in checked {
        let (path, stamp) = result?;
        all.insert(path, stamp);
    }
    if all != known
        && let Err(error) = remember(&memory, &all)
    {
        // Only speed is lost, e.g. with a cache that is read-only.
        tracing::debug!("{error}: files will be hashed again next time");
    }
    Ok(())
}

fn stamp(path: &Path, file: &SourceFile) -> Result<Stamp> {
    let metadata = std::fs::metadata(path).map_err(Error::io("read", path))?;
    if metadata.len() != file.size {
        return Err(Error::WrongBytes {
            path: path.into(),
            what: "size",
            found: metadata.len().to_string(),
            expected: file.size.to_string(),
        });
    }
    let changed = metadata.modified().map_err(Error::io("read", path))?;
    let changed = changed.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let digest = file.digest().map(|(_, hash)| hash.to_owned()).unwrap_or_default();
    Ok(Stamp {
        size: metadata.len(),
        changed,
        digest,
    })
}

fn compare_digest(path: &Path, file: &SourceFile) -> Result<()> {
    let Some((what, expected)) = file.digest() else {
        return Ok(());
    };
    let found = hash(path, what)?;
    if found == expected {
        return Ok(());
    }
    Err(Error::WrongBytes {
        path: path.into(),
        what,
        found,
        expected: expected.into(),
    })
}

/// Lower-case hex hash of a file, of the kind "sha256" or "md5".
pub(super) fn hash(path: &Path, kind: &str) -> Result<String> {
    if kind == "sha256" {
        digest::<Sha256>(path)
    } else {
        digest::<Md5>(path)
    }
}

/// Lower-case hex hash of a file, read piece by piece.
fn digest<D: Digest>(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let mut hasher = D::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(hex(&hasher.finalize())),
            Ok(read) => hasher.update(chunk.get(..read).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io("read", path)(e)),
        }
    }
}

fn remember(memory: &Path, stamps: &BTreeMap<PathBuf, Stamp>) -> Result<()> {
    let json = serde_json::to_vec_pretty(stamps).map_err(|e| Error::Malformed {
        kind: "list of verified files",
        path: memory.into(),
        reason: e.to_string(),
    })?;
    super::cache::write_whole(memory, &json)
}
