//! Models with the tensor names and folder layout of the Hugging Face hub.

pub mod architecture;
mod bounds;
pub mod contrastive;
pub mod dinov2;
pub(crate) mod folder;
pub mod lora;
mod peft;
pub mod qwen3_vl;
pub mod repository;
pub mod shapes;
pub mod weights;
