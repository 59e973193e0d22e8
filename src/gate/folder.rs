//! A results folder, live or compact, as the gate reads it: every cell whole, with its machine and the images that were
//! asked and answered rightly, and all that is wrong named.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, fs};

use serde::Deserialize;
use serde_json::Value;

use crate::config::Shots;
use crate::error::{Error, Result};
use crate::gate::problem::{Kind, Problem, Role};
use crate::prediction::{Prediction, Reading};
use crate::statistics::metric::{Headline, Metrics};
use crate::store::control::Controls;
use crate::store::record::{CellKey, Record};
use crate::store::{Reader, Store, predictions};

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
    pub place: Machine,
    /// Its test images, in order of their ids.
    pub images: Images,
    /// Which answers are right.
    pub right: Right,
}

/// All cells of a folder.
#[derive(Debug)]
pub struct Folder {
    /// Its path.
    pub path: PathBuf,
    /// Its role for the gate.
    pub role: Role,
    /// Cells that can be compared.
    pub cells: BTreeMap<CellKey, Cell>,
    /// Faults of the others.
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
        for name in store.cell_names()? {
            if name.ends_with(".failed") {
                folder.read_failure(&store, &name)?;
                continue;
            }
            match folder.take(&store, &mut reader, &name, shared) {
                Err(Error::Malformed { kind, path, reason }) => {
                    let finding = format!("{kind} `{}`: {reason}", path.display());
                    folder.read_what_is_legible(&store, &name, &finding)?;
                }
                other => other?,
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

    /// True if the folder has something to say about this cell, be it that it cannot be used.
    #[must_use]
    pub fn mentions(&self, key: &CellKey) -> bool {
        self.cells.contains_key(key)
            || self.unusable.contains(key)
            || !self.foreign.is_empty() && self.foreign.contains(&rest(key))
    }

    /// The same cell under another protocol, one that `other` does not have as well: then it is another cell.
    #[must_use]
    pub fn renamed(&self, key: &CellKey, other: &Self) -> Option<&CellKey> {
        let is_another = |found: &&CellKey| *found != key && !other.cells.contains_key(*found);
        self.by_rest.get(&rest(key))?.iter().find(is_another)
    }

    /// Why the cell failed, where that is known.
    #[must_use]
    pub fn failure(&self, key: &CellKey) -> Option<&str> {
        self.failures.get(key).map(String::as_str)
    }

    /// A problem of this folder.
    #[must_use]
    pub fn problem(&self, kind: Kind, cell: Option<&CellKey>, finding: String) -> Problem {
        Problem {
            kind,
            role: self.role,
            cell: cell.cloned(),
            finding,
        }
    }

    fn report(&mut self, kind: Kind, cell: Option<&CellKey>, finding: String) {
        self.unusable.extend(cell.cloned());
        self.problems.push(self.problem(kind, cell, finding));
    }

    /// Reads a finished cell, and reports what speaks against it.
    fn take(&mut self, store: &Store, reader: &mut Reader<'_>, run_id: &str, shared: &mut Shared) -> Result<()> {
        let Some((record, rows)) = reader.read(run_id)? else {
            return Ok(());
        };
        let red = store.controls(&record)?.filter(Controls::is_red).map(|controls| {
            let measures = controls.controls.iter().flat_map(|control| &control.measures);
            let said: Vec<String> = measures.filter(|m| !m.fits()).map(ToString::to_string).collect();
            format!("{}: {}", controls.mark(), said.join("; "))
        });
        let unsound = unsound(&record, &rows);
        let (images, right) = shared.images(if unsound.is_some() { Vec::new() } else { rows }, record.reading);
        let cell = Cell {
            value: record.value(),
            place: Machine::of(&record),
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
        let key = record.key;
        if let Some(unsound) = unsound {
            self.report(Kind::Torn, Some(&key), format!("cell {run_id}: {unsound}"));
        }
        if let Some(red) = red {
            self.report(Kind::RedControl, Some(&key), red);
        }
        if let Some(other) = self.cells.insert(key.clone(), cell) {
            let finding = format!("both {} and {run_id} in `{}`", other.run_id, self.path.display());
            self.report(Kind::Twice, Some(&key), finding);
        }
        Ok(())
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
                let finding = format!(
                    "{} · {} · {} shots · seed {} was made under protocol `{}`: {finding}",
                    foreign.dataset, foreign.learner, foreign.shots, foreign.seed, foreign.protocol
                );
                self.report(Kind::Protocol, None, finding);
                self.foreign.insert(ForeignKey {
                    protocol: String::new(),
                    ..foreign
                });
            }
            (known, _) => self.report(Kind::Torn, known.as_ref(), finding.to_owned()),
        }
        Ok(())
    }

    /// It explains why a cell is missing; if it is torn itself, the cell is reported all the same.
    fn read_failure(&mut self, store: &Store, name: &str) -> Result<()> {
        #[derive(Deserialize)]
        struct Failed {
            key: CellKey,
            error: String,
        }
        let path = store.cell_path(name);
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        if let Ok(Failed { key, error }) = serde_json::from_slice(&bytes) {
            self.failures.insert(key, error);
        }
        Ok(())
    }
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

/// One test image; texts are told apart by 64 bits of a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Image {
    /// Its path in the dataset.
    pub id: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Its true class.
    pub truth: u32,
    /// Its group; `None`: its own.
    pub group: Option<u64>,
}

/// Test images in order of their ids.
pub type Images = Arc<[Image]>;

/// Which answers are right, in the order of the images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right(Vec<u64>);

impl Right {
    /// One bit an answer.
    #[must_use]
    pub fn of(answers: impl IntoIterator<Item = bool>) -> Self {
        let mut words = Vec::new();
        for (i, right) in answers.into_iter().enumerate() {
            if i.is_multiple_of(64) {
                words.push(0);
            }
            if let Some(word) = words.last_mut() {
                *word |= u64::from(right) << (i % 64);
            }
        }
        words.shrink_to_fit();
        Self(words)
    }

    /// The answer to image `i`.
    #[must_use]
    pub fn get(&self, i: usize) -> bool {
        self.0.get(i / 64).is_some_and(|word| word >> (i % 64) & 1 == 1)
    }
}

/// Lists that cells have in common, each of them once.
#[derive(Debug, Default)]
pub struct Shared {
    images: HashSet<Images>,
    classes: HashSet<Arc<[String]>>,
}

impl Shared {
    /// The images of `rows`, and which of them have a right answer by `reading`.
    pub fn images(&mut self, mut rows: Vec<Prediction>, reading: Reading) -> (Images, Right) {
        rows.sort_by(|a, b| a.id.cmp(&b.id));
        let right = Right::of(rows.iter().map(|row| row.correct(reading)));
        let image = |row: &Prediction| Image {
            id: hash(&row.id),
            bytes: hash(&row.sha256),
            truth: row.truth,
            group: row.group.as_ref().map(hash),
        };
        (once(&mut self.images, rows.iter().map(image).collect()), right)
    }

    /// The class list.
    pub fn classes(&mut self, classes: Vec<String>) -> Arc<[String]> {
        once(&mut self.classes, classes.into())
    }
}

fn once<T: Hash + Eq>(known: &mut HashSet<Arc<[T]>>, list: Arc<[T]>) -> Arc<[T]> {
    if let Some(found) = known.get(&list) {
        return Arc::clone(found);
    }
    known.insert(Arc::clone(&list));
    list
}

fn hash(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The facts that two runs of one cell have to share to come out the same to the byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// As records tell it: `cpu`, or `cuda:` and a name.
    device: String,
    /// Devices of that kind.
    devices: usize,
    /// Threads on the CPU; elsewhere they compute nothing that counts.
    threads: usize,
    /// The kind of backend: `local`, or a service.
    backend: String,
    dtype: String,
    recipe: u32,
}

impl Machine {
    /// The place where a cell was made, and by which version of the numbers.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        let timing = &record.timing;
        let on_cpu = timing.device.is_empty() || timing.device == "cpu";
        Self {
            device: if on_cpu { "cpu".into() } else { timing.device.clone() },
            devices: timing.devices,
            threads: if on_cpu { timing.threads } else { 0 },
            backend: record.backend.clone(),
            dtype: record.dtype.clone(),
            recipe: record.recipe,
        }
    }

    /// True if two runs, one here and one there, of unchanged code give the same predictions: both on a CPU of this
    /// machine's process, in the same way. GPUs add in whatever order their threads come, services promise nothing.
    #[must_use]
    pub fn repeats(&self, other: &Self) -> bool {
        self == other && self.device == "cpu" && self.backend == "local"
    }

    /// The differences of this from where the baseline was made.
    #[must_use]
    pub fn beside(&self, baseline: &Self) -> String {
        if self == baseline {
            format!("on {self}, where runs differ by themselves")
        } else {
            format!("on {self}, the baseline on {baseline}")
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.device)?;
        if self.devices > 1 {
            write!(f, " × {}", self.devices)?;
        }
        if self.device == "cpu" {
            let plural = if self.threads == 1 { "" } else { "s" };
            write!(f, " with {} thread{plural}", self.threads)?;
        }
        if self.backend != "local" {
            write!(f, " by {}", self.backend)?;
        }
        write!(f, " in {}, recipe {}", self.dtype, self.recipe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_those_that_were_given() {
        let answers: Vec<bool> = (0..200).map(|i| i % 3 == 0 || i == 64).collect();
        let right = Right::of(answers.iter().copied());
        assert!((0..200).all(|i| right.get(i) == answers[i]));
        assert!(!right.get(200) && !right.get(10_000));
    }

    #[test]
    fn the_same_images_are_kept_once() {
        let row = |i: u32, answer| Prediction {
            id: format!("test/{i}.png"),
            sha256: "ab".into(),
            group: None,
            truth: 1,
            free_text: None,
            free_class: None,
            trie_class: None,
            likelihood_class: Some(answer),
            log_probs: None,
        };
        let mut shared = Shared::default();
        let (one, right) = shared.images(vec![row(1, 1), row(2, 0)], Reading::Likelihood);
        let (other, wrong) = shared.images(vec![row(2, 1), row(1, 0)], Reading::Likelihood);
        assert!(Arc::ptr_eq(&one, &other), "whatever the order of the rows");
        assert_eq!(
            [right.get(0), right.get(1), wrong.get(0), wrong.get(1)],
            [true, false, false, true]
        );
    }
}
