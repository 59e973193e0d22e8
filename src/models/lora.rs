//! Adapters on the linear layers of a model, whatever its architecture.

use std::path::Path;

use candle_core::{Device, Var};
use rand_chacha::ChaCha8Rng;

use super::expert_lora;
pub use crate::config::ExpertLora;
use crate::error::{Error, Result};
use crate::nn::{Experts, LowRank, Projection};

/// Low-rank adapters to add; by default none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lora {
    /// Linear layers to adapt: ends of hub names on a dot boundary (`query`, `output.dense`, `fc1`, …), where
    /// `*` stands for any one part (`visual.blocks.*.attn.qkv`). The stacks of a mixture of experts are
    /// `experts.gate_up_proj` and `experts.down_proj`; `gate_proj` and `up_proj` mean the former too, both halves of
    /// it. The router is never adapted.
    pub targets: Vec<String>,
    /// r
    pub rank: usize,
    /// The update is scaled by alpha / r.
    pub alpha: f64,
    /// Whether experts share factors.
    pub experts: ExpertLora,
}

impl Lora {
    /// The same at another rank, its update scaled alike.
    #[must_use]
    pub(crate) fn of_rank(self, rank: usize) -> Self {
        Self {
            alpha: self.alpha / self.rank as f64 * rank as f64,
            rank,
            ..self
        }
    }

    /// Whether the linear layer of this hub name gets an adapter.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.targets.iter().any(|target| {
            let mut parts = name.rsplit('.');
            target
                .rsplit('.')
                .all(|wanted| parts.next().is_some_and(|part| wanted == "*" || wanted == part))
        })
    }
}

/// A model whose linear layers can carry adapters. A clone is shallow: it shares all tensors and variables.
pub(super) trait Adaptable: Clone {
    /// All linear layers that can be adapted, in the order of the forward pass, with their hub names.
    fn layers_mut(&mut self) -> Vec<(String, &mut Projection)>;

    /// All stacks of experts, in the order of the forward pass, with their hub names.
    fn experts_mut(&mut self) -> Vec<(String, &mut Experts)> {
        Vec::new()
    }

    /// Where the model was loaded from.
    fn origin(&self) -> &str;

    /// Where its tensors are.
    fn device(&self) -> &Device;

    /// Copies of all linear layers (they share their tensors), with their hub names.
    fn layers(&self) -> Vec<(String, Projection)> {
        let mut model = self.clone();
        model
            .layers_mut()
            .into_iter()
            .map(|(name, layer)| (name, layer.clone()))
            .collect()
    }

    /// Copies of all stacks of experts (they share their tensors), with their hub names.
    fn stacks(&self) -> Vec<(String, Experts)> {
        let mut model = self.clone();
        let all = model.experts_mut().into_iter();
        all.map(|(name, stack)| (name, stack.clone())).collect()
    }

    /// The model with `change(name, stack)` in place of each stack of experts, in their order.
    fn map_experts(&self, mut change: impl FnMut(&str, &Experts) -> Result<Experts>) -> Result<Self> {
        let mut model = self.clone();
        for (name, stack) in model.experts_mut() {
            *stack = change(&name, stack)?;
        }
        Ok(model)
    }

    /// The model with `change(name, layer)` in place of each linear layer, in their order.
    fn map_layers(&self, mut change: impl FnMut(&str, &Projection) -> Result<Projection>) -> Result<Self> {
        let mut model = self.clone();
        for (name, layer) in model.layers_mut() {
            *layer = change(&name, layer)?;
        }
        Ok(model)
    }

    /// An error about this model.
    fn error(&self, reason: String) -> Error {
        Error::Model {
            path: Path::new(self.origin()).to_path_buf(),
            reason,
        }
    }
}

/// The model with fresh adapters in place of any it has: A as PEFT initialises it, B = 0, so the outputs
/// are still those of the base.
pub(super) fn with_lora<M: Adaptable>(model: &M, lora: &Lora, rng: &mut ChaCha8Rng) -> Result<M> {
    if lora.rank == 0 {
        return Err(model.error("a LoRA rank of 0 trains nothing".into()));
    }
    let device = model.device().clone();
    let mut matched = false;
    let adapted = model.map_layers(|name, layer| {
        if !lora.wants(name) {
            return Ok(layer.with_update(None));
        }
        matched = true;
        let update = LowRank::fresh(layer.inputs(), layer.outputs(), lora.rank, lora.alpha, rng, &device)?;
        Ok(layer.with_update(Some(update)))
    })?;
    let adapted = adapted.map_experts(|name, stack| {
        if !expert_lora::wanted(lora, name) {
            return Ok(stack.with_update(None));
        }
        matched = true;
        let update = expert_lora::fresh(name, stack, lora, rng, &device)?;
        Ok(stack.with_update(Some(update)))
    })?;
    if matched {
        return Ok(adapted);
    }
    let layers = model.layers().into_iter().map(|(name, _)| name).take(6);
    let stacks = model.stacks().into_iter().map(|(name, _)| name).take(2);
    let names: Vec<_> = layers.chain(stacks).collect();
    Err(model.error(format!(
        "no linear layer ends in any of {:?}; there are {}, …",
        lora.targets,
        names.join(", ")
    )))
}

/// The adapters' variables in the order of the layers, then of the stacks of experts, A before B, named as keys of
/// a PEFT adapter file over the hub's names.
pub(super) fn trainable<M: Adaptable>(model: &M) -> Vec<(String, Var)> {
    let mut all = Vec::new();
    for (name, layer) in model.layers() {
        if let Some(update) = layer.update() {
            all.push((super::peft::key(&name, "A"), update.a.clone()));
            all.push((super::peft::key(&name, "B"), update.b.clone()));
        }
    }
    for (module, factors) in expert_lora::named(&model.stacks()) {
        all.push((super::peft::key(&module, "A"), factors.a));
        all.push((super::peft::key(&module, "B"), factors.b));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_match_whole_parts_from_the_end() {
        let wants = |target: &str, name: &str| {
            Lora {
                targets: vec![target.into()],
                rank: 1,
                alpha: 1.0,
                experts: ExpertLora::Each,
            }
            .wants(name)
        };
        assert!(wants("fc1", "encoder.layer.0.mlp.fc1") && wants("mlp.fc1", "mlp.fc1"));
        assert!(!wants("fc1", "encoder.layer.0.mlp.linear_fc1") && !wants("mlp.fc1", "fc1"));
        assert!(wants("blocks.*.attn.qkv", "model.visual.blocks.11.attn.qkv"));
        assert!(!wants("blocks.*.qkv", "model.visual.blocks.11.attn.qkv"));
    }
}
