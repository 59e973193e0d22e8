//! `kshot model`: models of the hub; one file a verb.

mod fetch;

use clap::Subcommand;

use crate::error::Result;

/// Fetch models of the hub.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    Fetch(fetch::Arguments),
}

pub(super) fn run(verb: &Verb) -> Result<()> {
    match verb {
        Verb::Fetch(arguments) => fetch::run(arguments),
    }
}
