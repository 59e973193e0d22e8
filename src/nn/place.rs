//! Where frozen weights are kept, and of which type.

use candle_core::{DType, Device};

use crate::error::Result;

/// A device and the type that frozen weights have on it. What is trained is f32 everywhere.
#[derive(Debug, Clone)]
pub struct Place {
    /// Where tensors are.
    pub device: Device,
    /// Of the frozen weights: F32, BF16 or F16.
    pub dtype: DType,
}

impl Place {
    /// Main memory, f32.
    #[must_use]
    pub fn cpu() -> Self {
        Self {
            device: Device::Cpu,
            dtype: DType::F32,
        }
    }

    /// The best device that this binary can use: the first GPU of a CUDA build, with weights in bf16; else the CPU,
    /// with weights in f32. `CUDA_VISIBLE_DEVICES` says which GPU is the first.
    ///
    /// # Errors
    /// When a CUDA build finds no GPU.
    #[cfg(feature = "cuda")]
    pub fn best() -> Result<Self> {
        Ok(Self {
            device: Device::new_cuda(0)?,
            dtype: DType::BF16,
        })
    }

    /// The best device that this binary can use: the first GPU of a CUDA build, with weights in bf16; else the CPU,
    /// with weights in f32.
    ///
    /// # Errors
    /// None in a CPU build.
    #[cfg(not(feature = "cuda"))]
    pub fn best() -> Result<Self> {
        Ok(Self::cpu())
    }

    /// The type's name in configs and records: `f32`, `bf16` or `f16`.
    #[must_use]
    pub fn dtype_name(&self) -> &'static str {
        self.dtype.as_str()
    }
}
