//! `kshot data list`: the datasets that have a manifest.

use clap::Args;

use super::{output, places};
use crate::data::manifest;
use crate::error::Result;

/// List the datasets that have a manifest.
#[derive(Debug, Args)]
#[command(after_help = "Example: kshot data list")]
pub(in crate::cli) struct Arguments {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let manifests = manifest::list(&places().datasets)?;
    if arguments.json {
        let rows: Vec<_> = manifests
            .iter()
            .map(|m| serde_json::json!({"name": m.name, "title": m.title, "licence": m.licence, "micro": m.micro}))
            .collect();
        return output(&format!("{:#}\n", serde_json::Value::Array(rows)));
    }
    let width = manifests.iter().map(|m| m.name.len()).max().unwrap_or(0);
    output(
        &manifests
            .iter()
            .map(|m| format!("{:width$}  {}\n", m.name, m.title))
            .collect::<String>(),
    )
}
