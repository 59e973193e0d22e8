//! Cells that ask one model about the same test images, of which it cannot keep all that its tower saw: block by block of
//! images they are asked one after the other, so that each image is read and seen once for all cells of a round.
//!
//! All of them are trained before. A cell's last training state stays on the disk until the cell is stored, and so does
//! every batch of answers: a kill costs no more than it costs a cell that runs alone. The tower's seconds count for the cell
//! that is asked first.

use std::collections::HashMap;
use std::time::Instant;

use super::attempt::{Attempt, Sweeper, Taken, hear};
use crate::data::LabelledImage;
use crate::error::Result;
use crate::experiment::cell::Trained;
use crate::experiment::plan::Cell;
use crate::learner::TOGETHER;
use crate::store::FailureMark;
use crate::store::claim::Claim;

/// Most batches of a block. For each block every adapter is added into a copy of the adapted weights again, which takes one
/// multiplication a weight and rank where answers take one a weight and token; the images of eight batches, at 480 pixels,
/// take 177 MB.
const BATCHES: usize = 8;

/// Cells in rounds, in order but for what goes together.
pub(super) fn rounds<'c>(cells: &[&'c Cell]) -> Vec<Vec<&'c Cell>> {
    let mut rounds: Vec<Vec<&Cell>> = Vec::new();
    for &cell in cells {
        let fits = |round: &&mut Vec<&Cell>| {
            round.len() < TOGETHER
                && round
                    .iter()
                    .all(|other| other.capacity().is_some() && other.shares_views_with(cell))
        };
        match rounds.iter_mut().find(fits) {
            Some(round) => round.push(cell),
            None => rounds.push(vec![cell]),
        }
    }
    rounds
}

impl Sweeper<'_> {
    /// Runs the cells of a round that are missing and free.
    pub(super) fn round<'c>(
        &mut self,
        round: &[&'c Cell],
        before: &HashMap<String, FailureMark>,
    ) -> Result<Vec<(&'c Cell, Attempt)>> {
        let (mut turns, mut ours) = (Vec::new(), Vec::new());
        for &cell in round {
            match self.take(cell, before)? {
                Taken::Ours(claim) => ours.push((cell, claim)),
                Taken::Not(turn) => turns.push((cell, turn)),
            }
        }
        let test = match &ours[..] {
            [(first, _), _, ..] => first.test().ok(),
            _ => None,
        };
        let Some(test) = test else {
            for (cell, claim) in ours {
                turns.push((cell, self.alone(cell, &claim)?));
            }
            return Ok(turns);
        };
        let mut trained = Vec::new();
        for (cell, claim) in ours {
            self.progress.start(cell);
            let on = &mut |event| hear(self.progress, cell, &claim, event);
            match Trained::train(cell, &test, self.store, self.sweep, on) {
                Ok(mut done) => {
                    done.release();
                    trained.push((done, claim));
                }
                Err(error) => turns.push((cell, self.failed(cell, &claim, error)?)),
            }
        }
        self.progress.together(trained.len());
        let trained = self.ask_in_turn(trained, &test, &mut turns)?;
        for (mut one, claim) in trained {
            let cell = one.cell();
            let on = &mut |event| hear(self.progress, cell, &claim, event);
            // What is missing here could not be read in turn: its own error is told.
            let ended = one
                .predict(on)
                .and_then(|()| one.finish(self.store, self.sweep, self.commit, on));
            turns.push((cell, self.ended(cell, &claim, ended)?));
        }
        Ok(turns)
    }

    /// Asks cells about block after block of their test images, up to the first that cannot be read; gives those that did not
    /// fail.
    fn ask_in_turn<'c, 't>(
        &mut self,
        mut trained: Vec<(Trained<'c, 't>, Claim)>,
        test: &'t [LabelledImage],
        turns: &mut Vec<(&'c Cell, Attempt)>,
    ) -> Result<Vec<(Trained<'c, 't>, Claim)>> {
        let mut at = trained.iter().map(|(one, _)| one.predicted()).min().unwrap_or(0);
        while let Some((first, _)) = trained.first_mut()
            && at < test.len()
        {
            let batch = first.batch().max(1);
            let block = batch * (first.cell().capacity().unwrap_or(0) / batch).clamp(1, BATCHES);
            let images = test.get(at..test.len().min(at + block)).unwrap_or_default();
            let start = Instant::now();
            let Some(views) = first.preprocess(images) else {
                break;
            };
            let preprocessing = start.elapsed().as_secs_f64() / (trained.len() * images.len()) as f64;
            let mut others = Vec::with_capacity(trained.len());
            for (mut one, claim) in trained {
                let cell = one.cell();
                let on = &mut |event| hear(self.progress, cell, &claim, event);
                let mut asked = Ok(());
                for (number, (images, views)) in images.chunks(batch).zip(views.chunks(batch)).enumerate() {
                    // An earlier process has asked this one further than others.
                    if asked.is_ok() && one.predicted() == at + number * batch {
                        asked = one.predict_views(images, views, preprocessing * images.len() as f64, on);
                    }
                }
                one.release();
                match asked {
                    Ok(()) => others.push((one, claim)),
                    Err(error) => turns.push((cell, self.failed(cell, &claim, error)?)),
                }
            }
            trained = others;
            at += images.len();
        }
        Ok(trained)
    }
}
