//! Problems that keep a cell from being compared. Each is reported, and none is compared away.

use serde::Serialize;

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
