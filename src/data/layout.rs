//! Official forms of datasets: each file of this folder turns unpacked archives and label files into
//! class names, pool and test images.

pub mod caltech101;
pub mod folders;
pub mod oxford_flowers;
pub mod oxford_pets;
pub mod stanford_cars;

mod coop;

use std::path::{Path, PathBuf};

use super::manifest::{Layout, Manifest};
use crate::error::{Error, Result};

/// What the label files say; whether the images are there is checked later, for every layout alike.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Listing {
    /// Class names, in label order.
    pub classes: Vec<String>,
    /// Images that shots may be drawn from.
    pub pool: Vec<Item>,
    /// Images that are only ever predicted.
    pub test: Vec<Item>,
}

/// One labelled image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    /// Path inside the dataset, with `/`.
    pub id: String,
    /// Where the image lies below the root of the unpacked files, if not at `id`.
    pub file: Option<String>,
    /// Index into [`Listing::classes`].
    pub class: u32,
}

impl Item {
    fn new(id: impl Into<String>, class: u32) -> Self {
        Self { id: id.into(), file: None, class }
    }
}

/// A dataset's files, unpacked and ready to be read.
pub(crate) struct Unpacked<'a> {
    pub manifest: &'a Manifest,
    /// Folder that all archives were unpacked into, or the folder that the manifest names.
    pub root: &'a Path,
}

impl Unpacked<'_> {
    /// Path of a label file that stands beside the archives.
    fn label_file(&self, role: &str) -> Option<PathBuf> {
        self.manifest.file(role).map(|file| self.manifest.resolve(&file.path))
    }

    fn required(&self, role: &str) -> Result<PathBuf> {
        self.label_file(role).ok_or_else(|| self.fail(format!("no file has the role `{role}`")))
    }

    /// What does not fit together in this dataset.
    fn fail(&self, reason: String) -> Error {
        Error::Dataset { dataset: self.manifest.name.clone(), reason }
    }
}

/// Reads the labels of a dataset in its layout.
pub(crate) fn read(unpacked: &Unpacked) -> Result<Listing> {
    match unpacked.manifest.layout {
        Layout::OxfordPets => oxford_pets::read(unpacked),
        Layout::StanfordCars => stanford_cars::read(unpacked),
        Layout::OxfordFlowers => oxford_flowers::read(unpacked),
        Layout::Caltech101 => caltech101::read(unpacked),
        Layout::Folders => folders::read(unpacked),
    }
}

/// What is wrong with a label file.
fn wrong(path: &Path, reason: impl Into<String>) -> Error {
    Error::Labels { path: path.into(), reason: reason.into() }
}

/// A one-based label or index that a MATLAB file stores as a double: zero-based, below `end`.
fn zero_based(value: f64, end: usize) -> Option<u32> {
    let whole = value.fract() == 0.0 && value >= 1.0 && value <= end as f64;
    whole.then_some(value as u32 - 1)
}
