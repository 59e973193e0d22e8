//! The side on which a photograph lies, as its file says: EXIF's orientation (tag 0x112), else XMP's.
//!
//! Which of them counts, and what is ignored, is as in Pillow 13 (`Image.getexif`, `ImageOps.exif_transpose`), which
//! transformers' `load_image` and the images of `datasets` go through. Pillow stops with an error at EXIF that is no
//! TIFF; here that is no orientation, as for every viewer.

use std::borrow::Cow;
use std::io::Read as _;

use image::ImageFormat;
use image::metadata::Orientation;

/// EXIF's number of the tag.
const TAG: u16 = 0x112;
/// The most that may be unpacked of a compressed text chunk, as in Pillow.
const TEXT: u64 = 1 << 20;
const EXIF: &[u8] = b"Exif\0\0";
const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

/// The turn and reflection that a file asks for before it is shown; `None` where it says nothing, something that is no
/// orientation, or that it is upright.
pub(crate) fn orientation(bytes: &[u8], format: ImageFormat) -> Option<Orientation> {
    let metadata = match format {
        ImageFormat::Jpeg => of_jpeg(bytes),
        ImageFormat::Png => of_png(bytes),
        ImageFormat::WebP => of_webp(bytes),
        _ => Metadata::default(),
    };
    let stated = metadata.exif.as_deref().and_then(of_exif);
    let number = match stated {
        Some(stated) => stated?,
        None => of_xmp(&metadata.xmp?)?,
    };
    Orientation::from_exif(number).filter(|orientation| *orientation != Orientation::NoTransforms)
}

/// The metadata of a container.
#[derive(Default)]
struct Metadata<'a> {
    exif: Option<Cow<'a, [u8]>>,
    xmp: Option<Cow<'a, [u8]>>,
}

/// Segments up to the first scan; EXIF may be spread over several, of XMP the last counts.
fn of_jpeg(bytes: &[u8]) -> Metadata<'_> {
    let mut found = Metadata::default();
    let mut at = 2;
    while let Some(marker) = next_marker(bytes, &mut at) {
        match marker {
            // Neither of them has a length.
            0x01 | 0xd0..=0xd9 => continue,
            0xda => break,
            _ => {}
        }
        let Some(segment) = bytes.get(at..).and_then(segment) else {
            break;
        };
        at += 2 + segment.len();
        if marker != 0xe1 {
            continue;
        }
        if let Some(part) = segment.strip_prefix(EXIF) {
            match &mut found.exif {
                Some(exif) => exif.to_mut().extend_from_slice(part),
                None => found.exif = Some(Cow::Borrowed(segment)),
            }
        } else if let Some(text) = segment.strip_prefix(XMP) {
            found.xmp = Some(Cow::Borrowed(text));
        }
    }
    found
}

/// The next marker, past fill bytes and whatever stands between segments.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        *at += bytes.get(*at..)?.iter().position(|byte| *byte == 0xff)? + 1;
        match *bytes.get(*at)? {
            0xff => {}
            0 => *at += 1,
            marker => {
                *at += 1;
                return Some(marker);
            }
        }
    }
}

/// The content of a segment, behind its length.
fn segment(bytes: &[u8]) -> Option<&[u8]> {
    let (length, _) = bytes.split_first_chunk()?;
    bytes.get(2..usize::from(u16::from_be_bytes(*length)))
}

/// `eXIf`, else text as older programs wrote it; chunks behind the pixels count too.
fn of_png(bytes: &[u8]) -> Metadata<'_> {
    let (mut exif, mut raw, mut xmp) = (None, None, None);
    let mut rest = bytes.get(8..).unwrap_or_default();
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = u32::from_be_bytes(*length) as usize;
        let (Some(kind), Some(data)) = (after.get(..4), after.get(4..length.saturating_add(4))) else {
            break;
        };
        match kind {
            b"eXIf" => exif = Some([EXIF, data].concat()),
            b"tEXt" | b"zTXt" | b"iTXt" => match text(kind, data) {
                Some((b"exif", value)) if kind == b"tEXt" => exif = Some(value),
                Some((b"Raw profile type exif", value)) => raw = Some(value),
                Some((b"XML:com.adobe.xmp", value)) => xmp = Some(value),
                _ => {}
            },
            b"IEND" => break,
            _ => {}
        }
        // Past the checksum.
        rest = after.get(length.saturating_add(8)..).unwrap_or_default();
    }
    Metadata {
        exif: exif.or_else(|| raw.and_then(|raw| unhexed(&raw))).map(Cow::Owned),
        xmp: xmp.map(Cow::Owned),
    }
}

/// Keyword and value of a text chunk.
fn text<'a>(kind: &[u8], data: &'a [u8]) -> Option<(&'a [u8], Vec<u8>)> {
    let (keyword, value) = split_at_zero(data)?;
    let value = match kind {
        b"tEXt" => value.to_vec(),
        b"zTXt" => inflated(value.strip_prefix(&[0])?)?,
        _ => {
            let (&[compressed, method], value) = value.split_first_chunk()?;
            let (_language, value) = split_at_zero(value)?;
            let (_translated, value) = split_at_zero(value)?;
            match (compressed, method) {
                (0, _) => value.to_vec(),
                (_, 0) => inflated(value)?,
                _ => return None,
            }
        }
    };
    Some((keyword, value))
}

fn split_at_zero(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

fn inflated(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let read = flate2::read::ZlibDecoder::new(bytes).take(TEXT).read_to_end(&mut text);
    read.is_ok().then_some(text)
}

/// ImageMagick's form: three lines of heading, then hexadecimal digits.
fn unhexed(raw: &[u8]) -> Option<Vec<u8>> {
    let text: Vec<&[u8]> = raw.split(|byte| *byte == b'\n').skip(3).collect();
    let digits: Vec<u8> = text
        .concat()
        .into_iter()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pair = |pair: &[u8]| match *pair {
        [high, low] => Some((digit(high)? << 4 | digit(low)?) as u8),
        _ => None,
    };
    digits.chunks(2).map(pair).collect()
}

/// The first chunk of each kind that the extended header says is there: without one there is none for libwebp.
fn of_webp(bytes: &[u8]) -> Metadata<'_> {
    const HAS_EXIF: u8 = 0x08;
    const HAS_XMP: u8 = 0x04;
    let mut found = Metadata::default();
    let mut flags = None;
    let mut rest = bytes.get(12..).unwrap_or_default();
    while let Some((kind, after)) = rest.split_first_chunk::<4>() {
        let Some((length, after)) = after.split_first_chunk() else {
            break;
        };
        let length = u32::from_le_bytes(*length) as usize;
        let Some(data) = after.get(..length) else { break };
        match (kind, flags) {
            (b"VP8X", None) => flags = data.first().copied(),
            (_, None) => break,
            (b"EXIF", Some(flags)) if flags & HAS_EXIF != 0 && found.exif.is_none() => {
                found.exif = Some(Cow::Borrowed(data));
            }
            (b"XMP ", Some(flags)) if flags & HAS_XMP != 0 && found.xmp.is_none() => {
                found.xmp = Some(Cow::Borrowed(data));
            }
            _ => {}
        }
        rest = after.get(length.saturating_add(length % 2)..).unwrap_or_default();
    }
    found
}

/// Numbers of a TIFF file in its byte order.
#[derive(Clone, Copy)]
struct Tiff<'a> {
    bytes: &'a [u8],
    big_endian: bool,
}

impl<'a> Tiff<'a> {
    fn unsigned(self, bytes: &[u8]) -> u64 {
        let one = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        if self.big_endian {
            bytes.iter().fold(0, one)
        } else {
            bytes.iter().rev().fold(0, one)
        }
    }

    fn at(self, start: u64, length: u64) -> Option<&'a [u8]> {
        let start = usize::try_from(start).ok()?;
        self.bytes.get(start..start.checked_add(usize::try_from(length).ok()?)?)
    }
}

/// The orientation of EXIF: nothing, or an entry, which may hold something that is no orientation; as that counts what is no TIFF. Entries before the tag are
/// read as Pillow reads them: one that cannot be ends the list.
fn of_exif(exif: &[u8]) -> Option<Option<u8>> {
    let once = exif.strip_prefix(EXIF).unwrap_or(exif);
    let bytes = once.strip_prefix(EXIF).unwrap_or(once);
    if bytes.is_empty() {
        return None;
    }
    let big_endian = match bytes.get(..4) {
        Some(b"MM\0\x2a" | b"MM\x2a\0") => true,
        Some(b"II\0\x2a" | b"II\x2a\0") => false,
        _ => return Some(None),
    };
    let tiff = Tiff { bytes, big_endian };
    let Some(start) = tiff.at(4, 4) else {
        return Some(None);
    };
    let start = tiff.unsigned(start);
    let count = tiff.unsigned(tiff.at(start, 2)?);
    let mut outside = 0;
    for number in 0..count {
        let entry = tiff.at(start + 2 + 12 * number, 12)?;
        let (tag, kind) = (tiff.unsigned(&entry[..2]), tiff.unsigned(&entry[2..4]));
        let unit: u64 = match kind {
            1 | 2 | 6 | 7 => 1,
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 | 16 => 8,
            // Pillow knows no others.
            _ => continue,
        };
        let size = unit * tiff.unsigned(&entry[4..8]);
        let data = if size > 4 {
            outside += size;
            if outside > bytes.len() as u64 {
                continue;
            }
            tiff.at(tiff.unsigned(&entry[8..]), size)?
        } else {
            &entry[8..8 + size as usize]
        };
        if tag == u64::from(TAG) && !data.is_empty() {
            return Some(value(tiff, kind, data));
        }
    }
    None
}

/// The first number of an entry, if it is 1 to 8 in a type that holds numbers.
fn value(tiff: Tiff<'_>, kind: u64, data: &[u8]) -> Option<u8> {
    let first = |size: usize| data.get(..size).map(|data| tiff.unsigned(data));
    let number = match kind {
        6 => first(1)?,
        3 | 8 => first(2)?,
        4 | 9 | 13 => first(4)?,
        16 => first(8)?,
        5 | 10 => {
            let (over, under) = (first(4)?, tiff.unsigned(data.get(4..8)?));
            over.checked_div(under).filter(|_| over.is_multiple_of(under))?
        }
        11 => whole(f64::from(f32::from_bits(first(4)? as u32)))?,
        12 => whole(f64::from_bits(first(8)?))?,
        // Bytes and text are no numbers, whatever they hold.
        _ => return None,
    };
    u8::try_from(number).ok().filter(|number| (1..=8).contains(number))
}

fn whole(number: f64) -> Option<u64> {
    ((1.0..=8.0).contains(&number) && number.fract() == 0.0).then_some(number as u64)
}

/// The first digit after `tiff:Orientation=` or in an element of this name.
fn of_xmp(xmp: &[u8]) -> Option<u8> {
    let name = b"tiff:Orientation";
    let digit = |at: usize| {
        let rest = xmp.get(at..)?.strip_prefix(name)?;
        let rest = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"))?;
        rest.first()
            .filter(|byte| byte.is_ascii_digit())
            .map(|byte| byte - b'0')
    };
    (0..xmp.len()).find_map(digit)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use crate::formats::image::tests::base64;
    use crate::formats::image::{Decoding, decode};

    #[derive(Deserialize)]
    struct Case {
        name: String,
        file: String,
        size: (u32, u32),
        rgb: String,
        stored: String,
    }

    /// `tests/fixtures/images/make.py`: `load_image` of transformers 5.24 with Pillow 13.0, pixel for pixel. Every
    /// orientation in JPEG, PNG and WebP, every type of entry, damage of all kinds, XMP, and older forms in PNG.
    #[test]
    fn every_file_is_turned_as_transformers_turns_it() {
        let cases: Vec<Case> =
            serde_json::from_str(include_str!("../../../tests/fixtures/images/orientations.json")).unwrap();
        assert!(cases.len() > 100);
        let wrong = |case: &Case| {
            let file = base64(&case.file);
            let found = decode(&file, &case.name).unwrap();
            let stored = Decoding {
                exif: false,
                mode: None,
            }
            .decode(&file, &case.name)
            .unwrap();
            let same = found.dimensions() == case.size && *found.as_raw() == base64(&case.rgb);
            (!same || *stored.as_raw() != base64(&case.stored)).then(|| case.name.clone())
        };
        let wrong: Vec<String> = cases.iter().filter_map(wrong).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}
