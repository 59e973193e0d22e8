//! What sanity controls of a cell found: `controls/<run_id>.json`.
//!
//! A red control means that the harness or the model does something that makes the cell's accuracy meaningless
//! (labels leak, an adapter is not applied, …): its numbers are not to be used.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::results::file;
use crate::results::record::Record;
use crate::results::store::Store;

/// Version of the file.
pub const SCHEMA: u32 = 1;

/// The controls of one cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Controls {
    /// [`SCHEMA`] at the time of writing.
    pub schema: u32,
    /// The cell.
    pub run_id: String,
    /// [`Record::predictions_sha256`] of the cell that was controlled: controls of other predictions do not count.
    pub predictions_sha256: String,
    /// Each control.
    pub controls: Vec<Control>,
    /// When they ended, RFC 3339 in UTC.
    pub finished: String,
}

/// One control.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// Its name, e.g. "shuffled images".
    pub name: String,
    /// Whether all is as it should be.
    pub green: bool,
    /// What was found, in a sentence with its numbers.
    pub finding: String,
    /// The numbers behind the finding.
    pub numbers: Value,
}

impl Controls {
    /// Whether any control is red.
    #[must_use]
    pub fn is_red(&self) -> bool {
        self.controls.iter().any(|control| !control.green)
    }
}

impl Store {
    /// The controls of a finished cell; `None` when it has none, or only of other predictions.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the file is torn or of an unknown schema, [`Error::Io`] when it cannot be read.
    pub fn controls(&self, record: &Record) -> Result<Option<Controls>> {
        let path = self.controls_path(&record.run_id);
        let Some(bytes) = file::read_if_present(&path)? else {
            return Ok(None);
        };
        let controls = parse(&path, &bytes)?;
        Ok(
            (controls.run_id == record.run_id && controls.predictions_sha256 == record.predictions_sha256)
                .then_some(controls),
        )
    }

    /// Stores the controls of a cell.
    ///
    /// # Errors
    /// [`Error::Io`] when they cannot be written.
    pub fn write_controls(&self, controls: &Controls) -> Result<()> {
        let path = self.controls_path(&controls.run_id);
        if let Some(folder) = path.parent() {
            file::make_writable_folder(folder)?;
        }
        let mut json = serde_json::to_vec_pretty(controls).map_err(|e| Error::io("write", &path)(e.into()))?;
        json.push(b'\n');
        file::replace(&path, &json)
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Controls> {
    let malformed = |reason: String| Error::Malformed {
        kind: "file of sanity controls",
        path: path.into(),
        reason,
    };
    let controls: Controls = serde_json::from_slice(bytes).map_err(|e| malformed(e.to_string()))?;
    if controls.schema != SCHEMA {
        return Err(malformed(format!(
            "schema {} is not known, this version reads {SCHEMA}",
            controls.schema
        )));
    }
    Ok(controls)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::series::tests::cell;

    #[test]
    fn controls_belong_to_the_predictions_they_were_made_for() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (mut record, _) = cell(("a", "x", 1, 0), 8, |_| true);
        assert_eq!(store.controls(&record).unwrap(), None);
        let controls = Controls {
            schema: SCHEMA,
            run_id: record.run_id.clone(),
            predictions_sha256: record.predictions_sha256.clone(),
            controls: vec![Control {
                name: "reload parity".into(),
                green: false,
                finding: "3 of 8 answers differ".into(),
                numbers: serde_json::json!({"differ": 3}),
            }],
            finished: String::new(),
        };
        store.write_controls(&controls).unwrap();
        let read = store.controls(&record).unwrap().unwrap();
        assert!(read == controls && read.is_red());
        record.predictions_sha256 = "00".into();
        assert_eq!(store.controls(&record).unwrap(), None);
        std::fs::write(store.controls_path(&controls.run_id), "{").unwrap();
        assert!(
            store
                .controls(&record)
                .unwrap_err()
                .to_string()
                .contains("sanity controls")
        );
    }
}
