//! Class names as people write them, from the names of folders.

use std::collections::{BTreeMap, BTreeSet};

use tokenizers::NormalizedString;

/// How many leading characters are a number with what sets it off, as in `001.cat`, `01_cat`, `12-cat`, `3) cat`.
fn numbering(name: &str) -> Option<(&str, &str)> {
    let digits = name.find(|c: char| !c.is_ascii_digit()).filter(|end| *end > 0)?;
    let (number, rest) = name.split_at(digits);
    let text = rest.trim_start_matches(['.', '_', '-', ')', ' ']);
    (text.len() < rest.len() && text.starts_with(char::is_alphabetic)).then_some((number, text))
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

/// Names that a model can be asked to write, by the folder's name; only those that differ.
///
/// WordNet ids and numbering are taken off the front, the latter only where every folder has its own number
/// (`737-Max` beside `Concorde` keeps it); underscores become spaces, runs of white space one, Unicode is composed
/// (NFC).
///
/// # Errors
/// The two folders whose names become one but for upper and lower case, or the one that nothing is left of.
pub(super) fn cleaned(folders: &[String]) -> Result<BTreeMap<String, String>, String> {
    let numbers: BTreeSet<&str> = folders.iter().filter_map(|name| Some(numbering(name)?.0)).collect();
    let is_numbered = folders.len() > 1 && numbers.len() == folders.len();
    let (mut renamed, mut seen) = (BTreeMap::new(), BTreeMap::<String, &String>::new());
    for folder in folders {
        let text = match numbering(folder) {
            Some((_, text)) if is_numbered => text,
            _ => without_wordnet(folder),
        };
        let spaced = text.replace('_', " ");
        let mut composed = NormalizedString::from(spaced.split_whitespace().collect::<Vec<_>>().join(" "));
        composed.nfc();
        let name = composed.get().to_owned();
        if name.is_empty() {
            return Err(format!("nothing is left of the class name `{folder}`"));
        }
        if let Some(other) = seen.insert(name.to_lowercase(), folder) {
            return Err(format!("`{other}` and `{folder}` are both the class `{name}`"));
        }
        if name != *folder {
            renamed.insert(folder.clone(), name);
        }
    }
    Ok(renamed)
}

#[cfg(test)]
mod tests {
    use super::*;

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
                "02_House  Sparrow",
                "3-caf\u{65}\u{301} bird"
            ]),
            ["Black footed Albatross", "House Sparrow", "caf\u{e9} bird"]
        );
        assert_eq!(
            names(&["n02085620-Chihuahua", "n02099601_golden_retriever", "n02099712"]),
            ["Chihuahua", "golden retriever", "n02099712"]
        );
        assert_eq!(names(&["cat", "guinea_pig"]), ["cat", "guinea pig"]);
        assert!(cleaned(&["cat".into()]).unwrap().is_empty());
    }

    #[test]
    fn a_number_that_is_part_of_the_name_stays() {
        // Not all are numbered; two share a number; nothing but a number is left; a single folder.
        assert_eq!(names(&["737-Max", "Concorde"]), ["737-Max", "Concorde"]);
        assert_eq!(names(&["3-Series", "3-Wheeler"]), ["3-Series", "3-Wheeler"]);
        assert_eq!(names(&["737-200", "747-400"]), ["737-200", "747-400"]);
        assert_eq!(names(&["1-Euro"]), ["1-Euro"]);
        assert_eq!(names(&["2CV", "3CV"]), ["2CV", "3CV"]);
    }

    #[test]
    fn names_that_become_one_are_named_both() {
        assert_eq!(
            error(&["Grey_fox", "grey fox"]),
            "`Grey_fox` and `grey fox` are both the class `grey fox`"
        );
        assert_eq!(
            error(&["1.cat", "2.cat"]),
            "`1.cat` and `2.cat` are both the class `cat`"
        );
        assert_eq!(error(&["__", "cat"]), "nothing is left of the class name `__`");
    }
}
