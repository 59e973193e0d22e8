//! Numbers of one cell, from its predictions alone.

use serde::{Deserialize, Serialize};

use crate::prediction::{Prediction, Reading};

/// Bins of the expected calibration error, of equal width on (0, 1].
const ECE_BINS: usize = 15;

/// Which accuracy stands for a dataset in figures and gates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Headline {
    /// Share of test images answered correctly.
    #[default]
    Top1,
    /// Mean over classes of the share answered correctly: for test sets of very unequal classes,
    /// such as Caltech-101.
    MeanPerClass,
}

impl std::fmt::Display for Headline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Top1 => "top-1 accuracy",
            Self::MeanPerClass => "mean per-class accuracy",
        })
    }
}

/// What is reported for one cell. Shares are between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Share of test images answered correctly; an invalid answer is wrong.
    pub top1: f64,
    /// Mean of the per-class shares, over classes that have test images.
    pub mean_per_class: f64,
    /// Which of the two is the headline.
    pub headline: Headline,
    /// Share of answers that name no class.
    pub invalid_rate: f64,
    /// Expected calibration error of the most probable class, 15 bins of equal width (Guo et al. 2017,
    /// eq. 3); `None` when an image has no probabilities.
    pub ece: Option<f64>,
    /// Mean negative natural-log probability of the true class. A probability of zero counts as the
    /// smallest normal `f32` (87.3 nats), so that one such image does not make the mean infinite.
    pub nll: Option<f64>,
}

impl Metrics {
    /// Metrics of the answers by `reading`. Without predictions every share is 0.
    #[must_use]
    pub fn of(predictions: &[Prediction], reading: Reading, headline: Headline) -> Self {
        let share = |count: usize| count as f64 / predictions.len().max(1) as f64;
        Self {
            top1: share(predictions.iter().filter(|p| p.correct(reading)).count()),
            mean_per_class: mean_per_class(predictions, reading),
            headline,
            invalid_rate: share(predictions.iter().filter(|p| p.answer(reading).is_none()).count()),
            ece: expected_calibration_error(predictions),
            nll: negative_log_likelihood(predictions),
        }
    }

    /// The headline accuracy, between 0 and 1.
    #[must_use]
    pub fn value(&self) -> f64 {
        match self.headline {
            Headline::Top1 => self.top1,
            Headline::MeanPerClass => self.mean_per_class,
        }
    }
}

/// Number of test images of each class, in class order, up to the highest class that occurs.
#[must_use]
pub fn class_counts(predictions: &[Prediction]) -> Vec<usize> {
    let mut counts = Vec::new();
    for prediction in predictions {
        let class = prediction.truth as usize;
        if counts.len() <= class {
            counts.resize(class + 1, 0);
        }
        counts[class] += 1;
    }
    counts
}

fn mean_per_class(predictions: &[Prediction], reading: Reading) -> f64 {
    let counts = class_counts(predictions);
    let mut correct = vec![0_usize; counts.len()];
    for prediction in predictions.iter().filter(|p| p.correct(reading)) {
        correct[prediction.truth as usize] += 1;
    }
    let present = counts.iter().filter(|&&n| n > 0).count();
    let sum: f64 = counts
        .iter()
        .zip(&correct)
        .filter(|(n, _)| **n > 0)
        .map(|(&n, &right)| right as f64 / n as f64)
        .sum();
    sum / present.max(1) as f64
}

/// Most probable class with its log-probability; the lowest index among equals.
fn most_probable(log_probs: &[f32]) -> Option<(usize, f32)> {
    log_probs
        .iter()
        .copied()
        .enumerate()
        .reduce(|best, next| if next.1 > best.1 { next } else { best })
}

fn expected_calibration_error(predictions: &[Prediction]) -> Option<f64> {
    let mut bins = [(0.0_f64, 0.0_f64); ECE_BINS]; // sums of confidence and of hits
    for prediction in predictions {
        let (class, log_prob) = most_probable(prediction.log_probs.as_deref()?)?;
        let confidence = f64::from(log_prob).exp().clamp(0.0, 1.0);
        let bin = (confidence * ECE_BINS as f64).ceil() as usize; // (0, 1/15] is bin 1
        let bin = &mut bins[bin.clamp(1, ECE_BINS) - 1];
        bin.0 += confidence;
        bin.1 += f64::from(u8::from(class == prediction.truth as usize));
    }
    let gap: f64 = bins.iter().map(|(confidence, hits)| (hits - confidence).abs()).sum();
    (!predictions.is_empty()).then(|| gap / predictions.len() as f64)
}

fn negative_log_likelihood(predictions: &[Prediction]) -> Option<f64> {
    let least = f64::from(f32::MIN_POSITIVE).ln();
    let mut sum = 0.0;
    for prediction in predictions {
        let log_prob = *prediction.log_probs.as_ref()?.get(prediction.truth as usize)?;
        sum -= f64::from(log_prob).max(least);
    }
    (!predictions.is_empty()).then(|| sum / predictions.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(truth: u32, answer: Option<u32>, probs: Option<&[f32]>) -> Prediction {
        Prediction {
            id: format!("{truth}-{answer:?}"),
            sha256: String::new(),
            group: None,
            truth,
            free_text: None,
            free_class: None,
            trie_class: None,
            likelihood_class: answer,
            log_probs: probs.map(|p| p.iter().map(|p| p.ln()).collect()),
        }
    }

    fn metrics(rows: &[Prediction]) -> Metrics {
        Metrics::of(rows, Reading::Likelihood, Headline::MeanPerClass)
    }

    #[test]
    fn accuracies_on_a_table() {
        let rows = [
            row(0, Some(0), None), // right
            row(0, Some(0), None), // right
            row(0, Some(1), None), // wrong
            row(0, None, None),    // invalid, so wrong
            row(2, Some(2), None), // right; class 1 has no test image and does not count
        ];
        let m = metrics(&rows);
        assert!((m.top1 - 0.6).abs() < 1e-12);
        assert!((m.mean_per_class - f64::midpoint(0.5, 1.0)).abs() < 1e-12);
        assert!((m.value() - 0.75).abs() < 1e-12);
        assert!((m.invalid_rate - 0.2).abs() < 1e-12);
        assert_eq!((m.ece, m.nll), (None, None));
        // Another reading was never asked for: everything is invalid.
        let free = Metrics::of(&rows, Reading::Free, Headline::Top1);
        assert_eq!((free.value(), free.invalid_rate), (0.0, 1.0));
    }

    #[test]
    fn calibration_by_hand() {
        // Two images in the bin (0.8, 0.866…], one right: |1 − 1.7|; one in (0.533…, 0.6], right: |1 − 0.6|.
        let rows = [
            row(0, Some(0), Some(&[0.85, 0.15])),
            row(1, Some(0), Some(&[0.85, 0.15])),
            row(1, Some(1), Some(&[0.4, 0.6])),
        ];
        let m = metrics(&rows);
        assert!((m.ece.unwrap() - (0.7 + 0.4) / 3.0).abs() < 1e-6, "{m:?}");
        let nll = -(0.85_f64.ln() + 0.15_f64.ln() + 0.6_f64.ln()) / 3.0;
        assert!((m.nll.unwrap() - nll).abs() < 1e-6, "{m:?}");
    }

    #[test]
    fn a_probability_of_zero_keeps_the_mean_finite() {
        let m = metrics(&[row(1, Some(0), Some(&[1.0, 0.0]))]);
        assert!((m.nll.unwrap() - 87.336_544).abs() < 1e-5, "{m:?}");
        assert!((m.ece.unwrap() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn one_image_without_probabilities_leaves_no_calibration() {
        let m = metrics(&[row(0, Some(0), Some(&[0.9, 0.1])), row(0, Some(0), None)]);
        assert_eq!((m.ece, m.nll), (None, None));
        assert_eq!(metrics(&[]).ece, None);
    }
}
