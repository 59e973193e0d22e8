//! Which parquet files a hub repository has: asked once, then kept with the downloads.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::error::{Cause, Error, Result};
use crate::fetch::asking::Asking;
use crate::fetch::client::Client;
use crate::fetch::hub::{HubListing, HubShard};
use crate::fetch::places::HubPlaces;
use crate::fetch::repository::{Repository, is_hash, is_inside};
use crate::fetch::shards::split_of;
use crate::fs::file;
use crate::manifest::Hub;

/// The listing of a manifest's repository, as far as this machine knows it.
pub(super) fn known(hub: &Hub, downloads: &Path, places: &HubPlaces) -> Option<HubListing> {
    let kept: Option<HubListing> = std::fs::read(downloads.join("hub.json"))
        .ok()
        .and_then(|json| serde_json::from_slice(&json).ok())
        .filter(|kept: &HubListing| kept.repo == hub.repo && kept.revision == hub.revision && kept.is_sound());
    let commit = match &kept {
        Some(kept) if !is_hash(&hub.revision, 40) => kept.commit.clone(),
        _ => Repository::dataset(&hub.repo).commit(&hub.revision, &places.cache)?,
    };
    promised(hub, &commit).or_else(|| kept.and_then(|kept| of_manifest(kept, hub).ok()))
}

/// Asks the hub for what the manifest leaves open.
pub(super) fn resolve(hub: &Hub, downloads: &Path, client: &Client, places: &HubPlaces) -> Result<HubListing> {
    if places.offline {
        let reason = format!(
            "its files are not known here, and KSHOT_OFFLINE or HF_HUB_OFFLINE is set; where there is a network, fetch \
             the dataset, then copy `{}` and `{}` to this machine",
            Repository::dataset(&hub.repo).folder(&places.cache).display(),
            downloads.join("hub.json").display()
        );
        let repo = hub.repo.clone();
        return Err(Error::Hub { repo, reason }.because(Cause::Offline));
    }
    let asking = Asking::new(Repository::dataset(&hub.repo), client, places)?;
    let commit = asking.commit(&hub.revision)?;
    match promised(hub, &commit) {
        Some(listing) => Ok(listing),
        None => of_manifest(asking.listing(&hub.revision, commit)?, hub),
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
    places: &HubPlaces,
    policy: &crate::fetch::Policy,
) -> Result<HubListing> {
    let client = Client::new(places, policy)?;
    let asking = Asking::new(Repository::dataset(repo), &client, places)?;
    let commit = asking.commit(revision)?;
    let mut listing = asking.listing(revision, commit)?;
    let names: BTreeSet<String> = listing.shards.iter().map(self::configuration).collect();
    let fail = |reason: &str, remedy: &str| {
        let names = names
            .iter()
            .map(|name| format!("`{}`", shown(name)))
            .collect::<Vec<_>>()
            .join(", ");
        Err(Error::Import {
            origin: repo.into(),
            reason: format!("{reason}: {names}"),
            remedy: remedy.into(),
        })
    };
    match configuration {
        Some(name) => {
            listing
                .shards
                .retain(|shard| shown(&self::configuration(shard)) == name);
            if listing.shards.is_empty() {
                return fail(
                    &format!("it has no configuration `{name}`"),
                    "name one of these with `--config`",
                );
            }
            listing.shards.sort_by(|a, b| a.path.cmp(&b.path));
            Ok(listing)
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
fn shown(configuration: &str) -> &str {
    match configuration {
        "" => "default",
        name => name.strip_prefix("data/").unwrap_or(name),
    }
}

/// The last bytes of a file of a listing, where parquet files describe themselves.
///
/// # Errors
/// As [`hub_listing`].
pub fn hub_tail(
    listing: &HubListing,
    shard: &HubShard,
    bytes: u64,
    places: &HubPlaces,
    policy: &crate::fetch::Policy,
) -> Result<Vec<u8>> {
    let client = Client::new(places, policy)?;
    let asking = Asking::new(Repository::dataset(&listing.repo), &client, places)?;
    asking.tail(&listing.commit, shard, bytes)
}

/// Keeps a listing for the next time, when no connection may be there.
pub(super) fn keep(listing: &HubListing, downloads: &Path) -> Result<()> {
    let path = downloads.join("hub.json");
    let json = serde_json::to_vec_pretty(listing).map_err(|e| Error::Malformed {
        kind: "list of hub files",
        path: path.clone(),
        reason: e.to_string(),
    })?;
    file::replace_in_cache(&path, &json)
}

/// The listing that the manifest itself gives, if it says everything of each file.
fn promised(hub: &Hub, commit: &str) -> Option<HubListing> {
    let shards = hub.shards.iter().map(|shard| {
        let sha256 = shard.sha256.clone()?;
        Some(HubShard {
            split: split_of(&shard.path)?.to_owned(),
            path: shard.path.clone(),
            size: shard.size?,
            blob: sha256.clone(),
            sha256: Some(sha256),
        })
    });
    let shards: Vec<_> = shards.collect::<Option<_>>()?;
    let listing = HubListing {
        repo: hub.repo.clone(),
        revision: hub.revision.clone(),
        commit: commit.into(),
        shards,
    };
    (!listing.shards.is_empty() && listing.is_sound())
        .then_some(listing)
        .and_then(|listing| of_manifest(listing, hub).ok())
}

/// The files of a listing that the manifest wants, by path; its splits must all be there, its sizes and hashes hold.
fn of_manifest(mut listing: HubListing, hub: &Hub) -> Result<HubListing> {
    let fail = |reason| {
        let repo = hub.repo.clone();
        Error::Hub { repo, reason }.because(Cause::LacksFiles)
    };
    let wanted: Vec<String> = [&hub.train, &hub.val, &hub.test]
        .into_iter()
        .flatten()
        .cloned()
        .collect();
    if hub.shards.is_empty() {
        listing = one_configuration(listing, &wanted)?;
    } else {
        for promise in &hub.shards {
            let Some(shard) = listing.shards.iter().find(|shard| shard.path == promise.path) else {
                return Err(fail(format!(
                    "has no file `{}`, which the manifest lists",
                    promise.path
                )));
            };
            let differs = promise.size.is_some_and(|size| size != shard.size)
                || promise.sha256.is_some() && promise.sha256 != shard.sha256;
            if differs {
                return Err(fail(format!(
                    "its `{}` is not the one that the manifest lists",
                    shard.path
                )));
            }
        }
        let listed = |path: &str| hub.shards.iter().any(|promise| promise.path == path);
        listing.shards.retain(|shard| listed(&shard.path));
    }
    for split in &wanted {
        if !listing.shards.iter().any(|shard| shard.split == *split) {
            let mut found: Vec<_> = listing.shards.iter().map(|shard| shard.split.as_str()).collect();
            found.dedup();
            let found = found.join(", ");
            return Err(fail(format!(
                "has no parquet file of the split `{split}`, only of: {found}"
            )));
        }
    }
    listing.shards.retain(|shard| wanted.contains(&shard.split));
    listing.shards.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(listing)
}

/// The files of one configuration: the only one with all wanted splits, else the one by a usual name.
fn one_configuration(mut listing: HubListing, wanted: &[String]) -> Result<HubListing> {
    let mut configurations: BTreeMap<String, Vec<HubShard>> = BTreeMap::new();
    for shard in listing.shards {
        configurations.entry(configuration(&shard)).or_default().push(shard);
    }
    let names: Vec<String> = configurations.keys().cloned().collect();
    configurations.retain(|_, shards| {
        wanted
            .iter()
            .all(|split| shards.iter().any(|shard| shard.split == *split))
    });
    let usual = USUAL.into_iter().find(|name| configurations.contains_key(*name));
    let name = match (usual, configurations.keys().next()) {
        (Some(name), _) => name.to_owned(),
        (None, Some(only)) if configurations.len() == 1 => only.clone(),
        _ => {
            let reason = match names.as_slice() {
                [] => "has no parquet files".to_owned(),
                _ if configurations.is_empty() => {
                    format!(
                        "has no folder with all of the splits {}; it has: {}",
                        wanted.join(", "),
                        names.join(", ")
                    )
                }
                _ => format!("has several configurations: {}", names.join(", ")),
            };
            let repo = listing.repo;
            return Err(Error::Hub { repo, reason }.because(Cause::LacksFiles));
        }
    };
    listing.shards = configurations.remove(&name).unwrap_or_default();
    listing.shards.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(listing)
}

/// The folder of a file, without the part that names its split.
fn configuration(shard: &HubShard) -> String {
    let folder = shard.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    match folder.rsplit_once('/').unwrap_or(("", folder)) {
        (above, last) if last == shard.split => above.to_owned(),
        _ => folder.to_owned(),
    }
}

impl HubListing {
    /// Whether every name may become a path on this machine.
    pub(super) fn is_sound(&self) -> bool {
        let sound = |shard: &HubShard| shard.file().is_sound();
        is_hash(&self.commit, 40) && is_inside(&self.revision) && self.shards.iter().all(sound)
    }
}
