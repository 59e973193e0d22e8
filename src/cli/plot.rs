//! `kshot plot`: figure and tables again, from stored results.

use std::path::PathBuf;

use clap::Args;

use super::{output, summary};
use crate::error::Result;
use crate::store::Store;

/// Draw `figures/` of a results folder again, write its `tables/`, and print the tables; or draw a figure from its
/// CSV alone, beside it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kshot plot results/quickstart
  kshot plot results/quickstart/figures/accuracy.csv
  kshot plot results/quickstart --format latex > tables.tex")]
pub(super) struct Arguments {
    /// A results folder, as `kshot sweep` writes it, or the CSV of a figure.
    results: PathBuf,
    /// Form of the printed tables.
    #[arg(long, value_enum, default_value_t = summary::Format::Plain)]
    format: summary::Format,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let tables = if arguments.results.is_file() {
        summary::redraw(&arguments.results)?
    } else {
        let store = Store::open_existing(&arguments.results)?;
        summary::draw(&store, &store.records()?)?
    };
    output(&summary::text(&tables, arguments.format)?)
}
