//! JPEG to the same pixels that Pillow gives, and with it transformers: by libjpeg-turbo's code, whose inverse
//! transform and chroma upsampling other decoders only come near to.

use std::panic::{AssertUnwindSafe, catch_unwind};

use image::RgbImage;
use mozjpeg::{ColorSpace, Decompress};

/// Decodes grey and YCbCr files; `None` for four colours, which libjpeg does not turn into RGB. `limit` is the
/// largest size of the pixels in bytes.
pub(super) fn decode(bytes: &[u8], limit: u64) -> Result<Option<RgbImage>, String> {
    if !ends(bytes) {
        return Err("truncated: a JPEG without its end-of-image marker".into());
    }
    // The library reports by io::Error; what it asserts about its own state must not end the process either.
    catch_unwind(AssertUnwindSafe(|| pixels(bytes, limit)))
        .map_err(|_| "the JPEG decoder gave up on damaged data".to_owned())?
}

fn pixels(bytes: &[u8], limit: u64) -> Result<Option<RgbImage>, String> {
    let words = |e: std::io::Error| e.to_string();
    let file = Decompress::new_mem(bytes).map_err(words)?;
    if matches!(file.color_space(), ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK) {
        return Ok(None);
    }
    let (width, height) = file.size();
    if 3 * width as u64 * height as u64 > limit {
        return Err(format!("{width} x {height} pixels exceed the limit of {limit} bytes"));
    }
    let mut lines = file.rgb().map_err(words)?;
    let pixels: Vec<u8> = lines.read_scanlines::<u8>().map_err(words)?;
    lines.finish().map_err(words)?;
    RgbImage::from_raw(width as u32, height as u32, pixels)
        .map(Some)
        .ok_or_else(|| "fewer pixels than its header says".into())
}

/// True if the markers lead to an end-of-image marker (ITU-T T.81, annex B): where it is missing, the decoder
/// would fill the rest with grey.
fn ends(bytes: &[u8]) -> bool {
    const START: u8 = 0xd8;
    const END: u8 = 0xd9;
    let mut at = 0;
    // Between segments, and through entropy-coded data: the next 0xff that is no stuffing says what follows.
    while let Some(found) = bytes.get(at..).and_then(|rest| rest.iter().position(|b| *b == 0xff)) {
        at += found + 1;
        match bytes.get(at) {
            Some(&END) => return true,
            // Fill byte: the next one may be the marker.
            Some(0xff) => {}
            // Stuffed zero, restart, start of image, reserved: no segment follows.
            Some(0x00..=0x01 | 0xd0..=START) => at += 1,
            // A segment: its length counts itself, not the marker. An embedded thumbnail is skipped with it.
            Some(_) => match bytes.get(at + 1..at + 3) {
                Some([high, low]) => at += 1 + usize::from(u16::from_be_bytes([*high, *low])).max(2),
                _ => return false,
            },
            None => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 4:2:0 with odd sides, so that upsampling and edges count; expected: Pillow 13's pixels of the same bytes.
    #[test]
    fn pixels_are_those_of_pillow() {
        let jpeg = include_bytes!("../../tests/fixtures/images/subsampled.jpg");
        let expected = include_bytes!("../../tests/fixtures/images/subsampled.rgb");
        let found = decode(jpeg, u64::MAX).unwrap().unwrap();
        assert_eq!((found.width(), found.height()), (37, 23));
        assert_eq!(found.as_raw().as_slice(), expected);
    }

    /// A thumbnail within a segment has an end-of-image marker of its own, which does not count.
    #[test]
    fn the_end_of_an_embedded_thumbnail_is_not_the_end() {
        let whole = include_bytes!("../../tests/fixtures/images/subsampled.jpg");
        let thumbnail = [b"\xff\xe1\x00\x0aExif".as_slice(), &[0xff, 0xd8, 0xff, 0xd9]].concat();
        let with_thumbnail = [&whole[..2], &thumbnail, &whole[2..]].concat();
        assert!(decode(&with_thumbnail, u64::MAX).is_ok());
        assert!(!ends(&with_thumbnail[..with_thumbnail.len() - 2]));
    }
}
