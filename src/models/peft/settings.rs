//! `adapter_config.json`: every field is understood, known to change nothing, or refused by name.
//!
//! The meaning of each is that of peft 0.21.2; `docs/adapters.md` lists them.

use std::path::{Path, PathBuf};
use std::{fmt, io};

use fancy_regex::Regex;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::config::ExpertLora;
use crate::error::{Error, Result};

/// The largest rank that is read; more than any layer of a known model has inputs.
const MOST_RANK: usize = 1 << 20;
/// The largest file of settings that is read, in bytes.
const LONGEST: u64 = 16 << 20;
/// Plain LoRA, in PEFT's word.
pub(super) const LORA: &str = "LORA";
/// LoRA whose experts share factors, which PEFT has no form for.
pub(super) const SHARED: &str = "KSHOT_LORA";

/// The weight that an adapter's B · A is added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Init {
    /// The base as it is.
    Plain,
    /// The base without its largest singular values (<https://arxiv.org/abs/2404.02948>).
    Pissa,
    /// The base without the span of its first columns (<https://arxiv.org/abs/2406.01775>).
    Olora,
}

/// The fields of a config that change what an adapter computes.
#[derive(Debug)]
pub(super) struct Settings {
    pub experts: ExpertLora,
    pub init: Init,
    rank: usize,
    alpha: f64,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
    rslora: bool,
    pub targets: Targets,
    /// `target_parameters`
    pub parameters: Option<Vec<String>>,
    /// `modules_to_save`
    pub saved: Vec<String>,
    /// `ensure_weight_tying`
    pub tying: bool,
    /// Name or folder of the base, as the writer knew it.
    pub base: Option<String>,
    /// The revision of the base.
    pub revision: Option<String>,
}

/// Fields that tell where an adapter comes from, that matter in training alone, or that are read.
const HARMLESS: &str = "auto_mapping base_model_name_or_path inference_mode lora_dropout megatron_core merge_weights \
                        peft_type peft_version qalora_group_size revision runtime_config task_type \
                        r lora_alpha rank_pattern alpha_pattern use_rslora target_modules exclude_modules \
                        layers_to_transform layers_pattern target_parameters modules_to_save init_lora_weights \
                        ensure_weight_tying";
/// Remedy for an adapter that plain LoRA cannot be made of.
const MERGE: &str = "add it into the weights with PEFT (`model.merge_and_unload().save_pretrained(DIR)`), save the processor there too, \
                     and give that folder as `--model`";
/// Remedy for one whose base PEFT does not keep.
const CONVERT: &str = "save it as plain LoRA where it was trained: `model.save_pretrained(DIR, \
                       path_initial_model_for_weight_conversion=INITIAL)` with the adapter as it was before the training";
const RETRAIN: &str = "train it again as plain LoRA";

impl Settings {
    /// Reads the file.
    ///
    /// # Errors
    /// [`Error::Model`] when it cannot be read, [`Error::Checkpoint`] that names the field that is not supported.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let unreadable = |e: io::Error| Error::model(path, format!("cannot be read: {e}"));
        let malformed = |e: serde_json::Error| Error::model(path, format!("not an adapter config: {e}"));
        let size = std::fs::metadata(path).map_err(unreadable)?.len();
        if size > LONGEST {
            return Err(Error::model(
                path,
                format!("has {size} bytes, the most that is read are {LONGEST}"),
            ));
        }
        let text = std::fs::read(path).map_err(unreadable)?;
        let reader = Reader {
            path: path.to_path_buf(),
            fields: serde_json::from_slice(&text).map_err(malformed)?,
        };
        reader.settings(serde_json::from_slice(&text).map_err(malformed)?)
    }

    /// The rank of a module, by its name in the model that was adapted.
    pub(super) fn rank(&self, module: &str) -> usize {
        first(&self.ranks, module).unwrap_or(self.rank)
    }

    /// The factor of B · A of a module.
    pub(super) fn scale(&self, module: &str) -> f64 {
        let rank = self.rank(module) as f64;
        first(&self.alphas, module).unwrap_or(self.alpha) / if self.rslora { rank.sqrt() } else { rank }
    }
}

/// The value of the first pattern that matches, in the order of the file.
fn first<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Option<T> {
    let matching = patterns.iter().find(|(pattern, _)| whole(pattern, module));
    matching.map(|(_, value)| *value)
}

/// The patterns in the order of the file, which decides where several match.
#[derive(Deserialize)]
struct Patterns {
    #[serde(default)]
    rank_pattern: Option<InOrder>,
    #[serde(default)]
    alpha_pattern: Option<InOrder>,
}

struct InOrder(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for InOrder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = InOrder;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a table of patterns")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<InOrder, M::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(InOrder(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

struct Reader {
    path: PathBuf,
    fields: Map<String, Value>,
}

impl Reader {
    fn settings(mut self, patterns: Patterns) -> Result<Settings> {
        let experts = self.method()?;
        for (name, value) in &self.fields {
            self.allow(name, value)?;
        }
        let rank = self.number("r", 8, Value::as_u64)?;
        let alpha = self.number("lora_alpha", 8.0, Value::as_f64)?;
        let rank = self.bounded("r", rank)?;
        let mut ranks = Vec::new();
        for (pattern, value) in patterns.rank_pattern.map_or(Vec::new(), |all| all.0) {
            const FIELD: &str = "rank_pattern";
            let own = value.as_u64().ok_or_else(|| self.malformed(FIELD))?;
            ranks.push((self.pattern(FIELD, &pattern)?, self.bounded(FIELD, own)?));
        }
        let mut alphas = Vec::new();
        for (pattern, value) in patterns.alpha_pattern.map_or(Vec::new(), |all| all.0) {
            let own = value.as_f64().ok_or_else(|| self.malformed("alpha_pattern"))?;
            alphas.push((self.pattern("alpha_pattern", &pattern)?, own));
        }
        let init = self.init()?;
        let all_alphas = || alphas.iter().map(|(_, alpha)| *alpha).chain([alpha]);
        if init != Init::Plain && all_alphas().any(|alpha| alpha <= 0.0) {
            return Err(self.refuse("lora_alpha", "is not positive: PiSSA and OLoRA divide by it", RETRAIN));
        }
        let parameters = self.names("target_parameters")?;
        if init != Init::Plain && parameters.as_ref().is_some_and(|names| !names.is_empty()) {
            return Err(self.refuse(
                "target_parameters",
                "are parameters, not layers: PiSSA and OLoRA of them are not supported",
                CONVERT,
            ));
        }
        let saved = self.names("modules_to_save")?.unwrap_or_default();
        let targets = self.targets(&saved, parameters.is_some())?;
        Ok(Settings {
            experts,
            init,
            rank,
            alpha,
            ranks,
            alphas,
            rslora: self.flag("use_rslora")?,
            targets,
            parameters,
            saved,
            tying: self.flag("ensure_weight_tying")?,
            base: self.text("base_model_name_or_path"),
            revision: self.text("revision"),
        })
    }

    fn method(&mut self) -> Result<ExpertLora> {
        match self.fields.get("peft_type").and_then(Value::as_str) {
            Some(LORA) => Ok(ExpertLora::Each),
            Some(SHARED) => Ok(ExpertLora::Shared),
            Some(other) => {
                let merges = !PROMPTS.contains(&other);
                let reason = format!("is of the method `{other}`; only `{LORA}` is supported");
                Err(self.fail(reason, if merges { MERGE } else { RETRAIN }))
            }
            None => Err(self.fail(
                "does not say its method (`peft_type`)".into(),
                "take an adapter that PEFT saved",
            )),
        }
    }

    /// Refuses a field that changes what is computed in a way that is not supported, and one that nobody knows.
    fn allow(&self, name: &str, value: &Value) -> Result<()> {
        let nothing = match value {
            Value::Null => true,
            Value::Bool(set) => !set,
            Value::Array(items) => items.is_empty(),
            Value::Object(items) => items.is_empty(),
            Value::Number(_) | Value::String(_) => false,
        };
        let (why, remedy) = match name {
            _ if HARMLESS.split_whitespace().any(|known| known == name) => return Ok(()),
            // PEFT reads these only where `init_lora_weights` says so.
            "loftq_config" | "eva_config" | "corda_config" | "lora_ga_config" => return Ok(()),
            // PEFT itself sets it to false for linear layers, and experts refuse it.
            "fan_in_fan_out" if self.fields.get("target_parameters").is_none_or(Value::is_null) => return Ok(()),
            "bias" if value == "none" => return Ok(()),
            "trainable_token_indices" if !value.is_null() => ("trains rows of the embedding", MERGE),
            _ if nothing => return Ok(()),
            "bias" => ("trains biases of the base", MERGE),
            "fan_in_fan_out" => ("is for weights that are stored the other way round", RETRAIN),
            "lora_bias" => ("adds a bias to B", MERGE),
            "use_dora" => ("asks for DoRA (it scales each row of the weight)", MERGE),
            "use_qalora" => ("asks for QALoRA (it averages inputs of quantised layers)", RETRAIN),
            "alora_invocation_tokens" => (
                "asks for aLoRA (it adapts the tokens after an invocation only)",
                RETRAIN,
            ),
            "layer_replication" => ("repeats layers of the base", MERGE),
            "megatron_config" => ("is for parallel layers of Megatron", MERGE),
            "arrow_config" => ("asks for Arrow (it chooses among adapters token by token)", RETRAIN),
            "kasa_config" => ("asks for KaSA (it cuts singular values of the base off)", MERGE),
            "monteclora_config" => ("asks for MonteCLoRA (it samples its factors)", RETRAIN),
            "use_bdlora" => ("asks for BD-LoRA (its factors are block-diagonal)", MERGE),
            "velora_config" => ("asks for VeLoRA, which is not supported", MERGE),
            _ => {
                return Err(self.refuse(
                    name,
                    "is a field that is not known, so what it changes is not known either (peft 0.21.2 does not have it)",
                    "if it changes nothing that is computed, remove it from the file; else take a newer version of kshot",
                ));
            }
        };
        Err(self.refuse(name, why, remedy))
    }

    fn init(&self) -> Result<Init> {
        const FIELD: &str = "init_lora_weights";
        let kind = match self.fields.get(FIELD) {
            None | Some(Value::Null | Value::Bool(_)) => return Ok(Init::Plain),
            Some(Value::String(kind)) => kind.as_str(),
            Some(_) => return Err(self.malformed(FIELD)),
        };
        match (kind, kind.to_ascii_lowercase().as_str()) {
            ("pissa", _) => Ok(Init::Pissa),
            (_, "olora") => Ok(Init::Olora),
            // A and B start somewhere, and all of that is in the file.
            (_, "gaussian" | "mica") | ("eva" | "orthogonal" | "lora_ga", _) => Ok(Init::Plain),
            _ if kind.starts_with("pissa") => Err(self.refuse(
                FIELD,
                "draws at random what it takes out of the base, and PEFT does not keep what it drew",
                CONVERT,
            )),
            _ if kind.starts_with("corda") => Err(self.refuse(
                FIELD,
                "takes out of the base what data decided, and PEFT does not keep that",
                CONVERT,
            )),
            ("loftq", _) => Err(self.refuse(FIELD, "stands on a base that PEFT quantised", MERGE)),
            _ => Err(self.refuse(FIELD, "is a start of A and B that is not known", MERGE)),
        }
    }

    fn targets(&self, saved: &[String], parameters: bool) -> Result<Targets> {
        let modules = match self.set("target_modules") {
            None if parameters => Modules::Named(Vec::new()),
            None => Modules::Any,
            Some(Value::String(all)) if all.eq_ignore_ascii_case("all-linear") => Modules::AllLinear,
            Some(Value::String(pattern)) => Modules::Pattern(self.whole("target_modules", pattern)?),
            Some(_) => Modules::Named(self.names("target_modules")?.unwrap_or_default()),
        };
        let excluded = match self.fields.get("exclude_modules") {
            Some(Value::String(pattern)) => Modules::Pattern(self.whole("exclude_modules", pattern)?),
            _ => Modules::Named(self.names("exclude_modules")?.unwrap_or_default()),
        };
        let layer = |layer: &Value| layer.as_u64().ok_or_else(|| self.malformed("layers_to_transform"));
        let layers = match self.set("layers_to_transform") {
            None => Vec::new(),
            Some(Value::Array(all)) => all.iter().map(layer).collect::<Result<_>>()?,
            Some(one) => vec![layer(one)?],
        };
        if !layers.is_empty() && matches!(modules, Modules::Pattern(_)) {
            return Err(self.fail(
                "has `layers_to_transform` beside an expression in `target_modules`, which PEFT refuses".into(),
                "name the layers in the expression, or list the modules",
            ));
        }
        let lists = match self.fields.get("layers_pattern") {
            Some(Value::String(one)) if !one.is_empty() => vec![one.clone()],
            Some(Value::String(_)) => Vec::new(),
            _ => self.names("layers_pattern")?.unwrap_or_default(),
        };
        let of_list = |list: &String| self.regex("layers_pattern", &format!(r"^(?:.*?\.)?(?:{list})\.(?P<idx>\d+)\."));
        let kept = |module: &String| self.regex("modules_to_save", &format!(r"^(?:.*\.)?(?:{module})(?:$|\.)"));
        Ok(Targets {
            modules,
            excluded,
            saved: saved.iter().map(kept).collect::<Result<_>>()?,
            layers,
            lists: if lists.is_empty() {
                vec![self.regex("layers_pattern", r"^.*?\.[^.]*\.(?P<idx>\d+)\.")?]
            } else {
                lists.iter().map(of_list).collect::<Result<_>>()?
            },
        })
    }

    /// The value of a field that is there and not null.
    fn set(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    fn flag(&self, field: &str) -> Result<bool> {
        let set = self.set(field);
        set.map_or(Ok(false), |value| value.as_bool().ok_or_else(|| self.malformed(field)))
    }

    fn text(&self, field: &str) -> Option<String> {
        self.fields.get(field).and_then(Value::as_str).map(str::to_owned)
    }

    fn number<T>(&self, field: &str, default: T, read: fn(&Value) -> Option<T>) -> Result<T> {
        let found = self.fields.get(field);
        found.map_or(Ok(default), |value| read(value).ok_or_else(|| self.malformed(field)))
    }

    fn bounded(&self, field: &str, rank: u64) -> Result<usize> {
        match usize::try_from(rank) {
            Ok(rank) if (1..=MOST_RANK).contains(&rank) => Ok(rank),
            _ => Err(self.fail(
                format!("`{field}` holds a rank of {rank}, which is not from 1 to {MOST_RANK}"),
                "take an adapter that PEFT saved",
            )),
        }
    }

    /// A list of names; `None` where there is none.
    fn names(&self, field: &str) -> Result<Option<Vec<String>>> {
        let Some(value) = self.set(field) else { return Ok(None) };
        let items = value.as_array().ok_or_else(|| self.malformed(field))?;
        let name = |item: &Value| item.as_str().map(str::to_owned).ok_or_else(|| self.malformed(field));
        items.iter().map(name).collect::<Result<_>>().map(Some)
    }

    /// As `re.match(rf"(.*\.)?({key})$", name)`.
    fn pattern(&self, field: &str, pattern: &str) -> Result<Regex> {
        self.regex(field, &format!(r"^(?:.*\.)?(?:{pattern})$"))
    }

    /// As `re.fullmatch`.
    fn whole(&self, field: &str, pattern: &str) -> Result<Regex> {
        self.regex(field, &format!("^(?:{pattern})$"))
    }

    fn regex(&self, field: &str, pattern: &str) -> Result<Regex> {
        Regex::new(pattern).map_err(|e| {
            self.fail(
                format!("`{field}` is not an expression that is understood: {e}"),
                "name the modules one by one, or by the ends of their names",
            )
        })
    }

    fn malformed(&self, field: &str) -> Error {
        let value = self.fields.get(field).unwrap_or(&Value::Null);
        self.fail(
            format!("`{field}` is {}, which PEFT does not write", short(value)),
            "take an adapter that PEFT saved",
        )
    }

    fn refuse(&self, field: &str, why: &str, remedy: &str) -> Error {
        let value = self.fields.get(field).unwrap_or(&Value::Null);
        self.fail(format!("`{field}` is {}, which {why}", short(value)), remedy)
    }

    fn fail(&self, reason: String, remedy: &str) -> Error {
        Error::checkpoint(&self.path, reason, remedy)
    }
}

/// Methods that learn a prompt: nothing of them can be added into weights.
const PROMPTS: [&str; 8] = [
    "PROMPT_TUNING",
    "MULTITASK_PROMPT_TUNING",
    "P_TUNING",
    "PREFIX_TUNING",
    "ADAPTION_PROMPT",
    "CPT",
    "CARTRIDGE",
    "XLORA",
];

/// A value for a message.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The modules that get adapters: `target_modules` and the fields that narrow it.
#[derive(Debug)]
pub(super) struct Targets {
    modules: Modules,
    excluded: Modules,
    /// `modules_to_save`, which get no adapter.
    saved: Vec<Regex>,
    /// `layers_to_transform`; none: all.
    layers: Vec<u64>,
    /// `layers_pattern`, each with the number of the layer as `idx`.
    lists: Vec<Regex>,
}

/// A choice of modules.
#[derive(Debug)]
enum Modules {
    /// By whole names, or by ends of names after a dot.
    Named(Vec<String>),
    /// Names that match as a whole.
    Pattern(Regex),
    /// All linear layers but the head.
    AllLinear,
    /// Nobody says.
    Any,
}

impl Modules {
    fn contain(&self, name: &str) -> bool {
        match self {
            Self::Named(names) => names.iter().any(|end| is_or_ends(name, end)),
            Self::Pattern(pattern) => whole(pattern, name),
            Self::AllLinear => name != "lm_head" && name != "classifier",
            Self::Any => true,
        }
    }
}

impl Targets {
    /// True if the module of this name gets an adapter (`check_target_module_exists` of PEFT).
    pub(super) fn contain(&self, name: &str) -> bool {
        if self.excluded.contain(name)
            || self.saved.iter().any(|saved| whole(saved, name))
            || !self.modules.contain(name)
        {
            return false;
        }
        // A pattern speaks for itself.
        if self.layers.is_empty() || matches!(self.modules, Modules::Pattern(_)) {
            return true;
        }
        let found = self.lists.iter().find_map(|list| list.captures(name).ok().flatten());
        let layer = found.and_then(|found| found.name("idx")?.as_str().parse().ok());
        layer.is_some_and(|layer| self.layers.contains(&layer))
    }

    /// True if nobody says which modules they are.
    pub(super) fn unknown(&self) -> bool {
        matches!(self.modules, Modules::Any)
    }
}

/// True if the name is `end`, or ends with it after a dot.
pub(super) fn is_or_ends(name: &str, end: &str) -> bool {
    name.strip_suffix(end)
        .is_some_and(|head| head.is_empty() || head.ends_with('.'))
}

/// True if an expression, which has its own anchors, matches. One that takes too long matches nothing.
fn whole(pattern: &Regex, name: &str) -> bool {
    pattern.is_match(name).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q: &str = "model.language_model.layers.11.self_attn.q_proj";

    fn targets(modules: Modules, layers: &[u64]) -> Targets {
        Targets {
            modules,
            excluded: Modules::Named(Vec::new()),
            saved: Vec::new(),
            layers: layers.to_vec(),
            lists: vec![Regex::new(r"^.*?\.[^.]*\.(?P<idx>\d+)\.").unwrap()],
        }
    }

    fn named(names: &[&str]) -> Modules {
        Modules::Named(names.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn names_count_as_a_whole_or_from_a_dot() {
        assert!(targets(named(&["q_proj"]), &[]).contain(Q));
        assert!(targets(named(&[Q]), &[]).contain(Q));
        assert!(!targets(named(&["proj"]), &[]).contain(Q));
        assert!(targets(named(&["q_proj"]), &[11]).contain(Q));
        assert!(!targets(named(&["q_proj"]), &[1]).contain(Q));
        let excluding = Targets {
            excluded: named(&["self_attn.q_proj"]),
            ..targets(named(&["q_proj"]), &[])
        };
        assert!(!excluding.contain(Q));
    }

    #[test]
    fn expressions_look_ahead() {
        let pattern = |text: &str| Modules::Pattern(Regex::new(&format!("^(?:{text})$")).unwrap());
        assert!(targets(pattern(r"^(?!.*visual).*(?:q|v)_proj"), &[]).contain(Q));
        assert!(!targets(pattern(r"^(?!.*language_model).*(?:q|v)_proj"), &[]).contain(Q));
        assert!(!targets(pattern("q_proj"), &[]).contain(Q));
    }
}
