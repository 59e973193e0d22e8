//! What to do about each error.

use std::io;

use super::Error;

impl Error {
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
            Self::Device { .. } => {
                "`KSHOT_DEVICE=cpu` computes on the CPU; for a GPU, `nvidia-smi` must show it and the binary must come from \
                 `scripts/cuda-build.sh`"
                    .into()
            }
            Self::Malformed { path, .. } => {
                format!("delete `{}` to have it made again", path.display())
            }
            Self::Config { .. } => {
                "`kshot sweep --help` and the files in `configs/` show what a config may hold".into()
            }
            Self::UnknownDataset { known, .. } => format!("known datasets: {}", known.join(", ")),
            Self::Manifest { .. } => "correct the manifest: the other files in `datasets/` show the form".into(),
            Self::Labels { path, .. } => {
                let matlab = "; MATLAB files must be version 5 (`save -v7` or `-v6`)";
                let is_matlab = path.extension().is_some_and(|end| end == "mat");
                format!(
                    "correct `{}` or restore it from its source{}",
                    path.display(),
                    if is_matlab { matlab } else { "" }
                )
            }
            Self::Indices { .. } => {
                "take the file as cross_modal_adaptation published it, for these shots and this seed; without one, \
                 `coop` draws on its own"
                    .into()
            }
            Self::WrongBytes { path, .. } => format!(
                "the file is damaged or another version: restore `{}` from its source, then run again",
                path.display()
            ),
            Self::Archive { .. } => "fetch the archive again: it is truncated, damaged or not the official one".into(),
            Self::NotFetched { dataset, option, .. } => {
                format!("`kshot data fetch {dataset}{option}` downloads what is missing; files of your own go to the places named")
            }
            Self::Parquet { .. } => {
                "the manifest names the columns of images and labels under `[hub]`; a damaged file is to be fetched again".into()
            }
            Self::Dataset { .. } => "check the dataset's files against its manifest in `datasets/`".into(),
            Self::Image { .. } => {
                "replace the file, or list it under `skip` in the dataset's manifest to leave it out".into()
            }
            Self::ChangedImage { .. } => {
                "put the file back, or run the same command again: the dataset is looked at anew and cells of other images get \
                 their own `run_id`"
                    .into()
            }
            Self::NotFetchable { .. } => {
                "run the same command again later: what has arrived is kept; or put the files there by hand: they are \
                 checked and taken; or set `KSHOT_MIRROR` to a URL or folder that holds `<dataset>/<file>`"
                    .into()
            }
            Self::Hub { .. } => {
                "check name and revision; private repositories need `HF_TOKEN`, another hub is named by `HF_ENDPOINT`"
                    .into()
            }
            Self::DiskSpace { .. } => {
                "free some space, or name a folder on a larger device: `KSHOT_CACHE` for archives and images, `HF_HOME` \
                 for hub files"
                    .into()
            }
            Self::SomeNotFetched { .. } => {
                "the reasons are above; the same command goes on where it stopped".into()
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
            Self::Memory { .. } => {
                "free memory, take a smaller model or a smaller `longest_side` (fewer tokens a picture), or weights in half \
                 precision; `kshot sweep --dry-run` says what a config takes"
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
            Self::Gate(error) => error.hint(),
            Self::Uncontrolled { remedy, .. } | Self::Import { remedy, .. } | Self::Checkpoint { remedy, .. } => remedy.clone(),
            Self::Continue { path, .. } => format!(
                "name another file, or remove `{0}` and `{0}.settings` to start anew",
                path.display()
            ),
            Self::NoImage { .. } => "each of them is named above, or in the answers, with the reason".into(),
            Self::Exists { .. } => "name a new folder, or move the old one away".into(),
            Self::Predictions { .. } => {
                "the learner answered outside its class list: please report it with the config".into()
            }
            Self::Tensor(_) | Self::Figure { .. } => return None,
        };
        Some(hint)
    }
}
