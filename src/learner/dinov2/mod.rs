//! DINOv2 with LoRA in its linear layers and a softmax head on [CLS; mean patch].

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;

mod decoded;
mod head;
mod training;

use crate::config::Dinov2Lora;
use crate::data::LabelledImage;
use crate::error::Result;
use crate::learner::features::{BATCH, Frozen};
use crate::learner::order::Plan;
use crate::learner::training::{Schedule, train};
use crate::learner::{Classifier, Eye, Fit, Keep, Step, View, argmax, row, untrained};
use crate::models::dinov2::Dinov2;
use crate::nn::head::Head;
use crate::nn::loss::log_softmax;
use crate::prediction::Prediction;
use training::Training;

const HEAD_FILE: &str = "head.safetensors";

/// A DINOv2 classifier; untrained until [`Classifier::fit`] or [`Classifier::load`].
pub struct Dinov2Classifier {
    base: Arc<Frozen>,
    config: Dinov2Lora,
    classes: usize,
    seed: u64,
    /// Most images of a pass in training.
    pass: usize,
    trained: Option<(Dinov2, Head)>,
    /// The trained model with its adapter added in, from the first question on.
    asked: Option<Dinov2>,
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
            pass: usize::MAX,
            trained: None,
            asked: None,
        }
    }

    /// The same, but training has at most so many images in a pass: a batch of more takes several. But for the last bits
    /// what is learned is the same.
    #[must_use]
    pub fn in_passes_of(mut self, images: usize) -> Self {
        self.pass = images;
        self
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
        keep: Option<&Keep>,
        on_step: &mut dyn FnMut(Step) -> Result<()>,
    ) -> Result<Fit> {
        let (base, images) = (self.base.model(), self.config.images_per_class * self.classes);
        let plan = Plan::new(base.fingerprint(), shots.len(), images, self.config.batch, self.seed);
        // The peak is that of each parameter group.
        let schedule = Schedule {
            peak: 1.0,
            warmup: self.config.warmup,
            weight_decay: self.config.weight_decay,
            clip: self.config.clip,
        };
        let mut training = Training::new(self, shots, &plan)?;
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

    fn eye(&self) -> Arc<dyn Eye> {
        self.base.clone()
    }

    fn predict_seen(&mut self, images: &[LabelledImage], views: &[View]) -> Result<Vec<Prediction>> {
        let pixels = self.base.stacked(views)?;
        self.answer(images, &pixels)
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
}
