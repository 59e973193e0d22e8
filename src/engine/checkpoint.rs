//! States of training on disk.
//!
//! A state is a PEFT adapter folder with the optimiser's moments and a description beside it. It is written under
//! another name, flushed and renamed, so that a folder of the right name is whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::base::Adapter;
use super::{AdapterId, Engine};
use crate::data::hex;
use crate::error::{Error, Result};
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
    /// [`Error::NoAdapter`]; [`Error::Io`] when it cannot be written: what was there stays.
    pub fn save_state(&self, id: AdapterId, dir: &Path) -> Result<()> {
        let adapter = self.adapter(id)?;
        replace_folder(dir, |folder| {
            adapter.model.save_adapter(folder)?;
            save_moments(adapter, &folder.join(OPTIMISER))?;
            let mut files = BTreeMap::new();
            for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
                let path = entry.map_err(Error::io("read", folder))?.path();
                if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
                    files.insert(name.to_owned(), sha256(&path)?);
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
            let path = folder.join(STATE);
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
        let kept = [dir.to_path_buf(), beside(dir, "old")];
        let dir = kept.iter().find(|dir| dir.is_dir()).unwrap_or(&kept[0]);
        let state = self.read_state(self.adapter(id)?, dir)?;
        let adapter = self.adapter(id)?;
        let device = self.base.device();
        let load = |name: &str| {
            let path = dir.join(name);
            candle_core::safetensors::load(&path, device).map_err(|e| state_error(&path, e.to_string()))
        };
        let (weights, moments) = (load(ADAPTER)?, load(OPTIMISER)?);
        let take = |from: &std::collections::HashMap<String, Tensor>, name: &str, var: &Var| {
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
    /// [`Error::NoAdapter`]; [`Error::Io`].
    pub fn save_weights_for_sampler(&self, id: AdapterId, dir: &Path) -> Result<()> {
        let adapter = self.adapter(id)?;
        replace_folder(dir, |folder| adapter.model.save_adapter(folder))
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
            if state.files.get(name) != Some(&sha256(&path)?) {
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
    let tensors: std::collections::HashMap<String, Tensor> = named.flat_map(both).collect();
    Ok(candle_core::safetensors::save(&tensors, path)?)
}

/// Lets `fill` write into a new folder beside `dir`, flushes its files and puts it in the place of `dir`.
fn replace_folder(dir: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let (new, old) = (beside(dir, "tmp"), beside(dir, "old"));
    remove(&new)?;
    let written = fs::create_dir_all(&new)
        .map_err(Error::io("make", &new))
        .and_then(|()| fill(&new))
        .and_then(|()| flush(&new));
    if let Err(error) = written {
        // The first failure is the one to report; what is left behind would only waste space.
        let _ = remove(&new);
        return Err(error);
    }
    if dir.is_dir() {
        remove(&old)?;
        fs::rename(dir, &old).map_err(Error::io("rename", dir))?;
    }
    fs::rename(&new, dir).map_err(Error::io("rename", &new))?;
    if let Some(parent) = dir.parent().filter(|parent| *parent != Path::new("")) {
        sync(parent)?;
    }
    remove(&old)
}

fn flush(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        sync(&entry.map_err(Error::io("read", folder))?.path())?;
    }
    sync(folder)
}

fn sync(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(Error::io("flush", path))
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", folder)(e)),
        _ => Ok(()),
    }
}

/// `<dir>.<end>`
fn beside(dir: &Path, end: &str) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(".");
    name.push(end);
    name.into()
}

fn sha256(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(|e| state_error(path, format!("cannot be read: {e}")))?;
    Ok(hex(&Sha256::digest(bytes)))
}

fn state_error(path: &Path, reason: String) -> Error {
    Error::State {
        path: path.to_path_buf(),
        reason,
    }
}
