//! Pixels to tokens, and one transformer block.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Tensor};

use super::{Config, ModelType};
use crate::checkpoint::weights::{Take, layer_norm, linear};
use crate::error::{Error, Result};
use crate::nn::ops::{attention, compute_type, gelu, scaled_residual, swiglu};
use crate::nn::{LayerNorm, Projection};

/// The embedding of images as token sequences: patches, CLS, registers, interpolated positions. Frozen: no gradient passes
/// here.
#[derive(Debug, Clone)]
pub(super) struct Embeddings {
    /// The convolution of patches, as a projection of (3·P·P) values each.
    patches: Projection,
    /// (1, 1, D), of the type of the tokens, as all but the patches' weight.
    cls: Tensor,
    /// (1, R, D)
    registers: Option<Tensor>,
    positions: Positions,
    /// P, pixels per side of a patch.
    patch: usize,
}

/// The trained position table with one interpolated table per grid met so far.
#[derive(Debug, Clone)]
struct Positions {
    /// (1, 1 + G·G, D)
    table: Tensor,
    /// G, patches per side of the table.
    grid: usize,
    /// True if shrinking averages over the patches it skips (antialiasing).
    antialias: bool,
    cache: Arc<Mutex<HashMap<(usize, usize), Tensor>>>,
}

impl Embeddings {
    pub(super) fn load(config: &Config, take: &mut Take) -> Result<Self> {
        let (d, p, grid) = (config.hidden_size, config.patch_size, config.grid());
        // Added to tokens, and small.
        let tokens = |table: Tensor| table.to_dtype(compute_type(&table));
        let registers = match config.registers() {
            0 => None,
            count => Some(tokens(take("embeddings.register_tokens", &[1, count, d])?)?),
        };
        let kernel = take("embeddings.patch_embeddings.projection.weight", &[d, 3, p, p])?;
        let bias = take("embeddings.patch_embeddings.projection.bias", &[d])?;
        Ok(Self {
            patches: Projection::new(kernel.reshape((d, 3 * p * p))?, Some(bias))?,
            cls: tokens(take("embeddings.cls_token", &[1, 1, d])?)?,
            registers,
            positions: Positions {
                table: tokens(take("embeddings.position_embeddings", &[1, 1 + grid * grid, d])?)?,
                grid,
                antialias: config.model_type == ModelType::Dinov2WithRegisters,
                cache: Arc::default(),
            },
            patch: p,
        })
    }

    /// (B, 3, H, W) pixels → (B, 1 + R + N, D) tokens, N = floor(H/P) · floor(W/P).
    ///
    /// # Errors
    /// When the images are smaller than a patch or have not 3 channels.
    pub(super) fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let (batch, channels, height, width) = pixels.dims4()?;
        let p = self.patch;
        let (rows, columns) = (height / p, width / p);
        if channels != 3 || rows == 0 || columns == 0 {
            let found = pixels.dims();
            return Err(Error::tensor(format!(
                "images of {found:?} have no patch of 3 x {p} x {p}"
            )));
        }
        let pixels = pixels.detach().narrow(2, 0, rows * p)?.narrow(3, 0, columns * p)?;
        let patches = pixels
            .reshape((batch, 3, rows, p, columns, p))?
            .permute((0, 2, 4, 1, 3, 5))? // (B, rows, columns, 3, P, P)
            .reshape((batch, rows * columns, 3 * p * p))?;
        let positions = self.positions.at(rows, columns)?; // (1, 1 + N, D)
        let of_patches = positions.narrow(1, 1, rows * columns)?;
        let patches = self.patches.forward(&patches)?.broadcast_add(&of_patches)?;
        let d = self.cls.dim(2)?;
        let cls = (&self.cls + positions.narrow(1, 0, 1)?)?.broadcast_as((batch, 1, d))?;
        let tokens = match &self.registers {
            None => Tensor::cat(&[&cls, &patches], 1)?,
            // Registers have no position.
            Some(registers) => {
                let registers = registers.broadcast_as((batch, registers.dim(1)?, d))?;
                Tensor::cat(&[&cls, &registers, &patches], 1)?
            }
        };
        Ok(tokens.detach())
    }
}

impl Positions {
    /// The table for a grid of `rows` x `columns` patches: (1, 1 + rows·columns, D).
    fn at(&self, rows: usize, columns: usize) -> Result<Tensor> {
        if (rows, columns) == (self.grid, self.grid) {
            return Ok(self.table.clone());
        }
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = cache.get(&(rows, columns)) {
            return Ok(table.clone());
        }
        let table = self.interpolated(rows, columns)?;
        cache.insert((rows, columns), table.clone());
        Ok(table)
    }

    fn interpolated(&self, rows: usize, columns: usize) -> Result<Tensor> {
        let (_, count, d) = self.table.dims3()?;
        if count != 1 + self.grid * self.grid {
            let side = self.grid;
            return Err(Error::tensor(format!(
                "{count} positions are not CLS and a square of {side} x {side}"
            )));
        }
        let patches = self.table.narrow(1, 1, count - 1)?.flatten_all()?;
        let patches = patches.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        let resized = resize(&patches, (self.grid, self.grid), (rows, columns), d, self.antialias);
        let resized = Tensor::from_vec(resized, (1, rows * columns, d), self.table.device())?;
        let resized = resized.to_dtype(self.table.dtype())?;
        Ok(Tensor::cat(&[&self.table.narrow(1, 0, 1)?, &resized], 1)?)
    }
}

/// The weights with which one output position reads inputs from `first` on.
struct Taps {
    first: usize,
    weights: Vec<f32>,
}

/// Resizes a (rows, columns, channels) table to another number of rows and columns by bicubic interpolation, as
/// `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)` computes it for floats
/// (`aten/src/ATen/native/cpu/UpSampleKernel.cpp`).
///
/// Without antialiasing each output reads 4 x 4 neighbours (a = -0.75), the border repeated. With it
/// the kernel (a = -0.5) widens with the factor of shrinking and is renormalised at the border.
fn resize(table: &[f32], from: (usize, usize), to: (usize, usize), channels: usize, antialias: bool) -> Vec<f32> {
    let taps = if antialias { antialiased } else { four_taps };
    let (vertical, horizontal) = (taps(from.0, to.0), taps(from.1, to.1));
    let mut wide = vec![0f32; from.0 * to.1 * channels]; // columns resized
    for row in 0..from.0 {
        for (column, taps) in horizontal.iter().enumerate() {
            let out = &mut wide[(row * to.1 + column) * channels..][..channels];
            for (i, weight) in taps.weights.iter().enumerate() {
                let input = &table[(row * from.1 + taps.first + i) * channels..][..channels];
                out.iter_mut().zip(input).for_each(|(out, x)| *out += weight * x);
            }
        }
    }
    let mut resized = vec![0f32; to.0 * to.1 * channels];
    let stride = to.1 * channels;
    for (row, taps) in vertical.iter().enumerate() {
        let out = &mut resized[row * stride..][..stride];
        for (i, weight) in taps.weights.iter().enumerate() {
            let input = &wide[(taps.first + i) * stride..][..stride];
            out.iter_mut().zip(input).for_each(|(out, x)| *out += weight * x);
        }
    }
    resized
}

/// Keys' cubic kernel at distance `x`.
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

fn four_taps(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let last = from as i64 - 1;
    let taps = |i: usize| {
        let centre = scale * (i as f64 + 0.5) - 0.5;
        let start = centre.floor();
        let nearest = |offset: i64| (start as i64 + offset).clamp(0, last);
        let first = nearest(-1);
        let mut weights = vec![0f32; (nearest(2) - first + 1) as usize];
        for offset in -1..=2 {
            // Positions beyond the border fall onto it.
            weights[(nearest(offset) - first) as usize] += cubic(centre - start - offset as f64, -0.75) as f32;
        }
        Taps {
            first: first as usize,
            weights,
        }
    };
    (0..to).map(taps).collect()
}

fn antialiased(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let widening = scale.max(1.0);
    let support = 2.0 * widening;
    let taps = |i: usize| {
        let centre = scale * (i as f64 + 0.5);
        let first = ((centre - support + 0.5) as i64).max(0);
        let end = ((centre + support + 0.5) as i64).min(from as i64);
        let raw: Vec<f64> = (first..end)
            .map(|j| cubic((j as f64 - centre + 0.5) / widening, -0.5))
            .collect();
        let total: f64 = raw.iter().sum();
        Taps {
            first: first as usize,
            weights: raw.iter().map(|w| (w / total) as f32).collect(),
        }
    };
    (0..to).map(taps).collect()
}

/// `x + λ₁·attention(norm(x))`, then `x + λ₂·mlp(norm(x))`.
#[derive(Debug, Clone)]
pub(super) struct Block {
    norm1: LayerNorm,
    query: Projection,
    key: Projection,
    value: Projection,
    output: Projection,
    heads: usize,
    /// LayerScale of the attention, (D).
    scale1: Tensor,
    norm2: LayerNorm,
    mlp: Mlp,
    /// LayerScale of the MLP, (D).
    scale2: Tensor,
}

/// The feed-forward half of a block.
#[derive(Debug, Clone)]
enum Mlp {
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
    pub(super) fn load(config: &Config, i: usize, take: &mut Take) -> Result<Self> {
        let (d, wide, eps) = (config.hidden_size, config.mlp_width(), config.layer_norm_eps);
        let name = |end: &str| format!("encoder.layer.{i}.{end}");
        let qkv = ["query", "key", "value"].map(|part| name(&format!("attention.attention.{part}")));
        Ok(Self {
            query: linear(take, &qkv[0], d, d, config.qkv_bias)?,
            key: linear(take, &qkv[1], d, d, config.qkv_bias)?,
            value: linear(take, &qkv[2], d, d, config.qkv_bias)?,
            output: linear(take, &name("attention.output.dense"), d, d, true)?,
            mlp: if config.use_swiglu_ffn {
                Mlp::SwiGlu {
                    weights_in: linear(take, &name("mlp.weights_in"), d, 2 * wide, true)?,
                    weights_out: linear(take, &name("mlp.weights_out"), wide, d, true)?,
                }
            } else {
                Mlp::Gelu {
                    fc1: linear(take, &name("mlp.fc1"), d, wide, true)?,
                    fc2: linear(take, &name("mlp.fc2"), wide, d, true)?,
                }
            },
            heads: config.num_attention_heads,
            norm1: layer_norm(take, &name("norm1"), d, eps)?,
            scale1: take(&name("layer_scale1.lambda1"), &[d])?,
            norm2: layer_norm(take, &name("norm2"), d, eps)?,
            scale2: take(&name("layer_scale2.lambda1"), &[d])?,
        })
    }

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

    /// The linear layers of block `i` with their hub names, in the order of the forward pass.
    pub(super) fn layers_mut(&mut self, i: usize) -> Vec<(String, &mut Projection)> {
        let name = |end: &str| format!("encoder.layer.{i}.{end}");
        let mut all = vec![
            (name("attention.attention.query"), &mut self.query),
            (name("attention.attention.key"), &mut self.key),
            (name("attention.attention.value"), &mut self.value),
            (name("attention.output.dense"), &mut self.output),
        ];
        all.extend(match &mut self.mlp {
            Mlp::Gelu { fc1, fc2 } => [(name("mlp.fc1"), fc1), (name("mlp.fc2"), fc2)],
            Mlp::SwiGlu {
                weights_in,
                weights_out,
            } => [
                (name("mlp.weights_in"), weights_in),
                (name("mlp.weights_out"), weights_out),
            ],
        });
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_one_and_stay_inside() {
        for taps in [four_taps, antialiased] {
            for (from, to) in [(9, 4), (9, 16), (37, 16), (1, 3), (2, 5), (5, 5)] {
                let all = taps(from, to);
                assert_eq!(all.len(), to);
                for t in all {
                    assert!(t.first + t.weights.len() <= from);
                    assert!((t.weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
                }
            }
        }
    }

    #[test]
    fn same_size_is_the_identity() {
        let table: Vec<f32> = (0..5 * 5 * 3).map(|i| (i as f32).sin()).collect();
        for antialias in [false, true] {
            assert_eq!(resize(&table, (5, 5), (5, 5), 3, antialias), table);
        }
    }
}
