//! The device and the type of frozen weights.

use candle_core::{DType, Device};

use crate::environment::Variable;
use crate::error::{Error, Result};

/// A device and the type that frozen weights have on it. What is trained is f32 everywhere.
#[derive(Debug, Clone)]
pub struct DeviceSpec {
    /// The device of all tensors.
    pub device: Device,
    /// Of the frozen weights: F32, BF16 or F16.
    pub dtype: DType,
}

impl DeviceSpec {
    /// Main memory, f32.
    #[must_use]
    pub fn cpu() -> Self {
        Self::f32(&Device::Cpu)
    }

    /// Any device, with weights in f32.
    #[must_use]
    pub fn f32(device: &Device) -> Self {
        Self {
            device: device.clone(),
            dtype: DType::F32,
        }
    }

    /// The best device that this binary can use: the first GPU of a CUDA build, with weights in bf16; else the CPU,
    /// with weights in f32. `CUDA_VISIBLE_DEVICES` says which GPU is the first; `KSHOT_DEVICE=cpu` asks for the CPU all
    /// the same, `KSHOT_DEVICE=cuda` for a GPU or nothing.
    ///
    /// # Errors
    /// [`Error::Device`] when a CUDA build finds no GPU, or what is asked for is not there.
    pub fn best() -> Result<Self> {
        let choice = Variable::Device.text().unwrap_or_default();
        match choice.as_str() {
            "cpu" => Ok(Self::cpu()),
            "" if cfg!(feature = "cuda") => Self::gpu(),
            "" => Ok(Self::cpu()),
            "cuda" => Self::gpu(),
            _ => Err(Error::Device {
                reason: format!("KSHOT_DEVICE is `{choice}`, which is neither `cpu` nor `cuda`"),
            }),
        }
    }

    #[cfg(feature = "cuda")]
    fn gpu() -> Result<Self> {
        let device = Device::new_cuda(0).map_err(|e| Error::Device {
            reason: format!("no GPU can be used: {e}"),
        })?;
        Ok(Self {
            device,
            dtype: DType::BF16,
        })
    }

    #[cfg(not(feature = "cuda"))]
    fn gpu() -> Result<Self> {
        Err(Error::Device {
            reason: "KSHOT_DEVICE asks for a GPU, and this binary was built without the feature `cuda`".into(),
        })
    }

    /// The type's name in configs and records: `f32`, `bf16` or `f16`.
    #[must_use]
    pub fn dtype_name(&self) -> &'static str {
        self.dtype.as_str()
    }

    /// The device's name in records: `cpu`, or `cuda:` and what the driver calls it.
    #[must_use]
    pub fn device_name(&self) -> String {
        match &self.device {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => match device.cuda_stream().context().name() {
                Ok(name) => format!("cuda:{name}"),
                Err(_) => "cuda".into(),
            },
            Device::Cpu => "cpu".into(),
            _ => "cuda".into(),
        }
    }
}
