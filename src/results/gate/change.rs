//! Whether the accuracy of one cell changed, from answers that are paired image by image.
//!
//! With D_g the change that the group g of dependent test images makes to the accuracy, Δ = Σ D_g the change, w_g the
//! group's share of the accuracy (Σ w_g = 1) and m the margin:
//!
//! * "Nothing changed" is tested exactly: every D_g might as well have had the other sign, which is McNemar's test
//!   where every image is a group of its own.
//! * "The accuracy fell by no more than m" is tested by (Δ + m) / √V against Student's t, where V = Σ (D_g + w_g m)² + τ².
//!   The sum is the variance between independent groups, around the bound itself as in a score test; τ² is the
//!   [measured](super::noise) variance of changes between unchanged runs.
//!
//! The larger of the two p values counts. Without run-to-run noise it is valid whenever nothing changed, however few the
//! images are, because the first one is exact; with noise the first is not (a run moves many images at once), but the
//! second is. Degrees of freedom follow Satterthwaite (Biometrics Bulletin 2, 1946): (Σ r²)² / Σ r⁴ for the groups, which
//! is the number of groups that changed where all weigh the same, and those of τ² beside it. A gain is tested likewise.

use crate::results::gate::noise::RunNoise;
use crate::results::statistics::exact::{self, Tails};
use crate::results::statistics::{Interval, normal, student};

/// Power for which the smallest loss is stated.
pub const POWER: f64 = 0.8;

/// Test images that are not independent of each other, taken together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    /// Share of the accuracy that its images carry; the shares of all groups add up to 1.
    pub weight: f64,
    /// What it adds to the change in accuracy: between −`weight` and `weight`.
    pub change: f64,
}

/// What the images of one cell say about a change.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// Change in accuracy, between −1 and 1.
    pub change: f64,
    /// 95 % interval of the change, run-to-run noise included; `None` where one group is all there is.
    pub interval: Option<Interval>,
    /// p value of "nothing changed" against a loss.
    pub exact_loss: f64,
    /// p value of "the loss is no larger than the margin".
    pub margin_loss: f64,
    /// The larger of the two.
    pub loss: f64,
    /// Degrees of freedom behind `margin_loss`.
    pub degrees: f64,
    /// p value of "the gain is no larger than the margin", in the same way.
    pub gain: f64,
    variance: f64,
    margin: f64,
    mean_weight: f64,
}

impl Evidence {
    /// Tests a loss and a gain of more than `margin` (a share: 0.005 is half a point), with the noise between
    /// unchanged runs where it was measured.
    #[must_use]
    pub fn of(groups: &[Group], margin: f64, noise: Option<RunNoise>) -> Self {
        let change: f64 = groups.iter().map(|g| g.change).sum();
        let tails = flipped(groups);
        let loss = Spread::around(groups, -margin, noise);
        let gain = Spread::around(groups, margin, noise);
        let margin_loss = loss.below(change + margin);
        let margin_gain = gain.below(margin - change);
        Self {
            change,
            interval: interval(groups, change, noise),
            exact_loss: tails.less,
            margin_loss,
            loss: tails.less.max(margin_loss),
            degrees: loss.degrees,
            gain: tails.greater.max(margin_gain),
            variance: loss.variance,
            margin,
            mean_weight: groups.iter().map(|g| g.weight * g.weight).sum(),
        }
    }

    /// The smallest true loss that a test at `level` would find with 80 % probability, if everything else varies as it
    /// did here and whole groups are lost: L with L − m = (t + t′) √(V + L·Σ w_g²), by normal approximation, and
    /// enough lost groups for the exact test. `None` where not even losing `accuracy`, all that the cell has, would do.
    #[must_use]
    pub fn detectable(&self, level: f64, accuracy: f64) -> Option<f64> {
        let degrees = if self.variance > 0.0 {
            self.degrees
        } else {
            1.0 / self.mean_weight
        };
        let distance = student::quantile(1.0 - level, degrees) + student::quantile(POWER, degrees);
        // (L − m)² = k² (V + L s), solved for the larger L.
        let (k2, m) = (distance * distance, self.margin);
        let middle = m + k2 * self.mean_weight / 2.0;
        let by_margin = middle + (middle * middle - m * m + k2 * self.variance).max(0.0).sqrt();
        // 2^−j ≤ level for j lost groups, and so many on four nights of five.
        let fewest = (-level.log2()).ceil();
        let by_signs = (fewest + normal::quantile(POWER) * fewest.sqrt()) * self.mean_weight;
        let loss = by_margin.max(by_signs);
        (loss.is_finite() && loss <= accuracy).then_some(loss)
    }
}

/// Variance of a change, and how well it is known.
#[derive(Debug, Clone, Copy)]
struct Spread {
    variance: f64,
    degrees: f64,
}

impl Spread {
    /// Variance of the sum of changes if their expectation is `centre` times the weight.
    fn around(groups: &[Group], centre: f64, noise: Option<RunNoise>) -> Self {
        let (mut squares, mut fourths) = (0.0, 0.0);
        for group in groups {
            let square = (group.change - group.weight * centre).powi(2);
            squares += square;
            fourths += square * square;
        }
        Self::with(squares, fourths, noise)
    }

    /// Satterthwaite: a variance estimate of ν degrees of freedom has itself the variance 2 V² / ν.
    fn with(squares: f64, fourths: f64, noise: Option<RunNoise>) -> Self {
        let between_runs = noise.map_or(0.0, |n| n.variance);
        let uncertainty = 2.0 * fourths + noise.map_or(0.0, |n| n.uncertainty);
        let variance = squares + between_runs;
        Self {
            variance,
            degrees: (2.0 * variance * variance / uncertainty).max(1.0),
        }
    }

    /// Probability of so small a `distance` from a bound, or a smaller one, when the truth lies on the bound.
    fn below(self, distance: f64) -> f64 {
        if self.variance > 0.0 {
            student::cdf(distance / self.variance.sqrt(), self.degrees)
        } else {
            1.0 // not an image changed
        }
    }
}

fn flipped(groups: &[Group]) -> Tails {
    let changed = || groups.iter().filter(|g| g.change != 0.0);
    let unit = groups.iter().map(|g| g.weight).fold(f64::INFINITY, f64::min);
    let alone = |g: &Group| ((g.change / unit).abs() - 1.0).abs() < 1e-9;
    if changed().all(alone) {
        let wins = changed().filter(|g| g.change > 0.0).count();
        return exact::mcnemar(wins as u64, (changed().count() - wins) as u64);
    }
    let sums: Vec<f64> = changed().map(|g| g.change / unit).collect();
    exact::sign_flip(&sums)
}

fn interval(groups: &[Group], change: f64, noise: Option<RunNoise>) -> Option<Interval> {
    let n = groups.len() as f64;
    if groups.len() < 2 {
        return None;
    }
    let scale = n / (n - 1.0);
    let (mut squares, mut fourths) = (0.0, 0.0);
    for group in groups {
        let square = scale * (group.change - group.weight * change).powi(2);
        squares += square;
        fourths += square * square;
    }
    let spread = Spread::with(squares, fourths, noise);
    let half = if spread.variance > 0.0 {
        student::quantile(0.975, spread.degrees) * spread.variance.sqrt()
    } else {
        0.0
    };
    Some(Interval {
        low: (change - half).max(-1.0),
        high: (change + half).min(1.0),
    })
}
