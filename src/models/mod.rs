//! Models with the tensor names of the Hugging Face hub, and PEFT adapters on them.

pub mod contrastive;
pub mod dinov2;
pub mod lora;
mod peft;
pub mod qwen3_vl;

use std::path::Path;

use crate::checkpoint::architecture::Architecture;
use crate::error::{Error, Result};
use contrastive::Family;

impl Architecture {
    /// Reads the text of a config of this architecture as a whole: what of it is not supported is told before any weights
    /// are there. `path` is what errors name.
    ///
    /// # Errors
    /// [`Error::Model`] that names the field.
    pub fn check(self, config: &[u8], path: &Path) -> Result<()> {
        let checked = match self {
            Self::Qwen3Vl => qwen3_vl::Config::parse(config).map(|_| ()),
            Self::Dinov2 => dinov2::Config::parse(config).map(|_| ()),
            Self::Clip => contrastive::Config::parse(config, Family::Clip).map(|_| ()),
            Self::Siglip => contrastive::Config::parse(config, Family::Siglip).map(|_| ()),
        };
        checked.map_err(|reason| Error::model(path, reason))
    }
}

// The worked example of `docs/adding-a-model.md` is compiled and tested as any model.
#[cfg(test)]
#[path = "../../docs/examples/patch_means/mod.rs"]
pub mod patch_means_example;
