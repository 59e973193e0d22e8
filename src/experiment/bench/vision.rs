//! A DINOv2 at work: LoRA with a head in training, features of the merged model.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor, Var};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::{Benchmark, Request, Work};
use crate::cost::memory::{Use, answering, training};
use crate::cost::shape::{Blocks, Kind, Shape};
use crate::error::Result;
use crate::example::ImageProcessor;
use crate::formats::image::decode;
use crate::learner::dinov2_lora::Dinov2Lora;
use crate::learner::features::stack;
use crate::models::dinov2::Dinov2;
use crate::models::lora::Lora;
use crate::nn::{AdamParams, AdamW, DeviceSpec, Head, ParamGroup, cross_entropy};
use crate::seed;

pub(super) struct VisionBenchmark {
    model: Dinov2,
    head: Head,
    variables: Vec<(String, Var)>,
    optimiser: AdamW,
    merged: Option<Dinov2>,
    processor: ImageProcessor,
    place: DeviceSpec,
    /// JPEG files.
    photographs: Vec<Vec<u8>>,
    /// (B, 3, H, W)
    pixels: Tensor,
    labels: Tensor,
    blocks: Blocks,
    shape: Shape,
    how: Use,
}

impl VisionBenchmark {
    pub(super) fn load(request: &Request, shape: Shape) -> Result<Self> {
        let Kind::Vision(blocks) = shape.kind else {
            return Err(super::unknown(request));
        };
        let dir = &request.checkpoint;
        let learner: Dinov2Lora = super::defaults()?;
        let lora = Lora::from(&learner).of_rank(request.rank.unwrap_or(learner.rank));
        let place = request.place.clone();
        let dataset = request.dataset;
        let processor = ImageProcessor::load(dir)?;
        let photographs = dataset.photographs(request.batch)?;
        let (height, width) = processor.size();
        let visual = (height as f64 / blocks.patch).floor() * (width as f64 / blocks.patch).floor();
        let how = Use {
            visual,
            ..super::usage(request, &lora)
        };
        let model = Dinov2::load(dir, &place)?.with_lora(&lora, &mut seed::rng(0, "lora"))?;
        let features = 2 * model.hidden_size();
        let mut rng = seed::rng(0, "bench/head");
        let weights: Vec<f32> = (0..dataset.classes * features)
            .map(|_| rand::Rng::random_range(&mut rng, -0.02..0.02f32))
            .collect();
        let head = Head::new(
            &Tensor::from_vec(weights, (dataset.classes, features), &place.device)?,
            &Tensor::zeros(dataset.classes, candle_core::DType::F32, &place.device)?,
        )?;
        let adapter = model.trainable();
        let group = |vars: &[(String, Var)], lr: f64| ParamGroup {
            vars: vars.iter().map(|(_, var)| var.clone()).collect(),
            lr,
            weight_decay: 0.0,
        };
        let groups = vec![
            group(&adapter, learner.adapter_lr),
            group(&head.trainable(), learner.head_lr),
        ];
        let pixels = shown(&photographs, &processor, &place)?;
        let labels: Vec<u32> = (0..request.batch)
            .map(|image| (image % dataset.classes) as u32)
            .collect();
        Ok(Self {
            variables: adapter.into_iter().chain(head.trainable()).collect(),
            optimiser: AdamW::new(groups)?,
            model,
            head,
            merged: None,
            processor,
            photographs,
            pixels,
            labels: Tensor::from_vec(labels, request.batch, &place.device)?,
            place,
            blocks,
            shape,
            how,
        })
    }

    /// Loss and gradients of the batch.
    fn gradients(&self) -> Result<(f64, candle_core::backprop::GradStore)> {
        let loss = cross_entropy(&self.head.forward(&self.model.features(&self.pixels)?)?, &self.labels)?;
        Ok((f64::from(loss.to_scalar::<f32>()?), loss.backward()?))
    }

    /// One step at this share of the peak learning rates.
    fn train(&mut self, factor: f64) -> Result<()> {
        self.merged = None;
        let (_, mut gradients) = self.gradients()?;
        let params = AdamParams {
            learning_rate: factor,
            grad_clip_norm: Some(1.0),
            ..AdamParams::default()
        };
        self.optimiser.step(&mut gradients, &params).map(drop)
    }

    fn see(&mut self, pixels: &Tensor) -> Result<()> {
        let merged = match &mut self.merged {
            Some(merged) => merged,
            none => none.insert(self.model.merged()?),
        };
        let features = merged.features(pixels)?.detach();
        std::hint::black_box(self.head.forward(&features)?.to_vec2::<f32>()?);
        Ok(())
    }

    fn rows(&self) -> f64 {
        self.how.visual + self.blocks.extra
    }
}

/// Evaluation views of JPEG files.
fn shown(photographs: &[Vec<u8>], processor: &ImageProcessor, place: &DeviceSpec) -> Result<Tensor> {
    let view = |bytes: &Vec<u8>| Ok(processor.pixels(&decode(bytes, "a photograph")?));
    let views: Vec<Vec<f32>> = photographs.par_iter().map(view).collect::<Result<_>>()?;
    stack(&views, processor.size(), &place.device)
}

impl Benchmark for VisionBenchmark {
    fn phases(&self) -> &'static [&'static str] {
        // Training last: the allocator still holds pages of its states when it is over, how many is chance.
        &["from JPEG", "features", "features from JPEG", "train"]
    }

    fn work(&self, phase: &str) -> Work {
        let images = self.how.batch;
        let adapted = self.shape.adapted(&self.how.lora);
        let rows = if phase == "from JPEG" { 0.0 } else { self.rows() };
        let (operations, estimate) = match phase {
            "train" => (
                self.blocks.train(rows, adapted.active),
                Some(training(&self.shape, &self.how)),
            ),
            "from JPEG" => (0.0, None),
            _ => (self.blocks.forward(rows), Some(answering(&self.shape, &self.how))),
        };
        Work {
            images: images as usize,
            tokens: images * rows,
            operations: images * operations,
            estimate: estimate.map(|bytes| bytes.total()),
        }
    }

    fn repeat(&mut self, phase: &str) -> Result<()> {
        match phase {
            "train" => self.train(1.0)?,
            "features" => self.see(&self.pixels.clone())?,
            "from JPEG" => drop(shown(&self.photographs, &self.processor, &self.place)?),
            _ => {
                let pixels = shown(&self.photographs, &self.processor, &self.place)?;
                self.see(&pixels)?;
            }
        }
        Ok(self.place.device.synchronize()?)
    }

    fn trained(&self) -> u64 {
        self.variables.iter().map(|(_, var)| var.elem_count() as u64).sum()
    }

    fn tokens(&self) -> [f64; 3] {
        [self.rows(), 0.0, 0.0]
    }

    fn exchange(&mut self, dir: &Path) -> Result<Value> {
        // A fresh adapter changes nothing, and half of its gradients are zero.
        self.train(100.0)?;
        self.model.save_adapter(&dir.join("adapter"))?;
        let (loss, gradients) = self.gradients()?;
        let mut tensors: HashMap<String, Tensor> = HashMap::new();
        for (name, var) in &self.variables {
            if let Some(gradient) = gradients.get(var) {
                tensors.insert(format!("grad.{name}"), gradient.to_device(&Device::Cpu)?);
            }
        }
        let host = |tensor: &Tensor| tensor.detach().to_device(&Device::Cpu);
        tensors.insert("pixel_values".into(), host(&self.pixels)?);
        tensors.insert("labels".into(), host(&self.labels)?.to_dtype(candle_core::DType::I64)?);
        tensors.insert("head.weight".into(), host(self.head.weight.as_tensor())?);
        tensors.insert("head.bias".into(), host(self.head.bias.as_tensor())?);
        super::save(&tensors, dir)?;
        Ok(json!({"kind": "dinov2", "loss": loss, "images": self.how.batch}))
    }
}
