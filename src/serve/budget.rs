//! Memory of decoded images that wait: small files can hold many pixels.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::refusal::Refusal;

/// Bytes of decoded images that wait at once.
const MOST: usize = 2 << 30;

/// Bytes that are taken.
#[derive(Debug, Clone, Default)]
pub(super) struct Budget(Arc<AtomicUsize>);

/// A part of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub(super) struct Charge {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    /// Takes so many bytes.
    ///
    /// # Errors
    /// A refusal when too many are taken already: some are given back soon.
    pub(super) fn take(&self, bytes: usize) -> Result<Charge, Refusal> {
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        let charge = Charge {
            budget: self.clone(),
            bytes,
        };
        // Whatever one request may have finds its place when nothing else waits.
        if before > 0 && before + bytes > MOST {
            return Err(Refusal::busy("the images of requests that wait take too much memory"));
        }
        Ok(charge)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_given_back() {
        let budget = Budget::default();
        let all = budget.take(MOST + 1).unwrap();
        assert_eq!(budget.take(1).unwrap_err().status, 429);
        drop(all);
        let _some = budget.take(MOST / 2).unwrap();
        assert!(budget.take(MOST).is_err() && budget.take(MOST / 2).is_ok());
    }
}
