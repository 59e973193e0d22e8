//! `kshot data show`: what is in a dataset.

use std::collections::BTreeMap;

use clap::Args;

use super::{output, places};
use crate::data;
use crate::error::Result;

/// Check a dataset's files, unpack it if needed, and describe it class by class.
#[derive(Debug, Args)]
#[command(after_help = "Example: kshot data show mini-pets")]
pub(in crate::cli) struct Arguments {
    /// Name of a dataset.
    name: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let places = places();
    let dataset = data::open(&arguments.name, &places.datasets, &places.cache)?;
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
