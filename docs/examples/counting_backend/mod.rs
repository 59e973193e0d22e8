//! A backend that hands every call on to another one and counts them: the worked example of `docs/adding-a-backend.md`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::backend::{Backend, Sampler, Trainer, Weights};
use crate::engine::{
    AdamParams, AdapterConfig, CacheStats, ForwardOutput, SampledSequence, SamplingParams, TokenScore,
};
use crate::error::Result;
use crate::example::{Datum, ModelInput};

/// Calls so far, of all trainers and samplers of a backend.
#[derive(Debug, Default)]
pub struct Calls {
    /// Passes forward and backward.
    pub forward_backward: AtomicUsize,
    /// Steps of the optimiser.
    pub optim_step: AtomicUsize,
    /// Batches of prompts that were continued or scored.
    pub sampled: AtomicUsize,
}

impl Calls {
    fn count(call: &AtomicUsize) {
        call.fetch_add(1, Ordering::Relaxed);
    }
}

/// A backend whose calls are counted.
pub struct CountingBackend {
    inner: Arc<dyn Backend>,
    calls: Arc<Calls>,
}

impl CountingBackend {
    /// Counts the calls of `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Backend>) -> Self {
        let calls = Arc::default();
        Self { inner, calls }
    }

    /// The calls so far.
    #[must_use]
    pub fn calls(&self) -> &Calls {
        &self.calls
    }
}

impl Backend for CountingBackend {
    // Stored with results and part of every `run_id`: another kind of backend may round otherwise.
    fn kind(&self) -> &'static str {
        "counting"
    }

    fn fingerprint(&self) -> &str {
        self.inner.fingerprint()
    }

    fn width(&self) -> usize {
        self.inner.width()
    }

    fn feature_capacity(&self, tokens: usize) -> Option<usize> {
        self.inner.feature_capacity(tokens)
    }

    fn cache_stats(&self) -> Option<CacheStats> {
        self.inner.cache_stats()
    }

    fn trainer(&self, adapter: &AdapterConfig) -> Result<Box<dyn Trainer>> {
        Ok(Box::new(CountingTrainer {
            inner: self.inner.trainer(adapter)?,
            calls: self.calls.clone(),
        }))
    }

    fn sampler(&self, weights: &Weights) -> Result<Box<dyn Sampler>> {
        Ok(Box::new(CountingSampler {
            inner: self.inner.sampler(weights)?,
            calls: self.calls.clone(),
        }))
    }
}

struct CountingTrainer {
    inner: Box<dyn Trainer>,
    calls: Arc<Calls>,
}

impl Trainer for CountingTrainer {
    fn trainable(&self) -> Vec<(String, Vec<usize>)> {
        self.inner.trainable()
    }

    fn forward(&mut self, data: &[Datum]) -> Result<ForwardOutput> {
        self.inner.forward(data)
    }

    fn forward_backward(&mut self, data: &[Datum]) -> Result<ForwardOutput> {
        Calls::count(&self.calls.forward_backward);
        self.inner.forward_backward(data)
    }

    fn optim_step(&mut self, params: &AdamParams) -> Result<f64> {
        Calls::count(&self.calls.optim_step);
        self.inner.optim_step(params)
    }

    fn save_state(&mut self, name: &str) -> Result<String> {
        self.inner.save_state(name)
    }

    fn load_state(&mut self, path: &str) -> Result<()> {
        self.inner.load_state(path)
    }

    fn save_weights_for_sampler(&mut self, name: &str) -> Result<Weights> {
        self.inner.save_weights_for_sampler(name)
    }

    fn halved_to(&self) -> Option<usize> {
        self.inner.halved_to()
    }

    fn sampler(&mut self) -> Result<Box<dyn Sampler>> {
        Ok(Box::new(CountingSampler {
            inner: self.inner.sampler()?,
            calls: self.calls.clone(),
        }))
    }
}

struct CountingSampler {
    inner: Box<dyn Sampler>,
    calls: Arc<Calls>,
}

impl Sampler for CountingSampler {
    fn sample(&mut self, prompts: &[ModelInput], params: &SamplingParams) -> Result<Vec<SampledSequence>> {
        Calls::count(&self.calls.sampled);
        self.inner.sample(prompts, params)
    }

    fn compute_logprobs(
        &mut self,
        prompts: &[ModelInput],
        continuations: &[&[Vec<u32>]],
    ) -> Result<Vec<Vec<Vec<TokenScore>>>> {
        Calls::count(&self.calls.sampled);
        self.inner.compute_logprobs(prompts, continuations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    use crate::backend::local::LocalBackend;
    use crate::config::ExpertLora;
    use crate::engine::Settings;
    use crate::example::Chunk;
    use crate::models::lora::Lora;
    use crate::nn::DeviceSpec;

    #[test]
    fn calls_are_counted_and_their_results_are_those_of_the_inner_backend() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/mini/models/micro-qwen3-vl");
        let local = Arc::new(LocalBackend::load(&model, &DeviceSpec::cpu(), Settings::default()).unwrap());
        let counting = CountingBackend::new(local.clone());
        let adapter = AdapterConfig {
            lora: Lora {
                targets: vec!["q_proj".into()],
                rank: 2,
                alpha: 4.0,
                experts: ExpertLora::Each,
            },
            seed: 1,
            start: None,
        };
        let prompt = ModelInput {
            chunks: vec![Chunk::Tokens(vec![1, 2, 3])],
        };
        let data = [Datum::answered(prompt.clone(), &[4, 5], 0.5)];
        // The second loss is that after one step.
        let losses = |backend: &dyn Backend| {
            let mut trainer = backend.trainer(&adapter).unwrap();
            let params = AdamParams {
                learning_rate: 1e-3,
                ..AdamParams::default()
            };
            let mut step = || trainer.train_step(&data, &params).unwrap().loss_sum;
            [step(), step()]
        };
        assert_eq!(losses(&counting), losses(&*local));
        let mut sampler = counting.sampler(&Weights::Base).unwrap();
        sampler.compute_logprobs(&[prompt], &[&[vec![4, 5]]]).unwrap();

        let calls = counting.calls();
        let counts =
            [&calls.forward_backward, &calls.optim_step, &calls.sampled].map(|call| call.load(Ordering::Relaxed));
        assert_eq!(counts, [2, 2, 1]);
        assert_ne!(counting.kind(), local.kind());
        assert_eq!(counting.fingerprint(), local.fingerprint());
    }
}
