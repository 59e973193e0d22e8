//! Tables of a user's own images: CSV, JSON lines or Parquet with a column of paths, one of labels and perhaps one of
//! splits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::sides::Side;
use super::{Item, Listing, Unpacked, names, wrong};
use crate::data::layout::sides;
use crate::error::Result;
use crate::formats::archive::plain_parts;
use crate::manifest::{Manifest, TableForm};

mod records;

pub(crate) use records::usual_label;
pub use records::{Columns, Table, read_table};

/// One image of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Number of the row, from 1.
    pub number: usize,
    /// The path as the table has it.
    pub path: String,
    /// Name of the class, its Unicode composed; `None` where there is none: an empty cell, null, or −1 among integers.
    pub label: Option<String>,
    /// The side that the table gives.
    pub split: Option<Side>,
}

/// Images with their labels, put together from one table or one for each side.
#[derive(Debug, Default)]
pub(crate) struct Assembled {
    /// Labels in byte order.
    pub classes: Vec<String>,
    /// To draw shots from.
    pub pool: Vec<Item>,
    /// Only ever predicted; `None` where no table and no column says a side, or none of its rows is labelled.
    pub test: Option<Vec<Item>>,
    /// Rows that cannot be taken, each with the reason.
    pub left_out: Vec<(String, String)>,
    /// Rows without a label: of the pool, of the test.
    pub unlabelled: [usize; 2],
}

/// Tables of a manifest: the file of each, with the side that its role says.
pub(crate) const ROLES: [(&str, Option<Side>); 4] = [
    ("table", None),
    ("train-table", Some(Side::Train)),
    ("validation-table", Some(Side::Validation)),
    ("test-table", Some(Side::Test)),
];

/// Pool = rows of `train` and `val`, test = rows of `test`; without labelled rows of `test` the manifest's `holdout` is
/// taken of each class. Classes are the labels in byte order.
pub(crate) fn read(unpacked: &Unpacked) -> Result<Listing> {
    let manifest = unpacked.manifest;
    let tables: Vec<(PathBuf, Option<Side>)> = ROLES
        .iter()
        .filter_map(|(role, part)| Some((unpacked.label_file(role)?, *part)))
        .collect();
    let form = manifest.table.clone().unwrap_or_default();
    let assembled = assemble(&tables, &form, unpacked.root)?;
    let (pool, test) = match (assembled.test, manifest.holdout) {
        (Some(test), _) => (assembled.pool, test),
        (None, Some(share)) => sides::split(assembled.pool, share, &manifest.skip),
        (None, None) => {
            let reason = "its table has no column `split`, and the manifest gives no `holdout` to split by";
            return Err(unpacked.fail(reason.into()));
        }
    };
    Ok(Listing {
        classes: assembled.classes,
        pool,
        val: Vec::new(),
        test,
    })
}

/// Paths of the images that a manifest's tables list, relative to its folder of images.
pub(crate) fn listed(manifest: &Manifest, directory: &Path) -> Result<Vec<String>> {
    let form = manifest.table.clone().unwrap_or_default();
    let mut files = Vec::new();
    for (role, _) in ROLES {
        let Some(file) = manifest.file(role) else { continue };
        let path = manifest.place(file);
        for row in read_table(&path, &form)?.rows {
            if let Ok(id) = id_of(&row.path, &path, &form, directory) {
                files.push(id);
            }
        }
    }
    Ok(files)
}

/// Puts tables together. `directory`: the folder that ids are relative to.
///
/// # Errors
/// [`Io`](crate::error::Error::Io), or [`Labels`](crate::error::Error::Labels) naming column or row when a table is none, lacks a column, or lists an image
/// twice with two labels or splits.
pub(crate) fn assemble(tables: &[(PathBuf, Option<Side>)], form: &TableForm, directory: &Path) -> Result<Assembled> {
    let mut found = Assembled::default();
    let mut placed: Vec<(Item, String, Side)> = Vec::new();
    let mut first_seen: BTreeMap<String, (String, usize)> = BTreeMap::new();
    let mut is_split = false;
    for (path, of_table) in tables {
        let table = read_table(path, form)?;
        let name = if tables.len() > 1 {
            let below = path.strip_prefix(directory).unwrap_or(path);
            format!("{}: ", below.display())
        } else {
            String::new()
        };
        for Row {
            number,
            path: text,
            label,
            split,
        } in table.rows
        {
            let at = |reason: String| wrong(path, format!("row {number}: {reason}"));
            let row = format!("{name}row {number}");
            if text.is_empty() {
                found.left_out.push((row, "no path".into()));
                continue;
            }
            let id = match id_of(&text, path, form, directory) {
                Ok(id) => id,
                Err(reason) => {
                    found.left_out.push((row, format!("path `{text}` {reason}")));
                    continue;
                }
            };
            let by_folder = || {
                id.split('/')
                    .next()
                    .filter(|_| form.split_by_folder)
                    .and_then(Side::of_word)
            };
            let side = of_table.or(split).or_else(by_folder);
            is_split |= side == Some(Side::Test);
            let side = side.unwrap_or(Side::Train);
            let Some(label) = label else {
                if let Some(count) = found.unlabelled.get_mut(usize::from(side == Side::Test)) {
                    *count += 1;
                }
                found.left_out.push((row, "no label".into()));
                continue;
            };
            let says = format!("`{label}`{}", split.map_or("", |_| " and its split"));
            match first_seen.get(&id) {
                Some((before, first)) if *before == format!("{label}\n{side:?}") => {
                    found
                        .left_out
                        .push((row, format!("`{id}` stands in row {first} already")));
                    continue;
                }
                Some((_, first)) => {
                    return Err(at(format!(
                        "`{id}` stands in row {first} already, there not with {says}"
                    )));
                }
                None => first_seen.insert(id.clone(), (format!("{label}\n{side:?}"), number)),
            };
            placed.push((Item::new(id, 0), label, side));
        }
    }
    if placed.is_empty() {
        let path = tables.first().map(|(path, _)| path.as_path()).unwrap_or(directory);
        let why = found
            .left_out
            .first()
            .map(|(row, reason)| format!(" ({row}: {reason})"));
        return Err(wrong(
            path,
            format!("no row with an image and a label{}", why.unwrap_or_default()),
        ));
    }
    join(placed, is_split, found)
}

/// Classes of the labels; those of the test side are the same where they differ in spelling only.
fn join(placed: Vec<(Item, String, Side)>, is_split: bool, mut found: Assembled) -> Result<Assembled> {
    let labels_of = |is_test: bool| -> BTreeSet<&String> {
        let of_side = placed.iter().filter(|(.., side)| (*side == Side::Test) == is_test);
        of_side.map(|(_, label, _)| label).collect()
    };
    let learned: Vec<String> = labels_of(false).into_iter().cloned().collect();
    let mut classes: BTreeSet<&String> = learned.iter().collect();
    let mut stands_for: BTreeMap<&String, &String> = BTreeMap::new();
    for label in labels_of(true) {
        match names::same_class(&learned, label) {
            Some(same) => drop(stands_for.insert(label, same)),
            None => drop(classes.insert(label)),
        }
    }
    found.classes = classes.into_iter().cloned().collect();
    let mut test = Vec::new();
    let class_of = |label: &String| {
        let label = stands_for.get(label).copied().unwrap_or(label);
        found.classes.binary_search(label).unwrap_or_default() as u32
    };
    let items: Vec<(Item, Side)> = placed
        .iter()
        .map(|(item, label, side)| {
            let class = class_of(label);
            (Item { class, ..item.clone() }, *side)
        })
        .collect();
    for (item, side) in items {
        match side {
            Side::Test => test.push(item),
            _ => found.pool.push(item),
        }
    }
    found.test = (is_split && !test.is_empty()).then_some(test);
    Ok(found)
}

/// The id of a row's image: its path relative to the folder of images.
///
/// # Errors
/// Why there is none, as the end of a sentence about the path.
pub(crate) fn id_of(text: &str, table: &Path, form: &TableForm, directory: &Path) -> Result<String, String> {
    let file = file_of(text, table, form);
    let inside = file
        .strip_prefix(directory)
        .map_err(|_| format!("lies outside `{}`", directory.display()))?;
    let id = inside.to_str().ok_or("has a name that is not UTF-8")?;
    let parts = plain_parts(id)?;
    if parts.is_empty() {
        return Err("names a folder".into());
    }
    Ok(parts.join("/"))
}

/// The place of a row's image: relative to the table unless absolute; backslashes part folders as on Windows. `.` and
/// `..` are resolved in the text alone.
pub(crate) fn file_of(text: &str, table: &Path, form: &TableForm) -> PathBuf {
    let text = text.replace('\\', "/");
    let named = format!("{}{text}{}", form.prefix, form.suffix);
    let path = if text.starts_with('/') {
        PathBuf::from(format!("{text}{}", form.suffix))
    } else {
        table.parent().unwrap_or(Path::new("")).join(named)
    };
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

/// Reads the rows of a table with columns of the usual names.
///
/// # Errors
/// As [`read_table`].
pub fn rows(path: &Path) -> Result<Vec<Row>> {
    Ok(read_table(path, &TableForm::default())?.rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put_together(text: &str) -> Result<Assembled, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.csv");
        std::fs::write(&path, text).unwrap();
        assemble(&[(path, None)], &TableForm::default(), folder.path())
            .map_err(|error| error.to_string().replace(folder.path().to_str().unwrap(), "[TMP]"))
    }

    fn ids(items: &[Item]) -> Vec<&str> {
        items.iter().map(|item| item.id.as_str()).collect()
    }

    #[test]
    fn paths_become_ids_inside_the_folder() {
        let found = put_together("path,label\n./a//b.jpg,x\nc\\d.jpg,y\ne/../f.jpg,x\n").unwrap();
        assert_eq!(ids(&found.pool), ["a/b.jpg", "c/d.jpg", "f.jpg"]);
        assert_eq!(found.classes, ["x", "y"]);
        assert!(found.test.is_none());
    }

    #[test]
    fn rows_that_cannot_be_taken_are_named_and_the_others_stay() {
        let found = put_together("path,label\na,x\n,x\nb,\n../up.jpg,x\n/data/a.jpg,x\nc,x\n./a,x\na\0b,x\n").unwrap();
        assert_eq!(ids(&found.pool), ["a", "c"]);
        let left_out: Vec<String> = found
            .left_out
            .iter()
            .map(|(row, why)| format!("{row}: {why}"))
            .collect();
        assert_eq!(left_out[..2], ["row 2: no path", "row 3: no label"]);
        assert!(left_out[2].starts_with("row 4: path `../up.jpg` lies outside"));
        assert!(left_out[3].starts_with("row 5: path `/data/a.jpg` lies outside"));
        assert_eq!(left_out[4], "row 7: `a` stands in row 1 already");
        assert!(left_out[5].starts_with("row 8: path"), "{}", left_out[5]);
    }

    #[test]
    fn an_image_with_two_labels_is_refused() {
        let error = put_together("path,label\na,x\n./a,y\n").unwrap_err();
        assert_eq!(
            error,
            "label file `[TMP]/t.csv`: row 2: `a` stands in row 1 already, there not with `y`"
        );
        let error = put_together("path,label,split\na,x,train\na,x,test\n").unwrap_err();
        assert!(
            error.ends_with("row 2: `a` stands in row 1 already, there not with `x` and its split"),
            "{error}"
        );
        let error = put_together("path,label\na,\n").unwrap_err();
        assert!(
            error.ends_with("no row with an image and a label (row 1: no label)"),
            "{error}"
        );
    }

    #[test]
    fn spellings_are_joined_over_the_sides() {
        let found = put_together(
            "path,label,split\na,grey_fox,train\nb,Caf\u{e9},train\nc,Grey fox,test\nd,Cafe\u{301},test\n",
        );
        let found = found.unwrap();
        assert_eq!(found.classes, ["Caf\u{e9}", "grey_fox"]);
        let classes: Vec<u32> = found.test.unwrap().iter().map(|item| item.class).collect();
        assert_eq!(classes, [1, 0]);
    }

    #[test]
    fn an_unlabelled_test_side_is_no_test_side() {
        for text in [
            "path,label,split\na,x,train\nb,y,train\nc,,test\n",
            "path,label,split\na,0,train\nb,1,train\nc,-1,test\n",
        ] {
            let found = put_together(text).unwrap();
            assert_eq!(
                (found.test.is_none(), found.unlabelled, found.pool.len()),
                (true, [0, 1], 2)
            );
        }
    }
}
