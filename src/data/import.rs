//! A user's own images become a dataset: a folder of folders, a table of paths and labels, or a repository of the
//! Hugging Face hub is looked at, and a manifest is written. From there on it is a dataset like the others.

mod hub;
mod names;
mod written;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use super::layout::Item;
use super::layout::folders::Tree;
use super::layout::table::{self, Side};
use super::manifest::{self, Layout};
use super::{Dataset, hex};
use crate::error::{Error, Result};
pub use hub::{Named, name_hub};
use written::{TableFile, Written};

/// Share of each class that is kept for the test where the images come without a split; stands in the manifest.
pub const HOLDOUT: f64 = 0.3;
/// Names in a message before the rest is counted only.
const NAMED: usize = 20;

/// Images with their labels, looked at from outside: nothing was decoded or written yet.
#[derive(Debug)]
pub struct Found {
    name: String,
    origin: String,
    layout: Layout,
    /// Absolute.
    directory: PathBuf,
    table: Option<PathBuf>,
    /// Class names as the folders or the table have them, in label order.
    labels: Vec<String>,
    /// Class names by label, where they differ.
    rename: BTreeMap<String, String>,
    learned: Vec<Item>,
    /// `None`: without a split.
    test: Option<Vec<Item>>,
    ignored: Vec<String>,
}

/// A dataset that was made of a user's images.
#[derive(Debug)]
pub struct Imported {
    /// The dataset, checked and indexed.
    pub dataset: Dataset,
    /// Its manifest.
    pub manifest: PathBuf,
    /// Class names by label, where they were changed.
    pub rename: BTreeMap<String, String>,
    /// Ids of images that cannot be read, each with what the decoder said: they stand under `skip`.
    pub unreadable: Vec<(String, String)>,
    /// Share of each class that is kept for the test, where the images came without a split.
    pub holdout: Option<f64>,
}

/// Looks at a folder or table that is to become the dataset `name` of the manifests in `datasets`.
///
/// # Errors
/// [`Error::Import`] when the name cannot be one, the files have another form or two class names become one;
/// [`Error::Exists`] when there is such a manifest; [`Error::Labels`] naming the row of a table; [`Error::Io`].
pub fn look(path: &Path, name: &str, datasets: &Path) -> Result<Found> {
    let origin = path.display().to_string();
    free_name(&origin, name, datasets)?;
    let path = path.canonicalize().map_err(Error::io("read", path))?;
    let found = if path.is_dir() {
        folder(path, origin)?
    } else {
        of_table(path, origin)?
    };
    let rename = names::cleaned(&found.labels).map_err(|reason| {
        found.fail(
            reason,
            "rename one of the folders or labels: a model is asked to write the name".into(),
        )
    })?;
    Ok(Found {
        name: name.into(),
        rename,
        ..found
    })
}

/// Whether a manifest of this name can be written.
fn free_name(origin: &str, name: &str, datasets: &Path) -> Result<PathBuf> {
    manifest::check_name(name).map_err(|reason| Error::Import {
        origin: origin.into(),
        reason,
        remedy: "give another `--name`".into(),
    })?;
    let manifest = datasets.join(format!("{name}.toml"));
    if manifest.exists() {
        return Err(Error::Exists { path: manifest });
    }
    Ok(manifest)
}

fn folder(directory: PathBuf, origin: String) -> Result<Found> {
    let fail = |reason: String| Error::Import {
        origin: origin.clone(),
        reason,
        remedy: "arrange the images as `<class>/*`, or as `train/<class>/*` and `test/<class>/*`, or name a CSV or \
                 Parquet file with the columns `path` and `label`"
            .into(),
    };
    let tree = Tree::read(&directory, &fail)?;
    Ok(Found {
        name: String::new(),
        layout: Layout::Folders,
        directory,
        table: None,
        labels: tree.classes,
        rename: BTreeMap::new(),
        learned: tree.learned,
        test: tree.test,
        ignored: tree.ignored,
        origin,
    })
}

fn of_table(path: PathBuf, origin: String) -> Result<Found> {
    let mut head = Vec::new();
    let file = File::open(&path).map_err(Error::io("read", &path))?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, 4), &mut head).map_err(Error::io("read", &path))?;
    if head.starts_with(b"PK\x03\x04") || head.starts_with(&[0x1f, 0x8b]) {
        return Err(Error::Import {
            origin,
            reason: "it is an archive".into(),
            remedy: "unpack it and name the folder".into(),
        });
    }
    let (labels, items) = table::items(table::rows(&path)?);
    let is_split = items.iter().any(|(_, side)| side.is_some());
    let (test, learned): (Vec<_>, Vec<_>) = items.into_iter().partition(|(_, side)| *side == Some(Side::Test));
    let only = |items: Vec<(Item, _)>| items.into_iter().map(|(item, _)| item).collect::<Vec<_>>();
    let directory = path.parent().map(Path::to_path_buf).unwrap_or_default();
    let found = Found {
        name: String::new(),
        origin,
        layout: Layout::Table,
        table: Some(path),
        labels,
        rename: BTreeMap::new(),
        learned: only(learned),
        test: is_split.then(|| only(test)),
        ignored: Vec::new(),
        directory,
    };
    let missing: Vec<&str> = found
        .items()
        .filter(|item| !found.directory.join(&item.id).is_file())
        .map(|item| item.id.as_str())
        .collect();
    if missing.is_empty() {
        return Ok(found);
    }
    let reason = format!("{} of its images are not there: {}", missing.len(), listed(&missing));
    Err(found.fail(reason, "paths are relative to the table's own folder".into()))
}

impl Found {
    /// Number of images.
    #[must_use]
    pub fn images(&self) -> usize {
        self.items().count()
    }

    /// Files that are no images, and folders beside `train` and `test`: left out.
    #[must_use]
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    fn items(&self) -> impl Iterator<Item = &Item> {
        self.learned.iter().chain(self.test.iter().flatten())
    }

    fn fail(&self, reason: String, remedy: String) -> Error {
        Error::Import {
            origin: self.origin.clone(),
            reason,
            remedy,
        }
    }

    /// Decodes every image, writes the manifest into `datasets` and the index into `cache`. Images that cannot be
    /// read are put under the manifest's `skip`.
    ///
    /// # Errors
    /// [`Error::Import`] naming classes with too few images; [`Error::Exists`]; [`Error::Io`]. No manifest is
    /// written then.
    pub fn adopt(self, datasets: &Path, cache: &Path) -> Result<Imported> {
        let path = free_name(&self.origin, &self.name, datasets)?;
        let mut unreadable = Vec::new();
        self.check_counts(&unreadable)?;
        self.write(&path, &unreadable)?;
        let mut opened = super::open(&self.name, datasets, cache);
        // Only when one is broken are the others looked at twice.
        if let Err(Error::Image { .. }) = opened {
            std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            unreadable = self.unreadable()?;
            self.check_counts(&unreadable)?;
            self.write(&path, &unreadable)?;
            opened = super::open(&self.name, datasets, cache);
        }
        match opened {
            Ok(dataset) => Ok(Imported {
                dataset,
                manifest: path,
                unreadable,
                holdout: self.holdout(),
                rename: self.rename,
            }),
            Err(error) => {
                // The first error is the one to report.
                drop(std::fs::remove_file(&path));
                Err(error)
            }
        }
    }

    fn holdout(&self) -> Option<f64> {
        self.test.is_none().then_some(HOLDOUT)
    }

    /// Images that the decoder refuses, with its reasons.
    fn unreadable(&self) -> Result<Vec<(String, String)>> {
        let items: Vec<&Item> = self.items().collect();
        let look = |item: &&Item| -> Result<Option<(String, String)>> {
            let path = self.directory.join(item.file.as_deref().unwrap_or(&item.id));
            let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
            match super::image::decode(&bytes, &item.id) {
                Err(Error::Image { reason, .. }) => Ok(Some((item.id.clone(), reason))),
                other => other.map(|_| None),
            }
        };
        let found: Result<Vec<_>> = items.par_iter().map(look).collect();
        let mut found: Vec<_> = found?.into_iter().flatten().collect();
        found.sort();
        Ok(found)
    }

    /// Each class needs an image on each side.
    fn check_counts(&self, unreadable: &[(String, String)]) -> Result<()> {
        let is_read = |item: &&Item| unreadable.binary_search_by(|(id, _)| id.cmp(&item.id)).is_err();
        let count = |items: &[Item]| {
            let mut counts = vec![0_usize; self.labels.len()];
            for item in items.iter().filter(is_read) {
                if let Some(count) = counts.get_mut(item.class as usize) {
                    *count += 1;
                }
            }
            counts
        };
        let few = |counts: Vec<usize>, least: usize| -> Vec<String> {
            let classes = self.labels.iter().zip(counts);
            let few = classes.filter(|(_, count)| *count < least);
            few.map(|(label, count)| format!("{label} ({count})")).collect()
        };
        let told = |few: Vec<String>, what: &str| -> Result<()> {
            if few.is_empty() {
                return Ok(());
            }
            let names: Vec<&str> = few.iter().map(String::as_str).collect();
            let reason = format!("classes with too few {what}: {}", listed(&names));
            Err(self.fail(
                reason,
                "give them more images that can be read, or take them out".into(),
            ))
        };
        if self.labels.len() < 2 {
            let remedy = "name the folder above the class folders".into();
            return Err(self.fail(format!("`{}` is its only class", self.labels.concat()), remedy));
        }
        match &self.test {
            None => told(few(count(&self.learned), 2), "images, two are the least"),
            Some(test) => {
                told(few(count(&self.learned), 1), "training images, one is the least")?;
                told(few(count(test), 1), "test images, one is the least")
            }
        }
    }

    fn write(&self, path: &Path, unreadable: &[(String, String)]) -> Result<()> {
        let directory = self.directory.to_str().ok_or_else(|| {
            self.fail(
                "its path is not UTF-8".into(),
                "move it to a folder with a plain name".into(),
            )
        })?;
        let table = self.table.as_deref().map(table_file).transpose()?;
        let stem = Path::new(&self.origin).file_name().and_then(|name| name.to_str());
        let text = Written {
            name: &self.name,
            title: &format!("Own images: {}", stem.unwrap_or(&self.name)),
            licence: "not stated",
            layout: self.layout,
            directory: Some(directory),
            table: table.as_ref(),
            holdout: self.holdout(),
            skip: unreadable,
            rename: self
                .rename
                .iter()
                .map(|(from, to)| (from.as_str(), to.as_str()))
                .collect(),
            hub: None,
        }
        .to_toml();
        write_new(path, &text)
    }
}

/// Writes a manifest where none is.
fn write_new(path: &Path, text: &str) -> Result<()> {
    let mut file = File::create_new(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => Error::Exists { path: path.into() },
        _ => Error::io("write", path)(e),
    })?;
    file.write_all(text.as_bytes()).map_err(|e| {
        drop(std::fs::remove_file(path));
        Error::io("write", path)(e)
    })
}

fn table_file(path: &Path) -> Result<TableFile> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    Ok(TableFile {
        name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        path: path.to_string_lossy().into_owned(),
        size: bytes.len() as u64,
        sha256: hex(&Sha256::digest(&bytes)),
    })
}

/// The first names, and how many there are more.
fn listed(names: &[&str]) -> String {
    let more = names.len().saturating_sub(NAMED);
    let text = names.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    if more > 0 {
        format!("{text} and {more} more")
    } else {
        text
    }
}
