//! Images that are on both sides, for an import to name.

use std::collections::BTreeMap;

use crate::data::Dataset;
use crate::data::overlap::{NEAR, count_pairs};

/// Pairs of hashes that are compared: more would take minutes.
const COMPARED: usize = 4_000_000_000;

/// A pool image and a test image.
pub(super) type Pair = (String, String);

/// Images that are to learn from and to be tested on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Twins {
    /// The same bytes: id in the pool, id in the test.
    pub same: Vec<Pair>,
    /// Number of other pairs that look alike (difference hashes within [`NEAR`] bits); `None` where there are too many
    /// images to compare each with each.
    pub alike: Option<usize>,
    /// The first of those.
    pub first_alike: Vec<Pair>,
}

impl Twins {
    pub(super) fn of(dataset: &Dataset) -> Self {
        let mut by_hash: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for image in &dataset.pool {
            by_hash.entry(&image.sha256).or_default().push(&image.id);
        }
        let mut same = Vec::new();
        for image in &dataset.test {
            for twin in by_hash.get(image.sha256.as_str()).into_iter().flatten() {
                same.push(((*twin).to_owned(), image.id.clone()));
            }
        }
        same.sort();
        if dataset.pool.len().saturating_mul(dataset.test.len()) > COMPARED {
            return Self {
                same,
                ..Self::default()
            };
        }
        let hashes =
            |images: &[crate::data::LabelledImage]| images.iter().map(|image| image.dhash).collect::<Vec<u64>>();
        let (count, first) = count_pairs(
            &hashes(&dataset.pool),
            &hashes(&dataset.test),
            NEAR,
            super::NAMED + same.len(),
        );
        let named = first.iter().filter_map(|pair| {
            Some((
                dataset.pool.get(pair.pool)?.id.clone(),
                dataset.test.get(pair.test)?.id.clone(),
            ))
        });
        let first_alike = named
            .filter(|pair| same.binary_search(pair).is_err())
            .take(super::NAMED)
            .collect();
        Self {
            alike: Some(count.saturating_sub(same.len())),
            first_alike,
            same,
        }
    }
}
