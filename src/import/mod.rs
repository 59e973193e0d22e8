//! A user's own images become a dataset: a folder of folders, a table of paths and labels, parquet files with images, or
//! a repository of the Hugging Face hub is looked at, and a manifest is written. From there on it is a dataset like the
//! others.

mod folder;
mod parquet;
mod table;
mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest as _, Sha256};
use written::to_toml;

use crate::data::Dataset;
use crate::data::layout::Item;
use crate::data::layout::names::{NAMED, Side, listed};
use crate::data::layout::table::ROLES;
use crate::data::overlap::{NEAR, count_pairs, hashes};
use crate::error::{Error, Result};
use crate::formats::image::decode;
use crate::fs::file::first_bytes;
use crate::fs::hash::hex;
use crate::manifest::{Layout, Manifest, ManifestFolders, NoNewFile, OwnParquet, SourceFile, TableForm};

pub use parquet::{Named, name_hub};

/// Share of each class that is kept for the test where the images come without a split; stands in the manifest.
pub const HOLDOUT: f64 = 0.3;

/// Options that a user gives for an import.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Column of paths, or of images in parquet files.
    pub path_column: Option<String>,
    /// Column of class names.
    pub label_column: Option<String>,
    /// Column of splits.
    pub split_column: Option<String>,
    /// File of class names: lines in label order, or a JSON list or object by label.
    pub names: Option<PathBuf>,
    /// Configuration of a hub repository that has several.
    pub configuration: Option<String>,
}

impl ImportOptions {
    /// A table with the columns that are asked for.
    fn table_form(&self) -> TableForm {
        TableForm {
            path_column: self.path_column.clone(),
            label_column: self.label_column.clone(),
            split_column: self.split_column.clone(),
            ..TableForm::default()
        }
    }
}

/// The error of an import from `origin`.
fn refused(origin: &str, reason: impl Into<String>, remedy: impl Into<String>) -> Error {
    Error::Import {
        origin: origin.into(),
        reason: reason.into(),
        remedy: remedy.into(),
    }
}

/// A number of images in words.
fn images(count: usize) -> String {
    match count {
        1 => "1 image".into(),
        count => format!("{count} images"),
    }
}

/// Images with their labels, looked at from outside: nothing was decoded or written yet.
#[derive(Debug, Default)]
pub struct Discovered {
    name: String,
    origin: String,
    layout: Layout,
    /// Absolute.
    directory: PathBuf,
    /// Tables, with the side of each that is for one.
    tables: Vec<(PathBuf, Option<Side>)>,
    form: TableForm,
    parquet: Option<OwnParquet>,
    /// Rows of the parquet files.
    rows: u64,
    /// Class names are numbers that nobody gave names to.
    numbered: bool,
    /// Class names as the folders or the table have them, in label order.
    labels: Vec<String>,
    /// Class names by label, where they differ.
    rename: BTreeMap<String, String>,
    learned: Vec<Item>,
    /// `None`: without a split.
    test: Option<Vec<Item>>,
    /// Images that are listed and not there.
    missing: Vec<(String, String)>,
    ignored: Vec<String>,
    left_out: Vec<(String, String)>,
    notes: Vec<String>,
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
    /// Classes with too few images, each with the reason: they stand under `skip_classes`.
    pub small_classes: Vec<(String, String)>,
    /// Share of each class that is kept for the test, where the images came without a split.
    pub holdout: Option<f64>,
    /// Images on both sides.
    pub twins: SharedImages,
}

/// Looks at a folder, table or parquet file that is to become the dataset `name` of the manifests in `datasets`.
///
/// # Errors
/// [`Error::Import`] when the name cannot be one, the files have another form or two class names become one;
/// [`Error::Exists`] when there is such a manifest; [`Error::Labels`] naming the row of a table; [`Error::Io`].
pub fn discover(
    path: &Path,
    name: &str,
    datasets: impl Into<ManifestFolders>,
    asked: &ImportOptions,
) -> Result<Discovered> {
    let origin = path.display().to_string();
    free_name(&origin, name, &datasets.into())?;
    let path = path.canonicalize().map_err(Error::io("read", path))?;
    let mut found = if path.is_dir() {
        folder::discover(&path, &origin, asked)?
    } else {
        file(&path, &origin, asked)?
    };
    found.name = name.into();
    found.origin = origin;
    let given = asked.names.as_deref().map(written::read).transpose()?;
    let renamed = written::renamed(&found.labels, given.as_ref(), found.parquet.is_none());
    let (rename, numbered) = renamed.map_err(|reason| {
        let remedy = if given.is_some() {
            "the file of `--names` has a line for each label from 0, or is a JSON object by label"
        } else {
            "rename one of the folders or labels: a model is asked to write the name"
        };
        found.fail(reason, remedy)
    })?;
    found.rename = rename;
    found.numbered = (found.numbered || numbered) && given.is_none();
    Ok(found)
}

/// The file of a new manifest of this name.
fn free_name(origin: &str, name: &str, datasets: &ManifestFolders) -> Result<PathBuf> {
    datasets.new_file(name).map_err(|reason| match reason {
        NoNewFile::Exists(path) => Error::Exists { path },
        NoNewFile::Named(reason) => refused(origin, reason, "give another `--name`"),
    })
}

fn file(path: &Path, origin: &str, asked: &ImportOptions) -> Result<Discovered> {
    let (head, _) = first_bytes(path, 4)?;
    if head.starts_with(b"PK\x03\x04") || head.starts_with(&[0x1f, 0x8b]) {
        return Err(refused(origin, "it is an archive", "unpack it and name the folder"));
    }
    if head.starts_with(b"PAR1") && parquet::has_images(path)? {
        return parquet::discover(&[path.to_path_buf()], origin, asked);
    }
    let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
    table::discover(&[(path.to_path_buf(), None)], &folder, origin, asked)
}

impl Discovered {
    /// Number of images.
    #[must_use]
    pub fn images(&self) -> usize {
        self.items()
            .count()
            .max(usize::try_from(self.rows).unwrap_or(usize::MAX))
    }

    /// Files that are no images, and folders beside `train` and `test`: left out.
    #[must_use]
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// Files, folders and rows that cannot be taken, each with the reason.
    #[must_use]
    pub fn left_out(&self) -> &[(String, String)] {
        &self.left_out
    }

    /// Notes on the images, a line each.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.notes.clone();
        if self.numbered {
            notes.push(
                "class names are numbers, of which no model knows what they stand for: `--names FILE` gives names"
                    .into(),
            );
        }
        notes
    }

    fn items(&self) -> impl Iterator<Item = &Item> {
        self.learned.iter().chain(self.test.iter().flatten())
    }

    fn fail(&self, reason: impl Into<String>, remedy: &str) -> Error {
        refused(&self.origin, reason, remedy)
    }

    /// Decodes every image, writes the manifest into `datasets` and the index into `cache`. Images that cannot be
    /// read are put under the manifest's `skip`, classes that have too few under `skip_classes`.
    ///
    /// # Errors
    /// [`Error::Import`] when fewer than two classes have enough images; [`Error::Exists`]; [`Error::Io`]. No manifest
    /// is written then.
    pub fn adopt(self, datasets: impl Into<ManifestFolders>, cache: &Path) -> Result<Imported> {
        let datasets = &datasets.into();
        let path = free_name(&self.origin, &self.name, datasets)?;
        let mut unreadable = self.missing.clone();
        unreadable.sort();
        let mut small_classes = self.small_classes(&unreadable)?;
        self.write(&path, &unreadable, &small_classes)?;
        let mut opened = crate::data::open(&self.name, datasets, cache);
        // Only when one is broken are the others looked at twice.
        if let (Err(Error::Image { .. } | Error::Io { .. }), None) = (&opened, &self.parquet) {
            std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            unreadable.extend(self.unreadable(&unreadable)?);
            unreadable.sort();
            small_classes = self.small_classes(&unreadable)?;
            self.write(&path, &unreadable, &small_classes)?;
            opened = crate::data::open(&self.name, datasets, cache);
        }
        match opened {
            Ok(dataset) => Ok(Imported {
                twins: SharedImages::of(&dataset),
                dataset,
                manifest: path,
                unreadable,
                small_classes,
                holdout: self.holdout(),
                rename: self.rename,
            }),
            Err(error) => {
                // The first error is the one to report.
                drop(std::fs::remove_file(&path));
                Err(self.of_parquet(error))
            }
        }
    }

    /// The error of a user's parquet files, without a manifest that is gone.
    fn of_parquet(&self, error: Error) -> Error {
        match (error, &self.parquet) {
            (Error::Dataset { reason, .. }, Some(_)) => self.fail(
                reason,
                "each class needs images to learn from and images to test on, with bytes and labels",
            ),
            (error, _) => error,
        }
    }

    fn holdout(&self) -> Option<f64> {
        let without_test = match &self.parquet {
            Some(parquet) => parquet.test.is_empty(),
            None => self.test.is_none(),
        };
        without_test.then_some(HOLDOUT)
    }

    /// Images that cannot be read or that the decoder refuses, with the reasons; but for those known already.
    fn unreadable(&self, known: &[(String, String)]) -> Result<Vec<(String, String)>> {
        let is_known = |item: &&Item| known.binary_search_by(|(id, _)| id.cmp(&item.id)).is_ok();
        let items: Vec<&Item> = self.items().filter(|item| !is_known(item)).collect();
        let look = |item: &&Item| -> Result<Option<(String, String)>> {
            let path = self.directory.join(item.file.as_deref().unwrap_or(&item.id));
            let reason = match std::fs::read(&path) {
                Err(e) => e.to_string(),
                Ok(bytes) => match decode(&bytes, &item.id) {
                    Err(Error::Image { reason, .. }) => reason,
                    other => return other.map(|_| None),
                },
            };
            Ok(Some((item.id.clone(), reason)))
        };
        let found: Result<Vec<_>> = items.par_iter().map(look).collect();
        Ok(found?.into_iter().flatten().collect())
    }

    /// Classes without an image on each side, each with what it has. `unreadable` is sorted.
    fn small_classes(&self, unreadable: &[(String, String)]) -> Result<Vec<(String, String)>> {
        // What is in parquet files is known once they are unpacked.
        if self.parquet.is_some() {
            return Ok(Vec::new());
        }
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
        if self.labels.len() < 2 {
            let reason = format!("`{}` is its only class", self.labels.concat());
            return Err(self.fail(reason, "name the folder above the class folders"));
        }
        let learned = count(&self.learned);
        let tested = self.test.as_deref().map(count);
        let mut small = Vec::new();
        for (class, label) in self.labels.iter().enumerate() {
            let at = |counts: &[usize]| counts.get(class).copied().unwrap_or_default();
            let reason = match (at(&learned), tested.as_deref().map(at)) {
                (count @ ..2, None) => format!("{}, two are the least", images(count)),
                (0, Some(_)) => "no image to learn from".into(),
                (_, Some(0)) => "no image to test on".into(),
                _ => continue,
            };
            small.push((label.clone(), reason));
        }
        if self.labels.len() - small.len() < 2 {
            let names = small.iter().map(|(label, reason)| format!("{label} ({reason})"));
            let names = listed(&names.collect::<Vec<_>>());
            return Err(self.fail(
                format!("fewer than two classes have enough images: {names}"),
                "give them more images that can be read",
            ));
        }
        Ok(small)
    }

    fn write(&self, path: &Path, unreadable: &[(String, String)], small_classes: &[(String, String)]) -> Result<()> {
        if self.directory.to_str().is_none() {
            return Err(self.fail("its path is not UTF-8", "move it to a folder with a plain name"));
        }
        let tables = self.tables.iter().map(|(path, side)| table_file(path, *side));
        let stem = Path::new(&self.origin).file_name().and_then(|name| name.to_str());
        let is_small = |label: &str| small_classes.iter().any(|(small, _)| small == label);
        // An image of a class that is left out stands in no list.
        let is_kept = |item: &&Item| !self.labels.get(item.class as usize).is_some_and(|l| is_small(l));
        let kept: BTreeSet<&str> = self.items().filter(is_kept).map(|item| item.id.as_str()).collect();
        let mut skip = unreadable.to_vec();
        skip.retain(|(id, _)| kept.contains(id.as_str()));
        let mut rename = self.rename.clone();
        rename.retain(|from, _| !is_small(from));
        let manifest = Manifest {
            name: self.name.clone(),
            title: format!("Own images: {}", stem.unwrap_or(&self.name)),
            licence: "not stated".into(),
            citation: "none".into(),
            layout: self.layout,
            directory: self.parquet.is_none().then(|| self.directory.clone()),
            files: tables.collect::<Result<_>>()?,
            table: Some(self.form.clone()),
            parquet: self.parquet.clone(),
            holdout: self.holdout(),
            clean_names: self.parquet.is_some(),
            rename,
            ..Manifest::default()
        };
        write_new(path, &to_toml(&manifest, &skip, small_classes))
    }
}

/// Writes a manifest where none is.
/// Writes a file that is not there yet, and makes its folder.
fn write_new(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(Error::io("make folder", folder))?;
    }
    let mut file = File::create_new(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => Error::Exists { path: path.into() },
        _ => Error::io("write", path)(e),
    })?;
    file.write_all(text.as_bytes()).map_err(|e| {
        drop(std::fs::remove_file(path));
        Error::io("write", path)(e)
    })
}

fn table_file(path: &Path, side: Option<Side>) -> Result<SourceFile> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let role = ROLES.iter().find(|(_, of_role)| *of_role == side);
    Ok(SourceFile {
        role: role.map_or("table", |(role, _)| role).into(),
        name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        path: Some(path.into()),
        size: bytes.len() as u64,
        sha256: Some(hex(&Sha256::digest(&bytes))),
        ..SourceFile::default()
    })
}

/// Pairs of hashes that are compared: more would take minutes.
const COMPARED: usize = 4_000_000_000;

/// A pool image and a test image.
type Pair = (String, String);

/// Images that are to learn from and to be tested on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SharedImages {
    /// The same bytes: id in the pool, id in the test.
    pub same: Vec<Pair>,
    /// Number of other pairs that look alike (difference hashes within [`NEAR`] bits); `None` where there are too many
    /// images to compare each with each.
    pub alike: Option<usize>,
    /// The first of those.
    pub first_alike: Vec<Pair>,
}

impl SharedImages {
    fn of(dataset: &Dataset) -> Self {
        let mut by_hash: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for image in &dataset.pool {
            by_hash.entry(&image.sha256).or_default().push(&image.id);
        }
        let mut same = Vec::new();
        for image in &dataset.test {
            for twin in by_hash.get(image.sha256.as_str()).into_iter().flatten() {
                same.push(((*twin).to_owned(), image.id.clone()));
            }
        }
        same.sort();
        if dataset.pool.len().saturating_mul(dataset.test.len()) > COMPARED {
            return Self {
                same,
                ..Self::default()
            };
        }
        let (count, first) = count_pairs(&hashes(&dataset.pool), &hashes(&dataset.test), NEAR, NAMED + same.len());
        let named = first.iter().filter_map(|pair| {
            let (pool, test) = (dataset.pool.get(pair.pool)?, dataset.test.get(pair.test)?);
            Some((pool.id.clone(), test.id.clone()))
        });
        let others = named.filter(|pair| same.binary_search(pair).is_err());
        Self {
            alike: Some(count.saturating_sub(same.len())),
            first_alike: others.take(NAMED).collect(),
            same,
        }
    }
}
