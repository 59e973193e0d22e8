//! What the hub answers about a repository: its commits and its files.

use serde::Deserialize;

use crate::error::{Cause, Error, Result};
use crate::fetch::blobs::RepoFile;
use crate::fetch::client::{Client, Trouble, encoded, encoded_path, join, shown};
use crate::fetch::hub::{HubListing, HubShard};
use crate::fetch::places::HubPlaces;
use crate::fetch::repository::{Kind, Repository, is_hash, is_name};
use crate::fetch::shards::split_of;

/// Where the hub keeps parquet files that it made itself of other formats.
const CONVERTED: &str = "refs/convert/parquet";

/// Pages of file names that are read before a repository is taken to have no end.
const PAGES: usize = 500;

/// Questions about one repository.
pub(super) struct Asking<'a> {
    pub(super) repository: Repository<'a>,
    client: &'a Client,
    places: &'a HubPlaces,
}

/// What the hub says of a revision.
#[derive(Deserialize)]
struct Revision {
    sha: String,
}

/// What the hub says of one file or folder.
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

impl<'a> Asking<'a> {
    pub(super) fn new(repository: Repository<'a>, client: &'a Client, places: &'a HubPlaces) -> Result<Self> {
        let asking = Self {
            repository,
            client,
            places,
        };
        if is_name(repository.name) {
            Ok(asking)
        } else {
            Err(asking.fail("is no `owner/name`").because(Cause::RepositoryName))
        }
    }

    /// An answer that is not the hub's, unless the caller knows another cause.
    pub(super) fn fail(&self, reason: impl Into<String>) -> Error {
        let (repo, reason) = (self.repository.name.into(), reason.into());
        Error::Hub { repo, reason }.because(Cause::StrangeAnswer)
    }

    fn refused(&self, trouble: Trouble) -> Error {
        let told = match &trouble {
            Trouble::Lasting { status, code, .. } if self.repository.kind == Kind::Model => {
                self.model_refused(status.map(|status| status.as_u16()), code.as_deref())
            }
            _ => None,
        };
        let cause = trouble.cause();
        let (Trouble::Passing { reason, .. } | Trouble::Lasting { reason, .. }) = trouble;
        told.unwrap_or_else(|| {
            self.fail(format!("{} answers: {reason}", shown(&self.places.endpoint)))
                .because(cause)
        })
    }

    /// What a refusal means for a model; the hub says more in `X-Error-Code`.
    fn model_refused(&self, status: Option<u16>, code: Option<&str>) -> Option<Error> {
        let (name, hub) = (self.repository.name, shown(&self.places.endpoint));
        let sign_in = "set `HF_TOKEN` to a token of that account, or run `hf auth login`";
        let (reason, remedy) = match (code, status) {
            (Some("GatedRepo"), _) if self.places.token.is_some() => (
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
        if self.places.offline {
            return Err(self
                .fail("may not be asked, as KSHOT_OFFLINE or HF_HUB_OFFLINE is set")
                .because(Cause::Offline));
        }
        Ok(format!(
            "{}/{}/{rest}",
            self.places.endpoint,
            self.repository.questions()
        ))
    }

    /// The commit that a branch or tag stands for.
    pub(super) fn commit(&self, revision: &str) -> Result<String> {
        if is_hash(revision, 40) {
            return Ok(revision.into());
        }
        let url = self.address(&format!("revision/{}", encoded(revision)))?;
        let (json, _) = self.client.document(&url).map_err(|trouble| self.refused(trouble))?;
        let found: Revision = serde_json::from_slice(&json).map_err(|e| self.fail(format!("its revision: {e}")))?;
        if is_hash(&found.sha, 40) {
            Ok(found.sha)
        } else {
            Err(self.fail(format!("says that {revision} is commit `{}`", found.sha)))
        }
    }

    /// All parquet files at a commit; of the converted branch where a branch or tag has none.
    pub(super) fn listing(&self, revision: &str, commit: String) -> Result<HubListing> {
        let shards_in = |folder| -> Result<Vec<HubShard>> {
            Ok(self.files(&commit, folder)?.into_iter().filter_map(shard).collect())
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
        if listing.is_sound() {
            Ok(listing)
        } else {
            Err(self.fail("lists a file whose name or hash is not one"))
        }
    }

    /// The last bytes of a file.
    pub(super) fn tail(&self, commit: &str, shard: &HubShard, bytes: u64) -> Result<Vec<u8>> {
        let url = self.file_address(commit, &shard.path)?;
        let found = self.client.from(&url, shard.size.saturating_sub(bytes));
        found.map_err(|trouble| self.refused(trouble))
    }

    /// A whole small file.
    pub(super) fn document(&self, commit: &str, path: &str) -> Result<Vec<u8>> {
        let url = self.file_address(commit, path)?;
        let (bytes, _) = self.client.document(&url).map_err(|trouble| self.refused(trouble))?;
        Ok(bytes)
    }

    fn file_address(&self, commit: &str, path: &str) -> Result<String> {
        // Says that no connection may be made, where none may.
        self.address("")?;
        let (endpoint, page) = (&self.places.endpoint, self.repository.page());
        Ok(format!("{endpoint}/{page}/resolve/{commit}/{}", encoded_path(path)))
    }

    /// All files below a folder (`/data`, or nothing for all) at a commit; none where there is no such folder.
    pub(super) fn files(&self, commit: &str, folder: &str) -> Result<Vec<RepoFile>> {
        let mut url = self.address(&format!("tree/{commit}{}?recursive=true", encoded_path(folder)))?;
        let mut files = Vec::new();
        for _ in 0..PAGES {
            let (json, link) = match self.client.document(&url) {
                Err(Trouble::Lasting {
                    status: Some(status), ..
                }) if status.as_u16() == 404 => return Ok(files),
                other => other.map_err(|trouble| self.refused(trouble))?,
            };
            let entries: Vec<Entry> =
                serde_json::from_slice(&json).map_err(|e| self.fail(format!("its list of files: {e}")))?;
            files.extend(entries.into_iter().filter(|entry| entry.kind != "directory").map(file));
            let base = url.parse().map_err(|_| self.fail("no address"))?;
            match link.as_deref().and_then(next_page) {
                Some(next) => url = join(&base, next),
                None => return Ok(files),
            }
        }
        Err(self.fail(format!("its list of files has more than {PAGES} pages")))
    }
}

fn file(entry: Entry) -> RepoFile {
    let (size, blob, sha256) = match entry.lfs {
        Some(large) => (large.size, large.oid.clone(), Some(large.oid)),
        None => (entry.size, entry.oid, None),
    };
    RepoFile {
        path: entry.path,
        size,
        sha256,
        blob,
    }
}

fn shard(file: RepoFile) -> Option<HubShard> {
    Some(HubShard {
        split: split_of(&file.path)?.to_owned(),
        path: file.path,
        size: file.size,
        sha256: file.sha256,
        blob: file.blob,
    })
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
