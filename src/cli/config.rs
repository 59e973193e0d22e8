//! Which sweep a verb is about: `--config`, `--set` and `--results`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::error::{Error, Result};
use crate::experiment::config::{QUICKSTART, Sweep};

#[derive(Debug, Args)]
pub(super) struct Config {
    /// The sweep; without it, `configs/quickstart.toml` as of the build.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Change a value of the config: path.to.field=value, list items by number.
    #[arg(long, value_name = "A.B=V")]
    set: Vec<String>,
    /// Folder of this sweep's results [default: results/<name of the sweep>].
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
}

impl Config {
    /// The sweep, and the folder of its results.
    pub(crate) fn read(&self) -> Result<(Sweep, PathBuf)> {
        let (text, origin) = match &self.config {
            Some(path) => (
                fs::read_to_string(path).map_err(Error::io("read", path))?,
                path.display().to_string(),
            ),
            None => (QUICKSTART.to_owned(), "configs/quickstart.toml".to_owned()),
        };
        let sweep = Sweep::parse(&text, &origin, &self.set)?;
        let folder = self.results.clone();
        let folder = folder.unwrap_or_else(|| Path::new("results").join(&sweep.name));
        Ok((sweep, folder))
    }

    /// The same options for another verb.
    pub(crate) fn command(&self, verb: &str) -> String {
        let mut command = format!("kshot {verb}");
        let mut add = |option: &str, value: String| command += &format!(" {option} {value}");
        if let Some(config) = &self.config {
            add("--config", config.display().to_string());
        }
        self.set.iter().for_each(|set| add("--set", format!("'{set}'")));
        if let Some(results) = &self.results {
            add("--results", results.display().to_string());
        }
        command
    }
}
