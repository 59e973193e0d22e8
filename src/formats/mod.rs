//! File formats: archives, MATLAB files, parquet files, images. Nothing here knows of datasets.

pub mod archive;
pub mod image;
pub(crate) mod image_processor;
mod jpeg;
pub mod mat;
pub mod parquet;
