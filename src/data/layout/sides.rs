//! Words for the sides of a dataset, in names of folders and in columns of tables.

use std::collections::BTreeMap;

/// The part of a dataset that an image belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// To learn from.
    Train,
    /// To choose by; shots may be drawn from it.
    Validation,
    /// Only ever predicted.
    Test,
}

impl Part {
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
) -> Result<Vec<(Part, String)>, (String, String)> {
    let mut groups: BTreeMap<String, Vec<(Part, String)>> = BTreeMap::new();
    for name in folders {
        if let Some((part, rest)) = Part::of_name(name) {
            groups.entry(rest).or_default().push((part, name.clone()));
        }
    }
    groups.retain(|rest, group| {
        group.sort();
        let is_pair = group.iter().any(|(part, _)| *part != Part::Train);
        let learned = group.iter().find(|(part, _)| *part == Part::Train);
        (rest.is_empty() || is_pair) && learned.is_some_and(|(_, name)| is_tree(name))
    });
    if let Some(plain) = groups.remove("") {
        return Ok(plain);
    }
    let mut groups = groups.into_values();
    match (groups.next(), groups.next()) {
        (Some(one), Some(other)) => {
            let name = |group: Vec<(Part, String)>| group.into_iter().next().map_or_else(String::new, |(_, name)| name);
            Err((name(one), name(other)))
        }
        (only, _) => Ok(only.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(folders: &[&str]) -> Result<Vec<(Part, String)>, (String, String)> {
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
            let expected = vec![(Part::Train, train.to_owned()), (Part::Test, test.to_owned())];
            assert_eq!(found(&[test, train, "docs"]), Ok(expected), "{train}");
        }
        let three = found(&["valid", "test", "train"]).unwrap();
        let parts: Vec<Part> = three.iter().map(|(part, _)| *part).collect();
        assert_eq!(parts, [Part::Train, Part::Validation, Part::Test]);
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
}
