//! Parquet files of a dataset's hub repository, in the cache that Python's `huggingface_hub` uses.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::fetch::blobs::{RepoFile, Wish};
use crate::fetch::client::Client;
use crate::fetch::places::{HubPlaces, Remote};
use crate::fetch::repository::Repository;
use crate::fetch::{FetchProgress, Fetched, claim, listing, not_fetchable};
use crate::fs::space;
use crate::manifest::{Form, Hub, Manifest};

/// The parquet files of a repository at one commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubListing {
    /// `owner/name`.
    pub repo: String,
    /// Branch, tag or commit that was asked for.
    pub revision: String,
    /// What it stood for: 40 hex digits.
    pub commit: String,
    /// The files, by path.
    pub shards: Vec<HubShard>,
}

/// One parquet file of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubShard {
    /// Which split its rows belong to, as its name says.
    pub split: String,
    /// Path inside the repository, with `/`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Lower-case hex SHA-256; unknown for a file that is not in large file storage.
    pub sha256: Option<String>,
    /// Name of its bytes in the cache: their SHA-256, else their git hash.
    pub blob: String,
}

/// A hub dataset that is complete on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFiles {
    /// `owner/name`.
    pub repo: String,
    /// 40 hex digits.
    pub commit: String,
    /// The files of all splits asked for, by [`HubFile::name`].
    pub shards: Vec<HubFile>,
}

/// One parquet file on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFile {
    /// Which split its rows belong to.
    pub split: String,
    /// Path inside the repository, with `/`.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Bytes, checked.
    pub size: u64,
    /// Lower-case hex SHA-256 that it should have; not checked here.
    pub sha256: Option<String>,
}

/// The files of a hub dataset, if all of them lie in the cache with their sizes. Makes no connection.
///
/// `downloads` is the dataset's folder for downloads, where the listing is kept that its fetching resolved.
#[must_use]
pub fn hub_files(hub: &Hub, downloads: &Path, places: &HubPlaces) -> Option<HubFiles> {
    let known = listing::known(hub, downloads, places)?;
    let folder = Repository::dataset(&known.repo).snapshot(&known.commit, &places.cache);
    let shards = known.shards.into_iter().map(|shard| {
        let path = folder.join(&shard.path);
        let is_whole = std::fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() == shard.size);
        is_whole.then_some(HubFile {
            split: shard.split,
            name: shard.path,
            path,
            size: shard.size,
            sha256: shard.sha256,
        })
    });
    Some(HubFiles {
        shards: shards.collect::<Option<_>>()?,
        repo: known.repo,
        commit: known.commit,
    })
}

/// Fetches the parquet files of a dataset.
pub(super) fn fetch(
    manifest: &Manifest,
    hub: &Hub,
    remote: &Remote,
    client: &Client,
    progress: &dyn FetchProgress,
) -> Result<Fetched> {
    let downloads = &manifest.downloads;
    let _lock = claim(manifest, progress)?;
    let known = match listing::known(hub, downloads, &remote.hub) {
        Some(known) => known,
        None => listing::resolve(hub, downloads, client, &remote.hub)?,
    };
    listing::keep(&known, downloads)?;
    let total = known.shards.iter().map(|shard| shard.size).sum();
    let wish = Wish {
        repository: Repository::dataset(&known.repo),
        commit: &known.commit,
        label: &manifest.name,
        files: known.shards.iter().map(HubShard::file).collect(),
        beside: vec![(downloads, space::unpacked(total))],
    };
    let outcome = wish.fulfil(remote, client, progress)?;
    if !outcome.failed.is_empty() {
        return Err(not_fetchable(manifest, outcome.failed));
    }
    wish.refer(&known.revision, remote)?;
    Ok(Fetched {
        form: Form::Hub,
        folder: wish.repository.snapshot(&known.commit, &remote.hub.cache),
        files: wish.files.len(),
        fetched: outcome.fetched,
        bytes: total,
        commit: Some(known.commit.clone()),
    })
}

impl HubShard {
    pub(super) fn file(&self) -> RepoFile {
        RepoFile {
            path: self.path.clone(),
            size: self.size,
            sha256: self.sha256.clone(),
            blob: self.blob.clone(),
        }
    }
}
