//! Differentiable pieces: operations with an explicit backward, projections with low-rank adapters,
//! loss, optimiser, schedule.
//!
//! candle's own fused operations drop gradients silently, and its `matmul` computes the gradient of
//! frozen weights. So the operations a training run goes through are defined here. Frozen weights
//! cost nothing in the backward pass; what is trained is an f32 [`candle_core::Var`].
//!
//! A function that says nothing of its errors has those of candle alone, as when a device is out of memory.

pub mod checkpointing;
mod device;
mod experts;
pub mod loss;
pub mod memory;
pub mod ops;
mod optim;
mod projection;

pub use device::DeviceSpec;
pub use experts::{ExpertFactors, ExpertUpdate, Experts, Moe, Routing, Sharing};
pub use loss::{Head, cross_entropy};
pub use memory::MicroBatches;
pub use ops::{LayerNorm, RmsNorm};
pub use optim::{AdamParams, AdamW, Moments, ParamGroup, add_gradients, warmup_cosine};
pub use projection::{LowRank, Projection};
