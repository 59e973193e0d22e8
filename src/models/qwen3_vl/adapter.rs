//! PEFT adapter folders of Qwen3-VL. PEFT's module names are the hub's.

use std::path::Path;

use super::Qwen3Vl;
use crate::error::Result;
use crate::models::lora::Adaptable as _;
use crate::models::peft::{self, Description, Folder};

/// A convolution that PEFT would take for a target named `proj`.
const PATCH_EMBED: &str = "model.visual.patch_embed.proj";

impl Qwen3Vl {
    /// Writes the adapters as a folder that `peft.PeftModel.from_pretrained` loads.
    ///
    /// # Errors
    /// [`crate::error::Error::Model`] when there is no adapter, or adapters of several ranks;
    /// [`crate::error::Error::Io`].
    pub fn save_adapter(&self, dir: &Path) -> Result<()> {
        let layers = self.layers();
        let adapted = || {
            layers
                .iter()
                .filter_map(|(name, layer)| Some((name.as_str(), layer.update()?)))
        };
        let (rank, alpha) = self.adapter_shape()?;
        let matrices = |(name, update): (&str, &crate::nn::LowRank)| {
            (
                name.to_owned(),
                update.a.as_tensor().detach(),
                update.b.as_tensor().detach(),
            )
        };
        let updates: Vec<_> = adapted().map(matrices).collect();
        let others = layers
            .iter()
            .filter(|(_, layer)| layer.update().is_none())
            .map(|(name, _)| name.as_str());
        let others: Vec<&str> = others.chain([PATCH_EMBED]).collect();
        let mut targets: Vec<String> = adapted().map(|(name, _)| target(name, &others).to_owned()).collect();
        targets.sort();
        targets.dedup();
        let description = Description {
            base: &self.origin,
            task: Some("CAUSAL_LM"),
            targets,
            rank,
            alpha,
        };
        peft::write(dir, &description, &updates)
    }

    /// Rank and alpha of the adapters.
    ///
    /// # Errors
    /// [`crate::error::Error::Model`] when there is no adapter, or adapters of several ranks.
    pub fn adapter_shape(&self) -> Result<(usize, f64)> {
        let layers = self.layers();
        let updates = layers.iter().filter_map(|(_, layer)| layer.update());
        peft::common_shape(updates).map_err(|e| self.error(e.into()))
    }

    /// The model with the adapters of a PEFT folder in place of any it has; they can be trained on.
    ///
    /// # Errors
    /// [`crate::error::Error::Model`] when the folder is no plain LoRA adapter or does not fit this model.
    pub fn load_adapter(&self, dir: &Path) -> Result<Self> {
        let mut folder = Folder::open(dir, &[])?;
        let model = self.map_layers(|name, layer| {
            let update = folder.take(name, layer, layer.outputs(), self.device())?;
            Ok(layer.with_update(update.map(|update| update.trainable()).transpose()?))
        })?;
        folder.finish()?;
        Ok(model)
    }
}

/// How PEFT is told of a module: by the last part of its name where no module without adapter ends so.
fn target<'a>(name: &'a str, others: &[&str]) -> &'a str {
    let end = name.rsplit('.').next().unwrap_or(name);
    let shared = others.iter().any(|other| other.rsplit('.').next() == Some(end));
    if shared { name } else { end }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_means_no_module_without_adapter() {
        let others = ["model.visual.merger.linear_fc1", PATCH_EMBED];
        assert_eq!(target("model.language_model.layers.0.mlp.up_proj", &others), "up_proj");
        assert_eq!(
            target("model.visual.blocks.0.mlp.linear_fc1", &others),
            "model.visual.blocks.0.mlp.linear_fc1"
        );
        assert_eq!(
            target("model.visual.blocks.0.attn.proj", &others),
            "model.visual.blocks.0.attn.proj"
        );
    }
}
