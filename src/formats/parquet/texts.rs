//! Columns of text or numbers out of a parquet file that a user made.

use std::panic::{AssertUnwindSafe, catch_unwind};

use ::parquet::file::reader::FileReader as _;
use ::parquet::file::serialized_reader::SerializedFileReader;
use bytes::Bytes;

use crate::formats::parquet::column::{Label, LabelColumn};
use crate::formats::parquet::source::Source;
use crate::formats::parquet::{check, leaf, said};

/// Rows decoded at a time.
const BATCH: usize = 64;
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
    let source = Source::Bytes(Bytes::from(bytes));
    guarded(|| {
        check::footer(&source)?;
        let file = SerializedFileReader::new(source.clone()).map_err(said)?;
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
pub(crate) fn read(bytes: Vec<u8>, names: &[&str]) -> Result<Vec<Option<Texts>>, String> {
    let source = Source::Bytes(Bytes::from(bytes));
    guarded(|| named(&source, names))
}

fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("the reader gave up on damaged data".into()))
}

fn named(source: &Source, names: &[&str]) -> Result<Vec<Option<Texts>>, String> {
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
        let texts = text(source, &file, column).map_err(|reason| format!("column `{name}`: {reason}"))?;
        columns.push(Some(texts));
    }
    Ok(columns)
}

fn text(source: &Source, file: &SerializedFileReader<Source>, column: usize) -> Result<Texts, String> {
    let (mut texts, mut bytes) = (Vec::new(), 0_usize);
    for group in file.metadata().row_groups() {
        let mut left = usize::try_from(group.num_rows()).map_err(|_| "a row group of less than no rows")?;
        let mut reader = LabelColumn::open(source, group, column)?;
        while left > 0 {
            let rows = reader.next(left.min(BATCH))?;
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
