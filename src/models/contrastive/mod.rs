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
//! | it reads tensors without checking them | they come through [`Weights`], which names what is missing, left over or not finite |

mod config;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{D, DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use candle_transformers::models::{clip, siglip};

use crate::checkpoint::weights::Weights;
use crate::error::{Error, Result};
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
    /// Loads a hub-layout folder: `config.json` and `model.safetensors` (or its shards).
    ///
    /// # Errors
    /// [`Error::Model`] for a configuration of another architecture or with unsupported settings, and one that lists
    /// the tensors that are missing, mis-shaped, unexpected or not finite.
    pub fn load(dir: &Path, family: Family, spec: &DeviceSpec) -> Result<Self> {
        let (config, bytes) = Config::load(dir, family)?;
        let mut weights = Weights::open(dir)?;
        // Buffers of older checkpoints: the numbers 0, 1, 2, ….
        weights.ignore(|name| name.ends_with("embeddings.position_ids"));
        let fingerprint = weights.fingerprint(&bytes)?;
        let source = Source {
            weights: Arc::new(Mutex::new(Some(weights))),
            spec: spec.clone(),
        };
        let builder = || VarBuilder::from_backend(Box::new(source.clone()), spec.dtype, spec.device.clone());
        let (towers, scale, bias) = match family {
            Family::Clip => {
                let towers = Towers::Clip(clip::ClipModel::new(builder(), &config.clip())?);
                (towers, number(&source.take("logit_scale", &[])?)?, 0.0)
            }
            Family::Siglip => {
                let towers = Towers::Siglip(siglip::Model::new(&config.siglip(), builder())?);
                let scale = number(&source.take("logit_scale", &[1])?)?;
                (towers, scale, number(&source.take("logit_bias", &[1])?)?)
            }
        };
        let weights = source.weights.lock().unwrap_or_else(PoisonError::into_inner).take();
        weights.map_or(Ok(()), Weights::finish)?;
        let scale = scale.exp();
        if !scale.is_finite() {
            return Err(Error::model(dir, "`logit_scale` is the logarithm of no number"));
        }
        Ok(Self {
            towers,
            scale,
            bias,
            config,
            spec: spec.clone(),
            fingerprint,
        })
    }

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

    /// Image features as transformers' `get_image_features` has them, f32, not normalised.
    /// `pixels`: (B, 3, S, S) for images of [`Config::image_size`] S; gives (B, P).
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
    pub fn text_features(&self, ids: &Tensor) -> Result<Tensor> {
        let ids = ids.to_device(&self.spec.device)?;
        let features = match &self.towers {
            Towers::Clip(model) => model.get_text_features(&ids)?,
            Towers::Siglip(model) => model.get_text_features(&ids)?,
        };
        Ok(features.to_dtype(DType::F32)?)
    }

    /// `scale · cos + bias` of images (B, P) and texts (C, P), each row of unit length: (B, C).
    pub fn logits(&self, images: &Tensor, texts: &Tensor) -> Result<Tensor> {
        Ok(images.matmul(&texts.t()?)?.affine(self.scale, self.bias)?)
    }
}

/// Rows scaled to unit length: (N, P).
pub fn unit_rows(rows: &Tensor) -> Result<Tensor> {
    let norm = rows.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
    let norm = norm.maximum(f64::from(f32::MIN_POSITIVE))?;
    Ok(rows.broadcast_div(&norm)?)
}

/// [`Weights`] as candle's models ask for them.
#[derive(Clone)]
struct Source {
    weights: Arc<Mutex<Option<Weights>>>,
    spec: DeviceSpec,
}

impl Source {
    fn take(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let mut weights = self.weights.lock().unwrap_or_else(PoisonError::into_inner);
        match weights.as_mut() {
            Some(weights) => weights.take(name, shape, &self.spec),
            None => Ok(Tensor::zeros(shape, self.spec.dtype, &self.spec.device)?),
        }
    }
}

impl SimpleBackend for Source {
    fn get(&self, shape: Shape, name: &str, _: Init, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        self.take(name, shape.dims()).map_err(candle_core::Error::wrap)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("the shape of `{name}` is not known")
    }

    /// Always: what is missing is an error, not a reason to make something up.
    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

fn number(tensor: &Tensor) -> Result<f64> {
    let values = tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    Ok(values.first().copied().unwrap_or(0.0))
}
