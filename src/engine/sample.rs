//! Asking a model: continuations of prompts, and what it thinks of given ones.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{D, Tensor};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest as _, Sha256};

use super::base::vision_is_trained;
use super::inputs::Input;
use super::score::score;
use super::{AdapterId, Engine, SampledSequence, SamplingParams, TokenScore};
use crate::error::{Error, Result};
use crate::example::{ModelInput, Sequence};
use crate::fs::hash::hex;
use crate::models::qwen3_vl::{Features, Qwen3Vl};
use crate::nn::loss::log_softmax;
use crate::seed;

/// A model as it was at one moment, adapters added into the weights: training does not change it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    model: Qwen3Vl,
    /// True if tower or merger are not those of the base.
    trained_vision: bool,
}

impl Snapshot {
    fn of(model: &Qwen3Vl) -> Result<Self> {
        Ok(Self {
            trained_vision: vision_is_trained(model),
            model: model.merged()?,
        })
    }
}

impl Engine {
    /// The base model.
    ///
    /// # Errors
    /// Only what the device reports.
    pub fn base(&self) -> Result<Snapshot> {
        Snapshot::of(&self.base)
    }

    /// An adapter as it is now.
    ///
    /// # Errors
    /// [`Error::NoAdapter`]; when the device is out of memory.
    pub fn snapshot(&self, id: AdapterId) -> Result<Snapshot> {
        Snapshot::of(&self.adapter(id)?.model)
    }

    /// The adapter of a PEFT folder.
    ///
    /// # Errors
    /// [`Error::Model`] when it is not there or does not fit the model.
    pub fn saved(&self, dir: &Path) -> Result<Snapshot> {
        Snapshot::of(&self.base.load_adapter(dir)?)
    }

    /// Continues every prompt on its own.
    ///
    /// With a temperature above 0 every prompt has draws of its own, decided by the seed, the prompt and, where
    /// it is asked several times, by which time it is: not by what else is asked.
    ///
    /// # Errors
    /// [`Error::Input`] when a prompt does not fit the model; [`Error::Sampling`] when the temperature is no number
    /// from 0.
    pub fn sample(
        &mut self,
        snapshot: &Snapshot,
        prompts: &[ModelInput],
        params: &SamplingParams,
    ) -> Result<Vec<SampledSequence>> {
        if !(params.temperature >= 0.0 && params.temperature.is_finite()) {
            let reason = format!("a temperature of {}", params.temperature);
            return Err(Error::Sampling { reason });
        }
        let mut asked = HashMap::new();
        let mut sampled = Vec::with_capacity(prompts.len());
        let size = self.micro_batches.size();
        for (chunk, first) in prompts.chunks(size).zip((0..).step_by(size)) {
            let inputs = self.read(chunk, first)?;
            let mut draws = draws(&inputs, params, &mut asked);
            let each = self.features(snapshot, &inputs)?;
            let features = Features::cat(&each.iter().flatten().collect::<Vec<_>>())?;
            let sequences: Vec<Sequence> = inputs.into_iter().map(|input| input.sequence).collect();
            let mut logprobs = vec![Vec::new(); sequences.len()];
            let choose = |logits: &Tensor, open: &[usize]| {
                let all = log_softmax(logits)?;
                let tokens = if params.temperature == 0.0 {
                    logits.argmax(D::Minus1)?.to_vec1::<u32>()?
                } else {
                    let rows = all.to_vec2::<f32>()?;
                    let draw = |(row, &i): (&Vec<f32>, &usize)| draw(row, params.temperature, &mut draws[i]);
                    rows.iter().zip(open).map(draw).collect()
                };
                let chosen = Tensor::from_slice(&tokens, (tokens.len(), 1), logits.device())?;
                let chosen = all.gather(&chosen, 1)?.flatten_all()?.to_vec1::<f32>()?;
                for (&i, logprob) in open.iter().zip(chosen) {
                    logprobs[i].push(logprob);
                }
                Ok(tokens)
            };
            let (limit, stop) = (params.max_tokens, &params.stop);
            let answers = snapshot
                .model
                .generate_by(&sequences, features.as_ref(), limit, stop, choose)?;
            for (tokens, logprobs) in answers.into_iter().zip(logprobs) {
                sampled.push(SampledSequence {
                    stopped: tokens.last().is_some_and(|last| params.stop.contains(last)),
                    tokens,
                    logprobs,
                });
            }
        }
        Ok(sampled)
    }

    /// Scores continuations of prompts: for each prompt, each of its continuations, each token.
    ///
    /// # Errors
    /// [`Error::Input`] when a prompt or one of its continuations does not fit the model, or is empty;
    /// [`Error::Sampling`] when there are not as many lists of continuations as prompts.
    pub fn compute_logprobs(
        &mut self,
        snapshot: &Snapshot,
        prompts: &[ModelInput],
        continuations: &[&[Vec<u32>]],
    ) -> Result<Vec<Vec<Vec<TokenScore>>>> {
        if prompts.len() != continuations.len() {
            let reason = format!("{} prompts, continuations of {}", prompts.len(), continuations.len());
            return Err(Error::Sampling { reason });
        }
        for (own, index) in continuations.iter().zip(0..) {
            for continuation in *own {
                self.check_tokens(continuation, index)?;
                if continuation.is_empty() {
                    let reason = "one of its continuations is empty".into();
                    return Err(Error::Input { index, reason });
                }
            }
        }
        let mut scores = Vec::with_capacity(prompts.len());
        let size = self.micro_batches.size();
        for ((prompts, continuations), first) in prompts
            .chunks(size)
            .zip(continuations.chunks(size))
            .zip((0..).step_by(size))
        {
            let inputs = self.read(prompts, first)?;
            let features = self.features(snapshot, &inputs)?;
            let prompts: Vec<_> = inputs.into_iter().map(|input| input.sequence).zip(features).collect();
            scores.extend(score(&snapshot.model, &prompts, continuations)?);
        }
        Ok(scores)
    }

    fn features(&mut self, snapshot: &Snapshot, inputs: &[Input]) -> Result<Vec<Option<Features>>> {
        if snapshot.trained_vision {
            self.trained_features(&snapshot.model, inputs)
        } else {
            self.frozen_features(inputs)
        }
    }
}

/// A generator for each prompt; `asked` counts how often each was asked before.
fn draws(inputs: &[Input], params: &SamplingParams, asked: &mut HashMap<String, usize>) -> Vec<ChaCha8Rng> {
    let one = |input: &Input| {
        let mut hash = Sha256::new();
        for id in &input.sequence.ids {
            hash.update(id.to_le_bytes());
        }
        for picture in &input.pictures {
            hash.update(picture.key.sha256.as_bytes());
            hash.update([u8::from(picture.key.mirrored)]);
        }
        let prompt = hex(&hash.finalize());
        let times = asked.entry(prompt.clone()).or_default();
        *times += 1;
        seed::rng(params.seed, &format!("sample/{prompt}/{times}"))
    };
    inputs.iter().map(one).collect()
}

/// A token drawn from log-probabilities that are divided by the temperature.
fn draw(logprobs: &[f32], temperature: f64, rng: &mut ChaCha8Rng) -> u32 {
    let highest = logprobs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |&logprob: &f32| (f64::from(logprob - highest) / temperature).exp();
    let mut left = rng.random::<f64>() * logprobs.iter().map(weight).sum::<f64>();
    let mut last = 0;
    for (token, logprob) in logprobs.iter().enumerate() {
        let weight = weight(logprob);
        if weight > 0.0 {
            last = token;
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
    }
    last as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_tempered_distribution() {
        let logprobs = [0.1f32, 0.2, 0.7, 0.0].map(f32::ln);
        let mut rng = seed::rng(0, "draws");
        for temperature in [1.0, 0.5, 2.0] {
            let count = 20_000;
            let mut counts = [0f64; 4];
            for _ in 0..count {
                counts[draw(&logprobs, temperature, &mut rng) as usize] += 1.0 / f64::from(count);
            }
            let weights = [0.1f64, 0.2, 0.7, 0.0].map(|p| p.powf(1.0 / temperature));
            let sum: f64 = weights.iter().sum();
            for (found, weight) in counts.iter().zip(weights) {
                // Four standard deviations of a share of that many draws.
                assert!(
                    (found - weight / sum).abs() < 4.0 * 0.5 / f64::from(count).sqrt(),
                    "{counts:?}"
                );
            }
            assert_eq!(counts[3], 0.0);
        }
    }
}
