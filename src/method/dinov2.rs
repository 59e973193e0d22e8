//! DINOv2 with LoRA in its linear layers and a softmax head on [CLS; mean patch].

use std::path::Path;
use std::sync::Arc;

mod decoded;
mod head;
mod training;

use crate::config::Dinov2Lora;
use crate::data::LabelledImage;
use crate::error::Result;
use crate::method::features::{BATCH, Frozen};
use crate::method::order::Plan;
use crate::method::training::train;
use crate::method::{Classifier, Fit, Keep, Step, argmax, row, untrained};
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
        let mut training = Training::new(self, shots, &plan)?;
        let fit = train(&plan, &mut training, keep, on_step)?;
        let (trained, trainable_parameters) = training.trained();
        self.trained = Some(trained);
        Ok(Fit {
            trainable_parameters,
            ..fit
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
        head::save(head, &dir.join(HEAD_FILE))
    }

    fn load(&mut self, dir: &Path) -> Result<()> {
        let model = self.base.model().load_adapter(dir)?;
        let features = 2 * model.hidden_size();
        let head = head::load(&dir.join(HEAD_FILE), (self.classes, features), self.base.device())?;
        self.trained = Some((model, head));
        Ok(())
    }
}
