//! `kshot completions` and `kshot man`: what shells and `man` know of the command line.

use std::fs;
use std::path::PathBuf;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::output;
use crate::error::{Error, Result};

/// Print the completions of a shell.
#[derive(Debug, Args)]
#[command(after_help = "Example: kshot completions bash > ~/.local/share/bash-completion/completions/kshot")]
pub(super) struct ShellArguments {
    /// The shell.
    shell: Shell,
}

pub(super) fn run(arguments: &ShellArguments) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::Arguments::command(), "kshot", &mut script);
    output(&String::from_utf8_lossy(&script))
}

/// Write the manual pages, one a verb.
#[derive(Debug, Args)]
#[command(after_help = "Example: kshot man ~/.local/share/man/man1 && man kshot-sweep")]
pub(super) struct ManArguments {
    /// Folder that they go to.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(super) fn man(arguments: &ManArguments) -> Result<()> {
    let folder = &arguments.folder;
    fs::create_dir_all(folder).map_err(Error::io("make folder", folder))?;
    clap_mangen::generate_to(super::Arguments::command(), folder).map_err(Error::io("write into", folder))
}
