//! Settings of a Qwen3-VL that learns to write class names.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::{Dtype, ExpertLora, Wording};
use crate::models::lora::Lora;
use crate::prediction::Reading;

/// Hyper-parameters of a Qwen3-VL that learns to write class names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Qwen3VlLora {
    /// Label in tables and figures.
    #[serde(default = "name")]
    pub name: String,
    /// Hub-layout folder of the base model.
    pub model: PathBuf,
    /// Linear layers that get an adapter: the ends of their hub names, on a dot boundary, `*` for any one part. In a
    /// mixture of experts `gate_proj`, `up_proj` and `down_proj` are those of all experts.
    #[serde(default = "targets")]
    pub targets: Vec<String>,
    /// Factors of the adapters of a mixture of experts, shared or not.
    #[serde(default, skip_serializing_if = "ExpertLora::is_default")]
    pub experts: ExpertLora,
    /// LoRA rank r.
    #[serde(default = "rank")]
    pub rank: usize,
    /// LoRA alpha; the update is scaled by alpha / r.
    #[serde(default = "alpha")]
    pub alpha: f64,
    /// Peak learning rate; where none is given, `5e-4 · (2000 / D)^0.0775` for a decoder of width D, as the
    /// Tinker cookbook's rule has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Decoupled weight decay of the adapter.
    #[serde(default)]
    pub weight_decay: f64,
    /// Images per optimiser step.
    #[serde(default = "batch")]
    pub batch: usize,
    /// Training images seen per class, whatever k is: the cost is flat in k.
    #[serde(default = "images_per_class")]
    pub images_per_class: usize,
    /// The same at `shots = "all"`.
    #[serde(default = "images_per_class_of_all")]
    pub images_per_class_of_all: usize,
    /// Share of the steps in which the learning rate rises linearly; then cosine to zero.
    #[serde(default = "warmup")]
    pub warmup: f64,
    /// Global gradient norm above which gradients are scaled down.
    #[serde(default = "clip")]
    pub clip: f64,
    /// Mirror half of the training images.
    #[serde(default = "yes")]
    pub flip: bool,
    /// The tokens that bear the loss: `name` where none is given, and `message` under the protocol `tinker`, whose
    /// recipe trains on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
    /// Wording of the question.
    #[serde(default, skip_serializing_if = "Wording::is_default")]
    pub prompt: Wording,
    /// Images are first shrunk until their longest side has so many pixels.
    #[serde(default = "longest_side")]
    pub longest_side: u32,
    /// Run each decoder layer twice and keep only the states between layers: less memory, same gradients.
    #[serde(default)]
    pub checkpointing: bool,
    /// Type of the base's weights, which are frozen: `f32`, `bf16`, `f16`, or `auto`.
    #[serde(default, skip_serializing_if = "Dtype::is_auto")]
    pub dtype: Dtype,
    /// Reading whose accuracy stands in figures and tables.
    #[serde(default = "reading")]
    pub reading: Reading,
    /// Readings to take; `reading` is one of them.
    #[serde(default = "readings")]
    pub readings: Vec<Reading>,
}

/// The text that a model learns to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// The class name and the end token, after the start of the answer that it is given.
    Name,
    /// The whole message of the Tinker cookbook's recipe: the start of the answer, the class name, a line break and
    /// the end token.
    Message,
}

fn name() -> String {
    "Qwen3-VL LoRA".into()
}
fn targets() -> Vec<String> {
    [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ]
    .map(String::from)
    .into()
}
fn rank() -> usize {
    32
}
fn alpha() -> f64 {
    32.0
}
fn batch() -> usize {
    32
}
fn images_per_class() -> usize {
    160
}
fn images_per_class_of_all() -> usize {
    480
}
fn warmup() -> f64 {
    0.1
}
fn clip() -> f64 {
    1.0
}
fn yes() -> bool {
    true
}
fn longest_side() -> u32 {
    480
}
fn reading() -> Reading {
    Reading::Free
}
fn readings() -> Vec<Reading> {
    vec![Reading::Free, Reading::Trie, Reading::Likelihood]
}

impl Qwen3VlLora {
    /// The peak learning rate for a decoder of width `hidden`.
    #[must_use]
    pub fn peak_rate(&self, hidden: usize) -> f64 {
        self.learning_rate
            .unwrap_or_else(|| 5e-4 * (2000.0 / hidden as f64).powf(0.0775))
    }

    /// The tokens that bear the loss.
    #[must_use]
    pub fn loss(&self) -> Loss {
        self.loss.unwrap_or(Loss::Name)
    }
}

impl From<&Qwen3VlLora> for Lora {
    fn from(config: &Qwen3VlLora) -> Self {
        Self {
            targets: config.targets.clone(),
            rank: config.rank,
            alpha: config.alpha,
            experts: config.experts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learner::LearnerSettings as _;

    #[test]
    fn the_rate_follows_the_width_unless_given() {
        let mut learner: Qwen3VlLora = toml::from_str("model = 'm'").unwrap();
        assert!((learner.peak_rate(2000) - 5e-4).abs() < 1e-12);
        assert!(learner.peak_rate(500) > learner.peak_rate(2000));
        learner.learning_rate = Some(0.1);
        assert!((learner.peak_rate(500) - 0.1).abs() < 1e-12);
    }

    #[test]
    fn the_headline_must_be_read() {
        let learner: Qwen3VlLora = toml::from_str("model = 'm'\nreadings = ['trie']").unwrap();
        assert!(learner.check().unwrap_err().contains("readings"));
    }
}
