//! A table of a user's own images: CSV or Parquet with the columns `path`, `label` and perhaps `split`; paths are
//! relative to the table.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::{Item, Listing, Unpacked, holdout, wrong};
use crate::data::archive::plain_parts;
use crate::data::parquet::texts;
use crate::error::{Error, Result};

/// Bytes of a table: a row of 100 bytes for each of two million images.
const MAX_BYTES: u64 = 256 << 20;

/// One image of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Relative to the table, with `/`.
    pub path: String,
    /// Name of the class.
    pub label: String,
    /// Side, where the table gives one.
    pub split: Option<Side>,
}

/// What an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Shots may be drawn from it: `train`, `val` and their other spellings.
    Pool,
    /// Only ever predicted: `test`.
    Test,
}

/// Pool = rows of `train` and `val`, test = rows of `test`; without a column `split` the manifest's `holdout` is
/// taken of each class. Classes are the labels in byte order.
pub(crate) fn read(unpacked: &Unpacked) -> Result<Listing> {
    let manifest = unpacked.manifest;
    let (classes, items) = items(rows(&unpacked.required("table")?)?);
    let (pool, test) = match (items.iter().any(|(_, side)| side.is_some()), manifest.holdout) {
        (true, _) => {
            let (test, pool): (Vec<_>, Vec<_>) = items.into_iter().partition(|(_, side)| *side == Some(Side::Test));
            let only = |items: Vec<(Item, _)>| items.into_iter().map(|(item, _)| item).collect();
            (only(pool), only(test))
        }
        (false, Some(share)) => {
            let items = items.into_iter().map(|(item, _)| item).collect();
            holdout::split(items, share, &manifest.skip)
        }
        (false, None) => {
            let reason = "its table has no column `split`, and the manifest gives no `holdout` to split by";
            return Err(unpacked.fail(reason.into()));
        }
    };
    Ok(Listing {
        classes,
        pool,
        val: Vec::new(),
        test,
    })
}

/// Labels in byte order, and an item with its side for each row.
pub(crate) fn items(rows: Vec<Row>) -> (Vec<String>, Vec<(Item, Option<Side>)>) {
    let labels: BTreeMap<String, u32> = rows.iter().map(|row| (row.label.clone(), 0)).collect();
    let classes: Vec<String> = labels.into_keys().collect();
    let label = |row: &Row| classes.binary_search(&row.label).unwrap_or_default() as u32;
    let items = rows
        .iter()
        .map(|row| (Item::new(row.path.clone(), label(row)), row.split))
        .collect();
    (classes, items)
}

/// Reads a table.
///
/// # Errors
/// [`Error::Io`], or [`Error::Labels`] naming column or row when it is neither CSV nor Parquet, lacks a column, or
/// has a row without path or label, a path twice or one that leads out of the table's folder, or an unknown side.
pub fn rows(path: &Path) -> Result<Vec<Row>> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::io("read", path))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(wrong(path, format!("more than {MAX_BYTES} bytes: no table of images")));
    }
    let records = if bytes.starts_with(b"PAR1") {
        parquet_records(bytes)
    } else {
        csv_records(&bytes, path)
    };
    checked(records.map_err(|reason| wrong(path, reason))?).map_err(|reason| wrong(path, reason))
}

/// A row as it stands in the file: path, label and, where there is such a column, split.
type Record = (String, String, Option<String>);

fn csv_records(bytes: &[u8], path: &Path) -> Result<Vec<Record>, String> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let is_tabbed = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("tsv"));
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(if is_tabbed { b'\t' } else { b',' })
        .trim(csv::Trim::All)
        .from_reader(bytes);
    let header = reader.headers().map_err(|e| e.to_string())?.clone();
    let column = |name: &str| header.iter().position(|column| column.eq_ignore_ascii_case(name));
    let (Some(image), Some(label)) = (column("path"), column("label")) else {
        let found: String = header.iter().collect::<Vec<_>>().join(", ").chars().take(200).collect();
        return Err(format!(
            "needs the columns `path` and `label`, its first line is: {found}"
        ));
    };
    let split = column("split");
    let mut records = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| e.to_string())?;
        let cell = |at: usize| record.get(at).unwrap_or_default().to_owned();
        records.push((cell(image), cell(label), split.map(cell)));
    }
    Ok(records)
}

fn parquet_records(bytes: Vec<u8>) -> Result<Vec<Record>, String> {
    let columns = texts::read(bytes, &["path", "label", "split"])?;
    let [Some(paths), Some(labels), splits] = columns.as_slice() else {
        return Err("needs the columns `path` and `label`".into());
    };
    let cell = |text: &Option<String>| text.as_deref().unwrap_or_default().trim().to_owned();
    let records = paths.iter().zip(labels).enumerate();
    let split = |row: usize| splits.as_ref().and_then(|splits| splits.get(row)).map(cell);
    Ok(records
        .map(|(row, (path, label))| (cell(path), cell(label), split(row)))
        .collect())
}

fn checked(records: Vec<Record>) -> Result<Vec<Row>, String> {
    let mut first_seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut rows = Vec::with_capacity(records.len());
    let is_split = records
        .iter()
        .any(|(.., split)| split.as_ref().is_some_and(|side| !side.is_empty()));
    for (number, (path, label, split)) in (1..).zip(records) {
        let at = |what: &str| format!("row {number}: {what}");
        let parts = plain_parts(&path).map_err(|why| {
            at(&format!(
                "path `{path}` {why}; it has to be relative to the table, with `/`"
            ))
        })?;
        let path = parts.join("/");
        if path.is_empty() || label.is_empty() {
            return Err(at(if path.is_empty() { "no path" } else { "no label" }));
        }
        if let Some(before) = first_seen.insert(path.clone(), number) {
            return Err(at(&format!("`{path}` stands in row {before} already")));
        }
        let split = match split.filter(|_| is_split).map(|side| side.to_lowercase()).as_deref() {
            None => None,
            Some("train" | "training" | "val" | "valid" | "validation") => Some(Side::Pool),
            Some("test" | "testing") => Some(Side::Test),
            Some(other) => return Err(at(&format!("split `{other}` is none of train, val and test"))),
        };
        rows.push(Row { path, label, split });
    }
    if rows.is_empty() {
        return Err("no row below its header".into());
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Row>, String> {
        csv_records(text.as_bytes(), Path::new("t.csv")).and_then(checked)
    }

    #[test]
    fn columns_are_found_by_name() {
        let rows = read("\u{feff}id, Label ,PATH\n7,\"grey, fox\",./a//b.jpg\n8,cat,c.jpg\n").unwrap();
        assert_eq!(
            (rows[0].path.as_str(), rows[0].label.as_str(), rows[0].split),
            ("a/b.jpg", "grey, fox", None)
        );
        let rows = read("path,label,split\na,x,train\nb,x,Validation\nc,x,TEST\n").unwrap();
        let sides: Vec<_> = rows.iter().map(|row| row.split.unwrap()).collect();
        assert_eq!(sides, [Side::Pool, Side::Pool, Side::Test]);
        // A column that is empty throughout says nothing.
        assert_eq!(read("path,label,split\na,x,\n").unwrap()[0].split, None);
    }

    #[test]
    fn the_row_that_is_wrong_is_named() {
        let cases = [
            "file,class\na,b\n",
            "path,label\n",
            "path,label\na,\n",
            "path,label\n,x\n",
            "path,label\na,x\n./a,y\n",
            "path,label\n/data/a.jpg,x\n",
            "path,label\n../a.jpg,x\n",
            "path,label\nimages\\a.jpg,x\n",
            "path,label,split\na,x,train\nb,x,\n",
            "path,label,split\na,x,dev\n",
            "path,label\na,b,c\n",
        ];
        insta::assert_snapshot!(cases.map(|text| read(text).unwrap_err()).join("\n"), @r"
        needs the columns `path` and `label`, its first line is: file, class
        no row below its header
        row 1: no label
        row 1: no path
        row 2: `a` stands in row 1 already
        row 1: path `/data/a.jpg` has an absolute path; it has to be relative to the table, with `/`
        row 1: path `../a.jpg` leads out of its folder by `..`; it has to be relative to the table, with `/`
        row 1: path `images\a.jpg` has a name with a backslash, a zero byte or no valid UTF-8; it has to be relative to the table, with `/`
        row 2: split `` is none of train, val and test
        row 1: split `dev` is none of train, val and test
        CSV error: record 1 (line: 2, byte: 11): found record with 3 fields, but the previous record has 2 fields
        ");
    }
}
