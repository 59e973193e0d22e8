//! One cell: k shots → training → predictions on the whole test set → record. Without shots nothing is trained:
//! the base model answers as it is.

use std::time::Instant;

use crate::data::LabelledImage;
use crate::data::manifest::Layout;
use crate::error::Result;
use crate::experiment::plan::Cell;
use crate::method::{Classifier, Fit, Step};
use crate::prediction::Prediction;
use crate::results::metric::Headline;
use crate::results::record::{Account, Record, Timing, TrainingSummary, utc_now};
use crate::results::store::Store;

/// What a cell tells while it runs.
#[derive(Debug, Clone, Copy)]
pub enum Event {
    /// An optimiser step was done.
    Trained(Step),
    /// So many more test images were predicted.
    Predicted(usize),
}

/// Trains and evaluates one cell and stores its record; with `keep_adapter` also the trained weights.
/// `commit` is that of the source tree, where known.
///
/// # Errors
/// Whatever training, prediction or the store report; nothing counts as finished then.
pub fn run(
    cell: &Cell,
    store: &Store,
    keep_adapter: bool,
    commit: Option<&str>,
    on: &mut dyn FnMut(Event),
) -> Result<Record> {
    let (shots, test) = (cell.shots()?, cell.test()?);
    let mut classifier = cell.classifier()?;

    let (fit, train_seconds) = learn(classifier.as_mut(), &shots, on)?;

    let start = Instant::now();
    let mut partial = store.partial(&cell.run_id)?;
    let mut predictions: Vec<Prediction> = Vec::with_capacity(test.len());
    classifier.predict(&test, &mut |rows| {
        partial.append(rows)?;
        predictions.extend_from_slice(rows);
        on(Event::Predicted(rows.len()));
        Ok(())
    })?;
    let eval_seconds = start.elapsed().as_secs_f64();

    if keep_adapter && cell.learner.has_adapter() && !shots.is_empty() {
        classifier.save(&store.adapter(&cell.run_id))?;
    }
    let account = Account {
        reading: cell.learner.reading(),
        headline: headline(cell),
        micro: cell.dataset.micro,
        regime: cell.dataset.regime.map(|regime| regime.to_string()),
        split_sha256: store.write_split(&cell.key, cell.split.as_ref())?,
        training: TrainingSummary {
            steps: fit.steps,
            images_seen: fit.images_seen,
            final_loss: fit.final_loss,
            trainable_parameters: fit.trainable_parameters,
        },
        timing: Timing {
            train_seconds,
            eval_seconds,
            train_images_per_second: fit.images_seen as f64 / train_seconds,
            eval_images_per_second: predictions.len() as f64 / eval_seconds,
            device: "cpu".into(),
            threads: rayon::current_num_threads(),
            devices: 1,
            sessions: 1,
            finished: utc_now(),
            commit: commit.map(str::to_owned),
        },
    };
    store.finish(&cell.identity(), account, &predictions)
}

/// Fits the classifier to the shots, if there are any; what it did, and the seconds it took.
fn learn(classifier: &mut dyn Classifier, shots: &[LabelledImage], on: &mut dyn FnMut(Event)) -> Result<(Fit, f64)> {
    if shots.is_empty() {
        return Ok((Fit::default(), 0.0));
    }
    let start = Instant::now();
    let fit = classifier.fit(shots, &mut |step| on(Event::Trained(step)))?;
    Ok((fit, start.elapsed().as_secs_f64()))
}

/// Caltech-101's test classes differ tenfold in size, so its papers report the mean over classes.
fn headline(cell: &Cell) -> Headline {
    match cell.dataset.layout {
        Layout::Caltech101 => Headline::MeanPerClass,
        _ => Headline::Top1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// Counts how often it is fitted, and to how many images.
    #[derive(Default)]
    struct Witness(Vec<usize>);

    impl Classifier for Witness {
        fn fit(&mut self, shots: &[LabelledImage], on_step: &mut dyn FnMut(Step)) -> Result<Fit> {
            self.0.push(shots.len());
            on_step(Step {
                done: 1,
                of: 1,
                images: shots.len(),
                loss: 0.5,
            });
            Ok(Fit {
                steps: 1,
                ..Fit::default()
            })
        }
        fn predict(&mut self, _: &[LabelledImage], _: &mut dyn FnMut(&[Prediction]) -> Result<()>) -> Result<()> {
            Ok(())
        }
        fn save(&mut self, _: &Path) -> Result<()> {
            Ok(())
        }
        fn load(&mut self, _: &Path) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nothing_is_fitted_without_shots() {
        let image = LabelledImage {
            id: "a.png".into(),
            class: 0,
            sha256: String::new(),
            group: None,
            path: "a.png".into(),
        };
        let mut witness = Witness::default();
        let (mut events, mut steps) = (0, 0);
        for shots in [&[][..], &[image][..]] {
            let (fit, _) = learn(&mut witness, shots, &mut |_| events += 1).unwrap();
            steps += fit.steps;
        }
        assert_eq!((witness.0, events, steps), (vec![1], 1, 1));
    }
}
