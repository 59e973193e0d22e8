//! Datasets in their official layouts: archives made here, the embedded pack, and the real label files.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests and their helpers")]

mod bad_input;
mod cache;
pub(crate) mod fixture;
mod four;
pub(crate) mod hub;
pub(crate) mod layouts;
mod mat;
mod pack;
mod parquet;
pub(crate) mod parquet_forms;
mod real_labels;
mod twins;
mod verify;
