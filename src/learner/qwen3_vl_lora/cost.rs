//! Memory and operations of a Qwen3-VL in training and at answers.

use std::path::Path;

use super::Qwen3VlLora;
use crate::cost::fit::{Footprint, bytes, fitting};
use crate::cost::memory::{Demand, Use};
use crate::cost::operations::{ANSWER, PHOTOGRAPH_TOKENS, PROMPT, Pass, Work, of_frozen_features};
use crate::cost::shape::{Kind, Shape};
use crate::data::LabelledImage;
use crate::engine::Settings;
use crate::error::Result;
use crate::example::{PatchProcessor, shrunk};
use crate::learner::classifier::TOGETHER;
use crate::learner::settings::Cost;
use crate::nn::DeviceSpec;

/// Tokens of text around a picture, and of these the longest answers of the datasets we know.
const TEXT: f64 = 52.0;
const LONGEST_ANSWER: f64 = 24.0;
/// Tokens of the tree of class names: more are scored in several passes.
const NAMES: f64 = 512.0;

/// Settings of the engine for this learner on the model of a folder, as there is memory for.
pub(super) fn engine_settings(config: &Qwen3VlLora, folder: &Path, place: &DeviceSpec) -> Result<Settings> {
    let default = Settings {
        checkpointing: config.checkpointing,
        ..Settings::default()
    };
    let (Some(shape), Ok(processor)) = (Shape::read(folder), PatchProcessor::load(folder)) else {
        // What is wrong with the folder is told by those who load it.
        return Ok(default);
    };
    let side = config.longest_side;
    let Ok((height, width)) = processor.size(side, side) else {
        return Ok(default);
    };
    let visual = f64::from(height) * f64::from(width) / (processor.token_side() as f64).powi(2);
    let how = Use {
        lora: config.into(),
        adapters: TOGETHER as f64,
        weight_bytes: bytes(place),
        fused: place.device.is_cpu(),
        fused_adapters: place.device.is_cpu(),
        batch: config.batch as f64,
        micro_batch: default.micro_batch as f64,
        checkpointing: config.checkpointing,
        visual,
        text: TEXT,
        answer: LONGEST_ANSWER,
        names: NAMES,
        pictures: config.batch as f64,
        threads: rayon::current_num_threads() as f64,
    };
    fitting(&shape, &how, default, place, folder)
}

impl Cost for Qwen3VlLora {
    fn work(&self, shape: &Shape, tokens: f64) -> Work {
        let Kind::Writing(model) = shape.kind else {
            return of_frozen_features(shape, tokens);
        };
        let pass = Pass {
            length: PROMPT + tokens + ANSWER,
            answers: ANSWER,
        };
        let forward = model.forward(pass);
        let again = if self.checkpointing { forward } else { 0.0 };
        Work {
            trained: model.train(pass, shape.adapted(&self.into()).active) + again,
            tested: forward * self.readings.len() as f64,
            seen: model.see(tokens),
        }
    }

    fn demand(&self, shape: &Shape, tokens: f64, bytes: f64) -> Demand {
        Footprint {
            lora: Some(self.into()),
            adapters: TOGETHER,
            batch: self.batch,
            checkpointing: self.checkpointing,
        }
        .demand(shape, tokens, bytes)
    }

    fn tokens(&self, folder: Option<&Path>, examples: &[LabelledImage]) -> f64 {
        let Some(processor) = folder.and_then(|folder| PatchProcessor::load(folder).ok()) else {
            return PHOTOGRAPH_TOKENS;
        };
        let tokens = |image: &LabelledImage| {
            let (width, height) = shrunk(image::image_dimensions(&image.path).ok()?, self.longest_side);
            let (height, width) = processor.size(height, width).ok()?;
            Some(f64::from(height) * f64::from(width) / (processor.token_side() as f64).powi(2))
        };
        let counted: Vec<f64> = examples.iter().filter_map(tokens).collect();
        if counted.is_empty() {
            return PHOTOGRAPH_TOKENS;
        }
        counted.iter().sum::<f64>() / counted.len() as f64
    }

    fn encoded(&self, trained: usize, shots: usize, tested: usize) -> Option<usize> {
        let sides = if self.flip { 2 } else { 1 };
        Some(trained.min(sides * shots) + tested)
    }

    fn longest_side(&self) -> Option<u32> {
        Some(self.longest_side)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On this machine, as every test before.
    #[test]
    fn the_micro_model_works_as_ever() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/mini/models/micro-qwen3-vl");
        let config: Qwen3VlLora = toml::from_str("model = 'm'").unwrap();
        assert_eq!(
            engine_settings(&config, &folder, &DeviceSpec::cpu()).unwrap(),
            Settings::default()
        );
    }

    #[test]
    fn an_answer_passes_once_a_reading() {
        let learner: Qwen3VlLora = toml::from_str("model = 'Qwen/Qwen3-VL-2B-Instruct'").unwrap();
        let found = learner.work(&Shape::known("Qwen/Qwen3-VL-2B-Instruct").unwrap(), 165.0);
        assert!((found.tested / 3.0 / 0.57e12 - 1.0).abs() < 0.05, "{found:?}");
    }
}
