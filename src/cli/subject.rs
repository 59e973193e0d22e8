//! The model that a verb is about: `--model`, `--adapter` and `--set`.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::checkpoint::architecture::Architecture;
use crate::checkpoint::{folder, repository};
use crate::error::{Error, Result};
use crate::experiment::adapter::Origin;
use crate::learner::base::Bases;
use crate::learner::{Classifier, Learner};

#[derive(Debug, Args)]
pub(super) struct Subject {
    /// Base model (Qwen3-VL, DINOv2, CLIP or SigLIP): a hub-layout folder, or owner/name of one that `kshot model fetch` got.
    #[arg(long, value_name = "DIR|ID")]
    model: PathBuf,
    /// Folder of a trained adapter; without one a Qwen3-VL answers with its own weights.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Change a setting of the learner: field=value.
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// Turn photographs as their EXIF orientation says [default: as in the adapter's training, else true].
    #[arg(long, value_name = "BOOL")]
    exif: Option<bool>,
}

/// A model that is ready to be asked.
pub(super) struct Ready {
    pub(super) learner: Learner,
    pub(super) classifier: Box<dyn Classifier>,
    /// Tells the base model from all others.
    pub(super) base: Option<String>,
    /// SHA-256 of the adapter's files.
    pub(super) adapter: Option<String>,
}

impl Subject {
    /// Class names that came with the adapter.
    pub(super) fn classes(&self) -> Result<Option<Vec<String>>> {
        Ok(self.origin()?.map(|origin| origin.classes))
    }

    /// True if photographs are turned as their EXIF orientation says.
    pub(super) fn exif(&self) -> Result<bool> {
        match self.exif {
            Some(exif) => Ok(exif),
            None => Ok(self.origin()?.is_none_or(|origin| origin.exif)),
        }
    }

    fn origin(&self) -> Result<Option<Origin>> {
        self.adapter.as_deref().map_or(Ok(None), Origin::read)
    }

    /// The model with its adapter, about to choose among `classes`.
    pub(super) fn ready(&self, home: &Path, classes: &[String]) -> Result<Ready> {
        let learner = match self.origin()? {
            Some(origin) => origin.learner.at(&self.model, &self.set)?,
            None => learner(&self.model, home, &self.set)?,
        };
        if self.adapter.is_none() && !learner.answers_unseen() {
            return Err(Error::Model {
                path: self.model.clone(),
                reason: "has no class names of its own: it answers only with an adapter (`--adapter DIR`)".into(),
            });
        }
        // A verb asks about each image once: nothing is to be kept of it.
        let base = learner.load(&mut Bases::new(home).with_feature_bytes(0))?;
        let mut classifier = base.classifier(classes, 0)?;
        if let Some(adapter) = &self.adapter {
            if let Some(origin) = self.origin()? {
                origin.check_base(adapter, base.fingerprint())?;
            }
            classifier.load(adapter)?;
        }
        Ok(Ready {
            learner,
            classifier,
            base: base.fingerprint().map(str::to_owned),
            adapter: self.adapter.as_deref().map(folder::fingerprint).transpose()?,
        })
    }
}

/// The learner that a model, by folder or by name, is for.
pub(super) fn learner(model: &Path, home: &Path, set: &[String]) -> Result<Learner> {
    let architecture = Architecture::of(&repository::locate(model, home)?)?;
    let method = Learner::method_of(architecture).unwrap_or_default();
    Learner::parse(&method, model, set)
}
