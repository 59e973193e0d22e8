//! `kshot data verify`: are datasets on this machine what they should be?

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{output, places};
use crate::cli::Verdict;
use crate::data::check::{self, Verification};
use crate::error::{Error, Result};
use crate::fetch::HubSettings;

/// Hash every file of datasets and decode every image again.
///
/// Prints counts, sizes and kinds of pixels, every image that cannot be read or is not the one it was, and how many
/// pairs of a pool image and a test image look alike. Exit code 1 when something is wrong.
#[derive(Debug, Args)]
#[command(after_help = "Example: kshot data verify oxford-pets oxford-flowers --json")]
pub(in crate::cli) struct Arguments {
    /// Names of datasets.
    #[arg(required = true)]
    names: Vec<String>,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) fn run(arguments: &Arguments) -> Result<Verdict> {
    let (places, hub) = (places(), HubSettings::from_env());
    let mut all = Vec::new();
    for name in &arguments.names {
        // Hidden where stderr is no terminal.
        let bar = ProgressBar::new(0).with_message(name.clone());
        if let Ok(style) = ProgressStyle::with_template("{msg}  {wide_bar}  {pos}/{len} images  {eta}") {
            bar.set_style(style);
        }
        let looked_at = |images: usize| {
            bar.set_length(images as u64);
            bar.inc(1);
        };
        let found = check::verify(name, &places.datasets, &places.cache, &hub, &looked_at);
        bar.finish_and_clear();
        let found = found?;
        if !arguments.json {
            output(&found.iter().map(plain).collect::<String>())?;
        }
        all.extend(found);
    }
    if arguments.json {
        let json = serde_json::to_string_pretty(&all).map_err(|e| Error::io("write", "stdout")(e.into()))?;
        output(&(json + "\n"))?;
    }
    Ok(all.iter().all(Verification::holds).into())
}

/// Number of files that ask to be turned, with what it means.
fn oriented(found: &Verification) -> String {
    let turned: usize = found.orientations.values().sum();
    if turned == 0 {
        return "  no image has an EXIF or XMP orientation: `exif = false` would change nothing\n".into();
    }
    let each: Vec<_> = found
        .orientations
        .iter()
        .map(|(orientation, images)| format!("{images} with {orientation}"))
        .collect();
    format!(
        "  {turned} images have an EXIF or XMP orientation ({}): models see them upright; with `exif = false`, as in \
         torchvision, they see them as stored\n",
        each.join(", ")
    )
}

fn plain(found: &Verification) -> String {
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
        let modes: Vec<_> = found
            .modes
            .iter()
            .map(|(mode, images)| format!("{images} {mode}"))
            .collect();
        text += &format!("  pixels: {}\n", modes.join(", "));
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
