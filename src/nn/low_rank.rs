//! Low-rank updates of frozen weights (LoRA, <https://arxiv.org/abs/2106.09685>).

use candle_core::{DType, Device, Var};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use crate::error::Result;

/// A trainable update of a weight, `scale · B · A`.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// (r, in)
    pub a: Var,
    /// (out, r)
    pub b: Var,
    /// alpha / r
    pub scale: f64,
}

impl LowRank {
    /// A as PEFT initialises it, uniform in ±1/sqrt(in) (`kaiming_uniform` with a = sqrt 5), and B = 0.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn fresh(
        inputs: usize,
        outputs: usize,
        rank: usize,
        alpha: f64,
        rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> Result<Self> {
        let bound = 1.0 / (inputs as f32).sqrt();
        let a: Vec<f32> = (0..rank * inputs).map(|_| rng.random_range(-bound..bound)).collect();
        Ok(Self {
            a: Var::from_vec(a, (rank, inputs), device)?,
            b: Var::zeros((outputs, rank), DType::F32, device)?,
            scale: alpha / rank as f64,
        })
    }
}
