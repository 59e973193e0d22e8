//! A repository of the Hugging Face hub: asked for its files and for one footer; the images come with
//! `kshot data fetch`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::written::Written;
use super::{HOLDOUT, free_name, write_new};
use crate::data::fetch::{HubListing, HubPlaces, Policy, hub_listing, hub_tail};
use crate::data::manifest::{Hub, Layout, Shard};
use crate::data::parquet::columns::{Candidates, candidates, footer_length};
use crate::error::{Error, Result};

/// Bytes of a footer: more is no description of a few columns.
const FOOTER: u64 = 64 << 20;

/// A manifest that was written for a repository.
#[derive(Debug)]
pub struct Named {
    /// The manifest.
    pub manifest: PathBuf,
    /// What it says.
    pub hub: Hub,
    /// Share of each class that is kept for the test, where there is no test split.
    pub holdout: Option<f64>,
    /// Bytes to be fetched.
    pub bytes: u64,
    /// Columns of class names that were not taken.
    pub other_labels: Vec<String>,
    /// Splits that are neither train, validation nor test.
    pub other_splits: Vec<String>,
}

/// Writes the manifest of a repository, at the commit that it has now.
///
/// # Errors
/// [`Error::Import`] when it has no images with class names, or no split to learn from; [`Error::Exists`];
/// [`Error::Hub`] when the hub cannot be asked.
pub fn name_hub(repo: &str, name: &str, datasets: &Path, places: &HubPlaces, policy: &Policy) -> Result<Named> {
    let manifest = free_name(repo, name, datasets)?;
    let fail = |reason: String| Error::Import {
        origin: repo.into(),
        reason,
        remedy: "only repositories of parquet files with images and class names are read".into(),
    };
    let listing = hub_listing(repo, "main", places, policy)?;
    let columns = columns(&listing, places, policy, &fail)?;
    let pick = |among: &[String], usual: &[&str]| {
        let found = usual.iter().find_map(|name| among.iter().find(|column| column == name));
        found.or_else(|| among.first()).cloned()
    };
    let image = pick(&columns.images, &["image", "img"]).ok_or_else(|| fail("it has no column of images".into()))?;
    let label = pick(&columns.labels, &["label", "labels"]);
    let label = label.ok_or_else(|| fail("it has no column of class names, or of integers with names".into()))?;
    let (train, val, test, other_splits) = sides(&listing).map_err(&fail)?;
    let is_taken = |split: &String| [&train, &val, &test].into_iter().any(|side| side.contains(split));
    let taken: Vec<_> = listing.shards.iter().filter(|shard| is_taken(&shard.split)).collect();
    let bytes = taken.iter().map(|shard| shard.size).sum();
    let shard = |shard: &&crate::data::fetch::HubShard| Shard {
        path: shard.path.clone(),
        size: Some(shard.size),
        sha256: shard.sha256.clone(),
    };
    let hub = Hub {
        repo: repo.into(),
        revision: listing.commit.clone(),
        shards: taken.iter().map(shard).collect(),
        image,
        label,
        train,
        val,
        test,
        expect: None,
    };
    let holdout = hub.test.is_empty().then_some(HOLDOUT);
    let text = Written {
        name,
        title: &format!("{repo} on the Hugging Face hub"),
        licence: "see its page on the hub",
        layout: Layout::Folders,
        directory: None,
        table: None,
        holdout,
        skip: &[],
        rename: Vec::new(),
        hub: Some(&hub),
    }
    .to_toml();
    write_new(&manifest, &text)?;
    let other_labels = columns
        .labels
        .into_iter()
        .filter(|column| *column != hub.label)
        .collect();
    Ok(Named {
        manifest,
        hub,
        holdout,
        bytes,
        other_labels,
        other_splits,
    })
}

/// The columns that the first file's footer describes.
fn columns(
    listing: &HubListing,
    places: &HubPlaces,
    policy: &Policy,
    fail: &dyn Fn(String) -> Error,
) -> Result<Candidates> {
    let shard = listing
        .shards
        .first()
        .ok_or_else(|| fail("it has no parquet files".into()))?;
    let of_file = |reason: String| fail(format!("its `{}`: {reason}", shard.path));
    let length = footer_length(&hub_tail(listing, shard, 8, places, policy)?).map_err(of_file)?;
    if length > FOOTER.min(shard.size) {
        return Err(of_file(format!("its footer claims {length} bytes")));
    }
    candidates(hub_tail(listing, shard, length, places, policy)?).map_err(of_file)
}

/// Splits to learn from, of validation, of test, and others.
type Sides = (Vec<String>, Vec<String>, Vec<String>, Vec<String>);

fn sides(listing: &HubListing) -> Result<Sides, String> {
    let splits: BTreeSet<&str> = listing.shards.iter().map(|shard| shard.split.as_str()).collect();
    let mut sides = Sides::default();
    for split in &splits {
        let side = match split.to_lowercase().as_str() {
            "train" | "training" => &mut sides.0,
            "val" | "valid" | "validation" | "dev" => &mut sides.1,
            "test" | "testing" => &mut sides.2,
            _ => &mut sides.3,
        };
        side.push((*split).to_owned());
    }
    if let ([], [], [], [_]) = (
        sides.0.as_slice(),
        sides.1.as_slice(),
        sides.2.as_slice(),
        sides.3.as_slice(),
    ) {
        sides.0 = std::mem::take(&mut sides.3);
    }
    if sides.0.is_empty() {
        let splits: Vec<_> = splits.into_iter().collect();
        return Err(format!("it has no split `train`, only: {}", splits.join(", ")));
    }
    Ok(sides)
}
