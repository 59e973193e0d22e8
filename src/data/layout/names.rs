//! Words: the sides of a dataset in names of folders and columns of tables, and class names as people write them, from the
//! names of folders and labels; and a test side where none is given.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};
use tokenizers::NormalizedString;

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

/// A label as it is spelled: Unicode composed (NFC), underscores as spaces, runs of white space one.
pub(crate) fn spelled(label: &str) -> String {
    composed(&label.replace('_', " ").split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Unicode composed (NFC): an accent is one character with its letter, however it was typed.
pub(crate) fn composed(text: &str) -> String {
    if text.is_ascii() {
        return text.to_owned();
    }
    let mut normalized = NormalizedString::from(text);
    normalized.nfc();
    normalized.get().to_owned()
}

/// Labels with the same key are spellings of one name: they differ in case, underscores, blanks or the form of their
/// accents.
pub(crate) fn key(label: &str) -> String {
    spelled(label).to_lowercase()
}

/// Number, separator and text of a numbered name, as in `001.cat`, `01_cat`, `12-cat`, `3) cat`.
fn numbered(name: &str) -> Option<(u64, &str, &str)> {
    let digits = name.find(|c: char| !c.is_ascii_digit()).filter(|end| *end > 0)?;
    let (number, rest) = name.split_at_checked(digits)?;
    let text = rest.trim_start_matches(['.', '_', '-', ')', ' ']);
    let separator = rest.strip_suffix(text)?;
    let is_set_off = !separator.is_empty() && text.starts_with(char::is_alphabetic);
    is_set_off.then_some((number.parse().ok()?, separator, text))
}

/// The texts of names that are an enumeration, 0…n−1 or 1…n, each number once and set off in the same way.
///
/// Numbers that count something are part of the name: where the texts are the same without them, or differ by a
/// plural's ending only (`1 star`, `2 stars`), nothing is taken off.
fn enumerated(names: &[String]) -> Option<Vec<&str>> {
    let parts: Vec<_> = names.iter().map(|name| numbered(name)).collect::<Option<_>>()?;
    let (_, separator, _) = parts.first().filter(|_| parts.len() > 1)?;
    if parts.iter().any(|(_, other, _)| other != separator) {
        return None;
    }
    let numbers: BTreeSet<u64> = parts.iter().map(|(number, ..)| *number).collect();
    let least = *numbers.first()?;
    let is_run = numbers.len() == parts.len()
        && least <= 1
        && numbers
            .last()
            .is_some_and(|last| last - least + 1 == parts.len() as u64);
    let singular = |text: &str| {
        let key = key(text);
        key.strip_suffix("es")
            .or(key.strip_suffix('s'))
            .unwrap_or(&key)
            .to_owned()
    };
    let texts: BTreeSet<String> = parts.iter().map(|(.., text)| singular(text)).collect();
    (is_run && texts.len() == parts.len()).then(|| parts.into_iter().map(|(.., text)| text).collect())
}

/// A WordNet id in front of a name, as in `n02085620-Chihuahua`.
fn without_wordnet(name: &str) -> &str {
    let id = name.strip_prefix('n').and_then(|rest| rest.split_at_checked(8));
    match id {
        Some((digits, rest)) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            match rest.strip_prefix(['-', '_', ' ']) {
                Some(text) if text.contains(char::is_alphabetic) => text,
                _ => name,
            }
        }
        _ => name,
    }
}

/// Names that a model can be asked to write, by the label; only those that differ.
///
/// WordNet ids are taken off the front, and numbers where all labels together are an enumeration 0…n−1 or 1…n
/// (`10 rupees` beside `100 rupees` keeps its number); underscores become spaces, runs of white space one, Unicode is
/// composed (NFC).
///
/// # Errors
/// The two labels whose names become one but for upper and lower case, or the one that nothing is left of.
pub(crate) fn cleaned(labels: &[String]) -> Result<BTreeMap<String, String>, String> {
    let texts = enumerated(labels);
    let (mut renamed, mut seen) = (BTreeMap::new(), BTreeMap::<String, &String>::new());
    for (at, label) in labels.iter().enumerate() {
        let text = texts.as_ref().and_then(|texts| texts.get(at).copied());
        let name = spelled(text.unwrap_or_else(|| without_wordnet(label)));
        if name.is_empty() {
            return Err(format!("nothing is left of the class name `{label}`"));
        }
        if let Some(other) = seen.insert(name.to_lowercase(), label) {
            return Err(format!("`{other}` and `{label}` are both the class `{name}`"));
        }
        if name != *label {
            renamed.insert(label.clone(), name);
        }
    }
    Ok(renamed)
}

/// Spellings of one name, brought together: to each label the one that stands for it.
///
/// `among` has the labels of the first side in order; those of the other sides are the same classes where they differ
/// in spelling only.
pub(crate) fn same_class<'a>(among: &'a [String], label: &str) -> Option<&'a String> {
    let exact = among.iter().find(|other| *other == label);
    exact.or_else(|| {
        let wanted = key(label);
        among.iter().find(|other| key(other) == wanted)
    })
}

/// Names in a message before the rest is counted only.
pub(crate) const NAMED: usize = 20;

/// The first names, and how many there are more.
pub(crate) fn listed<T: AsRef<str>>(names: &[T]) -> String {
    let more = names.len().saturating_sub(NAMED);
    let text = names
        .iter()
        .take(NAMED)
        .map(AsRef::as_ref)
        .collect::<Vec<_>>()
        .join(", ");
    if more > 0 {
        format!("{text} and {more} more")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::layout::Listing;

    fn names(folders: &[&str]) -> Vec<String> {
        let folders: Vec<String> = folders.iter().map(|f| (*f).to_owned()).collect();
        let renamed = cleaned(&folders).unwrap();
        folders.iter().map(|f| renamed.get(f).unwrap_or(f).clone()).collect()
    }

    fn error(folders: &[&str]) -> String {
        cleaned(&folders.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>()).unwrap_err()
    }

    #[test]
    fn prefixes_go_and_words_stay() {
        assert_eq!(
            names(&[
                "001.Black_footed_Albatross",
                "02.House  Sparrow",
                "3.caf\u{65}\u{301} bird"
            ]),
            ["Black footed Albatross", "House Sparrow", "caf\u{e9} bird"]
        );
        assert_eq!(names(&["0_cat", "1_dog"]), ["cat", "dog"]);
        assert_eq!(names(&["2 - dog", "1 - cat"]), ["dog", "cat"]);
        assert_eq!(
            names(&["n02085620-Chihuahua", "n02099601_golden_retriever", "n02099712"]),
            ["Chihuahua", "golden retriever", "n02099712"]
        );
        assert_eq!(names(&["cat", "guinea_pig"]), ["cat", "guinea pig"]);
        assert!(cleaned(&["cat".into()]).unwrap().is_empty());
    }

    #[test]
    fn a_number_that_is_part_of_the_name_stays() {
        for kept in [
            // Not all are numbered; two share a number; nothing but a number is left; a single folder; no separator.
            ["737-Max", "Concorde"].as_slice(),
            &["3-Series", "3-Wheeler"],
            &["737-200", "747-400"],
            &["1-Euro"],
            &["2CV", "3CV"],
            // No run from 0 or 1; a gap; separators that differ.
            &["10 rupees", "20 rupees", "50 rupees", "100 rupees"],
            &["7-Up", "3 Musketeers"],
            &["1.cat", "2.dog", "4.eel"],
            &["1-cat", "2.dog"],
            // What is counted is the same without the number.
            &["1 star", "2 stars", "3 stars"],
            &["1.cat", "2.cat"],
            &["1 Euro", "2 Euro"],
        ] {
            assert_eq!(names(kept), kept);
        }
        assert_eq!(names(&["1_Euro", "2_Euro"]), ["1 Euro", "2 Euro"]);
    }

    #[test]
    fn names_that_become_one_are_named_both() {
        assert_eq!(
            error(&["Grey_fox", "grey fox"]),
            "`Grey_fox` and `grey fox` are both the class `grey fox`"
        );
        assert_eq!(
            error(&["Caf\u{e9}", "Caf\u{65}\u{301}"]),
            "`Caf\u{e9}` and `Caf\u{65}\u{301}` are both the class `Caf\u{e9}`"
        );
        assert_eq!(error(&["__", "cat"]), "nothing is left of the class name `__`");
    }

    fn listing() -> Listing {
        let items = |side: &str, classes: &[u32]| -> Vec<Item> {
            classes
                .iter()
                .map(|class| Item::new(format!("{side}/{class}.jpg"), *class))
                .collect()
        };
        Listing {
            classes: ["ant", "bee", "cat", "dog"].map(str::to_owned).to_vec(),
            pool: items("train", &[0, 2, 3]),
            val: Vec::new(),
            test: items("test", &[0, 3]),
        }
    }

    fn classes(items: &[Item]) -> Vec<(&str, u32)> {
        items.iter().map(|item| (item.id.as_str(), item.class)).collect()
    }

    #[test]
    fn unused_and_one_sided_classes_go_with_their_images() {
        let mut listing = listing();
        let notes = listing.prune();
        assert_eq!(listing.classes, ["ant", "dog"]);
        assert_eq!(classes(&listing.pool), [("train/0.jpg", 0), ("train/3.jpg", 1)]);
        assert_eq!(classes(&listing.test), [("test/0.jpg", 0), ("test/3.jpg", 1)]);
        assert_eq!(
            notes,
            [
                "1 class name that no image has is left out: `bee`",
                "1 class is left out: `cat` (no test image)"
            ]
        );
    }

    #[test]
    fn classes_are_left_out_by_name() {
        let mut listing = listing();
        listing.leave_out(&["ant".into(), "bee".into()]).unwrap();
        assert_eq!(listing.classes, ["cat", "dog"]);
        assert_eq!(classes(&listing.test), [("test/3.jpg", 1)]);
        assert!(listing.leave_out(&["ant".into()]).unwrap_err().contains("`ant`"));
    }

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
