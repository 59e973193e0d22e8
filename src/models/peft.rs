//! PEFT adapter folders: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use super::lora::ExpertLora;
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::nn::{ExpertFactors, LowRank, Place, Projection, Sharing};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";
const LORA: &str = "LORA";
/// Plain LoRA whose experts share factors, which PEFT has no form for.
const SHARED: &str = "KSHOT_LORA";

/// The key of matrix `A` or `B` of a module.
pub(super) fn key(module: &str, matrix: &str) -> String {
    format!("{PREFIX}{module}.lora_{matrix}.weight")
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target_parameters: Option<Vec<String>>,
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

/// The update of one module, as it is in a file.
#[derive(Debug, Clone)]
pub(super) struct Update {
    /// (r, in)
    pub(super) a: Tensor,
    /// (out, r)
    pub(super) b: Tensor,
    /// What B · A is multiplied with.
    pub(super) scale: f64,
}

impl Update {
    /// The update as something to train.
    pub(super) fn trainable(&self) -> Result<LowRank> {
        Ok(LowRank {
            a: Var::from_tensor(&self.a)?,
            b: Var::from_tensor(&self.b)?,
            scale: self.scale,
        })
    }
}

/// An adapter folder that is being read.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    config: AdapterConfig,
    weights: Weights,
    shapes: BTreeMap<String, Vec<usize>>,
    found: bool,
}

impl Folder {
    /// Opens a folder; `prefixes` are stripped from the names of modules that have them.
    ///
    /// # Errors
    /// [`Error::Model`] when it is no plain LoRA adapter.
    pub(super) fn open(dir: &Path, prefixes: &[&str]) -> Result<Self> {
        let path = dir.join(CONFIG);
        let fail = |reason: String| Error::Model {
            path: path.clone(),
            reason,
        };
        let text = std::fs::read(&path).map_err(|e| fail(format!("cannot be read: {e}")))?;
        let config: AdapterConfig =
            serde_json::from_slice(&text).map_err(|e| fail(format!("not an adapter config: {e}")))?;
        if ![LORA, SHARED].contains(&config.peft_type.as_str())
            || config.use_dora
            || config.fan_in_fan_out
            || config.bias != "none"
        {
            return Err(fail("only plain LoRA is supported (no DoRA, no trained biases)".into()));
        }
        if !config.alpha_pattern.is_empty() {
            return Err(fail("an alpha per layer (`alpha_pattern`) is not supported".into()));
        }
        let file = dir.join(WEIGHTS);
        let mut weights = Weights::from_files(&file, std::slice::from_ref(&file))?.without_prefix(PREFIX);
        for prefix in prefixes {
            weights = weights.without_prefix(prefix);
        }
        let shapes = weights
            .shapes()
            .map(|(name, shape)| (name.to_owned(), shape.to_vec()))
            .collect();
        Ok(Self {
            path,
            config,
            weights,
            shapes,
            found: false,
        })
    }

    /// Whether the module has an update.
    pub(super) fn holds(&self, module: &str) -> bool {
        self.rank(module).is_some()
    }

    /// The form of adapters on experts.
    pub(super) fn experts(&self) -> ExpertLora {
        if self.config.peft_type == SHARED {
            ExpertLora::Shared
        } else {
            ExpertLora::Each
        }
    }

    /// Whether the config targets this parameter; nothing if it targets none at all.
    pub(super) fn names_parameter(&self, name: &str) -> Option<bool> {
        let targets = self.config.target_parameters.as_ref()?;
        let is_it = |target: &String| name == target || name.ends_with(&format!(".{target}"));
        Some(targets.iter().any(is_it))
    }

    fn rank(&self, module: &str) -> Option<usize> {
        let shape = self.shapes.get(&format!("{module}.lora_A.weight"))?;
        shape.first().copied().filter(|&rank| rank > 0)
    }

    /// The update of a module with the inputs of `layer` and this many outputs, if there is one.
    ///
    /// # Errors
    /// When the device fails; what does not fit is reported by [`Folder::finish`].
    pub(super) fn take(
        &mut self,
        module: &str,
        layer: &Projection,
        outputs: usize,
        device: &Device,
    ) -> Result<Option<Update>> {
        let Some(rank) = self.rank(module) else { return Ok(None) };
        self.found = true;
        let place = &Place {
            device: device.clone(),
            dtype: DType::F32,
        };
        let a = self
            .weights
            .take(&format!("{module}.lora_A.weight"), &[rank, layer.inputs()], place)?;
        let b = self
            .weights
            .take(&format!("{module}.lora_B.weight"), &[outputs, rank], place)?;
        let scale = self.scale(rank);
        Ok(Some(Update { a, b, scale }))
    }

    fn scale(&self, rank: usize) -> f64 {
        let rank = rank as f64;
        self.config.lora_alpha / if self.config.use_rslora { rank.sqrt() } else { rank }
    }

    /// The factors of (E, in, out) experts and what their product is multiplied with, if there are any.
    ///
    /// # Errors
    /// When the device fails; what does not fit is reported by [`Folder::finish`].
    pub(super) fn take_experts(
        &mut self,
        module: &str,
        sizes: (usize, usize, usize),
        sharing: Sharing,
        device: &Device,
    ) -> Result<Option<(ExpertFactors, f64)>> {
        let Some(shape) = self.shapes.get(&format!("{module}.lora_A.weight")) else {
            return Ok(None);
        };
        let rank = match (sharing, &shape[..]) {
            (Sharing::Nothing, [rows, ..]) => rows / sizes.0.max(1),
            (Sharing::Inputs, [rank, ..]) | (Sharing::Outputs, [_, rank, ..]) => *rank,
            _ => 0,
        };
        // A shape that no rank explains is reported with that of rank 1.
        let rank = rank.max(1);
        self.found = true;
        let place = &Place {
            device: device.clone(),
            dtype: DType::F32,
        };
        let (a, b) = ExpertFactors::shapes(sizes, rank, sharing);
        let a = self.weights.take(&format!("{module}.lora_A.weight"), &a, place)?;
        let b = self.weights.take(&format!("{module}.lora_B.weight"), &b, place)?;
        let factors = ExpertFactors {
            a: Var::from_tensor(&a)?,
            b: Var::from_tensor(&b)?,
            sharing,
        };
        Ok(Some((factors, self.scale(rank))))
    }

    /// Ends the reading: there was something, and everything fitted.
    ///
    /// # Errors
    /// [`Error::Model`] that lists what did not.
    pub(super) fn finish(self) -> Result<()> {
        self.weights.finish()?;
        if self.found {
            return Ok(());
        }
        Err(Error::Model {
            path: self.path,
            reason: "holds no adapter for this model".into(),
        })
    }
}

/// What is written beside the matrices.
#[derive(Debug)]
pub(super) struct Description<'a> {
    /// Where the base model was loaded from.
    pub(super) base: &'a str,
    /// `CAUSAL_LM` or nothing.
    pub(super) task: Option<&'a str>,
    /// Modules, by full name or by an end that no module without adapter has.
    pub(super) targets: Vec<String>,
    /// The same for stacks of experts.
    pub(super) parameters: Vec<String>,
    /// How these are adapted.
    pub(super) experts: ExpertLora,
    /// r
    pub(super) rank: usize,
    /// Ends of names whose rank is another.
    pub(super) ranks: HashMap<String, usize>,
    /// The scale times r.
    pub(super) alpha: f64,
}

/// Writes a folder that `peft.PeftModel.from_pretrained` loads, unless experts share factors; `updates` are modules
/// with A and B.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn write(dir: &Path, description: &Description, updates: &[(String, Tensor, Tensor)]) -> Result<()> {
    let config = AdapterConfig {
        peft_type: match description.experts {
            ExpertLora::Each => LORA.into(),
            ExpertLora::Shared => SHARED.into(),
        },
        base_model_name_or_path: Some(description.base.to_owned()),
        r: description.rank,
        lora_alpha: description.alpha,
        target_modules: serde_json::json!(description.targets),
        target_parameters: Some(description.parameters.clone()).filter(|parameters| !parameters.is_empty()),
        rank_pattern: description.ranks.clone(),
        alpha_pattern: HashMap::new(),
        lora_dropout: 0.0,
        bias: none(),
        use_rslora: false,
        use_dora: false,
        fan_in_fan_out: false,
        inference_mode: true,
        task_type: description.task.map(str::to_owned),
    };
    let mut tensors = BTreeMap::new();
    for (module, a, b) in updates {
        tensors.insert(key(module, "A"), a.force_contiguous()?);
        tensors.insert(key(module, "B"), b.force_contiguous()?);
    }
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

/// The common rank and alpha of updates of so many ranks and such scales.
///
/// # Errors
/// What is wrong with them, in words.
pub(super) fn common_shape(updates: impl Iterator<Item = (usize, f64)>) -> Result<(usize, f64), &'static str> {
    let mut shape = None;
    for (rank, scale) in updates {
        let this = (rank, scale * rank as f64);
        if *shape.get_or_insert(this) != this {
            return Err("adapters of several ranks cannot be saved");
        }
    }
    shape.ok_or("there is no adapter to save")
}

/// Rank and scale of an update.
pub(super) fn shape(update: &LowRank) -> (usize, f64) {
    (update.a.dims()[0], update.scale)
}
