//! A results folder belongs to its config: another sweep extends it where both are one experiment, and is refused where a row of
//! the ledger would be lost.
//!
//! The config of the folder, `sweep.toml`, is the one of all sweeps that have worked on it: their datasets, shots, seeds and
//! learners together. Processes may add to it at once: each adds again before it writes the ledger, so that the one that ends
//! last has all.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::error::{Error, Result};
use crate::experiment::config::Sweep;
use crate::experiment::plan::Cell;
use crate::fs::file;
use crate::store::Store;
use crate::store::record::{CellKey, Identity, Record, digest};
use crate::store::verify::Config as _;

/// The config of the folder once `sweep` has worked on it. Of `cells`, those of the sweep, it takes away the zero-shot cells that
/// the folder has already, under another seed: nothing is drawn for them. Nothing is written.
///
/// # Errors
/// [`Error::OtherSweep`] when a stored cell is one of another experiment: of the same place with other settings, images or
/// weights, or of settings that the sweep changes.
pub fn joined(sweep: &Sweep, cells: &mut Vec<Cell>, store: &Store) -> Result<Sweep> {
    let union = with_earlier(sweep, store)?;
    let planned = cells.iter().map(|cell| (&cell.key, cell.run_id.as_str()));
    let answered = checked(sweep, &union, planned, cells, store)?;
    let same = |key: &CellKey, other: &CellKey| (&key.dataset, &key.learner) == (&other.dataset, &other.learner);
    cells.retain(|cell| cell.key.shots.any() || !answered.iter().any(|key| same(key, &cell.key)));
    Ok(union)
}

/// As [`joined`], of cells of which no more is known than their keys and ids: nothing is taken away, only refused.
///
/// # Errors
/// As [`joined`].
pub fn check<'a>(sweep: &Sweep, planned: impl Iterator<Item = (&'a CellKey, &'a str)>, store: &Store) -> Result<()> {
    checked(sweep, &with_earlier(sweep, store)?, planned, &[], store).map(drop)
}

/// Refuses a sweep that would take the place of another in the ledger, or mix with it. `cells` are those planned, as far as they are
/// known. Gives the keys of zero-shot cells that are there under another id.
fn checked<'a>(
    sweep: &Sweep,
    union: &Sweep,
    planned: impl Iterator<Item = (&'a CellKey, &'a str)>,
    cells: &[Cell],
    store: &Store,
) -> Result<Vec<CellKey>> {
    let places: HashMap<&CellKey, &str> = planned.collect();
    let own: HashSet<&str> = places.values().copied().collect();
    let others = of_folder(store)?.into_iter().filter(|id| !own.contains(id.as_str()));
    let others: Vec<String> = others.collect();
    let mut answered: Vec<CellKey> = Vec::new();
    for run_id in &others {
        // A torn record is named elsewhere, and its cell is none that could be lost.
        let Some(record) = store.finished(run_id)? else {
            continue;
        };
        let reason = match places.get(&record.key) {
            Some(_) => {
                let cell = cells.iter().find(|cell| cell.key == record.key);
                Some(unlike(&record, sweep, cell.map(Cell::identity).as_ref()))
            }
            None => union.contradicts(&record).or_else(|| {
                let of =
                    |same: &dyn Fn(&CellKey) -> bool| cells.iter().find(|cell| same(&cell.key)).map(Cell::identity);
                let learner = of(&|key| key.learner == record.key.learner);
                let dataset = of(&|key| key.dataset == record.key.dataset);
                let model = learner.and_then(|identity| other_model(&record, &identity));
                model.or_else(|| dataset.and_then(|identity| other_dataset(&record, &identity)))
            }),
        };
        if let Some(reason) = reason {
            return Err(Error::OtherSweep {
                folder: store.folder().into(),
                cells: others.len(),
                cell: record.key.to_string(),
                reason,
            });
        }
        if !record.key.shots.any() {
            answered.push(record.key);
        }
    }
    Ok(answered)
}

/// Removes all cells from a folder that are none of the sweep's, for it to begin anew.
///
/// # Errors
/// [`Error::Io`] when one stays.
pub fn replace(cells: &[Cell], store: &Store) -> Result<()> {
    let own: HashSet<&str> = cells.iter().map(|cell| cell.run_id.as_str()).collect();
    for run_id in store.stored()? {
        if !own.contains(run_id.as_str()) {
            store.remove(&run_id)?;
        }
    }
    file::remove_if_present(&store.folder().join("sweep.toml"))
}

/// The records that the ledger of the folder lists: those of `cells` that are finished, and those of sweeps before.
///
/// # Errors
/// The store cannot be read or written.
pub(super) fn listed(sweep: &Sweep, cells: &[Cell], store: &Store) -> Result<Vec<Record>> {
    // Others may have added to it since the sweep began.
    let union = with_earlier(sweep, store)?;
    store.write_sweep_config(&union.to_toml()?)?;
    let own: HashMap<&CellKey, &str> = cells.iter().map(|cell| (&cell.key, cell.run_id.as_str())).collect();
    let before: HashSet<String> = store.listed()?.into_iter().flatten().collect();
    let mut found: BTreeMap<CellKey, Record> = BTreeMap::new();
    for run_id in store.stored()? {
        let Some(record) = store.finished(&run_id)? else {
            continue;
        };
        let belongs = match own.get(&record.key) {
            Some(own) => *own == run_id,
            None => union.contradicts(&record).is_none(),
        };
        let known = found.get(&record.key);
        let counts = |record: &Record| (before.contains(&record.run_id), record.timing.finished.clone());
        if belongs && known.is_none_or(|known| counts(known) < counts(&record)) {
            found.insert(record.key.clone(), record);
        }
    }
    Ok(found.into_values().collect())
}

/// The `run_id` of all cells that the ledger of a folder lists, or that are stored where it has none yet.
fn of_folder(store: &Store) -> Result<Vec<String>> {
    match store.listed()? {
        Some(listed) => Ok(listed),
        None => store.stored(),
    }
}

/// The sweep with what the config of its folder has beside it. A config that this program cannot read adds nothing.
fn with_earlier(sweep: &Sweep, store: &Store) -> Result<Sweep> {
    let path = store.folder().join("sweep.toml");
    let Some(text) = file::read_if_present(&path)? else {
        return Ok(sweep.clone());
    };
    let text = String::from_utf8_lossy(&text);
    let Ok(earlier) = Sweep::parse(&text, &path.display().to_string(), &[]) else {
        return Ok(sweep.clone());
    };
    let mut union = sweep.clone();
    union.datasets = united(&earlier.datasets, &sweep.datasets);
    union.seeds = united(&earlier.seeds, &sweep.seeds);
    union.shots = united(&earlier.shots, &sweep.shots);
    if union.shots != sweep.shots {
        union.shots.sort_unstable();
    }
    let more = earlier.learners.into_iter();
    let more = more.filter(|learner| sweep.learners.iter().all(|own| own.name() != learner.name()));
    union.learners.extend(more);
    Ok(union)
}

/// All items: in the order of the later list, where that has them all, else of the earlier one with what it lacks behind.
fn united<T: Clone + PartialEq>(earlier: &[T], later: &[T]) -> Vec<T> {
    if earlier.iter().all(|item| later.contains(item)) {
        return later.to_vec();
    }
    let more = later.iter().filter(|item| !earlier.contains(item));
    earlier.iter().chain(more).cloned().collect()
}

/// In what a stored cell differs from the one that is to be made in its place.
fn unlike(record: &Record, sweep: &Sweep, identity: Option<&Identity>) -> String {
    if let Some(reason) = sweep.contradicts(record) {
        return reason;
    }
    let Some(identity) = identity else {
        return "it is of other images, weights or settings".into();
    };
    if let Some(reason) = other_model(record, identity).or_else(|| other_dataset(record, identity)) {
        return reason;
    }
    match &record.train_sha256 {
        Some(train) if *train != digest(&identity.train) => "it learned from other images".into(),
        _ => "it was tested on other images, or with other settings".into(),
    }
}

/// In what the computation of a stored cell differs from one of the same learner.
fn other_model(record: &Record, identity: &Identity) -> Option<String> {
    if record.recipe != identity.recipe {
        let (made, has) = (record.recipe, identity.recipe);
        return Some(format!("it was made by recipe {made}, and this program has {has}"));
    }
    if record.weights != identity.weights {
        return Some("it is of another base model, by its weights".into());
    }
    let (was, is) = (&record.dtype, &identity.dtype);
    (was != is).then(|| format!("it was computed in {was}, not {is}"))
}

/// In what the data of a stored cell differ from those of one on the same dataset.
fn other_dataset(record: &Record, identity: &Identity) -> Option<String> {
    if record.classes != identity.classes {
        return Some("it has other classes".into());
    }
    let (was, is) = (record.n_test, identity.test.len());
    (was != is).then(|| format!("it was tested on {was} images, not {is}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_goes_behind_and_the_same_stays_as_it_is() {
        assert_eq!(united(&[0, 1, 2], &[1]), [0, 1, 2]);
        assert_eq!(united(&[0, 1], &[3, 1]), [0, 1, 3]);
        assert_eq!(united(&[0, 1], &[1, 0, 2]), [1, 0, 2]);
        assert_eq!(united(&[], &[5, 4]), [5, 4]);
    }
}
