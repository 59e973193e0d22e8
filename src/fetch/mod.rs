//! From the network to this machine: archives of a dataset, the parquet files of its hub repository, or a model.
//!
//! A file gets its name when its length and hash are right, never before, so that whatever is opened later is what
//! the manifest promises. Its sources are asked in order: the mirror, then the addresses of the manifest.

mod archives;
mod client;
mod hub;
mod model;
mod remote;
pub(crate) mod repository;
pub(crate) mod shards;
mod transfer;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::error::{Error, MissingFile, Result};
use crate::fetch::client::Client;
pub use crate::fetch::hub::{HubFile, HubFiles, HubListing, HubShard, hub_files};
pub use crate::fetch::hub::{hub_listing, hub_tail};
pub use crate::fetch::model::ModelListing;
pub use crate::fetch::model::{CachedModel, ModelId, cached_model};
pub use crate::fetch::remote::{HubSettings, Remote, Token};
pub use crate::fetch::remote::{Policy, RetryAfter};
use crate::fetch::transfer::{Address, Download};
use crate::fs::file::lock;
use crate::manifest::{Form, Manifest};

/// Hears how files come in; called by several threads.
pub trait FetchProgress: Sync {
    /// A file of `size` bytes is asked for, of which `present` are there from an earlier time.
    fn begin(&self, file: &str, size: u64, present: u64);
    /// So many of its bytes are there now; fewer than before when it is fetched anew.
    fn at(&self, file: &str, bytes: u64);
    /// Something that a person wants to know: a source that failed, a wait.
    fn note(&self, text: &str);
    /// Nothing more comes of that file; whether it is complete.
    fn end(&self, file: &str, complete: bool);
}

/// A dataset or model that is complete on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// In which form.
    pub form: Form,
    /// Folder of its files.
    pub folder: PathBuf,
    /// Number of its files.
    pub files: usize,
    /// Number of those that were not there before.
    pub fetched: usize,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Commit of the repository.
    pub commit: Option<String>,
}

/// The forms in which a dataset is on the network, the manifest's favourite first; none if it lies on this machine
/// with its manifest.
#[must_use]
pub fn forms(manifest: &Manifest) -> Vec<Form> {
    let mut forms = Vec::new();
    if manifest.files.iter().any(|file| file.path.is_none()) {
        forms.push(Form::Archive);
    }
    if manifest.hub.is_some() {
        forms.push(Form::Hub);
    }
    forms.sort_by_key(|form| *form != manifest.prefer);
    forms
}

/// Makes one form of a dataset complete on this machine. Files that are there are checked and kept, wherever they
/// came from. Two processes may fetch the same dataset: the second one waits.
///
/// Archives go to [`Manifest::downloads`], hub files to the cache of Python's `huggingface_hub`.
///
/// # Errors
/// [`Error::NotFetchable`] with each file and what its sources said, [`Error::Hub`], [`Error::DiskSpace`], and
/// [`Error::Io`]. What has arrived is kept and continued by the next call.
pub fn fetch(manifest: &Manifest, form: Form, remote: &Remote, progress: &dyn FetchProgress) -> Result<Fetched> {
    let client = Client::new(&remote.hub, &remote.policy)?;
    match (form, &manifest.hub) {
        (Form::Hub, Some(hub)) => hub::fetch(manifest, hub, remote, &client, progress),
        (Form::Hub, None) => Err(Error::Dataset {
            dataset: manifest.name.clone(),
            reason: "its manifest names no hub repository".into(),
        }),
        (Form::Archive, _) => archives::fetch(manifest, remote, &client, progress),
    }
}

/// The sources, as far as they may be asked.
fn usable(sources: impl Iterator<Item = Address>, settings: &HubSettings) -> Vec<Address> {
    let usable = |source| match source {
        Address::Url(url) if settings.offline => Address::Offline(url),
        other => other,
    };
    sources.map(usable).collect()
}

/// A file that none of its sources gave.
fn missing(download: &Download, place: &Path, sources: Vec<(String, String)>) -> MissingFile {
    MissingFile {
        name: download.name.clone(),
        size: download.size,
        digest: download.digest.clone(),
        place: place.into(),
        sources,
    }
}

fn not_fetchable(manifest: &Manifest, files: Vec<MissingFile>) -> Error {
    Error::NotFetchable {
        dataset: manifest.name.clone(),
        files,
    }
}

/// Makes a dataset's folder of downloads and waits until no other process fetches into it.
fn claim(manifest: &Manifest, progress: &dyn FetchProgress) -> Result<Option<File>> {
    let folder = &manifest.downloads;
    std::fs::create_dir_all(folder).map_err(Error::io("make", folder))?;
    let path = folder.join(".lock");
    let is_taken = |file: File| matches!(file.try_lock(), Err(TryLockError::WouldBlock));
    if File::create(&path).is_ok_and(is_taken) {
        progress.note(&format!("waiting for another process that fetches {}", manifest.name));
    }
    lock(&path, "fetches this dataset")
}

/// Works on items with several threads; what came of each, in their order.
fn each<T: Sync, R: Send>(items: &[T], threads: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(number) else { return done };
            done.push((number, work(item)));
        }
    };
    let mut done = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.clamp(1, items.len().max(1)))
            .map(|_| scope.spawn(worker))
            .collect();
        let done = workers.into_iter().flat_map(|worker| match worker.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        done.collect::<Vec<_>>()
    });
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}
