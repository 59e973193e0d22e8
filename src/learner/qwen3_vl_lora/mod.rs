//! A vision-language model that learns, by LoRA, to write the class name. Written against the backend's
//! verbs only, so that it learns the same way wherever the model runs.

mod classifier;
mod cost;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::backend::local::LocalBackend;
use crate::checkpoint::architecture::Architecture;
use crate::config::{Dtype, ExpertLora, Protocol, Shots, Wording};
use crate::error::Result;
use crate::example::{PatchProcessor, Renderer, shrunk};
use crate::learner::Classifier;
use crate::learner::base::{Base, Bases, SharedTower};
use crate::learner::settings::{HyperParameters, LearnerSettings, check_training, defaults, hyper_parameters};
use crate::models::lora::Lora;
use crate::prediction::Reading;
pub use classifier::VlmClassifier;

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

defaults! {
    name: String = "Qwen3-VL LoRA".into();
    targets: Vec<String> =
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"].map(String::from).into();
    rank: usize = 32;
    alpha: f64 = 32.0;
    batch: usize = 32;
    images_per_class: usize = 160;
    images_per_class_of_all: usize = 480;
    warmup: f64 = 0.1;
    clip: f64 = 1.0;
    yes: bool = true;
    longest_side: u32 = 480;
    reading: Reading = Reading::Free;
    readings: Vec<Reading> = vec![Reading::Free, Reading::Trie, Reading::Likelihood];
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

impl LearnerSettings for Qwen3VlLora {
    fn name(&self) -> &str {
        &self.name
    }

    fn model(&self) -> Option<&Path> {
        Some(&self.model)
    }

    fn hyper_parameters(&self) -> HyperParameters {
        // In which order readings are taken changes none of them.
        let sorted = |readings: &[Reading]| {
            let mut readings = readings.to_vec();
            readings.sort_unstable();
            readings.dedup();
            readings
        };
        // `auto` and the type that it stands for are the same, and an identity has the type. Where `images_per_class_of_all`
        // counts it has taken the place of `images_per_class`. A default that came later is no hyper-parameter of before.
        hyper_parameters!(self without name, model, dtype, images_per_class_of_all;
            training: targets, rank, alpha, weight_decay, batch, images_per_class, warmup, clip, flip, checkpointing,
                experts = (!experts.is_default()).then_some(experts), learning_rate = *learning_rate,
                loss = *loss;
            prediction: longest_side, reading, readings = Some(sorted(readings)),
                prompt = (!prompt.is_default()).then_some(prompt);
        )
    }

    fn load(&self, bases: &mut Bases) -> Result<Arc<dyn Base>> {
        let dir = bases.folder(&self.model)?;
        let place = bases.place(Some(&self.model), self.dtype)?;
        let images = bases.images.clone();
        let renderer = bases.once(&(&dir, self.longest_side, self.prompt), || {
            let renderer = Renderer::load(&dir, Some(self.longest_side))?.in_words(self.prompt);
            Ok(renderer.keeping(images))
        })?;
        let feature_bytes = bases.feature_bytes;
        let backend = bases.once(&(&dir, self.checkpointing, place.dtype), || {
            let mut settings = cost::engine_settings(self, &dir, &place)?;
            if let Some(bytes) = feature_bytes {
                settings.feature_bytes = bytes;
            }
            LocalBackend::load(&dir, &place, settings)
        })?;
        Ok(Arc::new(Qwen3VlBase {
            backend,
            renderer,
            config: self.clone(),
        }))
    }

    fn check(&self) -> Result<(), String> {
        let numbers = [
            ("rank", self.rank as f64),
            ("alpha", self.alpha),
            ("batch", self.batch as f64),
            ("images_per_class", self.images_per_class as f64),
            ("clip", self.clip),
            ("longest_side", f64::from(self.longest_side)),
            ("learning_rate", self.learning_rate.unwrap_or(1.0)),
        ];
        check_training(&self.name, &numbers, &self.targets, self.warmup)?;
        if !self.readings.contains(&self.reading) {
            return Err(format!("learner `{}`: reading is not among readings", self.name));
        }
        Ok(())
    }

    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn has_adapter(&self) -> bool {
        true
    }

    fn answers_unseen(&self) -> bool {
        true
    }

    fn has_probabilities(&self) -> bool {
        self.readings.contains(&Reading::Likelihood)
    }

    fn reading(&self) -> Reading {
        self.reading
    }

    fn readings(&self) -> Vec<Reading> {
        self.readings.clone()
    }

    fn images_seen(&self, classes: usize) -> usize {
        self.images_per_class * classes
    }

    fn specialise(&mut self, protocol: Protocol, shots: Shots) {
        if shots == Shots::All {
            self.images_per_class = self.images_per_class_of_all;
        }
        let of_protocol = (protocol == Protocol::Tinker).then_some(Loss::Message);
        let loss = self.loss.or(of_protocol);
        self.loss = loss.filter(|loss| *loss != Loss::Name && shots.any());
    }

    fn refuses(&self, width: u32, height: u32) -> bool {
        let (width, height) = shrunk((width, height), self.longest_side);
        PatchProcessor::refuses(width, height)
    }

    fn architecture() -> Option<Architecture> {
        Some(Architecture::Qwen3Vl)
    }
}

/// A model that writes, on the backend where it runs.
struct Qwen3VlBase {
    backend: Arc<dyn Backend>,
    renderer: Arc<Renderer>,
    config: Qwen3VlLora,
}

impl Qwen3VlBase {
    fn fresh(&self, classes: &[String], seed: u64) -> Result<VlmClassifier> {
        let (backend, renderer) = (self.backend.clone(), self.renderer.clone());
        VlmClassifier::new(backend, renderer, self.config.clone(), classes, seed)
    }
}

impl Base for Qwen3VlBase {
    fn fingerprint(&self) -> Option<&str> {
        Some(self.backend.fingerprint())
    }

    fn backend(&self) -> &'static str {
        self.backend.kind()
    }

    fn classifier(&self, classes: &[String], seed: u64) -> Result<Box<dyn Classifier>> {
        Ok(Box::new(self.fresh(classes, seed)?))
    }

    fn classifier_from(&self, adapter: &Path, classes: &[String], seed: u64) -> Result<Option<Box<dyn Classifier>>> {
        let mut classifier = self.fresh(classes, seed)?;
        classifier.start = Some(adapter.to_path_buf());
        Ok(Some(Box::new(classifier)))
    }

    fn tower(&self) -> Option<SharedTower> {
        let identity = [
            Arc::as_ptr(&self.backend).cast::<()>() as usize,
            Arc::as_ptr(&self.renderer) as usize,
        ];
        let tokens = self.renderer.most_tokens();
        Some(SharedTower {
            identity,
            capacity: tokens.and_then(|tokens| self.backend.feature_capacity(tokens)),
            lookups: self.backend.cache_stats(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
