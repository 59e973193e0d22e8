//! The proof that a results folder holds what it says, its config read with the learners of this program.

use std::path::Path;

use serde_json::Value;

use crate::config::Shots;
use crate::error::Result;
use crate::experiment::config::Sweep;
use crate::learner::Learner;
use crate::store::Store;
use crate::store::record::Record;
use crate::store::verify::{self, Config, Findings};

/// As [`verify::verify`].
///
/// # Errors
/// As [`verify::verify`].
pub fn verify(store: &Store) -> Result<Findings> {
    verify::verify(store, &read)
}

/// The config of a results folder.
pub(crate) fn read(text: &str) -> Result<Box<dyn Config>> {
    Ok(Box::new(Sweep::parse(text, "sweep.toml", &[])?))
}

impl Config for Sweep {
    fn contradicts(&self, record: &Record) -> Option<String> {
        let key = &record.key;
        let (shots, seed) = (key.shots, key.seed);
        if self.protocol != key.protocol {
            return Some(format!("its protocol is {}", key.protocol));
        }
        if !self.datasets.contains(&key.dataset) {
            return Some(format!("its dataset is `{}`", key.dataset));
        }
        if !self.shots.contains(&shots) {
            return Some(format!("it has {shots} shots"));
        }
        if !self.seeds.contains(&seed) {
            return Some(format!("its seed is {seed}"));
        }
        let Some(learner) = self.learners.iter().find(|learner| learner.name() == key.learner) else {
            return Some(format!("its learner is `{}`", key.learner));
        };
        settings(self, learner, shots, record)
    }

    fn indices(&self) -> Option<&Path> {
        self.indices.as_deref()
    }
}

/// Settings that a record has of its sweep or dataset, not of its learner.
const OF_OTHERS: [&str; 3] = ["calibration", "exif", "image_mode"];

/// The first setting that differs. One that only the record or only this version knows is no contradiction.
fn settings(sweep: &Sweep, learner: &Learner, shots: Shots, record: &Record) -> Option<String> {
    let config = learner.under(sweep.protocol, shots).identity(shots);
    let (Value::Object(config), Value::Object(stored)) = (&config, &record.hyper_parameters) else {
        return Some("its settings are no object".into());
    };
    let differs = |(name, asked): (&String, &Value)| {
        let known = stored.get(name)?;
        (known != asked && !OF_OTHERS.contains(&name.as_str())).then(|| format!("`{name}` is {known}, not {asked}"))
    };
    if let Some(difference) = config.iter().find_map(differs) {
        return Some(difference);
    }
    let exif = stored.get("exif").is_none_or(|exif| *exif == Value::Bool(true));
    if exif != sweep.exif {
        return Some(format!("`exif` is {exif}"));
    }
    let folds = stored
        .get("calibration")
        .and_then(|fitted| fitted.get("folds"))
        .and_then(Value::as_u64);
    let asked = sweep.calibration.as_ref().map(|calibration| calibration.folds as u64);
    match folds {
        Some(folds) if asked != Some(folds) => Some(format!("its temperature has {folds} folds")),
        None if asked.is_some_and(|asked| {
            learner.has_probabilities() && shots.count().is_none_or(|k| u64::from(k) >= asked)
        }) =>
        {
            Some("it has no temperature".into())
        }
        _ => None,
    }
}
