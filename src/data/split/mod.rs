//! Splits: the images that a learner is trained on and those that it is tested on, one file a protocol.

mod coop;
mod tinker;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rand::RngCore;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::config::{Protocol, Shots};
use crate::data::{Dataset, LabelledImage};
use crate::error::{Cause, Error, Result};
use crate::fs::hash::hex;
use crate::seed;

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
    /// The shots that a protocol drew, with the classes and the whole test set of the dataset.
    fn drawn(dataset: &Dataset, protocol: Protocol, shots: Shots, seed: u64, train: Vec<SplitItem>) -> Self {
        Self {
            schema: SCHEMA,
            dataset: dataset.name.clone(),
            protocol,
            shots,
            seed,
            classes: dataset.classes.clone(),
            train,
            val: Vec::new(),
            capped: None,
            test: dataset.test.iter().map(SplitItem::from).collect(),
        }
    }

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
    let found = |SplitItem { id, .. }: &SplitItem| {
        let image = by_id.get(id.as_str()).map(|image| (*image).clone());
        image.ok_or_else(|| dataset.fail(format!("the split names image `{id}`, which is not there")))
    };
    items.iter().map(found).collect()
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

/// Protocol `clean`: official splits, the whole test set, nested draws.
///
/// Each class has its own generator, named after dataset and class; its pool is sorted by id, shuffled
/// once, and k shots are the first k, or all of it. So the draw of one seed nests in k, and no class's draw depends on
/// another's images.
///
/// # Errors
/// [`Error::TooFewImages`] naming class and size.
pub fn clean(dataset: &Dataset, shots: impl Into<Shots>, seed: u64) -> Result<Split> {
    let shots = shots.into();
    let mut train = Vec::new();
    for (class, name) in (0..).zip(&dataset.classes) {
        let mut pool = of_class(&dataset.pool, class);
        let mut rng = seed::rng(seed, &format!("split/{}/{name}", dataset.name));
        shuffle(&mut pool, &mut rng);
        train.extend(first(dataset, name, &pool, shots)?);
    }
    Ok(Split::drawn(dataset, Protocol::Clean, shots, seed, train))
}

/// Fisher–Yates from the end, written out so that no library version can change a published split.
fn shuffle<T>(items: &mut [T], rng: &mut impl RngCore) {
    for last in (1..items.len()).rev() {
        let other = below(rng, last as u64 + 1);
        items.swap(last, other as usize);
    }
}

/// A uniform number below `end` from 64-bit draws, without bias (Lemire 2019, algorithm 5).
fn below(rng: &mut impl RngCore, end: u64) -> u64 {
    let threshold = end.wrapping_neg() % end;
    loop {
        let product = u128::from(rng.next_u64()) * u128::from(end);
        if product as u64 >= threshold {
            return (product >> 64) as u64;
        }
    }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::toy::dataset;
    use super::*;

    fn ids(split: &Split) -> Vec<&str> {
        split.train.iter().map(|item| item.id.as_str()).collect()
    }

    proptest! {
        #[test]
        fn shots_nest_and_are_balanced(sizes in prop::collection::vec(1_usize..20, 1..6), seed: u64) {
            let data = dataset(&sizes);
            let least = *sizes.iter().min().unwrap() as u32;
            let mut smaller: BTreeSet<String> = BTreeSet::new();
            for shots in 1..=least {
                let split = clean(&data, shots, seed).unwrap();
                for class in 0..sizes.len() as u32 {
                    prop_assert_eq!(split.train.iter().filter(|i| i.class == class).count(), shots as usize);
                }
                let drawn: BTreeSet<String> = ids(&split).into_iter().map(String::from).collect();
                prop_assert_eq!(drawn.len(), split.train.len());
                prop_assert!(drawn.is_superset(&smaller));
                prop_assert!(split.test.iter().all(|item| !drawn.contains(&item.id)));
                prop_assert_eq!(split.test.len(), data.test.len());
                smaller = drawn;
            }
            let fails = matches!(
                clean(&data, least + 1, seed),
                Err(Error::TooFewImages { available, asked, .. }) if available == least as usize && asked == available + 1
            );
            prop_assert!(fails);
        }

        #[test]
        fn only_seed_and_content_decide(sizes in prop::collection::vec(2_usize..20, 1..6), seed: u64, order: u64) {
            let data = dataset(&sizes);
            let mut listed_otherwise = data.clone();
            shuffle(&mut listed_otherwise.pool, &mut seed::rng(order, "order"));
            let split = clean(&data, 2, seed).unwrap();
            prop_assert_eq!(&split, &clean(&listed_otherwise, 2, seed).unwrap());
            let json = split.to_json().unwrap();
            let read: Split = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(read.digest().unwrap(), split.digest().unwrap());
        }

        #[test]
        fn draws_stay_below(end in 1_u64.., seed: u64) {
            prop_assert!(below(&mut seed::rng(seed, "below"), end) < end);
        }
    }

    #[test]
    fn a_shuffle_is_fair() {
        let mut counts = [0_u32; 6];
        let mut rng = seed::rng(7, "fair");
        for _ in 0..6000 {
            let mut items = [0, 1, 2];
            shuffle(&mut items, &mut rng);
            counts[items[0] * 2 + usize::from(items[1] > items[2])] += 1;
        }
        // 1,000 expected of each order; 5 standard deviations are 144.
        assert!(counts.iter().all(|c| c.abs_diff(1000) < 144), "{counts:?}");
    }

    #[test]
    fn without_shots_only_the_test_set_is_there() {
        let data = dataset(&[9, 0]);
        let split = clean(&data, 0, 5).unwrap();
        assert!(split.train.is_empty());
        assert_eq!(split.test.len(), data.test.len());
    }

    #[test]
    fn another_seed_draws_others_and_too_many_shots_name_the_class() {
        let data = dataset(&[9, 8]);
        assert_ne!(ids(&clean(&data, 3, 0).unwrap()), ids(&clean(&data, 3, 1).unwrap()));
        let error = clean(&data, 9, 0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "dataset `toy`: class `class 1` has 8 training images, 9 shots were asked for"
        );
        assert_eq!(error.hint().unwrap(), "ask for at most 8 shots");
    }

    /// Published results name splits by digest: this one may never change.
    #[test]
    fn the_draw_is_frozen() {
        let split = clean(&dataset(&[5, 6]), 2, 42).unwrap();
        assert_eq!(
            ids(&split),
            ["pool/0/1.png", "pool/0/3.png", "pool/1/5.png", "pool/1/0.png"]
        );
        assert_eq!(
            split.digest().unwrap(),
            "7e84c9f99e9d1064029671ec2105216da2406f298c16af5a62b87f962eaab047"
        );
    }
}
