//! The table of causes: what led to an error, and what to do about it.
//!
//! A remedy belongs to a cause. Each kind of [`Error`] has the cause that fits whatever it was made for
//! ([`Error::cause`]); where more is known, the place that makes the error says so: `error.because(Cause::NoAccess {…})`.
//! To add a cause, add a variant and its remedy here. `tests/it/refusals.rs` sees to it that every remedy names
//! flags, verbs, variables and files that exist.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::Error;

/// Why something failed, as far as it decides what is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    // === The system ===
    /// No room on a device, or the user's share of it is used up.
    DiskFull,
    /// A read-only file system.
    ReadOnly,
    /// The user may not read this, or not write to it.
    NoPermission {
        /// True if it was to be read.
        reading: bool,
        /// The file or folder.
        path: PathBuf,
    },
    /// Nothing of that name.
    NotThere {
        /// The file or folder.
        path: PathBuf,
    },
    /// A folder where a file belongs.
    IsFolder,
    /// A file where a folder belongs.
    IsFile {
        /// The path with the file in it.
        path: PathBuf,
    },
    /// A text file in an encoding other than UTF-8.
    NotUtf8 {
        /// The file.
        path: PathBuf,
    },
    /// Too many files open at once.
    TooManyOpenFiles,
    /// Anything else that the system refused.
    System,

    // === What the user wrote ===
    /// A config file or an override.
    Config,
    /// An option of the command line.
    Option,
    /// A file of class names.
    ClassNames,
    /// No dataset of that name.
    UnknownDataset {
        /// Those there are.
        known: Vec<String>,
    },
    /// A manifest.
    Manifest,
    /// Index files go with one protocol.
    IndexProtocol,
    /// An index file is not the published one.
    Indices,
    /// More shots than images.
    Shots {
        /// Images there are.
        available: usize,
    },
    /// Class names that cannot be told apart or written.
    ClassName,
    /// The target is there.
    Occupied,

    // === Datasets ===
    /// A list of labels or of images.
    Labels {
        /// The file.
        path: PathBuf,
    },
    /// Bytes other than those that the manifest states.
    OtherBytes {
        /// The file.
        path: PathBuf,
        /// "size", "sha256" or "md5".
        what: &'static str,
    },
    /// An archive that is cut off or damaged.
    DamagedArchive {
        /// The archive.
        path: PathBuf,
    },
    /// An archive with something in it that is not unpacked.
    HostileArchive,
    /// Files that can be downloaded.
    NotFetched {
        /// The dataset.
        dataset: String,
        /// The option for `kshot data fetch`.
        option: &'static str,
    },
    /// A parquet file that cannot be read, or without the columns.
    Parquet,
    /// A dataset's files do not fit together.
    Dataset,
    /// A protocol that the dataset has no files for.
    Protocol,
    /// The adapter was trained on other class names.
    OtherClasses,
    /// An image of a dataset.
    Image,
    /// An image file is not the one that the dataset was made of.
    ChangedImage,
    /// An image whose sides differ too much.
    AspectRatio,
    /// Not one image could be read.
    NoImage,

    // === Fetching ===
    /// A name that is none of a repository.
    RepositoryName,
    /// No connection may be made.
    Offline,
    /// A server cannot be reached, breaks off or is too slow.
    Network,
    /// A server wants to be left alone for a while.
    TooManyRequests,
    /// A server does not know the thing.
    NotFoundThere,
    /// A server wants to know who asks, or does not give it to this user.
    NoAccess,
    /// The hub answers in a form that is not its own.
    StrangeAnswer,
    /// A repository without the files that are needed.
    LacksFiles,
    /// No address gives a file.
    NoSource,
    /// A device with too little room.
    NoRoom,
    /// Each failure was told when it happened.
    ToldAbove,

    // === Models ===
    /// A file of a model's folder.
    ModelFile {
        /// The file or folder.
        path: PathBuf,
    },
    /// An adapter's folder, or a file in it.
    Adapter,
    /// A learner without weights to keep or to start from.
    NoWeights,
    /// The device that was chosen.
    Device,
    /// Memory of the device.
    Memory,
    /// Training went out of bounds.
    Diverged,
    /// Answers that make no sense.
    BadAnswers,
    /// A checkpoint of `kshot bench` of another shape.
    BenchCheckpoint,

    // === Training and sampling ===
    /// Inputs made for another model.
    Input,
    /// A step without gradients.
    NoGradients,
    /// An adapter that is gone.
    NoAdapter,
    /// A kept state of training.
    State {
        /// The folder or file.
        path: PathBuf,
    },
    /// The settings that a sampler was asked for.
    Sampling,

    // === Results ===
    /// A file that a sweep writes again.
    MadeBySweep {
        /// The file.
        path: PathBuf,
    },
    /// A file that is made again when it is missing.
    MadeAgain {
        /// The file.
        path: PathBuf,
    },
    /// The table behind a figure.
    CurveTable,
    /// A file of the noise between runs.
    Noise {
        /// The file.
        path: PathBuf,
    },
    /// A file of sanity controls.
    Controls,
    /// A cell that is not finished.
    Unfinished,
    /// A folder without results, or no folder.
    NoResults {
        /// The folder.
        path: PathBuf,
    },
    /// A folder with a sweep's own results.
    OwnResults,
    /// Cells that failed.
    CellsFailed,
    /// A claim that was lost.
    TakenOver {
        /// Seconds that this process may be silent.
        lease: String,
    },
    /// A cell that is not in the sweep.
    UnknownCell,
    /// A cell that failed in another process.
    FailedElsewhere {
        /// The cell.
        run_id: String,
    },
    /// Results of different conditions.
    NotComparable,
    /// Answers of another run in the way.
    OtherAnswers {
        /// The file.
        path: PathBuf,
    },
    /// A remedy that was said where the error was made.
    Said(String),
    /// A fault of kshot.
    Fault,
}

impl Cause {
    /// The cause of a server's refusal.
    #[must_use]
    pub fn of_status(status: u16) -> Self {
        match status {
            401 | 403 => Self::NoAccess,
            404 | 410 => Self::NotFoundThere,
            429 => Self::TooManyRequests,
            _ => Self::Network,
        }
    }

    /// The cause of the system's refusal to `action`.
    #[must_use]
    pub fn of_system(action: &str, path: &Path, error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        let path = path.to_path_buf();
        match error.kind() {
            Kind::StorageFull | Kind::QuotaExceeded => Self::DiskFull,
            Kind::ReadOnlyFilesystem => Self::ReadOnly,
            Kind::PermissionDenied => Self::NoPermission {
                reading: action.starts_with("read"),
                path,
            },
            Kind::NotFound => Self::NotThere { path },
            Kind::IsADirectory => Self::IsFolder,
            Kind::NotADirectory => Self::IsFile { path },
            Kind::InvalidData if action.starts_with("read") => Self::NotUtf8 { path },
            _ if error.raw_os_error() == Some(24) => Self::TooManyOpenFiles,
            _ => Self::System,
        }
    }
}

impl fmt::Display for Cause {
    /// The remedy.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&match self {
            Self::NoPermission { reading: true, path } => {
                format!("let this user read it (`ls -l` shows who may): `chmod u+r {}`, if it is yours", path.display())
            }
            Self::NotThere { path } => not_there(path),
            Self::IsFile { path } => match path.ancestors().find(|above| above.is_file()) {
                Some(file) => format!("`{}` is a file, not a folder: name another path, or move it away", file.display()),
                None => "a file stands where a folder is needed: name another path".into(),
            },
            Self::NotUtf8 { path } => format!("save `{}` as UTF-8 text", path.display()),
            Self::UnknownDataset { known } if known.is_empty() => {
                "there is no manifest: `KSHOT_HOME` names the folder that holds `datasets/`; `kshot data import` makes a \
                 dataset of your own images"
                    .into()
            }
            Self::UnknownDataset { known } => {
                format!("known datasets: {}; `kshot data import` makes one of your own images", known.join(", "))
            }
            Self::Shots { available } => format!("ask for at most {available} shots"),
            Self::Labels { path } => {
                let is_matlab = path.extension().is_some_and(|end| end == "mat");
                let matlab = if is_matlab { "; MATLAB files must be version 5 (`save -v7` or `-v6`)" } else { "" };
                format!("correct `{}` where the reason says; a published file is best fetched again{matlab}", path.display())
            }
            Self::OtherBytes { path, what } => format!(
                "a file from the network: delete `{}`, and `kshot data fetch` downloads it again; a file of your own: write \
                 its {what} into the manifest",
                path.display()
            ),
            Self::DamagedArchive { path } => format!(
                "it is cut off or damaged: delete `{}`, and `kshot data fetch` downloads it again; one of your own has to \
                 be packed again",
                path.display()
            ),
            Self::NotFetched { dataset, option } => format!(
                "`kshot data fetch {dataset}{option}` downloads what is missing; files of your own go to the places named"
            ),
            Self::ModelFile { path } => model_file(path),
            Self::State { path } => format!("delete `{}`: the training starts anew, or from an earlier state", path.display()),
            Self::MadeBySweep { path } => format!(
                "`kshot sweep` with the config of this folder makes `{}` again; a copy that `kshot promote` has made is made \
                 again by it",
                path.display()
            ),
            Self::MadeAgain { path } => format!("delete `{}` to have it made again", path.display()),
            Self::Noise { path } => format!(
                "`kshot gate --accept` with `--repeat` measures the noise again and writes `{}`",
                path.display()
            ),
            Self::NoResults { path } => no_results(path),
            Self::TakenOver { lease } => format!(
                "this process was stopped or cut off from the results folder for {lease} s; if that is to be expected, give \
                 every process a longer `--lease`"
            ),
            Self::FailedElsewhere { run_id } => {
                format!("`cells/{run_id}.failed.json` in the results folder says more; the next call tries the cell again")
            }
            Self::OtherAnswers { path } => format!(
                "name another file, or remove `{0}` and `{0}.settings` to start anew",
                path.display()
            ),
            Self::Said(remedy) => remedy.clone(),
            plain => plain.plain_remedy().to_owned(),
        })
    }
}

impl Cause {
    /// Remedies that name nothing of the case.
    fn plain_remedy(&self) -> &'static str {
        match self {
            Self::DiskFull => "free some space on that device and run the same command again: finished cells are kept",
            Self::ReadOnly => {
                "choose a writable folder: `--results` or `--out` for what is made, `KSHOT_CACHE` for unpacked datasets"
            }
            Self::NoPermission { .. } => {
                "make the folder writable for this user, or name another one: `--results` or `--out` for what is made, \
                 `KSHOT_CACHE` for unpacked datasets, `HF_HOME` for hub files"
            }
            Self::IsFolder => "name a file, not a folder",
            Self::TooManyOpenFiles => "allow more open files: `ulimit -n 4096`",
            Self::System => {
                "the cause is the system's own answer: see to the device or the network file system, then run the same command \
                 again: what is finished is kept"
            }
            Self::Config => {
                "correct the entry; `kshot sweep --help` and the files in `configs/` show what a config may hold"
            }
            Self::Option => "the verb's own `--help` says what the option takes",
            Self::ClassNames => "`--labels` names a text file with one class name a line",
            Self::Manifest => "correct the manifest: the other files in `datasets/` show the form",
            Self::IndexProtocol => "add `--protocol coop`, or leave `--indices` out",
            Self::Indices => {
                "take the file as cross_modal_adaptation published it, for these shots and this seed; without one, `coop` draws \
                 on its own"
            }
            Self::ClassName => "rename the class: in the dataset's manifest, as a folder, or in the file of `--labels`",
            Self::Occupied => "name a new folder, or move the old one away",
            Self::HostileArchive => {
                "unpack it yourself, look at what is in it, and give the folder to `kshot data import`: entries that could leave \
                 their folder or fill the disk are never unpacked"
            }
            Self::Parquet => {
                "the manifest names the columns of images and labels under `[hub]`; a damaged file is to be deleted and fetched \
                 again by `kshot data fetch`"
            }
            Self::Dataset => {
                "`kshot data verify` checks the dataset's files against its manifest and names each that does not fit"
            }
            Self::Protocol => {
                "take another `--protocol`, in a config `protocol`: `kshot data show` says what the dataset has"
            }
            Self::OtherClasses => "evaluate on the dataset and with the `--protocol` that the adapter was trained with",
            Self::ChangedImage => {
                "put the file back, or run the same command again: the dataset is looked at anew and cells of other images get \
                 their own `run_id`"
            }
            Self::Image => "replace the file, or list it under `skip` in the dataset's manifest to leave it out",
            Self::AspectRatio => "crop the image or leave it out: the longer side may be at most 200 times the shorter",
            Self::NoImage => "each of them is named above, or in the answers, with the reason",
            Self::RepositoryName => "a repository of the hub is named `owner/name`, a model also `owner/name@revision`",
            Self::Offline => {
                "unset `KSHOT_OFFLINE` and `HF_HUB_OFFLINE`, or fetch where there is a network and put the files here by hand: they are \
             checked and taken"
            }
            Self::Network => {
                "run the same command again later: what has arrived is kept; behind a proxy set `HTTPS_PROXY`; another hub is \
                 named by `HF_ENDPOINT`, a mirror of files by `KSHOT_MIRROR`"
            }
            Self::TooManyRequests => {
                "wait some minutes and run the same command again: what has arrived is kept; with a token in `HF_TOKEN` the hub allows more"
            }
            Self::NotFoundThere => {
                "check name and revision; a private repository shows itself only to a token in `HF_TOKEN` that may see it"
            }
            Self::NoAccess => {
                "ask for access on the page of the repository, or accept its licence there, then set `HF_TOKEN` to a token of that \
                 account"
            }
            Self::StrangeAnswer => {
                "`HF_ENDPOINT` has to name a hub (by default https://huggingface.co); something between may answer in its place"
            }
            Self::LacksFiles => "take another repository or revision: this one has not the files that are read",
            Self::NoSource => {
                "put the files at the places named by hand: they are checked and taken; or set `KSHOT_MIRROR` to a URL or folder that \
                 holds `<dataset>/<file>`"
            }
            Self::NoRoom => {
                "free some space, or name a folder on a larger device: `KSHOT_CACHE` for archives and images, `HF_HOME` for hub files"
            }
            Self::ToldAbove => "the reasons are above; the same command goes on where it stopped",
            Self::Adapter => {
                "an adapter is a folder with `adapter_config.json` and `adapter_model.safetensors`, as kshot or PEFT saves it, and \
                 goes with the base model that it was trained on"
            }
            Self::NoWeights => "take `dinov2-lora` or `qwen3-vl-lora`: the other learners have no weights to keep",
            Self::Device => {
                "`KSHOT_DEVICE=cpu` computes on the CPU; for a GPU, `nvidia-smi` must show it and the binary must come from \
                 `scripts/cuda-build.sh`"
            }
            Self::Memory => {
                "free memory on the device, take a smaller model or weights in half precision; for models that write, a smaller \
                 `longest_side` too (fewer tokens a picture); `kshot sweep --dry-run` says what a config takes"
            }
            Self::Diverged => "lower the learning rates of this learner",
            Self::BadAnswers => {
                "a model that has diverged gives such answers: look at its training loss; a service may not be compatible"
            }
            Self::BenchCheckpoint => "delete the folder, or name another one",
            Self::Input => "inputs are to be made with the tokenizer and the image processor of the same model folder",
            Self::NoGradients => "call forward_backward on examples with weights that are not all zero first",
            Self::NoAdapter => "its trainer is gone: make a new one",
            Self::Sampling => "the temperature is a number from 0, and each prompt has its continuations",
            Self::CurveTable => "name a results folder, or the CSV of a figure as `kshot plot` writes it to `figures/`",
            Self::Controls => "`kshot control` makes it again",
            Self::Unfinished => "`kshot sweep` with the config of this folder finishes it",
            Self::OwnResults => {
                "name a new folder, or one that `kshot promote` has filled, e.g. `results/reference/nightly`"
            }
            Self::CellsFailed => {
                "the reasons are above and in `cells/*.failed.json` of the results folder; the next call tries them again"
            }
            Self::UnknownCell => {
                "`kshot sweep --dry-run` with the same `--config` and `--set` lists the cells of a sweep"
            }
            Self::NotComparable => "results of different test images, classes or metrics belong in different folders",
            _ => "this is a fault of kshot: please report it with the command and the config",
        }
    }
}

/// Up to where a path exists.
fn not_there(path: &Path) -> String {
    let above = path
        .ancestors()
        .skip(1)
        .find(|above| !above.as_os_str().is_empty() && above.exists());
    match (path.symlink_metadata().is_ok(), above) {
        (true, _) => format!("`{}` is a link to nothing: renew or remove it", path.display()),
        (false, Some(above)) => format!("check the path: `{}` is there, what follows is not", above.display()),
        (false, None) => "check the path: it counts from the folder that kshot was started in".into(),
    }
}

/// The remedy for a file of a model, by its name.
fn model_file(path: &Path) -> String {
    let whole = "`kshot model fetch owner/name` downloads a model whole";
    match path.file_name().and_then(|name| name.to_str()).unwrap_or("") {
        "tokenizer.json" | "tokenizer_config.json" | "chat_template.json" | "chat_template.jinja" => format!(
            "take it from the model's own repository ({whole}), or have `AutoProcessor.from_pretrained(…).save_pretrained(…)` of \
             transformers write it"
        ),
        "preprocessor_config.json" | "processor_config.json" => format!(
            "take it from the model's own repository ({whole}): it belongs beside `config.json`, as `preprocessor_config.json` or \
             `processor_config.json`"
        ),
        "config.json" => {
            format!("take it from the model's own repository ({whole}): it is the config of the weights beside it")
        }
        "adapter_config.json" | "adapter_model.safetensors" | "head.safetensors" => {
            Cause::Adapter.plain_remedy().into()
        }
        _ => format!("a model folder holds config, image processor and weights (safetensors) of one model; {whole}"),
    }
}

/// The remedy for a folder without results, by what is there.
fn no_results(path: &Path) -> String {
    if path.is_file() {
        "name a folder: `kshot sweep` writes one, `results/<name of the sweep>`".into()
    } else if path.is_dir() {
        "name a folder that `kshot sweep` or `kshot promote` has filled, e.g. `results/reference/nightly`; one with failed or \
         running cells only has nothing to show yet"
            .into()
    } else {
        not_there(path) + "; `kshot sweep` writes `results/<name of the sweep>`"
    }
}

/// An error, and a cause that says more than its kind does.
#[derive(Debug)]
pub struct Caused {
    /// The error.
    error: Error,
    /// Its cause.
    cause: Cause,
}

impl fmt::Display for Caused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Caused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl Error {
    /// The same with a cause that says more than its kind does.
    #[must_use]
    pub fn because(self, cause: Cause) -> Self {
        match self {
            Self::Caused(caused) => Self::Caused(Box::new(Caused { cause, ..*caused })),
            error => Self::Caused(Box::new(Caused { error, cause })),
        }
    }

    /// The error without what [`Error::because`] has added: to be matched.
    #[must_use]
    pub fn kind(&self) -> &Self {
        match self {
            Self::Caused(caused) => caused.error.kind(),
            error => error,
        }
    }

    /// Advice to the user: the remedy of its cause.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(self.cause().to_string())
    }

    /// Its cause, as far as it is known.
    #[must_use]
    pub fn cause(&self) -> Cause {
        match self {
            Self::Caused(caused) => caused.cause.clone(),
            Self::Io { action, path, source } => Cause::of_system(action, path, source),
            Self::Malformed { kind, path, .. } => of_file(kind, path),
            Self::Config { origin, .. } if origin.starts_with("--") => Cause::Option,
            Self::Config { .. } => Cause::Config,
            Self::UnknownDataset { known, .. } => Cause::UnknownDataset { known: known.clone() },
            Self::Manifest { .. } => Cause::Manifest,
            Self::Labels { path, .. } => Cause::Labels { path: path.clone() },
            Self::Indices { .. } => Cause::Indices,
            Self::WrongBytes { path, what, .. } => Cause::OtherBytes {
                path: path.clone(),
                what,
            },
            Self::Archive { path, .. } => Cause::DamagedArchive { path: path.clone() },
            Self::NotFetched { dataset, option, .. } => Cause::NotFetched {
                dataset: dataset.clone(),
                option,
            },
            Self::Parquet { .. } => Cause::Parquet,
            Self::Dataset { .. } => Cause::Dataset,
            Self::Image { .. } => Cause::Image,
            Self::ChangedImage { .. } => Cause::ChangedImage,
            Self::NotFetchable { files, .. } => super::cause_of_missing(files),
            Self::Hub { .. } => Cause::NotFoundThere,
            Self::DiskSpace { .. } => Cause::NoRoom,
            Self::SomeNotFetched { .. } => Cause::ToldAbove,
            Self::TooFewImages { available, .. } => Cause::Shots { available: *available },
            Self::Model { path, .. } => Cause::ModelFile { path: path.clone() },
            Self::ClassName { .. } => Cause::ClassName,
            Self::Device { .. } => Cause::Device,
            Self::Sampler { .. } => Cause::BadAnswers,
            Self::Memory { .. } => Cause::Memory,
            Self::NotFinite { .. } => Cause::Diverged,
            Self::Input { .. } => Cause::Input,
            Self::NoGradients => Cause::NoGradients,
            Self::NoAdapter { .. } => Cause::NoAdapter,
            Self::State { path, .. } => Cause::State { path: path.clone() },
            Self::Sampling { .. } => Cause::Sampling,
            Self::CellsFailed { .. } => Cause::CellsFailed,
            Self::TakenOver { lease_seconds, .. } => Cause::TakenOver {
                lease: lease_seconds.to_string(),
            },
            Self::UnknownCell { .. } => Cause::UnknownCell,
            Self::FailedElsewhere { run_id, .. } => Cause::FailedElsewhere { run_id: run_id.clone() },
            Self::NoResults { path } => Cause::NoResults { path: path.clone() },
            Self::NotCompact { .. } => Cause::OwnResults,
            Self::NotComparable { .. } => Cause::NotComparable,
            Self::Uncontrolled { remedy, .. }
            | Self::Import { remedy, .. }
            | Self::Checkpoint { remedy, .. }
            | Self::Refused { remedy, .. } => Cause::Said(remedy.clone()),
            Self::Continue { path, .. } => Cause::OtherAnswers { path: path.clone() },
            Self::NoImage { .. } => Cause::NoImage,
            Self::Exists { .. } => Cause::Occupied,
            Self::Tensor(_) if self.is_out_of_memory() => Cause::Memory,
            Self::Tensor(_) | Self::Predictions { .. } | Self::Figure { .. } => Cause::Fault,
        }
    }
}

/// The cause of a file of kshot's own that does not parse.
fn of_file(kind: &str, path: &Path) -> Cause {
    let path = path.to_path_buf();
    match kind {
        "cell record" | "prediction file" | "ledger" => Cause::MadeBySweep { path },
        "curve table" => Cause::CurveTable,
        "file of run-to-run noise" => Cause::Noise { path },
        "file of sanity controls" => Cause::Controls,
        "table of published results" => Cause::Fault,
        _ => Cause::MadeAgain { path },
    }
}
