//! `kshot plot`: figure and table again, from stored results.

use std::path::PathBuf;

use clap::Args;

use super::{output, summary};
use crate::error::Result;
use crate::results::store::Store;

/// Draw `figures/accuracy.{svg,png,pdf,csv}` of a results folder again and print its tables; or draw them from
/// `accuracy.csv` alone, beside it.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples: kshot plot results/quickstart\n          kshot plot results/quickstart/figures/accuracy.csv"
)]
pub(super) struct Arguments {
    /// A results folder, as `kshot sweep` writes it, or the CSV of a figure.
    results: PathBuf,
    /// Print the table as Markdown.
    #[arg(long)]
    markdown: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let tables = if arguments.results.is_file() {
        summary::redraw(&arguments.results)?
    } else {
        let store = Store::open_existing(&arguments.results)?;
        summary::draw(&store, &store.records()?)?
    };
    output(&if arguments.markdown {
        summary::markdown(&tables)
    } else {
        summary::plain(&tables)
    })
}
