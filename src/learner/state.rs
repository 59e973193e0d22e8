//! The state of a training on disk: weights and optimiser as the learner writes them, the position in the training, and
//! the SHA-256 of every file, in a folder that is replaced as a whole.
//!
//! ```text
//! states/<run_id>/training.json   the position
//! states/<run_id>/learner/…       weights and optimiser
//! states/<run_id>/SHA256SUMS      of all of these, as sha256sum writes it
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::learner::order::Plan;
use crate::learner::training::Checkpoints;
use crate::models::folder;

const SCHEMA: u32 = 1;
const POSITION: &str = "training.json";
const LEARNER: &str = "learner";
const SUMS: &str = "SHA256SUMS";

/// How far a training has come: `training.json` less what tells whose it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Position {
    /// Of the base model's weights.
    base: String,
    /// [`Plan::digest`]: order and random decisions, of which `done` steps are used up.
    draws: String,
    /// Steps done.
    pub(super) done: usize,
    /// Loss of the last one, nats.
    pub(super) loss: f64,
    /// Losses of the steps that count for the final loss, so far.
    pub(super) last_losses: Vec<f64>,
    /// Seconds of training so far.
    pub(super) seconds: f64,
}

/// `training.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    schema: u32,
    run_id: String,
    position: Position,
    /// Where weights and optimiser are, if not in the folder beside this file.
    elsewhere: Option<String>,
}

impl Position {
    /// Before the first step.
    pub(super) fn start(plan: &Plan) -> Self {
        Self {
            base: plan.base.clone(),
            draws: plan.digest(),
            done: 0,
            loss: f64::NAN,
            last_losses: Vec::new(),
            seconds: 0.0,
        }
    }
}

/// Replaces the state. `save` writes weights and optimiser under a name, as [`super::training::Steps::save`].
///
/// # Errors
/// Those of `save`; [`Error::Io`]. The state before stays.
pub(super) fn write(
    keep: &Checkpoints,
    position: &Position,
    save: &mut dyn FnMut(&str) -> Result<Option<String>>,
) -> Result<()> {
    folder::replace(&keep.folder, |new| {
        let elsewhere = save(&new.join(LEARNER).display().to_string())?;
        let state = State {
            schema: SCHEMA,
            run_id: keep.run_id.clone(),
            position: position.clone(),
            elsewhere,
        };
        let path = new.join(POSITION);
        let text = serde_json::to_string_pretty(&state).map_err(|e| torn(&path, &e.to_string()))?;
        fs::write(&path, text + "\n").map_err(Error::io("write", &path))?;
        let (sums, path) = (sums(new)?, new.join(SUMS));
        fs::write(&path, sums).map_err(Error::io("write", &path))
    })
}

/// The position, and the name of weights and optimiser; `None` when nothing is kept.
///
/// # Errors
/// [`Error::State`] when it is torn or of another training.
pub(super) fn read(keep: &Checkpoints, plan: &Plan) -> Result<Option<(Position, String)>> {
    let dir = folder::current(&keep.folder);
    if !dir.is_dir() {
        return Ok(None);
    }
    check(&dir)?;
    let path = dir.join(POSITION);
    let text = fs::read(&path).map_err(|e| torn(&path, &e.to_string()))?;
    let state: State = serde_json::from_slice(&text).map_err(|e| torn(&path, &e.to_string()))?;
    let start = Position::start(plan);
    let fits = state.schema == SCHEMA
        && state.run_id == keep.run_id
        && (&state.position.base, &state.position.draws) == (&start.base, &start.draws)
        && (1..=plan.steps()).contains(&state.position.done);
    if !fits {
        let State { schema, run_id, .. } = state;
        let reason = format!(
            "is of cell {run_id} (schema {schema}), not of this training of cell {} (schema {SCHEMA})",
            keep.run_id
        );
        return Err(Error::State { path, reason });
    }
    let name = state
        .elsewhere
        .unwrap_or_else(|| dir.join(LEARNER).display().to_string());
    Ok(Some((state.position, name)))
}

/// Every file is there with the bytes that were written, and no other.
fn check(dir: &Path) -> Result<()> {
    let path = dir.join(SUMS);
    let written = fs::read(&path).map_err(|e| torn(&path, &e.to_string()))?;
    let written = String::from_utf8_lossy(&written);
    let found = sums(dir)?;
    if written == found {
        return Ok(());
    }
    let unlike = |line: &&str| !written.lines().any(|other| other == *line);
    let named = found.lines().find(unlike).and_then(|line| line.split_once("  "));
    Err(match named {
        Some((_, file)) => torn(&dir.join(file), "its bytes are not those that SHA256SUMS names"),
        None => torn(&path, "it does not fit the files beside it"),
    })
}

/// `sha256  path` of every file below the folder but the sums themselves, sorted by path.
fn sums(dir: &Path) -> Result<String> {
    let mut files = Vec::new();
    list(dir, &mut files)?;
    files.sort();
    let mut sums = String::new();
    for path in files {
        let name = path.strip_prefix(dir).unwrap_or(&path);
        if name != Path::new(SUMS) {
            sums += &format!("{}  {}\n", folder::sha256(&path)?, name.display());
        }
    }
    Ok(sums)
}

fn list(dir: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let path = entry.map_err(Error::io("read", dir))?.path();
        if path.is_dir() {
            list(&path, into)?;
        } else {
            into.push(path);
        }
    }
    Ok(())
}

fn torn(path: &Path, reason: &str) -> Error {
    Error::State {
        path: path.to_path_buf(),
        reason: format!("is torn: {reason}"),
    }
}
