//! Progress of a cell.

use crate::learner::Step;

/// A step of a cell while it runs; those of an earlier process are told at once.
#[derive(Debug, Clone, Copy)]
pub enum Event {
    /// Optimiser steps were done.
    Trained(Step),
    /// So many more test images were predicted.
    Predicted(usize),
    /// All is computed, the record is stored next.
    Complete,
}
