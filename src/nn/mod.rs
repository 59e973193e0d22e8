//! Differentiable pieces: operations with an explicit backward, projections with low-rank adapters,
//! loss, optimiser, schedule.
//!
//! candle's own fused operations drop gradients silently, and its `matmul` computes the gradient of
//! frozen weights. So the operations a training run goes through are defined here. Frozen weights
//! cost nothing in the backward pass; what is trained is an f32 [`candle_core::Var`].

pub mod checkpointing;
pub mod device;
pub mod experts;
pub mod head;
pub mod loss;
pub mod low_rank;
pub mod memory;
pub mod micro_batch;
pub mod moe;
pub mod norm;
pub mod ops;
pub mod optim;
pub mod projection;
pub mod schedule;

pub use device::DeviceSpec;
pub use experts::{ExpertFactors, ExpertUpdate, Experts, Sharing};
pub use head::Head;
pub use loss::cross_entropy;
pub use low_rank::LowRank;
pub use micro_batch::MicroBatches;
pub use moe::{Moe, Routing};
pub use norm::{LayerNorm, RmsNorm};
pub use optim::{AdamParams, AdamW, Moments, ParamGroup, add_gradients};
pub use projection::Projection;
pub use schedule::warmup_cosine;
