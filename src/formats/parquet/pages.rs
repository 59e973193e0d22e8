//! The bytes of a parquet file up to its pages, unpacked: every size that parquet's own headers and footers claim (Thrift,
//! compact protocol) is compared with the bytes that are there before memory is set aside for it, and no page unpacks to more
//! than its header says.
//!
//! The parquet library sets aside what footers and the headers of delta encodings ask for, and its own reader of pages
//! unpacks gzip, Brotli and Zstandard for as long as they go on; hence this one. Values within pages are the library's affair.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use ::parquet::basic::{Compression, Encoding};
use ::parquet::column::page::{Page, PageMetadata, PageReader};
use ::parquet::errors::{ParquetError, Result as ParquetResult};
use ::parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use ::parquet::file::reader::{ChunkReader, Length};
use bytes::Bytes;

use crate::error::{Error, Result};

pub(crate) fn message(error: ParquetError) -> String {
    match error {
        ParquetError::General(reason) | ParquetError::EOF(reason) | ParquetError::NYI(reason) => reason,
        other => other.to_string(),
    }
}

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

/// Structs within structs: parquet's own go six deep.
const DEPTH: usize = 32;

/// A value of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeaderValue {
    /// An integer or boolean field.
    Number(i64),
    /// The number of items of a list, before its items.
    Items(u64),
}

/// Hears of what a header says, with its place; an error ends the walk.
type Tell<'a> = dyn FnMut(&[i16], HeaderValue) -> Result<(), String> + 'a;

/// A stream of the compact protocol.
struct Thrift<R>(R);

impl<R: Read> Thrift<R> {
    /// Walks one struct to its end and tells each number and each list's length with its place: field ids from
    /// the outermost struct inwards; items of a list share the list's place.
    ///
    /// # Errors
    /// When the stream ends early, nests too deeply, or holds a type that there is not.
    fn walk(&mut self, tell: &mut Tell<'_>) -> Result<(), String> {
        self.structure(&mut Vec::new(), tell)
    }

    fn structure(&mut self, place: &mut Vec<i16>, tell: &mut Tell<'_>) -> Result<(), String> {
        if place.len() > DEPTH {
            return Err("a header nests too deeply".into());
        }
        let mut id = 0_i16;
        loop {
            let head = self.byte()?;
            let kind = head & 0x0f;
            if kind == 0 {
                return Ok(());
            }
            id = match head >> 4 {
                0 => self.zigzag()? as i16,
                step => id.wrapping_add(i16::from(step)),
            };
            place.push(id);
            match kind {
                // A boolean field's value is its type.
                1 | 2 => tell(place, HeaderValue::Number(i64::from(kind == 1)))?,
                kind => self.value(kind, place, tell)?,
            }
            place.pop();
        }
    }

    fn value(&mut self, kind: u8, place: &mut Vec<i16>, tell: &mut Tell<'_>) -> Result<(), String> {
        match kind {
            // Within a list a boolean takes a byte.
            1..=3 => self.byte().map(|_| ()),
            4..=6 => {
                let number = self.zigzag()?;
                tell(place, HeaderValue::Number(number))
            }
            7 => self.skip(8),
            8 => {
                let length = self.varint()?;
                self.skip(length)
            }
            9 | 10 => {
                let head = self.byte()?;
                let items = match head >> 4 {
                    15 => self.varint()?,
                    few => u64::from(few),
                };
                tell(place, HeaderValue::Items(items))?;
                // Each item takes a byte at least, so that the stream ends before a lying number does.
                for _ in 0..items {
                    self.item(head & 0x0f, place, tell)?;
                }
                Ok(())
            }
            11 => {
                let items = self.varint()?;
                let kinds = if items > 0 { self.byte()? } else { 0 };
                for _ in 0..items {
                    self.item(kinds >> 4, place, tell)?;
                    self.item(kinds & 0x0f, place, tell)?;
                }
                Ok(())
            }
            12 => self.structure(place, tell),
            13 => self.skip(16),
            other => Err(format!("a header has a field of type {other}")),
        }
    }

    /// One item of a list; its place is one deeper so that lists of lists count as depth.
    fn item(&mut self, kind: u8, place: &mut Vec<i16>, tell: &mut Tell<'_>) -> Result<(), String> {
        if place.len() > DEPTH {
            return Err("a header nests too deeply".into());
        }
        if !matches!(kind, 9..=11) {
            return self.value(kind, place, tell);
        }
        place.push(0);
        self.value(kind, place, tell)?;
        place.pop();
        Ok(())
    }

    fn byte(&mut self) -> Result<u8, String> {
        let mut byte = [0];
        self.0.read_exact(&mut byte).map_err(|e| cut(&e))?;
        Ok(byte[0])
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a header holds a number of more than 64 bits".into())
    }

    fn zigzag(&mut self) -> Result<i64, String> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn skip(&mut self, bytes: u64) -> Result<(), String> {
        let skipped = io::copy(&mut (&mut self.0).take(bytes), &mut io::sink()).map_err(|e| cut(&e))?;
        if skipped == bytes {
            Ok(())
        } else {
            Err("a header is cut off, or longer than any".into())
        }
    }
}

fn cut(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "a header is cut off, or longer than any".into(),
        _ => error.to_string(),
    }
}

/// Bytes of a footer.
const FOOTER: u64 = 64 << 20;
/// Groups and columns of a schema: the library descends into them by recursion.
const SCHEMA_ELEMENTS: u64 = 1000;

/// Looks at a file's footer: its length, and how many elements its schema has.
pub(crate) fn footer(source: &ParquetInput) -> Result<(), String> {
    let torn = || "it is no parquet file, or torn".to_owned();
    let size = source.len();
    let tail = size.checked_sub(8).filter(|at| *at >= 4).ok_or_else(torn)?;
    let tail_bytes = source.get_bytes(tail, 8).map_err(message)?;
    let (length, magic) = tail_bytes.split_first_chunk::<4>().ok_or_else(torn)?;
    let length = u64::from(u32::from_le_bytes(*length));
    let start = tail.checked_sub(length).filter(|_| magic == b"PAR1").ok_or_else(torn)?;
    if length > FOOTER {
        return Err(format!("its footer claims {length} bytes"));
    }
    let from = source.get_read(start).map_err(message)?;
    Thrift(BufReader::new(from).take(length)).walk(&mut |place, value| match (place, value) {
        ([2], HeaderValue::Items(elements)) if elements > SCHEMA_ELEMENTS => {
            Err(format!("its schema claims {elements} elements"))
        }
        _ => Ok(()),
    })
}

/// A column of a row group.
pub(super) fn chunk(group: &RowGroupMetaData, column: usize) -> Result<&ColumnChunkMetaData, String> {
    let chunk = group.columns().get(column);
    chunk.ok_or_else(|| "a row group lacks a column".into())
}

/// Bytes of a page's header, which may hold the least and the greatest value.
const HEADER: u64 = 1 << 20;
/// Bytes that any page may unpack to, however few it has.
const FREE: u64 = 64 << 20;
/// The most that a byte of Snappy unpacks to: a copy of 64 bytes takes 3.
const SNAPPY_RATIO: u64 = 24;
/// The most that a byte of a large page may unpack to in the other codecs; what images are made of hardly shrinks at all.
const RATIO: u64 = 256;
/// Values of a page in a delta encoding: their lengths are set aside at once.
const DELTA_VALUES: u64 = 1 << 24;

/// The pages of one column of a row group, in order.
pub(super) struct Pages {
    source: ParquetInput,
    codec: Compression,
    name: String,
    at: u64,
    end: u64,
}

/// The fields of a page's header (parquet-format, `PageHeader`: 1 kind, 2 uncompressed size, 3 compressed size, 5 data
/// page, 7 dictionary, 8 data page of the second version).
#[derive(Debug, Default)]
struct Header {
    kind: i64,
    unpacked: i64,
    packed: i64,
    values: i64,
    encoding: i64,
    levels: [i64; 2],
    nulls: i64,
    rows: i64,
    /// Lengths of definition and repetition levels, which lie before what is compressed.
    level_bytes: [i64; 2],
    stored: bool,
}

impl Pages {
    /// # Errors
    /// When the column lies outside the file or is compressed in a way that is not read.
    pub(crate) fn open(source: &ParquetInput, group: &RowGroupMetaData, column: usize) -> Result<Self, String> {
        let chunk = chunk(group, column)?;
        let name = chunk.column_path().string();
        let outside = || format!("column `{name}` lies outside the file");
        let codec = chunk.compression();
        if matches!(codec, Compression::LZO) {
            return Err(format!("column `{name}` is compressed by LZO, which is not read"));
        }
        // Some writers have 0 for a dictionary that is not there.
        let dictionary = chunk.dictionary_page_offset().filter(|at| *at > 0);
        let first = dictionary.map_or(chunk.data_page_offset(), |at| at.min(chunk.data_page_offset()));
        let at = u64::try_from(first).map_err(|_| outside())?;
        let length = u64::try_from(chunk.compressed_size()).map_err(|_| outside())?;
        let end = at
            .checked_add(length)
            .filter(|end| *end <= source.len())
            .ok_or_else(outside)?;
        Ok(Self {
            source: source.clone(),
            codec,
            name,
            at,
            end,
        })
    }

    fn next_page(&mut self) -> Result<Option<Page>, String> {
        while self.at < self.end {
            let (header, length) = header(&self.source, self.at, self.end - self.at)?;
            let size = |number: i64| u64::try_from(number).map_err(|_| "a page of less than no bytes".to_owned());
            let (packed, unpacked) = (size(header.packed)?, size(header.unpacked)?);
            let start = self.at.saturating_add(length);
            let end = start.saturating_add(packed);
            if end > self.end {
                return Err(format!("column `{}` lies outside the file", self.name));
            }
            self.at = end;
            // Indices and whatever else may come.
            if !matches!(header.kind, 0 | 2 | 3) {
                continue;
            }
            let bytes = self.source.get_bytes(start, packed as usize).map_err(message)?;
            let bytes = self.unpack(&header, bytes, unpacked)?;
            return page(&header, bytes, &self.name).map(Some);
        }
        Ok(None)
    }

    fn unpack(&self, header: &Header, bytes: Bytes, unpacked: u64) -> Result<Bytes, String> {
        let before = header.level_bytes.iter().try_fold(0_u64, |sum, length| {
            u64::try_from(*length).ok().and_then(|length| sum.checked_add(length))
        });
        let before = before.filter(|before| *before <= unpacked.min(bytes.len() as u64));
        let before = before.ok_or_else(|| format!("levels of column `{}` are longer than their page", self.name))?;
        if self.codec == Compression::UNCOMPRESSED || header.stored {
            return Ok(bytes);
        }
        let packed = bytes.slice(before as usize..);
        let expected = unpacked - before;
        let (ratio, free) = match self.codec {
            Compression::SNAPPY => (SNAPPY_RATIO, 64),
            _ => (RATIO, FREE),
        };
        if expected > (packed.len() as u64).saturating_mul(ratio).saturating_add(free) {
            return Err(format!(
                "a page of column `{}` claims to unpack from {} to {unpacked} bytes",
                self.name,
                bytes.len()
            ));
        }
        // A page of nothing but nulls.
        if expected == 0 {
            return Ok(bytes.slice(..before as usize));
        }
        let mut whole = bytes.slice(..before as usize).to_vec();
        decompressed(self.codec, &packed, expected as usize, &mut whole)
            .map_err(|reason| format!("a page of column `{}` ({}): {reason}", self.name, name(self.codec)))?;
        if whole.len() as u64 == unpacked {
            Ok(whole.into())
        } else {
            Err(format!(
                "a page of column `{}` unpacks to {} bytes, {unpacked} are announced",
                self.name,
                whole.len()
            ))
        }
    }
}

fn name(codec: Compression) -> &'static str {
    match codec {
        Compression::UNCOMPRESSED => "uncompressed",
        Compression::SNAPPY => "Snappy",
        Compression::GZIP(_) => "gzip",
        Compression::LZO => "LZO",
        Compression::BROTLI(_) => "Brotli",
        Compression::LZ4 | Compression::LZ4_RAW => "LZ4",
        Compression::ZSTD(_) => "Zstandard",
    }
}

/// Unpacks to the end of `whole`, at most one byte more than `expected`.
fn decompressed(codec: Compression, packed: &[u8], expected: usize, whole: &mut Vec<u8>) -> Result<(), String> {
    let limit = expected as u64 + 1;
    let read = |from: &mut dyn Read, whole: &mut Vec<u8>| {
        whole.reserve_exact(expected);
        from.take(limit)
            .read_to_end(whole)
            .map(|_| ())
            .map_err(|e| e.to_string())
    };
    match codec {
        Compression::SNAPPY => {
            let length = snap::raw::decompress_len(packed).map_err(|e| e.to_string())?;
            if length != expected {
                return Err(format!("holds {length} bytes, {expected} are announced"));
            }
            let unpacked = snap::raw::Decoder::new()
                .decompress_vec(packed)
                .map_err(|e| e.to_string())?;
            whole.extend(unpacked);
            Ok(())
        }
        Compression::GZIP(_) => read(&mut flate2::read::MultiGzDecoder::new(packed), whole),
        Compression::BROTLI(_) => read(&mut brotli_decompressor::Decompressor::new(packed, 1 << 16), whole),
        Compression::ZSTD(_) => {
            let mut frame = ruzstd::decoding::StreamingDecoder::new(packed).map_err(|e| e.to_string())?;
            read(&mut frame, whole)
        }
        Compression::LZ4_RAW => lz4(packed, expected, whole),
        // The older name, under which Hadoop puts lengths before each block, and others nothing.
        Compression::LZ4 => {
            let start = whole.len();
            hadoop(packed, expected, whole).or_else(|_| {
                whole.truncate(start);
                lz4(packed, expected, whole)
            })
        }
        Compression::UNCOMPRESSED | Compression::LZO => Err("cannot be unpacked".into()),
    }
}

fn lz4(packed: &[u8], expected: usize, whole: &mut Vec<u8>) -> Result<(), String> {
    let start = whole.len();
    whole.resize(start + expected, 0);
    let room = whole.get_mut(start..).unwrap_or_default();
    let written = lz4_flex::block::decompress_into(packed, room).map_err(|e| e.to_string())?;
    whole.truncate(start + written);
    Ok(())
}

/// Blocks, each with its length unpacked and packed in front (big-endian).
fn hadoop(mut packed: &[u8], expected: usize, whole: &mut Vec<u8>) -> Result<(), String> {
    let torn = || "is torn".to_owned();
    let mut left = expected;
    while !packed.is_empty() {
        let (unpacked, rest) = packed.split_first_chunk::<4>().ok_or_else(torn)?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(torn)?;
        let block = rest.split_at_checked(u32::from_be_bytes(*length) as usize);
        let (block, rest) = block.ok_or_else(torn)?;
        let unpacked = u32::from_be_bytes(*unpacked) as usize;
        left = left.checked_sub(unpacked).ok_or_else(torn)?;
        lz4(block, unpacked, whole)?;
        packed = rest;
    }
    if left == 0 { Ok(()) } else { Err(torn()) }
}

/// The page header at an offset, and its length.
fn header(source: &ParquetInput, at: u64, room: u64) -> Result<(Header, u64), String> {
    let from = source.get_read(at).map_err(message)?;
    let most = room.min(HEADER);
    let mut thrift = Thrift(BufReader::with_capacity(512, from).take(most));
    let mut header = Header::default();
    thrift.walk(&mut |place, value| {
        let HeaderValue::Number(number) = value else {
            return Ok(());
        };
        let field = match place {
            [1] => &mut header.kind,
            [2] => &mut header.unpacked,
            [3] => &mut header.packed,
            [5 | 7 | 8, 1] => &mut header.values,
            [5 | 7, 2] | [8, 4] => &mut header.encoding,
            [5, 3] => &mut header.levels[0],
            [5, 4] => &mut header.levels[1],
            [8, 2] => &mut header.nulls,
            [8, 3] => &mut header.rows,
            [8, 5] => &mut header.level_bytes[0],
            [8, 6] => &mut header.level_bytes[1],
            [8, 7] => {
                header.stored = number == 0;
                return Ok(());
            }
            _ => return Ok(()),
        };
        *field = number;
        Ok(())
    })?;
    Ok((header, most - thrift.0.limit()))
}

fn encoding(number: i64) -> Result<Encoding, String> {
    Ok(match number {
        0 => Encoding::PLAIN,
        2 => Encoding::PLAIN_DICTIONARY,
        3 => Encoding::RLE,
        #[expect(deprecated, reason = "files of its time still have it")]
        4 => Encoding::BIT_PACKED,
        5 => Encoding::DELTA_BINARY_PACKED,
        6 => Encoding::DELTA_LENGTH_BYTE_ARRAY,
        7 => Encoding::DELTA_BYTE_ARRAY,
        8 => Encoding::RLE_DICTIONARY,
        9 => Encoding::BYTE_STREAM_SPLIT,
        other => return Err(format!("a page is in encoding {other}, which parquet does not know")),
    })
}

/// A page as the library takes it, once its numbers were compared with its bytes.
fn page(header: &Header, buf: Bytes, name: &str) -> Result<Page, String> {
    let number = |number: i64| u32::try_from(number).map_err(|_| "a page of less than no values".to_owned());
    let (num_values, of_values) = (number(header.values)?, encoding(header.encoding)?);
    match header.kind {
        2 => {
            // The least value takes four bytes: a length, or a number.
            if u64::from(num_values) > buf.len() as u64 / 4 {
                return Err(format!("a dictionary of column `{name}` claims {num_values} values"));
            }
            Ok(Page::DictionaryPage {
                buf,
                num_values,
                encoding: of_values,
                is_sorted: false,
            })
        }
        0 => {
            check_delta(&buf, None, of_values, num_values).map_err(|e| format!("column `{name}`: {e}"))?;
            Ok(Page::DataPage {
                buf,
                num_values,
                encoding: of_values,
                def_level_encoding: encoding(header.levels[0])?,
                rep_level_encoding: encoding(header.levels[1])?,
                statistics: None,
            })
        }
        _ => {
            let [def, rep] = header.level_bytes;
            let (def, rep) = (number(def)?, number(rep)?);
            let start = u64::from(def) + u64::from(rep);
            check_delta(&buf, Some(start as usize), of_values, num_values)
                .map_err(|e| format!("column `{name}`: {e}"))?;
            Ok(Page::DataPageV2 {
                buf,
                num_values,
                encoding: of_values,
                num_nulls: number(header.nulls)?,
                num_rows: number(header.rows)?,
                def_levels_byte_len: def,
                rep_levels_byte_len: rep,
                is_compressed: false,
                statistics: None,
            })
        }
    }
}

impl Iterator for Pages {
    type Item = ParquetResult<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> ParquetResult<Option<Page>> {
        self.next_page().map_err(ParquetError::General)
    }

    fn peek_next_page(&mut self) -> ParquetResult<Option<PageMetadata>> {
        Err(ParquetError::General("pages are read in order only".into()))
    }

    fn skip_next_page(&mut self) -> ParquetResult<()> {
        Err(ParquetError::General("pages are read in order only".into()))
    }
}

/// Compares the number of values that a page's delta encodings claim with that of its header. `start`: where the
/// values begin; `None`: behind definition levels with their length in front, if there are any.
fn check_delta(buf: &[u8], start: Option<usize>, encoding: Encoding, values: u32) -> Result<(), String> {
    if !matches!(
        encoding,
        Encoding::DELTA_BINARY_PACKED | Encoding::DELTA_LENGTH_BYTE_ARRAY | Encoding::DELTA_BYTE_ARRAY
    ) {
        return Ok(());
    }
    let at = |start: usize| buf.get(start..).unwrap_or_default();
    let starts = match start {
        Some(start) => vec![start],
        // Whether there are levels is for the schema to say: each reading is looked at, one must hold.
        None => {
            let levels = buf
                .first_chunk::<4>()
                .map(|length| u32::from_le_bytes(*length) as usize);
            [Some(0), levels.and_then(|length| length.checked_add(4))]
                .into_iter()
                .flatten()
                .collect()
        }
    };
    let is_sound = |start: &usize| {
        let mut rest = at(*start);
        let streams = if encoding == Encoding::DELTA_BYTE_ARRAY { 2 } else { 1 };
        (0..streams).try_for_each(|_| {
            let (claimed, length) = delta_stream(rest)?;
            rest = rest.get(length..)?;
            (claimed <= u64::from(values) && claimed <= DELTA_VALUES).then_some(())
        })
    };
    if starts.iter().any(|start| is_sound(start).is_some()) {
        Ok(())
    } else {
        Err(format!(
            "a page of {values} values in {encoding} claims another number, or is torn"
        ))
    }
}

/// Number of values and length in bytes of a stream in `DELTA_BINARY_PACKED`.
fn delta_stream(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut at = 0;
    let varint = |at: &mut usize| {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *bytes.get(*at)?;
            *at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    };
    let (block, minis) = (varint(&mut at)?, varint(&mut at)?);
    let values = varint(&mut at)?;
    varint(&mut at)?;
    let of_mini = block.checked_div(minis)?;
    if of_mini == 0 || of_mini % 8 != 0 || minis > bytes.len() as u64 || block > u64::from(u32::MAX) {
        return None;
    }
    let mut left = values.saturating_sub(1);
    while left > 0 {
        varint(&mut at)?;
        let widths = bytes.get(at..at.checked_add(minis as usize)?)?;
        at += widths.len();
        for width in widths {
            if left > 0 {
                at = at.checked_add(usize::from(*width).checked_mul(of_mini as usize / 8)?)?;
            }
            left = left.saturating_sub(of_mini);
        }
    }
    (at <= bytes.len()).then_some((values, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(bytes: &[u8]) -> Result<Vec<(Vec<i16>, HeaderValue)>, String> {
        let mut seen = Vec::new();
        Thrift(bytes).walk(&mut |place, value| {
            seen.push((place.to_vec(), value));
            Ok(())
        })?;
        Ok(seen)
    }

    #[test]
    fn numbers_and_lists_are_told_with_their_places() {
        // 1: i32 -3; 2: "ab"; 5: struct { 1: i64 300 }; 6: list of two i32.
        let bytes = [
            0x15, 0x05, 0x18, 2, b'a', b'b', 0x3c, 0x16, 0xd8, 0x04, 0, 0x19, 0x25, 2, 4, 0,
        ];
        let expected = [
            (vec![1], HeaderValue::Number(-3)),
            (vec![5, 1], HeaderValue::Number(300)),
            (vec![6], HeaderValue::Items(2)),
            (vec![6], HeaderValue::Number(1)),
            (vec![6], HeaderValue::Number(2)),
        ];
        assert_eq!(told(&bytes).unwrap(), expected);
    }

    #[test]
    fn what_lies_about_its_length_or_depth_is_an_error() {
        assert!(told(&[0x18, 0xff, 0xff, 0xff, 0xff, 0x0f, 1]).is_err());
        assert!(told(&[0x19, 0xf5, 0xff, 0xff, 0xff, 0xff, 0x0f, 1]).is_err());
        assert!(told(&[0x1c; 4000]).unwrap_err().contains("too deeply"));
        assert!(
            told(&[[0x19].as_slice(), &[0x19; 4000]].concat())
                .unwrap_err()
                .contains("too deeply")
        );
        assert!(told(&[0x1e]).is_err());
        assert!(told(&[0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err());
    }
}
