//! Why the gate neither judges nor accepts.

use std::path::PathBuf;

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
    pub(super) fn remedy(&self) -> String {
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
