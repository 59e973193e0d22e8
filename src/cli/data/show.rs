//! `kshot data show`: what is in a dataset.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::json;

use super::{output, places};
use crate::config::Protocol;
use crate::data::{self, Dataset, LabelledImage};
use crate::error::Result;
use crate::manifest;
use crate::manifest::Manifest;

/// Check a dataset's files, unpack it if needed, and describe it class by class.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kshot data show mini-pets
  kshot data show oxford-flowers --protocol coop --json")]
pub(in crate::cli) struct Arguments {
    /// Name of a dataset.
    name: String,
    /// Whose classes and sides: clean, tinker or coop.
    #[arg(long, default_value_t)]
    protocol: Protocol,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let places = places();
    let manifest = manifest::load(&places.datasets, &arguments.name)?;
    let dataset = data::open_for(&arguments.name, arguments.protocol, &places.datasets, &places.cache)?;
    let mut counts: BTreeMap<u32, [usize; 3]> = BTreeMap::new();
    for (side, images) in sides(&dataset).into_iter().enumerate() {
        for image in images {
            if let Some(count) = counts.entry(image.class).or_default().get_mut(side) {
                *count += 1;
            }
        }
    }
    let counts: Vec<(&str, [usize; 3])> = (0..)
        .zip(&dataset.classes)
        .map(|(class, name)| (name.as_str(), counts.get(&class).copied().unwrap_or_default()))
        .collect();
    if arguments.json {
        return output(&format!(
            "{:#}\n",
            as_json(&manifest, &dataset, arguments.protocol, &counts)
        ));
    }
    output(&plain(&manifest, &dataset, arguments.protocol, &counts))
}

fn sides(dataset: &Dataset) -> [&[LabelledImage]; 3] {
    [&dataset.pool, &dataset.val, &dataset.test]
}

fn as_json(
    manifest: &Manifest,
    dataset: &Dataset,
    protocol: Protocol,
    counts: &[(&str, [usize; 3])],
) -> serde_json::Value {
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

fn plain(manifest: &Manifest, dataset: &Dataset, protocol: Protocol, counts: &[(&str, [usize; 3])]) -> String {
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
