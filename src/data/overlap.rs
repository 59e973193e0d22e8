//! Near-duplicates between shots and test images.

use image::imageops::{self, FilterType};
use image::{GrayImage, RgbImage};
use rayon::prelude::*;

use super::LabelledImage;
use crate::formats::image::luma;

/// A pool image and a test image that look alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// Index into [`Dataset::pool`](super::Dataset::pool).
    pub pool: usize,
    /// Index into [`Dataset::test`](super::Dataset::test).
    pub test: usize,
    /// Bits in which their difference hashes differ, of 64.
    pub distance: u32,
}

/// The 64-bit difference hash of an image: shrunk to 9×8 grey pixels, one bit for each pixel that is
/// brighter than its left neighbour, row by row from the highest bit.
///
/// Grey is ITU-R 601 luma in integers and the filter is Lanczos with three lobes: up to rounding (0.4 bits
/// on average over 300 drawings) the `dhash` of the `imagehash` package.
#[must_use]
pub fn dhash(image: &RgbImage) -> u64 {
    let grey = GrayImage::from_fn(image.width(), image.height(), |x, y| {
        image::Luma([luma(image.get_pixel(x, y).0)])
    });
    let small = imageops::resize(&grey, 9, 8, FilterType::Lanczos3);
    let brighter = |row: u32, column: u32| {
        let at = |x| small.get_pixel(x, row).0;
        u64::from(at(column + 1) > at(column))
    };
    (0..64).fold(0, |hash, i| hash << 1 | brighter(i / 8, i % 8))
}

/// Images whose difference hashes differ in at most so many bits look alike.
pub const NEAR: u32 = 4;

/// The difference hashes of images.
pub(crate) fn hashes(images: &[LabelledImage]) -> Vec<u64> {
    images.iter().map(|image| image.dhash).collect()
}

/// Number of pairs of two lists of hashes that lie within a Hamming distance, and the first `most` of them in order.
#[must_use]
pub fn count_pairs(pool: &[u64], test: &[u64], within: u32, most: usize) -> (usize, Vec<Pair>) {
    let of_pool = |(p, of_pool): (usize, &u64)| {
        let near = test.iter().enumerate().filter_map(move |(t, of_test)| {
            let distance = (of_pool ^ of_test).count_ones();
            (distance <= within).then_some(Pair {
                pool: p,
                test: t,
                distance,
            })
        });
        near.fold((0, Vec::new()), |(count, mut first), pair| {
            if first.len() < most {
                first.push(pair);
            }
            (count + 1, first)
        })
    };
    let counted: Vec<(usize, Vec<Pair>)> = pool.par_iter().enumerate().map(of_pool).collect();
    let count = counted.iter().map(|(count, _)| count).sum();
    let first = counted.into_iter().flat_map(|(_, first)| first);
    (count, first.take(most).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(shift: u8) -> RgbImage {
        RgbImage::from_fn(90, 80, |x, y| {
            let v = ((x * 5 + y * y / 7) % 200) as u8 + shift;
            image::Rgb([v, v / 2, 255 - v])
        })
    }

    #[test]
    fn a_ramp_sets_all_bits_and_its_mirror_none() {
        let ramp = RgbImage::from_fn(90, 80, |x, _| image::Rgb([(x * 2) as u8; 3]));
        assert_eq!(dhash(&ramp), u64::MAX);
        assert_eq!(dhash(&imageops::flip_horizontal(&ramp)), 0);
        assert_eq!(dhash(&RgbImage::new(5, 5)), 0);
    }

    fn pairs(pool: &[u64], test: &[u64], within: u32) -> Vec<Pair> {
        let mut pairs = Vec::new();
        for (pool, of_pool) in pool.iter().enumerate() {
            for (test, of_test) in test.iter().enumerate() {
                let distance = (of_pool ^ of_test).count_ones();
                if distance <= within {
                    pairs.push(Pair { pool, test, distance });
                }
            }
        }
        pairs
    }

    #[test]
    fn pairs_are_counted_as_they_are_listed() {
        let (pool, test) = ([0_u64, 7, u64::MAX], [1_u64, 0, u64::MAX - 1]);
        let all = pairs(&pool, &test, 3);
        assert_eq!(count_pairs(&pool, &test, 3, 100), (all.len(), all.clone()));
        assert_eq!(count_pairs(&pool, &test, 3, 2), (all.len(), all[..2].to_vec()));
    }

    #[test]
    fn brightness_and_size_hardly_matter_content_does() {
        let near = |a: &RgbImage, b: &RgbImage| (dhash(a) ^ dhash(b)).count_ones();
        let big = imageops::resize(&picture(0), 180, 160, FilterType::Triangle);
        assert!(near(&picture(0), &picture(9)) <= 4);
        assert!(near(&picture(0), &big) <= 4);
        assert!(near(&picture(0), &imageops::flip_horizontal(&picture(0))) > 16);
    }
}
