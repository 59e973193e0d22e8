//! `kshot data list`: the datasets that have a manifest.

use clap::Args;
use serde_json::{Value, json};

use super::{output, places};
use crate::data::{self, Presence};
use crate::error::Result;
use crate::fetch::HubSettings;
use crate::manifest;
use crate::manifest::{Form, Manifest};

/// List the datasets that have a manifest, and which of them are on this machine.
#[derive(Debug, Args)]
#[command(after_help = "Example: kshot data list")]
pub(in crate::cli) struct Arguments {
    /// As JSON, with the sources of each.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let (places, hub) = (places(), HubSettings::from_env());
    let mut rows = Vec::new();
    for manifest in manifest::list(&places.datasets)? {
        let presence = data::presence(&manifest.name, &places.datasets, &places.cache, &hub)?;
        rows.push((manifest, presence));
    }
    if arguments.json {
        let rows: Vec<Value> = rows
            .iter()
            .map(|(manifest, presence)| as_json(manifest, presence))
            .collect();
        return output(&format!("{:#}\n", Value::Array(rows)));
    }
    let width = rows.iter().map(|(m, _)| m.name.len()).max().unwrap_or(0);
    let line = |(manifest, presence): &(Manifest, Presence)| {
        format!(
            "{:width$}  {:11}  {}\n",
            manifest.name,
            presence.to_string(),
            manifest.title
        )
    };
    output(&rows.iter().map(line).collect::<String>())
}

fn as_json(manifest: &Manifest, presence: &Presence) -> Value {
    let file = |file: &manifest::SourceFile| {
        json!({
            "role": file.role, "name": file.name, "bytes": file.size, "sha256": file.sha256, "md5": file.md5,
            "urls": file.urls, "dead_urls": file.dead_urls,
        })
    };
    let hub = manifest
        .hub
        .as_ref()
        .map(|hub| json!({"repo": hub.repo, "revision": hub.revision}));
    json!({
        "name": manifest.name, "title": manifest.title, "licence": manifest.licence, "micro": manifest.micro,
        "citation": manifest.citation, "homepage": manifest.homepage,
        "state": presence.to_string(),
        "forms": presence.forms.iter().map(Form::to_string).collect::<Vec<_>>(),
        "prefer": manifest.prefer.to_string(),
        "files": manifest.files.iter().map(file).collect::<Vec<_>>(),
        "directory": manifest.directory, "hub": hub,
    })
}
