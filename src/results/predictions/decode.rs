//! Prediction files back to rows; anything torn is an error.

use std::path::Path;

use bytes::Bytes;
use parquet::column::reader::get_typed_column_reader;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int32Type};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{FileReader as _, RowGroupReader};
use parquet::file::serialized_reader::SerializedFileReader;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::prediction::Prediction;
use crate::results::record::SCHEMA;

/// Class names and rows of a prediction file.
///
/// The bytes have to be those of a file that was once written whole, or a part of it: the parser may
/// panic on bits that flipped since. [`crate::results::store::Store`] checks their hash first.
///
/// # Errors
/// [`Error::Malformed`] naming `path` when the bytes are torn, or are no file of ours.
pub fn decode(path: &Path, bytes: Vec<u8>) -> Result<(Vec<String>, Vec<Prediction>)> {
    decode_rows(bytes).map_err(|e| malformed(path, e.to_string()))
}

pub(super) fn malformed(path: &Path, reason: String) -> Error {
    Error::Malformed {
        kind: "prediction file",
        path: path.into(),
        reason,
    }
}

fn decode_rows(bytes: Vec<u8>) -> ParquetResult<(Vec<String>, Vec<Prediction>)> {
    let file = open(bytes)?;
    let classes = metadata(&file, "classes")?;
    let mut rows = Vec::new();
    for index in 0..file.num_row_groups() {
        let group = file.get_row_group(index)?;
        rows.append(&mut read_rows(group.as_ref())?);
    }
    Ok((classes, rows))
}

/// A file of this schema or the one before, which differ in records only.
pub(super) fn open(bytes: Vec<u8>) -> ParquetResult<SerializedFileReader<Bytes>> {
    let file = SerializedFileReader::new(Bytes::from(bytes))?;
    let schema: u32 = metadata(&file, "schema")?;
    if (SCHEMA - 1..=SCHEMA).contains(&schema) {
        Ok(file)
    } else {
        Err(general(format!("schema {schema} is not known")))
    }
}

/// A value of the file's metadata, which holds JSON.
pub(super) fn metadata<T: DeserializeOwned>(file: &SerializedFileReader<Bytes>, key: &str) -> ParquetResult<T> {
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

/// All rows of a row group.
pub(super) fn read_rows(group: &dyn RowGroupReader) -> ParquetResult<Vec<Prediction>> {
    let n = row_count(group)?;
    let mut id = read_text(group, 0, n)?.into_iter();
    let mut sha256 = read_text(group, 1, n)?.into_iter();
    let mut groups = read_text(group, 2, n)?.into_iter();
    let mut truth = read_class(group, 3, n)?.into_iter();
    let mut free_text = read_text(group, 4, n)?.into_iter();
    let mut free_class = read_class(group, 5, n)?.into_iter();
    let mut trie_class = read_class(group, 6, n)?.into_iter();
    let mut likelihood_class = read_class(group, 7, n)?.into_iter();
    let mut log_probs = read_log_probs(group, 8, n)?.into_iter();
    let mut row = || {
        Some(Prediction {
            id: id.next()??,
            sha256: sha256.next()??,
            group: groups.next()?,
            truth: truth.next()??,
            free_text: free_text.next()?,
            free_class: free_class.next()?,
            trie_class: trie_class.next()?,
            likelihood_class: likelihood_class.next()?,
            log_probs: log_probs.next()?,
        })
    };
    (0..n).map(|_| row().ok_or_else(short_column)).collect()
}

/// A required text column of a row group.
pub(super) fn read_names(group: &dyn RowGroupReader, column: usize) -> ParquetResult<Vec<String>> {
    let names = read_text(group, column, row_count(group)?)?;
    names.into_iter().map(|name| name.ok_or_else(short_column)).collect()
}

fn row_count(group: &dyn RowGroupReader) -> ParquetResult<usize> {
    usize::try_from(group.metadata().num_rows()).map_err(|e| ParquetError::External(e.into()))
}

fn short_column() -> ParquetError {
    general("a column is shorter than the table".into())
}

/// All values of a flat column, with its nulls, as many as there are.
fn read_column<T: DataType>(group: &dyn RowGroupReader, column: usize, n: usize) -> ParquetResult<Vec<Option<T::T>>> {
    let mut reader = get_typed_column_reader::<T>(group.get_column_reader(column)?);
    let nullable = group.metadata().column(column).column_descr().max_def_level() > 0;
    let (mut values, mut present) = (Vec::new(), Vec::new());
    while reader
        .read_records(n, nullable.then_some(&mut present), None, &mut values)?
        .0
        > 0
    {}
    if !nullable {
        return Ok(values.into_iter().map(Some).collect());
    }
    let mut values = values.into_iter();
    Ok(present
        .into_iter()
        .map(|level| if level > 0 { values.next() } else { None })
        .collect())
}

fn read_text(group: &dyn RowGroupReader, column: usize, n: usize) -> ParquetResult<Vec<Option<String>>> {
    let own = |value: ByteArray| Ok(value.as_utf8()?.to_owned());
    read_column::<ByteArrayType>(group, column, n)?
        .into_iter()
        .map(|value| value.map(own).transpose())
        .collect()
}

fn read_class(group: &dyn RowGroupReader, column: usize, n: usize) -> ParquetResult<Vec<Option<u32>>> {
    let index = |value: i32| u32::try_from(value).map_err(|e| ParquetError::External(e.into()));
    read_column::<Int32Type>(group, column, n)?
        .into_iter()
        .map(|value| value.map(index).transpose())
        .collect()
}

fn read_log_probs(group: &dyn RowGroupReader, column: usize, n: usize) -> ParquetResult<Vec<Option<Vec<f32>>>> {
    let mut reader = get_typed_column_reader::<FloatType>(group.get_column_reader(column)?);
    let (mut values, mut definition, mut repetition) = (Vec::new(), Vec::new(), Vec::new());
    while reader
        .read_records(n, Some(&mut definition), Some(&mut repetition), &mut values)?
        .0
        > 0
    {}
    let mut values = values.into_iter();
    let mut rows: Vec<Option<Vec<f32>>> = Vec::with_capacity(n);
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
