//! Prediction rows as Parquet: one row a test image, class names once in the file's metadata.
//!
//! Columns: `id`, `sha256`, `group`, `truth`, `free_text`, `free_class`, `trie_class`, `likelihood_class`,
//! `log_probs` (a list of `float`). pandas, polars and `DuckDB` read it as it is. The same rows give the
//! same bytes: one row group, fixed settings, no date and no library version inside.

pub mod compact;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::Compression;
use parquet::column::reader::{ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int32Type};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use parquet::file::reader::{ChunkReader, FileReader as _, RowGroupReader};
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::fs::hash::hex;
use crate::prediction::Prediction;

/// Version of the records and prediction files of cells; raised when a field changes its meaning.
pub const SCHEMA: u32 = 3;

const COLUMNS: &str = "
    required binary id (STRING);
    required binary sha256 (STRING);
    optional binary group (STRING);
    required int32 truth;
    optional binary free_text (STRING);
    optional int32 free_class;
    optional int32 trie_class;
    optional int32 likelihood_class;
    optional group log_probs (LIST) { repeated group list { required float element; } }
";

/// Hash of class names and rows that does not depend on how a file stores them.
///
/// SHA-256 over, in this order: number of classes, each name; number of rows, each row's fields in the
/// order of the columns. Numbers are little-endian (`u64` counts, `u32` classes, `f32` bits), text is its
/// length as `u64` and its UTF-8 bytes, an optional field is the byte 0, or 1 and the value.
#[must_use]
pub fn fingerprint(classes: &[String], rows: &[Prediction]) -> String {
    fn text(hash: &mut Sha256, text: &str) {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    }
    fn optional<T>(hash: &mut Sha256, value: Option<T>, put: impl Fn(&mut Sha256, T)) {
        hash.update([u8::from(value.is_some())]);
        if let Some(value) = value {
            put(hash, value);
        }
    }
    let number = |hash: &mut Sha256, number: u32| hash.update(number.to_le_bytes());
    let mut hash = Sha256::new();
    hash.update((classes.len() as u64).to_le_bytes());
    for name in classes {
        text(&mut hash, name);
    }
    hash.update((rows.len() as u64).to_le_bytes());
    for row in rows {
        text(&mut hash, &row.id);
        text(&mut hash, &row.sha256);
        optional(&mut hash, row.group.as_deref(), text);
        number(&mut hash, row.truth);
        optional(&mut hash, row.free_text.as_deref(), text);
        optional(&mut hash, row.free_class, number);
        optional(&mut hash, row.trie_class, number);
        optional(&mut hash, row.likelihood_class, number);
        optional(&mut hash, row.log_probs.as_deref(), |hash, log_probs| {
            hash.update((log_probs.len() as u64).to_le_bytes());
            for log_prob in log_probs {
                hash.update(log_prob.to_le_bytes());
            }
        });
    }
    hex(&hash.finalize())
}

/// Checks that there are rows whose answers, true classes and lists of log-probabilities fit so many classes.
pub(crate) fn check(classes: usize, rows: &[Prediction]) -> Result<(), String> {
    if rows.is_empty() {
        return Err("there are none".into());
    }
    for row in rows {
        let named = [Some(row.truth), row.free_class, row.trie_class, row.likelihood_class];
        if let Some(class) = named.into_iter().flatten().find(|&class| class as usize >= classes) {
            return Err(format!("image `{}` has class {class}, there are {classes}", row.id));
        }
        let fits = |log_probs: &&Vec<f32>| log_probs.len() == classes && !log_probs.iter().any(|p| p.is_nan());
        if let Some(log_probs) = row.log_probs.as_ref().filter(|log_probs| !fits(log_probs)) {
            let id = &row.id;
            return Err(format!(
                "image `{id}` has log-probabilities {log_probs:?} for {classes} classes"
            ));
        }
    }
    Ok(())
}

/// The bytes of a prediction file.
///
/// # Errors
/// [`Error::Predictions`] naming `run_id` when a class index does not fit or the encoder fails.
pub fn encode(run_id: &str, classes: &[String], rows: &[Prediction]) -> Result<Vec<u8>> {
    encode_rows(classes, rows).map_err(|e| Error::Predictions {
        run_id: run_id.into(),
        reason: e.to_string(),
    })
}

fn encode_rows(classes: &[String], rows: &[Prediction]) -> ParquetResult<Vec<u8>> {
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY);
    let classes = KeyValue::new("classes".into(), json(classes)?);
    let mut file = open_file(Vec::new(), COLUMNS, properties, vec![classes])?;
    let mut group = file.next_row_group()?;
    write_rows(&mut group, rows)?;
    group.close()?;
    file.into_inner()
}

fn json(value: &(impl Serialize + ?Sized)) -> ParquetResult<String> {
    serde_json::to_string(value).map_err(|e| general(e.to_string()))
}

/// Opens a file for writing; the schema version goes ahead of the other `metadata`.
fn open_file<W: Write + Send>(
    into: W,
    columns: &str,
    properties: WriterPropertiesBuilder,
    mut metadata: Vec<KeyValue>,
) -> ParquetResult<SerializedFileWriter<W>> {
    metadata.insert(0, KeyValue::new("schema".into(), SCHEMA.to_string()));
    let properties = properties
        .set_created_by("kshot".into())
        .set_key_value_metadata(Some(metadata))
        .build();
    let schema = Arc::new(parse_message_type(&format!("message predictions {{ {columns} }}"))?);
    SerializedFileWriter::new(into, schema, Arc::new(properties))
}

/// The columns of [`COLUMNS`].
fn write_rows<W: Write + Send>(group: &mut Group<'_, W>, rows: &[Prediction]) -> ParquetResult<()> {
    let text = |text: &str| ByteArray::from(text);
    write_column::<_, ByteArrayType, _>(group, rows, false, |r| Ok(Some(text(&r.id))))?;
    write_column::<_, ByteArrayType, _>(group, rows, false, |r| Ok(Some(text(&r.sha256))))?;
    write_column::<_, ByteArrayType, _>(group, rows, true, |r| Ok(r.group.as_deref().map(text)))?;
    write_column::<_, Int32Type, _>(group, rows, false, |r| class(r.truth).map(Some))?;
    write_column::<_, ByteArrayType, _>(group, rows, true, |r| Ok(r.free_text.as_deref().map(text)))?;
    write_column::<_, Int32Type, _>(group, rows, true, |r| r.free_class.map(class).transpose())?;
    write_column::<_, Int32Type, _>(group, rows, true, |r| r.trie_class.map(class).transpose())?;
    write_column::<_, Int32Type, _>(group, rows, true, |r| r.likelihood_class.map(class).transpose())?;
    write_log_probs(group, rows)
}

fn class(index: u32) -> ParquetResult<i32> {
    i32::try_from(index).map_err(|_| general(format!("class index {index} is too large")))
}

type Group<'a, W> = SerializedRowGroupWriter<'a, W>;

fn write_column<R, T: DataType, W: Write + Send>(
    group: &mut Group<'_, W>,
    rows: &[R],
    nullable: bool,
    value: impl Fn(&R) -> ParquetResult<Option<T::T>>,
) -> ParquetResult<()> {
    let mut values = Vec::with_capacity(rows.len());
    let mut present = Vec::with_capacity(rows.len());
    for row in rows {
        let value = value(row)?;
        present.push(i16::from(value.is_some()));
        values.extend(value);
    }
    let mut column = next_column(group)?;
    column
        .typed::<T>()
        .write_batch(&values, nullable.then_some(&present), None)?;
    column.close()
}

/// Levels of a nullable list of required numbers: definition 0 null, 1 empty, 2 an element; repetition 0
/// opens a row, 1 goes on with it.
fn write_log_probs<W: Write + Send>(group: &mut Group<'_, W>, rows: &[Prediction]) -> ParquetResult<()> {
    let (mut values, mut definition, mut repetition) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        match row.log_probs.as_deref() {
            None | Some([]) => {
                definition.push(i16::from(row.log_probs.is_some()));
                repetition.push(0);
            }
            Some(log_probs) => {
                values.extend_from_slice(log_probs);
                definition.extend(log_probs.iter().map(|_| 2));
                repetition.extend((0..log_probs.len()).map(|i| i16::from(i > 0)));
            }
        }
    }
    let mut column = next_column(group)?;
    column
        .typed::<FloatType>()
        .write_batch(&values, Some(&definition), Some(&repetition))?;
    column.close()
}

fn next_column<'a, W: Write + Send>(group: &'a mut Group<'_, W>) -> ParquetResult<SerializedColumnWriter<'a>> {
    let missing = || general("fewer columns in the schema than written".into());
    group.next_column()?.ok_or_else(missing)
}

/// Class names and rows of a prediction file.
///
/// # Errors
/// [`Error::Malformed`] naming `path` when the bytes are torn, or are no file of ours.
pub fn decode(path: &Path, bytes: Vec<u8>) -> Result<(Vec<String>, Vec<Prediction>)> {
    guarded(|| decode_rows(bytes)).map_err(|e| malformed(path, e.to_string()))
}

/// The parquet library asserts what it takes for granted; a file that somebody changed, with the hash beside it made to fit, must
/// not end the process.
fn guarded<T>(work: impl FnOnce() -> ParquetResult<T>) -> ParquetResult<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(general("the reader gave up on damaged data".into())))
}

fn malformed(path: &Path, reason: String) -> Error {
    Error::malformed("prediction file", path, reason)
}

fn decode_rows(bytes: Vec<u8>) -> ParquetResult<(Vec<String>, Vec<Prediction>)> {
    let file = open(Bytes::from(bytes))?;
    let classes = metadata(&file, "classes")?;
    let mut rows = Vec::new();
    for index in 0..file.num_row_groups() {
        let mut group = Rows::open(file.get_row_group(index)?.as_ref(), false)?;
        loop {
            let batch = group.batch()?;
            if batch.is_empty() {
                break;
            }
            rows.extend(batch.into_iter().map(|(_, row)| row));
        }
    }
    Ok((classes, rows))
}

/// A file of this schema or the one before, which differ in records only.
fn open<R: ChunkReader + 'static>(from: R) -> ParquetResult<SerializedFileReader<R>> {
    let file = SerializedFileReader::new(from)?;
    let schema: u32 = metadata(&file, "schema")?;
    if (SCHEMA - 1..=SCHEMA).contains(&schema) {
        Ok(file)
    } else {
        Err(general(format!("schema {schema} is not known")))
    }
}

/// A value of the file's metadata, which holds JSON.
fn metadata<T: DeserializeOwned, R: ChunkReader + 'static>(
    file: &SerializedFileReader<R>,
    key: &str,
) -> ParquetResult<T> {
    let entries = file.metadata().file_metadata().key_value_metadata();
    let value = entries
        .into_iter()
        .flatten()
        .filter(|entry| entry.key == key)
        .find_map(|entry| entry.value.as_deref())
        .ok_or_else(|| general(format!("no `{key}` in its metadata")))?;
    serde_json::from_str(value).map_err(|e| general(e.to_string()))
}

fn general(reason: String) -> ParquetError {
    ParquetError::General(reason)
}

/// Rows that are read at a time: what a reader holds beside a page of each column.
const BATCH: usize = 1_024;

/// The rows of a row group, read in lockstep from all columns, a batch at a time.
struct Rows {
    left: usize,
    id: Column<ByteArrayType>,
    sha256: Column<ByteArrayType>,
    group: Column<ByteArrayType>,
    truth: Column<Int32Type>,
    free_text: Column<ByteArrayType>,
    free_class: Column<Int32Type>,
    trie_class: Column<Int32Type>,
    likelihood_class: Column<Int32Type>,
    log_probs: ColumnReaderImpl<FloatType>,
    /// The tenth column of a compact file.
    run_id: Option<Column<ByteArrayType>>,
}

impl Rows {
    /// Opens the columns of a group; `with_run_ids` those of a compact file.
    fn open(group: &dyn RowGroupReader, with_run_ids: bool) -> ParquetResult<Self> {
        let left = usize::try_from(group.metadata().num_rows()).map_err(|e| ParquetError::External(e.into()))?;
        let columns = group.num_columns();
        if columns < LOG_PROBS + 1 + usize::from(with_run_ids) {
            return Err(general(format!("only {columns} columns")));
        }
        Ok(Self {
            left,
            id: Column::open(group, 0)?,
            sha256: Column::open(group, 1)?,
            group: Column::open(group, 2)?,
            truth: Column::open(group, 3)?,
            free_text: Column::open(group, 4)?,
            free_class: Column::open(group, 5)?,
            trie_class: Column::open(group, 6)?,
            likelihood_class: Column::open(group, 7)?,
            log_probs: typed(group, LOG_PROBS)?,
            run_id: with_run_ids.then(|| Column::open(group, LOG_PROBS + 1)).transpose()?,
        })
    }

    /// The next rows, with the cells they belong to where the file says so; none at the end of the group.
    fn batch(&mut self) -> ParquetResult<Vec<(Option<String>, Prediction)>> {
        let n = self.left.min(BATCH);
        self.left -= n;
        let mut id = self.id.text(n)?.into_iter();
        let mut sha256 = self.sha256.text(n)?.into_iter();
        let mut group = self.group.text(n)?.into_iter();
        let mut truth = self.truth.class(n)?.into_iter();
        let mut free_text = self.free_text.text(n)?.into_iter();
        let mut free_class = self.free_class.class(n)?.into_iter();
        let mut trie_class = self.trie_class.class(n)?.into_iter();
        let mut likelihood_class = self.likelihood_class.class(n)?.into_iter();
        let mut log_probs = read_log_probs(&mut self.log_probs, n)?.into_iter();
        let mut run_id = match &mut self.run_id {
            Some(column) => column.text(n)?.into_iter(),
            None => vec![None; n].into_iter(),
        };
        let mut row = || {
            let prediction = Prediction {
                id: id.next()??,
                sha256: sha256.next()??,
                group: group.next()?,
                truth: truth.next()??,
                free_text: free_text.next()?,
                free_class: free_class.next()?,
                trie_class: trie_class.next()?,
                likelihood_class: likelihood_class.next()?,
                log_probs: log_probs.next()?,
            };
            Some((run_id.next()?, prediction))
        };
        let short_column = || general("a column is shorter than the table".into());
        (0..n).map(|_| row().ok_or_else(short_column)).collect()
    }
}

/// Place of the log-probabilities among the columns.
const LOG_PROBS: usize = 8;

/// A column of the type that is expected of it.
fn typed<T: DataType>(group: &dyn RowGroupReader, column: usize) -> ParquetResult<ColumnReaderImpl<T>> {
    let found = group.metadata().column(column).column_type();
    if found != T::get_physical_type() {
        let expected = T::get_physical_type();
        return Err(general(format!("column {column} is of type {found}, not {expected}")));
    }
    Ok(get_typed_column_reader(group.get_column_reader(column)?))
}

/// A flat column.
struct Column<T: DataType> {
    reader: ColumnReaderImpl<T>,
    nullable: bool,
}

impl<T: DataType> Column<T> {
    fn open(group: &dyn RowGroupReader, column: usize) -> ParquetResult<Self> {
        let described = group.metadata().column(column).column_descr();
        if described.max_rep_level() > 0 || described.max_def_level() > 1 {
            return Err(general(format!("column {column} is not flat")));
        }
        Ok(Self {
            nullable: described.max_def_level() > 0,
            reader: typed(group, column)?,
        })
    }

    /// The next `n` values, with nulls; fewer where the column ends.
    fn read(&mut self, n: usize) -> ParquetResult<Vec<Option<T::T>>> {
        let (mut values, mut present) = (Vec::new(), Vec::new());
        let levels = self.nullable.then_some(&mut present);
        read_records(&mut self.reader, n, levels, None, &mut values)?;
        if !self.nullable {
            return Ok(values.into_iter().map(Some).collect());
        }
        let mut values = values.into_iter();
        let value = |level| if level > 0 { values.next() } else { None };
        Ok(present.into_iter().map(value).collect())
    }
}

/// Reads `n` rows of a column, fewer where it ends; their number.
fn read_records<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    n: usize,
    mut definition: Option<&mut Vec<i16>>,
    mut repetition: Option<&mut Vec<i16>>,
    values: &mut Vec<T::T>,
) -> ParquetResult<usize> {
    let mut read = 0;
    while read < n {
        let (definition, repetition) = (definition.as_deref_mut(), repetition.as_deref_mut());
        match reader.read_records(n - read, definition, repetition, values)?.0 {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}

impl Column<ByteArrayType> {
    fn text(&mut self, n: usize) -> ParquetResult<Vec<Option<String>>> {
        let own = |value: ByteArray| Ok(value.as_utf8()?.to_owned());
        let values = self.read(n)?.into_iter();
        values.map(|value| value.map(own).transpose()).collect()
    }
}

impl Column<Int32Type> {
    fn class(&mut self, n: usize) -> ParquetResult<Vec<Option<u32>>> {
        let index = |value: i32| u32::try_from(value).map_err(|e| ParquetError::External(e.into()));
        let values = self.read(n)?.into_iter();
        values.map(|value| value.map(index).transpose()).collect()
    }
}

fn read_log_probs(reader: &mut ColumnReaderImpl<FloatType>, n: usize) -> ParquetResult<Vec<Option<Vec<f32>>>> {
    let (mut values, mut definition, mut repetition) = (Vec::new(), Vec::new(), Vec::new());
    let read = read_records(reader, n, Some(&mut definition), Some(&mut repetition), &mut values)?;
    let mut values = values.into_iter();
    let mut rows: Vec<Option<Vec<f32>>> = Vec::with_capacity(read);
    for (definition, repetition) in definition.into_iter().zip(repetition) {
        if repetition == 0 {
            rows.push((definition > 0).then(Vec::new));
        }
        if definition > 1
            && let Some(Some(row)) = rows.last_mut()
        {
            row.extend(values.next());
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    fn rows() -> impl Strategy<Value = Vec<Prediction>> {
        let class = || proptest::option::of(0..50_u32);
        let text = || proptest::option::of(".{0,12}");
        let log_prob = prop_oneof![-50.0_f32..0.0, Just(f32::NEG_INFINITY)];
        let log_probs = proptest::option::of(proptest::collection::vec(log_prob, 0..5));
        let row = (
            ".{1,12}",
            "[0-9a-f]{8}",
            text(),
            0..50_u32,
            (text(), class(), class(), class()),
            log_probs,
        )
            .prop_map(|(id, sha256, group, truth, answers, log_probs)| {
                let (free_text, free_class, trie_class, likelihood_class) = answers;
                Prediction {
                    id,
                    sha256,
                    group,
                    truth,
                    free_text,
                    free_class,
                    trie_class,
                    likelihood_class,
                    log_probs,
                }
            });
        proptest::collection::vec(row, 0..20)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_written_is_read_back(rows in rows(), classes in proptest::collection::vec(".{1,9}", 1..5)) {
            let bytes = encode("0", &classes, &rows).unwrap();
            prop_assert_eq!(&bytes, &encode("0", &classes, &rows).unwrap());
            let (read_classes, read_rows) = decode(Path::new("p"), bytes).unwrap();
            prop_assert_eq!(fingerprint(&read_classes, &read_rows), fingerprint(&classes, &rows));
            prop_assert_eq!(read_classes, classes);
            prop_assert_eq!(read_rows, rows);
        }

        #[test]
        fn a_torn_file_is_an_error(rows in rows(), cut in 0.0..1.0) {
            let bytes = encode("0", &["a".into()], &rows).unwrap();
            let whole = (cut * bytes.len() as f64) as usize;
            prop_assert!(decode(Path::new("p"), bytes[..whole].to_vec()).is_err());
        }
    }

    #[test]
    fn more_rows_than_one_read_returns() {
        let row = |i: u32| Prediction {
            id: format!("test/{i}.png"),
            sha256: "0".repeat(64),
            group: (!i.is_multiple_of(3)).then(|| format!("drawing-{}", i / 2)),
            truth: i % 102,
            free_text: None,
            free_class: None,
            trie_class: None,
            likelihood_class: Some(i % 7),
            log_probs: Some((0..102).map(|c| -((i * c % 97) as f32)).collect()),
        };
        let rows: Vec<_> = (0..9_000).map(row).collect();
        let classes: Vec<_> = (0..102).map(|c| format!("class {c}")).collect();
        let bytes = encode("0", &classes, &rows).unwrap();
        assert_eq!(decode(Path::new("p"), bytes).unwrap(), (classes, rows));
    }

    #[test]
    fn every_field_counts_in_the_fingerprint() {
        let row = Prediction {
            id: "a".into(),
            sha256: "b".into(),
            group: None,
            truth: 1,
            free_text: None,
            free_class: Some(1),
            trie_class: None,
            likelihood_class: None,
            log_probs: Some(vec![0.5]),
        };
        let classes = ["x".to_owned(), "y".to_owned()];
        let original = fingerprint(&classes, std::slice::from_ref(&row));
        let changes: [fn(&mut Prediction); 6] = [
            |r| std::mem::swap(&mut r.id, &mut r.sha256),
            |r| r.group = Some(String::new()),
            |r| r.truth = 0,
            |r| r.trie_class = r.free_class.take(), // the same value in the next column
            |r| r.log_probs = Some(vec![0.5, 0.5]),
            |r| r.log_probs = None,
        ];
        for change in changes {
            let mut changed = row.clone();
            change(&mut changed);
            assert_ne!(fingerprint(&classes, &[changed]), original);
        }
        assert_ne!(fingerprint(&["y".into(), "x".into()], &[row]), original);
    }
}
