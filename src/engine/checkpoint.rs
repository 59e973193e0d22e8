//! States of training on disk.
//!
//! A state is a PEFT adapter folder with the optimiser's moments and a description beside it.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};

use super::base::Adapter;
use super::{AdapterId, Engine};
use crate::error::{Error, Result};
use crate::models::folder;
use crate::nn::Moments;

const SCHEMA: u32 = 1;
const STATE: &str = "state.json";
const ADAPTER: &str = "adapter_model.safetensors";
const OPTIMISER: &str = "optimiser.safetensors";

/// `state.json`.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    schema: u32,
    /// Steps of the optimiser so far.
    steps: u32,
    /// [`Engine::fingerprint`] of the model under the adapter.
    base: String,
    targets: Vec<String>,
    rank: usize,
    alpha: f64,
    /// Lower-case hex SHA-256 of the files beside this one.
    files: BTreeMap<String, String>,
}

impl Engine {
    /// Keeps an adapter with its optimiser in a folder, in place of what it held.
    ///
    /// # Errors
    /// [`Error::NoAdapter`]; [`Error::State`] when the folder holds something else than an adapter; [`Error::Io`] when
    /// it cannot be written: what was there stays.
    pub fn save_state(&self, id: AdapterId, dir: &Path) -> Result<()> {
        let adapter = self.adapter(id)?;
        check_place(dir)?;
        folder::replace(dir, |new| {
            adapter.model.save_adapter(new)?;
            save_moments(adapter, &new.join(OPTIMISER))?;
            let mut files = BTreeMap::new();
            for entry in fs::read_dir(new).map_err(Error::io("read", new))? {
                let path = entry.map_err(Error::io("read", new))?.path();
                if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
                    files.insert(name.to_owned(), folder::sha256(&path)?);
                }
            }
            let lora = &adapter.config.lora;
            let state = State {
                schema: SCHEMA,
                steps: adapter.optimiser.steps(),
                base: self.fingerprint().to_owned(),
                targets: lora.targets.clone(),
                rank: lora.rank,
                alpha: lora.alpha,
                files,
            };
            let path = new.join(STATE);
            let mut text = serde_json::to_string_pretty(&state).map_err(|e| state_error(&path, e.to_string()))?;
            text.push('\n');
            fs::write(&path, text).map_err(Error::io("write", &path))
        })
    }

    /// Goes back to a kept state; training then continues as if it had never stopped. Gradients that were not
    /// stepped with are dropped.
    ///
    /// # Errors
    /// [`Error::State`] when it is not there, torn, or of another adapter or model; the adapter is unchanged then.
    pub fn load_state(&mut self, id: AdapterId, dir: &Path) -> Result<()> {
        let dir = &folder::current(dir);
        let state = self.read_state(self.adapter(id)?, dir)?;
        let adapter = self.adapter(id)?;
        let device = self.base.device();
        let load = |name: &str| {
            let path = dir.join(name);
            candle_core::safetensors::load(&path, device).map_err(|e| state_error(&path, e.to_string()))
        };
        let (weights, moments) = (load(ADAPTER)?, load(OPTIMISER)?);
        let take = |from: &HashMap<String, Tensor>, name: &str, var: &Var| {
            let found = from.get(name).filter(|tensor| tensor.shape() == var.shape());
            found
                .cloned()
                .ok_or_else(|| state_error(dir, format!("lacks `{name}` of {:?}", var.shape())))
        };
        let (mut values, mut restored) = (Vec::new(), Vec::new());
        for (name, var) in &adapter.variables {
            values.push((var.clone(), take(&weights, name, var)?));
            restored.push(Moments {
                first: take(&moments, &format!("first.{name}"), var)?,
                second: take(&moments, &format!("second.{name}"), var)?,
            });
        }
        let adapter = self.adapter_mut(id)?;
        adapter.optimiser.restore(restored, state.steps)?;
        for (var, value) in values {
            var.set(&value)?;
        }
        adapter.gradients = None;
        Ok(())
    }

    /// Keeps the weights alone, as a PEFT folder, in place of what the folder held.
    ///
    /// # Errors
    /// As [`Engine::save_state`].
    pub fn save_weights_for_sampler(&self, id: AdapterId, dir: &Path) -> Result<()> {
        let adapter = self.adapter(id)?;
        check_place(dir)?;
        folder::replace(dir, |new| adapter.model.save_adapter(new))
    }

    fn read_state(&self, adapter: &Adapter, dir: &Path) -> Result<State> {
        let path = dir.join(STATE);
        let text = fs::read(&path).map_err(|e| state_error(&path, format!("cannot be read: {e}")))?;
        let state: State = serde_json::from_slice(&text).map_err(|e| state_error(&path, format!("is torn: {e}")))?;
        if state.schema != SCHEMA {
            return Err(state_error(&path, format!("has schema {}, not {SCHEMA}", state.schema)));
        }
        for name in [ADAPTER, OPTIMISER] {
            let path = dir.join(name);
            let found = folder::sha256(&path).map_err(|e| state_error(&path, format!("cannot be read: {e}")))?;
            if state.files.get(name) != Some(&found) {
                return Err(state_error(
                    &path,
                    "is torn: its bytes are not those that state.json names".into(),
                ));
            }
        }
        if state.base != self.fingerprint() {
            return Err(state_error(dir, "belongs to another base model".into()));
        }
        let lora = &adapter.config.lora;
        if (&state.targets, state.rank, state.alpha) != (&lora.targets, lora.rank, lora.alpha) {
            let reason = format!(
                "is of an adapter of targets {:?}, rank {}, alpha {}, not {:?}, {}, {}",
                state.targets, state.rank, state.alpha, lora.targets, lora.rank, lora.alpha
            );
            return Err(state_error(dir, reason));
        }
        Ok(state)
    }
}

fn save_moments(adapter: &Adapter, path: &Path) -> Result<()> {
    let named = adapter.variables.iter().zip(adapter.optimiser.moments());
    let both = |((name, _), moments): (&(String, Var), &Moments)| {
        [
            (format!("first.{name}"), moments.first.clone()),
            (format!("second.{name}"), moments.second.clone()),
        ]
    };
    let tensors: HashMap<String, Tensor> = named.flat_map(both).collect();
    candle_core::safetensors::save(&tensors, path).map_err(Error::saving(path))
}

/// Only an adapter's folder is replaced: another may hold somebody's work.
fn check_place(dir: &Path) -> Result<()> {
    let taken = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if taken && !dir.join(ADAPTER).is_file() {
        return Err(state_error(
            dir,
            "holds other files: an adapter needs a folder of its own".into(),
        ));
    }
    Ok(())
}

fn state_error(path: &Path, reason: String) -> Error {
    Error::State {
        path: path.to_path_buf(),
        reason,
    }
}
