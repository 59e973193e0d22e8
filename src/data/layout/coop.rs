//! CoOp's split files: `{"train": [["Faces/image_0274.jpg", 0, "face"], …], "val": …, "test": …}`.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use serde::Deserialize;

use super::wrong;
use crate::error::{Error, Result};

/// JSON bytes: the largest real file has 1.9 MB.
const MAX_BYTES: u64 = 256 << 20;

/// A split as CoOp and Dassl write it (Zhou et al. 2022, `datasets/oxford_pets.py`).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Split {
    pub train: Vec<Entry>,
    pub val: Vec<Entry>,
    pub test: Vec<Entry>,
}

/// One image: a triple in the file.
#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    /// Path below the dataset's image folder.
    pub image: String,
    /// Class from 0.
    pub label: u32,
    pub class_name: String,
}

impl Split {
    /// Reads a split file, plain or gzip-compressed.
    pub(super) fn read(path: &Path) -> Result<Self> {
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
    pub(super) fn classes(&self, path: &Path) -> Result<Vec<String>> {
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
}
