//! Are the sizes in a file's headers such as the file can hold?

use std::io::Read as _;

use ::parquet::basic::Compression;
use ::parquet::file::metadata::RowGroupMetaData;
use ::parquet::file::reader::{ChunkReader as _, Length as _};

use super::said;
use super::source::Source;
use super::thrift::{Said, Thrift};

/// Bytes of a page's header, which may hold the least and the greatest value.
const PAGE_HEADER: u64 = 1 << 20;
/// Bytes of a footer.
const FOOTER: u64 = 64 << 20;
/// Groups and columns of a schema: the library descends into them by recursion.
const SCHEMA_ELEMENTS: u64 = 1000;
/// What a byte of Snappy may unpack to: a copy of 64 bytes takes 3.
const SNAPPY_RATIO: i64 = 24;

/// Plain, and the two names of dictionary indices: the encodings that Python's writers use. Others set aside memory
/// by what they say.
const ENCODINGS: [i64; 3] = [0, 2, 8];

/// Whether a column's pages lie within the file and unpack to no more than they can hold.
pub(super) fn pages(source: &Source, group: &RowGroupMetaData, column: usize) -> Result<(), String> {
    let chunk = group.columns().get(column).ok_or("a row group lacks a column")?;
    let name = chunk.column_path().string();
    let outside = || format!("column `{name}` lies outside the file");
    let compression = chunk.compression();
    if !matches!(compression, Compression::UNCOMPRESSED | Compression::SNAPPY) {
        return Err(format!(
            "column `{name}` is compressed by {compression}; only Snappy and none are read"
        ));
    }
    let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
    let mut at = u64::try_from(start).map_err(|_| outside())?;
    let length = u64::try_from(chunk.compressed_size()).map_err(|_| outside())?;
    let end = at
        .checked_add(length)
        .filter(|end| *end <= source.len())
        .ok_or_else(outside)?;
    while at < end {
        let page = page(source, at, end - at)?;
        if compression == Compression::SNAPPY
            && page.unpacked > page.packed.saturating_mul(SNAPPY_RATIO).saturating_add(64)
        {
            return Err(format!(
                "a page of column `{name}` claims to unpack from {} to {} bytes",
                page.packed, page.unpacked
            ));
        }
        let holds = if compression == Compression::SNAPPY {
            page.unpacked
        } else {
            page.packed
        };
        if page.dictionary_values > holds / 4 {
            return Err(format!(
                "a dictionary of column `{name}` claims {} values",
                page.dictionary_values
            ));
        }
        let packed = u64::try_from(page.packed).map_err(|_| outside())?;
        at = at.saturating_add(page.header).saturating_add(packed);
    }
    if at == end { Ok(()) } else { Err(outside()) }
}

/// Sizes of one page, as its header says.
#[derive(Debug, Default)]
struct Page {
    header: u64,
    packed: i64,
    unpacked: i64,
    dictionary_values: i64,
}

/// The page header at an offset (parquet-format, `PageHeader`: 2 uncompressed size, 3 compressed size, 5 data page,
/// 7 dictionary, 8 data page of the second version).
fn page(source: &Source, at: u64, room: u64) -> Result<Page, String> {
    let from = source.get_read(at).map_err(said)?;
    let most = room.min(PAGE_HEADER);
    let mut thrift = Thrift(std::io::BufReader::new(from).take(most));
    let mut page = Page::default();
    thrift.walk(&mut |place, said| {
        let Said::Number(number) = said else { return Ok(()) };
        match place {
            [2] => page.unpacked = number,
            [3] => page.packed = number,
            [7, 1] => page.dictionary_values = number,
            [5, 2] | [7, 2] | [8, 4] if !ENCODINGS.contains(&number) => {
                return Err(format!(
                    "a page is in encoding {number}; only plain and dictionary pages are read"
                ));
            }
            _ => {}
        }
        Ok(())
    })?;
    if page.packed < 0 || page.unpacked < 0 || page.dictionary_values < 0 {
        return Err("a page of less than no bytes".into());
    }
    page.header = most - thrift.0.limit();
    Ok(page)
}

/// Looks at a file's footer: its length, and how many elements its schema has.
pub(super) fn footer(source: &Source) -> Result<(), String> {
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
