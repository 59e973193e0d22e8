//! Class names that a user gives, and those that follow from folders and labels.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::data::layout::names::{cleaned, composed};
use crate::error::{Error, Result};

/// Bytes of a file of names.
const MAX_BYTES: u64 = 16 << 20;

/// Names by label, from a file with a line for each label from 0, or a JSON list, or a JSON object by label.
///
/// # Errors
/// [`Error::Labels`] when it is none of these; [`Error::Io`].
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, String>> {
    let size = std::fs::metadata(path).map_err(Error::io("read", path))?.len();
    let wrong = |reason: String| Error::Labels {
        path: path.into(),
        reason,
    };
    if size > MAX_BYTES {
        return Err(wrong(format!("more than {MAX_BYTES} bytes: no list of class names")));
    }
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let numbered = |names: Vec<String>| (0..).map(|i: usize| i.to_string()).zip(names).collect();
    if !text.trim_start().starts_with(['[', '{']) {
        let lines = text.trim_end().lines().map(|line| line.trim().to_owned());
        return Ok(numbered(lines.collect()));
    }
    let no_text = || wrong("a class name in it is no text".into());
    match serde_json::from_str(text).map_err(|e| wrong(format!("no JSON: {e}")))? {
        Value::Array(names) => {
            let names = names.iter().map(|name| name.as_str().map(str::to_owned));
            names.collect::<Option<Vec<_>>>().map(numbered).ok_or_else(no_text)
        }
        Value::Object(names) => {
            let name = |(label, name): (String, Value)| Some((label, name.as_str()?.to_owned()));
            names.into_iter().map(name).collect::<Option<_>>().ok_or_else(no_text)
        }
        _ => Err(no_text()),
    }
}

/// Class names by label where they differ from it, and whether all labels are numbers.
///
/// `complete`: the labels are all that there are; otherwise more may turn up, which the given names cover.
///
/// # Errors
/// The label that has no name among those given, or the two whose names become one.
pub(super) fn renamed(
    labels: &[String],
    given: Option<&BTreeMap<String, String>>,
    complete: bool,
) -> Result<(BTreeMap<String, String>, bool), String> {
    let are_numbers = !labels.is_empty() && labels.iter().all(|label| label.parse::<i64>().is_ok());
    let Some(given) = given else {
        return Ok((cleaned(labels)?, are_numbers));
    };
    if let Some(label) = labels.iter().find(|label| !given.contains_key(*label)) {
        return Err(format!("`--names` has no name for the label `{label}`"));
    }
    let labels: Vec<&String> = if complete {
        labels.iter().collect()
    } else {
        given.keys().collect()
    };
    let names: Vec<String> = labels
        .iter()
        .filter_map(|label| given.get(*label))
        .map(|name| composed(name))
        .collect();
    let tidied = cleaned(&names)?;
    let named = labels.into_iter().zip(names);
    let named = named.map(|(label, name)| (label.clone(), tidied.get(&name).cloned().unwrap_or(name)));
    Ok((named.filter(|(label, name)| label != name).collect(), false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(text: &str) -> Result<BTreeMap<String, String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("names");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn names_come_in_lines_lists_and_objects() {
        let expected = BTreeMap::from([("0", "cat"), ("1", "guinea pig")].map(|(a, b)| (a.to_owned(), b.to_owned())));
        for text in [
            "cat\r\nguinea pig\n",
            "[\"cat\", \"guinea pig\"]",
            "{\"1\": \"guinea pig\", \"0\": \"cat\"}",
        ] {
            assert_eq!(given(text).unwrap(), expected, "{text}");
        }
        assert!(given("[1]").is_err() && given("{").is_err());
    }

    #[test]
    fn every_label_needs_its_name() {
        let labels: Vec<String> = ["0", "1"].map(str::to_owned).to_vec();
        let two = given("cat\nguinea_pig\n").unwrap();
        let (renamed_two, is_numbered) = renamed(&labels, Some(&two), true).unwrap();
        assert_eq!(renamed_two.into_values().collect::<Vec<_>>(), ["cat", "guinea pig"]);
        assert!(!is_numbered);
        let error = renamed(&labels, Some(&given("cat\n").unwrap()), true).unwrap_err();
        assert_eq!(error, "`--names` has no name for the label `1`");
        let error = renamed(&labels, Some(&given("cat\nCat\n").unwrap()), true).unwrap_err();
        assert_eq!(error, "`cat` and `Cat` are both the class `Cat`");
        assert_eq!(renamed(&labels, None, true).unwrap(), (BTreeMap::new(), true));
    }
}
