//! A folder: of class folders, of tables called `metadata`, or of parquet files; and the splits and labels that the
//! image-folder builder of Python's `datasets` makes of it, to say where it differs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::data::layout::folders::{ENDINGS, Entries, Tree};
use crate::data::layout::names::{Side, same_class, sides};
use crate::data::layout::table::read_table;
use crate::error::{Error, Result};
use crate::import::{Discovered, ImportOptions, images, parquet, refused, table};
use crate::manifest::Layout;

/// Names of tables that belong to a folder of images, as Python's `datasets` has them.
const METADATA: [&str; 3] = ["metadata.csv", "metadata.jsonl", "metadata.parquet"];
/// Folders below the one given that parquet files are looked for in.
const DEPTH: usize = 3;

pub(super) fn discover(directory: &Path, origin: &str, asked: &ImportOptions) -> Result<Discovered> {
    let mut notes = Vec::new();
    if let Some(found) = with_metadata(directory, origin, asked, &mut notes)? {
        return Ok(found);
    }
    let mut files = Vec::new();
    parquet_files(directory, DEPTH, &mut files);
    files.sort();
    let fail = |reason: String| {
        let remedy = match tables(directory) {
            Some(table) => format!("its labels may be in `{table}`: name that file"),
            None => {
                "arrange the images as `<class>/*`, or as `train/<class>/*` and `test/<class>/*`, or name a CSV or \
                     Parquet file with the columns `path` and `label`"
                    .into()
            }
        };
        refused(origin, reason, remedy)
    };
    let tree = Tree::read(directory, &fail);
    let has_images = tree.as_ref().is_ok_and(|tree| !tree.learned.is_empty());
    if !has_images && !files.is_empty() {
        return parquet::discover(&files, origin, asked);
    }
    let tree = tree?;
    notes.extend(tree.notes.iter().cloned());
    notes.extend(differs(directory, &tree));
    Ok(Discovered {
        layout: Layout::Folders,
        directory: directory.into(),
        labels: tree.classes,
        learned: tree.learned,
        test: tree.test,
        ignored: tree.ignored,
        left_out: tree.left_out,
        notes,
        ..Discovered::default()
    })
}

/// Tables called `metadata` in the folder, or in the folders of its sides, if they have a column of class names.
fn with_metadata(
    directory: &Path,
    origin: &str,
    asked: &ImportOptions,
    notes: &mut Vec<String>,
) -> Result<Option<Discovered>> {
    let of_folder = |folder: &Path| {
        let mut tables = METADATA.iter().map(|name| folder.join(name));
        tables.find(|path| path.is_file())
    };
    let form = asked.table_form();
    let mut root = directory.to_path_buf();
    for _ in 0..DEPTH {
        if let Some(path) = of_folder(&root) {
            return match read_table(&path, &form) {
                Ok(_) => table::discover(&[(path, None)], &root, origin, asked).map(Some),
                Err(error) => without(&path, &error, &root, notes),
            };
        }
        let entries = Entries::of(&root)?;
        let is_side = |name: &str| of_folder(&root.join(name)).is_some();
        let found = sides(&entries.folders, &is_side).unwrap_or_default();
        let mut tables: Vec<(PathBuf, Option<Side>)> = Vec::new();
        for (part, name) in &found {
            let Some(path) = of_folder(&root.join(name)) else {
                continue;
            };
            match read_table(&path, &form) {
                Ok(_) if tables.iter().all(|(_, other)| *other != Some(*part)) => tables.push((path, Some(*part))),
                Ok(_) => notes.push(format!("`{name}` is left out: another folder is that side")),
                Err(error) if *part == Side::Train => return without(&path, &error, &root, notes),
                Err(error) => notes.push(format!("`{name}` is unlabelled and left out: {error}")),
            }
        }
        if !tables.is_empty() {
            let mut found = table::discover(&tables, &root, origin, asked)?;
            found.notes.append(notes);
            return Ok(Some(found));
        }
        match entries.folders.as_slice() {
            [only] => root.push(only),
            _ => break,
        }
    }
    Ok(None)
}

/// A table without labels is one of captions or the like: the folders say the classes, if there are any.
fn without(path: &Path, error: &Error, root: &Path, notes: &mut Vec<String>) -> Result<Option<Discovered>> {
    let name = path.strip_prefix(root).unwrap_or(path).display();
    let reason = match error {
        Error::Labels { reason, .. } => reason.clone(),
        other => other.to_string(),
    };
    notes.push(format!("`{name}` is not used: {reason}"));
    Ok(None)
}

/// A table in the folder, that of training images first.
fn tables(directory: &Path) -> Option<String> {
    let mut files = Entries::of(directory).ok()?.files;
    files.retain(|name| [".csv", ".tsv", ".jsonl"].iter().any(|ending| name.ends_with(ending)));
    let train = files.iter().find(|name| name.starts_with("train")).cloned();
    train.or_else(|| files.into_iter().next())
}

fn parquet_files(folder: &Path, deeper: usize, found: &mut Vec<PathBuf>) {
    let Ok(entries) = Entries::of(folder) else { return };
    let is_parquet = |name: &&String| name.ends_with(".parquet") && !METADATA.contains(&name.as_str());
    found.extend(entries.files.iter().filter(is_parquet).map(|name| folder.join(name)));
    if deeper > 0 {
        for name in &entries.folders {
            parquet_files(&folder.join(name), deeper - 1, found);
        }
    }
}

/// Keywords of the splits, as `datasets` lists them.
const KEYWORDS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];
/// Folders below the one given that images are looked for in.
const IMAGE_DEPTH: usize = 12;

/// The reading of a folder by `datasets`: the splits of each image, and whether there are labels.
#[derive(Debug, Default, PartialEq, Eq)]
struct Peer {
    /// By path; an image may be in none, and in several.
    splits: BTreeMap<String, BTreeSet<&'static str>>,
    has_labels: bool,
    /// Splits whose labels are null.
    without: Vec<&'static str>,
}

/// True if a name is a keyword or has one that is set off.
fn has_keyword(name: &str, keyword: &str) -> bool {
    let is_edge = |c: Option<char>| c.is_none_or(|c| matches!(c, '-' | '.' | '_' | ' ') || c.is_ascii_digit());
    name.match_indices(keyword).any(|(at, _)| {
        let before = name.get(..at).and_then(|text| text.chars().next_back());
        let after = name.get(at + keyword.len()..).and_then(|text| text.chars().next());
        is_edge(before) && is_edge(after)
    })
}

/// A file's name counts if the keyword has something behind it: at least the ending.
fn splits_of(names: &[&str]) -> BTreeSet<&'static str> {
    let is_there = |keywords: &&[&str]| {
        keywords
            .iter()
            .any(|keyword| names.iter().any(|name| has_keyword(name, keyword)))
    };
    KEYWORDS
        .iter()
        .filter(|(_, keywords)| is_there(keywords))
        .map(|(split, _)| *split)
        .collect()
}

impl Peer {
    /// `files`: paths of all files, without hidden ones.
    fn of(files: &[String]) -> Self {
        fn parts(file: &str) -> (Vec<&str>, &str) {
            let mut parts: Vec<&str> = file.split('/').collect();
            let name = parts.pop().unwrap_or_default();
            (parts, name)
        }
        let by_folder = |file: &str| splits_of(&parts(file).0);
        let by_name = |file: &str| splits_of(&[parts(file).1]);
        let (folders, names) = (
            files.iter().any(|file| !by_folder(file).is_empty()),
            files.iter().any(|file| !by_name(file).is_empty()),
        );
        let is_image = |file: &str| {
            let ending = file.rsplit_once('.').map(|(_, ending)| ending.to_lowercase());
            ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
        };
        let mut peer = Self::default();
        for file in files.iter().filter(|file| is_image(file)) {
            let splits = match (folders, names) {
                (true, _) => by_folder(file),
                (_, true) => by_name(file),
                _ => BTreeSet::from(["train"]),
            };
            peer.splits.insert(file.clone(), splits);
        }
        let (mut labels, mut depths) = (BTreeSet::new(), BTreeSet::new());
        for (split, _) in KEYWORDS {
            let of_split = peer.splits.iter().filter(|(_, splits)| splits.contains(split));
            let of_split: Vec<&String> = of_split.map(|(file, _)| file).collect();
            for file in &of_split {
                let (folders, _) = parts(file);
                depths.insert(folders.len());
                labels.insert(folders.last().copied().unwrap_or_default().to_owned());
            }
            if !of_split.is_empty() {
                peer.has_labels = labels.len() > 1 && depths.len() == 1;
                if !peer.has_labels {
                    peer.without.push(split);
                }
            }
        }
        if !peer.has_labels {
            peer.without.clear();
        }
        peer
    }
}

/// One line about what `datasets` would make of this folder, if that is something else.
fn differs(folder: &Path, tree: &Tree) -> Option<String> {
    let mut files = Vec::new();
    collect(folder, "", IMAGE_DEPTH, &mut files);
    let difference = difference(&Peer::of(&files), tree)?;
    Some(format!(
        "`load_dataset(\"imagefolder\")` of `datasets` 5.2 reads this folder otherwise: {difference}"
    ))
}

fn difference(peer: &Peer, tree: &Tree) -> Option<String> {
    let test: BTreeMap<&str, bool> = tree
        .learned
        .iter()
        .map(|item| (item, false))
        .chain(tree.test.iter().flatten().map(|item| (item, true)))
        .map(|(item, is_test)| (item.file.as_deref().unwrap_or(&item.id), is_test))
        .collect();
    let (mut other, mut none, mut several) = (Vec::new(), Vec::new(), Vec::new());
    for (file, is_test) in &test {
        let Some(splits) = peer.splits.get(*file) else { continue };
        let sides: BTreeSet<bool> = splits.iter().map(|split| *split == "test").collect();
        if splits.is_empty() {
            none.push(*file);
        } else if sides.len() > 1 {
            several.push(*file);
        } else if !sides.contains(is_test) {
            other.push(*file);
        }
    }
    let mut said = Vec::new();
    if let Some(first) = other.first() {
        let there = peer.splits.get(*first).into_iter().flatten().copied();
        let there = there.collect::<Vec<_>>().join(" and ");
        let count = images(other.len());
        said.push(format!("{count} in another split (`{first}` is in `{there}`)"));
    }
    if let Some(first) = several.first() {
        said.push(format!("{} in two splits at once (`{first}`)", images(several.len())));
    }
    if let Some(first) = none.first() {
        said.push(format!("{} in no split (`{first}`)", images(none.len())));
    }
    if peer.has_labels {
        for split in &peer.without {
            said.push(format!("null for every label of `{split}`"));
        }
        let label = |file: &str| file.rsplit('/').nth(1).unwrap_or_default().to_owned();
        let labels: BTreeSet<String> = peer
            .splits
            .iter()
            .filter(|(_, splits)| !splits.is_empty())
            .map(|(file, _)| label(file))
            .collect();
        if let Some(odd) = labels.iter().find(|label| !tree.classes.contains(label)) {
            said.push(match same_class(&tree.classes, odd) {
                Some(same) => format!("`{odd}` and `{same}` are two labels"),
                None => format!("`{odd}` is a label"),
            });
        }
    } else {
        said.push("no labels at all".into());
    }
    (!said.is_empty()).then(|| said.join("; "))
}

fn collect(folder: &Path, below: &str, deeper: usize, files: &mut Vec<String>) {
    let Ok(entries) = Entries::of(folder) else { return };
    files.extend(entries.files.into_iter().map(|name| format!("{below}{name}")));
    if deeper > 0 {
        // Folders whose names begin with two underscores are not looked into.
        for name in entries.folders.iter().filter(|name| !name.starts_with("__")) {
            collect(&folder.join(name), &format!("{below}{name}/"), deeper - 1, files);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// The reading of folders by `datasets` 5.2.0 itself; tests/fixtures/import/make.py asks it.
    const READ: &str = include_str!("../../tests/fixtures/import/datasets.json");

    #[test]
    fn splits_and_labels_are_those_of_datasets() {
        let read: Value = serde_json::from_str(READ).unwrap();
        assert_eq!(read["datasets"], "5.2.0");
        let mut compared = 0;
        for tree in read["trees"].as_array().unwrap() {
            if !tree["texts"].as_object().unwrap().is_empty() {
                continue;
            }
            let of_files = tree["files"].as_object().unwrap();
            let files: Vec<String> = of_files.keys().cloned().collect();
            let peer = Peer::of(&files);
            assert_eq!(peer.has_labels, tree["labelled"], "{files:?}");
            for (file, rows) in of_files {
                let rows: BTreeSet<(&str, Option<&str>)> = rows
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|row| (row[0].as_str().unwrap(), row[1].as_str()))
                    .collect();
                let folder = file.rsplit('/').nth(1).unwrap();
                let label = |split: &str| (peer.has_labels && !peer.without.contains(&split)).then_some(folder);
                let found: BTreeSet<_> = peer.splits[file].iter().map(|split| (*split, label(split))).collect();
                assert_eq!(found, rows, "{file} of {files:?}");
            }
            compared += 1;
        }
        assert!(compared > 15, "{compared}");
    }

    #[test]
    fn keywords_are_set_off() {
        for (name, keyword, expected) in [
            ("test_tubes", "test", true),
            ("x2test", "test", true),
            ("latest", "test", false),
            ("test", "test", true),
            ("contest test", "test", true),
            ("Test", "test", false),
        ] {
            assert_eq!(has_keyword(name, keyword), expected, "{name}");
        }
    }
}
