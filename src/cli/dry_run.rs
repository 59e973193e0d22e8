//! `kshot sweep --dry-run`: what would run, what it would cost, and how precise it would be.

use std::collections::HashSet;
use std::path::Path;

use serde::Serialize;

use super::{output, output_json};
use crate::comparison::curve::ENOUGH_SEEDS;
use crate::error::Result;
use crate::experiment::config::Sweep;
use crate::experiment::estimate::{Estimate, Finished, Outline, Point, estimate};
use crate::experiment::folder as results;
use crate::experiment::plan::Places;
use crate::experiment::sweep::Shard;
use crate::fetch::ModelId;
use crate::statistics::power::{ACCURACY, ASSUMED, DIFFERENCE};
use crate::store::Store;
use crate::store::record::CellKey;

/// Output of `--dry-run --json`.
#[derive(Serialize)]
struct Plan<'a> {
    cells: &'a [PlannedCell<'a>],
    /// Of the cells that are not finished.
    estimate: &'a Estimate,
    /// Expected widths of the intervals.
    precision: &'a [Precision],
}

/// A cell of a plan.
#[derive(Serialize)]
struct PlannedCell<'a> {
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
    let store = Store::open_existing(folder).ok();
    if let Some(store) = &store {
        let known = outline.cells.iter();
        let known = known.filter_map(|cell| Some((&cell.key, cell.run_id.as_deref()?)));
        results::check(sweep, known, store)?;
    }
    outline.cells = shard.part(outline.cells).collect();
    // The parts of each finished cell that are needed: all their records together would be large.
    let mut finished = Vec::new();
    if let Some(store) = &store {
        for run_id in store.stored()? {
            finished.extend(store.finished(&run_id)?.map(|record| Finished::of(&record)));
        }
    }
    let ids: HashSet<&str> = finished.iter().map(|cell| cell.run_id.as_str()).collect();
    let cells = outline.cells.iter().map(|cell| planned(cell, store.as_ref(), &ids));
    let cells = cells.collect::<Result<Vec<_>>>()?;
    let estimate = estimate(&outline, &finished)?;
    let precision = precision(&outline.cells);
    if json {
        let plan = Plan {
            cells: &cells,
            estimate: &estimate,
            precision: &precision,
        };
        return output_json(&plan);
    }
    let option = cells.first().map_or("", |cell| cell.key.protocol.fetch_option());
    output(&(list(&cells) + &costs(&estimate, option) + &lines(&precision)))
}

fn planned<'a>(cell: &'a Point, store: Option<&Store>, finished: &HashSet<&str>) -> Result<PlannedCell<'a>> {
    let run_id = cell.run_id.as_deref();
    let state = match (store, run_id) {
        (Some(_), Some(id)) if finished.contains(id) => "finished",
        (Some(store), Some(id)) if store.failure_mark(id)?.is_some() => "failed",
        _ => "to do",
    };
    Ok(PlannedCell {
        run_id,
        key: &cell.key,
        state,
        images: cell.images(),
    })
}

/// The cells with the images each of them would process.
fn list(cells: &[PlannedCell]) -> String {
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

/// Costs of the unfinished cells, by learner, and the disk. `option`: the one that `kshot data fetch` needs.
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
    let parts = parts.map(|(what, bytes)| format!("{what} {}", gigabytes(bytes)));
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

/// The difference that is asked after, between 0 and 1.
const DIFFERENCE_OF: f64 = 0.02;

/// Expected 95 % intervals of one dataset with the seeds of the sweep.
#[derive(Debug, PartialEq, Serialize)]
struct Precision {
    dataset: String,
    seeds: usize,
    test_images: usize,
    /// Half the width of the interval of a mean accuracy, between 0 and 1.
    accuracy_half_width: f64,
    /// The same of a paired difference of two learners.
    difference_half_width: f64,
    /// The fewest seeds with which a true difference of 2 points is found with probability 80 %; none where 100 are not
    /// enough.
    seeds_for_2_points: Option<usize>,
}

/// One for each dataset, in order of the cells.
fn precision(cells: &[Point]) -> Vec<Precision> {
    let mut found: Vec<Precision> = Vec::new();
    for cell in cells.iter().filter(|cell| cell.key.shots.any()) {
        if found.iter().any(|one| one.dataset == cell.key.dataset) {
            continue;
        }
        let same = |other: &&Point| other.key.dataset == cell.key.dataset && other.key.shots.any();
        let mut seeds: Vec<u64> = cells.iter().filter(same).map(|other| other.key.seed).collect();
        seeds.sort_unstable();
        seeds.dedup();
        let (count, images) = (seeds.len(), cell.tested.max(2) as f64);
        found.push(Precision {
            dataset: cell.key.dataset.clone(),
            seeds: count,
            test_images: cell.tested,
            accuracy_half_width: ACCURACY.half_width(count, images),
            difference_half_width: DIFFERENCE.half_width(count, images),
            seeds_for_2_points: DIFFERENCE.seeds_for(DIFFERENCE_OF, images),
        });
    }
    found
}

/// As lines of text.
fn lines(all: &[Precision]) -> String {
    let mut text = String::new();
    for one in all {
        let needed = match one.seeds_for_2_points {
            Some(seeds) => format!("a difference of 2 points takes {seeds} seeds"),
            None => "a difference of 2 points is out of reach: too few test images".to_owned(),
        };
        text += &format!(
            "expected of {}: {} seeds, {} test images: accuracy ± {:.1} points, difference of two learners ± {:.1}; {needed}\n",
            one.dataset,
            one.seeds,
            one.test_images,
            100.0 * one.accuracy_half_width,
            100.0 * one.difference_half_width,
        );
    }
    if all.iter().any(|one| one.seeds == 1) {
        text += "expected: one seed says nothing about other draws of the examples; its interval is over test images alone\n";
    } else if all.iter().any(|one| one.seeds < ENOUGH_SEEDS) {
        text += "expected: with two seeds an interval is a bound, no result; take five\n";
    }
    if !all.is_empty() {
        text += &format!("assumed: {ASSUMED}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_seeds_narrow_it_and_few_are_warned_of() {
        let of = |seeds, images| Precision {
            dataset: "a".into(),
            seeds,
            test_images: images as usize,
            accuracy_half_width: ACCURACY.half_width(seeds, images),
            difference_half_width: DIFFERENCE.half_width(seeds, images),
            seeds_for_2_points: DIFFERENCE.seeds_for(DIFFERENCE_OF, images),
        };
        let (two, five) = (of(2, 3669.0), of(5, 3669.0));
        // t with 1 and 4 degrees of freedom on seeds that differ by 2 points: 12.706 and 2.776 standard errors.
        assert!(
            two.accuracy_half_width > 0.17 && two.accuracy_half_width < 0.20,
            "{two:?}"
        );
        assert!(
            five.accuracy_half_width > 0.025 && five.accuracy_half_width < 0.03,
            "{five:?}"
        );
        assert_eq!(two.seeds_for_2_points, five.seeds_for_2_points);
        assert!(
            five.seeds_for_2_points.is_some_and(|seeds| (18..=22).contains(&seeds)),
            "{five:?}"
        );
        assert_eq!(of(5, 180.0).seeds_for_2_points, None);
        let text = lines(&[two]);
        assert!(text.contains("2 seeds, 3669 test images") && text.contains("take five") && text.contains("assumed: "));
        assert!(!lines(&[five]).contains("take five"));
    }
}
