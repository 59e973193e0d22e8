//! File formats: archives, MATLAB files, parquet files, images. Nothing here knows of datasets.

pub mod archive;
pub mod image;
pub(crate) mod image_processor;
mod jpeg;
pub mod mat;
pub mod parquet;

/// Names for a message: `a`, `b`.
pub(crate) fn quoted<T: std::fmt::Display>(names: impl IntoIterator<Item = T>) -> String {
    let names = names.into_iter().map(|name| format!("`{name}`"));
    names.collect::<Vec<_>>().join(", ")
}
