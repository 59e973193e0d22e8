//! Classifiers: what fits, predicts, saves and loads.

use std::path::Path;

use rayon::prelude::*;

use crate::config::Chosen;
use crate::data::LabelledImage;
use crate::error::{Cause, Error, Result};
use crate::learner::interleaved::Interleaved;
use crate::learner::state::Checkpoints;
use crate::prediction::{Names, Prediction};

/// A learner that has learned from k shots, or is about to.
pub trait Classifier {
    /// Learns from the shots; `on_step` hears of every optimiser step. With `keep`, a learner that trains by steps
    /// keeps its state, and goes on from one that is there already to the bit as if it had never stopped; one that
    /// does not ignores it.
    ///
    /// # Errors
    /// Unreadable images, tensor failures, a loss that is not finite, a state that cannot be written, whatever
    /// `on_step` reports: training ends there, and what was kept stays.
    fn fit(
        &mut self,
        shots: &[LabelledImage],
        keep: Option<&Checkpoints>,
        on_step: &mut dyn FnMut(Step) -> Result<()>,
    ) -> Result<Fit>;

    /// Predicts every image, in order; `sink` gets the rows of one batch at a time. Going on where an earlier call
    /// was cut short, after a whole number of its batches, gives the same rows to the bit.
    ///
    /// # Errors
    /// Unreadable images, tensor failures, whatever `sink` reports.
    fn predict(&mut self, images: &[LabelledImage], sink: &mut dyn FnMut(&[Prediction]) -> Result<()>) -> Result<()>;

    /// Writes what was learned to a folder.
    ///
    /// # Errors
    /// [`Error::Io`], or nothing was learned yet; by default that there is nothing to write.
    fn save(&mut self, dir: &Path) -> Result<()> {
        Err(nothing_to_save(dir))
    }

    /// Reads what [`Classifier::save`] wrote; predictions are then the same to the bit.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Model`] when the folder does not fit; by default that there can be nothing to read.
    fn load(&mut self, dir: &Path) -> Result<()> {
        Err(nothing_to_save(dir))
    }

    /// Itself, if it can be asked about images that were preprocessed before, in turn with others.
    fn interleaved(&mut self) -> Option<&mut dyn Interleaved> {
        None
    }

    /// Itself, if it is asked by a text beside the image.
    fn prompted(&mut self) -> Option<&mut dyn Prompted> {
        None
    }
}

/// A classifier that is given a text beside the image, and so can be asked without one: a control.
pub trait Prompted {
    /// As [`Classifier::predict`], but asked without the pictures.
    ///
    /// # Errors
    /// As [`Classifier::predict`].
    fn predict_without_image(
        &mut self,
        images: &[LabelledImage],
        sink: &mut dyn FnMut(&[Prediction]) -> Result<()>,
    ) -> Result<()>;

    /// Lengths of the class names and their likelihoods without a picture, where likelihoods of names are read.
    ///
    /// # Errors
    /// As [`Classifier::predict`].
    fn names(&mut self) -> Result<Option<Names>> {
        Ok(None)
    }
}

/// Progress of training. Steps that an earlier process did are told at once.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Steps done.
    pub done: usize,
    /// Steps in all.
    pub of: usize,
    /// Images seen since the last time.
    pub images: usize,
    /// Mean cross-entropy of the last step's batch, nats.
    pub loss: f64,
}

/// The account of a training.
#[derive(Debug, Clone, Default)]
pub struct Fit {
    /// Optimiser steps.
    pub steps: u64,
    /// Images passed through the model, repeats counted.
    pub images_seen: u64,
    /// Mean loss of the last tenth of the steps, nats.
    pub final_loss: Option<f64>,
    /// Numbers that were trained.
    pub trainable_parameters: u64,
    /// Its choice inside the shots, if it chooses.
    pub chosen: Option<Chosen>,
    /// Seconds of training up to the kept state that it went on from; 0 for one that started anew.
    pub seconds_before: f64,
    /// Sequences a pass since the device was out of memory, if it was.
    pub halved_to: Option<usize>,
}

/// Reads and decodes images in parallel, in order.
///
/// # Errors
/// The first unreadable image, by name.
pub(crate) fn read_images(images: &[LabelledImage]) -> Result<Vec<image::RgbImage>> {
    images.par_iter().map(LabelledImage::pixels).collect()
}

/// The row for one image of a classifier that names one class and perhaps a distribution.
pub(crate) fn row(image: &LabelledImage, class: u32, log_probs: Option<Vec<f32>>) -> Prediction {
    Prediction {
        id: image.id.clone(),
        sha256: image.sha256.clone(),
        group: image.group.clone(),
        truth: image.class,
        free_text: None,
        free_class: None,
        trie_class: None,
        likelihood_class: Some(class),
        log_probs,
    }
}

/// Methods without trained weights refuse to be saved, rather than write an empty folder.
fn nothing_to_save(dir: &Path) -> Error {
    Error::Model {
        path: dir.to_path_buf(),
        reason: "this method has no adapter: it is refitted from the shots".into(),
    }
    .because(Cause::NoWeights)
}

/// Nothing was trained that could be written to `dir`.
pub(crate) fn untrained(dir: &Path) -> Error {
    Error::Model {
        path: dir.to_path_buf(),
        reason: "the classifier was neither trained nor loaded".into(),
    }
    .because(Cause::Fault)
}

/// Index of the largest value; the first of equals, so that ties do not depend on anything.
pub(crate) fn argmax(values: &[f32]) -> u32 {
    let mut best = 0;
    for (i, v) in values.iter().enumerate() {
        if *v > values[best] {
            best = i;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argmax_takes_the_first_of_equals() {
        assert_eq!(argmax(&[0.0, 2.0, 2.0, 1.0]), 1);
        assert_eq!(argmax(&[3.0]), 0);
    }
}
