//! Backends that run training and sampling. The verbs are Tinker's (<https://tinker-docs.thinkingmachines.ai>), batch first
//! and blocking; concurrency is a backend's own affair. Losses are weighted sums, as on the wire.

use crate::engine::{
    AdamParams, AdapterConfig, CacheStats, ForwardOutput, SampledSequence, SamplingParams, TokenScore,
};
use crate::error::Result;
use crate::example::{Datum, ModelInput};

pub mod local;

pub use local::LocalBackend;

/// The weights to sample from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Weights {
    /// The base model.
    Base,
    /// The path that [`Trainer::save_weights_for_sampler`] gave: a PEFT folder or a service's path.
    Saved(String),
}

/// A base model somewhere.
pub trait Backend: Send + Sync {
    /// Kind of backend, as stored with results.
    fn kind(&self) -> &'static str;

    /// Hash that tells the base model's weights from all others.
    fn fingerprint(&self) -> &str;

    /// Width D of the decoder.
    fn width(&self) -> usize;

    /// Pictures of so many tokens of which a frozen tower's features are kept for the next time, where there is a bound.
    fn feature_capacity(&self, _tokens: usize) -> Option<usize> {
        None
    }

    /// Statistics of the cache of image features, where there is one.
    fn cache_stats(&self) -> Option<CacheStats> {
        None
    }

    /// A new adapter to train.
    ///
    /// # Errors
    /// When the adapter does not fit the model, or the device is out of memory.
    fn trainer(&self, adapter: &AdapterConfig) -> Result<Box<dyn Trainer>>;

    /// A sampler of these weights.
    ///
    /// # Errors
    /// When the weights are not there or do not fit the model.
    fn sampler(&self, weights: &Weights) -> Result<Box<dyn Sampler>>;
}

/// One adapter in training. Gradients add up over calls of [`Trainer::forward_backward`] until
/// [`Trainer::optim_step`].
pub trait Trainer: Send {
    /// Names and shapes of what is trained, in order, as keys of a PEFT adapter file.
    fn trainable(&self) -> Vec<(String, Vec<usize>)>;

    /// Losses without gradients.
    ///
    /// # Errors
    /// When an example does not fit the model.
    fn forward(&mut self, data: &[Datum]) -> Result<ForwardOutput>;

    /// Losses, and gradients added to those that are there.
    ///
    /// # Errors
    /// As [`Trainer::forward`]; a loss that is not finite.
    fn forward_backward(&mut self, data: &[Datum]) -> Result<ForwardOutput>;

    /// One step of the optimiser with the gradients so far, which are gone then; gives their norm before
    /// clipping.
    ///
    /// # Errors
    /// When there are no gradients, or they are not finite.
    fn optim_step(&mut self, params: &AdamParams) -> Result<f64>;

    /// Both at once; a remote backend submits both before it waits.
    fn train_step(&mut self, data: &[Datum], params: &AdamParams) -> Result<ForwardOutput> {
        let output = self.forward_backward(data)?;
        self.optim_step(params)?;
        Ok(output)
    }

    /// Keeps weights and optimiser under a name (for a local backend a folder); gives the path to load.
    fn save_state(&mut self, name: &str) -> Result<String>;

    /// Goes back to a kept state; training then continues as if it had never stopped.
    ///
    /// # Errors
    /// When the state is not there, torn, or of another adapter.
    fn load_state(&mut self, path: &str) -> Result<()>;

    /// Keeps the weights alone, as a PEFT folder where the backend is local; gives [`Weights::Saved`].
    fn save_weights_for_sampler(&mut self, name: &str) -> Result<Weights>;

    /// Sequences a pass since the device was out of memory and went on with half as many; `None`: it never was.
    fn halved_to(&self) -> Option<usize> {
        None
    }

    /// A sampler of the weights as they are now; later steps do not change it.
    fn sampler(&mut self) -> Result<Box<dyn Sampler>>;
}

/// Weights that answer prompts.
pub trait Sampler: Send {
    /// Continues every prompt on its own.
    ///
    /// # Errors
    /// When a prompt does not fit the model.
    fn sample(&mut self, prompts: &[ModelInput], params: &SamplingParams) -> Result<Vec<SampledSequence>>;

    /// Scores continuations of prompts: for each prompt, each of its continuations, each token.
    ///
    /// Tinker's verb scores one whole sequence; here the caller says which ends matter, so that a local backend
    /// reads a prompt once and the beginnings that continuations share once (a remote one sends each sequence).
    ///
    /// # Errors
    /// When a prompt does not fit the model, or a continuation is empty.
    fn compute_logprobs(
        &mut self,
        prompts: &[ModelInput],
        continuations: &[&[Vec<u32>]],
    ) -> Result<Vec<Vec<Vec<TokenScore>>>>;
}

// The worked example of `docs/adding-a-backend.md` is compiled and tested as any backend.
#[cfg(test)]
#[path = "../../docs/examples/counting_backend/mod.rs"]
pub mod counting_backend_example;
