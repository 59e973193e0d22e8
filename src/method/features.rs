//! Frozen DINOv2 features, computed once per image and shared by every probe of a sweep.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::data::LabelledImage;
use crate::error::Result;
use crate::example::{ImageCache, ImageProcessor, seen};
use crate::models::dinov2::Dinov2;
use crate::nn::Place;

/// Images per forward pass.
pub(crate) const BATCH: usize = 64;

/// A frozen model with its image processor and the features it has computed so far.
pub struct Frozen {
    model: Dinov2,
    processor: ImageProcessor,
    device: Device,
    images: Option<Arc<ImageCache>>,
    /// sha256 of the encoded image → [CLS; mean patch], 2·D numbers.
    known: Mutex<HashMap<String, Arc<[f32]>>>,
}

impl Frozen {
    /// Loads a hub-layout folder.
    ///
    /// # Errors
    /// [`crate::error::Error::Model`] when the folder lacks something.
    pub fn load(dir: &Path, place: &Place) -> Result<Self> {
        Ok(Self {
            model: Dinov2::load(dir, place)?,
            processor: ImageProcessor::load(dir)?,
            device: place.device.clone(),
            images: None,
            known: Mutex::default(),
        })
    }

    /// The same, keeping resized images.
    #[must_use]
    pub fn keeping(mut self, images: Option<Arc<ImageCache>>) -> Self {
        self.images = images;
        self
    }

    /// The base model.
    #[must_use]
    pub fn model(&self) -> &Dinov2 {
        &self.model
    }

    /// The model's image processor.
    #[must_use]
    pub fn processor(&self) -> &ImageProcessor {
        &self.processor
    }

    /// Where the model lives.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Features of `images`, in order: rows of 2·D numbers, [CLS; mean patch] after the final layer norm.
    ///
    /// # Errors
    /// Unreadable images, tensor failures.
    pub fn features(&self, images: &[LabelledImage]) -> Result<Vec<Arc<[f32]>>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let new: Vec<LabelledImage> = images
            .iter()
            .filter(|i| !known.contains_key(&i.sha256))
            .cloned()
            .collect();
        for batch in new.chunks(BATCH) {
            let pixels = self.pixels(batch)?;
            let rows = self.model.features(&pixels)?.to_vec2::<f32>()?;
            for (image, row) in batch.iter().zip(rows) {
                known.insert(image.sha256.clone(), row.into());
            }
        }
        Ok(images.iter().map(|i| known[&i.sha256].clone()).collect())
    }

    /// The evaluation view of a batch: (B, 3, H, W).
    ///
    /// # Errors
    /// Unreadable images.
    pub fn pixels(&self, images: &[LabelledImage]) -> Result<Tensor> {
        let (processor, settings) = (&self.processor, self.processor.settings());
        let view = |image| -> Result<Vec<f32>> {
            let framed = seen(self.images.as_deref(), image, &settings, |whole| {
                processor.framed(&whole)
            })?;
            Ok(processor.normalised(&framed))
        };
        let views: Vec<Vec<f32>> = images.par_iter().map(view).collect::<Result<_>>()?;
        stack(&views, self.processor.size(), &self.device)
    }
}

/// Views of 3·H·W numbers to one tensor (B, 3, H, W).
pub(crate) fn stack(views: &[Vec<f32>], (height, width): (usize, usize), device: &Device) -> Result<Tensor> {
    Ok(Tensor::from_vec(
        views.concat(),
        (views.len(), 3, height, width),
        device,
    )?)
}
