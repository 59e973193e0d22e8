//! `kshot data`: what datasets there are and what is in them; one file a verb.

mod import;
mod list;
mod show;

use clap::Subcommand;

use super::{output, places::places};
use crate::error::Result;

/// List and describe datasets.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    Import(import::Arguments),
    List(list::Arguments),
    Show(show::Arguments),
}

pub(super) fn run(verb: &Verb) -> Result<()> {
    match verb {
        Verb::Import(arguments) => import::run(arguments),
        Verb::List(arguments) => list::run(arguments),
        Verb::Show(arguments) => show::run(arguments),
    }
}
