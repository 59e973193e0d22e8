//! How one learns: a classifier sees k labelled images per class, then says what is in an image.

pub mod dinov2;
pub mod features;
pub mod folds;
mod order;
pub mod pixels;
pub mod probe;
pub mod reading;
mod state;
mod training;
mod view;
pub mod vlm;
pub mod zero_shot;

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use crate::config::Chosen;
use crate::data::LabelledImage;
use crate::error::{Cause, Error, Result};
use crate::prediction::{Names, Prediction};
pub use state::Keep;
pub use view::{Eye, View};

/// One way of learning from k shots.
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
        keep: Option<&Keep>,
        on_step: &mut dyn FnMut(Step) -> Result<()>,
    ) -> Result<Fit>;

    /// Predicts every image, in order; `sink` gets the rows of one batch at a time. Going on where an earlier call
    /// was cut short, after a whole number of its batches, gives the same rows to the bit.
    ///
    /// # Errors
    /// Unreadable images, tensor failures, whatever `sink` reports.
    fn predict(&mut self, images: &[LabelledImage], sink: &mut dyn FnMut(&[Prediction]) -> Result<()>) -> Result<()>;

    /// As [`Classifier::predict`], but asked without the pictures: a control. Says whether it can be asked so; a
    /// method that is given nothing but the picture cannot.
    ///
    /// # Errors
    /// As [`Classifier::predict`].
    fn predict_blind(
        &mut self,
        _images: &[LabelledImage],
        _sink: &mut dyn FnMut(&[Prediction]) -> Result<()>,
    ) -> Result<bool> {
        Ok(false)
    }

    /// Lengths of the class names and their likelihoods without a picture, of a method that reads likelihoods of names.
    ///
    /// # Errors
    /// As [`Classifier::predict`].
    fn names(&mut self) -> Result<Option<Names>> {
        Ok(None)
    }

    /// How it sees images: what can be done for images before the model has time for them.
    fn eye(&self) -> Arc<dyn Eye> {
        view::decoding()
    }

    /// Images that [`Classifier::predict`] takes at once.
    fn batch(&self) -> usize {
        features::BATCH
    }

    /// Predicts images that its [`Classifier::eye`] has seen, one view each, at most [`Classifier::batch`] of them: the rows
    /// that [`Classifier::predict`] gives for these images, to the bit if it takes them at once too.
    ///
    /// # Errors
    /// As [`Classifier::predict`].
    fn predict_seen(&mut self, images: &[LabelledImage], _views: &[View]) -> Result<Vec<Prediction>> {
        let mut rows = Vec::with_capacity(images.len());
        self.predict(images, &mut |batch| {
            rows.extend_from_slice(batch);
            Ok(())
        })?;
        Ok(rows)
    }

    /// Frees what it can make again, to the bit, from what it has learned: others are asked meanwhile.
    fn rest(&mut self) {}

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

/// What training did.
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
    /// What it chose inside the shots, if it chooses.
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
