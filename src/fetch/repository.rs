//! Repositories of the hub, where Python's `huggingface_hub` keeps them, and which parquet files lie there:
//! `<cache>/{datasets,models}--<owner>--<name>/{blobs/<hash>, refs/<revision>, snapshots/<commit>/<path> -> blob}`.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::fetch::client::{Client, Remote, encoded_path};
use crate::fetch::transfer::{Address, Download};
use crate::fetch::{FetchProgress, Fetched, all_obtained, each};
use crate::fs::file::{lock, replace_in_cache};
use crate::fs::{check_space, hash};
use crate::manifest::{Form, Hub};

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
        let text = fs::read_to_string(self.folder(cache).join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_hash(commit, 40))
    }

    /// Path of its API below the hub's endpoint.
    pub(crate) fn questions(&self) -> String {
        match self.kind {
            Kind::Dataset => format!("api/datasets/{}", self.name),
            Kind::Model => format!("api/models/{}", self.name),
        }
    }

    /// Address of a file at a commit.
    pub(crate) fn file_address(&self, endpoint: &str, commit: &str, path: &str) -> String {
        let folder = match self.kind {
            Kind::Dataset => "datasets/",
            Kind::Model => "",
        };
        format!(
            "{endpoint}/{folder}{}/resolve/{commit}/{}",
            self.name,
            encoded_path(path)
        )
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepoFile {
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

impl RepositoryDownload<'_> {
    /// Fetches what is missing or wrong; room is looked for before the first byte. What the revision stood for is noted when
    /// all are there. `dataset`: the name of the whole in the message when some are not to be had.
    pub(crate) fn fetch(
        &self,
        (dataset, revision): (&str, &str),
        client: &Client,
        progress: &dyn FetchProgress,
    ) -> Result<Fetched> {
        let cache = &client.remote.hub.cache;
        let files = self.cached(&client.remote)?;
        let whole = each(&files, client.remote.policy.parallel, |file| file.find(progress));
        let mut absent = Vec::new();
        for (file, whole) in files.iter().zip(whole) {
            if !whole? {
                absent.push(file);
            }
        }
        if !absent.is_empty() {
            let left = absent.iter().map(|file| file.download.size - file.download.arrived());
            let needed = left.sum();
            let folder = self.repository.folder(cache);
            let mut needs = vec![(folder.as_path(), needed)];
            needs.extend(&self.beside);
            check_space(&needs)?;
        }
        let outcomes = each(&absent, client.remote.policy.parallel, |file| {
            file.obtain(client, progress)
        });
        let mut failed = Vec::new();
        for (file, outcome) in absent.iter().zip(outcomes) {
            if let Err(sources) = outcome? {
                failed.push(file.download.missing(&file.pointer, sources));
            }
        }
        all_obtained(dataset, failed)?;
        self.refer(revision, cache)?;
        Ok(Fetched {
            form: Form::Hub,
            folder: self.repository.snapshot(self.commit, cache),
            files: files.len(),
            fetched: absent.len(),
            bytes: self.files.iter().map(|file| file.size).sum(),
            commit: Some(self.commit.to_owned()),
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
            let hub = repository.file_address(&remote.hub.endpoint, self.commit, &file.path);
            let up = file.path.split('/').count() + 1;
            files.push(Cached {
                download: Download {
                    name: format!("{}/{}", self.label, file.path),
                    place: blobs.join(&file.blob),
                    partial: blobs.join(format!("{}.incomplete", file.blob)),
                    size: file.size,
                    digest: file.sha256.clone().map(|hash| ("sha256", hash)),
                    sources: Address::list(remote, &[self.label, &file.path], [hub].into_iter()),
                },
                pointer,
                target: PathBuf::from("../".repeat(up)).join("blobs").join(&file.blob),
                lock: locks.join(format!("{}.lock", file.blob)),
            });
        }
        Ok(files)
    }

    /// Notes what a branch or tag stood for; a commit needs no note.
    fn refer(&self, revision: &str, cache: &Path) -> Result<()> {
        if revision == self.commit {
            return Ok(());
        }
        let folder = self.repository.folder(cache);
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

/// A hub dataset that is complete on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFiles {
    /// `owner/name`.
    pub repo: String,
    /// 40 hex digits.
    pub commit: String,
    /// The files of all splits asked for.
    pub shards: Vec<HubFile>,
}

/// One parquet file on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFile {
    /// Which split its rows belong to.
    pub split: String,
    /// Path inside the repository, with `/`.
    pub name: String,
    /// Its path.
    pub path: PathBuf,
    /// Bytes, where known.
    pub size: Option<u64>,
    /// Lower-case hex SHA-256 that it should have, where known; not checked here.
    pub sha256: Option<String>,
}

/// The parquet files that a manifest needs, as they lie in a snapshot that Python's hub client made: split by split, each in
/// the order of its files' names; or names and places of those that are missing.
pub(crate) fn on_disk(hub: &Hub, cache: &Path) -> Result<HubFiles, Vec<(String, PathBuf)>> {
    let repository = Repository::dataset(&hub.repo);
    let commit = repository.commit(&hub.revision, cache);
    // Where it would lie, as long as nobody knows what a branch stands for.
    let snapshot = repository.snapshot(commit.as_deref().unwrap_or(&hub.revision), cache);
    let file = |name: String, size, sha256| {
        Some(HubFile {
            split: split_of(&name)?.to_owned(),
            path: snapshot.join(&name),
            name,
            size,
            sha256,
        })
    };
    let listed = hub.shards.iter();
    let mut files: Vec<HubFile> = listed
        .filter_map(|shard| file(shard.path.clone(), shard.size, shard.sha256.clone()))
        .collect();
    if hub.shards.is_empty() {
        let found = found_below(&snapshot).into_iter();
        files = found.filter_map(|name| file(name, None, None)).collect();
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let mut shards = Vec::new();
    let mut missing = Vec::new();
    for split in hub.train.iter().chain(&hub.val).chain(&hub.test) {
        let of_split: Vec<&HubFile> = files.iter().filter(|file| file.split == *split).collect();
        let expected = of_split.first().and_then(|shard| number_of_shards(&shard.name));
        if of_split.is_empty() || expected.is_some_and(|n| n != of_split.len()) {
            let n = expected.map_or_else(|| "*".to_owned(), |n| format!("{n:05}"));
            let name = format!("data/{split}-*-of-{n}.parquet");
            missing.push((name.clone(), snapshot.join(name)));
        }
        for shard in of_split {
            if shard.path.is_file() {
                shards.push(with_etag(shard.clone()));
            } else {
                missing.push((shard.name.clone(), shard.path.clone()));
            }
        }
    }
    match commit {
        Some(commit) if missing.is_empty() => Ok(HubFiles {
            repo: hub.repo.clone(),
            commit,
            shards,
        }),
        _ => Err(missing),
    }
}

/// The split that a parquet file belongs to, `train` of `data/train-00000-of-00003.parquet`,
/// `data/train-00000-of-00001-0a1b.parquet`, `data/train-0.parquet`, `train.parquet` and `default/train/0000.parquet`.
pub(crate) fn split_of(path: &str) -> Option<&str> {
    let stem = path.strip_suffix(".parquet")?;
    let (folder, name) = stem.rsplit_once('/').unwrap_or(("", stem));
    let split = if is_number(name) {
        folder.rsplit('/').next().unwrap_or(folder)
    } else if let Some((split, _)) = numbered(name) {
        split
    } else {
        let before_number = |&(at, _): &(usize, &str)| name[at + 1..].starts_with(|c: char| c.is_ascii_digit());
        name.match_indices('-')
            .find(before_number)
            .map_or(name, |(at, _)| &name[..at])
    };
    (!split.is_empty()).then_some(split)
}

/// Split and number of files of `<split>-00000-of-00003`, after which a hash may stand.
fn numbered(name: &str) -> Option<(&str, &str)> {
    let parts = |most| name.rsplitn(most, '-').collect::<Vec<_>>();
    match (parts(4).as_slice(), parts(5).as_slice()) {
        (&[total, "of", number, split], _) | (_, &[_, total, "of", number, split])
            if is_number(total) && is_number(number) =>
        {
            Some((split, total))
        }
        _ => None,
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// 3 of `data/train-00000-of-00003.parquet`.
pub(crate) fn number_of_shards(path: &str) -> Option<usize> {
    let name = path.strip_suffix(".parquet")?.rsplit('/').next()?;
    numbered(name)?.1.parse().ok()
}

/// Parquet files of a snapshot, at most two folders down, by their paths inside it.
fn found_below(snapshot: &Path) -> Vec<String> {
    fn collect(folder: &Path, inside: &str, deeper: usize, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let (path, name) = (entry.path(), format!("{inside}{name}"));
            if path.is_dir() {
                if deeper > 0 {
                    collect(&path, &format!("{name}/"), deeper - 1, found);
                }
            } else if name.ends_with(".parquet") {
                found.push(name);
            }
        }
    }
    let mut found = Vec::new();
    collect(snapshot, "", 2, &mut found);
    found
}

/// A hash that the manifest does not know, from the name of the blob that the file is a link to: the etag of a large file is
/// its SHA-256.
fn with_etag(mut shard: HubFile) -> HubFile {
    if shard.sha256.is_none() {
        let target = fs::read_link(&shard.path).ok();
        let etag = target.and_then(|target| Some(target.file_name()?.to_str()?.to_owned()));
        shard.sha256 = etag.filter(|e| e.len() == 64 && e.bytes().all(|b| b.is_ascii_hexdigit()));
    }
    shard
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_is_what_stands_before_the_numbers() {
        for (path, split) in [
            ("data/train-00000-of-00003.parquet", "train"),
            ("data/gaussian_noise-00000-of-00001.parquet", "gaussian_noise"),
            ("data/train-clean-00000-of-00001.parquet", "train-clean"),
            ("data/train-00000-of-00001-b42a775f407cee45.parquet", "train"),
            ("data/clean-100-00000-of-00002-0a1b.parquet", "clean-100"),
            ("data/test-1.parquet", "test"),
            ("test.parquet", "test"),
            ("default/train/0000.parquet", "train"),
            ("validation/0000.parquet", "validation"),
        ] {
            assert_eq!(split_of(path), Some(split), "{path}");
        }
        assert_eq!(split_of("data/train-00000-of-00003.json"), None);
        assert_eq!(split_of("0000.parquet"), None);
        for name in ["data/train-00001-of-00003.parquet", "train-00001-of-00003-0a1b.parquet"] {
            assert_eq!(number_of_shards(name), Some(3), "{name}");
        }
        assert_eq!(number_of_shards("train.parquet"), None);
    }

    fn hub(revision: &str) -> Hub {
        toml::from_str(&format!(
            "repo = \"o/n\"\nrevision = \"{revision}\"\nval = [\"validation\"]\n"
        ))
        .unwrap()
    }

    #[test]
    fn a_branch_is_followed_to_its_commit_and_all_shards_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let repo = folder.path().join("datasets--o--n");
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let data = repo.join("snapshots").join(commit).join("data");
        std::fs::create_dir_all(&data).unwrap();
        std::fs::create_dir_all(repo.join("refs")).unwrap();
        assert!(on_disk(&hub("main"), folder.path()).is_err());
        std::fs::write(repo.join("refs/main"), commit).unwrap();
        let shards = [
            "train-00000-of-00002",
            "test-00000-of-00001",
            "contrast-00000-of-00001",
            "validation-00000-of-00001",
        ];
        for name in shards {
            std::fs::write(data.join(format!("{name}.parquet")), b"").unwrap();
        }
        let missing = on_disk(&hub("main"), folder.path()).unwrap_err();
        assert_eq!(missing.len(), 1);
        assert_eq!(missing[0].0, "data/train-*-of-00002.parquet");
        std::fs::write(data.join("train-00001-of-00002.parquet"), b"").unwrap();
        let snapshot = on_disk(&hub("main"), folder.path()).unwrap();
        assert_eq!(snapshot, on_disk(&hub(commit), folder.path()).unwrap());
        assert_eq!(snapshot.commit, commit);
        let names: Vec<_> = snapshot.shards.iter().map(|shard| shard.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "data/train-00000-of-00002.parquet",
                "data/train-00001-of-00002.parquet",
                "data/validation-00000-of-00001.parquet",
                "data/test-00000-of-00001.parquet"
            ]
        );
    }
}
