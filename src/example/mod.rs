//! Image + class → inputs of a model: the one way for training *and* evaluation.

use std::path::Path;

use crate::error::Error;

mod image_cache;
mod input;
mod label;
mod loader;
mod processor;
mod prompt;
mod qwen_image;
mod render;
pub mod resize;
mod thumbnail;
mod tokens;

pub use image_cache::{ImageCache, cached};
pub use input::{Chunk, Datum, ModelInput, Picture, PictureKey};
pub use label::{compared, written};
pub use loader::{ImageLoader, LongestSide, Resizer};
pub use processor::ImageProcessor;
pub use prompt::{MESSAGE_END, Message, PREFILL, Part, Prompter, QUESTION, Role, Sequence};
pub use qwen_image::{Grid, PatchProcessor, Patches};
pub use render::Renderer;
pub use resize::{resize, shrink, shrunk};
pub use thumbnail::{THUMBNAIL_SIDE, thumbnail};
pub use tokens::{CaptionTokenizer, Padding, Tokenizer};

/// A file of a model folder that is not as it should be.
pub(crate) fn model_error(path: impl AsRef<Path>, reason: impl Into<String>) -> Error {
    Error::Model {
        path: path.as_ref().to_path_buf(),
        reason: reason.into(),
    }
}
