//! Is a record the one that its `run_id` stands for, and does it agree with all that is stored beside it?

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::data::split::Split;
use crate::error::Result;
use crate::fs::file;
use crate::fs::hash::hex;
use crate::prediction::{Prediction, Reading};
use crate::store::Store;
use crate::store::identity::{DIGESTS, Identity, digest};
use crate::store::record::{Record, seal};
use crate::store::verify::Findings;

/// Computes the `run_id` again, and compares every field of the record that something else stored tells too; `split` is the one that
/// the cell was run on, where it is stored.
pub(super) fn check(
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
pub(super) fn prove(
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
pub(super) fn swapped(store: &Store, records: &[Record], findings: &mut Findings) {
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
