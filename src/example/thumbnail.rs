//! A small copy of an image, for a person to look at.

use image::codecs::jpeg::JpegEncoder;

use crate::data::LabelledImage;
use crate::error::{Error, Result};
use crate::example::image_cache::{ImageCache, cached};
use crate::example::resize::shrink;

/// Pixels of the longer side, at most.
pub const THUMBNAIL_SIDE: u32 = 64;
/// Quality of the JPEG, of 100: artefacts cannot be seen at that size, and a file has about 1.5 KB.
const QUALITY: u8 = 80;

/// The image as JPEG with at most [`THUMBNAIL_SIDE`] pixels a side; the same bytes for the same image.
///
/// # Errors
/// As [`LabelledImage::pixels`]; [`Error::Image`] when it cannot be encoded.
pub fn thumbnail(cache: Option<&ImageCache>, image: &LabelledImage) -> Result<Vec<u8>> {
    let settings = format!("shrink-{THUMBNAIL_SIDE}");
    let small = cached(cache, image, &settings, |whole| shrink(&whole, THUMBNAIL_SIDE))?;
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, QUALITY)
        .encode_image(&small)
        .map_err(|e| Error::Image {
            image: image.path.display().to_string(),
            reason: format!("as a thumbnail: {e}"),
        })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::RgbImage;
    use sha2::{Digest as _, Sha256};

    #[test]
    fn a_thumbnail_is_small_and_of_the_bytes_that_were_hashed() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("a.png");
        RgbImage::from_fn(200, 100, |x, _| image::Rgb([x as u8, 0, 128]))
            .save(&path)
            .unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let mut image = LabelledImage {
            sha256: crate::fs::hash::hex(&Sha256::digest(&bytes)),
            path,
            ..LabelledImage::default()
        };
        let jpeg = thumbnail(None, &image).unwrap();
        assert_eq!(jpeg, thumbnail(None, &image).unwrap());
        let small = image::load_from_memory(&jpeg).unwrap().into_rgb8();
        assert_eq!(small.dimensions(), (64, 32));
        let right = small.get_pixel(60, 16);
        assert!(right[0] > 150 && right[1] < 30, "{right:?}");
        image.sha256 = "0".repeat(64);
        assert!(matches!(thumbnail(None, &image), Err(Error::ChangedImage { .. })));
    }
}
