//! PEFT adapter folders of Qwen3-VL. PEFT's module names are the hub's.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use super::Qwen3Vl;
use crate::error::{Error, Result};
use crate::models::lora::{self, Adaptable as _};
use crate::models::peft::{self, Description, Folder, Update};
use crate::nn::Experts;

/// The output layer.
const HEAD: &str = "lm_head";
/// A convolution that PEFT would take for a target named `proj`.
const PATCH_EMBED: &str = "model.visual.patch_embed.proj";

impl Qwen3Vl {
    /// Writes the adapters as a folder that `peft.PeftModel.from_pretrained` loads. Where experts share factors it is
    /// of kshot's own form, which this model alone loads: see [`Qwen3Vl::save_adapter_for_peft`].
    ///
    /// # Errors
    /// [`Error::Model`] when there is no adapter, or adapters of several ranks;
    /// [`Error::Io`].
    pub fn save_adapter(&self, dir: &Path) -> Result<()> {
        self.write_adapter(dir, self.adapter_shape()?, HashMap::new())
    }

    /// Writes the adapters as a folder that `peft.PeftModel.from_pretrained` loads, also where experts share factors:
    /// these are repeated for each expert, which computes the same and takes about four times the space.
    ///
    /// # Errors
    /// As [`Qwen3Vl::save_adapter`].
    pub fn save_adapter_for_peft(&self, dir: &Path) -> Result<()> {
        let shape = self.adapter_shape()?;
        let mut ranks = HashMap::new();
        let expanded = self.map_experts(|name, stack| {
            let Some(update) = stack.update() else {
                return Ok(stack.clone());
            };
            let (experts, ..) = stack.sizes();
            let update = update.expanded(experts)?;
            let own = update.rank(experts);
            if own != shape.0 {
                ranks.insert(stack_end(name).to_owned(), own);
            }
            Ok(stack.with_update(Some(update)))
        })?;
        expanded.write_adapter(dir, shape, ranks)
    }

    fn write_adapter(&self, dir: &Path, shape: (usize, f64), ranks: HashMap<String, usize>) -> Result<()> {
        let (layers, stacks) = (self.layers(), self.stacks());
        let updates = lora::factors(self).into_iter();
        let updates = updates.map(|(name, a, b)| (name, a.as_detached_tensor(), b.as_detached_tensor()));
        let updates: Vec<_> = updates.collect();
        let (adapted, others): (Vec<_>, Vec<_>) = layers.iter().partition(|(_, layer)| layer.update().is_some());
        let others = others.iter().map(|(name, _)| name.as_str());
        let others: Vec<&str> = others.chain([PATCH_EMBED]).collect();
        let mut updated = stacks.iter().filter_map(|(_, stack)| stack.update());
        let description = Description {
            base: &self.origin,
            task: Some("CAUSAL_LM"),
            targets: adapted
                .iter()
                .map(|(name, _)| target(name, &others).to_owned())
                .collect(),
            parameters: parameters(&stacks),
            experts: updated.next().map(lora::expert_form).unwrap_or_default(),
            shape,
            ranks,
        };
        peft::write(dir, &description, &updates)
    }

    /// Rank and alpha of the adapters.
    ///
    /// # Errors
    /// [`Error::Model`] when there is no adapter, or adapters of several ranks.
    pub fn adapter_shape(&self) -> Result<(usize, f64)> {
        lora::adapter_shape(self)
    }

    /// The model with the adapters of a PEFT folder in place of any it has; they can be trained on.
    ///
    /// # Errors
    /// [`Error::Model`] when the folder is no plain LoRA adapter or does not fit this model.
    pub fn load_adapter(&self, dir: &Path) -> Result<Self> {
        let mut folder = Folder::open(dir, &[], &self.origin)?;
        folder.saved(&[])?;
        let device = self.device();
        let mut model = self.map_layers(|name, layer| {
            let update = folder.take(&[name], layer.weight(), device)?;
            Ok(layer.with_update(update.map(Update::trainable).transpose()?))
        })?;
        if self.config.tied() && folder.has(HEAD) {
            if folder.changes_base() {
                return Err(Error::checkpoint(
                    dir,
                    "adapts `lm_head` after PiSSA or OLoRA took their start out of it; it is tied to the embedding, \
                     which PEFT changes with it",
                    "train it again without `lm_head` among the targets",
                ));
            }
            let update = folder.take(&[HEAD], model.head.weight(), device)?;
            model.head = model.head.with_update(update.map(Update::trainable).transpose()?);
        }
        // PEFT saves these too where it is told to, or takes the vocabulary for another one.
        folder.same_as(
            "model.language_model.embed_tokens.weight",
            &self.decoder.embedding,
            None,
        )?;
        folder.same_as("lm_head.weight", self.head.weight(), None)?;
        let model = model.map_experts(|name, stack| {
            let update = lora::take_expert_update(&mut folder, name, stack, self.device())?;
            Ok(stack.with_update(update))
        })?;
        folder.finish()?;
        Ok(model)
    }
}

/// The entry of `target_modules` for a module: the last part of its name where no module without adapter ends so.
fn target<'a>(name: &'a str, others: &[&str]) -> &'a str {
    let end = name.rsplit('.').next().unwrap_or(name);
    let shared = others.iter().any(|other| other.rsplit('.').next() == Some(end));
    if shared { name } else { end }
}

/// The end of a stack's name that all layers share: `mlp.experts.gate_up_proj`.
fn stack_end(name: &str) -> &str {
    let dots = name.rmatch_indices('.').nth(2);
    dots.map_or(name, |(at, _)| &name[at + 1..])
}

/// The entries of `target_parameters` for stacks: an end of their names, or whole names where others with that end have no
/// adapter.
fn parameters(stacks: &[(String, Experts)]) -> BTreeSet<String> {
    let (adapted, left): (Vec<_>, Vec<_>) = stacks.iter().partition(|(_, stack)| stack.update().is_some());
    let without = |end: &str| left.iter().any(|(name, _)| stack_end(name) == end);
    let entry = |(name, _): &(String, Experts)| {
        let end = stack_end(name);
        if without(end) { name.clone() } else { end.to_owned() }
    };
    adapted.into_iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_known_by_the_end_of_their_name() {
        let name = "model.language_model.layers.0.mlp.experts.down_proj";
        assert_eq!(stack_end(name), "mlp.experts.down_proj");
        assert_eq!(stack_end("experts.down_proj"), "experts.down_proj");
    }

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
