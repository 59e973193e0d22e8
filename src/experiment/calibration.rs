//! A temperature for a cell's probabilities, fitted inside its shots: of every class a part is held out in turn, the cell's
//! learner is trained afresh on the rest and predicts it; one number is fitted to all these predictions. It costs as many
//! trainings again as there are folds, and no test image has a part in it.

use crate::data::LabelledImage;
use crate::error::Result;
use crate::experiment::event::Event;
use crate::experiment::plan::Cell;
use crate::learner::{Checkpoints, Step, folds};
use crate::statistics::calibration::Fitted;
use crate::store::Store;

/// The temperature of a cell, where its sweep asks for one and the shots allow it: a learner that `chose` its settings inside
/// all shots has none where a fold leaves it too few to choose by, as that would be another model's. `keep` is that of the cell's own
/// training: states of the folds lie beside its state, so that a cell that is cut short here goes on in the same fold.
///
/// # Errors
/// Whatever training, prediction or `on` report.
pub(super) fn fitted(
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
///
/// # Errors
/// [`crate::error::Error::Io`] when something stays.
pub(super) fn forget(cell: &Cell, store: &Store, keep: &Checkpoints) -> Result<()> {
    (0..cell.folds.unwrap_or(0)).try_for_each(|fold| of_fold(keep, store, &cell.run_id, fold).forget())
}

fn of_fold(keep: &Checkpoints, store: &Store, run_id: &str, fold: usize) -> Checkpoints {
    Checkpoints {
        folder: store.state(&format!("{run_id}.fold-{fold}")),
        every: keep.every,
        run_id: format!("{run_id}.fold-{fold}"),
    }
}
