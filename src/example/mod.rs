//! Image + class → inputs of a model: the one way for training *and* evaluation.

mod augment;
mod captions;
mod chat;
mod grid;
mod image_cache;
mod input;
mod label;
mod loader;
mod processor;
mod prompt;
mod qwen_image;
mod render;
pub mod resize;
mod tokens;

pub use captions::{CaptionTokenizer, Padding};
pub use chat::{ChatTemplate, Message, Part, Role};
pub use grid::Grid;
pub use image_cache::{ImageCache, cached};
pub use input::{Chunk, Datum, ModelInput, Picture, PictureKey};
pub use label::{compared, written};
pub use loader::{ImageLoader, LongestSide, Resizer};
pub use processor::ImageProcessor;
pub use prompt::{MESSAGE_END, PREFILL, Prompter, QUESTION, Sequence};
pub use qwen_image::{PatchProcessor, Patches};
pub use render::Renderer;
pub use resize::{resize, shrink, shrunk};
pub use tokens::Tokenizer;
