//! Protocol `coop`: the shots and validation images of CoOp and Dassl (`generate_fewshot_dataset`), by our own draws.

use super::clean::shuffle;
use super::{SCHEMA, Split, SplitItem, first, of_class};
use crate::config::{Protocol, Shots};
use crate::data::{Dataset, LabelledImage};
use crate::error::{Error, Result};
use crate::seed;

/// Most validation images that a class has beside its shots.
const MOST_VAL: u32 = 4;

/// So many validation images of each class go with `shots`: as many as shots, at most four; all with all.
pub(super) fn val_shots(shots: Shots) -> Shots {
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
        let set_aside = set_aside.get(..wanted).ok_or_else(|| Error::Dataset {
            dataset: dataset.name.clone(),
            reason: format!(
                "class `{name}` has {} validation images, {shots} shots go with {wanted} of them",
                set_aside.len()
            ),
        })?;
        val.extend(set_aside.iter().map(|image| SplitItem::from(*image)));
    }
    Ok(split(dataset, shots, seed, train, val))
}

/// A split of this protocol from what was drawn.
pub(super) fn split(dataset: &Dataset, shots: Shots, seed: u64, train: Vec<SplitItem>, val: Vec<SplitItem>) -> Split {
    Split {
        schema: SCHEMA,
        dataset: dataset.name.clone(),
        protocol: Protocol::Coop,
        shots,
        seed,
        classes: dataset.classes.clone(),
        train,
        val,
        capped: None,
        test: dataset.test.iter().map(SplitItem::from).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::data::split::toy;

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
