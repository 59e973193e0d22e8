//! `kshot data fetch` and `kshot model fetch`: datasets and models from the network.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use clap::{Args, ValueEnum};
use indicatif::{HumanBytes, ProgressBar};

use super::terminal::{Bars, harmless, tell};
use super::{interrupt, output, report};
use crate::checkpoint::architecture::Architecture;
use crate::checkpoint::repository;
use crate::error::{Cause, Error, Result};
use crate::experiment::plan::Places;
use crate::fetch::{self, FetchProgress, Fetched, ModelId, ModelListing, Remote};
use crate::manifest::{self, Form, Manifest};

/// Fetch datasets: what is missing of their archives or hub files, checked by size and hash. Interrupted, the same
/// command goes on where it was.
///
/// A mirror in KSHOT_MIRROR (a URL or a folder that holds <dataset>/<file>) is asked first. KSHOT_OFFLINE=1 makes no
/// connection and says which files are missing. Archives go to KSHOT_CACHE, hub files to HF_HOME as Python has them.
#[derive(Debug, Args)]
#[command(after_help = "Example: kshot data fetch oxford-pets oxford-flowers")]
pub(super) struct DataArguments {
    /// Names of datasets.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// In this form only; without it, in the one that the manifest prefers, and if that fails in the other one.
    #[arg(long)]
    source: Option<FormOption>,
}

/// The form that is asked for.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormOption {
    /// Archives and label files as they were published.
    Archive,
    /// Parquet files of a Hugging Face repository.
    Hub,
}

pub(super) fn data(arguments: &DataArguments) -> Result<()> {
    let (places, remote, bars) = (Places::from_env(), Remote::from_env(), DownloadBars::new());
    interrupt::promise(interrupt::GOES_ON);
    each("datasets", &arguments.names, |name| {
        dataset(name, arguments.source, &places, &remote, &bars)
    })
}

/// One line about the fetched files, for people.
fn dataset(
    name: &str,
    source: Option<FormOption>,
    places: &Places,
    remote: &Remote,
    bars: &DownloadBars,
) -> Result<String> {
    let mut manifest = manifest::load(&places.datasets, name)?;
    manifest.downloads = places.cache.join("downloads").join(name);
    let forms = match source {
        Some(FormOption::Archive) => vec![Form::Archive],
        Some(FormOption::Hub) => vec![Form::Hub],
        None => fetch::forms(&manifest),
    };
    if fetch::forms(&manifest).is_empty() {
        return Ok(format!("{name}: nothing to fetch, its files are on this machine\n"));
    }
    let mut forms = forms.into_iter().peekable();
    while let Some(form) = forms.next() {
        match (fetch::fetch(&manifest, form, remote, bars), forms.peek()) {
            (Ok(fetched), _) => return Ok(described(&manifest, &fetched)),
            (Err(error), None) => return Err(error),
            (Err(error), Some(next)) => {
                bars.note(&format!(
                    "warning: no {form} of {name}, so its {next} is fetched: {error}"
                ));
            }
        }
    }
    Ok(String::new())
}

fn described(manifest: &Manifest, fetched: &Fetched) -> String {
    let commit = fetched.commit.as_ref().map(|commit| format!(" at commit {commit}"));
    format!(
        "{}: {}{}, {} file{} ({}), {} new, in {}\n",
        manifest.name,
        fetched.form,
        commit.unwrap_or_default(),
        fetched.files,
        if fetched.files == 1 { "" } else { "s" },
        amount(fetched.bytes),
        fetched.fetched,
        fetched.folder.display()
    )
}

const TOKENIZER: &str = "tokenizer.json";

/// Fetch models of the hub: config, tokenizer and safetensors weights, into the cache that Python's huggingface_hub
/// uses (HF_HOME, HF_HUB_CACHE). Interrupted, the same command goes on where it was; what is there is checked.
///
/// Every verb then takes the same id as --model. A gated model needs its licence accepted on its page and HF_TOKEN, or
/// `hf auth login`. HF_ENDPOINT names another hub; KSHOT_OFFLINE=1 makes no connection and says what is missing.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kshot model fetch Qwen/Qwen3-VL-2B-Instruct facebook/dinov2-small
  kshot model fetch facebook/dinov2-base@main")]
pub(super) struct ModelArguments {
    /// owner/name, or owner/name@revision with a branch, tag or commit.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

pub(super) fn model(arguments: &ModelArguments) -> Result<()> {
    let (remote, bars) = (Remote::from_env(), DownloadBars::new());
    interrupt::promise(interrupt::GOES_ON);
    each("models", &arguments.ids, |id| checkpoint(id, &remote, &bars))
}

/// One line about the fetched files, for people.
fn checkpoint(text: &str, remote: &Remote, bars: &DownloadBars) -> Result<String> {
    let id = ModelId::parse(text).ok_or_else(|| {
        let (repo, reason) = (text.into(), "is no `owner/name` or `owner/name@revision`".into());
        Error::Hub { repo, reason }.because(Cause::RepositoryName)
    })?;
    if remote.hub.offline {
        let folder = repository::locate(Path::new(text), &Places::from_env().home)?;
        return Ok(format!("{id}: complete, in {}\n", folder.display()));
    }
    let listing = ModelListing::ask(&id, remote)?;
    // Before many gigabytes come in that nothing here can run.
    let config = Path::new(&id.name).join("config.json");
    let architecture = Architecture::parse(&listing.config, &config)?;
    architecture.check(&listing.config, &config)?;
    if architecture.reads_text() && !listing.has(TOKENIZER) {
        return Err(Error::Checkpoint {
            path: Path::new(&id.name).to_path_buf(),
            reason: format!("has no `{TOKENIZER}`"),
            remedy: "save one with transformers: `AutoTokenizer.from_pretrained(ID).save_pretrained(DIR)`".into(),
        });
    }
    let fetched = listing.fetch(remote, bars)?;
    Ok(format!(
        "{id}: commit {}, {} files ({}), {} new, in {}\n",
        listing.commit,
        fetched.files,
        amount(fetched.bytes),
        fetched.fetched,
        fetched.folder.display()
    ))
}

/// Fetches several things by name and prints what came of each; one that fails does not keep the others from coming.
///
/// # Errors
/// The error of the only one, or how many of `what` failed; a closed stdout.
fn each(what: &'static str, names: &[String], fetch: impl Fn(&str) -> Result<String>) -> Result<()> {
    let mut failed = 0;
    for name in names {
        match fetch(name) {
            Ok(said) => output(&said)?,
            Err(error) if names.len() == 1 => return Err(error),
            Err(error) => {
                failed += 1;
                tell(&report(&error));
            }
        }
    }
    match failed {
        0 => Ok(()),
        _ => Err(Error::SomeNotFetched {
            what,
            failed,
            total: names.len(),
        }),
    }
}

/// Bytes for people.
fn amount(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

/// Fewest bytes between two lines: smaller files come in too fast to be told of.
const LINE: u64 = 1 << 20;

/// The progress of downloads.
struct DownloadBars {
    bars: Bars,
    files: Mutex<HashMap<String, FileBar>>,
}

/// A file on its way.
struct FileBar {
    bar: ProgressBar,
    size: u64,
    /// Bytes that were there at first, and the time.
    from: (u64, Instant),
    /// Bytes that were there at the last line.
    told: u64,
}

impl DownloadBars {
    fn new() -> Self {
        Self {
            bars: Bars::new(),
            files: Mutex::default(),
        }
    }

    fn files(&self) -> MutexGuard<'_, HashMap<String, FileBar>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FetchProgress for DownloadBars {
    fn begin(&self, name: &str, size: u64, present: u64) {
        let bar = if self.bars.are_shown {
            let template = "{bar:30} {prefix} · {bytes}/{total_bytes} · {bytes_per_sec} · ETA {eta}";
            let bar = self.bars.add(size, template);
            bar.set_prefix(harmless(name).into_owned());
            bar.set_position(present);
            bar.reset_eta();
            bar
        } else {
            let there = if present > 0 {
                format!(", {} of it are there", amount(present))
            } else {
                String::new()
            };
            self.note(&format!("{name}: {}{there}", amount(size)));
            ProgressBar::hidden()
        };
        let file = FileBar {
            bar,
            size,
            from: (present, Instant::now()),
            told: present,
        };
        self.files().insert(name.into(), file);
    }

    fn at(&self, name: &str, bytes: u64) {
        let line = self.files().get_mut(name).and_then(|file| {
            file.bar.set_position(bytes);
            if bytes < file.from.0 {
                file.from = (bytes, Instant::now());
                file.told = bytes;
            }
            let step = (file.size / 10).max(LINE);
            if bytes < file.told + step || bytes == file.size {
                return None;
            }
            file.told = bytes;
            let speed = (bytes - file.from.0) as f64 / file.from.1.elapsed().as_secs_f64().max(1e-3);
            let left = (file.size - bytes) as f64 / speed;
            let percent = 100.0 * bytes as f64 / file.size as f64;
            let speed = amount(speed as u64);
            Some(format!("{name}: {percent:.0} %, {speed}/s, {left:.0} s left"))
        });
        if let Some(line) = line.filter(|_| !self.bars.are_shown) {
            self.note(&line);
        }
    }

    fn note(&self, text: &str) {
        self.bars.line(text);
    }

    fn end(&self, name: &str, complete: bool) {
        if let Some(file) = self.files().remove(name) {
            self.bars.remove(&file.bar);
        }
        if complete {
            self.note(&format!("{name}: complete"));
        }
    }
}
