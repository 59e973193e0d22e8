//! Tables of a user's own images: CSV, JSON lines or Parquet with a column of paths, one of labels and perhaps one of
//! splits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::names::{Side, composed, same_class};
use super::{Description, Item, Listing, Role, Unpacked, wrong};
use crate::error::Result;
use crate::formats::archive::plain_parts;
use crate::formats::{parquet, quoted};
use crate::fs::file;
use crate::manifest::{Manifest, TableForm};

pub(crate) const LAYOUT: Description = Description {
    roles: &[
        Role::labels("table").optional(),
        Role::labels("train-table").optional(),
        Role::labels("validation-table").optional(),
        Role::labels("test-table").optional(),
    ],
    ..Description::new(read)
};

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
fn read(unpacked: &Unpacked) -> Result<Listing> {
    let tables = ROLES
        .iter()
        .filter_map(|(role, part)| Some((unpacked.label_file(role)?, *part)));
    let tables: Vec<_> = tables.collect();
    let form = unpacked.manifest().table.clone().unwrap_or_default();
    let found = assemble(&tables, &form, unpacked.root)?;
    unpacked.with_test(found.classes, found.pool, found.test, "its table has no column `split`")
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
    let mut first_seen: BTreeMap<String, (String, Side, usize)> = BTreeMap::new();
    let mut is_split = false;
    for (path, of_table) in tables {
        let table = read_table(path, form)?;
        let below = path.strip_prefix(directory).unwrap_or(path).display();
        let name = match tables.len() {
            ..2 => String::new(),
            _ => format!("{below}: "),
        };
        for Row {
            number,
            path: text,
            label,
            split,
        } in table.rows
        {
            let mut leave_out = |reason: String| found.left_out.push((format!("{name}row {number}"), reason));
            if text.is_empty() {
                leave_out("no path".into());
                continue;
            }
            let id = match id_of(&text, path, form, directory) {
                Ok(id) => id,
                Err(reason) => {
                    leave_out(format!("path `{text}` {reason}"));
                    continue;
                }
            };
            let first = id.split('/').next().filter(|_| form.split_by_folder);
            let by_folder = || first.and_then(Side::of_word);
            let side = of_table.or(split).or_else(by_folder);
            is_split |= side == Some(Side::Test);
            let side = side.unwrap_or(Side::Train);
            let Some(label) = label else {
                if let Some(count) = found.unlabelled.get_mut(usize::from(side == Side::Test)) {
                    *count += 1;
                }
                leave_out("no label".into());
                continue;
            };
            let says = format!("`{label}`{}", split.map_or("", |_| " and its split"));
            if let Some((label_before, side_before, first)) = first_seen.get(&id) {
                let already = format!("`{id}` stands in row {first} already");
                if (label_before, side_before) == (&label, &side) {
                    leave_out(already);
                    continue;
                }
                return Err(wrong(path, format!("row {number}: {already}, there not with {says}")));
            }
            first_seen.insert(id.clone(), (label.clone(), side, number));
            placed.push((Item::new(id, 0), label, side));
        }
    }
    if placed.is_empty() {
        let path = tables.first().map(|(path, _)| path.as_path()).unwrap_or(directory);
        let first = found.left_out.first();
        let why = first
            .map(|(row, reason)| format!(" ({row}: {reason})"))
            .unwrap_or_default();
        return Err(wrong(path, format!("no row with an image and a label{why}")));
    }
    Ok(join(&placed, is_split, found))
}

/// Classes of the labels; those of the test side are the same where they differ in spelling only.
fn join(placed: &[(Item, String, Side)], is_split: bool, mut found: Assembled) -> Assembled {
    let labels_of = |is_test: bool| -> BTreeSet<&String> {
        let of_side = placed.iter().filter(|(.., side)| (*side == Side::Test) == is_test);
        of_side.map(|(_, label, _)| label).collect()
    };
    let learned: Vec<String> = labels_of(false).into_iter().cloned().collect();
    let mut classes: BTreeSet<&String> = learned.iter().collect();
    let mut stands_for: BTreeMap<&String, &String> = BTreeMap::new();
    for label in labels_of(true) {
        match same_class(&learned, label) {
            Some(same) => drop(stands_for.insert(label, same)),
            None => drop(classes.insert(label)),
        }
    }
    found.classes = classes.into_iter().cloned().collect();
    let class_of = |label: &String| {
        let label = stands_for.get(label).copied().unwrap_or(label);
        found.classes.binary_search(label).unwrap_or_default() as u32
    };
    let mut test = Vec::new();
    for (item, label, side) in placed {
        let class = class_of(label);
        let item = Item { class, ..item.clone() };
        match side {
            Side::Test => test.push(item),
            _ => found.pool.push(item),
        }
    }
    found.test = (is_split && !test.is_empty()).then_some(test);
    found
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

/// Bytes of a table: a row of 100 bytes for each of two million images.
const MAX_BYTES: u64 = 256 << 20;
/// Names of columns that hold paths of images, the surest first.
const PATHS: &str = "path file_path filepath file_name filename file fname image_path img_path image_file image_name img_name \
                     image img image_id img_id id";
/// Names of columns that hold class names, the surest first.
const LABELS: &str =
    "label class class_name classname label_name labels category category_name target species breed class_id";
/// Names of columns that hold splits.
const SPLITS: &str = "split subset partition set";
const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// True if a column of this name usually holds class names.
pub(crate) fn usual_label(name: &str) -> Option<usize> {
    LABELS.split(' ').position(|usual| usual.eq_ignore_ascii_case(name))
}

/// The columns that were taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Columns {
    /// Of paths.
    pub path: String,
    /// Of class names.
    pub label: String,
    /// Of splits.
    pub split: Option<String>,
    /// Others that usually hold class names.
    pub other_labels: Vec<String>,
}

/// The content of a table file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Which columns were taken.
    pub columns: Columns,
    /// Its rows in order.
    pub rows: Vec<Row>,
}

/// Texts by column: those of the header, and the cells of each row.
type Cells = (Vec<String>, Vec<Vec<String>>);

/// Reads a table.
///
/// # Errors
/// [`Io`](crate::error::Error::Io), or [`Labels`](crate::error::Error::Labels) naming column or row when it is no table, is not in UTF-8 or UTF-16, lacks a
/// column, or has an unknown split.
pub fn read_table(path: &Path, form: &TableForm) -> Result<Table> {
    let (bytes, _) = file::first_bytes(path, MAX_BYTES + 1)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(wrong(path, format!("more than {MAX_BYTES} bytes: no table of images")));
    }
    parsed(bytes, form).map_err(|reason| wrong(path, reason))
}

fn parsed(bytes: Vec<u8>, form: &TableForm) -> Result<Table, String> {
    if bytes.starts_with(b"PAR1") {
        let header = parquet::columns(bytes.clone())?;
        let columns = choose(&header, form)?;
        let wanted: Vec<&str> = [Some(&columns.path), Some(&columns.label), columns.split.as_ref()]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        let mut cells = parquet::texts(bytes, &wanted)?
            .into_iter()
            .map(Option::unwrap_or_default);
        let paths = cells.next().unwrap_or_default();
        let labels = cells.next().unwrap_or_default();
        let splits = columns.split.as_ref().map(|_| cells.next().unwrap_or_default());
        let text = |cell: Option<&Option<String>>| cell.cloned().flatten().unwrap_or_default();
        let records = (0..paths.len()).map(|row| {
            let split = splits.as_ref().map(|splits| text(splits.get(row)));
            (text(paths.get(row)), text(labels.get(row)), split)
        });
        return rows(records.collect(), columns);
    }
    let text = decoded(bytes)?;
    let is_json = text.trim_start().starts_with('{');
    let (header, cells) = if is_json {
        json_lines(&text)?
    } else {
        csv_cells(&text, form)?
    };
    let columns = choose(&header, form)?;
    let at = |name: &str| header.iter().position(|column| column == name).unwrap_or(usize::MAX);
    let (path, label, split) = (at(&columns.path), at(&columns.label), columns.split.as_deref().map(at));
    let cell = |row: &[String], at: usize| row.get(at).cloned().unwrap_or_default();
    let records = cells
        .iter()
        .map(|row| (cell(row, path), cell(row, label), split.map(|at| cell(row, at))))
        .collect();
    rows(records, columns)
}

/// Text in UTF-8 or UTF-16; every other encoding is named with what makes it UTF-8.
fn decoded(bytes: Vec<u8>) -> Result<String, String> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = bytes.as_chunks::<2>().0.iter().map(|pair| unit(*pair));
        char::decode_utf16(units)
            .collect::<Result<String, _>>()
            .map_err(|_| "its UTF-16 is damaged".to_owned())
    };
    match bytes.as_slice() {
        [0xff, 0xfe, rest @ ..] => return utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => return utf16(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => return decoded(rest.to_vec()),
        [a, 0, b, 0, ..] if a.is_ascii_graphic() && b.is_ascii_graphic() => return utf16(&bytes, u16::from_le_bytes),
        [0, a, 0, b, ..] if a.is_ascii_graphic() && b.is_ascii_graphic() => return utf16(&bytes, u16::from_be_bytes),
        _ => {}
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        let before = bytes.get(..at).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let byte = bytes.get(at).copied().unwrap_or_default();
        format!(
            "line {line} has the byte 0x{byte:02X}, which is not UTF-8: save the table as UTF-8; one that Excel wrote \
             becomes so with `iconv -f cp1252 -t utf-8`"
        )
    })
}

/// Cells by the delimiter with which the header has the columns that are needed, else the most columns.
fn csv_cells(text: &str, form: &TableForm) -> Result<Cells, String> {
    let reader = |delimiter: u8| {
        csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .trim(csv::Trim::All)
            .from_reader(text.as_bytes())
    };
    let header = |delimiter: u8| -> Result<Vec<String>, String> {
        let mut reader = reader(delimiter);
        let header = reader.headers().map_err(|e| e.to_string())?;
        Ok(header.iter().map(str::to_owned).collect())
    };
    let rank = |delimiter: &u8| {
        let header = header(*delimiter).ok()?;
        Some((choose(&header, form).is_ok(), header.len()))
    };
    // The first of the best.
    let delimiter = DELIMITERS.into_iter().rev().max_by_key(rank).unwrap_or(b',');
    let mut cells = Vec::new();
    for record in reader(delimiter).records() {
        let record = record.map_err(|e| e.to_string())?;
        cells.push(record.iter().map(str::to_owned).collect());
    }
    Ok((header(delimiter)?, cells))
}

/// One object a line; its keys are columns.
fn json_lines(text: &str) -> Result<Cells, String> {
    let (mut header, mut cells) = (Vec::<String>::new(), Vec::new());
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let object: serde_json::Map<String, Value> =
            serde_json::from_str(line).map_err(|e| format!("line {number} is no JSON object: {e}"))?;
        let mut row = vec![String::new(); header.len()];
        for (key, value) in object {
            let at = header.iter().position(|column| *column == key).unwrap_or_else(|| {
                header.push(key);
                header.len() - 1
            });
            if row.len() <= at {
                row.resize(at + 1, String::new());
            }
            let text = match value {
                Value::Null => String::new(),
                Value::String(text) => text.trim().to_owned(),
                other => other.to_string(),
            };
            if let Some(cell) = row.get_mut(at) {
                *cell = text;
            }
        }
        cells.push(row);
    }
    Ok((header, cells))
}

/// The columns to take of those there are.
fn choose(header: &[String], form: &TableForm) -> Result<Columns, String> {
    let there = || quoted(header).chars().take(300).collect::<String>();
    let by_name = |name: &str| header.iter().find(|column| column.eq_ignore_ascii_case(name)).cloned();
    let asked = |wanted: &Option<String>| {
        let Some(name) = wanted else { return Ok(None) };
        let exact = header.iter().find(|column| *column == name).cloned();
        match exact.or_else(|| by_name(name)) {
            None => Err(format!("has no column `{name}`, only {}", there())),
            column => Ok(column),
        }
    };
    let needs = |what: &str, option: &str| {
        format!(
            "no column is known to hold {what} (`--{option}` names it); its columns are {}",
            there()
        )
    };
    let label = asked(&form.label_column)?.or_else(|| LABELS.split(' ').find_map(by_name));
    let path = asked(&form.path_column)?.or_else(|| {
        let mut usual = PATHS.split(' ').filter_map(by_name);
        usual.find(|column| Some(column) != label.as_ref())
    });
    let path = path.ok_or_else(|| needs("paths of images", "path-column"))?;
    let label = label.ok_or_else(|| needs("class names", "label-column"))?;
    let split = asked(&form.split_column)?.or_else(|| SPLITS.split(' ').find_map(by_name));
    let is_free = |column: &String| *column != label && *column != path;
    Ok(Columns {
        other_labels: LABELS.split(' ').filter_map(by_name).filter(is_free).collect(),
        split: split.filter(is_free),
        path,
        label,
    })
}

/// Path, label and split of each row, as texts.
fn rows(records: Vec<(String, String, Option<String>)>, columns: Columns) -> Result<Table, String> {
    let filled = |text: &&String| !text.is_empty();
    // Whole numbers that passed through a column of floats, as pandas makes one where a cell is empty.
    let labels = || records.iter().map(|(_, label, _)| label).filter(filled);
    let as_float = |label: &String| {
        label
            .strip_suffix(".0")
            .is_some_and(|whole| whole.parse::<i64>().is_ok())
    };
    let are_floats = labels().next().is_some() && labels().all(as_float);
    fn whole(label: &str, are_floats: bool) -> &str {
        label.strip_suffix(".0").filter(|_| are_floats).unwrap_or(label)
    }
    let are_integers = labels().all(|label| whole(label, are_floats).parse::<i64>().is_ok());
    let splits = || records.iter().filter_map(|(.., split)| split.as_ref()).filter(filled);
    let unknown = splits().find(|split| Side::of_word(split).is_none());
    // A column by one of the other names is one of splits only if it speaks of them throughout.
    let split = columns.split.as_deref();
    let is_sure = split.is_some_and(|name| name.eq_ignore_ascii_case("split"));
    let is_split = splits().next().is_some() && (is_sure || unknown.is_none());
    let mut rows = Vec::with_capacity(records.len());
    for (number, (path, label, split)) in (1..).zip(&records) {
        let split = match split.as_ref().filter(|_| is_split) {
            None => None,
            Some(text) => Some(
                Side::of_word(text)
                    .ok_or_else(|| format!("row {number}: split `{text}` is none of train, validation and test"))?,
            ),
        };
        let label = composed(whole(label, are_floats));
        rows.push(Row {
            number,
            path: path.clone(),
            label: Some(label).filter(|label| !(label.is_empty() || are_integers && label.starts_with('-'))),
            split,
        });
    }
    if rows.is_empty() {
        return Err("no row below its header".into());
    }
    let split = columns.split.filter(|_| is_split);
    Ok(Table {
        rows,
        columns: Columns { split, ..columns },
    })
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

    fn read(text: impl AsRef<[u8]>) -> Result<Table, String> {
        parsed(text.as_ref().to_vec(), &TableForm::default())
    }

    fn cells(text: impl AsRef<[u8]>) -> Vec<(String, Option<String>)> {
        read(text)
            .unwrap()
            .rows
            .into_iter()
            .map(|row| (row.path, row.label))
            .collect()
    }

    fn pair(path: &str, label: &str) -> (String, Option<String>) {
        (path.into(), Some(label.into()))
    }

    #[test]
    fn columns_are_found_by_their_usual_names() {
        let found = [
            "id, Label ,PATH\n7,\"grey, fox\",a.jpg\n",
            "file_name,label\na.jpg,\"grey, fox\"\n",
            "filename,class\na.jpg,\"grey, fox\"\n",
            "path;label\na.jpg;grey, fox\n",
            "image\tspecies\na.jpg\tgrey, fox\n",
            "img_path|category\na.jpg|grey, fox\n",
            "\u{feff}path,label\na.jpg,\"grey, fox\"\n",
            "{\"file_name\": \"a.jpg\", \"label\": \"grey, fox\", \"more\": [1]}\n",
        ];
        for text in found {
            assert_eq!(cells(text), [pair("a.jpg", "grey, fox")], "{text}");
        }
        let table = read("image_id,class,label,subset\na,x,y,train\n").unwrap();
        assert_eq!(
            table.columns,
            Columns {
                path: "image_id".into(),
                label: "label".into(),
                split: Some("subset".into()),
                other_labels: vec!["class".into()]
            }
        );
        let form = TableForm {
            label_column: Some("Class".into()),
            ..TableForm::default()
        };
        assert_eq!(
            parsed(b"id,class,label\na,x,y\n".to_vec(), &form)
                .unwrap()
                .columns
                .label,
            "class"
        );
    }

    #[test]
    fn both_forms_of_utf_16_are_read_and_other_encodings_named() {
        let text = "path,label\na.jpg,caf\u{e9}\n";
        let units: Vec<u16> = text.encode_utf16().collect();
        let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
        for bytes in [
            [&[0xff, 0xfe], little.as_slice()].concat(),
            [&[0xfe, 0xff], big.as_slice()].concat(),
            little,
            big,
        ] {
            assert_eq!(cells(bytes), [pair("a.jpg", "caf\u{e9}")]);
        }
        insta::assert_snapshot!(read(b"path,label\na.jpg,caf\xe9\n").unwrap_err(), @"line 2 has the byte 0xE9, which is not UTF-8: save the table as UTF-8; one that Excel wrote becomes so with `iconv -f cp1252 -t utf-8`");
    }

    #[test]
    fn labels_that_stand_for_none_are_none() {
        let labels = |text: &str| -> Vec<Option<String>> { cells(text).into_iter().map(|(_, label)| label).collect() };
        let some = |label: &str| Some(label.to_owned());
        assert_eq!(labels("path,label\na,0\nb,-1\n"), [some("0"), None]);
        assert_eq!(labels("path,label\na,1.0\nb,\n"), [some("1"), None]);
        // Among names it is one.
        assert_eq!(labels("path,label\na,x\nb,-1\n"), [some("x"), some("-1")]);
        assert_eq!(labels("path,label\na,1.0\nb,2.5\n"), [some("1.0"), some("2.5")]);
        assert_eq!(
            labels("{\"path\": \"a\", \"label\": null}\n{\"path\": \"b\", \"label\": 3}\n"),
            [None, some("3")]
        );
        assert_eq!(labels("path,label\na,cafe\u{301}\n"), [some("caf\u{e9}")]);
    }

    #[test]
    fn splits_are_told_by_the_words_for_them() {
        let sides =
            |text: &str| -> Vec<Option<Side>> { read(text).unwrap().rows.iter().map(|row| row.split).collect() };
        assert_eq!(
            sides("path,label,split\na,x,train\nb,x,Validation\nc,x,TEST\nd,x,dev\n"),
            [
                Some(Side::Train),
                Some(Side::Validation),
                Some(Side::Test),
                Some(Side::Validation)
            ]
        );
        // A column that is empty throughout says nothing, nor does one of sets of something else.
        assert_eq!(sides("path,label,split\na,x,\n"), [None]);
        assert_eq!(sides("path,label,set\na,x,spoons\n"), [None]);
    }

    #[test]
    fn what_is_wrong_with_a_table_is_named() {
        let cases = [
            "file,colour\na,b\n",
            "words,class\na,b\n",
            "path,label\n",
            "path,label,split\na,x,train\nb,x,\n",
            "path,label,split\na,x,extra\n",
            "path,label\na,b,c\n",
            "{\"path\": \n",
        ];
        insta::assert_snapshot!(cases.map(|text| read(text).unwrap_err()).join("\n"), @r"
        no column is known to hold class names (`--label-column` names it); its columns are `file`, `colour`
        no column is known to hold paths of images (`--path-column` names it); its columns are `words`, `class`
        no row below its header
        row 2: split `` is none of train, validation and test
        row 1: split `extra` is none of train, validation and test
        CSV error: record 1 (line: 2, byte: 11): found record with 3 fields, but the previous record has 2 fields
        line 1 is no JSON object: EOF while parsing a value at line 1 column 9
        ");
    }
}
