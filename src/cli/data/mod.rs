//! `kshot data`: what datasets there are and what is in them; one file a verb.

mod fetch;
mod import;
mod list;
mod show;

use clap::Subcommand;

use super::{output, places::places};
use crate::error::Result;

/// Fetch, list and describe datasets.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    Fetch(fetch::Arguments),
    Import(import::Arguments),
    List(list::Arguments),
    Show(show::Arguments),
}

pub(super) fn run(verb: &Verb) -> Result<()> {
    match verb {
        Verb::Fetch(arguments) => fetch::run(arguments),
        Verb::Import(arguments) => import::run(arguments),
        Verb::List(arguments) => list::run(arguments),
        Verb::Show(arguments) => show::run(arguments),
    }
}
