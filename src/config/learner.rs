//! Who learns, with every hyper-parameter. A default stands beside its field and nowhere else.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Dtype;
use super::Protocol;
use super::shots::Shots;
use super::vlm::{Loss, Qwen3VlLora};
use super::zero_shot::ZeroShot;
use crate::prediction::Reading;

/// One way of learning from k shots, with its hyper-parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case")]
pub enum Learner {
    /// DINOv2 with LoRA in its linear layers and a classification head.
    Dinov2Lora(Dinov2Lora),
    /// Qwen3-VL with LoRA in its linear layers; it writes the class name.
    Qwen3VlLora(Qwen3VlLora),
    /// Frozen DINOv2 features, nearest class mean by cosine.
    NearestMean(NearestMean),
    /// Frozen DINOv2 features, k nearest neighbours by cosine.
    Knn(Knn),
    /// Frozen DINOv2 features, multinomial logistic regression.
    LogisticRegression(LogisticRegression),
    /// Nearest neighbour on raw pixels: the floor every learner has to clear.
    Pixels(Pixels),
    /// CLIP with published templates, without examples only.
    ClipZeroShot(ZeroShot),
    /// SigLIP with published templates, without examples only.
    SiglipZeroShot(ZeroShot),
}

/// Hyper-parameters of [`Learner::Dinov2Lora`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dinov2Lora {
    /// Label in tables and figures.
    #[serde(default = "dinov2_lora_name")]
    pub name: String,
    /// Hub-layout folder of the base model.
    pub model: PathBuf,
    /// Linear layers that get an adapter: the ends of their hub names, on a dot boundary.
    #[serde(default = "dinov2_targets")]
    pub targets: Vec<String>,
    /// LoRA rank r.
    #[serde(default = "rank")]
    pub rank: usize,
    /// LoRA alpha; the update is scaled by alpha / r.
    #[serde(default = "alpha")]
    pub alpha: f64,
    /// Peak learning rate of the adapter.
    #[serde(default = "adapter_lr")]
    pub adapter_lr: f64,
    /// Peak learning rate of the head.
    #[serde(default = "head_lr")]
    pub head_lr: f64,
    /// Decoupled weight decay on adapter and head weights.
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
    /// Smallest share of the image area that a random crop keeps; 1 turns cropping off.
    #[serde(default = "min_crop")]
    pub min_crop: f64,
    /// Mirror half of the training images.
    #[serde(default = "yes")]
    pub flip: bool,
    /// Type of the base's weights, which are frozen: `f32`, `bf16`, `f16`, or `auto`.
    #[serde(default, skip_serializing_if = "Dtype::is_auto")]
    pub dtype: Dtype,
}

fn dinov2_lora_name() -> String {
    "DINOv2 LoRA".into()
}
fn dinov2_targets() -> Vec<String> {
    [
        "query",
        "key",
        "value",
        "output.dense",
        "fc1",
        "fc2",
        "weights_in",
        "weights_out",
    ]
    .map(String::from)
    .into()
}
fn rank() -> usize {
    16
}
fn alpha() -> f64 {
    16.0
}
// Both rates and the crop were chosen on held-out designers inside the pools of the four mini emoji sets
// (k = 1 and 8, two seeds, eleven settings), never on a test image.
fn adapter_lr() -> f64 {
    1e-4
}
fn head_lr() -> f64 {
    3e-3
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
fn min_crop() -> f64 {
    0.8
}
fn yes() -> bool {
    true
}

/// Settings of [`Learner::NearestMean`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NearestMean {
    /// Label in tables and figures.
    #[serde(default = "nearest_mean_name")]
    pub name: String,
    /// Hub-layout folder of the model.
    pub model: PathBuf,
}

fn nearest_mean_name() -> String {
    "DINOv2 nearest mean".into()
}

/// Settings of [`Learner::Knn`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knn {
    /// Label in tables and figures.
    #[serde(default = "knn_name")]
    pub name: String,
    /// Hub-layout folder of the model.
    pub model: PathBuf,
    /// Neighbours that vote, at most the number of shots.
    #[serde(default = "neighbours")]
    pub neighbours: usize,
    /// Temperature of the similarity-weighted vote, as in DINOv2's k-NN evaluation.
    #[serde(default = "knn_temperature")]
    pub temperature: f64,
}

fn knn_name() -> String {
    "DINOv2 k-NN".into()
}
fn neighbours() -> usize {
    10
}
fn knn_temperature() -> f64 {
    0.07
}

/// Settings of [`Learner::LogisticRegression`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogisticRegression {
    /// Label in tables and figures.
    #[serde(default = "logistic_name")]
    pub name: String,
    /// Hub-layout folder of the model.
    pub model: PathBuf,
    /// L2 penalty λ on the weights of `mean cross-entropy + λ/2·‖W‖²`, features of unit length.
    #[serde(default = "l2")]
    pub l2: f64,
    /// Choose penalty and features inside the shots, over the grid of DINOv2's official evaluation. It takes four
    /// independent images of every class; with fewer, `l2` holds, on [CLS; mean patch].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub grid: bool,
}

/// What a learner chose inside its shots.
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

fn logistic_name() -> String {
    "DINOv2 logistic regression".into()
}
fn l2() -> f64 {
    1e-3
}

/// Settings of [`Learner::Pixels`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pixels {
    /// Label in tables and figures.
    #[serde(default = "pixels_name")]
    pub name: String,
    /// Side of the square to which images are shrunk, in pixels.
    #[serde(default = "pixel_side")]
    pub side: u32,
}

fn pixels_name() -> String {
    "raw pixels 1-NN".into()
}
fn pixel_side() -> u32 {
    24
}

impl Learner {
    /// Label in tables, figures and the cell key; unique in a sweep.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Dinov2Lora(l) => &l.name,
            Self::Qwen3VlLora(l) => &l.name,
            Self::NearestMean(l) => &l.name,
            Self::Knn(l) => &l.name,
            Self::LogisticRegression(l) => &l.name,
            Self::Pixels(l) => &l.name,
            Self::ClipZeroShot(l) => l.name.as_deref().unwrap_or("CLIP zero-shot"),
            Self::SiglipZeroShot(l) => l.name.as_deref().unwrap_or("SigLIP zero-shot"),
        }
    }

    /// Folder of the base model, if the learner has one.
    #[must_use]
    pub fn model(&self) -> Option<&Path> {
        match self {
            Self::Dinov2Lora(l) => Some(&l.model),
            Self::Qwen3VlLora(l) => Some(&l.model),
            Self::NearestMean(l) => Some(&l.model),
            Self::Knn(l) => Some(&l.model),
            Self::LogisticRegression(l) => Some(&l.model),
            Self::ClipZeroShot(l) | Self::SiglipZeroShot(l) => Some(&l.model),
            Self::Pixels(_) => None,
        }
    }

    /// Ranges that the types do not express.
    pub(super) fn check(&self) -> Result<(), String> {
        let positive = |what: &str, value: f64| {
            let fine = value.is_finite() && value > 0.0;
            if fine {
                Ok(())
            } else {
                Err(format!("learner `{}`: {what} must be above 0", self.name()))
            }
        };
        match self {
            Self::Dinov2Lora(l) => {
                positive("rank", l.rank as f64)?;
                positive("alpha", l.alpha)?;
                positive("batch", l.batch as f64)?;
                positive("images_per_class", l.images_per_class as f64)?;
                positive("images_per_class_of_all", l.images_per_class_of_all as f64)?;
                positive("clip", l.clip)?;
                positive("min_crop", l.min_crop)?;
                if l.targets.is_empty() {
                    return Err(format!("learner `{}`: targets is empty", l.name));
                }
                if !(0.0..=1.0).contains(&l.warmup) {
                    return Err(format!("learner `{}`: warmup is a share of the steps, 0 to 1", l.name));
                }
                Ok(())
            }
            Self::Qwen3VlLora(l) => l.check(),
            Self::Knn(l) => {
                positive("neighbours", l.neighbours as f64)?;
                positive("temperature", l.temperature)
            }
            Self::LogisticRegression(l) => positive("l2", l.l2),
            Self::Pixels(l) => positive("side", f64::from(l.side)),
            Self::ClipZeroShot(l) | Self::SiglipZeroShot(l) => l.check(self.name()),
            Self::NearestMean(_) => Ok(()),
        }
    }

    /// Type of the base's weights.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::Dinov2Lora(config) => config.dtype,
            Self::Qwen3VlLora(config) => config.dtype,
            _ => Dtype::Auto,
        }
    }

    /// Whether the learner trains weights that can be kept as an adapter folder.
    #[must_use]
    pub fn has_adapter(&self) -> bool {
        matches!(self, Self::Dinov2Lora(_) | Self::Qwen3VlLora(_))
    }

    /// The reading of its answers that stands in figures and tables.
    #[must_use]
    pub fn reading(&self) -> Reading {
        match self {
            Self::Qwen3VlLora(l) => l.reading,
            _ => Reading::Likelihood,
        }
    }

    /// Training images that pass through a model for a dataset of `classes` classes, repeats counted; 0 for a
    /// learner that takes no optimiser steps.
    #[must_use]
    pub fn images_seen(&self, classes: usize) -> usize {
        match self {
            Self::Dinov2Lora(l) => l.images_per_class * classes,
            Self::Qwen3VlLora(l) => l.images_per_class * classes,
            _ => 0,
        }
    }

    /// The learner as it trains under a protocol on so many shots: at `all` it sees `images_per_class_of_all` images
    /// per class, and under `tinker` the loss is on the whole message unless it says otherwise. What is the same to
    /// a learner has one form: a loss on the name, or one where nothing is trained, is none.
    #[must_use]
    pub fn under(&self, protocol: Protocol, shots: Shots) -> Self {
        let mut learner = self.clone();
        if shots == Shots::All {
            match &mut learner {
                Self::Dinov2Lora(l) => l.images_per_class = l.images_per_class_of_all,
                Self::Qwen3VlLora(l) => l.images_per_class = l.images_per_class_of_all,
                _ => {}
            }
        }
        if let Self::Qwen3VlLora(l) = &mut learner {
            let of_protocol = (protocol == Protocol::Tinker).then_some(Loss::Message);
            l.loss = l.loss.or(of_protocol).filter(|loss| *loss != Loss::Name && shots.any());
        }
        learner
    }

    /// Whether the learner can answer without having seen a labelled example.
    #[must_use]
    pub fn answers_unseen(&self) -> bool {
        matches!(self, Self::Qwen3VlLora(_)) || !self.learns()
    }

    /// Whether its answers come with a probability for every class.
    #[must_use]
    pub fn has_probabilities(&self) -> bool {
        match self {
            Self::Qwen3VlLora(l) => l.readings.contains(&Reading::Likelihood),
            Self::NearestMean(_) | Self::Knn(_) | Self::Pixels(_) => false,
            _ => true,
        }
    }

    /// Whether labelled examples change its answers; one that does not learn has cells without shots only.
    #[must_use]
    pub fn learns(&self) -> bool {
        !matches!(self, Self::ClipZeroShot(_) | Self::SiglipZeroShot(_))
    }

    /// Readings that are taken.
    #[must_use]
    pub fn readings(&self) -> Vec<Reading> {
        match self {
            Self::Qwen3VlLora(l) => l.readings.clone(),
            _ => vec![Reading::Likelihood],
        }
    }
}
