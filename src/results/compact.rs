//! The compact form of a results folder: the same records and predictions in a tenth of the space, to be
//! committed as a reference.
//!
//! ```text
//! predictions.parquet                 the rows of all cells, written first
//! predictions.parquet.sha256          its hash, as `sha256sum` writes it
//! cells/<run_id>.json                 as in the folder of the sweep, each on one line
//! controls/<run_id>.json              likewise, of cells that were controlled
//! sweep.toml ledger.csv timings.csv   likewise
//! figures/                            drawn again
//! ```
//!
//! Splits follow from config and seed (their SHA-256 is in each record), adapters from training again:
//! neither is part of it.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::results::predictions::compact::{self, Cells};
use crate::results::record::Record;
use crate::results::store::Store;
use crate::results::{file, ledger};

/// Writes everything but the figures of all finished cells that the ledger of `store` lists into `folder`,
/// in place of an older compact form, and gives their records in order of their keys.
///
/// # Errors
/// [`Error::NoResults`] when there are none; [`Error::NotCompact`] when `folder` holds a sweep's own
/// results; [`Error::Io`] and [`Error::Malformed`] when something cannot be read or written.
pub fn promote(store: &Store, folder: &Path) -> Result<Vec<Record>> {
    // The folder of a sweep has one; a compact form must not take its place.
    if folder.join("predictions").exists() {
        return Err(Error::NotCompact { path: folder.into() });
    }
    let listed = ledger::listed(&store.folder().join("ledger.csv"))?;
    let mut records = Vec::new();
    let mut cells = Cells::new();
    for run_id in listed {
        let Some(record) = store.finished(&run_id)? else {
            tracing::warn!("cell {run_id} is in the ledger, but not finished: it is left out");
            continue;
        };
        cells.insert(run_id.clone(), (record.classes.clone(), store.predictions(&run_id)?));
        records.push(record);
    }
    if records.is_empty() {
        return Err(Error::NoResults {
            path: store.folder().into(),
        });
    }
    records.sort_by(|a, b| (&a.key, &a.run_id).cmp(&(&b.key, &b.run_id)));
    let config = store.folder().join("sweep.toml");
    let config = fs::read(&config).map_err(Error::io("read", &config))?;

    for inside in ["cells", "figures"] {
        file::make_writable_folder(&folder.join(inside))?;
    }
    compact::write(folder, cells)?;
    let promoted = Store::open_existing(folder)?;
    for record in &records {
        promoted.write_dense_record(record)?;
        if let Some(controls) = store.controls(record)? {
            promoted.write_controls(&controls)?;
        }
    }
    remove_others(&folder.join("cells"), &records)?;
    remove_others(&folder.join("controls"), &records)?;
    promoted.write_ledger(&records)?;
    file::replace_if_changed(&folder.join("sweep.toml"), &config)?;
    Ok(records)
}

/// Removes the `.json` files of `cells`, if there is such a folder, that are not those of `records`.
fn remove_others(cells: &Path, records: &[Record]) -> Result<()> {
    if !cells.is_dir() {
        return Ok(());
    }
    let kept: HashSet<String> = records.iter().map(|r| format!("{}.json", r.run_id)).collect();
    for entry in fs::read_dir(cells).map_err(Error::io("read", cells))? {
        let name = entry.map_err(Error::io("read", cells))?.file_name();
        if name.to_str().is_some_and(|n| n.ends_with(".json") && !kept.contains(n)) {
            file::remove_if_present(&cells.join(name))?;
        }
    }
    Ok(())
}
