//! Do the cells of a ledger follow from the `sweep.toml` beside it?

use serde_json::Value;

use crate::config::{Learner, Shots, Sweep};
use crate::error::{Error, Result};
use crate::fs::file;
use crate::store::Store;
use crate::store::identity::hyper_parameters;
use crate::store::record::Record;
use crate::store::verify::Findings;

/// Settings that a record has of its sweep or dataset, not of its learner.
const OF_OTHERS: [&str; 3] = ["calibration", "exif", "image_mode"];

/// Every cell of the ledger is one of the config: dataset, protocol, shots, seed, learner with its settings.
pub(super) fn check(store: &Store, records: &[Record], findings: &mut Findings) -> Result<()> {
    let path = store.folder().join("sweep.toml");
    let Some(bytes) = file::read_if_present(&path)? else {
        findings.problem(store, &path, "it is missing".into());
        return Ok(());
    };
    let text = String::from_utf8_lossy(&bytes);
    let sweep = match Sweep::parse(&text, "sweep.toml", &[]) {
        Ok(sweep) => sweep,
        Err(Error::Config { reason, .. }) => {
            findings.problem(store, &path, reason);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    for record in records {
        if let Some(reason) = stranger(&sweep, record) {
            let reason = format!("{} of `ledger.csv` is no cell of this config: {reason}", record.run_id);
            findings.problem(store, &path, reason);
        }
    }
    // A larger grid than the ledger's is a sweep that has not come to its end; one that asks for nothing of it is found above.
    Ok(())
}

/// Why a record is none of a sweep's.
fn stranger(sweep: &Sweep, record: &Record) -> Option<String> {
    let key = &record.key;
    let (shots, seed) = (key.shots, key.seed);
    if sweep.protocol != key.protocol {
        return Some(format!("its protocol is {}", key.protocol));
    }
    if !sweep.datasets.contains(&key.dataset) {
        return Some(format!("its dataset is `{}`", key.dataset));
    }
    if !sweep.shots.contains(&shots) {
        return Some(format!("it has {shots} shots"));
    }
    if !sweep.seeds.contains(&seed) {
        return Some(format!("its seed is {seed}"));
    }
    let Some(learner) = sweep.learners.iter().find(|learner| learner.name() == key.learner) else {
        return Some(format!("its learner is `{}`", key.learner));
    };
    settings(sweep, learner, shots, record)
}

/// The first setting that differs. One that only the record or only this version knows is no contradiction.
fn settings(sweep: &Sweep, learner: &Learner, shots: Shots, record: &Record) -> Option<String> {
    let config = hyper_parameters(&learner.under(sweep.protocol, shots), shots);
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
