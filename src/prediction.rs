//! What a classifier said about one test image: the unit everything else is computed from.

use serde::{Deserialize, Deserializer, Serialize};

/// One row of a prediction file.
///
/// Classes are indices into the class list that is stored once beside the rows. A generator fills
/// the readings it was asked for; a classifier with a softmax head or a neighbour rule fills
/// `likelihood_class` only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prediction {
    /// Path of the image inside its dataset.
    pub id: String,
    /// Lower-case hex SHA-256 of the encoded image file.
    pub sha256: String,
    /// Images that are not independent (views of one drawing) share a group; `None`: its own.
    pub group: Option<String>,
    /// True class.
    pub truth: u32,
    /// Greedy text, as generated.
    pub free_text: Option<String>,
    /// Class that the greedy text names after normalisation; `None` when it names none.
    pub free_class: Option<u32>,
    /// Class of the greedy walk over the trie of class names.
    pub trie_class: Option<u32>,
    /// Class of the highest probability.
    pub likelihood_class: Option<u32>,
    /// Natural-log probability per class, in class order; `None` where the method has none. JSON has no −∞: there it
    /// is `null`.
    #[serde(deserialize_with = "log_probs")]
    pub log_probs: Option<Vec<f32>>,
}

fn log_probs<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<f32>>, D::Error> {
    let read: Option<Vec<Option<f32>>> = Deserialize::deserialize(from)?;
    let infinite = |all: Vec<Option<f32>>| all.into_iter().map(|p| p.unwrap_or(f32::NEG_INFINITY)).collect();
    Ok(read.map(infinite))
}

impl Prediction {
    /// The answer by one reading; `None` is an invalid answer.
    #[must_use]
    pub fn answer(&self, reading: Reading) -> Option<u32> {
        match reading {
            Reading::Free => self.free_class,
            Reading::Trie => self.trie_class,
            Reading::Likelihood => self.likelihood_class,
        }
    }

    /// Whether the answer by `reading` is the true class.
    #[must_use]
    pub fn correct(&self, reading: Reading) -> bool {
        self.answer(reading) == Some(self.truth)
    }
}

/// What is needed of a generator's class names to weigh their likelihoods otherwise than by the sum; all in class order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// Tokens of the name as it is written, the end token counted.
    pub tokens: Vec<u32>,
    /// Bytes of the name in UTF-8.
    pub bytes: Vec<u32>,
    /// Natural-log probability of the name and the end token after the same question without a picture.
    pub prior: Vec<f32>,
}

/// How an answer is read off a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reading {
    /// Greedy text, strict match.
    Free,
    /// Greedy decoding constrained to class names.
    Trie,
    /// The most probable class.
    Likelihood,
}

impl std::fmt::Display for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Free => "free",
            Self::Trie => "trie",
            Self::Likelihood => "likelihood",
        })
    }
}
