//! The forms in which one dataset can be had: official archives, or parquet files of a hub repository.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::manifest::Expect;

/// In which form a dataset came to this machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Archives and label files in the official layout, or a folder on this machine.
    #[default]
    Archive,
    /// Parquet files of a Hugging Face dataset repository.
    Hub,
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Archive => "archive",
            Self::Hub => "hub",
        })
    }
}

/// A Hugging Face dataset repository that holds images and labels as parquet files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hub {
    /// `owner/name`.
    pub repo: String,
    /// Commit, branch or tag; what it stood for is kept with the files.
    pub revision: String,
    /// Column of images: a struct of `bytes` and `path`.
    #[serde(default = "image_column")]
    pub image: String,
    /// Column of labels: integers whose names are in the files' metadata.
    #[serde(default = "label_column")]
    pub label: String,
    /// Splits that shots are drawn from: the first part of a file's name, `train-00000-of-00001.parquet`.
    #[serde(default = "train_split")]
    pub train: Vec<String>,
    /// Validation splits: part of the pool under `clean`, left alone under `tinker`.
    #[serde(default)]
    pub val: Vec<String>,
    /// Splits that are only ever predicted.
    #[serde(default = "test_split")]
    pub test: Vec<String>,
    /// The files with their sizes and hashes where these are known; else the repository is asked.
    #[serde(default, rename = "shard")]
    pub shards: Vec<Shard>,
    /// What must be found, validation images counted with the pool.
    pub expect: Option<Expect>,
}

fn image_column() -> String {
    "image".into()
}
fn label_column() -> String {
    "label".into()
}
fn train_split() -> Vec<String> {
    vec!["train".into()]
}
fn test_split() -> Vec<String> {
    vec!["test".into()]
}

/// Parquet files on this machine that hold images and labels.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnParquet {
    /// Column of images: a struct of `bytes` and `path`, or bytes.
    pub image: String,
    /// Column of labels.
    pub label: String,
    /// Splits that shots are drawn from.
    pub train: Vec<String>,
    /// Validation splits: part of the pool.
    #[serde(default)]
    pub val: Vec<String>,
    /// Splits that are only ever predicted.
    #[serde(default)]
    pub test: Vec<String>,
    /// The files, in the order of their rows.
    #[serde(default, rename = "shard")]
    pub shards: Vec<OwnShard>,
}

/// One parquet file on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnShard {
    /// Its place, absolute or relative to the manifest.
    pub path: PathBuf,
    /// Which split its rows belong to.
    pub split: String,
    /// Bytes.
    pub size: u64,
    /// Lower-case hex SHA-256.
    pub sha256: String,
}

/// One parquet file of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// Path inside the repository, e.g. `data/train-00000-of-00003.parquet`.
    pub path: String,
    /// Bytes.
    pub size: Option<u64>,
    /// Lower-case hex SHA-256.
    pub sha256: Option<String>,
}

/// How CoOp's files name images: `./data/<root>/<path>` in index files, `<path>` in split files, where this
/// dataset's id is `<prefix><path>`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoopPaths {
    /// Image folder as CoOp lays it out, e.g. `oxford_pets/images`.
    pub root: String,
    /// What an id has in front of CoOp's path, e.g. `images/`.
    #[serde(default)]
    pub prefix: String,
}

/// The way in which the rows of a table name images and labels; `[table]` in a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TableForm {
    /// Column of paths; without it, the first of the usual names.
    pub path_column: Option<String>,
    /// Column of class names; without it, the first of the usual names.
    pub label_column: Option<String>,
    /// Column of splits; without it, the first of the usual names.
    pub split_column: Option<String>,
    /// Text in front of each path.
    pub prefix: String,
    /// Text behind each path: the ending of the files' names.
    pub suffix: String,
    /// The first folder of each path says its split.
    pub split_by_folder: bool,
}
