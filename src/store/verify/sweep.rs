//! The cells of a ledger follow from the `sweep.toml` beside it.

use std::path::Path;

use crate::error::{Error, Result};
use crate::fs::file;
use crate::store::Store;
use crate::store::record::Record;
use crate::store::verify::Findings;

/// A sweep's config as far as a proof needs it. The store knows no learners: the experiment reads it.
pub trait Config {
    /// The reason why a record is of no cell of this config; `None` if it is of one.
    fn contradicts(&self, record: &Record) -> Option<String>;

    /// Folder of few-shot index files.
    fn indices(&self) -> Option<&Path>;
}

/// Reads the text of a `sweep.toml`.
pub type ReadConfig<'a> = &'a dyn Fn(&str) -> Result<Box<dyn Config>>;

/// Every cell of the ledger is one of the config: dataset, protocol, shots, seed, learner with its settings.
pub(super) fn check(store: &Store, records: &[Record], read: ReadConfig<'_>, findings: &mut Findings) -> Result<()> {
    let path = store.folder().join("sweep.toml");
    let Some(bytes) = file::read_if_present(&path)? else {
        findings.problem(store, &path, "it is missing".into());
        return Ok(());
    };
    let text = String::from_utf8_lossy(&bytes);
    let sweep = match read(&text) {
        Ok(sweep) => sweep,
        Err(Error::Config { reason, .. }) => {
            findings.problem(store, &path, reason);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    for record in records {
        if let Some(reason) = sweep.contradicts(record) {
            let reason = format!("{} of `ledger.csv` is no cell of this config: {reason}", record.run_id);
            findings.problem(store, &path, reason);
        }
    }
    // A larger grid than the ledger's is a sweep that has not come to its end; one that asks for nothing of it is found above.
    Ok(())
}
