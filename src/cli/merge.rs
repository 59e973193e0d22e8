//! `kshot merge`: an adapter added into its base model's weights.

use std::path::PathBuf;

use clap::Args;

use super::places::places;
use crate::checkpoint::repository;
use crate::engine;
use crate::error::{Error, Result};
use crate::experiment::adapter::Origin;
use crate::models::qwen3_vl::Qwen3Vl;
use crate::nn::DeviceSpec;

/// Write a Qwen3-VL with an adapter added into its weights as a full checkpoint, for programs that know no adapters.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  kshot merge --model datasets/mini/models/micro-qwen3-vl --adapter adapters/flowers-4 --out merged")]
pub(super) struct Arguments {
    /// Base model: a hub-layout folder, or owner/name of one that `kshot model fetch` got.
    #[arg(long, value_name = "DIR|ID")]
    model: PathBuf,
    /// PEFT adapter folder.
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// New folder for the checkpoint.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Write the adapter alone, in the form that PEFT loads, also where experts share factors.
    #[arg(long)]
    for_peft: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.out.exists() {
        return Err(Error::Exists {
            path: arguments.out.clone(),
        });
    }
    let base = repository::locate(&arguments.model, &places().home)?;
    let model = Qwen3Vl::load(&base, &DeviceSpec::cpu())?;
    if let Some(origin) = Origin::read(&arguments.adapter)? {
        origin.check_base(&arguments.adapter, Some(&engine::fingerprint(&model, &base)?))?;
    }
    let model = model.load_adapter(&arguments.adapter)?;
    if arguments.for_peft {
        return model.save_adapter_for_peft(&arguments.out);
    }
    model.save_merged(&base, &arguments.out)
}
