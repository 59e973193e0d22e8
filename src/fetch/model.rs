//! Models of the hub: their names, and what of them lies in the cache.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::fetch::places::HubPlaces;
use crate::fetch::repository::{Repository, is_inside, is_name};
use crate::formats::image_processor::{PREPROCESSOR, PROCESSOR, nested};

pub(super) const CONFIG: &str = "config.json";
pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

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
    pub fn folder(&self, places: &HubPlaces) -> PathBuf {
        Repository::model(&self.name).folder(&places.cache)
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

/// What the cache has of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CachedModel {
    /// All that a model needs, in this folder.
    Whole(PathBuf),
    /// Some of it.
    Partial {
        /// Where it lies.
        folder: PathBuf,
        /// What is not there, for people.
        lacking: Vec<String>,
    },
    /// Nothing of this revision.
    Absent,
}

/// Looks a model up in the cache, whoever fetched it. Makes no connection.
#[must_use]
pub fn cached_model(id: &ModelId, places: &HubPlaces) -> CachedModel {
    let repository = Repository::model(&id.name);
    let Some(commit) = repository.commit(&id.revision, &places.cache) else {
        // The note of the commit is written last.
        let folder = repository.folder(&places.cache);
        let mut blobs = std::fs::read_dir(folder.join("blobs")).into_iter().flatten().flatten();
        return if blobs.any(|blob| blob.path().extension().is_some_and(|end| end == "incomplete")) {
            let lacking = vec!["the rest of a download that was cut short".into()];
            CachedModel::Partial { folder, lacking }
        } else {
            CachedModel::Absent
        };
    };
    let folder = repository.snapshot(&commit, &places.cache);
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

/// What a snapshot should have and has not: links without their bytes, configs, weights.
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
pub(super) fn shards(index: &[u8]) -> Result<BTreeSet<String>, String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(index).map_err(|e| format!("its `{INDEX}`: {e}"))?;
    Ok(index.weight_map.into_values().collect())
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
