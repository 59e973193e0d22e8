//! Base models, each loaded once, and the classifiers that learn on top of them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::DType;
use sha2::{Digest as _, Sha256};

use crate::backend::Backend;
use crate::backend::local::LocalBackend;
use crate::config::{Dtype, Learner, Wording};
use crate::engine::CacheStats;
use crate::error::{Cause, Error, Result};
use crate::example::{ImageCache, Renderer};
use crate::experiment::estimate;
use crate::formats::image_processor::image_settings;
use crate::learner::Classifier;
use crate::learner::dinov2::Dinov2Classifier;
use crate::learner::features::Frozen;
use crate::learner::pixels::PixelNeighbour;
use crate::learner::probe::Probe;
use crate::learner::vlm::VlmClassifier;
use crate::learner::zero_shot::{Pair, ZeroShotClassifier, templates};
use crate::models::contrastive::Family;
use crate::models::repository;
use crate::nn::DeviceSpec;

/// What a learner stands on.
#[derive(Clone)]
pub enum Base {
    /// Nothing: it learns from pixels.
    None,
    /// A vision model.
    Vision {
        /// The model and its features so far.
        frozen: Arc<Frozen>,
        /// Of weights and preprocessing.
        fingerprint: Arc<str>,
        /// Images of a pass in training that there is memory for.
        pass: usize,
    },
    /// An image tower and a text tower.
    Contrastive(Arc<Pair>),
    /// A model that writes.
    Writing {
        /// Where it runs.
        backend: Arc<dyn Backend>,
        /// What it is given.
        renderer: Arc<Renderer>,
    },
}

/// The base models of a sweep.
pub struct Bases {
    home: PathBuf,
    /// The device, known once it is needed.
    device: Option<DeviceSpec>,
    images: Option<Arc<ImageCache>>,
    feature_bytes: Option<usize>,
    vision: HashMap<(PathBuf, DType), (Arc<Frozen>, Arc<str>)>,
    /// Images of a pass, by the name of a learner on a vision model.
    passes: HashMap<String, usize>,
    contrastive: HashMap<(PathBuf, Family, DType), Arc<Pair>>,
    backends: HashMap<(PathBuf, bool, DType), Arc<dyn Backend>>,
    renderers: HashMap<(PathBuf, u32, Wording), Arc<Renderer>>,
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
            vision: HashMap::new(),
            passes: HashMap::new(),
            contrastive: HashMap::new(),
            backends: HashMap::new(),
            renderers: HashMap::new(),
        }
    }

    /// The same; what they see of the images is kept in a cache, if there is one.
    #[must_use]
    pub fn keeping(mut self, images: Option<ImageCache>) -> Self {
        self.images = images.map(Arc::new);
        self
    }

    /// Where a learner's base is, and of which type; without a base, where its images are.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn place(&mut self, learner: &Learner) -> Result<DeviceSpec> {
        if learner.model().is_none() {
            return Ok(DeviceSpec::cpu());
        }
        let best = match &self.device {
            Some(place) => place.clone(),
            None => self.device.insert(DeviceSpec::best()?).clone(),
        };
        let dtype = match learner.dtype() {
            Dtype::Auto => best.dtype,
            Dtype::F32 => DType::F32,
            Dtype::Bf16 => DType::BF16,
            Dtype::F16 => DType::F16,
        };
        Ok(DeviceSpec { dtype, ..best })
    }

    /// The same; each model that writes keeps at most so many bytes of what its tower saw in pictures.
    #[must_use]
    pub fn with_feature_bytes(mut self, bytes: usize) -> Self {
        self.feature_bytes = Some(bytes);
        self
    }

    /// The base of a learner, loaded at the first call.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when it is not on this machine or not as it should be, [`Error::Model`] when its folder
    /// lacks something; [`Error::Device`].
    pub fn of(&mut self, learner: &Learner) -> Result<Base> {
        let Some(model) = learner.model() else {
            return Ok(Base::None);
        };
        let dir = repository::locate(model, &self.home)?;
        let place = self.place(learner)?;
        let family = match learner {
            Learner::ClipZeroShot(_) => Some(Family::Clip),
            Learner::SiglipZeroShot(_) => Some(Family::Siglip),
            _ => None,
        };
        if let Some(family) = family {
            let key = (dir, family, place.dtype);
            if let Some(pair) = self.contrastive.get(&key) {
                return Ok(Base::Contrastive(pair.clone()));
            }
            let pair = Arc::new(Pair::load(&key.0, family, &place)?.keeping(self.images.clone()));
            self.contrastive.insert(key, pair.clone());
            return Ok(Base::Contrastive(pair));
        }
        let Learner::Qwen3VlLora(config) = learner else {
            let key = (dir, place.dtype);
            let loaded = self.vision.get(&key);
            let pass = match self.passes.get(learner.name()) {
                Some(pass) => *pass,
                None => estimate::images_of_a_pass(learner, &key.0, &place, loaded.is_some())?,
            };
            self.passes.insert(learner.name().to_owned(), pass);
            let (frozen, fingerprint) = match loaded {
                Some(loaded) => loaded.clone(),
                None => vision(&key.0, &place, self.images.clone())?,
            };
            self.vision.insert(key, (frozen.clone(), fingerprint.clone()));
            return Ok(Base::Vision {
                frozen,
                fingerprint,
                pass,
            });
        };
        let key = (dir.clone(), config.longest_side, config.prompt);
        let renderer = match self.renderers.get(&key) {
            Some(renderer) => renderer.clone(),
            None => {
                let renderer = Renderer::load(&dir, Some(config.longest_side))?.in_words(config.prompt);
                let renderer = Arc::new(renderer.keeping(self.images.clone()));
                self.renderers.insert(key, renderer.clone());
                renderer
            }
        };
        let key = (dir, config.checkpointing, place.dtype);
        let backend = match self.backends.get(&key) {
            Some(backend) => backend.clone(),
            None => {
                let mut settings = estimate::settings(config, &key.0, &place)?;
                if let Some(bytes) = self.feature_bytes {
                    settings.feature_bytes = bytes;
                }
                let backend: Arc<dyn Backend> = Arc::new(LocalBackend::load(&key.0, &place, settings)?);
                self.backends.insert(key, backend.clone());
                backend
            }
        };
        Ok(Base::Writing { backend, renderer })
    }
}

impl Base {
    /// What tells weights and preprocessing from all others; `None` without a model.
    #[must_use]
    pub fn fingerprint(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Vision { fingerprint, .. } => Some(fingerprint),
            Self::Contrastive(pair) => Some(pair.fingerprint()),
            Self::Writing { backend, .. } => Some(backend.fingerprint()),
        }
    }

    /// Kind of backend.
    #[must_use]
    pub fn backend(&self) -> &'static str {
        match self {
            Self::None | Self::Vision { .. } | Self::Contrastive(_) => "local",
            Self::Writing { backend, .. } => backend.kind(),
        }
    }

    /// Whether two learners' pictures are the same to the same model.
    pub(super) fn sees_as(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Writing { backend, renderer },
                Self::Writing {
                    backend: b,
                    renderer: r,
                },
            ) => Arc::ptr_eq(backend, b) && Arc::ptr_eq(renderer, r),
            _ => false,
        }
    }

    /// Pictures of which it keeps what its tower saw, where there is a bound.
    pub(super) fn room(&self) -> Option<usize> {
        match self {
            Self::Writing { backend, renderer } => backend.feature_capacity(renderer.most_tokens()?),
            Self::None | Self::Vision { .. } | Self::Contrastive(_) => None,
        }
    }

    /// How often pictures were looked up since it was loaded, for a model that keeps what its tower saw in them.
    #[must_use]
    pub fn sight(&self) -> Option<CacheStats> {
        match self {
            Self::Writing { backend, .. } => backend.cache_stats(),
            Self::None | Self::Vision { .. } | Self::Contrastive(_) => None,
        }
    }

    /// A fresh classifier of `learner`, whose base this is; training goes on from the PEFT folder `start` if
    /// there is one.
    ///
    /// # Errors
    /// When the learner does not stand on this base, or a class name cannot be learned.
    pub fn classifier(
        &self,
        learner: &Learner,
        classes: &[String],
        seed: u64,
        start: Option<&Path>,
    ) -> Result<Box<dyn Classifier>> {
        let count = classes.len();
        let unfit = |reason: &str, cause| {
            let path = learner.model().unwrap_or(Path::new("")).into();
            let reason = reason.into();
            Err(Error::Model { path, reason }.because(cause))
        };
        if start.is_some() && !matches!(learner, Learner::Qwen3VlLora(_)) {
            return unfit("of this kind cannot start from an adapter", Cause::NoWeights);
        }
        Ok(match (learner, self) {
            (Learner::Pixels(config), _) => Box::new(PixelNeighbour::new(config.clone())),
            (Learner::Dinov2Lora(config), Self::Vision { frozen, pass, .. }) => {
                let classifier = Dinov2Classifier::new(frozen.clone(), config.clone(), count, seed);
                Box::new(classifier.in_passes_of(*pass))
            }
            (Learner::NearestMean(_), Self::Vision { frozen, .. }) => {
                Box::new(Probe::nearest_mean(frozen.clone(), count))
            }
            (Learner::Knn(config), Self::Vision { frozen, .. }) => {
                Box::new(Probe::knn(frozen.clone(), count, config.clone()))
            }
            (Learner::LogisticRegression(config), Self::Vision { frozen, .. }) => {
                Box::new(Probe::logistic_regression(frozen.clone(), count, config.clone()))
            }
            (Learner::ClipZeroShot(config) | Learner::SiglipZeroShot(config), Self::Contrastive(pair)) => {
                let published = || {
                    templates::published(learner, None)
                        .iter()
                        .map(ToString::to_string)
                        .collect()
                };
                let texts = config.templates.clone().unwrap_or_else(published);
                Box::new(ZeroShotClassifier::new(pair.clone(), classes, &texts))
            }
            (Learner::Qwen3VlLora(config), Self::Writing { backend, renderer }) => {
                let classifier = VlmClassifier::new(backend.clone(), renderer.clone(), config.clone(), classes, seed)?;
                Box::new(match start {
                    Some(adapter) => classifier.starting_from(adapter),
                    None => classifier,
                })
            }
            _ => return unfit("was not loaded for this learner", Cause::Fault),
        })
    }
}

/// A vision model, and what tells its weights and preprocessing from all others.
fn vision(dir: &Path, place: &DeviceSpec, images: Option<Arc<ImageCache>>) -> Result<(Arc<Frozen>, Arc<str>)> {
    let frozen = Frozen::load(dir, place)?.keeping(images);
    let settings = image_settings(dir)?;
    let fingerprint = Sha256::new()
        .chain_update(frozen.model().fingerprint())
        .chain_update(&settings.text)
        .finalize();
    Ok((Arc::new(frozen), crate::fs::hash::hex(&fingerprint).into()))
}
