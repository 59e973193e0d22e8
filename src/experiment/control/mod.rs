//! Sanity controls of a finished cell: is its accuracy about the pictures and the labels, and about nothing else?
//!
//! The cell is trained once more and then asked what a sound one must answer in a known way. The two shuffled
//! controls are randomisation tests (see [`chance`]) and red by bad luck with a probability of at most
//! [`chance::FALSE_RED`] each, whatever the model; the others compare answers and leave nothing to chance. Draws are
//! seeded: the same cell has the same verdict every time.
//!
//! | control | red when |
//! |---|---|
//! | reproduced | never: reported, since another processor may round otherwise |
//! | shuffled images | rows that are shown pictures of other classes are answered with their own class more often than by chance: the classifier is told, or finds, what to answer elsewhere than in the picture |
//! | shuffled labels | trained on labels shuffled among the shots, it is right more often than by chance and than the base model is without examples: it learned from elsewhere than the labels |
//! | adapter off/on | with its updates zero it is not the base model as it lies on the disk to the bit; or with them it is; or switched on again it answers otherwise |
//! | reload parity | saved and loaded into a fresh classifier it answers otherwise, to the bit |
//! | prompt without image | asked without a picture it does not give all rows the same answer, or is right more often than the largest class is large |
//!
//! Shuffled labels say little about a model that can name the classes without examples: what it knew it may go on to
//! know, so its bound is its own accuracy without examples, the best of all readings. And they are blunt: a learner may
//! give all images of a class one answer, so that with ten classes half of all answers can be right by chance. What is
//! surely seen is a learner that does about as well as on the true labels. Fewer than nine classes take several
//! trainings ([`chance::shuffles`]).

pub mod chance;
pub mod controlled_cell;
mod switch;

use std::path::Path;
use std::time::Instant;

use crate::config::Shots;
use crate::error::{Error, Result};
use crate::experiment::plan::Cell;
use crate::learner::Learner;
use crate::learner::base::Bases;
use crate::store::Store;
use crate::store::control::{Controls, Name, SCHEMA};
use crate::store::record::{Record, utc_now};
use controlled_cell::ControlledCell;

/// The cells to control: those asked for by `run_id`, or else for every dataset and every learner that has an adapter
/// the one with the most shots per class under `seed`.
///
/// # Errors
/// [`Error::Uncontrolled`] when an asked one is not among `cells` or cannot be controlled, or there is none.
pub fn choose<'a>(cells: &'a [Cell], seed: Option<u64>, asked: &[String]) -> Result<Vec<&'a Cell>> {
    let fit = |cell: &Cell| cell.learner.has_adapter() && cell.key.shots.any() && cell.key.shots != Shots::All;
    if !asked.is_empty() {
        let find = |run_id: &String| {
            let refuse = |cell: String, reason: &str| Error::Uncontrolled {
                cell,
                reason: reason.into(),
                remedy: "`kshot sweep --dry-run` with the same config lists its cells".into(),
            };
            let cell = cells.iter().find(|cell| cell.run_id == *run_id);
            let cell = cell.ok_or_else(|| refuse(format!("cell {run_id}"), "the config has no such cell"))?;
            if fit(cell) {
                return Ok(cell);
            }
            let reason = "controls need a learner with an adapter and the same number of shots for each class, above 0";
            Err(refuse(cell.key.to_string(), reason))
        };
        return asked.iter().map(find).collect();
    }
    let mut chosen: Vec<&Cell> = Vec::new();
    for cell in cells.iter().filter(|cell| fit(cell) && Some(cell.key.seed) == seed) {
        let place =
            |other: &&mut &Cell| (&other.key.dataset, &other.key.learner) == (&cell.key.dataset, &cell.key.learner);
        match chosen.iter_mut().find(place) {
            Some(other) if other.key.shots < cell.key.shots => *other = cell,
            Some(_) => {}
            None => chosen.push(cell),
        }
    }
    if chosen.is_empty() {
        let with_adapter = Learner::defaults().into_iter().filter(|learner| learner.has_adapter());
        let methods: Vec<String> = with_adapter.map(|learner| format!("`{}`", learner.method())).collect();
        return Err(Error::Uncontrolled {
            cell: "this config".into(),
            reason: "no learner has an adapter that is trained on a number of shots".into(),
            remedy: format!("controls are of {} with shots above 0", methods.join(" and ")),
        });
    }
    Ok(chosen)
}

/// Controls a finished cell and stores what was found; `on` hears which control begins. Base models are looked up
/// from `home`.
///
/// # Errors
/// Whatever training, prediction or the store report.
pub fn run(
    cell: &Cell,
    store: &Store,
    record: &Record,
    home: &Path,
    commit: Option<&str>,
    on: &mut dyn FnMut(Name),
) -> Result<Controls> {
    let start = Instant::now();
    let learner = &cell.learner;
    let subject = ControlledCell {
        shots: &cell.shots()?,
        test: &cell.test()?,
        stored: &store.predictions(&cell.run_id)?,
        classes: cell.split.classes.len(),
        readings: &learner.readings(),
        answers_unseen: learner.answers_unseen(),
        seed: cell.key.seed,
        name: &format!("{}/{}", cell.key.dataset, learner.name()),
        fresh: &|| cell.classifier(),
        pristine: &|| {
            let base = learner.load(&mut Bases::new(home))?;
            base.classifier(&cell.split.classes, cell.key.seed)
        },
        scratch: store.folder().join("controls").join(format!("{}.tmp", cell.run_id)),
    };
    let controls = Controls {
        schema: SCHEMA,
        run_id: cell.run_id.clone(),
        key: cell.key.clone(),
        predictions_sha256: record.predictions_sha256.clone(),
        controls: subject.examine(on)?,
        seconds: start.elapsed().as_secs_f64(),
        finished: utc_now(),
        commit: commit.map(str::to_owned),
    };
    store.write_controls(&controls)?;
    Ok(controls)
}
