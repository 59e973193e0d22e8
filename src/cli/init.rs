//! `kshot init`: a config to begin with.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::output;
use crate::error::{Error, Result};

/// Write a commented config for real checkpoints, to be edited.
///
/// Its rates and lengths are those of the recipes for real models, not those of the micro models of the quickstart.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kshot init own
  kshot init tinker --out figure.toml")]
pub(super) struct Arguments {
    /// What is to be measured.
    #[arg(value_enum)]
    kind: Kind,
    /// The new file [default: own.toml, four-datasets.toml or tinker-figure.toml].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Your own images (`kshot data import`).
    Own,
    /// Caltech-101, Stanford Cars, Oxford Flowers and Oxford-IIIT Pets under their clean protocol.
    FourDatasets,
    /// The published comparison by the protocol of the Tinker cookbook's `vlm_classifier`.
    Tinker,
}

impl Kind {
    /// Name and text of its config.
    fn config(self) -> (&'static str, &'static str) {
        match self {
            Self::Own => ("own.toml", include_str!("../../configs/own.toml")),
            Self::FourDatasets => ("four-datasets.toml", include_str!("../../configs/four-datasets.toml")),
            Self::Tinker => ("tinker-figure.toml", include_str!("../../configs/tinker-figure.toml")),
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let (name, text) = arguments.kind.config();
    let path = arguments.out.clone().unwrap_or_else(|| name.into());
    let shown = path.display().to_string();
    // The commands in its comments are those for this file.
    let text = text
        .replace(&format!("configs/{name}"), &shown)
        .replace(&format!("--config {name}"), &format!("--config {shown}"));
    let mut file = File::create_new(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => Error::Exists { path: path.clone() },
        _ => Error::io("write", &path)(e),
    })?;
    file.write_all(text.as_bytes()).map_err(Error::io("write", &path))?;
    output(&format!(
        "{shown}\nnext    edit it, then: kshot sweep --config {shown} --dry-run\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::config::Sweep;

    #[test]
    fn every_config_can_be_read_and_is_called_as_its_file() {
        for kind in Kind::value_variants() {
            let (name, text) = kind.config();
            let sweep = Sweep::parse(text, name, &[]).unwrap();
            assert_eq!(format!("{}.toml", sweep.name), name);
            assert!(
                text.contains(&format!("{name} --dry-run")) || text.contains(name),
                "{name}"
            );
        }
    }
}
