//! Repositories of the hub, and where Python's `huggingface_hub` keeps them:
//! `<cache>/{datasets,models}--<owner>--<name>/{blobs/<hash>, refs/<revision>, snapshots/<commit>/<path> -> blob}`.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Error, MissingFile, Result};
use crate::fetch::client::{Client, encoded_path};
use crate::fetch::remote::Remote;
use crate::fetch::transfer::{Address, Download};
use crate::fetch::{FetchProgress, each, missing, usable};
use crate::fs::file::{lock, replace_in_cache};
use crate::fs::{hash, space};

/// Kind of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Dataset,
    Model,
}

/// A repository by its `owner/name`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Repository<'a> {
    pub(crate) kind: Kind,
    pub(crate) name: &'a str,
}

impl<'a> Repository<'a> {
    pub(crate) fn dataset(name: &'a str) -> Self {
        let kind = Kind::Dataset;
        Self { kind, name }
    }

    pub(crate) fn model(name: &'a str) -> Self {
        let kind = Kind::Model;
        Self { kind, name }
    }

    /// Name of its folder in the cache.
    fn folder_name(&self) -> String {
        let kind = match self.kind {
            Kind::Dataset => "datasets",
            Kind::Model => "models",
        };
        format!("{kind}--{}", self.name.replace('/', "--"))
    }

    /// Its folder in the cache.
    pub(crate) fn folder(&self, cache: &Path) -> PathBuf {
        cache.join(self.folder_name())
    }

    /// The folder of a commit's files.
    pub(crate) fn snapshot(&self, commit: &str, cache: &Path) -> PathBuf {
        self.folder(cache).join("snapshots").join(commit)
    }

    /// The commit that Python's client or an earlier call found for a branch or tag; a commit is itself.
    pub(crate) fn commit(&self, revision: &str, cache: &Path) -> Option<String> {
        if is_hash(revision, 40) {
            return Some(revision.into());
        }
        if !is_inside(revision) {
            return None;
        }
        let text = std::fs::read_to_string(self.folder(cache).join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_hash(commit, 40))
    }

    /// Path of its API below the hub's endpoint.
    pub(crate) fn questions(&self) -> String {
        match self.kind {
            Kind::Dataset => format!("api/datasets/{}", self.name),
            Kind::Model => format!("api/models/{}", self.name),
        }
    }

    /// Its page, and the folder of its files, below the hub's endpoint.
    pub(crate) fn page(&self) -> String {
        match self.kind {
            Kind::Dataset => format!("datasets/{}", self.name),
            Kind::Model => self.name.to_owned(),
        }
    }
}

/// Names are `owner/name` of letters, digits and `-_.`, as the hub has them; a few old ones have no owner.
pub(super) fn is_name(repo: &str) -> bool {
    let is_plain = |part: &str| {
        part.chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    repo.split('/').count() <= 2 && is_inside(repo) && repo.split('/').all(is_plain)
}

/// A relative path that stays where it is put.
pub(super) fn is_inside(path: &str) -> bool {
    let is_plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', '\0', ':']);
    path.split('/').all(is_plain)
}

pub(super) fn is_hash(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// A file as the hub describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RepoFile {
    /// Path inside the repository, with `/`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Lower-case hex SHA-256; unknown for a file that is not in large file storage.
    pub sha256: Option<String>,
    /// Name of its bytes in the cache: their SHA-256, else their git hash.
    pub blob: String,
}

impl RepoFile {
    /// True if its names may become paths on this machine.
    pub(crate) fn is_sound(&self) -> bool {
        let hash = self.sha256.as_ref();
        is_inside(&self.path)
            && (is_hash(&self.blob, 64) || is_hash(&self.blob, 40))
            && hash.is_none_or(|hash| is_hash(hash, 64))
    }
}

/// Files of one commit that are to be complete on this machine.
pub(super) struct RepositoryDownload<'a> {
    pub repository: Repository<'a>,
    /// 40 hex digits.
    pub commit: &'a str,
    /// Its name in messages, and its folder on a mirror.
    pub label: &'a str,
    pub files: Vec<RepoFile>,
    /// Other folders that need room, with their bytes.
    pub beside: Vec<(&'a Path, u64)>,
}

/// Outcome of a download.
pub(super) struct Outcome {
    /// Files that were not there before.
    pub fetched: usize,
    /// Files that could not be had.
    pub failed: Vec<MissingFile>,
}

impl RepositoryDownload<'_> {
    /// Fetches what is missing or wrong; room is looked for before the first byte.
    pub(crate) fn run(&self, remote: &Remote, client: &Client, progress: &dyn FetchProgress) -> Result<Outcome> {
        let files = self.cached(remote)?;
        let whole = each(&files, client.policy.parallel, |file| file.find(progress));
        let mut absent = Vec::new();
        for (file, whole) in files.iter().zip(whole) {
            if !whole? {
                absent.push(file);
            }
        }
        if !absent.is_empty() {
            let needed = absent
                .iter()
                .map(|file| file.download.size - file.download.arrived())
                .sum();
            let folder = self.repository.folder(&remote.hub.cache);
            let mut needs = vec![(folder.as_path(), needed)];
            needs.extend(&self.beside);
            space::check(&needs)?;
        }
        let outcomes = each(&absent, client.policy.parallel, |file| file.obtain(client, progress));
        let mut failed = Vec::new();
        for (file, outcome) in absent.iter().zip(outcomes) {
            if let Err(sources) = outcome? {
                failed.push(missing(&file.download, &file.pointer, sources));
            }
        }
        Ok(Outcome {
            fetched: absent.len() - failed.len(),
            failed,
        })
    }

    /// The files with their places, whose folders are made.
    fn cached(&self, remote: &Remote) -> Result<Vec<Cached>> {
        let (cache, repository) = (&remote.hub.cache, &self.repository);
        let snapshot = repository.snapshot(self.commit, cache);
        let blobs = repository.folder(cache).join("blobs");
        let locks = cache.join(".locks").join(repository.folder_name());
        let mut files = Vec::new();
        for file in &self.files {
            let pointer = snapshot.join(&file.path);
            for above in [pointer.parent().unwrap_or(&snapshot), &blobs, &locks] {
                fs::create_dir_all(above).map_err(Error::io("make", above))?;
            }
            let mirror = remote.mirror.as_deref();
            let mirror = mirror.map(|base| Address::of_mirror(base, &[self.label, &file.path]));
            let hub = Address::Url(format!(
                "{}/{}/resolve/{}/{}",
                remote.hub.endpoint,
                repository.page(),
                self.commit,
                encoded_path(&file.path)
            ));
            let up = file.path.split('/').count() + 1;
            files.push(Cached {
                download: Download {
                    name: format!("{}/{}", self.label, file.path),
                    place: blobs.join(&file.blob),
                    partial: blobs.join(format!("{}.incomplete", file.blob)),
                    size: file.size,
                    digest: file.sha256.clone().map(|hash| ("sha256", hash)),
                    sources: usable(mirror.into_iter().chain([hub]), &remote.hub),
                },
                pointer,
                target: PathBuf::from("../".repeat(up)).join("blobs").join(&file.blob),
                lock: locks.join(format!("{}.lock", file.blob)),
            });
        }
        Ok(files)
    }

    /// Notes what a branch or tag stood for; a commit needs no note.
    pub(crate) fn refer(&self, revision: &str, remote: &Remote) -> Result<()> {
        if revision == self.commit {
            return Ok(());
        }
        let folder = self.repository.folder(&remote.hub.cache);
        let reference = folder.join("refs").join(revision);
        let above = reference.parent().unwrap_or(&folder);
        fs::create_dir_all(above).map_err(Error::io("make", above))?;
        replace_in_cache(&reference, self.commit.as_bytes())
    }
}

/// One file of the cache: its bytes, and the name that a commit has for them.
struct Cached {
    download: Download,
    /// `snapshots/<commit>/<path>`.
    pointer: PathBuf,
    /// From the pointer's folder to the bytes.
    target: PathBuf,
    lock: PathBuf,
}

impl Cached {
    /// True if the right bytes are there, under the commit's name or under their own: then they get both.
    fn find(&self, progress: &dyn FetchProgress) -> Result<bool> {
        match self.download.check(&self.pointer)? {
            Ok(()) => {
                self.remember();
                return Ok(true);
            }
            Err(reason) if self.pointer.exists() => {
                progress.note(&format!("`{}` {reason}: it is fetched again", self.pointer.display()));
            }
            Err(_) => {}
        }
        if self.download.check(&self.download.place)?.is_err() {
            return Ok(false);
        }
        self.link()?;
        Ok(true)
    }

    fn obtain(&self, client: &Client, progress: &dyn FetchProgress) -> Result<Result<(), Vec<(String, String)>>> {
        let _lock = lock(&self.lock, "fetches this file")?;
        // Another process, of ours or of Python's, may have been faster.
        let there = self.download.digest.is_some() && self.download.check(&self.download.place)?.is_ok();
        if !there {
            if self.download.digest.is_none() {
                // Nothing would tell whether old bytes and new ones belong together.
                self.download.discard()?;
            }
            if let Err(sources) = self.download.obtain(client, progress)? {
                return Ok(Err(sources));
            }
        }
        self.link()?;
        self.remember();
        Ok(Ok(()))
    }

    /// Whoever opens the file next need not hash it again.
    fn remember(&self) {
        if let Some(("sha256", hash)) = &self.download.digest {
            hash::keep(&self.pointer, hash);
        }
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
