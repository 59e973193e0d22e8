//! One seed in the config, sub-seeds by name: every random decision names what it is for, so that
//! adding one never shifts another.

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest as _, Sha256};

/// A portable generator for one purpose, e.g. `rng(seed, "split/mini-pets/tractor")`.
///
/// The 32-byte ChaCha8 key is `sha256(seed as 8 little-endian bytes ‖ purpose)`; the same on every platform.
#[must_use]
pub fn rng(seed: u64, purpose: &str) -> ChaCha8Rng {
    let key = Sha256::new()
        .chain_update(seed.to_le_bytes())
        .chain_update(purpose.as_bytes())
        .finalize();
    ChaCha8Rng::from_seed(key.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngCore as _;

    #[test]
    fn purpose_and_seed_both_change_the_stream() {
        let first = |seed, purpose| rng(seed, purpose).next_u64();
        assert_eq!(first(1, "split"), first(1, "split"));
        assert_ne!(first(1, "split"), first(2, "split"));
        assert_ne!(first(1, "split"), first(1, "flip"));
    }
}
