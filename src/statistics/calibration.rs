//! Calibration of probabilities: calibration error, Brier score, reliability, and the temperature that
//! corrects them. Pure functions of class log-probabilities.
//!
//! Log-probabilities are first normalised over the classes: what a generator stores is p(name and end token), which
//! sums to less than one, the rest being text that names no class. At temperature T they are divided by T before.

use serde::{Deserialize, Serialize};

use crate::prediction::Prediction;

/// Bins of the calibration errors.
pub const BINS: usize = 15;
/// Temperatures lie between the inverse of this and this.
const HOTTEST: f64 = 100.0;
/// Steps of golden section: the logarithm of the temperature is then known to 1e-9.
const SECTIONS: usize = 50;

/// Confidence in the most probable class, and true if it is the right one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    /// Probability of the most probable class, the lowest index among equals.
    pub confidence: f64,
    /// True if it is the true class.
    pub hit: bool,
}

/// Images whose confidence lies between two bounds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Bin {
    /// Images.
    pub count: usize,
    /// Sum of their confidences.
    pub confidence: f64,
    /// Number of right ones.
    pub hits: f64,
}

/// Calibration at one temperature.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Expected calibration error, 15 bins of equal width on (0, 1] (Guo et al. 2017, eq. 3).
    pub ece: f64,
    /// The same with 15 bins of equally many images (Nguyen & O'Connor 2015).
    pub ece_equal_mass: f64,
    /// Mean over images of the sum over classes of (p − 1 if true)², between 0 and 2 (Brier 1950).
    pub brier: f64,
    /// Mean negative natural-log probability of the true class, nats.
    pub nll: f64,
}

/// A temperature that was fitted inside the shots, and what it makes of the test images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tempered {
    /// Parts of the shots that were held out in turn.
    pub folds: usize,
    /// Shots that were predicted when held out.
    pub held_out: usize,
    /// Divisor of log-probabilities.
    pub temperature: f64,
    /// Of the held-out shots before and after, nats.
    pub held_out_nll: [f64; 2],
    /// Of the test images at this temperature.
    pub test: Calibration,
}

/// A temperature as it was fitted, not yet applied to the test images.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fitted {
    /// As [`Tempered::folds`].
    pub folds: usize,
    /// As [`Tempered::held_out`].
    pub held_out: usize,
    /// As [`Tempered::temperature`].
    pub temperature: f64,
    /// As [`Tempered::held_out_nll`].
    pub held_out_nll: [f64; 2],
}

impl Fitted {
    /// Fits a temperature to the predictions of shots that were held out; `None` where one of them has no probabilities.
    #[must_use]
    pub fn of(folds: usize, held_out: &[Prediction]) -> Option<Self> {
        let temperature = temperature(held_out)?;
        Some(Self {
            folds,
            held_out: held_out.len(),
            temperature,
            held_out_nll: [nll(held_out, 1.0)?, nll(held_out, temperature)?],
        })
    }

    /// Applied to test images; `None` where one of them has no probabilities.
    #[must_use]
    pub fn applied(self, test: &[Prediction]) -> Option<Tempered> {
        Some(Tempered {
            folds: self.folds,
            held_out: self.held_out,
            temperature: self.temperature,
            held_out_nll: self.held_out_nll,
            test: Calibration::of(test, self.temperature)?,
        })
    }
}

impl Calibration {
    /// At one temperature; `None` when there are no images, or one of them has no probabilities.
    #[must_use]
    pub fn of(predictions: &[Prediction], temperature: f64) -> Option<Self> {
        let judged = judged(predictions, temperature)?;
        let mut brier = 0.0;
        for prediction in predictions {
            let log_probs = over_classes(prediction.log_probs.as_deref()?, temperature);
            for (class, p) in log_probs.iter().enumerate() {
                let target = f64::from(u8::from(class == prediction.truth as usize));
                brier += (p.exp() - target).powi(2);
            }
        }
        Some(Self {
            ece: error(&equal_width(&judged)),
            ece_equal_mass: error(&equal_mass(&judged)),
            brier: brier / predictions.len() as f64,
            nll: nll(predictions, temperature)?,
        })
    }
}

/// The most probable class of each image; `None` when there are no images, or one of them has no probabilities.
#[must_use]
pub fn judged(predictions: &[Prediction], temperature: f64) -> Option<Vec<Judged>> {
    let one = |prediction: &Prediction| {
        let log_probs = over_classes(prediction.log_probs.as_deref()?, temperature);
        let (class, log_prob) = largest(log_probs.into_iter())?;
        Some(Judged {
            confidence: log_prob.exp().clamp(0.0, 1.0),
            hit: class == prediction.truth as usize,
        })
    };
    let judged: Option<Vec<Judged>> = predictions.iter().map(one).collect();
    judged.filter(|judged| !judged.is_empty())
}

/// The largest number and its place, the first among equals.
pub(super) fn largest(numbers: impl Iterator<Item = f64>) -> Option<(usize, f64)> {
    let larger = |best: (usize, f64), next: (usize, f64)| if next.1 > best.1 { next } else { best };
    numbers.enumerate().reduce(larger)
}

/// Fifteen bins of equal width: the first is (0, 1/15].
#[must_use]
pub fn equal_width(judged: &[Judged]) -> [Bin; BINS] {
    let mut bins = [Bin::default(); BINS];
    for one in judged {
        let place = (one.confidence * BINS as f64).ceil() as usize;
        bins[place.clamp(1, BINS) - 1].add(one);
    }
    bins
}

/// Fifteen bins of equally many images by rising confidence, the first ones one image larger where they cannot be equal;
/// fewer where there are fewer images.
#[must_use]
pub fn equal_mass(judged: &[Judged]) -> Vec<Bin> {
    let mut sorted = judged.to_vec();
    sorted.sort_by(|a, b| a.confidence.total_cmp(&b.confidence));
    let bins = BINS.min(sorted.len()).max(1);
    let (size, larger) = (sorted.len() / bins, sorted.len() % bins);
    let mut rest = sorted.as_slice();
    let mut all = Vec::with_capacity(bins);
    for place in 0..bins {
        let (own, others) = rest.split_at((size + usize::from(place < larger)).min(rest.len()));
        let mut bin = Bin::default();
        own.iter().for_each(|one| bin.add(one));
        all.push(bin);
        rest = others;
    }
    all
}

impl Bin {
    fn add(&mut self, one: &Judged) {
        self.count += 1;
        self.confidence += one.confidence;
        self.hits += f64::from(u8::from(one.hit));
    }
}

/// Mean over images of the gap between confidence and accuracy of their bin.
#[must_use]
pub fn error(bins: &[Bin]) -> f64 {
    let gap: f64 = bins.iter().map(|bin| (bin.hits - bin.confidence).abs()).sum();
    gap / bins.iter().map(|bin| bin.count).sum::<usize>() as f64
}

/// Mean negative natural-log probability of the true class; `None` when there are no images, or one of them has no
/// probabilities. A probability of zero counts as the smallest normal `f32` (87.3 nats), so that one image does not make
/// the mean infinite.
#[must_use]
pub fn nll(predictions: &[Prediction], temperature: f64) -> Option<f64> {
    let least = f64::from(f32::MIN_POSITIVE).ln();
    let mut sum = 0.0;
    for prediction in predictions {
        let log_probs = over_classes(prediction.log_probs.as_deref()?, temperature);
        sum -= log_probs.get(prediction.truth as usize)?.max(least);
    }
    (!predictions.is_empty()).then(|| sum / predictions.len() as f64)
}

/// The temperature with the least [`nll`], between 1/100 and 100, by golden section on its logarithm: the loss has one
/// minimum in 1/T. Where every image is right the loss falls to the end of the range. `None` as [`nll`].
#[must_use]
pub fn temperature(predictions: &[Prediction]) -> Option<f64> {
    let loss = |log_t: f64| nll(predictions, log_t.exp());
    let golden = (5f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (-HOTTEST.ln(), HOTTEST.ln());
    let (mut left, mut right) = (high - golden * (high - low), low + golden * (high - low));
    let (mut at_left, mut at_right) = (loss(left)?, loss(right)?);
    for _ in 0..SECTIONS {
        if at_left <= at_right {
            (high, right, at_right) = (right, left, at_left);
            left = high - golden * (high - low);
            at_left = loss(left)?;
        } else {
            (low, left, at_left) = (left, right, at_right);
            right = low + golden * (high - low);
            at_right = loss(right)?;
        }
    }
    Some(f64::midpoint(low, high).exp())
}

/// Log-probabilities at a temperature, normalised over the classes (log-softmax), nats. Where every class has
/// probability zero, all are alike.
#[must_use]
pub fn over_classes(log_probs: &[f32], temperature: f64) -> Vec<f64> {
    let largest = log_probs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if largest == f32::NEG_INFINITY {
        return vec![-(log_probs.len() as f64).ln(); log_probs.len()];
    }
    let from_largest = |p: &f32| (f64::from(*p) - f64::from(largest)) / temperature;
    let sum: f64 = log_probs.iter().map(|p| from_largest(p).exp()).sum();
    log_probs.iter().map(|p| from_largest(p) - sum.ln()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUTHS: [u32; 40] = [
        1, 0, 2, 1, 0, 0, 2, 3, 0, 0, 1, 1, 3, 2, 1, 0, 0, 2, 3, 0, 0, 1, 1, 3, 2, 1, 1, 0, 2, 1, 0, 0, 2, 1, 3, 0, 1,
        1, 2, 2,
    ];

    fn row(truth: u32, log_probs: Option<Vec<f32>>) -> Prediction {
        Prediction {
            id: String::new(),
            sha256: String::new(),
            group: None,
            truth,
            free_text: None,
            free_class: None,
            trie_class: None,
            likelihood_class: None,
            log_probs,
        }
    }

    /// As `tests/fixtures/statistics/calibration.py` makes them.
    fn rows() -> Vec<Prediction> {
        let score = |i: usize, c: usize| {
            let (i, c) = (i as f64, c as f64);
            (3.0 * (1.7 * i + 2.3 * c).sin() + (0.9 * i * c).cos()) as f32
        };
        let row = |(i, &truth): (usize, &u32)| row(truth, Some((0..4).map(|c| score(i, c)).collect()));
        TRUTHS.iter().enumerate().map(row).collect()
    }

    #[track_caller]
    fn near(found: f64, expected: f64, tolerance: f64) {
        assert!((found - expected).abs() <= tolerance, "{found} is not {expected}");
    }

    #[test]
    fn numbers_are_those_of_scipy() {
        let expected = [
            (
                1.0,
                [
                    0.192_667_409_353_161_2,
                    0.229_917_865_921_525_36,
                    0.479_973_565_132_601_2,
                    0.769_976_841_964_676_1,
                ],
            ),
            (
                1.340_626_070_905_604,
                [
                    0.188_189_273_344_239_3,
                    0.219_186_368_900_282_76,
                    0.456_053_357_122_794_54,
                    0.740_989_692_938_544_9,
                ],
            ),
        ];
        for (temperature, [ece, mass, brier, nll]) in expected {
            let found = Calibration::of(&rows(), temperature).unwrap();
            near(found.ece, ece, 1e-9);
            near(found.ece_equal_mass, mass, 1e-9);
            near(found.brier, brier, 1e-9);
            near(found.nll, nll, 1e-9);
        }
        near(temperature(&rows()).unwrap(), 1.340_626_070_905_604, 1e-6);
    }

    #[test]
    fn a_fitted_temperature_is_told_with_what_it_changes() {
        let fitted = Fitted::of(4, &rows()).unwrap();
        assert_eq!((fitted.folds, fitted.held_out), (4, 40));
        assert!(fitted.held_out_nll[1] < fitted.held_out_nll[0], "{fitted:?}");
        let applied = fitted.applied(&rows()).unwrap();
        assert_eq!(Some(applied.test), Calibration::of(&rows(), fitted.temperature));
    }

    #[test]
    fn scaling_log_probabilities_scales_the_temperature() {
        let scaled: Vec<Prediction> = rows()
            .into_iter()
            .map(|p| row(p.truth, p.log_probs.map(|all| all.iter().map(|p| p * 5.0).collect())))
            .collect();
        let (once, five) = (temperature(&rows()).unwrap(), temperature(&scaled).unwrap());
        near(five / once, 5.0, 1e-5);
    }

    #[test]
    fn bins_of_equal_mass_hold_all_images() {
        let judged: Vec<Judged> = (0..37)
            .map(|i| Judged {
                confidence: f64::from(i) / 37.0,
                hit: i % 2 == 0,
            })
            .collect();
        let counts: Vec<usize> = equal_mass(&judged).iter().map(|bin| bin.count).collect();
        assert_eq!(counts, [3, 3, 3, 3, 3, 3, 3, 2, 2, 2, 2, 2, 2, 2, 2]);
        assert_eq!(equal_mass(&judged[..3]).len(), 3);
        assert_eq!(equal_width(&judged).iter().map(|bin| bin.count).sum::<usize>(), 37);
    }

    #[test]
    fn without_all_probabilities_there_is_no_calibration() {
        let mut rows = rows();
        assert_eq!(Calibration::of(&[], 1.0), None);
        rows.push(row(0, None));
        assert_eq!((Calibration::of(&rows, 1.0), temperature(&rows)), (None, None));
        assert_eq!(Fitted::of(4, &rows), None);
    }

    #[test]
    fn shots_that_are_all_right_end_at_the_bound() {
        let sure = vec![row(0, Some(vec![0.0, -1.0])), row(1, Some(vec![-1.0, 0.0]))];
        let coldest = temperature(&sure).unwrap();
        assert!(
            (0.0099..0.0101).contains(&coldest) || nll(&sure, coldest).unwrap() < 1e-9,
            "{coldest}"
        );
    }
}
