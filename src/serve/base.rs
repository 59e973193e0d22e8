//! Base models that are served: the engine, the way in for images and texts, and the names a model answers to.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::limits::Limits;
use super::refusal::Refusal;
use crate::checkpoint::repository;
use crate::engine::{AdapterConfig, Engine, Settings};
use crate::error::{Error, Result};
use crate::example::Renderer;
use crate::models::lora::Lora;
use crate::nn::DeviceSpec;

use super::checkpoints::LoraInfo;

/// Positions of a sequence at most, whatever the model's own limit is: caches of keys and values are in memory.
const LONGEST: usize = 32_768;

/// A loaded base model.
#[derive(Debug)]
pub(super) struct Base {
    /// Names that it answers to, the one it is listed by first.
    names: Vec<String>,
    pub(super) engine: Arc<Engine>,
    pub(super) renderer: Renderer,
    pub(super) limits: Limits,
    /// Tokens that end an answer where nothing else is said.
    pub(super) ends: Vec<u32>,
    /// True if the output layer is the embedding, which no adapter can be put on.
    tied: bool,
}

impl Base {
    /// Loads a folder, or a model of the hub that is in the cache.
    ///
    /// # Errors
    /// [`Error::Checkpoint`], [`Error::Model`] when it is not there or not whole.
    pub(super) fn load(model: &Path, home: &Path, device: &DeviceSpec, settings: Settings) -> Result<Self> {
        let folder = repository::locate(model, home)?;
        let engine = Arc::new(Engine::load(&folder, device, settings)?);
        let renderer = Renderer::load(&folder, None)?;
        let config = json(&folder.join("config.json"));
        let text = config.get("text_config").unwrap_or(&config);
        let context = text.get("max_position_embeddings").and_then(Value::as_u64);
        let context = context.map_or(LONGEST, |context| (context as usize).min(LONGEST));
        // The loader has read it: it is there.
        let vocabulary = text.get("vocab_size").and_then(Value::as_u64).unwrap_or(0) as usize;
        let tied = |config: &Value| config.get("tie_word_embeddings").and_then(Value::as_bool);
        let stated = json(&folder.join("generation_config.json"));
        let mut ends: BTreeSet<u32> = match stated.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).map(|id| id as u32).collect(),
            Some(id) => id.as_u64().map(|id| id as u32).into_iter().collect(),
            None => BTreeSet::new(),
        };
        ends.insert(renderer.prompter().end());
        Ok(Self {
            names: names(model, &folder),
            engine,
            renderer,
            limits: Limits::of(context, vocabulary),
            ends: ends.into_iter().collect(),
            tied: tied(&config).or_else(|| tied(text)).unwrap_or(false),
        })
    }

    /// The name that it is listed by.
    pub(super) fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// All its names.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Those of its names that are no paths of this machine.
    pub(super) fn listed_names(&self) -> impl Iterator<Item = &String> {
        self.names.iter().filter(|name| is_public(name))
    }

    /// The text of the token that stands for an image.
    ///
    /// # Errors
    /// [`Error::Model`] when the tokenizer does not know it.
    pub(super) fn placeholder(&self) -> Result<String> {
        let prompter = self.renderer.prompter();
        prompter.tokenizer().decode_all(&[prompter.image()])
    }

    /// True if an adapter can be put on its output layer.
    pub(super) fn has_unembed(&self) -> bool {
        !self.tied
    }

    /// The settings of an adapter for the engine.
    pub(super) fn adapter(&self, lora: &LoraInfo) -> AdapterConfig {
        let mut targets: Vec<&str> = Vec::new();
        if lora.train_attn {
            targets.extend(["q_proj", "k_proj", "v_proj", "o_proj"]);
        }
        if lora.train_mlp {
            targets.extend(["gate_proj", "up_proj", "down_proj"]);
        }
        if lora.train_unembed && self.has_unembed() {
            targets.push("lm_head");
        }
        AdapterConfig {
            lora: Lora {
                targets: targets.into_iter().map(str::to_owned).collect(),
                rank: lora.rank,
                alpha: lora.alpha,
                ..Lora::default()
            },
            seed: lora.seed,
            start: None,
        }
    }
}

/// The name as given, the folder's with its parent's (`owner/name` of a copy of the hub), the folder's alone.
fn names(model: &Path, folder: &Path) -> Vec<String> {
    let given = model.display().to_string();
    let given = given.trim_end_matches('/').trim_start_matches("./").to_owned();
    let parts: Vec<String> = folder.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let last = parts.last().cloned().unwrap_or_default();
    let listed = if given.contains('/') && is_public(&given) {
        given.clone()
    } else {
        last.clone()
    };
    let mut names = vec![listed, given.clone()];
    if let Some((name, _)) = given.split_once('@') {
        names.push(name.to_owned()); // `owner/name@revision` answers to `owner/name` too
    }
    if let [.., owner, name] = &parts[..] {
        names.push(format!("{owner}/{name}"));
    }
    names.push(last);
    let mut seen = BTreeSet::new();
    names.retain(|name| !name.is_empty() && seen.insert(name.clone()));
    names
}

/// True of `name` and `owner/name`.
fn is_public(name: &str) -> bool {
    name.split('/').count() <= 2 && !name.starts_with(['/', '.', '~'])
}

/// The base that answers to a name.
///
/// # Errors
/// A refusal that lists those that are served.
pub(super) fn named<'a>(bases: &'a [Arc<Base>], name: &str) -> Result<&'a Arc<Base>, Refusal> {
    let found = bases.iter().find(|base| base.names.iter().any(|known| known == name));
    found.ok_or_else(|| {
        let shown: String = name.chars().take(100).collect();
        let served: Vec<&str> = bases.iter().map(|base| base.name()).collect();
        Refusal::not_found(format!("model `{shown}` is not served here; {} is", served.join(", ")))
    })
}

/// The value of a JSON file; null where it is absent: the loader has read what must be there.
fn json(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or(Value::Null)
}

/// Two models may not have a name in common.
///
/// # Errors
/// [`Error::Config`] with the name.
pub(super) fn check_names(bases: &[Arc<Base>]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for base in bases {
        if !seen.insert(base.name()) {
            let reason = format!(
                "two models would be named `{}`; give one another folder name",
                base.name()
            );
            return Err(Error::config("--model", reason));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_answers_to_hub_id_and_folder_name() {
        let of = |model: &str, folder: &str| names(Path::new(model), Path::new(folder));
        assert_eq!(
            of("Qwen/Qwen3-VL-2B", "/cache/models--Qwen--Qwen3-VL-2B/snapshots/abc"),
            ["Qwen/Qwen3-VL-2B", "snapshots/abc", "abc"]
        );
        assert_eq!(of("/a/b/micro", "/a/b/micro"), ["micro", "/a/b/micro", "b/micro"]);
        assert_eq!(of("./micro/", "micro"), ["micro"]);
        assert_eq!(of("/micro", "/micro")[0], "micro");
        assert_eq!(of("../micro", "../micro")[0], "micro");
        let public = ["micro", "b/micro", "Qwen/Qwen3-VL-2B@main"];
        assert!(public.into_iter().all(is_public));
        assert!(
            !["/a/b/micro", "/micro", "../micro", "a/b/micro"]
                .into_iter()
                .any(is_public)
        );
    }
}
