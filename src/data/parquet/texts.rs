//! Columns of text out of a parquet file that a user made.

use std::panic::{AssertUnwindSafe, catch_unwind};

use ::parquet::basic::Type;
use ::parquet::data_type::ByteArrayType;
use ::parquet::file::reader::FileReader as _;
use ::parquet::file::serialized_reader::SerializedFileReader;
use bytes::Bytes;

use super::column::Column;
use super::source::Source;
use super::{check, leaf, said};

/// Rows decoded at a time.
const BATCH: usize = 1024;

/// A column: a text or null for each row.
pub(crate) type Texts = Vec<Option<String>>;

/// The columns of some names, whatever their case; `None` for one that is not there.
///
/// # Errors
/// When the file is damaged, or such a column does not hold text.
pub(crate) fn read(bytes: Vec<u8>, names: &[&str]) -> Result<Vec<Option<Texts>>, String> {
    let source = Source::Bytes(Bytes::from(bytes));
    catch_unwind(AssertUnwindSafe(|| columns(&source, names)))
        .unwrap_or_else(|_| Err("the reader gave up on damaged data".into()))
}

fn columns(source: &Source, names: &[&str]) -> Result<Vec<Option<Texts>>, String> {
    check::footer(source)?;
    let file = SerializedFileReader::new(source.clone()).map_err(said)?;
    let schema = file.metadata().file_metadata().schema_descr();
    let mut columns = Vec::new();
    for name in names {
        let fields = schema.root_schema().get_fields();
        let found = fields
            .iter()
            .map(|field| field.name())
            .find(|found| found.eq_ignore_ascii_case(name));
        let Some(column) = found.and_then(|found| leaf(schema, &[found])) else {
            columns.push(None);
            continue;
        };
        let kind = schema.column(column).physical_type();
        if kind != Type::BYTE_ARRAY {
            return Err(format!("column `{name}` holds {kind}, not text"));
        }
        columns.push(Some(text(source, &file, column)?));
    }
    Ok(columns)
}

fn text(source: &Source, file: &SerializedFileReader<Source>, column: usize) -> Result<Texts, String> {
    let mut texts = Vec::new();
    for index in 0..file.num_row_groups() {
        let group = file.get_row_group(index).map_err(said)?;
        check::pages(source, group.metadata(), column)?;
        let mut left = usize::try_from(group.metadata().num_rows()).map_err(|_| "a row group of less than no rows")?;
        let mut reader = Column::<ByteArrayType>::open(group.as_ref(), column)?;
        while left > 0 {
            let rows = reader.next(left.min(BATCH))?;
            left -= rows.len();
            for row in rows {
                texts.push(
                    row.map(|value| value.as_utf8().map(str::to_owned).map_err(said))
                        .transpose()?,
                );
            }
        }
    }
    Ok(texts)
}
