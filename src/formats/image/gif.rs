//! The first frame of a GIF as Pillow 13 shows it (`GifImagePlugin`): on a screen that is as large as the frame needs, whatever
//! the header says.

use gif::{ColorOutput, DecodeOptions, MemoryLimit};
use image::{DynamicImage, Rgba, RgbaImage};

/// The whole screen with the first frame in its place. What the frame leaves free, and its transparent pixels, are clear if the
/// frame has a transparent colour; else what it leaves free has the first colour of its palette. Without a palette colours
/// are greys.
///
/// # Errors
/// When there is no frame, it is cut short, or the screen has more than `limit` bytes of RGB pixels.
pub(super) fn first_frame(bytes: &[u8], limit: u64) -> Result<DynamicImage, String> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(MemoryLimit::Unlimited); // sizes are checked below, before anything is set aside
    options.check_frame_consistency(false);
    options.allow_unknown_blocks(true);
    let words = |e: gif::DecodingError| e.to_string();
    let with_greys = greys(bytes);
    let mut decoder = options
        .read_info(with_greys.as_deref().unwrap_or(bytes))
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
fn greys(bytes: &[u8]) -> Option<Vec<u8>> {
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
mod tests {
    use serde::Deserialize;

    use crate::formats::image::tests::base64;
    use crate::formats::image::{Decoding, Mode, decode};

    #[derive(Deserialize)]
    struct Case {
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
        let cases: Vec<Case> = serde_json::from_str(include_str!("../../../tests/fixtures/images/gifs.json")).unwrap();
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
        let cases: Vec<Case> = serde_json::from_str(include_str!("../../../tests/fixtures/images/gifs.json")).unwrap();
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
