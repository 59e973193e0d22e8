//! Are the sizes in a file's footer such as the file can hold?

use std::io::Read as _;

use ::parquet::file::reader::{ChunkReader as _, Length as _};

use crate::formats::parquet::said;
use crate::formats::parquet::source::Source;
use crate::formats::parquet::thrift::{Said, Thrift};

/// Bytes of a footer.
const FOOTER: u64 = 64 << 20;
/// Groups and columns of a schema: the library descends into them by recursion.
const SCHEMA_ELEMENTS: u64 = 1000;

/// Looks at a file's footer: its length, and how many elements its schema has.
pub(crate) fn footer(source: &Source) -> Result<(), String> {
    let torn = || "it is no parquet file, or torn".to_owned();
    let size = source.len();
    let tail = size.checked_sub(8).filter(|at| *at >= 4).ok_or_else(torn)?;
    let tail_bytes = source.get_bytes(tail, 8).map_err(said)?;
    let (length, magic) = tail_bytes.split_first_chunk::<4>().ok_or_else(torn)?;
    let length = u64::from(u32::from_le_bytes(*length));
    let start = tail.checked_sub(length).filter(|_| magic == b"PAR1").ok_or_else(torn)?;
    if length > FOOTER {
        return Err(format!("its footer claims {length} bytes"));
    }
    let from = source.get_read(start).map_err(said)?;
    Thrift(std::io::BufReader::new(from).take(length)).walk(&mut |place, said| match (place, said) {
        ([2], Said::Items(elements)) if elements > SCHEMA_ELEMENTS => {
            Err(format!("its schema claims {elements} elements"))
        }
        _ => Ok(()),
    })
}
