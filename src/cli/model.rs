//! `kshot model`: models of the hub; one file a verb.

use std::path::Path;

use clap::{Args, Subcommand};

use crate::checkpoint::architecture::Architecture;
use crate::checkpoint::repository;
use crate::cli::places::places;
use crate::cli::terminal::{DownloadBars, amount, fetch_each};
use crate::error::{Cause, Error, Result};
use crate::fetch::{ModelId, ModelListing, Remote};

/// Fetch models of the hub.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    Fetch(FetchArguments),
}

pub(super) fn run(verb: &Verb) -> Result<()> {
    match verb {
        Verb::Fetch(arguments) => fetch(arguments),
    }
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
pub(in crate::cli) struct FetchArguments {
    /// owner/name, or owner/name@revision with a branch, tag or commit.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

fn fetch(arguments: &FetchArguments) -> Result<()> {
    let (remote, live) = (Remote::from_env(), DownloadBars::new());
    fetch_each("models", &arguments.ids, |id| fetch_one(id, &remote, &live))
}

/// One line about the fetched files, for people.
fn fetch_one(text: &str, remote: &Remote, live: &DownloadBars) -> Result<String> {
    let id = ModelId::parse(text).ok_or_else(|| {
        let (repo, reason) = (text.into(), "is no `owner/name` or `owner/name@revision`".into());
        Error::Hub { repo, reason }.because(Cause::RepositoryName)
    })?;
    if remote.hub.offline {
        let folder = repository::locate(Path::new(text), &places().home)?;
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
    let fetched = listing.fetch(remote, live)?;
    Ok(format!(
        "{id}: commit {}, {} files ({}), {} new, in {}\n",
        listing.commit,
        fetched.files,
        amount(fetched.bytes),
        fetched.fetched,
        fetched.folder.display()
    ))
}
