//! `kshot split`: print a split.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{output, places::places};
use crate::config::{Protocol, Shots};
use crate::data::{self, split};
use crate::error::Result;
use crate::experiment::cell;

/// Print a k-shot split: ids, classes and SHA-256 of the images to learn from, to set aside and to predict.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kshot split mini-pets --shots 4 --seed 0
  kshot split oxford-pets --protocol coop --shots 4 --indices indices/oxford_pets/shot_4-seed_1.json")]
pub(super) struct Arguments {
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

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let places = places();
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
