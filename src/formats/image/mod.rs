//! Encoded bytes to RGB pixels, upright, whatever the file's name claims. `docs/images.md` compares each rule with Pillow,
//! transformers and torchvision.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use gif::{ColorOutput, DecodeOptions, MemoryLimit};
use image::{DynamicImage, GrayAlphaImage, ImageFormat, ImageReader, Limits, RgbImage, Rgba, RgbaImage};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
pub(crate) use crate::formats::image::orientation::orientation;
use crate::formats::jpeg;

mod orientation;

/// Largest decoded image, in bytes of pixels: enough for 100 megapixels, far less than a decompression bomb.
const MAX_PIXEL_BYTES: u64 = 400 << 20;

/// The rules by which a file becomes pixels, as far as they can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Decoding {
    /// Turn a photograph as its EXIF (or XMP) orientation says: transformers and `datasets` do, torchvision's
    /// loaders do not.
    pub exif: bool,
    /// Bring the pixels to this mode first, as a `datasets.Image(mode=…)` in the dataset asks.
    pub mode: Option<Mode>,
}

impl Default for Decoding {
    fn default() -> Self {
        Self { exif: true, mode: None }
    }
}

/// A mode of Pillow that images can be brought to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// Colours; transparency is dropped and what was clear shows the colour stored there.
    #[serde(rename = "RGB")]
    Rgb,
    /// Colours and transparency, which is composited on white.
    #[serde(rename = "RGBA")]
    Rgba,
    /// Grey by ITU-R 601 luma; transparency is dropped.
    L,
    /// Grey and transparency, which is composited on white.
    #[serde(rename = "LA")]
    La,
}

impl Mode {
    /// Pillow's name of it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rgb => "RGB",
            Self::Rgba => "RGBA",
            Self::L => "L",
            Self::La => "LA",
        }
    }

    /// The mode of this name.
    ///
    /// # Errors
    /// Names one that is not supported, and those that are.
    pub fn named(name: &str) -> std::result::Result<Self, String> {
        let all = [Self::Rgb, Self::Rgba, Self::L, Self::La];
        all.into_iter()
            .find(|mode| mode.name() == name)
            .ok_or_else(|| format!("`datasets.Image(mode=\"{name}\")` is not supported; RGB, RGBA, L and LA are"))
    }
}

/// [`Decoding::decode`] by the default rules.
///
/// # Errors
/// As there.
pub fn decode(bytes: &[u8], name: &str) -> Result<RgbImage> {
    Decoding::default().decode(bytes, name)
}

impl Decoding {
    /// Tells images of the same bytes apart that are decoded by other rules; empty for the default ones.
    #[must_use]
    pub fn mark(self) -> String {
        let exif = if self.exif { "" } else { "-as-stored" };
        let mode = self.mode.map_or_else(String::new, |mode| format!("-{}", mode.name()));
        exif.to_owned() + &mode
    }

    /// Decodes JPEG, PNG, GIF (first frame), BMP or WebP to 8-bit RGB, upright.
    ///
    /// The format is found by magic bytes, never by extension (Oxford-IIIT Pets has PNG and GIF files named
    /// `.jpg`). Grey and palette images are expanded, transparency is composited on white as transformers
    /// does, CMYK is converted. JPEG pixels are those of libjpeg-turbo. Bytes after the image's end are ignored; a JPEG that
    /// ends before its end-of-image marker is an error, since the decoder would fill the rest with grey. `name` is used in
    /// error messages only.
    ///
    /// # Errors
    /// [`Error::Image`] when the bytes are no image, truncated, larger than the limit or without a pixel, and when a
    /// decoder gives up on them: one bad image never ends the process.
    pub fn decode(self, bytes: &[u8], name: &str) -> Result<RgbImage> {
        let decoded = catch_unwind(AssertUnwindSafe(|| self.pixels(bytes)));
        let decoded = decoded.unwrap_or_else(|_| Err("the decoder gave up on damaged data".into()));
        decoded.map_err(|reason| Error::Image {
            image: name.into(),
            reason,
        })
    }

    fn pixels(self, bytes: &[u8]) -> std::result::Result<RgbImage, String> {
        let format = image::guess_format(bytes).ok();
        let format = format.ok_or("not a JPEG, PNG, GIF, BMP or WebP file")?;
        let upright = if self.exif { orientation(bytes, format) } else { None };
        let mut image = self.flat(read(bytes, format)?)?;
        let (width, height) = image.dimensions();
        if width == 0 || height == 0 {
            return Err(format!("{width} x {height} pixels: there is nothing to see"));
        }
        if let Some(upright) = upright {
            let mut whole = DynamicImage::from(image);
            whole.apply_orientation(upright);
            image = whole.into_rgb8();
        }
        Ok(image)
    }

    /// The pixels without transparency, in the mode that is asked for.
    fn flat(self, image: DynamicImage) -> std::result::Result<RgbImage, String> {
        let image = match image {
            // Pillow clips these to 255 on every conversion, so that nearly all of them turn white.
            DynamicImage::ImageLuma16(_) if self.mode.is_some() => {
                return Err("16 bits of grey cannot be brought to another mode without loss: Pillow clips them".into());
            }
            other => high_bytes(other),
        };
        let is_clear = image.color().has_alpha() && matches!(self.mode, None | Some(Mode::Rgba | Mode::La));
        let grey = matches!(self.mode, Some(Mode::L | Mode::La));
        if !is_clear {
            let mut image = image.into_rgb8();
            if grey {
                image.pixels_mut().for_each(|pixel| pixel.0 = [luma(pixel.0); 3]);
            }
            return Ok(image);
        }
        let mut image = image.into_rgba8();
        if grey {
            for Rgba([r, g, b, _]) in image.pixels_mut() {
                let grey = luma([*r, *g, *b]);
                (*r, *g, *b) = (grey, grey, grey);
            }
        }
        Ok(on_white(&image))
    }
}

/// The pixels as the file has them, but for what libjpeg has made RGB of.
fn read(bytes: &[u8], format: ImageFormat) -> std::result::Result<DynamicImage, String> {
    match format {
        ImageFormat::Jpeg => {
            if let Some(image) = jpeg::decode(bytes, MAX_PIXEL_BYTES)? {
                return Ok(image.into());
            }
        }
        ImageFormat::Gif => return first_frame(bytes, MAX_PIXEL_BYTES),
        _ => {}
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_PIXEL_BYTES);
    reader.limits(limits);
    reader.decode().map_err(|e| e.to_string())
}

/// Colours of 16 bits as Pillow reads them: the upper eight.
fn high_bytes(image: DynamicImage) -> DynamicImage {
    let high = |values: Vec<u16>| values.into_iter().map(|value| (value >> 8) as u8).collect::<Vec<u8>>();
    let (width, height) = (image.width(), image.height());
    let eight = match image {
        DynamicImage::ImageRgb16(image) => RgbImage::from_raw(width, height, high(image.into_raw())).map(Into::into),
        DynamicImage::ImageRgba16(image) => RgbaImage::from_raw(width, height, high(image.into_raw())).map(Into::into),
        DynamicImage::ImageLumaA16(image) => {
            GrayAlphaImage::from_raw(width, height, high(image.into_raw())).map(Into::into)
        }
        other => return other,
    };
    // As many values as before.
    eight.unwrap_or_default()
}

/// Pillow's fixed-point weights of `convert("L")`.
pub(crate) fn luma(rgb: [u8; 3]) -> u8 {
    let [r, g, b] = rgb.map(u32::from);
    ((r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16) as u8
}

/// Alpha compositing on white, rounded to the nearest integer.
fn on_white(rgba: &image::RgbaImage) -> RgbImage {
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, a] = rgba.get_pixel(x, y).0;
        let over = |c: u8| ((u32::from(c) * u32::from(a) + 255 * (255 - u32::from(a)) + 127) / 255) as u8;
        image::Rgb([over(r), over(g), over(b)])
    })
}

/// The first frame of a GIF as Pillow 13 shows it (`GifImagePlugin`), in its place on a screen that is as large as the frame needs,
/// whatever the header says. What the frame leaves free, and its transparent pixels, are clear if the
/// frame has a transparent colour; else what it leaves free has the first colour of its palette. Without a palette colours
/// are greys.
///
/// # Errors
/// When there is no frame, it is cut short, or the screen has more than `limit` bytes of RGB pixels.
fn first_frame(bytes: &[u8], limit: u64) -> std::result::Result<DynamicImage, String> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(MemoryLimit::Unlimited); // sizes are checked below, before anything is set aside
    options.check_frame_consistency(false);
    options.allow_unknown_blocks(true);
    let words = |e: gif::DecodingError| e.to_string();
    let with_palette = with_greys(bytes);
    let mut decoder = options
        .read_info(with_palette.as_deref().unwrap_or(bytes))
        .map_err(words)?;
    let frame = decoder
        .next_frame_info()
        .map_err(words)?
        .ok_or("a GIF without a frame")?;
    let (left, top) = (u32::from(frame.left), u32::from(frame.top));
    let (across, down) = (u32::from(frame.width), u32::from(frame.height));
    let transparent = frame.transparent;
    let width = u32::from(decoder.width()).max(left + across);
    let height = u32::from(decoder.height()).max(top + down);
    if 3 * u64::from(width) * u64::from(height) > limit {
        return Err(format!("{width} x {height} pixels exceed the limit of {limit} bytes"));
    }
    if across == 0 || down == 0 {
        return Err("a GIF whose first frame is empty".into());
    }
    let palette = decoder.palette().map(<[u8]>::to_vec).ok();
    let colour = |index: u8| {
        let own = palette
            .as_deref()
            .and_then(|palette| palette.get(3 * usize::from(index)..)?.first_chunk());
        // Beyond its end there is black.
        let [r, g, b] = own.copied().unwrap_or_default();
        Rgba([r, g, b, if transparent == Some(index) { 0 } else { 255 }])
    };
    let mut indices = vec![0; across as usize * down as usize];
    decoder.read_into_buffer(&mut indices).map_err(words)?;
    let mut screen = RgbaImage::from_pixel(width, height, colour(transparent.unwrap_or(0)));
    for (y, row) in (top..).zip(indices.chunks_exact(across as usize)) {
        for (x, &index) in (left..).zip(row) {
            screen.put_pixel(x, y, colour(index));
        }
    }
    Ok(screen.into())
}

/// A file without a palette for all frames given one of greys: what is drawn without any palette is grey.
fn with_greys(bytes: &[u8]) -> Option<Vec<u8>> {
    const HEADER: usize = 13;
    const HAS_PALETTE: u8 = 0x80;
    let (header, rest) = bytes.split_at_checked(HEADER)?;
    if header[10] & HAS_PALETTE != 0 {
        return None;
    }
    let mut whole = header.to_vec();
    // 2 to the power of 7 + 1 colours.
    whole[10] |= HAS_PALETTE | 7;
    whole.extend((0..=255).flat_map(|grey: u8| [grey; 3]));
    whole.extend_from_slice(rest);
    Some(whole)
}

#[cfg(test)]
pub(crate) mod tests {
    use ::image::{ExtendedColorType as Color, ImageEncoder as _, codecs};
    use proptest::prelude::*;

    use super::*;

    /// Four 8×8 blocks, Adobe CMYK (inverted), written by Pillow 13: `Image.new("CMYK", (16, 16))` with red
    /// (0, 255, 255, 0), cyan (255, 0, 0, 0), dark yellow (0, 0, 255, 64) and white (0, 0, 0, 0).
    const CMYK: &[u8] = include_bytes!("../../../tests/fixtures/images/cmyk.jpg");

    /// Base 64 of the fixtures.
    pub(crate) fn base64(text: &str) -> Vec<u8> {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut bytes = Vec::new();
        for four in text.as_bytes().chunks(4) {
            let number = four.iter().fold(0, |number: u32, digit| {
                number << 6 | DIGITS.iter().position(|d| d == digit).unwrap_or(0) as u32
            });
            let whole = four.iter().filter(|digit| **digit != b'=').count() * 6 / 8;
            bytes.extend_from_slice(&number.to_be_bytes()[1..=whole]);
        }
        bytes
    }

    fn png(pixels: &[u8], width: u32, height: u32, color: Color) -> Vec<u8> {
        let mut bytes = Vec::new();
        codecs::png::PngEncoder::new(&mut bytes)
            .write_image(pixels, width, height, color)
            .unwrap();
        bytes
    }

    fn jpeg() -> Vec<u8> {
        let pixels: Vec<u8> = (0..64 * 64).map(|i| (i % 64 * 3 + i / 64 % 7 * 9) as u8).collect();
        let mut bytes = Vec::new();
        let encoder = codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 90);
        encoder.write_image(&pixels, 64, 64, Color::L8).unwrap();
        bytes
    }

    fn colours(bytes: &[u8], at: &[(u32, u32)]) -> Vec<[u8; 3]> {
        let image = decode(bytes, "test").unwrap();
        at.iter().map(|(x, y)| image.get_pixel(*x, *y).0).collect()
    }

    fn reason(bytes: &[u8]) -> String {
        decode(bytes, "images/a.jpg").unwrap_err().to_string()
    }

    #[track_caller]
    fn close(found: &[[u8; 3]], expected: &[[u8; 3]], within: u8) {
        let far = found
            .iter()
            .flatten()
            .zip(expected.iter().flatten())
            .any(|(f, e)| f.abs_diff(*e) > within);
        assert!(
            !far && found.len() == expected.len(),
            "{found:?} instead of {expected:?}"
        );
    }

    const BLOCKS: [(u32, u32); 4] = [(4, 4), (12, 4), (4, 12), (12, 12)];

    #[test]
    fn cmyk_and_ycck_become_rgb() {
        // Expected: Pillow's `convert("RGB")` of the same bytes.
        close(
            &colours(CMYK, &BLOCKS),
            &[[255, 0, 0], [0, 255, 255], [191, 191, 0], [255, 255, 255]],
            2,
        );
        let mut ycck = CMYK.to_vec();
        let adobe = ycck.windows(5).position(|w| w == b"Adobe").unwrap();
        ycck[adobe + 11] = 2; // the same coefficients, now said to be YCCK
        close(
            &colours(&ycck, &BLOCKS),
            &[[179, 0, 227], [77, 255, 30], [134, 0, 0], [0, 134, 0]],
            2,
        );
    }

    #[test]
    fn grey_sixteen_bits_and_transparency_become_rgb() {
        assert_eq!(
            colours(&png(&[7, 200], 2, 1, Color::L8), &[(0, 0), (1, 0)]),
            [[7; 3], [200; 3]]
        );
        let deep: Vec<u8> = [0x80_00_u16, 0xff_ff, 0x00_ff]
            .iter()
            .flat_map(|v| v.to_ne_bytes())
            .collect();
        // The upper bytes, as in Pillow 13.
        assert_eq!(colours(&png(&deep, 1, 1, Color::Rgb16), &[(0, 0)]), [[128, 255, 0]]);
        // Over white: opaque stays, half of black is mid-grey, nothing is white.
        let alpha = png(&[1, 2, 3, 255, 0, 0, 0, 128, 9, 9, 9, 0], 3, 1, Color::Rgba8);
        assert_eq!(
            colours(&alpha, &[(0, 0), (1, 0), (2, 0)]),
            [[1, 2, 3], [127; 3], [255; 3]]
        );
    }

    /// 2×1 pixels of a two-colour palette whose second colour is transparent.
    #[test]
    fn a_palette_with_transparency_is_composited_on_white() {
        let chunk = |kind: &[u8; 4], data: &[u8]| {
            let mut crc = flate2::Crc::new();
            crc.update(kind);
            crc.update(data);
            let length = (data.len() as u32).to_be_bytes();
            [&length[..], kind, data, &crc.sum().to_be_bytes()].concat()
        };
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut zlib, &[0, 0b0100_0000]).unwrap();
        let bytes = [
            b"\x89PNG\r\n\x1a\n".to_vec(),
            chunk(b"IHDR", &[0, 0, 0, 2, 0, 0, 0, 1, 1, 3, 0, 0, 0]),
            chunk(b"PLTE", &[10, 20, 30, 40, 50, 60]),
            chunk(b"tRNS", &[255, 0]),
            chunk(b"IDAT", &zlib.finish().unwrap()),
            chunk(b"IEND", &[]),
        ]
        .concat();
        assert_eq!(colours(&bytes, &[(0, 0), (1, 0)]), [[10, 20, 30], [255; 3]]);
    }

    #[test]
    fn junk_after_the_end_is_ignored() {
        let plain = jpeg();
        let with_junk = [plain.as_slice(), b"\xff\xd8 junk \xff\xe1\xff\xff"].concat();
        assert_eq!(decode(&plain, "a").unwrap(), decode(&with_junk, "b").unwrap());
        let png = png(&[7, 200], 2, 1, Color::L8);
        assert!(decode(&[png.as_slice(), b"junk"].concat(), "c").is_ok());
    }

    #[test]
    fn a_truncated_image_is_an_error_wherever_it_is_cut() {
        let whole = jpeg();
        for length in 4..whole.len() {
            assert!(
                decode(&whole[..length], "a").is_err(),
                "{length} of {} bytes",
                whole.len()
            );
        }
        let cut = reason(&whole[..whole.len() / 2]);
        insta::assert_snapshot!(cut, @"cannot decode image `images/a.jpg`: truncated: a JPEG without its end-of-image marker");
        let png = png(&[0; 300], 10, 10, Color::Rgb8);
        assert!(decode(&png[..png.len() - 20], "a").is_err());
    }

    #[test]
    fn an_image_of_four_gigapixels_is_refused() {
        let mut huge = jpeg();
        let frame = huge.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
        huge[frame + 5..frame + 9].copy_from_slice(&[0xff, 0x00, 0xff, 0x00]);
        let message = reason(&huge);
        assert!(message.contains("limit"), "{message}");
    }

    #[test]
    fn names_lie_and_bytes_decide() {
        assert!(decode(&png(&[1], 1, 1, Color::L8), "Abyssinian_5.jpg").is_ok());
        insta::assert_snapshot!(reason(b"tmp"), @"cannot decode image `images/a.jpg`: not a JPEG, PNG, GIF, BMP or WebP file");
    }

    proptest! {
        #[test]
        fn damaged_bytes_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
            for mut bytes in [jpeg(), CMYK.to_vec(), png(&[3; 12], 2, 2, Color::Rgb8)] {
                for (at, value) in &flips {
                    let at = at.index(bytes.len());
                    bytes[at] = *value;
                }
                drop(decode(&bytes, "damaged"));
            }
        }
    }

    #[derive(Deserialize)]
    struct Gif {
        name: String,
        file: String,
        size: (u32, u32),
        /// `Image.open(…).convert("RGB")`.
        rgb: String,
        /// `convert_to_rgb` of transformers.
        on_white: String,
        /// `convert("L")`.
        l: String,
    }

    /// `tests/fixtures/images/make.py`: Pillow 13.0 and transformers 5.24, pixel for pixel.
    #[test]
    fn the_first_frame_is_the_one_that_pillow_shows() {
        let cases: Vec<Gif> = serde_json::from_str(include_str!("../../../tests/fixtures/images/gifs.json")).unwrap();
        assert!(cases.len() > 20);
        let mut wrong = Vec::new();
        for case in &cases {
            let file = base64(&case.file);
            let in_mode = |mode| {
                Decoding {
                    exif: true,
                    mode: Some(mode),
                }
                .decode(&file, &case.name)
                .unwrap()
            };
            let grey: Vec<u8> = base64(&case.l).into_iter().flat_map(|grey| [grey; 3]).collect();
            for (what, found, right) in [
                ("RGB", in_mode(Mode::Rgb), base64(&case.rgb)),
                ("RGBA", in_mode(Mode::Rgba), base64(&case.on_white)),
                ("L", in_mode(Mode::L), grey),
                ("as it is", decode(&file, &case.name).unwrap(), base64(&case.on_white)),
            ] {
                if found.dimensions() != case.size || *found.as_raw() != right {
                    wrong.push(format!("{} {what}", case.name));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    #[test]
    fn a_frame_of_nothing_and_one_cut_short_are_errors() {
        let cases: Vec<Gif> = serde_json::from_str(include_str!("../../../tests/fixtures/images/gifs.json")).unwrap();
        let plain = base64(&cases[0].file);
        let frame = plain.iter().position(|byte| *byte == b',').unwrap();
        let mut nothing = plain.clone();
        nothing[frame + 5..frame + 9].fill(0);
        assert!(decode(&nothing, "a.gif").is_err());
        for length in 0..plain.len() - 3 {
            assert!(
                decode(&plain[..length], "a.gif").is_err(),
                "{length} of {} bytes",
                plain.len()
            );
        }
    }
}
