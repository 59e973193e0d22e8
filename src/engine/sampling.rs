//! Settings of generation, and the choice of the next token by them.

use candle_core::{D, Tensor};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use crate::error::{Error, Result};
use crate::nn::loss::log_softmax;

/// Settings of generation; by default greedy, 128 tokens, without a stop.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Longest continuation, in tokens.
    pub max_tokens: usize,
    /// The end of a continuation before that.
    pub stop: Stop,
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f64,
    /// Draw from so many of the likeliest tokens only, from 1 on.
    pub top_k: Option<usize>,
    /// Draw from the fewest likeliest tokens only that have this share of the probability together, after temperature and
    /// `top_k`: from 0 (the likeliest token alone) to 1 (all).
    pub top_p: f64,
    /// Decides the draws where the temperature is above 0.
    pub seed: u64,
    /// Likeliest tokens to report beside each token.
    pub top_logprobs: usize,
}

/// The tokens and texts that end a continuation. What ends it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stop {
    /// Any of these tokens.
    pub tokens: Vec<u32>,
    /// Any of these texts in the decoded continuation, special tokens written out; it may begin and end inside a token. The
    /// token that completes the text is the last one.
    pub texts: Vec<String>,
}

/// A token and its natural-log probability.
pub type Alternative = (u32, f32);

/// A continuation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SampledSequence {
    /// Its tokens, with the one that ended it.
    pub tokens: Vec<u32>,
    /// The log-probability of each under the model (temperature 1, whole vocabulary), nats.
    pub logprobs: Vec<f32>,
    /// True if a stop token or text ended it, rather than its length.
    pub stopped: bool,
    /// For each token the likeliest ones in its place, likeliest first; [`SamplingParams::top_logprobs`] of them.
    pub top_logprobs: Vec<Vec<Alternative>>,
}

/// The log-probabilities of a prompt's own tokens.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PromptScores {
    /// For each position the log-probability of its token after all before it, nats: `None` at the first, 0 at those of images.
    pub logprobs: Vec<Option<f32>>,
    /// For each position the likeliest tokens in its place, likeliest first, as many as were asked for; none at the first position
    /// and at those of images.
    pub top_logprobs: Vec<Vec<Alternative>>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            max_tokens: 128,
            stop: Stop::default(),
            temperature: 0.0,
            top_k: None,
            top_p: 1.0,
            seed: 0,
            top_logprobs: 0,
        }
    }
}

impl SamplingParams {
    /// The likeliest tokens, at most so many, to one of `stop`.
    #[must_use]
    pub fn greedy(max_tokens: usize, stop: impl Into<Stop>) -> Self {
        Self {
            max_tokens,
            stop: stop.into(),
            ..Self::default()
        }
    }

    /// # Errors
    /// [`Error::Sampling`] when a setting makes no sense.
    pub(super) fn check(&self) -> Result<()> {
        let Self { temperature, top_p, .. } = *self;
        let reason = if !(temperature >= 0.0 && temperature.is_finite()) {
            format!("a temperature of {temperature}")
        } else if !(0.0..=1.0).contains(&top_p) {
            format!("a top_p of {top_p}, which is a share from 0 to 1")
        } else if self.top_k == Some(0) {
            "a top_k of 0, which leaves no token".into()
        } else if self.stop.texts.iter().any(String::is_empty) {
            "an empty stop text".into()
        } else {
            return Ok(());
        };
        Err(Error::Sampling { reason })
    }
}

impl From<Vec<u32>> for Stop {
    fn from(tokens: Vec<u32>) -> Self {
        let texts = Vec::new();
        Self { tokens, texts }
    }
}

impl Stop {
    /// The byte at which the first of the stop texts begins in a text.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<usize> {
        self.texts.iter().filter_map(|stop| text.find(stop)).min()
    }
}

/// A continuation in the making.
#[derive(Debug)]
pub(super) struct Continuation {
    params: SamplingParams,
    draws: ChaCha8Rng,
    pub sequence: SampledSequence,
}

/// A token as it was chosen.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chosen {
    pub token: u32,
    pub logprob: f32,
    pub top: Vec<Alternative>,
}

/// Writes out tokens, special ones included.
pub(super) type Decode<'a> = dyn Fn(&[u32]) -> Result<String> + 'a;

impl Continuation {
    pub(super) fn new(params: &SamplingParams, draws: ChaCha8Rng) -> Self {
        Self {
            params: params.clone(),
            draws,
            sequence: SampledSequence::default(),
        }
    }

    /// Adds a token; true if the continuation goes on.
    pub(super) fn push(&mut self, chosen: &Chosen, decode: &Decode) -> Result<bool> {
        let sequence = &mut self.sequence;
        sequence.tokens.push(chosen.token);
        sequence.logprobs.push(chosen.logprob);
        sequence.top_logprobs.push(chosen.top.clone());
        let Stop { tokens, texts } = &self.params.stop;
        sequence.stopped = tokens.contains(&chosen.token);
        if !sequence.stopped
            && let Some(longest) = texts.iter().map(String::len).max()
        {
            // A token is at least a byte; a few more so that no character is cut where the text may begin.
            let first = sequence.tokens.len().saturating_sub(longest + 4);
            sequence.stopped = self.params.stop.find(&decode(&sequence.tokens[first..])?).is_some();
        }
        Ok(!sequence.stopped && sequence.tokens.len() < self.params.max_tokens)
    }
}

/// The next token of each continuation from logits (S, V), by its own settings.
pub(super) fn choose(logits: &Tensor, open: &mut [&mut Continuation]) -> Result<Vec<Chosen>> {
    let all = log_softmax(logits)?;
    let greedy = open.iter().any(|one| one.params.temperature == 0.0);
    let likeliest = match greedy {
        true => logits.argmax(D::Minus1)?.to_vec1::<u32>()?,
        false => Vec::new(),
    };
    let whole = |one: &&mut Continuation| one.params.temperature > 0.0 || one.params.top_logprobs > 0;
    let rows = match open.iter().any(whole) {
        true => all.to_vec2::<f32>()?,
        false => Vec::new(),
    };
    let mut tokens = Vec::with_capacity(open.len());
    for (i, one) in open.iter_mut().enumerate() {
        tokens.push(match one.params.temperature == 0.0 {
            true => likeliest[i],
            false => draw(&rows[i], &one.params, &mut one.draws),
        });
    }
    let chosen = Tensor::from_slice(&tokens, (tokens.len(), 1), logits.device())?;
    let logprobs = all.gather(&chosen, 1)?.flatten_all()?.to_vec1::<f32>()?;
    let chosen = tokens.into_iter().zip(logprobs).zip(open).enumerate();
    let chosen = chosen.map(|(i, ((token, logprob), one))| Chosen {
        token,
        logprob,
        top: rows
            .get(i)
            .map_or_else(Vec::new, |row| likeliest_of(row, one.params.top_logprobs)),
    });
    Ok(chosen.collect())
}

/// The `count` likeliest tokens of a distribution, likeliest first, the lowest of equals first.
pub(super) fn likeliest_of(logprobs: &[f32], count: usize) -> Vec<Alternative> {
    let order = ordered(logprobs, count);
    order
        .into_iter()
        .map(|token| (token, logprobs[token as usize]))
        .collect()
}

fn ordered(logprobs: &[f32], count: usize) -> Vec<u32> {
    let by = |a: &u32, b: &u32| logprobs[*b as usize].total_cmp(&logprobs[*a as usize]).then(a.cmp(b));
    let mut order: Vec<u32> = (0..logprobs.len() as u32).collect();
    if count == 0 {
        return Vec::new();
    }
    if count < order.len() {
        order.select_nth_unstable_by(count - 1, by);
        order.truncate(count);
    }
    order.sort_unstable_by(by);
    order
}

/// A token drawn from log-probabilities that are divided by the temperature.
fn draw(logprobs: &[f32], params: &SamplingParams, rng: &mut ChaCha8Rng) -> u32 {
    let highest = logprobs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logprob: f32| (f64::from(logprob - highest) / params.temperature).exp();
    if params.top_k.is_none() && params.top_p >= 1.0 {
        let all = (0..).zip(logprobs.iter().map(|&logprob| weight(logprob)));
        return drawn(all.clone(), all.map(|(_, weight)| weight).sum(), rng);
    }
    let order = ordered(logprobs, params.top_k.unwrap_or(logprobs.len()));
    let mut kept: Vec<(u32, f64)> = order
        .iter()
        .map(|&token| (token, weight(logprobs[token as usize])))
        .collect();
    let mut sum: f64 = kept.iter().map(|(_, weight)| weight).sum();
    if params.top_p < 1.0 {
        let (wanted, mut reached) = (params.top_p * sum, 0.0);
        let more = |(_, weight): &&(u32, f64)| {
            let before = reached;
            reached += weight;
            before < wanted
        };
        let count = kept.iter().take_while(more).count().max(1);
        kept.truncate(count);
        sum = kept.iter().map(|(_, weight)| weight).sum();
    }
    drawn(kept.into_iter(), sum, rng)
}

/// One of some tokens with weights of this sum.
fn drawn(weighted: impl Iterator<Item = (u32, f64)>, sum: f64, rng: &mut ChaCha8Rng) -> u32 {
    let mut left = rng.random::<f64>() * sum;
    let mut last = 0;
    for (token, weight) in weighted {
        if weight > 0.0 {
            last = token;
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed;

    fn params(temperature: f64, top_k: Option<usize>, top_p: f64) -> SamplingParams {
        SamplingParams {
            temperature,
            top_k,
            top_p,
            ..SamplingParams::default()
        }
    }

    #[test]
    fn draws_follow_the_distribution_that_is_left() {
        let logprobs = [0.1f32, 0.2, 0.7, 0.0].map(f32::ln);
        let mut rng = seed::rng(0, "draws");
        for (temperature, top_k, top_p, left) in [
            (1.0, None, 1.0, [true, true, true, false]),
            (0.5, None, 1.0, [true, true, true, false]),
            (2.0, None, 1.0, [true, true, true, false]),
            (1.0, Some(2), 1.0, [false, true, true, false]),
            (2.0, Some(1), 1.0, [false, false, true, false]),
            (1.0, Some(9), 1.0, [true, true, true, false]),
            (1.0, None, 0.7, [false, false, true, false]),
            (1.0, None, 0.75, [false, true, true, false]),
            // Hotter, two tokens have no longer nine tenths: 0.84, 0.45, 0.32 of 1.6.
            (2.0, None, 0.9, [true, true, true, false]),
            (1.0, Some(2), 0.7, [false, false, true, false]),
            (1.0, None, 0.0, [false, false, true, false]),
        ] {
            let count = 20_000;
            let mut counts = [0f64; 4];
            for _ in 0..count {
                let token = draw(&logprobs, &params(temperature, top_k, top_p), &mut rng);
                counts[token as usize] += 1.0 / f64::from(count);
            }
            let weights = [0.1f64, 0.2, 0.7, 0.0].map(|p| p.powf(1.0 / temperature));
            let weights = weights
                .iter()
                .zip(left)
                .map(|(weight, left)| if left { *weight } else { 0.0 });
            let sum: f64 = weights.clone().sum();
            for (found, weight) in counts.iter().zip(weights) {
                // Four standard deviations of a share of that many draws; what is not left is never drawn.
                let off = (found - weight / sum).abs();
                assert!(
                    off < 4.0 * 0.5 / f64::from(count).sqrt() && (weight > 0.0 || *found == 0.0),
                    "{temperature} {top_k:?} {top_p}: {counts:?}"
                );
            }
        }
    }

    #[test]
    fn the_likeliest_come_first_and_the_lowest_of_equals() {
        let logprobs = [-3.0f32, -1.0, -2.0, -1.0, -9.0];
        assert_eq!(likeliest_of(&logprobs, 3), [(1, -1.0), (3, -1.0), (2, -2.0)]);
        assert_eq!(likeliest_of(&logprobs, 0), []);
        assert_eq!(likeliest_of(&logprobs, 9).len(), 5);
    }

    #[test]
    fn settings_that_make_no_sense_are_told() {
        assert!(params(1.0, Some(5), 0.5).check().is_ok());
        let empty = Stop {
            tokens: vec![],
            texts: vec!["a".into(), String::new()],
        };
        for broken in [
            params(-1.0, None, 1.0),
            params(f64::NAN, None, 1.0),
            params(1.0, Some(0), 1.0),
            params(1.0, None, 1.5),
            params(1.0, None, f64::NAN),
            SamplingParams {
                stop: empty,
                ..SamplingParams::default()
            },
        ] {
            assert!(broken.check().is_err(), "{broken:?}");
        }
    }

    #[test]
    fn a_stop_text_may_span_tokens_and_the_first_one_counts() {
        let words = ["cat", "\n", "\nUs", "er:", " é", "<end>"];
        let decode = |ids: &[u32]| Ok(ids.iter().map(|&id| words[id as usize]).collect());
        let run = |stop: &Stop, tokens: &[u32]| {
            let limited = SamplingParams {
                max_tokens: 5,
                stop: stop.clone(),
                ..SamplingParams::default()
            };
            let mut one = Continuation::new(&limited, seed::rng(0, ""));
            for &token in tokens {
                let chosen = Chosen {
                    token,
                    logprob: -1.0,
                    top: vec![],
                };
                if !one.push(&chosen, &decode).unwrap() {
                    break;
                }
            }
            (one.sequence.tokens, one.sequence.stopped)
        };
        let text = |texts: &[&str]| Stop {
            tokens: vec![],
            texts: texts.iter().map(|&text| text.to_owned()).collect(),
        };
        assert_eq!(run(&text(&["\n\nUser"]), &[0, 1, 2, 3, 0]), (vec![0, 1, 2, 3], true));
        assert_eq!(run(&text(&["é"]), &[0, 0, 4, 3]), (vec![0, 0, 4], true));
        assert_eq!(run(&text(&["<end>", "User:"]), &[0, 2, 0, 5]), (vec![0, 2, 0, 5], true));
        assert_eq!(run(&vec![2].into(), &[0, 1, 2, 3]), (vec![0, 1, 2], true));
        assert_eq!(run(&text(&["dog"]), &[0; 9]), (vec![0; 5], false));
        assert_eq!(text(&["b", "ab"]).find("xxab"), Some(2));
    }
}
