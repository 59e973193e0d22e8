//! The compact form of a results folder: the same records and predictions in a tenth of the space, to be
//! committed as a reference.
//!
//! ```text
//! predictions.parquet                 the rows of all cells
//! predictions.parquet.sha256          its hash, as `sha256sum` writes it
//! cells/<run_id>.json                 as in the folder of the sweep, each on one line
//! controls/<run_id>.json              likewise, of cells that were controlled
//! sweep.toml ledger.csv timings.csv   likewise
//! figures/ tables/                    made again
//! noise.json                          beside a baseline: how far unchanged runs lie apart
//! ```
//!
//! Splits follow from config and seed (their SHA-256 is in each record), adapters from training again:
//! neither is part of it. An older compact form is [replaced](crate::store::replacement) as a whole; what somebody else
//! put beside it (a `README.md`, a `.gitignore`) stays.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::fs::file;
use crate::store::predictions::compact;
use crate::store::record::Record;
use crate::store::replacement;
use crate::store::replacement::FolderLayout;
use crate::store::{Store, to_json};

/// The files of a compact form.
const LAYOUT: FolderLayout = FolderLayout {
    is_made,
    inherited: &["noise.json"],
};

/// Writes all finished cells that the ledger of `store` lists into `folder`, in place of an older compact form, and gives
/// their records in order of their keys. `finish` adds figures and tables to the new form before it takes the old one's
/// place: until then the old one is there, from then on the new one.
///
/// # Errors
/// [`Error::NoResults`] when there are none; [`Error::NotCompact`] when `folder` holds a sweep's own
/// results; [`Error::Io`] and [`Error::Malformed`] when something cannot be read or written; those of `finish`.
pub fn promote<T>(
    store: &Store,
    folder: &Path,
    finish: impl Fn(&Store, &[Record]) -> Result<T>,
) -> Result<(Vec<Record>, T)> {
    // The folder of a sweep has one; a compact form must not take its place.
    if folder.join("predictions").exists() {
        return Err(Error::NotCompact { path: folder.into() });
    }
    let no_results = || Error::NoResults {
        path: store.folder().into(),
    };
    let listed = store
        .listed()?
        .filter(|listed| !listed.is_empty())
        .ok_or_else(no_results)?;
    replacement::replace(folder, LAYOUT, |new| {
        let records = write(store, &listed, new)?;
        let finished = finish(&Store::open_existing(new)?, &records)?;
        Ok((records, finished))
    })
}

/// Writes everything but figures and tables into a new folder.
fn write(store: &Store, listed: &[String], folder: &Path) -> Result<Vec<Record>> {
    let config = store.folder().join("sweep.toml");
    let config = fs::read(&config).map_err(Error::io("read", &config))?;
    for inside in ["cells", "figures"] {
        file::make_writable_folder(&folder.join(inside))?;
    }
    let new = Store::open_existing(folder)?;
    let mut in_order: Vec<&String> = listed.iter().collect();
    in_order.sort();
    in_order.dedup();
    let mut records = Vec::new();
    let mut reader = store.reader();
    let cells = in_order.into_iter().filter_map(|run_id| match reader.finished(run_id) {
        Ok(Some((record, rows))) => {
            let classes = record.classes.clone();
            let written = write_record(store, &new, &record);
            records.push(record);
            Some(written.map(|()| (run_id.clone(), classes, rows)))
        }
        Ok(None) => {
            tracing::warn!("cell {run_id} is in the ledger, but not finished: it is left out");
            None
        }
        Err(error) => Some(Err(error)),
    });
    compact::write(folder, cells)?;
    if records.is_empty() {
        return Err(Error::NoResults {
            path: store.folder().into(),
        });
    }
    records.sort_by(|a, b| (&a.key, &a.run_id).cmp(&(&b.key, &b.run_id)));
    new.write_ledger(&records)?;
    let path = folder.join("sweep.toml");
    fs::write(&path, config).map_err(Error::io("write", &path))?;
    Ok(records)
}

/// Record and controls of a cell. Nobody sees them before the whole folder is flushed and in place.
fn write_record(store: &Store, new: &Store, record: &Record) -> Result<()> {
    let path = new.cell_path(&record.run_id);
    // On one line: a third of its size would be white space.
    let mut json = serde_json::to_vec(record).map_err(|e| Error::io("write", &path)(e.into()))?;
    json.push(b'\n');
    fs::write(&path, json).map_err(Error::io("write", &path))?;
    if let Some(controls) = store.controls(record)? {
        let path = new.controls_path(&record.run_id);
        if let Some(around) = path.parent() {
            fs::create_dir_all(around).map_err(Error::io("make folder", around))?;
        }
        fs::write(&path, to_json(&controls, &path)?).map_err(Error::io("write", &path))?;
    }
    Ok(())
}

/// True if a file of a compact form is made anew with each: all but what others put there.
fn is_made(inside: &Path) -> bool {
    const TOP: [&str; 5] = [
        "predictions.parquet",
        "predictions.parquet.sha256",
        "sweep.toml",
        "ledger.csv",
        "timings.csv",
    ];
    const ENDINGS: [(&str, &[&str]); 4] = [
        ("cells", &["json"]),
        ("controls", &["json"]),
        ("figures", &["csv", "svg", "png", "pdf"]),
        ("tables", &["csv", "md", "tex", "json"]),
    ];
    let mut parts = inside.iter().map(|part| part.to_str().unwrap_or_default());
    match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, None) => TOP.contains(&name),
        (Some(folder), Some(name), None) => {
            let of = ENDINGS.iter().find(|(inside, _)| *inside == folder);
            let ending = name.rsplit_once('.').map(|(_, ending)| ending);
            let foreign = name.starts_with('.') || name.to_lowercase().starts_with("readme");
            !foreign && of.is_some_and(|(_, endings)| ending.is_some_and(|ending| endings.contains(&ending)))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_put_beside_results_is_not_made_here() {
        for made in [
            "predictions.parquet",
            "cells/0a.json",
            "controls/0a.json",
            "figures/accuracy.png",
            "tables/tables.md",
        ] {
            assert!(is_made(Path::new(made)), "{made}");
        }
        for foreign in [
            "README.md",
            ".gitignore",
            "noise.json",
            "cells/.gitkeep",
            "figures/.gitignore",
            "tables/README.md",
            "figures/notes.txt",
            "notes/a.json",
            "cells/old/0a.json",
        ] {
            assert!(!is_made(Path::new(foreign)), "{foreign}");
        }
    }
}
