//! DINOv2 with LoRA in its linear layers and a softmax head on [CLS; mean patch].

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;

mod decoded;
mod head;
mod settings;
mod training;

use crate::config::{Dtype, Protocol, Shots};
use crate::data::LabelledImage;
use crate::error::Result;
use crate::learner::base::{Base, Bases};
use crate::learner::features::{BATCH, Frozen, Vision};
use crate::learner::order::Plan;
use crate::learner::settings::{HyperParameters, LearnerSettings, group, positive};
use crate::learner::training::{Schedule, train};
use crate::learner::{Checkpoints, Classifier, Fit, Interleaved, Preprocessor, Step, View, argmax, row, untrained};
use crate::models::architecture::Architecture;
use crate::models::dinov2::Dinov2;
use crate::nn::Head;
use crate::nn::loss::log_softmax;
use crate::prediction::Prediction;
pub use settings::Dinov2Lora;
use training::Training;

const HEAD_FILE: &str = "head.safetensors";

/// A DINOv2 classifier; untrained until [`Classifier::fit`] or [`Classifier::load`].
struct Dinov2Classifier {
    base: Arc<Frozen>,
    config: Dinov2Lora,
    classes: usize,
    seed: u64,
    /// Most images of a pass in training: a batch of more takes several.
    pass: usize,
    trained: Option<(Dinov2, Head)>,
    /// The trained model with its adapter added in, from the first question on.
    asked: Option<Dinov2>,
}

impl LearnerSettings for Dinov2Lora {
    fn name(&self) -> &str {
        &self.name
    }

    fn model(&self) -> Option<&Path> {
        Some(&self.model)
    }

    fn hyper_parameters(&self) -> HyperParameters {
        // `auto` and the type that it stands for are the same, and an identity has the type. Where `images_per_class_of_all`
        // counts it has taken the place of `images_per_class`.
        let Self {
            name: _,
            model: _,
            dtype: _,
            images_per_class_of_all: _,
            targets,
            rank,
            alpha,
            adapter_lr,
            head_lr,
            weight_decay,
            batch,
            images_per_class,
            warmup,
            clip,
            min_crop,
            flip,
        } = self;
        HyperParameters {
            training: group!(
                targets,
                rank,
                alpha,
                adapter_lr,
                head_lr,
                weight_decay,
                batch,
                images_per_class,
                warmup,
                clip,
                min_crop,
                flip
            ),
            ..HyperParameters::default()
        }
    }

    fn load(&self, bases: &mut Bases) -> Result<Arc<dyn Base>> {
        let vision = Vision::load(
            &self.name,
            &self.model,
            self.dtype,
            Some((&self.into(), self.batch)),
            bases,
        )?;
        Ok(Arc::new(Dinov2Base {
            vision,
            config: self.clone(),
        }))
    }

    fn check(&self) -> Result<(), String> {
        let positive = |what: &str, value: f64| positive(&self.name, what, value);
        positive("rank", self.rank as f64)?;
        positive("alpha", self.alpha)?;
        positive("batch", self.batch as f64)?;
        positive("images_per_class", self.images_per_class as f64)?;
        positive("images_per_class_of_all", self.images_per_class_of_all as f64)?;
        positive("clip", self.clip)?;
        positive("min_crop", self.min_crop)?;
        if self.targets.is_empty() {
            return Err(format!("learner `{}`: targets is empty", self.name));
        }
        if !(0.0..=1.0).contains(&self.warmup) {
            return Err(format!(
                "learner `{}`: warmup is a share of the steps, 0 to 1",
                self.name
            ));
        }
        Ok(())
    }

    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn has_adapter(&self) -> bool {
        true
    }

    fn has_probabilities(&self) -> bool {
        true
    }

    fn images_seen(&self, classes: usize) -> usize {
        self.images_per_class * classes
    }

    fn specialise(&mut self, _: Protocol, shots: Shots) {
        if shots == Shots::All {
            self.images_per_class = self.images_per_class_of_all;
        }
    }

    fn architecture() -> Option<Architecture> {
        Some(Architecture::Dinov2)
    }
}

/// A frozen DINOv2 on which adapters and heads are trained.
struct Dinov2Base {
    vision: Vision,
    config: Dinov2Lora,
}

impl Base for Dinov2Base {
    fn fingerprint(&self) -> Option<&str> {
        Some(&self.vision.fingerprint)
    }

    fn classifier(&self, classes: &[String], seed: u64) -> Result<Box<dyn Classifier>> {
        let (frozen, config) = (self.vision.frozen.clone(), self.config.clone());
        Ok(Box::new(Dinov2Classifier {
            pass: self.vision.pass,
            ..Dinov2Classifier::new(frozen, config, classes.len(), seed)
        }))
    }
}

impl Dinov2Classifier {
    /// A classifier for so many classes; `seed` decides initialisation, order and augmentation.
    fn new(base: Arc<Frozen>, config: Dinov2Lora, classes: usize, seed: u64) -> Self {
        Self {
            base,
            config,
            classes,
            seed,
            pass: usize::MAX,
            trained: None,
            asked: None,
        }
    }

    fn trained(&self, dir: &Path) -> Result<&(Dinov2, Head)> {
        self.trained.as_ref().ok_or_else(|| untrained(dir))
    }

    /// One pass: the evaluation views of images, (B, 3, H, W), to their rows.
    fn answer(&mut self, images: &[LabelledImage], pixels: &Tensor) -> Result<Vec<Prediction>> {
        let (model, head) = self
            .trained
            .as_ref()
            .ok_or_else(|| untrained(Path::new(&self.config.model)))?;
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
    fn fit(
        &mut self,
        shots: &[LabelledImage],
        keep: Option<&Checkpoints>,
        on_step: &mut dyn FnMut(Step) -> Result<()>,
    ) -> Result<Fit> {
        let (base, images) = (self.base.model(), self.config.images_per_class * self.classes);
        let plan = Plan::new(base.fingerprint(), shots.len(), images, self.config.batch, self.seed);
        let mut training = Training::new(self, shots, &plan)?;
        // The peak is that of each parameter group.
        let schedule = Schedule {
            peak: 1.0,
            warmup: self.config.warmup,
            weight_decay: self.config.weight_decay,
            clip: self.config.clip,
        };
        let fit = train(&plan, &schedule, &mut training, keep, on_step)?;
        (self.trained, self.asked) = (Some(training.trained()), None);
        Ok(fit)
    }

    fn predict(&mut self, images: &[LabelledImage], sink: &mut dyn FnMut(&[Prediction]) -> Result<()>) -> Result<()> {
        for batch in images.chunks(BATCH) {
            let pixels = self.base.pixels(batch)?;
            sink(&self.answer(batch, &pixels)?)?;
        }
        Ok(())
    }

    fn save(&mut self, dir: &Path) -> Result<()> {
        let (model, head) = self.trained(dir)?;
        model.save_adapter(dir)?;
        head::save(head, &dir.join(HEAD_FILE))
    }

    fn load(&mut self, dir: &Path) -> Result<()> {
        let model = self.base.model().load_adapter(dir)?;
        let features = 2 * model.hidden_size();
        let own = dir.join(HEAD_FILE);
        let head = match self.base.model().load_classifier(dir, self.classes)? {
            Some((weight, bias)) if !own.exists() => Head::new(&weight, &bias)?,
            _ => head::load(&own, (self.classes, features), self.base.device())?,
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
        let pixels = self.base.stacked(views)?;
        self.answer(images, &pixels)
    }
}
