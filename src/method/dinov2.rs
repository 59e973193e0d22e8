//! DINOv2 with LoRA in its linear layers and a softmax head on [CLS; mean patch].

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use image::RgbImage;
use rayon::prelude::*;

use crate::config::Dinov2Lora;
use crate::data::LabelledImage;
use crate::error::{Error, Result};
use crate::method::features::{BATCH, Frozen, stack};
use crate::method::order::order;
use crate::method::{Classifier, Fit, Step, argmax, read_images, row, untrained};
use crate::models::dinov2::{Dinov2, Lora};
use crate::nn::head::Head;
use crate::nn::loss::{cross_entropy, log_softmax};
use crate::nn::optim::{AdamW, Group, clip_grad_norm};
use crate::nn::schedule::warmup_cosine;
use crate::prediction::Prediction;
use crate::seed::rng;

/// AdamW's moment decay rates and epsilon, the same for every dataset (DESIGN: start values).
const BETAS: (f64, f64) = (0.9, 0.95);
const EPSILON: f64 = 1e-8;
/// Logit by which a class mean stands out from the average class under the initial head.
const INITIAL_MARGIN: f32 = 4.0;
const HEAD_FILE: &str = "head.safetensors";

/// A DINOv2 classifier; untrained until [`Classifier::fit`] or [`Classifier::load`].
pub struct Dinov2Classifier {
    base: Arc<Frozen>,
    config: Dinov2Lora,
    classes: usize,
    seed: u64,
    trained: Option<(Dinov2, Head)>,
}

impl Dinov2Classifier {
    /// A classifier for `classes` classes; `seed` decides initialisation, order and augmentation.
    #[must_use]
    pub fn new(base: Arc<Frozen>, config: Dinov2Lora, classes: usize, seed: u64) -> Self {
        Self {
            base,
            config,
            classes,
            seed,
            trained: None,
        }
    }

    fn trained(&self, dir: &Path) -> Result<&(Dinov2, Head)> {
        self.trained.as_ref().ok_or_else(|| untrained(dir))
    }

    /// Training views of one batch: (B, 3, H, W). `drawn` counts views since the start, so that each
    /// view has a generator of its own and threads cannot change what is drawn.
    fn views(&self, images: &[&RgbImage], drawn: usize) -> Result<Tensor> {
        let processor = self.base.processor();
        let views: Vec<Vec<f32>> = images
            .par_iter()
            .enumerate()
            .map(|(i, image)| {
                let mut rng = rng(self.seed, &format!("augment/{}", drawn + i));
                processor.augmented(image, self.config.min_crop, self.config.flip, &mut rng)
            })
            .collect();
        stack(&views, processor.size(), self.base.device())
    }
}

impl Classifier for Dinov2Classifier {
    fn fit(&mut self, shots: &[LabelledImage], on_step: &mut dyn FnMut(Step)) -> Result<Fit> {
        let config = &self.config;
        let images = read_images(shots)?;
        let labels: Vec<u32> = shots.iter().map(|s| s.class).collect();
        let lora = Lora {
            targets: config.targets.clone(),
            rank: config.rank,
            alpha: config.alpha,
        };
        let model = self.base.model().with_lora(&lora, &mut rng(self.seed, "lora"))?;
        let head = head_from_class_means(&self.base.features(shots)?, &labels, self.classes, self.base.device())?;

        let adapter: Vec<Var> = model.trainable().into_iter().map(|(_, var)| var).collect();
        let vars: Vec<Var> = adapter.iter().chain([head.weight(), head.bias()]).cloned().collect();
        let groups = vec![
            Group {
                vars: adapter,
                lr: config.adapter_lr,
                weight_decay: config.weight_decay,
            },
            Group {
                vars: vec![head.weight().clone()],
                lr: config.head_lr,
                weight_decay: config.weight_decay,
            },
            Group {
                vars: vec![head.bias().clone()],
                lr: config.head_lr,
                weight_decay: 0.0,
            },
        ];
        let mut optimiser = AdamW::new(groups, BETAS.0, BETAS.1, EPSILON)?;

        let steps = (config.images_per_class * self.classes).div_ceil(config.batch).max(1);
        let warmup = (config.warmup * steps as f64).round() as usize;
        let order = order(shots.len(), steps * config.batch, self.seed);
        let mut tail = Vec::new();
        for (step, batch) in order.chunks(config.batch).enumerate() {
            let chosen: Vec<&RgbImage> = batch.iter().map(|&i| &images[i]).collect();
            let target: Vec<u32> = batch.iter().map(|&i| labels[i]).collect();
            let target = Tensor::from_vec(target, batch.len(), self.base.device())?;
            let features = model.features(&self.views(&chosen, step * config.batch)?)?;
            let loss = cross_entropy(&head.forward(&features)?, &target)?;
            let value = f64::from(loss.to_scalar::<f32>()?);
            if !value.is_finite() {
                return Err(Error::NotFinite { what: "loss", step });
            }
            let mut grads = loss.backward()?;
            if !clip_grad_norm(&vars, &mut grads, config.clip)?.is_finite() {
                return Err(Error::NotFinite {
                    what: "gradient norm",
                    step,
                });
            }
            optimiser.step(&grads, warmup_cosine(step, steps, warmup))?;
            if step >= steps - steps.div_ceil(10) {
                tail.push(value);
            }
            on_step(Step {
                done: step + 1,
                of: steps,
                images: batch.len(),
                loss: value,
            });
        }
        self.trained = Some((model, head));
        Ok(Fit {
            steps: steps as u64,
            images_seen: order.len() as u64,
            final_loss: Some(tail.iter().sum::<f64>() / tail.len() as f64),
            trainable_parameters: vars.iter().map(|v| v.elem_count() as u64).sum(),
        })
    }

    fn predict(&mut self, images: &[LabelledImage], sink: &mut dyn FnMut(&[Prediction]) -> Result<()>) -> Result<()> {
        let (model, head) = self.trained(Path::new(&self.config.model))?;
        let model = model.merged()?;
        for batch in images.chunks(BATCH) {
            let features = model.features(&self.base.pixels(batch)?)?.detach();
            let rows: Vec<Prediction> = log_softmax(&head.forward(&features)?)?
                .to_vec2::<f32>()?
                .into_iter()
                .zip(batch)
                .map(|(log_probs, image)| row(image, argmax(&log_probs), Some(log_probs)))
                .collect();
            sink(&rows)?;
        }
        Ok(())
    }

    fn save(&mut self, dir: &Path) -> Result<()> {
        let (model, head) = self.trained(dir)?;
        model.save_adapter(dir)?;
        save_head(head, &dir.join(HEAD_FILE))
    }

    fn load(&mut self, dir: &Path) -> Result<()> {
        let model = self.base.model().load_adapter(dir)?;
        let features = 2 * model.hidden_size();
        let head = load_head(&dir.join(HEAD_FILE), (self.classes, features), self.base.device())?;
        self.trained = Some((model, head));
        Ok(())
    }
}

/// A head that classifies as the nearest class mean (Euclidean) before its first step:
/// logit_c = g·(μ_c·f − ‖μ_c‖²/2), scaled so that a class mean leads the average class by
/// [`INITIAL_MARGIN`]. Weight (C, 2D), bias (C).
fn head_from_class_means(features: &[Arc<[f32]>], labels: &[u32], classes: usize, device: &Device) -> Result<Head> {
    let width = features.first().map_or(0, |f| f.len());
    let mut means = vec![vec![0f32; width]; classes];
    let mut counts = vec![0f32; classes];
    for (feature, &label) in features.iter().zip(labels) {
        counts[label as usize] += 1.0;
        for (mean, x) in means[label as usize].iter_mut().zip(feature.iter()) {
            *mean += x;
        }
    }
    for (mean, count) in means.iter_mut().zip(&counts) {
        mean.iter_mut().for_each(|m| *m /= count.max(1.0));
    }
    let centre: Vec<f32> = (0..width)
        .map(|d| means.iter().map(|m| m[d]).sum::<f32>() / classes as f32)
        .collect();
    let spread: f32 = means
        .iter()
        .map(|m| m.iter().zip(&centre).map(|(a, b)| (a - b) * (a - b)).sum::<f32>())
        .sum::<f32>()
        / classes as f32;
    let squares = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>();
    // Classes whose means coincide have nothing to start from: a head of zeros.
    let gain = if spread > f32::EPSILON * squares(&centre) {
        INITIAL_MARGIN / spread
    } else {
        0.0
    };
    // Subtracting the centre from every row changes no probability and keeps the weights small.
    let mut weight = Vec::with_capacity(classes * width);
    let mut bias = Vec::with_capacity(classes);
    for mean in &means {
        weight.extend(mean.iter().zip(&centre).map(|(m, c)| gain * (m - c)));
        bias.push(-gain / 2.0 * (squares(mean) - squares(&centre)));
    }
    Head::new(
        &Tensor::from_vec(weight, (classes, width), device)?,
        &Tensor::from_vec(bias, classes, device)?,
    )
}

fn save_head(head: &Head, file: &Path) -> Result<()> {
    let tensors = HashMap::from([
        ("weight", head.weight().as_tensor().clone()),
        ("bias", head.bias().as_tensor().clone()),
    ]);
    Ok(candle_core::safetensors::save(&tensors, file)?)
}

fn load_head(file: &Path, (classes, features): (usize, usize), device: &Device) -> Result<Head> {
    let model_error = |reason: String| Error::Model {
        path: file.to_path_buf(),
        reason,
    };
    let tensors = candle_core::safetensors::load(file, device).map_err(|e| model_error(e.to_string()))?;
    let get = |name: &str, shape: &[usize]| {
        let tensor = tensors
            .get(name)
            .ok_or_else(|| model_error(format!("tensor `{name}` is missing")))?;
        if tensor.dims() != shape {
            return Err(model_error(format!(
                "tensor `{name}` has shape {:?}, expected {shape:?}",
                tensor.dims()
            )));
        }
        Ok(tensor)
    };
    Head::new(get("weight", &[classes, features])?, get("bias", &[classes])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_that_look_the_same_start_from_zero() {
        let features: Vec<Arc<[f32]>> = [[4.0, 1.0], [4.0, 1.0]].map(|f| f.into()).into();
        let head = head_from_class_means(&features, &[0, 1], 2, &Device::Cpu).unwrap();
        let logits = head
            .forward(&Tensor::new(&[[1.2f32, 2.0]], &Device::Cpu).unwrap())
            .unwrap();
        assert_eq!(logits.to_vec2::<f32>().unwrap(), [[0.0, 0.0]]);
    }

    #[test]
    fn initial_head_is_nearest_class_mean() {
        let features: Vec<Arc<[f32]>> = [[4.0, 0.0], [6.0, 0.0], [0.0, 1.0], [0.0, 3.0]]
            .map(|f| f.into())
            .into();
        let head = head_from_class_means(&features, &[0, 0, 1, 1], 2, &Device::Cpu).unwrap();
        // Nearer to (0, 2) than to (5, 0), although its dot product with (5, 0) is the larger one.
        let logits = head
            .forward(&Tensor::new(&[[1.2f32, 2.0], [4.0, 1.0]], &Device::Cpu).unwrap())
            .unwrap();
        let classes = logits.argmax(candle_core::D::Minus1).unwrap().to_vec1::<u32>().unwrap();
        assert_eq!(classes, [1, 0]);
        // The class means lead the average of the two classes by the margin.
        let at_mean = head
            .forward(&Tensor::new(&[[5f32, 0.0]], &Device::Cpu).unwrap())
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        assert!(
            ((at_mean[0][0] - at_mean[0][1]) / 2.0 - INITIAL_MARGIN).abs() < 1e-4,
            "{at_mean:?}"
        );
    }
}
