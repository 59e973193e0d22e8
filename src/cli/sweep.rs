//! `kshot sweep`: the main job; and the options by which verbs name a sweep: `--config`, `--set` and `--results`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::Args;

use crate::cli::places::places;
use crate::cli::terminal::SweepBars;
use crate::cli::{dry_run, output, plot};
use crate::error::{Error, Result};
use crate::experiment::config::{QUICKSTART, Sweep};
use crate::experiment::plan::Cell;
use crate::experiment::shard::Shard;
use crate::experiment::sweep::Sweeper;
use crate::experiment::{plan, sweep};
use crate::store::Store;
use crate::store::claim::{Claims, LONGEST_LEASE};

/// Train and evaluate every cell of datasets × shots × seeds × learners that is not finished yet, then
/// print the table and draw the figure.
///
/// Any number of processes, on any machines that share the results folder, may run the same sweep at once: each cell
/// is run by one of them, and the cells of one that dies are taken over.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kshot sweep                                       the embedded quickstart
  kshot sweep --config configs/mini-full.toml
  kshot sweep --set 'shots=[1, 4]' --set learner.0.rank=8 --dry-run
  kshot sweep --config configs/mini-full.toml --shard $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT
                                                    one task of a job array, see configs/cluster/")]
pub(super) struct Arguments {
    #[command(flatten)]
    config: Config,
    /// Run only cells I, I+N, I+2N, … of the plan, I from 0 to N-1; table and figure are of all that are finished.
    #[arg(long, value_name = "I/N", default_value = "0/1", hide_default_value = true)]
    shard: Shard,
    #[command(flatten)]
    lease: Lease,
    /// Check everything, list the cells and estimate hours, memory and disk, but train nothing and write no results. Datasets and
    /// models that are not on this machine yet are estimated by their manifests and names.
    #[arg(long)]
    dry_run: bool,
    /// The same as JSON.
    #[arg(long, requires = "dry_run")]
    json: bool,
}

/// Time for which a process may be silent.
#[derive(Debug, Args)]
pub(super) struct Lease {
    /// A process that gives no sign of life for so long loses its cell to another one.
    #[arg(long = "lease", value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=LONGEST_LEASE))]
    seconds: u64,
}

impl Lease {
    pub(crate) fn claims(&self, folder: &Path) -> Result<Claims> {
        Claims::open(folder, Duration::from_secs(self.seconds))
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let places = places();
    let (sweep, folder) = arguments.config.read()?;
    if arguments.dry_run {
        return dry_run::run(&sweep, &places, &folder, arguments.shard, arguments.json);
    }
    let cells = plan::plan(&sweep, &places)?;
    let store = Store::open(&folder)?;
    let outcome = Sweeper {
        sweep: &sweep,
        store: &store,
        claims: arguments.lease.claims(&folder)?,
        commit: commit(&places.home).as_deref(),
        progress: &mut SweepBars::new(),
    }
    .run(&cells, arguments.shard)?;
    let tables = sweep::conclude(&cells, &store, |records| match records {
        [] => Ok(Vec::new()),
        records => plot::draw(&store, records),
    })?;
    if !tables.is_empty() {
        output(&plot::plain(&tables))?;
    }
    tracing::info!("results are in `{}`", folder.display());
    if outcome.failed > 0 {
        return Err(Error::CellsFailed {
            failed: outcome.failed,
            total: shard(&cells, arguments.shard).len(),
        });
    }
    Ok(())
}

fn shard(cells: &[Cell], shard: Shard) -> Vec<&Cell> {
    let numbered = cells.iter().enumerate();
    numbered
        .filter(|(place, _)| shard.has(*place))
        .map(|(_, cell)| cell)
        .collect()
}

/// Commit of the checkout that holds the datasets and configs; none outside of git.
pub(super) fn commit(home: &Path) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(home)
        .args(["rev-parse", "HEAD"])
        .output()
        .ok()?;
    let hash = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !hash.is_empty()).then_some(hash)
}

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
