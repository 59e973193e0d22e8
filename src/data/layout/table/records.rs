//! The rows of a table file, whatever its form: CSV with any usual delimiter, JSON lines, Parquet.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde_json::Value;

use super::Row;
use crate::data::layout::sides::Side;
use crate::data::layout::{names, wrong};
use crate::error::{Error, Result};
use crate::formats::parquet::column;
use crate::manifest::TableForm;

/// Bytes of a table: a row of 100 bytes for each of two million images.
const MAX_BYTES: u64 = 256 << 20;
/// Names of columns that hold paths of images, the surest first.
const PATHS: [&str; 17] = [
    "path",
    "file_path",
    "filepath",
    "file_name",
    "filename",
    "file",
    "fname",
    "image_path",
    "img_path",
    "image_file",
    "image_name",
    "img_name",
    "image",
    "img",
    "image_id",
    "img_id",
    "id",
];
/// Names of columns that hold class names.
const LABELS: [&str; 12] = [
    "label",
    "class",
    "class_name",
    "classname",
    "label_name",
    "labels",
    "category",
    "category_name",
    "target",
    "species",
    "breed",
    "class_id",
];
/// Names of columns that hold splits.
const SPLITS: [&str; 4] = ["split", "subset", "partition", "set"];
const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// True if a column of this name usually holds class names.
pub(crate) fn usual_label(name: &str) -> Option<usize> {
    LABELS.iter().position(|usual| usual.eq_ignore_ascii_case(name))
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
/// [`Error::Io`], or [`Error::Labels`] naming column or row when it is no table, is not in UTF-8 or UTF-16, lacks a
/// column, or has an unknown split.
pub fn read_table(path: &Path, form: &TableForm) -> Result<Table> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::io("read", path))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(wrong(path, format!("more than {MAX_BYTES} bytes: no table of images")));
    }
    parsed(bytes, form).map_err(|reason| wrong(path, reason))
}

fn parsed(bytes: Vec<u8>, form: &TableForm) -> Result<Table, String> {
    if bytes.starts_with(b"PAR1") {
        let header = column::columns(bytes.clone())?;
        let columns = choose(&header, form)?;
        let wanted: Vec<&str> = [Some(&columns.path), Some(&columns.label), columns.split.as_ref()]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        let mut cells = column::read(bytes, &wanted)?.into_iter().map(Option::unwrap_or_default);
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
    let mut best: Option<(bool, usize, u8)> = None;
    for delimiter in DELIMITERS {
        let Ok(header) = header(delimiter) else { continue };
        let rank = (choose(&header, form).is_ok(), header.len());
        if best.is_none_or(|(fits, columns, _)| rank > (fits, columns)) {
            best = Some((rank.0, rank.1, delimiter));
        }
    }
    let delimiter = best.map_or(b',', |(.., delimiter)| delimiter);
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
    let there = || {
        let names = header
            .iter()
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ");
        names.chars().take(300).collect::<String>()
    };
    let by_name = |name: &str| header.iter().find(|column| column.eq_ignore_ascii_case(name)).cloned();
    let asked = |wanted: &Option<String>| match wanted {
        Some(name) => match header
            .iter()
            .find(|column| *column == name)
            .cloned()
            .or_else(|| by_name(name))
        {
            Some(column) => Ok(Some(column)),
            None => Err(format!("has no column `{name}`, only {}", there())),
        },
        None => Ok(None),
    };
    let usual = |names: &[&str]| names.iter().find_map(|name| by_name(name));
    let needs = |what: &str, option: &str| {
        format!(
            "no column is known to hold {what} (`--{option}` names it); its columns are {}",
            there()
        )
    };
    let label = asked(&form.label_column)?.or_else(|| usual(&LABELS));
    let path = asked(&form.path_column)?.or_else(|| {
        PATHS
            .iter()
            .filter_map(|name| by_name(name))
            .find(|column| Some(column) != label.as_ref())
    });
    let path = path.ok_or_else(|| needs("paths of images", "path-column"))?;
    let label = label.ok_or_else(|| needs("class names", "label-column"))?;
    let split = asked(&form.split_column)?.or_else(|| usual(&SPLITS));
    let other_labels = LABELS.iter().filter_map(|name| by_name(name));
    Ok(Columns {
        other_labels: other_labels
            .filter(|column| *column != label && *column != path)
            .collect(),
        split: split.filter(|column| *column != label && *column != path),
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
    let whole = |label: &str| {
        label
            .strip_suffix(".0")
            .filter(|_| are_floats)
            .unwrap_or(label)
            .to_owned()
    };
    let are_integers = labels().all(|label| whole(label).parse::<i64>().is_ok());
    let splits = || records.iter().filter_map(|(.., split)| split.as_ref()).filter(filled);
    let unknown = splits().find(|split| Side::of_word(split).is_none());
    // A column by one of the other names is one of splits only if it speaks of them throughout.
    let is_sure = columns
        .split
        .as_deref()
        .is_some_and(|name| name.eq_ignore_ascii_case("split"));
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
        let label = names::composed(&whole(label));
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
