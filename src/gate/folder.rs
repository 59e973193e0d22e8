//! A results folder, live or compact, as the gate reads it: every cell whole, and all that is wrong named.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::config::Shots;
use crate::error::{Error, Result};
use crate::gate::images::{Images, Right, Shared};
use crate::gate::place::Place;
use crate::gate::problem::{Kind, Problem, Role};
use crate::prediction::{Prediction, Reading};
use crate::statistics::metric::{Headline, Metrics};
use crate::store::control::Controls;
use crate::store::predictions;
use crate::store::record::{CellKey, Record};
use crate::store::{Reader, Store};

/// A cell that can be compared: what the gate needs of its record and its predictions.
#[derive(Debug, Clone)]
pub struct Cell {
    /// Its run.
    pub run_id: String,
    /// Class names in label order.
    pub classes: Arc<[String]>,
    /// SHA-256 of its split.
    pub split_sha256: String,
    /// Reading behind the headline.
    pub reading: Reading,
    /// Which accuracy the headline is.
    pub headline: Headline,
    /// The headline accuracy, between 0 and 1.
    pub value: f64,
    /// From a miniature dataset, or by a micro model.
    pub micro: bool,
    /// Fingerprint of its predictions.
    pub predictions_sha256: String,
    /// The device and version that computed it.
    pub place: Place,
    /// Its test images, in order of their ids.
    pub images: Images,
    /// Which answers are right.
    pub right: Right,
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
    foreign: HashSet<ForeignKey>,
    /// Why cells are not finished.
    failures: BTreeMap<CellKey, String>,
    /// The keys of `cells` by what is left of them without the protocol.
    by_rest: HashMap<ForeignKey, Vec<CellKey>>,
}

/// A [`CellKey`] of any protocol.
#[derive(Debug, PartialEq, Eq, Hash, Deserialize)]
struct ForeignKey {
    dataset: String,
    protocol: String,
    learner: String,
    shots: Shots,
    seed: u64,
}

impl Folder {
    /// Reads every cell, one after the other; what cells have in common goes into `shared`.
    ///
    /// # Errors
    /// [`Error::NoResults`] when it is no results folder; [`Error::Io`] when something cannot be read.
    pub fn read(path: &Path, role: Role, shared: &mut Shared) -> Result<Self> {
        let store = Store::open_existing(path)?;
        let mut folder = Self {
            path: path.into(),
            role,
            cells: BTreeMap::new(),
            problems: Vec::new(),
            unusable: BTreeSet::new(),
            foreign: HashSet::new(),
            failures: BTreeMap::new(),
            by_rest: HashMap::new(),
        };
        let mut reader = store.reader();
        for name in names(&store.folder().join("cells"))? {
            if name.ends_with(".failed") {
                folder.read_failure(&store, &name)?;
            } else {
                let read = whole(&store, &mut reader, &name, shared);
                folder.take(&store, &name, read)?;
            }
        }
        if folder.cells.is_empty() && folder.problems.is_empty() {
            return Err(Error::NoResults { path: path.into() });
        }
        for key in &folder.unusable {
            folder.cells.remove(key);
        }
        for key in folder.cells.keys() {
            folder.by_rest.entry(rest(key)).or_default().push(key.clone());
        }
        Ok(folder)
    }

    /// Whether the folder has something to say about this cell, be it that it cannot be used.
    #[must_use]
    pub fn mentions(&self, key: &CellKey) -> bool {
        self.cells.contains_key(key)
            || self.unusable.contains(key)
            || !self.foreign.is_empty() && self.foreign.contains(&rest(key))
    }

    /// The same cell under another protocol, one that `other` does not have as well: then it is another cell.
    #[must_use]
    pub fn renamed(&self, key: &CellKey, other: &Self) -> Option<&CellKey> {
        let alike = self.by_rest.get(&rest(key))?;
        alike
            .iter()
            .find(|found| *found != key && !other.cells.contains_key(*found))
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

    fn take(&mut self, store: &Store, run_id: &str, read: Result<Option<Whole>>) -> Result<()> {
        match read {
            Ok(None) => Ok(()),
            Ok(Some(Whole {
                key,
                cell,
                red,
                unsound,
            })) => {
                if let Some(unsound) = unsound {
                    self.report(Kind::Torn, Some(key.clone()), format!("cell {run_id}: {unsound}"));
                }
                if let Some(red) = red {
                    self.report(Kind::RedControl, Some(key.clone()), red);
                }
                if let Some(other) = self.cells.insert(key.clone(), cell) {
                    let finding = format!("both {} and {run_id} in `{}`", other.run_id, self.path.display());
                    self.report(Kind::Twice, Some(key), finding);
                }
                Ok(())
            }
            Err(Error::Malformed { kind, path, reason }) => {
                self.read_what_is_legible(store, run_id, &format!("{kind} `{}`: {reason}", path.display()))
            }
            Err(error) => Err(error),
        }
    }

    /// A cell that cannot be used is reported with its key, if at least that can be read.
    fn read_what_is_legible(&mut self, store: &Store, run_id: &str, finding: &str) -> Result<()> {
        let path = store.cell_path(run_id);
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
                self.foreign.insert(ForeignKey {
                    protocol: String::new(),
                    ..foreign
                });
            }
            (known, _) => self.report(Kind::Torn, known, finding.to_owned()),
        }
        Ok(())
    }

    fn read_failure(&mut self, store: &Store, name: &str) -> Result<()> {
        #[derive(Deserialize)]
        struct Failed {
            key: CellKey,
            error: String,
        }
        let path = store.cell_path(name);
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

/// A key without its protocol.
fn rest(key: &CellKey) -> ForeignKey {
    ForeignKey {
        dataset: key.dataset.clone(),
        protocol: String::new(),
        learner: key.learner.clone(),
        shots: key.shots,
        seed: key.seed,
    }
}

/// A cell as it was read.
struct Whole {
    key: CellKey,
    cell: Cell,
    /// The findings of its red controls, if any is red.
    red: Option<String>,
    /// Why its numbers make no sense.
    unsound: Option<String>,
}

fn whole(store: &Store, reader: &mut Reader<'_>, run_id: &str, shared: &mut Shared) -> Result<Option<Whole>> {
    let Some((record, rows)) = reader.read(run_id)? else {
        return Ok(None);
    };
    let red = store.controls(&record)?.filter(Controls::is_red).map(|controls| {
        let measures = controls.controls.iter().flat_map(|control| &control.measures);
        let said: Vec<String> = measures.filter(|m| !m.fits()).map(ToString::to_string).collect();
        format!("{}: {}", controls.mark(), said.join("; "))
    });
    let unsound = unsound(&record, &rows);
    let rows = if unsound.is_some() { Vec::new() } else { rows };
    let (images, right) = shared.images(rows, record.reading);
    let cell = Cell {
        value: record.value(),
        place: Place::of(&record),
        run_id: record.run_id,
        classes: shared.classes(record.classes),
        split_sha256: record.split_sha256,
        reading: record.reading,
        headline: record.metrics.headline,
        micro: record.micro,
        predictions_sha256: record.predictions_sha256,
        images,
        right,
    };
    Ok(Some(Whole {
        key: record.key,
        cell,
        red,
        unsound,
    }))
}

/// Why predictions cannot be those of a record, or the accuracy that it states not theirs.
fn unsound(record: &Record, rows: &[Prediction]) -> Option<String> {
    if let Err(reason) = predictions::check(record.classes.len(), rows) {
        return Some(format!("its predictions make no sense: {reason}"));
    }
    let again = Metrics::of(rows, record.reading, record.metrics.headline).value();
    (again != record.value()).then(|| {
        let stated = record.value();
        format!("its record states an accuracy of {stated}, its predictions give {again}")
    })
}
