//! One cell: k shots → training → predictions on the whole test set → record. Without shots nothing is trained:
//! the base model answers as it is. A cell that was cut short goes on where it was: at most
//! `checkpoint_steps` steps or one batch of answers are computed again, and the record is the same but for its times.
//!
//! Where the sweep asks for a temperature it is fitted inside the shots: of every class a part is held out in turn, the cell's
//! learner is trained afresh on the rest and predicts it; one number is fitted to all these predictions. It costs as many
//! trainings again as there are folds, and no test image has a part in it.

use std::time::Instant;

use rayon::prelude::*;

use crate::config::Protocol;
use crate::data::card::Card;
use crate::data::split::Split;
use crate::data::{Dataset, LabelledImage};
use crate::error::Result;
use crate::experiment::adapter::Origin;
use crate::experiment::config::Sweep;
use crate::experiment::plan::Cell;
use crate::learner::{Checkpoints, Classifier, Fit, Step, View, folds};
use crate::manifest::Layout;
use crate::statistics::calibration::Fitted;
use crate::statistics::metric::Headline;
use crate::store::Store;
use crate::store::partial::PartialPredictions;
use crate::store::record::{CellDetails, Record, Timing, TrainingSummary, utc_now};

/// A step of a cell while it runs; those of an earlier process are told at once.
#[derive(Debug, Clone, Copy)]
pub enum Event {
    /// Optimiser steps were done.
    Trained(Step),
    /// So many more test images were predicted.
    Predicted(usize),
    /// All is computed, the record is stored next.
    Complete,
}

/// What a record says of the process that made it.
#[derive(Debug, Clone, Copy)]
pub struct Provenance<'a> {
    /// Commit of the source tree, where known.
    pub commit: Option<&'a str>,
    /// Threads of the process.
    pub threads: usize,
    /// Cells that run side by side and share them.
    pub jobs: usize,
}

/// Trains and evaluates one cell of a sweep and stores its record; where the sweep says so, also the trained weights.
///
/// # Errors
/// Whatever training, prediction, the store or `on` report; nothing counts as finished then, and the next call goes on
/// where this one came to.
pub fn run(
    cell: &Cell,
    store: &Store,
    sweep: &Sweep,
    provenance: Provenance,
    on: &mut dyn FnMut(Event) -> Result<()>,
) -> Result<Record> {
    let test = cell.test()?;
    let mut trained = Trained::train(cell, &test, store, sweep, on)?;
    trained.predict(on)?;
    trained.finish(store, sweep, provenance, on)
}

/// A cell whose training is done.
pub(super) struct Trained<'c, 't> {
    pub cell: &'c Cell,
    shots: Vec<LabelledImage>,
    keep: Checkpoints,
    partial: PartialPredictions<'t>,
    classifier: Box<dyn Classifier>,
    fit: Fit,
    train_seconds: f64,
}

impl<'c, 't> Trained<'c, 't> {
    /// Trains a cell, of which these are the test images, or reads what an earlier process has trained.
    pub(super) fn train(
        cell: &'c Cell,
        test: &'t [LabelledImage],
        store: &Store,
        sweep: &Sweep,
        on: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<Self> {
        let shots = cell.shots()?;
        let keep = Checkpoints {
            folder: store.state(&cell.run_id),
            every: sweep.checkpoint_steps,
            run_id: cell.run_id.clone(),
        };
        let partial = store.partial(&cell.run_id, test)?;
        let mut classifier = cell.classifier()?;
        let (fit, train_seconds) = learn(classifier.as_mut(), &shots, &keep, on)?;
        on(Event::Predicted(partial.rows().len()))?;
        Ok(Self {
            cell,
            shots,
            keep,
            partial,
            classifier,
            fit,
            train_seconds,
        })
    }

    /// Test images that are predicted, the first of all.
    pub(super) fn predicted(&self) -> usize {
        self.partial.rows().len()
    }

    /// Images that are predicted at once.
    pub(super) fn batch(&mut self) -> usize {
        self.classifier.interleaved().map_or(1, |classifier| classifier.batch())
    }

    /// Gives back memory that is not needed until it is asked again.
    pub(super) fn release(&mut self) {
        if let Some(classifier) = self.classifier.interleaved() {
            classifier.release();
        }
    }

    /// Views of images for its model; `None` where one cannot be read, or the classifier reads files itself.
    pub(super) fn preprocess(&mut self, images: &[LabelledImage]) -> Option<Vec<View>> {
        let preprocessor = self.classifier.interleaved()?.preprocessor();
        let views = images.par_iter().map(|image| preprocessor.preprocess_file(image));
        views.collect::<Result<_>>().ok()
    }

    /// Predicts the test images that are missing.
    pub(super) fn predict(&mut self, on: &mut dyn FnMut(Event) -> Result<()>) -> Result<()> {
        let (partial, mut start) = (&mut self.partial, Instant::now());
        self.classifier.predict(partial.missing(), &mut |rows| {
            partial.append(rows, start.elapsed().as_secs_f64())?;
            start = Instant::now();
            on(Event::Predicted(rows.len()))
        })
    }

    /// Predicts the next test images, which were [preprocessed](Self::preprocess) in `seconds`.
    pub(super) fn predict_views(
        &mut self,
        images: &[LabelledImage],
        views: &[View],
        seconds: f64,
        on: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<()> {
        let start = Instant::now();
        let Some(classifier) = self.classifier.interleaved() else {
            return Ok(());
        };
        let rows = classifier.predict_views(images, views)?;
        self.partial.append(&rows, seconds + start.elapsed().as_secs_f64())?;
        on(Event::Predicted(rows.len()))
    }

    /// Stores the record, and where the sweep says so the trained weights.
    pub(super) fn finish(
        mut self,
        store: &Store,
        sweep: &Sweep,
        provenance: Provenance,
        on: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<Record> {
        let cell = self.cell;
        if let Some(sight) = cell.lookups() {
            let megabytes = sight.bytes as f64 / 1e6;
            let (hits, misses) = (sight.hits, sight.misses);
            tracing::info!(
                "pictures so far: {misses} seen by the tower, {hits} known already; {megabytes:.0} MB of features kept"
            );
        }

        if sweep.save_adapters && cell.learner.has_adapter() && !self.shots.is_empty() {
            let folder = store.adapter(&cell.run_id);
            self.classifier.save(&folder)?;
            Origin::of(cell.learner.clone(), &cell.split, cell.fingerprint(), sweep.exif)?.write(&folder)?;
        }
        let names = match self.classifier.prompted() {
            Some(classifier) => classifier.names()?,
            None => None,
        };
        let (partial, fit) = (&self.partial, self.fit);
        let fitted = fitted(cell, &self.shots, fit.chosen.is_some(), store, &self.keep, on)?;
        let predictions = partial.complete()?;
        let details = CellDetails {
            reading: cell.learner.reading(),
            headline: headline(&cell.dataset, cell.key.protocol),
            micro: cell.dataset.micro,
            regime: cell.dataset.regime.map(|regime| regime.to_string()),
            split_sha256: store.write_split(&cell.key, cell.split.as_ref())?,
            card: Some(card(&cell.dataset, &cell.split)?),
            fitted,
            names,
            training: TrainingSummary {
                steps: fit.steps,
                images_seen: fit.images_seen,
                final_loss: fit.final_loss,
                trainable_parameters: fit.trainable_parameters,
                halved_to: fit.halved_to,
                chosen: fit.chosen,
            },
            timing: Timing {
                train_seconds: self.train_seconds,
                eval_seconds: partial.eval_seconds(),
                train_images_per_second: fit.images_seen as f64 / self.train_seconds,
                eval_images_per_second: predictions.len() as f64 / partial.eval_seconds(),
                device: cell.place.device_name(),
                threads: provenance.threads,
                jobs: provenance.jobs,
                devices: 1,
                sessions: partial.sessions(),
                finished: utc_now(),
                commit: provenance.commit.map(str::to_owned),
            },
        };
        on(Event::Complete)?;
        let record = store.finish(&cell.identity(), details, predictions)?;
        if let Err(error) = self.keep.forget().and_then(|()| forget(cell, store, &self.keep)) {
            // The cell is whole without it.
            tracing::warn!("{error}, which is of no use any more");
        }
        Ok(record)
    }
}

/// Fits the classifier to the shots, if there are any; gives its account, and the seconds it took in all processes.
fn learn(
    classifier: &mut dyn Classifier,
    shots: &[LabelledImage],
    keep: &Checkpoints,
    on: &mut dyn FnMut(Event) -> Result<()>,
) -> Result<(Fit, f64)> {
    if shots.is_empty() {
        return Ok((Fit::default(), 0.0));
    }
    let start = Instant::now();
    let fit = classifier.fit(shots, Some(keep), &mut |step| on(Event::Trained(step)))?;
    let seconds = fit.seconds_before + start.elapsed().as_secs_f64();
    Ok((fit, seconds))
}

/// The temperature of a cell, where its sweep asks for one and the shots allow it: a learner that `chose` its settings inside
/// all shots has none where a fold leaves it too few to choose by, as that would be another model's. `keep` is that of the cell's own
/// training: states of the folds lie beside its state, so that a cell that is cut short here goes on in the same fold.
fn fitted(
    cell: &Cell,
    shots: &[LabelledImage],
    chose: bool,
    store: &Store,
    keep: &Checkpoints,
    on: &mut dyn FnMut(Event) -> Result<()>,
) -> Result<Option<Fitted>> {
    let Some(count) = cell.folds else {
        return Ok(None);
    };
    let Some(places) = folds::stratified(shots, count) else {
        let key = &cell.key;
        tracing::warn!("{key}: no temperature, as a class has fewer than {count} independent shots");
        return Ok(None);
    };
    let mut held_out = Vec::with_capacity(shots.len());
    for fold in 0..count {
        let part = |held: bool| -> Vec<LabelledImage> {
            let chosen = shots.iter().zip(&places).filter(|(_, place)| (**place == fold) == held);
            chosen.map(|(shot, _)| shot.clone()).collect()
        };
        let mut classifier = cell.classifier()?;
        let keep = of_fold(keep, store, &cell.run_id, fold);
        // No images of the cell's own: its progress is not moved.
        let told = |step: Step| Event::Trained(Step { images: 0, ..step });
        let fit = classifier.fit(&part(false), Some(&keep), &mut |step| on(told(step)))?;
        if chose && fit.chosen.is_none() {
            let key = &cell.key;
            tracing::warn!("{key}: no temperature, as with a part held out there are too few shots to choose by");
            return Ok(None);
        }
        classifier.predict(&part(true), &mut |rows| {
            held_out.extend_from_slice(rows);
            on(Event::Predicted(0))
        })?;
    }
    Ok(Fitted::of(count, &held_out))
}

/// Removes what the folds kept.
fn forget(cell: &Cell, store: &Store, keep: &Checkpoints) -> Result<()> {
    (0..cell.folds.unwrap_or(0)).try_for_each(|fold| of_fold(keep, store, &cell.run_id, fold).forget())
}

fn of_fold(keep: &Checkpoints, store: &Store, run_id: &str, fold: usize) -> Checkpoints {
    Checkpoints {
        folder: store.state(&format!("{run_id}.fold-{fold}")),
        every: keep.every,
        run_id: format!("{run_id}.fold-{fold}"),
    }
}

/// Caltech-101's test classes differ tenfold in size, so its papers report the mean over classes; CoOp's and the
/// Tinker cookbook's numbers are shares of all test images.
fn headline(dataset: &Dataset, protocol: Protocol) -> Headline {
    match (dataset.layout, protocol) {
        (Layout::Caltech101, Protocol::Clean) => Headline::MeanPerClass,
        _ => Headline::Top1,
    }
}

/// The protocol card of a split.
///
/// # Errors
/// As [`Card::of`].
pub fn card(dataset: &Dataset, split: &Split) -> Result<Card> {
    Card::of(dataset, split, headline(dataset, split.protocol).name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prediction::Prediction;

    /// Counts how often it is fitted, and to how many images.
    #[derive(Default)]
    struct Witness(Vec<usize>);

    impl Classifier for Witness {
        fn fit(
            &mut self,
            shots: &[LabelledImage],
            _: Option<&Checkpoints>,
            on_step: &mut dyn FnMut(Step) -> Result<()>,
        ) -> Result<Fit> {
            self.0.push(shots.len());
            on_step(Step {
                done: 1,
                of: 1,
                images: shots.len(),
                loss: 0.5,
            })?;
            Ok(Fit {
                steps: 1,
                seconds_before: 1000.0,
                ..Fit::default()
            })
        }
        fn predict(&mut self, _: &[LabelledImage], _: &mut dyn FnMut(&[Prediction]) -> Result<()>) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nothing_is_fitted_without_shots() {
        let image = LabelledImage {
            id: "a.png".into(),
            class: 0,
            sha256: String::new(),
            path: "a.png".into(),
            ..LabelledImage::default()
        };
        let mut witness = Witness::default();
        let (mut events, mut steps) = (0, 0);
        let keep = Checkpoints {
            folder: "states/a".into(),
            every: 1,
            run_id: "a".into(),
        };
        for shots in [&[][..], &[image][..]] {
            let on = &mut |_| {
                events += 1;
                Ok(())
            };
            let (fit, seconds) = learn(&mut witness, shots, &keep, on).unwrap();
            assert_eq!(
                seconds >= 1000.0,
                !shots.is_empty(),
                "{seconds} seconds with those of earlier processes"
            );
            steps += fit.steps;
        }
        assert_eq!((witness.0, events, steps), (vec![1], 1, 1));
    }
}
