//! One model of variance behind every interval and test over seeds and test images.
//!
//! A score is a mean, plus an effect of the seed (the draw of the shots), an effect of the image, and what is left
//! (seed by image). All seeds are tested on the same images, so seed and image are crossed. The statistic is linear:
//! image i has the fixed weight 1 / (classes × images of its class), or 1 / images for top-1. Images of one group are
//! not independent; the weighted sum of a group is one unit.
//!
//! With `Vs` the variance of the seeds' means, `Vu` the variance of the mean as it follows from the units' means over
//! seeds, and `Ve` the same of what is left, in one seed, the mean of S seeds has the variance
//! `Vs / S + (Vu − Ve / S)`: a part that more seeds lessen and a part that only more test images lessen. The half-width
//! of an interval is `√(t²·Vs/S + t²·max(Vu − Ve/S, 0))`, each part with its own Student's t: squared half-widths add
//! (Banerjee 1960), which holds its level however few seeds there are, where one Satterthwaite t for both does not.
//! `docs/statistics.md` derives it and tells how it covers.

use crate::statistics::{Interval, distribution, false_position};

/// Level of intervals: two-sided, 95 %.
pub const LEVEL: f64 = 0.05;

/// Scores of every test image with every seed, and the groups of images.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Group of each image; images of one group depend on one another.
    pub groups: Vec<u32>,
    /// Stratum of each image. The statistic is the mean over strata of the mean over their images: classes for mean
    /// per-class accuracy, one stratum for top-1.
    pub strata: Vec<u32>,
    /// Seeds.
    pub seeds: usize,
    /// Image by image, one score a seed, in the same order for all images: 0 or 1 for right or wrong, −1, 0 or 1 for a
    /// difference.
    pub values: Vec<f64>,
}

impl Scores {
    /// Images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// True if there is no image.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Scores of each image, one a seed.
    pub fn images(&self) -> impl Iterator<Item = &[f64]> {
        self.values.chunks_exact(self.seeds.max(1))
    }
}

/// A part of the variance of a mean, with the degrees of freedom of its estimate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Part {
    /// Its contribution to the variance of the mean.
    pub variance: f64,
    /// Degrees of freedom.
    pub degrees: f64,
}

/// A mean over seeds and images with the parts of its variance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Components {
    /// The mean.
    pub mean: f64,
    /// Seeds.
    pub seeds: usize,
    /// The part that more seeds lessen; `None` with one seed, where nothing tells it.
    pub by_seed: Option<Part>,
    /// The least that `by_seed` can be: what seeds that do not differ leave, seed by image. Means of few wrong answers tie
    /// by chance, and then `by_seed` is seen as zero. `None` with one seed.
    pub left: Option<Part>,
    /// The part that only more test images lessen.
    pub by_image: Part,
    /// Units of the same weight that would weigh as much: 1 / Σ weight².
    pub units: f64,
}

/// A mean with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Mean over seeds and images.
    pub mean: f64,
    /// 95 % interval.
    pub interval: Interval,
    /// Standard error of `mean`.
    pub sd: f64,
    /// The parts of the variance behind the interval.
    pub components: Components,
}

impl Estimate {
    /// Of scores between 0 and 1; `None` without images or seeds.
    #[must_use]
    pub fn share(scores: &Scores) -> Option<Self> {
        components(scores).map(Self::of_share)
    }

    /// Of differences between −1 and 1; `None` without images or seeds.
    #[must_use]
    pub fn difference(scores: &Scores) -> Option<Self> {
        components(scores).map(|components| Self::of(components, components.difference_interval(LEVEL)))
    }

    /// Of the components of a share.
    #[must_use]
    pub fn of_share(components: Components) -> Self {
        Self::of(components, components.share_interval(LEVEL))
    }

    fn of(components: Components, interval: Interval) -> Self {
        Self {
            mean: components.mean,
            interval,
            sd: components.standard_error(),
            components,
        }
    }
}

impl Components {
    /// Standard error of the mean.
    #[must_use]
    pub fn standard_error(&self) -> f64 {
        let seeds = self.by_seed.into_iter().chain(self.left);
        let by_seed = seeds.map(|part| part.variance).fold(0.0, f64::max);
        (by_seed + self.by_image.variance).sqrt()
    }

    /// Half the width of the interval at `level`, e.g. 0.05, before it is fitted to the range of the statistic.
    #[must_use]
    pub fn half_width(&self, level: f64) -> f64 {
        let square = |part: Part| {
            if part.variance > 0.0 {
                distribution::t_upper_quantile(level / 2.0, part.degrees).powi(2) * part.variance
            } else {
                0.0
            }
        };
        let by_seed = self.by_seed.map_or(0.0, square).max(self.left.map_or(0.0, square));
        (by_seed + square(self.by_image)).sqrt()
    }

    /// Interval of a mean of scores between 0 and 1: all shares p that |mean − p| ≤ h √(p(1 − p) / (mean (1 − mean)))
    /// holds for, with h the half-width. It is Wilson's with the number of independent answers that the variance is
    /// worth, so it stays between 0 and 1. Where all answers are right, or all wrong, no variance is seen, and the units
    /// count as so many independent answers.
    #[must_use]
    pub fn share_interval(&self, level: f64) -> Interval {
        let (mean, half) = (self.mean, self.half_width(level));
        let spread = mean * (1.0 - mean);
        let (all_wrong, all_right) = (mean < 1e-12, mean > 1.0 - 1e-12);
        // 1 / (answers that the mean is worth over t²).
        let worth = if all_wrong || all_right {
            distribution::t_upper_quantile(level / 2.0, self.by_image.degrees).powi(2) / self.units
        } else {
            half * half / spread
        };
        let centre = (mean + worth / 2.0) / (1.0 + worth);
        let half = (spread.max(0.0) * worth + worth * worth / 4.0).sqrt() / (1.0 + worth);
        Interval {
            low: if all_wrong { 0.0 } else { (centre - half).max(0.0) },
            high: if all_right { 1.0 } else { (centre + half).min(1.0) },
        }
    }

    /// Interval of a mean of differences, cut at −1 and 1. Where all differences are the same, no variance is seen, and
    /// the units count as so many independent pairs of which none differs from that.
    #[must_use]
    pub fn difference_interval(&self, level: f64) -> Interval {
        let half = if self.is_constant() {
            let square = distribution::t_upper_quantile(level / 2.0, self.by_image.degrees).powi(2);
            square / (self.units + square)
        } else {
            self.half_width(level)
        };
        Interval {
            low: (self.mean - half).max(-1.0),
            high: (self.mean + half).min(1.0),
        }
    }

    /// No difference between units or seeds is seen.
    fn is_constant(&self) -> bool {
        self.standard_error() < 1e-12
    }

    /// Two-sided p value of a mean of zero: the level at which the interval ends at zero.
    #[must_use]
    pub fn p_value(&self) -> f64 {
        let distance = self.mean.abs();
        if distance < 1e-12 {
            return 1.0;
        }
        if self.is_constant() {
            // Never below that of a sign test in which every unit agrees.
            let square = distance * self.units / (1.0 - distance).max(1e-300);
            let tails = 2.0 * distribution::t_cdf(-square.sqrt(), self.by_image.degrees);
            return tails.max((1.0 - self.units).exp2()).min(1.0);
        }
        let parts = self.by_seed.into_iter().chain(self.left).chain([self.by_image]);
        let parts: Vec<Part> = parts.filter(|part| part.variance > 0.0).collect();
        // Were a part alone to make up the distance to zero, or half of its square.
        let alone = |part: &Part, square: f64| {
            let t = distance * (square / part.variance).sqrt();
            (2.0 * distribution::t_cdf(-t, part.degrees)).max(1e-300)
        };
        if let [one] = &parts[..] {
            return alone(one, 1.0);
        }
        // One part makes up at least half of the square. Searched for in the logarithm of the level.
        let largest = |square: f64| parts.iter().map(|part| alone(part, square)).fold(0.0, f64::max);
        let ends = (largest(1.0).ln(), largest(0.5).ln());
        let beyond = |log: f64| self.half_width(log.exp()) - distance;
        let found = (beyond(ends.0), beyond(ends.1));
        let log = if found.0 <= 0.0 {
            ends.0
        } else if found.1 >= 0.0 {
            ends.1
        } else {
            let settled = |found: f64, low: f64, high: f64| found.abs() < 1e-13 * distance || high - low < 1e-13;
            false_position(ends, found, beyond, settled)
        };
        log.exp()
    }

    /// Of the mean of independent means that weigh the same: means of fixed datasets, whose variances add. The degrees
    /// of freedom of each part are Satterthwaite's. `None` for no means.
    #[must_use]
    pub fn average(all: &[Self]) -> Option<Self> {
        let first = all.first()?;
        let count = all.len() as f64;
        let over = |part: &dyn Fn(&Self) -> Option<Part>| {
            let parts: Vec<Part> = all.iter().filter_map(part).collect();
            Part {
                variance: parts.iter().map(|part| part.variance).sum::<f64>() / (count * count),
                degrees: satterthwaite(&parts),
            }
        };
        let by_seed = |one: &Self| one.by_seed;
        Some(Self {
            mean: all.iter().map(|one| one.mean).sum::<f64>() / count,
            seeds: all.iter().map(|one| one.seeds).min().unwrap_or(first.seeds),
            by_seed: all.iter().any(|one| one.by_seed.is_some()).then(|| over(&by_seed)),
            left: all.iter().any(|one| one.left.is_some()).then(|| over(&|one| one.left)),
            by_image: over(&|one| Some(one.by_image)),
            units: count * count / all.iter().map(|one| 1.0 / one.units).sum::<f64>(),
        })
    }
}

/// Degrees of freedom of a sum of independent variances, by matching two moments (Satterthwaite 1946); those of the
/// smallest part where all variances are zero.
#[must_use]
pub fn satterthwaite(parts: &[Part]) -> f64 {
    let sum: f64 = parts.iter().map(|part| part.variance).sum();
    let squares: f64 = parts.iter().map(|part| part.variance.powi(2) / part.degrees).sum();
    if squares > 0.0 {
        sum * sum / squares
    } else {
        parts.iter().map(|part| part.degrees).fold(f64::INFINITY, f64::min)
    }
}

/// The images of one group in one stratum.
#[derive(Clone, Copy)]
struct Unit {
    group: u32,
    stratum: u32,
    images: f64,
}

/// Mean over seeds and images, with the parts of its variance; `None` without images or seeds.
#[must_use]
pub fn components(scores: &Scores) -> Option<Components> {
    let seeds = scores.seeds;
    if seeds == 0 || scores.is_empty() || scores.values.len() != seeds * scores.len() {
        return None;
    }
    let (units, mut sums) = units(scores);
    let strata: Vec<&[Unit]> = units.chunk_by(|a, b| a.stratum == b.stratum).collect();
    let share = 1.0 / strata.len() as f64;

    // Sums become contributions to the mean; those of a stratum and of all.
    let mut by_seed = vec![0.0; seeds];
    let mut of_strata = vec![0.0; seeds * strata.len()];
    let mut sizes = Vec::with_capacity(strata.len());
    let mut rest = sums.as_mut_slice();
    for (stratum, own) in strata.iter().zip(of_strata.chunks_exact_mut(seeds)) {
        let size: f64 = stratum.iter().map(|unit| unit.images).sum();
        let (these, others) = rest.split_at_mut(stratum.len() * seeds);
        for sum in these.chunks_exact_mut(seeds) {
            for (value, own) in sum.iter_mut().zip(own.iter_mut()) {
                *value *= share / size;
                *own += *value;
            }
        }
        add(&mut by_seed, own);
        sizes.push(size);
        rest = others;
    }
    let count = seeds as f64;
    let mean = by_seed.iter().sum::<f64>() / count;

    // Contributions become residuals from the stratum's mean, made unbiased for units of the same variance.
    let mut degrees = Degrees::default();
    let mut weights = Vec::with_capacity(units.len());
    let mut rest = sums.as_mut_slice();
    for ((stratum, own), size) in strata.iter().zip(of_strata.chunks_exact(seeds)).zip(&sizes) {
        let alone = stratum.len() == 1;
        let concentration: f64 = stratum.iter().map(|unit| (unit.images / size).powi(2)).sum();
        let mut moments = Moments::default();
        let (these, others) = rest.split_at_mut(stratum.len() * seeds);
        for (unit, sum) in stratum.iter().zip(these.chunks_exact_mut(seeds)) {
            let part = unit.images / size;
            // The only unit of its stratum tells nothing by itself: it is measured from the mean of all strata.
            let (centre, pull, factor) = if alone {
                (by_seed.as_slice(), share, 1.0)
            } else {
                (own, part, 1.0 / (1.0 - 2.0 * part + concentration))
            };
            let root = factor.sqrt();
            for (value, centre) in sum.iter_mut().zip(centre) {
                *value = (*value - pull * centre) * root;
            }
            weights.push(share * part);
            moments.add(share * part, part, factor, concentration, alone);
        }
        degrees.add(&moments, concentration, alone);
        rest = others;
    }

    // The residuals of a group in several strata belong together.
    let mut order: Vec<usize> = (0..units.len()).collect();
    if !units.is_sorted_by_key(|unit| unit.group) {
        order.sort_by_key(|&unit| units[unit].group);
    }
    let (mut of_units, mut left, mut squares, mut groups) = (0.0, 0.0, 0.0, 0.0);
    let mut total = vec![0.0; seeds];
    for group in order.chunk_by(|&a, &b| units[a].group == units[b].group) {
        let mut weight = 0.0;
        groups += 1.0;
        total.fill(0.0);
        for &unit in group {
            add(&mut total, &sums[unit * seeds..(unit + 1) * seeds]);
            weight += weights[unit];
        }
        let centre = total.iter().sum::<f64>() / count;
        of_units += centre * centre;
        left += total.iter().map(|r| (r - centre).powi(2)).sum::<f64>();
        squares += weight * weight;
    }
    let part_of_seeds = (seeds > 1).then(|| Part {
        variance: by_seed.iter().map(|one| (one - mean).powi(2)).sum::<f64>() / (count - 1.0) / count,
        degrees: count - 1.0,
    });
    let left = left / (count - 1.0).max(1.0) / count;
    if seeds > 1 {
        of_units -= left;
    }
    let of_units_degrees = degrees.satterthwaite().min(groups - 1.0).max(1.0);
    Some(Components {
        mean,
        seeds,
        by_seed: part_of_seeds,
        left: (seeds > 1).then_some(Part {
            variance: left,
            degrees: (count - 1.0) * of_units_degrees,
        }),
        by_image: Part {
            variance: of_units.max(0.0),
            degrees: of_units_degrees,
        },
        units: 1.0 / squares,
    })
}

fn add(sum: &mut [f64], values: &[f64]) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

/// Sorted by stratum, then by group, with the sums of their scores, one a seed.
fn units(scores: &Scores) -> (Vec<Unit>, Vec<f64>) {
    let key = |image: usize| (scores.strata[image], scores.groups[image]);
    let mut order: Vec<usize> = (0..scores.len()).collect();
    if !order.is_sorted_by_key(|&image| key(image)) {
        order.sort_by_key(|&image| key(image));
    }
    let mut units: Vec<Unit> = Vec::with_capacity(scores.len());
    let mut sums: Vec<f64> = Vec::with_capacity(scores.values.len());
    for image in order {
        let (stratum, group) = key(image);
        let own = &scores.values[image * scores.seeds..(image + 1) * scores.seeds];
        match units.last_mut() {
            Some(unit) if unit.group == group && unit.stratum == stratum => {
                unit.images += 1.0;
                let start = sums.len() - scores.seeds;
                add(&mut sums[start..], own);
            }
            _ => {
                units.push(Unit {
                    group,
                    stratum,
                    images: 1.0,
                });
                sums.extend_from_slice(own);
            }
        }
    }
    (units, sums)
}

/// Sums over the units of a stratum from which the trace of the square of their covariance follows.
#[derive(Default)]
struct Moments {
    trace: f64,
    /// Σ d, Σ d q, Σ d q² with d the squared weight times the correction and q the share of the stratum.
    sums: [f64; 3],
    diagonal: f64,
}

impl Moments {
    fn add(&mut self, weight: f64, part: f64, factor: f64, concentration: f64, alone: bool) {
        let d = weight * weight * factor;
        if alone {
            self.trace += d;
            self.diagonal += d * d;
            return;
        }
        self.trace += d * (1.0 - 2.0 * part + concentration);
        for (power, sum) in (0..).zip(&mut self.sums) {
            *sum += d * part.powi(power);
        }
        let (own, cross) = (1.0 - 2.0 * part + concentration, concentration - 2.0 * part);
        self.diagonal += d * d * (own * own - cross * cross);
    }
}

/// Degrees of freedom of the variance of the units (Bell and McCaffrey 2002): (tr Q)² / tr Q², with Q the covariance of
/// the corrected residuals of units that have the same variance; at least 1, and below the number of groups.
#[derive(Default)]
struct Degrees {
    trace: f64,
    squares: f64,
}

impl Degrees {
    fn add(&mut self, moments: &Moments, concentration: f64, alone: bool) {
        self.trace += moments.trace;
        self.squares += moments.diagonal;
        if !alone {
            let [d0, d1, d2] = moments.sums;
            let c = concentration;
            self.squares += c * c * d0 * d0 + 2.0 * d0 * d2 - 4.0 * c * d0 * d1 + 2.0 * d1 * d1;
        }
    }

    fn satterthwaite(&self) -> f64 {
        if self.squares > 0.0 {
            self.trace * self.trace / self.squares
        } else {
            1.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed;
    use crate::statistics::distribution;

    fn scores(seeds: usize, units: u32, values: Vec<f64>) -> Scores {
        Scores {
            groups: (0..units).collect(),
            strata: vec![0; units as usize],
            seeds,
            values,
        }
    }

    /// Right or wrong by a latent number: difficulty, seed and noise, with the standard deviations given.
    fn world(random: &mut impl rand::Rng, seeds: usize, units: u32, of_seeds: f64, level: f64) -> Scores {
        // Box and Muller.
        let mut gauss = || {
            let (radius, angle) = (1.0 - random.random::<f64>(), random.random::<f64>());
            (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
        };
        let effects: Vec<f64> = (0..seeds).map(|_| of_seeds * gauss()).collect();
        let mut values = Vec::new();
        for _ in 0..units {
            let difficulty = 0.6_f64.sqrt() * gauss();
            for effect in &effects {
                let latent = level + difficulty + effect + 0.4_f64.sqrt() * gauss();
                values.push(f64::from(u8::from(latent > 0.0)));
            }
        }
        scores(seeds, units, values)
    }

    /// The benchmark `coverage` does this on the whole grid; the limits are five Monte-Carlo errors from 93 % and 100 %.
    #[test]
    fn few_seeds_are_covered_whether_they_differ_or_not() {
        let runs = 600;
        for (seeds, of_seeds) in [(2, 0.3_f64), (3, 0.3), (5, 0.3), (5, 0.0)] {
            let level = 0.6;
            let truth = distribution::normal_cdf(level / 1.0_f64.hypot(of_seeds));
            let mut random = seed::rng(seeds as u64, "coverage");
            let (mut covered, mut found) = (0, 0);
            for _ in 0..runs {
                let one = Estimate::share(&world(&mut random, seeds, 60, of_seeds, level)).unwrap();
                covered += u32::from(one.interval.low <= truth && truth <= one.interval.high);
                let other = world(&mut random, seeds, 60, of_seeds, level);
                let mut difference = world(&mut random, seeds, 60, of_seeds, level);
                difference
                    .values
                    .iter_mut()
                    .zip(&other.values)
                    .for_each(|(a, b)| *a -= b);
                found += u32::from(components(&difference).unwrap().p_value() <= 0.05);
            }
            let (covered, found) = (f64::from(covered) / f64::from(runs), f64::from(found) / f64::from(runs));
            assert!(covered > 0.93 - 0.02, "{seeds} seeds, sd {of_seeds}: {covered}");
            assert!(found < 0.07 + 0.02, "{seeds} seeds, sd {of_seeds}: {found}");
        }
    }

    #[test]
    fn nothing_seen_to_vary_is_not_certainty() {
        let all = |value: f64| scores(3, 50, vec![value; 150]);
        let right = Estimate::share(&all(1.0)).unwrap();
        let wrong = Estimate::share(&all(0.0)).unwrap();
        assert_eq!((right.interval.high, wrong.interval.low), (1.0, 0.0));
        assert!(right.interval.low < 0.95 && (1.0 - right.interval.low - wrong.interval.high).abs() < 1e-12);
        let level = Estimate::difference(&all(0.0)).unwrap();
        assert!(level.interval.low < -0.03 && level.interval.high > 0.03, "{level:?}");
        assert_eq!(level.components.p_value(), 1.0);
        let p = components(&all(1.0)).unwrap().p_value();
        assert!(p > 0.0 && p < 1e-10, "{p}");
        assert_eq!(components(&scores(0, 0, vec![])), None);
    }

    #[test]
    fn the_test_is_where_the_interval_ends_at_zero() {
        let mut random = seed::rng(1, "ends");
        for seeds in [2, 3, 5] {
            let mut one = world(&mut random, seeds, 40, 0.2, 0.8);
            let other = world(&mut random, seeds, 40, 0.2, 0.2);
            one.values.iter_mut().zip(&other.values).for_each(|(a, b)| *a -= b);
            let found = components(&one).unwrap();
            let p = found.p_value();
            assert!(
                (found.half_width(p) / found.mean.abs() - 1.0).abs() < 1e-9,
                "{found:?}, p {p}"
            );
        }
    }

    #[test]
    fn seeds_whose_means_tie_by_chance_keep_what_is_left() {
        // Two seeds, each wrong on another half of the images: their means are the same.
        let values = (0..80)
            .flat_map(|i| [f64::from(i % 2), f64::from((i + 1) % 2)])
            .collect();
        let found = components(&scores(2, 80, values)).unwrap();
        assert_eq!(found.by_seed.unwrap().variance, 0.0);
        assert!(found.half_width(0.05) > 0.1, "{found:?}");
    }

    #[test]
    fn copies_of_an_image_bring_no_certainty_and_classes_weigh_the_same() {
        let mut random = seed::rng(2, "copies");
        let single = world(&mut random, 3, 40, 0.2, 0.5);
        let mut copied = single.clone();
        for _ in 0..3 {
            copied.groups.extend(&single.groups);
            copied.strata.extend(&single.strata);
            copied.values.extend(&single.values);
        }
        let (a, b) = (components(&single).unwrap(), components(&copied).unwrap());
        assert!((a.half_width(0.05) / b.half_width(0.05) - 1.0).abs() < 1e-9);
        // 90 images of class 0, all right; 10 of class 1, all wrong.
        let mut classes = scores(1, 100, (0..100).map(|i| f64::from(u8::from(i < 90))).collect());
        classes.strata = (0..100).map(|i| u32::from(i >= 90)).collect();
        assert!((components(&classes).unwrap().mean - 0.5).abs() < 1e-12);
    }
}
