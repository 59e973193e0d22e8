//! Protocol `clean`: official splits, nested draws.

use rand::RngCore;

use super::{SCHEMA, Split, SplitItem, first, of_class};
use crate::config::{Protocol, Shots};
use crate::data::Dataset;
use crate::error::Result;
use crate::seed;

/// Protocol `clean`: official splits, the whole test set, nested draws.
///
/// Each class has its own generator, named after dataset and class; its pool is sorted by id, shuffled
/// once, and k shots are the first k, or all of it. So the draw of one seed nests in k, and no class's draw depends on
/// another's images.
///
/// # Errors
/// [`Error::TooFewImages`](crate::error::Error::TooFewImages) naming class and size.
pub fn clean(dataset: &Dataset, shots: impl Into<Shots>, seed: u64) -> Result<Split> {
    let shots = shots.into();
    let mut train = Vec::new();
    for (class, name) in (0..).zip(&dataset.classes) {
        let mut pool = of_class(&dataset.pool, class);
        shuffle(
            &mut pool,
            &mut seed::rng(seed, &format!("split/{}/{name}", dataset.name)),
        );
        train.extend(first(dataset, name, &pool, shots)?);
    }
    Ok(Split {
        schema: SCHEMA,
        dataset: dataset.name.clone(),
        protocol: Protocol::Clean,
        shots,
        seed,
        classes: dataset.classes.clone(),
        train,
        val: Vec::new(),
        capped: None,
        test: dataset.test.iter().map(SplitItem::from).collect(),
    })
}

/// Fisher–Yates from the end, written out so that no library version can change a published split.
pub(super) fn shuffle<T>(items: &mut [T], rng: &mut impl RngCore) {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::data::split::toy::dataset;
    use crate::error::Error;

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
