//! Images as a classifier's model is to see them. Reading, decoding and resizing need no model: they can be done for the
//! next images while it works on these.

use std::sync::Arc;

use crate::data::LabelledImage;
use crate::error::Result;
use crate::example::{Picture, Renderer};

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

/// How a classifier sees images.
pub trait Eye: Send + Sync {
    /// What the model is to see of an image, of which these are the file's bytes.
    ///
    /// # Errors
    /// [`crate::error::Error::Image`] when it cannot be decoded, or has a form that the model cannot take.
    fn view(&self, image: &LabelledImage, bytes: &[u8]) -> Result<View>;

    /// The same of its file; what was made of it before may come from a cache.
    ///
    /// # Errors
    /// As [`LabelledImage::bytes`] and [`Eye::view`].
    fn look(&self, image: &LabelledImage) -> Result<View> {
        self.view(image, &image.bytes()?)
    }
}

/// The eye of a classifier that reads files itself.
pub(super) fn decoding() -> Arc<dyn Eye> {
    Arc::new(Decoding)
}

struct Decoding;

impl Eye for Decoding {
    fn view(&self, image: &LabelledImage, bytes: &[u8]) -> Result<View> {
        image.decoded(bytes).map(|_| View::File)
    }
}

impl Eye for Renderer {
    fn view(&self, image: &LabelledImage, bytes: &[u8]) -> Result<View> {
        self.picture_in(image, bytes, false).map(View::Picture)
    }

    fn look(&self, image: &LabelledImage) -> Result<View> {
        self.picture_of(image, false).map(View::Picture)
    }
}
