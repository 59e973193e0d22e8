//! MATLAB version 5 files: numeric, char, cell and struct arrays.
//!
//! After "MAT-File Format" (MathWorks, chapter 1): a 128-byte header, then data elements, each a tag
//! (type, byte count) with its data, small ones packed into the tag itself; a variable is a `miMATRIX`
//! element, usually within a zlib-compressed one. Only what label files hold is read; sparse arrays,
//! objects, function handles and complex numbers are errors, never silently left out.

use std::io::Read as _;
use std::path::Path;

use flate2::bufread::ZlibDecoder;

use crate::error::{Error, Result};

/// Inflated bytes of one file: the largest real label file inflates to 2.9 MB.
const MAX_INFLATED: u64 = 256 << 20;
/// Cells within cells: label files have one level.
const MAX_DEPTH: usize = 16;

/// A value and its dimensions.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Rows, columns, …
    pub dims: Vec<usize>,
    /// The elements, first dimension fastest.
    pub data: Data,
}

/// Contents of an [`Array`].
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// Every numeric and logical class, widened to `f64` (64-bit integers above 2⁵³ are rounded).
    Numeric(Vec<f64>),
    /// A row of characters.
    Char(String),
    /// One array per cell.
    Cell(Vec<Array>),
    /// An array of structs.
    Struct {
        /// Field names, in file order.
        fields: Vec<String>,
        /// All fields of the first struct, then all of the second, …
        values: Vec<Array>,
    },
}

impl Array {
    /// The numbers, if it is numeric.
    #[must_use]
    pub fn numbers(&self) -> Option<&[f64]> {
        match &self.data {
            Data::Numeric(values) => Some(values),
            _ => None,
        }
    }

    /// The text, if it is a row of characters.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.data {
            Data::Char(text) => Some(text),
            _ => None,
        }
    }

    /// The cells, if it is a cell array.
    #[must_use]
    pub fn cells(&self) -> Option<&[Self]> {
        match &self.data {
            Data::Cell(cells) => Some(cells),
            _ => None,
        }
    }

    /// One field of every struct, if it is a struct array with that field.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<Vec<&Self>> {
        match &self.data {
            Data::Struct { fields, values } => {
                let at = fields.iter().position(|field| field == name)?;
                Some(values.iter().skip(at).step_by(fields.len()).collect())
            }
            _ => None,
        }
    }
}

/// The variables of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct MatFile(pub Vec<(String, Array)>);

impl MatFile {
    /// Reads a file from disk.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Labels`] when it is no MATLAB 5 file, truncated or of an unknown kind.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        Self::parse(&bytes).map_err(|reason| Error::Labels {
            path: path.into(),
            reason,
        })
    }

    /// Reads a file in memory.
    ///
    /// # Errors
    /// Description of the fault, for people.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let is_hdf5 = |at: usize| bytes.iter().skip(at).take(8).eq(b"\x89HDF\r\n\x1a\n");
        if bytes.starts_with(b"MATLAB 7.3") || is_hdf5(0) || is_hdf5(512) {
            return Err("a MATLAB 7.3 (HDF5) file; only version 5 is read".into());
        }
        let Some((header, body)) = bytes.split_at_checked(128) else {
            return Err("no MATLAB 5 file: shorter than its 128-byte header".into());
        };
        match header.get(124..128) {
            Some([0, 1, b'I', b'M']) => {}
            Some([1, 0, b'M', b'I']) => return Err("a big-endian MATLAB file; only little-endian is read".into()),
            _ => return Err("no MATLAB 5 file: the version mark in its header is missing".into()),
        }
        let mut left = MAX_INFLATED;
        let mut variables = Vec::new();
        let mut rest = Bytes(body);
        while !rest.0.is_empty() {
            // Compressed elements are not padded to 8 bytes; MATLAB and scipy agree on it.
            let (kind, data) = rest
                .element(false)
                .map_err(|e| format!("variable {}: {e}", variables.len() + 1))?;
            match kind {
                MI_COMPRESSED => {
                    let inflated = inflate(data, &mut left)?;
                    let (kind, data) = Bytes(&inflated).element(true)?;
                    if kind != MI_MATRIX {
                        return Err(format!("a compressed element holds type {kind}, not a matrix"));
                    }
                    variables.push(Bytes(data).matrix(0)?);
                }
                MI_MATRIX => {
                    variables.push(Bytes(data).matrix(0)?);
                    rest.skip_padding(data.len());
                }
                other => return Err(format!("element of type {other} where a variable should stand")),
            }
        }
        Ok(Self(variables))
    }

    /// The variable of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Array> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, array)| array)
    }
}

fn inflate(data: &[u8], left: &mut u64) -> Result<Vec<u8>, String> {
    let mut inflated = Vec::new();
    let read = ZlibDecoder::new(data).take(*left + 1).read_to_end(&mut inflated);
    let read = read.map_err(|e| format!("compressed variable is damaged: {e}"))? as u64;
    *left = left
        .checked_sub(read)
        .ok_or("inflates to more than any label file holds")?;
    Ok(inflated)
}

// Data types of elements (table 1-1); those of numbers stand in `numbers`.
const MI_INT8: u32 = 1;
const MI_UINT8: u32 = 2;
const MI_INT32: u32 = 5;
const MI_UINT32: u32 = 6;
const MI_MATRIX: u32 = 14;
const MI_COMPRESSED: u32 = 15;

/// Bytes yet to be read.
#[derive(Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or_else(|| format!("truncated: {count} bytes announced, {} left", self.0.len()))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.take(4).map(|bytes| integer(bytes) as u32)
    }

    /// Data of a full element end on a multiple of 8; the last one's padding may be missing.
    fn skip_padding(&mut self, length: usize) {
        let padding = length.wrapping_neg() % 8;
        self.0 = self.0.get(padding..).unwrap_or_default();
    }

    /// The next element's type and data.
    fn element(&mut self, padded: bool) -> Result<(u32, &'a [u8]), String> {
        let tag = self.u32()?;
        let small = (tag >> 16) as usize;
        if small > 0 {
            let data = self.take(4)?;
            let data = data.get(..small);
            return Ok((
                tag & 0xffff,
                data.ok_or_else(|| format!("small element of {small} bytes"))?,
            ));
        }
        let length = self.u32()? as usize;
        let data = self.take(length)?;
        if padded {
            self.skip_padding(length);
        }
        Ok((tag, data))
    }

    /// The next element's data, which must have a type.
    fn element_of(&mut self, kind: u32, what: &str) -> Result<&'a [u8], String> {
        match self.element(true)? {
            (found, data) if found == kind => Ok(data),
            (found, _) => Err(format!("{what} has type {found}, not {kind}")),
        }
    }

    /// The content of a `miMATRIX` element: name and value.
    fn matrix(mut self, depth: usize) -> Result<(String, Array), String> {
        if self.0.is_empty() {
            let (dims, data) = (vec![0, 0], Data::Numeric(Vec::new()));
            return Ok((String::new(), Array { dims, data }));
        }
        if depth > MAX_DEPTH {
            return Err("cells nested too deeply".into());
        }
        let flags = self.element_of(MI_UINT32, "array flags")?;
        let (Some(class), Some(bits)) = (flags.first(), flags.get(1)) else {
            return Err("array flags are too short".into());
        };
        let dims = self.element_of(MI_INT32, "dimensions")?;
        let dims: Vec<usize> = numbers(MI_INT32, dims)?.iter().map(|d| *d as usize).collect();
        let count = dims.iter().try_fold(1_usize, |count, dim| count.checked_mul(*dim));
        let (Some(count), 2..) = (count, dims.len()) else {
            return Err(format!("impossible dimensions {dims:?}"));
        };
        let name = ascii(self.element_of(MI_INT8, "name")?)?;
        // Arrays within cells and structs have no names.
        let within = |error: String| match name.as_str() {
            "" => error,
            name => format!("variable `{name}`: {error}"),
        };
        let data = match class {
            1 => self.arrays(count, depth).map(Data::Cell),
            2 => self.structs(count, depth),
            4 => self.characters(&dims, count),
            6..=15 if bits & 0x08 != 0 => Err("complex numbers are not read".into()),
            6..=15 => self.numeric(count),
            other => Err(format!("array class {other} (sparse, object or function) is not read")),
        };
        let data = data.map_err(within)?;
        Ok((name, Array { dims, data }))
    }

    fn numeric(mut self, count: usize) -> Result<Data, String> {
        let (kind, data) = self.element(true)?;
        let values = numbers(kind, data)?;
        if values.len() != count {
            return Err(format!("{} numbers for {count} elements", values.len()));
        }
        Ok(Data::Numeric(values))
    }

    fn characters(mut self, dims: &[usize], count: usize) -> Result<Data, String> {
        if count > 0 && dims.first() != Some(&1) {
            return Err(format!("characters of dimensions {dims:?}; only one row is read"));
        }
        let (kind, data) = self.element(true)?;
        let text = match kind {
            // Single bytes are UTF-8 to some writers and Latin-1 to others; both agree on ASCII.
            MI_INT8 | MI_UINT8 => Ok(std::str::from_utf8(data)
                .map_or_else(|_| data.iter().copied().map(char::from).collect(), str::to_owned)),
            16 => std::str::from_utf8(data).map(str::to_owned).map_err(|e| e.to_string()),
            4 | 17 if data.len().is_multiple_of(2) => {
                let units: Vec<u16> = data.chunks(2).map(|unit| integer(unit) as u16).collect();
                String::from_utf16(&units).map_err(|e| e.to_string())
            }
            other => Err(format!("characters of type {other} are not read")),
        }?;
        Ok(Data::Char(text))
    }

    fn structs(mut self, count: usize, depth: usize) -> Result<Data, String> {
        let width = numbers(MI_INT32, self.element_of(MI_INT32, "field name length")?)?;
        let [width] = width.as_slice() else {
            return Err("field name length is no single number".into());
        };
        let names = self.element_of(MI_INT8, "field names")?;
        let width = *width as usize;
        if width == 0 || !names.len().is_multiple_of(width) {
            return Err(format!("field names of {width} bytes in {} bytes", names.len()));
        }
        let fields = names.chunks(width).map(ascii).collect::<Result<Vec<_>, _>>()?;
        let count = count.checked_mul(fields.len()).ok_or("impossible dimensions")?;
        let values = self.arrays(count, depth)?;
        Ok(Data::Struct { fields, values })
    }

    fn arrays(&mut self, count: usize, depth: usize) -> Result<Vec<Array>, String> {
        // Each takes a tag of 8 bytes at least: no allocation on the word of a damaged dimension.
        let left = self.0.len();
        if count > left / 8 {
            return Err(format!("truncated: {count} arrays announced, {left} bytes left"));
        }
        let array = |_| Ok(Bytes(self.element_of(MI_MATRIX, "array")?).matrix(depth + 1)?.1);
        (0..count).map(array).collect()
    }
}

/// Zero-padded ASCII.
fn ascii(bytes: &[u8]) -> Result<String, String> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let text = bytes.get(..end).unwrap_or_default();
    if text.is_ascii() {
        Ok(text.iter().copied().map(char::from).collect())
    } else {
        Err("a name that is not ASCII".into())
    }
}

/// Up to eight little-endian bytes.
fn integer(bytes: &[u8]) -> u64 {
    let bytes = bytes.iter().take(8).rev();
    bytes.fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Numbers of a data type, widened.
fn numbers(kind: u32, data: &[u8]) -> Result<Vec<f64>, String> {
    let (width, widen): (usize, fn(u64) -> f64) = match kind {
        1 => (1, |v| f64::from(v as i8)),
        2 => (1, |v| v as f64),
        3 => (2, |v| f64::from(v as i16)),
        4 => (2, |v| v as f64),
        5 => (4, |v| f64::from(v as i32)),
        6 => (4, |v| v as f64),
        7 => (4, |v| f64::from(f32::from_bits(v as u32))),
        9 => (8, f64::from_bits),
        12 => (8, |v| v as i64 as f64),
        13 => (8, |v| v as f64),
        other => return Err(format!("numbers of type {other} are not read")),
    };
    if !data.len().is_multiple_of(width) {
        return Err(format!("{} bytes of numbers of {width} bytes", data.len()));
    }
    Ok(data.chunks(width).map(|bytes| widen(integer(bytes))).collect())
}
