//! The smallest difference that a comparison can see, and the seeds that it takes.

use crate::statistics::variance::{Components, LEVEL, Part};
use crate::statistics::{distribution, false_position};

/// Probability with which the smallest detectable difference is detected.
pub const POWER: f64 = 0.8;

/// Nodes and weights of Gauss and Legendre's rule of five points on [−1, 1].
const GAUSS: [(f64, f64); 5] = [
    (-0.906_179_845_938_664, 0.236_926_885_056_189_08),
    (-0.538_469_310_105_683_1, 0.478_628_670_499_366_5),
    (0.0, 0.568_888_888_888_888_9),
    (0.538_469_310_105_683_1, 0.478_628_670_499_366_5),
    (0.906_179_845_938_664, 0.236_926_885_056_189_08),
];

/// Logarithm of a density beside 1 at its peak that no sum of doubles shows any more.
const NEGLIGIBLE: f64 = -40.0;

/// Chance that the test at `level` finds a true mean of `difference` > 0, with the sign that it has.
///
/// The variances of `components` are taken for the true ones. The estimate of the part with the fewest degrees of
/// freedom varies as it does from sample to sample, the other is taken as known: with one part it is the power of a t
/// test, by the noncentral t distribution, here the integral over χ by Gauss's rule.
#[must_use]
pub fn power(components: &Components, difference: f64, level: f64) -> f64 {
    let error = components.standard_error();
    if error <= 0.0 {
        return f64::from(u8::from(difference > 0.0));
    }
    let (varying, known) = parts(components);
    let square = |part: Part| distribution::t_upper_quantile(level / 2.0, part.degrees).powi(2) * part.variance;
    let (varying_square, known_square) = (square(varying), known.map_or(0.0, square));
    let degrees = varying.degrees;
    let (from, to) = ((degrees.sqrt() - 9.0).max(0.0), degrees.sqrt() + 9.0);
    // The chance of rejection falls over a stretch of χ as long as the error over the slope of the half-width.
    let slope = (varying_square / degrees).sqrt() / error;
    let panels = (2.0 * (to - from) * slope.max(1.0)).ceil().min(1e5) as u32;
    let width = (to - from) / f64::from(panels);
    let (mut sum, mut total) = (0.0, 0.0);
    for panel in 0..panels {
        for (node, weight) in GAUSS {
            let chi = from + width * (f64::from(panel) + 0.5 + 0.5 * node);
            // The density of χ up to a factor: 1 where it is largest, at √(degrees − 1).
            let peak = (degrees - 1.0).max(0.0);
            let log = if peak > 0.0 {
                peak * (chi / peak.sqrt()).ln() - (chi * chi - peak) / 2.0
            } else {
                -chi * chi / 2.0
            };
            if log < NEGLIGIBLE {
                continue;
            }
            let density = log.exp() * weight;
            let half = (varying_square * chi * chi / degrees + known_square).sqrt();
            total += density;
            sum += density * distribution::normal_cdf((difference - half) / error);
        }
    }
    sum / total
}

/// The part whose estimate varies most, and the other.
fn parts(components: &Components) -> (Part, Option<Part>) {
    match components.by_seed.filter(|part| part.variance > 0.0) {
        Some(seed) if components.by_image.variance <= 0.0 => (seed, None),
        Some(seed) if seed.degrees <= components.by_image.degrees => (seed, Some(components.by_image)),
        Some(seed) => (components.by_image, Some(seed)),
        None => (components.by_image, None),
    }
}

/// The smallest true difference that a two-sided test at `level` finds with probability `power`; `None` where no
/// variance is seen, so that nothing tells how far it reaches.
#[must_use]
pub fn smallest_detectable(components: &Components, level: f64, wanted: f64) -> Option<f64> {
    let error = components.standard_error();
    if error <= 1e-12 {
        return None;
    }
    let missing = |difference: f64| power(components, difference, level) - wanted;
    let (mut low, mut below) = (0.0, missing(0.0));
    let (mut high, mut above) = (error, missing(error));
    while above < 0.0 {
        (low, below) = (high, above);
        high *= 2.0;
        above = missing(high);
    }
    let settled = |found: f64, low: f64, high: f64| found.abs() < 1e-13 || high - low < 1e-13 * high;
    Some(false_position((low, high), (below, above), missing, settled))
}

/// Variances of one answer or paired difference in a plan, in shares squared: what an experiment is planned with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Assumed {
    /// Of the seeds' effects on the mean.
    pub by_seed: f64,
    /// Of the images' effects.
    pub by_image: f64,
    /// Of what is left.
    pub left: f64,
}

/// An accuracy near 75 % (answers vary by 0.75 · 0.25), of which six tenths stay the same from seed to seed, and seeds
/// that differ by 2 points: a default, not a measurement.
pub const ACCURACY: Assumed = Assumed {
    by_seed: 0.02 * 0.02,
    by_image: 0.6 * 0.1875,
    left: 0.4 * 0.1875,
};

/// Two learners that differ on a fifth of the images, half of it the same from seed to seed, and by 2 points more or
/// less from seed to seed: a default, not a measurement.
pub const DIFFERENCE: Assumed = Assumed {
    by_seed: 0.02 * 0.02,
    by_image: 0.5 * 0.2,
    left: 0.5 * 0.2,
};

/// Said beside what is planned with [`ACCURACY`] and [`DIFFERENCE`].
pub const ASSUMED: &str = "seeds differ by a standard deviation of 2 points, accuracy near 75 %, two learners differ on a \
                           fifth of the images, test images are independent (stated, not measured; with groups of \
                           dependent images take the number of groups for the number of images)";

impl Assumed {
    /// Components of a mean over `seeds` seeds and `units` independent test images as they are on average.
    #[must_use]
    pub fn components(&self, seeds: usize, units: f64) -> Components {
        let count = seeds.max(1) as f64;
        let over_seeds = (self.by_seed + self.left / units) / count;
        let alone = (self.by_image + self.left) / units;
        Components {
            mean: 0.0,
            seeds,
            by_seed: (seeds > 1).then_some(Part {
                variance: over_seeds,
                degrees: count - 1.0,
            }),
            left: None,
            by_image: Part {
                variance: if seeds > 1 { self.by_image / units } else { alone },
                degrees: (units - 1.0).max(1.0),
            },
            units,
        }
    }

    /// Half the width of a 95 % interval, as expected: with the variances at what they are on average.
    #[must_use]
    pub fn half_width(&self, seeds: usize, units: f64) -> f64 {
        self.components(seeds, units).half_width(LEVEL)
    }

    /// The fewest seeds, from two on, with which a true difference is found with probability [`POWER`]; `None` where 100
    /// are not enough.
    #[must_use]
    pub fn seeds_for(&self, difference: f64, units: f64) -> Option<usize> {
        (2..=100).find(|&seeds| power(&self.components(seeds, units), difference, LEVEL) >= POWER)
    }
}
