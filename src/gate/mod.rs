//! The nightly gate: did any cell really get worse?
//!
//! Two results folders are joined by cell key and compared image by image on their stored predictions. A cell loses when
//! a loss of more than the margin is shown ([change]) with the run-to-run noise taken in ([noise]), corrected by Holm's
//! procedure for all cells compared: if nothing changed, at most one night in 1 / level is red. What cannot be compared
//! ([problem]) is an error.
//!
//! The noise of a cell is none where unchanged code gives the same bytes ([machine](folder::Machine)), else what was measured, else at most
//! what the baseline's seeds differ by. Where there is neither, a cell that changed is neither red nor green.
//!
//! ```text
//! folder ─▶ change ───────────────▶ judge ─▶ report ─▶ text · markdown · junit
//!   └────▶ repeats · seeds ─▶ noise ──┘
//! ```

pub mod baseline;
pub mod change;
pub mod folder;
pub mod noise;
pub mod problem;
pub mod report;
pub mod text;

use std::collections::BTreeMap;

use crate::gate::change::{Evidence, ImageWeights, Paired, differences};
use crate::gate::folder::{Cell, Folder};
use crate::gate::noise::{CellNoise, Noise, RunNoise};
use crate::gate::problem::{Kind, Problem};
use crate::gate::report::{CellNoiseFrom, CellReport, CellVerdict, NoiseSource, Outcome, Report};
use crate::statistics::Interval;
use crate::statistics::exact::holm;
use crate::store::record::CellKey;

/// Limits from which on a change counts as a loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Losses up to here are borne: a share, 0.005 is half a point.
    pub margin: f64,
    /// Chance of a red gate when nothing changed, at most.
    pub level: f64,
}

/// Holm-corrected p values of losses and gains of a family of cells.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// Of a loss beyond the margin, cell by cell.
    pub losses: Vec<f64>,
    /// Of a gain beyond the margin.
    pub gains: Vec<f64>,
}

impl Family {
    /// Corrects the evidence of all cells of a family.
    #[must_use]
    pub fn of(evidence: &[Evidence]) -> Self {
        let corrected = |p: fn(&Evidence) -> f64| holm(&evidence.iter().map(p).collect::<Vec<_>>());
        Self {
            losses: corrected(|e| e.loss),
            gains: corrected(|e| e.gain),
        }
    }

    /// True if any loss is shown.
    #[must_use]
    pub fn is_red(&self, level: f64) -> bool {
        self.losses.iter().any(|p| *p <= level)
    }
}

/// Compares `results` with `baseline`, allowing for `noise`, and reports the problems of both folders and `others`.
#[must_use]
pub fn judge(
    (results, baseline): (&Folder, &Folder),
    (noise, noise_from): (&Noise, NoiseSource),
    settings: Settings,
    others: Vec<Problem>,
) -> Report {
    let mut errors = others;
    errors.extend(baseline.problems.iter().chain(&results.problems).cloned());
    let seeds = of_seeds(baseline);
    let mut compared = Vec::new();
    for (key, old) in &baseline.cells {
        match results.cells.get(key) {
            None => errors.extend(absent(key, results, baseline)),
            Some(new) => {
                let found = differences(old, new);
                if found.is_empty() {
                    let known = known_noise(key, (old, new), noise, &seeds);
                    compared.push(compare(key, (old, new), known, settings.margin));
                }
                let problem = |(kind, finding)| results.problem(kind, Some(key), finding);
                errors.extend(found.into_iter().map(problem));
            }
        }
    }
    errors.sort();
    errors.dedup();
    let judged = |(cell, _): &&mut (CellReport, Evidence)| cell.verdict != CellVerdict::NoiseUnknown;
    let evidence: Vec<Evidence> = compared.iter_mut().filter(judged).map(|(_, e)| e.clone()).collect();
    let family = Family::of(&evidence);
    let corrected = family.losses.iter().zip(&family.gains);
    for ((cell, evidence), (loss, gain)) in compared.iter_mut().filter(judged).zip(corrected) {
        (cell.p_loss_holm, cell.p_gain_holm) = (*loss, *gain);
        cell.verdict = match cell.verdict {
            CellVerdict::NoLossShown if *loss <= settings.level => CellVerdict::Loss,
            CellVerdict::NoLossShown if *gain <= settings.level => CellVerdict::Improvement,
            other => other,
        };
        let finds = |level: f64| evidence.detectable(level, cell.baseline_accuracy).map(points);
        cell.finds_points = finds(settings.level);
        cell.finds_in_family_points = finds(settings.level / family.losses.len().max(1) as f64);
    }
    let cells: Vec<CellReport> = compared.into_iter().map(|(cell, _)| cell).collect();
    let outcome = if !errors.is_empty() {
        Outcome::Error
    } else if family.is_red(settings.level) {
        Outcome::Red
    } else if cells.len() > evidence.len() {
        Outcome::NoiseUnknown
    } else {
        Outcome::Green
    };
    let all = || baseline.cells.values().chain(results.cells.values());
    let known = |key: &&CellKey| baseline.mentions(key) || baseline.renamed(key, results).is_some();
    Report {
        schema: report::SCHEMA,
        outcome,
        results: results.path.display().to_string(),
        baseline: baseline.path.display().to_string(),
        margin_points: 100.0 * settings.margin,
        level: settings.level,
        family: evidence.len(),
        micro: all().any(|cell| cell.micro),
        noise_from,
        noise: noise.pools(),
        errors,
        new_cells: results.cells.keys().filter(|key| !known(key)).cloned().collect(),
        cells,
    }
}

/// Why the results lack a cell, unless they say so themselves.
fn absent(key: &CellKey, results: &Folder, baseline: &Folder) -> Option<Problem> {
    if results.mentions(key) {
        return None;
    }
    if let Some(other) = results.renamed(key, baseline) {
        let (new, old) = (other.protocol, key.protocol);
        let finding = format!("made under protocol {new}, the baseline under {old}");
        return Some(results.problem(Kind::Protocol, Some(key), finding));
    }
    let finding = match results.failure(key) {
        Some(error) => format!("the results lack it; it failed: {error}"),
        None => "the results lack it".into(),
    };
    Some(results.problem(Kind::Missing, Some(key), finding))
}

/// Distance between the seeds of the baseline, in each series of cells that differ by their seed alone.
fn of_seeds(baseline: &Folder) -> Noise {
    let mut series: BTreeMap<CellKey, Vec<f64>> = BTreeMap::new();
    for (key, cell) in &baseline.cells {
        let first = CellKey { seed: 0, ..key.clone() };
        series.entry(first).or_default().push(cell.value);
    }
    let noise = |(key, values): (CellKey, Vec<f64>)| CellNoise::of_seeds(key, &values);
    Noise::new(series.into_iter().filter_map(noise).collect())
}

/// The run-to-run noise between two runs of a cell, as far as it is known, and where from if it was not measured.
type KnownNoise = (Option<RunNoise>, Option<CellNoiseFrom>);

fn known_noise(key: &CellKey, (old, new): (&Cell, &Cell), measured: &Noise, seeds: &Noise) -> KnownNoise {
    if let Some(noise) = measured.at(key, &new.place) {
        return (Some(noise), None);
    }
    // There is none: they are the same, or would be if nothing had changed.
    if old.predictions_sha256 == new.predictions_sha256 || new.place.repeats(&old.place) {
        return (None, None);
    }
    let places = new.place.beside(&old.place);
    match seeds.of(key) {
        Some(noise) => (Some(noise), Some(CellNoiseFrom::Seeds { places })),
        None => (None, Some(CellNoiseFrom::Unknown { places })),
    }
}

/// Two runs of one cell compared, as far as that does not take the other cells of the family.
fn compare(
    key: &CellKey,
    (old, new): (&Cell, &Cell),
    (noise, noise_from): KnownNoise,
    margin: f64,
) -> (CellReport, Evidence) {
    let Paired { groups, wins, losses } = ImageWeights::of(&old.images, old.headline).pair(&old.right, &new.right);
    let mut evidence = Evidence::of(&groups, margin, noise);
    let same = old.predictions_sha256 == new.predictions_sha256;
    if same {
        (evidence.loss, evidence.gain) = (1.0, 1.0); // no noise can have done that
    }
    let verdict = match noise_from {
        Some(CellNoiseFrom::Unknown { .. }) => CellVerdict::NoiseUnknown,
        _ if same => CellVerdict::Unchanged,
        _ => CellVerdict::NoLossShown,
    };
    // Without the noise no interval and no probability means anything.
    let judged = verdict != CellVerdict::NoiseUnknown;
    let probability = |p: f64| if judged { p } else { 1.0 };
    let report = CellReport {
        key: key.clone(),
        run_id: new.run_id.clone(),
        baseline_run_id: old.run_id.clone(),
        verdict,
        images: old.images.len(),
        groups: groups.len(),
        accuracy: new.value,
        baseline_accuracy: old.value,
        change_points: points(evidence.change),
        interval_points: evidence.interval.filter(|_| judged).map(|i| Interval {
            low: points(i.low),
            high: points(i.high),
        }),
        wins,
        losses,
        changed_groups: groups.iter().filter(|g| g.change != 0.0).count(),
        noise_points: noise.map(|noise| points(noise.variance.sqrt())),
        noise_from,
        degrees: evidence.degrees,
        p_exact: probability(evidence.exact_loss),
        p_margin: probability(evidence.margin_loss),
        p_loss: probability(evidence.loss),
        p_loss_holm: 1.0,
        p_gain: probability(evidence.gain),
        p_gain_holm: 1.0,
        finds_points: None,
        finds_in_family_points: None,
    };
    (report, evidence)
}

fn points(share: f64) -> f64 {
    100.0 * share
}
