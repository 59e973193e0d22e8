//! The columns of a Parquet table as text.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use parquet::basic::Type;
use parquet::column::reader::get_typed_column_reader;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader as _, RowGroupReader};
use parquet::file::serialized_reader::SerializedFileReader;

use super::Record;

/// Rows read at once.
const BATCH: usize = 4096;

pub(super) fn records(bytes: Vec<u8>) -> Result<Vec<Record>, String> {
    // The library asserts what a damaged file need not keep to.
    catch_unwind(AssertUnwindSafe(|| read(bytes))).map_err(|_| "damaged: the Parquet reader gave up".to_owned())?
}

fn read(bytes: Vec<u8>) -> Result<Vec<Record>, String> {
    let words = |e: ParquetError| match e {
        ParquetError::General(text) if text.contains("Disabled feature") => {
            format!("{text}; write it with the compression snappy or gzip, or with none")
        }
        other => other.to_string(),
    };
    let file = SerializedFileReader::new(Bytes::from(bytes)).map_err(words)?;
    let schema = file.metadata().file_metadata().schema_descr();
    let column = |name: &str| -> Result<Option<usize>, String> {
        let found = (0..schema.num_columns()).find(|i| schema.column(*i).path().string().eq_ignore_ascii_case(name));
        match found {
            Some(at) if schema.column(at).physical_type() != Type::BYTE_ARRAY => Err(format!(
                "column `{name}` holds {}, not text",
                schema.column(at).physical_type()
            )),
            other => Ok(other),
        }
    };
    let (Some(image), Some(label)) = (column("path")?, column("label")?) else {
        let names: Vec<_> = schema.columns().iter().map(|c| c.path().string()).collect();
        return Err(format!(
            "needs the columns `path` and `label`, it has: {}",
            names.join(", ")
        ));
    };
    let split = column("split")?;
    let mut records = Vec::new();
    for index in 0..file.num_row_groups() {
        let group = file.get_row_group(index).map_err(words)?;
        let text = |column| read_text(group.as_ref(), column).map_err(words);
        let (images, labels) = (text(image)?, text(label)?);
        let splits = split.map(text).transpose()?;
        if images.len() != labels.len() || splits.as_ref().is_some_and(|splits| splits.len() != images.len()) {
            return Err("its columns differ in length".into());
        }
        let mut splits = splits.map(Vec::into_iter);
        let rows = images.into_iter().zip(labels);
        records.extend(rows.map(|(image, label)| (image, label, splits.as_mut().and_then(Iterator::next))));
    }
    Ok(records)
}

/// A column, nulls as empty text.
fn read_text(group: &dyn RowGroupReader, column: usize) -> Result<Vec<String>, ParquetError> {
    let descriptor = group.metadata().column(column).column_descr_ptr();
    if descriptor.max_rep_level() > 0 {
        return Err(ParquetError::General(format!(
            "column `{}` holds lists",
            descriptor.name()
        )));
    }
    let present = descriptor.max_def_level();
    let mut reader = get_typed_column_reader::<ByteArrayType>(group.get_column_reader(column)?);
    let mut texts = Vec::new();
    loop {
        let (mut values, mut levels): (Vec<ByteArray>, Vec<i16>) = (Vec::new(), Vec::new());
        let (read, ..) = reader.read_records(BATCH, (present > 0).then_some(&mut levels), None, &mut values)?;
        if read == 0 {
            return Ok(texts);
        }
        if present == 0 {
            levels = vec![0; values.len()];
        }
        let mut values = values.iter();
        for level in levels {
            let value = if level == present { values.next() } else { None };
            texts.push(value.map_or(Ok(""), ByteArray::as_utf8)?.trim().to_owned());
        }
    }
}
