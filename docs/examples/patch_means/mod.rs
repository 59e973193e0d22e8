//! A linear embedding of patches, normalised and averaged: the worked example of `docs/adding-a-model.md`.
//!
//! Letters in shapes: B images, N patches, P pixels per side of a patch, D width.

use std::path::Path;

use candle_core::{DType, Tensor};
use serde::Deserialize;

use crate::checkpoint::bounds;
use crate::checkpoint::weights::Weights;
use crate::error::{Error, Result};
use crate::nn::{DeviceSpec, LayerNorm, Projection};

/// The parts of `config.json` that are read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Config {
    /// D
    pub hidden_size: usize,
    /// P
    pub patch_size: usize,
    /// Added to the variance.
    pub layer_norm_eps: f64,
}

impl Config {
    /// A config from the text of `config.json`.
    ///
    /// # Errors
    /// The fault in it, in words.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let config: Self = serde_json::from_slice(text).map_err(|e| format!("not a config of patch means: {e}"))?;
        // Before any weights: no product of sizes may overflow.
        bounds::check(&[
            ("hidden_size", config.hidden_size, bounds::WIDTH),
            ("patch_size", config.patch_size, bounds::PATCH),
        ])?;
        if config.hidden_size == 0 || config.patch_size == 0 {
            return Err("hidden_size and patch_size are above 0".into());
        }
        Ok(config)
    }
}

/// The model: frozen weights, no adapters.
#[derive(Debug, Clone)]
pub struct PatchMeans {
    patches: Projection,
    norm: LayerNorm,
    patch: usize,
    fingerprint: String,
}

impl PatchMeans {
    /// Loads a hub-layout folder: `config.json` and `model.safetensors` (or its shards).
    ///
    /// # Errors
    /// [`Error::Model`] for the config; [`Error::Checkpoint`] that lists every tensor that is missing, mis-shaped,
    /// unexpected or not finite.
    pub fn load(dir: &Path, spec: &DeviceSpec) -> Result<Self> {
        let path = dir.join("config.json");
        let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        let config = Config::parse(&bytes).map_err(|reason| Error::Model { path, reason })?;
        let (d, p) = (config.hidden_size, config.patch_size);

        let mut weights = Weights::open(dir)?;
        let fingerprint = weights.fingerprint(&bytes)?;
        let mut take = |name: &str, shape: &[usize]| weights.take(name, shape, spec);
        // The hub stores the projection as a convolution whose kernel is as large as its stride.
        let kernel = take("embeddings.projection.weight", &[d, 3, p, p])?.reshape((d, 3 * p * p))?;
        let patches = Projection::new(kernel, Some(take("embeddings.projection.bias", &[d])?))?;
        let norm = LayerNorm {
            weight: take("layernorm.weight", &[d])?,
            bias: take("layernorm.bias", &[d])?,
            eps: config.layer_norm_eps,
        };
        weights.finish()?;
        Ok(Self {
            patches,
            norm,
            patch: p,
            fingerprint,
        })
    }

    /// Lower-case hex SHA-256 over `config.json` and the weights' bytes: part of the `run_id` of every cell on this model.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// (B, 3, H, W) normalised pixels → (B, D) means over the patches; f32. What is left over at the right and bottom of
    /// the patches is cropped.
    ///
    /// # Errors
    /// When an image is smaller than a patch.
    pub fn features(&self, pixels: &Tensor) -> Result<Tensor> {
        let (batch, _, height, width) = pixels.dims4()?;
        let p = self.patch;
        let (rows, columns) = (height / p, width / p);
        let patches = pixels
            .narrow(2, 0, rows * p)?
            .narrow(3, 0, columns * p)?
            .reshape((batch, 3, rows, p, columns, p))?
            .permute((0, 2, 4, 1, 3, 5))? // (B, rows, columns, 3, P, P)
            .reshape((batch, rows * columns, 3 * p * p))?;
        let states = self.norm.forward(&self.patches.forward(&patches)?)?; // (B, N, D)
        Ok(states.to_dtype(DType::F32)?.mean(1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::fs;

    use candle_core::Device;

    /// A folder with a model of width 2 and patches of 1 pixel, which sees the first and the second channel.
    fn folder(without: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let config = r#"{"model_type": "patch_means", "hidden_size": 2, "patch_size": 1, "layer_norm_eps": 0.0}"#;
        fs::write(folder.path().join("config.json"), config).unwrap();
        let tensor = |values: &[f32], shape: &[usize]| Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
        let mut tensors = HashMap::from([
            (
                "embeddings.projection.weight",
                tensor(&[1.0, 0.0, 0.0, 0.0, 1.0, 0.0], &[2, 3, 1, 1]),
            ),
            ("embeddings.projection.bias", tensor(&[0.0, 0.0], &[2])),
            ("layernorm.weight", tensor(&[2.0, 2.0], &[2])),
            ("layernorm.bias", tensor(&[0.5, 0.0], &[2])),
        ]);
        tensors.remove(without);
        candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors")).unwrap();
        folder
    }

    #[test]
    fn features_are_the_means_of_the_normalised_patches() {
        let folder = folder("");
        let model = PatchMeans::load(folder.path(), &DeviceSpec::cpu()).unwrap();
        // Two pixels with a larger first channel, one with a larger second: normalised to ±1, scaled to ±2.
        let pixels: [f32; 9] = [4.0, 3.0, 0.0, 0.0, 1.0, 8.0, 9.0, 9.0, 9.0];
        let pixels = Tensor::from_slice(&pixels, (1, 3, 1, 3), &Device::Cpu).unwrap();
        let features = model.features(&pixels).unwrap().to_vec2::<f32>().unwrap();
        let expected = [0.5 + 2.0 / 3.0, -2.0 / 3.0];
        assert!(
            features[0]
                .iter()
                .zip(expected)
                .all(|(found, right)| (found - right).abs() < 1e-5),
            "{features:?}"
        );
        assert_eq!(model.fingerprint().len(), 64);
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = folder("layernorm.bias");
        let error = PatchMeans::load(folder.path(), &DeviceSpec::cpu()).unwrap_err();
        assert!(error.to_string().contains("layernorm.bias"), "{error}");
        let error = Config::parse(br#"{"hidden_size": 2, "patch_size": 4096, "layer_norm_eps": 1e-6}"#).unwrap_err();
        assert!(error.contains("patch_size"), "{error}");
    }
}
