//! Parquet files of one's own with the images in them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{Asked, Found};
use crate::data::import::columns::{Candidates, of_file};
use crate::data::layout::sides::Part;
use crate::error::{Error, Result};
use crate::fetch::shards::{number_of_shards, split_of};
use crate::fs::hash::hash;
use crate::manifest::{Layout, OwnParquet, OwnShard};

/// Name of the split of files whose names say none.
const ALL: &str = "all";

/// True if a file has a column of images.
pub(super) fn has_images(path: &Path) -> Result<bool> {
    Ok(!of_file(path)?.images.is_empty())
}

/// `files`: in the order of their rows.
pub(super) fn look(files: &[PathBuf], origin: &str, asked: &Asked) -> Result<Found> {
    let fail = |reason: String, remedy: &str| Error::Import {
        origin: origin.into(),
        reason,
        remedy: remedy.into(),
    };
    let described: Vec<Candidates> = files.par_iter().map(|path| of_file(path)).collect::<Result<_>>()?;
    // A file of the split to learn from says what there is: the test may have no labels.
    let is_learned = |path: &PathBuf| Part::of_word(&split_name(path)) == Some(Part::Train);
    let at = files.iter().position(is_learned).unwrap_or(0);
    let (Some(first), Some(first_path)) = (described.get(at), files.get(at)) else {
        return Err(fail("it holds no parquet files".into(), "name another folder"));
    };
    let (image, label) = choose(first, asked).map_err(|(reason, remedy)| fail(reason, &remedy))?;
    let mut notes = taken(first, &image, &label);
    let mut splits: BTreeMap<String, (u64, bool)> = BTreeMap::new();
    let mut shards = Vec::new();
    for (path, found) in files.iter().zip(&described) {
        let split = split_name(path);
        let (rows, unlabelled) = splits.entry(split.clone()).or_insert((0, true));
        *rows += found.rows;
        *unlabelled &= found.is_unlabelled(&label);
        shards.push(OwnShard {
            split,
            size: std::fs::metadata(path).map_err(Error::io("read", path))?.len(),
            sha256: hash(path, "sha256")?,
            path: path.clone(),
        });
        if !found.is_unlabelled(&label) && found.names.get(&label) != first.names.get(&label) {
            let names = [first_path, path].map(|path| path.display().to_string());
            return Err(fail(
                format!("`{}` and `{}` name their classes differently", names[0], names[1]),
                "import them one by one, or write them with the same features",
            ));
        }
    }
    if let ([only], Some(path)) = (shards.as_slice(), files.first())
        && let Some(parts) = path.to_str().and_then(number_of_shards).filter(|parts| *parts > 1)
    {
        notes.push(format!(
            "`{}` is one of {parts} files: name the folder to take them all",
            only.path.file_name().unwrap_or_default().display()
        ));
    }
    let sides = sides(&splits, &mut notes).map_err(|reason| {
        fail(
            reason,
            "name the files by their splits, as `train-00000-of-00001.parquet`",
        )
    })?;
    let [train, val, test] = sides;
    let taken = |split: &String| [&train, &val, &test].iter().any(|side| side.contains(split));
    shards.retain(|shard| taken(&shard.split));
    let rows = splits
        .iter()
        .filter(|(split, _)| taken(split))
        .map(|(_, (rows, _))| rows)
        .sum();
    let labels = first.names.get(&label).cloned().unwrap_or_default();
    Ok(Found {
        layout: Some(Layout::Parquet),
        origin: origin.into(),
        rows,
        numbered: first.numbers.contains(&label),
        labels,
        parquet: Some(OwnParquet {
            image,
            label,
            train,
            val,
            test,
            shards,
        }),
        notes,
        ..Found::default()
    })
}

/// The columns of images and of labels, or what is wrong and what to do.
pub(super) fn choose(found: &Candidates, asked: &Asked) -> Result<(String, String), (String, String)> {
    let named = |columns: &[String]| {
        columns
            .iter()
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let image = found
        .image(asked.path_column.as_deref())
        .cloned()
        .ok_or_else(|| match found.images.as_slice() {
            [] => (
                "it has no column of images".to_owned(),
                "only parquet files with images and class names are read".to_owned(),
            ),
            images => (
                format!("it has several columns of images: {}", named(images)),
                "`--path-column` says which".to_owned(),
            ),
        })?;
    let label = found.label(asked.label_column.as_deref()).cloned().ok_or_else(|| {
        let labels: Vec<String> = found.labels().cloned().collect();
        match labels.len() {
            0 => (
                "it has no column of class names, or of integers".to_owned(),
                "only parquet files with images and class names are read".to_owned(),
            ),
            _ => (
                format!("which column holds the class names? it has {}", named(&labels)),
                "`--label-column` says which".to_owned(),
            ),
        }
    })?;
    match found.unread.iter().find(|unread| [&image, &label].contains(unread)) {
        Some(unread) => Err((
            format!("its column `{unread}` is compressed by LZO, which is not read"),
            "write it with another codec, e.g. zstd: `pyarrow.parquet.write_table(table, path, compression=\"zstd\")`"
                .to_owned(),
        )),
        None => Ok((image, label)),
    }
}

/// Says which columns were taken, and which not.
pub(super) fn taken(found: &Candidates, image: &str, label: &str) -> Vec<String> {
    let others = |columns: &[String], taken: &str| -> String {
        let others: Vec<String> = columns
            .iter()
            .filter(|name| *name != taken)
            .map(|name| format!("`{name}`"))
            .collect();
        others.join(", ")
    };
    let mut notes = vec![format!("columns: images `{image}`, class names `{label}`")];
    let labels = others(&found.named, label);
    if !labels.is_empty() {
        notes.push(format!(
            "not taken, other columns of class names: {labels} (`--label-column`)"
        ));
    }
    let images = others(&found.images, image);
    if !images.is_empty() {
        notes.push(format!(
            "not taken, other columns of images: {images} (`--path-column`)"
        ));
    }
    notes
}

/// The split that a file's name or its folder says.
fn split_name(path: &Path) -> String {
    let split = path.to_str().and_then(split_of).unwrap_or(ALL);
    // A name without a number is the name of a split only if it is one of the usual ones.
    let name = Path::new(split)
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or(ALL);
    let is_numbered = path.to_str().and_then(number_of_shards).is_some();
    if Part::of_word(name).is_some() || is_numbered {
        name.to_owned()
    } else {
        ALL.to_owned()
    }
}

/// Splits to learn from, of validation and of test.
///
/// # Errors
/// When none of several is one to learn from.
fn sides(splits: &BTreeMap<String, (u64, bool)>, notes: &mut Vec<String>) -> Result<[Vec<String>; 3], String> {
    let [mut train, mut val, mut test] = [const { Vec::<String>::new() }; 3];
    let mut others = Vec::new();
    for (split, (rows, unlabelled)) in splits {
        let part = Part::of_word(split);
        if *unlabelled {
            notes.push(format!(
                "the {rows} rows of `{split}` have no labels: left out{}",
                if part == Some(Part::Test) {
                    ", and a share of the others is kept for the test"
                } else {
                    ""
                }
            ));
            continue;
        }
        match part {
            Some(Part::Train) => train.push(split.clone()),
            Some(Part::Validation) => val.push(split.clone()),
            Some(Part::Test) => test.push(split.clone()),
            None => others.push(split.clone()),
        }
    }
    if train.is_empty() && val.is_empty() && test.is_empty() && others.len() == 1 {
        std::mem::swap(&mut train, &mut others);
    }
    if train.is_empty() && test.is_empty() && val.len() == 1 {
        std::mem::swap(&mut train, &mut val);
    }
    if train.is_empty() && val.is_empty() && test.len() == 1 {
        std::mem::swap(&mut train, &mut test);
    }
    if !others.is_empty() && !train.is_empty() {
        notes.push(format!("not taken, other splits: {}", others.join(", ")));
    }
    if train.is_empty() {
        let names: Vec<&str> = splits.keys().map(String::as_str).collect();
        return Err(format!("it has no labelled split `train`, only: {}", names.join(", ")));
    }
    Ok([train, val, test])
}
