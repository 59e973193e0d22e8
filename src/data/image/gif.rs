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
        // Beyond the palette's end Pillow's has greys.
        let [r, g, b] = own.copied().unwrap_or([index; 3]);
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
