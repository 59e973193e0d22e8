//! The proof that a results folder holds what it says: every number is computed again from the stored predictions,
//! every record is the one of its `run_id`, and the cells follow from the `sweep.toml` beside them.

mod images;

use std::collections::HashSet;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::data::split::Split;
use crate::error::{Error, Result};
use crate::fs::file;
use crate::fs::hash::hex;
use crate::prediction::{Prediction, Reading};
use crate::statistics::calibration::Calibration;
use crate::statistics::metric::{Metrics, Normalised};
use crate::store::identity::{DIGESTS, Identity, digest};
use crate::store::record::{Record, count_groups, seal};
use crate::store::{Store, ledger};

pub use crate::store::verify::images::{Images, images};

/// A sweep's config as far as a proof needs it. The store knows no learners: the experiment reads it.
pub trait Config {
    /// The reason why a record is of no cell of this config; `None` if it is of one.
    fn contradicts(&self, record: &Record) -> Option<String>;

    /// Folder of few-shot index files.
    fn indices(&self) -> Option<&Path>;
}

/// Reads the text of a `sweep.toml`.
pub type ReadConfig<'a> = &'a dyn Fn(&str) -> Result<Box<dyn Config>>;

/// Findings.
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
    /// Violations.
    pub problems: Vec<Problem>,
    /// Unfinished cells, which are no fault.
    pub notes: Vec<String>,
}

/// Something that does not hold.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file, as seen from the results folder.
    pub file: String,
    /// The fault.
    pub reason: String,
}

impl Findings {
    /// True if everything holds.
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
                check_identity(store, &record, &rows, drawn.as_ref(), &mut findings)?;
                records.push(record);
            }
            Ok(None) => {} // removed meanwhile
            Err(Error::Malformed { path, reason, .. }) => findings.problem(store, &path, reason),
            Err(error) => return Err(error),
        }
    }
    swapped(store, &records, &mut findings);
    tables(store, &records, read, &mut findings)?;
    for (path, _) in store.leftovers(|_| true)? {
        let path = path.strip_prefix(store.folder()).unwrap_or(&path).display().to_string();
        findings
            .notes
            .push(format!("`{path}` is of a cell that runs, was cut short or failed"));
    }
    Ok(findings)
}

/// Differences between the numbers of a record and those that its predictions give.
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
    check_sweep(store, &of_ledger, read, findings)?;
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

/// Computes the `run_id` again, and compares every field of the record that something else stored tells too; `split` is the one that
/// the cell was run on, where it is stored.
fn check_identity(
    store: &Store,
    record: &Record,
    rows: &[Prediction],
    split: Option<&Split>,
    findings: &mut Findings,
) -> Result<()> {
    let path = store.cell_path(&record.run_id);
    for reason in disagreements(record, split) {
        findings.problem(store, &path, reason);
    }
    let json: Option<Value> = file::read_if_present(&path)?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    match (&record.seal, json) {
        (Some(sealed), Some(json)) if *sealed != seal(&json) => {
            findings.problem(
                store,
                &path,
                "its content is not what its `seal` was computed of".into(),
            );
        }
        (None, _) if record.recipe >= DIGESTS => findings.problem(store, &path, "it has no `seal`".into()),
        _ => {}
    }
    let pairs = |items: &[crate::data::split::SplitItem]| -> Vec<(String, String)> {
        items
            .iter()
            .map(|item| (item.id.clone(), item.sha256.clone()))
            .collect()
    };
    let train = split.map(|split| pairs(&split.train));
    let train_sha256 = train.as_deref().map(digest);
    if let (Some(stored), Some(drawn)) = (&record.train_sha256, &train_sha256)
        && stored != drawn
    {
        findings.problem(store, &path, "its `train_sha256` is not that of its split".into());
    }
    let test = rows.iter().map(|row| (row.id.clone(), row.sha256.clone())).collect();
    match (&record.train_sha256, train) {
        (None, _) if record.recipe >= DIGESTS => findings.problem(store, &path, "it has no `train_sha256`".into()),
        // Of an earlier recipe, and without its split; where there are no shots, the list is known to be empty.
        (_, None) if record.recipe < DIGESTS && record.n_train > 0 => findings.unproved += 1,
        (_, train) => prove(store, record, test, train.unwrap_or_default(), findings),
    }
    Ok(())
}

/// Computes the `run_id` of a record again; from recipe [`DIGESTS`] on its digest stands for the training images.
fn prove(
    store: &Store,
    record: &Record,
    test: Vec<(String, String)>,
    train: Vec<(String, String)>,
    findings: &mut Findings,
) {
    let identity = Identity {
        key: record.key.clone(),
        hyper_parameters: record.hyper_parameters.clone(),
        train,
        test,
        classes: record.classes.clone(),
        weights: record.weights.clone(),
        dtype: record.dtype.clone(),
        backend: record.backend.clone(),
        recipe: record.recipe,
    };
    let again = match &record.train_sha256 {
        Some(train_sha256) => identity.run_id_with(train_sha256),
        None => identity.run_id(),
    };
    if again == record.run_id {
        findings.identities += 1;
    } else {
        let reason = format!(
            "it is not the record of {}: cell, settings, classes, weights, number format, recipe and images give the `run_id` {again}",
            record.run_id
        );
        findings.problem(store, &store.cell_path(&record.run_id), reason);
    }
}

/// Fields that contradict others.
fn disagreements(record: &Record, split: Option<&Split>) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |what: &str, stored: String, other: &str, told: String| {
        if stored != told {
            found.push(format!("{what} is {stored}, {other} says {told}"));
        }
    };
    // Only a learner that writes has a choice.
    let reading = record
        .hyper_parameters
        .get("reading")
        .and_then(Value::as_str)
        .map(str::to_owned);
    let reading = reading.unwrap_or_else(|| Reading::Likelihood.to_string());
    compare("`reading`", record.reading.to_string(), "its learner", reading);
    if let Some(split) = split {
        compare(
            "`n_train`",
            record.n_train.to_string(),
            "its split",
            split.train.len().to_string(),
        );
    }
    if let Some(card) = &record.card {
        let mut classes = serde_json::to_vec(&record.classes).unwrap_or_default();
        classes.push(b'\n');
        let card_is = "its card";
        compare(
            "`protocol`",
            record.key.protocol.to_string(),
            card_is,
            card.protocol.to_string(),
        );
        compare(
            "number of classes",
            record.classes.len().to_string(),
            card_is,
            card.classes.to_string(),
        );
        compare(
            "hash of the class names",
            hex(&Sha256::digest(&classes)),
            card_is,
            card.classes_sha256.clone(),
        );
        compare(
            "`headline`",
            record.metrics.headline.name().into(),
            card_is,
            card.headline.clone(),
        );
        compare(
            "`n_test`",
            record.n_test.to_string(),
            card_is,
            card.counts.test.to_string(),
        );
        compare(
            "`n_train`",
            record.n_train.to_string(),
            card_is,
            card.counts.train.to_string(),
        );
        let listed = card.near_duplicates.as_ref().map_or(0, |near| near.list.len());
        let pairs = card.near_duplicates.as_ref().map_or(0, |near| near.pairs.min(100));
        compare(
            "number of near-duplicates listed",
            listed.to_string(),
            "their count",
            pairs.to_string(),
        );
        if let Some(split) = split {
            compare(
                "`capped`",
                format!("{:?}", card.capped),
                "its split",
                format!("{:?}", split.capped),
            );
            compare(
                "`val_drawn`",
                card.counts.val_drawn.to_string(),
                "its split",
                split.val.len().to_string(),
            );
        }
    }
    found
}

/// Cells of one key: their `run_id`s differ in what a reader of the table does not see, but never in nothing.
fn swapped(store: &Store, records: &[Record], findings: &mut Findings) {
    if findings.unproved > 0 {
        let count = findings.unproved;
        findings.notes.push(format!(
            "the `run_id` of {count} cells of before recipe {DIGESTS} is not computed again: that takes their splits, which the compact \
             form has not; `kshot verify --images` draws them again from the datasets"
        ));
    }
    // The same images, classes and hash of the split wherever dataset, protocol, shots and seed are the same.
    let mut first: std::collections::BTreeMap<_, &Record> = std::collections::BTreeMap::new();
    for record in records {
        let key = &record.key;
        let known = *first
            .entry((&key.dataset, key.protocol, key.shots, key.seed, record.recipe))
            .or_insert(record);
        if known.split_sha256 != record.split_sha256
            || known.classes != record.classes
            || known.n_train != record.n_train
        {
            // Images may have changed between two runs into one folder: then the splits are told apart by their files.
            if !store.folder().join("splits").is_dir() {
                let reason = format!("its split is not that of {}, which has the same draw", known.run_id);
                findings.problem(store, &store.cell_path(&record.run_id), reason);
            }
        }
    }
}

/// Every cell of the ledger is one of the config: dataset, protocol, shots, seed, learner with its settings.
fn check_sweep(store: &Store, records: &[Record], read: ReadConfig<'_>, findings: &mut Findings) -> Result<()> {
    let path = store.folder().join("sweep.toml");
    let Some(bytes) = file::read_if_present(&path)? else {
        findings.problem(store, &path, "it is missing".into());
        return Ok(());
    };
    let text = String::from_utf8_lossy(&bytes);
    let sweep = match read(&text) {
        Ok(sweep) => sweep,
        Err(Error::Config { reason, .. }) => {
            findings.problem(store, &path, reason);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    for record in records {
        if let Some(reason) = sweep.contradicts(record) {
            let reason = format!("{} of `ledger.csv` is no cell of this config: {reason}", record.run_id);
            findings.problem(store, &path, reason);
        }
    }
    // A larger grid than the ledger's is a sweep that has not come to its end; one that asks for nothing of it is found above.
    Ok(())
}
