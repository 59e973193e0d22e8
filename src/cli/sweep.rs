//! `kshot sweep`: the main job.

use std::path::Path;
use std::process::Command;

use clap::Args;

use super::config::Config;
use super::progress::Live;
use super::{output, places::places, summary};
use crate::error::{Error, Result};
use crate::experiment::plan::{self, Cell};
use crate::experiment::sweep;
use crate::results::store::Store;

/// Train and evaluate every cell of datasets × shots × seeds × learners that is not finished yet, then
/// print the table and draw the figure.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kshot sweep                                       the embedded quickstart
  kshot sweep --config configs/mini-full.toml
  kshot sweep --set 'shots=[1, 4]' --set learner.0.rank=8 --dry-run")]
pub(super) struct Arguments {
    #[command(flatten)]
    config: Config,
    /// Check everything and list the cells, but train nothing and write no results.
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let places = places();
    let (sweep, folder) = arguments.config.read()?;
    let cells = plan::plan(&sweep, &places)?;
    if arguments.dry_run {
        return list(&cells, &folder);
    }
    let store = Store::open(&folder)?;
    let outcome = sweep::run(
        &sweep,
        &cells,
        &store,
        commit(&places.home).as_deref(),
        &mut Live::new(),
    )?;
    if !outcome.records.is_empty() {
        output(&summary::plain(&summary::draw(&store, &outcome.records)?))?;
    }
    tracing::info!("results are in `{}`", folder.display());
    if outcome.failed > 0 {
        return Err(Error::CellsFailed {
            failed: outcome.failed,
            total: cells.len(),
        });
    }
    Ok(())
}

/// The cells with the images each of them would process.
fn list(cells: &[Cell], folder: &Path) -> Result<()> {
    let store = Store::open_existing(folder).ok();
    let mut text = String::new();
    let mut images = 0;
    for cell in cells {
        let finished = store
            .as_ref()
            .map(|s| s.finished(&cell.run_id))
            .transpose()?
            .flatten()
            .is_some();
        images += if finished { 0 } else { cell.images() };
        let state = if finished { "finished" } else { "to do" };
        text += &format!(
            "{}  {state:8}  {:>7} images  {}\n",
            cell.run_id,
            cell.images(),
            cell.key
        );
    }
    text += &format!("{} cells, {images} images to process\n", cells.len());
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
