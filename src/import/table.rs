//! Tables of paths and labels: where the images are, and what of the rows can be taken.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Discovered, ImportOptions, refused};
use crate::data::layout::Item;
use crate::data::layout::folders::Entries;
use crate::data::layout::names::{Side, listed};
use crate::data::layout::table::{Assembled, Table, assemble, file_of, id_of, read_table};
use crate::error::{Error, Result};
use crate::formats::quoted;
use crate::manifest::{Layout, TableForm};

/// Endings of images, for tables that name them without.
const ENDINGS: [&str; 8] = ["", ".jpg", ".jpeg", ".png", ".JPG", ".webp", ".bmp", ".gif"];
/// Folders beside a table in which its images are looked for.
const FOLDERS: usize = 200;
/// Rows by which a folder and an ending are told.
const SAMPLE: usize = 50;

/// `tables`: files, with the side of each that is for one. `root`: the folder given, or the table's own.
pub(super) fn discover(
    tables: &[(PathBuf, Option<Side>)],
    root: &Path,
    origin: &str,
    asked: &ImportOptions,
) -> Result<Discovered> {
    let fail = |reason: String, remedy: &str| refused(origin, reason, remedy);
    let in_table = |error: Error| match error {
        Error::Labels { reason, .. } => {
            let remedy = if reason.contains("iconv") {
                "save the table as UTF-8 and run the same command again"
            } else {
                "a table has a first line of column names, a column of paths and one of class names; `--path-column`, \
                 `--label-column` and `--split-column` say which"
            };
            fail(reason, remedy)
        }
        other => other,
    };
    let mut form = asked.table_form();
    let read: Vec<(PathBuf, Table)> = tables
        .iter()
        .map(|(path, _)| Ok((path.clone(), read_table(path, &form).map_err(in_table)?)))
        .collect::<Result<_>>()?;
    let mut notes = Vec::new();
    if let Some((_, table)) = read.first() {
        let columns = &table.columns;
        if [columns.path.as_str(), columns.label.as_str()] != ["path", "label"] || !columns.other_labels.is_empty() {
            let split = columns.split.iter().map(|column| format!(", splits `{column}`"));
            let split: String = split.collect();
            let others = match columns.other_labels.as_slice() {
                [] => String::new(),
                others => format!("; not taken: {} (`--label-column`)", quoted(others)),
            };
            notes.push(format!(
                "columns: paths `{}`, class names `{}`{split}{others}",
                columns.path, columns.label
            ));
        }
        form.path_column = Some(columns.path.clone());
        form.label_column = Some(columns.label.clone());
        form.split_column.clone_from(&columns.split);
    }
    if let Some((prefix, suffix)) = place(&read, &form).map_err(|reason| {
        fail(
            reason,
            "paths are relative to the table's own folder; move the table, or put the folder into its paths",
        )
    })? {
        notes.push(match prefix.as_str() {
            "" => format!("`{suffix}` is added to each path"),
            prefix => format!("images are looked for in `{prefix}`, with `{suffix}` behind each path"),
        });
        form.prefix = prefix;
        form.suffix = suffix;
    }
    let directory = directory(&read, &form, root);
    form.split_by_folder = read.iter().all(|(_, table)| table.columns.split.is_none())
        && tables.iter().all(|(_, side)| side.is_none())
        && are_split_by_folder(&read, &form, &directory);
    if form.split_by_folder {
        notes.push("the first folder of each path says its split".into());
    }
    let assembled = assemble(tables, &form, &directory).map_err(in_table)?;
    notes.extend(unlabelled(&assembled));
    let missing = missing(&assembled, &directory);
    let rows = assembled.pool.len() + assembled.test.as_ref().map_or(0, Vec::len);
    if missing.len() * 2 > rows {
        let names: Vec<&str> = missing.iter().map(|(id, _)| id.as_str()).collect();
        let (count, names) = (names.len(), listed(&names));
        return Err(fail(
            format!("{count} of its {rows} images are not there: {names}"),
            "paths are relative to the table's own folder, or absolute",
        ));
    }
    Ok(Discovered {
        layout: Layout::Table,
        tables: tables.to_vec(),
        labels: assembled.classes,
        learned: assembled.pool,
        test: assembled.test,
        left_out: assembled.left_out,
        missing,
        directory,
        form,
        notes,
        ..Discovered::default()
    })
}

fn unlabelled(assembled: &Assembled) -> Option<String> {
    let rows = |count: usize| match count {
        1 => "1 row has no label".to_owned(),
        count => format!("{count} rows have no label"),
    };
    match (assembled.unlabelled, &assembled.test) {
        ([0, 0], _) => None,
        ([_, test], None) if test > 0 => Some(format!(
            "in the test split {}: left out, and a share of the others is kept for the test",
            rows(test)
        )),
        ([pool, test], _) => Some(format!("{}: left out", rows(pool + test))),
    }
}

fn missing(assembled: &Assembled, directory: &Path) -> Vec<(String, String)> {
    let items = assembled.pool.iter().chain(assembled.test.iter().flatten());
    let reason = |item: &Item| {
        let path = directory.join(&item.id);
        match std::fs::metadata(&path) {
            Ok(found) if found.is_file() => None,
            Ok(_) => Some("it is no file".to_owned()),
            Err(_) if path.is_symlink() => Some("a link that leads nowhere".to_owned()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Some("there is no such file".to_owned()),
            Err(e) => Some(e.to_string()),
        }
    };
    items
        .filter_map(|item| Some((item.id.clone(), reason(item)?)))
        .collect()
}

/// Text to put in front of and behind each path, if most are no files as they are: Kaggle's tables have ids.
///
/// # Errors
/// When several places would do.
fn place(read: &[(PathBuf, Table)], form: &TableForm) -> Result<Option<(String, String)>, String> {
    let [(path, table)] = read else { return Ok(None) };
    let texts: Vec<&str> = paths(table).collect();
    let every = texts.len().div_ceil(SAMPLE).max(1);
    let sample: Vec<&str> = texts.into_iter().step_by(every).collect();
    let most_are_there = |form: &TableForm| {
        let there = sample.iter().filter(|text| file_of(text, path, form).is_file());
        there.count() * 2 > sample.len()
    };
    if most_are_there(form) {
        return Ok(None);
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let entries = Entries::of(folder).unwrap_or_default();
    let folders = entries.folders.iter().take(FOLDERS).map(|name| format!("{name}/"));
    let mut found = Vec::new();
    for prefix in std::iter::once(String::new()).chain(folders) {
        for suffix in ENDINGS {
            let placed = TableForm {
                prefix: prefix.clone(),
                suffix: suffix.into(),
                ..form.clone()
            };
            if most_are_there(&placed) {
                found.push((prefix.clone(), suffix.to_owned()));
            }
        }
    }
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        several => {
            let names = several.iter().map(|(prefix, suffix)| format!("{prefix}…{suffix}"));
            Err(format!("its images may be any of {}", quoted(names)))
        }
    }
}

/// The paths that a table has.
fn paths(table: &Table) -> impl Iterator<Item = &str> {
    let paths = table.rows.iter().map(|row| row.path.as_str());
    paths.filter(|text| !text.is_empty())
}

/// The folder that ids are relative to: the one given if it holds all images, else the one that all have in common.
fn directory(read: &[(PathBuf, Table)], form: &TableForm, root: &Path) -> PathBuf {
    let mut folders: BTreeSet<PathBuf> = BTreeSet::new();
    for (path, table) in read {
        // A path that leads to nothing has no say.
        let files = paths(table)
            .map(|text| file_of(text, path, form))
            .filter(|file| file.is_file());
        folders.extend(files.filter_map(|file| file.parent().map(Path::to_path_buf)));
    }
    if folders.iter().all(|folder| folder.starts_with(root)) {
        return root.into();
    }
    let mut common = folders.first().cloned().unwrap_or_else(|| root.into());
    for folder in &folders {
        while !folder.starts_with(&common) {
            common.pop();
        }
    }
    common
}

fn are_split_by_folder(read: &[(PathBuf, Table)], form: &TableForm, directory: &Path) -> bool {
    let mut seen = BTreeSet::new();
    for (path, table) in read {
        for text in paths(table) {
            let Ok(id) = id_of(text, path, form, directory) else {
                continue;
            };
            match id.split_once('/').and_then(|(first, _)| Side::of_word(first)) {
                Some(part) => drop(seen.insert(part)),
                None => return false,
            }
        }
    }
    seen.contains(&Side::Train) && seen.contains(&Side::Test)
}
