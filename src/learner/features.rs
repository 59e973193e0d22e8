//! Frozen DINOv2 features, computed once per image and shared by every probe of a sweep.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use crate::config::Dtype;
use crate::cost::fit::images_of_a_pass;
use crate::data::LabelledImage;
use crate::engine::FifoCache;
use crate::error::Result;
use crate::example::{ImageLoader, ImageProcessor};
use crate::formats::image_processor::image_settings;
use crate::fs::hash::hex;
use crate::learner::base::Bases;
use crate::learner::classifier::{Preprocessor, View};
use crate::models::dinov2::Dinov2;
use crate::models::lora::Lora;
use crate::nn::DeviceSpec;

/// Images per forward pass.
pub(crate) const BATCH: usize = 64;
/// Bytes of features that are kept; beyond it the oldest go, and are computed again when they are asked for.
const KEPT: usize = 1 << 30;

/// A frozen model with its image processor and the features it has computed so far.
pub struct Frozen {
    pub(super) model: Dinov2,
    images: ImageLoader<ImageProcessor>,
    pub(super) device: Device,
    /// By [`LabelledImage::content`]: [CLS; mean patch], 2·D numbers.
    known: Mutex<FifoCache<String, Arc<[f32]>>>,
    /// Held while features are computed: another thread wants the same ones most of the time.
    computing: Mutex<()>,
    /// Tells weights and preprocessing from all others.
    pub(super) fingerprint: String,
}

impl Frozen {
    /// Loads a hub-layout folder.
    ///
    /// # Errors
    /// [`crate::error::Error::Model`] when the folder lacks something.
    pub fn load(dir: &Path, place: &DeviceSpec) -> Result<Self> {
        let model = Dinov2::load(dir, place)?;
        let images = ImageLoader::new(ImageProcessor::load(dir)?);
        let fingerprint = Sha256::new()
            .chain_update(model.fingerprint())
            .chain_update(&image_settings(dir)?.text)
            .finalize();
        Ok(Self {
            model,
            images,
            device: place.device.clone(),
            known: Mutex::default(),
            computing: Mutex::default(),
            fingerprint: hex(&fingerprint),
        })
    }

    /// The model of the learner of this name, loaded once and shared by all learners on it, and the images of a pass in training
    /// that there is memory for. `training`: the learner's adapters and its batch, if it trains.
    ///
    /// # Errors
    /// As [`Frozen::load`]; [`crate::error::Error::Memory`] when there is not enough.
    pub(super) fn shared(
        learner: &str,
        model: &Path,
        dtype: Dtype,
        training: Option<(&Lora, usize)>,
        bases: &mut Bases,
    ) -> Result<(Arc<Self>, usize)> {
        let dir = bases.folder(model)?;
        let place = bases.place(Some(model), dtype)?;
        let key = (dir, place.dtype);
        let loaded = bases.has::<Self>(&key);
        // Asked once a learner: with its model loaded there is less memory.
        let pass = bases.once(&learner, || images_of_a_pass(training, BATCH, &key.0, &place, loaded))?;
        let images = bases.images.clone();
        let frozen = bases.once(&key, || {
            let mut frozen = Self::load(&key.0, &place)?;
            frozen.images = frozen.images.with_cache(images);
            Ok(frozen)
        })?;
        Ok((frozen, *pass))
    }

    /// The model's image processor.
    pub(super) fn processor(&self) -> &ImageProcessor {
        self.images.resizer()
    }

    /// Features of `images`, in order: rows of 2·D numbers, [CLS; mean patch] after the final layer norm. Each
    /// is computed once, whoever asks.
    ///
    /// # Errors
    /// Unreadable images, tensor failures.
    pub fn features(&self, images: &[LabelledImage]) -> Result<Vec<Arc<[f32]>>> {
        let mut found: Vec<Option<Arc<[f32]>>> = vec![None; images.len()];
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut missing: Vec<usize> = (0..images.len()).collect();
        let look = |missing: &mut Vec<usize>, found: &mut [Option<Arc<[f32]>>]| {
            let known = known();
            missing.retain(|&i| {
                found[i] = known.get(&images[i].content()).cloned();
                found[i].is_none()
            });
        };
        look(&mut missing, &mut found);
        while !missing.is_empty() {
            let _alone = self.computing.lock().unwrap_or_else(PoisonError::into_inner);
            look(&mut missing, &mut found);
            let batch: Vec<usize> = missing.drain(..missing.len().min(BATCH)).collect();
            let own: Vec<LabelledImage> = batch.iter().map(|&i| images[i].clone()).collect();
            if own.is_empty() {
                break;
            }
            let rows = self.rows(&self.pixels(&own)?)?;
            let mut known = known();
            for (i, row) in batch.into_iter().zip(rows) {
                let row: Arc<[f32]> = row.into();
                known.insert(images[i].content(), row.clone(), size_of_val(&*row));
                known.evict(KEPT, 0);
                found[i] = Some(row);
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// Features of images that were [preprocessed](Preprocessor) already, rows as of [`Frozen::features`]; none of them is kept.
    ///
    /// # Errors
    /// Tensor failures.
    pub fn features_seen(&self, views: &[View]) -> Result<Vec<Vec<f32>>> {
        self.rows(&stacked(views, self.processor(), &self.device)?)
    }

    /// (B, 3, H, W) → B rows of 2·D numbers.
    fn rows(&self, pixels: &Tensor) -> Result<Vec<Vec<f32>>> {
        Ok(self.model.features(pixels)?.to_vec2::<f32>()?)
    }

    /// The evaluation view of a batch: (B, 3, H, W).
    ///
    /// # Errors
    /// Unreadable images.
    pub fn pixels(&self, images: &[LabelledImage]) -> Result<Tensor> {
        pixel_values(images, &self.images, &self.device)
    }
}

impl Preprocessor for Frozen {
    fn preprocess(&self, image: &LabelledImage, bytes: &[u8]) -> Result<View> {
        let framed = self.images.decode(image, bytes)?;
        Ok(View::Values(self.processor().normalised(&framed)))
    }
}

/// Evaluation views of images, framed ones kept in a cache if there is one: (B, 3, H, W).
pub(super) fn pixel_values(
    images: &[LabelledImage],
    loader: &ImageLoader<ImageProcessor>,
    device: &Device,
) -> Result<Tensor> {
    let processor = loader.resizer();
    let view = |image| Ok(processor.normalised(&loader.load(image)?));
    let views: Vec<Vec<f32>> = images.par_iter().map(view).collect::<Result<_>>()?;
    stack(&views, processor.size(), device)
}

/// Views by this processor as one tensor: (B, 3, H, W).
///
/// # Errors
/// When one of them was made by another preprocessor.
pub(super) fn stacked(views: &[View], processor: &ImageProcessor, device: &Device) -> Result<Tensor> {
    let values = views.iter().map(|view| match view {
        View::Values(values) => Ok(values.as_slice()),
        View::Picture(_) => Err(candle_core::Error::Msg("a view of another eye".into())),
    });
    stack(&values.collect::<Result<Vec<_>, _>>()?, processor.size(), device)
}

/// Views of 3·H·W numbers to one tensor (B, 3, H, W).
pub(crate) fn stack<V: AsRef<[f32]>>(views: &[V], (height, width): (usize, usize), device: &Device) -> Result<Tensor> {
    let mut values = Vec::with_capacity(views.len() * 3 * height * width);
    for view in views {
        values.extend_from_slice(view.as_ref());
    }
    Ok(Tensor::from_vec(values, (views.len(), 3, height, width), device)?)
}
