//! The one way in for an image, for training, evaluation and questions alike: a file is decoded, and resized as the model's
//! processor says, once per image and settings.

use std::sync::Arc;

use image::RgbImage;

use super::image_cache::{ImageCache, cached};
use super::processor::ImageProcessor;
use super::resize::shrink;
use crate::data::LabelledImage;
use crate::error::Result;

/// The part of preprocessing whose result, in 8 bits, is worth keeping.
pub trait Resizer {
    /// All that the result depends on, as a part of a file name; `None` where an image stays as it is.
    fn settings(&self) -> Option<String>;

    /// The image as the rest of preprocessing takes it.
    fn resize(&self, image: RgbImage) -> RgbImage;
}

impl Resizer for ImageProcessor {
    fn settings(&self) -> Option<String> {
        Some(ImageProcessor::settings(self))
    }

    fn resize(&self, image: RgbImage) -> RgbImage {
        self.framed(&image)
    }
}

/// Larger images are shrunk to a longest side; without one, images stay as they are.
#[derive(Debug, Clone, Copy)]
pub struct LongestSide(pub Option<u32>);

impl Resizer for LongestSide {
    fn settings(&self) -> Option<String> {
        self.0.map(|longest| format!("lanczos{longest}"))
    }

    fn resize(&self, image: RgbImage) -> RgbImage {
        match self.0 {
            Some(longest) if image.width().max(image.height()) > longest => shrink(&image, longest),
            _ => image,
        }
    }
}

/// Loads images for one model. Every error carries the name of the file.
#[derive(Debug, Clone)]
pub struct ImageLoader<R> {
    resizer: R,
    cache: Option<Arc<ImageCache>>,
}

impl<R: Resizer> ImageLoader<R> {
    /// A loader that decodes every image it is asked for.
    #[must_use]
    pub fn new(resizer: R) -> Self {
        Self { resizer, cache: None }
    }

    /// The same with a cache, if there is one.
    #[must_use]
    pub fn with_cache(mut self, cache: Option<Arc<ImageCache>>) -> Self {
        self.cache = cache;
        self
    }

    /// The resizing that images get.
    #[must_use]
    pub fn resizer(&self) -> &R {
        &self.resizer
    }

    /// The image of a file, resized.
    ///
    /// # Errors
    /// As [`LabelledImage::pixels`].
    pub fn load(&self, image: &LabelledImage) -> Result<RgbImage> {
        let settings = self.resizer.settings();
        let cache = self.cache.as_deref().filter(|_| settings.is_some());
        cached(cache, image, &settings.unwrap_or_default(), |whole| {
            self.resizer.resize(whole)
        })
    }

    /// The same of the file's bytes; nothing is kept.
    ///
    /// # Errors
    /// As [`LabelledImage::decoded`].
    pub fn decode(&self, image: &LabelledImage, bytes: &[u8]) -> Result<RgbImage> {
        image.decoded(bytes).map(|whole| self.resizer.resize(whole))
    }
}
