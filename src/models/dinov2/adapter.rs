//! PEFT adapter folders: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Two styles of names are in use. Over transformers 4, keys follow the hub's names
//! (`…attention.attention.query.lora_A.weight`); over transformers 5, its renamed modules
//! (`…attention.q_proj.lora_A.weight`), with `weights_in` of SwiGLU split into `gate_proj` and
//! `up_proj`. Both are read; the second is written, since PEFT finds modules by the names of the
//! transformers it runs with.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use candle_core::{DType, Tensor, Var};
use serde::{Deserialize, Serialize};

use super::Dinov2;
use crate::error::{Error, Result};
use crate::models::weights::Weights;
use crate::nn::{LowRank, Projection};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// Hub names of modules and the names transformers 5 gives them.
const RENAMED: [(&str, &str); 5] = [
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"),
    ("attention.attention.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
    ("mlp.weights_out", "mlp.down_proj"),
];
/// `weights_in` of SwiGLU in transformers 5: the first half of its outputs, and the second.
const SPLIT: [&str; 2] = ["mlp.gate_proj", "mlp.up_proj"];

/// The key of matrix `A` or `B` of a module.
pub(super) fn key(module: &str, matrix: &str) -> String {
    format!("base_model.model.{module}.lora_{matrix}.weight")
}

/// The fields of `adapter_config.json` that change what an adapter computes, as PEFT names them.
#[derive(Debug, Serialize, Deserialize)]
struct AdapterConfig {
    peft_type: String,
    #[serde(default)]
    base_model_name_or_path: Option<String>,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    target_modules: serde_json::Value,
    #[serde(default)]
    rank_pattern: HashMap<String, usize>,
    #[serde(default)]
    alpha_pattern: HashMap<String, f64>,
    #[serde(default)]
    lora_dropout: f64,
    #[serde(default = "none")]
    bias: String,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    inference_mode: bool,
    #[serde(default)]
    task_type: Option<String>,
}

fn none() -> String {
    "none".into()
}

impl Dinov2 {
    /// Writes the adapters as a folder that `peft.PeftModel.from_pretrained` loads over transformers 5.
    ///
    /// # Errors
    /// [`Error::Model`] when there is no adapter, or adapters of several ranks; [`Error::Io`].
    pub fn save_adapter(&self, dir: &Path) -> Result<()> {
        let mut tensors = HashMap::new();
        let mut targets = BTreeSet::new();
        let mut shape = None;
        for (name, layer) in self.projections() {
            let Some(update) = layer.update() else {
                continue;
            };
            let rank = update.a.dims()[0];
            let alpha = update.scale * rank as f64;
            if *shape.get_or_insert((rank, alpha)) != (rank, alpha) {
                return Err(self.error("adapters of several ranks cannot be saved".into()));
            }
            for (module, a, b) in written(&name, update)? {
                targets.insert(module.rsplit('.').next().unwrap_or(&module).to_owned());
                tensors.insert(key(&module, "A"), a);
                tensors.insert(key(&module, "B"), b);
            }
        }
        let Some((r, lora_alpha)) = shape else {
            return Err(self.error("there is no adapter to save".into()));
        };
        let config = AdapterConfig {
            peft_type: "LORA".into(),
            base_model_name_or_path: Some(self.origin.to_string()),
            r,
            lora_alpha,
            target_modules: serde_json::json!(targets),
            rank_pattern: HashMap::new(),
            alpha_pattern: HashMap::new(),
            lora_dropout: 0.0,
            bias: none(),
            use_rslora: false,
            use_dora: false,
            fan_in_fan_out: false,
            inference_mode: true,
            task_type: None,
        };
        std::fs::create_dir_all(dir).map_err(Error::io("make", dir))?;
        let path = dir.join(WEIGHTS);
        let bytes =
            safetensors::serialize(&tensors, Some(HashMap::from([("format".into(), "pt".into())]))).map_err(|e| {
                Error::Model {
                    path: path.clone(),
                    reason: format!("cannot be written: {e}"),
                }
            })?;
        std::fs::write(&path, bytes).map_err(Error::io("write", &path))?;
        let path = dir.join(CONFIG);
        let mut text = serde_json::to_string_pretty(&config).map_err(|e| Error::Model {
            path: path.clone(),
            reason: e.to_string(),
        })?;
        text.push('\n');
        std::fs::write(&path, text).map_err(Error::io("write", &path))
    }

    /// The model with the adapters of a PEFT folder in place of any it has; they can be trained on.
    ///
    /// # Errors
    /// [`Error::Model`] when the folder is no plain LoRA adapter or does not fit this model.
    pub fn load_adapter(&self, dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG);
        let fail = |reason: String| Error::Model {
            path: path.clone(),
            reason,
        };
        let text = std::fs::read(&path).map_err(|e| fail(format!("cannot be read: {e}")))?;
        let config: AdapterConfig =
            serde_json::from_slice(&text).map_err(|e| fail(format!("not an adapter config: {e}")))?;
        if config.peft_type != "LORA" || config.use_dora || config.fan_in_fan_out || config.bias != "none" {
            return Err(fail("only plain LoRA is supported (no DoRA, no trained biases)".into()));
        }
        if !config.alpha_pattern.is_empty() {
            return Err(fail("an alpha per layer (`alpha_pattern`) is not supported".into()));
        }
        let file = dir.join(WEIGHTS);
        let mut weights = Weights::from_files(&file, std::slice::from_ref(&file))?
            .without_prefix("base_model.model.")
            .without_prefix("dinov2.")
            .without_prefix("dinov2_with_registers.");
        let shapes: BTreeMap<String, Vec<usize>> = weights
            .shapes()
            .map(|(name, shape)| (name.to_owned(), shape.to_vec()))
            .collect();
        let rank_of = |module: &str| {
            shapes
                .get(&format!("{module}.lora_A.weight"))
                .and_then(|shape| shape.first())
                .copied()
        };
        let scale = |rank: usize| {
            let rank = rank as f64;
            config.lora_alpha / if config.use_rslora { rank.sqrt() } else { rank }
        };
        let mut take = |module: &str, layer: &Projection, outputs: usize| -> Result<Option<(Tensor, Tensor, f64)>> {
            let Some(rank) = rank_of(module).filter(|&rank| rank > 0) else {
                return Ok(None);
            };
            let a = weights.take(
                &format!("{module}.lora_A.weight"),
                &[rank, layer.inputs()],
                self.device(),
            )?;
            let b = weights.take(&format!("{module}.lora_B.weight"), &[outputs, rank], self.device())?;
            Ok(Some((a, b, scale(rank))))
        };
        let mut found = false;
        let model = self.map_projections(|name, layer| {
            let update = match split(name) {
                Some([gate, up]) if rank_of(name).is_none() => {
                    let half = layer.outputs() / 2;
                    join(take(&gate, layer, half)?, take(&up, layer, half)?)?
                }
                _ => match take(name, layer, layer.outputs())? {
                    Some(update) => Some(update),
                    None => take(&renamed(name), layer, layer.outputs())?,
                },
            };
            found |= update.is_some();
            let update = match update {
                Some((a, b, scale)) => Some(LowRank {
                    a: Var::from_tensor(&a)?,
                    b: Var::from_tensor(&b)?,
                    scale,
                }),
                None => None,
            };
            Ok(layer.with_update(update))
        })?;
        weights.finish()?;
        if found {
            Ok(model)
        } else {
            Err(fail("holds no adapter for this model".into()))
        }
    }
}

/// The name of a module in transformers 5.
fn renamed(name: &str) -> String {
    for (hub, new) in RENAMED {
        if let Some(head) = name.strip_suffix(hub) {
            return format!("{head}{new}");
        }
    }
    name.to_owned()
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
fn join(
    gate: Option<(Tensor, Tensor, f64)>,
    up: Option<(Tensor, Tensor, f64)>,
) -> Result<Option<(Tensor, Tensor, f64)>> {
    let blank = |(a, b, scale): &(Tensor, Tensor, f64)| -> Result<(Tensor, Tensor, f64)> {
        Ok((a.clone(), b.zeros_like()?, *scale))
    };
    let ((a1, b1, scale), (a2, b2, scale2)) = match (gate, up) {
        (None, None) => return Ok(None),
        (Some(gate), None) => {
            let up = blank(&gate)?;
            (gate, up)
        }
        (None, Some(up)) => (blank(&up)?, up),
        (Some(gate), Some(up)) => (gate, up),
    };
    if a1.dims() == a2.dims() && scale == scale2 && a1.to_vec2::<f32>()? == a2.to_vec2::<f32>()? {
        return Ok(Some((a1, Tensor::cat(&[&b1, &b2], 0)?, scale)));
    }
    let b2 = (b2 * (scale2 / scale))?;
    let (half, r1, r2) = (b1.dim(0)?, b1.dim(1)?, b2.dim(1)?);
    let zeros = |columns: usize| Tensor::zeros((half, columns), DType::F32, b1.device());
    let first = Tensor::cat(&[&b1, &zeros(r2)?], 1)?;
    let second = Tensor::cat(&[&zeros(r1)?, &b2], 1)?;
    Ok(Some((
        Tensor::cat(&[&a1, &a2], 0)?,
        Tensor::cat(&[&first, &second], 0)?,
        scale,
    )))
}
