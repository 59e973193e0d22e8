//! Baselines: run-to-run noise from repeats in which nothing was changed, and results that become the new baseline.

use std::path::Path;

use crate::error::Result;
use crate::gate::change::{ImageWeights, differences};
use crate::gate::folder::{Cell, Folder};
use crate::gate::noise::{CellNoise, Noise};
use crate::gate::problem::{GateError, Problem, Role};
use crate::store::record::Record;
use crate::store::{Store, promote};

/// The noise of every cell of `baseline` that a repeat has, too, and what is wrong with the repeats: a repeat of other
/// images or classes is no repeat.
#[must_use]
pub fn measure(baseline: &Folder, repeats: &[Folder]) -> (Noise, Vec<Problem>) {
    let mut cells = Vec::new();
    let mut problems: Vec<Problem> = repeats.iter().flat_map(|repeat| repeat.problems.clone()).collect();
    for (key, first) in &baseline.cells {
        let mut runs: Vec<&Cell> = vec![first];
        for repeat in repeats {
            let Some(cell) = repeat.cells.get(key) else { continue };
            let found = differences(first, cell);
            if found.is_empty() {
                runs.push(cell);
            }
            problems.extend(found.into_iter().map(|(kind, finding)| {
                let finding = format!("in `{}` {finding}", repeat.path.display());
                repeat.problem(kind, Some(key), finding)
            }));
        }
        let frame = ImageWeights::of(&first.images, first.headline);
        let scores: Vec<Vec<f64>> = runs.iter().map(|cell| frame.scores(&cell.right)).collect();
        let places = runs.iter().map(|cell| cell.place.to_string());
        cells.extend(CellNoise::of(key.clone(), &scores).map(|noise| noise.measured_on(places)));
    }
    (Noise::new(cells), problems)
}

/// Puts the compact form of `results` into `folder`, in place of the baseline that lies there, with the `noise` that was
/// measured beside it; without a new measurement that of the old baseline stays. Gives the records of the new one.
///
/// A changed draw, class list, protocol, metric or set of test images ends with the new baseline, and so does whatever is
/// wrong with the old one. Results that lack cells, are torn, ambiguous or marked red, and repeats that are no repeats,
/// do not become a baseline. `draw` makes figures and tables; with them and the noise the new baseline takes the old one's
/// place in one step.
///
/// # Errors
/// [`GateError::NotAccepted`] in these cases; otherwise as [`promote::promote`].
pub fn accept<T>(
    results: &Folder,
    folder: &Path,
    noise: Option<&Noise>,
    problems: &[Problem],
    draw: impl Fn(&Store, &[Record]) -> Result<T>,
) -> Result<Vec<Record>> {
    let against = problems.iter().filter(|problem| speaks_against(problem)).count();
    if against > 0 {
        return Err(GateError::NotAccepted {
            results: results.path.clone(),
            baseline: folder.into(),
            reasons: against,
        }
        .into());
    }
    let (records, ()) = promote::promote(&Store::open_existing(&results.path)?, folder, |new, records| {
        draw(new, records)?;
        noise.map_or(Ok(()), |noise| noise.write(new.folder()))
    })?;
    Ok(records)
}

/// True if a problem outlives a new baseline.
fn speaks_against(problem: &Problem) -> bool {
    match problem.role {
        Role::Baseline => false,
        Role::Repeat => true,
        // What cannot even be named cannot be promoted.
        Role::Results => problem.cell.is_none() || !problem.kind.ends_with_a_new_baseline(),
    }
}
