//! Which columns of a file may be images and labels, from nothing but its footer.

use std::panic::{AssertUnwindSafe, catch_unwind};

use ::parquet::basic::Type;
use ::parquet::file::metadata::ParquetMetaDataReader;
use ::parquet::file::reader::Length as _;
use bytes::Bytes;

use super::source::Source;
use super::{check, names, said};

/// Columns in file order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidates {
    /// Structs with `bytes`.
    pub images: Vec<String>,
    /// Integers with names in the metadata, or text.
    pub labels: Vec<String>,
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
    check::footer(source)?;
    let Source::Bytes(bytes) = source else {
        return Err("it is not in memory".into());
    };
    let end = source.len().saturating_sub(8) as usize;
    let start = source.len().saturating_sub(footer_length(bytes)?) as usize;
    let footer = bytes.get(start..end).ok_or("it is torn")?;
    let metadata = ParquetMetaDataReader::decode_metadata(footer).map_err(said)?;
    let metadata = metadata.file_metadata();
    let entries = metadata.key_value_metadata().into_iter().flatten();
    let json = entries
        .filter(|entry| entry.key == "huggingface")
        .find_map(|entry| entry.value.as_deref());
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    for column in metadata.schema_descr().columns() {
        let is_bytes = column.physical_type() == Type::BYTE_ARRAY;
        match column.path().parts() {
            [name, inner] if inner == "bytes" && is_bytes => images.push(name.clone()),
            [name] if is_bytes => labels.push(name.clone()),
            [name] if matches!(column.physical_type(), Type::INT32 | Type::INT64) => {
                let named = json.map(|json| names::class_names(json, name)).transpose()?;
                if named.flatten().is_some() {
                    labels.push(name.clone());
                }
            }
            _ => {}
        }
    }
    Ok(Candidates { images, labels })
}
