//! Generation, token by token.

use candle_core::{D, Tensor};

use super::{Features, KvCache, Qwen3Vl};
use crate::error::Result;
use crate::example::Sequence;

impl Qwen3Vl {
    /// The likeliest next tokens of each sequence, one after the other, until a token of `stop` (which is
    /// kept) or `limit` tokens; `features` are those of all images. Sequences do not influence each other.
    ///
    /// # Errors
    /// As [`Qwen3Vl::forward`].
    pub fn generate(
        &self,
        sequences: &[Sequence],
        features: Option<&Features>,
        limit: usize,
        stop: &[u32],
    ) -> Result<Vec<Vec<u32>>> {
        self.generate_by(sequences, features, limit, stop, |logits, _| {
            Ok(logits.argmax(D::Minus1)?.to_vec1()?)
        })
    }

    /// As [`Qwen3Vl::generate`], but `choose` says which tokens come next: it is given the logits (S, V) of the
    /// S sequences that go on, with their numbers, and gives S tokens.
    ///
    /// # Errors
    /// As [`Qwen3Vl::forward`]; what `choose` reports.
    pub fn generate_by(
        &self,
        sequences: &[Sequence],
        features: Option<&Features>,
        limit: usize,
        stop: &[u32],
        mut choose: impl FnMut(&Tensor, &[usize]) -> Result<Vec<u32>>,
    ) -> Result<Vec<Vec<u32>>> {
        let mut answers = vec![Vec::new(); sequences.len()];
        if sequences.is_empty() || limit == 0 {
            return Ok(answers);
        }
        let longest = sequences.iter().map(|sequence| sequence.ids.len()).max().unwrap_or(0);
        let mut cache = KvCache::new(
            &self.config.text_config,
            sequences.len(),
            longest + limit,
            self.state_type(),
            self.device(),
        )?;
        let mut batch = self.batch(sequences)?;
        let mut features = features;
        let mut open: Vec<usize> = (0..sequences.len()).collect();
        loop {
            let states = self.forward(&batch, features.take(), Some(&mut cache))?;
            let chosen = choose(&self.logits(&states, &batch.last_rows())?, &open)?;
            let mut tokens = vec![None; sequences.len()];
            for (&sequence, token) in open.iter().zip(chosen) {
                answers[sequence].push(token);
                tokens[sequence] = Some(token).filter(|token| !stop.contains(token));
            }
            open.retain(|&sequence| tokens[sequence].is_some() && answers[sequence].len() < limit);
            if open.is_empty() {
                return Ok(answers);
            }
            batch = batch.then(&tokens);
        }
    }
}
