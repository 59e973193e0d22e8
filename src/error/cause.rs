//! Remedies: what to do about an error.
//!
//! Each kind of [`Error`] has the remedy that fits whatever it was made for ([`Error::hint`]); where more is known, the place
//! that makes the error names a [`Cause`]: `error.because(Cause::NoAccess)`. `tests/it/refusals.rs` sees to it that every
//! remedy names flags, verbs, variables and files that exist.

use std::fmt;
use std::io;
use std::path::Path;

use super::{Error, MissingFile};

/// Why something failed where the kind of the error does not say it. Its text is the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// An option of the command line.
    #[error("the verb's own `--help` says what the option takes")]
    Option,
    /// An address that a server cannot listen at.
    #[error("name another address by `--bind`, e.g. `--bind 127.0.0.1:8001`; port 0 takes a free one")]
    Address,
    /// The key of a server.
    #[error(
        "set `TINKER_API_KEY` to a key of your own, `tml-` and at least 8 characters more, for the server and for its clients; \
        without one, `--bind 127.0.0.1:8000` is for this machine alone"
    )]
    ServerKey,
    /// A file of class names.
    #[error("`--labels` names a text file with one class name a line")]
    ClassNames,
    /// Index files go with one protocol.
    #[error("add `--protocol coop`, or leave `--indices` out")]
    IndexProtocol,
    /// The target is there.
    #[error("name a new folder, or move the old one away")]
    Occupied,
    /// An archive with something in it that is not unpacked.
    #[error(
        "unpack it yourself, look at what is in it, and give the folder to `kshot data import`: entries that could leave \
        their folder or fill the disk are never unpacked"
    )]
    HostileArchive,
    /// A protocol that the dataset has no files for.
    #[error("take another `--protocol`, in a config `protocol`: `kshot data show` says what the dataset has")]
    Protocol,
    /// The adapter was trained on other class names.
    #[error("evaluate on the dataset and with the `--protocol` that the adapter was trained with")]
    OtherClasses,
    /// An image whose sides differ too much.
    #[error("crop the image or leave it out: the longer side may be at most 200 times the shorter")]
    AspectRatio,
    /// A name that is none of a repository.
    #[error("a repository of the hub is named `owner/name`, a model also `owner/name@revision`")]
    RepositoryName,
    /// No connection may be made.
    #[error(
        "unset `KSHOT_OFFLINE` and `HF_HUB_OFFLINE`, or fetch where there is a network and put the files here by hand: they are \
        checked and taken"
    )]
    Offline,
    /// A server cannot be reached, breaks off or is too slow.
    #[error(
        "run the same command again later: what has arrived is kept; behind a proxy set `HTTPS_PROXY`; another hub is \
        named by `HF_ENDPOINT`, a mirror of files by `KSHOT_MIRROR`"
    )]
    Network,
    /// The certificate of a server is signed by nobody who is known, is for another name, or is out of date.
    #[error(
        "set `SSL_CERT_FILE` to a PEM file with the certificates that this server's is signed by: a proxy that opens \
        connections has one of its own; and see that this machine's clock is right"
    )]
    Certificate,
    /// A server wants to be left alone for a while.
    #[error(
        "wait some minutes and run the same command again: what has arrived is kept; with a token in `HF_TOKEN` the hub allows more"
    )]
    TooManyRequests,
    /// A server does not know the thing.
    #[error("check name and revision; a private repository shows itself only to a token in `HF_TOKEN` that may see it")]
    NotFoundThere,
    /// A server wants to know who asks, or does not give it to this user.
    #[error(
        "ask for access on the page of the repository, or accept its licence there, then set `HF_TOKEN` to a token of that \
        account"
    )]
    NoAccess,
    /// The hub answers in a form that is not its own.
    #[error(
        "`HF_ENDPOINT` has to name a hub (by default https://huggingface.co); something between may answer in its place"
    )]
    StrangeAnswer,
    /// A repository without the files that are needed.
    #[error("take another repository or revision: this one has not the files that are read")]
    LacksFiles,
    /// No address gives a file.
    #[error(
        "put the files at the places named by hand: they are checked and taken; or set `KSHOT_MIRROR` to a URL or folder that \
        holds `<dataset>/<file>`"
    )]
    NoSource,
    /// An adapter's folder, or a file in it.
    #[error(
        "an adapter is a folder with `adapter_config.json` and `adapter_model.safetensors`, as kshot or PEFT saves it, and \
        goes with the base model that it was trained on"
    )]
    Adapter,
    /// A learner without weights to keep or to start from.
    #[error("take `dinov2-lora` or `qwen3-vl-lora`: the other learners have no weights to keep")]
    NoWeights,
    /// A checkpoint of `kshot bench` of another shape.
    #[error("delete the folder, or name another one")]
    BenchCheckpoint,
    /// A cell that is not finished.
    #[error("`kshot sweep` with the config of this folder finishes it")]
    Unfinished,
    /// Memory of the device.
    #[error(
        "free memory on the device, take a smaller model or weights in half precision; for models that write, a smaller \
        `longest_side` too (fewer tokens a picture); `kshot sweep --dry-run` says what a config takes"
    )]
    Memory,
    /// A fault of kshot.
    #[error("this is a fault of kshot: please report it with the command and the config")]
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
}

/// An error, and a cause that says more than its kind does.
#[derive(Debug)]
pub struct Caused {
    error: Error,
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
        Some(match self {
            Self::Caused(caused) => caused.cause.to_string(),
            Self::Io { action, path, source } => refused(action, path, source),
            Self::Malformed { kind, path, .. } => malformed(kind, path),
            Self::Config { origin, .. } if origin.starts_with("--") => Cause::Option.to_string(),
            Self::UnknownDataset { known, .. } if known.is_empty() => {
                "there is no manifest: `KSHOT_HOME` names the folder that holds `datasets/`; `kshot data import` makes a \
                 dataset of your own images"
                    .into()
            }
            Self::UnknownDataset { known, .. } => {
                format!("known datasets: {}; `kshot data import` makes one of your own images", known.join(", "))
            }
            Self::Labels { path, .. } => {
                let is_matlab = path.extension().is_some_and(|end| end == "mat");
                let matlab = if is_matlab { "; MATLAB files must be version 5 (`save -v7` or `-v6`)" } else { "" };
                format!("correct `{}` where the reason says; a published file is best fetched again{matlab}", path.display())
            }
            Self::WrongBytes { path, what, .. } => format!(
                "a file from the network: delete `{}`, and `kshot data fetch` downloads it again; a file of your own: write \
                 its {what} into the manifest",
                path.display()
            ),
            Self::Archive { path, .. } => format!(
                "it is cut off or damaged: delete `{}`, and `kshot data fetch` downloads it again; one of your own has to \
                 be packed again",
                path.display()
            ),
            Self::NotFetched { dataset, option, .. } => format!(
                "`kshot data fetch {dataset}{option}` downloads what is missing; files of your own go to the places named"
            ),
            Self::NotFetchable { files, .. } => of_missing(files).to_string(),
            Self::Hub { .. } => Cause::NotFoundThere.to_string(),
            Self::TooFewImages { available, .. } => format!("ask for at most {available} shots"),
            Self::Model { path, .. } => model_file(path),
            Self::State { path, .. } => {
                format!("delete `{}`: the training starts anew, or from an earlier state", path.display())
            }
            Self::TakenOver { lease_seconds, .. } => format!(
                "this process was stopped or cut off from the results folder for {lease_seconds} s; if that is to be \
                 expected, give every process a longer `--lease`"
            ),
            Self::FailedElsewhere { run_id, .. } => {
                format!("`cells/{run_id}.failed.json` in the results folder says more; the next call tries the cell again")
            }
            Self::NoResults { path } => no_results(path),
            Self::Uncontrolled { remedy, .. }
            | Self::Import { remedy, .. }
            | Self::Checkpoint { remedy, .. }
            | Self::Refused { remedy, .. } => remedy.clone(),
            Self::Continue { path, .. } => format!(
                "name another file, or remove `{0}` and `{0}.settings` to start anew",
                path.display()
            ),
            Self::Exists { .. } => Cause::Occupied.to_string(),
            Self::Memory { .. } => Cause::Memory.to_string(),
            Self::Tensor(_) if self.is_out_of_memory() => Cause::Memory.to_string(),
            plain => plain.plain_hint().map_or_else(|| Cause::Fault.to_string(), str::to_owned),
        })
    }

    /// Remedies that name nothing of the case.
    fn plain_hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Config { .. } => {
                "correct the entry; `kshot sweep --help` and the files in `configs/` show what a config may hold"
            }
            Self::Manifest { .. } => "correct the manifest: the other files in `datasets/` show the form",
            Self::Indices { .. } => {
                "take the file as cross_modal_adaptation published it, for these shots and this seed; without one, `coop` draws \
                 on its own"
            }
            Self::ClassName { .. } => {
                "rename the class: in the dataset's manifest, as a folder, or in the file of `--labels`"
            }
            Self::Parquet { .. } => {
                "the manifest names the columns of images and labels under `[hub]`; a damaged file is to be deleted and fetched \
                 again by `kshot data fetch`"
            }
            Self::Dataset { .. } => {
                "`kshot data verify` checks the dataset's files against its manifest and names each that does not fit"
            }
            Self::Image { .. } => "replace the file, or list it under `skip` in the dataset's manifest to leave it out",
            Self::ChangedImage { .. } => {
                "put the file back, or run the same command again: the dataset is looked at anew and cells of other images get \
                 their own `run_id`"
            }
            Self::NoImage { .. } => "each of them is named above, or in the answers, with the reason",
            Self::DiskSpace { .. } => {
                "free some space, or name a folder on a larger device: `KSHOT_CACHE` for archives and images, `HF_HOME` for hub files"
            }
            Self::SomeNotFetched { .. } => "the reasons are above; the same command goes on where it stopped",
            Self::Device { .. } => {
                "`KSHOT_DEVICE=cpu` computes on the CPU; for a GPU, `nvidia-smi` must show it and the binary must come from \
                 `scripts/cuda-build.sh`"
            }
            Self::Sampler { .. } => {
                "a model that has diverged gives such answers: look at its training loss; a service may not be compatible"
            }
            Self::NotFinite { .. } => "lower the learning rates of this learner",
            Self::Input { .. } => {
                "inputs are to be made with the tokenizer and the image processor of the same model folder"
            }
            Self::NoGradients => "call forward_backward first",
            Self::NoAdapter { .. } => "its trainer is gone: make a new one",
            Self::Sampling { .. } => {
                "the temperature is a number from 0, top_p a share, top_k and the samples from 1; each prompt has its continuations"
            }
            Self::NotCompact { .. } => {
                "name a new folder, or one that `kshot promote` has filled, e.g. `results/reference/nightly`"
            }
            Self::CellsFailed { .. } => {
                "the reasons are above and in `cells/*.failed.json` of the results folder; the next call tries them again"
            }
            Self::OtherSweep { .. } => {
                "`--results DIR` puts this sweep into a folder of its own; `kshot sweep --replace` removes those cells and begins \
                 this folder anew"
            }
            Self::UnknownCell { .. } => {
                "`kshot sweep --dry-run` with the same `--config` and `--set` lists the cells of a sweep"
            }
            Self::NotComparable { .. } => {
                "results of different test images, classes or metrics belong in different folders"
            }
            _ => return None,
        })
    }
}

/// The remedy for the system's refusal to `action`.
fn refused(action: &str, path: &Path, error: &io::Error) -> String {
    use io::ErrorKind as Kind;
    let reads = action.starts_with("read");
    let shown = path.display();
    match error.kind() {
        Kind::StorageFull | Kind::QuotaExceeded => {
            "free some space on that device and run the same command again: finished cells are kept".into()
        }
        Kind::ReadOnlyFilesystem => {
            "choose a writable folder: `--results` or `--out` for what is made, `KSHOT_CACHE` for unpacked datasets".into()
        }
        Kind::PermissionDenied if reads => {
            format!("let this user read it (`ls -l` shows who may): `chmod u+r {shown}`, if it is yours")
        }
        Kind::PermissionDenied => {
            "make the folder writable for this user, or name another one: `--results` or `--out` for what is made, \
             `KSHOT_CACHE` for unpacked datasets, `HF_HOME` for hub files"
                .into()
        }
        Kind::NotFound => not_there(path),
        Kind::IsADirectory => "name a file, not a folder".into(),
        Kind::NotADirectory => match path.ancestors().find(|above| above.is_file()) {
            Some(file) => format!("`{}` is a file, not a folder: name another path, or move it away", file.display()),
            None => "a file stands where a folder is needed: name another path".into(),
        },
        Kind::InvalidData if reads => format!("save `{shown}` as UTF-8 text"),
        _ if error.raw_os_error() == Some(24) => "allow more open files: `ulimit -n 4096`".into(),
        _ => {
            "the cause is the system's own answer: see to the device or the network file system, then run the same command \
             again: what is finished is kept"
                .into()
        }
    }
}

/// The remedy for a file of kshot's own that does not parse.
fn malformed(kind: &str, path: &Path) -> String {
    let path = path.display();
    match kind {
        "cell record" | "prediction file" | "ledger" => format!(
            "`kshot sweep` with the config of this folder makes `{path}` again; a copy that `kshot promote` has made is made \
             again by it"
        ),
        "curve table" => "name a results folder, or the CSV of a figure as `kshot plot` writes it to `figures/`".into(),
        "file of run-to-run noise" => {
            format!("`kshot gate --accept` with `--repeat` measures the noise again and writes `{path}`")
        }
        "file of sanity controls" => "`kshot control` makes it again".into(),
        "table of published results" => Cause::Fault.to_string(),
        _ => format!("delete `{path}` to have it made again"),
    }
}

/// The answer of the last source of the first file: a server's status, that it was not asked, or anything else.
fn of_missing(files: &[MissingFile]) -> Cause {
    let Some((_, reason)) = files.first().and_then(|file| file.sources.last()) else {
        return Cause::NoSource;
    };
    let status = reason.split_whitespace().next().and_then(|word| word.parse().ok());
    match status {
        // The address itself is out of date: no token helps.
        Some(404 | 410) => Cause::NoSource,
        Some(status) if (400..600).contains(&status) => Cause::of_status(status),
        _ if reason.contains("KSHOT_OFFLINE") => Cause::Offline,
        _ if reason.starts_with("TLS: invalid peer certificate") => Cause::Certificate,
        _ if reason.contains(" instead of ") => Cause::NoSource,
        _ => Cause::Network,
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
        "adapter_config.json" | "adapter_model.safetensors" | "head.safetensors" => Cause::Adapter.to_string(),
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
