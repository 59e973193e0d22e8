//! Models of the hub: names, cached files, and the fetching of the files that a model needs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Cause, Error, Result};
use crate::fetch::client::{Client, HubSettings, Remote};
use crate::fetch::hub::HubApi;
use crate::fetch::repository::{RepoFile, Repository, RepositoryDownload, is_inside, is_name};
use crate::fetch::{FetchProgress, Fetched};
use crate::formats::image_processor::{PREPROCESSOR, PROCESSOR, nested};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// `owner/name` of a model on the hub, with `@revision` where it is not that of `main`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelId {
    /// `owner/name`.
    pub name: String,
    /// Branch, tag or commit.
    pub revision: String,
}

impl ModelId {
    /// Reads `owner/name` or `owner/name@revision`; `None` of what cannot be one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
        let is_id = name.split('/').count() == 2 && is_name(name) && is_inside(revision);
        is_id.then(|| Self {
            name: name.into(),
            revision: revision.into(),
        })
    }

    /// Its folder in the cache.
    #[must_use]
    pub fn folder(&self, settings: &HubSettings) -> PathBuf {
        Repository::model(&self.name).folder(&settings.cache)
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.revision == "main" {
            return Ok(());
        }
        write!(f, "@{}", self.revision)
    }
}

/// A model in the cache: complete or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CachedModel {
    /// All that a model needs, in this folder.
    Whole(PathBuf),
    /// Some of it.
    Partial {
        /// Its path.
        folder: PathBuf,
        /// List of the missing files, for people.
        lacking: Vec<String>,
    },
    /// Nothing of this revision.
    Absent,
}

/// Looks a model up in the cache, whoever fetched it. Makes no connection.
#[must_use]
pub fn cached_model(id: &ModelId, settings: &HubSettings) -> CachedModel {
    let repository = Repository::model(&id.name);
    let Some(commit) = repository.commit(&id.revision, &settings.cache) else {
        // The note of the commit is written last.
        let folder = repository.folder(&settings.cache);
        let mut blobs = std::fs::read_dir(folder.join("blobs")).into_iter().flatten().flatten();
        return if blobs.any(|blob| blob.path().extension().is_some_and(|end| end == "incomplete")) {
            let lacking = vec!["the rest of a download that was cut short".into()];
            CachedModel::Partial { folder, lacking }
        } else {
            CachedModel::Absent
        };
    };
    let folder = repository.snapshot(&commit, &settings.cache);
    if !folder.is_dir() {
        return CachedModel::Absent;
    }
    let lacking = lacking(&folder);
    if lacking.is_empty() {
        CachedModel::Whole(folder)
    } else {
        CachedModel::Partial { folder, lacking }
    }
}

/// List of what a snapshot lacks: links without their bytes, configs, weights.
fn lacking(folder: &Path) -> Vec<String> {
    let there = |name: &str| folder.join(name).is_file();
    let mut lacking: BTreeSet<String> = BTreeSet::new();
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
        if !folder.join(&name).exists() {
            lacking.insert(format!("the bytes of `{name}`"));
        }
    }
    if !there(CONFIG) {
        lacking.insert(format!("`{CONFIG}`"));
    }
    if !there(PREPROCESSOR) {
        // A file that cannot be read is the loader's to report.
        let nested = std::fs::read(folder.join(PROCESSOR)).is_ok_and(|text| !matches!(nested(&text), Ok(None)));
        if !nested {
            lacking.insert(format!("`{PREPROCESSOR}` (or `{PROCESSOR}` with an `image_processor`)"));
        }
    }
    if !there(WEIGHTS) {
        match std::fs::read(folder.join(INDEX)).map(|json| shards(&json)) {
            Ok(Ok(shards)) => {
                let gone = shards.into_iter().filter(|name| !there(name));
                lacking.extend(gone.map(|name| format!("`{name}`")));
            }
            // The loader says what is wrong with it.
            Ok(Err(_)) => {}
            Err(_) => {
                lacking.insert(format!(
                    "its weights (`{WEIGHTS}`, or `{INDEX}` and the files that it names)"
                ));
            }
        }
    }
    lacking.into_iter().collect()
}

/// Names of the files that an index of weights names.
fn shards(index: &[u8]) -> Result<BTreeSet<String>, String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(index).map_err(|e| format!("its `{INDEX}`: {e}"))?;
    Ok(index.weight_map.into_values().collect())
}

/// Files beside the weights that say how a model is run, where a repository has them.
const DESCRIPTIONS: [&str; 9] = [
    CONFIG,
    "generation_config.json",
    PREPROCESSOR,
    PROCESSOR,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
];

/// Beginnings of the names of more such files.
const DESCRIBING: [&str; 2] = ["tokenizer", "chat_template"];

/// The files of a model at one commit that are needed to run it.
#[derive(Debug)]
pub struct ModelListing {
    id: ModelId,
    /// 40 hex digits.
    pub commit: String,
    /// The bytes of its `config.json`.
    pub config: Vec<u8>,
    files: Vec<RepoFile>,
    /// True if it says how images are prepared.
    prepares: bool,
}

impl ModelListing {
    /// Asks the hub. Nothing is written.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the model is gated, private or unknown; [`Error::Hub`] when the hub cannot be
    /// reached or asked, or the repository lacks safetensors weights or a config.
    pub fn ask(id: &ModelId, remote: &Remote) -> Result<Self> {
        let client = Client::new(remote)?;
        let api = HubApi::new(Repository::model(&id.name), &client)?;
        let commit = api.commit(&id.revision)?;
        let mut files = api.files(&commit, "")?;
        if let Some(file) = files.iter().find(|file| !file.is_sound()) {
            return Err(api.fail(format!("lists `{}`, whose name or hash is not one", file.path)));
        }
        let has = |name: &str| files.iter().any(|file| file.path == name);
        if !has(CONFIG) {
            return Err(api.fail(format!("has no `{CONFIG}`")).because(Cause::LacksFiles));
        }
        let snapshot = api.repository.snapshot(&commit, &remote.hub.cache);
        let text = |name: &str| match (
            std::fs::read(snapshot.join(name)),
            files.iter().find(|file| file.path == name),
        ) {
            (Ok(there), Some(file)) if there.len() as u64 == file.size => Ok(there),
            _ => api.document(&commit, name),
        };
        let config = text(CONFIG)?;
        let describing = files.iter().filter(|file| describes(&file.path));
        let mut wanted: Vec<String> = describing.map(|file| file.path.clone()).collect();
        if has(WEIGHTS) {
            wanted.push(WEIGHTS.into());
        } else if has(INDEX) {
            let shards = shards(&text(INDEX)?).map_err(|reason| api.fail(reason).because(Cause::LacksFiles))?;
            if let Some(shard) = shards.iter().find(|shard| !has(shard)) {
                return Err(api
                    .fail(format!("its `{INDEX}` names `{shard}`, which it does not have"))
                    .because(Cause::LacksFiles));
            }
            wanted.push(INDEX.into());
            wanted.extend(shards);
        } else {
            return Err(without_weights(id, &files));
        }
        let prepares = has(PREPROCESSOR) || has(PROCESSOR) && !matches!(nested(&text(PROCESSOR)?), Ok(None));
        files.retain(|file| wanted.contains(&file.path));
        // Small ones first: what a model is stands before what it weighs.
        files.sort_by(|a, b| (a.size, &a.path).cmp(&(b.size, &b.path)));
        Ok(Self {
            id: id.clone(),
            commit,
            config,
            files,
            prepares,
        })
    }

    /// True if the model has a file of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.files.iter().any(|file| file.path == name)
    }

    /// Number of files and their bytes.
    #[must_use]
    pub fn size(&self) -> (usize, u64) {
        (self.files.len(), self.files.iter().map(|file| file.size).sum())
    }

    /// Makes the model complete in the cache of Python's `huggingface_hub`. Files that are there are checked and kept,
    /// whoever fetched them; what the revision stood for is noted when all are there.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when it does not say how images are prepared, and [`Error::DiskSpace`], before the first byte;
    /// [`Error::NotFetchable`] with each file and what its sources said, and [`Error::Io`]. What has arrived is kept and
    /// continued by the next call.
    pub fn fetch(&self, remote: &Remote, progress: &dyn FetchProgress) -> Result<Fetched> {
        if !self.prepares {
            return Err(Error::Checkpoint {
                path: PathBuf::from(&self.id.name),
                reason: format!("has neither `{PREPROCESSOR}` nor a `{PROCESSOR}` with an `image_processor`"),
                remedy: "take the repository of the model that it was made from, which says how images are prepared"
                    .into(),
            });
        }
        let client = Client::new(remote)?;
        let download = RepositoryDownload {
            repository: Repository::model(&self.id.name),
            commit: &self.commit,
            label: &self.id.name,
            files: self.files.clone(),
            beside: Vec::new(),
        };
        download.fetch((&self.id.to_string(), &self.id.revision), &client, progress)
    }
}

/// Says what the weights are instead.
fn without_weights(id: &ModelId, files: &[RepoFile]) -> Error {
    let known: [(&[&str], &str, &str); 3] = [
        (
            &[".gguf", ".ggml"],
            "is of llama.cpp, quantised as a rule",
            "take the repository that it was made from",
        ),
        (
            &[".bin", ".pt", ".pth", ".ckpt"],
            "holds Python objects, which are not read",
            "take a revision with safetensors (the hub's bot proposes one as `@refs/pr/N`), or save it anew with \
             `model.save_pretrained(DIR)` of transformers and give that folder",
        ),
        (
            &[".safetensors"],
            "has another name",
            "fetch a repository in transformers' layout; an adapter is given by `--adapter DIR` beside its base",
        ),
    ];
    let found = known.into_iter().find_map(|(ends, what, remedy)| {
        let file = files
            .iter()
            .find(|file| ends.iter().any(|end| file.path.ends_with(end)))?;
        Some((format!("; `{}` {what}", file.path), remedy))
    });
    let (instead, remedy) = found.unwrap_or((String::new(), "check name and revision"));
    Error::Checkpoint {
        path: PathBuf::from(&id.name),
        reason: format!("has no weights as safetensors (`{WEIGHTS}` or `{INDEX}`){instead}"),
        remedy: remedy.into(),
    }
}

/// Files at the top only: folders hold the same model for other programs.
fn describes(path: &str) -> bool {
    DESCRIPTIONS.contains(&path) || !path.contains('/') && DESCRIBING.iter().any(|start| path.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models_are_told_from_paths() {
        let id = ModelId::parse("Qwen/Qwen3-VL-2B-Instruct").unwrap();
        assert_eq!(
            (id.revision.as_str(), id.to_string().as_str()),
            ("main", "Qwen/Qwen3-VL-2B-Instruct")
        );
        let id = ModelId::parse("facebook/dinov2-small@refs/pr/2").unwrap();
        assert_eq!(
            (id.name.as_str(), id.revision.as_str()),
            ("facebook/dinov2-small", "refs/pr/2")
        );
        assert_eq!(id.to_string(), "facebook/dinov2-small@refs/pr/2");
        for other in [
            "",
            "a",
            "/a/b",
            "a/b/c",
            "../b",
            "a/..",
            "a/b@",
            "a/b@../../x",
            "a b/c",
            "./b",
        ] {
            assert_eq!(ModelId::parse(other), None, "{other}");
        }
    }
}
