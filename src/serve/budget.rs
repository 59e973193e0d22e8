//! What all requests share: memory of images that wait, threads that write archives.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::refusal::Refusal;

/// An amount of which requests take parts.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    taken: Arc<AtomicUsize>,
    most: usize,
    /// What a client is told when too much is taken.
    refusal: &'static str,
}

/// A part of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub(super) struct Charge {
    budget: Budget,
    amount: usize,
}

impl Budget {
    /// So much at once.
    pub(super) fn new(most: usize, refusal: &'static str) -> Self {
        Self {
            taken: Arc::default(),
            most,
            refusal,
        }
    }

    /// Takes so much.
    ///
    /// # Errors
    /// A refusal when too much is taken already: some is given back soon.
    pub(super) fn take(&self, amount: usize) -> Result<Charge, Refusal> {
        let before = self.taken.fetch_add(amount, Ordering::Relaxed);
        let charge = Charge {
            budget: self.clone(),
            amount,
        };
        // Whatever one request may have finds its place when nothing else waits.
        if before > 0 && before + amount > self.most {
            return Err(Refusal::busy(self.refusal));
        }
        Ok(charge)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_given_back() {
        let budget = Budget::new(100, "too much");
        let all = budget.take(101).unwrap();
        assert_eq!(budget.take(1).unwrap_err().status, 429);
        drop(all);
        let _some = budget.take(50).unwrap();
        assert!(budget.take(100).is_err() && budget.take(50).is_ok());
    }
}
