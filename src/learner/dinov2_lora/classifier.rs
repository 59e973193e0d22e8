//! The classifier of DINOv2 with its head.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::Dinov2Lora;
use super::training::Training;
use crate::data::LabelledImage;
use crate::error::{Error, Result};
use crate::example::model_error;
use crate::learner::classifier::{
    Checkpoints, Classifier, Fit, Interleaved, OnStep, Preprocessor, Sink, View, argmax, row, untrained,
};
use crate::learner::features::{BATCH, Frozen, stacked};
use crate::learner::training::{Plan, train};
use crate::models::dinov2::Dinov2;
use crate::nn::loss::log_softmax;
use crate::nn::{AdamParams, Head};
use crate::prediction::Prediction;

const HEAD_FILE: &str = "head.safetensors";

/// A DINOv2 classifier; untrained until [`Classifier::fit`] or [`Classifier::load`].
pub(super) struct Dinov2Classifier {
    pub base: Arc<Frozen>,
    pub config: Dinov2Lora,
    pub classes: usize,
    pub seed: u64,
    /// Most images of a pass in training: a batch of more takes several.
    pub pass: usize,
    pub trained: Option<(Dinov2, Head)>,
    /// The trained model with its adapter added in, from the first question on.
    pub asked: Option<Dinov2>,
}

impl Dinov2Classifier {
    /// One pass: the evaluation views of images, (B, 3, H, W), to their rows.
    fn answer(&mut self, images: &[LabelledImage], pixels: &Tensor) -> Result<Vec<Prediction>> {
        let (model, head) = self.trained.as_ref().ok_or_else(|| untrained(&self.config.model))?;
        let model = match &mut self.asked {
            Some(asked) => asked,
            none => none.insert(model.merged()?),
        };
        let features = model.features(pixels)?.detach();
        let log_probs = log_softmax(&head.forward(&features)?)?.to_vec2::<f32>()?;
        Ok(log_probs
            .into_iter()
            .zip(images)
            .map(|(log_probs, image)| row(image, argmax(&log_probs), Some(log_probs)))
            .collect())
    }
}

impl Classifier for Dinov2Classifier {
    fn fit(&mut self, shots: &[LabelledImage], keep: Option<&Checkpoints>, on_step: OnStep<'_>) -> Result<Fit> {
        let (base, images) = (&self.base.model, self.config.images_per_class * self.classes);
        let plan = Plan::new(base.fingerprint(), shots.len(), images, self.config.batch, self.seed);
        let mut training = Training::new(&self.base, &self.config, (self.classes, self.pass), shots, &plan)?;
        // Each parameter group has a learning rate of its own, by which this one is multiplied.
        let peak = AdamParams {
            learning_rate: 1.0,
            weight_decay: self.config.weight_decay,
            grad_clip_norm: Some(self.config.clip),
            ..AdamParams::default()
        };
        let fit = train(&plan, &peak, self.config.warmup, &mut training, keep, on_step)?;
        (self.trained, self.asked) = (Some(training.trained()), None);
        Ok(fit)
    }

    fn predict(&mut self, images: &[LabelledImage], sink: Sink<'_>) -> Result<()> {
        for batch in images.chunks(BATCH) {
            let pixels = self.base.pixels(batch)?;
            sink(&self.answer(batch, &pixels)?)?;
        }
        Ok(())
    }

    fn save(&mut self, dir: &Path) -> Result<()> {
        let (model, head) = self.trained.as_ref().ok_or_else(|| untrained(dir))?;
        model.save_adapter(dir)?;
        let file = &dir.join(HEAD_FILE);
        let [weight, bias] = [&head.weight, &head.bias].map(|var| var.as_tensor().clone());
        let tensors = HashMap::from([("weight", weight), ("bias", bias)]);
        candle_core::safetensors::save(&tensors, file).map_err(Error::saving(file))
    }

    fn load(&mut self, dir: &Path) -> Result<()> {
        let model = self.base.model.load_adapter(dir)?;
        let features = 2 * model.hidden_size();
        let own = dir.join(HEAD_FILE);
        let head = match self.base.model.load_classifier(dir, self.classes)? {
            Some((weight, bias)) if !own.exists() => Head::new(&weight, &bias)?,
            _ => load_head(&own, (self.classes, features), &self.base.device)?,
        };
        (self.trained, self.asked) = (Some((model, head)), None);
        Ok(())
    }

    fn interleaved(&mut self) -> Option<&mut dyn Interleaved> {
        Some(self)
    }
}

impl Interleaved for Dinov2Classifier {
    fn preprocessor(&self) -> Arc<dyn Preprocessor> {
        self.base.clone()
    }

    fn batch(&self) -> usize {
        BATCH
    }

    fn predict_views(&mut self, images: &[LabelledImage], views: &[View]) -> Result<Vec<Prediction>> {
        let pixels = stacked(views, self.base.processor(), &self.base.device)?;
        self.answer(images, &pixels)
    }
}

/// Reads a head of these numbers of classes and features.
fn load_head(file: &Path, (classes, features): (usize, usize), device: &Device) -> Result<Head> {
    let tensors = candle_core::safetensors::load(file, device).map_err(|e| model_error(file, e.to_string()))?;
    let get = |name: &str, shape: &[usize]| {
        let tensor = tensors
            .get(name)
            .ok_or_else(|| model_error(file, format!("tensor `{name}` is missing")))?;
        if tensor.dims() != shape {
            let reason = format!("tensor `{name}` has shape {:?}, expected {shape:?}", tensor.dims());
            return Err(model_error(file, reason));
        }
        Ok(tensor)
    };
    Head::new(get("weight", &[classes, features])?, get("bias", &[classes])?)
}
