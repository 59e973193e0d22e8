//! `BitImageProcessor` of transformers (its default, fast version), which DINOv2 checkpoints name in
//! `preprocessor_config.json`; CLIP's is the same, SigLIP's has other defaults.

use std::path::Path;

use image::RgbImage;
use image::imageops;
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use super::model_error;
use super::resize::{resize, resize_part};
use crate::error::Result;
use crate::formats::image_processor::{ImageSettings, image_settings};

/// Pillow's number of the bicubic filter.
pub(super) const BICUBIC: u32 = 3;
/// Factor from 8 bits to 0 to 1.
pub(super) const ONE_255TH: f64 = 1.0 / 255.0;
/// Mean and standard deviation of the channels in CLIP's training.
pub(super) const CLIP_MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
pub(super) const CLIP_STD: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

/// Images to pixels: resize, centre crop, rescale, normalise.
#[derive(Debug, Clone)]
pub struct ImageProcessor {
    resize: Option<Resize>,
    /// (height, width)
    crop: Option<(u32, u32)>,
    /// (height, width)
    size: (u32, u32),
    /// The normalised value of each 8-bit value, by channel.
    levels: [[f32; 256]; 3],
}

#[derive(Debug, Clone, Copy)]
enum Resize {
    ShortestEdge(u32),
    To { height: u32, width: u32 },
}

/// The longest side of prepared images.
const LONGEST_SIDE: u32 = 1 << 12;
/// Width over height of a random part, at least and at most.
const ASPECT: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);
/// Draws before a random part is taken from the middle.
const TRIES: usize = 10;

/// `preprocessor_config.json`.
#[derive(Deserialize)]
#[serde(default)]
struct Config {
    do_resize: bool,
    size: Size,
    resample: u32,
    do_center_crop: bool,
    crop_size: Size,
    do_rescale: bool,
    rescale_factor: f64,
    do_normalize: bool,
    image_mean: [f64; 3],
    image_std: [f64; 3],
}

impl Default for Config {
    /// `BitImageProcessor`'s.
    fn default() -> Self {
        Self {
            do_resize: true,
            size: Size::ShortestEdge { shortest_edge: 224 },
            resample: BICUBIC,
            do_center_crop: true,
            crop_size: Size::Number(224),
            do_rescale: true,
            rescale_factor: ONE_255TH,
            do_normalize: true,
            image_mean: CLIP_MEAN,
            image_std: CLIP_STD,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Size {
    Number(u32),
    ShortestEdge { shortest_edge: u32 },
    Exact { height: u32, width: u32 },
}

/// The normalised value of each 8-bit value, by channel.
///
/// # Errors
/// In words, when one is not finite.
pub(super) fn levels(scale: f64, mean: [f64; 3], std: [f64; 3]) -> Result<[[f32; 256]; 3], String> {
    let mut levels = [[0f32; 256]; 3];
    for (levels, (mean, std)) in levels.iter_mut().zip(mean.into_iter().zip(std)) {
        for (value, level) in levels.iter_mut().enumerate() {
            *level = ((value as f64 * scale - mean) / std) as f32;
        }
    }
    if levels.iter().flatten().any(|level| !level.is_finite()) {
        return Err("`image_std` or `rescale_factor` makes pixels that are not finite".into());
    }
    Ok(levels)
}

/// Refuses other filters than the bicubic one.
///
/// # Errors
/// In words.
pub(super) fn check_filter(resample: u32) -> Result<(), String> {
    match resample {
        BICUBIC => Ok(()),
        _ => Err(format!(
            "`resample` is {resample}, only {BICUBIC} (bicubic) is supported"
        )),
    }
}

impl ImageProcessor {
    /// Reads `preprocessor_config.json` of a model folder, or `processor_config.json`.
    ///
    /// # Errors
    /// [`crate::error::Error::Model`] when it is missing, malformed, or asks for what is not supported: another
    /// filter than bicubic, or images of varying size.
    pub fn load(model_dir: &Path) -> Result<Self> {
        let ImageSettings { path, text } = image_settings(model_dir)?;
        Self::parse(&text).map_err(|reason| model_error(&path, reason))
    }

    /// `SiglipImageProcessor` resizes to a square and crops nothing, other means and deviations; what its file leaves out is
    /// filled in.
    fn parse(text: &[u8]) -> Result<Self, String> {
        let unfit = |e: serde_json::Error| format!("not an image processor: {e}");
        let mut stated: serde_json::Value = serde_json::from_slice(text).map_err(unfit)?;
        if let serde_json::Value::Object(fields) = &mut stated {
            // A field that is null is one that is not there.
            fields.retain(|_, value| !value.is_null());
            let of_kind = |key: &str| fields.get(key).and_then(serde_json::Value::as_str).unwrap_or_default();
            let kind = [of_kind("image_processor_type"), of_kind("feature_extractor_type")];
            if kind.iter().any(|kind| kind.starts_with("Siglip")) {
                for (key, value) in [
                    ("do_center_crop", false.into()),
                    ("size", serde_json::json!({"height": 224, "width": 224})),
                    ("image_mean", serde_json::json!([0.5, 0.5, 0.5])),
                    ("image_std", serde_json::json!([0.5, 0.5, 0.5])),
                ] {
                    fields.entry(key).or_insert(value);
                }
            }
        }
        Self::new(&serde_json::from_value(stated).map_err(unfit)?)
    }

    fn new(config: &Config) -> Result<Self, String> {
        let resize = match config.size {
            _ if !config.do_resize => None,
            Size::Number(edge) | Size::ShortestEdge { shortest_edge: edge } => Some(Resize::ShortestEdge(edge)),
            Size::Exact { height, width } => Some(Resize::To { height, width }),
        };
        if config.do_resize {
            check_filter(config.resample)?;
        }
        let crop = match config.crop_size {
            _ if !config.do_center_crop => None,
            Size::Number(side) => Some((side, side)),
            Size::Exact { height, width } => Some((height, width)),
            Size::ShortestEdge { .. } => {
                return Err("`crop_size` needs `height` and `width`".into());
            }
        };
        let size = match (crop, resize) {
            (Some(size), _) => size,
            (None, Some(Resize::To { height, width })) => (height, width),
            (None, _) => return Err("without `do_center_crop` images would vary in size".into()),
        };
        let none = |size: u32| !(1..=LONGEST_SIDE).contains(&size);
        if none(size.0) || none(size.1) || matches!(resize, Some(Resize::ShortestEdge(edge)) if none(edge)) {
            return Err(format!(
                "`size` or `crop_size` makes images of {} x {} pixels; sides from 1 to {LONGEST_SIDE} are read",
                size.0, size.1
            ));
        }
        let scale = if config.do_rescale { config.rescale_factor } else { 1.0 };
        let (mean, std) = match config.do_normalize {
            true => (config.image_mean, config.image_std),
            false => ([0.0; 3], [1.0; 3]),
        };
        let levels = levels(scale, mean, std)?;
        Ok(Self {
            resize,
            crop,
            size,
            levels,
        })
    }

    /// (height, width) of the pixels it returns.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        (self.size.0 as usize, self.size.1 as usize)
    }

    /// The view of evaluation: normalised values, planar (3, H, W).
    #[must_use]
    pub fn pixels(&self, image: &RgbImage) -> Vec<f32> {
        self.normalised(&self.framed(image))
    }

    /// A view of training: a random part of the image, mirrored half of the time when `flip` is set;
    /// resampled and normalised as [`ImageProcessor::pixels`], (3, H, W).
    ///
    /// The part covers at least `crop_min_area` of the image (torchvision's `RandomResizedCrop`,
    /// aspect ratio 3/4 to 4/3); from 1 on it is the frame of evaluation.
    #[must_use]
    pub fn augmented(&self, image: &RgbImage, crop_min_area: f64, flip: bool, rng: &mut ChaCha8Rng) -> Vec<f32> {
        let framed = if crop_min_area < 1.0 {
            let part = random_part(image.dimensions(), crop_min_area, rng);
            let part = imageops::crop_imm(image, part.left, part.top, part.width, part.height).to_image();
            resize(&part, self.size.1, self.size.0)
        } else {
            self.framed(image)
        };
        self.planes(&framed, flip && rng.random_bool(0.5))
    }

    /// The image resized and cropped to [`ImageProcessor::size`], in 8 bits.
    #[must_use]
    pub fn framed(&self, image: &RgbImage) -> RgbImage {
        let (width, height) = image.dimensions();
        let to = match self.resize {
            None => (width, height),
            Some(Resize::To { height, width }) => (width, height),
            Some(Resize::ShortestEdge(edge)) => {
                let (short, long) = (width.min(height), width.max(height));
                let long = u64::from(edge) * u64::from(long) / u64::from(short.max(1));
                let long = u32::try_from(long).unwrap_or(u32::MAX);
                if width <= height { (edge, long) } else { (long, edge) }
            }
        };
        let Some((height, width)) = self.crop else {
            return resize(image, to.0, to.1);
        };
        // The middle `width` x `height` pixels; what is missing is black, the odd pixel to the right and bottom.
        let (from_x, to_x, columns) = overlap(to.0, width);
        let (from_y, to_y, rows) = overlap(to.1, height);
        let middle = resize_part(image, to, from_x..from_x + columns, from_y..from_y + rows);
        let mut out = RgbImage::new(width, height);
        imageops::replace(&mut out, &middle, i64::from(to_x), i64::from(to_y));
        out
    }

    /// All that [`ImageProcessor::framed`] depends on, as a part of a file name.
    #[must_use]
    pub fn settings(&self) -> String {
        let resize = match self.resize {
            None => "whole".into(),
            Some(Resize::ShortestEdge(edge)) => format!("bicubic{edge}"),
            Some(Resize::To { height, width }) => format!("bicubic{width}x{height}"),
        };
        match self.crop {
            None => resize,
            Some((height, width)) => format!("{resize}-centre{width}x{height}"),
        }
    }

    /// The normalised values of a framed image, planar (3, H, W).
    #[must_use]
    pub fn normalised(&self, framed: &RgbImage) -> Vec<f32> {
        self.planes(framed, false)
    }

    fn planes(&self, image: &RgbImage, mirrored: bool) -> Vec<f32> {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let mut planes = vec![0f32; 3 * width * height];
        for (channel, plane) in planes.chunks_exact_mut((width * height).max(1)).enumerate() {
            let rows = image.as_raw().chunks_exact((3 * width).max(1));
            for (row, out) in rows.zip(plane.chunks_exact_mut(width.max(1))) {
                let levels = row
                    .iter()
                    .skip(channel)
                    .step_by(3)
                    .map(|&v| self.levels[channel][v as usize]);
                if mirrored {
                    out.iter_mut().rev().zip(levels).for_each(|(out, level)| *out = level);
                } else {
                    out.iter_mut().zip(levels).for_each(|(out, level)| *out = level);
                }
            }
        }
        planes
    }
}

/// Along one side: where the middle starts in the source and in the target, and how long it is.
fn overlap(source: u32, target: u32) -> (u32, u32, u32) {
    if source < target {
        (0, (target - source) / 2, source)
    } else {
        ((source - target) / 2, 0, target)
    }
}

/// A rectangle inside an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    left: u32,
    top: u32,
    width: u32,
    height: u32,
}

/// A rectangle that covers `min_area` to all of a (width, height) image, as torchvision's
/// `RandomResizedCrop.get_params` draws it.
fn random_part((width, height): (u32, u32), min_area: f64, rng: &mut ChaCha8Rng) -> Part {
    let area = f64::from(width) * f64::from(height);
    for _ in 0..TRIES {
        let target = area * rng.random_range(min_area.clamp(0.0, 1.0)..=1.0);
        let aspect = rng.random_range(ASPECT.0.ln()..=ASPECT.1.ln()).exp();
        let part_width = (target * aspect).sqrt().round_ties_even() as u32;
        let part_height = (target / aspect).sqrt().round_ties_even() as u32;
        if (1..=width).contains(&part_width) && (1..=height).contains(&part_height) {
            let top = rng.random_range(0..=height - part_height);
            let left = rng.random_range(0..=width - part_width);
            return Part {
                left,
                top,
                width: part_width,
                height: part_height,
            };
        }
    }
    let aspect = f64::from(width) / f64::from(height.max(1));
    let (part_width, part_height) = if aspect < ASPECT.0 {
        (
            width,
            ((f64::from(width) / ASPECT.0).round_ties_even() as u32).min(height),
        )
    } else if aspect > ASPECT.1 {
        (
            ((f64::from(height) * ASPECT.1).round_ties_even() as u32).min(width),
            height,
        )
    } else {
        (width, height)
    };
    Part {
        left: (width - part_width) / 2,
        top: (height - part_height) / 2,
        width: part_width,
        height: part_height,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed;

    fn processor(json: &str) -> Result<ImageProcessor, String> {
        ImageProcessor::parse(json.as_bytes())
    }

    fn gradient(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([(x * 5 % 256) as u8, (y * 7 % 256) as u8, 90])
        })
    }

    const PLAIN: &str = r#"{"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 12},
        "do_normalize": false, "do_rescale": false}"#;

    #[test]
    fn sizes_old_and_new() {
        for size in [
            r#""size": 16, "crop_size": 12"#,
            r#""size": {"shortest_edge": 16}, "crop_size": {"height": 12, "width": 12}"#,
        ] {
            assert_eq!(processor(&format!("{{{size}}}")).unwrap().size(), (12, 12));
        }
        assert_eq!(
            processor(r#"{"do_center_crop": false, "size": {"height": 8, "width": 9}}"#)
                .unwrap()
                .size(),
            (8, 9)
        );
        assert!(processor(r#"{"do_center_crop": false}"#).unwrap_err().contains("vary"));
        assert!(processor(r#"{"resample": 2}"#).unwrap_err().contains("bicubic"));
        assert!(processor(r#"{"image_std": [0, 1, 1]}"#).is_err());
    }

    #[test]
    fn siglip_resizes_to_a_square_and_crops_nothing() {
        let siglip = processor(r#"{"image_processor_type": "SiglipImageProcessor", "do_center_crop": null}"#).unwrap();
        assert_eq!(
            (siglip.size(), siglip.settings().as_str()),
            ((224, 224), "bicubic224x224")
        );
        assert_eq!((siglip.levels[0][0], siglip.levels[2][255]), (-1.0, 1.0));
    }

    #[test]
    fn small_images_are_padded_black() {
        let processor =
            processor(r#"{"do_resize": false, "crop_size": 5, "do_normalize": false, "do_rescale": false}"#).unwrap();
        let pixels = processor.pixels(&RgbImage::from_pixel(2, 9, image::Rgb([7, 8, 9])));
        assert_eq!(pixels[..10], [0., 7., 7., 0., 0., 0., 7., 7., 0., 0.]);
    }

    /// Whole it would take 20 GB.
    #[test]
    fn an_image_of_one_row_is_framed_without_resizing_all_of_it() {
        let processor = processor(r#"{"do_normalize": false, "do_rescale": false}"#).unwrap();
        let image = RgbImage::from_fn(100_000, 1, |x, _| image::Rgb([(x / 400) as u8; 3]));
        let pixels = processor.pixels(&image);
        assert_eq!(pixels.len(), 3 * 224 * 224);
        assert!(pixels.iter().all(|value| (124.0..=126.0).contains(value)));
        let upright = RgbImage::from_fn(1, 100_000, |_, y| image::Rgb([(y / 400) as u8; 3]));
        assert!(
            processor
                .pixels(&upright)
                .iter()
                .all(|value| (124.0..=126.0).contains(value))
        );
    }

    #[test]
    fn without_augmentation_training_sees_what_evaluation_sees() {
        let (processor, image) = (processor(PLAIN).unwrap(), gradient(40, 30));
        let mut rng = seed::rng(1, "augment");
        assert_eq!(
            processor.augmented(&image, 1.0, false, &mut rng),
            processor.pixels(&image)
        );
    }

    #[test]
    fn half_of_the_images_are_mirrored() {
        let (processor, image) = (processor(PLAIN).unwrap(), gradient(40, 30));
        let mut rng = seed::rng(1, "augment");
        let plain = processor.pixels(&image);
        let mut mirrored = plain.clone();
        mirrored.chunks_exact_mut(12).for_each(<[f32]>::reverse);
        let count = (0..200)
            .filter(|_| {
                let pixels = processor.augmented(&image, 1.0, true, &mut rng);
                assert!(pixels == plain || pixels == mirrored);
                pixels == mirrored
            })
            .count();
        assert!((70..130).contains(&count), "{count}");
    }

    #[test]
    fn crops_have_the_size_and_depend_on_the_seed_only() {
        let (processor, image) = (processor(PLAIN).unwrap(), gradient(40, 30));
        let sequence = |seed| {
            let mut rng = seed::rng(seed, "augment");
            (0..5)
                .map(|_| processor.augmented(&image, 0.3, true, &mut rng))
                .collect::<Vec<_>>()
        };
        assert!(sequence(1).iter().all(|pixels| pixels.len() == 3 * 16 * 12));
        assert_eq!(sequence(1), sequence(1));
        assert_ne!(sequence(1), sequence(2));
    }

    #[test]
    fn parts_are_inside_and_large_enough() {
        let mut rng = seed::rng(3, "parts");
        for size in [(60, 40), (40, 60), (1, 1), (300, 7), (2, 3)] {
            for _ in 0..200 {
                let part = random_part(size, 0.5, &mut rng);
                assert!(part.width >= 1 && part.height >= 1);
                assert!(part.left + part.width <= size.0 && part.top + part.height <= size.1);
                if size.0.min(size.1) >= 40 {
                    let share = f64::from(part.width * part.height) / f64::from(size.0 * size.1);
                    assert!(share > 0.47, "{share}");
                }
            }
        }
    }

    #[test]
    fn parts_reach_every_border() {
        let mut rng = seed::rng(4, "parts");
        let parts: Vec<_> = (0..500).map(|_| random_part((20, 20), 0.3, &mut rng)).collect();
        assert!(parts.iter().any(|p| p.left == 0) && parts.iter().any(|p| p.top == 0));
        assert!(parts.iter().any(|p| p.left + p.width == 20) && parts.iter().any(|p| p.top + p.height == 20));
    }
}
