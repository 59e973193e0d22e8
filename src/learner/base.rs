//! Base models, each loaded once and shared by all classifiers that stand on it.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::DType;

use crate::checkpoint::repository;
use crate::config::Dtype;
use crate::engine::CacheStats;
use crate::error::Result;
use crate::example::ImageCache;
use crate::learner::classifier::Classifier;
use crate::nn::DeviceSpec;

/// A loaded base with the settings of a learner on it: it makes classifiers.
pub trait Base: Send + Sync {
    /// Tells weights and preprocessing from all others; `None` without a model.
    fn fingerprint(&self) -> Option<&str>;

    /// Kind of backend.
    fn backend(&self) -> &'static str {
        "local"
    }

    /// A fresh classifier.
    ///
    /// # Errors
    /// When a class name cannot be learned.
    fn classifier(&self, classes: &[String], seed: u64) -> Result<Box<dyn Classifier>>;

    /// The same, whose training goes on from a PEFT folder; `None` for a learner that cannot.
    ///
    /// # Errors
    /// As [`Base::classifier`].
    fn classifier_from(&self, _adapter: &Path, _classes: &[String], _seed: u64) -> Result<Option<Box<dyn Classifier>>> {
        Ok(None)
    }

    /// The vision tower, if features that it computed are kept and shared by all cells that show it the same pictures.
    fn tower(&self) -> Option<SharedTower> {
        None
    }
}

/// A base of which nothing more is known than its fingerprint and how it makes a classifier of class names and a seed.
pub(super) fn base(
    fingerprint: Option<String>,
    classifier: impl Fn(&[String], u64) -> Result<Box<dyn Classifier>> + Send + Sync + 'static,
) -> Arc<dyn Base> {
    Arc::new(Plain(fingerprint, classifier))
}

struct Plain<F>(Option<String>, F);

impl<F: Fn(&[String], u64) -> Result<Box<dyn Classifier>> + Send + Sync> Base for Plain<F> {
    fn fingerprint(&self) -> Option<&str> {
        self.0.as_deref()
    }

    fn classifier(&self, classes: &[String], seed: u64) -> Result<Box<dyn Classifier>> {
        (self.1)(classes, seed)
    }
}

/// A vision tower whose features of pictures are kept.
#[derive(Debug, Clone, Copy)]
pub struct SharedTower {
    /// The same where model and preprocessing are the same objects.
    pub identity: [usize; 2],
    /// Pictures of which features are kept, where there is a bound.
    pub capacity: Option<usize>,
    /// Look-ups since it was loaded.
    pub lookups: Option<CacheStats>,
}

/// The base models of a sweep.
pub struct Bases {
    home: PathBuf,
    /// The device, known once it is needed.
    device: Option<DeviceSpec>,
    /// The cache of preprocessed images.
    pub(super) images: Option<Arc<ImageCache>>,
    /// Bytes of features that a model that writes may keep, where that is given.
    pub(super) feature_bytes: Option<usize>,
    loaded: HashMap<(TypeId, String), Arc<dyn Any + Send + Sync>>,
}

impl Bases {
    /// None loaded yet; relative model folders are those of the working folder or of `home`.
    #[must_use]
    pub fn new(home: &Path) -> Self {
        Self {
            home: home.to_path_buf(),
            device: None,
            images: None,
            feature_bytes: None,
            loaded: HashMap::new(),
        }
    }

    /// The same, with a cache of preprocessed images, if there is one.
    #[must_use]
    pub fn keeping(mut self, images: Option<ImageCache>) -> Self {
        self.images = images.map(Arc::new);
        self
    }

    /// The same; each model that writes keeps at most so many bytes of its tower's features of pictures.
    #[must_use]
    pub fn with_feature_bytes(mut self, bytes: usize) -> Self {
        self.feature_bytes = Some(bytes);
        self
    }

    /// Device and type of the weights of a base model; without a model the device of its images.
    ///
    /// # Errors
    /// [`crate::error::Error::Device`].
    pub fn place(&mut self, model: Option<&Path>, dtype: Dtype) -> Result<DeviceSpec> {
        if model.is_none() {
            return Ok(DeviceSpec::cpu());
        }
        let best = match &self.device {
            Some(place) => place.clone(),
            None => self.device.insert(DeviceSpec::best()?).clone(),
        };
        let dtype = match dtype {
            Dtype::Auto => best.dtype,
            Dtype::F32 => DType::F32,
            Dtype::Bf16 => DType::BF16,
            Dtype::F16 => DType::F16,
        };
        Ok(DeviceSpec { dtype, ..best })
    }

    /// The folder of a model.
    ///
    /// # Errors
    /// [`crate::error::Error::Checkpoint`] when it is not on this machine.
    pub(super) fn folder(&self, model: &Path) -> Result<PathBuf> {
        repository::locate(model, &self.home)
    }

    /// True if a `T` was loaded under this key.
    pub(super) fn has<T: 'static>(&self, key: &impl Debug) -> bool {
        self.loaded.contains_key(&(TypeId::of::<T>(), format!("{key:?}")))
    }

    /// The `T` of a key, loaded at the first call.
    pub(super) fn once<T: Send + Sync + 'static>(
        &mut self,
        key: &impl Debug,
        load: impl FnOnce() -> Result<T>,
    ) -> Result<Arc<T>> {
        let key = (TypeId::of::<T>(), format!("{key:?}"));
        if let Some(Ok(known)) = self.loaded.get(&key).map(|known| known.clone().downcast::<T>()) {
            return Ok(known);
        }
        let new = Arc::new(load()?);
        self.loaded.insert(key, new.clone());
        Ok(new)
    }
}
