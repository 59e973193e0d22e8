//! Variables in training with their gradients and optimiser, and the one form that they have on disk.
//!
//! ```text
//! adapter_model.safetensors   the variables by name
//! optimiser.safetensors       `first.<name>` and `second.<name>`: the moments of each
//! state.json                  steps, base model and adapter
//! SHA256SUMS                  of all of these, as sha256sum writes it
//! ```

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::fs::folder;
use crate::models::lora::Lora;
use crate::nn::{AdamParams, AdamW, Moments, ParamGroup, add_gradients};

/// 2: hashes are in a file of their own.
const SCHEMA: u32 = 2;
const STATE: &str = "state.json";
/// The variables, under the name of PEFT's file, which has them by the same names.
pub(super) const WEIGHTS: &str = "adapter_model.safetensors";
const OPTIMISER: &str = "optimiser.safetensors";
/// The number of steps in a file that holds everything.
const STEPS: &str = "steps";

/// `state.json`.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    schema: u32,
    /// Steps of the optimiser so far.
    steps: u32,
    /// Fingerprint of the model under the adapter.
    base: String,
    targets: Vec<String>,
    rank: usize,
    alpha: f64,
}

/// Variables in training. Gradients add up until a step.
#[derive(Debug)]
pub(crate) struct TrainState {
    variables: Vec<(String, Var)>,
    optimiser: AdamW,
    gradients: Option<GradStore>,
}

impl TrainState {
    /// The variables of `groups`, in their order, by name; their optimiser has not taken a step.
    pub(crate) fn new(variables: Vec<(String, Var)>, groups: Vec<ParamGroup>) -> Result<Self> {
        Ok(Self {
            variables,
            optimiser: AdamW::new(groups)?,
            gradients: None,
        })
    }

    /// Names and variables.
    pub(crate) fn variables(&self) -> &[(String, Var)] {
        &self.variables
    }

    /// The gradients so far, of the variables that have one, by name.
    pub(crate) fn gradients(&self) -> Vec<(String, Tensor)> {
        let found = |(name, var): &(String, Var)| Some((name.clone(), self.gradients.as_ref()?.get(var)?.clone()));
        self.variables.iter().filter_map(found).collect()
    }

    /// Steps so far.
    pub(crate) fn steps(&self) -> usize {
        self.optimiser.steps() as usize
    }

    /// Adds gradients to those that are there.
    pub(crate) fn add_gradients(&mut self, new: &GradStore) -> Result<()> {
        let vars = self.variables.iter().map(|(_, var)| var);
        add_gradients(self.gradients.get_or_insert_default(), new, vars)
    }

    /// Drops the gradients.
    pub(crate) fn drop_gradients(&mut self) {
        self.gradients = None;
    }

    /// Drops the gradients and takes one step with them; gives their norm before clipping.
    pub(crate) fn optim_step(&mut self, params: &AdamParams) -> Result<f64> {
        let mut gradients = self.gradients.take().ok_or(Error::NoGradients)?;
        self.optimiser.step(&mut gradients, params)
    }

    /// Writes the variables into a folder. A model whose adapter folder holds them already has no need of it.
    pub(crate) fn save_variables(&self, dir: &Path) -> Result<()> {
        let tensor = |(name, var): &(String, Var)| (name.clone(), var.as_tensor().detach());
        save_tensors(&self.variables.iter().map(tensor).collect(), &dir.join(WEIGHTS))
    }

    /// Writes everything into one file: variables, optimiser and gradients.
    pub(crate) fn save_all(&self, file: &Path) -> Result<()> {
        let mut all: HashMap<String, Tensor> = HashMap::new();
        for ((name, var), moments) in self.variables.iter().zip(self.optimiser.moments()) {
            all.insert(format!("value.{name}"), var.as_detached_tensor());
            all.insert(format!("first.{name}"), moments.first.clone());
            all.insert(format!("second.{name}"), moments.second.clone());
        }
        let gradients = self.gradients().into_iter();
        all.extend(gradients.map(|(name, gradient)| (format!("gradient.{name}"), gradient)));
        all.insert(STEPS.into(), Tensor::new(self.optimiser.steps(), &Device::Cpu)?);
        save_tensors(&all, file)
    }

    /// Takes everything of a file.
    ///
    /// # Errors
    /// [`Error::State`] when it is not there, or holds something else.
    pub(crate) fn load_all(&mut self, file: &Path, device: &Device) -> Result<()> {
        let all = candle_core::safetensors::load(file, device).map_err(|e| unfit(file, e.to_string()))?;
        let find = |name: String| {
            all.get(&name)
                .cloned()
                .ok_or_else(|| unfit(file, format!("lacks `{name}`")))
        };
        let mut moments = Vec::new();
        let mut gradients: Option<GradStore> = None;
        for (name, var) in &self.variables {
            var.set(&find(format!("value.{name}"))?)?;
            moments.push(Moments {
                first: find(format!("first.{name}"))?,
                second: find(format!("second.{name}"))?,
            });
            if let Some(gradient) = all.get(&format!("gradient.{name}")) {
                gradients.get_or_insert_default().insert(var, gradient.clone());
            }
        }
        let steps = find(STEPS.into())?.to_scalar::<u32>()?;
        self.gradients = gradients;
        self.optimiser.restore(moments, steps)
    }

    /// Takes values of the variables by name, with an optimiser that has not taken a step and no gradients.
    pub(crate) fn start_from(&mut self, values: &[(String, Var)]) -> Result<()> {
        let fresh = self.variables.iter().map(|(_, var)| {
            Ok(Moments {
                first: var.zeros_like()?,
                second: var.zeros_like()?,
            })
        });
        let fresh = fresh.collect::<Result<_>>()?;
        for ((_, var), (_, value)) in self.variables.iter().zip(values) {
            var.set(value.as_tensor())?;
        }
        self.gradients = None;
        self.optimiser.restore(fresh, 0)
    }

    /// Writes the optimiser beside the variables, and the hashes of all files of the folder. `base` is the fingerprint of
    /// the model under the adapter.
    pub(crate) fn save(&self, dir: &Path, base: &str, lora: &Lora) -> Result<()> {
        let moments = self.variables.iter().zip(self.optimiser.moments());
        let both = |((name, _), moments): (&(String, Var), &Moments)| {
            [
                (format!("first.{name}"), moments.first.clone()),
                (format!("second.{name}"), moments.second.clone()),
            ]
        };
        save_tensors(&moments.flat_map(both).collect(), &dir.join(OPTIMISER))?;
        let path = dir.join(STATE);
        let state = State {
            schema: SCHEMA,
            steps: self.optimiser.steps(),
            base: base.to_owned(),
            targets: lora.targets.clone(),
            rank: lora.rank,
            alpha: lora.alpha,
        };
        let text = serde_json::to_string_pretty(&state).map_err(|e| folder::torn(&path, &e.to_string()))?;
        fs::write(&path, text + "\n").map_err(Error::io("write", &path))?;
        folder::write_sums(dir)
    }

    /// Goes back to what was saved; training then continues as if it had never stopped. Gradients are dropped.
    ///
    /// # Errors
    /// [`Error::State`] when it is not there, torn, or of another adapter or model; nothing has changed then.
    pub(crate) fn load(&mut self, dir: &Path, base: &str, lora: &Lora, device: &Device) -> Result<()> {
        let steps = read(dir, base, lora)?;
        let load = |name: &str| {
            let path = dir.join(name);
            candle_core::safetensors::load(&path, device).map_err(|e| unfit(&path, e.to_string()))
        };
        let (weights, moments) = (load(WEIGHTS)?, load(OPTIMISER)?);
        let take = |from: &HashMap<String, Tensor>, name: &str, var: &Var| {
            let found = from.get(name).filter(|tensor| tensor.shape() == var.shape()).cloned();
            found.ok_or_else(|| unfit(dir, format!("lacks `{name}` of {:?}", var.shape())))
        };
        let (mut values, mut restored) = (Vec::new(), Vec::new());
        for (name, var) in &self.variables {
            values.push(take(&weights, name, var)?);
            restored.push(Moments {
                first: take(&moments, &format!("first.{name}"), var)?,
                second: take(&moments, &format!("second.{name}"), var)?,
            });
        }
        self.optimiser.restore(restored, steps)?;
        for ((_, var), value) in self.variables.iter().zip(values) {
            var.set(&value)?;
        }
        self.drop_gradients();
        Ok(())
    }
}

/// True if a folder holds a training state, not weights alone.
pub(super) fn is_state(dir: &Path) -> bool {
    dir.join(STATE).is_file()
}

/// # Errors
/// [`Error::State`] when a state is torn, or of another adapter or model.
pub(super) fn check_state(dir: &Path, base: &str, lora: &Lora) -> Result<()> {
    read(dir, base, lora).map(drop)
}

/// The steps behind a state that is whole, and of this base and adapter.
fn read(dir: &Path, base: &str, lora: &Lora) -> Result<u32> {
    folder::check_sums(dir)?;
    let path = dir.join(STATE);
    let text = fs::read(&path).map_err(|e| unfit(&path, format!("cannot be read: {e}")))?;
    let state: State = serde_json::from_slice(&text).map_err(|e| folder::torn(&path, &e.to_string()))?;
    if state.schema != SCHEMA {
        return Err(unfit(&path, format!("has schema {}, not {SCHEMA}", state.schema)));
    }
    if state.base != base {
        return Err(unfit(dir, "belongs to another base model"));
    }
    if (&state.targets, state.rank, state.alpha) != (&lora.targets, lora.rank, lora.alpha) {
        let reason = format!(
            "is of an adapter of targets {:?}, rank {}, alpha {}, not {:?}, {}, {}",
            state.targets, state.rank, state.alpha, lora.targets, lora.rank, lora.alpha
        );
        return Err(unfit(dir, reason));
    }
    Ok(state.steps)
}

fn save_tensors(tensors: &HashMap<String, Tensor>, path: &Path) -> Result<()> {
    candle_core::safetensors::save(tensors, path).map_err(Error::saving(path))
}

pub(super) fn unfit(path: &Path, reason: impl Into<String>) -> Error {
    Error::State {
        path: path.to_path_buf(),
        reason: reason.into(),
    }
}
