//! Results that become the new baseline.

use std::path::Path;

use crate::error::{GateError, Result};
use crate::gate::folder::Folder;
use crate::gate::noise::Noise;
use crate::gate::problem::{Problem, Role};
use crate::store::Store;
use crate::store::promote;
use crate::store::record::Record;

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

/// Whether a problem outlives a new baseline.
fn speaks_against(problem: &Problem) -> bool {
    match problem.role {
        Role::Baseline => false,
        Role::Repeat => true,
        // What cannot even be named cannot be promoted.
        Role::Results => problem.cell.is_none() || !problem.kind.ends_with_a_new_baseline(),
    }
}
