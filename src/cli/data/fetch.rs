//! `kshot data fetch`: datasets from the network.

use clap::{Args, ValueEnum};

use super::places;
use crate::cli::terminal::{DownloadBars, amount, fetch_each};
use crate::error::Result;
use crate::experiment::plan::Places;
use crate::fetch;
use crate::fetch::{FetchProgress as _, Fetched, Remote};
use crate::manifest;
use crate::manifest::{Form, Manifest};

/// Fetch datasets: what is missing of their archives or hub files, checked by size and hash. Interrupted, the same
/// command goes on where it was.
///
/// A mirror in KSHOT_MIRROR (a URL or a folder that holds <dataset>/<file>) is asked first. KSHOT_OFFLINE=1 makes no
/// connection and says which files are missing. Archives go to KSHOT_CACHE, hub files to HF_HOME as Python has them.
#[derive(Debug, Args)]
#[command(after_help = "Example: kshot data fetch oxford-pets oxford-flowers")]
pub(in crate::cli) struct Arguments {
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

impl From<FormOption> for Form {
    fn from(source: FormOption) -> Self {
        match source {
            FormOption::Archive => Self::Archive,
            FormOption::Hub => Self::Hub,
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let (places, remote, live) = (places(), Remote::from_env(), DownloadBars::new());
    fetch_each("datasets", &arguments.names, |name| {
        fetch_one(name, arguments.source, &places, &remote, &live)
    })
}

/// One line about the fetched files, for people.
fn fetch_one(
    name: &str,
    source: Option<FormOption>,
    places: &Places,
    remote: &Remote,
    live: &DownloadBars,
) -> Result<String> {
    let mut manifest = manifest::load(&places.datasets, name)?;
    manifest.downloads = places.cache.join("downloads").join(name);
    let forms = match source {
        Some(source) => vec![source.into()],
        None => fetch::forms(&manifest),
    };
    if fetch::forms(&manifest).is_empty() {
        return Ok(format!("{name}: nothing to fetch, its files are on this machine\n"));
    }
    let mut forms = forms.into_iter().peekable();
    while let Some(form) = forms.next() {
        match (fetch::fetch(&manifest, form, remote, live), forms.peek()) {
            (Ok(fetched), _) => return Ok(described(&manifest, &fetched)),
            (Err(error), None) => return Err(error),
            (Err(error), Some(next)) => {
                live.note(&format!(
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
