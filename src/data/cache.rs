//! Unpacked datasets on disk: `<cache>/datasets/<name>/<key>/{files/…,index.json}`.
//!
//! The key is a hash of what the files come from, so that changed archives never meet an old index; within the index,
//! classes and sides of each protocol have a key over all that they follow from. The files are unpacked, hashed and
//! decoded once for all protocols. A dataset is unpacked into a `.partial` folder and
//! renamed when complete. One process at a time does so, under a file lock that the system drops when
//! its holder dies; hence a `.partial` folder seen under the lock belongs to nobody and is removed.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::files::{DatasetFiles, ParquetForm, changed};
use super::index::{Index, ProtocolImages, Survey};
use super::layout::{self, Unpacked};
use crate::error::{Error, Result};
use crate::formats::archive;
use crate::formats::image::Mode;
use crate::formats::parquet::{Columns, image_mode};
use crate::fs::file;
use crate::fs::hash::hex;
use crate::manifest::{Form, Layout, Manifest};
use crate::process::temporary;

/// Raised when the same archives would be read differently.
const LAYOUT_VERSION: u32 = 2;

/// An unpacked dataset: its index, the images that a protocol has, and their folder.
pub(super) struct OpenedDataset {
    pub index: Index,
    pub listed: ProtocolImages,
    pub root: PathBuf,
}

/// The index of a dataset under a protocol, unpacking it first if need be.
pub(super) fn indexed(source: &DatasetFiles, cache: &Path) -> Result<OpenedDataset> {
    let (key, of_protocol) = keys(source)?;
    let folder = cache.join(&key);
    let root = root(source.manifest, &folder);
    let path = folder.join("index.json");
    let at_hand = || -> Result<Option<OpenedDataset>> {
        let Some(mut opened) = kept(&path, &of_protocol, &root) else {
            return Ok(None);
        };
        let touched = opened.index.touched(Some(&opened.listed), &root);
        if !opened.index.recheck(&touched, &root).is_empty() {
            return Ok(None);
        }
        if !touched.is_empty()
            && let Err(error) = opened.index.write(&path)
        {
            // Only time is lost, e.g. with a cache that is read-only.
            tracing::debug!("{error}: touched images will be hashed again next time");
        }
        opened.listed.check_counts(source)?;
        Ok(Some(opened))
    };
    if let Some(opened) = at_hand()? {
        return Ok(opened);
    }
    std::fs::create_dir_all(cache).map_err(Error::io("make", cache))?;
    let lock = file::lock(&cache.join("lock"), "unpacks this dataset")?;
    // Another process may have been at work while this one waited for the lock.
    if let Some(opened) = at_hand()? {
        return Ok(opened);
    }
    if lock.is_some() {
        remove_leftovers(cache)?;
    }
    // Unpacked for another protocol, or before the manifest changed.
    if let Some(mut index) = Index::load(&path) {
        let touched = index.touched(None, &root);
        let changed = index.recheck(&touched, &root);
        let own = source.manifest.directory.is_some();
        if let Some(first) = changed.first() {
            let (name, count) = (&source.manifest.name, changed.len());
            let done = if own { "looked at anew" } else { "unpacked again" };
            tracing::warn!(
                "dataset `{name}`: {count} images were changed or removed, `{first}` first: they are {done}"
            );
        }
        if own || changed.is_empty() {
            index.forget(&changed);
            let listed = list(&mut index, source, &of_protocol, &root)?;
            index.write(&path)?;
            return Ok(OpenedDataset { index, listed, root });
        }
    }
    let partial = Partial::beside(&folder)?;
    let unpacked = unpack(source, &partial.0)?;
    let mut index = Index::new(mode(source)?);
    let listed = list(&mut index, source, &of_protocol, &unpacked)?;
    index.write(&partial.0.join("index.json"))?;
    if folder.exists() {
        // Complete once, but images are missing now: out of the way in one step, then removed.
        let damaged = Partial(temporary(&folder, "partial"));
        std::fs::rename(&folder, &damaged.0).map_err(Error::io("replace", &folder))?;
    }
    match std::fs::rename(&partial.0, &folder) {
        Ok(()) => {}
        // Without a lock another process may have been faster; what it made is the same.
        Err(_) if lock.is_none() && path.exists() => {}
        Err(e) => return Err(Error::io("make", &folder)(e)),
    }
    file::flush(cache)?;
    Ok(OpenedDataset { index, listed, root })
}

/// The content of the index, if there is one: nothing is checked.
pub(super) fn as_indexed(source: &DatasetFiles, cache: &Path) -> Result<Option<OpenedDataset>> {
    let (key, of_protocol) = keys(source)?;
    let folder = cache.join(&key);
    let root = root(source.manifest, &folder);
    Ok(kept(&folder.join("index.json"), &of_protocol, &root))
}

/// The content of an index for a protocol, unchecked.
fn kept(index: &Path, key: &str, root: &Path) -> Option<OpenedDataset> {
    let index = Index::load(index)?;
    let listed = index.listed(key).cloned()?;
    let root = root.into();
    Some(OpenedDataset { index, listed, root })
}

/// Surveys the images of a dataset unpacked anew: nothing is kept, and no failure ends the survey.
pub(super) fn survey(source: &DatasetFiles, cache: &Path) -> Result<(ProtocolImages, Survey)> {
    std::fs::create_dir_all(cache).map_err(Error::io("make", cache))?;
    let _lock = file::lock(&cache.join("lock"), "unpacks this dataset")?;
    let partial = Partial::beside(&cache.join("survey"))?;
    let root = unpack(source, &partial.0)?;
    let listing = read_labels(source, &root)?;
    Index::new(mode(source)?).survey(source, "", listing, &root)
}

/// The folder that images lie in: the one that the manifest names, else where `folder` has them unpacked.
fn root(manifest: &Manifest, folder: &Path) -> PathBuf {
    match &manifest.directory {
        Some(directory) => manifest.resolve(directory),
        None => folder.join("files"),
    }
}

/// Brings all files into the [root], unless the manifest names it.
fn unpack(source: &DatasetFiles, folder: &Path) -> Result<PathBuf> {
    let manifest = source.manifest;
    let root = root(manifest, folder);
    if manifest.directory.is_some() {
        return Ok(root);
    }
    std::fs::create_dir_all(&root).map_err(Error::io("make", &root))?;
    if let Some(parquet) = source.parquet() {
        if source.form == Form::Hub {
            tracing::info!("unpacking the parquet files of {}", manifest.name);
        }
        layout::parquet::unpack(&source.files, parquet.columns, &root)?;
        return Ok(root);
    }
    for file in source.files.iter().filter(|file| file.is_archive) {
        tracing::info!("unpacking {} of {}", file.name, manifest.name);
        archive::unpack(&file.path, &root)?;
    }
    Ok(root)
}

/// The mode that the parquet files of a dataset, a user's own or the hub's, ask their images to be brought to.
fn mode(source: &DatasetFiles) -> Result<Option<Mode>> {
    let files = source.files.iter().map(|file| file.path.as_path());
    match source.parquet() {
        Some(parquet) => image_mode(files, parquet.columns.image),
        None => Ok(None),
    }
}

fn read_labels(source: &DatasetFiles, root: &Path) -> Result<layout::Listing> {
    layout::read(&Unpacked { source, root }).map_err(|e| within_archives(e, source.manifest, root))
}

/// Reads labels and examines every image that is not known yet.
fn list(index: &mut Index, source: &DatasetFiles, key: &str, root: &Path) -> Result<ProtocolImages> {
    let listing = read_labels(source, root)?;
    let listed = index.add(source, key, listing, root)?;
    listed.check_counts(source)?;
    Ok(listed)
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
            manifest.fail(format!("its archives hold no `{}`", file.display()))
        }
        Error::Labels { path, reason } => Error::Labels {
            path: inside(&path).unwrap_or(path),
            reason,
        },
        other => other,
    }
}

/// Keys of what is unpacked, and of a protocol's classes and sides: first 16 hex digits of hashes over everything that
/// these follow from.
fn keys(source: &DatasetFiles) -> Result<(String, String)> {
    let manifest = source.manifest;
    let (mut files, mut labels) = (Sha256::new(), Sha256::new());
    let add = |hasher: &mut Sha256, kind: &str, value: &str| {
        hasher.update(format!("{kind} {} {value}\n", value.len()));
    };
    add(&mut files, "version", &LAYOUT_VERSION.to_string());
    add(&mut files, "form", &source.form.to_string());
    for file in &source.files {
        let (kind, hash) = file.digest.clone().unwrap_or_default();
        let name = match source.form {
            Form::Hub => &file.name,
            Form::Archive => &file.role,
        };
        let of = if file.is_archive { &mut files } else { &mut labels };
        add(of, name, &format!("{kind} {hash}"));
    }
    let add_parquet = |files: &mut Sha256, labels: &mut Sha256, parquet: ParquetForm| {
        let Columns { image, label } = parquet.columns;
        let (train, val, test) = (parquet.train, parquet.val, parquet.test);
        add(files, "columns", &format!("{image:?} {label:?}"));
        add(labels, "splits", &format!("{train:?} {val:?} {test:?}"));
    };
    if source.form == Form::Hub
        && let Some(parquet) = source.parquet()
    {
        add_parquet(&mut files, &mut labels, parquet);
    }
    if let Some(directory) = &manifest.directory {
        let directory = manifest.resolve(directory);
        let absolute = directory.canonicalize().map_err(Error::io("read", &directory))?;
        add(&mut files, "directory", &absolute.to_string_lossy());
        let mut listed = Vec::new();
        if manifest.layout == Layout::Table {
            // A table may lie in a folder of much else.
            for file in layout::table::listed(manifest, &absolute)? {
                listed.push(stamped(&absolute.join(file))?);
            }
        } else {
            list_files(&absolute, 12, &mut listed)?;
        }
        listed.sort();
        for (path, size, changed) in listed {
            add(&mut files, "file", &format!("{path} {size} {changed}"));
        }
    }
    add(&mut labels, "layout", &format!("{:?}", manifest.layout));
    add(&mut labels, "protocol", &source.protocol.to_string());
    add(&mut labels, "name", &manifest.name);
    add(&mut labels, "holdout", &format!("{:?}", manifest.holdout));
    add(&mut labels, "coop", &format!("{:?}", manifest.coop));
    add(&mut labels, "rename", &format!("{:?}", manifest.rename));
    for id in &manifest.skip {
        add(&mut labels, "skip", id);
    }
    for class in &manifest.skip_classes {
        add(&mut labels, "skip-class", class);
    }
    // Absent from the keys of datasets that have none of these.
    if let Some(form) = &manifest.table {
        add(&mut labels, "table", &format!("{form:?}"));
    }
    if source.form == Form::Archive
        && let Some(parquet) = source.parquet()
    {
        add_parquet(&mut files, &mut labels, parquet);
    }
    if manifest.clean_names {
        add(&mut labels, "clean-names", "true");
    }
    for name in &manifest.class_names {
        add(&mut labels, "class", name);
    }
    if let Some(path) = &manifest.provenance {
        let path = manifest.resolve(path);
        let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        add(&mut labels, "provenance", &hex(&Sha256::digest(bytes)));
    }
    let short = |hasher: Sha256| {
        let mut key = hex(&hasher.finalize());
        key.truncate(16);
        key
    };
    Ok((short(files), short(labels)))
}

/// Path, size and time of change of every file, links followed, down to a depth that ends loops.
fn list_files(folder: &Path, depth: usize, files: &mut Vec<(String, u64, u128)>) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let path = entry.map_err(Error::io("list", folder))?.path();
        // Links that lead nowhere and what may not be looked at are left out where images are listed.
        let Ok(metadata) = std::fs::metadata(&path) else {
            continue;
        };
        if !metadata.is_dir() {
            files.push(stamped(&path)?);
        } else if depth > 1 && std::fs::read_dir(&path).is_ok() {
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
    let changed = changed(&metadata).map_err(Error::io("read", path))?;
    Ok((name, metadata.len(), changed))
}

/// A folder that is removed when it goes out of scope, unless it was renamed.
struct Partial(PathBuf);

impl Partial {
    /// A new folder by a name of its own.
    fn beside(folder: &Path) -> Result<Self> {
        let partial = Self(temporary(folder, "partial"));
        std::fs::create_dir_all(&partial.0).map_err(Error::io("make", &partial.0))?;
        Ok(partial)
    }
}

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
            if !path.is_dir() {
                file::remove_if_present(&path)?;
                continue;
            }
            match std::fs::remove_dir_all(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io("remove", &path)(e)),
                _ => {}
            }
        }
    }
    Ok(())
}
