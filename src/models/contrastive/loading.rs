//! Both towers from a hub-layout folder, through the same reader of weights as every other model.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use candle_transformers::models::{clip, siglip};

use super::{Config, Contrastive, Family, Towers};
use crate::checkpoint::weights::Weights;
use crate::error::{Error, Result};
use crate::nn::DeviceSpec;

/// [`Weights`] as candle's models ask for them.
struct Source {
    weights: Mutex<Option<Weights>>,
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

/// Backend of a [`VarBuilder`].
struct Asked(Arc<Source>);

impl SimpleBackend for Asked {
    fn get(&self, shape: Shape, name: &str, _: Init, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        self.0.take(name, shape.dims()).map_err(candle_core::Error::wrap)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("the shape of `{name}` is not known")
    }

    /// Always: what is missing is an error, not a reason to make something up.
    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
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
        let source = Arc::new(Source {
            weights: Mutex::new(Some(weights)),
            spec: spec.clone(),
        });
        let builder = || VarBuilder::from_backend(Box::new(Asked(source.clone())), spec.dtype, spec.device.clone());
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
            return Err(Error::Model {
                path: dir.into(),
                reason: "`logit_scale` is the logarithm of no number".into(),
            });
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
}

fn number(tensor: &Tensor) -> Result<f64> {
    let values = tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    Ok(values.first().copied().unwrap_or(0.0))
}
