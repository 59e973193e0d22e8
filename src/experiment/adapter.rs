//! The origin of a trained adapter, written beside it, so that it can be asked again without repeating how it was made.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::{Protocol, Shots};
use crate::data::split::Split;
use crate::error::{Cause, Error, Result};
use crate::fs::file;
use crate::learner::Learner;

const FILE: &str = "kshot.json";

/// The origin of an adapter: `kshot.json` in its folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Version of this form.
    pub schema: u32,
    /// The learner with every setting.
    pub learner: Learner,
    /// Class names in label order.
    pub classes: Vec<String>,
    /// Name of the dataset's manifest.
    pub dataset: String,
    /// Rule by which the shots were drawn.
    pub protocol: Protocol,
    /// Labelled examples per class.
    pub shots: Shots,
    /// Seed of draw and training.
    pub seed: u64,
    /// SHA-256 of the split.
    pub split_sha256: String,
    /// Tells the base model from all others.
    pub base: Option<String>,
    /// True if photographs were turned as their EXIF orientation says.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub exif: bool,
}

fn yes() -> bool {
    true
}

impl Origin {
    /// The version that is written.
    pub const SCHEMA: u32 = 1;

    /// The origin of what a learner on this base has learned from a split.
    ///
    /// # Errors
    /// As [`Split::digest`].
    pub fn of(learner: Learner, split: &Split, base: Option<&str>, exif: bool) -> Result<Self> {
        Ok(Self {
            schema: Self::SCHEMA,
            learner,
            classes: split.classes.clone(),
            dataset: split.dataset.clone(),
            protocol: split.protocol,
            shots: split.shots,
            seed: split.seed,
            split_sha256: split.digest()?,
            base: base.map(str::to_owned),
            exif,
        })
    }

    /// Writes it into an adapter folder.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let json = serde_json::to_string_pretty(self).map_err(|e| malformed(&path, e.to_string()))?;
        std::fs::write(&path, json + "\n").map_err(Error::io("write", &path))
    }

    /// Compares the base that the adapter was trained on with the one at hand, by what tells it from all others.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when they are not the same.
    pub fn check_base(&self, dir: &Path, base: Option<&str>) -> Result<()> {
        match (&self.base, base) {
            (Some(trained), Some(found)) if trained != found => Err(Error::Checkpoint {
                path: dir.join(FILE),
                reason: format!(
                    "was trained on another base: `base` is {}…, the model at hand is {}… (weights, config, tokenizer, \
                     chat template and image processor count)",
                    trained.get(..12).unwrap_or(trained),
                    found.get(..12).unwrap_or(found)
                ),
                remedy: format!(
                    "give the model that it was trained on as `--model`: `{}` then, at the same revision",
                    self.learner.model().unwrap_or(Path::new("")).display()
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Reads it, if the folder has one: an adapter made elsewhere has not.
    ///
    /// # Errors
    /// [`Error::Model`] when it is damaged or of another version.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        let Some(bytes) = file::read_if_present(&path)? else {
            return Ok(None);
        };
        let origin: Self = serde_json::from_slice(&bytes).map_err(|e| malformed(&path, e.to_string()))?;
        if origin.schema != Self::SCHEMA {
            let reason = format!("is of version {}, not {}", origin.schema, Self::SCHEMA);
            return Err(malformed(&path, reason));
        }
        Ok(Some(origin))
    }
}

fn malformed(path: &Path, reason: String) -> Error {
    Error::model(path, reason).because(Cause::Adapter)
}
