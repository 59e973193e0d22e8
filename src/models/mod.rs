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

// The worked example of `docs/adding-a-model.md` is compiled and tested as any model.
#[cfg(test)]
#[path = "../../docs/examples/patch_means/mod.rs"]
pub mod patch_means_example;
