//! `kshot data`: what datasets there are and what is in them.

use std::collections::BTreeMap;

use clap::Subcommand;

use super::{output, places::places};
use crate::data::{self, manifest};
use crate::error::Result;

/// List and describe datasets.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List the datasets that have a manifest.
    #[command(after_help = "Example: kshot data list")]
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Check a dataset's files, unpack it if needed, and describe it class by class.
    #[command(after_help = "Example: kshot data show mini-pets")]
    Show {
        /// Name of a dataset.
        name: String,
    },
}

pub(super) fn run(verb: &Verb) -> Result<()> {
    let places = places();
    match verb {
        Verb::List { json } => {
            let manifests = manifest::list(&places.datasets)?;
            if *json {
                let rows: Vec<_> = manifests
                    .iter()
                    .map(|m| serde_json::json!({"name": m.name, "title": m.title, "licence": m.licence, "micro": m.micro}))
                    .collect();
                return output(&format!("{:#}\n", serde_json::Value::Array(rows)));
            }
            let width = manifests.iter().map(|m| m.name.len()).max().unwrap_or(0);
            output(
                &manifests
                    .iter()
                    .map(|m| format!("{:width$}  {}\n", m.name, m.title))
                    .collect::<String>(),
            )
        }
        Verb::Show { name } => {
            let dataset = data::open(name, &places.datasets, &places.cache)?;
            let mut counts: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
            for image in &dataset.pool {
                counts.entry(image.class).or_default().0 += 1;
            }
            for image in &dataset.test {
                counts.entry(image.class).or_default().1 += 1;
            }
            let mut text = format!(
                "{}: {}\n{} classes, {} images to draw shots from, {} test images\n\n",
                dataset.name,
                dataset.title,
                dataset.classes.len(),
                dataset.pool.len(),
                dataset.test.len()
            );
            let width = dataset.classes.iter().map(|c| c.chars().count()).max().unwrap_or(0);
            text += &format!("{:width$}  {:>6}  {:>6}\n", "class", "pool", "test");
            for (class, name) in dataset.classes.iter().enumerate() {
                let (pool, test) = counts.get(&(class as u32)).copied().unwrap_or_default();
                text += &format!("{name:width$}  {pool:>6}  {test:>6}\n");
            }
            output(&text)
        }
    }
}
