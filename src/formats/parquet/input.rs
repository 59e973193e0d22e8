//! The bytes of a parquet file: on disk or in memory.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use ::parquet::errors::Result as ParquetResult;
use ::parquet::file::reader::{ChunkReader, Length};
use bytes::Bytes;

use crate::error::{Error, Result};

/// A file on disk or bytes in memory, cheap to clone.
#[derive(Clone)]
pub(crate) enum ParquetInput {
    File(Arc<File>),
    Bytes(Bytes),
}

impl ParquetInput {
    pub(crate) fn file(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        Ok(Self::File(Arc::new(file)))
    }
}

impl Length for ParquetInput {
    fn len(&self) -> u64 {
        match self {
            Self::File(file) => Length::len(file.as_ref()),
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }
}

impl ChunkReader for ParquetInput {
    type T = Box<dyn Read>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(match self {
            Self::File(file) => Box::new(file.get_read(start)?),
            Self::Bytes(bytes) => Box::new(bytes.get_read(start)?),
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        match self {
            Self::File(file) => file.get_bytes(start, length),
            Self::Bytes(bytes) => bytes.get_bytes(start, length),
        }
    }
}
