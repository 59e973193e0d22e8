//! Sizes in parquet's own headers and footers (Thrift, compact protocol), checked before the parquet library is let near them:
//! it sets aside what a header asks for, however little the file holds.

use std::io;
use std::io::Read;

use ::parquet::file::reader::{ChunkReader as _, Length as _};

use crate::formats::parquet::input::ParquetInput;
use crate::formats::parquet::message;

/// Structs within structs: parquet's own go six deep.
const DEPTH: usize = 32;

/// A value of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderValue {
    /// An integer or boolean field.
    Number(i64),
    /// The number of items of a list, before its items.
    Items(u64),
}

/// Hears of what a header says, with its place; an error ends the walk.
type Tell<'a> = dyn FnMut(&[i16], HeaderValue) -> Result<(), String> + 'a;

/// A stream of the compact protocol.
pub(super) struct Thrift<R>(pub R);

impl<R: Read> Thrift<R> {
    /// Walks one struct to its end and tells each number and each list's length with its place: field ids from
    /// the outermost struct inwards; items of a list share the list's place.
    ///
    /// # Errors
    /// When the stream ends early, nests too deeply, or holds a type that there is not.
    pub(crate) fn walk(&mut self, tell: &mut Tell<'_>) -> Result<(), String> {
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
    Thrift(std::io::BufReader::new(from).take(length)).walk(&mut |place, value| match (place, value) {
        ([2], HeaderValue::Items(elements)) if elements > SCHEMA_ELEMENTS => {
            Err(format!("its schema claims {elements} elements"))
        }
        _ => Ok(()),
    })
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
