//! `Qwen2VLImageProcessor` of transformers, which Qwen3-VL checkpoints name in `preprocessor_config.json`.

use std::path::Path;

use image::RgbImage;
use serde::Deserialize;

use super::model_error;
use super::processor::{BICUBIC, CLIP_MEAN, CLIP_STD, ONE_255TH, check_filter, levels};
use super::resize::resize;
use crate::error::{Cause, Error, Result};
use crate::formats::image_processor::{ImageSettings, image_settings};

/// Pixels per side of a patch, at most.
const LARGEST_PATCH: usize = 1 << 10;
/// Patches per side of a merged one, and frames of a patch, at most.
const MOST_MERGED: usize = 1 << 6;
/// Pixels that a smaller image is enlarged to, at most.
const MOST_UPSCALED: usize = 1 << 24;
/// Pixels of a prepared image, at most.
const MOST_PIXELS: usize = 1 << 30;
/// The longest side over the shortest may not be more.
const MAX_ASPECT: u32 = 200;

/// The grid of patches that an image is cut into: rows and columns; multiples of the merge size, since patches are merged in squares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Grid {
    /// Patches from top to bottom.
    pub rows: usize,
    /// Patches from left to right.
    pub columns: usize,
}

impl Grid {
    /// Number of patches.
    #[must_use]
    pub fn patches(&self) -> usize {
        self.rows * self.columns
    }

    /// Number of tokens that the language model sees, for squares of `merge` x `merge` patches.
    #[must_use]
    pub fn tokens(&self, merge: usize) -> usize {
        (self.rows / merge) * (self.columns / merge)
    }

    /// (row, column) of every patch in the order of processor and vision tower: square by square, row by
    /// row within a square.
    pub fn block_order(self, merge: usize) -> impl Iterator<Item = (usize, usize)> {
        let (down, across) = (self.rows / merge, self.columns / merge);
        (0..down * across).flat_map(move |square| {
            let (top, left) = (square / across * merge, square % across * merge);
            (0..merge * merge).map(move |i| (top + i / merge, left + i % merge))
        })
    }
}

/// Images to patches: sides rounded to whole merged patches within a range of areas, normalised.
#[derive(Debug, Clone)]
pub struct PatchProcessor {
    /// Pixels per side of a patch.
    patch: usize,
    /// Patches per side of a merged token.
    merge: usize,
    /// Frames of a patch, all the same.
    frames: usize,
    min_pixels: usize,
    max_pixels: usize,
    /// The normalised value of each 8-bit value, by channel.
    levels: [[f32; 256]; 3],
}

/// The patches of one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Patches {
    /// (N, 3 · frames · P · P): patches in block order, each channel by channel, frame by frame, row by row.
    pub values: Vec<f32>,
    /// Rows and columns of patches.
    pub grid: Grid,
}

/// `preprocessor_config.json`.
#[derive(Deserialize)]
#[serde(default)]
struct Config {
    size: Option<Size>,
    min_pixels: Option<usize>,
    max_pixels: Option<usize>,
    patch_size: usize,
    temporal_patch_size: usize,
    merge_size: usize,
    resample: u32,
    rescale_factor: f64,
    image_mean: [f64; 3],
    image_std: [f64; 3],
}

impl Default for Config {
    /// The processor's.
    fn default() -> Self {
        Self {
            size: None,
            min_pixels: None,
            max_pixels: None,
            patch_size: 14,
            temporal_patch_size: 2,
            merge_size: 2,
            resample: BICUBIC,
            rescale_factor: ONE_255TH,
            image_mean: CLIP_MEAN,
            image_std: CLIP_STD,
        }
    }
}

/// Areas in pixels, in spite of the names.
#[derive(Deserialize)]
struct Size {
    shortest_edge: usize,
    longest_edge: usize,
}

impl PatchProcessor {
    /// Reads `preprocessor_config.json` of a model folder, or `processor_config.json`.
    ///
    /// # Errors
    /// [`Error::Model`] when it is missing, malformed, or asks for what is not supported.
    pub fn load(model_dir: &Path) -> Result<Self> {
        let ImageSettings { path, text } = image_settings(model_dir)?;
        let fail = |reason: String| model_error(&path, reason);
        let config: Config =
            serde_json::from_slice(&text).map_err(|e| fail(format!("not a Qwen image processor: {e}")))?;
        Self::new(&config).map_err(fail)
    }

    fn new(config: &Config) -> Result<Self, String> {
        let size = config.size.as_ref();
        let min_pixels = config
            .min_pixels
            .or(size.map(|size| size.shortest_edge))
            .unwrap_or(56 * 56);
        let max_pixels = config
            .max_pixels
            .or(size.map(|size| size.longest_edge))
            .unwrap_or(28 * 28 * 1280);
        let (patch, merge, frames) = (config.patch_size, config.merge_size, config.temporal_patch_size);
        check_filter(config.resample)?;
        if patch == 0 || merge == 0 || frames == 0 || min_pixels == 0 || max_pixels < min_pixels {
            return Err(format!(
                "patches of {frames} x {patch} px, {merge} x {merge} merged, {min_pixels} to {max_pixels} pixels"
            ));
        }
        for (name, value, most) in [
            ("patch_size", patch, LARGEST_PATCH),
            ("merge_size", merge, MOST_MERGED),
            ("temporal_patch_size", frames, MOST_MERGED),
            ("min_pixels` or `size.shortest_edge", min_pixels, MOST_UPSCALED),
            ("max_pixels` or `size.longest_edge", max_pixels, MOST_PIXELS),
        ] {
            if value > most {
                return Err(format!("`{name}` is {value}, the most that is read is {most}"));
            }
        }
        let levels = levels(config.rescale_factor, config.image_mean, config.image_std)?;
        Ok(Self {
            patch,
            merge,
            frames,
            min_pixels,
            max_pixels,
            levels,
        })
    }

    /// Patches per side of a merged token.
    #[must_use]
    pub fn merge(&self) -> usize {
        self.merge
    }

    /// Pixels per side of a merged token.
    #[must_use]
    pub fn token_side(&self) -> usize {
        self.patch * self.merge
    }

    /// Numbers of a patch.
    #[must_use]
    pub fn patch_width(&self) -> usize {
        3 * self.frames * self.patch * self.patch
    }

    /// The grid that an image will be cut into.
    ///
    /// # Errors
    /// As [`PatchProcessor::patches`].
    pub fn grid(&self, image: &RgbImage) -> Result<Grid> {
        self.size(image.height(), image.width())
            .map(|(height, width)| self.cut(height, width))
    }

    /// The grid of an image of a size that [`PatchProcessor::size`] gives.
    fn cut(&self, height: u32, width: u32) -> Grid {
        Grid {
            rows: height as usize / self.patch,
            columns: width as usize / self.patch,
        }
    }

    /// The patches of an image, mirrored left to right if asked for.
    ///
    /// # Errors
    /// [`Error::Image`] when the image is empty or more than 200 times as long as wide.
    pub fn patches(&self, image: &RgbImage, mirrored: bool) -> Result<Patches> {
        let (height, width) = self.size(image.height(), image.width())?;
        let mut resized = resize(image, width, height);
        if mirrored {
            image::imageops::flip_horizontal_in_place(&mut resized);
        }
        let (patch, stride) = (self.patch, 3 * width as usize);
        let grid = self.cut(height, width);
        let pixels = resized.as_raw();
        let mut values = Vec::with_capacity(grid.patches() * self.patch_width());
        for (row, column) in grid.block_order(self.merge) {
            for (channel, levels) in self.levels.iter().enumerate() {
                for _ in 0..self.frames {
                    for y in row * patch..(row + 1) * patch {
                        let start = y * stride + 3 * column * patch + channel;
                        let line = pixels[start..].iter().step_by(3).take(patch);
                        values.extend(line.map(|&value| levels[value as usize]));
                    }
                }
            }
        }
        Ok(Patches { values, grid })
    }

    /// True if an image of this size is too long for its width, or too wide: whatever else the processor's settings are.
    #[must_use]
    pub fn refuses(width: u32, height: u32) -> bool {
        height == 0 || width == 0 || height.max(width) > MAX_ASPECT.saturating_mul(height.min(width))
    }

    /// (height, width) that an image is resized to: `smart_resize` of transformers.
    ///
    /// # Errors
    /// [`Error::Image`] when the image is empty or more than 200 times as long as wide.
    pub fn size(&self, height: u32, width: u32) -> Result<(u32, u32)> {
        if Self::refuses(width, height) {
            let reason =
                format!("{width} x {height} pixels: the longer side must be at most {MAX_ASPECT} times the other");
            return Err(Error::Image {
                image: "an image for the vision-language model".into(),
                reason,
            }
            .because(Cause::AspectRatio));
        }
        let factor = (self.patch * self.merge) as f64;
        let (h, w) = (f64::from(height), f64::from(width));
        let round = |x: f64| (x / factor).round_ties_even() * factor;
        let (mut to_h, mut to_w) = (round(h), round(w));
        let (min, max) = (self.min_pixels as f64, self.max_pixels as f64);
        if to_h * to_w > max {
            let beta = (h * w / max).sqrt();
            let floor = |x: f64| ((x / beta / factor).floor() * factor).max(factor);
            (to_h, to_w) = (floor(h), floor(w));
        } else if to_h * to_w < min {
            let beta = (min / (h * w)).sqrt();
            let ceil = |x: f64| (x * beta / factor).ceil() * factor;
            (to_h, to_w) = (ceil(h), ceil(w));
        }
        Ok((to_h as u32, to_w as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processor(size: &str) -> PatchProcessor {
        let json = format!(
            r#"{{"size": {size}, "patch_size": 16, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}}"#
        );
        PatchProcessor::new(&serde_json::from_str(&json).unwrap()).unwrap()
    }

    #[test]
    fn halves_are_rounded_to_even() {
        let any = processor(r#"{"shortest_edge": 1024, "longest_edge": 100000000}"#);
        assert_eq!(any.size(80, 48).unwrap(), (64, 64));
        assert_eq!(any.size(112, 144).unwrap(), (128, 128));
        assert!(any.size(1, 201).is_err() && any.size(0, 5).is_err());
    }

    #[test]
    fn patches_are_in_block_order_with_repeated_frames() {
        let processor = processor(r#"{"shortest_edge": 1024, "longest_edge": 65536}"#);
        // Each 16 px patch has its own grey.
        let image = RgbImage::from_fn(64, 32, |x, y| image::Rgb([(x / 16 * 10 + y / 16 * 100) as u8, 0, 255]));
        let patches = processor.patches(&image, false).unwrap();
        assert_eq!(
            (patches.grid, patches.values.len()),
            (Grid { rows: 2, columns: 4 }, 8 * processor.patch_width())
        );
        let grey = |value: f32| value / 127.5 - 1.0;
        for (patch, expected) in patches
            .values
            .chunks(1536)
            .zip([0., 10., 100., 110., 20., 30., 120., 130.])
        {
            assert!(
                patch[..512].iter().all(|value| (value - grey(expected)).abs() < 1e-6),
                "red, both frames"
            );
            assert!(
                patch[512..1024].iter().all(|&value| value == -1.0) && patch[1024..].iter().all(|&value| value == 1.0)
            );
        }
        let mirrored = processor.patches(&image, true).unwrap();
        assert!((mirrored.values[0] - grey(30.0)).abs() < 1e-6);
    }

    #[test]
    fn patches_come_square_by_square() {
        let grid = Grid { rows: 2, columns: 4 };
        let order: Vec<_> = grid.block_order(2).collect();
        assert_eq!(order, [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3)]);
        assert_eq!((grid.patches(), grid.tokens(2)), (8, 2));
    }
}
