//! Resizing of 8-bit images as Pillow up to 12 does it: a port of the 8-bit part of
//! `src/libImaging/Resample.c`. torchvision's `resize` of 8-bit images works the same way with
//! coarser weights, so it differs by one level in less than one value of a hundred.

use std::ops::Range;

use image::{RgbImage, imageops};

/// Fractional bits of a weight: 32, less 8 of the pixel, less 2 for sums that overshoot.
const PRECISION: u32 = 32 - 8 - 2;
/// Rows that a horizontal pass works on at once: a lane each.
const ROWS: usize = 16;
/// Bytes of a row that a vertical pass works on at once.
const CHUNK: usize = 64;
/// Bytes of a row that are transposed at once: eight blocks of 8 x 8 side by side.
const WIDE: usize = 64;
/// Initial value of a sum, so that cutting its fraction off rounds it.
const HALF: i32 = 1 << (PRECISION - 1);

/// The interpolation kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
    /// Keys' cubic kernel with a = -0.5.
    Bicubic,
    /// Sinc, windowed by a sinc three times as wide.
    Lanczos,
}

impl Filter {
    /// Reach of the kernel, in pixels of the coarser image.
    fn support(self) -> f64 {
        match self {
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        match self {
            Self::Bicubic => cubic(x),
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
        }
    }
}

/// The fixed-point weights with which one output pixel reads inputs from `first` on.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// Resizes bicubically to `width` x `height` pixels, antialiased when shrinking: first the rows, rounded to
/// 8 bits, then the columns.
#[must_use]
pub fn resize(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    filtered(image, width, height, Filter::Bicubic)
}

/// The pixels of [`resize`] in these columns and rows alone: of an image that is far longer than wide the whole could be larger than
/// memory.
#[must_use]
pub fn resize_part(image: &RgbImage, (width, height): (u32, u32), columns: Range<u32>, rows: Range<u32>) -> RgbImage {
    let across = if width == image.width() {
        imageops::crop_imm(image, columns.start, 0, columns.end - columns.start, image.height()).to_image()
    } else {
        horizontal(image, width, columns, Filter::Bicubic)
    };
    if height == image.height() {
        imageops::crop_imm(&across, 0, rows.start, across.width(), rows.end - rows.start).to_image()
    } else {
        vertical(&across, height, rows, Filter::Bicubic)
    }
}

/// Shrinks an image whose longer side has more than `longest` pixels to that, by Lanczos, as the Tinker
/// cookbook's `resize_image` does; a smaller one stays as it is.
#[must_use]
pub fn shrink(image: &RgbImage, longest: u32) -> RgbImage {
    let (width, height) = shrunk(image.dimensions(), longest);
    filtered(image, width, height, Filter::Lanczos)
}

/// Width and height that [`shrink`] makes of an image.
#[must_use]
pub fn shrunk((width, height): (u32, u32), longest: u32) -> (u32, u32) {
    let shorter = |short: u32, long: u32| ((u64::from(short) * u64::from(longest) / u64::from(long)) as u32).max(1);
    if width.max(height) <= longest {
        (width, height)
    } else if width > height {
        (longest, shorter(height, width))
    } else {
        (shorter(width, height), longest)
    }
}

fn filtered(image: &RgbImage, width: u32, height: u32, filter: Filter) -> RgbImage {
    match (width != image.width(), height != image.height()) {
        (true, true) => vertical(&horizontal(image, width, 0..width, filter), height, 0..height, filter),
        (true, false) => horizontal(image, width, 0..width, filter),
        (false, true) => vertical(image, height, 0..height, filter),
        (false, false) => image.clone(),
    }
}

/// These columns of an image made `width` pixels wide.
fn horizontal(image: &RgbImage, width: u32, columns: Range<u32>, filter: Filter) -> RgbImage {
    let to = columns.end - columns.start;
    let mut out = RgbImage::new(to, image.height());
    if !out.is_empty() {
        pulp::Arch::new().dispatch(Horizontal {
            image: image.as_raw(),
            from: 3 * image.width() as usize,
            taps: &taps(image.width(), width, columns, filter),
            out: &mut out,
            to: 3 * to as usize,
        });
    }
    out
}

/// These rows of an image made `height` pixels high.
fn vertical(image: &RgbImage, height: u32, rows: Range<u32>, filter: Filter) -> RgbImage {
    let mut out = RgbImage::new(image.width(), rows.end - rows.start);
    if !out.is_empty() {
        pulp::Arch::new().dispatch(Vertical {
            image: image.as_raw(),
            stride: 3 * image.width() as usize,
            taps: &taps(image.height(), height, rows, filter),
            out: &mut out,
        });
    }
    out
}

/// Keys' cubic kernel with a = -0.5 at distance `x`.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn sinc(x: f64) -> f64 {
    let x = x * std::f64::consts::PI;
    if x == 0.0 { 1.0 } else { x.sin() / x }
}

fn taps(from: u32, to: u32, part: Range<u32>, filter: Filter) -> Vec<Taps> {
    let scale = f64::from(from) / f64::from(to);
    let from = from as usize;
    let widening = scale.max(1.0);
    let support = filter.support() * widening;
    let one = |i: u32| {
        let centre = (f64::from(i) + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(from);
        let raw: Vec<f64> = (first..end)
            .map(|j| filter.weight((j as f64 - centre + 0.5) / widening))
            .collect();
        let total: f64 = raw.iter().sum();
        let fixed = |w: f64| (w / total * f64::from(1 << PRECISION)).round() as i32;
        Taps {
            first,
            weights: raw.into_iter().map(fixed).collect(),
        }
    };
    part.map(one).collect()
}

// The two passes are written so that the compiler makes vector instructions of them; `pulp` chooses at run time for which
// processor. Sums are those of plain integer arithmetic, whatever the order.

#[inline(always)]
fn to_8_bits(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Each output pixel of a row from neighbours in that row.
struct Horizontal<'a> {
    /// Rows of `from` bytes, RGB.
    image: &'a [u8],
    from: usize,
    /// One an output pixel.
    taps: &'a [Taps],
    /// Rows of `to` bytes, RGB.
    out: &'a mut [u8],
    to: usize,
}

impl pulp::WithSimd for Horizontal<'_> {
    type Output = ();

    /// Pixels of a row overlap in what they read, those of a column do not: each block of rows is transposed, so that a
    /// byte of all its rows lies together.
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let mut columns = vec![0; self.from.next_multiple_of(WIDE) * ROWS];
        let mut sums = vec![0; self.to.next_multiple_of(WIDE) * ROWS];
        let blocks = self.image.chunks(ROWS * self.from);
        for (rows, out) in blocks.zip(self.out.chunks_mut(ROWS * self.to)) {
            to_columns(rows, self.from, &mut columns);
            for (taps, out) in self.taps.iter().zip(sums.chunks_exact_mut(3 * ROWS)) {
                let mut sums = [HALF; 3 * ROWS];
                let pixels = columns[3 * ROWS * taps.first..].chunks_exact(3 * ROWS);
                for (&weight, pixels) in taps.weights.iter().zip(pixels) {
                    for (sum, &value) in sums.iter_mut().zip(pixels) {
                        *sum += weight * i32::from(value);
                    }
                }
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = to_8_bits(sum);
                }
            }
            to_rows(&sums, out, self.to);
        }
    }
}

/// Each output row from neighbouring rows.
struct Vertical<'a> {
    /// Rows of `stride` bytes.
    image: &'a [u8],
    stride: usize,
    /// One an output row.
    taps: &'a [Taps],
    /// Rows of `stride` bytes.
    out: &'a mut [u8],
}

impl pulp::WithSimd for Vertical<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        for (taps, out) in self.taps.iter().zip(self.out.chunks_exact_mut(self.stride)) {
            let rows = &self.image[taps.first * self.stride..];
            let whole = out.len() / CHUNK * CHUNK;
            let (chunks, rest) = out.split_at_mut(whole);
            for (i, out) in chunks.chunks_exact_mut(CHUNK).enumerate() {
                let mut sums = [HALF; CHUNK];
                for (&weight, row) in taps.weights.iter().zip(rows.chunks_exact(self.stride)) {
                    for (sum, &value) in sums.iter_mut().zip(&row[i * CHUNK..][..CHUNK]) {
                        *sum += weight * i32::from(value);
                    }
                }
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = to_8_bits(sum);
                }
            }
            for (i, out) in rest.iter_mut().enumerate() {
                let column = rows[whole + i..].iter().step_by(self.stride);
                let weighted = taps.weights.iter().zip(column).map(|(w, &v)| w * i32::from(v));
                *out = to_8_bits(HALF + weighted.sum::<i32>());
            }
        }
    }
}

/// Eight blocks of 8 x 8 bytes side by side: a row's bytes of each block.
type Blocks = [[u64; 8]; 8];

/// Transposes each block.
#[inline(always)]
fn transpose(rows: &mut Blocks) {
    #[inline(always)]
    fn swap(rows: &mut Blocks, [high, low]: [usize; 2], bits: u32, mask: u64) {
        let (mut upper, mut lower) = (rows[high], rows[low]);
        for (upper, lower) in upper.iter_mut().zip(&mut lower) {
            let changed = ((*upper >> bits) ^ *lower) & mask;
            *lower ^= changed;
            *upper ^= changed << bits;
        }
        (rows[high], rows[low]) = (upper, lower);
    }
    for i in [0, 2, 4, 6] {
        swap(rows, [i, i + 1], 8, 0x00ff_00ff_00ff_00ff);
    }
    for i in [0, 1, 4, 5] {
        swap(rows, [i, i + 2], 16, 0x0000_ffff_0000_ffff);
    }
    for i in [0, 1, 2, 3] {
        swap(rows, [i, i + 4], 32, 0x0000_0000_ffff_ffff);
    }
}

/// Up to [`ROWS`] rows of `stride` bytes to `columns` of [`ROWS`] bytes. Those of missing rows are anything.
#[inline(always)]
fn to_columns(rows: &[u8], stride: usize, columns: &mut [u8]) {
    for (i, columns) in columns.chunks_exact_mut(WIDE * ROWS).enumerate() {
        for (half, rows) in rows.chunks(ROWS / 2 * stride).enumerate() {
            let mut blocks: Blocks = [[0; 8]; 8];
            for (blocks, row) in blocks.iter_mut().zip(rows.chunks_exact(stride)) {
                let row = &row[i * WIDE..];
                match row.first_chunk() {
                    Some(row) => *blocks = words(row),
                    None => {
                        let mut padded = [0; WIDE];
                        padded[..row.len()].copy_from_slice(row);
                        *blocks = words(&padded);
                    }
                }
            }
            transpose(&mut blocks);
            for (j, words) in blocks.iter().enumerate() {
                for (block, word) in words.iter().enumerate() {
                    let at = (8 * block + j) * ROWS + 8 * half;
                    columns[at..at + 8].copy_from_slice(&word.to_le_bytes());
                }
            }
        }
    }
}

/// Back from columns of [`ROWS`] bytes to up to so many rows of `stride` bytes.
#[inline(always)]
fn to_rows(columns: &[u8], rows: &mut [u8], stride: usize) {
    for (i, columns) in columns.chunks_exact(WIDE * ROWS).enumerate() {
        for (half, rows) in rows.chunks_mut(ROWS / 2 * stride).enumerate() {
            let mut blocks: Blocks = [[0; 8]; 8];
            for (j, words) in blocks.iter_mut().enumerate() {
                for (block, word) in words.iter_mut().enumerate() {
                    let at = (8 * block + j) * ROWS + 8 * half;
                    *word = columns[at..]
                        .first_chunk()
                        .map_or(0, |bytes| u64::from_le_bytes(*bytes));
                }
            }
            transpose(&mut blocks);
            for (blocks, row) in blocks.iter().zip(rows.chunks_exact_mut(stride)) {
                let row = &mut row[i * WIDE..];
                let mut bytes = [0; WIDE];
                for (bytes, word) in bytes.chunks_exact_mut(8).zip(blocks) {
                    bytes.copy_from_slice(&word.to_le_bytes());
                }
                let length = row.len().min(WIDE);
                row[..length].copy_from_slice(&bytes[..length]);
            }
        }
    }
}

#[inline(always)]
fn words(row: &[u8; WIDE]) -> [u64; 8] {
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().zip(row.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_colour_stays_one_colour() {
        let image = RgbImage::from_pixel(37, 21, image::Rgb([0, 133, 255]));
        for (width, height) in [(5, 7), (90, 64), (37, 3), (1, 1)] {
            let resized = resize(&image, width, height);
            assert_eq!(resized.dimensions(), (width, height));
            assert!(resized.pixels().all(|pixel| pixel.0 == [0, 133, 255]));
        }
    }

    #[test]
    fn a_part_is_that_of_the_whole() {
        let image = RgbImage::from_fn(31, 17, |x, y| {
            image::Rgb([(x * 8) as u8, (y * 15) as u8, (x * y) as u8])
        });
        for (width, height) in [(62, 40), (31, 9), (12, 17), (31, 17)] {
            let whole = resize(&image, width, height);
            let part = resize_part(&image, (width, height), 3..11, 2..9);
            assert_eq!(
                part,
                imageops::crop_imm(&whole, 3, 2, 8, 7).to_image(),
                "{width} x {height}"
            );
        }
    }

    #[test]
    fn shrinks_as_pillow_does_by_lanczos() {
        // Image.frombytes("RGB", (9, 1), bytes((i * 67 + i * i * 31) % 256 for i in range(27))).resize((4, 1), LANCZOS)
        let bytes: Vec<u8> = (0..27u32).map(|i| ((i * 67 + i * i * 31) % 256) as u8).collect();
        let expected = [145, 180, 79, 134, 207, 158, 136, 130, 112, 152, 91, 109];
        for (width, height) in [(9, 1), (1, 9)] {
            let image = RgbImage::from_raw(width, height, bytes.clone()).unwrap();
            let small = shrink(&image, 4);
            assert_eq!(small.dimensions(), (width.min(4), height.min(4)));
            assert_eq!(small.as_raw()[..], expected);
            assert_eq!(shrink(&image, 9), image);
        }
        assert_eq!(shrink(&RgbImage::new(754, 500), 480).dimensions(), (480, 318));
    }

    #[test]
    fn matches_pillow() {
        // Image.frombytes("RGB", (5, 1), bytes(range(0, 225, 15))).resize((width, 1), BICUBIC)
        let image = RgbImage::from_raw(5, 1, (0..15).map(|i| i * 15).collect()).unwrap();
        let smaller = [16, 31, 46, 90, 105, 120, 164, 179, 194];
        let larger = [
            0, 12, 27, 16, 31, 46, 48, 63, 78, 76, 91, 106, 104, 119, 134, 132, 147, 162, 164, 179, 194, 183, 198, 213,
        ];
        assert_eq!(resize(&image, 3, 1).as_raw()[..], smaller);
        assert_eq!(resize(&image, 8, 1).as_raw()[..], larger);
        // The same with bytes((i * 67 + i * i * 31) % 256 for i in range(36)) as 4 x 3 pixels.
        let image =
            RgbImage::from_raw(4, 3, (0..36u32).map(|i| ((i * 67 + i * i * 31) % 256) as u8).collect()).unwrap();
        let lower = [
            57, 148, 34, 159, 180, 96, 241, 191, 204, 112, 149, 91, 63, 120, 150, 65, 53, 113, 224, 141, 121, 173, 176,
            86,
        ];
        assert_eq!(resize(&image, 4, 2).as_raw()[..], lower);
    }
}
