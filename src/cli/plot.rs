//! `kshot plot`: figure and table again, from stored results.

use std::path::PathBuf;

use clap::Args;

use super::{output, summary};
use crate::error::Result;
use crate::results::store::Store;

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
    let tables = summary::draw(&store, &store.records()?)?;
    output(&if arguments.markdown {
        summary::markdown(&tables)
    } else {
        summary::plain(&tables)
    })
}
