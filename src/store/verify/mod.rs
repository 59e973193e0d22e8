//! The proof that a results folder holds what it says: every number is computed again from the stored predictions.

use std::collections::HashSet;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::data::split::Split;
use crate::error::{Error, Result};
use crate::fs::file;
use crate::fs::hash::hex;
use crate::prediction::Prediction;
use crate::statistics::calibration::Calibration;
use crate::statistics::metric::Metrics;
use crate::statistics::normalisation::Normalised;
use crate::store::Store;
use crate::store::ledger;
use crate::store::record::{Record, count_groups};

mod identity;
mod images;
mod sweep;

pub use crate::store::verify::images::{Images, images};
pub use crate::store::verify::sweep::{Config, ReadConfig};

/// What was found.
#[derive(Debug, Default, Serialize)]
pub struct Findings {
    /// Cells whose record and predictions are whole.
    pub cells: usize,
    /// Predictions that their metrics were computed from again.
    pub predictions: usize,
    /// Cells whose `run_id` was computed again from what is stored.
    pub identities: usize,
    /// Cells of before recipe 3 without their split, of which it cannot be.
    pub unproved: usize,
    /// Images behind the cells whose files were hashed again, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<usize>,
    /// Cells whose split lies in the folder and is the one they were run on; the compact form keeps no splits.
    pub splits: usize,
    /// Files that came out the same when they were rebuilt.
    pub rebuilt: Vec<String>,
    /// What does not hold.
    pub problems: Vec<Problem>,
    /// What is unfinished, which is no fault.
    pub notes: Vec<String>,
}

/// Something that does not hold.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file, as seen from the results folder.
    pub file: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Findings {
    /// Whether everything holds.
    #[must_use]
    pub fn hold(&self) -> bool {
        self.problems.is_empty()
    }

    fn problem(&mut self, store: &Store, path: &Path, reason: String) {
        let file = path.strip_prefix(store.folder()).unwrap_or(path).display().to_string();
        let problem = Problem { file, reason };
        // Many cells share a file; what is wrong with it is said once.
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}

/// Reads every cell, checks the hashes of record, predictions and split, computes all metrics again and compares them
/// to the last bit, and rebuilds ledger and timings; `read` reads the config beside them.
///
/// # Errors
/// [`Error::Io`] when something cannot be read; [`Error::NoResults`] when there is no cell at all.
pub fn verify(store: &Store, read: ReadConfig<'_>) -> Result<Findings> {
    let stored = store.stored()?;
    if stored.is_empty() {
        return Err(Error::NoResults {
            path: store.folder().into(),
        });
    }
    let mut findings = Findings::default();
    let mut records = Vec::new();
    let mut reader = store.reader();
    for run_id in stored {
        match reader.read(&run_id) {
            Ok(Some((record, rows))) => {
                findings.cells += 1;
                findings.predictions += rows.len();
                for reason in recomputed(&record, &rows) {
                    findings.problem(store, &store.cell_path(&run_id), reason);
                }
                let drawn = split(store, &record, &rows, &mut findings)?;
                identity::check(store, &record, &rows, drawn.as_ref(), &mut findings)?;
                records.push(record);
            }
            Ok(None) => {} // removed meanwhile
            Err(Error::Malformed { path, reason, .. }) => findings.problem(store, &path, reason),
            Err(error) => return Err(error),
        }
    }
    identity::swapped(store, &records, &mut findings);
    tables(store, &records, read, &mut findings)?;
    for (path, _) in store.leftovers(|_| true)? {
        let path = path.strip_prefix(store.folder()).unwrap_or(&path).display().to_string();
        findings
            .notes
            .push(format!("`{path}` is of a cell that runs, was cut short or failed"));
    }
    Ok(findings)
}

/// How the numbers of a record differ from those that its predictions give.
fn recomputed(record: &Record, rows: &[Prediction]) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut compare = |what: &str, stored: &Value, again: &Value| {
        // As text, which tells every two numbers apart.
        let (stored, again) = (stored.to_string(), again.to_string());
        if stored != again {
            reasons.push(format!("{what} is {stored}, the predictions give {again}"));
        }
    };
    let again = Metrics::of(rows, record.reading, record.metrics.headline);
    let json = |metrics: &Metrics| serde_json::to_value(metrics).unwrap_or_default();
    let (stored, again) = (json(&record.metrics), json(&again));
    if let (Some(stored), Some(again)) = (stored.as_object(), again.as_object()) {
        let mut names: Vec<&String> = stored.keys().chain(again.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let of = |metrics: &serde_json::Map<String, Value>| metrics.get(name).cloned().unwrap_or_default();
            compare(name, &of(stored), &of(again));
        }
    }
    // Records of before have none.
    if record.calibration.is_some() {
        let again = Calibration::of(rows, 1.0);
        compare("calibration", &value(&record.calibration), &value(&again));
    }
    if let Some(tempered) = record.tempered {
        let again = Calibration::of(rows, tempered.temperature);
        compare(
            "calibration at the temperature",
            &value(&Some(tempered.test)),
            &value(&again),
        );
    }
    if let Some(names) = &record.names {
        let again = Normalised::of(rows, names, record.metrics.headline);
        let json = |all: &Option<Normalised>| serde_json::to_value(all).unwrap_or_default();
        compare("accuracy by normalisation", &json(&record.normalised), &json(&again));
    }
    compare("n_test", &record.n_test.into(), &rows.len().into());
    compare("n_groups", &record.n_groups.into(), &count_groups(rows).into());
    reasons
}

fn value(calibration: &Option<Calibration>) -> Value {
    serde_json::to_value(calibration).unwrap_or_default()
}

/// Checks that the split of a cell is the one it was run on, and that the predictions are of its test images; gives it if so.
fn split(store: &Store, record: &Record, rows: &[Prediction], findings: &mut Findings) -> Result<Option<Split>> {
    let path = store.split_path(&record.key);
    // The compact form has none: they follow from config and seed.
    if !path.parent().is_some_and(Path::is_dir) {
        return Ok(None);
    }
    let Some(bytes) = file::read_if_present(&path)? else {
        findings.problem(store, &path, format!("the split of {} is missing", record.key));
        return Ok(None);
    };
    if hex(&Sha256::digest(&bytes)) != record.split_sha256 {
        let reason = format!("it is not the split that {} was run on", record.key);
        findings.problem(store, &path, reason);
        return Ok(None);
    }
    let split: Split = match serde_json::from_slice(&bytes) {
        Ok(split) => split,
        Err(error) => {
            findings.problem(store, &path, format!("it is no split: {error}"));
            return Ok(None);
        }
    };
    let same = split.test.len() == rows.len()
        && (split.test.iter().zip(rows))
            .all(|(item, row)| item.id == row.id && item.sha256 == row.sha256 && item.class == row.truth);
    let key = &record.key;
    let own = split.dataset == key.dataset
        && split.protocol == key.protocol
        && split.shots == key.shots
        && split.seed == key.seed
        && split.classes == record.classes;
    if !same || !own || split.train.len() != record.n_train {
        let reason = format!("{} was not run on the images of this split", record.key);
        findings.problem(store, &path, reason);
        return Ok(None);
    }
    findings.splits += 1;
    Ok(Some(split))
}

/// Rebuilds the tables of the cells that the ledger lists.
fn tables(store: &Store, records: &[Record], read: ReadConfig<'_>, findings: &mut Findings) -> Result<()> {
    let path = store.folder().join("ledger.csv");
    if !path.exists() {
        let note = "there is no `ledger.csv` yet: `kshot sweep` writes it at its end";
        findings.notes.push(note.into());
        return Ok(());
    }
    let listed = match ledger::listed(&path) {
        Ok(listed) => listed,
        Err(Error::Malformed { reason, .. }) => {
            findings.problem(store, &path, reason);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let in_ledger: HashSet<&String> = listed.iter().collect();
    let of_ledger: Vec<Record> = records
        .iter()
        .filter(|r| in_ledger.contains(&r.run_id))
        .cloned()
        .collect();
    let whole: HashSet<&String> = of_ledger.iter().map(|record| &record.run_id).collect();
    let finished = |run_id: &&String| whole.contains(*run_id);
    let unfinished: Vec<&str> = listed.iter().filter(|id| !finished(id)).map(String::as_str).collect();
    if let [first, ..] = unfinished.as_slice() {
        let reason = format!("{} cells that it lists are not whole, e.g. {first}", unfinished.len());
        findings.problem(store, &path, reason);
    }
    let unlisted = records.len() - of_ledger.len();
    if unlisted > 0 && !store.folder().join("splits").is_dir() {
        // `kshot promote` writes the cells of the ledger and no others.
        findings.problem(store, &path, format!("{unlisted} cells that are there are not in it"));
    } else if unlisted > 0 {
        findings
            .notes
            .push(format!("{unlisted} finished cells are not in `ledger.csv`"));
    }
    sweep::check(store, &of_ledger, read, findings)?;
    let tables = match store.tables(&of_ledger) {
        Err(Error::Malformed { path, reason, .. }) => {
            findings.problem(store, &path, reason);
            return Ok(());
        }
        other => other?,
    };
    for (name, again) in tables {
        let path = store.folder().join(name);
        let Some(bytes) = file::read_if_present(&path)? else {
            findings.problem(store, &path, "it is missing".into());
            continue;
        };
        if bytes == again {
            findings.rebuilt.push(name.into());
        } else {
            findings.problem(store, &path, "it is not what its cells give when it is rebuilt".into());
        }
    }
    Ok(())
}
