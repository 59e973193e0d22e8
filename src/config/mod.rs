//! The words that configs, splits, models and results share.

mod dtype;
mod overrides;
mod protocol;
mod shots;

use serde::{Deserialize, Serialize};

pub use dtype::Dtype;
pub(crate) use overrides::patch;
pub use protocol::Protocol;
pub use shots::Shots;

/// Factors in the adapters of a mixture of experts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExpertLora {
    /// Each expert has factors of its own, as PEFT's `target_parameters`.
    #[default]
    Each,
    /// The factor on the side of the model's width is one for all experts, the other each expert's own; gates and what
    /// they let through have factors of their own. As Tinker has it: for experts of width 768 in a model of width 2048,
    /// 3 · (2048 + 128 · 768) numbers a layer and rank.
    Shared,
}

impl ExpertLora {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A wording of the question, with the start of the answer that belongs to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wording {
    /// "What is the name of the subject in this photo?" – "The subject in this photo is:", that of the Tinker cookbook's recipe.
    #[default]
    Default,
    /// "What does this image show?" – "This image shows:".
    Show,
    /// "Which category does the object in the picture belong to?" – "The category of the object is:".
    Category,
}

impl Wording {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::Default
    }
}

/// Settings that a learner chose inside its shots.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chosen {
    /// Inverse penalty C of `sum of cross-entropies + ‖W‖²/(2C)`.
    pub c: f64,
    /// `cls`, or `cls+mean` with the mean of the patches.
    pub features: String,
    /// Parts of the shots that were held out in turn.
    pub folds: usize,
    /// Share of the held-out images answered correctly.
    pub held_out_top1: f64,
}
