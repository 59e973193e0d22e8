//! DINOv2 (<https://arxiv.org/abs/2304.07193>): plain, with registers, with SwiGLU; trainable by LoRA.
//!
//! Reference: transformers' `modeling_dinov2.py` and `modeling_dinov2_with_registers.py`. Letters in
//! shapes: B images, N patches, R registers, T = 1 + R + N tokens, D width, H heads.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use rand_chacha::ChaCha8Rng;

pub use super::lora::Lora;
use super::lora::{self, Adaptable};
use crate::checkpoint::weights::{Weights, layer_norm};
use crate::error::Result;
use crate::nn::{DeviceSpec, LayerNorm, Projection};

mod adapter;
mod config;
mod layers;

pub use config::{Config, ModelType};
use layers::{Block, Embeddings};

/// A DINOv2 backbone with frozen weights and, after [`Dinov2::with_lora`], trainable adapters.
///
/// A clone is shallow: it shares all tensors and variables.
#[derive(Debug, Clone)]
pub struct Dinov2 {
    embeddings: Arc<Embeddings>,
    blocks: Vec<Block>,
    norm: LayerNorm,
    registers: usize,
    fingerprint: Arc<str>,
    /// The folder it was loaded from, for the adapter's config.
    origin: Arc<str>,
}

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
        let mut take = |name: &str, shape: &[usize]| weights.take(name, shape, spec);
        let model = Self {
            embeddings: Arc::new(Embeddings::load(&config, &mut take)?),
            blocks: (0..config.num_hidden_layers)
                .map(|i| Block::load(&config, i, &mut take))
                .collect::<Result<_>>()?,
            norm: layer_norm(&mut take, "layernorm", config.hidden_size, config.layer_norm_eps)?,
            registers: config.registers(),
            fingerprint: fingerprint.into(),
            origin: dir.to_string_lossy().into(),
        };
        weights.finish()?;
        Ok(model)
    }

    /// Width D of a token; [`Dinov2::features`] are twice as wide.
    #[must_use]
    pub fn hidden_size(&self) -> usize {
        self.norm.weight.elem_count()
    }

    /// Lower-case hex SHA-256 over `config.json` and the weights' bytes: the same weights, the same print.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// (B, 3, H, W) normalised pixels → (B, 1 + R + N, D) tokens after the final layer norm.
    ///
    /// The patch grid is floor(H/P) x floor(W/P); what is left over at the right and bottom is cropped.
    ///
    /// # Errors
    /// When an image is smaller than a patch.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        self.run(pixels, |_| ())
    }

    /// (B, 3, H, W) normalised pixels → (B, 2D): CLS next to the mean of the patches, registers skipped; f32.
    ///
    /// # Errors
    /// As [`Dinov2::forward`].
    pub fn features(&self, pixels: &Tensor) -> Result<Tensor> {
        let tokens = self.forward(pixels)?.to_dtype(DType::F32)?;
        let (_, count, _) = tokens.dims3()?;
        let first = 1 + self.registers;
        let cls = tokens.narrow(1, 0, 1)?.squeeze(1)?;
        let mean = tokens.narrow(1, first, count - first)?.mean(1)?;
        Ok(Tensor::cat(&[&cls, &mean], 1)?)
    }

    /// The states between the layers, each (B, T, D): embeddings, then after each block, then after
    /// the final layer norm.
    ///
    /// # Errors
    /// As [`Dinov2::forward`].
    pub fn states(&self, pixels: &Tensor) -> Result<Vec<Tensor>> {
        let mut states = Vec::with_capacity(self.blocks.len() + 2);
        let last = self.run(pixels, |state| states.push(state.clone()))?;
        states.push(last);
        Ok(states)
    }

    fn run(&self, pixels: &Tensor, mut visit: impl FnMut(&Tensor)) -> Result<Tensor> {
        let mut x = self.embeddings.forward(pixels)?;
        visit(&x);
        for block in &self.blocks {
            x = block.forward(&x)?;
            visit(&x);
        }
        self.norm.forward(&x)
    }

    /// The model with fresh adapters in place of any it has: A as PEFT initialises it, B = 0, so the
    /// outputs are still those of the base.
    ///
    /// # Errors
    /// [`crate::error::Error::Model`] when the rank is 0 or no linear layer matches any target.
    pub fn with_lora(&self, lora: &Lora, rng: &mut ChaCha8Rng) -> Result<Self> {
        lora::with_lora(self, lora, rng)
    }

    /// The model with its adapters added into the weights: the same outputs to the bit on the CPU,
    /// nothing trainable, no graph kept. Use it to evaluate.
    pub fn merged(&self) -> Result<Self> {
        self.map_layers(|_, layer| layer.merged())
    }

    /// The adapters' variables in the order of the layers, A before B, named as keys of a PEFT adapter
    /// file over the hub's names: `base_model.model.encoder.layer.0.attention.attention.query.lora_A.weight`.
    #[must_use]
    pub fn trainable(&self) -> Vec<(String, Var)> {
        lora::trainable(self)
    }
}

impl Adaptable for Dinov2 {
    fn layers_mut(&mut self) -> Vec<(String, &mut Projection)> {
        let blocks = self.blocks.iter_mut().enumerate();
        blocks.flat_map(|(i, block)| block.layers_mut(i)).collect()
    }

    fn origin(&self) -> &str {
        &self.origin
    }

    fn device(&self) -> &Device {
        self.norm.weight.device()
    }
}
