//! `config.json` of DINOv2, plain or with registers.

use std::path::Path;

use serde::Deserialize;

use crate::checkpoint::architecture::{Architecture, read_config};
use crate::checkpoint::bounds;
use crate::error::{Error, Result};

/// The values of `config.json` that shape the model (transformers' `Dinov2Config` and
/// `Dinov2WithRegistersConfig`, with their defaults).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// `dinov2` or `dinov2_with_registers`.
    pub model_type: ModelType,
    /// Width D of a token.
    pub hidden_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Attention heads; they divide D.
    pub num_attention_heads: usize,
    /// Width of the MLP's middle over D.
    pub mlp_ratio: f64,
    /// Activation of the MLP; only the exact `gelu` exists.
    pub hidden_act: String,
    /// SwiGLU in place of the MLP (giant models).
    pub use_swiglu_ffn: bool,
    /// Epsilon of every layer norm.
    pub layer_norm_eps: f64,
    /// Pixels per side of the square images that the position table is for.
    pub image_size: usize,
    /// Pixels per side of a patch.
    pub patch_size: usize,
    /// Colour channels.
    pub num_channels: usize,
    /// True if query, key and value have a bias.
    pub qkv_bias: bool,
    /// Register tokens; 4 by default with registers, none without.
    num_register_tokens: Option<usize>,
}

/// The two architectures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelType {
    /// <https://arxiv.org/abs/2304.07193>
    Dinov2,
    /// <https://arxiv.org/abs/2309.16588>
    Dinov2WithRegisters,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model_type: ModelType::Dinov2,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            mlp_ratio: 4.0,
            hidden_act: "gelu".into(),
            use_swiglu_ffn: false,
            layer_norm_eps: 1e-6,
            image_size: 224,
            patch_size: 14,
            num_channels: 3,
            qkv_bias: true,
            num_register_tokens: None,
        }
    }
}

impl Config {
    /// Reads `config.json`; also gives its bytes.
    ///
    /// # Errors
    /// [`Error::Model`] when the file is missing, is not a DINOv2 config, or its numbers do not fit together.
    pub fn load(dir: &Path) -> Result<(Self, Vec<u8>)> {
        let (path, bytes) = read_config(dir)?;
        let found = Architecture::parse(&bytes, &path)?;
        if found != Architecture::Dinov2 {
            let found = found.model_type();
            return Err(Error::model(
                path,
                format!("model_type is `{found}`, this learner stands on `dinov2` or `dinov2_with_registers`"),
            ));
        }
        let config = Self::parse(&bytes).map_err(|reason| Error::model(path, reason))?;
        Ok((config, bytes))
    }

    /// A config from the text of a `config.json` whose `model_type` is one of the two.
    ///
    /// # Errors
    /// The fault in it, in words.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let config: Self = serde_json::from_slice(text).map_err(|e| format!("not a DINOv2 config: {e}"))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        bounds::check(&[
            ("hidden_size", self.hidden_size, bounds::WIDTH),
            ("num_hidden_layers", self.num_hidden_layers, bounds::LAYERS),
            ("num_attention_heads", self.num_attention_heads, bounds::HEADS),
            ("image_size", self.image_size, bounds::IMAGE),
            ("patch_size", self.patch_size, bounds::PATCH),
            ("num_register_tokens", self.registers(), bounds::FEW),
        ])?;
        let most = bounds::MIDDLE as f64 / self.hidden_size.max(1) as f64;
        if !(self.mlp_ratio > 0.0 && self.mlp_ratio <= most) {
            return Err(format!("mlp_ratio is {}, above 0 to {most} are read", self.mlp_ratio));
        }
        bounds::check_heads(self.hidden_size, self.num_attention_heads)?;
        bounds::check_patch(self.image_size, self.patch_size)?;
        if self.num_channels != 3 {
            return Err(format!("num_channels is {}, images have 3", self.num_channels));
        }
        let act = &self.hidden_act;
        if act != "gelu" && !self.use_swiglu_ffn {
            return Err(format!("hidden_act `{act}` is not supported, only `gelu`"));
        }
        Ok(())
    }

    /// Register tokens R, which stand between CLS and the patches.
    #[must_use]
    pub fn registers(&self) -> usize {
        match self.model_type {
            ModelType::Dinov2 => 0,
            ModelType::Dinov2WithRegisters => self.num_register_tokens.unwrap_or(4),
        }
    }

    /// Width of the MLP's middle: `int(D · ratio)`, with SwiGLU two thirds of it rounded up to a multiple of 8.
    #[must_use]
    pub fn mlp_width(&self) -> usize {
        let wide = (self.hidden_size as f64 * self.mlp_ratio) as usize;
        if self.use_swiglu_ffn {
            ((wide as f64 * 2.0 / 3.0) as usize).div_ceil(8) * 8
        } else {
            wide
        }
    }

    /// Patches per side of the position table.
    #[must_use]
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }
}
