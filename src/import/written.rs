//! The manifest that an import writes, with the class names that a user gives or folders and labels have.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use crate::data::layout::names::{cleaned, composed};
use crate::data::layout::wrong;
use crate::error::{Error, Result};
use crate::manifest::{Form, Layout, Manifest, OwnParquet, TableForm};

/// Names that the manifest leaves out, each with the reason.
pub(super) type Skipped = [(String, String)];

/// The text of a manifest. `unreadable`: ids of images, each with what the decoder said; `small_classes`: classes with too few
/// images.
pub(super) fn to_toml(manifest: &Manifest, unreadable: &Skipped, small_classes: &Skipped) -> String {
    let mut text = String::from("# Written by `kshot data import`; yours to edit.\n");
    let layout = match manifest.layout {
        Layout::Table => "table",
        Layout::Parquet => "parquet",
        _ => "folders",
    };
    line(&mut text, "name", &manifest.name);
    line(&mut text, "title", &manifest.title);
    line(&mut text, "layout", layout);
    line(&mut text, "licence", &manifest.licence);
    line(&mut text, "citation", &manifest.citation);
    if let Some(directory) = &manifest.directory {
        line(&mut text, "directory", &directory.to_string_lossy());
    }
    if let Some(share) = manifest.holdout {
        let _ = writeln!(
            text,
            "# Share of each class that is kept for the test.\nholdout = {share}"
        );
    }
    if manifest.prefer == Form::Hub {
        line(&mut text, "prefer", "hub");
    }
    for (key, what, skipped) in [
        ("skip", "Images that cannot be read.", unreadable),
        ("skip_classes", "Classes that have too few images.", small_classes),
    ] {
        if skipped.is_empty() {
            continue;
        }
        let _ = writeln!(text, "# {what}\n{key} = [");
        for (name, reason) in skipped {
            let reason: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            let _ = writeln!(text, "    {}, # {reason}", quoted(name));
        }
        text += "]\n";
    }
    if manifest.clean_names {
        text += "# Class names are spelled as `[rename]` spells those of folders.\nclean_names = true\n";
    }
    if !manifest.rename.is_empty() {
        text += "\n# Class names by the name of their folder or label.\n[rename]\n";
        for (from, to) in &manifest.rename {
            line(&mut text, &quoted(from), to);
        }
    }
    if let Some(form) = manifest.table.as_ref().filter(|form| **form != TableForm::default()) {
        add_form(&mut text, form);
    }
    for table in &manifest.files {
        text += "\n[[file]]\n";
        line(&mut text, "role", &table.role);
        line(&mut text, "name", &table.name);
        if let Some(path) = &table.path {
            line(&mut text, "path", &path.to_string_lossy());
        }
        add_size(&mut text, Some(table.size), table.sha256.as_deref());
    }
    if let Some(OwnParquet {
        image,
        label,
        train,
        val,
        test,
        shards,
    }) = &manifest.parquet
    {
        text += "\n[parquet]\n";
        add_columns(&mut text, [image, label], [train, val, test]);
        for shard in shards {
            text += "\n[[parquet.shard]]\n";
            line(&mut text, "path", &shard.path.to_string_lossy());
            line(&mut text, "split", &shard.split);
            add_size(&mut text, Some(shard.size), Some(&shard.sha256));
        }
    }
    if let Some(hub) = &manifest.hub {
        text += "\n[hub]\n";
        line(&mut text, "repo", &hub.repo);
        line(&mut text, "revision", &hub.revision);
        add_columns(&mut text, [&hub.image, &hub.label], [&hub.train, &hub.val, &hub.test]);
        for shard in &hub.shards {
            text += "\n[[hub.shard]]\n";
            line(&mut text, "path", &shard.path);
            add_size(&mut text, shard.size, shard.sha256.as_deref());
        }
    }
    text
}

/// A key with a text.
fn line(text: &mut String, key: &str, value: &str) {
    let _ = writeln!(text, "{key} = {}", quoted(value));
}

/// Size and hash of a file, as far as they are known.
fn add_size(text: &mut String, size: Option<u64>, sha256: Option<&str>) {
    if let Some(size) = size {
        let _ = writeln!(text, "size = {size}");
    }
    if let Some(hash) = sha256 {
        line(text, "sha256", hash);
    }
}

/// Columns of images and labels, and the splits of each side.
fn add_columns(text: &mut String, [image, label]: [&str; 2], sides: [&Vec<String>; 3]) {
    line(text, "image", image);
    line(text, "label", label);
    for (key, splits) in ["train", "val", "test"].into_iter().zip(sides) {
        let splits: Vec<String> = splits.iter().map(|split| quoted(split)).collect();
        let _ = writeln!(text, "{key} = [{}]", splits.join(", "));
    }
}

fn add_form(text: &mut String, form: &TableForm) {
    *text += "\n# Columns, and what stands around each path.\n[table]\n";
    for (key, value) in [
        ("path_column", form.path_column.as_deref()),
        ("label_column", form.label_column.as_deref()),
        ("split_column", form.split_column.as_deref()),
        ("prefix", Some(form.prefix.as_str()).filter(|text| !text.is_empty())),
        ("suffix", Some(form.suffix.as_str()).filter(|text| !text.is_empty())),
    ] {
        if let Some(value) = value {
            line(text, key, value);
        }
    }
    if form.split_by_folder {
        *text += "split_by_folder = true\n";
    }
}

/// A TOML basic string, which also serves as a quoted key.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", c as u32);
            }
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// Bytes of a file of names.
const MAX_BYTES: u64 = 16 << 20;

/// Names by label, from a file with a line for each label from 0, or a JSON list, or a JSON object by label.
///
/// # Errors
/// [`Error::Labels`] when it is none of these; [`Error::Io`].
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, String>> {
    let size = std::fs::metadata(path).map_err(Error::io("read", path))?.len();
    let wrong = |reason: String| wrong(path, reason);
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
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_comes_back(key: String, value: String) {
            let table: toml::Table = toml::from_str(&format!("{} = {}", quoted(&key), quoted(&value))).unwrap();
            prop_assert_eq!(table.get(&key).and_then(toml::Value::as_str), Some(value.as_str()));
        }
    }

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
