//! A test side for images that come without one.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::Item;

/// Keeps a share of each class for the test, at least one image and never all: those whose hash of dataset and id comes
/// first. An image's side so depends on no other image's name, and is the same on every machine.
pub(super) fn split(items: Vec<Item>, share: f64, dataset: &str) -> (Vec<Item>, Vec<Item>) {
    let mut by_class: BTreeMap<u32, Vec<([u8; 32], Item)>> = BTreeMap::new();
    for item in items {
        let hash = Sha256::digest(format!("holdout/{dataset}/{}", item.id));
        by_class.entry(item.class).or_default().push((hash.into(), item));
    }
    let (mut pool, mut test) = (Vec::new(), Vec::new());
    for mut of_class in by_class.into_values() {
        of_class.sort_by(|a, b| a.0.cmp(&b.0));
        let wanted = (share * of_class.len() as f64).round() as usize;
        let kept = wanted.max(1).min(of_class.len().saturating_sub(1));
        let mut items = of_class.into_iter().map(|(_, item)| item);
        test.extend(items.by_ref().take(kept));
        pool.extend(items);
    }
    (pool, test)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_each_class_is_kept_and_never_all() {
        let items = |n: u32| -> Vec<Item> { (0..n).map(|i| Item::new(format!("a/{i}.jpg"), 0)).collect() };
        for (n, share, kept) in [(20, 0.25, 5), (2, 0.01, 1), (2, 1.0, 1), (1, 0.5, 0)] {
            let (pool, test) = split(items(n), share, "d");
            assert_eq!((pool.len() + test.len(), test.len()), (n as usize, kept), "{n} {share}");
        }
        // Most images stay where they were when one is added.
        let (_, before) = split(items(20), 0.25, "d");
        let (_, after) = split(items(21), 0.25, "d");
        assert!(before.iter().filter(|item| after.contains(item)).count() >= 4);
        assert_ne!(before, split(items(20), 0.25, "e").1);
    }
}
