//! The proof that a results folder holds what it says: every number is computed again from the stored predictions,
//! every record is the one of its `run_id`, the cells follow from the `sweep.toml` beside them, and the images are still
//! those that it was computed on.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::config::Protocol;
use crate::data::split;
use crate::data::split::{Split, SplitItem};
use crate::data::{self, Dataset, ManifestFolders};
use crate::error::{Error, Result};
use crate::fs::file;
use crate::fs::hash::hex;
use crate::prediction::{Prediction, Reading};
use crate::statistics::calibration::Calibration;
use crate::statistics::metric::{Metrics, Normalised};
use crate::store::Store;
use crate::store::record::{DIGESTS, Identity, Record, count_groups, digest, seal};

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
        let file = inside(store, path);
        let problem = Problem { file, reason };
        // Many cells share a file; what is wrong with it is said once.
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}

/// A path as seen from the results folder.
fn inside(store: &Store, path: &Path) -> String {
    path.strip_prefix(store.folder()).unwrap_or(path).display().to_string()
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
                let drawn = checked_split(store, &record, &rows, &mut findings)?;
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
        let path = inside(store, &path);
        let note = format!("`{path}` is of a cell that runs, was cut short or failed");
        findings.notes.push(note);
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
    let (stored, again) = (json(&record.metrics), json(&again));
    if let (Some(stored), Some(again)) = (stored.as_object(), again.as_object()) {
        for name in stored.keys().chain(again.keys()).collect::<BTreeSet<_>>() {
            let of = |metrics: &serde_json::Map<String, Value>| metrics.get(name).cloned().unwrap_or_default();
            compare(name, &of(stored), &of(again));
        }
    }
    // Records of before have none.
    if record.calibration.is_some() {
        let again = Calibration::of(rows, 1.0);
        compare("calibration", &json(&record.calibration), &json(&again));
    }
    if let Some(tempered) = record.tempered {
        let again = Calibration::of(rows, tempered.temperature);
        compare("calibration at the temperature", &json(&tempered.test), &json(&again));
    }
    if let Some(names) = &record.names {
        let again = Normalised::of(rows, names, record.metrics.headline);
        compare("accuracy by normalisation", &json(&record.normalised), &json(&again));
    }
    compare("n_test", &record.n_test.into(), &rows.len().into());
    compare("n_groups", &record.n_groups.into(), &count_groups(rows).into());
    reasons
}

fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// Checks that the split of a cell is the one it was run on, and that the predictions are of its test images; gives it if so.
fn checked_split(
    store: &Store,
    record: &Record,
    rows: &[Prediction],
    findings: &mut Findings,
) -> Result<Option<Split>> {
    let path = store.split_path(&record.key);
    // The compact form has none: they follow from config and seed.
    if !path.parent().is_some_and(Path::is_dir) {
        return Ok(None);
    }
    let split = match file::read_if_present(&path)? {
        Some(bytes) => parse_split(&bytes, record, rows),
        None => Err(format!("the split of {} is missing", record.key)),
    };
    Ok(match split {
        Ok(split) => {
            findings.splits += 1;
            Some(split)
        }
        Err(reason) => {
            findings.problem(store, &path, reason);
            None
        }
    })
}

/// The split that a cell was run on, or the reason why its file is none.
fn parse_split(bytes: &[u8], record: &Record, rows: &[Prediction]) -> Result<Split, String> {
    let key = &record.key;
    if hex(&Sha256::digest(bytes)) != record.split_sha256 {
        return Err(format!("it is not the split that {key} was run on"));
    }
    let split: Split = serde_json::from_slice(bytes).map_err(|error| format!("it is no split: {error}"))?;
    let same = split.test.len() == rows.len()
        && (split.test.iter().zip(rows))
            .all(|(item, row)| item.id == row.id && item.sha256 == row.sha256 && item.class == row.truth);
    let own = split.dataset == key.dataset
        && split.protocol == key.protocol
        && split.shots == key.shots
        && split.seed == key.seed
        && split.classes == record.classes;
    if same && own && split.train.len() == record.n_train {
        Ok(split)
    } else {
        Err(format!("{key} was not run on the images of this split"))
    }
}

/// Rebuilds the tables of the cells that the ledger lists.
fn tables(store: &Store, records: &[Record], read: ReadConfig<'_>, findings: &mut Findings) -> Result<()> {
    let path = store.folder().join("ledger.csv");
    let listed = match store.listed() {
        Ok(Some(listed)) => listed,
        Ok(None) => {
            let note = "there is no `ledger.csv` yet: `kshot sweep` writes it at its end";
            findings.notes.push(note.into());
            return Ok(());
        }
        Err(Error::Malformed { reason, .. }) => {
            findings.problem(store, &path, reason);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let in_ledger: HashSet<&String> = listed.iter().collect();
    let is_listed = |record: &&Record| in_ledger.contains(&record.run_id);
    let of_ledger: Vec<Record> = records.iter().filter(is_listed).cloned().collect();
    let whole: HashSet<&String> = of_ledger.iter().map(|record| &record.run_id).collect();
    let unfinished: Vec<&String> = listed.iter().filter(|run_id| !whole.contains(run_id)).collect();
    if let [first, ..] = unfinished.as_slice() {
        let reason = format!("{} cells that it lists are not whole, e.g. {first}", unfinished.len());
        findings.problem(store, &path, reason);
    }
    let unlisted = records.len() - of_ledger.len();
    if unlisted > 0 && !store.folder().join("splits").is_dir() {
        // `kshot promote` writes the cells of the ledger and no others.
        findings.problem(store, &path, format!("{unlisted} cells that are there are not in it"));
    } else if unlisted > 0 {
        let note = format!("{unlisted} finished cells are not in `ledger.csv`");
        findings.notes.push(note);
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
            let reason = "its content is not what its `seal` was computed of";
            findings.problem(store, &path, reason.into());
        }
        (None, _) if record.recipe >= DIGESTS => findings.problem(store, &path, "it has no `seal`".into()),
        _ => {}
    }
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

/// Ids and hashes of images.
fn pairs(items: &[SplitItem]) -> Vec<(String, String)> {
    items
        .iter()
        .map(|item| (item.id.clone(), item.sha256.clone()))
        .collect()
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
    let mut compare = |what: &str, stored: &dyn Display, other: &str, told: &dyn Display| {
        let (stored, told) = (stored.to_string(), told.to_string());
        if stored != told {
            found.push(format!("{what} is {stored}, {other} says {told}"));
        }
    };
    // Only a learner that writes has a choice.
    let reading = record.hyper_parameters.get("reading").and_then(Value::as_str);
    let reading = reading.map_or_else(|| Reading::Likelihood.to_string(), str::to_owned);
    compare("`reading`", &record.reading, "its learner", &reading);
    if let Some(split) = split {
        compare("`n_train`", &record.n_train, "its split", &split.train.len());
    }
    if let Some(card) = &record.card {
        let mut classes = serde_json::to_vec(&record.classes).unwrap_or_default();
        classes.push(b'\n');
        let (classes, counts) = (hex(&Sha256::digest(&classes)), &card.counts);
        let told: [(&str, &dyn Display, &dyn Display); 6] = [
            ("`protocol`", &record.key.protocol, &card.protocol),
            ("number of classes", &record.classes.len(), &card.classes),
            ("hash of the class names", &classes, &card.classes_sha256),
            ("`headline`", &record.metrics.headline.name(), &card.headline),
            ("`n_test`", &record.n_test, &counts.test),
            ("`n_train`", &record.n_train, &counts.train),
        ];
        for (what, stored, told) in told {
            compare(what, stored, "its card", told);
        }
        if let Some(near) = &card.near_duplicates {
            let what = "number of near-duplicates listed";
            compare(what, &near.list.len(), "their count", &near.pairs.min(100));
        }
        if let Some(split) = split {
            let capped = [card.capped, split.capped].map(|capped| format!("{capped:?}"));
            compare("`capped`", &capped[0], "its split", &capped[1]);
            compare("`val_drawn`", &counts.val_drawn, "its split", &split.val.len());
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
    let mut first: BTreeMap<_, &Record> = BTreeMap::new();
    for record in records {
        let key = &record.key;
        let draw = (&key.dataset, key.protocol, key.shots, key.seed, record.recipe);
        let known = *first.entry(draw).or_insert(record);
        // Images may have changed between two runs into one folder: then the splits are told apart by their files.
        if !same_draw(known, record) && !store.folder().join("splits").is_dir() {
            let reason = format!("its split is not that of {}, which has the same draw", known.run_id);
            findings.problem(store, &store.cell_path(&record.run_id), reason);
        }
    }
}

fn same_draw(a: &Record, b: &Record) -> bool {
    (&a.split_sha256, &a.classes, a.n_train) == (&b.split_sha256, &b.classes, b.n_train)
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

/// Places of the images.
#[derive(Debug, Clone)]
pub struct Images {
    /// Where manifests are looked for.
    pub datasets: ManifestFolders,
    /// Unpacked datasets.
    pub cache: PathBuf,
}

/// Hashes every image file behind the cells of a folder again, of the training and of the test, and names those that differ or
/// are gone. The training images of a cell whose split is not stored are drawn again.
///
/// # Errors
/// [`Error::Io`] when results cannot be read. What is wrong with datasets and images is a finding.
pub fn images(store: &Store, places: &Images, read: ReadConfig<'_>, findings: &mut Findings) -> Result<()> {
    let mut records: BTreeMap<(String, Protocol), Vec<Record>> = BTreeMap::new();
    for run_id in store.stored()? {
        // What cannot be read was found before.
        if let Ok(Some((record, _))) = store.read(&run_id) {
            let key = (record.key.dataset.clone(), record.key.protocol);
            records.entry(key).or_default().push(record);
        }
    }
    let mut hashed = 0;
    for ((name, protocol), records) in records {
        let at = PathBuf::from(&name);
        let dataset = match data::open_as_indexed(&name, protocol, &places.datasets, &places.cache) {
            Ok(dataset) => dataset,
            Err(error) => {
                findings.problem(store, &at, format!("its images cannot be compared: {error}"));
                continue;
            }
        };
        let mut expected: BTreeSet<(String, String)> = BTreeSet::new();
        for record in &records {
            expected.extend(of_cell(store, &dataset, record, read, findings)?);
        }
        let sides = [&dataset.pool, &dataset.val, &dataset.test];
        let files: BTreeMap<&str, &Path> = sides
            .into_iter()
            .flatten()
            .map(|image| (image.id.as_str(), image.path.as_path()))
            .collect();
        let looked = expected.par_iter().map(|(id, sha256)| wrong(&files, id, sha256));
        let looked: Vec<Option<String>> = looked.collect();
        hashed += expected.len();
        for ((id, _), reason) in expected.iter().zip(looked) {
            if let Some(reason) = reason {
                let path = files.get(id.as_str()).map_or_else(|| at.join(id), PathBuf::from);
                findings.problem(store, &path, format!("image `{id}` of `{name}`: {reason}"));
            }
        }
    }
    findings.images = Some(hashed);
    Ok(())
}

/// Ids and hashes of the images of a cell.
fn of_cell(
    store: &Store,
    dataset: &Dataset,
    record: &Record,
    read: ReadConfig<'_>,
    findings: &mut Findings,
) -> Result<Vec<(String, String)>> {
    let path = store.cell_path(&record.run_id);
    let rows = store.predictions(&record.run_id)?.into_iter();
    let mut images: Vec<(String, String)> = rows.map(|row| (row.id, row.sha256)).collect();
    let stored = file::read_if_present(&store.split_path(&record.key))?;
    let stored: Option<Split> = stored.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let drawn = match stored {
        Some(split) => split,
        None if record.n_train == 0 => return Ok(images),
        None => match draw(store, dataset, record, read) {
            Ok(split) => split,
            Err(error) => {
                let reason = format!("its training images cannot be drawn again: {error}");
                findings.problem(store, &path, reason);
                return Ok(images);
            }
        },
    };
    let train = pairs(&drawn.train);
    let json = drawn.to_json()?;
    let same = match &record.train_sha256 {
        Some(train_sha256) => digest(&train) == *train_sha256,
        None => hex(&Sha256::digest(json.as_bytes())) == record.split_sha256,
    };
    if record.recipe < DIGESTS {
        prove(store, record, images.clone(), train.clone(), findings);
    }
    if !same {
        let reason = "drawn again, its training images are others: the dataset is not the one it was run on";
        findings.problem(store, &path, reason.into());
    }
    images.extend(train);
    Ok(images)
}

/// The split of a cell, drawn from the dataset as it is.
fn draw(store: &Store, dataset: &Dataset, record: &Record, read: ReadConfig<'_>) -> Result<Split> {
    let refused: BTreeSet<&String> = record.card.iter().flat_map(|card| &card.refused).collect();
    let mut dataset = dataset.clone();
    for side in [&mut dataset.pool, &mut dataset.val, &mut dataset.test] {
        side.retain(|image| !refused.contains(&image.id));
    }
    let key = &record.key;
    let config = file::read_if_present(&store.folder().join("sweep.toml"))?;
    let sweep = config.and_then(|bytes| read(&String::from_utf8_lossy(&bytes)).ok());
    let indices = sweep.and_then(|sweep| split::index_path(sweep.indices()?, &dataset, key.shots, key.seed));
    split::draw(&dataset, key.protocol, key.shots, key.seed, indices.as_deref())
}

/// Why a file is not the image that it was.
fn wrong(files: &BTreeMap<&str, &Path>, id: &str, sha256: &str) -> Option<String> {
    let Some(path) = files.get(id) else {
        return Some("it is not in the dataset any more".into());
    };
    match std::fs::read(path).map_err(Error::io("read", path)) {
        Ok(bytes) if hex(&Sha256::digest(&bytes)) == sha256 => None,
        Ok(_) => Some(format!("the file holds other bytes than those of SHA-256 {sha256}")),
        Err(error) => Some(error.to_string()),
    }
}
