//! Protocol `coop`: the shots and validation images of CoOp and Dassl (`generate_fewshot_dataset`), by our own draws or from CoOp's files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::{Protocol, Shots};
use crate::data::split::{Split, SplitItem, first, of_class, shuffle};
use crate::data::{Dataset, LabelledImage};
use crate::error::{Cause, Error, Result};
use crate::manifest::CoopPaths;
use crate::seed;

/// Most validation images that a class has beside its shots.
const MOST_VAL: u32 = 4;

/// So many validation images of each class go with `shots`: as many as shots, at most four; all with all.
fn val_shots(shots: Shots) -> Shots {
    match shots {
        Shots::K(k) => Shots::K(k.min(MOST_VAL)),
        Shots::All => Shots::All,
    }
}

/// Independent draws: each class at each number of shots has a generator of its own for training and one for
/// validation, so that k shots are no part of 2k shots, as in the published runs. The test set is whole.
///
/// # Errors
/// [`Error::TooFewImages`] for a class with fewer images than shots, where CoOp takes fewer without a word: none of
/// its published runs needs that. [`Error::Dataset`] for one with too few validation images.
pub(super) fn coop(dataset: &Dataset, shots: Shots, seed: u64) -> Result<Split> {
    let (mut train, mut val) = (Vec::new(), Vec::new());
    for (class, name) in (0..).zip(&dataset.classes) {
        let shuffled = |images, side: &str| -> Vec<&LabelledImage> {
            let mut own = of_class(images, class);
            let purpose = format!("split/coop/{}/{name}/k{shots}/{side}", dataset.name);
            shuffle(&mut own, &mut seed::rng(seed, &purpose));
            own
        };
        train.extend(first(dataset, name, &shuffled(&dataset.pool, "train"), shots)?);
        let set_aside = shuffled(&dataset.val, "val");
        let wanted = val_shots(shots).count().map_or(set_aside.len(), |k| k as usize);
        let set_aside = set_aside.get(..wanted).ok_or_else(|| {
            dataset.fail(format!(
                "class `{name}` has {} validation images, {shots} shots go with {wanted} of them",
                set_aside.len()
            ))
        })?;
        val.extend(set_aside.iter().map(|image| SplitItem::from(*image)));
    }
    Ok(Split {
        val,
        ..Split::drawn(dataset, Protocol::Coop, shots, seed, train)
    })
}

/// A dataset's images in CoOp's files. Sides are ids in the order of the split file: index files give
/// places in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoopList {
    /// Image root and prefix of ids; those of the manifest, wherever a list was kept.
    #[serde(skip)]
    pub paths: CoopPaths,
    /// Images to draw from.
    pub train: Vec<String>,
    /// Images set aside for validation.
    pub val: Vec<String>,
    /// Images that are only ever predicted.
    pub test: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IndexFile {
    train: Side,
    val: Side,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Side {
    data: Vec<Entry>,
    /// Place of each entry in the split file's list, from 0.
    indices: Vec<usize>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// `./data/<root>/<path>`.
    impath: String,
    label: u32,
    classname: String,
}

/// Reads the split that an index file holds and proves that it is one of this dataset: every entry is an image of
/// its side with its label, its class name and its place in CoOp's list, none stands twice, and each class has
/// `shots` training images and the validation images that go with them.
pub(super) fn read(dataset: &Dataset, shots: Shots, seed: u64, path: &Path) -> Result<Split> {
    let wrong = |reason: String| Error::Indices {
        path: path.into(),
        reason,
    };
    let Some(k) = shots.count().filter(|k| *k > 0) else {
        return Err(wrong(format!("index files are for 1 shot or more, not for {shots}")));
    };
    let list = list(dataset)?;
    let bytes = std::fs::read(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => wrong("there is no such file".into()),
        _ => Error::io("read", path)(e),
    })?;
    let file: IndexFile = serde_json::from_slice(&bytes).map_err(|e| wrong(format!("no few-shot index file: {e}")))?;
    let train = list.items(&dataset.classes, &file.train, (&dataset.pool, &list.train), k);
    let train = train.map_err(|e| wrong(format!("train {e}")))?;
    let val_k = val_shots(shots).count().unwrap_or(0);
    let val = list.items(&dataset.classes, &file.val, (&dataset.val, &list.val), val_k);
    let val = val.map_err(|e| wrong(format!("val {e}")))?;
    Ok(Split {
        val,
        ..Split::drawn(dataset, Protocol::Coop, shots, seed, train)
    })
}

/// The index file of a split.
///
/// # Errors
/// [`Error::Dataset`] for a dataset without CoOp's lists, or an image that is not in them.
pub fn index_file(dataset: &Dataset, split: &Split) -> Result<String> {
    let list = list(dataset)?;
    let side = |items: &[SplitItem], order: &[String]| {
        let places: BTreeMap<&str, usize> = order.iter().map(String::as_str).zip(0..).collect();
        let mut side = Side {
            data: Vec::with_capacity(items.len()),
            indices: Vec::with_capacity(items.len()),
        };
        for item in items {
            let place = places.get(item.id.as_str());
            let (Some(place), Some(entry)) = (place, list.entry(&split.classes, item)) else {
                return Err(unlisted(dataset, &item.id));
            };
            side.indices.push(*place);
            side.data.push(entry);
        }
        Ok(side)
    };
    let file = IndexFile {
        train: side(&split.train, &list.train)?,
        val: side(&split.val, &list.val)?,
    };
    python_json(dataset, &file)
}

/// CoOp's split file of a dataset: all images of every side.
///
/// # Errors
/// As [`index_file`].
pub fn split_file(dataset: &Dataset) -> Result<String> {
    #[derive(Serialize)]
    struct SplitFile<'a> {
        train: Vec<(&'a str, u32, &'a str)>,
        val: Vec<(&'a str, u32, &'a str)>,
        test: Vec<(&'a str, u32, &'a str)>,
    }
    let list = list(dataset)?;
    python_json(
        dataset,
        &SplitFile {
            train: triples(dataset, list, &dataset.pool, &list.train)?,
            val: triples(dataset, list, &dataset.val, &list.val)?,
            test: triples(dataset, list, &dataset.test, &list.test)?,
        },
    )
}

/// Path, label and class name of the images of one side, in the order of the split file.
fn triples<'a>(
    dataset: &'a Dataset,
    list: &CoopList,
    images: &[LabelledImage],
    order: &'a [String],
) -> Result<Vec<(&'a str, u32, &'a str)>> {
    let labels: BTreeMap<&str, u32> = images.iter().map(|image| (image.id.as_str(), image.class)).collect();
    let triple = |id: &'a String| {
        let label = *labels.get(id.as_str())?;
        Some((list.path(id)?, label, dataset.classes.get(label as usize)?.as_str()))
    };
    order
        .iter()
        .map(|id| triple(id).ok_or_else(|| unlisted(dataset, id)))
        .collect()
}

impl CoopList {
    /// The path that CoOp's files have for an id.
    fn path<'a>(&self, id: &'a str) -> Option<&'a str> {
        id.strip_prefix(self.paths.prefix.as_str())
    }

    /// Name of the folder of index files: the first part of the image root, without hyphens (`caltech-101/…` has
    /// `caltech101`).
    #[must_use]
    pub fn index_folder(&self) -> String {
        let first = self.paths.root.split('/').next().unwrap_or_default();
        first.replace('-', "")
    }

    fn root(&self) -> String {
        format!("./data/{}/", self.paths.root)
    }

    fn entry(&self, classes: &[String], item: &SplitItem) -> Option<Entry> {
        Some(Entry {
            impath: self.root() + self.path(&item.id)?,
            label: item.class,
            classname: classes.get(item.class as usize)?.clone(),
        })
    }

    /// The images that entries name, in their order, `k` of each class; an error begins with the entry.
    fn items(
        &self,
        classes: &[String],
        side: &Side,
        (images, order): (&[LabelledImage], &[String]),
        k: u32,
    ) -> Result<Vec<SplitItem>, String> {
        if side.data.len() != side.indices.len() {
            let (entries, indices) = (side.data.len(), side.indices.len());
            return Err(format!("has {entries} entries, but {indices} indices"));
        }
        let listed: BTreeMap<&str, &LabelledImage> = images.iter().map(|image| (image.id.as_str(), image)).collect();
        let mut seen = BTreeSet::new();
        let mut items = Vec::with_capacity(side.data.len());
        for (entry, place) in side.data.iter().zip(&side.indices) {
            let wrong = |reason: String| Err(format!("entry `{}`: {reason}", entry.impath));
            let root = self.root();
            let Some(path) = entry.impath.strip_prefix(&root) else {
                return wrong(format!("does not lie in `{root}`"));
            };
            let id = format!("{}{path}", self.paths.prefix);
            let Some(image) = listed.get(id.as_str()) else {
                return wrong("is no image of this side of the dataset".into());
            };
            let class = classes.get(image.class as usize).map_or("", String::as_str);
            if (entry.label, entry.classname.as_str()) != (image.class, class) {
                return wrong(format!(
                    "is label {} `{}`, but the dataset has {} `{class}`",
                    entry.label, entry.classname, image.class
                ));
            }
            if order.get(*place) != Some(&id) {
                return wrong(format!("is not number {place} of CoOp's list"));
            }
            if !seen.insert(path) {
                return wrong("stands twice".into());
            }
            items.push(SplitItem::from(*image));
        }
        for (class, name) in (0..).zip(classes) {
            let found = items.iter().filter(|item| item.class == class).count();
            if found != k as usize {
                return Err(format!("side: class `{name}` has {found} entries, not {k}"));
            }
        }
        Ok(items)
    }
}

fn list(dataset: &Dataset) -> Result<&CoopList> {
    dataset.coop.as_ref().ok_or_else(|| {
        let reason = "CoOp's files have no names for its images: it was opened under another protocol, \
                      or its manifest has no `[coop]` with `root`";
        dataset.fail(reason).because(Cause::Protocol)
    })
}

fn unlisted(dataset: &Dataset, id: &str) -> Error {
    dataset.fail(format!("image `{id}` is not in CoOp's list"))
}

/// As Python's `json.dump(value, file, indent=4)`: no final newline, everything beyond ASCII escaped.
fn python_json(dataset: &Dataset, value: &impl Serialize) -> Result<String> {
    let fail = |e: &dyn std::fmt::Display| dataset.fail(format!("split as JSON: {e}"));
    let mut bytes = Vec::new();
    let form = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value
        .serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, form))
        .map_err(|e| fail(&e))?;
    let text = String::from_utf8(bytes).map_err(|e| fail(&e))?;
    let mut ascii = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, ' '..='~' | '\n') {
            ascii.push(letter);
        } else {
            let mut units = [0; 2];
            let units = letter.encode_utf16(&mut units).iter();
            ascii.extend(units.map(|unit| format!("\\u{unit:04x}")));
        }
    }
    Ok(ascii)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::split::toy;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// As many validation images as there are images to draw from.
    fn with_val(sizes: &[usize]) -> Dataset {
        let mut data = toy::dataset(sizes);
        data.val = data.pool.clone();
        for image in &mut data.val {
            image.id = image.id.replace("pool", "val");
        }
        data
    }

    fn ids(items: &[SplitItem]) -> BTreeSet<&str> {
        items.iter().map(|item| item.id.as_str()).collect()
    }

    proptest! {
        #[test]
        fn draws_are_balanced_and_sides_apart(sizes in prop::collection::vec(1_usize..9, 1..6), seed: u64) {
            let data = with_val(&sizes);
            let fewest = *sizes.iter().min().unwrap() as u32;
            for shots in 0..=fewest {
                let split = coop(&data, Shots::K(shots), seed).unwrap();
                let (train, val, test) = (ids(&split.train), ids(&split.val), ids(&split.test));
                prop_assert!(train.is_disjoint(&val) && train.is_disjoint(&test) && val.is_disjoint(&test));
                prop_assert_eq!(test.len(), data.test.len());
                prop_assert!(val.iter().all(|id| id.starts_with("val/")));
                for class in 0..sizes.len() as u32 {
                    let count = |items: &[SplitItem]| items.iter().filter(|item| item.class == class).count();
                    prop_assert_eq!((count(&split.train), count(&split.val)), (shots as usize, shots.min(4) as usize));
                }
                prop_assert_eq!((train.len(), val.len()), (split.train.len(), split.val.len()));
                prop_assert_eq!(&split, &coop(&data, Shots::K(shots), seed).unwrap());
            }
            let all = coop(&data, Shots::All, seed).unwrap();
            prop_assert_eq!((all.train.len(), all.val.len()), (data.pool.len(), data.val.len()));
            let fails = matches!(coop(&data, Shots::K(fewest + 1), seed), Err(Error::TooFewImages { .. }));
            prop_assert!(fails);
        }
    }

    #[test]
    fn draws_of_different_shots_are_independent() {
        let data = with_val(&[60, 60, 60]);
        let of = |shots, seed| coop(&data, Shots::K(shots), seed).unwrap();
        let nested = |seed| {
            let (few, many) = (of(8, seed), of(16, seed));
            ids(&few.train).is_subset(&ids(&many.train))
        };
        // By chance one seed in 10¹² nests.
        assert!((0..5).all(|seed| !nested(seed)));
        assert_ne!(of(8, 0).train, of(8, 1).train);
        assert_ne!(of(8, 0).val, of(8, 1).val);
    }

    #[test]
    fn too_few_validation_images_name_the_class() {
        let mut data = with_val(&[5, 5]);
        data.val.truncate(7);
        let error = coop(&data, Shots::K(5), 0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "dataset `toy`: class `class 1` has 2 validation images, 5 shots go with 4 of them"
        );
    }
}
