//! The local engine: one device, one frozen base, many adapters by id. Its verbs are Tinker's.

use std::path::PathBuf;

use crate::models::lora::Lora;
pub use crate::models::qwen3_vl::TokenScore;
pub use crate::nn::AdamParams;

mod base;
mod features;
mod fifo;
mod inputs;
mod sample;
mod score;
mod train;
mod train_state;

pub use base::{AdapterId, Engine, FEATURE_BYTES, Settings, fingerprint};
pub use features::CacheStats;
pub(crate) use fifo::FifoCache;
pub use sample::Snapshot;
pub(crate) use score::ROWS as SCORED_AT_ONCE;
pub(crate) use train_state::TrainState;

/// The settings of an adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    /// The layers and the rank.
    pub lora: Lora,
    /// Decides the initialisation.
    pub seed: u64,
    /// A PEFT adapter folder to start from instead of a fresh adapter.
    pub start: Option<PathBuf>,
}

/// Result of a forward pass over training examples.
#[derive(Debug, Clone, PartialEq)]
pub struct ForwardOutput {
    /// Sum over all positions of `-weight · ln p(target)`, in nats.
    pub loss_sum: f64,
    /// For each example and position the log-probability of its target, nats; 0 where the weight is 0.
    pub logprobs: Vec<Vec<f32>>,
}

/// Settings of generation. Temperature 0 is greedy.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Longest continuation.
    pub max_tokens: usize,
    /// Tokens that end it; the one met is kept.
    pub stop: Vec<u32>,
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f64,
    /// Decides the draws where the temperature is above 0.
    pub seed: u64,
}

/// A continuation.
#[derive(Debug, Clone, PartialEq)]
pub struct SampledSequence {
    /// Its tokens, with the stop token if it ended by one.
    pub tokens: Vec<u32>,
    /// The log-probability of each under the model (temperature 1), nats.
    pub logprobs: Vec<f32>,
    /// True if a stop token ended it, rather than its length.
    pub stopped: bool,
}
