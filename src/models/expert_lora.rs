//! Adapters on stacks of experts: which factors there are, and what they are called in a file.
//!
//! With [`ExpertLora::Each`] a folder is what PEFT's `target_parameters` write: modules `…mlp.experts.base_layer`
//! for the stack `gate_up_proj` (`…mlp.experts` where `down_proj` has no adapter) and `…mlp.experts` for `down_proj`,
//! with factors as [`Sharing::Nothing`] has them. With [`ExpertLora::Shared`] it is kshot's own: modules
//! `…mlp.experts.gate_proj` and `up_proj`, each A (r, D) for all experts and B (E, middle, r); `…mlp.experts.down_proj`
//! with A (E, r, middle) and B (D, r) for all experts. The `peft_type` of its config is `KSHOT_LORA`, so that PEFT
//! refuses it instead of loading half of it; `Qwen3Vl::save_adapter_for_peft` writes the same update as PEFT's.

use candle_core::Device;
use rand_chacha::ChaCha8Rng;

use super::lora::{ExpertLora, Lora};
use super::peft::Folder;
use crate::error::Result;
use crate::nn::{ExpertFactors, ExpertUpdate, Experts, Sharing};

/// The stack that holds gate and up projection together.
const GATE_UP: &str = "gate_up_proj";
/// Parts of that stack in the shared form.
const HALVES: [&str; 2] = ["gate_proj", "up_proj"];

/// The name without its last part, and whether that is `gate_up_proj`.
fn parent(stack: &str) -> (&str, bool) {
    stack
        .rsplit_once('.')
        .map_or((stack, false), |(parent, end)| (parent, end == GATE_UP))
}

/// True if the targets name this stack, by its own name or by that of one of its halves.
pub(crate) fn is_target(lora: &Lora, stack: &str) -> bool {
    let (parent, halves) = parent(stack);
    lora.targets_module(stack)
        || halves
            && HALVES
                .iter()
                .any(|half| lora.targets_module(&format!("{parent}.{half}")))
}

/// An update that changes nothing yet.
pub(super) fn fresh(
    name: &str,
    stack: &Experts,
    lora: &Lora,
    rng: &mut ChaCha8Rng,
    device: &Device,
) -> Result<ExpertUpdate> {
    let parts = parts(name, stack, lora.experts);
    let part = |(sizes, sharing)| ExpertFactors::fresh(sizes, lora.rank, sharing, rng, device);
    Ok(ExpertUpdate {
        parts: parts.into_iter().map(part).collect::<Result<_>>()?,
        scale: lora.alpha / lora.rank as f64,
    })
}

/// Sizes and sharing of the parts of an update.
fn parts(name: &str, stack: &Experts, form: ExpertLora) -> Vec<((usize, usize, usize), Sharing)> {
    let (experts, inputs, outputs) = stack.sizes();
    match (form, parent(name).1) {
        (ExpertLora::Each, _) => vec![((experts, inputs, outputs), Sharing::Nothing)],
        (ExpertLora::Shared, true) => vec![((experts, inputs, outputs / 2), Sharing::Inputs); 2],
        (ExpertLora::Shared, false) => vec![((experts, inputs, outputs), Sharing::Outputs)],
    }
}

/// The modules of the parts of an update; `both` where the two stacks of a layer have one.
fn modules(name: &str, form: ExpertLora, both: bool) -> Vec<String> {
    let (parent, halves) = parent(name);
    match (form, halves) {
        (ExpertLora::Each, true) if both => vec![format!("{parent}.base_layer")],
        (ExpertLora::Each, _) => vec![parent.to_owned()],
        (ExpertLora::Shared, true) => HALVES.map(|half| format!("{parent}.{half}")).into(),
        (ExpertLora::Shared, false) => vec![name.to_owned()],
    }
}

/// The form of an update.
pub(super) fn form(update: &ExpertUpdate) -> ExpertLora {
    let own = update.parts.iter().all(|part| part.sharing == Sharing::Nothing);
    if own { ExpertLora::Each } else { ExpertLora::Shared }
}

/// The factors of all stacks with their modules.
pub(super) fn named(stacks: &[(String, Experts)]) -> Vec<(String, ExpertFactors)> {
    let adapted = |parent_of: &str| {
        let of_it = |(name, stack): &&(String, Experts)| parent(name).0 == parent_of && stack.update().is_some();
        stacks.iter().filter(of_it).count() > 1
    };
    let mut all = Vec::new();
    for (name, stack) in stacks {
        if let Some(update) = stack.update() {
            let modules = modules(name, form(update), adapted(parent(name).0));
            all.extend(modules.into_iter().zip(update.parts.iter().cloned()));
        }
    }
    all
}

/// The update of a stack in an adapter folder, if there is one.
///
/// # Errors
/// When the device fails; what does not fit is reported by [`Folder::finish`].
pub(super) fn take(folder: &mut Folder, name: &str, stack: &Experts, device: &Device) -> Result<Option<ExpertUpdate>> {
    let form = folder.experts();
    let (parent, _) = parent(name);
    let inner = folder.holds(&format!("{parent}.base_layer"));
    // A stack that is alone in its layer has the module's own name, whichever it is: the config says which.
    let alone = form == ExpertLora::Each && !inner;
    if alone && folder.names_parameter(name) != Some(true) {
        return Ok(None);
    }
    let modules = modules(name, form, inner);
    let mut found = Vec::new();
    let mut scale = None;
    for (module, (sizes, sharing)) in modules.iter().zip(parts(name, stack, form)) {
        if let Some((factors, own)) = folder.take_experts((module, name), sizes, sharing, device)? {
            found.push(factors);
            scale = Some(own);
        }
    }
    // Half an update is left to be reported as missing.
    let whole = found.len() == modules.len();
    Ok(scale
        .filter(|_| whole)
        .map(|scale| ExpertUpdate { parts: found, scale }))
}
