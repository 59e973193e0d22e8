//! The training loop of every learner that trains by optimiser steps. It may be interrupted: a checkpoint is kept every so many
//! steps, and a training that finds the checkpoint of its own cell goes on from there, to the bit as if nothing had happened.
//!
//! A checkpoint has weights and optimiser as the learner writes them, the position in the training, and the SHA-256 of every
//! file, in a folder that is replaced as a whole:
//!
//! ```text
//! states/<run_id>/training.json   the position
//! states/<run_id>/learner/…       weights and optimiser
//! states/<run_id>/SHA256SUMS      of all of these, as sha256sum writes it
//! ```

use std::fs;
use std::time::Instant;

use rand::Rng as _;
use rand::seq::SliceRandom as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::fs::folder;
use crate::fs::hash::hex;
use crate::learner::classifier::{Checkpoints, Fit, OnStep, Step};
use crate::nn::{AdamParams, warmup_cosine};
use crate::seed::rng;

const SCHEMA: u32 = 1;
const POSITION: &str = "training.json";
const LEARNER: &str = "learner";

/// The random decisions of a training.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// Fingerprint of the base model.
    pub base: String,
    /// The seed of all decisions, also of those that a learner makes step by step.
    pub seed: u64,
    /// Images per step.
    pub batch: usize,
    /// Which shot is seen when; whole batches.
    pub order: Vec<usize>,
    /// True if it is mirrored then; empty where the learner draws views of its own from seed and place.
    pub mirrored: Vec<bool>,
}

impl Plan {
    /// As many whole batches as hold `images`, at least one, drawn from so many shots.
    pub(super) fn new(base: &str, shots: usize, images: usize, batch: usize, seed: u64) -> Self {
        let steps = images.div_ceil(batch).max(1);
        Self {
            base: base.to_owned(),
            seed,
            batch,
            order: order(shots, steps * batch, seed),
            mirrored: Vec::new(),
        }
    }

    /// The same, with half of the images mirrored.
    pub(super) fn with_flips(mut self) -> Self {
        let mut flips = rng(self.seed, "flip");
        self.mirrored = self.order.iter().map(|_| flips.random_bool(0.5)).collect();
        self
    }

    /// Optimiser steps.
    fn steps(&self) -> usize {
        self.order.len().div_ceil(self.batch)
    }

    /// The shots of each step.
    fn batches(&self) -> impl Iterator<Item = &[usize]> {
        self.order.chunks(self.batch)
    }

    /// Lower-case hex SHA-256 of all decisions: the same digest, the same training.
    fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for number in [self.seed, self.batch as u64, self.mirrored.len() as u64] {
            hash.update(number.to_le_bytes());
        }
        for &shot in &self.order {
            hash.update((shot as u64).to_le_bytes());
        }
        for &mirrored in &self.mirrored {
            hash.update([u8::from(mirrored)]);
        }
        hex(&hash.finalize())
    }
}

/// Indices into the shots: one seeded permutation after another, cut to `length`.
fn order(shots: usize, length: usize, seed: u64) -> Vec<usize> {
    let mut rng = rng(seed, "order");
    let mut order = Vec::with_capacity(length + shots);
    while order.len() < length {
        let mut epoch: Vec<usize> = (0..shots).collect();
        epoch.shuffle(&mut rng);
        order.append(&mut epoch);
    }
    order.truncate(length);
    order
}

/// The part of a training that is the learner's own: its model and its variables; the loop around it is [`train`].
pub(super) trait Trainable {
    /// Comes before the first step, unless the training goes on from a checkpoint.
    fn begin(&mut self) -> Result<()> {
        Ok(())
    }

    /// One step of the optimiser with the gradients of the loss on these shots; gives the mean cross-entropy before it, nats.
    /// Steps are counted from 0.
    ///
    /// # Errors
    /// Unreadable images, tensor failures, a loss or gradients that are not finite.
    fn train_step(&mut self, number: usize, batch: &[usize], params: &AdamParams) -> Result<f64>;

    /// Writes weights and optimiser under this name, a folder that is not there yet; gives the name to restore them
    /// by where it is another.
    ///
    /// # Errors
    /// When they cannot be written.
    fn save(&mut self, name: &str) -> Result<Option<String>>;

    /// Goes back to what was saved. On an error nothing has changed.
    ///
    /// # Errors
    /// When it is not there or does not fit.
    fn restore(&mut self, name: &str) -> Result<()>;

    /// Numbers that are trained.
    fn trainable_parameters(&self) -> u64;

    /// Examples of a pass since the device was out of memory, if it was.
    fn halved_to(&self) -> Option<usize>;
}

/// Takes all steps that a checkpoint does not have behind it already, which are told as one. The learning rate rises to its
/// `peak` over the share `warmup` of the steps.
///
/// # Errors
/// Those of the learner, of `on_step`, and of writing a checkpoint; [`Error::NotFinite`] when the loss is not.
pub(super) fn train(
    plan: &Plan,
    peak: &AdamParams,
    warmup: f64,
    learner: &mut dyn Trainable,
    keep: Option<&Checkpoints>,
    on_step: OnStep<'_>,
) -> Result<Fit> {
    let start = Instant::now();
    let of = plan.steps();
    let warmup = (warmup * of as f64).round() as usize;
    let mut at = match keep.and_then(|keep| resume(keep, plan, learner)) {
        Some(position) => position,
        None => {
            learner.begin()?;
            Position::start(plan)
        }
    };
    let seconds_before = at.seconds;
    let told = |at: &Position, images: usize| Step {
        done: at.done,
        of,
        images,
        loss: at.loss,
    };
    if at.done > 0 {
        on_step(told(&at, at.done * plan.batch))?;
    }
    for (number, batch) in plan.batches().enumerate().skip(at.done) {
        let params = AdamParams {
            learning_rate: peak.learning_rate * warmup_cosine(number, of, warmup),
            ..*peak
        };
        at.loss = learner.train_step(number, batch, &params)?;
        if !at.loss.is_finite() {
            return Err(Error::NotFinite {
                what: "loss",
                step: number,
            });
        }
        at.done = number + 1;
        if number >= of - of.div_ceil(10) {
            at.last_losses.push(at.loss);
        }
        if let Some(keep) = keep.filter(|keep| at.done == of || at.done.is_multiple_of(keep.every.max(1))) {
            at.seconds = seconds_before + start.elapsed().as_secs_f64();
            write(keep, &at, learner)?;
        }
        on_step(told(&at, batch.len()))?;
    }
    Ok(Fit {
        steps: of as u64,
        images_seen: plan.order.len() as u64,
        final_loss: Some(at.last_losses.iter().sum::<f64>() / at.last_losses.len() as f64),
        trainable_parameters: learner.trainable_parameters(),
        seconds_before,
        halved_to: learner.halved_to(),
        ..Fit::default()
    })
}

/// Goes back to the checkpoint. One that is torn or not of this training is named and not used.
fn resume(keep: &Checkpoints, plan: &Plan, learner: &mut dyn Trainable) -> Option<Position> {
    restore(keep, plan, learner).unwrap_or_else(|error| {
        tracing::warn!("{error}: it is not trusted, training starts anew");
        None
    })
}

/// The position in a training: `training.json` less what tells whose it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Position {
    /// Of the base model's weights.
    base: String,
    /// [`Plan::digest`]: order and random decisions, of which `done` steps are used up.
    draws: String,
    /// Steps done.
    done: usize,
    /// Loss of the last one, nats.
    loss: f64,
    /// Losses of the steps that count for the final loss, so far.
    last_losses: Vec<f64>,
    /// Seconds of training so far.
    seconds: f64,
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
    fn start(plan: &Plan) -> Self {
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

/// Replaces the checkpoint. On an error the one before stays.
fn write(keep: &Checkpoints, position: &Position, learner: &mut dyn Trainable) -> Result<()> {
    folder::replace(&keep.folder, |new| {
        let elsewhere = learner.save(&new.join(LEARNER).display().to_string())?;
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

/// Gives the learner its weights and optimiser back; `None` when nothing is kept.
fn restore(keep: &Checkpoints, plan: &Plan, learner: &mut dyn Trainable) -> Result<Option<Position>> {
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
    learner.restore(&name)?;
    Ok(Some(state.position))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_sees_every_shot_once() {
        let order = order(5, 12, 3);
        assert_eq!(order.len(), 12);
        for epoch in order.chunks_exact(5) {
            let mut seen = epoch.to_vec();
            seen.sort_unstable();
            assert_eq!(seen, [0, 1, 2, 3, 4]);
        }
    }

    #[test]
    fn a_plan_has_whole_batches_and_a_digest_of_every_decision() {
        let plan = Plan::new("base", 5, 9, 4, 3).with_flips();
        assert_eq!((plan.steps(), plan.order.len(), plan.mirrored.len()), (3, 12, 12));
        assert_eq!(plan.batches().map(<[usize]>::len).collect::<Vec<_>>(), [4, 4, 4]);
        let mut others = vec![
            Plan::new("base", 5, 9, 4, 3),
            Plan::new("base", 5, 9, 4, 4).with_flips(),
        ];
        others.extend([0, 11].map(|i| {
            let mut other = plan.clone();
            other.mirrored[i] = !other.mirrored[i];
            other
        }));
        others.push(plan.clone());
        others[4].order.swap(0, 1);
        assert!(others.iter().all(|other| other.digest() != plan.digest()));
        assert_eq!(Plan::new("base", 5, 9, 4, 3).with_flips().digest(), plan.digest());
    }
}
