//! Learners: a classifier sees k labelled images per class, then says what is in an image.
//!
//! Each learner has a folder of its own with its settings, the way it is loaded, its cost, and the classifier that fits and
//! predicts. The list in this file is all that the rest of the program knows of them by name; `docs/adding-a-learner.md`
//! adds one.

pub mod base;
mod classifier;
pub mod features;
pub mod folds;
mod probe;
pub mod reading;
mod settings;
mod training;

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use toml::Table;

use crate::checkpoint::architecture::Architecture;
use crate::config::{Protocol, Shots, patch};
use crate::error::{Error, Result};
pub use classifier::{Checkpoints, Classifier, Fit, Interleaved, OnStep, Preprocessor, Prompted, Sink, Step, View};
pub(crate) use classifier::{TOGETHER, argmax, row};
pub use settings::{Cost, HyperParameters, LearnerSettings};

/// Makes modules and [`Learner`] of the list of learners.
macro_rules! learners {
    ($($folder:ident: $($settings:ident)|+;)+) => {
        $(pub mod $folder;)+

        /// One way of learning from k shots, with its settings; it derefs to [`LearnerSettings`].
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "method", rename_all = "kebab-case")]
        pub enum Learner {
            $($(
                #[doc = concat!("See [`", stringify!($folder), "`].")]
                $settings($folder::$settings),
            )+)+
        }

        impl Learner {
            /// The tag `method` in configs and records.
            #[must_use]
            pub fn method(&self) -> String {
                kebab_case(match self {
                    $($(Self::$settings(_) => stringify!($settings),)+)+
                })
            }

            /// One learner of every method with a base model, its settings the defaults.
            pub(crate) fn defaults() -> Vec<Self> {
                let methods = [$($(stringify!($settings),)+)+].map(kebab_case);
                let parsed = methods.iter().map(|method| Self::parse(method, Path::new("model"), &[]));
                parsed.filter_map(Result::ok).collect()
            }

            /// The method by which a model of this architecture is trained and asked where nothing else is said.
            #[must_use]
            pub fn method_of(architecture: Architecture) -> Option<String> {
                let known = [$($(
                    (stringify!($settings), <$folder::$settings as LearnerSettings>::architecture()),
                )+)+];
                let found = known.into_iter().find(|(_, own)| *own == Some(architecture));
                found.map(|(method, _)| kebab_case(method))
            }
        }

        impl std::ops::Deref for Learner {
            type Target = dyn LearnerSettings;

            fn deref(&self) -> &Self::Target {
                match self {
                    $($(Self::$settings(settings) => settings,)+)+
                }
            }
        }

        impl std::ops::DerefMut for Learner {
            fn deref_mut(&mut self) -> &mut Self::Target {
                match self {
                    $($(Self::$settings(settings) => settings,)+)+
                }
            }
        }
    };
}

// One line a learner: its folder, and the type of its settings, whose name in kebab case is the tag `method`. `cargo fmt` does
// not follow modules out of a macro: `cargo fmt -- src/learner/*/mod.rs` formats them.
learners! {
    dinov2_lora: Dinov2Lora;
    qwen3_vl_lora: Qwen3VlLora;
    nearest_mean: NearestMean;
    knn: Knn;
    logistic_regression: LogisticRegression;
    pixels: Pixels;
    zero_shot: ClipZeroShot | SiglipZeroShot;
}

/// `Dinov2Lora` → `dinov2-lora`, as serde writes it.
fn kebab_case(name: &str) -> String {
    let mut text = String::new();
    for (place, letter) in name.char_indices() {
        if letter.is_ascii_uppercase() && place > 0 {
            text.push('-');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

impl Learner {
    /// One learner by its method and model, other settings by `field=value`.
    ///
    /// # Errors
    /// [`Error::Config`] names the override or the field.
    pub fn parse(method: &str, model: &Path, overrides: &[String]) -> Result<Self> {
        let mut table = Table::new();
        table.insert("method".into(), method.into());
        Self::patched(table, model, overrides)
    }

    /// The same learner on a model that lies elsewhere, with settings changed by `field=value`.
    ///
    /// # Errors
    /// As [`Learner::parse`].
    pub fn at(&self, model: &Path, overrides: &[String]) -> Result<Self> {
        let table = Table::try_from(self).map_err(|e| Error::Config {
            origin: self.name().to_owned(),
            reason: e.to_string(),
        })?;
        Self::patched(table, model, overrides)
    }

    fn patched(mut table: Table, model: &Path, overrides: &[String]) -> Result<Self> {
        let config = |origin: String| move |reason: String| Error::Config { origin, reason };
        table.insert("model".into(), model.display().to_string().into());
        for text in overrides {
            patch(&mut table, text).map_err(config(format!("override `{text}`")))?;
        }
        let origin = "settings of the learner".to_owned();
        let learner: Self = table
            .try_into()
            .map_err(|e: toml::de::Error| e.to_string().trim_end().to_owned())
            .map_err(config(origin.clone()))?;
        learner.check().map_err(config(origin))?;
        Ok(learner)
    }

    /// The learner as it trains under a protocol on so many shots: at `all` it sees `images_per_class_of_all` images
    /// per class, and under `tinker` the loss is on the whole message unless it says otherwise. What is the same to
    /// a learner has one form: a loss on the name, or one where nothing is trained, is none.
    #[must_use]
    pub fn under(&self, protocol: Protocol, shots: Shots) -> Self {
        let mut learner = self.clone();
        learner.specialise(protocol, shots);
        learner
    }

    /// The settings that may change numbers of a cell with so many shots, as its identity and its record have them: without
    /// label and paths, and without those of the training where there is none.
    #[must_use]
    pub fn identity(&self, shots: Shots) -> Value {
        let HyperParameters {
            training,
            prediction: mut fields,
        } = self.hyper_parameters();
        fields.insert("method".into(), self.method().into());
        if shots.any() {
            fields.extend(training);
        }
        Value::Object(fields)
    }
}

// The worked example of `docs/adding-a-learner.md` is compiled and tested as any learner.
#[cfg(test)]
#[path = "../../docs/examples/nearest_median/mod.rs"]
pub mod nearest_median_example;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_method_is_the_tag_in_a_config() {
        for method in ["dinov2-lora", "qwen3-vl-lora", "nearest-mean", "siglip-zero-shot"] {
            let learner = Learner::parse(method, Path::new("m"), &[]).unwrap();
            assert_eq!(
                (learner.method(), &json!(learner)["method"]),
                (method.to_owned(), &json!(method))
            );
        }
        assert_eq!(Learner::method_of(Architecture::Clip).unwrap(), "clip-zero-shot");
    }

    #[test]
    fn the_order_of_readings_is_no_hyper_parameter() {
        let with = |readings: &str| {
            let set = [format!("readings={readings}")];
            let learner = Learner::parse("qwen3-vl-lora", Path::new("m"), &set).unwrap();
            learner.identity(Shots::K(1))
        };
        let default = with("['free', 'trie', 'likelihood']");
        assert_eq!(default["readings"], json!(["free", "trie", "likelihood"]));
        assert_eq!(with("['likelihood', 'free', 'trie', 'free']"), default);
        assert_ne!(with("['free', 'trie']"), default);
    }

    #[test]
    fn settings_of_the_training_are_none_of_a_cell_without_one() {
        let with = |set: &str, shots| {
            let learner = Learner::parse("qwen3-vl-lora", Path::new("m"), &[set.into()]).unwrap();
            learner.identity(Shots::K(shots))
        };
        for training in [
            "rank=8",
            "learning_rate=1e-3",
            "images_per_class=9",
            "flip=false",
            "checkpointing=true",
        ] {
            assert_eq!(with(training, 0), with("rank=32", 0), "{training}");
            assert_ne!(with(training, 1), with("rank=32", 1), "{training}");
        }
        assert_eq!(with("dtype='bf16'", 1), with("dtype='auto'", 1));
        for answering in [
            "longest_side=64",
            "prompt='show'",
            "readings=['free']",
            "reading='trie'",
        ] {
            assert_ne!(with(answering, 0), with("rank=32", 0), "{answering}");
        }
    }
}
