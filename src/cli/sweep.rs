//! `kshot sweep`: the main job.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::config::Config;
use super::progress::Live;
use super::{output, places::places, summary};
use crate::error::{Error, Result};
use crate::experiment::plan::{self, Cell};
use crate::experiment::shard::Shard;
use crate::experiment::sweep::{self, Sweeper};
use crate::results::claim::Claims;
use crate::results::record::CellKey;
use crate::results::store::Store;

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
    /// Check everything and list the cells, but train nothing and write no results.
    #[arg(long)]
    dry_run: bool,
    /// List the cells as JSON.
    #[arg(long, requires = "dry_run")]
    json: bool,
}

/// How long a process may be silent.
#[derive(Debug, Args)]
pub(super) struct Lease {
    /// A process that gives no sign of life for so long loses its cell to another one.
    #[arg(long = "lease", value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
}

impl Lease {
    pub(super) fn claims(&self, folder: &Path) -> Result<Claims> {
        Claims::open(folder, Duration::from_secs(self.seconds))
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let places = places();
    let (sweep, folder) = arguments.config.read()?;
    let cells = plan::plan(&sweep, &places)?;
    if arguments.dry_run {
        let cells: Vec<&Cell> = shard(&cells, arguments.shard);
        return list(&cells, &folder, arguments.json);
    }
    let store = Store::open(&folder)?;
    let outcome = Sweeper {
        sweep: &sweep,
        store: &store,
        claims: arguments.lease.claims(&folder)?,
        commit: commit(&places.home).as_deref(),
        progress: &mut Live::new(),
    }
    .run(&cells, arguments.shard)?;
    let tables = sweep::conclude(&cells, &store, |records| match records {
        [] => Ok(Vec::new()),
        records => summary::draw(&store, records),
    })?;
    if !tables.is_empty() {
        output(&summary::plain(&tables))?;
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

/// A cell of a plan, as `--dry-run --json` lists it.
#[derive(Serialize)]
struct Listed<'a> {
    run_id: &'a str,
    key: &'a CellKey,
    /// "finished", "failed" in its last attempt, or "to do".
    state: &'static str,
    /// Images that pass through a model when the cell runs.
    images: u64,
}

/// The cells with the images each of them would process.
fn list(cells: &[&Cell], folder: &Path, json: bool) -> Result<()> {
    let store = Store::open_existing(folder).ok();
    let state = |run_id: &str| -> Result<&'static str> {
        let Some(store) = &store else { return Ok("to do") };
        Ok(match store.finished(run_id)? {
            Some(_) => "finished",
            None if store.failure_mark(run_id)?.is_some() => "failed",
            None => "to do",
        })
    };
    let mut listed = Vec::new();
    for cell in cells {
        listed.push(Listed {
            run_id: &cell.run_id,
            key: &cell.key,
            state: state(&cell.run_id)?,
            images: cell.images(),
        });
    }
    if json {
        let text = serde_json::to_string_pretty(&listed).map_err(|e| Error::io("write", "stdout")(e.into()))?;
        return output(&(text + "\n"));
    }
    let mut text = String::new();
    for Listed {
        run_id,
        key,
        state,
        images,
    } in &listed
    {
        text += &format!("{run_id}  {state:8}  {images:>7} images  {key}\n");
    }
    let missing = listed.iter().filter(|cell| cell.state != "finished");
    let images: u64 = missing.map(|cell| cell.images).sum();
    text += &format!("{} cells, {images} images to process\n", listed.len());
    output(&text)
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
