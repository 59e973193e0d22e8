//! Decisions before the first step of a training: the order of the shots.

use rand::Rng as _;
use rand::seq::SliceRandom as _;
use sha2::{Digest as _, Sha256};

use crate::fs::hash::hex;
use crate::seed::rng;

/// The random decisions of a training.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// Fingerprint of the base model.
    pub(super) base: String,
    /// The seed of all decisions, also of those that a learner makes step by step.
    pub(super) seed: u64,
    /// Images per step.
    pub(super) batch: usize,
    /// Which shot is seen when; whole batches.
    pub(super) order: Vec<usize>,
    /// True if it is mirrored then; empty where the learner draws views of its own from seed and place.
    pub(super) mirrored: Vec<bool>,
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
    pub(super) fn steps(&self) -> usize {
        self.order.len().div_ceil(self.batch)
    }

    /// The shots of each step.
    pub(super) fn batches(&self) -> impl Iterator<Item = &[usize]> {
        self.order.chunks(self.batch)
    }

    /// Lower-case hex SHA-256 of all decisions: the same digest, the same training.
    pub(super) fn digest(&self) -> String {
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
