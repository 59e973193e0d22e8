//! Normalisation layers with frozen weights.

use candle_core::Tensor;

use super::ops::{layer_norm, rms_norm};
use crate::error::Result;

/// Layer norm.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    /// (D)
    pub weight: Tensor,
    /// (D)
    pub bias: Tensor,
    /// Added to the variance.
    pub eps: f64,
}

impl LayerNorm {
    /// (…, D) → (…, D).
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(layer_norm(x, &self.weight, &self.bias, self.eps)?)
    }
}

/// Root-mean-square norm.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    /// (D)
    pub weight: Tensor,
    /// Added to the mean of squares.
    pub eps: f64,
}

impl RmsNorm {
    /// (…, D) → (…, D).
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(rms_norm(x, &self.weight, self.eps)?)
    }
}
