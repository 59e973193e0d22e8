//! Which model a verb is about: `--model`, `--adapter` and `--set`.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::config::Learner;
use crate::error::{Error, Result};
use crate::experiment::adapter::Origin;
use crate::experiment::base::{Base, Bases};
use crate::method::Classifier;
use crate::models::folder;

#[derive(Debug, Args)]
pub(super) struct Subject {
    /// Hub-layout folder of the base model (Qwen3-VL or DINOv2).
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Folder of a trained adapter; without one a Qwen3-VL answers with its own weights.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Change a setting of the learner: field=value.
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,
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

    fn origin(&self) -> Result<Option<Origin>> {
        self.adapter.as_deref().map_or(Ok(None), Origin::read)
    }

    /// The model with its adapter, about to choose among `classes`.
    pub(super) fn ready(&self, home: &Path, classes: &[String]) -> Result<Ready> {
        let learner = match self.origin()? {
            Some(origin) => origin.learner.at(&self.model, &self.set)?,
            None => learner(&self.model, &self.set)?,
        };
        if self.adapter.is_none() && !learner.answers_unseen() {
            return Err(Error::Model {
                path: self.model.clone(),
                reason: "has no class names of its own: it answers only with an adapter (`--adapter DIR`)".into(),
            });
        }
        // Whoever asks so asks about each image once: nothing is to be kept of it.
        let base: Base = Bases::new(home).with_feature_bytes(0).of(&learner)?;
        let mut classifier = base.classifier(&learner, classes, 0, None)?;
        if let Some(adapter) = &self.adapter {
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

/// The learner that a model folder is for.
pub(super) fn learner(model: &Path, set: &[String]) -> Result<Learner> {
    let path = model.join("config.json");
    let fail = |reason: String| Error::Model {
        path: path.clone(),
        reason,
    };
    let text = std::fs::read(&path).map_err(|e| fail(format!("cannot be read: {e}")))?;
    let config: serde_json::Value = serde_json::from_slice(&text).map_err(|e| fail(format!("is no JSON: {e}")))?;
    let kind = config.get("model_type").and_then(serde_json::Value::as_str);
    let method = match kind {
        Some("qwen3_vl") => "qwen3-vl-lora",
        Some("dinov2" | "dinov2_with_registers") => "dinov2-lora",
        other => {
            return Err(fail(format!(
                "`model_type` is {other:?}: only qwen3_vl and dinov2 are supported"
            )));
        }
    };
    Learner::parse(method, model, set)
}
