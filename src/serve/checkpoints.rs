//! Checkpoints on disk, under `tinker://RUN/weights/NAME` and `tinker://RUN/sampler_weights/NAME`.
//!
//! ```text
//! STATE/runs/RUN/run.json                          the training run
//! STATE/runs/RUN/weights/NAME/checkpoint.json      written last: it says which of the folders beside it counts
//! STATE/runs/RUN/weights/NAME/1/…                  adapter and optimiser, as the engine saves them
//! STATE/runs/RUN/sampler_weights/NAME/1/…          the adapter alone, a PEFT folder
//! ```
//!
//! A checkpoint is there if its `checkpoint.json` is: a process that is killed while it saves leaves either the checkpoint
//! that was there before, or the new one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::held::{HeldFolder, Holds, remove};
use super::refusal::Refusal;
use super::tinker_path::{Kind, TinkerPath, is_run};
use crate::error::{Error, Result};
use crate::fs::file;

const RUN: &str = "run.json";
const CHECKPOINT: &str = "checkpoint.json";

/// Shape and start of an adapter, as `create_model` asked for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct LoraInfo {
    pub(super) rank: usize,
    pub(super) alpha: f64,
    pub(super) seed: u64,
    pub(super) train_attn: bool,
    pub(super) train_mlp: bool,
    pub(super) train_unembed: bool,
}

/// `run.json`: a training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct RunInfo {
    pub(super) id: String,
    pub(super) base_model: String,
    /// Fingerprint of the base's weights.
    pub(super) base: String,
    pub(super) lora: LoraInfo,
    #[serde(default)]
    pub(super) user_metadata: BTreeMap<String, String>,
    pub(super) created: Moment,
    pub(super) last_request: Moment,
}

/// `checkpoint.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    kind: Kind,
    name: String,
    /// Number of the folder that counts.
    folder: u64,
    /// The run as it was then: a checkpoint can be loaded from this alone.
    pub(super) run: RunInfo,
    time: Moment,
    size_bytes: u64,
    public: bool,
    user_metadata: BTreeMap<String, String>,
    expires_at: Option<Moment>,
}

impl Checkpoint {
    /// Its path.
    pub(super) fn path(&self) -> TinkerPath {
        TinkerPath {
            run: self.run.id.clone(),
            kind: self.kind,
            name: self.name.clone(),
        }
    }

    fn expired(&self) -> bool {
        self.expires_at.is_some_and(|end| end <= Moment::now())
    }

    /// As listings have it.
    pub(super) fn json(&self) -> Value {
        json!({
            "checkpoint_id": format!("{}/{}", self.kind.segment(), self.name), "checkpoint_type": self.kind.listed(),
            "time": self.time, "tinker_path": self.path().to_string(), "size_bytes": self.size_bytes,
            "public": self.public, "user_metadata": self.user_metadata, "expires_at": self.expires_at,
        })
    }
}

/// A time, written as the SDK reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Moment(DateTime<Utc>);

impl Moment {
    /// This one.
    pub(super) fn now() -> Self {
        Self(Utc::now())
    }

    /// Seconds since 1970.
    pub(super) fn seconds(self) -> i64 {
        self.0.timestamp()
    }

    /// So many seconds after it.
    pub(super) fn after(self, seconds: i64) -> Self {
        Self(self.0 + TimeDelta::seconds(seconds))
    }
}

impl From<Moment> for String {
    fn from(Moment(time): Moment) -> Self {
        time.to_rfc3339_opts(SecondsFormat::Micros, true)
    }
}

impl TryFrom<String> for Moment {
    type Error = chrono::ParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        DateTime::parse_from_rfc3339(&text).map(|time| Self(time.into()))
    }
}

/// Settings of a save.
#[derive(Debug, Clone, Default)]
pub(super) struct Saving {
    /// Time to live, in seconds from the moment when the checkpoint is there.
    pub(super) ttl_seconds: Option<i64>,
    pub(super) overwrite: bool,
    pub(super) user_metadata: BTreeMap<String, String>,
}

/// The folder of all checkpoints. One process at a time has it.
#[derive(Debug)]
pub(super) struct Checkpoints {
    runs: PathBuf,
    /// Samplers without a name, gone with their session.
    passing: PathBuf,
    /// Held while what is noted of a checkpoint changes, and not while its weights are written. The last folder's number.
    changing: Mutex<u64>,
    holds: Holds,
    _lock: fs::File,
}

impl Checkpoints {
    /// Makes the folder, or takes what is there without what killed processes had begun to save.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written; [`Error::State`] when another server has it.
    pub(super) fn open(state: &Path) -> Result<Self> {
        file::make_writable_folder(state)?;
        let state = state.canonicalize().map_err(Error::io("read", state))?;
        let (runs, passing) = (state.join("runs"), state.join("passing"));
        fs::create_dir_all(&runs).map_err(Error::io("make", &runs))?;
        let path = state.join("lock");
        let lock = fs::File::create(&path).map_err(Error::io("write", &path))?;
        if let Err(fs::TryLockError::WouldBlock) = lock.try_lock() {
            let reason = format!(
                "another server keeps its checkpoints in {}: give this one a folder of its own",
                state.display()
            );
            return Err(Error::config("--state", reason));
        }
        remove(&passing)?;
        fs::create_dir_all(&passing).map_err(Error::io("make", &passing))?;
        remove_unfinished(&runs)?;
        Ok(Self {
            runs,
            passing,
            changing: Mutex::default(),
            holds: Holds::default(),
            _lock: lock,
        })
    }

    /// A path for what ends with its session: weights of a sampler without a name, an adapter that was put away.
    pub(super) fn passing(&self, id: &str) -> PathBuf {
        self.passing.join(id)
    }

    fn change_begins(&self) -> MutexGuard<'_, u64> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a run.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn note_run(&self, run: &RunInfo) -> Result<()> {
        let _changing = self.change_begins();
        let dir = self.runs.join(&run.id);
        fs::create_dir_all(&dir).map_err(Error::io("make", &dir))?;
        write_json(&dir.join(RUN), run)
    }

    /// A run that was noted, also by an earlier process.
    pub(super) fn run(&self, id: &str) -> Option<RunInfo> {
        if !is_run(id) {
            return None;
        }
        file::read_json(&self.runs.join(id).join(RUN))
    }

    /// All runs that were noted, the newest first.
    pub(super) fn runs(&self) -> Vec<RunInfo> {
        let mut runs: Vec<RunInfo> = names(&self.runs).iter().filter_map(|id| self.run(id)).collect();
        runs.sort_by(|a, b| (b.created, &b.id).cmp(&(a.created, &a.id)));
        runs
    }

    /// Keeps a checkpoint: `fill` writes into a folder of its own. When this returns it is on the disk.
    ///
    /// # Errors
    /// Those of `fill`; [`Error::Exists`] when there is one of that name and it may not be replaced; [`Error::Io`].
    pub(super) fn save(
        &self,
        path: &TinkerPath,
        run: &RunInfo,
        saving: &Saving,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        let dir = self.dir(path);
        let folder = self.new_number(path, saving)?;
        let new = dir.join(folder.to_string());
        fs::create_dir_all(&dir).map_err(Error::io("make", &dir))?;
        let kept = fill(&new)
            .and_then(|()| dir.ancestors().take(4).try_for_each(file::flush))
            .and_then(|()| {
                let _changing = self.change_begins();
                // Another save may have been faster.
                self.check_free(path, saving)?;
                let time = Moment::now();
                let checkpoint = Checkpoint {
                    kind: path.kind,
                    name: path.name.clone(),
                    folder,
                    run: run.clone(),
                    time,
                    size_bytes: size(&new),
                    public: false,
                    user_metadata: saving.user_metadata.clone(),
                    expires_at: saving.ttl_seconds.map(|seconds| time.after(seconds)),
                };
                let replaced = self.read(path);
                write_json(&dir.join(CHECKPOINT), &checkpoint)?;
                if let Some(replaced) = replaced
                    && let Err(error) = self.holds.discard(&dir.join(replaced.folder.to_string()))
                {
                    tracing::warn!("{error}");
                }
                Ok(())
            });
        if let Err(error) = kept {
            // The first failure is the one to report.
            let _ = remove(&new);
            return Err(error);
        }
        self.note_run(run)
    }

    /// # Errors
    /// [`Error::Exists`] when there is a checkpoint that may not be replaced.
    fn check_free(&self, path: &TinkerPath, saving: &Saving) -> Result<()> {
        match self.read(path) {
            Some(old) if !old.expired() && !saving.overwrite => Err(Error::Exists {
                path: path.to_string().into(),
            }),
            _ => Ok(()),
        }
    }

    /// A number that no folder had before, also of a checkpoint that is gone: whoever keeps weights in memory tells them apart by
    /// their folders.
    ///
    /// # Errors
    /// As [`Checkpoints::check_free`].
    fn new_number(&self, path: &TinkerPath, saving: &Saving) -> Result<u64> {
        let mut last = self.change_begins();
        self.check_free(path, saving)?;
        let numbers = names(&self.dir(path)).into_iter();
        let numbers = numbers.filter_map(|name| name.parse::<u64>().ok());
        let there = numbers.max().unwrap_or(0).max(*last);
        *last = Utc::now().timestamp_micros().cast_unsigned().max(there + 1);
        Ok(*last)
    }

    /// The checkpoint of a path.
    ///
    /// # Errors
    /// A refusal when it is not there, or not any more.
    pub(super) fn find(&self, path: &TinkerPath) -> Result<Checkpoint, Refusal> {
        let found = is_run(&path.run).then(|| self.read(path)).flatten();
        match found {
            Some(checkpoint) if checkpoint.expired() => {
                Err(Refusal::not_found(format!("checkpoint `{path}` has expired")))
            }
            Some(checkpoint) => Ok(checkpoint),
            None => Err(Refusal::not_found(format!("there is no checkpoint `{path}`"))),
        }
    }

    /// The checkpoint of a path and its folder, which stays as it is while it is held, also if the checkpoint is replaced or deleted.
    ///
    /// # Errors
    /// As [`Checkpoints::find`].
    pub(super) fn hold(&self, path: &TinkerPath) -> Result<(Checkpoint, Arc<HeldFolder>), Refusal> {
        let _changing = self.change_begins();
        let checkpoint = self.find(path)?;
        let folder = self.holds.hold(self.dir(path).join(checkpoint.folder.to_string()));
        Ok((checkpoint, folder))
    }

    /// The checkpoints of a run, the newest first.
    pub(super) fn of_run(&self, run: &str) -> Vec<Checkpoint> {
        let mut all = Vec::new();
        for kind in Kind::ALL {
            for name in names(&self.runs.join(run).join(kind.segment())) {
                let run = run.to_owned();
                all.extend(self.read(&TinkerPath { run, kind, name }));
            }
        }
        all.retain(|checkpoint| !checkpoint.expired());
        all.sort_by(|a, b| (b.time, &b.name).cmp(&(a.time, &a.name)));
        all
    }

    /// Changes what is noted of a checkpoint.
    ///
    /// # Errors
    /// As [`Checkpoints::find`].
    fn change(&self, path: &TinkerPath, change: impl FnOnce(&mut Checkpoint)) -> Result<(), Refusal> {
        let _changing = self.change_begins();
        let mut checkpoint = self.find(path)?;
        change(&mut checkpoint);
        write_json(&self.dir(path).join(CHECKPOINT), &checkpoint)?;
        Ok(())
    }

    /// Marks a checkpoint as public or not.
    ///
    /// # Errors
    /// As [`Checkpoints::find`].
    pub(super) fn publish(&self, path: &TinkerPath, public: bool) -> Result<(), Refusal> {
        self.change(path, |checkpoint| checkpoint.public = public)
    }

    /// Sets or clears the time when a checkpoint expires.
    ///
    /// # Errors
    /// As [`Checkpoints::find`].
    pub(super) fn expire(&self, path: &TinkerPath, expires_at: Option<Moment>) -> Result<(), Refusal> {
        self.change(path, |checkpoint| checkpoint.expires_at = expires_at)
    }

    /// Removes a checkpoint.
    ///
    /// # Errors
    /// As [`Checkpoints::find`]; when it cannot be removed.
    pub(super) fn delete(&self, path: &TinkerPath) -> Result<(), Refusal> {
        let _changing = self.change_begins();
        let checkpoint = self.find(path)?;
        self.remove_checkpoint(path, &checkpoint)?;
        Ok(())
    }

    /// Removes what has expired. To be called now and then.
    pub(super) fn remove_expired(&self) {
        for id in names(&self.runs) {
            for kind in Kind::ALL {
                for name in names(&self.runs.join(&id).join(kind.segment())) {
                    let run = id.clone();
                    let path = TinkerPath { run, kind, name };
                    let _changing = self.change_begins();
                    let expired = self.read(&path).filter(Checkpoint::expired);
                    if let Some(expired) = expired
                        && let Err(error) = self.remove_checkpoint(&path, &expired)
                    {
                        tracing::warn!("cannot remove `{path}`, which has expired: {error}");
                    }
                }
            }
        }
    }

    /// Removes the folders of runs that have no checkpoint, but for those that `alive` is true of. To be called now and then.
    pub(super) fn remove_empty_runs(&self, alive: impl Fn(&str) -> bool) {
        for id in names(&self.runs) {
            let _changing = self.change_begins();
            if alive(&id) {
                continue;
            }
            // A folder that something is in stays: that is the answer to `remove_dir`.
            let dir = self.runs.join(&id);
            for kind in Kind::ALL {
                let kind = dir.join(kind.segment());
                for name in names(&kind) {
                    let _ = fs::remove_dir(kind.join(name));
                }
                let _ = fs::remove_dir(kind);
            }
            if names(&dir).iter().all(|name| name == RUN)
                && let Err(error) = remove(&dir)
            {
                tracing::warn!("{error}");
            }
        }
    }

    fn remove_checkpoint(&self, path: &TinkerPath, checkpoint: &Checkpoint) -> Result<()> {
        let dir = self.dir(path);
        file::remove_if_present(&dir.join(CHECKPOINT))?;
        file::flush(&dir)?;
        self.holds.discard(&dir.join(checkpoint.folder.to_string()))?;
        // A folder that is still held, or being written, keeps it.
        let _ = fs::remove_dir(dir);
        Ok(())
    }

    fn dir(&self, path: &TinkerPath) -> PathBuf {
        self.runs.join(&path.run).join(path.kind.segment()).join(&path.name)
    }

    fn read(&self, path: &TinkerPath) -> Option<Checkpoint> {
        file::read_json(&self.dir(path).join(CHECKPOINT))
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec_pretty(value).map_err(|e| Error::malformed("checkpoint", path, e))?;
    file::replace(path, &text)
}

/// Names in a folder that may be absent.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// Bytes of the files of a folder.
fn size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.metadata().ok())
        .map(|file| file.len())
        .sum()
}

/// Removes what killed processes had begun to save, and what they had yet to remove.
///
/// # Errors
/// [`Error::Io`] when it cannot be removed.
fn remove_unfinished(runs: &Path) -> Result<()> {
    for id in names(runs) {
        let run = runs.join(id);
        for name in names(&run).iter().filter(|name| name.ends_with(".tmp")) {
            file::remove_if_present(&run.join(name))?;
        }
        for kind in Kind::ALL {
            for name in names(&run.join(kind.segment())) {
                let dir = run.join(kind.segment()).join(name);
                let there = dir.join(CHECKPOINT);
                let checkpoint: Option<Checkpoint> = file::read_json(&there);
                if checkpoint.is_none() && there.exists() {
                    tracing::warn!("`{}` cannot be read: what is beside it stays", there.display());
                    continue;
                }
                let counts = checkpoint.map(|checkpoint| checkpoint.folder.to_string());
                for name in names(&dir) {
                    let entry = dir.join(&name);
                    if name == CHECKPOINT || counts.as_deref() == Some(name.as_str()) {
                        continue;
                    }
                    if entry.is_dir() {
                        remove(&entry)?;
                    } else {
                        file::remove_if_present(&entry)?;
                    }
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "01234567-89ab-cdef-0123-456789abcdef:train:0";

    fn run() -> RunInfo {
        RunInfo {
            id: ID.into(),
            base_model: "micro".into(),
            base: "f".into(),
            lora: LoraInfo {
                rank: 4,
                alpha: 32.0,
                seed: 0,
                train_attn: true,
                train_mlp: true,
                train_unembed: false,
            },
            user_metadata: BTreeMap::new(),
            created: Moment::now(),
            last_request: Moment::now(),
        }
    }

    fn write(text: &'static str) -> impl FnOnce(&Path) -> Result<()> {
        move |dir| {
            fs::create_dir_all(dir).unwrap();
            fs::write(dir.join("adapter"), text).unwrap();
            Ok(())
        }
    }

    #[test]
    fn a_checkpoint_survives_its_server_and_is_replaced_whole() {
        let state = tempfile::tempdir().unwrap();
        let path = TinkerPath::parse(&format!("tinker://{ID}/weights/000004")).unwrap();
        let checkpoints = Checkpoints::open(state.path()).unwrap();
        assert_eq!(checkpoints.find(&path).unwrap_err().status, 404);
        checkpoints
            .save(&path, &run(), &Saving::default(), write("one"))
            .unwrap();
        assert!(Checkpoints::open(state.path()).is_err());
        assert!(
            checkpoints
                .save(&path, &run(), &Saving::default(), write("two"))
                .is_err()
        );
        drop(checkpoints);

        let checkpoints = Checkpoints::open(state.path()).unwrap();
        let text = |checkpoints: &Checkpoints| {
            let (_, dir) = checkpoints.hold(&path).unwrap();
            fs::read_to_string(dir.path().join("adapter")).unwrap()
        };
        assert_eq!(text(&checkpoints), "one");
        let saving = Saving {
            overwrite: true,
            ..Saving::default()
        };
        let failed = checkpoints.save(&path, &run(), &saving, |dir| {
            write("three")(dir)?;
            Err(Error::NoGradients)
        });
        assert!(failed.is_err() && text(&checkpoints) == "one");
        checkpoints.save(&path, &run(), &saving, write("four")).unwrap();
        assert_eq!((text(&checkpoints), checkpoints.of_run(ID).len()), ("four".into(), 1));
        let there = checkpoints.find(&path).unwrap();
        assert_eq!(names(&checkpoints.dir(&path)), [&there.folder.to_string(), CHECKPOINT]);
        checkpoints.publish(&path, true).unwrap();
        assert_eq!(checkpoints.of_run(ID)[0].json()["public"], true);
        checkpoints.expire(&path, Some(Moment::now().after(-1))).unwrap();
        assert_eq!(checkpoints.find(&path).unwrap_err().status, 404);
        checkpoints.remove_expired();
        assert!(!checkpoints.dir(&path).exists() && checkpoints.runs().len() == 1);
        // Weights in memory are known by their folder: no name has it again.
        checkpoints
            .save(&path, &run(), &Saving::default(), write("five"))
            .unwrap();
        assert_ne!(checkpoints.find(&path).unwrap().folder, there.folder);
    }

    #[test]
    fn a_folder_in_use_outlives_its_checkpoint() {
        let state = tempfile::tempdir().unwrap();
        let path = TinkerPath::parse(&format!("tinker://{ID}/sampler_weights/a")).unwrap();
        let checkpoints = Checkpoints::open(state.path()).unwrap();
        let saving = Saving {
            overwrite: true,
            ..Saving::default()
        };
        let save = |text| checkpoints.save(&path, &run(), &saving, write(text)).unwrap();
        let text = |held: &HeldFolder| fs::read_to_string(held.path().join("adapter")).unwrap();
        save("one");
        let (_, one) = checkpoints.hold(&path).unwrap();
        save("two");
        let (_, two) = checkpoints.hold(&path).unwrap();
        assert_eq!((text(&one), text(&two)), ("one".into(), "two".into()));
        checkpoints.delete(&path).unwrap();
        assert_eq!(checkpoints.hold(&path).unwrap_err().status, 404);
        assert_eq!(text(&two), "two");
        drop((one, two));
        assert_eq!(names(&checkpoints.dir(&path)), [""; 0]);
    }

    #[test]
    fn others_change_their_checkpoints_while_one_is_saved() {
        let state = tempfile::tempdir().unwrap();
        let path = |name: &str| TinkerPath::of(ID, &format!("weights/{name}")).unwrap();
        let checkpoints = Checkpoints::open(state.path()).unwrap();
        let save = |name: &str| checkpoints.save(&path(name), &run(), &Saving::default(), write("x"));
        save("a").unwrap();
        let (sender, done) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let saved = checkpoints.save(&path("slow"), &run(), &Saving::default(), |dir| {
                scope.spawn(|| {
                    checkpoints.publish(&path("a"), true).unwrap();
                    save("b").unwrap();
                    checkpoints.delete(&path("a")).unwrap();
                    checkpoints.remove_empty_runs(|_| false);
                    sender.send(()).unwrap();
                });
                done.recv_timeout(std::time::Duration::from_secs(20))
                    .map_err(|_| Error::NoGradients)?;
                write("slow")(dir)
            });
            saved.unwrap();
        });
        let there: Vec<String> = checkpoints.of_run(ID).into_iter().map(|one| one.name).collect();
        assert_eq!(there, ["slow", "b"]);
    }

    #[test]
    fn time_to_live_begins_when_the_checkpoint_is_there() {
        let state = tempfile::tempdir().unwrap();
        let path = TinkerPath::of(ID, "weights/a").unwrap();
        let checkpoints = Checkpoints::open(state.path()).unwrap();
        let saving = Saving {
            ttl_seconds: Some(60),
            ..Saving::default()
        };
        let slow = |dir: &Path| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            write("x")(dir)
        };
        checkpoints.save(&path, &run(), &saving, slow).unwrap();
        let there = checkpoints.find(&path).unwrap();
        assert_eq!(there.expires_at, Some(there.time.after(60)));
    }

    #[test]
    fn what_a_kill_leaves_goes_at_the_next_start_and_runs_without_checkpoints_go() {
        let state = tempfile::tempdir().unwrap();
        let path = TinkerPath::of(ID, "weights/a").unwrap();
        let checkpoints = Checkpoints::open(state.path()).unwrap();
        checkpoints
            .save(&path, &run(), &Saving::default(), write("one"))
            .unwrap();
        let counts = checkpoints.find(&path).unwrap().folder.to_string();
        let dir = checkpoints.dir(&path);
        let run_dir = checkpoints.runs.join(ID);
        // A checkpoint over another, one of a new name, and notes that were being written.
        for left in [
            dir.join("99999999999999999.x-1-2-3-0.tmp"),
            dir.join("99"),
            run_dir.join("sampler_weights/b/7"),
        ] {
            write("torn")(&left).unwrap();
        }
        for left in [
            dir.join("checkpoint.json.x-1-2-3-0.tmp"),
            run_dir.join("run.json.x-1-2-3-0.tmp"),
        ] {
            fs::write(left, "{").unwrap();
        }
        drop(checkpoints);
        let checkpoints = Checkpoints::open(state.path()).unwrap();
        assert_eq!(names(&dir), [&counts, CHECKPOINT]);
        assert_eq!(names(&run_dir.join("sampler_weights/b")), [""; 0]);
        assert_eq!(names(&run_dir), [RUN, "sampler_weights", "weights"]);
        checkpoints.remove_empty_runs(|_| false);
        assert_eq!(names(&run_dir), [RUN, "weights"]);
        checkpoints.delete(&path).unwrap();
        checkpoints.remove_empty_runs(|id| id == ID);
        assert!(checkpoints.run(ID).is_some());
        checkpoints.remove_empty_runs(|_| false);
        assert!(!run_dir.exists());
    }
}
