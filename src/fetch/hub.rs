//! Parquet files of a dataset's hub repository: listed by the hub's API once, kept with the downloads, and fetched into
//! the cache that Python's `huggingface_hub` uses.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use reqwest::{StatusCode, Url};
use serde::{Deserialize, Serialize};

use crate::error::{Cause, Error, Result};
use crate::fetch::client::{Client, HubSettings, Policy, Remote, Trouble, encoded, encoded_path, shown};
use crate::fetch::repository::{
    HubFile, HubFiles, Kind, RepoFile, Repository, RepositoryDownload, is_hash, is_inside, is_name, split_of,
};
use crate::fetch::{FetchProgress, Fetched, claim};
use crate::formats::quoted;
use crate::fs::{file, unpacked_size};
use crate::manifest::{Hub, Manifest};

/// The parquet files of a repository at one commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubListing {
    /// `owner/name`.
    pub repo: String,
    /// Branch, tag or commit that was asked for.
    pub revision: String,
    /// The commit it stood for: 40 hex digits.
    pub commit: String,
    /// The files, by path.
    pub shards: Vec<HubShard>,
}

/// One parquet file of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubShard {
    /// Which split its rows belong to, as its name says.
    pub split: String,
    /// The file itself.
    #[serde(flatten)]
    pub file: RepoFile,
}

impl HubShard {
    fn of(file: RepoFile) -> Option<Self> {
        let split = split_of(&file.path)?.to_owned();
        Some(Self { split, file })
    }
}

/// The files of a hub dataset, if all of them lie in the cache with their sizes. Makes no connection.
///
/// `downloads` is the dataset's folder for downloads, where the listing is kept that its fetching resolved.
#[must_use]
pub fn hub_files(hub: &Hub, downloads: &Path, settings: &HubSettings) -> Option<HubFiles> {
    let known = known(hub, downloads, settings)?;
    let folder = Repository::dataset(&known.repo).snapshot(&known.commit, &settings.cache);
    let shards = known.shards.into_iter().map(|HubShard { split, file }| {
        let path = folder.join(&file.path);
        let is_whole = std::fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() == file.size);
        is_whole.then_some(HubFile {
            split,
            name: file.path,
            path,
            size: Some(file.size),
            sha256: file.sha256,
        })
    });
    Some(HubFiles {
        shards: shards.collect::<Option<_>>()?,
        repo: known.repo,
        commit: known.commit,
    })
}

/// Fetches the parquet files of a dataset.
pub(super) fn fetch(manifest: &Manifest, hub: &Hub, client: &Client, progress: &dyn FetchProgress) -> Result<Fetched> {
    let downloads = &manifest.downloads;
    let _lock = claim(manifest, progress)?;
    let known = match known(hub, downloads, &client.remote.hub) {
        Some(known) => known,
        None => resolve(hub, downloads, client)?,
    };
    // For the next time, when no connection may be there.
    let json = serde_json::to_vec_pretty(&known);
    file::replace_json_in_cache(&downloads.join("hub.json"), "list of hub files", json)?;
    let total = known.shards.iter().map(|shard| shard.file.size).sum();
    let download = RepositoryDownload {
        repository: Repository::dataset(&known.repo),
        commit: &known.commit,
        label: &manifest.name,
        files: known.shards.iter().map(|shard| shard.file.clone()).collect(),
        beside: vec![(downloads, unpacked_size(total))],
    };
    download.fetch((&manifest.name, &known.revision), client, progress)
}

/// The listing of a manifest's repository, as far as this machine knows it.
fn known(hub: &Hub, downloads: &Path, settings: &HubSettings) -> Option<HubListing> {
    let kept = file::read_json(&downloads.join("hub.json"))
        .filter(|kept: &HubListing| kept.repo == hub.repo && kept.revision == hub.revision && kept.is_sound());
    let commit = match &kept {
        Some(kept) if !is_hash(&hub.revision, 40) => kept.commit.clone(),
        _ => Repository::dataset(&hub.repo).commit(&hub.revision, &settings.cache)?,
    };
    promised(hub, &commit).or_else(|| kept.and_then(|kept| of_manifest(kept, hub).ok()))
}

/// Asks the hub for what the manifest leaves open.
fn resolve(hub: &Hub, downloads: &Path, client: &Client) -> Result<HubListing> {
    let settings = &client.remote.hub;
    if settings.offline {
        let reason = format!(
            "its files are not known here, and KSHOT_OFFLINE or HF_HUB_OFFLINE is set; where there is a network, fetch \
             the dataset, then copy `{}` and `{}` to this machine",
            Repository::dataset(&hub.repo).folder(&settings.cache).display(),
            downloads.join("hub.json").display()
        );
        let repo = hub.repo.clone();
        return Err(Error::Hub { repo, reason }.because(Cause::Offline));
    }
    let api = HubApi::new(Repository::dataset(&hub.repo), client)?;
    let commit = api.commit(&hub.revision)?;
    match promised(hub, &commit) {
        Some(listing) => Ok(listing),
        None => of_manifest(api.listing(&hub.revision, commit)?, hub),
    }
}

/// All parquet files of a repository's usual configuration, at one commit.
///
/// A repository whose revision has none is looked for them in the branch into which the hub converts. `configuration`:
/// the one to take of several.
///
/// # Errors
/// [`Error::Hub`] when the hub cannot be reached, refuses, or knows no parquet files; [`Error::Import`] when it has
/// several configurations, none of which is asked for or usual, or not the one that is asked for.
pub fn hub_listing(
    repo: &str,
    revision: &str,
    configuration: Option<&str>,
    settings: &HubSettings,
    policy: &Policy,
) -> Result<HubListing> {
    let client = asking(settings, policy)?;
    let api = HubApi::new(Repository::dataset(repo), &client)?;
    let commit = api.commit(revision)?;
    let mut listing = api.listing(revision, commit)?;
    let names: BTreeSet<String> = listing.shards.iter().map(self::configuration).collect();
    let fail = |reason: &str, remedy: &str| {
        Err(Error::Import {
            origin: repo.into(),
            reason: format!(
                "{reason}: {}",
                quoted(names.iter().map(|name| configuration_name(name)))
            ),
            remedy: remedy.into(),
        })
    };
    match configuration {
        Some(name) => {
            let is_asked = |shard: &HubShard| configuration_name(&self::configuration(shard)) == name;
            listing.shards.retain(is_asked);
            if listing.shards.is_empty() {
                let reason = format!("it has no configuration `{name}`");
                return fail(&reason, "name one of these with `--config`");
            }
            Ok(listing.sorted())
        }
        None if names.len() > 1 && !USUAL.iter().any(|name| names.contains(*name)) => {
            fail("it has several configurations", "say which with `--config NAME`")
        }
        None => one_configuration(listing, &[]),
    }
}

/// Configurations that are taken where there are others too.
const USUAL: [&str; 3] = ["data", "default", ""];

/// A configuration's name for people: its folder, `data/` in front left out.
fn configuration_name(configuration: &str) -> &str {
    match configuration {
        "" => "default",
        name => name.strip_prefix("data/").unwrap_or(name),
    }
}

/// A client for questions alone.
fn asking(settings: &HubSettings, policy: &Policy) -> Result<Client> {
    Client::new(&Remote {
        mirror: None,
        hub: settings.clone(),
        policy: policy.clone(),
    })
}

/// The last bytes of a file of a listing, where parquet files describe themselves.
///
/// # Errors
/// As [`hub_listing`].
pub fn hub_tail(
    listing: &HubListing,
    shard: &HubShard,
    bytes: u64,
    settings: &HubSettings,
    policy: &Policy,
) -> Result<Vec<u8>> {
    let client = asking(settings, policy)?;
    let api = HubApi::new(Repository::dataset(&listing.repo), &client)?;
    api.tail(&listing.commit, shard, bytes)
}

/// The listing that the manifest itself gives, if it says everything of each file.
fn promised(hub: &Hub, commit: &str) -> Option<HubListing> {
    let shards = hub.shards.iter().map(|shard| {
        HubShard::of(RepoFile {
            path: shard.path.clone(),
            size: shard.size?,
            sha256: shard.sha256.clone(),
            blob: shard.sha256.clone()?,
        })
    });
    let listing = HubListing {
        repo: hub.repo.clone(),
        revision: hub.revision.clone(),
        commit: commit.into(),
        shards: shards.collect::<Option<_>>()?,
    };
    (!listing.shards.is_empty() && listing.is_sound())
        .then_some(listing)
        .and_then(|listing| of_manifest(listing, hub).ok())
}

/// Error of a repository without the files that are wanted.
fn lacks(repo: &str, reason: String) -> Error {
    let repo = repo.into();
    Error::Hub { repo, reason }.because(Cause::LacksFiles)
}

/// The files of a listing that the manifest wants, by path; its splits must all be there, its sizes and hashes hold.
fn of_manifest(mut listing: HubListing, hub: &Hub) -> Result<HubListing> {
    let fail = |reason| lacks(&hub.repo, reason);
    let wanted = [hub.train.as_slice(), &hub.val, &hub.test].concat();
    if hub.shards.is_empty() {
        listing = one_configuration(listing, &wanted)?;
    } else {
        for promise in &hub.shards {
            let path = &promise.path;
            let Some(HubShard { file, .. }) = listing.shards.iter().find(|shard| shard.file.path == *path) else {
                return Err(fail(format!("has no file `{path}`, which the manifest lists")));
            };
            let differs = promise.size.is_some_and(|size| size != file.size)
                || promise.sha256.is_some() && promise.sha256 != file.sha256;
            if differs {
                return Err(fail(format!("its `{path}` is not the one that the manifest lists")));
            }
        }
        let listed = |path: &str| hub.shards.iter().any(|promise| promise.path == path);
        listing.shards.retain(|shard| listed(&shard.file.path));
    }
    for split in &wanted {
        if !listing.shards.iter().any(|shard| shard.split == *split) {
            let mut found: Vec<_> = listing.shards.iter().map(|shard| shard.split.as_str()).collect();
            found.dedup();
            let reason = format!("has no parquet file of the split `{split}`, only of: ");
            return Err(fail(reason + &found.join(", ")));
        }
    }
    listing.shards.retain(|shard| wanted.contains(&shard.split));
    Ok(listing.sorted())
}

/// The files of one configuration: the only one with all wanted splits, else the one by a usual name.
fn one_configuration(mut listing: HubListing, wanted: &[String]) -> Result<HubListing> {
    let mut configurations: BTreeMap<String, Vec<HubShard>> = BTreeMap::new();
    for shard in listing.shards {
        configurations.entry(configuration(&shard)).or_default().push(shard);
    }
    let names: Vec<String> = configurations.keys().cloned().collect();
    let has = |shards: &[HubShard], split: &str| shards.iter().any(|shard| shard.split == split);
    configurations.retain(|_, shards| wanted.iter().all(|split| has(shards, split)));
    let usual = USUAL.into_iter().find(|name| configurations.contains_key(*name));
    let name = match (usual, configurations.keys().next()) {
        (Some(name), _) => name.to_owned(),
        (None, Some(only)) if configurations.len() == 1 => only.clone(),
        _ => {
            let reason = match names.as_slice() {
                [] => "has no parquet files".to_owned(),
                _ if configurations.is_empty() => format!(
                    "has no folder with all of the splits {}; it has: {}",
                    wanted.join(", "),
                    names.join(", ")
                ),
                _ => format!("has several configurations: {}", names.join(", ")),
            };
            return Err(lacks(&listing.repo, reason));
        }
    };
    listing.shards = configurations.remove(&name).unwrap_or_default();
    Ok(listing.sorted())
}

/// The folder of a file, without the part that names its split.
fn configuration(shard: &HubShard) -> String {
    let folder = shard.file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    match folder.rsplit_once('/').unwrap_or(("", folder)) {
        (above, last) if last == shard.split => above.to_owned(),
        _ => folder.to_owned(),
    }
}

impl HubListing {
    /// True if every name may become a path on this machine.
    fn is_sound(&self) -> bool {
        let sound = |shard: &HubShard| shard.file.is_sound();
        is_hash(&self.commit, 40) && is_inside(&self.revision) && self.shards.iter().all(sound)
    }

    fn sorted(mut self) -> Self {
        self.shards.sort_by(|a, b| a.file.path.cmp(&b.file.path));
        self
    }
}

/// Branch of parquet files that the hub made itself of other formats.
const CONVERTED: &str = "refs/convert/parquet";

/// Pages of file names that are read before a repository is taken to have no end.
const PAGES: usize = 500;

/// Questions about one repository.
pub(super) struct HubApi<'a> {
    pub repository: Repository<'a>,
    client: &'a Client,
}

/// The hub's answer about a revision.
#[derive(Deserialize)]
struct Revision {
    sha: String,
}

/// The hub's answer about one file or folder.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type", default)]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<LargeFile>,
}

/// Of a file in large file storage: its SHA-256.
#[derive(Deserialize)]
struct LargeFile {
    oid: String,
    size: u64,
}

impl<'a> HubApi<'a> {
    pub(crate) fn new(repository: Repository<'a>, client: &'a Client) -> Result<Self> {
        let api = Self { repository, client };
        if !is_name(repository.name) {
            return Err(api.fail("is no `owner/name`").because(Cause::RepositoryName));
        }
        Ok(api)
    }

    /// An answer that is not the hub's, unless the caller knows another cause.
    pub(crate) fn fail(&self, reason: impl Into<String>) -> Error {
        let (repo, reason) = (self.repository.name.into(), reason.into());
        Error::Hub { repo, reason }.because(Cause::StrangeAnswer)
    }

    fn refused(&self, trouble: Trouble) -> Error {
        if !trouble.passes
            && self.repository.kind == Kind::Model
            && let Some(refusal) = self.model_refused(&trouble)
        {
            return refusal;
        }
        let hub = shown(&self.client.remote.hub.endpoint);
        let refusal = self.fail(format!("{hub} answers: {}", trouble.reason));
        refusal.because(trouble.cause)
    }

    /// Cause of a refusal of a model; the hub says more in `X-Error-Code`.
    fn model_refused(&self, trouble: &Trouble) -> Option<Error> {
        let status = trouble.status.map(|status| status.as_u16());
        let (name, hub) = (self.repository.name, shown(&self.client.remote.hub.endpoint));
        let sign_in = "set `HF_TOKEN` to a token of that account, or run `hf auth login`";
        let (reason, remedy) = match (trouble.code.as_deref(), status) {
            (Some("GatedRepo"), _) if self.client.remote.hub.token.is_some() => (
                "is gated, and the account of this token has no access to it".to_owned(),
                format!(
                    "accept its licence at {hub}/{name} with the account whose token `HF_TOKEN` or `hf auth login` holds"
                ),
            ),
            (Some("GatedRepo"), _) => (
                "is gated: it is given to those who accepted its licence".to_owned(),
                format!("accept its licence at {hub}/{name}, then {sign_in}"),
            ),
            (Some("RevisionNotFound"), _) => (
                "has no such branch, tag or commit".to_owned(),
                format!("{hub}/{name}/tree/main shows the branches and tags"),
            ),
            (Some("RepoNotFound"), _) | (None, Some(401 | 403 | 404)) => (
                format!("{hub} knows no such model, or it is not for everyone"),
                format!("check its name; if it is private or gated, ask for access at {hub}/{name}, then {sign_in}"),
            ),
            _ => return None,
        };
        Some(Error::Checkpoint {
            path: name.into(),
            reason,
            remedy,
        })
    }

    fn address(&self, rest: &str) -> Result<String> {
        if self.client.remote.hub.offline {
            let offline = self.fail("may not be asked, as KSHOT_OFFLINE or HF_HUB_OFFLINE is set");
            return Err(offline.because(Cause::Offline));
        }
        Ok(format!(
            "{}/{}/{rest}",
            self.client.remote.hub.endpoint,
            self.repository.questions()
        ))
    }

    /// The commit that a branch or tag stands for.
    pub(crate) fn commit(&self, revision: &str) -> Result<String> {
        if is_hash(revision, 40) {
            return Ok(revision.into());
        }
        let url = self.address(&format!("revision/{}", encoded(revision)))?;
        let (json, _) = self.client.document(&url).map_err(|trouble| self.refused(trouble))?;
        let found: Revision = serde_json::from_slice(&json).map_err(|e| self.fail(format!("its revision: {e}")))?;
        if !is_hash(&found.sha, 40) {
            return Err(self.fail(format!("says that {revision} is commit `{}`", found.sha)));
        }
        Ok(found.sha)
    }

    /// All parquet files at a commit; of the converted branch where a branch or tag has none.
    fn listing(&self, revision: &str, commit: String) -> Result<HubListing> {
        let shards_in = |folder| -> Result<Vec<HubShard>> {
            let files = self.files(&commit, folder)?.into_iter();
            Ok(files.filter_map(HubShard::of).collect())
        };
        let mut shards = shards_in("/data")?;
        if shards.is_empty() {
            shards = shards_in("")?;
        }
        if shards.is_empty() && revision != CONVERTED && revision != commit {
            let converted = self
                .commit(CONVERTED)
                .map_err(|_| self.fail("has no parquet files").because(Cause::LacksFiles))?;
            return Ok(HubListing {
                revision: revision.into(),
                ..self.listing(CONVERTED, converted)?
            });
        }
        let listing = HubListing {
            repo: self.repository.name.into(),
            revision: revision.into(),
            commit,
            shards,
        };
        if !listing.is_sound() {
            return Err(self.fail("lists a file whose name or hash is not one"));
        }
        Ok(listing)
    }

    /// The last bytes of a file.
    fn tail(&self, commit: &str, shard: &HubShard, bytes: u64) -> Result<Vec<u8>> {
        let url = self.file_address(commit, &shard.file.path)?;
        let found = self.client.from(&url, shard.file.size.saturating_sub(bytes));
        found.map_err(|trouble| self.refused(trouble))
    }

    /// A whole small file.
    pub(crate) fn document(&self, commit: &str, path: &str) -> Result<Vec<u8>> {
        let url = self.file_address(commit, path)?;
        let (bytes, _) = self.client.document(&url).map_err(|trouble| self.refused(trouble))?;
        Ok(bytes)
    }

    fn file_address(&self, commit: &str, path: &str) -> Result<String> {
        // Says that no connection may be made, where none may.
        self.address("")?;
        let endpoint = &self.client.remote.hub.endpoint;
        Ok(self.repository.file_address(endpoint, commit, path))
    }

    /// All files below a folder (`/data`, or nothing for all) at a commit; none where there is no such folder.
    pub(crate) fn files(&self, commit: &str, folder: &str) -> Result<Vec<RepoFile>> {
        let mut url = self.address(&format!("tree/{commit}{}?recursive=true", encoded_path(folder)))?;
        let mut files = Vec::new();
        for _ in 0..PAGES {
            let (json, link) = match self.client.document(&url) {
                Err(trouble) if trouble.status == Some(StatusCode::NOT_FOUND) => return Ok(files),
                other => other.map_err(|trouble| self.refused(trouble))?,
            };
            let entries: Vec<Entry> =
                serde_json::from_slice(&json).map_err(|e| self.fail(format!("its list of files: {e}")))?;
            files.extend(entries.into_iter().filter(|entry| entry.kind != "directory").map(file));
            let Some(next) = link.as_deref().and_then(next_page) else {
                return Ok(files);
            };
            let next = Url::parse(&url).and_then(|base| base.join(next));
            url = next
                .map_err(|_| self.fail("its list of files goes on at no address"))?
                .into();
        }
        Err(self.fail(format!("its list of files has more than {PAGES} pages")))
    }
}

fn file(entry: Entry) -> RepoFile {
    let sha256 = entry.lfs.as_ref().map(|large| large.oid.clone());
    RepoFile {
        path: entry.path,
        size: entry.lfs.as_ref().map_or(entry.size, |large| large.size),
        blob: sha256.clone().unwrap_or(entry.oid),
        sha256,
    }
}

/// The address of `<address>; rel="next"` (RFC 8288).
fn next_page(link: &str) -> Option<&str> {
    link.split(',').find_map(|link| {
        let (address, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        parameters
            .split(';')
            .any(|p| matches!(p.trim(), "rel=\"next\"" | "rel=next"))
            .then_some(address)
    })
}
