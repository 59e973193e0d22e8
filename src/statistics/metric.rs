//! Numbers of one cell, from its predictions alone: accuracies, and their forms by normalisation of likelihoods.
//!
//! A longer name has a smaller probability, and a common one a larger, whatever the picture shows. The reading
//! `likelihood` takes the sum of a name's token log-probabilities as it is; [`Normalised`] puts beside it the sum per
//! token, per byte of the name (the custom of evaluation harnesses), and less the log-probability of the same name without
//! the picture (which leaves the pointwise mutual information of name and picture).

use serde::{Deserialize, Serialize};

use crate::prediction::{Names, Prediction, Reading};
use crate::statistics::calibration;
use crate::statistics::calibration::{equal_width, error, largest};

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

impl Headline {
    /// As in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Top1 => "top1",
            Self::MeanPerClass => "mean-per-class",
        }
    }

    /// The one of both accuracies that it is.
    fn of(self, top1: f64, mean_per_class: f64) -> f64 {
        match self {
            Self::Top1 => top1,
            Self::MeanPerClass => mean_per_class,
        }
    }
}

impl std::fmt::Display for Headline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Top1 => "top-1 accuracy",
            Self::MeanPerClass => "mean per-class accuracy",
        })
    }
}

/// Numbers of one reading of the answers. Shares are between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ByReading {
    /// As [`Metrics::top1`].
    pub top1: f64,
    /// As [`Metrics::mean_per_class`].
    pub mean_per_class: f64,
    /// As [`Metrics::invalid_rate`].
    pub invalid_rate: f64,
}

/// Each reading that was taken; `None` where none of its answers was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Readings {
    /// Greedy text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free: Option<ByReading>,
    /// The walk over the trie of class names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trie: Option<ByReading>,
    /// The most probable class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub likelihood: Option<ByReading>,
}

impl Readings {
    /// One of them.
    #[must_use]
    pub fn get(&self, reading: Reading) -> Option<ByReading> {
        match reading {
            Reading::Free => self.free,
            Reading::Trie => self.trie,
            Reading::Likelihood => self.likelihood,
        }
    }

    /// True if answers were written, not only chosen among the classes.
    #[must_use]
    pub fn written(&self) -> bool {
        self.free.is_some() || self.trie.is_some()
    }
}

/// Numbers of one cell. Shares are between 0 and 1.
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
    /// The same by every reading that was taken; the numbers above are those of the headline reading.
    #[serde(default)]
    pub readings: Readings,
    /// Expected calibration error of the most probable class, 15 bins of equal width (Guo et al. 2017,
    /// eq. 3); `None` when an image has no probabilities. Probabilities are normalised over the classes: what a
    /// generator stores is p(name and end token), which sums to less than one, the rest being text that names no
    /// class.
    pub ece: Option<f64>,
    /// Mean negative natural-log probability of the true class, normalised as for `ece`. A probability of zero
    /// counts as the smallest normal `f32` (87.3 nats), so that one such image does not make the mean infinite.
    pub nll: Option<f64>,
}

impl Metrics {
    /// Metrics of the answers by `reading`. Without predictions every share is 0.
    #[must_use]
    pub fn of(predictions: &[Prediction], reading: Reading, headline: Headline) -> Self {
        let own = by_reading(predictions, reading);
        let other = |reading| taken(predictions, reading).then(|| by_reading(predictions, reading));
        Self {
            top1: own.top1,
            mean_per_class: own.mean_per_class,
            headline,
            invalid_rate: own.invalid_rate,
            readings: Readings {
                free: other(Reading::Free),
                trie: other(Reading::Trie),
                likelihood: other(Reading::Likelihood),
            },
            ece: calibration::judged(predictions, 1.0).map(|judged| error(&equal_width(&judged))),
            nll: calibration::nll(predictions, 1.0),
        }
        .with_reading(reading)
    }

    /// Counts the headline's `reading` among those taken; records were once written without any.
    #[must_use]
    pub fn with_reading(mut self, reading: Reading) -> Self {
        let own = ByReading {
            top1: self.top1,
            mean_per_class: self.mean_per_class,
            invalid_rate: self.invalid_rate,
        };
        let place = match reading {
            Reading::Free => &mut self.readings.free,
            Reading::Trie => &mut self.readings.trie,
            Reading::Likelihood => &mut self.readings.likelihood,
        };
        place.get_or_insert(own);
        self
    }

    /// The headline accuracy, between 0 and 1.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.headline.of(self.top1, self.mean_per_class)
    }

    /// The same accuracy by another reading; `None` where it was not taken.
    #[must_use]
    pub fn value_by(&self, reading: Reading) -> Option<f64> {
        let by = self.readings.get(reading)?;
        Some(self.headline.of(by.top1, by.mean_per_class))
    }
}

/// True if any answer by `reading` was asked for. Greedy text that names no class is an answer, though an
/// invalid one.
#[must_use]
pub fn taken(predictions: &[Prediction], reading: Reading) -> bool {
    predictions
        .iter()
        .any(|p| p.answer(reading).is_some() || (reading == Reading::Free && p.free_text.is_some()))
}

fn by_reading(predictions: &[Prediction], reading: Reading) -> ByReading {
    ByReading {
        top1: share(predictions, |p| p.correct(reading)),
        mean_per_class: mean_per_class(predictions, |p| p.correct(reading)),
        invalid_rate: share(predictions, |p| p.answer(reading).is_none()),
    }
}

fn share(predictions: &[Prediction], which: impl Fn(&Prediction) -> bool) -> f64 {
    predictions.iter().filter(|p| which(p)).count() as f64 / predictions.len().max(1) as f64
}

/// Accuracy of answers that are not among the readings; `None` is a wrong one.
fn accuracy(predictions: &[Prediction], headline: Headline, answer: impl Fn(&Prediction) -> Option<u32>) -> f64 {
    let right = |p: &Prediction| answer(p) == Some(p.truth);
    match headline {
        Headline::Top1 => share(predictions, right),
        Headline::MeanPerClass => mean_per_class(predictions, right),
    }
}

fn mean_per_class(predictions: &[Prediction], right: impl Fn(&Prediction) -> bool) -> f64 {
    let classes = predictions.iter().map(|p| p.truth as usize + 1).max().unwrap_or(0);
    let (mut counts, mut correct) = (vec![0_usize; classes], vec![0_usize; classes]);
    for prediction in predictions {
        counts[prediction.truth as usize] += 1;
        correct[prediction.truth as usize] += usize::from(right(prediction));
    }
    let present = || counts.iter().zip(&correct).filter(|(n, _)| **n > 0);
    let sum: f64 = present().map(|(&n, &right)| right as f64 / n as f64).sum();
    sum / present().count().max(1) as f64
}

/// Accuracy of the most probable name by each of them, of the headline's kind, between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalised {
    /// log p(name | picture), as the reading `likelihood`.
    pub sum: f64,
    /// The same over the number of tokens, the end token counted.
    pub per_token: f64,
    /// The same over the number of bytes of the name in UTF-8.
    pub per_byte: f64,
    /// log p(name | picture) − log p(name | no picture).
    pub prior_corrected: f64,
}

impl Normalised {
    /// From the rows of a cell and what is known of its class names; `None` where a row has no log-probabilities, or
    /// theirs are not as many as the names.
    #[must_use]
    pub fn of(predictions: &[Prediction], names: &Names, headline: Headline) -> Option<Self> {
        let fits = |row: &Prediction| {
            row.log_probs
                .as_ref()
                .is_some_and(|all| all.len() == names.tokens.len())
        };
        let whole = names.bytes.len() == names.tokens.len() && names.prior.len() == names.tokens.len();
        if predictions.is_empty() || !whole || !predictions.iter().all(fits) {
            return None;
        }
        let by = |score: &dyn Fn(usize, f64) -> f64| {
            accuracy(predictions, headline, |row| {
                let scores = row.log_probs.iter().flatten().enumerate();
                let best = largest(scores.map(|(class, p)| score(class, f64::from(*p))));
                best.map(|(class, _)| class as u32)
            })
        };
        let count = |of: &[u32], class: usize| f64::from(of.get(class).copied().unwrap_or(1).max(1));
        Some(Self {
            sum: by(&|_, p| p),
            per_token: by(&|class, p| p / count(&names.tokens, class)),
            per_byte: by(&|class, p| p / count(&names.bytes, class)),
            prior_corrected: by(&|class, p| p - f64::from(names.prior.get(class).copied().unwrap_or(0.0))),
        })
    }
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
    fn readings_are_counted_where_they_were_taken() {
        let answers = |free: (&str, Option<u32>), trie, likelihood| Prediction {
            free_text: Some(free.0.into()),
            free_class: free.1,
            trie_class: Some(trie),
            likelihood_class: Some(likelihood),
            ..row(1, None, Some(&[0.02, 0.01]))
        };
        let rows = [
            answers(("a dog", Some(1)), 1, 0),
            answers(("a dragon", None), 1, 0),
            answers(("", None), 1, 0),
            answers(("a cat", Some(0)), 0, 0),
        ];
        let m = Metrics::of(&rows, Reading::Free, Headline::Top1);
        assert_eq!((m.value(), m.invalid_rate), (0.25, 0.5));
        let by = [Reading::Free, Reading::Trie, Reading::Likelihood].map(|r| m.value_by(r));
        assert_eq!(by, [Some(0.25), Some(0.75), Some(0.0)]);
        assert_eq!(m.readings.trie.map(|trie| trie.invalid_rate), Some(0.0));
        assert!(m.readings.written());

        let likelihood_only = metrics(&[row(0, Some(0), None)]);
        assert!(!likelihood_only.readings.written());
        assert_eq!(likelihood_only.value_by(Reading::Free), None);
        // Text that never names a class was asked for all the same.
        assert!(taken(&rows[1..3], Reading::Free));
    }

    #[test]
    fn probabilities_of_names_are_normalised_over_the_classes() {
        let of = |probs: &[f32]| metrics(&[row(0, Some(0), Some(probs)), row(1, Some(0), Some(probs))]);
        let (raw, normalised) = (of(&[0.003, 0.001]), of(&[0.75, 0.25]));
        assert!((raw.nll.unwrap() - normalised.nll.unwrap()).abs() < 1e-6);
        assert!((raw.ece.unwrap() - normalised.ece.unwrap()).abs() < 1e-6);
        let nothing_likely = of(&[0.0, 0.0]);
        assert!(
            (nothing_likely.nll.unwrap() - 2.0_f64.ln()).abs() < 1e-12,
            "{nothing_likely:?}"
        );
    }

    #[test]
    fn one_image_without_probabilities_leaves_no_calibration() {
        let m = metrics(&[row(0, Some(0), Some(&[0.9, 0.1])), row(0, Some(0), None)]);
        assert_eq!((m.ece, m.nll), (None, None));
        assert_eq!(metrics(&[]).ece, None);
    }

    fn scored(truth: u32, log_probs: &[f32]) -> Prediction {
        Prediction {
            log_probs: Some(log_probs.to_vec()),
            ..row(truth, None, None)
        }
    }

    #[test]
    fn each_prefers_another_name() {
        // By sum the first, per token the second (−3/4 before −2/2), per byte the third (−4/20), less the prior the fourth.
        let names = Names {
            tokens: vec![2, 4, 3, 2],
            bytes: vec![3, 6, 20, 9],
            prior: vec![-2.0, -3.0, -4.0, -9.0],
        };
        let scores = [-2.0, -3.0, -4.0, -4.5];
        for (truth, expected) in [
            (0, [1.0, 0.0, 0.0, 0.0]),
            (1, [0.0, 1.0, 0.0, 0.0]),
            (2, [0.0, 0.0, 1.0, 0.0]),
            (3, [0.0, 0.0, 0.0, 1.0]),
        ] {
            let n = Normalised::of(&[scored(truth, &scores)], &names, Headline::Top1).unwrap();
            assert_eq!([n.sum, n.per_token, n.per_byte, n.prior_corrected], expected);
        }
    }

    #[test]
    fn what_does_not_fit_gives_nothing() {
        let names = Names {
            tokens: vec![2, 2],
            bytes: vec![3, 3],
            prior: vec![-1.0, -1.0],
        };
        assert_eq!(Normalised::of(&[scored(0, &[-1.0])], &names, Headline::Top1), None);
        assert_eq!(Normalised::of(&[], &names, Headline::Top1), None);
        let bare = Prediction {
            log_probs: None,
            ..scored(0, &[])
        };
        assert_eq!(Normalised::of(&[bare], &names, Headline::Top1), None);
    }
}
