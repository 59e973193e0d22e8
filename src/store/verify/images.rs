//! Verification of the images behind a results folder: they are still those that it was computed on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::config::Protocol;
use crate::data;
use crate::data::Dataset;
use crate::data::split;
use crate::data::split::Split;
use crate::error::{Error, Result};
use crate::fs::file;
use crate::fs::hash::hex;
use crate::store::Store;
use crate::store::identity::{DIGESTS, digest};
use crate::store::record::Record;
use crate::store::verify;
use crate::store::verify::{Findings, ReadConfig};
use sha2::{Digest as _, Sha256};

/// Places of the images.
#[derive(Debug, Clone)]
pub struct Images {
    /// Folder of the manifests.
    pub datasets: PathBuf,
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
        let looked: Vec<Option<String>> = expected
            .par_iter()
            .map(|(id, sha256)| wrong(&files, id, sha256))
            .collect();
        hashed += expected.len();
        for ((id, _), reason) in expected.iter().zip(looked) {
            if let Some(reason) = reason {
                let path = files
                    .get(id.as_str())
                    .map_or_else(|| at.join(id), |path| path.to_path_buf());
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
    let mut images: Vec<(String, String)> = store
        .predictions(&record.run_id)?
        .into_iter()
        .map(|row| (row.id, row.sha256))
        .collect();
    let stored = file::read_if_present(&store.split_path(&record.key))?;
    let stored: Option<Split> = stored.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let drawn = match stored {
        Some(split) => split,
        None if record.n_train == 0 => return Ok(images),
        None => match draw(store, dataset, record, read) {
            Ok(split) => split,
            Err(error) => {
                let path = store.cell_path(&record.run_id);
                findings.problem(
                    store,
                    &path,
                    format!("its training images cannot be drawn again: {error}"),
                );
                return Ok(images);
            }
        },
    };
    let train: Vec<(String, String)> = drawn
        .train
        .iter()
        .map(|item| (item.id.clone(), item.sha256.clone()))
        .collect();
    let path = store.cell_path(&record.run_id);
    let json = drawn.to_json()?;
    let same = match &record.train_sha256 {
        Some(train_sha256) => digest(&train) == *train_sha256,
        None => hex(&Sha256::digest(json.as_bytes())) == record.split_sha256,
    };
    if record.recipe < DIGESTS {
        verify::prove(store, record, images.clone(), train.clone(), findings);
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
