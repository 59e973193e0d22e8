//! An adapter switched off: the folder that a classifier saved, with every matrix B of its updates zero.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};

/// The tensors of a PEFT folder.
const WEIGHTS: &str = "adapter_model.safetensors";
/// An update is `B · A`: a B of zeros makes none.
const ZEROED: &str = "lora_B";

/// Copies an adapter folder to `off`, its updates zero; whatever else it holds, such as a head, stays as it is.
///
/// # Errors
/// [`Error::Io`]; [`Error::Model`] when it holds no update.
pub(super) fn off(folder: &Path, off: &Path) -> Result<()> {
    fs::create_dir_all(off).map_err(Error::io("make folder", off))?;
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let from = entry.map_err(Error::io("read", folder))?.path();
        if let Some(name) = from.file_name().filter(|_| from.is_file()) {
            fs::copy(&from, off.join(name)).map_err(Error::io("copy", &from))?;
        }
    }
    let weights = off.join(WEIGHTS);
    let fail = |reason: String| Error::Model {
        path: folder.join(WEIGHTS),
        reason,
    };
    let mut tensors: HashMap<String, Tensor> =
        candle_core::safetensors::load(&weights, &Device::Cpu).map_err(|e| fail(e.to_string()))?;
    let mut zeroed = 0;
    for (_, tensor) in tensors.iter_mut().filter(|(name, _)| name.contains(ZEROED)) {
        *tensor = tensor.zeros_like()?;
        zeroed += 1;
    }
    if zeroed == 0 {
        return Err(fail(format!("holds no tensor `…{ZEROED}…` that could be switched off")));
    }
    candle_core::safetensors::save(&tensors, &weights).map_err(Error::saving(&weights))
}
