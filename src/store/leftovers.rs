//! What the running of a cell leaves in a results folder beside its result.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::fs::file;
use crate::store::Store;
use crate::store::claim;

/// Tells one record of a failure from a later one without asking a clock: inode and time of change, seconds and
/// nanoseconds, of its file. `None` when the cell has not failed.
pub type FailureMark = Option<(u64, i64, i64)>;

impl Store {
    /// Which record of a failure there is of a cell.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be read.
    pub fn failure_mark(&self, run_id: &str) -> Result<FailureMark> {
        let path = self.failure_path(run_id);
        match fs::metadata(&path) {
            Ok(file) => Ok(Some((file.ino(), file.ctime(), file.ctime_nsec()))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", &path)(e)),
        }
    }

    /// Why a cell failed, in a sentence, as far as its record tells.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read.
    pub fn failure(&self, run_id: &str) -> Result<String> {
        /// A record of any schema.
        #[derive(Deserialize)]
        struct Reason {
            error: String,
        }
        let bytes = file::read_if_present(&self.failure_path(run_id))?;
        let reason = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(reason.map_or_else(|| "for a reason that is not known".into(), |Reason { error }| error))
    }

    /// Removes what processes that ended at the wrong moment left of `finished` cells: claims, predictions and
    /// training so far, and records of earlier failures.
    ///
    /// # Errors
    /// [`Error::Io`] when something stays.
    pub fn remove_leftovers(&self, finished: &HashSet<&str>) -> Result<()> {
        for (path, _) in self.leftovers(|run_id| finished.contains(run_id))? {
            if path.is_dir() {
                match fs::remove_dir_all(&path) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &path)(e)),
                    _ => {}
                }
            } else {
                file::remove_if_present(&path)?;
            }
        }
        Ok(())
    }

    /// Claims, predictions and training so far, and failures of the cells that are asked for, each with its cell; in
    /// order of their paths.
    ///
    /// # Errors
    /// [`Error::Io`] when a folder cannot be read.
    pub fn leftovers(&self, of: impl Fn(&str) -> bool) -> Result<Vec<(std::path::PathBuf, String)>> {
        type Parse = fn(&str) -> Option<&str>;
        let kinds: [(&str, Parse); 4] = [
            ("claims", |name| claim::parse_name(name).map(|(run_id, _)| run_id)),
            // Beside a state lie its next and its last one while it is replaced.
            ("states", |name| name.split('.').next()),
            ("predictions", |name| name.strip_suffix(".partial.jsonl")),
            ("cells", |name| name.strip_suffix(".failed.json")),
        ];
        let mut found = Vec::new();
        for (inside, parse) in kinds {
            let folder = self.folder().join(inside);
            for name in names(&folder)? {
                if let Some(run_id) = parse(&name).filter(|run_id| of(run_id)) {
                    found.push((folder.join(&name), run_id.to_owned()));
                }
            }
        }
        found.sort();
        Ok(found)
    }
}

/// Names in a folder that may be absent.
fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("read", folder)(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(Error::io("read", folder))?.file_name().into_string().ok());
    }
    Ok(names)
}
