//! Small files of every form, well-formed or with one lie.
use flate2::{Compress, Compression, FlushCompress};
use image::ImageFormat;

/// A picture of 9 × 7 pixels.
pub fn picture() -> image::RgbImage {
    image::RgbImage::from_fn(9, 7, |x, y| {
        image::Rgb([(x * 29) as u8, (y * 37) as u8, (x * y * 11) as u8])
    })
}

pub fn encoded(format: ImageFormat) -> Vec<u8> {
    let mut bytes = Vec::new();
    picture()
        .write_to(&mut std::io::Cursor::new(&mut bytes), format)
        .unwrap();
    bytes
}

/// Bytes of a string of hex digits.
pub fn hex(digits: &str) -> Vec<u8> {
    let pair = |i: usize| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap();
    (0..digits.len() / 2).map(pair).collect()
}

/// A tar header; the name is taken as it is.
pub fn tar_header(name: &str, kind: tar::EntryType, size: u64, link: &str) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    header
}

/// A tar of entries: name, kind, link target, content.
pub fn tar(entries: &[(&str, tar::EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, link, content) in entries {
        builder
            .append(&tar_header(name, *kind, content.len() as u64, link), *content)
            .unwrap();
    }
    builder.into_inner().unwrap()
}

/// An entry of a zip as its two headers describe it, whatever its content really is.
pub struct ZipEntry<'a> {
    pub name: &'a str,
    /// Deflated bytes; empty where the entry shares those of the one before it.
    pub deflated: &'a [u8],
    pub said_size: u64,
    /// `st_mode`, of which the upper half says what the entry is.
    pub mode: u32,
}

/// A zip by hand: nothing is checked, sizes above 32 bits are in ZIP64 fields.
pub fn zip_by_hand(entries: &[ZipEntry]) -> Vec<u8> {
    let (mut bytes, mut central) = (Vec::new(), Vec::new());
    let (mut at, mut packed) = (0_u32, 0_u32);
    let short = |value: usize| (value as u16).to_le_bytes();
    for entry in entries {
        let extra: Vec<u8> = if entry.said_size > u64::from(u32::MAX) {
            [&[1, 0, 8, 0][..], &entry.said_size.to_le_bytes()].concat()
        } else {
            Vec::new()
        };
        let size = u32::try_from(entry.said_size).unwrap_or(u32::MAX).to_le_bytes();
        let fields = |packed: u32| {
            let lengths = [short(entry.name.len()), short(extra.len())].concat();
            [
                &[45, 0, 0, 0, 8, 0, 0, 0, 0x21, 0][..],
                &[0; 4],
                &packed.to_le_bytes(),
                &size,
                &lengths,
            ]
            .concat()
        };
        if !entry.deflated.is_empty() {
            (at, packed) = (bytes.len() as u32, entry.deflated.len() as u32);
            bytes.extend([b"PK\x03\x04".as_slice(), &fields(packed), entry.name.as_bytes(), &extra].concat());
            bytes.extend(entry.deflated);
        }
        central.extend([b"PK\x01\x02".as_slice(), &[45, 3], &fields(packed), &[0; 6]].concat());
        central.extend([(entry.mode << 16).to_le_bytes(), at.to_le_bytes()].concat());
        central.extend([entry.name.as_bytes(), &extra].concat());
    }
    let start = bytes.len() as u32;
    let counts = [short(entries.len()), short(entries.len())].concat();
    let ends = [(central.len() as u32).to_le_bytes(), start.to_le_bytes()].concat();
    bytes.extend(central);
    bytes.extend([b"PK\x05\x06\0\0\0\0".as_slice(), &counts, &ends, &[0, 0]].concat());
    bytes
}

/// Deflated zeros, so many mebibytes of them, in about a thousandth of their size: one block, flushed to whole
/// bytes without looking back, again and again.
pub fn deflated_zeros(mebibytes: usize, first: &[u8]) -> Vec<u8> {
    let flushed = |bytes: &[u8], flush| {
        let mut compress = Compress::new(Compression::best(), false);
        let mut out = Vec::with_capacity(bytes.len() + 4096);
        compress.compress_vec(bytes, &mut out, flush).unwrap();
        out
    };
    let mut bytes = flushed(first, FlushCompress::Full);
    bytes.extend(flushed(&vec![0; 1 << 20], FlushCompress::Full).repeat(mebibytes));
    bytes.extend(flushed(&[], FlushCompress::Finish));
    bytes
}

/// A gzip member around a deflated stream; its checksum is wrong, but stands at its end.
pub fn gz_of_deflated(deflated: &[u8]) -> Vec<u8> {
    [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], deflated, &[0; 8]].concat()
}

/// MATLAB 5 files, uncompressed, of the forms that label files have.
pub mod mat {
    fn element(kind: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = [kind.to_le_bytes(), (data.len() as u32).to_le_bytes()].concat();
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    pub fn matrix(class: u32, dims: [i32; 2], name: &str, content: &[u8]) -> Vec<u8> {
        let flags = [class.to_le_bytes(), [0; 4]].concat();
        let dims: Vec<u8> = dims.iter().flat_map(|dim| dim.to_le_bytes()).collect();
        let body = [
            element(6, &flags),
            element(5, &dims),
            element(1, name.as_bytes()),
            content.to_vec(),
        ]
        .concat();
        element(14, &body)
    }

    pub fn numbers(name: &str, values: &[u8]) -> Vec<u8> {
        matrix(9, [1, values.len() as i32], name, &element(2, values))
    }

    pub fn text(text: &str) -> Vec<u8> {
        matrix(4, [1, text.len() as i32], "", &element(16, text.as_bytes()))
    }

    pub fn cells(name: &str, items: &[Vec<u8>]) -> Vec<u8> {
        matrix(1, [1, items.len() as i32], name, &items.concat())
    }

    pub fn structs(name: &str) -> Vec<u8> {
        let names = [b"class\0\0\0".as_slice(), b"fname\0\0\0"].concat();
        let row = [numbers("", &[3]), text("1.jpg")].concat();
        let content = [element(5, &8_i32.to_le_bytes()), element(1, &names), row.repeat(2)].concat();
        matrix(2, [1, 2], name, &content)
    }

    pub fn file(variables: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = b"MATLAB 5.0 MAT-file".to_vec();
        bytes.resize(124, b' ');
        bytes.extend(b"\x00\x01IM");
        bytes.extend(variables.concat());
        bytes
    }

    /// Each variable as a zlib element of its own.
    pub fn compressed(variables: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = file(&[]);
        for variable in variables {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut encoder, variable).unwrap();
            let data = encoder.finish().unwrap();
            bytes.extend([15_u32.to_le_bytes(), (data.len() as u32).to_le_bytes()].concat());
            bytes.extend(data);
        }
        bytes
    }
}
