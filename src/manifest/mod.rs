//! `datasets/*.toml`: what a dataset is made of, how it is laid out, and what must be found in it.

mod check;
mod form;
mod need;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
pub use crate::manifest::form::{CoopPaths, Form, Hub, OwnParquet, OwnShard, Shard, TableForm};

/// One dataset as described by its TOML file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name: the file's stem.
    pub name: String,
    /// One line for people.
    pub title: String,
    /// How archives and labels are arranged.
    pub layout: Layout,
    /// Licence of images and labels.
    pub licence: String,
    /// Whom to cite.
    pub citation: String,
    /// Page of its makers.
    pub homepage: Option<String>,
    /// Whether the stand-in models met these concepts in pre-training.
    pub regime: Option<Regime>,
    /// Small stand-in: its numbers say nothing about the real dataset.
    #[serde(default)]
    pub micro: bool,
    /// CSV `id,class,concept,family,drawing,role` with a row for every image, relative to the manifest.
    pub provenance: Option<PathBuf>,
    /// Known quirks, for people.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Ids of images known to be bad: left out and counted.
    #[serde(default)]
    pub skip: Vec<String>,
    /// Class names in label order: where the label files hold numbers only (Oxford Flowers), and elsewhere to check
    /// and to order those that a source gives.
    #[serde(default)]
    pub class_names: Vec<String>,
    /// Layouts `folders` and `table` only: an existing folder that the images lie in, absolute or relative to
    /// the manifest, in place of an archive.
    pub directory: Option<PathBuf>,
    /// Class names as people write them, by the name that folders or label files have; others stay as they are.
    #[serde(default)]
    pub rename: BTreeMap<String, String>,
    /// Classes to do without, by the name that folders or label files have.
    #[serde(default)]
    pub skip_classes: Vec<String>,
    /// Parquet only: class names are brought into the form that `kshot data import` gives to names of folders.
    #[serde(default)]
    pub clean_names: bool,
    /// Share of each class that is kept for the test where the images come without a split.
    pub holdout: Option<f64>,
    /// The same dataset as parquet files of a Hugging Face repository.
    pub hub: Option<Hub>,
    /// Layout `table` only: columns, and how paths become files.
    pub table: Option<TableForm>,
    /// Layout `parquet` only: files on this machine with images in them.
    pub parquet: Option<OwnParquet>,
    /// Which form is taken where a protocol allows both.
    #[serde(default)]
    pub prefer: Form,
    /// How CoOp's split and index files name the images.
    pub coop: Option<CoopPaths>,
    /// Archives and label files.
    #[serde(default, rename = "file")]
    pub files: Vec<SourceFile>,
    /// What must be found.
    pub expect: Option<Expect>,
    /// Folder of the manifest: what relative paths are relative to.
    #[serde(skip)]
    pub folder: PathBuf,
    /// Where files without a `path` were downloaded to.
    #[serde(skip)]
    pub downloads: PathBuf,
}

/// How archives and labels are arranged: one per official form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// Two tar.gz: `images/` and `annotations/{trainval,test}.txt`.
    OxfordPets,
    /// `cars_train/`, `cars_test/` and a devkit of `.mat` struct arrays.
    StanfordCars,
    /// `jpg/`, `imagelabels.mat`, `setid.mat`.
    OxfordFlowers,
    /// A zip with a nested tar.gz, split by a CoOp file.
    Caltech101,
    /// `train/<class>/*` and `test/<class>/*`, or `<class>/*` of which a share is held out.
    Folders,
    /// CSV, JSON lines or Parquet with a column of paths, one of labels and perhaps one of splits.
    Table,
    /// Parquet files with the images themselves and their labels.
    Parquet,
}

/// Whether the concepts of a micro dataset were met in the pre-training of the stand-in models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Regime {
    /// Concepts never seen.
    Novel,
    /// Concepts seen, in other drawings than those of the test side.
    Known,
}

impl std::fmt::Display for Regime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Novel => "novel",
            Self::Known => "known",
        })
    }
}

/// One archive or label file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// What it is for; each layout names its own.
    pub role: String,
    /// Its official name.
    pub name: String,
    /// Where it lies, relative to the manifest; without it the file is downloaded.
    pub path: Option<PathBuf>,
    /// Where it can be had, in order of preference.
    #[serde(default)]
    pub urls: Vec<String>,
    /// Where it was once: nothing answers there any more.
    #[serde(default)]
    pub dead_urls: Vec<String>,
    /// Bytes.
    pub size: u64,
    /// Lower-case hex SHA-256.
    pub sha256: Option<String>,
    /// Lower-case hex MD5; checked only where no SHA-256 is known.
    pub md5: Option<String>,
}

impl SourceFile {
    /// The strongest hash known: its name and its value.
    pub(crate) fn digest(&self) -> Option<(&'static str, &str)> {
        match (&self.sha256, &self.md5) {
            (Some(hash), _) => Some(("sha256", hash)),
            (None, Some(hash)) => Some(("md5", hash)),
            (None, None) => None,
        }
    }
}

/// Counts that must be found, after skipped images were left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// Number of classes.
    pub classes: usize,
    /// Images that shots may be drawn from.
    pub pool: usize,
    /// Images that are only ever predicted.
    pub test: usize,
    /// Nobody has counted them in this source: other numbers of images are told, not refused.
    #[serde(default)]
    pub unverified: bool,
}

impl Manifest {
    /// Reads and checks one manifest file.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Manifest`] naming the field that is wrong.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        let fail = |reason: String| Error::Manifest {
            path: path.into(),
            reason,
        };
        let mut manifest: Self = toml::from_str(&text).map_err(|e| fail(e.to_string()))?;
        manifest.folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        manifest.check(path).map_err(fail)?;
        Ok(manifest)
    }

    /// The file with a role, if the manifest has one.
    pub(crate) fn file(&self, role: &str) -> Option<&SourceFile> {
        self.files.iter().find(|file| file.role == role)
    }

    /// Where a file lies on this machine, or would lie.
    pub(crate) fn place(&self, file: &SourceFile) -> PathBuf {
        match &file.path {
            Some(path) => self.resolve(path),
            None => self.downloads.join(&file.name),
        }
    }

    /// A path of the manifest, made usable.
    pub(crate) fn resolve(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }
}

/// Whether a dataset may have this name: it is the stem of a file, and part of ids and folders.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(is_plain) {
        return Err(format!(
            "name `{name}` may hold only ASCII letters, digits, `-`, `_` and `.`, and not begin with `.`"
        ));
    }
    Ok(())
}

/// Every manifest of a datasets folder, sorted by name.
///
/// # Errors
/// [`Error::Io`] when the folder cannot be read, [`Error::Manifest`] when one file is wrong.
pub fn list(datasets: &Path) -> Result<Vec<Manifest>> {
    names(datasets)?
        .iter()
        .map(|name| Manifest::read(&file_of(datasets, name)))
        .collect()
}

/// The manifest of one dataset.
///
/// # Errors
/// [`Error::UnknownDataset`] with the names that exist, or as [`Manifest::read`].
pub fn load(datasets: &Path, name: &str) -> Result<Manifest> {
    let known = names(datasets)?;
    if known.iter().any(|k| k == name) {
        Manifest::read(&file_of(datasets, name))
    } else {
        Err(Error::UnknownDataset {
            name: name.into(),
            known,
        })
    }
}

fn file_of(datasets: &Path, name: &str) -> PathBuf {
    datasets.join(format!("{name}.toml"))
}

/// Names of the manifests in a folder, sorted.
fn names(datasets: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(datasets).map_err(Error::io("list", datasets))? {
        let path = entry.map_err(Error::io("list", datasets))?.path();
        if path.extension().is_some_and(|e| e == "toml")
            && let Some(stem) = path.file_stem().and_then(|s| s.to_str())
        {
            names.push(stem.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) const PETS: &str = r#"
name = "pets"
title = "Pets"
layout = "oxford-pets"
licence = "none"
citation = "nobody"
regime = "novel"
micro = true
[[file]]
role = "images"
name = "images.tar.gz"
path = "mini/images.tar.gz"
size = 3
md5 = "5c4f3ee8e5d25df40f4fd59a7f44e54c"
[[file]]
role = "annotations"
name = "annotations.tar.gz"
path = "mini/annotations.tar.gz"
size = 4
sha256 = "52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91"
[expect]
classes = 2
pool = 3
test = 4
"#;

    pub(crate) fn read(text: &str) -> Result<Manifest> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("pets.toml"), text).unwrap();
        load(folder.path(), "pets")
    }

    #[test]
    fn a_manifest_is_read_with_its_paths_resolved() {
        let manifest = read(PETS).unwrap();
        assert_eq!(manifest.layout, Layout::OxfordPets);
        assert_eq!(manifest.regime, Some(Regime::Novel));
        assert!(manifest.micro && manifest.skip.is_empty());
        assert_eq!(manifest.file("images").unwrap().digest().unwrap().0, "md5");
        assert_eq!(manifest.file("annotations").unwrap().digest().unwrap().0, "sha256");
        assert!(manifest.place(&manifest.files[0]).ends_with("mini/images.tar.gz"));
        assert_eq!(
            manifest.expect,
            Some(Expect {
                classes: 2,
                pool: 3,
                test: 4,
                unverified: false
            })
        );
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b", "a"] {
            std::fs::write(folder.path().join(format!("{name}.toml")), "").unwrap();
        }
        let Err(Error::UnknownDataset { known, .. }) = load(folder.path(), "c") else {
            panic!()
        };
        assert_eq!(known, ["a", "b"]);
    }
}
