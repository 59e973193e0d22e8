//! A repository of the Hugging Face hub: asked for its files and for one footer; the images come with
//! `kshot data fetch`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::written::Written;
use super::{HOLDOUT, ImportOptions, free_name, parquet, write_new};
use crate::data::layout::sides::Side;
use crate::error::{Error, Result};
use crate::fetch::{HubListing, HubSettings, HubShard, Policy, hub_listing, hub_tail};
use crate::import::parquet::{Candidates, candidates, footer_length};
use crate::import::written;
use crate::manifest::TableForm;
use crate::manifest::{Hub, Layout, Shard};

/// Bytes of a footer: more is no description of a few columns.
const FOOTER: u64 = 64 << 20;

/// A manifest that was written for a repository.
#[derive(Debug)]
pub struct Named {
    /// The manifest.
    pub manifest: PathBuf,
    /// Its text.
    pub hub: Hub,
    /// Share of each class that is kept for the test, where there is no test split.
    pub holdout: Option<f64>,
    /// Bytes to be fetched.
    pub bytes: u64,
    /// Class names by label, where they were changed.
    pub rename: BTreeMap<String, String>,
    /// Notes, a line each: columns that were not taken, splits without labels.
    pub notes: Vec<String>,
    /// Splits that are neither train, validation nor test.
    pub other_splits: Vec<String>,
}

/// Writes the manifest of a repository, at the commit that it has now.
///
/// # Errors
/// [`Error::Import`] when it has no images with class names, no split to learn from, two class names become one, or it
/// has several configurations and none is asked for; [`Error::Exists`]; [`Error::Hub`] when the hub cannot be asked.
pub fn name_hub(
    repo: &str,
    name: &str,
    datasets: &Path,
    asked: &ImportOptions,
    settings: &HubSettings,
    policy: &Policy,
) -> Result<Named> {
    let manifest = free_name(repo, name, datasets)?;
    let fail = |reason: String| Error::Import {
        origin: repo.into(),
        reason,
        remedy: "only repositories of parquet files with images and class names are read".into(),
    };
    let listing = hub_listing(repo, "main", asked.configuration.as_deref(), settings, policy)?;
    let (train, mut val, mut test, other_splits) = sides(&listing).map_err(&fail)?;
    let first = train
        .first()
        .and_then(|split| listing.shards.iter().find(|shard| shard.split == *split));
    let first = first.ok_or_else(|| fail("it has no parquet files".into()))?;
    let found = columns(&listing, first, settings, policy, &fail)?;
    let (image, label) = parquet::choose(&found, asked).map_err(|(reason, remedy)| Error::Import {
        origin: repo.into(),
        reason,
        remedy,
    })?;
    let mut notes = parquet::taken(&found, &image, &label);
    // Of the other splits the first file tells whether there are labels at all.
    for (side, part) in [(&mut val, "validation"), (&mut test, "test")] {
        let mut labelled = Vec::new();
        for split in side.drain(..) {
            let of_split: Vec<_> = listing.shards.iter().filter(|shard| shard.split == split).collect();
            let mut unlabelled = !of_split.is_empty();
            for shard in of_split {
                unlabelled &= columns(&listing, shard, settings, policy, &fail)?.is_unlabelled(&label);
                if !unlabelled {
                    break;
                }
            }
            if unlabelled {
                let kept = if part == "test" {
                    ", and a share of the others is kept for the test"
                } else {
                    ""
                };
                notes.push(format!("the rows of `{split}` have no labels: left out{kept}"));
            } else {
                labelled.push(split);
            }
        }
        *side = labelled;
    }
    let class_names = found.names.get(&label).cloned().unwrap_or_default();
    let given = asked.names.as_deref().map(written::read).transpose()?;
    let (rename, _) = written::renamed(&class_names, given.as_ref(), false).map_err(|reason| Error::Import {
        origin: repo.into(),
        reason,
        remedy: "`--names FILE` gives the classes other names".into(),
    })?;
    if found.numbers.contains(&label) && given.is_none() {
        notes.push(format!(
            "the integers of `{label}` have no names, so they are the class names, of which no model knows what they \
             stand for: `--names FILE` gives names"
        ));
    }
    let is_taken = |split: &String| [&train, &val, &test].into_iter().any(|side| side.contains(split));
    let taken: Vec<_> = listing.shards.iter().filter(|shard| is_taken(&shard.split)).collect();
    let bytes = taken.iter().map(|shard| shard.size).sum();
    let shard = |shard: &&crate::fetch::HubShard| Shard {
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
        tables: &[],
        form: &TableForm::default(),
        parquet: None,
        holdout,
        skip: &[],
        skip_classes: &[],
        clean_names: true,
        rename: rename.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect(),
        hub: Some(&hub),
    }
    .to_toml();
    write_new(&manifest, &text)?;
    Ok(Named {
        manifest,
        hub,
        holdout,
        bytes,
        rename,
        notes,
        other_splits,
    })
}

/// The columns that a file's footer describes.
fn columns(
    listing: &HubListing,
    shard: &HubShard,
    settings: &HubSettings,
    policy: &Policy,
    fail: &dyn Fn(String) -> Error,
) -> Result<Candidates> {
    let of_file = |reason: String| fail(format!("its `{}`: {reason}", shard.path));
    let length = footer_length(&hub_tail(listing, shard, 8, settings, policy)?).map_err(of_file)?;
    if length > FOOTER.min(shard.size) {
        return Err(of_file(format!("its footer claims {length} bytes")));
    }
    candidates(hub_tail(listing, shard, length, settings, policy)?).map_err(of_file)
}

/// Splits to learn from, of validation, of test, and others.
type Sides = (Vec<String>, Vec<String>, Vec<String>, Vec<String>);

fn sides(listing: &HubListing) -> Result<Sides, String> {
    let splits: BTreeSet<&str> = listing.shards.iter().map(|shard| shard.split.as_str()).collect();
    let mut sides = Sides::default();
    for split in &splits {
        let side = match Side::of_word(split) {
            Some(Side::Train) => &mut sides.0,
            Some(Side::Validation) => &mut sides.1,
            Some(Side::Test) => &mut sides.2,
            None => &mut sides.3,
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
