//! The training loop of every learner that trains by optimiser steps. It may be interrupted: a checkpoint is kept every so many
//! steps, and a training that finds the checkpoint of its own cell goes on from there, to the bit as if nothing had happened.

use std::time::Instant;

use crate::error::{Error, Result};
use crate::learner::order::Plan;
use crate::learner::state::{self, Checkpoints, Position};
use crate::learner::{Fit, Step};
use crate::nn::{AdamParams, warmup_cosine};

/// The part of a training that is the learner's own: its model and its variables; the loop around it is [`train`].
pub(super) trait Trainable {
    /// Comes before the first step, unless the training goes on from a checkpoint.
    ///
    /// # Errors
    /// Unreadable images, tensor failures.
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

/// The settings of the optimiser over a whole training.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    /// Learning rate after the warmup.
    pub(super) peak: f64,
    /// Share of the steps in which the learning rate rises.
    pub(super) warmup: f64,
    /// Decoupled weight decay.
    pub(super) weight_decay: f64,
    /// Gradient norm above which gradients are scaled down.
    pub(super) clip: f64,
}

impl Schedule {
    /// The settings of step `number` of `steps`.
    fn params(&self, number: usize, steps: usize) -> AdamParams {
        let warmup = (self.warmup * steps as f64).round() as usize;
        AdamParams {
            learning_rate: self.peak * warmup_cosine(number, steps, warmup),
            weight_decay: self.weight_decay,
            grad_clip_norm: Some(self.clip),
            ..AdamParams::default()
        }
    }
}

/// Takes all steps that a checkpoint does not have behind it already, which are told as one.
///
/// # Errors
/// Those of the learner, of `on_step`, and of writing a checkpoint; [`Error::NotFinite`] when the loss is not.
pub(super) fn train(
    plan: &Plan,
    schedule: &Schedule,
    learner: &mut dyn Trainable,
    keep: Option<&Checkpoints>,
    on_step: &mut dyn FnMut(Step) -> Result<()>,
) -> Result<Fit> {
    let start = Instant::now();
    let of = plan.steps();
    let mut at = match keep.and_then(|keep| resume(plan, learner, keep)) {
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
        at.loss = learner.train_step(number, batch, &schedule.params(number, of))?;
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
            state::write(keep, &at, &mut |name| learner.save(name))?;
        }
        on_step(told(&at, batch.len()))?;
    }
    Ok(Fit {
        steps: of as u64,
        images_seen: plan.order.len() as u64,
        final_loss: Some(at.last_losses.iter().sum::<f64>() / at.last_losses.len() as f64),
        trainable_parameters: learner.trainable_parameters(),
        chosen: None,
        seconds_before,
        halved_to: learner.halved_to(),
    })
}

/// Goes back to the checkpoint. One that is torn or not of this training is named and not used.
fn resume(plan: &Plan, learner: &mut dyn Trainable, keep: &Checkpoints) -> Option<Position> {
    let restored = state::read(keep, plan).and_then(|found| {
        let Some((position, name)) = found else {
            return Ok(None);
        };
        learner.restore(&name)?;
        Ok(Some(position))
    });
    restored.unwrap_or_else(|error| {
        tracing::warn!("{error}: it is not trusted, training starts anew");
        None
    })
}
