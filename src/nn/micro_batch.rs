//! Gradient accumulation: a batch in passes that the device has memory for.

use crate::error::{Error, Result};

/// The size of a pass. It is halved once when the device is out of memory.
#[derive(Debug, Clone)]
pub struct MicroBatches {
    size: usize,
    halved_to: Option<usize>,
    /// Examples of a pass that there is memory for.
    #[cfg(test)]
    pub(crate) memory_for: Option<usize>,
}

impl MicroBatches {
    /// Passes of so many examples, at least one.
    #[must_use]
    pub fn of(size: usize) -> Self {
        Self {
            size: size.max(1),
            halved_to: None,
            #[cfg(test)]
            memory_for: None,
        }
    }

    /// Examples of a pass, at least one.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Examples of a pass since the device was out of memory, if it was.
    #[must_use]
    pub fn halved_to(&self) -> Option<usize> {
        self.halved_to
    }

    /// Tells whether a batch of `count` examples that ended with this error is to be tried again, in passes of half the size.
    /// `pass` is what a warning calls the examples of a pass.
    pub fn halve(&mut self, error: &Error, count: usize, pass: &str) -> bool {
        let size = self.size.min(count);
        if !error.is_out_of_memory() || size <= 1 || self.halved_to.is_some() {
            return false;
        }
        let half = size.div_ceil(2);
        tracing::warn!("{error}: out of memory with {size} {pass}, going on with {half}");
        (self.size, self.halved_to) = (half, Some(half));
        true
    }

    /// Fails as a device that is out of memory does, where a test says that there is memory for less.
    ///
    /// # Errors
    /// In tests alone.
    #[cfg_attr(not(test), allow(clippy::unused_self, clippy::unnecessary_wraps))]
    pub(crate) fn check_memory(&self, _examples: usize) -> Result<()> {
        #[cfg(test)]
        if _examples > self.memory_for.unwrap_or(usize::MAX) {
            return Err(candle_core::Error::Msg("CUDA_ERROR_OUT_OF_MEMORY".into()).into());
        }
        Ok(())
    }
}
