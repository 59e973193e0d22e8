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
use crate::statistics::{Interval, wilson};
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
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Malformed`] when it is no ledger.
    pub fn listed(&self) -> Result<Option<Vec<String>>, Error> {
        let path = self.folder().join("ledger.csv");
        path.exists().then(|| listed(&path)).transpose()
    }

    /// Name and bytes of both files.
    pub(super) fn tables(&self, records: &[Record]) -> Result<[(&'static str, Vec<u8>); 2], Error> {
        let mut sorted: Vec<&Record> = records.iter().collect();
        sorted.sort_by(|a, b| (&a.key, &a.run_id).cmp(&(&b.key, &b.run_id)));
        let marked = self.marked(&sorted)?;
        let rebuilt = |name, columns: &[Column]| {
            let failed = Error::io("rebuild", self.folder().join(name));
            Ok::<_, Error>((name, table(columns, &marked).map_err(|e| failed(e.into()))?))
        };
        Ok([rebuilt("ledger.csv", &LEDGER)?, rebuilt("timings.csv", &TIMINGS)?])
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

/// A column: its name, and its text for a record and what its sanity controls say.
type Column = (&'static str, fn(&Record, &str) -> String);

/// Columns of both tables, which begin each.
const KEY: [Column; 6] = [
    ("dataset", |r, _| r.key.dataset.clone()),
    ("protocol", |r, _| r.key.protocol.to_string()),
    ("learner", |r, _| r.key.learner.clone()),
    ("shots", |r, _| r.key.shots.to_string()),
    ("seed", |r, _| r.key.seed.to_string()),
    ("run_id", |r, _| r.run_id.clone()),
];

/// Identity and metrics. `top1_low` and `top1_high` are Wilson's 95 % interval of `top1` for so many independent images,
/// which is too narrow where there are fewer `n_groups` than `n_test`.
const LEDGER: [Column; 31] = [
    ("micro", |r, _| r.micro.to_string()),
    ("regime", |r, _| r.regime.clone().unwrap_or_default()),
    ("reading", |r, _| r.reading.to_string()),
    ("headline", |r, _| r.metrics.headline.name().into()),
    ("control", |_, control| control.into()),
    ("accuracy", |r, _| number(r.metrics.value())),
    ("top1", |r, _| number(r.metrics.top1)),
    ("top1_low", |r, _| number(top1(r).low)),
    ("top1_high", |r, _| number(top1(r).high)),
    ("mean_per_class", |r, _| number(r.metrics.mean_per_class)),
    ("invalid_rate", |r, _| number(r.metrics.invalid_rate)),
    ("accuracy_free", |r, _| by(r, Reading::Free)),
    ("accuracy_trie", |r, _| by(r, Reading::Trie)),
    ("accuracy_likelihood", |r, _| by(r, Reading::Likelihood)),
    ("invalid_free", |r, _| invalid_free(r)),
    ("ece", |r, _| optional(r.metrics.ece)),
    ("nll", |r, _| optional(r.metrics.nll)),
    ("n_classes", |r, _| r.classes.len().to_string()),
    ("n_train", |r, _| r.n_train.to_string()),
    ("n_test", |r, _| r.n_test.to_string()),
    ("n_groups", |r, _| r.n_groups.to_string()),
    ("steps", |r, _| r.training.steps.to_string()),
    ("images_seen", |r, _| r.training.images_seen.to_string()),
    ("final_loss", |r, _| optional(r.training.final_loss)),
    ("trainable_parameters", |r, _| {
        r.training.trainable_parameters.to_string()
    }),
    ("dtype", |r, _| r.dtype.clone()),
    ("backend", |r, _| r.backend.clone()),
    ("recipe", |r, _| r.recipe.to_string()),
    ("weights", |r, _| r.weights.clone().unwrap_or_default()),
    ("split_sha256", |r, _| r.split_sha256.clone()),
    ("predictions_sha256", |r, _| r.predictions_sha256.clone()),
];

/// Seconds, device, date and commit.
const TIMINGS: [Column; 8] = [
    ("train_seconds", |r, _| thousandths(r.timing.train_seconds)),
    ("eval_seconds", |r, _| thousandths(r.timing.eval_seconds)),
    ("train_images_per_second", |r, _| {
        thousandths(r.timing.train_images_per_second)
    }),
    ("eval_images_per_second", |r, _| {
        thousandths(r.timing.eval_images_per_second)
    }),
    ("device", |r, _| r.timing.device.clone()),
    ("threads", |r, _| r.timing.threads.to_string()),
    ("finished", |r, _| r.timing.finished.clone()),
    ("commit", |r, _| r.timing.commit.clone().unwrap_or_default()),
];

/// Records with their controls as CSV, in the order given.
fn table(columns: &[Column], records: &[(&Record, String)]) -> Result<Vec<u8>, csv::Error> {
    let columns = || KEY.iter().chain(columns);
    let mut table = csv::Writer::from_writer(Vec::new());
    table.write_record(columns().map(|(name, _)| name))?;
    for (record, control) in records {
        let texts = columns().map(|(_, text)| text(record, control));
        table.write_record(texts.map(|text| cell(&text).into_owned()))?;
    }
    finish(table)
}

fn by(record: &Record, reading: Reading) -> String {
    optional(record.metrics.value_by(reading))
}

fn invalid_free(record: &Record) -> String {
    optional(record.metrics.readings.free.map(|free| free.invalid_rate))
}

fn top1(record: &Record) -> Interval {
    let right = (record.metrics.top1 * record.n_test as f64).round() as usize;
    wilson(right, record.n_test)
}

fn thousandths(value: f64) -> String {
    format!("{value:.3}")
}

fn number(value: f64) -> String {
    format!("{value:.DIGITS$}")
}

fn optional(value: Option<f64>) -> String {
    value.map(number).unwrap_or_default()
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
