//! Prediction apart from preprocessing. Reading, decoding and resizing need no model: they can be done for the next images
//! while it works on these, and once for several classifiers that are shown the same.

use std::sync::Arc;

use crate::data::LabelledImage;
use crate::error::Result;
use crate::example::{Picture, Renderer};
use crate::prediction::Prediction;

/// Classifiers that are asked in turn at most: each keeps its adapter and optimiser meanwhile, and what one process has claimed
/// no other can run.
pub(crate) const TOGETHER: usize = 4;

/// A classifier that can be asked about preprocessed images, in turn with others.
pub trait Interleaved {
    /// The preprocessing of images, which needs no model.
    fn preprocessor(&self) -> Arc<dyn Preprocessor>;

    /// Images that [`super::Classifier::predict`] takes at once.
    fn batch(&self) -> usize;

    /// Predicts images of which these are the views, at most [`Interleaved::batch`] of them: the rows that
    /// [`super::Classifier::predict`] gives for these images, to the bit if it takes them at once too.
    ///
    /// # Errors
    /// As [`super::Classifier::predict`].
    fn predict_views(&mut self, images: &[LabelledImage], views: &[View]) -> Result<Vec<Prediction>>;

    /// Frees memory that can be filled again, to the bit, from what was learned: others are asked meanwhile.
    fn release(&mut self) {}
}

/// An image, ready for a model.
#[derive(Debug, Clone)]
pub enum View {
    /// Normalised values, planar: 3·H·W numbers.
    Values(Vec<f32>),
    /// As a model that writes is given it.
    Picture(Picture),
    /// Nothing but that it can be decoded: the classifier reads the file again.
    File,
}

/// Turns image files into views.
pub trait Preprocessor: Send + Sync {
    /// The view of an image, of which these are the file's bytes.
    ///
    /// # Errors
    /// [`crate::error::Error::Image`] when it cannot be decoded, or has a form that the model cannot take.
    fn preprocess(&self, image: &LabelledImage, bytes: &[u8]) -> Result<View>;

    /// The same of its file; what was made of it before may come from a cache.
    ///
    /// # Errors
    /// As [`LabelledImage::bytes`] and [`Preprocessor::preprocess`].
    fn preprocess_file(&self, image: &LabelledImage) -> Result<View> {
        self.preprocess(image, &image.bytes()?)
    }
}

/// Checks that files can be decoded, for a classifier that reads them itself.
pub(super) struct Decoding;

impl Preprocessor for Decoding {
    fn preprocess(&self, image: &LabelledImage, bytes: &[u8]) -> Result<View> {
        image.decoded(bytes).map(|_| View::File)
    }
}

impl Preprocessor for Renderer {
    fn preprocess(&self, image: &LabelledImage, bytes: &[u8]) -> Result<View> {
        self.picture_in(image, bytes, false).map(View::Picture)
    }

    fn preprocess_file(&self, image: &LabelledImage) -> Result<View> {
        self.picture_of(image, false).map(View::Picture)
    }
}
