//! The sides of a dataset: words for them in names of folders and columns of tables, and a test side where none is given.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::data::layout::Item;

/// The part of a dataset that an image belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// To learn from.
    Train,
    /// To choose by; shots may be drawn from it.
    Validation,
    /// Only ever predicted.
    Test,
}

impl Side {
    /// The part that a word stands for, whatever its case: the keywords of Python's `datasets`, and `trn` and `tst`.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        let word = word.to_lowercase();
        match word
            .strip_suffix("set")
            .filter(|stem| !stem.is_empty())
            .unwrap_or(&word)
        {
            "train" | "training" | "trn" => Some(Self::Train),
            "val" | "valid" | "validation" | "dev" => Some(Self::Validation),
            "test" | "testing" | "tst" | "eval" | "evaluation" => Some(Self::Test),
            _ => None,
        }
    }

    /// The part that a folder's name speaks of, and what else the name says: `training_set`, `seg_train`, `Test 2`.
    fn of_name(name: &str) -> Option<(Self, String)> {
        let (mut part, mut rest) = (None, Vec::new());
        let words = name
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty());
        for word in words.flat_map(letters_and_digits) {
            match (Self::of_word(word), part) {
                (Some(_), Some(_)) => return None,
                (Some(found), None) => part = Some(found),
                (None, _) => rest.push(word.to_lowercase()),
            }
        }
        Some((part?, rest.join(" ")))
    }
}

/// `train2017` in two.
fn letters_and_digits(word: &str) -> impl Iterator<Item = &str> {
    let digits = word.find(|c: char| c.is_ascii_digit()).unwrap_or(word.len());
    let (letters, digits) = word.split_at(digits);
    [letters, digits].into_iter().filter(|part| !part.is_empty())
}

/// Folders that are the sides of one dataset, the first part's first: their names say a part and otherwise the same
/// (`train` and `test`, `seg_train` and `seg_test`).
///
/// A name that says more than its part counts only where another part has it too, so that a class `test_tubes` or
/// `train_station` stays one. `is_tree`: whether a folder of this name holds folders; the one to learn from has to.
///
/// # Errors
/// Two folders to learn from, where either may be meant.
pub(crate) fn sides(
    folders: &[String],
    is_tree: &dyn Fn(&str) -> bool,
) -> Result<Vec<(Side, String)>, (String, String)> {
    let mut groups: BTreeMap<String, Vec<(Side, String)>> = BTreeMap::new();
    for name in folders {
        if let Some((part, rest)) = Side::of_name(name) {
            groups.entry(rest).or_default().push((part, name.clone()));
        }
    }
    groups.retain(|rest, group| {
        group.sort();
        let is_pair = group.iter().any(|(part, _)| *part != Side::Train);
        let learned = group.iter().find(|(part, _)| *part == Side::Train);
        (rest.is_empty() || is_pair) && learned.is_some_and(|(_, name)| is_tree(name))
    });
    if let Some(plain) = groups.remove("") {
        return Ok(plain);
    }
    let mut groups = groups.into_values();
    match (groups.next(), groups.next()) {
        (Some(one), Some(other)) => {
            let name = |group: Vec<(Side, String)>| group.into_iter().next().map_or_else(String::new, |(_, name)| name);
            Err((name(one), name(other)))
        }
        (only, _) => Ok(only.unwrap_or_default()),
    }
}

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

    fn found(folders: &[&str]) -> Result<Vec<(Side, String)>, (String, String)> {
        let folders: Vec<String> = folders.iter().map(|name| (*name).to_owned()).collect();
        sides(&folders, &|_| true)
    }

    #[test]
    fn sides_are_pairs_that_say_the_same_but_for_the_part() {
        for (train, test) in [
            ("train", "test"),
            ("Training", "Testing"),
            ("TRAIN", "Test"),
            ("training_set", "test_set"),
            ("trainset", "testset"),
            ("seg_train", "seg_test"),
            ("train2017", "test2017"),
            ("asl alphabet train", "asl alphabet test"),
            ("train", "eval"),
            ("train-images", "evaluation-images"),
        ] {
            let expected = vec![(Side::Train, train.to_owned()), (Side::Test, test.to_owned())];
            assert_eq!(found(&[test, train, "docs"]), Ok(expected), "{train}");
        }
        let three = found(&["valid", "test", "train"]).unwrap();
        let parts: Vec<Side> = three.iter().map(|(part, _)| *part).collect();
        assert_eq!(parts, [Side::Train, Side::Validation, Side::Test]);
        assert_eq!(
            found(&["a_train", "a_test", "b_train", "b_test"]),
            Err(("a_train".into(), "b_train".into()))
        );
    }

    #[test]
    fn classes_stay_classes() {
        for classes in [
            ["test_tubes", "flasks"].as_slice(),
            &["train_station", "test_tubes"],
            &["training_shoes", "boots"],
            &["latest", "restrain"],
            &["test", "cat"],
            &["train_test", "cat"],
        ] {
            assert_eq!(found(classes), Ok(Vec::new()), "{classes:?}");
        }
        // A class may be called `train`: it holds images.
        assert_eq!(sides(&["train".into(), "test".into()], &|_| false), Ok(Vec::new()));
    }

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
