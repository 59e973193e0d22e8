//! Files of a hub repository, in the cache that Python's `huggingface_hub` uses:
//! `datasets--<owner>--<name>/{blobs/<hash>, refs/<revision>, snapshots/<commit>/<path> -> blob}`.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::client::{Client, encoded_path};
use super::places::{HubPlaces, Remote};
use super::wanted::{Source, Wanted};
use super::{FetchProgress, Fetched, claim, each, listing, missing, not_fetchable, replace, space, usable};
use crate::data::cache::lock;
use crate::data::manifest::{Form, Hub, Manifest};
use crate::error::{Error, Result};

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
    let folder = snapshot(places, &known);
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

/// The folder of a repository in the cache.
pub(super) fn repo_folder(places: &HubPlaces, repo: &str) -> PathBuf {
    places.cache.join(folder_name(repo))
}

fn folder_name(repo: &str) -> String {
    format!("datasets--{}", repo.replace('/', "--"))
}

/// The folder of a commit's files.
fn snapshot(places: &HubPlaces, listing: &HubListing) -> PathBuf {
    repo_folder(places, &listing.repo)
        .join("snapshots")
        .join(&listing.commit)
}

/// One file of the cache: its bytes, and the name that a commit has for them.
struct Cached {
    wanted: Wanted,
    /// `snapshots/<commit>/<path>`.
    pointer: PathBuf,
    /// From the pointer's folder to the bytes.
    target: PathBuf,
    lock: PathBuf,
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
    let folder = repo_folder(&remote.hub, &known.repo);
    let files = cached(manifest, &known, remote)?;
    let whole = each(&files, client.policy.parallel, |file| file.find(progress));
    let mut absent = Vec::new();
    for (file, whole) in files.iter().zip(whole) {
        if !whole? {
            absent.push(file);
        }
    }
    let total = known.shards.iter().map(|shard| shard.size).sum();
    if !absent.is_empty() {
        let needed = absent.iter().map(|file| file.wanted.size - file.wanted.arrived()).sum();
        space::check(&[(&folder, needed), (downloads, space::unpacked(total))])?;
    }
    let outcomes = each(&absent, client.policy.parallel, |file| file.obtain(client, progress));
    let mut failed = Vec::new();
    for (file, outcome) in absent.iter().zip(outcomes) {
        if let Err(sources) = outcome? {
            failed.push(missing(&file.wanted, &file.pointer, sources));
        }
    }
    if !failed.is_empty() {
        return Err(not_fetchable(manifest, failed));
    }
    if known.revision != known.commit {
        let reference = folder.join("refs").join(&known.revision);
        let above = reference.parent().unwrap_or(&folder);
        fs::create_dir_all(above).map_err(Error::io("make", above))?;
        replace(&reference, known.commit.as_bytes())?;
    }
    Ok(Fetched {
        form: Form::Hub,
        folder: snapshot(&remote.hub, &known),
        files: files.len(),
        fetched: absent.len(),
        bytes: total,
        commit: Some(known.commit),
    })
}

/// The files of a listing with their places, whose folders are made.
fn cached(manifest: &Manifest, listing: &HubListing, remote: &Remote) -> Result<Vec<Cached>> {
    let places = &remote.hub;
    let (folder, snapshot) = (repo_folder(places, &listing.repo), snapshot(places, listing));
    let locks = places.cache.join(".locks").join(folder_name(&listing.repo));
    let blobs = folder.join("blobs");
    let mut files = Vec::new();
    for shard in &listing.shards {
        let pointer = snapshot.join(&shard.path);
        for above in [pointer.parent().unwrap_or(&snapshot), &blobs, &locks] {
            fs::create_dir_all(above).map_err(Error::io("make", above))?;
        }
        let mirror = remote.mirror.as_deref();
        let mirror = mirror.map(|base| Source::of_mirror(base, &[&manifest.name, &shard.path]));
        let hub = Source::Url(format!(
            "{}/datasets/{}/resolve/{}/{}",
            places.endpoint,
            listing.repo,
            listing.commit,
            encoded_path(&shard.path)
        ));
        let up = shard.path.split('/').count() + 1;
        files.push(Cached {
            wanted: Wanted {
                name: format!("{}/{}", manifest.name, shard.path),
                place: blobs.join(&shard.blob),
                partial: blobs.join(format!("{}.incomplete", shard.blob)),
                size: shard.size,
                digest: shard.sha256.clone().map(|hash| ("sha256", hash)),
                sources: usable(mirror.into_iter().chain([hub]), places),
            },
            pointer,
            target: PathBuf::from("../".repeat(up)).join("blobs").join(&shard.blob),
            lock: locks.join(format!("{}.lock", shard.blob)),
        });
    }
    Ok(files)
}

impl Cached {
    /// Whether the right bytes are there, under the commit's name or under their own: then they get both.
    fn find(&self, progress: &dyn FetchProgress) -> Result<bool> {
        match self.wanted.check(&self.pointer)? {
            Ok(()) => return Ok(true),
            Err(reason) if self.pointer.exists() => {
                progress.note(&format!("`{}` {reason}: it is fetched again", self.pointer.display()));
            }
            Err(_) => {}
        }
        if self.wanted.check(&self.wanted.place)?.is_err() {
            return Ok(false);
        }
        self.link()?;
        Ok(true)
    }

    fn obtain(&self, client: &Client, progress: &dyn FetchProgress) -> Result<Result<(), Vec<(String, String)>>> {
        let _lock = lock(&self.lock, "fetches this file")?;
        // Another process, of ours or of Python's, may have been faster.
        let there = self.wanted.digest.is_some() && self.wanted.check(&self.wanted.place)?.is_ok();
        if !there {
            if self.wanted.digest.is_none() {
                // Nothing would tell whether old bytes and new ones belong together.
                self.wanted.discard()?;
            }
            if let Err(sources) = self.wanted.obtain(client, progress)? {
                return Ok(Err(sources));
            }
        }
        self.link()?;
        Ok(Ok(()))
    }

    /// Gives the bytes the name that the commit has for them.
    fn link(&self) -> Result<()> {
        match fs::remove_file(&self.pointer) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::io("replace", &self.pointer)(e)),
            _ => {}
        }
        match std::os::unix::fs::symlink(&self.target, &self.pointer) {
            // Another process was faster; it links to the same bytes.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
            made => made.map_err(Error::io("write", &self.pointer)),
        }
    }
}
