//! Classifiers: what fits, predicts, saves and loads; and capabilities that some of them offer.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::Chosen;
use crate::data::LabelledImage;
use crate::error::{Cause, Error, Result};
use crate::example::{Picture, Renderer, model_error};
use crate::fs::folder;
use crate::prediction::{Names, Prediction};

/// Hears of every step of a training; what it reports as an error ends the training.
pub type OnStep<'a> = &'a mut dyn FnMut(Step) -> Result<()>;
/// Takes the rows of one batch at a time.
pub type Sink<'a> = &'a mut dyn FnMut(&[Prediction]) -> Result<()>;

/// A learner that has learned from k shots, or is about to.
pub trait Classifier {
    /// Learns from the shots; `on_step` hears of every optimiser step. With `keep`, a learner that trains by steps
    /// keeps its state, and goes on from one that is there already to the bit as if it had never stopped; one that
    /// does not ignores it.
    ///
    /// # Errors
    /// Unreadable images, tensor failures, a loss that is not finite, a state that cannot be written, whatever
    /// `on_step` reports: training ends there, and what was kept stays.
    fn fit(&mut self, shots: &[LabelledImage], keep: Option<&Checkpoints>, on_step: OnStep<'_>) -> Result<Fit>;

    /// Predicts every image, in order; `sink` gets the rows of one batch at a time. Going on where an earlier call
    /// was cut short, after a whole number of its batches, gives the same rows to the bit.
    ///
    /// # Errors
    /// Unreadable images, tensor failures, whatever `sink` reports.
    fn predict(&mut self, images: &[LabelledImage], sink: Sink<'_>) -> Result<()>;

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
    fn predict_without_image(&mut self, images: &[LabelledImage], sink: Sink<'_>) -> Result<()>;

    /// Lengths of the class names and their likelihoods without a picture, where likelihoods of names are read.
    ///
    /// # Errors
    /// As [`Classifier::predict`].
    fn names(&mut self) -> Result<Option<Names>> {
        Ok(None)
    }
}

/// Classifiers that are asked in turn at most: each keeps its adapter and optimiser meanwhile, and what one process has claimed
/// no other can run.
pub(crate) const TOGETHER: usize = 4;

/// A classifier that can be asked about preprocessed images, in turn with others. Reading, decoding and resizing need no model:
/// they can be done for the next images while it works on these, and once for several classifiers that are shown the same.
pub trait Interleaved {
    /// The preprocessing of images, which needs no model.
    fn preprocessor(&self) -> Arc<dyn Preprocessor>;

    /// Images that [`Classifier::predict`] takes at once.
    fn batch(&self) -> usize;

    /// Predicts images of which these are the views, at most [`Interleaved::batch`] of them: the rows that
    /// [`Classifier::predict`] gives for these images, to the bit if it takes them at once too.
    ///
    /// # Errors
    /// As [`Classifier::predict`].
    fn predict_views(&mut self, images: &[LabelledImage], views: &[View]) -> Result<Vec<Prediction>>;

    /// Frees memory that can be filled again, to the bit, from what was learned: others are asked meanwhile.
    fn release(&mut self) {}
}

/// An image, ready for a model.
#[derive(Debug, Clone)]
pub enum View {
    /// Normalised values, planar: 3·H·W numbers.
    Values(Vec<f32>),
    /// As a model that writes is given it.
    Picture(Picture),
}

/// Turns image files into views.
pub trait Preprocessor: Send + Sync {
    /// The view of an image, of which these are the file's bytes.
    ///
    /// # Errors
    /// [`crate::error::Error::Image`] when it cannot be decoded, or has a form that the model cannot take.
    fn preprocess(&self, image: &LabelledImage, bytes: &[u8]) -> Result<View>;

    /// The same of its file; what was made of it before may come from a cache.
    ///
    /// # Errors
    /// As [`LabelledImage::bytes`] and [`Preprocessor::preprocess`].
    fn preprocess_file(&self, image: &LabelledImage) -> Result<View> {
        self.preprocess(image, &image.bytes()?)
    }
}

impl Preprocessor for Renderer {
    fn preprocess(&self, image: &LabelledImage, bytes: &[u8]) -> Result<View> {
        self.picture_in(image, bytes).map(View::Picture)
    }

    fn preprocess_file(&self, image: &LabelledImage) -> Result<View> {
        self.picture_of(image, false).map(View::Picture)
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

/// The folder where a training keeps its checkpoint.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    /// A folder of its own; each checkpoint takes the place of the one before.
    pub folder: PathBuf,
    /// Optimiser steps between two checkpoints; a last one follows the last step.
    pub every: usize,
    /// The cell that is trained: nothing goes on from the checkpoint of another.
    pub run_id: String,
}

impl Checkpoints {
    /// Removes the checkpoint, if there is one.
    ///
    /// # Errors
    /// [`Error::Io`] when it stays.
    pub fn forget(&self) -> Result<()> {
        folder::forget(&self.folder)
    }
}

/// Methods without trained weights refuse to be saved, rather than write an empty folder.
fn nothing_to_save(dir: &Path) -> Error {
    let reason = "this method has no adapter: it is refitted from the shots";
    model_error(dir, reason).because(Cause::NoWeights)
}

/// Nothing was trained that could be written to `dir`.
pub(crate) fn untrained(dir: &Path) -> Error {
    model_error(dir, "the classifier was neither trained nor loaded").because(Cause::Fault)
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
