//! What is kept of one cell: who it is, what came out, and how long it took.

use std::collections::HashSet;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::Chosen;
use crate::data::card::Card;
use crate::error::Error;
use crate::prediction::{Names, Prediction, Reading};
use crate::statistics::calibration::{Calibration, Fitted, Tempered};
use crate::statistics::metric::{Headline, Metrics};
use crate::statistics::normalisation::Normalised;
use crate::store::identity;
pub use crate::store::identity::{CellKey, Identity};

/// Version of the files written here; raised when a field changes its meaning.
pub const SCHEMA: u32 = 3;

/// A finished cell, as stored in `cells/<run_id>.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`SCHEMA`]: a record of an earlier one is brought up to it when it is read.
    pub schema: u32,
    /// [`Identity::run_id`].
    pub run_id: String,
    /// The cell.
    pub key: CellKey,
    /// Class names in label order.
    pub classes: Vec<String>,
    /// Reading of the answers behind `metrics`.
    pub reading: Reading,
    /// Training images.
    pub n_train: usize,
    /// Test images.
    pub n_test: usize,
    /// Groups of test images that are not independent; equals `n_test` when every image stands alone.
    pub n_groups: usize,
    /// From a miniature dataset, or by a micro model: says nothing about the real ones.
    pub micro: bool,
    /// Whether the base model met these concepts in pre-training: "known" or "novel", where that is told.
    pub regime: Option<String>,
    /// Settings of the learner.
    pub hyper_parameters: Value,
    /// SHA-256 of the split's file.
    pub split_sha256: String,
    /// The data behind it; `None` in records of an earlier schema.
    pub card: Option<Card>,
    /// Fingerprint of the base model's weights and preprocessing.
    pub weights: Option<String>,
    /// Number format of the computation.
    pub dtype: String,
    /// Kind of backend.
    pub backend: String,
    /// Version of the code's numbers.
    pub recipe: u32,
    /// The numbers, all of which can be computed again from the predictions.
    pub metrics: Metrics,
    /// How far the probabilities can be believed; `None` without probabilities, and in records written before it was
    /// kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// The same at a temperature fitted inside the shots, where the sweep asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tempered: Option<Tempered>,
    /// Of the class names, where likelihoods of names were read; `None` in records written before it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<Names>,
    /// Accuracy by normalisation of the names' likelihoods, where `names` is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalised: Option<Normalised>,
    /// [`crate::store::predictions::fingerprint`] of the prediction rows.
    pub predictions_sha256: String,
    /// SHA-256 of the prediction file's bytes, checked before they are parsed.
    pub predictions_file_sha256: String,
    /// How the training went.
    pub training: TrainingSummary,
    /// How long it took and where: no part of the result.
    pub timing: Timing,
    /// [`identity::digest`] of the training images; `None` in records of before recipe [`identity::DIGESTS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_sha256: Option<String>,
    /// [`seal`] of all other fields: it guards what nothing else can be compared with, such as times and dates. `None` in records
    /// of before it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<String>,
}

/// Lower-case hex SHA-256 of a record as canonical JSON without its field `seal`. Whoever edits a record can compute it anew, as
/// any hash that is stored beside what it is of: it finds accidents and careless hands.
#[must_use]
pub fn seal(record: &Value) -> String {
    let mut record = record.clone();
    if let Value::Object(fields) = &mut record {
        fields.remove("seal");
    }
    identity::canonical_sha256(&record)
}

/// What an experiment knows about a finished cell beside its [`Identity`] and predictions.
#[derive(Debug, Clone, PartialEq)]
pub struct Account {
    /// Reading that makes the headline.
    pub reading: Reading,
    /// Accuracy that makes the headline.
    pub headline: Headline,
    /// See [`Record::micro`].
    pub micro: bool,
    /// See [`Record::regime`].
    pub regime: Option<String>,
    /// SHA-256 of the split's file.
    pub split_sha256: String,
    /// See [`Record::card`].
    pub card: Option<Card>,
    /// The temperature that was fitted inside the shots, if one was.
    pub fitted: Option<Fitted>,
    /// See [`Record::names`].
    pub names: Option<Names>,
    /// How the training went.
    pub training: TrainingSummary,
    /// How long it took.
    pub timing: Timing,
}

/// How a training run went; zeros for a learner that does not train.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingSummary {
    /// Optimiser steps.
    pub steps: u64,
    /// Training images seen, repeats counted.
    pub images_seen: u64,
    /// Loss of the last step, in nats per image.
    pub final_loss: Option<f64>,
    /// Trainable numbers.
    pub trainable_parameters: u64,
    /// Sequences a pass since the device was out of memory; absent where it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halved_to: Option<usize>,
    /// What the learner chose inside its shots, if it chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Chosen>,
}

/// How long a cell took and where.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// Seconds of training.
    pub train_seconds: f64,
    /// Seconds of predicting the test set.
    pub eval_seconds: f64,
    /// Training images per second; 0 where nothing was trained.
    pub train_images_per_second: f64,
    /// Test images per second.
    pub eval_images_per_second: f64,
    /// Where it ran, e.g. "cpu".
    pub device: String,
    /// Threads used.
    pub threads: usize,
    /// Devices of that kind used at once.
    pub devices: usize,
    /// Processes that worked on the cell: more than one after a kill.
    pub sessions: usize,
    /// When it ended, RFC 3339 in UTC.
    pub finished: String,
    /// Commit of the source tree, where known.
    pub commit: Option<String>,
}

impl Record {
    /// The record of a cell. Numbers without a JSON form (a rate over zero seconds, a loss that is
    /// not finite) are stored as 0 and absent. `file_sha256` is the hash of the prediction file's bytes.
    #[must_use]
    pub fn new(identity: &Identity, account: Account, predictions: &[Prediction], file_sha256: String) -> Self {
        let mut training = account.training;
        training.final_loss = training.final_loss.filter(|loss| loss.is_finite());
        let mut timing = account.timing;
        for number in [
            &mut timing.train_seconds,
            &mut timing.eval_seconds,
            &mut timing.train_images_per_second,
            &mut timing.eval_images_per_second,
        ] {
            *number = if number.is_finite() { *number } else { 0.0 };
        }
        let names = account.names;
        let of_names = |names: &Names| Normalised::of(predictions, names, account.headline);
        let normalised = names.as_ref().and_then(of_names);
        let mut record = Self {
            schema: SCHEMA,
            run_id: identity.run_id(),
            key: identity.key.clone(),
            classes: identity.classes.clone(),
            reading: account.reading,
            n_train: identity.train.len(),
            n_test: predictions.len(),
            n_groups: count_groups(predictions),
            micro: account.micro,
            regime: account.regime,
            hyper_parameters: identity.hyper_parameters.clone(),
            split_sha256: account.split_sha256,
            card: account.card,
            weights: identity.weights.clone(),
            dtype: identity.dtype.clone(),
            backend: identity.backend.clone(),
            recipe: identity.recipe,
            metrics: Metrics::of(predictions, account.reading, account.headline),
            calibration: Calibration::of(predictions, 1.0),
            tempered: account.fitted.and_then(|fitted| fitted.applied(predictions)),
            names,
            normalised,
            predictions_sha256: crate::store::predictions::fingerprint(&identity.classes, predictions),
            predictions_file_sha256: file_sha256,
            training,
            timing,
            train_sha256: Some(identity::digest(&identity.train)),
            seal: None,
        };
        record.seal = record.computed_seal();
        record
    }

    /// The [`seal`] of this record as it is now, of the JSON that is written and read again.
    pub(super) fn computed_seal(&self) -> Option<String> {
        let json = serde_json::to_vec(self).ok()?;
        Some(seal(&serde_json::from_slice(&json).ok()?))
    }

    /// The headline accuracy, between 0 and 1.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.metrics.value()
    }
}

/// Independent groups among test images: an image without a group is one of its own.
pub(super) fn count_groups(predictions: &[Prediction]) -> usize {
    let named: HashSet<_> = predictions.iter().filter_map(|p| p.group.as_deref()).collect();
    named.len() + predictions.iter().filter(|p| p.group.is_none()).count()
}

/// A cell that failed, as stored in `cells/<run_id>.failed.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// [`SCHEMA`] at the time of writing.
    pub schema: u32,
    /// [`Identity::run_id`].
    pub run_id: String,
    /// The cell.
    pub key: CellKey,
    /// What happened.
    pub error: String,
    /// Why, outermost first.
    pub causes: Vec<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// When, RFC 3339 in UTC.
    pub finished: String,
}

impl Failure {
    /// The failure of a cell, now.
    #[must_use]
    pub fn new(run_id: &str, key: &CellKey, error: &Error) -> Self {
        let first = std::error::Error::source(error);
        Self {
            schema: SCHEMA,
            run_id: run_id.into(),
            key: key.clone(),
            error: error.to_string(),
            causes: std::iter::successors(first, |e| e.source())
                .map(ToString::to_string)
                .collect(),
            hint: error.hint(),
            finished: utc_now(),
        }
    }
}

/// The present as RFC 3339 in UTC, to the second.
#[must_use]
pub fn utc_now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    rfc3339(since.as_secs())
}

/// Days to a date by Howard Hinnant's `civil_from_days`, for dates since 1970.
fn rfc3339(unix_seconds: u64) -> String {
    let (days, second) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let shifted = days + 719_468; // days since 0000-03-01
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        // date -u -d @N +%FT%TZ
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_330_953), "2026-11-22T07:02:33Z");
        assert_eq!(rfc3339(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn a_failure_carries_causes_and_remedy() {
        let key = CellKey {
            dataset: "mini-pets".into(),
            protocol: crate::config::Protocol::Clean,
            learner: "DINOv2 LoRA".into(),
            shots: 4.into(),
            seed: 0,
        };
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let failure = Failure::new("0123", &key, &Error::io("write", "x")(full));
        assert_eq!(failure.causes.len(), 1);
        assert!(failure.hint.unwrap().contains("space"));
    }
}
