//! PEFT adapter folders: `adapter_config.json` and `adapter_model.safetensors`.

mod initial;
mod settings;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, Var};
use serde_json::{Value, json};

use crate::checkpoint::weights::{Weights, first_few, snapshot_of};
use crate::config::ExpertLora;
use crate::error::{Error, Result};
use crate::fetch::ModelId;
use crate::nn::{DeviceSpec, ExpertFactors, LowRank, Sharing};
use initial::Initial;
use settings::{Init, LORA, SHARED, Settings, is_or_ends};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// Weights as Python objects, which may run code when they are read.
const PICKLED: &str = "adapter_model.bin";
const PREFIX: &str = "base_model.model.";
/// The output layer, which PEFT saves with the weight under its adapter.
const HEAD: &str = "lm_head";
/// Numbers that were computed twice differ by less, as a share of the largest.
const TWICE: f64 = 2e-5;

/// The key of matrix `A` or `B` of a module.
pub(super) fn key(module: &str, matrix: &str) -> String {
    format!("{PREFIX}{}", factor(module, matrix))
}

/// The same without the prefix that all keys have.
fn factor(module: &str, matrix: &str) -> String {
    format!("{module}.lora_{matrix}.weight")
}

/// The update of one module, as it is in a file.
#[derive(Debug, Clone)]
pub(super) struct Update {
    /// (r, in)
    pub a: Tensor,
    /// (out, r)
    pub b: Tensor,
    /// Factor of B · A.
    pub scale: f64,
}

impl Update {
    /// The update as something to train.
    pub(super) fn trainable(self) -> Result<LowRank> {
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
    settings: Settings,
    pub weights: Weights,
    /// The prefix of the model's own names: `dinov2.` of a classifier's adapter.
    prefix: String,
    /// Modules that the config targets and the file does not have.
    absent: Vec<String>,
    found: bool,
}

impl Folder {
    /// Opens a folder for the model that was loaded from `origin`; `prefixes` are stripped from the names of modules
    /// that have them.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] that names the field or the tensor that is not supported, or says that the adapter is of
    /// another base; [`Error::Model`] when a file cannot be read.
    pub(super) fn open(dir: &Path, prefixes: &[&str], origin: &str) -> Result<Self> {
        let path = dir.join(CONFIG);
        let settings = Settings::read(&path)?;
        check_origin(&settings, &path, origin)?;
        let file = dir.join(WEIGHTS);
        if !file.exists() && dir.join(PICKLED).exists() {
            return Err(Error::checkpoint(
                dir.join(PICKLED),
                "holds its weights as Python objects, which are not read",
                format!("save the adapter again with PEFT (`model.save_pretrained(DIR)`), which writes `{WEIGHTS}`"),
            ));
        }
        let mut weights = Weights::from_files(&file, std::slice::from_ref(&file))?;
        if let Some((name, _)) = weights.shapes().find(|(name, _)| !name.starts_with(PREFIX)) {
            return Err(Error::checkpoint(
                file,
                format!("holds `{name}`, whose name does not begin with `{PREFIX}`: PEFT would not use it"),
                "save the adapter with PEFT: `model.save_pretrained(DIR)`",
            ));
        }
        weights = weights.without_prefix(PREFIX);
        let starts = |prefix: &&&str| weights.shapes().any(|(name, _)| name.starts_with(**prefix));
        let prefix = prefixes.iter().find(starts).map_or("", |prefix| *prefix);
        weights = weights.without_prefix(prefix);
        Ok(Self {
            path,
            settings,
            weights,
            prefix: prefix.to_owned(),
            absent: Vec::new(),
            found: false,
        })
    }

    /// Tells whether the module has an update.
    pub(super) fn has(&self, module: &str) -> bool {
        self.rank(module).is_some()
    }

    /// The form of adapters on experts.
    pub(super) fn experts(&self) -> ExpertLora {
        self.settings.experts
    }

    /// True if the config targets this parameter; `None` if it targets none at all.
    pub(super) fn names_parameter(&self, name: &str) -> Option<bool> {
        let targets = self.settings.parameters.as_ref()?;
        Some(targets.iter().any(|target| is_or_ends(name, target)))
    }

    /// Modules that were trained as a whole beside the adapters, `modules_to_save`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when there is one that is not among `supported`.
    pub(super) fn saved(&self, supported: &[&str]) -> Result<&[String]> {
        let saved = &self.settings.saved;
        match saved.iter().find(|module| !supported.contains(&module.as_str())) {
            Some(module) => Err(self.refuse(
                format!("`modules_to_save` holds `{module}`: it was trained as a whole, which is not supported here"),
                "add it into the weights with PEFT (`model.merge_and_unload().save_pretrained(DIR)`) and give that \
                 folder as `--model`",
            )),
            None => Ok(saved),
        }
    }

    /// True if A and B stand on another base than the model's own.
    pub(super) fn changes_base(&self) -> bool {
        self.settings.init != Init::Plain
    }

    fn rank(&self, module: &str) -> Option<usize> {
        let shape = self.weights.shape(&factor(module, "A"))?;
        shape.first().copied().filter(|&rank| rank > 0)
    }

    /// The update of a module over this weight, (out, in), if there is one: of the first of its names that the file has.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when its rank is another than the config's, the config does not target it, or its base is
    /// another; other things that do not fit are reported by [`Folder::finish`].
    pub(super) fn take(&mut self, names: &[&str], weight: &Tensor, device: &Device) -> Result<Option<Update>> {
        let full = |module: &str| format!("{}{module}", self.prefix);
        // A config may speak of the module by another of its names than the file does.
        let mut all = names.iter().map(|name| full(name));
        let targeted = all.find(|name| self.settings.targets.contain(name));
        let Some(module) = names.iter().find(|name| self.has(name)) else {
            let known = !self.settings.targets.unknown();
            self.absent.extend(targeted.filter(|_| known));
            return Ok(None);
        };
        let Some(name) = targeted else {
            let name = full(module);
            return Err(self.refuse(
                format!("does not target `{name}` (`target_modules` and the fields beside it), but the file has an adapter for it, which PEFT would not use"),
                "take both files from one `save_pretrained` of PEFT",
            ));
        };
        if *module == HEAD && self.settings.tying {
            return Err(self.refuse(
                "`ensure_weight_tying` is true, which adapts embedding and head together".into(),
                "train it again without it, or without `lm_head` among the targets",
            ));
        }
        let (out, inputs) = weight.dims2()?;
        let (rank, scale) = (self.settings.rank(&name), self.settings.scale(&name));
        // PEFT's own start has no more directions than the weight.
        let stored = if self.changes_base() {
            rank.min(out).min(inputs)
        } else {
            rank
        };
        self.same_rank(module, stored, self.rank(module))?;
        self.found = true;
        let spec = &DeviceSpec::f32(device);
        let update = Update {
            a: self.weights.take(&factor(module, "A"), &[stored, inputs], spec)?,
            b: self.weights.take(&factor(module, "B"), &[out, stored], spec)?,
            scale,
        };
        let taken = match self.settings.init {
            Init::Plain => None,
            init => Some(Initial::of(init, weight, stored, scale)?.map_err(|reason| {
                self.refuse(
                    format!("takes out of `{name}` what cannot be found again: {reason}"),
                    "save it as plain LoRA where it was trained: `model.save_pretrained(DIR, \
                     path_initial_model_for_weight_conversion=INITIAL)`",
                )
            })?),
        };
        let taken_out = taken.as_ref().map(|taken| (taken, scale));
        self.same_as(&format!("{module}.base_layer.weight"), weight, taken_out)?;
        // B · A − B₀ · A₀ is of twice the rank, and its base is the model's own.
        Ok(Some(match taken {
            None => update,
            Some(Initial { a, b }) => Update {
                a: Tensor::cat(&[&update.a, &a.to_device(device)?], 0)?,
                b: Tensor::cat(&[&update.b, &b.neg()?.to_device(device)?], 1)?,
                scale,
            },
        }))
    }

    /// Compares a weight of the base that the file holds under `key`, as PEFT always saves `lm_head`, with the base's,
    /// without what is taken out of it.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when they are not the same.
    pub(super) fn same_as(&mut self, key: &str, weight: &Tensor, taken: Option<(&Initial, f64)>) -> Result<()> {
        let Some(shape) = self.weights.shape(key) else {
            return Ok(());
        };
        let mut same = shape == weight.dims();
        if same {
            let stored = self.weights.take(key, weight.dims(), &DeviceSpec::cpu())?;
            let base = weight.to_device(&Device::Cpu)?;
            let wide = |x: &Tensor| x.to_dtype(DType::F32);
            let expected = match taken {
                None => wide(&base)?,
                Some((initial, scale)) => (wide(&base)? - (initial.b.matmul(&initial.a)? * scale)?)?,
            };
            let largest = |x: Tensor| x.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>();
            let off = largest((wide(&stored.to_dtype(base.dtype())?)? - &expected)?)?;
            let bound = if taken.is_some() {
                TWICE * f64::from(largest(wide(&base)?)?)
            } else {
                0.0
            };
            same = f64::from(off) <= bound;
        }
        if same {
            return Ok(());
        }
        Err(Error::checkpoint(
            self.path.with_file_name(WEIGHTS),
            format!("holds `{key}`, a weight of the base, and it is not that of this base"),
            "give the model that the adapter was trained on as `--model`; if the base was trained too, merge with PEFT \
             (`model.merge_and_unload().save_pretrained(DIR)`) and give that folder",
        ))
    }

    fn same_rank(&self, module: &str, wanted: usize, found: Option<usize>) -> Result<()> {
        match found {
            Some(found) if found != wanted => Err(self.refuse(
                format!("says rank {wanted} (`r`, `rank_pattern`) for `{module}`, its tensors have rank {found}"),
                "take both files from one `save_pretrained` of PEFT",
            )),
            _ => Ok(()),
        }
    }

    /// The factors of (E, in, out) experts and what their product is multiplied with, if there are any; `stack` is the
    /// parameter that they adapt.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the rank is another than the config's; other things that do not fit are reported by
    /// [`Folder::finish`].
    pub(super) fn take_experts(
        &mut self,
        (module, stack): (&str, &str),
        sizes: (usize, usize, usize),
        sharing: Sharing,
        device: &Device,
    ) -> Result<Option<(ExpertFactors, f64)>> {
        let Some(shape) = self.weights.shape(&factor(module, "A")) else {
            return Ok(None);
        };
        let rank = match (sharing, shape) {
            (Sharing::Nothing, [rows, ..]) => rows / sizes.0.max(1),
            (Sharing::Inputs, [rank, ..]) | (Sharing::Outputs, [_, rank, ..]) => *rank,
            _ => 0,
        };
        self.same_rank(module, self.settings.rank(stack), Some(rank))?;
        self.found = true;
        let spec = &DeviceSpec::f32(device);
        let (a, b) = ExpertFactors::shapes(sizes, rank, sharing);
        let a = self.weights.take(&factor(module, "A"), &a, spec)?;
        let b = self.weights.take(&factor(module, "B"), &b, spec)?;
        let factors = ExpertFactors {
            a: Var::from_tensor(&a)?,
            b: Var::from_tensor(&b)?,
            sharing,
        };
        Ok(Some((factors, self.settings.scale(stack))))
    }

    /// Ends the reading: there was something, everything fitted, and nothing is missing or left over.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] that lists what did not.
    pub(super) fn finish(self) -> Result<()> {
        let left = first_few(self.weights.left().map(|name| format!("`{name}`{}", kind(name))));
        if !left.is_empty() {
            return Err(Error::checkpoint(
                self.path.with_file_name(WEIGHTS),
                format!("holds what this model has no use for: {left}"),
                "check that the adapter was trained on this model, as plain LoRA on linear layers",
            ));
        }
        if !self.absent.is_empty() {
            let absent = first_few(self.absent.iter().map(|name| format!("`{name}`")));
            return Err(self.refuse(
                format!("targets modules that the file has no adapter for: {absent}"),
                "take both files from one `save_pretrained` of PEFT; where more than one adapter is loaded, save this one alone",
            ));
        }
        if !self.found {
            return Err(self.refuse(
                "holds no adapter for this model".into(),
                "check that the adapter was trained on this model",
            ));
        }
        self.weights.finish()
    }

    fn refuse(&self, reason: String, remedy: &str) -> Error {
        Error::checkpoint(&self.path, reason, remedy)
    }
}

/// The kind of a tensor that is left over, where its name tells.
fn kind(name: &str) -> &'static str {
    const KINDS: [(&str, &str); 6] = [
        ("lora_magnitude_vector", " (of DoRA)"),
        ("lora_embedding_", " (on an embedding)"),
        ("lora_B.bias", " (of `lora_bias`)"),
        ("token_adapter", " (of `trainable_token_indices`)"),
        ("patch_embed", " (on a convolution)"),
        ("projection", " (on a convolution)"),
    ];
    let known = KINDS.iter().find(|(part, _)| name.contains(part));
    known.map_or("", |(_, kind)| kind)
}

/// Compares the base that the config names with the one that was loaded from `origin`.
/// PEFT notes where its base came from, not what it held: where that and the base at hand are both models of the hub, names
/// and commits are compared.
fn check_origin(settings: &Settings, path: &Path, origin: &str) -> Result<()> {
    let (Some(named), Some((repository, commit))) = (&settings.base, snapshot_of(Path::new(origin))) else {
        return Ok(());
    };
    // A folder of the machine that it was trained on says nothing here.
    let Some(id) = ModelId::parse(named).filter(|_| !Path::new(named).exists()) else {
        return Ok(());
    };
    let model = |name: &str| name.rsplit('/').next().unwrap_or(name).to_lowercase();
    if model(&id.name) != model(&repository) {
        let named = id.name;
        return Err(Error::checkpoint(
            path,
            format!("was trained on `{named}` (`base_model_name_or_path`), the base is `{repository}`"),
            format!("give `--model {named}`; if both are one model, write `{repository}` into the file"),
        ));
    }
    let is_commit = |text: &str| text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match settings.revision.as_deref().filter(|revision| is_commit(revision)) {
        Some(revision) if id.name == repository && !revision.eq_ignore_ascii_case(&commit) => Err(Error::checkpoint(
            path,
            format!("was trained on commit {revision} of `{repository}` (`revision`), the base is commit {commit}"),
            format!("`kshot model fetch {repository}@{revision}`, then give `--model {repository}@{revision}`"),
        )),
        _ => Ok(()),
    }
}

/// The fields of `adapter_config.json` that are written beside the matrices.
#[derive(Debug)]
pub(super) struct Description<'a> {
    /// The folder or name that the base model was loaded from.
    pub base: &'a str,
    /// `CAUSAL_LM` or nothing.
    pub task: Option<&'a str>,
    /// Modules, by full name or by an end that no module without adapter has.
    pub targets: BTreeSet<String>,
    /// The same for stacks of experts.
    pub parameters: BTreeSet<String>,
    /// The form of adapters on these.
    pub experts: ExpertLora,
    /// r, and the scale times r.
    pub shape: (usize, f64),
    /// Ends of names whose rank is another.
    pub ranks: HashMap<String, usize>,
}

impl Description<'_> {
    /// The fields as PEFT names them.
    fn config(&self) -> Value {
        let (rank, alpha) = self.shape;
        let mut fields = json!({
            "peft_type": match self.experts { ExpertLora::Each => LORA, ExpertLora::Shared => SHARED },
            "base_model_name_or_path": self.base,
            "r": rank,
            "lora_alpha": alpha,
            "target_modules": self.targets,
            "rank_pattern": self.ranks,
            "alpha_pattern": {},
            "lora_dropout": 0.0,
            "bias": "none",
            "use_rslora": false,
            "use_dora": false,
            "fan_in_fan_out": false,
            "inference_mode": true,
            "task_type": self.task,
        });
        if !self.parameters.is_empty() {
            fields["target_parameters"] = json!(self.parameters);
        }
        fields
    }
}

/// Writes a folder that `peft.PeftModel.from_pretrained` loads, unless experts share factors; `updates` are modules
/// with A and B.
pub(super) fn write(dir: &Path, description: &Description, updates: &[(String, Tensor, Tensor)]) -> Result<()> {
    let mut tensors = BTreeMap::new();
    for (module, a, b) in updates {
        tensors.insert(key(module, "A"), a.force_contiguous()?);
        tensors.insert(key(module, "B"), b.force_contiguous()?);
    }
    std::fs::create_dir_all(dir).map_err(Error::io("make", dir))?;
    let path = dir.join(WEIGHTS);
    let header = HashMap::from([("format".into(), "pt".into())]);
    let bytes = safetensors::serialize(&tensors, Some(header))
        .map_err(|e| Error::model(&path, format!("cannot be written: {e}")))?;
    std::fs::write(&path, bytes).map_err(Error::io("write", &path))?;
    let path = dir.join(CONFIG);
    std::fs::write(&path, format!("{:#}\n", description.config())).map_err(Error::io("write", &path))
}
