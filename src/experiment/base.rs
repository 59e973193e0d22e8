//! Base models, each loaded once, and the classifiers that learn on top of them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::DType;
use sha2::{Digest as _, Sha256};

use crate::backend::Backend;
use crate::backend::local::LocalBackend;
use crate::config::{Dtype, Learner};
use crate::data::{self, fetch::HubPlaces};
use crate::engine::Settings;
use crate::error::{Error, Result};
use crate::example::{ImageCache, Renderer};
use crate::method::Classifier;
use crate::method::dinov2::Dinov2Classifier;
use crate::method::features::Frozen;
use crate::method::pixels::PixelNeighbour;
use crate::method::probe::Probe;
use crate::method::vlm::VlmClassifier;
use crate::nn::Place;

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
    },
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
    device: Option<Place>,
    images: Option<Arc<ImageCache>>,
    vision: HashMap<(PathBuf, DType), Base>,
    backends: HashMap<(PathBuf, bool, DType), Arc<dyn Backend>>,
    renderers: HashMap<(PathBuf, u32), Arc<Renderer>>,
}

impl Bases {
    /// None loaded yet; relative model folders are those of the working folder or of `home`.
    #[must_use]
    pub fn new(home: &Path) -> Self {
        Self {
            home: home.to_path_buf(),
            device: None,
            images: None,
            vision: HashMap::new(),
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
    pub fn place(&mut self, learner: &Learner) -> Result<Place> {
        if learner.model().is_none() {
            return Ok(Place::cpu());
        }
        let best = match &self.device {
            Some(place) => place.clone(),
            None => self.device.insert(Place::best()?).clone(),
        };
        let dtype = match learner.dtype() {
            Dtype::Auto => best.dtype,
            Dtype::F32 => DType::F32,
            Dtype::Bf16 => DType::BF16,
            Dtype::F16 => DType::F16,
        };
        Ok(Place { dtype, ..best })
    }

    /// The base of a learner, loaded at the first call.
    ///
    /// # Errors
    /// [`Error::Model`] when its folder lacks something; [`Error::Device`].
    pub fn of(&mut self, learner: &Learner) -> Result<Base> {
        let Some(model) = learner.model() else {
            return Ok(Base::None);
        };
        let dir = model_folder(model, &self.home).ok_or_else(|| no_model(model, &self.home))?;
        let place = self.place(learner)?;
        let Learner::Qwen3VlLora(config) = learner else {
            let key = (dir, place.dtype);
            if !self.vision.contains_key(&key) {
                let base = vision(&key.0, &place, self.images.clone())?;
                self.vision.insert(key.clone(), base);
            }
            return Ok(self.vision.get(&key).cloned().unwrap_or(Base::None));
        };
        let renderer = match self.renderers.get(&(dir.clone(), config.longest_side)) {
            Some(renderer) => renderer.clone(),
            None => {
                let renderer = Arc::new(Renderer::load(&dir, Some(config.longest_side))?.keeping(self.images.clone()));
                let key = (dir.clone(), config.longest_side);
                self.renderers.insert(key, renderer.clone());
                renderer
            }
        };
        let key = (dir, config.checkpointing, place.dtype);
        let backend = match self.backends.get(&key) {
            Some(backend) => backend.clone(),
            None => {
                let settings = Settings {
                    checkpointing: config.checkpointing,
                    ..Settings::default()
                };
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
            Self::Writing { backend, .. } => Some(backend.fingerprint()),
        }
    }

    /// Kind of backend.
    #[must_use]
    pub fn backend(&self) -> &'static str {
        match self {
            Self::None | Self::Vision { .. } => "local",
            Self::Writing { backend, .. } => backend.kind(),
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
        let unfit = |reason: &str| {
            Err(Error::Model {
                path: learner.model().unwrap_or(Path::new("")).into(),
                reason: reason.into(),
            })
        };
        if start.is_some() && !matches!(learner, Learner::Qwen3VlLora(_)) {
            return unfit("of this kind cannot start from an adapter");
        }
        Ok(match (learner, self) {
            (Learner::Pixels(config), _) => Box::new(PixelNeighbour::new(config.clone())),
            (Learner::Dinov2Lora(config), Self::Vision { frozen, .. }) => {
                Box::new(Dinov2Classifier::new(frozen.clone(), config.clone(), count, seed))
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
            (Learner::Qwen3VlLora(config), Self::Writing { backend, renderer }) => {
                let classifier = VlmClassifier::new(backend.clone(), renderer.clone(), config.clone(), classes, seed)?;
                Box::new(match start {
                    Some(adapter) => classifier.starting_from(adapter),
                    None => classifier,
                })
            }
            _ => return unfit("was not loaded for this learner"),
        })
    }
}

/// The folder of a model as a config names it: absolute, or relative to the working folder or to `home`, or `owner/name` of a
/// hub repository of which the hub's cache has a snapshot.
pub(super) fn model_folder(model: &Path, home: &Path) -> Option<PathBuf> {
    let near = [model.to_path_buf(), home.join(model)];
    near.into_iter().find(|folder| folder.is_dir()).or_else(|| {
        let name = model.to_str().filter(|_| is_repository(model))?;
        let cached = HubPlaces::from_env()
            .cache
            .join(format!("models--{}", name.replace('/', "--")));
        let commit = std::fs::read_to_string(cached.join("refs/main")).ok()?;
        Some(cached.join("snapshots").join(commit.trim())).filter(|folder| folder.is_dir())
    })
}

fn no_model(model: &Path, home: &Path) -> Error {
    let (path, reason) = match model.to_str().filter(|_| is_repository(model)) {
        Some(name) => (
            model.to_path_buf(),
            format!("there is no such folder, nor a snapshot in the hub's cache: `hf download {name}` puts it there"),
        ),
        None => (home.join(model), "there is no such folder".into()),
    };
    Error::Model { path, reason }
}

/// Whether it may be the `owner/name` of a hub repository.
fn is_repository(model: &Path) -> bool {
    model.is_relative() && model.components().count() == 2
}

fn vision(dir: &Path, place: &Place, images: Option<Arc<ImageCache>>) -> Result<Base> {
    let frozen = Frozen::load(dir, place)?.keeping(images);
    let preprocessing = dir.join("preprocessor_config.json");
    let bytes = std::fs::read(&preprocessing).map_err(Error::io("read", &preprocessing))?;
    let fingerprint = Sha256::new()
        .chain_update(frozen.model().fingerprint())
        .chain_update(&bytes)
        .finalize();
    Ok(Base::Vision {
        frozen: Arc::new(frozen),
        fingerprint: data::hex(&fingerprint).into(),
    })
}
