//! Training by optimiser steps that may be interrupted. Its state is kept every so many steps; a training that finds the
//! state of its own cell goes on from there, to the bit as if nothing had happened.

use std::path::PathBuf;
use std::time::Instant;

use crate::error::Result;
use crate::learner::order::Plan;
use crate::learner::state::{self, Position};
use crate::learner::{Fit, Step};
use crate::models::folder;

/// Where a training keeps its state.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    /// A folder of its own; each state takes the place of the one before.
    pub folder: PathBuf,
    /// Optimiser steps between two states; a last one follows the last step.
    pub every: usize,
    /// Whose training it is: nothing goes on from the state of another.
    pub run_id: String,
}

impl Checkpoints {
    /// Removes what is kept, if anything is.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`] when it stays.
    pub fn forget(&self) -> Result<()> {
        folder::forget(&self.folder)
    }
}

/// What a learner brings to its training; the loop around it is [`train`].
pub(super) trait Steps {
    /// Comes before the first step, unless the training goes on from a kept state.
    ///
    /// # Errors
    /// Unreadable images, tensor failures.
    fn begin(&mut self) -> Result<()> {
        Ok(())
    }

    /// One step, counted from 0, on these shots; gives the mean cross-entropy before it, nats.
    ///
    /// # Errors
    /// Unreadable images, tensor failures, a loss that is not finite.
    fn step(&mut self, number: usize, batch: &[usize]) -> Result<f64>;

    /// Writes weights and optimiser under this name, a folder that is not there yet; gives the name to restore them
    /// by where it is another.
    ///
    /// # Errors
    /// When they cannot be written.
    fn save(&mut self, name: &str) -> Result<Option<String>>;

    /// Goes back to what was saved after `done` steps. On an error nothing has changed.
    ///
    /// # Errors
    /// When it is not there or does not fit.
    fn restore(&mut self, name: &str, done: usize) -> Result<()>;
}

/// Takes all steps that a kept state does not have behind it already, which are told as one. The numbers that were
/// trained are for the learner to count.
///
/// # Errors
/// Those of the learner, of `on_step`, and of writing a state.
pub(super) fn train(
    plan: &Plan,
    learner: &mut dyn Steps,
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
        at.loss = learner.step(number, batch)?;
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
        trainable_parameters: 0,
        chosen: None,
        seconds_before,
        halved_to: None,
    })
}

/// Goes back to the kept state. One that is torn or not of this training is named and not used.
fn resume(plan: &Plan, learner: &mut dyn Steps, keep: &Checkpoints) -> Option<Position> {
    let restored = state::read(keep, plan).and_then(|found| {
        let Some((position, name)) = found else {
            return Ok(None);
        };
        learner.restore(&name, position.done)?;
        Ok(Some(position))
    });
    restored.unwrap_or_else(|error| {
        tracing::warn!("{error}: it is not trusted, training starts anew");
        None
    })
}
