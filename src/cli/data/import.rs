//! `kshot data import`: a user's own images become a dataset.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;

use super::{output, places};
use crate::config::Learner;
use crate::data::Dataset;
use crate::data::fetch::Remote;
use crate::data::import::{self, Imported, Named};
use crate::error::Result;
use crate::experiment::plan::refuses;

/// Make a dataset of your own images: check every image, clean up the class names, and write a manifest.
///
/// Takes a folder with one folder of images per class; a folder with `train`, `test` and perhaps `val` of such
/// folders; a CSV or Parquet file with the columns `path`, `label` and perhaps `split`, paths relative to the file;
/// or a repository of the Hugging Face hub, `owner/name`, whose images `kshot data fetch` then gets. Where there is
/// no split, a share of each class is kept for the test (`holdout` in the manifest).
#[derive(Debug, Args)]
#[command(after_help = "Example: kshot data import ~/photos/birds --name birds")]
pub(in crate::cli) struct Arguments {
    /// Folder of images, table of paths and labels, or repository.
    #[arg(value_name = "DIR|FILE|REPO")]
    from: PathBuf,
    /// Name of the new dataset.
    #[arg(long)]
    name: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let places = places();
    if let Some(repo) = repository(&arguments.from) {
        let remote = Remote::from_env();
        let named = import::name_hub(repo, &arguments.name, &places.datasets, &remote.hub, &remote.policy)?;
        return output(&of_hub(&arguments.name, &named));
    }
    let found = import::look(&arguments.from, &arguments.name, &places.datasets)?;
    let ignored = found.ignored().to_vec();
    let bar = if io::stderr().is_terminal() {
        ProgressBar::new_spinner()
    } else {
        ProgressBar::hidden()
    };
    bar.set_message(format!("looking at {} images", found.images()));
    bar.enable_steady_tick(Duration::from_millis(200));
    let imported = found.adopt(&places.datasets, &places.cache);
    bar.finish_and_clear();
    let imported = imported?;
    let mut notes = String::new();
    if !ignored.is_empty() {
        let _ = writeln!(notes, "ignored, as no images of a class: {}", by_kind(&ignored));
    }
    for (id, reason) in &imported.unreadable {
        let _ = writeln!(notes, "warning: `{id}` cannot be read and is skipped: {reason}");
    }
    notes += &too_long(&imported.dataset);
    // If stderr is gone there is nobody left to tell.
    let _ = io::stderr().write_all(notes.as_bytes());
    output(&told(&imported))
}

/// Images that a kind of model refuses for their size.
fn too_long(dataset: &Dataset) -> String {
    let Ok(writer) = Learner::parse("qwen3-vl-lora", Path::new("model"), &[]) else {
        return String::new();
    };
    let sides = [&dataset.pool, &dataset.val, &dataset.test];
    let refused = sides.into_iter().flatten().filter_map(|image| {
        let (width, height) = image.size.filter(|(width, height)| refuses(&writer, *width, *height))?;
        Some(format!(
            "warning: `{}` is {width} x {height} pixels: Qwen3-VL refuses a side of more than 200 times the other, DINOv2, CLIP \
             and SigLIP do not; a sweep with a Qwen3-VL leaves it out for all learners\n",
            image.id
        ))
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
    for (what, others, field) in [
        ("columns of class names", &named.other_labels, "label"),
        ("splits", &named.other_splits, "train"),
    ] {
        if !others.is_empty() {
            let _ = writeln!(
                text,
                "not taken, other {what}: {} (`{field}` in the manifest)",
                others.join(", ")
            );
        }
    }
    if let Some(share) = named.holdout {
        text += &kept(share);
    }
    let manifest = named.manifest.display();
    let _ = write!(
        text,
        "manifest: {manifest}\n\nnext: kshot data fetch {name} && kshot data show {name}\n"
    );
    text
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
        let ending = Path::new(file)
            .extension()
            .map(|end| format!(".{}", end.to_string_lossy().to_lowercase()));
        let kind = if file.ends_with('/') {
            "folders".into()
        } else {
            ending.unwrap_or_else(|| "without ending".into())
        };
        kinds.entry(kind).or_insert((0, file)).0 += 1;
    }
    let kinds = kinds
        .iter()
        .map(|(kind, (count, first))| format!("{count} {kind} (`{first}`)"));
    kinds.collect::<Vec<_>>().join(", ")
}

fn told(imported: &Imported) -> String {
    let Imported {
        dataset,
        manifest,
        rename,
        holdout,
        ..
    } = imported;
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
    let (pool, test) = counts(dataset);
    for (side, counts) in [("pool", &pool), ("test", &test)] {
        let at = |place: usize| counts.get(place).copied().unwrap_or_default();
        let (median, most) = (at(counts.len() / 2), at(counts.len().saturating_sub(1)));
        let _ = writeln!(text, "{side:10}  {:>6}  {median:>6}  {most:>6}", at(0));
    }
    text.push('\n');
    for (from, to) in rename.iter().take(3) {
        let _ = writeln!(text, "`{from}` is called \"{to}\"");
    }
    if rename.len() > 3 {
        let _ = writeln!(text, "and {} more, see `[rename]` in the manifest", rename.len() - 3);
    }
    if let Some(share) = holdout {
        text += &kept(*share);
    }
    let least = pool.first().copied().unwrap_or_default();
    let shots: Vec<String> = [1, 2, 4, 8, 16]
        .into_iter()
        .filter(|k| *k <= least)
        .map(|k| k.to_string())
        .collect();
    let _ = write!(
        text,
        "manifest: {}\n\nnext: kshot sweep --set \"datasets=['{name}']\" --set name={name} --set 'shots=[{}]'\n",
        manifest.display(),
        shots.join(", ")
    );
    text
}

/// Images per class, sorted: of the pool, of the test side.
fn counts(dataset: &Dataset) -> (Vec<usize>, Vec<usize>) {
    let count = |images: &[crate::data::LabelledImage]| {
        let mut counts = vec![0; dataset.classes.len()];
        for image in images {
            if let Some(count) = counts.get_mut(image.class as usize) {
                *count += 1;
            }
        }
        counts.sort_unstable();
        counts
    };
    (count(&dataset.pool), count(&dataset.test))
}
