//! The weights that a classifier which writes has learned, and the sampler that answers by them.

use std::path::Path;
use std::sync::Arc;

use crate::backend::{Backend, Sampler, Trainer, Weights};
use crate::error::Result;
use crate::learner::untrained;

/// Weights, and a sampler of them: made when it is needed, and again after a [release](Learned::release).
pub(super) struct Learned {
    weights: Of,
    sampler: Option<Box<dyn Sampler>>,
}

/// The holder of the weights.
enum Of {
    Backend(Arc<dyn Backend>, Weights),
    Trainer(Box<dyn Trainer>),
}

impl Learned {
    /// The base model's.
    pub(super) fn nothing(backend: Arc<dyn Backend>) -> Self {
        Self {
            weights: Of::Backend(backend, Weights::Base),
            sampler: None,
        }
    }

    /// Those of a training that is done.
    ///
    /// # Errors
    /// As [`Trainer::sampler`].
    pub(super) fn by(mut trainer: Box<dyn Trainer>) -> Result<Self> {
        Ok(Self {
            sampler: Some(trainer.sampler()?),
            weights: Of::Trainer(trainer),
        })
    }

    /// Those that [`Learned::save`] wrote.
    ///
    /// # Errors
    /// As [`Backend::sampler`].
    pub(super) fn saved(backend: Arc<dyn Backend>, dir: &Path) -> Result<Self> {
        let weights = Weights::Saved(dir.display().to_string());
        Ok(Self {
            sampler: Some(backend.sampler(&weights)?),
            weights: Of::Backend(backend, weights),
        })
    }

    /// The sampler.
    ///
    /// # Errors
    /// As [`Trainer::sampler`] or [`Backend::sampler`].
    pub(super) fn sampler(&mut self) -> Result<&mut dyn Sampler> {
        let sampler = match self.sampler.take() {
            Some(sampler) => sampler,
            None => match &mut self.weights {
                Of::Backend(backend, weights) => backend.sampler(weights)?,
                Of::Trainer(trainer) => trainer.sampler()?,
            },
        };
        Ok(&mut **self.sampler.insert(sampler))
    }

    /// Frees the sampler, which holds a copy of every adapted weight.
    pub(super) fn release(&mut self) {
        self.sampler = None;
    }

    /// Writes what was trained.
    ///
    /// # Errors
    /// [`crate::error::Error::Model`] when nothing was; as [`Trainer::save_weights_for_sampler`].
    pub(super) fn save(&mut self, dir: &Path) -> Result<()> {
        match &mut self.weights {
            Of::Trainer(trainer) => trainer.save_weights_for_sampler(&dir.display().to_string()).map(drop),
            Of::Backend(..) => Err(untrained(dir)),
        }
    }
}
