//! Unpacked datasets on disk: `<cache>/datasets/<name>/<key>/{files/…,index.json}`.
//!
//! The key is a hash of everything that the content follows from, so that a changed archive, skip list
//! or provenance file never meets an old index. A dataset is unpacked into a `.partial` folder and
//! renamed when complete. One process at a time does so, under a file lock that the system drops when
//! its holder dies; hence a `.partial` folder seen under the lock belongs to nobody and is removed.

use std::fs::{File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use sha2::{Digest as _, Sha256};

use super::index::Index;
use super::layout::{self, Unpacked};
use super::manifest::Manifest;
use super::{archive, hex};
use crate::error::{Error, Result};

/// Raised when the same archives would be read differently.
const LAYOUT_VERSION: u32 = 1;

/// The index of a dataset, unpacking it first if need be, and the folder its images lie in.
pub(super) fn indexed(manifest: &Manifest, cache: &Path) -> Result<(Index, PathBuf)> {
    let key = key(manifest)?;
    let folder = cache.join(&key);
    let root = match &manifest.directory {
        Some(directory) => manifest.resolve(directory),
        None => folder.join("files"),
    };
    if let Some(index) = Index::load(&folder.join("index.json"), &root) {
        index.check_counts(manifest)?;
        return Ok((index, root));
    }
    std::fs::create_dir_all(cache).map_err(Error::io("make", cache))?;
    let lock = lock(&cache.join("lock"))?;
    // Another process may have been at work while this one waited for the lock.
    if let Some(index) = Index::load(&folder.join("index.json"), &root) {
        index.check_counts(manifest)?;
        return Ok((index, root));
    }
    if lock.is_some() {
        remove_leftovers(cache)?;
    }
    let partial = Partial(cache.join(format!("{key}.{}.partial", std::process::id())));
    std::fs::create_dir_all(&partial.0).map_err(Error::io("make", &partial.0))?;
    let index = build(manifest, &partial.0)?;
    if folder.exists() {
        // Complete once, but images are missing now: out of the way in one step, then removed.
        let damaged = Partial(cache.join(format!("{key}.{}.damaged.partial", std::process::id())));
        std::fs::rename(&folder, &damaged.0).map_err(Error::io("replace", &folder))?;
    }
    match std::fs::rename(&partial.0, &folder) {
        Ok(()) => {}
        // Without a lock another process may have been faster; what it made is the same.
        Err(_) if lock.is_none() && folder.join("index.json").exists() => {}
        Err(e) => return Err(Error::io("make", &folder)(e)),
    }
    sync_folder(cache)?;
    Ok((index, root))
}

/// Unpacks, reads labels and examines every image, all within `partial`.
fn build(manifest: &Manifest, partial: &Path) -> Result<Index> {
    let root = match &manifest.directory {
        Some(directory) => manifest.resolve(directory),
        None => partial.join("files"),
    };
    if manifest.directory.is_none() {
        std::fs::create_dir_all(&root).map_err(Error::io("make", &root))?;
        for file in manifest.archives() {
            tracing::info!("unpacking {} of {}", file.name, manifest.name);
            archive::unpack(&manifest.place(file), &root)?;
        }
    }
    let listing = layout::read(&Unpacked { manifest, root: &root }).map_err(|e| within_archives(e, manifest, &root))?;
    let index = Index::examine(manifest, listing, &root)?;
    index.check_counts(manifest)?;
    index.write(&partial.join("index.json"))?;
    Ok(index)
}

/// Names label files by their place in the archives: where they were unpacked to is about to vanish.
fn within_archives(error: Error, manifest: &Manifest, root: &Path) -> Error {
    let inside = |path: &Path| match manifest.directory {
        None => path.strip_prefix(root).ok().map(Path::to_path_buf),
        Some(_) => None,
    };
    match error {
        Error::Io { path, source, .. } if inside(&path).is_some() && source.kind() == io::ErrorKind::NotFound => {
            let file = inside(&path).unwrap_or(path);
            let reason = format!("its archives hold no `{}`", file.display());
            Error::Dataset {
                dataset: manifest.name.clone(),
                reason,
            }
        }
        Error::Labels { path, reason } => Error::Labels {
            path: inside(&path).unwrap_or(path),
            reason,
        },
        other => other,
    }
}

/// First 16 hex digits of a hash over everything that the index follows from.
fn key(manifest: &Manifest) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut add = |kind: &str, value: &str| {
        hasher.update(format!("{kind} {} {value}\n", value.len()));
    };
    add("version", &LAYOUT_VERSION.to_string());
    add("layout", &format!("{:?}", manifest.layout));
    for file in &manifest.files {
        let (kind, hash) = file.digest().unwrap_or_default();
        add(&file.role, &format!("{kind} {hash}"));
    }
    for id in &manifest.skip {
        add("skip", id);
    }
    for name in &manifest.class_names {
        add("class", name);
    }
    for (from, to) in &manifest.rename {
        add("rename", &format!("{} {from} {to}", from.len()));
    }
    if let Some(share) = manifest.holdout {
        add("holdout", &share.to_string());
    }
    if let Some(path) = &manifest.provenance {
        let path = manifest.resolve(path);
        let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        add("provenance", &hex(&Sha256::digest(bytes)));
    }
    if let Some(directory) = &manifest.directory {
        let directory = manifest.resolve(directory);
        let absolute = directory.canonicalize().map_err(Error::io("read", &directory))?;
        add("directory", &absolute.to_string_lossy());
        let mut files = Vec::new();
        match manifest.file("table") {
            // A table may lie in a folder of much else.
            Some(table) => {
                for row in layout::table::rows(&manifest.place(table))? {
                    files.push(stamped(&absolute.join(row.path))?);
                }
            }
            None => list_files(&absolute, 4, &mut files)?,
        }
        files.sort();
        for (path, size, changed) in files {
            add("file", &format!("{path} {size} {changed}"));
        }
    }
    let mut key = hex(&hasher.finalize());
    key.truncate(16);
    Ok(key)
}

/// Path, size and time of change of every file, links followed, down to a depth that ends loops.
fn list_files(folder: &Path, depth: usize, files: &mut Vec<(String, u64, u128)>) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let path = entry.map_err(Error::io("list", folder))?.path();
        let metadata = std::fs::metadata(&path).map_err(Error::io("read", &path))?;
        if !metadata.is_dir() {
            files.push(stamped(&path)?);
        } else if depth > 1 {
            list_files(&path, depth - 1, files)?;
        }
    }
    Ok(())
}

/// Path, size and time of change of a file; zeros for one that is not there, which is reported where it is looked for.
fn stamped(path: &Path) -> Result<(String, u64, u128)> {
    let name = path.to_string_lossy().into_owned();
    let metadata = match std::fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((name, 0, 0)),
        other => other.map_err(Error::io("read", path))?,
    };
    let changed = metadata.modified().map_err(Error::io("read", path))?;
    let changed = changed.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    Ok((name, metadata.len(), changed))
}

/// A folder that is removed when it goes out of scope, unless it was renamed.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("cannot remove `{}`: {error}", self.0.display());
        }
    }
}

fn remove_leftovers(cache: &Path) -> Result<()> {
    for entry in std::fs::read_dir(cache).map_err(Error::io("list", cache))? {
        let path = entry.map_err(Error::io("list", cache))?.path();
        if path.extension().is_some_and(|end| end == "partial") {
            let removed = if path.is_dir() {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            match removed {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io("remove", &path)(e)),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Waits for the lock; `None` on file systems that have none, as some of clusters.
fn lock(path: &Path) -> Result<Option<File>> {
    let file = File::create(path).map_err(Error::io("write", path))?;
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        tracing::info!("waiting for another process that unpacks this dataset");
    }
    match file.lock() {
        Ok(()) => Ok(Some(file)),
        Err(error) => {
            tracing::debug!("cannot lock `{}`: {error}", path.display());
            Ok(None)
        }
    }
}

/// Writes a file so that it is seen whole or not at all.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = path.with_extension(format!("{}.partial", std::process::id()));
    let written = File::create(&partial)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&partial, path));
    written.map_err(|e| {
        // The first error is the one to report.
        drop(std::fs::remove_file(&partial));
        Error::io("write", path)(e)
    })
}

fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(Error::io("write", folder))
}
