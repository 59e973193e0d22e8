//! The nightly gate: did any cell really get worse?
//!
//! Two results folders are joined by cell key and compared image by image on their stored predictions. A cell loses when
//! a loss of more than the margin is shown ([change]) with the run-to-run noise taken in ([noise]), corrected by Holm's
//! procedure for all cells compared: if nothing changed, at most one night in 1 / level is red. What cannot be compared
//! ([problem]) is an error.
//!
//! ```text
//! folder ─▶ pair ─▶ change ─▶ judge ─▶ report ─▶ text · markdown · junit
//!   └────▶ repeats ─▶ noise ──┘
//! ```

pub mod accept;
pub mod change;
pub mod folder;
pub mod junit;
pub mod markdown;
pub mod noise;
pub mod pair;
pub mod problem;
pub mod repeats;
pub mod report;
pub mod text;
mod wording;

use self::change::Evidence;
use self::folder::{Cell, Folder};
use self::noise::Noise;
use self::pair::{Frame, Paired, differences};
use self::problem::{Kind, Problem};
use self::report::{CellReport, NoiseSource, Outcome, Report, Verdict};
use crate::results::record::CellKey;
use crate::results::statistics::Interval;
use crate::results::statistics::holm::holm;

/// What counts as a loss.
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

    /// Whether any loss is shown.
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
    errors.extend(
        [baseline, results]
            .into_iter()
            .flat_map(|folder| folder.problems.clone()),
    );
    let mut compared = Vec::new();
    for (key, old) in &baseline.cells {
        match results.cells.get(key) {
            None => errors.extend(absent(key, results, baseline)),
            Some(new) => {
                let found = differences(old, new);
                if found.is_empty() {
                    compared.push(Compared::of(old, new, noise, settings.margin));
                }
                errors.extend(
                    found
                        .into_iter()
                        .map(|(kind, finding)| problem(kind, key, results, finding)),
                );
            }
        }
    }
    errors.sort();
    errors.dedup();
    let evidence: Vec<Evidence> = compared.iter().map(|cell| cell.evidence.clone()).collect();
    let family = Family::of(&evidence);
    let corrected = family.losses.iter().zip(&family.gains);
    let cells: Vec<CellReport> = compared
        .iter()
        .zip(corrected)
        .map(|(cell, (loss, gain))| cell.report((*loss, *gain), settings.level, evidence.len()))
        .collect();
    let outcome = if !errors.is_empty() {
        Outcome::Error
    } else if family.is_red(settings.level) {
        Outcome::Red
    } else {
        Outcome::Green
    };
    let all = || baseline.cells.values().chain(results.cells.values());
    let known = |key: &&CellKey| baseline.mentions(key) || renamed(key, baseline, results).is_some();
    Report {
        schema: report::SCHEMA,
        outcome,
        results: results.path.display().to_string(),
        baseline: baseline.path.display().to_string(),
        margin_points: 100.0 * settings.margin,
        level: settings.level,
        family: cells.len(),
        micro: all().any(|cell| cell.record.micro),
        noise_from,
        noise: noise.pools(),
        errors,
        new_cells: results.cells.keys().filter(|key| !known(key)).cloned().collect(),
        cells,
    }
}

fn problem(kind: Kind, key: &CellKey, results: &Folder, finding: String) -> Problem {
    Problem {
        kind,
        role: results.role,
        cell: Some(key.clone()),
        finding,
    }
}

/// The same cell under another protocol, in a folder; one that `other` has under that protocol too is another cell.
fn renamed<'a>(key: &CellKey, folder: &'a Folder, other: &Folder) -> Option<&'a CellKey> {
    let without = |key: &CellKey| CellKey {
        protocol: Default::default(),
        ..key.clone()
    };
    folder
        .cells
        .keys()
        .find(|found| *found != key && without(found) == without(key) && !other.cells.contains_key(*found))
}

/// Why the results lack a cell, unless they say so themselves.
fn absent(key: &CellKey, results: &Folder, baseline: &Folder) -> Option<Problem> {
    if results.mentions(key) {
        return None;
    }
    if let Some(other) = renamed(key, results, baseline) {
        let finding = format!(
            "made under protocol {}, the baseline under {}",
            other.protocol, key.protocol
        );
        return Some(problem(Kind::Protocol, key, results, finding));
    }
    let finding = match results.failure(key) {
        Some(error) => format!("the results lack it; it failed: {error}"),
        None => "the results lack it".into(),
    };
    Some(problem(Kind::Missing, key, results, finding))
}

/// Two runs of one cell with what their images say.
struct Compared<'a> {
    old: &'a Cell,
    new: &'a Cell,
    paired: Paired,
    noise: Option<f64>,
    evidence: Evidence,
}

impl<'a> Compared<'a> {
    fn of(old: &'a Cell, new: &'a Cell, noise: &Noise, margin: f64) -> Self {
        let record = &old.record;
        let paired = Frame::of(&old.rows, record.metrics.headline).pair(&old.rows, &new.rows, record.reading);
        let noise = noise.of(&record.key);
        let mut evidence = Evidence::of(&paired.groups, margin, noise);
        if old.record.predictions_sha256 == new.record.predictions_sha256 {
            (evidence.loss, evidence.gain) = (1.0, 1.0); // no noise can have done that
        }
        Self {
            old,
            new,
            paired,
            noise: noise.map(|noise| noise.variance),
            evidence,
        }
    }

    fn report(&self, (loss, gain): (f64, f64), level: f64, family: usize) -> CellReport {
        let (old, new, evidence) = (&self.old.record, &self.new.record, &self.evidence);
        let verdict = if old.predictions_sha256 == new.predictions_sha256 {
            Verdict::Unchanged
        } else if loss <= level {
            Verdict::Loss
        } else if gain <= level {
            Verdict::Improvement
        } else {
            Verdict::NoLossShown
        };
        let points = |share: f64| 100.0 * share;
        let finds = |level: f64| evidence.detectable(level, old.value()).map(points);
        CellReport {
            key: old.key.clone(),
            run_id: new.run_id.clone(),
            baseline_run_id: old.run_id.clone(),
            verdict,
            images: self.old.rows.len(),
            groups: self.paired.groups.len(),
            accuracy: new.value(),
            baseline_accuracy: old.value(),
            change_points: points(evidence.change),
            interval_points: evidence.interval.map(|i| Interval {
                low: points(i.low),
                high: points(i.high),
            }),
            wins: self.paired.wins,
            losses: self.paired.losses,
            changed_groups: self.paired.groups.iter().filter(|g| g.change != 0.0).count(),
            noise_points: self.noise.map(|variance| points(variance.sqrt())),
            degrees: evidence.degrees,
            p_exact: evidence.exact_loss,
            p_margin: evidence.margin_loss,
            p_loss: evidence.loss,
            p_loss_holm: loss,
            p_gain: evidence.gain,
            p_gain_holm: gain,
            finds_points: finds(level),
            finds_in_family_points: finds(level / family.max(1) as f64),
        }
    }
}
