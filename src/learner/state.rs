//! The checkpoint of a training: weights and optimiser as the learner writes them, the position in the training, and the SHA-256
//! of every file, in a folder that is replaced as a whole.
//!
//! ```text
//! states/<run_id>/training.json   the position
//! states/<run_id>/learner/…       weights and optimiser
//! states/<run_id>/SHA256SUMS      of all of these, as sha256sum writes it
//! ```

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::checkpoint::folder;
use crate::error::{Error, Result};
use crate::learner::order::Plan;

const SCHEMA: u32 = 1;
const POSITION: &str = "training.json";
const LEARNER: &str = "learner";

/// The folder where a training keeps its checkpoint.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    /// A folder of its own; each checkpoint takes the place of the one before.
    pub folder: PathBuf,
    /// Optimiser steps between two checkpoints; a last one follows the last step.
    pub every: usize,
    /// The cell that is trained: nothing goes on from the checkpoint of another.
    pub run_id: String,
}

impl Checkpoints {
    /// Removes the checkpoint, if there is one.
    ///
    /// # Errors
    /// [`Error::Io`] when it stays.
    pub fn forget(&self) -> Result<()> {
        folder::forget(&self.folder)
    }
}

/// The position in a training: `training.json` less what tells whose it is.
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
    /// The path of weights and optimiser, if not the folder beside this file.
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

/// Replaces the state. `save` writes weights and optimiser under a name, as a learner does.
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
        let text = serde_json::to_string_pretty(&state).map_err(|e| folder::torn(&path, &e.to_string()))?;
        fs::write(&path, text + "\n").map_err(Error::io("write", &path))?;
        folder::write_sums(new)
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
    folder::check_sums(&dir)?;
    let path = dir.join(POSITION);
    let text = fs::read(&path).map_err(|e| folder::torn(&path, &e.to_string()))?;
    let state: State = serde_json::from_slice(&text).map_err(|e| folder::torn(&path, &e.to_string()))?;
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
