//! A user's own images: from a folder or a table to a dataset, and to a finished sweep.

mod forms;
mod hub;
mod instances;
pub mod own;
mod refused;
mod sweep;

pub use forms::parquet;
