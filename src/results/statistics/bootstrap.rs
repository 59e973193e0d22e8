//! Hierarchical bootstrap over draws and test images, for means and paired differences.
//!
//! Every draw of the shots (seed) is tested on the same images, so both are resampled with
//! replacement and crossed; images that show the same drawing are not independent and are resampled
//! together (cluster bootstrap). Intervals are percentile intervals. With few seeds the variance
//! between draws is underestimated, as by any bootstrap.

use std::collections::BTreeMap;

use rand::Rng as _;

use crate::results::statistics::Interval;
use crate::seed;

/// Resamples behind every interval: the Monte-Carlo error of each end is about 2 % of
/// half the width.
pub const RESAMPLES: usize = 5_000;

/// What one test image is worth: who it belongs to, and its score for every seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Images of one group are resampled together.
    pub group: u32,
    /// The statistic is the mean over strata of the mean over their images: classes for mean per-class
    /// accuracy, one stratum for top-1.
    pub stratum: u32,
    /// One score a seed, in the same order for all images: 0 or 1 for right or wrong, −1, 0 or 1 for a difference.
    pub scores: Vec<f64>,
}

/// Mean with a 95 % interval, its spread, and how often resampling takes it to zero or below.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Mean over seeds and images as they are.
    pub mean: f64,
    /// Percentile interval.
    pub interval: Interval,
    /// Standard deviation of the resampled means: the standard error of `mean`.
    pub sd: f64,
    /// Share of resamples that are ≤ 0: for a difference, the one-sided bootstrap p value.
    pub share_not_positive: f64,
    /// Share of resamples that are ≥ 0.
    pub share_not_negative: f64,
}

/// Scores summed over the images of a group that lie in one stratum.
struct Unit {
    stratum: usize,
    images: f64,
    sums: Vec<f64>,
}

impl Estimate {
    /// Two-sided bootstrap p value of a difference: (resamples on the other side of zero, or on it, + 1) /
    /// (resamples + 1), doubled, at most 1 (Davison & Hinkley, *Bootstrap Methods and their Application*, 1997,
    /// § 4.2).
    #[must_use]
    pub fn two_sided_p(&self) -> f64 {
        let resamples = RESAMPLES as f64;
        let beyond = self.share_not_positive.min(self.share_not_negative) * resamples;
        (2.0 * (beyond + 1.0) / (resamples + 1.0)).min(1.0)
    }
}

/// Mean over seeds and images with its interval; `None` without images or seeds.
///
/// `purpose` names the random stream, e.g. "bootstrap/mini-pets/k16": the same purpose and images give the
/// same interval.
#[must_use]
pub fn estimate(images: &[Image], purpose: &str) -> Option<Estimate> {
    let mut means = replicates(images, purpose)?;
    let mean = mean(images)?;
    means.sort_by(f64::total_cmp);
    let not_positive = means.partition_point(|&m| m <= 0.0);
    let not_negative = means.len() - means.partition_point(|&m| m < 0.0);
    Some(Estimate {
        mean,
        interval: Interval {
            low: quantile(&means, 0.025),
            high: quantile(&means, 0.975),
        },
        sd: deviation(&means),
        share_not_positive: not_positive as f64 / means.len() as f64,
        share_not_negative: not_negative as f64 / means.len() as f64,
    })
}

/// Mean over seeds and images as they are: over the strata that occur, of their mean score; `None` without
/// images or seeds.
#[must_use]
pub fn mean(images: &[Image]) -> Option<f64> {
    let (seeds, strata) = extent(images)?;
    let groups = units_by_group(images, seeds);
    Some(statistic(&groups, &vec![1; groups.len()], &vec![1; seeds], strata))
}

/// The [`RESAMPLES`] resampled means behind [`estimate`], in the order drawn; `None` without images or seeds.
///
/// Images in the same groups with as many seeds are resampled alike under the same `purpose`: the n-th value of
/// one and the n-th of the other come from the same draws and images.
#[must_use]
pub fn replicates(images: &[Image], purpose: &str) -> Option<Vec<f64>> {
    let (seeds, strata) = extent(images)?;
    let groups = units_by_group(images, seeds);
    let mut random = seed::rng(0, purpose);
    let mut resample = |n: usize| {
        let mut times = vec![0_u32; n];
        for _ in 0..n {
            // u32, because the stream of a usize would depend on the platform.
            times[random.random_range(0..n as u32) as usize] += 1;
        }
        times
    };
    let means = (0..RESAMPLES).map(|_| {
        let seed_times = resample(seeds);
        statistic(&groups, &resample(groups.len()), &seed_times, strata)
    });
    Some(means.collect())
}

/// Seeds and strata, if there are any and all images have the same seeds.
fn extent(images: &[Image]) -> Option<(usize, usize)> {
    let seeds = images.first()?.scores.len();
    if seeds == 0 || images.iter().any(|image| image.scores.len() != seeds) {
        return None;
    }
    let strata = images.iter().map(|image| image.stratum as usize + 1).max()?;
    Some((seeds, strata))
}

/// Standard deviation of a sample, with n − 1; 0 for fewer than two.
fn deviation(sample: &[f64]) -> f64 {
    let n = sample.len() as f64;
    let mean = sample.iter().sum::<f64>() / n;
    let squares: f64 = sample.iter().map(|v| (v - mean).powi(2)).sum();
    (squares / (n - 1.0).max(1.0)).sqrt()
}

fn units_by_group(images: &[Image], seeds: usize) -> Vec<Vec<Unit>> {
    let mut groups: BTreeMap<u32, Vec<Unit>> = BTreeMap::new();
    for image in images {
        let units = groups.entry(image.group).or_default();
        let stratum = image.stratum as usize;
        let index = units
            .iter()
            .position(|unit| unit.stratum == stratum)
            .unwrap_or_else(|| {
                units.push(Unit {
                    stratum,
                    images: 0.0,
                    sums: vec![0.0; seeds],
                });
                units.len() - 1
            });
        let unit = &mut units[index];
        unit.images += 1.0;
        unit.sums
            .iter_mut()
            .zip(&image.scores)
            .for_each(|(sum, score)| *sum += score);
    }
    groups.into_values().collect()
}

/// Mean over the strata that occur of their mean score, each group and seed counted as often as told.
fn statistic(groups: &[Vec<Unit>], group_times: &[u32], seed_times: &[u32], strata: usize) -> f64 {
    let seeds: u32 = seed_times.iter().sum();
    let mut totals = vec![(0.0_f64, 0.0_f64); strata];
    for (units, &times) in groups.iter().zip(group_times).filter(|(_, times)| **times > 0) {
        for unit in units {
            let sum: f64 = unit
                .sums
                .iter()
                .zip(seed_times)
                .map(|(sum, &times)| sum * f64::from(times))
                .sum();
            let (scores, images) = &mut totals[unit.stratum];
            *scores += sum * f64::from(times);
            *images += unit.images * f64::from(times);
        }
    }
    let present = totals.iter().filter(|(_, images)| *images > 0.0);
    let (sum, count) = present.fold((0.0, 0.0), |(sum, count), (scores, images)| {
        (sum + scores / images, count + 1.0)
    });
    sum / (count * f64::from(seeds))
}

/// Linear interpolation between the order statistics of a sorted, non-empty sample (numpy's default).
pub(crate) fn quantile(sorted: &[f64], p: f64) -> f64 {
    let at = p * (sorted.len() - 1) as f64;
    let below = at.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(n: u32, seeds: u32, score: impl Fn(u32, u32) -> f64) -> Vec<Image> {
        (0..n)
            .map(|i| Image {
                group: i,
                stratum: 0,
                scores: (0..seeds).map(|s| score(s, i)).collect(),
            })
            .collect()
    }

    #[test]
    fn crossed_resampling_against_numpy() {
        // numpy 2.4, 400,000 resamples; S = 3 seeds, G = 40 groups of two images:
        //   s, g = np.arange(3)[:, None], np.arange(40)[None, :]
        //   A = ((s*7 + g*5) % 11 < 6).astype(int) + ((s*3 + g**2) % 7 < 4)
        //   rows, cols = counts of rng.integers(0, 3, 3), of rng.integers(0, 40, 40)
        //   q = np.quantile(rows @ A @ cols / (3 * 80), [.025, .975])
        // gives mean 0.608333…, interval [0.4875, 0.725].
        let mut images = images(40, 3, |s, g| f64::from((s * 7 + g * 5) % 11 < 6));
        let second = self::images(40, 3, |s, g| f64::from((s * 3 + g * g) % 7 < 4));
        images.extend(second);
        let found = estimate(&images, "test").unwrap();
        assert!((found.mean - 0.608_333_333_333_333_3).abs() < 1e-12);
        assert!((found.interval.low - 0.4875).abs() < 0.008, "{found:?}");
        assert!((found.interval.high - 0.725).abs() < 0.008, "{found:?}");
        assert_eq!(estimate(&images, "test").unwrap(), found, "seeded");
    }

    #[test]
    fn one_seed_and_independent_images_agree_with_the_binomial() {
        let found = estimate(&images(400, 1, |_, i| f64::from(i % 10 < 7)), "test").unwrap();
        let half = 1.96 * (0.7 * 0.3 / 400.0_f64).sqrt();
        assert!((found.interval.low - (0.7 - half)).abs() < 0.006, "{found:?}");
        assert!((found.interval.high - (0.7 + half)).abs() < 0.006, "{found:?}");
        assert_eq!(found.share_not_positive, 0.0);
        assert!((found.sd - half / 1.96).abs() < 0.001, "{found:?}");
        assert!((found.two_sided_p() - 2.0 / 5001.0).abs() < 1e-15, "{found:?}");
    }

    #[test]
    fn the_same_purpose_resamples_alike() {
        let right = images(30, 3, |s, i| f64::from((i + s) % 3 == 0));
        let wrong = images(30, 3, |s, i| f64::from((i + s) % 3 != 0));
        let pairs = replicates(&right, "test").unwrap().into_iter();
        for (right, wrong) in pairs.zip(replicates(&wrong, "test").unwrap()) {
            assert!((right + wrong - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn copies_of_a_drawing_bring_no_certainty() {
        let single = images(50, 1, |_, i| f64::from(i % 2));
        let mut copied: Vec<_> = std::iter::repeat_n(single.clone(), 4).flatten().collect();
        let clustered = estimate(&copied, "test").unwrap();
        assert_eq!(clustered, estimate(&single, "test").unwrap());
        // The same images taken as independent: half the width, wrongly.
        for (i, image) in copied.iter_mut().enumerate() {
            image.group = i as u32;
        }
        let width = |e: Estimate| e.interval.high - e.interval.low;
        let naive = width(estimate(&copied, "test").unwrap());
        assert!((naive / width(clustered) - 0.5).abs() < 0.05);
    }

    #[test]
    fn strata_weigh_the_same_whatever_their_size() {
        // 90 images of class 0, all right; 10 of class 1, all wrong.
        let images: Vec<_> = (0..100)
            .map(|i| Image {
                group: i,
                stratum: u32::from(i >= 90),
                scores: vec![f64::from(i < 90)],
            })
            .collect();
        assert!((estimate(&images, "test").unwrap().mean - 0.5).abs() < 1e-12);
    }

    #[test]
    fn a_difference_that_is_noise_has_zero_inside() {
        let noise = images(200, 2, |s, i| f64::from((i * 7 + s * 3) % 3) - 1.0);
        let found = estimate(&noise, "test").unwrap();
        assert!(found.interval.low < 0.0 && found.interval.high > 0.0, "{found:?}");
        assert!(found.share_not_positive > 0.1 && found.two_sided_p() > 0.2, "{found:?}");
        assert!(found.share_not_positive + found.share_not_negative >= 1.0);
        let gain = images(200, 2, |_, i| f64::from(i % 4 == 0));
        assert_eq!(estimate(&gain, "test").unwrap().share_not_positive, 0.0);
    }

    #[test]
    fn nothing_to_resample_is_no_estimate() {
        assert_eq!(estimate(&[], "test"), None);
        assert_eq!(estimate(&images(3, 0, |_, _| 0.0), "test"), None);
    }
}
