//! One row a cell, as CSV: `ledger.csv` holds what can be compared byte for byte, `timings.csv` what cannot.
//!
//! A spreadsheet takes a cell that begins with `=`, `+`, `-`, `@`, a tab or a carriage return for a formula, quoted or
//! not. Such text gets a `'` in front, which spreadsheets do not show; numbers stay as they are, and so does all text that
//! begins with anything else. Reading takes the mark away again. JSON, Parquet and records hold every name as it is.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::fs::file;
use crate::prediction::Reading;
use crate::statistics::wilson;
use crate::store::Store;
use crate::store::record::Record;

/// Digits after the point of every share and loss.
const DIGITS: usize = 6;

impl Store {
    /// Rebuilds `ledger.csv` (identity and metrics: the same results, the same bytes) and `timings.csv`
    /// from `records`, in any order.
    ///
    /// # Errors
    /// [`Error::Io`] when they cannot be written.
    pub fn write_ledger(&self, records: &[Record]) -> Result<(), Error> {
        for (name, bytes) in self.tables(records)? {
            file::replace_if_changed(&self.folder().join(name), &bytes)?;
        }
        Ok(())
    }

    /// The cells that `ledger.csv` lists; `None` where there is none yet.
    pub(super) fn listed(&self) -> Result<Option<Vec<String>>, Error> {
        let path = self.folder().join("ledger.csv");
        path.exists().then(|| listed(&path)).transpose()
    }

    /// Name and bytes of both files.
    pub(super) fn tables(&self, records: &[Record]) -> Result<[(&'static str, Vec<u8>); 2], Error> {
        let mut sorted: Vec<&Record> = records.iter().collect();
        sorted.sort_by(|a, b| (&a.key, &a.run_id).cmp(&(&b.key, &b.run_id)));
        let failed = |name: &str| {
            let path = self.folder().join(name);
            move |e: csv::Error| Error::io("rebuild", path)(e.into())
        };
        Ok([
            (
                "ledger.csv",
                ledger(&self.marked(&sorted)?).map_err(failed("ledger.csv"))?,
            ),
            ("timings.csv", timings(&sorted).map_err(failed("timings.csv"))?),
        ])
    }
}

/// The cells that a ledger lists.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Malformed`] when it is no ledger.
pub fn listed(path: &Path) -> Result<Vec<String>, Error> {
    #[derive(Deserialize)]
    struct Row {
        run_id: String,
    }
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    csv::Reader::from_reader(bytes.as_slice())
        .deserialize()
        .map(|row| row.map(|Row { run_id }| run_id))
        .collect::<Result<_, _>>()
        .map_err(|e| Error::malformed("ledger", path, e))
}

/// Identity and metrics of `records`, in the order given, each with what its sanity controls say. `top1_low` and
/// `top1_high` are Wilson's 95 % interval of `top1` for so many independent images, which is too narrow where there are
/// fewer `n_groups` than `n_test`.
///
/// # Errors
/// When the CSV writer fails.
pub fn ledger(records: &[(&Record, String)]) -> Result<Vec<u8>, csv::Error> {
    let mut table = csv::Writer::from_writer(Vec::new());
    table.write_record(KEY.iter().chain(&[
        "micro",
        "regime",
        "reading",
        "headline",
        "control",
        "accuracy",
        "top1",
        "top1_low",
        "top1_high",
        "mean_per_class",
        "invalid_rate",
        "accuracy_free",
        "accuracy_trie",
        "accuracy_likelihood",
        "invalid_free",
        "ece",
        "nll",
        "n_classes",
        "n_train",
        "n_test",
        "n_groups",
        "steps",
        "images_seen",
        "final_loss",
        "trainable_parameters",
        "dtype",
        "backend",
        "recipe",
        "weights",
        "split_sha256",
        "predictions_sha256",
    ]))?;
    for (record, control) in records {
        let (metrics, training) = (&record.metrics, &record.training);
        let right = (metrics.top1 * record.n_test as f64).round() as usize;
        let wilson = wilson(right, record.n_test);
        let mut row = key(record);
        row.extend([
            record.micro.to_string(),
            record.regime.clone().unwrap_or_default(),
            word(&record.reading)?,
            word(&metrics.headline)?,
            control.clone(),
            number(metrics.value()),
            number(metrics.top1),
            number(wilson.low),
            number(wilson.high),
            number(metrics.mean_per_class),
            number(metrics.invalid_rate),
            optional(metrics.value_by(Reading::Free)),
            optional(metrics.value_by(Reading::Trie)),
            optional(metrics.value_by(Reading::Likelihood)),
            optional(metrics.readings.free.map(|free| free.invalid_rate)),
            optional(metrics.ece),
            optional(metrics.nll),
            record.classes.len().to_string(),
            record.n_train.to_string(),
            record.n_test.to_string(),
            record.n_groups.to_string(),
            training.steps.to_string(),
            training.images_seen.to_string(),
            optional(training.final_loss),
            training.trainable_parameters.to_string(),
            record.dtype.clone(),
            record.backend.clone(),
            record.recipe.to_string(),
            record.weights.clone().unwrap_or_default(),
            record.split_sha256.clone(),
            record.predictions_sha256.clone(),
        ]);
        table.write_record(row.iter().map(|text| cell(text).into_owned()))?;
    }
    finish(table)
}

/// Seconds, device, date and commit of `records`, in the order given.
///
/// # Errors
/// When the CSV writer fails.
pub fn timings(records: &[&Record]) -> Result<Vec<u8>, csv::Error> {
    let mut table = csv::Writer::from_writer(Vec::new());
    table.write_record(KEY.iter().chain(&[
        "train_seconds",
        "eval_seconds",
        "train_images_per_second",
        "eval_images_per_second",
        "device",
        "threads",
        "finished",
        "commit",
    ]))?;
    for record in records {
        let timing = &record.timing;
        let mut row = key(record);
        row.extend(
            [
                timing.train_seconds,
                timing.eval_seconds,
                timing.train_images_per_second,
                timing.eval_images_per_second,
            ]
            .map(|value| format!("{value:.3}")),
        );
        row.extend([
            timing.device.clone(),
            timing.threads.to_string(),
            timing.finished.clone(),
            timing.commit.clone().unwrap_or_default(),
        ]);
        table.write_record(row.iter().map(|text| cell(text).into_owned()))?;
    }
    finish(table)
}

/// Columns of [`key`].
const KEY: [&str; 6] = ["dataset", "protocol", "learner", "shots", "seed", "run_id"];

fn key(record: &Record) -> Vec<String> {
    let key = &record.key;
    vec![
        key.dataset.clone(),
        key.protocol.to_string(),
        key.learner.clone(),
        key.shots.to_string(),
        key.seed.to_string(),
        record.run_id.clone(),
    ]
}

fn number(value: f64) -> String {
    format!("{value:.DIGITS$}")
}

fn optional(value: Option<f64>) -> String {
    value.map(number).unwrap_or_default()
}

/// The name that a plain enum has in our files.
fn word(value: &impl Serialize) -> Result<String, csv::Error> {
    let value = serde_json::to_value(value).map_err(|e| csv::Error::from(std::io::Error::from(e)))?;
    Ok(value.as_str().unwrap_or_default().to_owned())
}

fn finish(table: csv::Writer<Vec<u8>>) -> Result<Vec<u8>, csv::Error> {
    table.into_inner().map_err(|e| csv::Error::from(e.into_error()))
}

/// Rows as CSV with their fields' names as header, to be written to `path`.
pub(crate) fn to_csv<T: Serialize>(mut rows: impl Iterator<Item = T>, path: &Path) -> Result<Vec<u8>, Error> {
    let mut table = csv::Writer::from_writer(Vec::new());
    let written = rows.try_for_each(|row| table.serialize(row));
    written
        .and_then(|()| finish(table))
        .map_err(|e| Error::io("write", path)(e.into()))
}

/// True if a text begins as formulas do, after any number of marks, and is neither a number nor a list of numbers.
fn is_formula(text: &str) -> bool {
    text.trim_start_matches('\'')
        .starts_with(['=', '+', '-', '@', '\t', '\r'])
        && !text.split(' ').all(|word| word.parse::<f64>().is_ok())
}

/// A text as it stands in a cell.
#[must_use]
pub fn cell(text: &str) -> Cow<'_, str> {
    if is_formula(text) {
        format!("'{text}").into()
    } else {
        text.into()
    }
}

/// The text of a cell.
#[must_use]
pub fn text(cell: &str) -> &str {
    match cell.strip_prefix('\'') {
        Some(text) if is_formula(text) => text,
        _ => cell,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_are_marked_and_read_back_and_numbers_stay() {
        for (name, marked) in [
            ("=HYPERLINK(\"http://x\")", "'=HYPERLINK(\"http://x\")"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
            ("-a", "'-a"),
            ("'=1", "''=1"),
            ("\t=1", "'\t=1"),
        ] {
            assert_eq!((cell(name).as_ref(), text(marked)), (marked, name));
        }
        for kept in ["-0.5", "-5 -5", "+1e-3", "", "7-Up", "a=b", "'quoted'", "'"] {
            assert_eq!((cell(kept).as_ref(), text(kept)), (kept, kept));
        }
    }
}
