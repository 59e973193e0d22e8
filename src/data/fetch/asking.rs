//! What the hub answers about a repository: its commits and its parquet files.

use serde::Deserialize;

use super::client::{Client, Trouble, encoded, encoded_path, join, shown};
use super::hub::{HubListing, HubShard};
use super::listing::{is_hash, is_inside, split_of};
use super::places::HubPlaces;
use crate::error::{Error, Result};

/// Where the hub keeps parquet files that it made itself of other formats.
const CONVERTED: &str = "refs/convert/parquet";

/// Pages of file names that are read before a repository is taken to have no end.
const PAGES: usize = 500;

/// Questions about one repository.
pub(super) struct Asking<'a> {
    repo: &'a str,
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
    pub(super) fn new(repo: &'a str, client: &'a Client, places: &'a HubPlaces) -> Result<Self> {
        check_repo(repo)?;
        Ok(Self { repo, client, places })
    }

    fn fail(&self, reason: impl Into<String>) -> Error {
        Error::Hub {
            repo: self.repo.into(),
            reason: reason.into(),
        }
    }

    fn refused(&self, trouble: Trouble) -> Error {
        match trouble {
            Trouble::Passing { reason, .. } | Trouble::Lasting { reason, .. } => {
                self.fail(format!("{} answers: {reason}", shown(&self.places.endpoint)))
            }
        }
    }

    fn address(&self, rest: &str) -> Result<String> {
        if self.places.offline {
            return Err(self.fail("may not be asked, as KSHOT_OFFLINE or HF_HUB_OFFLINE is set"));
        }
        Ok(format!("{}/api/datasets/{}/{rest}", self.places.endpoint, self.repo))
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
        let mut shards = self.tree(&commit, "/data")?;
        if shards.is_empty() {
            shards = self.tree(&commit, "")?;
        }
        if shards.is_empty() && revision != CONVERTED && revision != commit {
            let converted = self.commit(CONVERTED).map_err(|_| self.fail("has no parquet files"))?;
            return Ok(HubListing {
                revision: revision.into(),
                ..self.listing(CONVERTED, converted)?
            });
        }
        let listing = HubListing {
            repo: self.repo.into(),
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
        // Says that no connection may be made, where none may.
        self.address("")?;
        let url = format!(
            "{}/datasets/{}/resolve/{commit}/{}",
            self.places.endpoint,
            self.repo,
            encoded_path(&shard.path)
        );
        let found = self.client.from(&url, shard.size.saturating_sub(bytes));
        found.map_err(|trouble| self.refused(trouble))
    }

    fn tree(&self, commit: &str, folder: &str) -> Result<Vec<HubShard>> {
        let mut url = self.address(&format!("tree/{commit}{}?recursive=true", encoded_path(folder)))?;
        let mut shards = Vec::new();
        for _ in 0..PAGES {
            let (json, link) = match self.client.document(&url) {
                Err(Trouble::Lasting {
                    status: Some(status), ..
                }) if status.as_u16() == 404 => return Ok(shards),
                other => other.map_err(|trouble| self.refused(trouble))?,
            };
            let entries: Vec<Entry> =
                serde_json::from_slice(&json).map_err(|e| self.fail(format!("its list of files: {e}")))?;
            shards.extend(entries.into_iter().filter_map(shard));
            let base = url.parse().map_err(|_| self.fail("no address"))?;
            match link.as_deref().and_then(next_page) {
                Some(next) => url = join(&base, next),
                None => return Ok(shards),
            }
        }
        Err(self.fail(format!("its list of files has more than {PAGES} pages")))
    }
}

fn shard(entry: Entry) -> Option<HubShard> {
    let (size, blob, sha256) = match entry.lfs {
        Some(large) => (large.size, large.oid.clone(), Some(large.oid)),
        None => (entry.size, entry.oid, None),
    };
    Some(HubShard {
        split: split_of(&entry.path)?,
        path: entry.path,
        size,
        sha256,
        blob,
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

/// Names are `owner/name` of letters, digits and `-_.`, as the hub has them; a few old ones have no owner.
fn check_repo(repo: &str) -> Result<()> {
    let is_name = |part: &str| {
        part.chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    if repo.split('/').count() <= 2 && is_inside(repo) && repo.split('/').all(is_name) {
        return Ok(());
    }
    Err(Error::Hub {
        repo: repo.into(),
        reason: "is no `owner/name`".into(),
    })
}
