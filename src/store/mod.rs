//! A results folder: which cells are finished, and everything that is known of them.
//!
//! ```text
//! sweep.toml                          the resolved config
//! splits/<dataset>-<protocol>-k<shots>-s<seed>.json
//! predictions/<run_id>.parquet        written first
//! predictions/<run_id>.partial.jsonl  while a cell runs
//! states/<run_id>/                    while it runs: how far its training has come
//! cells/<run_id>.json                 written last: a cell is finished when this is whole
//! cells/<run_id>.failed.json          why it is not
//! claims/<run_id>.<generation>.json   who runs the cell
//! controls/<run_id>.json              what sanity controls found
//! ledger.csv timings.csv figures/     rebuilt from the above
//! ```
//!
//! The predictions of a cell that has no file of its own are those in `predictions.parquet`, if the folder
//! holds the [compact form](crate::store::promote).

pub mod claim;
pub mod control;
pub mod ledger;
pub mod partial;
pub mod predictions;
pub mod promote;
pub mod record;
pub mod replacement;
pub mod verify;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::data::LabelledImage;
use crate::data::split::Split;
use crate::error::{Cause, Error, Result};
use crate::fs::file;
use crate::fs::hash::hex;
use crate::prediction::Prediction;
use crate::process;
use crate::store::partial::PartialPredictions;
use crate::store::predictions::compact;
use crate::store::predictions::compact::Cells;
use crate::store::record::{CellDetails, CellKey, Failure, Identity, Record, SCHEMA};

/// Kinds of files, in errors about them.
const RECORD: &str = "cell record";
const PREDICTIONS: &str = "prediction file";

/// A results folder.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    /// `predictions.parquet`, or what is wrong with it; read when the first cell asks for it.
    compact: OnceLock<std::result::Result<Cells, Damage>>,
}

/// A prediction file that is not trusted, and the reason.
type Damage = (PathBuf, String);

fn damaged((path, reason): &Damage) -> Error {
    Error::malformed(PREDICTIONS, path, reason)
}

/// Sets damage apart from what keeps a file from being read at all.
fn damage<T>(read: Result<T>) -> Result<std::result::Result<T, Damage>> {
    match read {
        Ok(read) => Ok(Ok(read)),
        Err(Error::Malformed { path, reason, .. }) => Ok(Err((path, reason))),
        Err(error) => Err(error),
    }
}

/// Damaged files are named in a warning and count as not there.
fn trusted<T>(read: Result<Option<T>>) -> Result<Option<T>> {
    match read {
        Err(Error::Malformed { kind, path, reason }) => {
            let path = path.display();
            tracing::warn!("{kind} `{path}` is not trusted, the cell runs again: {reason}");
            Ok(None)
        }
        other => other,
    }
}

/// Reads the cells of a store one after the other.
pub struct Reader<'a> {
    store: &'a Store,
    /// The file of a compact form, or what is wrong with it; opened when the first cell asks for it.
    compact: Option<std::result::Result<Option<compact::Reader<File>>, Damage>>,
}

impl Reader<'_> {
    /// As [`Store::read`].
    ///
    /// # Errors
    /// As [`Store::read`].
    pub fn read(&mut self, run_id: &str) -> Result<Option<(Record, Vec<Prediction>)>> {
        let store = self.store;
        store.read_with(run_id, || self.of_compact(run_id))
    }

    /// The cell, if it is [finished](Store::finished), with its predictions.
    ///
    /// # Errors
    /// As [`Store::finished`].
    pub fn finished(&mut self, run_id: &str) -> Result<Option<(Record, Vec<Prediction>)>> {
        trusted(self.read(run_id))
    }

    fn of_compact(&mut self, run_id: &str) -> Result<Option<(Vec<String>, Vec<Prediction>)>> {
        let past = matches!(&self.compact, Some(Ok(Some(reader))) if !reader.is_ahead(run_id));
        if past || self.compact.is_none() {
            self.compact = Some(damage(compact::Reader::open(&self.store.folder))?);
        }
        let read = match &mut self.compact {
            Some(Ok(Some(reader))) => damage(reader.read(run_id))?,
            Some(Err(damage)) => return Err(damaged(damage)),
            Some(Ok(None)) | None => return Ok(None),
        };
        read.map_err(|damage| {
            let error = damaged(&damage);
            self.compact = Some(Err(damage)); // said of every cell after it
            error
        })
    }
}

/// Folders of a store in which files are replaced, itself among them.
const FOLDERS: [&str; 5] = ["", "cells", "predictions", "splits", "figures"];

impl Store {
    /// Makes the folder where needed and proves that it can be written.
    ///
    /// # Errors
    /// [`Error::Io`] on a read-only file system, a full disk or a missing right.
    pub fn open(folder: &Path) -> Result<Self> {
        for inside in FOLDERS {
            file::make_writable_folder(&folder.join(inside))?;
        }
        Ok(Self::of(folder))
    }

    fn of(folder: &Path) -> Self {
        Self {
            folder: folder.into(),
            compact: OnceLock::new(),
        }
    }

    /// An existing results folder, only to be read.
    ///
    /// # Errors
    /// [`Error::NoResults`] when it has no `cells` folder.
    pub fn open_existing(folder: &Path) -> Result<Self> {
        let current = replacement::current(folder);
        if current.join("cells").is_dir() {
            Ok(Self::of(&current))
        } else {
            Err(Error::NoResults { path: folder.into() })
        }
    }

    /// The folder itself.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Folder of the figures.
    #[must_use]
    pub fn figures(&self) -> PathBuf {
        self.folder.join("figures")
    }

    /// Folder of a cell's trained adapter, when it is kept.
    #[must_use]
    pub fn adapter(&self, run_id: &str) -> PathBuf {
        self.folder.join("adapters").join(run_id)
    }

    /// Folder of the state of a running cell's training.
    #[must_use]
    pub fn state(&self, run_id: &str) -> PathBuf {
        self.folder.join("states").join(run_id)
    }

    /// Path of the record of a cell.
    #[must_use]
    pub fn cell_path(&self, run_id: &str) -> PathBuf {
        self.folder.join("cells").join(format!("{run_id}.json"))
    }

    /// Path of a cell's sanity controls.
    fn controls_path(&self, run_id: &str) -> PathBuf {
        self.folder.join("controls").join(format!("{run_id}.json"))
    }

    fn failure_path(&self, run_id: &str) -> PathBuf {
        self.folder.join("cells").join(format!("{run_id}.failed.json"))
    }

    fn predictions_path(&self, run_id: &str) -> PathBuf {
        self.folder.join("predictions").join(format!("{run_id}.parquet"))
    }

    fn partial_path(&self, run_id: &str) -> PathBuf {
        self.folder.join("predictions").join(format!("{run_id}.partial.jsonl"))
    }

    /// The record of a cell, if it is finished: its file is whole and of a known schema, and its
    /// predictions are there and are the ones that the record was made from. Anything torn or not
    /// matching is named in a warning and counts as not finished.
    ///
    /// # Errors
    /// [`Error::Io`] when a file is there but cannot be read.
    pub fn finished(&self, run_id: &str) -> Result<Option<Record>> {
        Ok(trusted(self.read(run_id))?.map(|(record, _)| record))
    }

    /// The predictions of a finished cell, in the order in which they were made.
    ///
    /// # Errors
    /// [`Error::Predictions`] when the cell is not finished, [`Error::Io`] when a file cannot be read.
    pub fn predictions(&self, run_id: &str) -> Result<Vec<Prediction>> {
        let unfinished = || Error::Predictions {
            run_id: run_id.into(),
            reason: "the cell is not finished".into(),
        };
        match trusted(self.read(run_id))? {
            Some((_, rows)) => Ok(rows),
            None => Err(unfinished().because(Cause::Unfinished)),
        }
    }

    /// True if a cell has a record, whole or not: as cheap as it gets.
    #[must_use]
    pub fn is_stored(&self, run_id: &str) -> bool {
        self.cell_path(run_id).exists()
    }

    /// A cell whole: its record and its predictions, in the order in which they were made; `None` when there is no
    /// record.
    ///
    /// # Errors
    /// [`Error::Malformed`] names a file that is torn, of an unknown schema, missing, or not the one that the others
    /// were made with; [`Error::Io`] one that cannot be read.
    pub fn read(&self, run_id: &str) -> Result<Option<(Record, Vec<Prediction>)>> {
        self.read_with(run_id, || match self.compact()? {
            Ok(cells) => Ok(cells.get(run_id).cloned()),
            Err(damage) => Err(damaged(damage)),
        })
    }

    /// Reads cells one after the other, as [`Store::read`] does, and holds no more than one of them. In order of the
    /// `run_id` is the fast way: those of a compact form lie in that order in one file.
    #[must_use]
    pub fn reader(&self) -> Reader<'_> {
        Reader {
            store: self,
            compact: None,
        }
    }

    /// A cell whole; `of_compact` reads its predictions where they have no file of their own.
    fn read_with(
        &self,
        run_id: &str,
        of_compact: impl FnOnce() -> Result<Option<(Vec<String>, Vec<Prediction>)>>,
    ) -> Result<Option<(Record, Vec<Prediction>)>> {
        let path = self.cell_path(run_id);
        let Some(bytes) = file::read_if_present(&path)? else {
            return Ok(None);
        };
        let record = parse_record(&path, &bytes)?;
        if record.run_id != run_id {
            let reason = format!("it is the record of cell {}", record.run_id);
            return Err(Error::malformed(RECORD, path, reason));
        }
        let path = self.predictions_path(run_id);
        let (path, classes, rows) = if let Some(bytes) = file::read_if_present(&path)? {
            if hex(&Sha256::digest(&bytes)) != record.predictions_file_sha256 {
                let reason = "it is not the file that the cell record was written for";
                return Err(Error::malformed(PREDICTIONS, path, reason));
            }
            let (classes, rows) = predictions::decode(&path, bytes)?;
            (path, classes, rows)
        } else {
            match of_compact()? {
                Some((classes, rows)) => (self.folder.join("predictions.parquet"), classes, rows),
                None => return Err(Error::malformed(PREDICTIONS, path, "it is missing")),
            }
        };
        if classes != record.classes {
            let reason = "its class names are not those of the cell record";
            return Err(Error::malformed(PREDICTIONS, path, reason));
        }
        if predictions::fingerprint(&classes, &rows) != record.predictions_sha256 {
            let reason = "its rows are not those that the cell record was made from";
            return Err(Error::malformed(PREDICTIONS, path, reason));
        }
        Ok(Some((record, rows)))
    }

    fn compact(&self) -> Result<&std::result::Result<Cells, Damage>> {
        if let Some(read) = self.compact.get() {
            return Ok(read);
        }
        let read = damage(compact::read(&self.folder))?;
        Ok(self.compact.get_or_init(|| read))
    }

    /// Opens the file that collects the predictions of a running cell, of which these are the test images, with what
    /// an earlier process has predicted.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read or written.
    pub fn partial<'a>(&self, run_id: &str, test: &'a [LabelledImage]) -> Result<PartialPredictions<'a>> {
        PartialPredictions::open(&self.partial_path(run_id), run_id, test)
    }

    /// Stores a finished cell: predictions first, record last, then what its running or failing left behind.
    ///
    /// # Errors
    /// [`Error::Predictions`] when an answer, a true class or a list of log-probabilities does not fit the
    /// class list, or there are none; [`Error::Io`] when the disk is full or read-only.
    pub fn finish(&self, identity: &Identity, details: CellDetails, rows: &[Prediction]) -> Result<Record> {
        let run_id = &identity.run_id();
        predictions::check(identity.classes.len(), rows).map_err(|reason| Error::Predictions {
            run_id: run_id.clone(),
            reason,
        })?;
        let encoded = predictions::encode(run_id, &identity.classes, rows)?;
        let record = Record::new(identity, details, rows, hex(&Sha256::digest(&encoded)));
        file::replace(&self.predictions_path(run_id), &encoded)?;
        let path = self.cell_path(run_id);
        file::replace(&path, &to_json(&record, &path)?)?;
        file::remove_if_present(&self.partial_path(run_id))?;
        file::remove_if_present(&self.failure_path(run_id))?;
        Ok(record)
    }

    /// Stores why a cell failed; the next sweep tries it again.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn fail(&self, failure: &Failure) -> Result<()> {
        let path = self.failure_path(&failure.run_id);
        file::replace(&path, &to_json(failure, &path)?)
    }

    /// Stores the resolved config beside its results.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn write_sweep_config(&self, toml: &str) -> Result<()> {
        file::replace_if_changed(&self.folder.join("sweep.toml"), toml.as_bytes()).map(drop)
    }

    /// Stores a split as JSON, unless it is there already, and gives the SHA-256 of the file.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn write_split(&self, key: &CellKey, split: &impl Serialize) -> Result<String> {
        let path = self.split_path(key);
        let json = to_json(split, &path)?;
        file::replace_if_changed(&path, &json)?;
        Ok(hex(&Sha256::digest(&json)))
    }

    /// Path of the split of a cell.
    fn split_path(&self, key: &CellKey) -> PathBuf {
        let name = format!("{}-{}-k{}-s{}.json", key.dataset, key.protocol, key.shots, key.seed);
        self.folder.join("splits").join(name)
    }

    /// The split that a cell was run on; `None` where it is not stored, as in a compact form.
    ///
    /// # Errors
    /// [`Error::Malformed`] when another one lies in its place, [`Error::Io`] when it cannot be read.
    pub fn split(&self, record: &Record) -> Result<Option<Split>> {
        let path = self.split_path(&record.key);
        let Some(bytes) = file::read_if_present(&path)? else {
            return Ok(None);
        };
        if hex(&Sha256::digest(&bytes)) != record.split_sha256 {
            let reason = "it is not the file that the cell record names";
            return Err(Error::malformed("split", path, reason));
        }
        let split = serde_json::from_slice(&bytes).map_err(|e| Error::malformed("split", path, e))?;
        Ok(Some(split))
    }

    /// The `run_id` of every cell that has a record, whole or not, in order.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be read.
    pub fn stored(&self) -> Result<Vec<String>> {
        let mut names = self.cell_names()?;
        names.retain(|name| !name.ends_with(".failed"));
        Ok(names)
    }

    /// Names of the files of cells without their ending, in order: a `run_id`, or one with `.failed` behind it.
    pub(crate) fn cell_names(&self) -> Result<Vec<String>> {
        let names = names(&self.folder.join("cells"))?;
        let cell = |name: &String| name.strip_suffix(".json").map(str::to_owned);
        let mut cells: Vec<String> = names.iter().filter_map(cell).collect();
        cells.sort();
        Ok(cells)
    }

    /// All finished cells, in order of their keys.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder or a file cannot be read.
    pub fn records(&self) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        for run_id in self.stored()? {
            records.extend(self.finished(&run_id)?);
        }
        records.sort_by(|a, b| (&a.key, &a.run_id).cmp(&(&b.key, &b.run_id)));
        Ok(records)
    }
}

/// A cell record of any schema that this version can read.
fn parse_record(path: &Path, bytes: &[u8]) -> Result<Record> {
    let malformed = |reason: &dyn ToString| Error::malformed(RECORD, path, reason.to_string());
    let mut value: Value = serde_json::from_slice(bytes).map_err(|e| malformed(&e))?;
    match value.get("schema").and_then(Value::as_u64) {
        Some(schema) if schema == u64::from(SCHEMA) || schema == u64::from(SCHEMA - 1) => {
            if schema < u64::from(SCHEMA) {
                // Schema 2 had no protocol card.
                value["schema"] = SCHEMA.into();
                value["card"] = Value::Null;
            }
            let mut record: Record = serde_json::from_value(value).map_err(|e| malformed(&e))?;
            record.metrics = record.metrics.with_reading(record.reading);
            Ok(record)
        }
        Some(schema) => Err(malformed(&format!(
            "schema {schema} is not known, this version reads {} and {SCHEMA}",
            SCHEMA - 1
        ))),
        None => Err(malformed(&"it has no `schema`")),
    }
}

/// A file in JSON of the one schema that this version reads.
pub(crate) fn parse<T: DeserializeOwned>(
    kind: &'static str,
    path: &Path,
    bytes: &[u8],
    schema_of: impl Fn(&T) -> u32,
    schema: u32,
) -> Result<T> {
    let parsed: T = serde_json::from_slice(bytes).map_err(|e| Error::malformed(kind, path, e))?;
    let found = schema_of(&parsed);
    if found != schema {
        let reason = format!("schema {found} is not known, this version reads {schema}");
        return Err(Error::malformed(kind, path, reason));
    }
    Ok(parsed)
}

/// The bytes of such a file, to be written to `path`.
pub(crate) fn to_json(value: &impl Serialize, path: &Path) -> Result<Vec<u8>> {
    let mut json = serde_json::to_vec_pretty(value).map_err(|e| Error::io("write", path)(e.into()))?;
    json.push(b'\n');
    Ok(json)
}

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
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
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
            if !path.is_dir() {
                file::remove_if_present(&path)?;
            } else if let Err(e) = fs::remove_dir_all(&path)
                && e.kind() != ErrorKind::NotFound
            {
                return Err(Error::io("remove", &path)(e));
            }
        }
        Ok(())
    }

    /// Removes a cell with all that belongs to it: its record first, so that it is no finished cell any more.
    ///
    /// # Errors
    /// [`Error::Io`] when something stays.
    pub fn remove(&self, run_id: &str) -> Result<()> {
        for path in [
            self.cell_path(run_id),
            self.predictions_path(run_id),
            self.controls_path(run_id),
        ] {
            file::remove_if_present(&path)?;
        }
        match fs::remove_dir_all(self.adapter(run_id)) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::io("remove", self.adapter(run_id))(e)),
            _ => {}
        }
        self.remove_leftovers(&HashSet::from([run_id]))
    }

    /// Removes files that processes which have ended had begun to write.
    pub fn remove_unfinished(&self) {
        for inside in FOLDERS.into_iter().chain(["claims", "controls", "tables"]) {
            process::remove_abandoned(&self.folder().join(inside), "", "tmp");
        }
    }

    /// Claims, predictions and training so far, and failures of the cells that are asked for, each with its cell; in
    /// order of their paths.
    ///
    /// # Errors
    /// [`Error::Io`] when a folder cannot be read.
    pub fn leftovers(&self, of: impl Fn(&str) -> bool) -> Result<Vec<(PathBuf, String)>> {
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
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("read", folder)(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(Error::io("read", folder))?.file_name().into_string().ok());
    }
    Ok(names)
}
