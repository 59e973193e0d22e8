//! The model's next-token distribution in a place: log-probabilities of some tokens, and the likeliest of all.

use candle_core::{D, Tensor};
use rayon::prelude::*;

use super::Qwen3Vl;
use crate::error::Result;
use crate::nn::ops::{self, wide, with_values};

/// Logits that are in memory at one time: 64 MiB of them.
pub(crate) const LOGITS_AT_ONCE: usize = 1 << 24;

/// The parts of a next-token distribution that were asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct NextToken {
    /// Natural-log probabilities, over the whole vocabulary, of the tokens that were asked for.
    pub log_probs: Vec<f32>,
    /// The likeliest token of the vocabulary; the lowest of equals.
    pub likeliest: u32,
}

impl Qwen3Vl {
    /// The next-token distributions after some rows of the states that [`Qwen3Vl::forward`] gave: at each of `rows`
    /// the log-probabilities of its `tokens`. Logits are held for few rows at a time.
    ///
    /// # Errors
    /// When a row or token is not there.
    pub fn next_tokens(&self, states: &Tensor, rows: &[u32], tokens: &[&[u32]]) -> Result<Vec<NextToken>> {
        let vocabulary = self.config.text_config.vocab_size;
        let count = (LOGITS_AT_ONCE / vocabulary.max(1)).max(1);
        let mut next_tokens = Vec::with_capacity(rows.len());
        for (rows, tokens) in rows.chunks(count).zip(tokens.chunks(count)) {
            next_tokens.extend(read(&self.logits(states, rows)?.detach(), tokens)?);
        }
        Ok(next_tokens)
    }
}

/// Reads logits (rows, V).
fn read(logits: &Tensor, tokens: &[&[u32]]) -> Result<Vec<NextToken>> {
    let (_, vocabulary) = logits.dims2()?;
    let logits = &wide(logits)?;
    let (normalisers, likeliest) = if ops::fused(logits.device()) {
        fused(logits)?
    } else {
        composite(logits)?
    };
    let mut asked = Vec::new();
    for (row, tokens) in tokens.iter().enumerate() {
        for &token in *tokens {
            if token as usize >= vocabulary {
                let reason = format!("token {token} is outside the vocabulary of {vocabulary}");
                return Err(candle_core::Error::Msg(reason).into());
            }
            asked.push((row * vocabulary) as u32 + token);
        }
    }
    let asked = match asked.len() {
        0 => Vec::new(),
        count => {
            let asked = Tensor::from_vec(asked, count, logits.device())?;
            logits.flatten_all()?.index_select(&asked, 0)?.to_vec1::<f32>()?
        }
    };
    let mut asked = asked.into_iter();
    let next_token = |((tokens, normaliser), likeliest): ((&&[u32], f32), u32)| NextToken {
        log_probs: asked
            .by_ref()
            .take(tokens.len())
            .map(|logit| logit - normaliser)
            .collect(),
        likeliest,
    };
    Ok(tokens.iter().zip(normalisers).zip(likeliest).map(next_token).collect())
}

/// `ln Σ exp` and the first largest of each row, row by row in main memory.
fn fused(logits: &Tensor) -> candle_core::Result<(Vec<f32>, Vec<u32>)> {
    let (_, vocabulary) = logits.dims2()?;
    let row = |row: &[f32]| {
        let (mut best, mut largest) = (0, f32::NEG_INFINITY);
        for (token, &logit) in row.iter().enumerate() {
            if logit > largest {
                (best, largest) = (token as u32, logit);
            }
        }
        let sum: f64 = row.iter().map(|logit| f64::from((logit - largest).exp())).sum();
        (largest + sum.ln() as f32, best)
    };
    with_values([&logits.contiguous()?], |[values]| {
        Ok(values.par_chunks_exact(vocabulary.max(1)).map(row).unzip())
    })
}

/// The same by candle's operations; its own `argmax` promises nothing about equals.
fn composite(logits: &Tensor) -> candle_core::Result<(Vec<f32>, Vec<u32>)> {
    let (rows, vocabulary) = logits.dims2()?;
    let largest = logits.max_keepdim(D::Minus1)?;
    let sums = logits.broadcast_sub(&largest)?.exp()?.sum_keepdim(D::Minus1)?;
    let normalisers = (sums.log()? + &largest)?.flatten_all()?.to_vec1()?;
    let tokens = Tensor::arange(0, vocabulary as u32, logits.device())?;
    let tokens = tokens.broadcast_as((rows, vocabulary))?.contiguous()?;
    let elsewhere = Tensor::full(vocabulary as u32 - 1, (rows, vocabulary), logits.device())?;
    let best = logits.broadcast_eq(&largest)?.where_cond(&tokens, &elsewhere)?;
    Ok((normalisers, best.min(D::Minus1)?.to_vec1()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn log_probabilities_over_the_whole_vocabulary_and_the_first_of_equals() {
        let rows = [[1f32, 3.0, 3.0, -50.0, 2.0], [1e4, 0.0, -1e4, 1e4, 5.0]];
        let logits = Tensor::new(&rows, &Device::Cpu).unwrap();
        let tokens: [&[u32]; 2] = [&[3, 1], &[]];
        let found = read(&logits, &tokens).unwrap();
        let sum: f64 = rows[0].iter().map(|&x| f64::from(x).exp()).sum();
        for (found, logit) in found[0].log_probs.iter().zip([-50.0, 3.0]) {
            assert!((f64::from(*found) - (logit - sum.ln())).abs() < 1e-5);
        }
        assert_eq!((found[0].likeliest, found[1].likeliest), (1, 0));
        assert!(read(&logits, &[&[5], &[]]).is_err());

        let ((a, best), (b, same)) = (fused(&logits).unwrap(), composite(&logits).unwrap());
        assert_eq!(best, same);
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-5 * a.abs()));
    }
}
