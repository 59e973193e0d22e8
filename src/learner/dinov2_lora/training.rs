//! The gradients of DINOv2 with its head, and their training on disk.

use std::path::Path;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use image::RgbImage;
use rayon::prelude::*;

use super::decoded::Decoded;
use super::{Dinov2Classifier, head};
use crate::data::LabelledImage;
use crate::engine::TrainState;
use crate::error::{Error, Result};
use crate::learner::features::stack;
use crate::learner::order::Plan;
use crate::learner::training::Trainable;
use crate::models::dinov2::Dinov2;
use crate::models::lora::Lora;
use crate::nn::Head;
use crate::nn::loss::cross_entropy;
use crate::nn::{AdamParams, MicroBatches, ParamGroup, add_gradients};
use crate::seed::rng;

/// A model with its head in training.
pub(super) struct Training<'a> {
    classifier: &'a Dinov2Classifier,
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
    /// Fresh adapters; the head is still to come, from class means or from a checkpoint.
    pub(super) fn new(classifier: &'a Dinov2Classifier, shots: &'a [LabelledImage], plan: &'a Plan) -> Result<Self> {
        let (config, base) = (&classifier.config, &classifier.base);
        let lora: Lora = config.into();
        let model = base.model().with_lora(&lora, &mut rng(classifier.seed, "lora"))?;
        let head = Head::zeros(classifier.classes, 2 * model.hidden_size(), base.device())?;
        let adapter = model.trainable();
        let group = |vars: Vec<Var>, lr: f64, weight_decay: f64| ParamGroup { vars, lr, weight_decay };
        let groups = vec![
            group(
                adapter.iter().map(|(_, var)| var.clone()).collect(),
                config.adapter_lr,
                1.0,
            ),
            group(vec![head.weight().clone()], config.head_lr, 1.0),
            group(vec![head.bias().clone()], config.head_lr, 0.0),
        ];
        Ok(Self {
            classifier,
            lora,
            state: TrainState::new(adapter.into_iter().chain(head.trainable()).collect(), groups)?,
            model,
            head,
            shots: Decoded::new(shots),
            plan,
            micro_batches: MicroBatches::of(classifier.pass.min(plan.batch)),
        })
    }

    /// The mean loss of a batch and its gradients, in passes of bounded size.
    fn gradients(&mut self, number: usize, batch: &[usize]) -> Result<(f64, GradStore)> {
        let images = self.shots.get(batch)?;
        let images: Vec<&RgbImage> = images.iter().map(AsRef::as_ref).collect();
        let labels: Vec<u32> = batch.iter().map(|&i| self.shots.shots()[i].class).collect();
        let (mut value, mut sum) = (0.0, GradStore::default());
        let mut drawn = number * self.plan.batch;
        let size = self.micro_batches.size();
        for (images, labels) in images.chunks(size).zip(labels.chunks(size)) {
            self.micro_batches.check_memory(images.len())?;
            let target = Tensor::new(labels, self.classifier.base.device())?;
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

impl Trainable for Training<'_> {
    fn begin(&mut self) -> Result<()> {
        let (base, shots) = (&self.classifier.base, self.shots.shots());
        let labels: Vec<u32> = shots.iter().map(|shot| shot.class).collect();
        let start = head::from_class_means(&base.features(shots)?, &labels, self.classifier.classes, base.device())?;
        self.head.weight().set(start.weight())?;
        self.head.bias().set(start.bias())?;
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
        let device = self.classifier.base.device();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learner::Learner;
    use crate::learner::features::Frozen;
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
        let base = std::sync::Arc::new(Frozen::load(&model, &DeviceSpec::cpu()).unwrap());
        let classifier = Dinov2Classifier::new(base, config, 6, 0);
        let plan = Plan::new("", shots.len(), 12, 6, 0);
        let mut training = Training::new(&classifier, &shots, &plan).unwrap();
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
}
