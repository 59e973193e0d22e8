//! Image + class → what a model sees: the only door for training *and* evaluation.

mod augment;
mod processor;
pub mod resize;

pub use processor::ImageProcessor;
pub use resize::resize;
