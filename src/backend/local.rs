//! The model in this process.

use std::path::Path;
use std::sync::Arc;

use super::{Backend, Sampler, Trainer, Weights};
use crate::engine::{
    AdamParams, AdapterConfig, AdapterId, CacheStats, Engine, ForwardOutput, SampledSequence, SamplingParams, Settings,
    Snapshot, TokenScore,
};
use crate::error::Result;
use crate::example::{Datum, ModelInput};
use crate::nn::DeviceSpec;

/// A base model on a device of this machine. Its trainers and samplers may work at the same time, each in a thread of its own.
#[derive(Debug, Clone)]
pub struct LocalBackend {
    engine: Arc<Engine>,
    fingerprint: Arc<str>,
    width: usize,
}

impl LocalBackend {
    /// Loads a hub-layout folder.
    ///
    /// # Errors
    /// [`crate::error::Error::Model`] when it lacks something.
    pub fn load(model_dir: &Path, spec: &DeviceSpec, settings: Settings) -> Result<Self> {
        let engine = Engine::load(model_dir, spec, settings)?;
        Ok(Self {
            fingerprint: engine.fingerprint().into(),
            width: engine.width(),
            engine: Arc::new(engine),
        })
    }
}

impl Backend for LocalBackend {
    fn kind(&self) -> &'static str {
        "local"
    }

    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn width(&self) -> usize {
        self.width
    }

    fn feature_capacity(&self, tokens: usize) -> Option<usize> {
        Some(self.engine.feature_capacity(tokens))
    }

    fn cache_stats(&self) -> Option<CacheStats> {
        Some(self.engine.cache_stats())
    }

    fn trainer(&self, adapter: &AdapterConfig) -> Result<Box<dyn Trainer>> {
        let id = self.engine.add(adapter)?;
        Ok(Box::new(LocalTrainer {
            engine: self.engine.clone(),
            id,
            trainable: self.engine.trainable(id)?,
        }))
    }

    fn sampler(&self, weights: &Weights) -> Result<Box<dyn Sampler>> {
        let snapshot = match weights {
            Weights::Base => self.engine.base()?,
            Weights::Saved(dir) => self.engine.saved(Path::new(dir))?,
        };
        Ok(LocalSampler::of(&self.engine, snapshot))
    }
}

struct LocalTrainer {
    engine: Arc<Engine>,
    id: AdapterId,
    trainable: Vec<(String, Vec<usize>)>,
}

impl Trainer for LocalTrainer {
    fn trainable(&self) -> Vec<(String, Vec<usize>)> {
        self.trainable.clone()
    }

    fn forward(&mut self, data: &[Datum]) -> Result<ForwardOutput> {
        self.engine.forward(self.id, data)
    }

    fn forward_backward(&mut self, data: &[Datum]) -> Result<ForwardOutput> {
        self.engine.forward_backward(self.id, data)
    }

    fn optim_step(&mut self, params: &AdamParams) -> Result<f64> {
        self.engine.optim_step(self.id, params)
    }

    fn save_state(&mut self, name: &str) -> Result<String> {
        self.engine.save_state(self.id, Path::new(name))?;
        Ok(name.to_owned())
    }

    fn load_state(&mut self, path: &str) -> Result<()> {
        self.engine.load_state(self.id, Path::new(path))
    }

    fn save_weights_for_sampler(&mut self, name: &str) -> Result<Weights> {
        self.engine.save_weights_for_sampler(self.id, Path::new(name))?;
        Ok(Weights::Saved(name.to_owned()))
    }

    fn halved_to(&self) -> Option<usize> {
        self.engine.halved_to()
    }

    fn sampler(&mut self) -> Result<Box<dyn Sampler>> {
        Ok(LocalSampler::of(&self.engine, self.engine.snapshot(self.id)?))
    }
}

impl Drop for LocalTrainer {
    fn drop(&mut self) {
        self.engine.remove(self.id);
    }
}

struct LocalSampler {
    engine: Arc<Engine>,
    snapshot: Snapshot,
}

impl LocalSampler {
    fn of(engine: &Arc<Engine>, snapshot: Snapshot) -> Box<dyn Sampler> {
        let engine = engine.clone();
        Box::new(Self { engine, snapshot })
    }
}

impl Sampler for LocalSampler {
    fn sample(&mut self, prompts: &[ModelInput], params: &SamplingParams) -> Result<Vec<SampledSequence>> {
        self.engine.sample(&self.snapshot, prompts, params)
    }

    fn compute_logprobs(
        &mut self,
        prompts: &[ModelInput],
        continuations: &[&[Vec<u32>]],
    ) -> Result<Vec<Vec<Vec<TokenScore>>>> {
        self.engine.compute_logprobs(&self.snapshot, prompts, continuations)
    }
}
