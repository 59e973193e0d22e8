//! One transformer block.

use candle_core::Tensor;

use crate::error::Result;
use crate::nn::ops::{attention, gelu, scaled_residual, swiglu};
use crate::nn::{LayerNorm, Projection};

/// `x + λ₁·attention(norm(x))`, then `x + λ₂·mlp(norm(x))`.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) norm1: LayerNorm,
    pub(super) query: Projection,
    pub(super) key: Projection,
    pub(super) value: Projection,
    pub(super) output: Projection,
    pub(super) heads: usize,
    /// LayerScale of the attention, (D).
    pub(super) scale1: Tensor,
    pub(super) norm2: LayerNorm,
    pub(super) mlp: Mlp,
    /// LayerScale of the MLP, (D).
    pub(super) scale2: Tensor,
}

/// The feed-forward half of a block.
#[derive(Debug, Clone)]
pub(super) enum Mlp {
    /// `fc2(gelu(fc1(x)))`
    Gelu {
        /// D → M
        fc1: Projection,
        /// M → D
        fc2: Projection,
    },
    /// `weights_out(silu(first half) · second half)` of `weights_in(x)`
    SwiGlu {
        /// D → 2M
        weights_in: Projection,
        /// M → D
        weights_out: Projection,
    },
}

impl Mlp {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gelu { fc1, fc2 } => fc2.forward(&gelu(&fc1.forward(x)?)?),
            Self::SwiGlu {
                weights_in,
                weights_out,
            } => weights_out.forward(&swiglu(&weights_in.forward(x)?)?),
        }
    }
}

impl Block {
    /// (B, T, D) → (B, T, D).
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let normed = self.norm1.forward(x)?;
        let (q, k, v) = (
            self.query.forward(&normed)?,
            self.key.forward(&normed)?,
            self.value.forward(&normed)?,
        );
        let attended = self.output.forward(&attention(&q, &k, &v, self.heads)?)?;
        let x = scaled_residual(x, &attended, &self.scale1)?;
        let wide = self.mlp.forward(&self.norm2.forward(&x)?)?;
        Ok(scaled_residual(&x, &wide, &self.scale2)?)
    }

    /// The linear layers with the ends of their hub names, in the order of the forward pass.
    pub(super) fn layers_mut(&mut self) -> Vec<(&'static str, &mut Projection)> {
        let mut all = vec![
            ("attention.attention.query", &mut self.query),
            ("attention.attention.key", &mut self.key),
            ("attention.attention.value", &mut self.value),
            ("attention.output.dense", &mut self.output),
        ];
        match &mut self.mlp {
            Mlp::Gelu { fc1, fc2 } => all.extend([("mlp.fc1", fc1), ("mlp.fc2", fc2)]),
            Mlp::SwiGlu {
                weights_in,
                weights_out,
            } => {
                all.extend([("mlp.weights_in", weights_in), ("mlp.weights_out", weights_out)]);
            }
        }
        all
    }
}
