//! The machine that computed a cell, and whether the same again gives the same bytes.

use std::fmt;

use crate::store::record::Record;

/// The facts that two runs of one cell have to share to come out the same to the byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// As records tell it: `cpu`, or `cuda:` and a name.
    device: String,
    /// Devices of that kind.
    devices: usize,
    /// Threads on the CPU; elsewhere they compute nothing that counts.
    threads: usize,
    /// The kind of backend: `local`, or a service.
    backend: String,
    dtype: String,
    recipe: u32,
}

impl Place {
    /// The place where a cell was made, and by which version of the numbers.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        let timing = &record.timing;
        let on_cpu = timing.device.is_empty() || timing.device == "cpu";
        Self {
            device: if on_cpu { "cpu".into() } else { timing.device.clone() },
            devices: timing.devices,
            threads: if on_cpu { timing.threads } else { 0 },
            backend: record.backend.clone(),
            dtype: record.dtype.clone(),
            recipe: record.recipe,
        }
    }

    /// True if two runs, one here and one there, of unchanged code give the same predictions: both on a CPU of this
    /// machine's process, in the same way. GPUs add in whatever order their threads come, services promise nothing.
    #[must_use]
    pub fn repeats(&self, other: &Self) -> bool {
        self == other && self.device == "cpu" && self.backend == "local"
    }

    /// The differences of this from where the baseline was made.
    #[must_use]
    pub fn beside(&self, baseline: &Self) -> String {
        if self == baseline {
            format!("on {self}, where runs differ by themselves")
        } else {
            format!("on {self}, the baseline on {baseline}")
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.device)?;
        if self.devices > 1 {
            write!(f, " × {}", self.devices)?;
        }
        if self.device == "cpu" {
            let plural = if self.threads == 1 { "" } else { "s" };
            write!(f, " with {} thread{plural}", self.threads)?;
        }
        if self.backend != "local" {
            write!(f, " by {}", self.backend)?;
        }
        write!(f, " in {}, recipe {}", self.dtype, self.recipe)
    }
}
