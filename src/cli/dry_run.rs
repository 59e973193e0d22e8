//! `kshot sweep --dry-run`: what would run, and what it would cost.

use std::collections::HashSet;
use std::path::Path;

use serde::Serialize;

use super::{output, precision};
use crate::error::{Error, Result};
use crate::experiment::config::Sweep;
use crate::experiment::estimate::{Estimate, Finished, estimate};
use crate::experiment::outline::{Outline, Point};
use crate::experiment::plan::Places;
use crate::experiment::shard::Shard;
use crate::fetch::ModelId;
use crate::store::Store;
use crate::store::record::CellKey;

/// What `--dry-run --json` prints.
#[derive(Serialize)]
struct Plan<'a> {
    cells: &'a [Listed<'a>],
    /// Of the cells that are not finished.
    estimate: &'a Estimate,
    /// Expected widths of the intervals.
    precision: &'a [precision::Precision],
}

/// A cell of a plan.
#[derive(Serialize)]
struct Listed<'a> {
    /// None as long as the dataset or the model is not on this machine.
    run_id: Option<&'a str>,
    key: &'a CellKey,
    /// "finished", "failed" in its last attempt, or "to do".
    state: &'static str,
    /// Images that pass through a model when the cell runs.
    images: u64,
}

pub(super) fn run(sweep: &Sweep, places: &Places, folder: &Path, shard: Shard, json: bool) -> Result<()> {
    let mut outline = match Outline::of(sweep, places) {
        Ok(outline) => outline,
        Err(error) => {
            let promised = Outline::promised(sweep, places)?;
            if promised.missing() == (Vec::new(), Vec::new()) {
                return Err(error);
            }
            promised
        }
    };
    let numbered = outline.cells.into_iter().enumerate();
    outline.cells = numbered
        .filter(|(place, _)| shard.has(*place))
        .map(|(_, cell)| cell)
        .collect();
    let store = Store::open_existing(folder).ok();
    let finished = match &store {
        Some(store) => done(store)?,
        None => Vec::new(),
    };
    let ids: HashSet<&str> = finished.iter().map(|cell| cell.run_id.as_str()).collect();
    let cells = outline.cells.iter().map(|cell| listed(cell, store.as_ref(), &ids));
    let cells = cells.collect::<Result<Vec<_>>>()?;
    let estimate = estimate(&outline, &finished)?;
    let precision = precision::precision(&outline.cells);
    if json {
        let plan = Plan {
            cells: &cells,
            estimate: &estimate,
            precision: &precision,
        };
        let text = serde_json::to_string_pretty(&plan).map_err(|e| Error::io("write", "stdout")(e.into()))?;
        return output(&(text + "\n"));
    }
    let option = cells.first().map_or("", |cell| cell.key.protocol.fetch_option());
    output(&(list(&cells) + &costs(&estimate, option) + &precision::lines(&precision)))
}

/// The parts of each finished cell that are needed: all their records together would be large.
fn done(store: &Store) -> Result<Vec<Finished>> {
    let mut all = Vec::new();
    for run_id in store.stored()? {
        all.extend(store.finished(&run_id)?.map(|record| Finished::of(&record)));
    }
    Ok(all)
}

fn listed<'a>(cell: &'a Point, store: Option<&Store>, finished: &HashSet<&str>) -> Result<Listed<'a>> {
    let run_id = cell.run_id.as_deref();
    let state = match (store, run_id) {
        (Some(_), Some(id)) if finished.contains(id) => "finished",
        (Some(store), Some(id)) if store.failure_mark(id)?.is_some() => "failed",
        _ => "to do",
    };
    Ok(Listed {
        run_id,
        key: &cell.key,
        state,
        images: cell.images(),
    })
}

/// The cells with the images each of them would process.
fn list(cells: &[Listed]) -> String {
    let mut text = String::new();
    for cell in cells {
        let run_id = cell.run_id.unwrap_or("-");
        text += &format!(
            "{run_id:16}  {:8}  {:>7} images  {}\n",
            cell.state, cell.images, cell.key
        );
    }
    let missing = cells.iter().filter(|cell| cell.state != "finished");
    let images: u64 = missing.map(|cell| cell.images).sum();
    text + &format!("{} cells, {images} images to process\n", cells.len())
}

/// What is not finished, by learner, and the disk. `option`: what `kshot data fetch` has to be told.
fn costs(estimate: &Estimate, option: &str) -> String {
    let mut text = String::new();
    if !estimate.learners.is_empty() {
        text += &format!(
            "\n{:28} {:>5} {:>12} {:>11} {:>6} {:>12} {:>10}\n",
            "estimate", "cells", "train images", "test images", "device", "device-hours", "memory"
        );
    }
    for cost in &estimate.learners {
        let hours = cost.hours.map_or("?".into(), rounded);
        let memory = cost.memory_bytes.map_or("?".into(), gigabytes);
        text += &format!(
            "{:28} {:>5} {:>12} {:>11} {:>6} {hours:>12} {memory:>10}\n",
            cost.learner, cost.cells, cost.train_images, cost.test_images, cost.device
        );
    }
    let disk = &estimate.disk;
    text += &format!(
        "total: {} device-hours, {} of memory\n",
        rounded(estimate.device_hours),
        gigabytes(estimate.memory_bytes)
    );
    let parts = [
        ("downloads", disk.downloads),
        ("unpacked images", disk.unpacked),
        ("weights", disk.weights),
        ("shrunk images", disk.image_cache),
        ("results", disk.results),
    ];
    let sum: u64 = parts.iter().map(|(_, bytes)| bytes).sum();
    let parts: Vec<String> = parts
        .iter()
        .map(|(what, bytes)| format!("{what} {}", gigabytes(*bytes)))
        .collect();
    text += &format!("disk: {}: {}\n", gigabytes(sum), parts.join(", "));
    if !disk.downloads_unknown.is_empty() {
        text += &format!(
            "disk: the downloads of {} have no known size\n",
            disk.downloads_unknown.join(", ")
        );
    }
    if !estimate.missing_datasets.is_empty() {
        let names = estimate.missing_datasets.join(" ");
        text += &format!(
            "datasets not on this machine: `kshot data fetch {names}{option}` downloads them; counts are those of their manifests\n"
        );
    }
    for model in &estimate.missing_models {
        let remedy = match model.to_str().and_then(ModelId::parse) {
            Some(id) => format!(": `kshot model fetch {id}` downloads it"),
            None => String::new(),
        };
        text += &format!("model not on this machine: {}{remedy}\n", model.display());
    }
    for said in &estimate.assumptions {
        text += &format!("assumed: {said}\n");
    }
    text
}

fn rounded(hours: f64) -> String {
    if hours < 0.1 {
        format!("{hours:.4}")
    } else {
        format!("{hours:.2}")
    }
}

/// 10⁹ bytes.
fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}
