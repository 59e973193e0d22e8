//! Verification of a dataset on this machine: every file is hashed and every image decoded again.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

use super::cache::{self, OpenedDataset};
use super::files::{DatasetFiles, FileCheck};
use super::index::{Facts, ProtocolImages, inspect};
use super::manifest_of;
use super::overlap::{NEAR, count_pairs, hashes};
use crate::config::Protocol;
use crate::error::{Error, Result};
use crate::fetch::HubSettings;
use crate::manifest::{Form, ManifestFolders};

/// Findings about one form of a dataset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// Name of the dataset.
    pub dataset: String,
    /// The form.
    pub form: Form,
    /// Commit of the repository.
    pub revision: Option<String>,
    /// The protocol whose images were looked at: the first that this form serves.
    pub protocol: Protocol,
    /// Each source file.
    pub files: Vec<FileCheck>,
    /// Number of classes.
    pub classes: usize,
    /// Images that shots are drawn from, that are set aside for validation, and that are predicted.
    pub pool: usize,
    /// See `pool`.
    pub val: usize,
    /// See `pool`.
    pub test: usize,
    /// Images that the manifest's `skip` left out.
    pub left_out: usize,
    /// Least, median and greatest width in pixels.
    pub widths: Option<[u32; 3]>,
    /// Least, median and greatest height in pixels.
    pub heights: Option<[u32; 3]>,
    /// Number of images by kind of pixels: `L` is grey, `P` a palette, the others are named by their channels.
    pub modes: BTreeMap<String, usize>,
    /// Number of images by the orientation (2 to 8) that EXIF or XMP states: they are turned before a model sees them, which
    /// torchvision's loaders do not do.
    pub orientations: BTreeMap<u8, usize>,
    /// Images that cannot be decoded or are gone, with the reason.
    pub unreadable: Vec<(String, String)>,
    /// Images whose hash is not the one that the index has.
    pub changed: Vec<String>,
    /// Pairs of a pool image and a test image that look alike: not wrong, but good to know.
    pub near_duplicates: usize,
    /// Other faults.
    pub problems: Vec<String>,
}

impl Verification {
    /// True if nothing is wrong.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.files.iter().all(|file| file.wrong.is_none())
            && self.unreadable.is_empty()
            && self.changed.is_empty()
            && self.problems.is_empty()
    }
}

/// Looks at every form of a dataset that is on this machine. `looked_at` hears of each image, with the number of all.
///
/// # Errors
/// [`Error::NotFetched`] when there is none, and what is wrong with the manifest. What is wrong with files or images
/// is a finding.
pub fn verify(
    name: &str,
    datasets: impl Into<ManifestFolders>,
    cache: &Path,
    hub: &HubSettings,
    looked_at: &(dyn Fn(usize) + Sync),
) -> Result<Vec<Verification>> {
    let manifest = manifest_of(name, datasets, cache)?;
    let cache = cache.join("datasets").join(name);
    let mut found: Vec<Verification> = Vec::new();
    let mut first_error = None;
    for protocol in [Protocol::Clean, Protocol::Tinker, Protocol::Coop] {
        match DatasetFiles::choose(&manifest, protocol, hub) {
            Ok(source) if found.iter().any(|other| other.form == source.form) => {}
            Ok(source) => found.push(of_form(source, &cache, looked_at)),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    match first_error {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

fn of_form(mut source: DatasetFiles, cache: &Path, looked_at: &(dyn Fn(usize) + Sync)) -> Verification {
    let mut found = Verification {
        dataset: source.manifest.name.clone(),
        form: source.form,
        revision: source.commit.clone(),
        protocol: source.protocol,
        files: source.rehash(),
        ..Verification::default()
    };
    if !found.holds() {
        let reason = "images were not looked at, since a source file is not what it should be";
        found.problems.push(reason.into());
        return found;
    }
    match cache::indexed(&source, cache) {
        Ok(opened) => images(&opened, &source, looked_at, &mut found),
        // Which ones, and why: opening it tells of the first.
        Err(Error::Image { .. }) => match cache::survey(&source, cache) {
            Ok((listed, seen)) => {
                count(&listed, &mut found);
                let mut whole = Vec::new();
                for (id, result) in &seen {
                    match result {
                        Ok((_, facts)) => whole.push(facts),
                        Err(error) => found.unreadable.push((id.clone(), reason(error))),
                    }
                }
                describe(&whole, &mut found);
            }
            Err(error) => found.problems.push(error.to_string()),
        },
        Err(error) => found.problems.push(error.to_string()),
    }
    found
}

/// Reads and decodes every image again and compares it with the index.
fn images(opened: &OpenedDataset, source: &DatasetFiles, looked_at: &(dyn Fn(usize) + Sync), found: &mut Verification) {
    let files: Vec<(&str, &str)> = opened.listed.files().collect();
    let again = |(id, file): &(&str, &str)| {
        let seen = inspect(&opened.root.join(file), id, opened.index.decoding());
        looked_at(files.len());
        seen
    };
    let seen: Vec<Result<Option<Facts>>> = files.par_iter().map(again).collect();
    let mut whole = Vec::new();
    for ((id, file), seen) in files.iter().zip(&seen) {
        match seen {
            Ok(Some(facts)) => {
                if !opened.index.facts(file).is_some_and(|known| known.same_image(facts)) {
                    found.changed.push((*id).to_owned());
                }
                whole.push(facts);
            }
            Ok(None) => found.unreadable.push(((*id).to_owned(), "it is gone".into())),
            Err(error) => found.unreadable.push(((*id).to_owned(), reason(error))),
        }
    }
    describe(&whole, found);
    let dataset = opened.index.dataset(opened.listed.clone(), source, &opened.root);
    count(&opened.listed, found);
    // Counted, not collected: of one picture many times over there are more pairs than memory holds.
    let (pairs, _) = count_pairs(&hashes(&dataset.pool), &hashes(&dataset.test), NEAR, 0);
    found.near_duplicates = pairs;
}

/// Why an image cannot be read, its name left out.
fn reason(error: &Error) -> String {
    match error {
        Error::Image { reason, .. } => reason.clone(),
        other => other.to_string(),
    }
}

fn count(listed: &ProtocolImages, found: &mut Verification) {
    let [classes, pool, val, test, left_out] = listed.counts();
    (found.classes, found.left_out) = (classes, left_out);
    (found.pool, found.val, found.test) = (pool, val, test);
}

/// Sizes and modes.
fn describe(images: &[&Facts], found: &mut Verification) {
    let spread = |side: fn(&Facts) -> u32| {
        let mut sides: Vec<u32> = images.iter().map(|facts| side(facts)).collect();
        sides.sort_unstable();
        Some([*sides.first()?, *sides.get(sides.len() / 2)?, *sides.last()?])
    };
    found.widths = spread(|facts| facts.width);
    found.heights = spread(|facts| facts.height);
    for facts in images {
        *found.modes.entry(facts.mode.clone()).or_default() += 1;
        if let Some(orientation) = facts.orientation {
            *found.orientations.entry(orientation).or_default() += 1;
        }
    }
}
