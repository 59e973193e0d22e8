//! CLIP and SigLIP: an image tower and a text tower whose outputs are compared by cosine. Frozen, inference only, by
//! candle-transformers.
//!
//! candle-transformers' models leave to their caller, and so this is done here:
//!
//! | what | here |
//! |---|---|
//! | its CLIP has QuickGELU and layer-norm eps 1e-5 built in, whatever `config.json` says | another value is refused by name |
//! | its CLIP reads the text at the highest token id | a tokenizer whose end token is not the highest id is refused (`captions`) |
//! | its SigLIP reads the text at the last place, without a mask | texts are padded to the full context, as in training |
//! | its SigLIP has a square text projection and always the attention-pooling head | another shape is refused by name |
//! | a missing class embedding or logit scale is replaced by random numbers or a default | every tensor must be there |
//! | it reads tensors without checking them | they come through [`Weights`](crate::checkpoint::weights::Weights), which names what is missing, left over or not finite |

mod config;
mod loading;

use candle_core::{D, DType, Tensor};
use candle_transformers::models::{clip, siglip};

use crate::error::Result;
use crate::nn::DeviceSpec;
pub use config::{Config, Family};

/// A frozen pair of towers.
pub struct Contrastive {
    towers: Towers,
    /// Factor of the cosines: the exponential of the stored logarithm.
    scale: f64,
    /// Bias that SigLIP adds to every logit; 0 for CLIP.
    bias: f64,
    config: Config,
    spec: DeviceSpec,
    fingerprint: String,
}

enum Towers {
    Clip(clip::ClipModel),
    Siglip(siglip::Model),
}

impl Contrastive {
    /// Shape and kind.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Lower-case hex SHA-256 of configuration and weights.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Multiplier of cosines, and what is added.
    #[must_use]
    pub fn scale_and_bias(&self) -> (f64, f64) {
        (self.scale, self.bias)
    }

    /// Image features as transformers' `get_image_features` has them, f32, not normalised.
    /// `pixels`: (B, 3, S, S) for images of [`Config::image_size`] S; gives (B, P).
    ///
    /// # Errors
    /// Tensor failures.
    pub fn image_features(&self, pixels: &Tensor) -> Result<Tensor> {
        let pixels = pixels.to_device(&self.spec.device)?.to_dtype(self.spec.dtype)?;
        let features = match &self.towers {
            Towers::Clip(model) => model.get_image_features(&pixels)?,
            Towers::Siglip(model) => model.get_image_features(&pixels)?,
        };
        Ok(features.to_dtype(DType::F32)?)
    }

    /// Text features as transformers' `get_text_features` has them, f32, not normalised.
    /// `ids`: (B, T) u32, padded as [`crate::example::CaptionTokenizer`] does; gives (B, P).
    ///
    /// # Errors
    /// Tensor failures.
    pub fn text_features(&self, ids: &Tensor) -> Result<Tensor> {
        let ids = ids.to_device(&self.spec.device)?;
        let features = match &self.towers {
            Towers::Clip(model) => model.get_text_features(&ids)?,
            Towers::Siglip(model) => model.get_text_features(&ids)?,
        };
        Ok(features.to_dtype(DType::F32)?)
    }

    /// `scale · cos + bias` of images (B, P) and texts (C, P), each row of unit length: (B, C).
    ///
    /// # Errors
    /// Tensor failures.
    pub fn logits(&self, images: &Tensor, texts: &Tensor) -> Result<Tensor> {
        Ok(images.matmul(&texts.t()?)?.affine(self.scale, self.bias)?)
    }
}

/// Rows scaled to unit length: (N, P).
///
/// # Errors
/// Tensor failures.
pub fn unit_rows(rows: &Tensor) -> Result<Tensor> {
    let norm = rows
        .sqr()?
        .sum_keepdim(D::Minus1)?
        .sqrt()?
        .maximum(f64::from(f32::MIN_POSITIVE))?;
    Ok(rows.broadcast_div(&norm)?)
}
