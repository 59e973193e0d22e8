//! `kshot embed`: features of images.

use std::path::PathBuf;

use candle_core::{Device, Tensor};
use clap::Args;
use serde_json::json;

use super::predict::unlabelled;
use super::{output, places::places};
use crate::error::{Error, Result};
use crate::method::features::Frozen;
use crate::models::repository;
use crate::nn::Place;

/// DINOv2 features of images: the CLS token and the mean patch token after the final layer norm.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kshot embed --model datasets/mini/models/micro-dinov2 photo.jpg
  kshot embed --model datasets/mini/models/micro-dinov2 --npy features.npy *.jpg")]
pub(super) struct Arguments {
    /// DINOv2: a hub-layout folder, or owner/name of one that `kshot model fetch` got.
    #[arg(long, value_name = "DIR|ID")]
    model: PathBuf,
    /// Write one array, (images, 2 D) f32, each row CLS then mean patch, instead of JSON lines on stdout.
    #[arg(long, value_name = "FILE")]
    npy: Option<PathBuf>,
    /// JPEG or PNG files.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
}

/// Images embedded at once.
const BATCH: usize = 64;

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let frozen = Frozen::load(&repository::locate(&arguments.model, &places().home)?, &Place::cpu())?;
    let mut all: Vec<f32> = Vec::new();
    for batch in arguments.images.chunks(BATCH) {
        let images = batch.iter().map(|path| unlabelled(path)).collect::<Result<Vec<_>>>()?;
        let rows = frozen.features(&images)?;
        if arguments.npy.is_some() {
            all.extend(rows.iter().flat_map(|row| row.iter()));
            continue;
        }
        let mut text = String::new();
        for (image, row) in images.iter().zip(rows) {
            let (cls, mean) = row.split_at(row.len() / 2);
            text += &format!(
                "{}\n",
                json!({"image": image.id, "sha256": image.sha256, "cls": cls, "mean_patch": mean})
            );
        }
        output(&text)?;
    }
    if let Some(path) = &arguments.npy {
        let count = arguments.images.len();
        let width = all.len() / count;
        let array = Tensor::from_vec(all, (count, width), &Device::Cpu)?;
        array.write_npy(path).map_err(|e| Error::Io {
            action: "write",
            path: path.clone(),
            source: std::io::Error::other(e),
        })?;
    }
    Ok(())
}
