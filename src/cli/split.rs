//! `kshot split`: print a split.

use clap::Args;

use super::{output, places::places};
use crate::config::Shots;
use crate::data::{self, split};
use crate::error::Result;

/// Print a k-shot split as JSON: ids, classes and SHA-256 of the images to learn from and to predict.
#[derive(Debug, Args)]
#[command(after_help = "Example: kshot split mini-pets --shots 4 --seed 0")]
pub(super) struct Arguments {
    /// Name of a dataset (`kshot data list`).
    dataset: String,
    /// Labelled examples per class, or "all".
    #[arg(long)]
    shots: Shots,
    /// Seed of the draw.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let places = places();
    let dataset = data::open(&arguments.dataset, &places.datasets, &places.cache)?;
    let split = split::clean(&dataset, arguments.shots, arguments.seed)?;
    output(&split.to_json()?)
}
