//! The record of one cell: its identity (the key that results are compared by, and the hash that they are stored under),
//! its numbers, and its times.

use std::collections::HashSet;
use std::time::{SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::config::{Chosen, Protocol, Shots};
use crate::data::card::Card;
use crate::error::Error;
use crate::fs::hash::hex;
use crate::prediction::{Names, Prediction, Reading};
use crate::statistics::calibration::{Calibration, Fitted, Tempered};
use crate::statistics::metric::{Headline, Metrics, Normalised};
pub use crate::store::predictions::SCHEMA;
use crate::store::predictions::fingerprint;

/// The place of a cell in a sweep. Results are compared by this key, never by [`Identity::run_id`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellKey {
    /// Name of the dataset's manifest.
    pub dataset: String,
    /// Protocol by which shots and test images were chosen.
    pub protocol: Protocol,
    /// Label of the learner.
    pub learner: String,
    /// Labelled examples per class.
    pub shots: Shots,
    /// Seed of the draw and of the training run.
    pub seed: u64,
}

impl std::fmt::Display for CellKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plural = if self.shots == Shots::K(1) { "" } else { "s" };
        write!(f, "{} · {} · {} · ", self.dataset, self.protocol, self.learner)?;
        write!(f, "{} shot{plural} · seed {}", self.shots, self.seed)
    }
}

/// Everything that may change a cell's numbers, and nothing else: no paths, device, threads or dates.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Identity {
    /// The cell.
    pub key: CellKey,
    /// Hyper-parameters of the learner, without its label and its model's path, and without those of the training where there is
    /// none.
    pub hyper_parameters: Value,
    /// Training images in order: id and SHA-256.
    pub train: Vec<(String, String)>,
    /// Test images in order: id and SHA-256.
    pub test: Vec<(String, String)>,
    /// Class names in label order.
    pub classes: Vec<String>,
    /// Fingerprint of the base model's weights and preprocessing; `None` for a learner without one.
    pub weights: Option<String>,
    /// Number format of the computation, e.g. "f32".
    pub dtype: String,
    /// Kind of backend, e.g. "local".
    pub backend: String,
    /// Raised by hand when a change of the code may change numbers.
    pub recipe: u32,
}

impl Identity {
    /// First 16 hex digits of the SHA-256 of this identity as canonical JSON (no white space, keys sorted); the lists of
    /// images are in it by their [`digest`], and up to recipe 2 as they are.
    #[must_use]
    pub fn run_id(&self) -> String {
        self.run_id_with(&digest(&self.train))
    }

    /// The same from recipe [`DIGESTS`] on, where of the training images no more than their [`digest`] is known.
    #[must_use]
    pub fn run_id_with(&self, train_sha256: &str) -> String {
        let (train, test) = if self.recipe < DIGESTS {
            (serde_json::json!(self.train), serde_json::json!(self.test))
        } else {
            (train_sha256.into(), digest(&self.test).into())
        };
        let value = serde_json::json!({
            "key": self.key, "hyper_parameters": self.hyper_parameters, "train": train, "test": test,
            "classes": self.classes, "weights": self.weights, "dtype": self.dtype, "backend": self.backend,
            "recipe": self.recipe,
        });
        canonical_sha256(&value)[..16].to_owned()
    }
}

/// The first recipe whose identities hold digests of the lists of images: a record can then be proved without its split.
pub const DIGESTS: u32 = 3;

/// Lower-case hex SHA-256 of ids and hashes of images in order, as canonical JSON.
#[must_use]
pub fn digest(images: &[(String, String)]) -> String {
    canonical_sha256(&serde_json::json!(images))
}

/// Lower-case hex SHA-256 of a value as canonical JSON: no white space, keys sorted.
fn canonical_sha256(value: &Value) -> String {
    let mut canonical = String::new();
    write_canonical(value, &mut canonical);
    hex(&Sha256::digest(canonical.as_bytes()))
}

/// JSON whose bytes depend on the content only: object keys sorted at every depth.
fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| name.as_str());
            out.push('{');
            for (i, (name, field)) in fields.into_iter().enumerate() {
                out.push_str(if i == 0 { "" } else { "," });
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                write_canonical(field, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { "," });
                write_canonical(item, out);
            }
            out.push(']');
        }
        leaf => out.push_str(&leaf.to_string()),
    }
}

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
    /// Relation of the concepts to the base model's pre-training: "known" or "novel", where that is told.
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
    /// Calibration of the probabilities; `None` without probabilities, and in records written before it was
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
    /// [`fingerprint`] of the prediction rows.
    pub predictions_sha256: String,
    /// SHA-256 of the prediction file's bytes, checked before they are parsed.
    pub predictions_file_sha256: String,
    /// Course of the training.
    pub training: TrainingSummary,
    /// Times and device: no part of the result.
    pub timing: Timing,
    /// [`digest`] of the training images; `None` in records of before recipe [`DIGESTS`].
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
    canonical_sha256(&record)
}

/// Facts of a finished cell beside its [`Identity`] and predictions.
#[derive(Debug, Clone, PartialEq)]
pub struct CellDetails {
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
    /// Course of the training.
    pub training: TrainingSummary,
    /// Its times.
    pub timing: Timing,
}

/// Course of a training run; zeros for a learner that does not train.
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
    /// Settings that the learner chose inside its shots, if it chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Chosen>,
}

/// Times and device of a cell.
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
    /// Device it ran on, e.g. "cpu".
    pub device: String,
    /// Threads of the process.
    pub threads: usize,
    /// Cells that ran side by side and shared them.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub jobs: usize,
    /// Devices of that kind used at once.
    pub devices: usize,
    /// Processes that worked on the cell: more than one after a kill.
    pub sessions: usize,
    /// When it ended, RFC 3339 in UTC.
    pub finished: String,
    /// Commit of the source tree, where known.
    pub commit: Option<String>,
}

fn one() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_one(jobs: &usize) -> bool {
    *jobs == 1
}

impl Timing {
    /// Seconds times the share of a device, or devices, that the cell had.
    #[must_use]
    pub fn device_seconds(&self) -> f64 {
        (self.train_seconds + self.eval_seconds) * self.devices.max(1) as f64 / self.jobs.max(1) as f64
    }
}

impl Record {
    /// The record of a cell. Numbers without a JSON form (a rate over zero seconds, a loss that is
    /// not finite) are stored as 0 and absent. `file_sha256` is the hash of the prediction file's bytes.
    #[must_use]
    pub fn new(identity: &Identity, details: CellDetails, predictions: &[Prediction], file_sha256: String) -> Self {
        let mut training = details.training;
        training.final_loss = training.final_loss.filter(|loss| loss.is_finite());
        let mut timing = details.timing;
        for number in [
            &mut timing.train_seconds,
            &mut timing.eval_seconds,
            &mut timing.train_images_per_second,
            &mut timing.eval_images_per_second,
        ] {
            *number = if number.is_finite() { *number } else { 0.0 };
        }
        let of_names = |names: &Names| Normalised::of(predictions, names, details.headline);
        let normalised = details.names.as_ref().and_then(of_names);
        let mut record = Self {
            schema: SCHEMA,
            run_id: identity.run_id(),
            key: identity.key.clone(),
            classes: identity.classes.clone(),
            reading: details.reading,
            n_train: identity.train.len(),
            n_test: predictions.len(),
            n_groups: count_groups(predictions),
            micro: details.micro,
            regime: details.regime,
            hyper_parameters: identity.hyper_parameters.clone(),
            split_sha256: details.split_sha256,
            card: details.card,
            weights: identity.weights.clone(),
            dtype: identity.dtype.clone(),
            backend: identity.backend.clone(),
            recipe: identity.recipe,
            metrics: Metrics::of(predictions, details.reading, details.headline),
            calibration: Calibration::of(predictions, 1.0),
            tempered: details.fitted.and_then(|fitted| fitted.applied(predictions)),
            names: details.names,
            normalised,
            predictions_sha256: fingerprint(&identity.classes, predictions),
            predictions_file_sha256: file_sha256,
            training,
            timing,
            train_sha256: Some(digest(&identity.train)),
            seal: None,
        };
        record.seal = record.computed_seal();
        record
    }

    /// The [`seal`] of this record as it is now, of the JSON that is written and read again.
    fn computed_seal(&self) -> Option<String> {
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
    /// The error.
    pub error: String,
    /// Why, outermost first.
    pub causes: Vec<String>,
    /// The remedy.
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

fn rfc3339(unix_seconds: u64) -> String {
    let seconds = i64::try_from(unix_seconds).unwrap_or(i64::MAX);
    let time = DateTime::from_timestamp(seconds, 0).unwrap_or(DateTime::<Utc>::MAX_UTC);
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    type Cell = (Record, Vec<Prediction>);

    /// A finished cell with `n` test images of 4 classes in pairs that show one drawing, of which `right`
    /// says which are answered correctly.
    pub(crate) fn cell(
        (dataset, learner, shots, seed): (&str, &str, u32, u64),
        n: u32,
        right: impl Fn(u32) -> bool,
    ) -> Cell {
        let method = if learner.contains("pixels") { "pixels" } else { "other" };
        let identity = Identity {
            key: CellKey {
                dataset: dataset.into(),
                protocol: Protocol::Clean,
                learner: learner.into(),
                shots: shots.into(),
                seed,
            },
            hyper_parameters: serde_json::json!({ "method": method }),
            train: vec![],
            test: vec![],
            classes: ["ant", "bee", "cat", "dog"].map(String::from).into(),
            weights: None,
            dtype: "f32".into(),
            backend: "local".into(),
            recipe: 1,
        };
        let details = CellDetails {
            reading: Reading::Likelihood,
            headline: Headline::Top1,
            micro: true,
            regime: Some("novel".into()),
            split_sha256: "00".into(),
            card: None,
            fitted: None,
            names: None,
            training: TrainingSummary {
                trainable_parameters: u64::from(learner.contains("LoRA")),
                chosen: None,
                ..TrainingSummary::default()
            },
            timing: Timing::default(),
        };
        let row = |i: u32| Prediction {
            id: format!("{i:04}.png"),
            sha256: format!("{i:02x}"),
            group: Some(format!("drawing {}", i / 2)),
            truth: i % 4,
            free_text: None,
            free_class: None,
            trie_class: None,
            likelihood_class: Some(if right(i) { i % 4 } else { (i + 1) % 4 }),
            log_probs: None,
        };
        let rows: Vec<_> = (0..n).map(row).collect();
        (Record::new(&identity, details, &rows, String::new()), rows)
    }

    /// Answers of a writing learner to `n` images as in [`cell`]: by trie and by likelihood right where `chosen` says;
    /// written right where `written` says, else every second answer names another class and the rest names none.
    pub(crate) fn written_cell(
        key: (&str, &str, u32, u64),
        n: u32,
        written: impl Fn(u32) -> bool,
        chosen: impl Fn(u32) -> bool,
    ) -> Cell {
        let (mut record, mut rows) = cell(key, n, chosen);
        for (i, row) in (0..).zip(&mut rows) {
            let named = if written(i) {
                Some(row.truth)
            } else {
                (i % 2 == 0).then_some((row.truth + 1) % 4)
            };
            row.free_text = Some(named.map_or("a yak".into(), |class| record.classes[class as usize].clone()));
            row.free_class = named;
            row.trie_class = row.likelihood_class;
            // A tenth of the probability is on names, four fifths of that on the class chosen.
            let likely = |class| {
                if Some(class) == row.trie_class {
                    0.08_f32
                } else {
                    0.02 / 3.0
                }
            };
            row.log_probs = Some((0..4).map(|class| likely(class).ln()).collect());
        }
        record.reading = Reading::Free;
        record.metrics = Metrics::of(&rows, Reading::Free, Headline::Top1);
        record.predictions_sha256 = fingerprint(&record.classes, &rows);
        (record, rows)
    }

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
            protocol: Protocol::Clean,
            learner: "DINOv2 LoRA".into(),
            shots: 4.into(),
            seed: 0,
        };
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let failure = Failure::new("0123", &key, &Error::io("write", "x")(full));
        assert_eq!(failure.causes.len(), 1);
        assert!(failure.hint.unwrap().contains("space"));
    }

    fn identity() -> Identity {
        Identity {
            key: CellKey {
                dataset: "mini-pets".into(),
                protocol: Protocol::Clean,
                learner: "DINOv2 LoRA".into(),
                shots: Shots::K(4),
                seed: 0,
            },
            hyper_parameters: json!({"rank": 16, "adapter_lr": 1e-3}),
            train: vec![("a.png".into(), "00".into()), ("b.png".into(), "01".into())],
            test: vec![("c.png".into(), "02".into())],
            classes: vec!["cat".into(), "dog".into()],
            weights: Some("ff".into()),
            dtype: "f32".into(),
            backend: "local".into(),
            recipe: 1,
        }
    }

    #[test]
    fn run_id_is_pinned() {
        // printf '%s' '{"backend":"local",…}' | sha256sum | cut -c1-16, the JSON as in the next test.
        assert_eq!(identity().run_id(), "47daa5a31e43bf27");
    }

    #[test]
    fn from_recipe_3_on_digests_stand_for_the_images() {
        let mut new = identity();
        new.recipe = DIGESTS;
        let of_lists = new.run_id();
        // printf '%s' '[["a.png","00"],["b.png","01"]]' | sha256sum
        let train = digest(&new.train);
        assert_eq!(
            train,
            "accd710b7c0cc7f8d77415efaa56c8b09d0cea245f85031ea644d2036afcebf1"
        );
        new.train.clear();
        assert_eq!(new.run_id_with(&train), of_lists);
        assert_ne!(new.run_id(), of_lists);
    }

    #[test]
    fn canonical_json_sorts_keys_at_every_depth() {
        let mut out = String::new();
        write_canonical(&json!({"b": [{"d": 1, "c": "é\n"}], "a": 0.001}), &mut out);
        assert_eq!(out, r#"{"a":0.001,"b":[{"c":"é\n","d":1}]}"#);
    }

    #[test]
    fn everything_that_may_change_numbers_changes_the_run_id() {
        let changes: [fn(&mut Identity); 12] = [
            |i| i.key.dataset.push('x'),
            |i| i.key.learner.push('x'),
            |i| i.key.shots = Shots::All,
            |i| i.key.seed += 1,
            |i| i.hyper_parameters["rank"] = json!(17),
            |i| i.train.swap(0, 1),
            |i| i.test[0].1.push('0'),
            |i| i.classes.swap(0, 1),
            |i| i.weights = None,
            |i| i.dtype.push('x'),
            |i| i.backend.push('x'),
            |i| i.recipe += 1,
        ];
        let mut seen = HashSet::from([identity().run_id()]);
        for (n, change) in changes.iter().enumerate() {
            let mut changed = identity();
            change(&mut changed);
            assert!(seen.insert(changed.run_id()), "change {n} went unnoticed");
        }
    }

    #[test]
    fn display_of_a_key() {
        assert_eq!(
            identity().key.to_string(),
            "mini-pets · clean · DINOv2 LoRA · 4 shots · seed 0"
        );
    }
}
