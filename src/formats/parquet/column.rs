//! Columns of a row group, a few rows at a time: images, labels, texts and numbers.

use std::panic::{AssertUnwindSafe, catch_unwind};

use ::parquet::basic::Type;
use ::parquet::column::reader::{ColumnReaderImpl, get_column_reader, get_typed_column_reader};
use ::parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int32Type, Int64Type};
use ::parquet::file::metadata::RowGroupMetaData;
use ::parquet::file::reader::FileReader as _;
use ::parquet::file::serialized_reader::SerializedFileReader;
use bytes::Bytes;

use crate::formats::parquet::input::ParquetInput;
use crate::formats::parquet::pages::Pages;
use crate::formats::parquet::{leaf, message, thrift};

/// Rows decoded at a time.
const BATCH: usize = 16;

/// Image, path and label of one row.
type Cells = (Option<ByteArray>, Option<String>, Option<Label>);

/// Columns of one row group.
pub(super) struct Group {
    /// Rows still to come.
    pub rows: u64,
    pub image: Column<ByteArrayType>,
    pub path: Option<Column<ByteArrayType>>,
    pub label: LabelColumn,
}

/// A column of texts or of numbers that stand for names.
pub(super) enum LabelColumn {
    Bool(Column<BoolType>),
    Int32(Column<Int32Type>),
    Int64(Column<Int64Type>),
    Float(Column<FloatType>),
    Double(Column<DoubleType>),
    Text(Column<ByteArrayType>),
}

/// A label as it stands in the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Label {
    Index(i64),
    Name(String),
}

impl LabelColumn {
    /// # Errors
    /// When the column is of another kind, or lies outside the file.
    pub(crate) fn open(source: &ParquetInput, group: &RowGroupMetaData, column: usize) -> Result<Self, String> {
        let kind = group
            .columns()
            .get(column)
            .ok_or("a row group lacks a column")?
            .column_type();
        Ok(match kind {
            Type::BOOLEAN => Self::Bool(Column::open(source, group, column)?),
            Type::INT32 => Self::Int32(Column::open(source, group, column)?),
            Type::INT64 => Self::Int64(Column::open(source, group, column)?),
            Type::FLOAT => Self::Float(Column::open(source, group, column)?),
            Type::DOUBLE => Self::Double(Column::open(source, group, column)?),
            Type::BYTE_ARRAY => Self::Text(Column::open(source, group, column)?),
            other => return Err(format!("labels are {other}, neither texts nor numbers")),
        })
    }

    /// Exactly the next `n` labels.
    fn next(&mut self, n: usize) -> Result<Vec<Option<Label>>, String> {
        fn of<T>(
            values: Vec<Option<T>>,
            label: impl Fn(T) -> Result<Option<Label>, String>,
        ) -> Result<Vec<Option<Label>>, String> {
            values.into_iter().map(|value| value.map_or(Ok(None), &label)).collect()
        }
        let index = |value: i64| Ok(Some(Label::Index(value)));
        // A column of floats is one of integers that has had gaps: pandas makes it so.
        let float = |value: f64| match value {
            value if value.is_nan() => Ok(None),
            value if value.fract() == 0.0 && value.abs() < 1e15 => index(value as i64),
            value => Err(format!("label {value} is no whole number")),
        };
        let text = |value: ByteArray| Ok(Some(Label::Name(value.as_utf8().map_err(message)?.to_owned())));
        match self {
            // As Python writes them.
            Self::Bool(column) => of(column.next(n)?, |value| {
                Ok(Some(Label::Name(if value { "True" } else { "False" }.to_owned())))
            }),
            Self::Int32(column) => of(column.next(n)?, |value| index(value.into())),
            Self::Int64(column) => of(column.next(n)?, index),
            Self::Float(column) => of(column.next(n)?, |value| float(value.into())),
            Self::Double(column) => of(column.next(n)?, float),
            Self::Text(column) => of(column.next(n)?, text),
        }
    }
}

impl Group {
    /// The next rows: image, path, label.
    pub(crate) fn batch(&mut self) -> Result<Vec<Cells>, String> {
        let n = BATCH.min(usize::try_from(self.rows).unwrap_or(BATCH));
        self.rows -= n as u64;
        let images = self.image.next(n)?;
        let paths = match &mut self.path {
            Some(column) => column.next(n)?,
            None => vec![None; n],
        };
        let labels = self.label.next(n)?;
        let paths = paths
            .into_iter()
            .map(|path| path.map(|p| String::from_utf8_lossy(p.data()).into_owned()));
        Ok(images
            .into_iter()
            .zip(paths)
            .zip(labels)
            .map(|((image, path), label)| (image, path, label))
            .collect())
    }
}

/// One leaf column of a row group.
pub(super) struct Column<T: DataType> {
    reader: ColumnReaderImpl<T>,
    nullable: bool,
    /// Definition level of a value that is there.
    present: i16,
}

impl<T: DataType> Column<T> {
    pub(crate) fn open(source: &ParquetInput, group: &RowGroupMetaData, column: usize) -> Result<Self, String> {
        let described = group
            .columns()
            .get(column)
            .ok_or("a row group lacks a column")?
            .column_descr_ptr();
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
        if rows.len() == n {
            Ok(rows)
        } else {
            Err("a column has not as many values as rows".into())
        }
    }
}

/// Rows decoded at a time.
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
    guarded(|| {
        thrift::footer(&source)?;
        let file = SerializedFileReader::new(source.clone()).map_err(message)?;
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
    let source = ParquetInput::Bytes(Bytes::from(bytes));
    guarded(|| named(&source, names))
}

fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("the reader gave up on damaged data".into()))
}

fn named(source: &ParquetInput, names: &[&str]) -> Result<Vec<Option<Texts>>, String> {
    thrift::footer(source)?;
    let file = SerializedFileReader::new(source.clone()).map_err(message)?;
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

fn text(source: &ParquetInput, file: &SerializedFileReader<ParquetInput>, column: usize) -> Result<Texts, String> {
    let (mut texts, mut bytes) = (Vec::new(), 0_usize);
    for group in file.metadata().row_groups() {
        let mut left = usize::try_from(group.num_rows()).map_err(|_| "a row group of less than no rows")?;
        let mut reader = LabelColumn::open(source, group, column)?;
        while left > 0 {
            let rows = reader.next(left.min(TEXT_BATCH))?;
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
