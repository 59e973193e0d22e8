//! Splits: the images that a learner is trained on and those that it is tested on, one file a protocol.

mod clean;
mod coop;
mod python;
mod tinker;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::config::{Protocol, Shots};
use crate::data::{Dataset, LabelledImage};
use crate::error::{Cause, Error, Result};
use crate::fs::hash::hex;

pub use clean::clean;
pub use coop::{CoopList, index_file, split_file};

/// Version of the JSON form.
const SCHEMA: u32 = 1;

/// k shots per class and the whole test set, by id and hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Version of this form.
    pub schema: u32,
    /// Name of the dataset.
    pub dataset: String,
    /// Protocol by which shots and test images were chosen.
    pub protocol: Protocol,
    /// Shots per class.
    pub shots: Shots,
    /// Seed of the draw.
    pub seed: u64,
    /// Class names, in label order.
    pub classes: Vec<String>,
    /// The shots: class by class, in the order drawn; none at k = 0.
    pub train: Vec<SplitItem>,
    /// Images that the protocol sets aside for validation: counted, never learned from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub val: Vec<SplitItem>,
    /// Shots that a class really has, where the protocol says to take what there is when k is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capped: Option<u32>,
    /// The test images, in the dataset's order.
    pub test: Vec<SplitItem>,
}

/// One image of a split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitItem {
    /// Path inside the dataset.
    pub id: String,
    /// Index into [`Split::classes`].
    pub class: u32,
    /// Lower-case hex SHA-256 of the encoded file.
    pub sha256: String,
}

impl From<&LabelledImage> for SplitItem {
    fn from(image: &LabelledImage) -> Self {
        Self {
            id: image.id.clone(),
            class: image.class,
            sha256: image.sha256.clone(),
        }
    }
}

impl Split {
    /// Indented JSON with a final newline, fields in the order of this struct.
    ///
    /// # Errors
    /// [`Error::Dataset`] if it cannot be serialised.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self)
            .map(|json| json + "\n")
            .map_err(|e| self.fail(&e))
    }

    /// Lower-case hex SHA-256 of the compact JSON: the identity of what was drawn.
    ///
    /// # Errors
    /// As [`Split::to_json`].
    pub fn digest(&self) -> Result<String> {
        let json = serde_json::to_vec(self).map_err(|e| self.fail(&e))?;
        Ok(hex(&Sha256::digest(json)))
    }

    /// The images to learn from, in the split's order.
    ///
    /// # Errors
    /// [`Error::Dataset`] when the dataset lacks one.
    pub fn train_images(&self, dataset: &Dataset) -> Result<Vec<LabelledImage>> {
        find(dataset, &dataset.pool, &self.train)
    }

    /// The images to predict, in the split's order.
    ///
    /// # Errors
    /// [`Error::Dataset`] when the dataset lacks one.
    pub fn test_images(&self, dataset: &Dataset) -> Result<Vec<LabelledImage>> {
        find(dataset, &dataset.test, &self.test)
    }

    fn fail(&self, error: &serde_json::Error) -> Error {
        Error::Dataset {
            dataset: self.dataset.clone(),
            reason: format!("split as JSON: {error}"),
        }
    }
}

fn find(dataset: &Dataset, among: &[LabelledImage], items: &[SplitItem]) -> Result<Vec<LabelledImage>> {
    let by_id: BTreeMap<&str, &LabelledImage> = among.iter().map(|i| (i.id.as_str(), i)).collect();
    items
        .iter()
        .map(|item| {
            by_id
                .get(item.id.as_str())
                .map(|i| (*i).clone())
                .ok_or_else(|| Error::Dataset {
                    dataset: dataset.name.clone(),
                    reason: format!("the split names image `{}`, which is not there", item.id),
                })
        })
        .collect()
}

/// The split of a dataset, which was opened for the same protocol. `indices` is a few-shot index file, which only
/// `coop` has; without one it draws on its own.
///
/// # Errors
/// [`Error::TooFewImages`] names the class that has too few images, unless the protocol says to take what there is;
/// [`Error::Indices`] the entry of an index file that does not fit; [`Error::Dataset`] and [`Error::ClassName`] what
/// the protocol cannot do with this dataset.
///
/// ```
/// use std::path::Path;
///
/// use kshot::config::Protocol;
/// use kshot::data::{self, split};
///
/// let cache = std::env::temp_dir().join("kshot-split-example");
/// let dataset = data::open("mini-pets", Path::new("datasets"), &cache)?;
/// let split = split::draw(&dataset, Protocol::Clean, 2, 0, None)?;
/// assert_eq!(split.train.len(), 2 * split.classes.len());
/// # Ok::<(), kshot::error::Error>(())
/// ```
pub fn draw(
    dataset: &Dataset,
    protocol: Protocol,
    shots: impl Into<Shots>,
    seed: u64,
    indices: Option<&Path>,
) -> Result<Split> {
    let shots = shots.into();
    match (protocol, indices) {
        (Protocol::Clean, None) => clean(dataset, shots, seed),
        (Protocol::Tinker, None) => tinker::tinker(dataset, shots, seed),
        (Protocol::Coop, None) => coop::coop(dataset, shots, seed),
        (Protocol::Coop, Some(path)) => coop::read(dataset, shots, seed, path),
        (Protocol::Clean | Protocol::Tinker, Some(path)) => Err(Error::Indices {
            path: path.into(),
            reason: format!("index files belong to the protocol `coop`, this is `{protocol}`"),
        }
        .because(Cause::IndexProtocol)),
    }
}

/// The file of a folder of few-shot index files that holds a split. Without shots, or with all, there is nothing to look up.
#[must_use]
pub fn index_path(folder: &Path, dataset: &Dataset, shots: Shots, seed: u64) -> Option<PathBuf> {
    let k = shots.count().filter(|k| *k > 0)?;
    let of_dataset = match &dataset.coop {
        Some(list) => list.index_folder(),
        None => dataset.name.clone(),
    };
    Some(folder.join(of_dataset).join(format!("shot_{k}-seed_{seed}.json")))
}

/// The images of a class, sorted by id.
fn of_class(images: &[LabelledImage], class: u32) -> Vec<&LabelledImage> {
    let mut own: Vec<_> = images.iter().filter(|image| image.class == class).collect();
    own.sort_by(|a, b| a.id.cmp(&b.id));
    own
}

/// The first k images of a class, or all of them; there must be as many.
fn first<'a>(
    dataset: &Dataset,
    class: &str,
    images: &'a [&'a LabelledImage],
    shots: Shots,
) -> Result<impl Iterator<Item = SplitItem> + 'a> {
    let wanted = shots.count().map_or(images.len().max(1), |k| k as usize);
    let drawn = images.get(..wanted).ok_or_else(|| Error::TooFewImages {
        dataset: dataset.name.clone(),
        class: class.into(),
        available: images.len(),
        asked: wanted,
    })?;
    Ok(drawn.iter().map(|image| SplitItem::from(*image)))
}

/// A dataset without files for the tests of the protocols.
#[cfg(test)]
pub(super) mod toy {
    use sha2::{Digest as _, Sha256};

    use crate::data::{Dataset, LabelledImage};
    use crate::fs::hash::hex;
    use crate::manifest::Layout;

    /// So many images of each class to draw from, and one more of each to predict.
    pub(crate) fn dataset(sizes: &[usize]) -> Dataset {
        let image = |side: &str, class: usize, i: usize| LabelledImage {
            id: format!("{side}/{class}/{i}.png"),
            class: class as u32,
            sha256: hex(&Sha256::digest(format!("{side} {class} {i}"))),
            path: "unused".into(),
            ..LabelledImage::default()
        };
        let images = |side, extra: usize| {
            let of_class = move |(class, size): (usize, &usize)| {
                (0..size + extra)
                    .map(move |i| image(side, class, i))
                    .collect::<Vec<_>>()
            };
            sizes.iter().enumerate().flat_map(of_class).collect()
        };
        Dataset {
            name: "toy".into(),
            title: "Toy".into(),
            classes: (0..sizes.len()).map(|c| format!("class {c}")).collect(),
            pool: images("pool", 0),
            val: Vec::new(),
            test: images("test", 1),
            origin: crate::data::Origin::default(),
            layout: Layout::Folders,
            micro: true,
            regime: None,
            left_out: 0,
            refused: Vec::new(),
            coop: None,
        }
    }
}
