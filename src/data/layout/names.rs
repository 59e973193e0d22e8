//! Class names as people write them, from the names of folders and labels; classes that a dataset does without.

use std::collections::{BTreeMap, BTreeSet};

use tokenizers::NormalizedString;

use crate::data::layout::Listing;

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

/// The parts of a numbered name, as in `001.cat`, `01_cat`, `12-cat`, `3) cat`.
#[derive(Debug, Clone, Copy)]
struct Numbered<'a> {
    number: u64,
    separator: &'a str,
    text: &'a str,
}

fn numbered(name: &str) -> Option<Numbered<'_>> {
    let digits = name.find(|c: char| !c.is_ascii_digit()).filter(|end| *end > 0)?;
    let (number, rest) = name.split_at_checked(digits)?;
    let text = rest.trim_start_matches(['.', '_', '-', ')', ' ']);
    let separator = rest.strip_suffix(text)?;
    (!separator.is_empty() && text.starts_with(char::is_alphabetic)).then_some(Numbered {
        number: number.parse().ok()?,
        separator,
        text,
    })
}

/// The texts of names that are an enumeration, 0…n−1 or 1…n, each number once and set off in the same way.
///
/// Numbers that count something are part of the name: where the texts are the same without them, or differ by a
/// plural's ending only (`1 star`, `2 stars`), nothing is taken off.
fn enumerated(names: &[String]) -> Option<Vec<&str>> {
    let parts: Vec<Numbered<'_>> = names.iter().map(|name| numbered(name)).collect::<Option<_>>()?;
    let first = parts.first().filter(|_| parts.len() > 1)?;
    if parts.iter().any(|part| part.separator != first.separator) {
        return None;
    }
    let numbers: BTreeSet<u64> = parts.iter().map(|part| part.number).collect();
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
    let texts: BTreeSet<String> = parts.iter().map(|part| singular(part.text)).collect();
    (is_run && texts.len() == parts.len()).then(|| parts.iter().map(|part| part.text).collect())
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

/// Takes classes out by name, with their images.
///
/// # Errors
/// When there is no class of such a name.
pub(super) fn leave_out(listing: &mut Listing, classes: &[String]) -> Result<(), String> {
    if let Some(unknown) = classes.iter().find(|name| !listing.classes.contains(name)) {
        return Err(format!("`skip_classes` names `{unknown}`, which is no class"));
    }
    keep(listing, &|_, name| !classes.iter().any(|skipped| skipped == name));
    Ok(())
}

/// Takes out classes without an image to learn from or without one to test on, and says which: files from elsewhere
/// name classes that they do not use.
pub(super) fn prune(listing: &mut Listing) -> Vec<String> {
    let with_images =
        |side: &[crate::data::layout::Item]| side.iter().map(|item| item.class).collect::<BTreeSet<u32>>();
    let (pool, test) = (with_images(&listing.pool), with_images(&listing.test));
    let (mut unused, mut one_sided) = (Vec::new(), Vec::new());
    for (class, name) in (0..).zip(&listing.classes) {
        match (pool.contains(&class), test.contains(&class)) {
            (true, true) => {}
            (false, false) => unused.push(format!("`{name}`")),
            (true, false) => one_sided.push(format!("`{name}` (no test image)")),
            (false, true) => one_sided.push(format!("`{name}` (no training image)")),
        }
    }
    // Nothing but one side is a fault of another kind, which is told as such.
    if pool.is_empty() || test.is_empty() {
        return Vec::new();
    }
    keep(listing, &|class, _| pool.contains(&class) && test.contains(&class));
    let note = |names: Vec<String>, one: &str, many: &str| match names.len() {
        0 => None,
        1 => Some(format!("1 {one} is left out: {}", listed(&names))),
        count => Some(format!("{count} {many} are left out: {}", listed(&names))),
    };
    [
        note(unused, "class name that no image has", "class names that no image has"),
        note(one_sided, "class", "classes"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn listed(names: &[String]) -> String {
    const NAMED: usize = 20;
    let more = names.len().saturating_sub(NAMED);
    let text = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if more > 0 {
        format!("{text} and {more} more")
    } else {
        text
    }
}

fn keep(listing: &mut Listing, is_kept: &dyn Fn(u32, &str) -> bool) {
    let mut numbers = Vec::new();
    let mut kept = Vec::new();
    for (class, name) in (0..).zip(std::mem::take(&mut listing.classes)) {
        let is_kept = is_kept(class, &name);
        numbers.push(is_kept.then_some(kept.len() as u32));
        if is_kept {
            kept.push(name);
        }
    }
    listing.classes = kept;
    for side in [&mut listing.pool, &mut listing.val, &mut listing.test] {
        // A label out of range stays one.
        side.retain(|item| numbers.get(item.class as usize).is_none_or(Option::is_some));
        for item in side {
            item.class = numbers.get(item.class as usize).copied().flatten().unwrap_or(u32::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::layout::Item;

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
        let notes = prune(&mut listing);
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
        leave_out(&mut listing, &["ant".into(), "bee".into()]).unwrap();
        assert_eq!(listing.classes, ["cat", "dog"]);
        assert_eq!(classes(&listing.test), [("test/3.jpg", 1)]);
        assert!(leave_out(&mut listing, &["ant".into()]).unwrap_err().contains("`ant`"));
    }
}
