//! Every failure kshot can report: what happened, to which thing, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// `Result` with kshot's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. Messages name the thing; [`Error::hint`] names the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // === Files ===
    /// A file or folder could not be read, written or made.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// Verb, as in "cannot read `path`".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file of ours (JSON, TOML, CSV, Parquet) does not parse.
    #[error("`{}` is not a valid {kind}: {reason}", path.display())]
    Malformed {
        /// What the file should be, e.g. "cell record".
        kind: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    // === Configuration ===
    /// A config file or an override is wrong.
    #[error("config {origin}: {reason}")]
    Config {
        /// File or `--set` expression.
        origin: String,
        /// What is wrong.
        reason: String,
    },

    // === Datasets ===
    /// No manifest of that name.
    #[error("unknown dataset `{name}`")]
    UnknownDataset {
        /// The name asked for.
        name: String,
        /// Names that exist.
        known: Vec<String>,
    },
    /// A dataset's manifest is wrong.
    #[error("manifest `{}`: {reason}", path.display())]
    Manifest {
        /// The TOML file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A label or split file (text, MATLAB, JSON, CSV) cannot be understood.
    #[error("label file `{}`: {reason}", path.display())]
    Labels {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line or variable.
        reason: String,
    },
    /// A file's bytes are not those that the manifest promises.
    #[error("`{}` has {what} {found}, the manifest says {expected}", path.display())]
    WrongBytes {
        /// The file.
        path: PathBuf,
        /// "size" or "sha256" or "md5".
        what: &'static str,
        /// Found value.
        found: String,
        /// Promised value.
        expected: String,
    },
    /// An archive cannot be unpacked, or holds what it must not.
    #[error("archive `{}`: {reason}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong, with the entry's name.
        reason: String,
    },
    /// A dataset's files do not fit together (a label without image, a class without name, …).
    #[error("dataset `{dataset}`: {reason}")]
    Dataset {
        /// The dataset.
        dataset: String,
        /// What does not fit.
        reason: String,
    },
    /// An image file cannot be decoded.
    #[error("cannot decode image `{image}`: {reason}")]
    Image {
        /// Path or id of the image.
        image: String,
        /// What the decoder said.
        reason: String,
    },
    /// A class has fewer images than shots are asked for.
    #[error("dataset `{dataset}`: class `{class}` has {available} training images, {asked} shots were asked for")]
    TooFewImages {
        /// The dataset.
        dataset: String,
        /// The class.
        class: String,
        /// Images of that class in the training pool.
        available: usize,
        /// Shots asked for.
        asked: usize,
    },
    /// A class name cannot be an answer, or not be told from another one.
    #[error("class name `{name}`: {reason}")]
    ClassName {
        /// The name as the dataset has it.
        name: String,
        /// What is wrong with it, with the other name.
        reason: String,
    },

    // === Models ===
    /// A model folder lacks something, or it does not fit the code.
    #[error("model `{}`: {reason}", path.display())]
    Model {
        /// The model folder or file.
        path: PathBuf,
        /// What is missing or does not fit, with tensor names and shapes.
        reason: String,
    },
    /// A tensor operation failed.
    #[error("tensor operation failed")]
    Tensor(#[from] candle_core::Error),
    /// What a sampler answered is not what it was asked for.
    #[error("the sampler's answer is of no use: {reason}")]
    Sampler {
        /// What does not fit.
        reason: String,
    },
    /// Training produced a number that is not finite.
    #[error("{what} is not finite at step {step}")]
    NotFinite {
        /// "loss" or "gradient norm".
        what: &'static str,
        /// Zero-based step.
        step: usize,
    },

    // === Training and sampling ===
    /// An input, its targets or its continuations do not fit the model.
    #[error("input {index} does not fit the model: {reason}")]
    Input {
        /// Which of those given, from 0.
        index: usize,
        /// What does not fit.
        reason: String,
    },
    /// A step of the optimiser was asked for before any gradient was computed.
    #[error("there are no gradients to take a step with")]
    NoGradients,
    /// No adapter of that number.
    #[error("there is no adapter {id}")]
    NoAdapter {
        /// The number asked for.
        id: u64,
    },
    /// A kept state of training is torn, or of another adapter or model.
    #[error("training state `{}`: {reason}", path.display())]
    State {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// What is asked of a sampler makes no sense.
    #[error("cannot sample: {reason}")]
    Sampling {
        /// What makes no sense.
        reason: String,
    },

    // === Results ===
    /// A cell's predictions do not fit its classes, or cannot be stored.
    #[error("predictions of cell {run_id}: {reason}")]
    Predictions {
        /// The cell.
        run_id: String,
        /// What does not fit, with the image.
        reason: String,
    },
    /// There are no results in this folder.
    #[error("`{}` holds no finished cells", path.display())]
    NoResults {
        /// The folder.
        path: PathBuf,
    },
    /// A compact copy of results would take the place of a sweep's own results.
    #[error("`{}` holds a sweep's own results", path.display())]
    NotCompact {
        /// The folder.
        path: PathBuf,
    },
    /// Some cells of a sweep failed; each was reported when it did.
    #[error("{failed} of {total} cells failed")]
    CellsFailed {
        /// Number of failed cells.
        failed: usize,
        /// Number of cells in the sweep.
        total: usize,
    },
    /// Another process runs a cell now that this one was silent about for too long.
    #[error("cell {run_id} was taken over by another process")]
    TakenOver {
        /// The cell.
        run_id: String,
        /// How long this process may be silent.
        lease_seconds: f64,
    },
    /// No cell of that name in the sweep.
    #[error("none of the {cells} cells of this sweep is {run_id}")]
    UnknownCell {
        /// The name asked for.
        run_id: String,
        /// Cells of the sweep.
        cells: usize,
    },
    /// A cell failed in another process while this one waited for it.
    #[error("cell {run_id} failed in another process: {reason}")]
    FailedElsewhere {
        /// The cell.
        run_id: String,
        /// What that process said.
        reason: String,
    },
    /// Two results that should be compared were not made under the same conditions.
    #[error("{left} cannot be compared with {right}: {reason}")]
    NotComparable {
        /// One cell.
        left: String,
        /// The other.
        right: String,
        /// What differs.
        reason: String,
    },
    /// The gate could not compare everything that it should have compared.
    #[error(
        "{problems} error{} `{}` from being judged by `{}`",
        if *problems == 1 { " keeps" } else { "s keep" }, results.display(), baseline.display()
    )]
    NotJudged {
        /// The folder that was to be judged.
        results: PathBuf,
        /// What it was to be judged by.
        baseline: PathBuf,
        /// Number of errors, each of which is in the report.
        problems: usize,
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
    /// Sanity controls were asked of what has none, or not yet.
    #[error("no sanity controls of {cell}: {reason}")]
    Uncontrolled {
        /// The cell or cells.
        cell: String,
        /// Why not.
        reason: String,
        /// What to do about it.
        remedy: String,
    },
    /// Something is to be written where something lies already.
    #[error("`{}` is there already", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },

    /// A figure could not be drawn.
    #[error("cannot draw the figure: {reason}")]
    Figure {
        /// What the drawing library said.
        reason: String,
    },
}

impl Error {
    /// For `map_err` on file operations: `map_err(Error::io("read", path))`.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// What the user can do about it, if anything is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "free some space on that device and run the same command again: finished cells are kept".into()
                }
                io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                    "choose a writable folder: `--results DIR` for results, `KSHOT_CACHE` for unpacked datasets".into()
                }
                io::ErrorKind::NotFound => "check the path".into(),
                _ => return None,
            },
            Self::Malformed { path, .. } => {
                format!("delete `{}` to have it made again", path.display())
            }
            Self::Config { .. } => {
                "`kshot sweep --help` and the files in `configs/` show what a config may hold".into()
            }
            Self::UnknownDataset { known, .. } => format!("known datasets: {}", known.join(", ")),
            Self::Manifest { .. } => "correct the manifest: the other files in `datasets/` show the form".into(),
            Self::Labels { path, .. } => format!(
                "restore `{}` from its source; MATLAB files must be version 5 (`save -v7` or `-v6`)",
                path.display()
            ),
            Self::WrongBytes { path, .. } => format!(
                "the file is damaged or another version: restore `{}` from its source, then run again",
                path.display()
            ),
            Self::Archive { .. } => "fetch the archive again: it is truncated, damaged or not the official one".into(),
            Self::Dataset { .. } => "check the dataset's files against its manifest in `datasets/`".into(),
            Self::Image { .. } => {
                "replace the file, or list it under `skip` in the dataset's manifest to leave it out".into()
            }
            Self::TooFewImages { available, .. } => format!("ask for at most {available} shots"),
            Self::Model { .. } => {
                "a model folder holds config.json, preprocessor_config.json and *.safetensors in the hub's layout"
                    .into()
            }
            Self::ClassName { .. } => "rename the class, in the dataset's manifest or as a folder".into(),
            Self::Sampler { .. } => {
                "a model that has diverged gives such answers: look at its training loss; a service may not be compatible"
                    .into()
            }
            Self::NotFinite { .. } => "lower the learning rates of this learner".into(),
            Self::Input { .. } => {
                "inputs are to be made with the tokenizer and the image processor of the same model folder".into()
            }
            Self::NoGradients => "call forward_backward on examples with weights that are not all zero first".into(),
            Self::NoAdapter { .. } => "its trainer is gone: make a new one".into(),
            Self::State { path, .. } => format!("delete `{}` and start from an earlier state or anew", path.display()),
            Self::Sampling { .. } => "the temperature is a number from 0, and each prompt has its continuations".into(),
            Self::CellsFailed { .. } => {
                "the reasons are above and in `cells/*.failed.json`; the next call tries them again".into()
            }
            Self::TakenOver { lease_seconds, .. } => format!(
                "this process was stopped or cut off from the results folder for {lease_seconds} s; \
                 if that is to be expected, give every process a longer `--lease`"
            ),
            Self::UnknownCell { .. } => {
                "`kshot sweep --dry-run` with the same `--config` and `--set` lists the cells of a sweep".into()
            }
            Self::FailedElsewhere { run_id, .. } => {
                format!("`cells/{run_id}.failed.json` says more; the next call tries the cell again")
            }
            Self::NoResults { .. } => "name a folder that `kshot sweep` has filled, e.g. `results/quickstart`".into(),
            Self::NotCompact { .. } => {
                "name a new folder, or one that `kshot promote` has filled, e.g. `results/reference/quickstart`".into()
            }
            Self::NotComparable { .. } => {
                "results of different test images, classes or metrics belong in different folders".into()
            }
            Self::NotJudged { .. } => {
                "each error is in the report with its remedy; changes that were meant become the baseline with `--accept`"
                    .into()
            }
            Self::NotAccepted { .. } => {
                "missing, torn, doubled or red cells are to be made again first; `kshot promote` takes what is finished as it is"
                    .into()
            }
            Self::SameFolder { .. } => "name the results, the baseline and each repeat once".into(),
            Self::Uncontrolled { remedy, .. } => remedy.clone(),
            Self::Exists { .. } => "name a new folder, or move the old one away".into(),
            Self::Predictions { .. } => {
                "the learner answered outside its class list: please report it with the config".into()
            }
            Self::Tensor(_) | Self::Figure { .. } => return None,
        };
        Some(hint)
    }
}
