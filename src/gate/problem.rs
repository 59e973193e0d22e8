//! Problems that keep a cell from being compared, each of which is reported and none compared away; and the errors that
//! end the gate.

use std::path::PathBuf;

use serde::Serialize;

use crate::error::Error;
use crate::store::record::CellKey;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// Its kind.
    pub kind: Kind,
    /// Which folder it is about.
    pub role: Role,
    /// The cell, where it can be told.
    pub cell: Option<CellKey>,
    /// The finding, in a sentence.
    pub finding: String,
}

/// Role of a folder for the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The results that are judged.
    Results,
    /// The results they are judged by.
    Baseline,
    /// An unchanged run of the baseline.
    Repeat,
}

/// Kinds of problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The baseline has a cell that the results lack.
    Missing,
    /// A file is torn, missing, or not the one that the record was made with.
    Torn,
    /// Two records have the same cell key.
    Twice,
    /// A sanity control says that the numbers are not to be used.
    RedControl,
    /// The same cell was made under another protocol.
    Protocol,
    /// The class lists differ.
    Classes,
    /// The test images differ.
    TestImages,
    /// Other images were learned from.
    Draw,
    /// Accuracy is counted otherwise.
    Metric,
}

impl Problem {
    /// The remedy.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match (self.kind, &self.cell) {
            (Kind::Protocol, None) => {
                "sweep again under a protocol that this version knows, or use the version that does"
            }
            (kind, _) => kind.remedy(),
        }
    }
}

impl Kind {
    /// A few words for a heading.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing cell",
            Self::Torn => "torn cell",
            Self::Twice => "one cell twice",
            Self::RedControl => "red sanity control",
            Self::Protocol => "changed protocol",
            Self::Classes => "changed class list",
            Self::TestImages => "changed test images",
            Self::Draw => "changed training draw",
            Self::Metric => "changed metric",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Missing => "run the sweep again, it goes on with what is missing; to give up a cell, `kshot promote`",
            Self::Torn => "run the sweep again, or restore the folder",
            Self::Twice => "sweep into a new folder: this one also holds cells of other settings",
            Self::RedControl => "find out why, e.g. with `kshot control`: the numbers mean nothing until then",
            Self::Protocol | Self::Classes | Self::TestImages | Self::Draw | Self::Metric => {
                "if this was meant, `--accept` makes the results the new baseline"
            }
        }
    }

    /// True if a new baseline does away with it: the results are sound, only not those that were expected.
    #[must_use]
    pub fn ends_with_a_new_baseline(self) -> bool {
        matches!(
            self,
            Self::Protocol | Self::Classes | Self::TestImages | Self::Draw | Self::Metric
        )
    }
}

impl Role {
    /// As in "in the baseline".
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Results => "results",
            Self::Baseline => "baseline",
            Self::Repeat => "repeat",
        }
    }
}

/// An obstacle of the gate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// The gate could not compare everything that it should have compared.
    #[error(
        "{problems} error{} `{}` from being judged by `{}`",
        if *problems == 1 { " keeps" } else { "s keep" }, results.display(), baseline.display()
    )]
    NotJudged {
        /// The folder that was to be judged.
        results: PathBuf,
        /// The baseline that it was to be judged by.
        baseline: PathBuf,
        /// Number of errors, each of which is in the report.
        problems: usize,
    },
    /// Cells changed, and nobody knows how far unchanged runs of them lie apart.
    #[error(
        "noise unknown: {cells} cell{} of `{}` can be told neither better nor worse than `{}`",
        if *cells == 1 { "" } else { "s" }, results.display(), baseline.display()
    )]
    NoiseUnknown {
        /// The folder that was to be judged.
        results: PathBuf,
        /// The baseline that it was to be judged by.
        baseline: PathBuf,
        /// Number of these cells.
        cells: usize,
        /// The commands that measure the noise.
        remedy: String,
    },
    /// Results are too faulty to become a baseline.
    #[error(
        "`{}` does not become the baseline in `{}`: {reasons} error{} against it",
        results.display(), baseline.display(), if *reasons == 1 { " speaks" } else { "s speak" }
    )]
    NotAccepted {
        /// The folder.
        results: PathBuf,
        /// The baseline, which stays as it is.
        baseline: PathBuf,
        /// Number of errors, each of which is in the report.
        reasons: usize,
    },
    /// A folder is to be compared with itself.
    #[error("`{}` is named twice: a folder says nothing about itself", path.display())]
    SameFolder {
        /// The folder.
        path: PathBuf,
    },
}

impl GateError {
    /// Advice for the user.
    fn remedy(&self) -> String {
        let remedy = match self {
            Self::NoiseUnknown { remedy, .. } => remedy,
            Self::NotJudged { .. } => {
                "each error is in the report with its remedy; changes that were meant become the baseline with `--accept`"
            }
            Self::NotAccepted { .. } => {
                "missing, torn, doubled or red cells are to be made again first; `kshot promote` takes what is finished as it is"
            }
            Self::SameFolder { .. } => "name the results, the baseline and each repeat once",
        };
        remedy.into()
    }
}

impl From<GateError> for Error {
    fn from(error: GateError) -> Self {
        Self::Refused {
            remedy: error.remedy(),
            error: Box::new(error),
        }
    }
}
