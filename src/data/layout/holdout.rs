//! What the layouts of a user's own images share: names of classes, and a test side where none is given.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::Item;

/// Class names as `rename` spells them, in the same order.
///
/// # Errors
/// When all classes are known and `rename` names none of them.
pub(super) fn renamed(
    classes: Vec<String>,
    rename: &BTreeMap<String, String>,
    all_known: bool,
) -> Result<Vec<String>, String> {
    if let Some(unknown) = rename.keys().find(|name| all_known && !classes.contains(name)) {
        return Err(format!("`rename` names `{unknown}`, which is no class"));
    }
    let spelled = |name: String| rename.get(&name).cloned().unwrap_or(name);
    Ok(classes.into_iter().map(spelled).collect())
}

/// Splits the images of each class into pool and test: those of the smallest SHA-256 of their id are tested, a
/// `share` of the class, rounded, at least one image on each side.
///
/// No seed and no other class has a say, so that images added elsewhere move none, and of those added to a class
/// each moves one other at most. Skipped images count on no side.
pub(super) fn split(items: Vec<Item>, share: f64, skip: &[String]) -> (Vec<Item>, Vec<Item>) {
    let mut of_class: BTreeMap<u32, Vec<(Vec<u8>, Item)>> = BTreeMap::new();
    let (mut pool, mut test) = (Vec::new(), Vec::new());
    for item in items {
        if skip.contains(&item.id) {
            pool.push(item);
        } else {
            let hash = Sha256::digest(item.id.as_bytes()).to_vec();
            of_class.entry(item.class).or_default().push((hash, item));
        }
    }
    for mut items in of_class.into_values() {
        items.sort_by(|a, b| a.0.cmp(&b.0));
        let wanted = (share * items.len() as f64).round() as usize;
        let most = items.len().saturating_sub(1);
        let learned = items.split_off(wanted.max(1).min(most));
        test.extend(items.into_iter().map(|(_, item)| item));
        pool.extend(learned.into_iter().map(|(_, item)| item));
    }
    (pool, test)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(class: u32, count: usize) -> Vec<Item> {
        (0..count)
            .map(|i| Item::new(format!("{class}/{i}.jpg"), class))
            .collect()
    }

    fn ids(items: &[Item]) -> Vec<&str> {
        let mut ids: Vec<_> = items.iter().map(|item| item.id.as_str()).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn a_share_of_each_class_and_at_least_one_on_each_side() {
        for (count, share, tested) in [
            (10, 0.3, 3),
            (20, 0.3, 6),
            (2, 0.3, 1),
            (2, 0.9, 1),
            (1, 0.3, 0),
            (9, 0.01, 1),
        ] {
            let (pool, test) = split(items(0, count), share, &[]);
            assert_eq!((pool.len(), test.len()), (count - tested, tested), "{count} {share}");
        }
    }

    #[test]
    fn other_classes_and_skipped_images_move_nothing() {
        let (_, alone) = split(items(0, 10), 0.3, &[]);
        let both = [items(0, 10), items(1, 33)].concat();
        let (_, test) = split(both, 0.3, &[]);
        let of_first: Vec<Item> = test.into_iter().filter(|item| item.class == 0).collect();
        assert_eq!(ids(&of_first), ids(&alone));
        // One more image displaces one at most.
        let (_, more) = split(items(0, 11), 0.3, &[]);
        assert!(ids(&more).iter().filter(|id| ids(&alone).contains(id)).count() >= 2);
        // A skipped test image leaves its class with three others.
        let skipped = alone[0].id.clone();
        let (pool, test) = split(items(0, 10), 0.3, std::slice::from_ref(&skipped));
        assert_eq!((pool.len(), test.len()), (7, 3));
        assert!(pool.iter().any(|item| item.id == skipped));
    }

    /// Results name test sets by the hash of their ids: the choice may never change.
    #[test]
    fn the_choice_is_frozen() {
        let (_, test) = split(items(0, 10), 0.3, &[]);
        assert_eq!(ids(&test), ["0/1.jpg", "0/2.jpg", "0/6.jpg"]);
    }

    #[test]
    fn a_rename_must_name_a_class() {
        let rename = BTreeMap::from([("a_b".to_owned(), "a b".to_owned())]);
        assert_eq!(
            renamed(vec!["a_b".into(), "c".into()], &rename, true).unwrap(),
            ["a b", "c"]
        );
        assert!(renamed(vec!["c".into()], &rename, true).unwrap_err().contains("`a_b`"));
        assert_eq!(renamed(vec!["c".into()], &rename, false).unwrap(), ["c"]);
    }
}
