//! The gradients of DINOv2 with its head, and their training on disk.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use image::RgbImage;
use rayon::prelude::*;

use super::Dinov2Lora;
use crate::data::LabelledImage;
use crate::engine::TrainState;
use crate::error::{Error, Result};
use crate::example::{ImageLoader, LongestSide};
use crate::learner::features::{Frozen, stack};
use crate::learner::training::{Plan, Trainable};
use crate::models::dinov2::Dinov2;
use crate::models::lora::Lora;
use crate::nn::loss::cross_entropy;
use crate::nn::{AdamParams, Head, MicroBatches, ParamGroup, add_gradients};
use crate::seed::rng;

/// Logit by which a class mean stands out from the average class under the initial head.
const INITIAL_MARGIN: f32 = 4.0;

/// A model with its head in training.
pub(super) struct Training<'a> {
    base: &'a Frozen,
    config: &'a Dinov2Lora,
    classes: usize,
    lora: Lora,
    model: Dinov2,
    head: Head,
    state: TrainState,
    shots: Decoded<'a>,
    plan: &'a Plan,
    /// Images of a pass.
    micro_batches: MicroBatches,
}

impl<'a> Training<'a> {
    /// Fresh adapters for so many classes, in passes of at most so many images; the head is still to come, from class means or from a checkpoint.
    pub(super) fn new(
        base: &'a Frozen,
        config: &'a Dinov2Lora,
        (classes, pass): (usize, usize),
        shots: &'a [LabelledImage],
        plan: &'a Plan,
    ) -> Result<Self> {
        let lora: Lora = config.into();
        let model = base.model.with_lora(&lora, &mut rng(plan.seed, "lora"))?;
        let head = Head::zeros(classes, 2 * model.hidden_size(), &base.device)?;
        let adapter = model.trainable();
        let group = |vars: Vec<Var>, lr: f64, weight_decay: f64| ParamGroup { vars, lr, weight_decay };
        let adapted = adapter.iter().map(|(_, var)| var.clone()).collect();
        let groups = vec![
            group(adapted, config.adapter_lr, 1.0),
            group(vec![head.weight.clone()], config.head_lr, 1.0),
            group(vec![head.bias.clone()], config.head_lr, 0.0),
        ];
        Ok(Self {
            base,
            config,
            classes,
            lora,
            state: TrainState::new(adapter.into_iter().chain(head.trainable()).collect(), groups)?,
            model,
            head,
            shots: Decoded::new(shots),
            plan,
            micro_batches: MicroBatches::of(pass.min(plan.batch)),
        })
    }

    /// The mean loss of a batch and its gradients, in passes of bounded size.
    fn gradients(&mut self, number: usize, batch: &[usize]) -> Result<(f64, GradStore)> {
        let images = self.shots.get(batch)?;
        let images: Vec<&RgbImage> = images.iter().map(AsRef::as_ref).collect();
        let labels: Vec<u32> = batch.iter().map(|&i| self.shots.shots[i].class).collect();
        let (mut value, mut sum) = (0.0, GradStore::default());
        let mut drawn = number * self.plan.batch;
        let size = self.micro_batches.size();
        for (images, labels) in images.chunks(size).zip(labels.chunks(size)) {
            self.micro_batches.check_memory(images.len())?;
            let target = Tensor::new(labels, &self.base.device)?;
            let features = self.model.features(&self.views(images, drawn)?)?;
            let mut loss = cross_entropy(&self.head.forward(&features)?, &target)?;
            if labels.len() < batch.len() {
                loss = (loss * (labels.len() as f64 / batch.len() as f64))?;
            }
            value += f64::from(loss.to_scalar::<f32>()?);
            let vars = self.state.variables().iter().map(|(_, var)| var);
            add_gradients(&mut sum, &loss.backward()?, vars)?;
            drawn += images.len();
        }
        Ok((value, sum))
    }

    /// The model and the head that were trained.
    pub(super) fn trained(self) -> (Dinov2, Head) {
        (self.model, self.head)
    }

    /// Training views of one batch: (B, 3, H, W). `drawn` counts views since the start, so that each
    /// view has a generator of its own and threads cannot change what is drawn.
    fn views(&self, images: &[&RgbImage], drawn: usize) -> Result<Tensor> {
        let (config, processor) = (self.config, self.base.processor());
        let views: Vec<Vec<f32>> = images
            .par_iter()
            .enumerate()
            .map(|(i, image)| {
                let mut rng = rng(self.plan.seed, &format!("augment/{}", drawn + i));
                processor.augmented(image, config.min_crop, config.flip, &mut rng)
            })
            .collect();
        stack(&views, processor.size(), &self.base.device)
    }
}

impl Trainable for Training<'_> {
    fn begin(&mut self) -> Result<()> {
        let (base, shots) = (self.base, self.shots.shots);
        let labels: Vec<u32> = shots.iter().map(|shot| shot.class).collect();
        let start = from_class_means(&base.features(shots)?, &labels, self.classes, &base.device)?;
        self.head.weight.set(start.weight.as_tensor())?;
        self.head.bias.set(start.bias.as_tensor())?;
        Ok(())
    }

    fn train_step(&mut self, number: usize, batch: &[usize], params: &AdamParams) -> Result<f64> {
        let (value, gradients) = loop {
            match self.gradients(number, batch) {
                Err(error) if self.micro_batches.halve(&error, batch.len(), "images a pass") => {}
                other => break other?,
            }
        };
        // Before the weights are changed.
        if value.is_finite() {
            self.state.add_gradients(&gradients)?;
            self.state.optim_step(params)?;
        }
        Ok(value)
    }

    fn save(&mut self, name: &str) -> Result<Option<String>> {
        let dir = Path::new(name);
        std::fs::create_dir(dir).map_err(Error::io("make", dir))?;
        self.state.save_variables(dir)?;
        self.state.save(dir, &self.plan.base, &self.lora)?;
        Ok(None)
    }

    fn restore(&mut self, name: &str) -> Result<()> {
        let device = &self.base.device;
        self.state.load(Path::new(name), &self.plan.base, &self.lora, device)
    }

    fn trainable_parameters(&self) -> u64 {
        let numbers = |(_, var): &(String, Var)| var.elem_count() as u64;
        self.state.variables().iter().map(numbers).sum()
    }

    fn halved_to(&self) -> Option<usize> {
        self.micro_batches.halved_to()
    }
}

/// Bytes of pixels of shots that are kept: some thousand photographs; the rest of a larger pool is decoded each time it is seen.
const ROOM: usize = 1 << 30;

/// The shots of a training: decoded when they are first seen, and so they stay while there is room. They are whole images, and
/// not those of the shared cache, because each view of training draws a part of its own at full resolution.
struct Decoded<'a> {
    shots: &'a [LabelledImage],
    known: HashMap<usize, Arc<RgbImage>>,
    bytes: usize,
    room: usize,
}

impl<'a> Decoded<'a> {
    /// None decoded yet.
    fn new(shots: &'a [LabelledImage]) -> Self {
        Self {
            shots,
            known: HashMap::new(),
            bytes: 0,
            room: ROOM,
        }
    }

    /// The pixels of some of them, in order.
    ///
    /// # Errors
    /// The first unreadable image, by name.
    fn get(&mut self, numbers: &[usize]) -> Result<Vec<Arc<RgbImage>>> {
        let mut new: Vec<usize> = numbers.to_vec();
        new.retain(|i| !self.known.contains_key(i));
        new.sort_unstable();
        new.dedup();
        let loader = ImageLoader::new(LongestSide(None));
        let read = |i: usize| Ok((i, Arc::new(loader.load(&self.shots[i])?)));
        let read: HashMap<usize, Arc<RgbImage>> = new.into_par_iter().map(read).collect::<Result<_>>()?;
        let found = |i: &usize| self.known.get(i).or_else(|| read.get(i)).cloned();
        let all = numbers.iter().filter_map(found).collect();
        for (i, image) in read {
            let bytes = image.as_raw().len();
            if self.bytes + bytes <= self.room {
                self.bytes += bytes;
                self.known.insert(i, image);
            }
        }
        Ok(all)
    }
}

/// A head that classifies as the nearest class mean (Euclidean) before its first step:
/// logit_c = g·(μ_c·f − ‖μ_c‖²/2), scaled so that a class mean leads the average class by
/// [`INITIAL_MARGIN`]. Weight (C, 2D), bias (C).
fn from_class_means(features: &[Arc<[f32]>], labels: &[u32], classes: usize, device: &Device) -> Result<Head> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learner::Learner;
    use crate::nn::DeviceSpec;

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
        let base = Frozen::load(&model, &DeviceSpec::cpu()).unwrap();
        let plan = Plan::new("", shots.len(), 12, 6, 0);
        let mut training = Training::new(&base, &config, (6, usize::MAX), &shots, &plan).unwrap();
        training.begin().unwrap();
        for (_, var) in training.state.variables() {
            var.set(&(var.as_tensor() + 0.01).unwrap()).unwrap();
        }
        work(&mut training)
    }

    const BATCH: [usize; 6] = [0, 1, 2, 3, 4, 5];

    #[test]
    fn gradients_are_the_same_in_passes_of_any_size() {
        let in_passes = |pass: usize| {
            with_training(|training| {
                training.micro_batches = MicroBatches::of(pass);
                let (loss, gradients) = training.gradients(0, &BATCH).unwrap();
                let vars = training.state.variables().iter();
                let found = vars.map(|(_, var)| gradients.get(var).unwrap().clone());
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
        let params = AdamParams {
            learning_rate: 0.1,
            ..AdamParams::default()
        };
        with_training(|training| {
            training.train_step(0, &BATCH, &params).unwrap();
            assert_eq!((training.halved_to(), training.micro_batches.size()), (None, 6));
            training.micro_batches.memory_for = Some(3);
            training.train_step(1, &BATCH, &params).unwrap();
            assert_eq!((training.halved_to(), training.micro_batches.size()), (Some(3), 3));
            training.micro_batches.memory_for = Some(2);
            assert!(training.train_step(2, &BATCH, &params).unwrap_err().is_out_of_memory());
        });
    }

    #[test]
    fn pixels_are_the_same_with_and_without_room() {
        let folder = tempfile::tempdir().unwrap();
        let shots: Vec<LabelledImage> = (0..4u8)
            .map(|i| {
                let path = folder.path().join(format!("{i}.png"));
                RgbImage::from_pixel(2, 2, image::Rgb([i, 0, 0])).save(&path).unwrap();
                LabelledImage {
                    id: i.to_string(),
                    class: 0,
                    sha256: String::new(),
                    path,
                    ..LabelledImage::default()
                }
            })
            .collect();
        for (room, kept) in [(ROOM, 3), (25, 2), (0, 0)] {
            let mut decoded = Decoded::new(&shots);
            decoded.room = room;
            for _ in 0..2 {
                let images = decoded.get(&[3, 0, 3, 1]).unwrap();
                assert_eq!(
                    images.iter().map(|image| image.as_raw()[0]).collect::<Vec<_>>(),
                    [3, 0, 3, 1]
                );
            }
            assert_eq!(decoded.known.len(), kept, "room for {room} bytes");
        }
    }

    #[test]
    fn classes_that_look_the_same_start_from_zero() {
        let features: Vec<Arc<[f32]>> = [[4.0, 1.0], [4.0, 1.0]].map(|f| f.into()).into();
        let head = from_class_means(&features, &[0, 1], 2, &Device::Cpu).unwrap();
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
        let head = from_class_means(&features, &[0, 0, 1, 1], 2, &Device::Cpu).unwrap();
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
