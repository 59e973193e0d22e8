//! One training of DINOv2: its steps, and its weights and optimiser on disk.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Tensor, Var};
use image::RgbImage;
use rayon::prelude::*;

use super::decoded::Decoded;
use super::{Dinov2Classifier, head};
use crate::data::LabelledImage;
use crate::error::{Error, Result};
use crate::method::features::stack;
use crate::method::order::Plan;
use crate::method::training::Steps;
use crate::models::dinov2::Dinov2;
use crate::nn::head::Head;
use crate::nn::loss::cross_entropy;
use crate::nn::optim::{AdamW, Group, Moments, clip_grad_norm};
use crate::nn::schedule::warmup_cosine;
use crate::seed::rng;

/// AdamW's moment decay rates and epsilon, the same for every dataset (DESIGN: start values).
const BETAS: (f64, f64) = (0.9, 0.95);
const EPSILON: f64 = 1e-8;
/// Weights and moments in the folder of a kept state.
const STATE: &str = "training.safetensors";

/// A model with its head in training.
pub(super) struct Training<'a> {
    classifier: &'a Dinov2Classifier,
    model: Dinov2,
    head: Head,
    /// What is trained, by name, in the order of the optimiser.
    named: Vec<(String, Var)>,
    vars: Vec<Var>,
    optimiser: AdamW,
    shots: Decoded<'a>,
    plan: &'a Plan,
    /// Steps in which the learning rate rises.
    warmup: usize,
}

impl<'a> Training<'a> {
    /// Fresh adapters; the head is still to come, from class means or from a kept state.
    pub(super) fn new(classifier: &'a Dinov2Classifier, shots: &'a [LabelledImage], plan: &'a Plan) -> Result<Self> {
        let (config, base) = (&classifier.config, &classifier.base);
        let model = base
            .model()
            .with_lora(&config.into(), &mut rng(classifier.seed, "lora"))?;
        let head = Head::zeros(classifier.classes, 2 * model.hidden_size(), base.device())?;
        let adapter = model.trainable();
        let group = |vars: Vec<Var>, lr: f64, weight_decay: f64| Group { vars, lr, weight_decay };
        let groups = vec![
            group(
                adapter.iter().map(|(_, var)| var.clone()).collect(),
                config.adapter_lr,
                config.weight_decay,
            ),
            group(vec![head.weight().clone()], config.head_lr, config.weight_decay),
            group(vec![head.bias().clone()], config.head_lr, 0.0),
        ];
        let named: Vec<(String, Var)> = adapter.into_iter().chain(head.trainable()).collect();
        Ok(Self {
            classifier,
            vars: named.iter().map(|(_, var)| var.clone()).collect(),
            named,
            model,
            head,
            optimiser: AdamW::new(groups, BETAS.0, BETAS.1, EPSILON)?,
            shots: Decoded::new(shots),
            plan,
            warmup: (config.warmup * plan.steps() as f64).round() as usize,
        })
    }

    /// What was trained, and how many numbers that are.
    pub(super) fn trained(self) -> ((Dinov2, Head), u64) {
        let numbers = self.vars.iter().map(|var| var.elem_count() as u64).sum();
        ((self.model, self.head), numbers)
    }

    /// Training views of one batch: (B, 3, H, W). `drawn` counts views since the start, so that each
    /// view has a generator of its own and threads cannot change what is drawn.
    fn views(&self, images: &[&RgbImage], drawn: usize) -> Result<Tensor> {
        let (config, base) = (&self.classifier.config, &self.classifier.base);
        let processor = base.processor();
        let views: Vec<Vec<f32>> = images
            .par_iter()
            .enumerate()
            .map(|(i, image)| {
                let mut rng = rng(self.classifier.seed, &format!("augment/{}", drawn + i));
                processor.augmented(image, config.min_crop, config.flip, &mut rng)
            })
            .collect();
        stack(&views, processor.size(), base.device())
    }
}

impl Steps for Training<'_> {
    fn begin(&mut self) -> Result<()> {
        let (base, shots) = (&self.classifier.base, self.shots.shots());
        let labels: Vec<u32> = shots.iter().map(|shot| shot.class).collect();
        let start = head::from_class_means(&base.features(shots)?, &labels, self.classifier.classes, base.device())?;
        self.head.weight().set(start.weight())?;
        self.head.bias().set(start.bias())?;
        Ok(())
    }

    fn step(&mut self, number: usize, batch: &[usize]) -> Result<f64> {
        let not_finite = |what| Error::NotFinite { what, step: number };
        let labels: Vec<u32> = batch.iter().map(|&i| self.shots.shots()[i].class).collect();
        let target = Tensor::from_vec(labels, batch.len(), self.classifier.base.device())?;
        let images = self.shots.get(batch)?;
        let images: Vec<&RgbImage> = images.iter().map(AsRef::as_ref).collect();
        let features = self.model.features(&self.views(&images, number * self.plan.batch)?)?;
        let loss = cross_entropy(&self.head.forward(&features)?, &target)?;
        let value = f64::from(loss.to_scalar::<f32>()?);
        if !value.is_finite() {
            return Err(not_finite("loss"));
        }
        let mut grads = loss.backward()?;
        if !clip_grad_norm(&self.vars, &mut grads, self.classifier.config.clip)?.is_finite() {
            return Err(not_finite("gradient norm"));
        }
        let factor = warmup_cosine(number, self.plan.steps(), self.warmup);
        self.optimiser.step(&grads, factor)?;
        Ok(value)
    }

    fn save(&mut self, name: &str) -> Result<Option<String>> {
        std::fs::create_dir(name).map_err(Error::io("make", name))?;
        let mut tensors = HashMap::new();
        for ((name, var), moments) in self.named.iter().zip(self.optimiser.moments()) {
            let [weight, first, second] = keys(name);
            tensors.insert(weight, var.as_tensor().detach());
            tensors.insert(first, moments.first.clone());
            tensors.insert(second, moments.second.clone());
        }
        let path = Path::new(name).join(STATE);
        candle_core::safetensors::save(&tensors, &path).map_err(Error::saving(&path))?;
        Ok(None)
    }

    fn restore(&mut self, name: &str, done: usize) -> Result<()> {
        let path: PathBuf = Path::new(name).join(STATE);
        let fail = |reason: String| Error::State {
            path: path.clone(),
            reason,
        };
        let kept = candle_core::safetensors::load(&path, self.classifier.base.device());
        let mut kept = kept.map_err(|e| fail(e.to_string()))?;
        let (mut weights, mut moments) = (Vec::new(), Vec::new());
        for (name, var) in &self.named {
            let [weight, first, second] = keys(name).map(|key| {
                let found = kept.remove(&key).filter(|tensor| tensor.shape() == var.shape());
                found.ok_or_else(|| fail(format!("lacks `{key}` of {:?}", var.shape())))
            });
            weights.push(weight?);
            moments.push(Moments {
                first: first?,
                second: second?,
            });
        }
        self.optimiser
            .restore(moments, u32::try_from(done).unwrap_or(u32::MAX))?;
        for (var, weight) in self.vars.iter().zip(weights) {
            var.set(&weight)?;
        }
        Ok(())
    }
}

/// What a variable and its moments are called in the file.
fn keys(name: &str) -> [String; 3] {
    ["weight", "first", "second"].map(|kind| format!("{kind}.{name}"))
}
