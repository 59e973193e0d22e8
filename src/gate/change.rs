//! Two runs of one cell beside each other: what keeps them from being compared, their answers paired image by image, and
//! tests of the change in accuracy.
//!
//! With D_g the change that the group g of dependent test images makes to the accuracy, Δ = Σ D_g the change, w_g the
//! group's share of the accuracy (Σ w_g = 1) and m the margin:
//!
//! * "Nothing changed" is tested exactly: every D_g might as well have had the other sign, which is McNemar's test
//!   where every image is a group of its own.
//! * "The accuracy fell by no more than m" is tested by (Δ + m) / √V against Student's t, where V = Σ (D_g + w_g m)² + τ².
//!   The sum is the variance between independent groups, around the bound itself as in a score test; τ² is the
//!   [measured](crate::gate::noise) variance of changes between unchanged runs.
//!
//! The larger of the two p values counts. Without run-to-run noise it is valid whenever nothing changed, however few the
//! images are, because the first one is exact; with noise the first is not (a run moves many images at once), but the
//! second is. Degrees of freedom follow Satterthwaite (Biometrics Bulletin 2, 1946): (Σ r²)² / Σ r⁴ for the groups, which
//! is the number of groups that changed where all weigh the same, and those of τ² beside it; they are never more than the
//! runs have by which τ² is known. A gain is tested likewise.

use std::collections::HashMap;
use std::sync::Arc;

use crate::gate::folder::{Cell, Image, Images, Right};
use crate::gate::noise::RunNoise;
use crate::gate::problem::Kind;
use crate::statistics::exact;
use crate::statistics::exact::Tails;
use crate::statistics::metric::Headline;
use crate::statistics::{Interval, distribution};

/// Power for which the smallest loss is stated.
pub const POWER: f64 = 0.8;
/// Steps in which that loss is found.
const STEPS: usize = 8;
/// A change below this is rounding.
const ROUNDING: f64 = 1e-12;

/// Why two runs of one cell key, that of the baseline and another, cannot be compared; empty when they can.
#[must_use]
pub fn differences(old: &Cell, new: &Cell) -> Vec<(Kind, String)> {
    let mut found = Vec::new();
    if old.classes != new.classes {
        found.push((Kind::Classes, class_lists(&old.classes, &new.classes)));
    } else if let Some(finding) = test_images(&old.images, &new.images) {
        found.push((Kind::TestImages, finding));
    } else if old.split_sha256 != new.split_sha256 {
        let (old, new) = (brief(&old.split_sha256), brief(&new.split_sha256));
        let finding = format!("other images were learned from: split {new}, the baseline has {old}");
        found.push((Kind::Draw, finding));
    }
    let metric = |cell: &Cell| format!("{} by {}", cell.headline, cell.reading);
    if metric(old) != metric(new) {
        let finding = format!("{}, the baseline has {}", metric(new), metric(old));
        found.push((Kind::Metric, finding));
    }
    found
}

fn brief(sha256: &str) -> &str {
    sha256.get(..12).unwrap_or(sha256)
}

fn class_lists(old: &[String], new: &[String]) -> String {
    let first = (0..old.len().max(new.len()))
        .find(|&i| old.get(i) != new.get(i))
        .unwrap_or(0);
    let name = |classes: &[String]| classes.get(first).map_or("nothing".into(), |name| format!("`{name}`"));
    format!(
        "{} classes, the baseline has {}; the first difference is class {first}: {}, there {}",
        new.len(),
        old.len(),
        name(new),
        name(old)
    )
}

fn test_images(old: &Images, new: &Images) -> Option<String> {
    if Arc::ptr_eq(old, new) {
        return None;
    }
    let before: HashMap<u64, &Image> = old.iter().map(|image| (image.id, image)).collect();
    let (mut added, mut bytes, mut truth, mut group) = (0, 0, 0, 0);
    for image in new.iter() {
        match before.get(&image.id) {
            None => added += 1,
            Some(old) if old.bytes != image.bytes => bytes += 1,
            Some(old) if old.truth != image.truth => truth += 1,
            Some(old) if old.group != image.group => group += 1,
            Some(_) => {}
        }
    }
    let kept = new.len() - added;
    let counts = [
        (added, "new"),
        (old.len().saturating_sub(kept), "missing"),
        (bytes, "with other bytes"),
        (truth, "with another label"),
        (group, "in another group"),
    ];
    let counted = counts.iter().filter(|(count, _)| *count > 0);
    let said: Vec<String> = counted.map(|(count, what)| format!("{count} {what}")).collect();
    if said.is_empty() {
        // An image that is there twice would pass unnoticed by its id alone.
        return (old.len() != new.len()).then(|| format!("{} instead of {}", new.len(), old.len()));
    }
    Some(format!("of {} test images {}", old.len(), said.join(", ")))
}

/// The test images of a cell: what each is worth, and which belong together.
#[derive(Debug)]
pub struct ImageWeights {
    /// Share of the headline accuracy of each image, in order of ids.
    worth: Vec<f64>,
    /// Group of each image.
    group: Vec<usize>,
    /// Share of each group.
    groups: Vec<f64>,
}

/// Differences between the answers of two runs to the images.
#[derive(Debug, Clone, PartialEq)]
pub struct Paired {
    /// All groups, changed or not.
    pub groups: Vec<Group>,
    /// Images that only the results have right.
    pub wins: usize,
    /// Images that only the baseline has right.
    pub losses: usize,
}

impl ImageWeights {
    /// The images of `rows`, which are sorted by id. With mean per-class accuracy an image is worth
    /// 1 / (classes × images of its class), otherwise 1 / images.
    #[must_use]
    pub fn of(images: &[Image], headline: Headline) -> Self {
        let mut counts: HashMap<u32, usize> = HashMap::new();
        for image in images {
            *counts.entry(image.truth).or_default() += 1;
        }
        let worth = |image: &Image| match headline {
            Headline::Top1 => 1.0 / images.len() as f64,
            Headline::MeanPerClass => 1.0 / (counts.len() * counts[&image.truth]) as f64,
        };
        let worth: Vec<f64> = images.iter().map(worth).collect();
        let mut numbers: HashMap<(bool, u64), usize> = HashMap::new();
        let mut group = Vec::with_capacity(images.len());
        let mut groups: Vec<f64> = Vec::new();
        for (image, worth) in images.iter().zip(&worth) {
            let name = image.group.map_or((false, image.id), |name| (true, name));
            let number = *numbers.entry(name).or_insert(groups.len());
            if number == groups.len() {
                groups.push(0.0);
            }
            groups[number] += worth;
            group.push(number);
        }
        Self { worth, group, groups }
    }

    /// The contribution of each group to the accuracy, of answers to the same images.
    #[must_use]
    pub fn scores(&self, right: &Right) -> Vec<f64> {
        let mut scores = vec![0.0; self.groups.len()];
        for (i, (&group, worth)) in self.group.iter().zip(&self.worth).enumerate() {
            scores[group] += if right.get(i) { *worth } else { 0.0 };
        }
        scores
    }

    /// Differences between two runs on these images.
    #[must_use]
    pub fn pair(&self, baseline: &Right, results: &Right) -> Paired {
        let unchanged = |&weight: &f64| Group { weight, change: 0.0 };
        let mut groups: Vec<Group> = self.groups.iter().map(unchanged).collect();
        let (mut wins, mut losses) = (0, 0);
        for (i, (&group, worth)) in self.group.iter().zip(&self.worth).enumerate() {
            match (baseline.get(i), results.get(i)) {
                (false, true) => {
                    wins += 1;
                    groups[group].change += worth;
                }
                (true, false) => {
                    losses += 1;
                    groups[group].change -= worth;
                }
                _ => {}
            }
        }
        for group in groups.iter_mut().filter(|group| group.change.abs() < ROUNDING) {
            group.change = 0.0;
        }
        Paired { groups, wins, losses }
    }
}

/// Test images that are not independent of each other, taken together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    /// Share of the accuracy that its images carry; the shares of all groups add up to 1.
    pub weight: f64,
    /// Its part of the change in accuracy: between −`weight` and `weight`.
    pub change: f64,
}

/// Evidence of a change in the images of one cell.
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
        let loss = Spread::around(groups, -margin, 1.0, noise);
        let gain = Spread::around(groups, margin, 1.0, noise);
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
    /// did here and whole groups of average weight s = Σ w_g² are lost: L with L − m = (t + t′) √(V + L s), by normal
    /// approximation, t having the degrees of freedom that the lost groups bring along; and enough lost groups for the
    /// exact test. `None` where not even losing `accuracy`, all that the cell has, would do.
    #[must_use]
    pub fn detectable(&self, level: f64, accuracy: f64) -> Option<f64> {
        let (m, s, v) = (self.margin, self.mean_weight, self.variance);
        // 2^−j ≤ level for j lost groups, and so many on four nights of five.
        let fewest = (-level.log2()).ceil();
        let mut loss = (fewest + distribution::normal_quantile(POWER) * fewest.sqrt()) * s;
        // A larger loss has more degrees of freedom and needs a smaller t: from above, the loss settles in a few steps.
        let mut by_margin = 1.0;
        for _ in 0..STEPS {
            let lost = by_margin * s;
            let uncertainty = v * v / self.degrees + lost * s * s;
            let degrees = ((v + lost) * (v + lost) / uncertainty).max(1.0);
            let distance = distribution::t_quantile(1.0 - level, degrees) + distribution::t_quantile(POWER, degrees);
            // (L − m)² = k² (V + L s), solved for the larger L.
            let k2 = distance * distance;
            let middle = m + k2 * s / 2.0;
            by_margin = middle + (middle * middle - m * m + k2 * v).max(0.0).sqrt();
        }
        loss = loss.max(by_margin);
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
    /// Variance of the sum of changes if their expectation is `centre` times the weight; squares count `scale` times.
    /// Satterthwaite: a variance estimate of ν degrees of freedom has itself the variance 2 V² / ν.
    fn around(groups: &[Group], centre: f64, scale: f64, noise: Option<RunNoise>) -> Self {
        let (mut squares, mut fourths) = (0.0, 0.0);
        for group in groups {
            let square = scale * (group.change - group.weight * centre).powi(2);
            squares += square;
            fourths += square * square;
        }
        let between_runs = noise.map_or(0.0, |n| n.variance);
        let uncertainty = 2.0 * fourths + noise.map_or(0.0, |n| n.uncertainty);
        let variance = squares + between_runs;
        Self {
            variance,
            degrees: (2.0 * variance * variance / uncertainty)
                .min(noise.map_or(f64::INFINITY, |n| n.degrees))
                .max(1.0),
        }
    }

    /// Probability of so small a `distance` from a bound, or a smaller one, when the truth lies on the bound.
    fn below(self, distance: f64) -> f64 {
        if self.variance > 0.0 {
            distribution::t_cdf(distance / self.variance.sqrt(), self.degrees)
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
    let spread = Spread::around(groups, change, n / (n - 1.0), noise);
    let half = if spread.variance > 0.0 {
        distribution::t_quantile(0.975, spread.degrees) * spread.variance.sqrt()
    } else {
        0.0
    };
    Some(Interval {
        low: (change - half).max(-1.0),
        high: (change + half).min(1.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` images of their own: first the wins, then the losses.
    fn images(n: usize, wins: usize, losses: usize) -> Vec<Group> {
        let unit = 1.0 / n as f64;
        let change = |i: usize| match i {
            i if i < wins => unit,
            i if i < wins + losses => -unit,
            _ => 0.0,
        };
        let group = |i| Group {
            weight: unit,
            change: change(i),
        };
        (0..n).map(group).collect()
    }

    #[track_caller]
    fn close(found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() < 1e-9, "{found} is not {expected}");
    }

    #[test]
    fn both_tests_against_scipy() {
        // scipy 1.17, numpy 2.4:
        //   d = np.array([1] * 10 + [-1] * 40 + [0] * 950) / 1000; m = .005
        //   def p(tau2, u):
        //       r = d + m / 1000; v = (r**2).sum() + tau2; df = 2 * v * v / (2 * (r**4).sum() + u)
        //       return stats.t.cdf((d.sum() + m) / v**.5, df)
        //   stats.binomtest(10, 50, alternative="less").pvalue, p(0, 0), p(1e-4, 2e-8 / 5)
        let groups = images(1_000, 10, 40);
        let quiet = Evidence::of(&groups, 0.005, None);
        close(quiet.change, -0.03);
        close(quiet.exact_loss, 1.193_066_583_837_776_5e-5);
        close(quiet.margin_loss, 0.000_430_682_682_179_865_4);
        close(quiet.degrees, 50.044_554_862_935_3);
        assert_eq!(quiet.loss, quiet.margin_loss);
        assert!(quiet.gain > 0.999);
        let noise = RunNoise {
            variance: 1e-4,
            uncertainty: 2e-8 / 5.0,
            degrees: 30.0,
        };
        let noisy = Evidence::of(&groups, 0.005, Some(noise));
        close(noisy.margin_loss, 0.032_946_526_365_784_04);
        close(noisy.degrees, 10.938_564_332_492_131);
        // Of two runs: stats.t.cdf(-.025 / v**.5, 1) with the v of p(1e-4, u)
        let two_runs = Evidence::of(&groups, 0.005, Some(RunNoise { degrees: 1.0, ..noise }));
        close(two_runs.margin_loss, 0.144_885_419_905_847_58);
        close(two_runs.degrees, 1.0);
        // c = 1000 / 999 * (d - d.sum() / 1000)**2; v = c.sum(); df = v * v / (c**2).sum()
        // d.sum() ± stats.t.ppf(.975, df) * v**.5
        let interval = quiet.interval.unwrap();
        close(interval.low, -0.044_070_098_527_548_396);
        close(interval.high, -0.015_929_901_472_451_605);
    }

    #[test]
    fn a_gain_mirrors_a_loss() {
        let noise = Some(RunNoise {
            variance: 2e-5,
            uncertainty: 1e-10,
            degrees: 8.0,
        });
        let (loss, gain) = (
            Evidence::of(&images(300, 5, 21), 0.01, noise),
            Evidence::of(&images(300, 21, 5), 0.01, noise),
        );
        close(gain.gain, loss.loss);
        close(gain.loss, loss.gain);
    }

    #[test]
    fn views_of_one_drawing_count_once() {
        // Six drawings of ten views each lose everything: 2⁻⁶, not 2⁻⁶⁰.
        let lost = |i: u32| Group {
            weight: 0.05,
            change: if i < 6 { -0.05 } else { 0.0 },
        };
        let groups: Vec<_> = (0..20).map(lost).collect();
        close(Evidence::of(&groups, 0.0, None).exact_loss, 1.0 / 64.0);
        // Of unequal size: 12, 3 and 4 sixtieths were lost, 5 won. Sums as low as −14: of 2⁴ sign patterns those of
        // −24, −18, −16 and −14.
        let unequal = [-12.0, -3.0, -4.0, 5.0, 0.0].map(|change: f64| Group {
            weight: change.abs().max(6.0) / 60.0,
            change: change / 60.0,
        });
        close(Evidence::of(&unequal, 0.0, None).exact_loss, 4.0 / 16.0);
    }

    #[test]
    fn nothing_changed_is_no_evidence() {
        let still = Evidence::of(&images(100, 0, 0), 0.005, None);
        assert_eq!((still.loss, still.gain, still.change), (1.0, 1.0, 0.0));
        assert_eq!(still.interval, Some(Interval { low: 0.0, high: 0.0 }));
        // Still it tells what it would have found: more than the five images that the exact test needs.
        let finds = still.detectable(0.05, 0.9).unwrap();
        assert!((0.05..0.12).contains(&finds), "{finds}");
        assert_eq!(still.detectable(0.05, 0.04), None, "there is not so much to lose");
        let more = still.detectable(0.05 / 36.0, 0.9).unwrap();
        assert!(more > finds);
        // One drawing alone can show nothing.
        let one = [Group {
            weight: 1.0,
            change: -0.5,
        }];
        let one = Evidence::of(&one, 0.0, None);
        assert_eq!((one.exact_loss, one.interval), (0.5, None));
        assert_eq!(one.detectable(0.05, 1.0), None);
    }
}
