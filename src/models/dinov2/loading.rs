//! A model from a hub-layout folder, or with random weights.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use super::block::{Block, Mlp};
use super::embeddings::{Embeddings, Positions};
use super::{Config, Dinov2, ModelType};
use crate::checkpoint::weights::Weights;
use crate::error::Result;
use crate::nn::ops::compute_type;
use crate::nn::{DeviceSpec, LayerNorm, Projection};

impl Dinov2 {
    /// Loads a hub-layout folder: `config.json` and `model.safetensors` (or its shards).
    ///
    /// The backbone of a classifier's checkpoint is found under its prefix `dinov2.` or
    /// `dinov2_with_registers.`; its head and the mask token of the pre-training are left out.
    ///
    /// # Errors
    /// [`crate::error::Error::Checkpoint`] that lists what is missing, mis-shaped, unexpected or not finite.
    pub fn load(dir: &Path, spec: &DeviceSpec) -> Result<Self> {
        let (config, bytes) = Config::load(dir)?;
        let mut weights = Weights::open(dir)?
            .without_prefix("dinov2.")
            .without_prefix("dinov2_with_registers.");
        weights.ignore(|name| name == "embeddings.mask_token" || name.starts_with("classifier."));
        let fingerprint = weights.fingerprint(&bytes)?;
        let model = Self::build(&config, &fingerprint, &dir.to_string_lossy(), |name, shape| {
            weights.take(name, shape, spec)
        })?;
        weights.finish()?;
        Ok(model)
    }

    /// A model of this shape with random weights, for benchmarks and tests.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn random(config: &Config, rng: &mut ChaCha8Rng, device: &Device) -> Result<Self> {
        Self::build(config, "random", "random weights", |name, shape| {
            let fan_in: usize = shape[1..].iter().product();
            let norm = name.ends_with("norm1.weight") || name.ends_with("norm2.weight") || name == "layernorm.weight";
            let (centre, width) = match name {
                _ if norm || name.ends_with("lambda1") => (1.0, 0.1),
                _ if name.ends_with("projection.weight") || shape.len() == 2 => (0.0, (3.0 / fan_in as f32).sqrt()),
                _ => (0.0, 0.1),
            };
            let count = shape.iter().product();
            let values: Vec<f32> = (0..count)
                .map(|_| centre + width * rng.random_range(-1.0f32..1.0))
                .collect();
            Ok(Tensor::from_vec(values, shape, &Device::Cpu)?
                .to_dtype(DType::F32)?
                .to_device(device)?)
        })
    }

    fn build(
        config: &Config,
        fingerprint: &str,
        origin: &str,
        mut take: impl FnMut(&str, &[usize]) -> Result<Tensor>,
    ) -> Result<Self> {
        let (d, p, grid) = (config.hidden_size, config.patch_size, config.grid());
        // Added to tokens, and small.
        let tokens = |table: Tensor| table.to_dtype(compute_type(&table));
        let registers = match config.registers() {
            0 => None,
            count => Some(tokens(take("embeddings.register_tokens", &[1, count, d])?)?),
        };
        let kernel = take("embeddings.patch_embeddings.projection.weight", &[d, 3, p, p])?;
        let bias = take("embeddings.patch_embeddings.projection.bias", &[d])?;
        let embeddings = Embeddings {
            patches: Projection::new(kernel.reshape((d, 3 * p * p))?, Some(bias))?,
            cls: tokens(take("embeddings.cls_token", &[1, 1, d])?)?,
            registers,
            positions: Positions {
                table: tokens(take("embeddings.position_embeddings", &[1, 1 + grid * grid, d])?)?,
                grid,
                antialias: config.model_type == ModelType::Dinov2WithRegisters,
                cache: Arc::new(Mutex::new(HashMap::new())),
            },
            patch: p,
        };
        let mut blocks = Vec::with_capacity(config.num_hidden_layers);
        for i in 0..config.num_hidden_layers {
            blocks.push(block(config, &format!("encoder.layer.{i}"), &mut take)?);
        }
        Ok(Self {
            embeddings: Arc::new(embeddings),
            blocks,
            norm: norm(config, "layernorm", &mut take)?,
            registers: config.registers(),
            fingerprint: fingerprint.into(),
            origin: origin.into(),
        })
    }
}

/// Gives a tensor by its hub name and shape.
type Take<'a> = dyn FnMut(&str, &[usize]) -> Result<Tensor> + 'a;

fn block(config: &Config, prefix: &str, take: &mut Take) -> Result<Block> {
    let (d, wide) = (config.hidden_size, config.mlp_width());
    let mut linear = |name: &str, from: usize, to: usize, bias: bool| {
        let weight = take(&format!("{prefix}.{name}.weight"), &[to, from])?;
        let bias = if bias {
            Some(take(&format!("{prefix}.{name}.bias"), &[to])?)
        } else {
            None
        };
        Projection::new(weight, bias)
    };
    let query = linear("attention.attention.query", d, d, config.qkv_bias)?;
    let key = linear("attention.attention.key", d, d, config.qkv_bias)?;
    let value = linear("attention.attention.value", d, d, config.qkv_bias)?;
    let output = linear("attention.output.dense", d, d, true)?;
    let mlp = if config.use_swiglu_ffn {
        Mlp::SwiGlu {
            weights_in: linear("mlp.weights_in", d, 2 * wide, true)?,
            weights_out: linear("mlp.weights_out", wide, d, true)?,
        }
    } else {
        Mlp::Gelu {
            fc1: linear("mlp.fc1", d, wide, true)?,
            fc2: linear("mlp.fc2", wide, d, true)?,
        }
    };
    Ok(Block {
        norm1: norm(config, &format!("{prefix}.norm1"), take)?,
        query,
        key,
        value,
        output,
        heads: config.num_attention_heads,
        scale1: take(&format!("{prefix}.layer_scale1.lambda1"), &[d])?,
        norm2: norm(config, &format!("{prefix}.norm2"), take)?,
        mlp,
        scale2: take(&format!("{prefix}.layer_scale2.lambda1"), &[d])?,
    })
}

fn norm(config: &Config, name: &str, take: &mut Take) -> Result<LayerNorm> {
    Ok(LayerNorm {
        weight: take(&format!("{name}.weight"), &[config.hidden_size])?,
        bias: take(&format!("{name}.bias"), &[config.hidden_size])?,
        eps: config.layer_norm_eps,
    })
}
