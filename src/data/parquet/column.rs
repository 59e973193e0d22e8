//! Columns of a row group, a few rows at a time.

use ::parquet::column::reader::{ColumnReaderImpl, get_typed_column_reader};
use ::parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use ::parquet::file::reader::RowGroupReader;

use super::said;

/// Rows decoded at a time.
const BATCH: usize = 16;

/// Image, path and label of one row.
pub(super) type Cells = (Option<ByteArray>, Option<String>, Option<Label>);

/// Columns of one row group.
pub(super) struct Group {
    /// Rows still to come.
    pub rows: u64,
    pub image: Column<ByteArrayType>,
    pub path: Option<Column<ByteArrayType>>,
    pub label: LabelColumn,
}

pub(super) enum LabelColumn {
    Int32(Column<Int32Type>),
    Int64(Column<Int64Type>),
    Text(Column<ByteArrayType>),
}

pub(super) enum Label {
    Index(i64),
    Name(String),
}

impl Group {
    /// The next rows: image, path, label.
    pub(super) fn batch(&mut self) -> Result<Vec<Cells>, String> {
        let n = BATCH.min(usize::try_from(self.rows).unwrap_or(BATCH));
        self.rows -= n as u64;
        let images = self.image.next(n)?;
        let paths = match &mut self.path {
            Some(column) => column.next(n)?,
            None => vec![None; n],
        };
        let text = |value: ByteArray| value.as_utf8().map(|text| Label::Name(text.to_owned())).map_err(said);
        let labels: Vec<Option<Label>> = match &mut self.label {
            LabelColumn::Int32(column) => {
                let labels = column.next(n)?.into_iter();
                labels.map(|value| value.map(|v| Label::Index(v.into()))).collect()
            }
            LabelColumn::Int64(column) => column
                .next(n)?
                .into_iter()
                .map(|value| value.map(Label::Index))
                .collect(),
            LabelColumn::Text(column) => {
                let labels = column.next(n)?.into_iter();
                labels
                    .map(|value| value.map(text).transpose())
                    .collect::<Result<_, _>>()?
            }
        };
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
    pub(super) fn open(group: &dyn RowGroupReader, column: usize) -> Result<Self, String> {
        let present = group.metadata().column(column).column_descr().max_def_level();
        Ok(Self {
            reader: get_typed_column_reader::<T>(group.get_column_reader(column).map_err(said)?),
            nullable: present > 0,
            present,
        })
    }

    /// Exactly the next `n` values.
    pub(super) fn next(&mut self, n: usize) -> Result<Vec<Option<T::T>>, String> {
        let (mut values, mut levels) = (Vec::new(), Vec::new());
        let mut read = 0;
        while read < n {
            let levels = self.nullable.then_some(&mut levels);
            match self
                .reader
                .read_records(n - read, levels, None, &mut values)
                .map_err(said)?
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
