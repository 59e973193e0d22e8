//! Every failure kshot can report: what happened, to which thing, and what to do about it ([`Cause`]).

mod cause;

use std::path::{Path, PathBuf};
use std::{fmt, io, iter};

pub use cause::{Cause, Caused};

/// `Result` with kshot's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure. Messages name the thing; [`Error::hint`] names the remedy, which belongs to the [`Cause`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "most fields are what the message above them says")]
pub enum Error {
    /// Any other one, with a cause that says more than its kind does: see [`Error::because`] and [`Error::kind`].
    #[error(transparent)]
    Caused(Box<Caused>),

    // === Files ===
    /// A file or folder could not be read, written or made.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// Verb, as in "cannot read `path`".
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A file of ours (JSON, TOML, CSV, Parquet) does not parse.
    #[error("`{}` is not a valid {kind}: {reason}", path.display())]
    Malformed {
        /// Kind of file expected, e.g. "cell record".
        kind: &'static str,
        path: PathBuf,
        reason: String,
    },

    // === Configuration ===
    /// A config file or an override is wrong.
    #[error("config {origin}: {reason}")]
    Config {
        /// File or `--set` expression.
        origin: String,
        reason: String,
    },

    // === Datasets ===
    /// No manifest of that name.
    #[error("unknown dataset `{name}`")]
    UnknownDataset { name: String, known: Vec<String> },
    /// A dataset's manifest is wrong.
    #[error("manifest `{}`: {reason}", path.display())]
    Manifest { path: PathBuf, reason: String },
    /// A label or split file (text, MATLAB, JSON, CSV) cannot be understood.
    #[error("label file `{}`: {reason}", path.display())]
    Labels {
        path: PathBuf,
        /// The fault, with the line or variable.
        reason: String,
    },
    /// A few-shot index file is not one of this dataset, these shots or this protocol.
    #[error("index file `{}`: {reason}", path.display())]
    Indices {
        path: PathBuf,
        /// The misfit, with the entry.
        reason: String,
    },
    /// A file's bytes are not those that the manifest promises.
    #[error("`{}` has {what} {found}, the manifest says {expected}", path.display())]
    WrongBytes {
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
        path: PathBuf,
        /// The fault, with the entry's name.
        reason: String,
    },
    /// Files of a dataset are not on this machine.
    #[error("dataset `{dataset}` is not on this machine: {}", missing_places(missing))]
    NotFetched {
        dataset: String,
        /// Each missing file: its name and where it should lie.
        missing: Vec<(String, PathBuf)>,
        /// Option of `kshot data fetch` for the protocol.
        option: &'static str,
    },
    /// A parquet file of images cannot be read, or is not what its repository should hold.
    #[error("parquet file `{}`: {reason}", path.display())]
    Parquet {
        path: PathBuf,
        /// The fault, with the row or the column.
        reason: String,
    },
    /// A dataset's files do not fit together (a label without image, a class without name, …).
    #[error("dataset `{dataset}`: {reason}")]
    Dataset { dataset: String, reason: String },
    /// An image file cannot be decoded.
    #[error("cannot decode image `{image}`: {reason}")]
    Image {
        /// Path or id of the image.
        image: String,
        reason: String,
    },
    /// A file holds other bytes than when its dataset was opened: results are stored under the hash of those.
    #[error("image `{id}` was changed: `{}` does not hold the bytes of SHA-256 {sha256} any more", path.display())]
    ChangedImage {
        path: PathBuf,
        /// Its id in the dataset.
        id: String,
        /// Lower-case hex SHA-256 of what it held.
        sha256: String,
    },
    /// A user's own images cannot be made a dataset.
    #[error("cannot import `{origin}`: {reason}")]
    Import {
        /// Folder, table or repository.
        origin: String,
        reason: String,
        remedy: String,
    },
    /// A class has fewer images than shots are asked for.
    #[error("dataset `{dataset}`: class `{class}` has {available} training images, {asked} shots were asked for")]
    TooFewImages {
        dataset: String,
        class: String,
        /// Images of that class in the training pool.
        available: usize,
        asked: usize,
    },
    /// A class name cannot be an answer, or not be told from another one.
    #[error("class name `{name}`: {reason}")]
    ClassName {
        /// The name as the dataset has it.
        name: String,
        /// The fault, with the other name.
        reason: String,
    },

    // === Fetching ===
    /// Some files could be had from none of their sources.
    #[error("cannot fetch `{dataset}`:{}", missing_files(files))]
    NotFetchable { dataset: String, files: Vec<MissingFile> },
    /// A hub repository does not say which files it has, or lacks those wanted.
    #[error("hub repository `{repo}`: {reason}")]
    Hub {
        /// `owner/name`.
        repo: String,
        /// Its answer, or what it lacks.
        reason: String,
    },
    /// A device has too little room for what is about to be fetched and unpacked.
    #[error("`{}` needs {needed} bytes more, its device has {free} free", folder.display())]
    DiskSpace {
        /// A folder on that device.
        folder: PathBuf,
        needed: u64,
        free: u64,
    },
    /// Some datasets or models could not be fetched; each was reported when it failed.
    #[error("{failed} of {total} {what} could not be fetched")]
    SomeNotFetched {
        /// "datasets" or "models".
        what: &'static str,
        failed: usize,
        total: usize,
    },

    // === Models ===
    /// A model folder lacks something, or it does not fit the code.
    #[error("model `{}`: {reason}", path.display())]
    Model {
        path: PathBuf,
        /// The missing or misfitting part, with tensor names and shapes.
        reason: String,
    },
    /// A checkpoint is not here, not for everyone, damaged, or of a kind that is not supported.
    #[error("model `{}`: {reason}", path.display())]
    Checkpoint {
        /// The file or folder, or the `owner/name` of a repository.
        path: PathBuf,
        /// The fault, with names of files or of tensors and their shapes.
        reason: String,
        remedy: String,
    },
    /// The device that was asked for is not there.
    #[error("no device: {reason}")]
    Device { reason: String },
    /// A model and what is to be done with it do not fit into memory.
    #[error("model `{}` needs {:.1} GB of memory, {:.1} GB are free", path.display(), *needed as f64 / 1e9, *free as f64 / 1e9)]
    Memory {
        path: PathBuf,
        /// Bytes needed at least, by the estimate.
        needed: u64,
        free: u64,
    },
    /// A tensor operation failed.
    #[error("tensor operation failed")]
    Tensor(#[from] candle_core::Error),
    /// A sampler's answer does not fit its question.
    #[error("the sampler's answer is of no use: {reason}")]
    Sampler { reason: String },
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
        reason: String,
    },
    /// A step of the optimiser was asked for before any gradient was computed.
    #[error("there are no gradients to take a step with")]
    NoGradients,
    /// No adapter of that number.
    #[error("there is no adapter {id}")]
    NoAdapter { id: u64 },
    /// A kept state of training is torn, or of another adapter or model.
    #[error("training state `{}`: {reason}", path.display())]
    State { path: PathBuf, reason: String },
    /// A request to a sampler makes no sense.
    #[error("cannot sample: {reason}")]
    Sampling { reason: String },

    // === Results ===
    /// A cell's predictions do not fit its classes, or cannot be stored.
    #[error("predictions of cell {run_id}: {reason}")]
    Predictions {
        run_id: String,
        /// The misfit, with the image.
        reason: String,
    },
    /// There are no results in this folder.
    #[error("`{}` holds no finished cells", path.display())]
    NoResults { path: PathBuf },
    /// A compact copy of results would take the place of a sweep's own results.
    #[error("`{}` holds a sweep's own results", path.display())]
    NotCompact { path: PathBuf },
    /// Some cells of a sweep failed; each was reported when it did.
    #[error("{failed} of {total} cells failed")]
    CellsFailed { failed: usize, total: usize },
    /// Another process runs a cell now that this one was silent about for too long.
    #[error("cell {run_id} was taken over by another process")]
    TakenOver {
        run_id: String,
        /// Time for which this process may be silent.
        lease_seconds: f64,
    },
    /// A results folder has cells of another experiment.
    #[error("`{}` has {cells} {} of another sweep: {cell}: {reason}", folder.display(), if *cells == 1 { "cell" } else { "cells" })]
    OtherSweep {
        folder: PathBuf,
        /// Cells that are none of this sweep's.
        cells: usize,
        /// One of them.
        cell: String,
        reason: String,
    },
    /// No cell of that name in the sweep.
    #[error("none of the {cells} cells of this sweep is {run_id}")]
    UnknownCell { run_id: String, cells: usize },
    /// A cell failed in another process while this one waited for it.
    #[error("cell {run_id} failed in another process: {reason}")]
    FailedElsewhere { run_id: String, reason: String },
    /// Two results that should be compared were not made under the same conditions.
    #[error("{left} cannot be compared with {right}: {reason}")]
    NotComparable {
        left: String,
        right: String,
        reason: String,
    },
    /// An area above refuses, by an error type of its own.
    #[error("{error}")]
    Refused {
        /// The area's error.
        error: Box<dyn std::error::Error + Send + Sync>,
        /// The remedy.
        remedy: String,
    },
    /// Sanity controls were asked of what has none, or not yet.
    #[error("no sanity controls of {cell}: {reason}")]
    Uncontrolled {
        cell: String,
        reason: String,
        remedy: String,
    },
    /// Something is to be written where something lies already.
    #[error("`{}` is there already", path.display())]
    Exists { path: PathBuf },

    /// Answers on the disk are not those that a run would go on with.
    #[error("cannot go on with `{}`: {reason}", path.display())]
    Continue { path: PathBuf, reason: String },
    /// Not one of the images could be read.
    #[error("none of {images} images could be read")]
    NoImage { images: usize },

    /// A figure could not be drawn.
    #[error("cannot draw the figure: {reason}")]
    Figure { reason: String },
}

impl Error {
    /// For `map_err` on file operations: `map_err(Error::io("read", path))`.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// An [`Error::Config`]: the file, option or override, and its fault.
    pub(crate) fn config(origin: impl Into<String>, reason: impl Into<String>) -> Self {
        let (origin, reason) = (origin.into(), reason.into());
        Self::Config { origin, reason }
    }

    /// An [`Error::Model`]: the folder or file, and its fault.
    pub(crate) fn model(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        let (path, reason) = (path.into(), reason.into());
        Self::Model { path, reason }
    }

    /// An [`Error::Checkpoint`].
    pub(crate) fn checkpoint(path: impl Into<PathBuf>, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Checkpoint {
            path: path.into(),
            reason: reason.into(),
            remedy: remedy.into(),
        }
    }

    /// An [`Error::Tensor`] in our own words.
    pub(crate) fn tensor(reason: impl Into<String>) -> Self {
        Self::Tensor(candle_core::Error::Msg(reason.into()))
    }

    /// A file of ours that does not parse.
    pub fn malformed(kind: &'static str, path: impl AsRef<Path>, reason: impl ToString) -> Self {
        Self::Malformed {
            kind,
            path: path.as_ref().to_path_buf(),
            reason: reason.to_string(),
        }
    }

    /// The errors that led to this one, the nearest first.
    pub(crate) fn causes(&self) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
        chain(self).skip(1)
    }

    /// The same error of an image that is known by its file: what works on pixels cannot say whose they are.
    #[must_use]
    pub fn of_image(self, path: &Path) -> Self {
        match self {
            Self::Image { reason, .. } => Self::Image {
                image: path.display().to_string(),
                reason,
            },
            other => other,
        }
    }

    /// True if a device said that it has no memory left. Drivers say so in words only by the time an error gets here.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        chain(self).any(|e| {
            let text = e.to_string().to_lowercase();
            ["out of memory", "out_of_memory"]
                .iter()
                .any(|words| text.contains(words))
        })
    }

    /// For `map_err` where tensors are written: `map_err(Error::saving(path))`. What the system refused is an
    /// [`Error::Io`] that names the file.
    pub fn saving(path: impl AsRef<Path>) -> impl FnOnce(candle_core::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |error| {
            let refused = chain(&error).find_map(|e| {
                let e = e.downcast_ref::<io::Error>()?;
                let plain = e.raw_os_error().map(io::Error::from_raw_os_error);
                Some(plain.unwrap_or_else(|| io::Error::new(e.kind(), e.to_string())))
            });
            match refused {
                Some(source) => Self::io("write", path)(source),
                None => Self::Tensor(error),
            }
        }
    }
}

/// An error and what led to it.
fn chain<'e>(
    error: &'e (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'e (dyn std::error::Error + 'static)> {
    iter::successors(Some(error), |error| error.source())
}

/// A file of a dataset that is not on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingFile {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Kind and value of its hash.
    pub digest: Option<(&'static str, String)>,
    /// Path it belongs at.
    pub place: PathBuf,
    /// Each source that was asked, and why it did not give the file.
    pub sources: Vec<(String, String)>,
}

impl fmt::Display for MissingFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ({} bytes", self.name, self.size)?;
        if let Some((kind, value)) = &self.digest {
            write!(f, ", {kind} {value}")?;
        }
        write!(f, ") belongs at `{}`", self.place.display())?;
        if self.sources.is_empty() {
            f.write_str("\n    no address of it is known: it has to be put there by hand")?;
        }
        for (source, reason) in &self.sources {
            write!(f, "\n    {source}: {reason}")?;
        }
        Ok(())
    }
}

/// One line or more a file, for the text of an error.
fn missing_files(files: &[MissingFile]) -> String {
    files.iter().map(|file| format!("\n  {file}")).collect()
}

/// Names and places, in one line.
fn missing_places(files: &[(String, PathBuf)]) -> String {
    let place = |(name, path): &(String, PathBuf)| format!("`{name}` should lie at `{}`", path.display());
    files.iter().map(place).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    #[test]
    fn a_device_without_memory_is_known_by_its_words() {
        let driver = candle_core::Error::Msg("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")".into());
        assert!(Error::Tensor(driver.context("while multiplying")).is_out_of_memory());
        assert!(!Error::Tensor(candle_core::Error::Msg("shape mismatch".into())).is_out_of_memory());
        assert!(!Error::NoGradients.is_out_of_memory());
    }

    #[test]
    fn tensors_that_cannot_be_written_name_the_file_and_the_remedy() {
        let tensor = Tensor::zeros((64, 64), candle_core::DType::F32, &Device::Cpu).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nowhere").join("x.safetensors");
        let error = tensor
            .save_safetensors("x", &path)
            .map_err(Error::saving(&path))
            .unwrap_err();
        assert_eq!(error.to_string(), format!("cannot write `{}`", path.display()));
        assert!(error.hint().unwrap().contains("check the path"));
    }
}
