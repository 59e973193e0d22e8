//! The words that configs, splits, models and results share.

mod shots;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

pub use shots::Shots;

/// The rule by which shots and test images are chosen; printed on every number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Official splits, nested seeded draws, the whole test set, touched once.
    #[default]
    Clean,
    /// As the Tinker cookbook's recipe has it: hub splits, its own seeded draws, capped where a class has fewer.
    Tinker,
    /// CoOp's re-split, with its index files or own independent draws; its validation images are counted.
    Coop,
}

impl Protocol {
    /// Option of `kshot data fetch` for it, where not every form of a dataset will do.
    #[must_use]
    pub fn fetch_option(self) -> &'static str {
        match self {
            Self::Clean => "",
            Self::Tinker => " --source hub",
            Self::Coop => " --source archive",
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Clean => "clean",
            Self::Tinker => "tinker",
            Self::Coop => "coop",
        })
    }
}

impl std::str::FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Clean, Self::Tinker, Self::Coop]
            .into_iter()
            .find(|protocol| protocol.to_string() == text)
            .ok_or_else(|| format!("`{text}` is none of clean, tinker, coop"))
    }
}

/// Type of a frozen base's weights. What is trained is f32 in any case, and so is what a CPU computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// f32 on a CPU, bf16 on a GPU.
    #[default]
    Auto,
    /// Single precision.
    F32,
    /// Half the memory: 8 bits of mantissa, the range of f32.
    Bf16,
    /// Half the memory: 11 bits of mantissa, at most 65504.
    F16,
}

impl Dtype {
    pub(crate) fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

/// Factors in the adapters of a mixture of experts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExpertLora {
    /// Each expert has factors of its own, as PEFT's `target_parameters`.
    #[default]
    Each,
    /// The factor on the side of the model's width is one for all experts, the other each expert's own; gates and what
    /// they let through have factors of their own. As Tinker has it: for experts of width 768 in a model of width 2048,
    /// 3 · (2048 + 128 · 768) numbers a layer and rank.
    Shared,
}

impl ExpertLora {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A wording of the question, with the start of the answer that belongs to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wording {
    /// "What is the name of the subject in this photo?" – "The subject in this photo is:", that of the Tinker cookbook's recipe.
    #[default]
    Default,
    /// "What does this image show?" – "This image shows:".
    Show,
    /// "Which category does the object in the picture belong to?" – "The category of the object is:".
    Category,
}

impl Wording {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::Default
    }
}

/// Settings that a learner chose inside its shots.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chosen {
    /// Inverse penalty C of `sum of cross-entropies + ‖W‖²/(2C)`.
    pub c: f64,
    /// `cls`, or `cls+mean` with the mean of the patches.
    pub features: String,
    /// Parts of the shots that were held out in turn.
    pub folds: usize,
    /// Share of the held-out images answered correctly.
    pub held_out_top1: f64,
}

/// Sets one value of a parsed config. The value is read as TOML, and as a plain string if it is none.
pub(crate) fn patch(table: &mut Table, assignment: &str) -> Result<(), String> {
    let (path, value) = assignment.split_once('=').ok_or("has the form path.to.field=value")?;
    let value = toml::from_str::<Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut t| t.remove("value"))
        .unwrap_or_else(|| Value::String(value.into()));
    let (parents, field) = path.rsplit_once('.').map_or((None, path), |(p, f)| (Some(p), f));
    let mut root = Value::Table(std::mem::take(table));
    let mut at = &mut root;
    for step in parents.into_iter().flat_map(|p| p.split('.')) {
        at = match at {
            Value::Table(table) => table.get_mut(step),
            Value::Array(items) => step.parse::<usize>().ok().and_then(|i| items.get_mut(i)),
            _ => None,
        }
        .ok_or_else(|| format!("there is no `{step}` on the way to `{path}`"))?;
    }
    match at {
        Value::Table(table) => {
            table.insert(field.into(), value);
        }
        Value::Array(items) => {
            let item = field.parse::<usize>().ok().and_then(|i| items.get_mut(i));
            *item.ok_or_else(|| format!("`{field}` is not the number of a list item"))? = value;
        }
        _ => return Err(format!("`{path}` leads into a plain value")),
    }
    if let Value::Table(patched) = root {
        *table = patched;
    }
    Ok(())
}
