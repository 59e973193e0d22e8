//! Greedy generation.

use candle_core::{D, Tensor};

use super::{Batch, Features, KvCache, Qwen3Vl};
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
        let mut answers = vec![Vec::new(); sequences.len()];
        if sequences.is_empty() || limit == 0 {
            return Ok(answers);
        }
        let longest = sequences.iter().map(|sequence| sequence.ids.len()).max().unwrap_or(0);
        let mut cache = KvCache::new(
            &self.config.text_config,
            sequences.len(),
            longest + limit,
            self.device(),
        )?;
        let mut batch = self.batch(sequences)?;
        let mut features = features;
        let mut open: Vec<usize> = (0..sequences.len()).collect();
        loop {
            let states = self.forward(&batch, features.take(), Some(&mut cache))?;
            let best = self.likeliest(&states, &batch)?;
            let mut tokens = vec![None; sequences.len()];
            for (&sequence, token) in open.iter().zip(best) {
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

    /// The likeliest next token of each sequence of a batch that has rows.
    fn likeliest(&self, states: &Tensor, batch: &Batch) -> Result<Vec<u32>> {
        let logits = self.logits(states, &batch.last_rows())?;
        Ok(logits.argmax(D::Minus1)?.to_vec1()?)
    }
}
