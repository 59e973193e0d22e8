//! In which order shots are seen.

use rand::seq::SliceRandom as _;

use crate::seed::rng;

/// Indices into the shots: one seeded permutation after another, cut to `length`.
pub(super) fn order(shots: usize, length: usize, seed: u64) -> Vec<usize> {
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
}
