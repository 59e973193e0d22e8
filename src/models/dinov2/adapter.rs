//! PEFT adapter folders: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Two styles of names are in use. Over transformers 4, keys follow the hub's names
//! (`…attention.attention.query.lora_A.weight`); over transformers 5, its renamed modules
//! (`…attention.q_proj.lora_A.weight`), with `weights_in` of SwiGLU split into `gate_proj` and
//! `up_proj`. Both are read; the second is written, since PEFT finds modules by the names of the
//! transformers it runs with.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use candle_core::{DType, Tensor};

use super::Dinov2;
use crate::config::ExpertLora;
use crate::error::{Error, Result};
use crate::models::lora::{self, Adaptable as _};
use crate::models::peft::{self, Description, Folder, Update};
use crate::nn::{DeviceSpec, LowRank};

/// Hub names of modules and the names transformers 5 gives them.
const RENAMED: [(&str, &str); 5] = [
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"),
    ("attention.attention.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
    ("mlp.weights_out", "mlp.down_proj"),
];
/// The prefix of the backbone's names in a classifier's checkpoint.
const PREFIXES: &[&str] = &["dinov2.", "dinov2_with_registers."];
/// The head of `Dinov2ForImageClassification`.
const CLASSIFIER: &str = "classifier";
/// `weights_in` of SwiGLU in transformers 5: the first half of its outputs, and the second.
const SPLIT: [&str; 2] = ["mlp.gate_proj", "mlp.up_proj"];

impl Dinov2 {
    /// Writes the adapters as a folder that `peft.PeftModel.from_pretrained` loads over transformers 5.
    ///
    /// # Errors
    /// [`Error::Model`] when there is no adapter, or adapters of several ranks;
    /// [`Error::Io`].
    pub fn save_adapter(&self, dir: &Path) -> Result<()> {
        let shape = lora::adapter_shape(self)?;
        let mut updates = Vec::new();
        for (name, layer) in self.layers() {
            if let Some(update) = layer.update() {
                updates.extend(written(&name, update)?);
            }
        }
        let end = |(module, ..): &(String, _, _)| module.rsplit('.').next().unwrap_or(module).to_owned();
        let description = Description {
            base: &self.origin,
            task: None,
            targets: updates.iter().map(end).collect(),
            parameters: BTreeSet::new(),
            experts: ExpertLora::Each,
            shape,
            ranks: HashMap::new(),
        };
        peft::write(dir, &description, &updates)
    }

    /// The model with the adapters of a PEFT folder in place of any it has; they can be trained on.
    ///
    /// # Errors
    /// [`Error::Model`] when the folder is no plain LoRA adapter or does not fit this model.
    pub fn load_adapter(&self, dir: &Path) -> Result<Self> {
        let mut folder = Folder::open(dir, PREFIXES, &self.origin)?;
        if !folder.saved(&[CLASSIFIER])?.is_empty() {
            folder
                .weights
                .ignore(|name| name.strip_prefix(CLASSIFIER).is_some_and(|end| end.starts_with('.')));
        }
        let device = self.device();
        let model = self.map_layers(|name, layer| {
            let weight = layer.weight();
            let update = match split(name) {
                Some([gate, up]) if !folder.has(name) => {
                    let half = layer.outputs() / 2;
                    join(
                        folder.take(&[&gate], &weight.narrow(0, 0, half)?, device)?,
                        folder.take(&[&up], &weight.narrow(0, half, half)?, device)?,
                    )?
                }
                _ => folder.take(&[name, &renamed(name)], weight, device)?,
            };
            Ok(layer.with_update(update.map(Update::trainable).transpose()?))
        })?;
        folder.finish()?;
        Ok(model)
    }

    /// Weight (C, 2D) and bias (C) of the classifier that was trained with the adapters of a PEFT folder
    /// (`modules_to_save = ["classifier"]` of `Dinov2ForImageClassification`, on [CLS; mean patch]), if it has one.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when it is not of so many classes, or does not fit this model.
    pub fn load_classifier(&self, dir: &Path, classes: usize) -> Result<Option<(Tensor, Tensor)>> {
        let folder = Folder::open(dir, PREFIXES, &self.origin)?;
        if folder.saved(&[CLASSIFIER])?.is_empty() {
            return Ok(None);
        }
        let (weight, bias) = (format!("{CLASSIFIER}.weight"), format!("{CLASSIFIER}.bias"));
        let mut weights = folder.weights;
        let outputs = weights.shape(&bias).and_then(|shape| shape.first()).copied();
        if let Some(outputs) = outputs.filter(|&outputs| outputs != classes) {
            return Err(Error::checkpoint(
                dir,
                format!("has a classifier of {outputs} classes, there are {classes} class names"),
                "give the class names in the order of the classifier's labels with `--labels FILE`",
            ));
        }
        let (features, spec) = (2 * self.hidden_size(), &DeviceSpec::f32(self.device()));
        let found = (
            weights.take(&weight, &[classes, features], spec)?,
            weights.take(&bias, &[classes], spec)?,
        );
        weights.ignore(|_| true);
        weights.finish()?;
        Ok(Some(found))
    }
}

/// The name of a module in transformers 5.
fn renamed(name: &str) -> String {
    let mut renamed = RENAMED.iter();
    let found = renamed.find_map(|(hub, new)| Some(format!("{}{new}", name.strip_suffix(hub)?)));
    found.unwrap_or_else(|| name.to_owned())
}

/// The two modules into which transformers 5 splits this one.
fn split(name: &str) -> Option<[String; 2]> {
    let head = name.strip_suffix("mlp.weights_in")?;
    Some(SPLIT.map(|part| format!("{head}{part}")))
}

/// The modules, with A and B, as which an update is written.
fn written(name: &str, update: &LowRank) -> Result<Vec<(String, Tensor, Tensor)>> {
    let (a, b) = (update.a.as_tensor().detach(), update.b.as_tensor().detach());
    let Some([gate, up]) = split(name) else {
        return Ok(vec![(renamed(name), a, b)]);
    };
    let half = b.dim(0)? / 2;
    let (first, second) = (
        b.narrow(0, 0, half)?.force_contiguous()?,
        b.narrow(0, half, half)?.force_contiguous()?,
    );
    Ok(vec![(gate, a.clone(), first), (up, a, second)])
}

/// The update of `weights_in` from those of its halves.
///
/// Halves that share A, as [`written`] leaves them, keep their rank; others need the sum of both.
fn join(gate: Option<Update>, up: Option<Update>) -> Result<Option<Update>> {
    let blank = |half: &Update| -> Result<Update> {
        Ok(Update {
            b: half.b.zeros_like()?,
            ..half.clone()
        })
    };
    let (gate, up) = match (gate, up) {
        (None, None) => return Ok(None),
        (Some(gate), None) => (gate.clone(), blank(&gate)?),
        (None, Some(up)) => (blank(&up)?, up.clone()),
        (Some(gate), Some(up)) => (gate, up),
    };
    let scale = gate.scale;
    if gate.a.dims() == up.a.dims() && scale == up.scale && gate.a.to_vec2::<f32>()? == up.a.to_vec2::<f32>()? {
        return Ok(Some(Update {
            b: Tensor::cat(&[&gate.b, &up.b], 0)?,
            ..gate
        }));
    }
    let up_b = (&up.b * (up.scale / scale))?;
    let (half, gate_rank, up_rank) = (gate.b.dim(0)?, gate.b.dim(1)?, up.b.dim(1)?);
    let zeros = |columns: usize| Tensor::zeros((half, columns), DType::F32, gate.b.device());
    let first = Tensor::cat(&[&gate.b, &zeros(up_rank)?], 1)?;
    let second = Tensor::cat(&[&zeros(gate_rank)?, &up_b], 1)?;
    let (a, b) = (Tensor::cat(&[&gate.a, &up.a], 0)?, Tensor::cat(&[&first, &second], 0)?);
    Ok(Some(Update { a, b, scale }))
}
