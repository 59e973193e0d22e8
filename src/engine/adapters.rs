//! The adapters of an engine by id: on the device, or put away on disk until they are used again; and what is kept of them in folders.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Var};

use super::train_state::{TrainState, WEIGHTS, check_state, is_state, unfit};
use super::{AdapterConfig, AdapterId, Engine, lock};
use crate::error::{Cause, Error, Result};
use crate::fs::folder;
use crate::models::qwen3_vl::Qwen3Vl;
use crate::nn::ParamGroup;
use crate::seed;

/// Adapters by id; none is given twice.
#[derive(Debug, Default)]
pub(super) struct Adapters {
    by_id: BTreeMap<AdapterId, Arc<Mutex<Place>>>,
    next: u64,
}

/// An adapter in training.
#[derive(Debug)]
pub(super) struct Adapter {
    pub config: AdapterConfig,
    /// The base with the adapter's variables; the frozen tensors are shared.
    pub model: Qwen3Vl,
    pub training: TrainState,
}

#[derive(Debug)]
enum Place {
    Here(Box<Adapter>),
    Away(Box<Away>),
}

/// An adapter that was put away; its file goes with it.
#[derive(Debug)]
struct Away {
    config: AdapterConfig,
    /// The model with empty variables.
    skeleton: Qwen3Vl,
    /// Shapes of the variables by name.
    shapes: Vec<(String, Vec<usize>)>,
    /// Variables, optimiser and gradients.
    file: PathBuf,
}

impl Drop for Away {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.file) {
            tracing::debug!("{} stays behind: {error}", self.file.display());
        }
    }
}

impl Adapter {
    /// Writes all that is not shared into a file.
    fn put_away(&self, file: &Path) -> Result<Away> {
        self.training.save_all(file)?;
        let empty = |_: &Var| Ok(Var::zeros((), DType::F32, &Device::Cpu)?);
        Ok(Away {
            config: self.config.clone(),
            skeleton: self.model.with_variables(empty)?,
            shapes: shapes(self.training.variables()),
            file: file.to_path_buf(),
        })
    }
}

impl Away {
    /// The adapter as it was, to the bit.
    fn back(&self, device: &Device) -> Result<Adapter> {
        let mut shapes = self.shapes.iter();
        let model = self.skeleton.with_variables(|_| {
            let (_, shape) = shapes.next().ok_or_else(|| unfit(&self.file, "lacks a variable"))?;
            Ok(Var::zeros(shape.as_slice(), DType::F32, device)?)
        })?;
        let mut training = fresh_training(&model)?;
        training.load_all(&self.file, device)?;
        Ok(Adapter {
            config: self.config.clone(),
            model,
            training,
        })
    }
}

impl Engine {
    /// A new adapter, fresh or started from a PEFT folder.
    ///
    /// # Errors
    /// [`Error::Model`] when it does not fit the model, or the folder holds another one than the config says.
    pub fn add(&self, config: &AdapterConfig) -> Result<AdapterId> {
        let mut model = self.base.with_lora(&config.lora, &mut seed::rng(config.seed, "lora"))?;
        if let Some(start) = &config.start {
            let loaded = self.base.load_adapter(start)?;
            if shapes(&loaded.trainable()) != shapes(&model.trainable()) || !same_scale(&loaded, &model)? {
                let (targets, rank, alpha) = (&config.lora.targets, config.lora.rank, config.lora.alpha);
                let reason = format!(
                    "holds an adapter of other layers, rank or alpha than targets {targets:?}, rank {rank}, alpha {alpha}"
                );
                return Err(Error::model(start, reason).because(Cause::Adapter));
            }
            model = loaded;
        }
        let adapter = Adapter {
            config: config.clone(),
            training: fresh_training(&model)?,
            model,
        };
        let mut adapters = lock(&self.adapters);
        let id = AdapterId(adapters.next);
        adapters.next += 1;
        adapters
            .by_id
            .insert(id, Arc::new(Mutex::new(Place::Here(Box::new(adapter)))));
        Ok(id)
    }

    /// Frees an adapter with its optimiser, if it is there.
    pub fn remove(&self, id: AdapterId) {
        lock(&self.adapters).by_id.remove(&id);
    }

    /// Names and shapes of what is trained, in order, as keys of a PEFT adapter file.
    ///
    /// # Errors
    /// [`Error::NoAdapter`].
    pub fn trainable(&self, id: AdapterId) -> Result<Vec<(String, Vec<usize>)>> {
        self.with(id, |adapter| Ok(shapes(adapter.training.variables())))
    }

    /// Keeps an adapter with its optimiser in a folder, in place of what it held: a PEFT adapter folder with more beside it.
    ///
    /// # Errors
    /// [`Error::NoAdapter`]; [`Error::State`] when the folder holds something else than an adapter; [`Error::Io`] when
    /// it cannot be written: what was there stays.
    pub fn save_state(&self, id: AdapterId, dir: &Path) -> Result<()> {
        self.with(id, |adapter| {
            check_place(dir)?;
            folder::replace(dir, |new| {
                adapter.model.save_adapter(new)?;
                adapter.training.save(new, self.fingerprint(), &adapter.config.lora)
            })
        })
    }

    /// Goes back to a kept state; training then continues as if it had never stopped. Gradients that were not
    /// stepped with are dropped.
    ///
    /// # Errors
    /// [`Error::State`] when it is not there, torn, or of another adapter or model; the adapter is unchanged then.
    pub fn load_state(&self, id: AdapterId, dir: &Path) -> Result<()> {
        let (print, device) = (self.fingerprint(), self.base.device());
        self.with(id, |adapter| {
            let Adapter { config, training, .. } = adapter;
            training.load(&folder::current(dir), print, &config.lora, device)
        })
    }

    /// Takes the weights of a kept state or of a PEFT folder, with an optimiser that has not taken a step. Gradients that were not
    /// stepped with are dropped.
    ///
    /// # Errors
    /// As [`Engine::load_state`]; [`Error::Model`] when the PEFT folder does not fit the model. The adapter is unchanged then.
    pub fn load_weights(&self, id: AdapterId, dir: &Path) -> Result<()> {
        let dir = folder::current(dir);
        self.with(id, |adapter| {
            let Adapter {
                config,
                training,
                model,
            } = adapter;
            if is_state(&dir) {
                check_state(&dir, self.fingerprint(), &config.lora)?;
            }
            let loaded = self.base.load_adapter(&dir)?;
            let weights = loaded.trainable();
            if shapes(&weights) != shapes(training.variables()) || !same_scale(&loaded, model)? {
                return Err(unfit(&dir, "is of an adapter of other layers, rank or alpha"));
            }
            training.start_from(&weights)
        })
    }

    /// Keeps the weights alone, as a PEFT folder, in place of what the folder held.
    ///
    /// # Errors
    /// As [`Engine::save_state`].
    pub fn save_weights_for_sampler(&self, id: AdapterId, dir: &Path) -> Result<()> {
        self.with(id, |adapter| {
            check_place(dir)?;
            folder::replace(dir, |new| adapter.model.save_adapter(new))
        })
    }

    /// Puts an adapter away: its weights, optimiser and gradients leave the device for a file, which holds them until the adapter is
    /// used again or removed, and belongs to this process. It comes back by itself, to the bit. One that is away already stays
    /// where it is.
    ///
    /// # Errors
    /// [`Error::NoAdapter`]; [`Error::Io`] when the file cannot be written: the adapter stays then.
    pub fn evict(&self, id: AdapterId, file: &Path) -> Result<()> {
        let place = self.place(id)?;
        let mut place = lock(&place);
        if let Place::Here(adapter) = &*place {
            *place = Place::Away(Box::new(adapter.put_away(file)?));
        }
        Ok(())
    }

    /// True if an adapter is on the device.
    ///
    /// # Errors
    /// [`Error::NoAdapter`].
    pub fn is_resident(&self, id: AdapterId) -> Result<bool> {
        let place = self.place(id)?;
        let place = lock(&place);
        Ok(matches!(&*place, Place::Here(_)))
    }

    /// Does something with an adapter, which comes back first if it is away; others wait for it meanwhile.
    pub(super) fn with<T>(&self, id: AdapterId, body: impl FnOnce(&mut Adapter) -> Result<T>) -> Result<T> {
        let place = self.place(id)?;
        let mut place = lock(&place);
        if let Place::Away(away) = &*place {
            let adapter = away.back(self.base.device())?;
            *place = Place::Here(Box::new(adapter));
        }
        match &mut *place {
            Place::Here(adapter) => body(adapter),
            Place::Away(away) => Err(unfit(&away.file, "holds an adapter that did not come back")),
        }
    }

    fn place(&self, id: AdapterId) -> Result<Arc<Mutex<Place>>> {
        let adapters = lock(&self.adapters);
        adapters.by_id.get(&id).cloned().ok_or(Error::NoAdapter { id: id.0 })
    }
}

/// Only an adapter's folder is replaced: another may hold other work.
fn check_place(dir: &Path) -> Result<()> {
    let taken = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if taken && !dir.join(WEIGHTS).is_file() {
        return Err(unfit(dir, "holds other files: an adapter needs a folder of its own"));
    }
    Ok(())
}

/// The variables of a model and an optimiser that has not taken a step.
fn fresh_training(model: &Qwen3Vl) -> Result<TrainState> {
    let variables = model.trainable();
    let group = ParamGroup {
        vars: variables.iter().map(|(_, var)| var.clone()).collect(),
        lr: 1.0,
        weight_decay: 1.0,
    };
    TrainState::new(variables, vec![group])
}

fn shapes(variables: &[(String, Var)]) -> Vec<(String, Vec<usize>)> {
    let shape = |(name, var): &(String, Var)| (name.clone(), var.dims().to_vec());
    variables.iter().map(shape).collect()
}

/// True if two models' updates are scaled alike, but for rounding.
fn same_scale(a: &Qwen3Vl, b: &Qwen3Vl) -> Result<bool> {
    let ((_, a), (_, b)) = (a.adapter_shape()?, b.adapter_shape()?);
    Ok((a - b).abs() <= 1e-9 * b.abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::micro::{adapter, engine, lessons};
    use crate::engine::{AdamParams, LossFn, Objective};
    use crate::error::Error;

    fn adam() -> AdamParams {
        AdamParams {
            learning_rate: 5e-3,
            ..AdamParams::default()
        }
    }

    /// One more step on some lessons; the bits of its loss and of the gradient's norm.
    fn step(engine: &Engine, id: AdapterId, first: usize) -> (u64, u64) {
        let loss = engine
            .forward_backward(id, &lessons(6)[first..first + 3])
            .unwrap()
            .loss_sum;
        (loss.to_bits(), engine.optim_step(id, &adam()).unwrap().to_bits())
    }

    #[test]
    fn what_was_put_away_comes_back_to_the_bit_on_first_use() {
        let engine = engine();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("adapter");
        let config = AdapterConfig {
            lora: crate::models::lora::Lora {
                // A scale that is not a power of two.
                rank: 3,
                ..adapter(1).lora
            },
            ..adapter(1)
        };
        let (stays, leaves) = (engine.add(&config).unwrap(), engine.add(&config).unwrap());
        for round in 0..4 {
            assert_eq!(step(&engine, stays, round % 3), step(&engine, leaves, round % 3));
            // Gradients that were not stepped with come back as well.
            for id in [stays, leaves] {
                engine.forward_backward(id, &lessons(2)).unwrap();
            }
            engine.evict(leaves, &file).unwrap();
            engine.evict(leaves, &folder.path().join("other")).unwrap();
            assert!(file.is_file() && !engine.is_resident(leaves).unwrap() && engine.is_resident(stays).unwrap());
            let data = lessons(5);
            let losses = [stays, leaves].map(|id| engine.forward(id, &data).unwrap().loss_sum.to_bits());
            assert_eq!(losses[0], losses[1]);
            assert!(engine.is_resident(leaves).unwrap() && !file.exists());
        }
        engine.evict(leaves, &file).unwrap();
        engine.remove(leaves);
        assert!(!file.exists() && matches!(engine.is_resident(leaves), Err(Error::NoAdapter { .. })));
        // A file that is gone is told, and the adapter stays away.
        engine.evict(stays, &file).unwrap();
        fs::remove_file(&file).unwrap();
        let error = engine.forward(stays, &lessons(1)).unwrap_err();
        assert!(
            matches!(error, Error::State { .. }) && !engine.is_resident(stays).unwrap(),
            "{error}"
        );
        assert!(
            engine
                .evict(engine.add(&config).unwrap(), &folder.path().join("no/such"))
                .is_err()
        );
    }

    #[test]
    fn adapters_that_take_turns_train_as_one_after_the_other() {
        let engine = engine();
        let alone = |seed: u64, first: usize| -> Vec<(u64, u64)> {
            let id = engine.add(&adapter(seed)).unwrap();
            (0..3).map(|_| step(&engine, id, first)).collect()
        };
        let expected = [alone(1, 0), alone(2, 3)];
        assert_ne!(expected[0], expected[1]);
        let ids = [1, 2].map(|seed| engine.add(&adapter(seed)).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let mut found = [Vec::new(), Vec::new()];
        for round in 0..3 {
            for (which, first) in [(0, 0), (1, 3)] {
                found[which].push(step(&engine, ids[which], first));
                if round == which {
                    engine.evict(ids[which], &folder.path().join("away")).unwrap();
                }
            }
        }
        assert_eq!(found, expected);
    }

    #[test]
    fn weights_alone_come_with_a_fresh_optimiser() {
        let engine = engine();
        let folder = tempfile::tempdir().unwrap();
        let (state, weights) = (folder.path().join("state"), folder.path().join("weights"));
        let id = engine.add(&adapter(1)).unwrap();
        for _ in 0..2 {
            step(&engine, id, 0);
        }
        engine.save_state(id, &state).unwrap();
        engine.save_weights_for_sampler(id, &weights).unwrap();
        let loss = |id| engine.forward(id, &lessons(6)).unwrap().loss_sum.to_bits();
        let (expected, next) = (loss(id), step(&engine, id, 3));
        let after = loss(id);
        let mut ends = Vec::new();
        for from in [&state, &weights] {
            let other = engine.add(&adapter(7)).unwrap();
            // Neither its own steps nor its gradients are left.
            step(&engine, other, 1);
            engine.forward_backward(other, &lessons(1)).unwrap();
            engine.load_weights(other, from).unwrap();
            assert_eq!(loss(other), expected);
            assert!(matches!(engine.optim_step(other, &adam()), Err(Error::NoGradients)));
            assert_eq!(step(&engine, other, 3), next, "the same gradient at the same weights");
            ends.push(loss(other));
        }
        assert!(ends[0] == ends[1] && ends[0] != after, "the optimiser decides the step");
        let whole = engine.add(&adapter(7)).unwrap();
        engine.load_state(whole, &state).unwrap();
        assert_eq!(
            (loss(whole), step(&engine, whole, 3), loss(whole)),
            (expected, next, after)
        );
        // Of another shape, or not there.
        let mut narrow = adapter(1);
        narrow.lora.rank = 2;
        let narrow = engine.add(&narrow).unwrap();
        let before = loss(narrow);
        for from in [&state, &weights, &folder.path().join("nothing")] {
            assert!(engine.load_weights(narrow, from).is_err());
        }
        assert_eq!(loss(narrow), before);
        let objective = Objective {
            loss: LossFn::ImportanceSampling,
            ..Objective::default()
        };
        assert!(engine.forward_with(narrow, &lessons(1), &objective).is_err());
    }
}
