//! One training of DINOv2: its steps, and its weights and optimiser on disk.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use image::RgbImage;
use rayon::prelude::*;

use super::decoded::Decoded;
use super::{Dinov2Classifier, head};
use crate::data::LabelledImage;
use crate::error::{Error, Result};
use crate::learner::features::stack;
use crate::learner::order::Plan;
use crate::learner::training::Steps;
use crate::models::dinov2::Dinov2;
use crate::nn::head::Head;
use crate::nn::loss::cross_entropy;
use crate::nn::optim::{AdamW, Group, Moments, add_gradients, clip_grad_norm};
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
    /// Images of a pass.
    pass: usize,
    /// The same since the device was out of memory, if it was.
    halved_to: Option<usize>,
    /// Images of a pass that there is memory for.
    #[cfg(test)]
    room: Option<usize>,
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
            pass: classifier.pass.min(plan.batch).max(1),
            halved_to: None,
            #[cfg(test)]
            room: None,
        })
    }

    /// Images of a pass since the device was out of memory, if it was.
    pub(super) fn halved_to(&self) -> Option<usize> {
        self.halved_to
    }

    /// The mean loss of a batch and its gradients, in passes of bounded size.
    fn gradients(&mut self, number: usize, batch: &[usize]) -> Result<(f64, GradStore)> {
        let images = self.shots.get(batch)?;
        let images: Vec<&RgbImage> = images.iter().map(AsRef::as_ref).collect();
        let labels: Vec<u32> = batch.iter().map(|&i| self.shots.shots()[i].class).collect();
        let (mut value, mut sum) = (0.0, GradStore::default());
        let mut drawn = number * self.plan.batch;
        for (images, labels) in images.chunks(self.pass).zip(labels.chunks(self.pass)) {
            #[cfg(test)]
            if images.len() > self.room.unwrap_or(usize::MAX) {
                return Err(candle_core::Error::Msg("CUDA_ERROR_OUT_OF_MEMORY".into()).into());
            }
            let target = Tensor::new(labels, self.classifier.base.device())?;
            let features = self.model.features(&self.views(images, drawn)?)?;
            let mut loss = cross_entropy(&self.head.forward(&features)?, &target)?;
            if labels.len() < batch.len() {
                loss = (loss * (labels.len() as f64 / batch.len() as f64))?;
            }
            value += f64::from(loss.to_scalar::<f32>()?);
            add_gradients(&mut sum, &loss.backward()?, &self.vars)?;
            drawn += images.len();
        }
        Ok((value, sum))
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
        let (value, mut grads) = match self.gradients(number, batch) {
            Err(error) if error.is_out_of_memory() && self.pass > 1 && self.halved_to.is_none() => {
                let half = self.pass.div_ceil(2);
                tracing::warn!(
                    "{error}: out of memory with {} images a pass, going on with {half}",
                    self.pass
                );
                (self.pass, self.halved_to) = (half, Some(half));
                self.gradients(number, batch)?
            }
            other => other?,
        };
        if !value.is_finite() {
            return Err(not_finite("loss"));
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learner::Learner;
    use crate::learner::features::Frozen;
    use crate::nn::Place;

    /// Works with a training on six images, in which no variable is zero.
    fn with_training<R>(work: impl FnOnce(&mut Training) -> R) -> R {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/mini/models/micro-dinov2");
        let folder = tempfile::tempdir().unwrap();
        let shot = |class: u32| {
            let path = folder.path().join(format!("{class}.png"));
            let shade =
                |x: u32, y: u32| image::Rgb([(x * (class + 2)) as u8, (y * 5) as u8, (x * y + 40 * class) as u8]);
            RgbImage::from_fn(48, 48, shade).save(&path).unwrap();
            LabelledImage {
                id: class.to_string(),
                class,
                sha256: crate::fs::hash::hex(&<sha2::Sha256 as sha2::Digest>::digest(std::fs::read(&path).unwrap())),
                path,
                ..LabelledImage::default()
            }
        };
        let shots: Vec<LabelledImage> = (0..6).map(shot).collect();
        let Learner::Dinov2Lora(config) = Learner::parse("dinov2-lora", &model, &[]).unwrap() else {
            unreachable!()
        };
        let base = std::sync::Arc::new(Frozen::load(&model, &Place::cpu()).unwrap());
        let classifier = Dinov2Classifier::new(base, config, 6, 0);
        let plan = Plan::new("", shots.len(), 12, 6, 0);
        let mut training = Training::new(&classifier, &shots, &plan).unwrap();
        training.begin().unwrap();
        for var in &training.vars {
            var.set(&(var.as_tensor() + 0.01).unwrap()).unwrap();
        }
        work(&mut training)
    }

    const BATCH: [usize; 6] = [0, 1, 2, 3, 4, 5];

    #[test]
    fn gradients_are_the_same_in_passes_of_any_size() {
        let in_passes = |pass: usize| {
            with_training(|training| {
                training.pass = pass;
                let (loss, gradients) = training.gradients(0, &BATCH).unwrap();
                let found = training.vars.iter().map(|var| gradients.get(var).unwrap().clone());
                (loss, found.collect::<Vec<_>>())
            })
        };
        let norm = |tensor: &Tensor| {
            tensor
                .sqr()
                .unwrap()
                .sum_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
                .sqrt()
        };
        let (loss, expected) = in_passes(6);
        for pass in [3, 4, 1] {
            let (again, found) = in_passes(pass);
            assert!((loss / again - 1.0).abs() < 1e-5, "{loss} {again}");
            for (expected, found) in expected.iter().zip(&found) {
                let off = norm(&(expected - found).unwrap());
                assert!(
                    norm(expected) > 0.0 && off <= 1e-4 * norm(expected),
                    "{off} of {}",
                    norm(expected)
                );
            }
        }
    }

    #[test]
    fn out_of_memory_halves_the_passes_once() {
        with_training(|training| {
            training.step(0, &BATCH).unwrap();
            assert_eq!((training.halved_to(), training.pass), (None, 6));
            training.room = Some(3);
            training.step(1, &BATCH).unwrap();
            assert_eq!((training.halved_to(), training.pass), (Some(3), 3));
            training.room = Some(2);
            assert!(training.step(2, &BATCH).unwrap_err().is_out_of_memory());
        });
    }
}
