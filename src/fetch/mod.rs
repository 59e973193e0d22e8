//! From the network to this machine: archives of a dataset, the parquet files of its hub repository, or a model.
//!
//! A file gets its name when its length and hash are right, never before, so that whatever is opened later is what
//! the manifest promises. Its sources are asked in order: the mirror, then the addresses of the manifest.

mod client;
mod hub;
mod model;
pub(crate) mod repository;
mod transfer;

use std::fs::{self, File, TryLockError};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::config::Protocol;
use crate::error::{Error, MissingFile, Result};
use crate::fetch::client::Client;
pub use crate::fetch::client::{HubSettings, Policy, Remote, RetryAfter, Token};
pub use crate::fetch::hub::{HubListing, HubShard, hub_files, hub_listing, hub_tail};
pub use crate::fetch::model::{CachedModel, ModelId, ModelListing, cached_model};
pub use crate::fetch::repository::{HubFile, HubFiles};
use crate::fetch::transfer::{Address, Download};
use crate::fs::file::lock;
use crate::fs::{check_space, unpacked_size};
use crate::manifest::{Form, Manifest, SourceFile};

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
    let client = Client::new(remote)?;
    match (form, &manifest.hub) {
        (Form::Hub, Some(hub)) => hub::fetch(manifest, hub, &client, progress),
        (Form::Hub, None) => Err(manifest.fail("its manifest names no hub repository")),
        (Form::Archive, _) => fetch_archives(manifest, &client, progress),
    }
}

/// Fetches the files of a dataset that do not come with its manifest.
fn fetch_archives(manifest: &Manifest, client: &Client, progress: &dyn FetchProgress) -> Result<Fetched> {
    let folder = &manifest.downloads;
    let _lock = claim(manifest, progress)?;
    let elsewhere = manifest.files.iter().filter(|file| file.path.is_none());
    let files = elsewhere.map(|file| (file, download(manifest, file, &client.remote)));
    let files: Vec<(&SourceFile, Download)> = files.collect();
    let whole = each(&files, client.remote.policy.parallel, |(_, download)| {
        Ok::<_, Error>(match download.check(&download.place)? {
            Ok(()) => true,
            Err(reason) => {
                set_aside(download, &reason, progress)?;
                false
            }
        })
    });
    let mut absent = Vec::new();
    for (file, whole) in files.iter().zip(whole) {
        if !whole? {
            absent.push(file);
        }
    }
    let total = files.iter().map(|(file, _)| file.size).sum();
    if !absent.is_empty() {
        let left = absent.iter().map(|(_, download)| download.size - download.arrived());
        check_space(&[(folder, left.sum()), (folder, unpacked_size(total))])?;
    }
    let outcomes = each(&absent, client.remote.policy.parallel, |(_, download)| {
        download.obtain(client, progress)
    });
    let needed = manifest.needed(Protocol::Clean, |file| manifest.place(file).exists());
    let mut failed = Vec::new();
    for ((file, download), outcome) in absent.iter().zip(outcomes) {
        match outcome? {
            Ok(()) => {}
            Err(sources) if needed.contains(file) => failed.push(download.missing(&download.place, sources)),
            Err(_) => progress.note(&format!("{}: left out, only some protocols need it", download.name)),
        }
    }
    all_obtained(&manifest.name, failed)?;
    Ok(Fetched {
        form: Form::Archive,
        folder: folder.clone(),
        files: files.len(),
        fetched: absent.len(),
        bytes: total,
        commit: None,
    })
}

fn download(manifest: &Manifest, file: &SourceFile, remote: &Remote) -> Download {
    let place = manifest.place(file);
    Download {
        name: format!("{}/{}", manifest.name, file.name),
        partial: place.with_file_name(format!("{}.part", file.name)),
        place,
        size: file.size,
        digest: file.digest().map(|(kind, value)| (kind, value.to_owned())),
        sources: Address::list(remote, &[&manifest.name, &file.name], file.urls.iter().cloned()),
    }
}

/// A file with wrong bytes gives up its name: it is not what anybody may open as that file.
fn set_aside(download: &Download, reason: &str, progress: &dyn FetchProgress) -> Result<()> {
    if !download.place.exists() {
        return Ok(());
    }
    let mut aside = download.place.clone().into_os_string();
    aside.push(".rejected");
    fs::rename(&download.place, &aside).map_err(Error::io("rename", &download.place))?;
    let aside = aside.to_string_lossy();
    progress.note(&format!("{}: {reason}: now `{aside}`", download.name));
    Ok(())
}

/// Fails where files could not be had.
fn all_obtained(dataset: &str, failed: Vec<MissingFile>) -> Result<()> {
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::NotFetchable {
        dataset: dataset.into(),
        files: failed,
    })
}

/// Makes a dataset's folder of downloads and waits until no other process fetches into it.
fn claim(manifest: &Manifest, progress: &dyn FetchProgress) -> Result<Option<File>> {
    let folder = &manifest.downloads;
    fs::create_dir_all(folder).map_err(Error::io("make", folder))?;
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
