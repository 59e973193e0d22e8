//! Inputs of a benchmark: photographs and texts of the sizes that the datasets have.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, RgbImage};
use rand::Rng as _;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::seed;

/// The sizes of a dataset. Lengths in tokens are those of its class names in Qwen's vocabulary, and of the text around a
/// picture: the chat's frame before it, question and start of the answer after it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dataset {
    /// Its name.
    pub name: &'static str,
    /// Width and height of a typical photograph.
    pub photograph: (u32, u32),
    /// Classes.
    pub classes: usize,
    /// Tokens of a class name, mean, without the token that ends it.
    pub name_tokens: f64,
    /// Classes whose names begin with the same two tokens (the make of a car).
    pub alike: usize,
    /// Tokens before and after a picture.
    pub around: [usize; 2],
}

/// The four datasets, and the pictures of 224 pixels that small shapes are compared on.
pub const DATASETS: [Dataset; 5] = [
    dataset("caltech101", (300, 200), 102, 2.0, 1, [4, 24]),
    dataset("stanford-cars", (700, 483), 196, 10.8, 4, [4, 24]),
    dataset("oxford-flowers", (667, 500), 102, 3.3, 1, [4, 24]),
    dataset("oxford-pets", (500, 375), 37, 3.2, 1, [4, 24]),
    dataset("square-224", (224, 224), 10, 3.0, 1, [9, 30]),
];

const fn dataset(
    name: &'static str,
    photograph: (u32, u32),
    classes: usize,
    name_tokens: f64,
    alike: usize,
    around: [usize; 2],
) -> Dataset {
    Dataset {
        name,
        photograph,
        classes,
        name_tokens,
        alike,
        around,
    }
}

impl Dataset {
    /// One of [`DATASETS`].
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        DATASETS.into_iter().find(|dataset| dataset.name == name)
    }

    /// Tokens of each class name with the token that ends it, all below `vocabulary`: no two alike.
    pub(super) fn names(&self, vocabulary: u32) -> Vec<Vec<u32>> {
        let mut rng = seed::rng(0, "bench/names");
        let end = vocabulary - 1;
        let mut token = || rng.random_range(0..end);
        let total = |i: usize| (self.name_tokens * i as f64) as usize;
        let mut make = [0; 2];
        let mut names: Vec<Vec<u32>> = Vec::with_capacity(self.classes);
        while names.len() < self.classes {
            let class = names.len();
            let length = total(class + 1) - total(class);
            if class.is_multiple_of(self.alike) {
                make = [token(), token()];
            }
            let mut name: Vec<u32> = (0..length).map(|_| token()).collect();
            if self.alike > 1 {
                name.splice(..2.min(length), make);
            }
            name.push(end);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// So many photographs, as JPEG files.
    ///
    /// # Errors
    /// [`Error::Image`] when one cannot be encoded.
    pub(super) fn photographs(&self, count: usize) -> Result<Vec<Vec<u8>>> {
        let (width, height) = self.photograph;
        let one = |number: usize| {
            let mut rng = seed::rng(number as u64, "bench/photograph");
            let waves: [f32; 6] = std::array::from_fn(|_| rng.random_range(0.005..0.06));
            let mut image = RgbImage::new(width, height);
            for (x, y, pixel) in image.enumerate_pixels_mut() {
                for (channel, value) in pixel.0.iter_mut().enumerate() {
                    let (a, b) = (waves[2 * channel] * x as f32, waves[2 * channel + 1] * y as f32);
                    let shade = 127.0 + 55.0 * (a.sin() + b.cos()) + rng.random_range(-12.0..12.0f32);
                    *value = shade.clamp(0.0, 255.0) as u8;
                }
            }
            let mut bytes = Cursor::new(Vec::new());
            JpegEncoder::new_with_quality(&mut bytes, 90)
                .encode(&image, width, height, ExtendedColorType::Rgb8)
                .map_err(|e| {
                    let (image, reason) = (format!("photograph {number}"), e.to_string());
                    Error::Image { image, reason }
                })?;
            Ok(bytes.into_inner())
        };
        (0..count).into_par_iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::image::decode;
    use crate::models::qwen3_vl::PrefixTree;

    /// The means of the real names; trees as large as they make them.
    #[test]
    fn names_have_the_lengths_of_the_dataset_and_no_two_are_alike() {
        for dataset in DATASETS {
            let names = dataset.names(1900);
            let mean = names.iter().map(|name| name.len() as f64 - 1.0).sum::<f64>() / names.len() as f64;
            assert!((mean - dataset.name_tokens).abs() < 0.05, "{}: {mean}", dataset.name);
            let mut sorted = names.clone();
            sorted.sort();
            sorted.dedup();
            assert_eq!(sorted.len(), dataset.classes);
            let nodes = PrefixTree::new(&names).unwrap().tokens().len();
            let all = names.iter().map(|name| name.len() - 1).sum::<usize>();
            assert!(nodes <= all && (dataset.alike == 1 || nodes < all - dataset.classes));
        }
    }

    #[test]
    fn photographs_are_files_of_the_stated_size() {
        let dataset = Dataset::named("caltech101").unwrap();
        let files = dataset.photographs(2).unwrap();
        assert_ne!(files[0], files[1]);
        assert_eq!(decode(&files[0], "it").unwrap().dimensions(), dataset.photograph);
        assert!(Dataset::named("imagenet").is_none());
    }
}
