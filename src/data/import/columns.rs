//! Which columns of a file may be images and labels, from nothing but its footer.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use ::parquet::basic::{Compression, ConvertedType, Type};
use ::parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader};
use ::parquet::file::reader::{FileReader as _, Length as _};
use ::parquet::file::serialized_reader::SerializedFileReader;
use ::parquet::file::statistics::Statistics;
use bytes::Bytes;

use crate::data::layout::table::usual_label;
use crate::error::Error;
use crate::formats::parquet;
use crate::formats::parquet::source::Source;
use crate::formats::parquet::{said, thrift};

/// Columns in file order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Candidates {
    /// Structs with `bytes`.
    pub images: Vec<String>,
    /// Integers with names in the metadata.
    pub named: Vec<String>,
    /// Texts, and booleans.
    pub texts: Vec<String>,
    /// Integers without names.
    pub numbers: Vec<String>,
    /// Which of the columns of labels have no label in any row, as far as the footer says so: nulls, or −1.
    pub unlabelled: Vec<String>,
    /// Class names by column, where the metadata has them.
    pub names: BTreeMap<String, Vec<String>>,
    /// Columns of images or labels that are compressed in a way that is not read: LZO.
    pub unread: Vec<String>,
    /// Number of rows.
    pub rows: u64,
}

impl Candidates {
    /// Every column that may be one of labels, the surest first.
    pub(crate) fn labels(&self) -> impl Iterator<Item = &String> {
        self.named.iter().chain(&self.texts).chain(&self.numbers)
    }

    /// True if no row has a label in a column, as far as the footer says so.
    pub(crate) fn is_unlabelled(&self, label: &str) -> bool {
        self.unlabelled.iter().any(|column| column == label) || !self.labels().any(|column| column == label)
    }

    /// The column of images by its usual name, or the only one.
    pub(crate) fn image(&self, asked: Option<&str>) -> Option<&String> {
        match asked {
            Some(name) => self.images.iter().find(|column| *column == name),
            None => ["image", "img", "picture", "photo"]
                .iter()
                .find_map(|name| self.images.iter().find(|column| column.eq_ignore_ascii_case(name)))
                .or(match self.images.as_slice() {
                    [only] => Some(only),
                    _ => None,
                }),
        }
    }

    /// The column of labels by its usual name, or the only one with class names.
    pub(crate) fn label(&self, asked: Option<&str>) -> Option<&String> {
        if let Some(name) = asked {
            return self.labels().find(|column| *column == name);
        }
        let usual = self.labels().filter_map(|column| Some((usual_label(column)?, column)));
        usual
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, column)| column)
            .or(match self.named.as_slice() {
                [only] => Some(only),
                _ => None,
            })
    }
}

/// Length of the footer that a file ends with, magic and length included; `tail` is at least the last eight bytes.
///
/// # Errors
/// When these are not the last bytes of a parquet file.
pub(crate) fn footer_length(tail: &[u8]) -> Result<u64, String> {
    match tail.last_chunk::<8>() {
        Some([a, b, c, d, b'P', b'A', b'R', b'1']) => Ok(u64::from(u32::from_le_bytes([*a, *b, *c, *d])) + 8),
        _ => Err("it is no parquet file".into()),
    }
}

/// The columns that a footer describes. `tail` is any end of a file that holds its whole footer.
///
/// # Errors
/// When the footer is torn or damaged.
pub(crate) fn candidates(tail: Vec<u8>) -> Result<Candidates, String> {
    let source = Source::Bytes(Bytes::from([b"PAR1", tail.as_slice()].concat()));
    catch_unwind(AssertUnwindSafe(|| find(&source))).unwrap_or_else(|_| Err("its footer is damaged".into()))
}

fn find(source: &Source) -> Result<Candidates, String> {
    thrift::footer(source)?;
    let Source::Bytes(bytes) = source else {
        return Err("it is not in memory".into());
    };
    let end = source.len().saturating_sub(8) as usize;
    let start = source.len().saturating_sub(footer_length(bytes)?) as usize;
    let footer = bytes.get(start..end).ok_or("it is torn")?;
    let metadata = ParquetMetaDataReader::decode_metadata(footer).map_err(said)?;
    describe(&metadata)
}

fn describe(metadata: &ParquetMetaData) -> Result<Candidates, String> {
    let groups = metadata.row_groups();
    let metadata = metadata.file_metadata();
    let entries = metadata.key_value_metadata().into_iter().flatten();
    let json = entries
        .filter(|entry| entry.key == "huggingface")
        .find_map(|entry| entry.value.as_deref());
    let mut found = Candidates {
        rows: u64::try_from(metadata.num_rows()).unwrap_or(0),
        ..Candidates::default()
    };
    for (at, column) in metadata.schema_descr().columns().iter().enumerate() {
        let kind = column.physical_type();
        match column.path().parts() {
            [name, inner] if inner == "bytes" && kind == Type::BYTE_ARRAY => found.images.push(name.clone()),
            // Plain bytes that are marked as no text.
            [name]
                if kind == Type::BYTE_ARRAY
                    && column.logical_type_ref().is_none()
                    && column.converted_type() == ConvertedType::NONE =>
            {
                found.images.push(name.clone());
            }
            [name] if matches!(kind, Type::BYTE_ARRAY | Type::BOOLEAN) => found.texts.push(name.clone()),
            [name] if matches!(kind, Type::INT32 | Type::INT64 | Type::FLOAT | Type::DOUBLE) => {
                match json.map(|json| parquet::class_names(json, name)).transpose()?.flatten() {
                    Some(names) => {
                        found.named.push(name.clone());
                        found.names.insert(name.clone(), names);
                    }
                    None => found.numbers.push(name.clone()),
                }
            }
            _ => continue,
        }
        let chunks = groups.iter().filter_map(|group| group.columns().get(at));
        if chunks.into_iter().any(|chunk| chunk.compression() == Compression::LZO) {
            found.unread.extend(column.path().parts().first().cloned());
        }
        if let [name] = column.path().parts()
            && !groups.is_empty()
            && groups
                .iter()
                .all(|group| group.columns().get(at).is_some_and(is_unlabelled))
        {
            found.unlabelled.push(name.clone());
        }
    }
    Ok(found)
}

/// True if a column has nothing but nulls or numbers below 0, as its statistics say.
fn is_unlabelled(column: &ColumnChunkMetaData) -> bool {
    let Some(statistics) = column.statistics() else {
        return false;
    };
    let values = u64::try_from(column.num_values()).unwrap_or(u64::MAX);
    let is_negative = match statistics {
        Statistics::Int32(range) => range.max_opt().is_some_and(|most| *most < 0),
        Statistics::Int64(range) => range.max_opt().is_some_and(|most| *most < 0),
        _ => false,
    };
    is_negative || statistics.null_count_opt().is_some_and(|nulls| nulls == values)
}

/// The columns of a file on this machine.
///
/// # Errors
/// [`Error::Parquet`] when it is none, or damaged; [`Error::Io`].
pub(crate) fn of_file(path: &Path) -> Result<Candidates, Error> {
    let source = Source::file(path)?;
    let found = catch_unwind(AssertUnwindSafe(|| {
        thrift::footer(&source)?;
        let file = SerializedFileReader::new(source).map_err(said)?;
        describe(file.metadata())
    }));
    found
        .unwrap_or_else(|_| Err("its footer is damaged".into()))
        .map_err(crate::formats::parquet::wrong(path))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ::parquet::file::metadata::{FileMetaData, RowGroupMetaData};
    use ::parquet::schema::parser::parse_message_type;
    use ::parquet::schema::types::SchemaDescriptor;

    use super::*;

    #[test]
    fn a_codec_that_is_not_read_is_seen_in_the_footer() {
        let schema = "message rows { required group image { optional binary bytes; } required int64 label; }";
        let schema = Arc::new(SchemaDescriptor::new(Arc::new(parse_message_type(schema).unwrap())));
        let with = |codecs: [Compression; 2]| {
            let chunks = schema.columns().iter().zip(codecs).map(|(column, codec)| {
                ColumnChunkMetaData::builder(Arc::clone(column))
                    .set_compression(codec)
                    .build()
                    .unwrap()
            });
            let group = RowGroupMetaData::builder(Arc::clone(&schema))
                .set_column_metadata(chunks.collect())
                .build()
                .unwrap();
            let file = FileMetaData::new(1, 0, None, None, Arc::clone(&schema), None);
            describe(&ParquetMetaData::new(file, vec![group])).unwrap().unread
        };
        assert!(with([Compression::SNAPPY; 2]).is_empty());
        assert_eq!(with([Compression::LZO, Compression::SNAPPY]), ["image"]);
        assert_eq!(with([Compression::SNAPPY, Compression::LZO]), ["label"]);
    }
}
