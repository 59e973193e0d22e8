//! Noise: the change of a cell's accuracy between runs in which nothing was changed.
//!
//! With K runs of one cell on the same images, U is the mean of Δ² over all pairs of runs, which is twice the variance
//! of their accuracies and has K − 1 degrees of freedom, and V the mean of Σ D_g² (see [change](crate::gate::change)): what
//! independently flickering images explain. τ² = U − V is what runs add by moving many images at once, never below 0.
//! It is a moment estimate; its own variance is 2 (τ² + V)² / (K − 1).
//!
//! U and V are pooled, weighted by degrees of freedom, twice: over all cells of one learner with as many shots, and over
//! those of them on one dataset (all seeds). The larger τ² counts, with its own variance: a dataset that is noisier than
//! the others is not averaged away. Where the cells of a pool differ, its variance is that of a sum of unequal variances
//! (Satterthwaite 1946), each cell's squared U lessened by d / (d + 2), for that is what the square of an estimate with d
//! degrees of freedom exceeds the truth by.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::Shots;
use crate::error::{Error, Result};
use crate::fs::file;
use crate::gate::folder::Machine;
use crate::store::record::CellKey;
use crate::store::{parse, to_json};

/// Version of `noise.json`.
pub const SCHEMA: u32 = 1;
/// Its name, beside the baseline that it was measured with.
pub const FILE: &str = "noise.json";
const KIND: &str = "file of run-to-run noise";

/// Noise that the test of one cell has to allow for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RunNoise {
    /// τ²: variance of a change in accuracy (a share, squared) beyond what independent images explain.
    pub variance: f64,
    /// Variance of that estimate.
    pub uncertainty: f64,
    /// Degrees of freedom of U, which the estimate follows from. A small τ² by chance lets the images, which are many, make
    /// up the variance: the test must not have their degrees of freedom then.
    pub degrees: f64,
}

/// Run-to-run noise as measured, as stored in `noise.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Noise {
    /// [`SCHEMA`] at the time of writing.
    pub schema: u32,
    /// Each cell that was run more than once.
    pub cells: Vec<CellNoise>,
}

/// Results of repeated runs of one cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellNoise {
    /// The cell.
    pub key: CellKey,
    /// Runs, at least two.
    pub runs: usize,
    /// U: mean squared change in accuracy between two runs, a share squared.
    pub changes: f64,
    /// V: the part of it that independently changing images explain.
    pub images: f64,
    /// The machines that computed the runs, each kind of machine once; empty in files that do not tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<String>,
}

/// The cells of one learner with as many shots, pooled.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pool {
    /// Label of the learner.
    pub learner: String,
    /// Labelled examples per class.
    pub shots: Shots,
    /// Number of cells measured.
    pub cells: usize,
    /// Degrees of freedom: runs less one, over all cells.
    pub degrees: usize,
    /// Root of U, in percentage points: how far two unchanged runs lie apart.
    pub change_points: f64,
    /// Root of V, in percentage points.
    pub images_points: f64,
    /// Root of τ², in percentage points.
    pub noise_points: f64,
}

impl CellNoise {
    /// From the accuracy that each group of images contributes, run by run; `None` for fewer than two runs.
    #[must_use]
    pub fn of(key: CellKey, runs: &[Vec<f64>]) -> Option<Self> {
        let (mut changes, mut images, mut pairs) = (0.0, 0.0, 0.0);
        for (i, one) in runs.iter().enumerate() {
            for other in &runs[..i] {
                let by_group = || one.iter().zip(other).map(|(a, b)| a - b);
                changes += by_group().sum::<f64>().powi(2);
                images += by_group().map(|d| d * d).sum::<f64>();
                pairs += 1.0;
            }
        }
        (runs.len() > 1).then(|| Self {
            key,
            runs: runs.len(),
            changes: changes / pairs,
            images: images / pairs,
            places: Vec::new(),
        })
    }

    /// An upper bound of the noise, from the accuracies of one cell's seeds, which differ in what they learn from as well
    /// as by chance; `None` for fewer than two. All of it counts as noise: seeds move classes against each other, so that
    /// independent images may explain more than there is.
    #[must_use]
    pub fn of_seeds(key: CellKey, accuracies: &[f64]) -> Option<Self> {
        let n = accuracies.len();
        let mean = accuracies.iter().sum::<f64>() / n as f64;
        let squares: f64 = accuracies.iter().map(|accuracy| (accuracy - mean).powi(2)).sum();
        (n > 1).then(|| Self {
            key,
            runs: n,
            changes: 2.0 * squares / (n - 1) as f64,
            images: 0.0,
            places: Vec::new(),
        })
    }

    /// The same with the places where the runs were made.
    #[must_use]
    pub fn measured_on(mut self, places: impl Iterator<Item = String>) -> Self {
        self.places = places.collect();
        self.places.sort();
        self.places.dedup();
        self
    }

    fn degrees(&self) -> f64 {
        (self.runs.max(1) - 1) as f64
    }
}

impl Noise {
    /// Noise of these cells.
    #[must_use]
    pub fn new(cells: Vec<CellNoise>) -> Self {
        Self { schema: SCHEMA, cells }
    }

    /// The noise stored beside a baseline; `None` where none was.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the file is torn or of an unknown schema, [`Error::Io`] when it cannot be read.
    pub fn read(baseline: &Path) -> Result<Option<Self>> {
        let path = baseline.join(FILE);
        let Some(bytes) = file::read_if_present(&path)? else {
            return Ok(None);
        };
        let noise: Self = parse(KIND, &path, &bytes, |noise: &Self| noise.schema, SCHEMA)?;
        // Of shares between 0 and 1; no file has a million runs.
        let sound = |c: &CellNoise| {
            (2..=1_000_000).contains(&c.runs) && (0.0..=2.0).contains(&c.changes) && (0.0..=2.0).contains(&c.images)
        };
        if let Some(cell) = noise.cells.iter().find(|c| !sound(c)) {
            let reason = format!("the numbers of {} make no sense", cell.key);
            return Err(Error::malformed(KIND, &path, reason));
        }
        Ok(Some(noise))
    }

    /// Stores it beside a baseline.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn write(&self, baseline: &Path) -> Result<()> {
        let path = baseline.join(FILE);
        file::replace_if_changed(&path, &to_json(self, &path)?).map(drop)
    }

    /// The cells of one learner with as many shots.
    fn alike(&self, key: &CellKey) -> impl Iterator<Item = &CellNoise> {
        let alike = |c: &&CellNoise| c.key.learner == key.learner && c.key.shots == key.shots;
        self.cells.iter().filter(alike)
    }

    /// The noise of a cell; `None` where no cell of its learner with as many shots was measured.
    #[must_use]
    pub fn of(&self, key: &CellKey) -> Option<RunNoise> {
        let alike: Vec<&CellNoise> = self.alike(key).collect();
        let here: Vec<&CellNoise> = alike.iter().copied().filter(|c| c.key.dataset == key.dataset).collect();
        let (all, here) = (Moments::of(&alike)?, Moments::of(&here));
        let larger = here.filter(|here| here.excess() >= all.excess()).unwrap_or(all);
        Some(RunNoise {
            variance: larger.excess(),
            uncertainty: larger.uncertainty(),
            degrees: larger.effective_degrees(),
        })
    }

    /// The noise of a cell that was made at `place`, if the runs that were measured say anything about it: one of them
    /// was made there as well, or they were made in several places and differ. From runs of one machine, which may well
    /// be the same to the byte, nothing follows for another one.
    #[must_use]
    pub fn at(&self, key: &CellKey, place: &Machine) -> Option<RunNoise> {
        let place = place.to_string();
        let places: BTreeSet<&String> = self.alike(key).flat_map(|c| &c.places).collect();
        let differ = || self.alike(key).any(|c| c.changes > 0.0);
        let covered = places.is_empty() || places.contains(&place) || places.len() > 1 && differ();
        covered.then(|| self.of(key)).flatten()
    }

    /// The pools, by learner and shots.
    #[must_use]
    pub fn pools(&self) -> Vec<Pool> {
        let mut pools: BTreeMap<(&str, Shots), Vec<&CellNoise>> = BTreeMap::new();
        for cell in &self.cells {
            pools.entry((&cell.key.learner, cell.key.shots)).or_default().push(cell);
        }
        let points = |variance: f64| 100.0 * variance.sqrt();
        let pool = |((learner, shots), cells): ((&str, Shots), Vec<&CellNoise>)| {
            let moments = Moments::of(&cells)?;
            Some(Pool {
                learner: learner.into(),
                shots,
                cells: cells.len(),
                degrees: moments.degrees as usize,
                change_points: points(moments.changes),
                images_points: points(moments.images),
                noise_points: points(moments.excess()),
            })
        };
        pools.into_iter().filter_map(pool).collect()
    }
}

/// U and V of several cells, pooled.
struct Moments<'a> {
    degrees: f64,
    changes: f64,
    images: f64,
    cells: &'a [&'a CellNoise],
}

impl<'a> Moments<'a> {
    fn of(cells: &'a [&'a CellNoise]) -> Option<Self> {
        let degrees: f64 = cells.iter().map(|c| c.degrees()).sum();
        let mean = |value: fn(&CellNoise) -> f64| cells.iter().map(|c| c.degrees() * value(c)).sum::<f64>() / degrees;
        (degrees > 0.0).then(|| Self {
            degrees,
            changes: mean(|c| c.changes),
            images: mean(|c| c.images),
            cells,
        })
    }

    /// τ².
    fn excess(&self) -> f64 {
        (self.changes - self.images).max(0.0)
    }

    /// Variance of the estimate of τ²: as if all cells moved alike, or as they differ, whichever is larger.
    fn uncertainty(&self) -> f64 {
        let variance = self.excess();
        let alike = self.over(|cell| 2.0 * cell.degrees() * (variance + cell.images).powi(2));
        alike.max(self.uncertainty_of_changes())
    }

    /// Variance of U, as the cells differ.
    fn uncertainty_of_changes(&self) -> f64 {
        self.over(|cell| 2.0 * cell.degrees() * cell.changes.powi(2) * cell.degrees() / (cell.degrees() + 2.0))
    }

    /// Degrees of freedom of U (Satterthwaite); without bound where no run ever changed.
    fn effective_degrees(&self) -> f64 {
        if self.changes == 0.0 {
            return f64::INFINITY;
        }
        let apart = 2.0 * self.changes.powi(2) / self.uncertainty_of_changes();
        apart.min(self.degrees).max(1.0)
    }

    fn over(&self, of_one: impl Fn(&CellNoise) -> f64) -> f64 {
        self.cells.iter().map(|cell| of_one(cell)).sum::<f64>() / (self.degrees * self.degrees)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Protocol;

    fn key(dataset: &str, shots: u32, seed: u64) -> CellKey {
        CellKey {
            dataset: dataset.into(),
            protocol: Protocol::Clean,
            learner: "x".into(),
            shots: shots.into(),
            seed,
        }
    }

    #[test]
    fn a_run_that_moves_all_images_at_once_is_noise_and_flicker_is_not() {
        // Ten images of weight 0.1; the second run loses four at once: Δ² = 0.16, of which images explain 0.04.
        let base = vec![0.1; 10];
        let mut moved = base.clone();
        moved[..4].fill(0.0);
        let noise = CellNoise::of(key("a", 1, 0), &[base.clone(), moved]).unwrap();
        assert!((noise.changes - 0.16).abs() < 1e-12 && (noise.images - 0.04).abs() < 1e-12);
        let one = Noise::new(vec![noise]).of(&key("b", 1, 3)).unwrap();
        assert!((one.variance - 0.12).abs() < 1e-12);
        assert!(
            (one.uncertainty - 2.0 * 0.16 * 0.16).abs() < 1e-12,
            "one degree of freedom"
        );
        // Two images change places: nothing is left to be explained.
        let mut flicker = base.clone();
        flicker[0] = 0.0;
        let mut other = base.clone();
        other[1] = 0.0;
        let noise = CellNoise::of(key("a", 1, 0), &[flicker, other]).unwrap();
        let none = Noise::new(vec![noise]).of(&key("a", 1, 0)).unwrap();
        assert_eq!(none.variance, 0.0);
        assert!((none.uncertainty - 2.0 * 0.02_f64.powi(2)).abs() < 1e-12);
        assert_eq!(CellNoise::of(key("a", 1, 0), &[base]), None);
    }

    #[test]
    fn cells_are_pooled_by_learner_and_shots_and_a_noisier_dataset_counts_by_its_own() {
        let cell = |dataset, shots, seed, changes| CellNoise {
            key: key(dataset, shots, seed),
            runs: 3,
            changes,
            images: 1e-4,
            places: vec![],
        };
        let noise = Noise::new(vec![
            cell("a", 1, 0, 1e-4),
            cell("a", 1, 1, 3e-4),
            cell("b", 1, 0, 8e-4),
            cell("b", 16, 0, 5e-4),
        ]);
        let variance = |dataset, shots| noise.of(&key(dataset, shots, 9)).map(|n| n.variance);
        let close = |found: Option<f64>, expected: f64| assert!((found.unwrap() - expected).abs() < 1e-15, "{found:?}");
        close(variance("a", 1), 3e-4); // the pool: (1 + 3 + 8) / 3 − 1; its own: 1
        close(variance("b", 1), 7e-4); // its own
        close(variance("c", 1), 3e-4); // never measured: the pool
        close(variance("a", 16), 4e-4);
        assert_eq!(variance("a", 4), None);
        let pools = noise.pools();
        assert_eq!(
            pools.iter().map(|p| (p.cells, p.degrees)).collect::<Vec<_>>(),
            [(3, 6), (1, 2)]
        );
        assert!((pools[0].noise_points - 100.0 * 3e-4_f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn it_survives_the_disk_and_a_torn_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Noise::read(folder.path()).unwrap(), None);
        let runs = [vec![0.25, 0.5], vec![0.5, 0.5], vec![0.0, 0.1]];
        let noise = Noise::new(CellNoise::of(key("a", 1, 0), &runs).into_iter().collect());
        noise.write(folder.path()).unwrap();
        assert_eq!(Noise::read(folder.path()).unwrap(), Some(noise));
        for torn in ["{", r#"{"schema": 9, "cells": []}"#] {
            std::fs::write(folder.path().join(FILE), torn).unwrap();
            let error = Noise::read(folder.path()).unwrap_err().to_string();
            assert!(error.contains(FILE), "{error}");
        }
    }
}
