//! All integration tests are one binary: each one links candle again.

mod dinov2;
mod goldens;
mod gradients;
mod model_folder;
mod processor;
