//! One cell: k shots → training → predictions on the whole test set → record.

use std::time::Instant;

use crate::data::manifest::Layout;
use crate::error::Result;
use crate::experiment::plan::Cell;
use crate::method::Step;
use crate::prediction::{Prediction, Reading};
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

    let start = Instant::now();
    let fit = classifier.fit(&shots, &mut |step| on(Event::Trained(step)))?;
    let train_seconds = start.elapsed().as_secs_f64();

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

    if keep_adapter && cell.learner.has_adapter() {
        classifier.save(&store.adapter(&cell.run_id))?;
    }
    let account = Account {
        reading: Reading::Likelihood,
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
            finished: utc_now(),
            commit: commit.map(str::to_owned),
        },
    };
    store.finish(&cell.identity(), account, &predictions)
}

/// Caltech-101's test classes differ tenfold in size, so its papers report the mean over classes.
fn headline(cell: &Cell) -> Headline {
    match cell.dataset.layout {
        Layout::Caltech101 => Headline::MeanPerClass,
        _ => Headline::Top1,
    }
}
