//! Images and labels out of the parquet files of a Hugging Face dataset repository; texts out of tables.
//!
//! A file has a column of images, a struct of `bytes` and `path`, and a column of labels: integers whose names stand
//! in the file's metadata, integers without names, or the names themselves. Rows come out one by one; at most one page
//! of each column is held, which for files written by Python's `datasets` is a row group of 100 to 1,000 images. Every
//! codec but LZO and every encoding is read. Files are not to be trusted: sizes in headers are compared with the file
//! before the parquet library acts on them.

mod pages;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use ::parquet::basic::Type;
use ::parquet::column::reader::{ColumnReaderImpl, get_column_reader, get_typed_column_reader};
use ::parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int32Type, Int64Type};
use ::parquet::file::metadata::{FileMetaData, RowGroupMetaData};
use ::parquet::file::reader::FileReader as _;
use ::parquet::file::serialized_reader::SerializedFileReader;
use ::parquet::schema::types::SchemaDescriptor;
use bytes::Bytes;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::formats::image::Mode;
use crate::formats::parquet::pages::{Pages, chunk};
pub(crate) use crate::formats::parquet::pages::{ParquetInput, footer, message};
use crate::formats::quoted;

/// Which columns hold images and labels.
#[derive(Debug, Clone, Copy)]
pub struct Columns<'a> {
    /// A struct of `bytes` and `path`, or plain bytes.
    pub image: &'a str,
    /// Integers with names in the metadata, or names.
    pub label: &'a str,
}

/// One image with its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// Number in this file, from 0.
    pub number: u64,
    /// The encoded image.
    pub image: &'a [u8],
    /// Name of the file where the rows were made, if that is known.
    pub path: Option<&'a str>,
    /// Class name.
    pub class: &'a str,
}

/// Metadata of a parquet file, for all its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParquetInfo {
    /// Number of rows.
    pub rows: u64,
    /// Class names in label order; `None` where the labels are names themselves, or integers without names.
    pub classes: Option<Vec<String>>,
    /// Labels are integers without names: each is its own name.
    pub is_numbered: bool,
    /// Rows that were read and cannot be taken.
    pub left_out: SkippedRow,
}

/// Rows that cannot be taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SkippedRow {
    /// Rows without a label: null, or −1.
    pub unlabelled: u64,
    /// Rows without an image, or whose label has no name.
    pub unusable: u64,
    /// The first of both, each with the reason.
    pub named: Vec<(u64, String)>,
}

impl SkippedRow {
    /// Rows in a message before the rest is counted only.
    const NAMED: usize = 20;

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.unlabelled.saturating_add(self.unusable)
    }

    fn add(&mut self, row: u64, reason: String, is_unlabelled: bool) {
        self.unlabelled += u64::from(is_unlabelled);
        self.unusable += u64::from(!is_unlabelled);
        if self.named.len() < Self::NAMED {
            self.named.push((row, reason));
        }
    }
}

/// Number of rows and class names of a file, from its footer.
///
/// # Errors
/// [`Error::Parquet`] when the file is damaged or lacks a column (the message lists those there are).
pub fn about(path: &Path, columns: Columns<'_>) -> Result<ParquetInfo> {
    let source = ParquetInput::file(path)?;
    guarded(wrong(path), || {
        Ok(Shard::open(source, columns).map_err(wrong(path))?.about)
    })
}

/// Tells every row of a file in order that has an image and a label, and then what the file says of all of them; rows
/// without are counted and named there.
///
/// # Errors
/// As [`about`], or whatever `tell` returns.
pub fn read(path: &Path, columns: Columns<'_>, tell: &mut dyn FnMut(Row<'_>) -> Result<()>) -> Result<ParquetInfo> {
    let source = ParquetInput::file(path)?;
    guarded(wrong(path), || {
        Shard::open(source, columns).map_err(wrong(path))?.read(path, tell)
    })
}

/// The mode that the files' metadata asks of the images in a column: that of `datasets.Image(mode=…)`.
///
/// # Errors
/// [`Error::Parquet`] names the file when it is damaged, asks for a mode that is not supported, or for another than the
/// first file.
pub(crate) fn image_mode<'a>(files: impl Iterator<Item = &'a Path>, image: &str) -> Result<Option<Mode>> {
    let mut common = None;
    for path in files {
        let source = ParquetInput::file(path)?;
        let mode = guarded(std::convert::identity, || {
            let file = opened(&source)?;
            let json = huggingface(file.metadata().file_metadata());
            let named = json.and_then(|json| mode_of_feature(json, image));
            named.map(|name| Mode::named(&name)).transpose()
        });
        let mode = mode.map_err(wrong(path))?;
        if *common.get_or_insert(mode) != mode {
            return Err(wrong(path)(
                "its images have another `mode` than those of the first file".into(),
            ));
        }
    }
    Ok(common.flatten())
}

pub(crate) fn wrong(path: &Path) -> impl Fn(String) -> Error + '_ {
    move |reason| Error::Parquet {
        path: path.into(),
        reason,
    }
}

/// The parquet library asserts what it takes for granted; damaged bytes must not end the process.
pub(crate) fn guarded<T, E>(wrong: impl FnOnce(String) -> E, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(wrong("the reader gave up on damaged data".into())))
}

/// A file whose footer was looked at before the library reads it.
pub(crate) fn opened(source: &ParquetInput) -> Result<SerializedFileReader<ParquetInput>, String> {
    footer(source)?;
    SerializedFileReader::new(source.clone()).map_err(message)
}

/// The description that Python's `datasets` writes into the files: JSON.
pub(crate) fn huggingface(metadata: &FileMetaData) -> Option<&str> {
    let entries = metadata.key_value_metadata().into_iter().flatten();
    let mut named = entries.filter(|entry| entry.key == "huggingface");
    named.find_map(|entry| entry.value.as_deref())
}

/// Bytes of a label: more is no name of a class.
const LABEL_BYTES: usize = 4096;

/// An open file whose columns were found.
struct Shard {
    file: SerializedFileReader<ParquetInput>,
    source: ParquetInput,
    /// Leaf column of encoded images.
    image: usize,
    /// Leaf column of file names.
    path: Option<usize>,
    /// Leaf column of labels.
    label: usize,
    about: ParquetInfo,
}

impl Shard {
    fn open(source: ParquetInput, columns: Columns<'_>) -> Result<Self, String> {
        let file = opened(&source)?;
        let metadata = file.metadata().file_metadata();
        let schema = metadata.schema_descr();
        let kind = |at: usize| schema.column(at).physical_type();
        let image = leaf(schema, &[columns.image, "bytes"])
            .or_else(|| leaf(schema, &[columns.image]))
            .filter(|at| kind(*at) == Type::BYTE_ARRAY)
            .ok_or_else(|| no_column(schema, columns.image, "images (a struct with `bytes`)"))?;
        let path = leaf(schema, &[columns.image, "path"]).filter(|at| kind(*at) == Type::BYTE_ARRAY);
        let label = leaf(schema, &[columns.label])
            .filter(|at| !matches!(kind(*at), Type::INT96 | Type::FIXED_LEN_BYTE_ARRAY))
            .ok_or_else(|| no_column(schema, columns.label, "labels (integers or names)"))?;
        let is_number = !matches!(kind(label), Type::BYTE_ARRAY | Type::BOOLEAN);
        let classes = huggingface(metadata)
            .filter(|_| is_number)
            .map(|json| class_names(json, columns.label))
            .transpose()?
            .flatten();
        let mut rows = 0_u64;
        for group in file.metadata().row_groups() {
            let of_group = u64::try_from(group.num_rows()).map_err(|_| "a row group of less than no rows")?;
            rows = rows.checked_add(of_group).ok_or("more rows than can be")?;
        }
        Ok(Self {
            about: ParquetInfo {
                rows,
                is_numbered: is_number && classes.is_none(),
                classes,
                left_out: SkippedRow::default(),
            },
            file,
            source,
            image,
            path,
            label,
        })
    }

    fn read(mut self, path: &Path, tell: &mut dyn FnMut(Row<'_>) -> Result<()>) -> Result<ParquetInfo> {
        let mut number = 0;
        let mut left_out = SkippedRow::default();
        for index in 0..self.file.num_row_groups() {
            let mut group = self.group(index).map_err(wrong(path))?;
            while group.rows > 0 {
                for (image, file, label) in group.batch().map_err(wrong(path))? {
                    match (image.as_ref().filter(|image| !image.is_empty()), self.class(label)) {
                        (_, Err((reason, is_unlabelled))) => left_out.add(number, reason, is_unlabelled),
                        (None, _) => {
                            let beside = file.iter().map(|file| format!(" beside the path {file:?}"));
                            let beside: String = beside.collect();
                            left_out.add(number, format!("the image has no bytes{beside}"), false);
                        }
                        (Some(image), Ok(class)) => tell(Row {
                            number,
                            image: image.data(),
                            path: file.as_deref(),
                            class: &class,
                        })?,
                    }
                    number += 1;
                }
            }
        }
        self.about.left_out = left_out;
        Ok(self.about)
    }

    /// The class of a label, or why it has none and whether that is for want of a label.
    fn class(&self, label: Option<Label>) -> Result<String, (String, bool)> {
        let index = match label {
            None => return Err(("it has no label".into(), true)),
            Some(Label::Index(index)) if index < 0 => {
                return Err((format!("label {index}, which stands for none"), true));
            }
            Some(Label::Name(name)) if name.trim().is_empty() => return Err(("its label is empty".into(), true)),
            Some(Label::Name(name)) if name.len() > LABEL_BYTES => {
                return Err((format!("its label has {} bytes", name.len()), false));
            }
            Some(Label::Name(name)) => return Ok(name),
            Some(Label::Index(index)) => index,
        };
        let Some(classes) = &self.about.classes else {
            return Ok(index.to_string());
        };
        let name = usize::try_from(index).ok().and_then(|i| classes.get(i));
        let unknown = || format!("label {index}; the metadata names {} classes", classes.len());
        name.cloned().ok_or_else(|| (unknown(), false))
    }

    /// Readers of one row group's columns.
    fn group(&self, index: usize) -> Result<Group, String> {
        let groups = self.file.metadata().row_groups();
        let group = groups.get(index).ok_or("a row group is missing")?;
        let path = self.path.map(|path| Column::open(&self.source, group, path));
        Ok(Group {
            rows: u64::try_from(group.num_rows()).unwrap_or(0),
            image: Column::open(&self.source, group, self.image)?,
            path: path.transpose()?,
            label: label_column(&self.source, group, self.label)?,
        })
    }
}

/// The number of a leaf column that does not repeat.
fn leaf(schema: &SchemaDescriptor, parts: &[&str]) -> Option<usize> {
    schema.columns().iter().position(|column| {
        let found = column.path().parts();
        found.len() == parts.len() && found.iter().zip(parts).all(|(f, p)| f == p) && column.max_rep_level() == 0
    })
}

fn no_column(schema: &SchemaDescriptor, name: &str, of: &str) -> String {
    let there = quoted(schema.root_schema().get_fields().iter().map(|field| field.name()));
    format!("no column `{name}` of {of}; it has {there}")
}

/// Class names of a label column, in label order: from the JSON under the key `huggingface`
/// (`info.features.<label>.names`), or from the forms of a repository's front matter (`dataset_info`, features as a
/// list, names by number). `None` when the column has no names there.
///
/// # Errors
/// When there are names, but not one for each label from 0.
pub(crate) fn class_names(json: &str, label: &str) -> Result<Option<Vec<String>>, String> {
    let value: Value = serde_json::from_str(json).map_err(|e| format!("its metadata `huggingface` is no JSON: {e}"))?;
    match stated(&value, label, ["class_label", "names"]) {
        None | Some(Value::Null) => Ok(None),
        Some(names) => ordered(names)
            .ok_or_else(|| format!("the names of `{label}` in its metadata are no list of texts"))
            .map(Some),
    }
}

/// The mode that a column's `datasets.Image` asks for (`info.features.<image>.mode`, or the forms of front matter).
fn mode_of_feature(json: &str, image: &str) -> Option<String> {
    let value: Value = serde_json::from_str(json).ok()?;
    let mode = stated(&value, image, ["image", "mode"])?;
    // Anything but a name is no mode of Pillow's, and is refused as one.
    (!mode.is_null()).then(|| mode.as_str().map_or_else(|| mode.to_string(), str::to_owned))
}

/// A column's statement of this key, in its own description or in that of its kind.
fn stated<'a>(value: &'a Value, column: &str, [kind, key]: [&str; 2]) -> Option<&'a Value> {
    let infos = [value.get("info"), value.get("dataset_info"), Some(value)];
    let feature = infos
        .into_iter()
        .flatten()
        .find_map(|info| feature(info.get("features")?, column))?;
    let of_type = feature.get("dtype").and_then(|dtype| dtype.get(kind));
    let holders = [Some(feature), feature.get(kind), of_type];
    holders.into_iter().flatten().find_map(|holder| holder.get(key))
}

/// A column's description: features are an object by name, or a list of objects with a name.
fn feature<'a>(features: &'a Value, label: &str) -> Option<&'a Value> {
    match features {
        Value::Object(by_name) => by_name.get(label),
        Value::Array(list) => list
            .iter()
            .find(|f| f.get("name").and_then(Value::as_str) == Some(label)),
        _ => None,
    }
}

/// `["a", "b"]`, or `{"0": "a", "1": "b"}`.
fn ordered(names: &Value) -> Option<Vec<String>> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let names: Vec<String> = match names {
        Value::Array(list) => list.iter().map(text).collect::<Option<_>>()?,
        Value::Object(by_number) => (0..by_number.len())
            .map(|i| by_number.get(&i.to_string()).and_then(text))
            .collect::<Option<_>>()?,
        _ => return None,
    };
    (!names.is_empty()).then_some(names)
}

/// Rows of images decoded at a time.
const BATCH: usize = 16;

/// Image, path and label of one row.
type Cells = (Option<ByteArray>, Option<String>, Option<Label>);

/// Columns of one row group.
struct Group {
    /// Rows still to come.
    rows: u64,
    image: Column<ByteArrayType>,
    path: Option<Column<ByteArrayType>>,
    label: LabelColumn,
}

impl Group {
    /// The next rows: image, path, label.
    fn batch(&mut self) -> Result<Vec<Cells>, String> {
        let n = BATCH.min(usize::try_from(self.rows).unwrap_or(BATCH));
        self.rows -= n as u64;
        let images = self.image.next(n)?;
        let paths = match &mut self.path {
            Some(column) => column.next(n)?,
            None => vec![None; n],
        };
        let labels = (self.label)(n)?;
        let paths = paths
            .into_iter()
            .map(|path| path.map(|p| String::from_utf8_lossy(p.data()).into_owned()));
        let rows = images.into_iter().zip(paths).zip(labels);
        Ok(rows.map(|((image, path), label)| (image, path, label)).collect())
    }
}

/// A label as it stands in the file.
#[derive(Debug, Clone, PartialEq)]
enum Label {
    Index(i64),
    Name(String),
}

/// Exactly the next labels of a column of texts, or of numbers that stand for names.
type LabelColumn = Box<dyn FnMut(usize) -> Result<Vec<Option<Label>>, String>>;

/// # Errors
/// When the column is of another kind, or lies outside the file.
fn label_column(source: &ParquetInput, group: &RowGroupMetaData, column: usize) -> Result<LabelColumn, String> {
    fn open<T: DataType>(
        column: Result<Column<T>, String>,
        label: impl Fn(T::T) -> Result<Option<Label>, String> + 'static,
    ) -> Result<LabelColumn, String> {
        let mut column = column?;
        let label = move |value: Option<T::T>| value.map_or(Ok(None), &label);
        Ok(Box::new(move |n| column.next(n)?.into_iter().map(&label).collect()))
    }
    fn index(value: i64) -> Result<Option<Label>, String> {
        Ok(Some(Label::Index(value)))
    }
    // A column of floats is one of integers that has had gaps: pandas makes it so.
    fn float(value: f64) -> Result<Option<Label>, String> {
        match value {
            value if value.is_nan() => Ok(None),
            value if value.fract() == 0.0 && value.abs() < 1e15 => index(value as i64),
            value => Err(format!("label {value} is no whole number")),
        }
    }
    // As Python writes them.
    let truth = |value| Ok(Some(Label::Name(if value { "True" } else { "False" }.to_owned())));
    let text = |value: ByteArray| Ok(Some(Label::Name(value.as_utf8().map_err(message)?.to_owned())));
    match chunk(group, column)?.column_type() {
        Type::BOOLEAN => open::<BoolType>(Column::open(source, group, column), truth),
        Type::INT32 => open::<Int32Type>(Column::open(source, group, column), |value| index(value.into())),
        Type::INT64 => open::<Int64Type>(Column::open(source, group, column), index),
        Type::FLOAT => open::<FloatType>(Column::open(source, group, column), |value| float(value.into())),
        Type::DOUBLE => open::<DoubleType>(Column::open(source, group, column), float),
        Type::BYTE_ARRAY => open::<ByteArrayType>(Column::open(source, group, column), text),
        other => Err(format!("labels are {other}, neither texts nor numbers")),
    }
}

/// One leaf column of a row group.
struct Column<T: DataType> {
    reader: ColumnReaderImpl<T>,
    nullable: bool,
    /// Definition level of a value that is there.
    present: i16,
}

impl<T: DataType> Column<T> {
    fn open(source: &ParquetInput, group: &RowGroupMetaData, column: usize) -> Result<Self, String> {
        let described = chunk(group, column)?.column_descr_ptr();
        let present = described.max_def_level();
        let pages = Pages::open(source, group, column)?;
        Ok(Self {
            reader: get_typed_column_reader::<T>(get_column_reader(described, Box::new(pages))),
            nullable: present > 0,
            present,
        })
    }

    /// Exactly the next `n` values.
    fn next(&mut self, n: usize) -> Result<Vec<Option<T::T>>, String> {
        let (mut values, mut levels) = (Vec::new(), Vec::new());
        let mut read = 0;
        while read < n {
            let levels = self.nullable.then_some(&mut levels);
            match self
                .reader
                .read_records(n - read, levels, None, &mut values)
                .map_err(message)?
                .0
            {
                0 => return Err("a column has fewer values than rows".into()),
                more => read += more,
            }
        }
        let mut values = values.into_iter();
        let rows: Vec<Option<T::T>> = if self.nullable {
            let value = |level: i16| if level == self.present { values.next() } else { None };
            levels.into_iter().map(value).collect()
        } else {
            values.map(Some).collect()
        };
        if rows.len() != n {
            return Err("a column has not as many values as rows".into());
        }
        Ok(rows)
    }
}

/// Rows of texts decoded at a time.
const TEXT_BATCH: usize = 64;
/// Bytes of all texts of a column: a dictionary may stand for more than any table holds.
const MAX_TEXT: usize = 512 << 20;
/// Rows of a table: nulls take no bytes.
const MAX_ROWS: usize = 16 << 20;

/// A column: a text or null for each row.
pub(crate) type Texts = Vec<Option<String>>;

/// Names of the columns that are no structs.
///
/// # Errors
/// When the file is damaged.
pub(crate) fn columns(bytes: Vec<u8>) -> Result<Vec<String>, String> {
    let source = ParquetInput::Bytes(Bytes::from(bytes));
    guarded(std::convert::identity, || {
        let file = opened(&source)?;
        let columns = file.metadata().file_metadata().schema_descr().columns().iter();
        Ok(columns
            .filter_map(|column| match column.path().parts() {
                [name] => Some(name.clone()),
                _ => None,
            })
            .collect())
    })
}

/// The columns of some names, whatever their case; `None` for one that is not there. Numbers are written out.
///
/// # Errors
/// When the file is damaged, or such a column holds neither text nor whole numbers.
pub(crate) fn texts(bytes: Vec<u8>, names: &[&str]) -> Result<Vec<Option<Texts>>, String> {
    let source = ParquetInput::Bytes(Bytes::from(bytes));
    guarded(std::convert::identity, || named(&source, names))
}

fn named(source: &ParquetInput, names: &[&str]) -> Result<Vec<Option<Texts>>, String> {
    let file = opened(source)?;
    let schema = file.metadata().file_metadata().schema_descr();
    let named = |name: &&str| {
        let mut fields = schema.root_schema().get_fields().iter().map(|field| field.name());
        let found = fields.find(|found| found.eq_ignore_ascii_case(name));
        let Some(column) = found.and_then(|found| leaf(schema, &[found])) else {
            return Ok(None);
        };
        let texts = text(source, &file, column).map_err(|reason| format!("column `{name}`: {reason}"))?;
        Ok(Some(texts))
    };
    names.iter().map(named).collect()
}

fn text(source: &ParquetInput, file: &SerializedFileReader<ParquetInput>, column: usize) -> Result<Texts, String> {
    let (mut texts, mut bytes) = (Vec::new(), 0_usize);
    for group in file.metadata().row_groups() {
        let mut left = usize::try_from(group.num_rows()).map_err(|_| "a row group of less than no rows")?;
        let mut labels = label_column(source, group, column)?;
        while left > 0 {
            let rows = labels(left.min(TEXT_BATCH))?;
            left -= rows.len();
            for row in rows {
                let text = row.map(|label| match label {
                    Label::Index(number) => number.to_string(),
                    Label::Name(text) => text.trim().to_owned(),
                });
                bytes += text.as_ref().map_or(0, String::len);
                texts.push(text);
            }
            if bytes > MAX_TEXT || texts.len() > MAX_ROWS {
                return Err(format!("more than {MAX_ROWS} rows or {MAX_TEXT} bytes of text"));
            }
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_every_form() {
        let cases = [
            r#"{"info": {"features": {"image": {"_type": "Image"}, "label": {"names": ["b", "a"], "_type": "ClassLabel"}}}}"#,
            r#"{"dataset_info": {"features": [{"name": "image", "dtype": "image"},
                {"name": "label", "dtype": {"class_label": {"names": {"1": "a", "0": "b"}}}}]}}"#,
            r#"{"features": {"label": {"class_label": {"names": ["b", "a"]}}}}"#,
        ];
        for json in cases {
            assert_eq!(class_names(json, "label").unwrap().unwrap(), ["b", "a"], "{json}");
            assert_eq!(class_names(json, "other").unwrap(), None);
        }
    }

    #[test]
    fn the_mode_of_an_image_column_is_found_in_every_form() {
        let cases = [
            r#"{"info": {"features": {"image": {"mode": "L", "_type": "Image"}, "label": {"_type": "ClassLabel"}}}}"#,
            r#"{"dataset_info": {"features": [{"name": "image", "dtype": {"image": {"mode": "L"}}}]}}"#,
        ];
        for json in cases {
            assert_eq!(mode_of_feature(json, "image").as_deref(), Some("L"), "{json}");
            assert_eq!(mode_of_feature(json, "label"), None);
        }
        for none in [
            r#"{"info": {"features": {"image": {"_type": "Image"}}}}"#,
            r#"{"info": {"features": {"image": {"mode": null}}}}"#,
        ] {
            assert_eq!(mode_of_feature(none, "image"), None);
        }
        assert_eq!(
            mode_of_feature(r#"{"features": {"image": {"mode": 3}}}"#, "image").as_deref(),
            Some("3")
        );
    }

    #[test]
    fn names_with_a_gap_are_refused() {
        let json = r#"{"info": {"features": {"label": {"names": {"0": "a", "2": "b"}}}}}"#;
        assert!(class_names(json, "label").is_err());
        assert!(class_names(r#"{"info": {"features": {"label": {"names": []}}}}"#, "label").is_err());
        assert!(class_names("{", "label").is_err());
    }
}
