//! `kshot data`: what datasets there are and what is in them; one file a verb.

mod fetch;
mod import;
mod list;
mod show;
mod verify;

use clap::Subcommand;

use super::{Verdict, output, places::places};
use crate::error::Result;

/// Fetch, import, list, describe and verify datasets.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    Fetch(fetch::Arguments),
    Import(import::Arguments),
    List(list::Arguments),
    Show(show::Arguments),
    Verify(verify::Arguments),
}

pub(super) fn run(verb: &Verb) -> Result<Verdict> {
    let done = |()| Verdict::Yes;
    match verb {
        Verb::Fetch(arguments) => fetch::run(arguments).map(done),
        Verb::Import(arguments) => import::run(arguments).map(done),
        Verb::List(arguments) => list::run(arguments).map(done),
        Verb::Show(arguments) => show::run(arguments).map(done),
        Verb::Verify(arguments) => verify::run(arguments),
    }
}
