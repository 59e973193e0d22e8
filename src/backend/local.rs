//! The model in this process.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Backend, Sampler, Trainer, Weights};
use crate::engine::{
    AdamParams, AdapterConfig, AdapterId, CacheStats, Engine, ForwardOutput, SampledSequence, SamplingParams, Settings,
    Snapshot, TokenScore,
};
use crate::error::Result;
use crate::example::{Datum, ModelInput};
use crate::nn::DeviceSpec;

/// A base model on a device of this machine. Its trainers and samplers take turns.
#[derive(Debug, Clone)]
pub struct LocalBackend {
    engine: Arc<Mutex<Engine>>,
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
            engine: Arc::new(Mutex::new(engine)),
        })
    }
}

/// A panic elsewhere leaves no half-done change behind: the engine changes what it keeps only when all is computed.
fn lock(engine: &Mutex<Engine>) -> MutexGuard<'_, Engine> {
    engine.lock().unwrap_or_else(PoisonError::into_inner)
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
        Some(lock(&self.engine).feature_capacity(tokens))
    }

    fn cache_stats(&self) -> Option<CacheStats> {
        Some(lock(&self.engine).cache_stats())
    }

    fn trainer(&self, adapter: &AdapterConfig) -> Result<Box<dyn Trainer>> {
        let mut engine = lock(&self.engine);
        let id = engine.add(adapter)?;
        Ok(Box::new(LocalTrainer {
            engine: self.engine.clone(),
            id,
            trainable: engine.trainable(id)?,
        }))
    }

    fn sampler(&self, weights: &Weights) -> Result<Box<dyn Sampler>> {
        let engine = lock(&self.engine);
        let snapshot = match weights {
            Weights::Base => engine.base()?,
            Weights::Saved(dir) => engine.saved(Path::new(dir))?,
        };
        Ok(LocalSampler::of(&self.engine, snapshot))
    }
}

struct LocalTrainer {
    engine: Arc<Mutex<Engine>>,
    id: AdapterId,
    trainable: Vec<(String, Vec<usize>)>,
}

impl Trainer for LocalTrainer {
    fn trainable(&self) -> Vec<(String, Vec<usize>)> {
        self.trainable.clone()
    }

    fn forward(&mut self, data: &[Datum]) -> Result<ForwardOutput> {
        lock(&self.engine).forward(self.id, data)
    }

    fn forward_backward(&mut self, data: &[Datum]) -> Result<ForwardOutput> {
        lock(&self.engine).forward_backward(self.id, data)
    }

    fn optim_step(&mut self, params: &AdamParams) -> Result<f64> {
        lock(&self.engine).optim_step(self.id, params)
    }

    fn save_state(&mut self, name: &str) -> Result<String> {
        lock(&self.engine).save_state(self.id, Path::new(name))?;
        Ok(name.to_owned())
    }

    fn load_state(&mut self, path: &str) -> Result<()> {
        lock(&self.engine).load_state(self.id, Path::new(path))
    }

    fn save_weights_for_sampler(&mut self, name: &str) -> Result<Weights> {
        lock(&self.engine).save_weights_for_sampler(self.id, Path::new(name))?;
        Ok(Weights::Saved(name.to_owned()))
    }

    fn halved_to(&self) -> Option<usize> {
        lock(&self.engine).halved_to()
    }

    fn sampler(&mut self) -> Result<Box<dyn Sampler>> {
        let snapshot = lock(&self.engine).snapshot(self.id)?;
        Ok(LocalSampler::of(&self.engine, snapshot))
    }
}

impl Drop for LocalTrainer {
    fn drop(&mut self) {
        lock(&self.engine).remove(self.id);
    }
}

struct LocalSampler {
    engine: Arc<Mutex<Engine>>,
    snapshot: Snapshot,
}

impl LocalSampler {
    fn of(engine: &Arc<Mutex<Engine>>, snapshot: Snapshot) -> Box<dyn Sampler> {
        let engine = engine.clone();
        Box::new(Self { engine, snapshot })
    }
}

impl Sampler for LocalSampler {
    fn sample(&mut self, prompts: &[ModelInput], params: &SamplingParams) -> Result<Vec<SampledSequence>> {
        lock(&self.engine).sample(&self.snapshot, prompts, params)
    }

    fn compute_logprobs(
        &mut self,
        prompts: &[ModelInput],
        continuations: &[&[Vec<u32>]],
    ) -> Result<Vec<Vec<Vec<TokenScore>>>> {
        lock(&self.engine).compute_logprobs(&self.snapshot, prompts, continuations)
    }
}
