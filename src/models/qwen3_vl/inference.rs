//! What the model says next: sequences generated token by token, and log-probabilities of given continuations.

use candle_core::{D, Tensor};
use rayon::prelude::*;

use super::Qwen3Vl;
use super::batch::{Batch, PrefixTree};
use super::cache::KvCache;
use super::vision::Features;
use crate::error::{Error, Result};
use crate::example::Sequence;
use crate::nn::ops::{self, wide, with_values};

/// Logits that are in memory at one time: 64 MiB of them.
pub(crate) const LOGITS_AT_ONCE: usize = 1 << 24;

/// The parts of a next-token distribution that were asked for.
struct NextToken {
    /// Natural-log probabilities, over the whole vocabulary, of the tokens that were asked for.
    log_probs: Vec<f32>,
    /// The likeliest token of the vocabulary; the lowest of equals.
    likeliest: u32,
}

/// A model's log-probability of one token in its place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenScore {
    /// Natural-log probability of the token.
    pub logprob: f32,
    /// The likeliest token in its place; the lowest of equals.
    pub likeliest: u32,
}

impl Qwen3Vl {
    /// The next tokens of each sequence, one after the other, at most `limit`; `features` are those of all images. Sequences do
    /// not influence each other. `choose` is given the logits (S, V) of the S sequences that go on, with their numbers in
    /// ascending order, and gives the token of each to go on with, `None` where it ends.
    ///
    /// # Errors
    /// As [`Qwen3Vl::forward`]; what `choose` reports.
    pub fn generate_by(
        &self,
        sequences: &[Sequence],
        mut features: Option<&Features>,
        limit: usize,
        mut choose: impl FnMut(&Tensor, &[usize]) -> Result<Vec<Option<u32>>>,
    ) -> Result<()> {
        if sequences.is_empty() || limit == 0 {
            return Ok(());
        }
        let longest = sequences.iter().map(|sequence| sequence.ids.len()).max().unwrap_or(0);
        let (text, count, capacity) = (&self.config.text_config, sequences.len(), longest + limit);
        let mut cache = KvCache::new(text, count, capacity, self.state_type(), self.device())?;
        let mut batch = self.batch(sequences)?;
        let mut open: Vec<usize> = (0..sequences.len()).collect();
        for _ in 0..limit {
            let states = self.forward(&batch, features.take(), Some(&mut cache))?;
            let chosen = choose(&self.logits(&states, &batch.last_rows())?, &open)?;
            let mut tokens = vec![None; sequences.len()];
            for (&sequence, token) in open.iter().zip(chosen) {
                tokens[sequence] = token;
            }
            open.retain(|&sequence| tokens[sequence].is_some());
            if open.is_empty() {
                break;
            }
            batch = batch.then(&tokens);
        }
        Ok(())
    }

    /// Scores continuations of prompts in one pass: for each prompt, each of its continuations, each token.
    /// Prompts do not influence each other, nor do continuations; `features` are those of all images.
    ///
    /// # Errors
    /// As [`Qwen3Vl::batch`] and [`Qwen3Vl::forward`]; when a continuation is empty or holds a token that is
    /// no text.
    pub fn score(
        &self,
        prompts: &[(&Sequence, &[Vec<u32>])],
        features: Option<&Features>,
    ) -> Result<Vec<Vec<Vec<TokenScore>>>> {
        if prompts.is_empty() {
            return Ok(Vec::new());
        }
        let trees = prompts.iter().map(|(_, continuations)| PrefixTree::new(continuations));
        let trees: Vec<PrefixTree> = trees.collect::<Result<_>>()?;
        let pairs: Vec<(&Sequence, &PrefixTree)> = prompts.iter().map(|(prompt, _)| *prompt).zip(&trees).collect();
        let (image, merge) = (self.config.image_token_id, self.config.vision_config.spatial_merge_size);
        let batch = Batch::with_trees(&pairs, image, merge)?;
        let states = self.forward(&batch, features, None)?.detach();
        let (mut rows, mut tokens) = (Vec::new(), Vec::new());
        let mut end = 0;
        for (prompt, tree) in &pairs {
            let first = end + prompt.ids.len() as u32 - 1;
            rows.extend((first..).take(tree.next.len()));
            tokens.extend(tree.next.iter().map(Vec::as_slice));
            end = first + tree.next.len() as u32;
        }
        let next_tokens = self.next_tokens(&states, &rows, &tokens)?;
        let mut rest = &next_tokens[..];
        let mut scores = Vec::with_capacity(prompts.len());
        for ((_, continuations), tree) in prompts.iter().zip(&trees) {
            let (own, others) = rest.split_at(tree.next.len());
            scores.push(tree.scores(continuations, own));
            rest = others;
        }
        Ok(scores)
    }

    /// The natural-log probability of one token after each of some rows of the states that [`Qwen3Vl::forward`] gave, outside
    /// any graph.
    ///
    /// # Errors
    /// When a row is not there or a token not in the vocabulary.
    pub fn token_logprobs(&self, states: &Tensor, rows: &[u32], tokens: &[u32]) -> Result<Vec<f32>> {
        let tokens: Vec<&[u32]> = tokens.chunks(1).collect();
        let found = self.next_tokens(states, rows, &tokens)?;
        Ok(found.into_iter().flat_map(|found| found.log_probs).collect())
    }

    /// The next-token distributions after some rows of the states that [`Qwen3Vl::forward`] gave: at each of `rows`
    /// the log-probabilities of its `tokens`. Logits are held for few rows at a time.
    fn next_tokens(&self, states: &Tensor, rows: &[u32], tokens: &[&[u32]]) -> Result<Vec<NextToken>> {
        let vocabulary = self.config.text_config.vocab_size;
        let count = (LOGITS_AT_ONCE / vocabulary.max(1)).max(1);
        let mut next_tokens = Vec::with_capacity(rows.len());
        for (rows, tokens) in rows.chunks(count).zip(tokens.chunks(count)) {
            next_tokens.extend(read(&self.logits(states, rows)?.detach(), tokens)?);
        }
        Ok(next_tokens)
    }
}

impl PrefixTree {
    /// The scores of all tokens of all continuations from the distributions in the N + 1 places.
    fn scores(&self, continuations: &[Vec<u32>], next_tokens: &[NextToken]) -> Vec<Vec<TokenScore>> {
        let score = |(&token, &place): (&u32, &usize)| {
            let next_token = &next_tokens[place];
            let at = self.next[place].partition_point(|&other| other < token);
            TokenScore {
                logprob: next_token.log_probs[at],
                likeliest: next_token.likeliest,
            }
        };
        let path = |(tokens, places): (&Vec<u32>, &Vec<usize>)| tokens.iter().zip(places).map(score).collect();
        continuations.iter().zip(&self.places).map(path).collect()
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
                return Err(Error::tensor(format!(
                    "token {token} is outside the vocabulary of {vocabulary}"
                )));
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

    #[test]
    fn shared_beginnings_are_one_path() {
        let continuations = [vec![3, 4, 9], vec![3, 9], vec![3, 4, 5, 9], vec![7], vec![3, 9]];
        let tree = PrefixTree::new(&continuations).unwrap();
        assert_eq!(tree.tokens(), [3, 4, 5]);
        assert_eq!(tree.parents[..], [None, Some(0), Some(1)]);
        assert_eq!(tree.depths, [0, 1, 2]);
        assert_eq!(tree.next, [vec![3, 7], vec![4, 9], vec![5, 9], vec![9]]);
        assert_eq!(tree.places[2], [0, 1, 2, 3]);
        let next_token = |place: usize| NextToken {
            log_probs: tree.next[place]
                .iter()
                .map(|&token| -(100.0 * place as f32) - token as f32)
                .collect(),
            likeliest: place as u32,
        };
        let next_tokens: Vec<NextToken> = (0..4).map(next_token).collect();
        let scores = tree.scores(&continuations, &next_tokens);
        let found: Vec<(f32, u32)> = scores[2].iter().map(|score| (score.logprob, score.likeliest)).collect();
        assert_eq!(found, [(-3.0, 0), (-104.0, 1), (-205.0, 2), (-309.0, 3)]);
        assert_eq!(
            scores[3],
            [TokenScore {
                logprob: -7.0,
                likeliest: 0
            }]
        );
        assert_eq!(scores[1], scores[4]);
        assert!(PrefixTree::new(&[vec![1], vec![]]).is_err());
        assert_eq!(PrefixTree::new(&[]).unwrap().next, [vec![0u32; 0]]);
    }
}
