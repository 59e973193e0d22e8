//! Prediction files back to rows; anything torn is an error.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use bytes::Bytes;
use parquet::column::reader::{ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int32Type};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{ChunkReader, FileReader as _, RowGroupReader};
use parquet::file::serialized_reader::SerializedFileReader;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::prediction::Prediction;
use crate::store::record::SCHEMA;

/// Class names and rows of a prediction file.
///
/// # Errors
/// [`Error::Malformed`] naming `path` when the bytes are torn, or are no file of ours.
pub fn decode(path: &Path, bytes: Vec<u8>) -> Result<(Vec<String>, Vec<Prediction>)> {
    guarded(|| decode_rows(bytes)).map_err(|e| malformed(path, e.to_string()))
}

/// The parquet library asserts what it takes for granted; a file that somebody changed, with the hash beside it made to fit, must
/// not end the process.
pub(super) fn guarded<T>(work: impl FnOnce() -> ParquetResult<T>) -> ParquetResult<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(general("the reader gave up on damaged data".into())))
}

pub(super) fn malformed(path: &Path, reason: String) -> Error {
    Error::Malformed {
        kind: "prediction file",
        path: path.into(),
        reason,
    }
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
pub(super) fn open<R: ChunkReader + 'static>(from: R) -> ParquetResult<SerializedFileReader<R>> {
    let file = SerializedFileReader::new(from)?;
    let schema: u32 = metadata(&file, "schema")?;
    if (SCHEMA - 1..=SCHEMA).contains(&schema) {
        Ok(file)
    } else {
        Err(general(format!("schema {schema} is not known")))
    }
}

/// A value of the file's metadata, which holds JSON.
pub(super) fn metadata<T: DeserializeOwned, R: ChunkReader + 'static>(
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

pub(super) fn general(reason: String) -> ParquetError {
    ParquetError::General(reason)
}

/// Rows that are read at a time: what a reader holds beside a page of each column.
const BATCH: usize = 1_024;

/// The rows of a row group, read in lockstep from all columns, a batch at a time.
pub(super) struct Rows {
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
    pub(super) fn open(group: &dyn RowGroupReader, with_run_ids: bool) -> ParquetResult<Self> {
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
    pub(super) fn batch(&mut self) -> ParquetResult<Vec<(Option<String>, Prediction)>> {
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
        (0..n).map(|_| row().ok_or_else(short_column)).collect()
    }
}

/// Place of the log-probabilities among the columns.
const LOG_PROBS: usize = 8;

fn short_column() -> ParquetError {
    general("a column is shorter than the table".into())
}

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
        let (mut values, mut present, mut read) = (Vec::new(), Vec::new(), 0);
        while read < n {
            let levels = self.nullable.then_some(&mut present);
            match self.reader.read_records(n - read, levels, None, &mut values)?.0 {
                0 => break,
                more => read += more,
            }
        }
        if !self.nullable {
            return Ok(values.into_iter().map(Some).collect());
        }
        let mut values = values.into_iter();
        Ok(present
            .into_iter()
            .map(|level| if level > 0 { values.next() } else { None })
            .collect())
    }
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
    let (mut values, mut definition, mut repetition, mut read) = (Vec::new(), Vec::new(), Vec::new(), 0);
    while read < n {
        match reader
            .read_records(n - read, Some(&mut definition), Some(&mut repetition), &mut values)?
            .0
        {
            0 => break,
            more => read += more,
        }
    }
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
