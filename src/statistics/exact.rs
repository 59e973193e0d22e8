//! Exact tests of paired answers: McNemar's test, its form for images that are not independent, and Holm's correction for
//! several tests at once.
//!
//! Both ask how often fair coins would give a sum as small, or as large, as the observed one. McNemar
//! (Psychometrika 12, 1947) tosses one coin for each image on which two learners disagree; the
//! sign-flip test (Fisher's randomisation test, *The Design of Experiments*, 1935, § 21) one for each
//! group of dependent images, which keeps or turns the sign of the group's summed difference.

/// Both one-sided p values of a sum of differences; each holds the observed sum itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tails {
    /// Probability of a sum as small as the observed one, or smaller: small where there were losses.
    pub less: f64,
    /// Probability of a sum as large as the observed one, or larger: small where there were gains.
    pub greater: f64,
}

impl Tails {
    /// No evidence either way.
    const NONE: Self = Self {
        less: 1.0,
        greater: 1.0,
    };

    /// The two-sided p value: twice the smaller tail, at most 1.
    #[must_use]
    pub fn two_sided(self) -> f64 {
        (2.0 * self.less.min(self.greater)).min(1.0)
    }
}

/// McNemar's exact test: `wins` and `losses` are the images on which only the one and only the other
/// learner is right. The tails are those of the binomial distribution of `wins` among both, p = 1/2.
#[must_use]
pub fn mcnemar(wins: u64, losses: u64) -> Tails {
    let n = wins.saturating_add(losses);
    if n == 0 {
        return Tails::NONE;
    }
    // Binomial coefficients relative to the largest, outwards from it: only sums of positive numbers,
    // and what underflows is below 1e-308 of the whole.
    let mode = n / 2;
    let (mut less, mut greater, mut all) = (0.0_f64, 0.0_f64, 0.0_f64);
    let mut count = |k: u64, weight: f64| {
        all += weight;
        less += if k <= wins { weight } else { 0.0 };
        greater += if k >= wins { weight } else { 0.0 };
    };
    count(mode, 1.0);
    let (mut k, mut weight) = (mode, 1.0);
    while k > 0 && weight > 0.0 {
        weight *= k as f64 / (n - k + 1) as f64;
        k -= 1;
        count(k, weight);
    }
    let (mut k, mut weight) = (mode, 1.0);
    while k < n && weight > 0.0 {
        weight *= (n - k) as f64 / (k + 1) as f64;
        k += 1;
        count(k, weight);
    }
    Tails {
        less: (less / all).min(1.0),
        greater: (greater / all).min(1.0),
    }
}

/// Steps into which the total of sums without a common denominator is divided; also the largest total, in steps,
/// that is worked out exactly.
const STEPS: f64 = 1_048_576.0;
/// Largest common denominator that is looked for.
const DENOMINATORS: u32 = 64;
/// Up to this total, in steps, no probability is dropped.
const SMALL: usize = 65_536;
/// Above it a single probability below this is dropped, and added to both tails.
const NEGLIGIBLE: f64 = 1e-40;

/// The exact sign-flip test: `sums` holds the summed difference of each group of dependent images. With no
/// true difference each keeps or turns its sign independently, with probability 1/2; the distribution of
/// their total is worked out, not sampled. Equal to [`mcnemar`] when every sum is −1, 0 or 1.
///
/// Exact for whole numbers and for fractions with a common denominator up to 64, as long as the total of their
/// absolute values stays below 2²⁰ such fractions. Other sums are rounded to a 2²⁰th of that total, and the
/// bounds are moved by what rounding can have changed, so that the p values can only be too large. The order of
/// the sums does not matter. Sums that are not finite are no evidence: both tails are 1.
#[must_use]
pub fn sign_flip(sums: &[f64]) -> Tails {
    let total: f64 = sums.iter().map(|s| s.abs()).sum();
    if !total.is_finite() || total == 0.0 {
        return Tails::NONE;
    }
    // With Y the total of the sums that come out positive, Σ = 2 Y − total: the tails of Y are those of Σ.
    let scale = common_denominator(sums, total).unwrap_or(STEPS / total);
    let mut steps = Vec::with_capacity(sums.len());
    let (mut observed, mut rounded_up, mut rounded_down) = (0.0, 0.0, 0.0);
    for sum in sums {
        let exact = sum.abs() * scale;
        let step = exact.round();
        observed += if *sum > 0.0 { exact } else { 0.0 };
        rounded_up += (step - exact).max(0.0);
        rounded_down += (exact - step).max(0.0);
        steps.push(step as usize);
    }
    let distribution = Distribution::of(steps);
    // A two-hundredth of a step is far more than floating point loses.
    let at_most = (observed + rounded_up + 0.005).floor();
    let at_least = (observed - rounded_down - 0.005).ceil();
    Tails {
        less: distribution.at_most(at_most),
        greater: distribution.at_least(at_least),
    }
}

/// The smallest number that makes all sums whole, if their total then stays within [`STEPS`].
fn common_denominator(sums: &[f64], total: f64) -> Option<f64> {
    (1..=DENOMINATORS).map(f64::from).find(|q| {
        total * q <= STEPS
            && sums.iter().all(|sum| {
                let scaled = sum * q;
                (scaled - scaled.round()).abs() <= 4.0 * f64::EPSILON * scaled.abs()
            })
    })
}

/// Distribution of the total of steps of which each counts with probability 1/2.
struct Distribution {
    /// The total that the first probability belongs to; the others follow step by step.
    first: usize,
    probabilities: Vec<f64>,
    /// Probability that was dropped on the way.
    dropped: f64,
}

impl Distribution {
    fn of(mut steps: Vec<usize>) -> Self {
        // Small ones first: the distribution stays narrow for longer; and the order given does not matter.
        steps.sort_unstable();
        let negligible = if steps.iter().sum::<usize>() <= SMALL {
            0.0
        } else {
            NEGLIGIBLE
        };
        let (mut first, mut dropped) = (0, 0.0);
        let mut probabilities = vec![1.0_f64];
        let mut next = Vec::new();
        for step in steps.into_iter().filter(|step| *step > 0) {
            next.clear();
            next.resize(probabilities.len() + step, 0.0);
            // Without it, then with it: two passes, because they vectorise.
            for (next, p) in next.iter_mut().zip(&probabilities) {
                *next = 0.5 * p;
            }
            for (next, p) in next.iter_mut().skip(step).zip(&probabilities) {
                *next += 0.5 * p;
            }
            let below = next.iter().take_while(|p| **p <= negligible).count();
            let above = next.iter().rev().take_while(|p| **p <= negligible).count();
            let kept = below..next.len() - above;
            dropped += next[..kept.start].iter().chain(&next[kept.end..]).sum::<f64>();
            first += kept.start;
            probabilities.clear();
            probabilities.extend_from_slice(&next[kept]);
        }
        Self {
            first,
            probabilities,
            dropped,
        }
    }

    // Both are summed from their thin end: no digits are lost, and mirrored sums give the same bits.
    fn at_most(&self, bound: f64) -> f64 {
        let inside = self.totals().take_while(|(total, _)| *total <= bound);
        self.with_dropped(inside.map(|(_, p)| p).sum())
    }

    fn at_least(&self, bound: f64) -> f64 {
        let inside = self.totals().rev().take_while(|(total, _)| *total >= bound);
        self.with_dropped(inside.map(|(_, p)| p).sum())
    }

    fn totals(&self) -> impl DoubleEndedIterator<Item = (f64, f64)> {
        let of = |(index, p): (usize, &f64)| ((self.first + index) as f64, *p);
        self.probabilities.iter().enumerate().map(of)
    }

    fn with_dropped(&self, sum: f64) -> f64 {
        (sum + self.dropped).min(1.0)
    }
}

/// Adjusted p values in the order given (Holm, Scandinavian Journal of Statistics 6, 1979): rejecting those
/// that are at most α keeps the chance of any false rejection at α, whatever the dependence between the tests.
///
/// The smallest of m is multiplied by m, the next by m − 1 and so on; none falls below an earlier one or
/// exceeds 1.
#[must_use]
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut ascending: Vec<usize> = (0..p.len()).collect();
    ascending.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![1.0; p.len()];
    let mut before = 0.0_f64;
    for (rank, &test) in ascending.iter().enumerate() {
        before = before.max((p.len() - rank) as f64 * p[test]).min(1.0);
        adjusted[test] = before;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        let apart = (found - expected).abs();
        assert!(apart <= 1e-11 * expected.max(1e-300), "{found} is not {expected}");
    }

    /// Every assignment of signs, counted.
    fn enumerated(sums: &[f64]) -> Tails {
        let observed: f64 = sums.iter().sum();
        let (mut less, mut greater) = (0_u32, 0_u32);
        for signs in 0_u32..1 << sums.len() {
            let flipped = sums.iter().enumerate();
            let total: f64 = flipped.map(|(i, s)| if signs >> i & 1 == 1 { *s } else { -s }).sum();
            less += u32::from(total <= observed + 1e-9);
            greater += u32::from(total >= observed - 1e-9);
        }
        let all = f64::from(1_u32 << sums.len());
        Tails {
            less: f64::from(less) / all,
            greater: f64::from(greater) / all,
        }
    }

    #[test]
    fn no_disagreement_is_no_evidence() {
        for tails in [
            mcnemar(0, 0),
            sign_flip(&[]),
            sign_flip(&[0.0; 7]),
            sign_flip(&[f64::NAN, 1.0]),
        ] {
            assert_eq!((tails.less, tails.greater, tails.two_sided()), (1.0, 1.0, 1.0));
        }
    }

    #[test]
    fn independent_images_give_mcnemars_test() {
        for (wins, losses) in [(1, 0), (0, 1), (5, 5), (12, 3), (90, 130), (2100, 1900), (4000, 0)] {
            let mut sums = vec![1.0; wins];
            sums.extend(vec![-1.0; losses]);
            sums.extend([0.0; 3]);
            let (flips, binomial) = (sign_flip(&sums), mcnemar(wins as u64, losses as u64));
            if wins != 4000 {
                close(flips.greater, binomial.greater);
            }
            close(flips.less, binomial.less);
            let turned: Vec<f64> = sums.iter().rev().map(|s| -s).collect();
            assert_eq!(
                sign_flip(&turned).less.to_bits(),
                flips.greater.to_bits(),
                "order and sign"
            );
        }
        // 2^-4000 is no float.
        assert_eq!(mcnemar(4000, 0).greater, 0.0);
    }

    #[test]
    fn groups_and_fractions_against_every_assignment() {
        for sums in [
            &[3.0, -1.0, 2.0, 2.0, -4.0, 1.0, 5.0][..],
            &[-8.0, 8.0, 8.0, 1.0, -1.0, 3.0, 0.0, 2.0, 2.0, -6.0],
            &[2.0 / 3.0, -1.0 / 3.0, 1.0, 1.0 / 3.0, 0.5, -0.5, 1.5, 2.0 / 3.0],
            &[7.0],
            &[-7.0],
        ] {
            let (found, expected) = (sign_flip(sums), enumerated(sums));
            close(found.less, expected.less);
            close(found.greater, expected.greater);
        }
    }

    #[test]
    fn rounding_never_makes_a_p_value_smaller() {
        // No common denominator: square roots, and many sums that nearly tie.
        for n in 3..17 {
            let sign = |i: u32| if i.is_multiple_of(3) { -1.0 } else { 1.0 };
            let sums: Vec<f64> = (1..=n).map(|i| sign(i) * f64::from(i).sqrt()).collect();
            let (found, expected) = (sign_flip(&sums), enumerated(&sums));
            for (found, expected) in [(found.less, expected.less), (found.greater, expected.greater)] {
                assert!(found >= expected - 1e-12, "{n}: {found} < {expected}");
                assert!(found <= expected + 2e-4, "{n}: {found} > {expected}");
            }
        }
    }

    #[test]
    fn large_totals_lose_no_probability() {
        // 300 groups of up to 300 images: well above the total up to which nothing is dropped.
        let sums: Vec<f64> = (0..300).map(|i| f64::from((i * 7919) % 601 - 300)).collect();
        let tails = sign_flip(&sums);
        // P(≤) + P(≥) = 1 + P(=), and the last is small and positive.
        let tie = tails.less + tails.greater - 1.0;
        assert!(tie > 0.0 && tie < 1e-2, "{tails:?}");
        let all = sign_flip(&sums.iter().map(|s| s.abs()).collect::<Vec<_>>());
        assert!(all.greater < 1e-30 && (all.less - 1.0).abs() < 1e-12, "{all:?}");
    }

    #[test]
    fn steps_down_and_never_back() {
        // By hand: 0.01·4, 0.02·3 (raised to none), 0.03·2, then 0.5·1.
        let found = holm(&[0.03, 0.5, 0.01, 0.02]);
        for (found, expected) in found.iter().zip([0.06, 0.5, 0.04, 0.06]) {
            assert!((found - expected).abs() < 1e-15, "{found} is not {expected}");
        }
        assert_eq!(holm(&[]), Vec::<f64>::new());
        assert_eq!(holm(&[0.4]), [0.4]);
        assert_eq!(holm(&[0.9, 0.8, 1.0]), [1.0, 1.0, 1.0]);
        assert_eq!(holm(&[0.0, 0.0]), [0.0, 0.0]);
    }
}
