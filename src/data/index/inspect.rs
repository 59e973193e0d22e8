//! One image, read, hashed and decoded.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::data::overlap;
use crate::error::{Error, Result};
use crate::formats::image::{Decoding, orientation};
use crate::fs::hash::Stamp;
use crate::fs::hash::hex;

/// Facts about an image file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Facts {
    /// Lower-case hex SHA-256 of the encoded file.
    pub sha256: String,
    /// Size of the encoded file.
    pub bytes: u64,
    pub width: u32,
    pub height: u32,
    /// Kind of pixels in the file: `L` is grey, `P` a palette, the others are named by their channels.
    pub mode: String,
    /// See [`overlap::dhash`].
    pub dhash: u64,
    /// The orientation that EXIF or XMP states, 2 to 8, where that is not upright.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orientation: Option<u8>,
    /// The file's state when it was looked at.
    pub stamp: Stamp,
}

impl Facts {
    /// True if both are of the same image, whatever was done to its file.
    pub(crate) fn same_image(&self, other: &Self) -> bool {
        let stamp = self.stamp.clone();
        *self == Self { stamp, ..other.clone() }
    }
}

/// Reads an image, which is decoded by these rules; `None` when there is none. Width and height are those of the upright
/// picture.
///
/// # Errors
/// [`Error::Image`] when it cannot be decoded, [`Error::Io`] when it cannot be read.
pub(crate) fn inspect(path: &Path, id: &str, decoding: Decoding) -> Result<Option<Facts>> {
    // Before the bytes are read: a change meanwhile is seen the next time.
    let stamp = match Stamp::of(path) {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", path)(e)),
    };
    let pixels = decoding.decode(&bytes, id)?;
    let format = ::image::guess_format(&bytes).ok();
    Ok(Some(Facts {
        sha256: hex(&Sha256::digest(&bytes)),
        bytes: bytes.len() as u64,
        width: pixels.width(),
        height: pixels.height(),
        mode: mode(&bytes),
        dhash: overlap::dhash(&pixels),
        orientation: format
            .and_then(|format| orientation(&bytes, format))
            .map(|turn| turn.to_exif()),
        stamp,
    }))
}

/// Kind of pixels as Pillow names it, from the header of a file that was decoded.
fn mode(bytes: &[u8]) -> String {
    let at = |i: usize| bytes.get(i).copied().unwrap_or_default();
    let named = match bytes {
        [0x89, b'P', b'N', b'G', ..] => {
            let kind = match at(25) {
                0 => "L",
                3 => "P",
                4 => "LA",
                6 => "RGBA",
                _ => "RGB",
            };
            // Bits per channel, where they are more than usual.
            return if at(24) == 16 {
                format!("{kind};16")
            } else {
                kind.to_owned()
            };
        }
        [0xff, 0xd8, ..] => match jpeg_components(bytes) {
            Some(1) => "L",
            Some(4) => "CMYK",
            _ => "RGB",
        },
        [b'G', b'I', b'F', ..] => "P",
        [b'B', b'M', ..] => match u16::from_le_bytes([at(28), at(29)]) {
            1..=8 => "P",
            32 => "RGBA",
            _ => "RGB",
        },
        // A lossless file has a bit for alpha after its signature and sizes, an extended one in its flags.
        [b'R', b'I', b'F', b'F', ..] => match bytes.get(12..16) {
            Some(b"VP8L") if at(24) & 0x10 != 0 => "RGBA",
            Some(b"VP8X") if at(20) & 0x10 != 0 => "RGBA",
            _ => "RGB",
        },
        [b'q', b'o', b'i', b'f', ..] if at(12) == 4 => "RGBA",
        _ => "RGB",
    };
    named.to_owned()
}

/// Number of components in a JPEG's frame header (ITU-T T.81, B.2.2).
fn jpeg_components(bytes: &[u8]) -> Option<u8> {
    let mut at = 2;
    loop {
        match bytes.get(at..at + 2)? {
            [0xff, 0xff] => at += 1,
            [0xff, 0x01 | 0xd0..=0xd8] => at += 2,
            // Every frame header but the tables that share its range of markers.
            [0xff, 0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf] => return bytes.get(at + 9).copied(),
            [0xff, _] => {
                let length = [*bytes.get(at + 2)?, *bytes.get(at + 3)?];
                at += 2 + usize::from(u16::from_be_bytes(length)).max(2);
            }
            _ => return None,
        }
    }
}

/// All images, or the first failure, which then also names the other images that cannot be decoded.
pub(super) fn all_or_first_error<T>(results: Vec<Result<T>>) -> Result<Vec<T>> {
    let mut images = Vec::with_capacity(results.len());
    let mut failures = Vec::new();
    for result in results {
        match result {
            Ok(image) => images.push(image),
            Err(error) => failures.push(error),
        }
    }
    let others: Vec<String> = failures
        .iter()
        .skip(1)
        .filter_map(|error| match error {
            Error::Image { image, .. } => Some(format!("`{image}`")),
            _ => None,
        })
        .collect();
    match failures.into_iter().next() {
        None => Ok(images),
        Some(Error::Image { image, reason }) if !others.is_empty() => Err(Error::Image {
            image,
            reason: format!("{reason} (nor can {})", others.join(", ")),
        }),
        Some(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use ::image::{ExtendedColorType as Color, ImageEncoder as _, codecs};

    use super::*;

    #[test]
    fn modes_are_those_of_the_file_not_of_its_pixels() {
        let png = |pixels: &[u8], color| {
            let mut bytes = Vec::new();
            codecs::png::PngEncoder::new(&mut bytes)
                .write_image(pixels, 1, 1, color)
                .unwrap();
            mode(&bytes)
        };
        assert_eq!(png(&[1], Color::L8), "L");
        assert_eq!(png(&[1, 2], Color::La8), "LA");
        assert_eq!(png(&[1, 2, 3, 4], Color::Rgba8), "RGBA");
        assert_eq!(png(&[1, 2, 3, 4, 5, 6], Color::Rgb16), "RGB;16");
        let jpeg = |pixels: &[u8], color| {
            let mut bytes = Vec::new();
            codecs::jpeg::JpegEncoder::new(&mut bytes)
                .write_image(pixels, 1, 1, color)
                .unwrap();
            mode(&bytes)
        };
        assert_eq!(jpeg(&[1], Color::L8), "L");
        assert_eq!(jpeg(&[1, 2, 3], Color::Rgb8), "RGB");
        assert_eq!(mode(include_bytes!("../../../tests/fixtures/images/cmyk.jpg")), "CMYK");
        let mut webp = Vec::new();
        codecs::webp::WebPEncoder::new_lossless(&mut webp)
            .write_image(&[1, 2, 3, 4], 1, 1, Color::Rgba8)
            .unwrap();
        assert_eq!(mode(&webp), "RGBA");
        assert_eq!(mode(b"GIF89a"), "P");
        assert_eq!(mode(b"\xff\xd8\xff"), "RGB");
    }
}
