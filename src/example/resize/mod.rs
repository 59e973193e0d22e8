//! Resizing of 8-bit images as Pillow up to 12 does it: a port of the 8-bit part of
//! `src/libImaging/Resample.c`. torchvision's `resize` of 8-bit images works the same way with
//! coarser weights, so it differs by one level in less than one value of a hundred.

use std::ops::Range;

use image::{RgbImage, imageops};

mod passes;
use passes::{Horizontal, Vertical};

/// Fractional bits of a weight: 32, less 8 of the pixel, less 2 for sums that overshoot.
const PRECISION: u32 = 32 - 8 - 2;

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
