//! Four ways to hold the likelihoods of class names against each other, all from stored numbers.
//!
//! A longer name has a smaller probability, and a common one a larger, whatever the picture shows. The reading
//! `likelihood` takes the sum of a name's token log-probabilities as it is; here stand beside it the sum per token, per byte of the
//! name (the custom of evaluation harnesses), and less the log-probability of the same name without the picture (which leaves
//! the pointwise mutual information of name and picture).

use serde::{Deserialize, Serialize};

use crate::prediction::{Names, Prediction};
use crate::statistics::metric::{Headline, accuracy};

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
                // The first of equals.
                let most = |best: (usize, f64), next: (usize, f64)| if next.1 > best.1 { next } else { best };
                let best = scores
                    .map(|(class, p)| (class, score(class, f64::from(*p))))
                    .reduce(most);
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

    fn row(truth: u32, log_probs: &[f32]) -> Prediction {
        Prediction {
            id: String::new(),
            sha256: String::new(),
            group: None,
            truth,
            free_text: None,
            free_class: None,
            trie_class: None,
            likelihood_class: None,
            log_probs: Some(log_probs.to_vec()),
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
            let n = Normalised::of(&[row(truth, &scores)], &names, Headline::Top1).unwrap();
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
        assert_eq!(Normalised::of(&[row(0, &[-1.0])], &names, Headline::Top1), None);
        assert_eq!(Normalised::of(&[], &names, Headline::Top1), None);
        let bare = Prediction {
            log_probs: None,
            ..row(0, &[])
        };
        assert_eq!(Normalised::of(&[bare], &names, Headline::Top1), None);
    }
}
