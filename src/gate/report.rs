//! Findings of the gate, with every number behind them.

use serde::Serialize;

use crate::gate::noise::Pool;
use crate::gate::problem::Problem;
use crate::statistics::Interval;
use crate::store::record::CellKey;

/// Version of the JSON form.
pub const SCHEMA: u32 = 1;

/// The whole report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Its outcome.
    pub outcome: Outcome,
    /// The folder that was judged.
    pub results: String,
    /// The folder it was judged by.
    pub baseline: String,
    /// Losses up to here are borne, in percentage points.
    pub margin_points: f64,
    /// Chance of a red gate when nothing changed, at most.
    pub level: f64,
    /// Cells compared, over which the level holds.
    pub family: usize,
    /// Some of it is from miniature datasets or micro models.
    pub micro: bool,
    /// Source of the noise.
    pub noise_from: NoiseSource,
    /// Run-to-run noise by learner and shots; empty when it was not measured.
    pub noise: Vec<Pool>,
    /// Faults that kept cells from being compared.
    pub errors: Vec<Problem>,
    /// Cells that the baseline lacks.
    pub new_cells: Vec<CellKey>,
    /// Each compared cell, in order of keys.
    pub cells: Vec<CellReport>,
}

/// Outcome of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// No loss beyond the margin is shown.
    Green,
    /// At least one is.
    Red,
    /// None is, and of some cells it is not known how far unchanged runs of them lie apart.
    NoiseUnknown,
    /// Something could not be compared.
    Error,
}

/// Source of the run-to-run noise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum NoiseSource {
    /// It was not measured and is taken as 0.
    NotMeasured,
    /// From runs of the baseline, measured now.
    Repeats {
        /// Their folders.
        folders: Vec<String>,
    },
    /// From runs of the baseline or an earlier one, stored beside it.
    Stored,
}

/// Knowledge of the run-to-run noise of a cell that was not measured, and was not made as the baseline was.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum CellNoiseFrom {
    /// No more than what the baseline's seeds differ by.
    Seeds {
        /// The machines of the cell and of the baseline.
        places: String,
    },
    /// Nothing.
    Unknown {
        /// The machines of the cell and of the baseline.
        places: String,
    },
}

/// One compared cell. Accuracies are between 0 and 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CellReport {
    /// The cell.
    pub key: CellKey,
    /// Its run in the results.
    pub run_id: String,
    /// Its run in the baseline.
    pub baseline_run_id: String,
    /// Findings.
    pub verdict: CellVerdict,
    /// Test images.
    pub images: usize,
    /// Groups of test images that are not independent.
    pub groups: usize,
    /// Headline accuracy of the results.
    pub accuracy: f64,
    /// Headline accuracy of the baseline.
    pub baseline_accuracy: f64,
    /// Change of it, in percentage points.
    pub change_points: f64,
    /// 95 % interval of the change.
    pub interval_points: Option<Interval>,
    /// Images that only the results have right.
    pub wins: usize,
    /// Images that only the baseline has right.
    pub losses: usize,
    /// Groups whose contribution to the accuracy changed.
    pub changed_groups: usize,
    /// Root of τ² that was allowed for, in percentage points; `None` where it was not measured.
    pub noise_points: Option<f64>,
    /// Why the noise is not simply that of the report; `None` where it is, or where there can be none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise_from: Option<CellNoiseFrom>,
    /// Degrees of freedom of the test against the margin.
    pub degrees: f64,
    /// p value of "nothing changed" against a loss.
    pub p_exact: f64,
    /// p value of "the loss is within the margin".
    pub p_margin: f64,
    /// The larger of the two.
    pub p_loss: f64,
    /// The same, corrected for the family.
    pub p_loss_holm: f64,
    /// p value of "the gain is within the margin".
    pub p_gain: f64,
    /// The same, corrected for the family.
    pub p_gain_holm: f64,
    /// Smallest true loss found with 80 % probability if this cell stood alone; `None` where none would be.
    pub finds_points: Option<f64>,
    /// The same under Holm in this family.
    pub finds_in_family_points: Option<f64>,
}

/// CellVerdict on one cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CellVerdict {
    /// A loss beyond the margin.
    Loss,
    /// A gain beyond the margin.
    Improvement,
    /// Neither is shown.
    NoLossShown,
    /// The predictions differ, and it is not known how far unchanged runs would.
    NoiseUnknown,
    /// The predictions are the same, byte by byte.
    Unchanged,
}

impl CellVerdict {
    /// As it stands in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Loss => "LOSS",
            Self::Improvement => "improvement",
            Self::NoLossShown => "no loss shown",
            Self::NoiseUnknown => "noise unknown",
            Self::Unchanged => "unchanged",
        }
    }
}

impl Report {
    /// Cells with this verdict.
    pub fn with(&self, verdict: CellVerdict) -> impl Iterator<Item = &CellReport> {
        self.cells.iter().filter(move |cell| cell.verdict == verdict)
    }

    /// The commands that measure the run-to-run noise.
    #[must_use]
    pub fn how_to_measure(&self) -> String {
        let Self { results, baseline, .. } = self;
        format!(
            "run the baseline's code once more, unchanged, on a machine like tonight's: `kshot sweep --config \
             {baseline}/sweep.toml --set name=\"repeat\"`; then `kshot gate {results} --baseline {baseline} --repeat \
             results/repeat`"
        )
    }

    /// As JSON.
    ///
    /// # Errors
    /// Never, for numbers that a report can hold; the signature says so because the JSON writer can fail.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self).map(|json| json + "\n")
    }
}
