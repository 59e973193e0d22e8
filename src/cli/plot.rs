//! `kshot plot`: figure and table again, from stored results.

use std::path::PathBuf;

use clap::Args;

use super::output;
use crate::error::Result;
use crate::results::store::Store;
use crate::results::{figure, table};

/// Draw `figures/accuracy.{svg,png,csv}` of a results folder again and print its table.
#[derive(Debug, Args)]
#[command(after_help = "Example: kshot plot results/quickstart")]
pub(super) struct Arguments {
    /// A results folder, as `kshot sweep` writes it.
    results: PathBuf,
    /// Print the table as Markdown.
    #[arg(long)]
    markdown: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let store = Store::open_existing(&arguments.results)?;
    let points = figure::points(&store.records()?, &store)?;
    figure::write(&points, &store.figures())?;
    output(&if arguments.markdown { table::markdown(&points) } else { table::terminal(&points) })
}
