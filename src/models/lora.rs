//! Adapters on the linear layers and stacks of experts of a model, whatever its architecture.
//!
//! With [`ExpertLora::Each`] a folder is what PEFT's `target_parameters` write: modules `…mlp.experts.base_layer`
//! for the stack `gate_up_proj` (`…mlp.experts` where `down_proj` has no adapter) and `…mlp.experts` for `down_proj`,
//! with factors as [`Sharing::Nothing`] has them. With [`ExpertLora::Shared`] it is kshot's own: modules
//! `…mlp.experts.gate_proj` and `up_proj`, each A (r, D) for all experts and B (E, middle, r); `…mlp.experts.down_proj`
//! with A (E, r, middle) and B (D, r) for all experts. The `peft_type` of its config is `KSHOT_LORA`, so that PEFT
//! refuses it instead of loading half of it; `Qwen3Vl::save_adapter_for_peft` writes the same update as PEFT's.

use candle_core::{Device, Var};
use rand_chacha::ChaCha8Rng;

use super::peft::{self, Folder};
pub use crate::config::ExpertLora;
use crate::error::{Error, Result};
use crate::nn::{ExpertFactors, ExpertUpdate, Experts, LowRank, Projection, Sharing};

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
    /// Sharing of factors between experts.
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

    /// True if the linear layer of this hub name gets an adapter.
    pub(crate) fn targets_module(&self, name: &str) -> bool {
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

    /// The folder the model was loaded from.
    fn origin(&self) -> &str;

    /// The device of its tensors.
    fn device(&self) -> &Device;

    /// Copies of all linear layers (they share their tensors), with their hub names.
    fn layers(&self) -> Vec<(String, Projection)> {
        let mut model = self.clone();
        let all = model.layers_mut().into_iter();
        all.map(|(name, layer)| (name, layer.clone())).collect()
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
    fn error(&self, reason: impl Into<String>) -> Error {
        Error::model(self.origin(), reason)
    }
}

/// The model with fresh adapters in place of any it has: A as PEFT initialises it, B = 0, so the outputs
/// are still those of the base.
pub(super) fn with_lora<M: Adaptable>(model: &M, lora: &Lora, rng: &mut ChaCha8Rng) -> Result<M> {
    if lora.rank == 0 {
        return Err(model.error("a LoRA rank of 0 trains nothing"));
    }
    let device = model.device().clone();
    let mut matched = false;
    let adapted = model.map_layers(|name, layer| {
        if !lora.targets_module(name) {
            return Ok(layer.with_update(None));
        }
        matched = true;
        let update = LowRank::fresh(layer.inputs(), layer.outputs(), lora.rank, lora.alpha, rng, &device)?;
        Ok(layer.with_update(Some(update)))
    })?;
    let adapted = adapted.map_experts(|name, stack| {
        if !is_expert_target(lora, name) {
            return Ok(stack.with_update(None));
        }
        matched = true;
        let update = fresh_expert_update(name, stack, lora, rng, &device)?;
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

/// The model with `change(variable)` in place of each variable of its adapters, in the order of [`trainable`].
pub(super) fn with_variables<M: Adaptable>(model: &M, mut change: impl FnMut(&Var) -> Result<Var>) -> Result<M> {
    let model = model.map_layers(|_, layer| {
        let Some(LowRank { a, b, scale }) = layer.update() else {
            return Ok(layer.clone());
        };
        Ok(layer.with_update(Some(LowRank {
            a: change(a)?,
            b: change(b)?,
            scale: *scale,
        })))
    })?;
    model.map_experts(|_, stack| {
        let Some(ExpertUpdate { parts, scale }) = stack.update() else {
            return Ok(stack.clone());
        };
        let part = |part: &ExpertFactors| {
            Ok(ExpertFactors {
                a: change(&part.a)?,
                b: change(&part.b)?,
                sharing: part.sharing,
            })
        };
        Ok(stack.with_update(Some(ExpertUpdate {
            parts: parts.iter().map(part).collect::<Result<_>>()?,
            scale: *scale,
        })))
    })
}

/// The factors A and B of all adapters with their modules, in the order of the layers, then of the stacks of experts.
pub(super) fn factors<M: Adaptable>(model: &M) -> Vec<(String, Var, Var)> {
    let layers = model.layers().into_iter().filter_map(|(name, layer)| {
        let LowRank { a, b, .. } = layer.update()?.clone();
        Some((name, a, b))
    });
    let experts = expert_factors(&model.stacks()).into_iter();
    layers
        .chain(experts.map(|(module, own)| (module, own.a, own.b)))
        .collect()
}

/// The same variables, A before B, named as keys of a PEFT adapter file over the hub's names.
pub(super) fn trainable<M: Adaptable>(model: &M) -> Vec<(String, Var)> {
    let named = |(module, a, b): (String, Var, Var)| [(peft::key(&module, "A"), a), (peft::key(&module, "B"), b)];
    factors(model).into_iter().flat_map(named).collect()
}

/// Rank and alpha of the adapters.
///
/// # Errors
/// [`Error::Model`] when there is no adapter, or adapters of several ranks.
pub(super) fn adapter_shape<M: Adaptable>(model: &M) -> Result<(usize, f64)> {
    let (layers, stacks) = (model.layers(), model.stacks());
    let of_layers = layers.iter().filter_map(|(_, layer)| {
        let update = layer.update()?;
        Some((update.a.dims()[0], update.scale))
    });
    let of_stacks = stacks.iter().filter_map(|(_, stack)| {
        let update = stack.update()?;
        Some((update.rank(stack.sizes().0), update.scale))
    });
    let mut shape = None;
    for (rank, scale) in of_layers.chain(of_stacks) {
        let this = (rank, scale * rank as f64);
        if *shape.get_or_insert(this) != this {
            return Err(model.error("adapters of several ranks cannot be saved"));
        }
    }
    shape.ok_or_else(|| model.error("there is no adapter to save"))
}

/// The stack that holds gate and up projection together.
const GATE_UP: &str = "gate_up_proj";
/// Parts of that stack in the shared form.
const HALVES: [&str; 2] = ["gate_proj", "up_proj"];

/// The name without its last part, and whether that is `gate_up_proj`.
fn parent_module(stack: &str) -> (&str, bool) {
    let parts = stack.rsplit_once('.');
    parts.map_or((stack, false), |(parent, end)| (parent, end == GATE_UP))
}

/// True if the targets name this stack, by its own name or by that of one of its halves.
pub(crate) fn is_expert_target(lora: &Lora, stack: &str) -> bool {
    let (parent, halves) = parent_module(stack);
    let targets_half = || {
        let mut names = HALVES.iter().map(|half| format!("{parent}.{half}"));
        names.any(|name| lora.targets_module(&name))
    };
    lora.targets_module(stack) || halves && targets_half()
}

/// An update that changes nothing yet.
fn fresh_expert_update(
    name: &str,
    stack: &Experts,
    lora: &Lora,
    rng: &mut ChaCha8Rng,
    device: &Device,
) -> Result<ExpertUpdate> {
    let parts = expert_parts(name, stack, lora.experts);
    let part = |(sizes, sharing)| ExpertFactors::fresh(sizes, lora.rank, sharing, rng, device);
    Ok(ExpertUpdate {
        parts: parts.into_iter().map(part).collect::<Result<_>>()?,
        scale: lora.alpha / lora.rank as f64,
    })
}

/// Sizes and sharing of the parts of an update.
fn expert_parts(name: &str, stack: &Experts, form: ExpertLora) -> Vec<((usize, usize, usize), Sharing)> {
    let (experts, inputs, outputs) = stack.sizes();
    match (form, parent_module(name).1) {
        (ExpertLora::Each, _) => vec![((experts, inputs, outputs), Sharing::Nothing)],
        (ExpertLora::Shared, true) => vec![((experts, inputs, outputs / 2), Sharing::Inputs); 2],
        (ExpertLora::Shared, false) => vec![((experts, inputs, outputs), Sharing::Outputs)],
    }
}

/// The modules of the parts of an update; `both` where the two stacks of a layer have one.
fn expert_modules(name: &str, form: ExpertLora, both: bool) -> Vec<String> {
    let (parent, halves) = parent_module(name);
    match (form, halves) {
        (ExpertLora::Each, true) if both => vec![format!("{parent}.base_layer")],
        (ExpertLora::Each, _) => vec![parent.to_owned()],
        (ExpertLora::Shared, true) => HALVES.map(|half| format!("{parent}.{half}")).into(),
        (ExpertLora::Shared, false) => vec![name.to_owned()],
    }
}

/// The form of an update.
pub(super) fn expert_form(update: &ExpertUpdate) -> ExpertLora {
    let own = update.parts.iter().all(|part| part.sharing == Sharing::Nothing);
    if own { ExpertLora::Each } else { ExpertLora::Shared }
}

/// The factors of all stacks with their modules.
fn expert_factors(stacks: &[(String, Experts)]) -> Vec<(String, ExpertFactors)> {
    let adapted = |parent_of: &str| {
        let of_it = |(name, stack): &&(String, Experts)| parent_module(name).0 == parent_of && stack.update().is_some();
        stacks.iter().filter(of_it).count() > 1
    };
    let mut all = Vec::new();
    for (name, stack) in stacks {
        if let Some(update) = stack.update() {
            let modules = expert_modules(name, expert_form(update), adapted(parent_module(name).0));
            all.extend(modules.into_iter().zip(update.parts.iter().cloned()));
        }
    }
    all
}

/// The update of a stack in an adapter folder, if there is one.
///
/// # Errors
/// When the device fails; what does not fit is reported by [`Folder::finish`].
pub(super) fn take_expert_update(
    folder: &mut Folder,
    name: &str,
    stack: &Experts,
    device: &Device,
) -> Result<Option<ExpertUpdate>> {
    let form = folder.experts();
    let (parent, _) = parent_module(name);
    let inner = folder.has(&format!("{parent}.base_layer"));
    // A stack that is alone in its layer has the module's own name, whichever it is: the config says which.
    let alone = form == ExpertLora::Each && !inner;
    if alone && folder.names_parameter(name) != Some(true) {
        return Ok(None);
    }
    let modules = expert_modules(name, form, inner);
    let mut found = Vec::new();
    let mut scale = None;
    for (module, (sizes, sharing)) in modules.iter().zip(expert_parts(name, stack, form)) {
        if let Some((factors, own)) = folder.take_experts((module, name), sizes, sharing, device)? {
            found.push(factors);
            scale = Some(own);
        }
    }
    // Half an update is left to be reported as missing.
    let scale = scale.filter(|_| found.len() == modules.len());
    Ok(scale.map(|scale| ExpertUpdate { parts: found, scale }))
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
            .targets_module(name)
        };
        assert!(wants("fc1", "encoder.layer.0.mlp.fc1") && wants("mlp.fc1", "mlp.fc1"));
        assert!(!wants("fc1", "encoder.layer.0.mlp.linear_fc1") && !wants("mlp.fc1", "fc1"));
        assert!(wants("blocks.*.attn.qkv", "model.visual.blocks.11.attn.qkv"));
        assert!(!wants("blocks.*.qkv", "model.visual.blocks.11.attn.qkv"));
    }
}
