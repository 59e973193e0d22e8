//! One transformer block.

use candle_core::Tensor;

use crate::error::Result;
use crate::nn::Projection;
use crate::nn::ops::{attention, gelu, layer_norm, scaled_residual, swiglu};

/// `x + λ₁·attention(norm(x))`, then `x + λ₂·mlp(norm(x))`.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) norm1: Norm,
    pub(super) query: Projection,
    pub(super) key: Projection,
    pub(super) value: Projection,
    pub(super) output: Projection,
    pub(super) heads: usize,
    /// LayerScale of the attention, (D).
    pub(super) scale1: Tensor,
    pub(super) norm2: Norm,
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

/// A frozen layer norm.
#[derive(Debug, Clone)]
pub(super) struct Norm {
    pub(super) weight: Tensor, // (D)
    pub(super) bias: Tensor,   // (D)
    pub(super) eps: f64,
}

impl Norm {
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(layer_norm(x, &self.weight, &self.bias, self.eps)?)
    }
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
    pub(super) fn projections(&self) -> Vec<(&'static str, &Projection)> {
        let mut all = vec![
            ("attention.attention.query", &self.query),
            ("attention.attention.key", &self.key),
            ("attention.attention.value", &self.value),
            ("attention.output.dense", &self.output),
        ];
        match &self.mlp {
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

    /// The same block with `change(name, layer)` in place of each linear layer, in the same order.
    pub(super) fn map_projections(
        &self,
        mut change: impl FnMut(&'static str, &Projection) -> Result<Projection>,
    ) -> Result<Self> {
        let mut block = self.clone();
        block.query = change("attention.attention.query", &self.query)?;
        block.key = change("attention.attention.key", &self.key)?;
        block.value = change("attention.attention.value", &self.value)?;
        block.output = change("attention.output.dense", &self.output)?;
        block.mlp = match &self.mlp {
            Mlp::Gelu { fc1, fc2 } => Mlp::Gelu {
                fc1: change("mlp.fc1", fc1)?,
                fc2: change("mlp.fc2", fc2)?,
            },
            Mlp::SwiGlu {
                weights_in,
                weights_out,
            } => Mlp::SwiGlu {
                weights_in: change("mlp.weights_in", weights_in)?,
                weights_out: change("mlp.weights_out", weights_out)?,
            },
        };
        Ok(block)
    }
}
