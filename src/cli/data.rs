//! `kshot data`: what datasets there are and what is in them; `kshot split`: what is drawn from one.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::terminal::{bar, style, tell};
use super::{listed, output, output_json, report};
use crate::config::{Protocol, Shots};
use crate::data::check::{self, Verification};
use crate::data::{self, Dataset, LabelledImage, Presence, split};
use crate::error::Result;
use crate::experiment::cell;
use crate::experiment::plan::Places;
use crate::fetch::HubSettings;
use crate::manifest::{self, Form, Manifest, SourceFile};

/// List the datasets that have a manifest, and which of them are on this machine.
#[derive(Debug, Args)]
#[command(after_help = "Example: kshot data list")]
pub(super) struct ListArguments {
    /// As JSON, with the sources of each.
    #[arg(long)]
    json: bool,
}

pub(super) fn list(arguments: &ListArguments) -> Result<()> {
    let (places, hub) = (Places::from_env(), HubSettings::from_env());
    let mut rows = Vec::new();
    for manifest in manifest::list(&places.datasets)? {
        // A wrong one hides no other.
        let manifest = match manifest {
            Ok(manifest) => manifest,
            Err(error) => {
                tell(&report(&error));
                continue;
            }
        };
        let presence = data::presence(&manifest.name, &places.datasets, &places.cache, &hub)?;
        rows.push((manifest, presence));
    }
    if arguments.json {
        let rows: Vec<Value> = rows
            .iter()
            .map(|(manifest, presence)| as_row(manifest, presence))
            .collect();
        return output_json(&rows);
    }
    let width = rows.iter().map(|(m, _)| m.name.len()).max().unwrap_or(0);
    let line = |(manifest, presence): &(Manifest, Presence)| {
        format!(
            "{:width$}  {:11}  {}\n",
            manifest.name,
            presence.to_string(),
            manifest.title
        )
    };
    output(&rows.iter().map(line).collect::<String>())
}

fn as_row(manifest: &Manifest, presence: &Presence) -> Value {
    let file = |file: &SourceFile| {
        json!({
            "role": file.role, "name": file.name, "bytes": file.size, "sha256": file.sha256, "md5": file.md5,
            "urls": file.urls, "dead_urls": file.dead_urls,
        })
    };
    let hub = manifest
        .hub
        .as_ref()
        .map(|hub| json!({"repo": hub.repo, "revision": hub.revision}));
    json!({
        "name": manifest.name, "title": manifest.title, "licence": manifest.licence, "micro": manifest.micro,
        "citation": manifest.citation, "homepage": manifest.homepage,
        "state": presence.to_string(),
        "forms": presence.forms.iter().map(Form::to_string).collect::<Vec<_>>(),
        "prefer": manifest.prefer.to_string(),
        "files": manifest.files.iter().map(file).collect::<Vec<_>>(),
        "directory": manifest.directory, "hub": hub,
    })
}

/// Check a dataset's files, unpack it if needed, and describe it class by class.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kshot data show mini-pets
  kshot data show oxford-flowers --protocol coop --json")]
pub(super) struct ShowArguments {
    /// Name of a dataset.
    name: String,
    /// Whose classes and sides: clean, tinker or coop.
    #[arg(long, default_value_t)]
    protocol: Protocol,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn show(arguments: &ShowArguments) -> Result<()> {
    let places = Places::from_env();
    let manifest = manifest::load(&places.datasets, &arguments.name)?;
    let dataset = data::open_for(&arguments.name, arguments.protocol, &places.datasets, &places.cache)?;
    let sides = [&dataset.pool, &dataset.val, &dataset.test].map(|side| per_class(&dataset, side));
    let names = dataset.classes.iter().enumerate();
    let counts: Vec<(&str, [usize; 3])> = names
        .map(|(class, name)| (name.as_str(), sides.each_ref().map(|side| side[class])))
        .collect();
    if arguments.json {
        return output_json(&as_json(&manifest, &dataset, arguments.protocol, &counts));
    }
    output(&described(&manifest, &dataset, arguments.protocol, &counts))
}

/// Number of images of each class.
pub(super) fn per_class(dataset: &Dataset, images: &[LabelledImage]) -> Vec<usize> {
    let mut counts = vec![0; dataset.classes.len()];
    for image in images {
        if let Some(count) = counts.get_mut(image.class as usize) {
            *count += 1;
        }
    }
    counts
}

fn as_json(manifest: &Manifest, dataset: &Dataset, protocol: Protocol, counts: &[(&str, [usize; 3])]) -> Value {
    let class =
        |(name, [pool, val, test]): &(&str, [usize; 3])| json!({"name": name, "pool": pool, "val": val, "test": test});
    let origin = &dataset.origin;
    json!({
        "name": dataset.name, "title": dataset.title, "protocol": protocol.to_string(),
        "form": origin.form.to_string(), "source": origin.source, "revision": origin.revision,
        "licence": manifest.licence, "citation": manifest.citation, "homepage": manifest.homepage,
        "notes": manifest.notes, "left_out": dataset.left_out,
        "pool": dataset.pool.len(), "val": dataset.val.len(), "test": dataset.test.len(),
        "classes": counts.iter().map(class).collect::<Vec<_>>(),
    })
}

fn described(manifest: &Manifest, dataset: &Dataset, protocol: Protocol, counts: &[(&str, [usize; 3])]) -> String {
    let set_aside = match dataset.val.len() {
        0 => String::new(),
        n => format!(" {n} for validation,"),
    };
    let mut text = format!(
        "{}: {}\n{} classes, {} images to draw shots from,{set_aside} {} test images\n\n",
        dataset.name,
        dataset.title,
        dataset.classes.len(),
        dataset.pool.len(),
        dataset.test.len()
    );
    let origin = &dataset.origin;
    let mut fact = |what: &str, value: &str| text += &format!("{what:9} {value}\n");
    fact("protocol", &protocol.to_string());
    fact(
        "source",
        &format!("{}: {}", origin.form, origin.source.replace(", ", "\n          ")),
    );
    if let Some(revision) = &origin.revision {
        fact("revision", revision);
    }
    fact("licence", &manifest.licence);
    fact("citation", &manifest.citation);
    if let Some(homepage) = &manifest.homepage {
        fact("homepage", homepage);
    }
    if dataset.left_out > 0 {
        fact("left out", &dataset.left_out.to_string());
    }
    for note in &manifest.notes {
        fact("note", note);
    }
    let width = counts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let with_val = !dataset.val.is_empty();
    let val = |value: &str| {
        if with_val {
            format!("  {value:>6}")
        } else {
            String::new()
        }
    };
    text += &format!("\n{:width$}  {:>6}{}  {:>6}\n", "class", "pool", val("val"), "test");
    for (name, [pool, in_val, test]) in counts {
        text += &format!("{name:width$}  {pool:>6}{}  {test:>6}\n", val(&in_val.to_string()));
    }
    text
}

/// Hash every file of datasets and decode every image again.
///
/// Prints counts, sizes and kinds of pixels, every image that cannot be read or is not the one it was, and how many
/// pairs of a pool image and a test image look alike. Exit code 1 when something is wrong.
#[derive(Debug, Args)]
#[command(after_help = "Example: kshot data verify oxford-pets oxford-flowers --json")]
pub(super) struct VerifyArguments {
    /// Names of datasets.
    #[arg(required = true)]
    names: Vec<String>,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn verify(arguments: &VerifyArguments) -> Result<bool> {
    let (places, hub) = (Places::from_env(), HubSettings::from_env());
    let mut all = Vec::new();
    for name in &arguments.names {
        let bar = bar(ProgressBar::new(0))
            .with_message(name.clone())
            .with_style(style("{msg}  {wide_bar}  {pos}/{len} images  {eta}"));
        let looked_at = |images: usize| {
            bar.set_length(images as u64);
            bar.inc(1);
        };
        let found = check::verify(name, &places.datasets, &places.cache, &hub, &looked_at);
        bar.finish_and_clear();
        let found = found?;
        if !arguments.json {
            output(&found.iter().map(checked).collect::<String>())?;
        }
        all.extend(found);
    }
    if arguments.json {
        output_json(&all)?;
    }
    Ok(all.iter().all(Verification::holds))
}

/// Number of files that ask to be turned, with what it means.
fn oriented(found: &Verification) -> String {
    let turned: usize = found.orientations.values().sum();
    if turned == 0 {
        return "  no image has an EXIF or XMP orientation: `exif = false` would change nothing\n".into();
    }
    let each = found.orientations.iter();
    let each = each.map(|(orientation, images)| format!("{images} with {orientation}"));
    format!(
        "  {turned} images have an EXIF or XMP orientation ({}): models see them upright; with `exif = false`, as in \
         torchvision, they see them as stored\n",
        listed(each)
    )
}

fn checked(found: &Verification) -> String {
    let commit = found
        .revision
        .as_ref()
        .map_or_else(String::new, |commit| format!(" at {commit}"));
    let mut text = format!(
        "{}: form {}{commit}, images of `{}`\n",
        found.dataset, found.form, found.protocol
    );
    let whole = found.files.iter().filter(|file| file.wrong.is_none()).count();
    text += &format!("  {whole} of {} files have their size and hash\n", found.files.len());
    let looked_at: usize = found.modes.values().sum();
    if looked_at > 0 {
        text += &format!(
            "  {} classes, images: {} pool, {} validation, {} test, {} left out\n",
            found.classes, found.pool, found.val, found.test, found.left_out
        );
        for (what, sides) in [("widths", found.widths), ("heights", found.heights)] {
            if let Some([least, median, most]) = sides {
                text += &format!("  {what} from {least} to {most} pixels, median {median}\n");
            }
        }
        let modes = found.modes.iter().map(|(mode, images)| format!("{images} {mode}"));
        text += &format!("  pixels: {}\n", listed(modes));
        text += &oriented(found);
        text += &format!(
            "  {} pairs of a pool and a test image look alike\n",
            found.near_duplicates
        );
    }
    for file in &found.files {
        if let Some(wrong) = &file.wrong {
            text += &format!("WRONG: {wrong}\n");
        }
    }
    for (id, reason) in &found.unreadable {
        text += &format!("WRONG: image `{id}` cannot be read: {reason}\n");
    }
    for id in &found.changed {
        text += &format!("WRONG: image `{id}` is not the one that was unpacked\n");
    }
    for problem in &found.problems {
        text += &format!("WRONG: {problem}\n");
    }
    text + if found.holds() { "  everything holds\n" } else { "" }
}

/// Print a k-shot split: ids, classes and SHA-256 of the images to learn from, to set aside and to predict.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kshot split mini-pets --shots 4 --seed 0
  kshot split oxford-pets --protocol coop --shots 4 --indices indices/oxford_pets/shot_4-seed_1.json")]
pub(super) struct SplitArguments {
    /// Name of a dataset (`kshot data list`).
    dataset: String,
    /// How shots are chosen: clean, tinker or coop.
    #[arg(long, default_value_t)]
    protocol: Protocol,
    /// Labelled examples per class, or "all".
    #[arg(long)]
    shots: Shots,
    /// Seed of the draw.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Few-shot index file of cross_modal_adaptation that holds the draw (protocol coop).
    #[arg(long, value_name = "FILE")]
    indices: Option<PathBuf>,
    /// What is printed.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Format {
    /// The split with its hashes.
    #[default]
    Json,
    /// A few-shot index file, as cross_modal_adaptation has them (protocol coop).
    Indices,
    /// The whole split file of CoOp, whatever the shots (protocol coop).
    SplitZhou,
    /// The protocol card that is stored with each result: source, counts, classes, near-duplicates.
    Card,
}

pub(super) fn split(arguments: &SplitArguments) -> Result<()> {
    let places = Places::from_env();
    let protocol = arguments.protocol;
    let dataset = data::open_for(&arguments.dataset, protocol, &places.datasets, &places.cache)?;
    let split = split::draw(
        &dataset,
        protocol,
        arguments.shots,
        arguments.seed,
        arguments.indices.as_deref(),
    )?;
    output(&match arguments.format {
        Format::Json => split.to_json()?,
        Format::Indices => split::index_file(&dataset, &split)?,
        Format::SplitZhou => split::split_file(&dataset)?,
        Format::Card => cell::card(&dataset, &split)?.to_json()?,
    })
}
