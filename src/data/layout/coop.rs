//! CoOp's split files: `{"train": [["Faces/image_0274.jpg", 0, "face"], …], "val": …, "test": …}`.
//!
//! CoOp has its own spelling and, for Caltech-101, its own order of classes: an image's class is compared with the
//! official one by name, in the way in which the two are known to differ, and never by number.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Item, Listing, Unpacked, wrong};
use crate::error::{Error, Result};

/// JSON bytes: the largest real file has 1.9 MB.
const MAX_BYTES: u64 = 256 << 20;

/// A split as CoOp and Dassl write it (Zhou et al. 2022, `datasets/oxford_pets.py`).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Images to draw from.
    pub train: Vec<Entry>,
    /// Images set aside for validation.
    pub val: Vec<Entry>,
    /// Images that are only ever predicted.
    pub test: Vec<Entry>,
}

/// One image: a triple in the file.
#[derive(Debug, Deserialize)]
pub struct Entry {
    /// Path below the dataset's image folder.
    pub image: String,
    /// Class from 0.
    pub label: u32,
    /// As CoOp spells it.
    pub class_name: String,
}

impl Split {
    /// The split file of a dataset: its path, its content and its classes.
    pub(super) fn of(unpacked: &Unpacked) -> Result<(PathBuf, Self, Vec<String>)> {
        let path = unpacked.required("coop-split")?;
        let split = Self::read(&path)?;
        let classes = split.classes(&path)?;
        Ok((path, split, classes))
    }

    /// Reads a split file, plain or gzip-compressed.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Labels`] when it is not in this form.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        let mut json = Vec::new();
        let bytes = if bytes.starts_with(&[0x1f, 0x8b]) {
            let mut gz = flate2::bufread::MultiGzDecoder::new(bytes.as_slice()).take(MAX_BYTES);
            gz.read_to_end(&mut json).map_err(|e| wrong(path, e.to_string()))?;
            json
        } else {
            bytes
        };
        serde_json::from_slice(&bytes).map_err(|e| wrong(path, format!("no CoOp split file: {e}")))
    }

    /// Class names in label order.
    ///
    /// # Errors
    /// [`Error::Labels`] when a label has two names, or none.
    pub fn classes(&self, path: &Path) -> Result<Vec<String>> {
        let mut names: BTreeMap<u32, &str> = BTreeMap::new();
        for entry in self.train.iter().chain(&self.val).chain(&self.test) {
            let name = names.entry(entry.label).or_insert(&entry.class_name);
            if *name != entry.class_name {
                return Err(wrong(
                    path,
                    format!("label {} is both `{name}` and `{}`", entry.label, entry.class_name),
                ));
            }
        }
        for (expected, label) in names.keys().enumerate() {
            if *label as usize != expected {
                return Err(wrong(
                    path,
                    format!("label {expected} has no image, but label {label} has"),
                ));
            }
        }
        Ok(names.into_values().map(str::to_owned).collect())
    }

    /// Its sides, with the image that each entry stands for.
    pub(super) fn listing(self, classes: Vec<String>, mut item: impl FnMut(Entry) -> Result<Item>) -> Result<Listing> {
        let mut side = |entries: Vec<Entry>| entries.into_iter().map(&mut item).collect::<Result<Vec<_>>>();
        Ok(Listing {
            classes,
            pool: side(self.train)?,
            val: side(self.val)?,
            test: side(self.test)?,
        })
    }
}

/// True if two names of a class differ at most in upper and lower case: `Abyssinian` is CoOp's `abyssinian`.
pub(super) fn same_but_for_case(ours: &str, coop: &str) -> bool {
    ours.to_lowercase() == coop.to_lowercase()
}

/// Classes and sides of the split file, ids of this dataset: what the manifest says goes in front, and CoOp's path.
///
/// # Errors
/// [`Error::Labels`] naming an image that this dataset does not have, or has in another class.
pub(super) fn listing(unpacked: &Unpacked, official: &Listing, same_name: fn(&str, &str) -> bool) -> Result<Listing> {
    let (path, split, classes) = Split::of(unpacked)?;
    let prefix = unpacked
        .manifest()
        .coop
        .as_ref()
        .map_or("", |coop| coop.prefix.as_str());
    let known: BTreeMap<&str, u32> = official.items().map(|item| (item.id.as_str(), item.class)).collect();
    // Which official class stands behind each of CoOp's.
    let mut behind: BTreeMap<u32, u32> = BTreeMap::new();
    let item = |entry: Entry| {
        let id = format!("{prefix}{}", entry.image);
        let Some(&class) = known.get(id.as_str()) else {
            return Err(wrong(&path, format!("`{}` is no image of this dataset", entry.image)));
        };
        let ours = official.classes.get(class as usize).map_or("", String::as_str);
        if !same_name(ours, &entry.class_name) || *behind.entry(entry.label).or_insert(class) != class {
            return Err(wrong(
                &path,
                format!(
                    "`{}` is `{}` there, but officially `{ours}`",
                    entry.image, entry.class_name
                ),
            ));
        }
        Ok(Item::new(id, entry.label))
    };
    split.listing(classes, item)
}
