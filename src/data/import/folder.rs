//! A folder: of class folders, of tables called `metadata`, or of parquet files.

use std::path::{Path, PathBuf};

use super::{Asked, Found, parquet, peer, table};
use crate::data::layout::folders::{Entries, Tree};
use crate::data::layout::sides::{Part, sides};
use crate::data::layout::table::{ROLES, read_table};
use crate::error::{Error, Result};
use crate::manifest::Layout;
use crate::manifest::TableForm;

/// Names of tables that belong to a folder of images, as Python's `datasets` has them.
const METADATA: [&str; 3] = ["metadata.csv", "metadata.jsonl", "metadata.parquet"];
/// Folders below the one given that parquet files are looked for in.
const DEPTH: usize = 3;

pub(super) fn look(directory: &Path, origin: &str, asked: &Asked) -> Result<Found> {
    let mut notes = Vec::new();
    if let Some(found) = with_metadata(directory, origin, asked, &mut notes)? {
        return Ok(found);
    }
    let mut files = Vec::new();
    parquet_files(directory, DEPTH, &mut files);
    files.sort();
    let fail = |reason: String| Error::Import {
        origin: origin.into(),
        reason,
        remedy: match tables(directory) {
            Some(table) => format!("its labels may be in `{table}`: name that file"),
            None => {
                "arrange the images as `<class>/*`, or as `train/<class>/*` and `test/<class>/*`, or name a CSV or \
                     Parquet file with the columns `path` and `label`"
                    .into()
            }
        },
    };
    let tree = Tree::read(directory, &fail);
    let has_images = tree.as_ref().is_ok_and(|tree| !tree.learned.is_empty());
    if !has_images && !files.is_empty() {
        return parquet::look(&files, origin, asked);
    }
    let tree = tree?;
    notes.extend(tree.notes.iter().cloned());
    notes.extend(peer::differs(directory, &tree));
    Ok(Found {
        layout: Some(Layout::Folders),
        directory: directory.into(),
        origin: origin.into(),
        labels: tree.classes,
        learned: tree.learned,
        test: tree.test,
        ignored: tree.ignored,
        left_out: tree.left_out,
        notes,
        ..Found::default()
    })
}

/// Tables called `metadata` in the folder, or in the folders of its sides, if they have a column of class names.
fn with_metadata(directory: &Path, origin: &str, asked: &Asked, notes: &mut Vec<String>) -> Result<Option<Found>> {
    let of_folder = |folder: &Path| {
        METADATA
            .iter()
            .map(|name| folder.join(name))
            .find(|path| path.is_file())
    };
    let form = TableForm {
        path_column: asked.path_column.clone(),
        label_column: asked.label_column.clone(),
        split_column: asked.split_column.clone(),
        ..TableForm::default()
    };
    let mut root = directory.to_path_buf();
    for _ in 0..DEPTH {
        if let Some(path) = of_folder(&root) {
            return match read_table(&path, &form) {
                Ok(_) => table::look(&[("table", path)], &root, origin, asked).map(Some),
                Err(error) => without(&path, &error, &root, notes),
            };
        }
        let entries = Entries::of(&root)?;
        let is_side = |name: &str| of_folder(&root.join(name)).is_some();
        let found = sides(&entries.folders, &is_side).unwrap_or_default();
        let mut tables: Vec<(&'static str, PathBuf)> = Vec::new();
        for (part, name) in &found {
            let Some(path) = of_folder(&root.join(name)) else {
                continue;
            };
            let role = ROLES
                .iter()
                .find(|(_, of_role)| *of_role == Some(*part))
                .map_or("table", |(role, _)| role);
            match read_table(&path, &form) {
                Ok(_) if tables.iter().all(|(other, _)| *other != role) => tables.push((role, path)),
                Ok(_) => notes.push(format!("`{name}` is left out: another folder is that side")),
                Err(error) if *part == Part::Train => return without(&path, &error, &root, notes),
                Err(error) => notes.push(format!("`{name}` is unlabelled and left out: {error}")),
            }
        }
        if !tables.is_empty() {
            let mut found = table::look(&tables, &root, origin, asked)?;
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
fn without(path: &Path, error: &Error, root: &Path, notes: &mut Vec<String>) -> Result<Option<Found>> {
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
