//! `kshot data import`: a user's own images become a dataset.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;

use super::data::per_class;
use super::terminal::{bar, tell};
use super::{listed, output};
use crate::data::Dataset;
use crate::error::Result;
use crate::experiment::plan::Places;
use crate::fetch::Remote;
use crate::fs::data_folder;
use crate::import::{self, ImportOptions, Imported, Named, SharedImages};
use crate::learner::Learner;

/// Names in a message before the rest is counted only.
const NAMED: usize = 20;
/// Pairs of images before the rest is counted only.
const PAIRS: usize = 100;

/// Make a dataset of your own images: check every image, clean up the class names, and write a manifest.
///
/// Takes a folder with one folder of images per class; a folder with `train`, `test` and perhaps `val` of such
/// folders, under any of their usual names; a CSV, JSON lines or Parquet file with a column of paths, one of class
/// names and perhaps one of splits; a Parquet file, or a folder of them, with the images inside; or a repository of
/// the Hugging Face hub, `owner/name`, whose images `kshot data fetch` then gets. Where there is no labelled test, a
/// share of each class is kept for it (`holdout` in the manifest). docs/data-import.md has every rule.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kshot data import ~/photos/birds --name birds
  kshot data import train.csv --name leaves --path-column image_id --label-column diagnosis")]
pub(super) struct Arguments {
    /// Folder of images, table of paths and labels, Parquet file, or repository.
    #[arg(value_name = "DIR|FILE|REPO")]
    from: PathBuf,
    /// Name of the new dataset.
    #[arg(long)]
    name: String,
    /// Column of a table that holds paths, or of Parquet files that holds images [default: by its name].
    #[arg(long, value_name = "NAME")]
    path_column: Option<String>,
    /// Column that holds class names [default: by its name].
    #[arg(long, value_name = "NAME")]
    label_column: Option<String>,
    /// Column of a table that holds the split [default: by its name].
    #[arg(long, value_name = "NAME")]
    split_column: Option<String>,
    /// Class names where labels are numbers: a line for each label from 0, or a JSON list or object.
    #[arg(long, value_name = "FILE")]
    names: Option<PathBuf>,
    /// Configuration of a repository that has several.
    #[arg(long, value_name = "NAME")]
    config: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let places = Places::from_env();
    let asked = ImportOptions {
        path_column: arguments.path_column.clone(),
        label_column: arguments.label_column.clone(),
        split_column: arguments.split_column.clone(),
        names: arguments.names.clone(),
        configuration: arguments.config.clone(),
    };
    if let Some(repo) = repository(&arguments.from) {
        let remote = Remote::from_env();
        let named = import::name_hub(
            repo,
            &arguments.name,
            &places.datasets,
            &asked,
            &remote.hub,
            &remote.policy,
        )?;
        return output(&of_hub(&arguments.name, &named));
    }
    let found = import::discover(&arguments.from, &arguments.name, &places.datasets, &asked)?;
    let (ignored, left_out, said) = (found.ignored().to_vec(), found.left_out().to_vec(), found.notes());
    let bar = bar(ProgressBar::new_spinner());
    bar.set_message(format!("looking at {} images", found.images()));
    bar.enable_steady_tick(Duration::from_millis(200));
    let imported = found.adopt(&places.datasets, &places.cache);
    bar.finish_and_clear();
    let imported = imported?;
    let mut notes = String::new();
    if !ignored.is_empty() {
        let _ = writeln!(notes, "ignored, as no images of a class: {}", by_kind(&ignored));
    }
    for note in said {
        let _ = writeln!(notes, "note: {note}");
    }
    warn(&mut notes, &left_out, "is left out");
    warn(&mut notes, &imported.unreadable, "cannot be read and is skipped");
    warn(&mut notes, &imported.small_classes, "is a class that is left out");
    warn(
        &mut notes,
        &too_long(&imported.dataset),
        "is refused by Qwen3-VL, and left out for all learners by a sweep with one",
    );
    notes += &twins(&imported.twins);
    tell(&notes);
    output(&told(&imported))
}

/// A line for each of the first items, and one for the number of the others.
fn warn(notes: &mut String, items: &[(String, String)], what: &str) {
    for (name, reason) in items.iter().take(NAMED) {
        let _ = writeln!(notes, "warning: `{name}` {what}: {reason}");
    }
    let more = items.len().saturating_sub(NAMED);
    if more > 0 {
        let _ = writeln!(notes, "warning: and {more} more, {} in all", items.len());
    }
}

/// Images on both sides, pair by pair.
fn twins(twins: &SharedImages) -> String {
    let mut text = String::new();
    for (pool, test) in twins.same.iter().take(PAIRS) {
        let _ = writeln!(text, "warning: `{pool}` (pool) and `{test}` (test) are the same file");
    }
    let more = twins.same.len().saturating_sub(PAIRS);
    if more > 0 {
        let _ = writeln!(text, "warning: and {more} more pairs of the same file");
    }
    if !twins.same.is_empty() {
        text += "         they stay as they are: a test image that is learned from flatters; `skip` in the manifest leaves one out\n";
    }
    match twins.alike {
        None => text.push_str(
            "note: too many images to compare each of the pool with each of the test: `kshot data verify` does\n",
        ),
        Some(0) => {}
        Some(count) => {
            let _ = writeln!(text, "note: {count} other pairs of a pool and a test image look alike:");
            for (pool, test) in twins.first_alike.iter().take(5) {
                let _ = writeln!(text, "      `{pool}` and `{test}`");
            }
        }
    }
    text
}

/// Images that a learner refuses for their size.
fn too_long(dataset: &Dataset) -> Vec<(String, String)> {
    let learners = Learner::defaults();
    let refuses = |width, height| learners.iter().any(|learner| learner.refuses(width, height));
    let sides = [&dataset.pool, &dataset.val, &dataset.test];
    let refused = sides.into_iter().flatten().filter_map(|image| {
        let (width, height) = image.size.filter(|(width, height)| refuses(*width, *height))?;
        let reason = format!("{width} × {height} pixels, of which no side may be more than 200 times the other");
        Some((image.id.clone(), reason))
    });
    refused.collect()
}

/// `owner/name`, if nothing on this machine is called so.
fn repository(from: &Path) -> Option<&str> {
    let text = from.to_str()?;
    let (owner, name) = text.split_once('/')?;
    let is_plain = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    (is_plain(owner) && is_plain(name) && !from.exists()).then_some(text)
}

fn of_hub(name: &str, named: &Named) -> String {
    let hub = &named.hub;
    let mut text = format!(
        "{name}: {} at commit {}, {} parquet files, {:.1} MB\nimages: `{}`, class names: `{}`\n",
        hub.repo,
        hub.revision,
        hub.shards.len(),
        named.bytes as f64 / 1e6,
        hub.image,
        hub.label
    );
    for note in named.notes.iter().skip(1) {
        let _ = writeln!(text, "{note}");
    }
    if !named.other_splits.is_empty() {
        let _ = writeln!(
            text,
            "not taken, other splits: {} (`train` in the manifest)",
            named.other_splits.join(", ")
        );
    }
    text += &renamed(&named.rename);
    if let Some(share) = named.holdout {
        text += &kept(share);
    }
    text += &place(&named.manifest);
    let _ = write!(text, "\nnext: kshot data fetch {name} && kshot data show {name}\n");
    text
}

/// Classes that are called otherwise than their folders or labels.
fn renamed(rename: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (from, to) in rename.iter().take(NAMED) {
        let _ = writeln!(text, "`{from}` is called \"{to}\"");
    }
    let more = rename.len().saturating_sub(NAMED);
    if more > 0 {
        let _ = writeln!(text, "and {more} more, see `[rename]` in the manifest");
    }
    text
}

/// The manifest that was written, and from where it is found.
fn place(manifest: &Path) -> String {
    let everywhere = data_folder().is_some_and(|folder| manifest.starts_with(folder));
    let found = match manifest.parent().and_then(Path::parent) {
        Some(home) if !everywhere => format!("in `{}`", home.display()),
        _ => "in any folder".to_owned(),
    };
    format!(
        "manifest: {}\nkshot finds it when it runs {found}\n",
        manifest.display()
    )
}

fn kept(share: f64) -> String {
    format!(
        "{} % of each class are kept for the test: `holdout` in the manifest\n",
        share * 100.0
    )
}

/// Number of files by their ending, with the first of each.
fn by_kind(files: &[String]) -> String {
    let mut kinds: BTreeMap<String, (usize, &str)> = BTreeMap::new();
    for file in files {
        let kind = match Path::new(file).extension() {
            _ if file.ends_with('/') => "folders".into(),
            Some(end) => format!(".{}", end.to_string_lossy().to_lowercase()),
            None => "without ending".into(),
        };
        kinds.entry(kind).or_insert((0, file)).0 += 1;
    }
    listed(
        kinds
            .iter()
            .map(|(kind, (count, first))| format!("{count} {kind} (`{first}`)")),
    )
}

fn told(imported: &Imported) -> String {
    let dataset = &imported.dataset;
    let name = &dataset.name;
    let mut text = format!(
        "{name}: {} classes, {} images to draw shots from, {} test images\n\n{:10}  {:>6}  {:>6}  {:>6}\n",
        dataset.classes.len(),
        dataset.pool.len(),
        dataset.test.len(),
        "per class",
        "least",
        "median",
        "most"
    );
    let [pool, test] = [&dataset.pool, &dataset.test].map(|side| {
        let mut counts = per_class(dataset, side);
        counts.sort_unstable();
        counts
    });
    for (side, counts) in [("pool", &pool), ("test", &test)] {
        let at = |place: usize| counts.get(place).copied().unwrap_or_default();
        let (median, most) = (at(counts.len() / 2), at(counts.len().saturating_sub(1)));
        let _ = writeln!(text, "{side:10}  {:>6}  {median:>6}  {most:>6}", at(0));
    }
    text.push('\n');
    text += &renamed(&imported.rename);
    if let Some(share) = imported.holdout {
        text += &kept(share);
    }
    text += &place(&imported.manifest);
    let least = pool.first().copied().unwrap_or_default();
    let shots = [1, 2, 4, 8, 16].into_iter().filter(|k| *k <= least);
    let _ = write!(
        text,
        "\nnext: kshot sweep --set \"datasets=['{name}']\" --set name={name} --set 'shots=[{}]'\n",
        listed(shots.map(|k| k.to_string()))
    );
    text
}
