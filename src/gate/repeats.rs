//! Run-to-run noise from runs of the baseline in which nothing was changed.

use crate::gate::folder::{Cell, Folder};
use crate::gate::noise::{CellNoise, Noise};
use crate::gate::pair::{Frame, differences};
use crate::gate::problem::Problem;

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
            problems.extend(found.into_iter().map(|(kind, finding)| Problem {
                kind,
                role: repeat.role,
                cell: Some(key.clone()),
                finding: format!("in `{}` {finding}", repeat.path.display()),
            }));
        }
        let frame = Frame::of(&first.images, first.headline);
        let scores: Vec<Vec<f64>> = runs.iter().map(|cell| frame.scores(&cell.right)).collect();
        let places = runs.iter().map(|cell| cell.place.to_string());
        cells.extend(CellNoise::of(key.clone(), &scores).map(|noise| noise.measured_on(places)));
    }
    (Noise::new(cells), problems)
}
