//! A results folder, live or compact, as the gate reads it: every cell whole, and all that is wrong named.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::config::Shots;
use crate::error::{Error, Result};
use crate::prediction::Prediction;
use crate::results::control::Controls;
use crate::results::gate::problem::{Kind, Problem, Role};
use crate::results::record::{CellKey, Record};
use crate::results::store::Store;

/// A cell that can be compared.
#[derive(Debug, Clone)]
pub struct Cell {
    /// Its record.
    pub record: Record,
    /// Its predictions, sorted by image id.
    pub rows: Vec<Prediction>,
}

/// All cells of a folder.
#[derive(Debug)]
pub struct Folder {
    /// Where it lies.
    pub path: PathBuf,
    /// What it is to the gate.
    pub role: Role,
    /// Cells that can be compared.
    pub cells: BTreeMap<CellKey, Cell>,
    /// What is wrong with the others.
    pub problems: Vec<Problem>,
    /// Keys of cells that are there but cannot be compared.
    unusable: BTreeSet<CellKey>,
    /// Cells of protocols that this version does not know.
    foreign: Vec<ForeignKey>,
    /// Why cells are not finished.
    failures: BTreeMap<CellKey, String>,
}

/// A [`CellKey`] of any protocol.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct ForeignKey {
    dataset: String,
    protocol: String,
    learner: String,
    shots: Shots,
    seed: u64,
}

impl Folder {
    /// Reads every cell.
    ///
    /// # Errors
    /// [`Error::NoResults`] when it is no results folder; [`Error::Io`] when something cannot be read.
    pub fn read(path: &Path, role: Role) -> Result<Self> {
        let store = Store::open_existing(path)?;
        let mut folder = Self {
            path: path.into(),
            role,
            cells: BTreeMap::new(),
            problems: Vec::new(),
            unusable: BTreeSet::new(),
            foreign: Vec::new(),
            failures: BTreeMap::new(),
        };
        for name in names(&path.join("cells"))? {
            if name.ends_with(".failed") {
                folder.read_failure(&name)?;
            } else {
                folder.read_cell(&store, &name)?;
            }
        }
        if folder.cells.is_empty() && folder.problems.is_empty() {
            return Err(Error::NoResults { path: path.into() });
        }
        for key in &folder.unusable {
            folder.cells.remove(key);
        }
        Ok(folder)
    }

    /// Whether the folder has something to say about this cell, be it that it cannot be used.
    #[must_use]
    pub fn mentions(&self, key: &CellKey) -> bool {
        let foreign = |f: &ForeignKey| {
            (&f.dataset, &f.learner, f.shots, f.seed) == (&key.dataset, &key.learner, key.shots, key.seed)
        };
        self.cells.contains_key(key) || self.unusable.contains(key) || self.foreign.iter().any(foreign)
    }

    /// Why the cell failed, where that is known.
    #[must_use]
    pub fn failure(&self, key: &CellKey) -> Option<&str> {
        self.failures.get(key).map(String::as_str)
    }

    fn report(&mut self, kind: Kind, cell: Option<CellKey>, finding: String) {
        self.unusable.extend(cell.clone());
        self.problems.push(Problem {
            kind,
            role: self.role,
            cell,
            finding,
        });
    }

    fn read_cell(&mut self, store: &Store, run_id: &str) -> Result<()> {
        match whole(store, run_id) {
            Ok(None) => Ok(()),
            Ok(Some((cell, red))) => {
                let key = cell.record.key.clone();
                if let Some(red) = red {
                    self.report(Kind::RedControl, Some(key.clone()), red);
                }
                if let Some(other) = self.cells.insert(key.clone(), cell) {
                    let finding = format!("both {} and {run_id} in `{}`", other.record.run_id, self.path.display());
                    self.report(Kind::Twice, Some(key), finding);
                }
                Ok(())
            }
            Err(Error::Malformed { kind, path, reason }) => {
                self.read_what_is_legible(run_id, &format!("{kind} `{}`: {reason}", path.display()))
            }
            Err(error) => Err(error),
        }
    }

    /// A cell that cannot be used is reported with its key, if at least that can be read.
    fn read_what_is_legible(&mut self, run_id: &str, finding: &str) -> Result<()> {
        let path = self.path.join("cells").join(format!("{run_id}.json"));
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        let key = serde_json::from_slice::<Value>(&bytes).ok();
        let key = key.and_then(|mut record| record.get_mut("key").map(Value::take));
        let known: Option<CellKey> = key.clone().and_then(|key| serde_json::from_value(key).ok());
        let foreign: Option<ForeignKey> = key.and_then(|key| serde_json::from_value(key).ok());
        match (known, foreign) {
            (None, Some(foreign)) => {
                let ForeignKey {
                    dataset,
                    protocol,
                    learner,
                    shots,
                    seed,
                } = &foreign;
                let finding = format!(
                    "{dataset} · {learner} · {shots} shots · seed {seed} was made under protocol `{protocol}`: {finding}"
                );
                self.report(Kind::Protocol, None, finding);
                self.foreign.push(foreign);
            }
            (known, _) => self.report(Kind::Torn, known, finding.to_owned()),
        }
        Ok(())
    }

    fn read_failure(&mut self, name: &str) -> Result<()> {
        #[derive(Deserialize)]
        struct Failed {
            key: CellKey,
            error: String,
        }
        let path = self.path.join("cells").join(format!("{name}.json"));
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        // It explains why a cell is missing; if it is torn itself, the cell is reported all the same.
        if let Ok(Failed { key, error }) = serde_json::from_slice(&bytes) {
            self.failures.insert(key, error);
        }
        Ok(())
    }
}

/// Names of the JSON files of a folder, without the ending, sorted.
fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let name = entry.map_err(Error::io("read", folder))?.file_name();
        names.extend(
            name.to_str()
                .and_then(|name| name.strip_suffix(".json"))
                .map(String::from),
        );
    }
    names.sort();
    Ok(names)
}

/// A cell with what its red controls found, if any is red.
fn whole(store: &Store, run_id: &str) -> Result<Option<(Cell, Option<String>)>> {
    let Some((record, mut rows)) = store.read(run_id)? else {
        return Ok(None);
    };
    let red = store.controls(&record)?.filter(Controls::is_red).map(|controls| {
        let measures = controls.controls.iter().flat_map(|control| &control.measures);
        let said: Vec<String> = measures.filter(|m| !m.fits()).map(ToString::to_string).collect();
        format!("{}: {}", controls.mark(), said.join("; "))
    });
    // Probabilities are not compared, and they are what takes the space.
    rows.iter_mut().for_each(|row| row.log_probs = None);
    rows.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(Some((Cell { record, rows }, red)))
}
