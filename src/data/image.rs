//! Encoded bytes to RGB pixels, whatever the file's name claims.

use image::{DynamicImage, ImageReader, Limits, RgbImage};
use std::io::Cursor;

use crate::error::{Error, Result};

/// Largest decoded image, in bytes of pixels: enough for 100 megapixels, far less than a decompression bomb.
const MAX_PIXEL_BYTES: u64 = 400 << 20;

/// Decodes JPEG, PNG, GIF (first frame), BMP or WebP to 8-bit RGB.
///
/// The format is found by magic bytes, never by extension (Oxford-IIIT Pets has PNG and GIF files named
/// `.jpg`). Grey and palette images are expanded, transparency is composited on white as transformers
/// does. `name` is used in error messages only.
///
/// # Errors
/// [`Error::Image`] when the bytes are no image, truncated or larger than the limit.
pub fn decode(bytes: &[u8], name: &str) -> Result<RgbImage> {
    let fail = |reason: String| Error::Image { image: name.into(), reason };
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|e| fail(e.to_string()))?;
    if reader.format().is_none() {
        return Err(fail("not a JPEG, PNG, GIF, BMP or WebP file".into()));
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_PIXEL_BYTES);
    reader.limits(limits);
    let image = reader.decode().map_err(|e| fail(e.to_string()))?;
    Ok(if image.color().has_alpha() { on_white(&image) } else { image.into_rgb8() })
}

/// Alpha compositing on white, rounded to the nearest integer.
fn on_white(image: &DynamicImage) -> RgbImage {
    let rgba = image.to_rgba8();
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, a] = rgba.get_pixel(x, y).0;
        let over = |c: u8| ((u32::from(c) * u32::from(a) + 255 * (255 - u32::from(a)) + 127) / 255) as u8;
        image::Rgb([over(r), over(g), over(b)])
    })
}
