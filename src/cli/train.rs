//! `kshot train`: one model on one split.

use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{output, places::places, subject};
use crate::config::{Protocol, Shots};
use crate::data::{self, split};
use crate::error::{Cause, Error, Result};
use crate::experiment::adapter::Origin;
use crate::experiment::plan::without_refused;
use crate::learner::Step;
use crate::learner::base::Bases;

/// Train one model on k shots of a dataset and write a PEFT adapter folder.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  kshot train --model datasets/mini/models/micro-qwen3-vl --dataset mini-flowers --shots 4 --out adapters/flowers-4")]
pub(super) struct Arguments {
    /// Base model (Qwen3-VL or DINOv2): a hub-layout folder, or owner/name of one that `kshot model fetch` got.
    #[arg(long, value_name = "DIR|ID")]
    model: PathBuf,
    /// Name of a dataset (`kshot data list`).
    #[arg(long)]
    dataset: String,
    /// How shots are chosen: clean, tinker or coop.
    #[arg(long, default_value_t)]
    protocol: Protocol,
    /// Labelled examples per class, or "all".
    #[arg(long)]
    shots: Shots,
    /// Seed of the draw and of the training.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Start from the weights of this PEFT adapter folder.
    #[arg(long, value_name = "DIR")]
    start: Option<PathBuf>,
    /// Change a setting of the learner: field=value.
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// Turn photographs as their EXIF orientation says; `false` is for parity with torchvision's loaders.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    exif: bool,
    /// New folder for the adapter.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let places = places();
    let learner =
        subject::learner(&arguments.model, &places.home, &arguments.set)?.under(arguments.protocol, arguments.shots);
    if arguments.out.exists() {
        return Err(Error::Exists {
            path: arguments.out.clone(),
        });
    }
    if !arguments.shots.any() {
        return Err(Error::Config {
            origin: "--shots".into(),
            reason: "there is nothing to learn from 0 examples".into(),
        });
    }
    let dataset = data::open_for(&arguments.dataset, arguments.protocol, &places.datasets, &places.cache)?
        .with_exif(arguments.exif);
    let dataset = without_refused(dataset, std::slice::from_ref(&learner));
    let split = split::draw(&dataset, arguments.protocol, arguments.shots, arguments.seed, None)?;
    let shots = split.train_images(&dataset)?;
    let base = learner.load(&mut Bases::new(&places.home).keeping(places.image_cache()))?;
    if let Some(start) = &arguments.start
        && let Some(origin) = Origin::read(start)?
    {
        origin.check_base(start, base.fingerprint())?;
    }
    let mut classifier = match &arguments.start {
        None => base.classifier(&split.classes, arguments.seed)?,
        Some(start) => {
            let classifier = base.classifier_from(start, &split.classes, arguments.seed)?;
            classifier.ok_or_else(|| {
                let path = learner.model().unwrap_or(Path::new("")).into();
                let reason = "of this kind cannot start from an adapter".into();
                Error::Model { path, reason }.because(Cause::NoWeights)
            })?
        }
    };
    let bar = ProgressBar::new(0).with_style(
        ProgressStyle::with_template("{bar:30} {pos}/{len} steps · {msg} · ETA {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let fit = classifier.fit(&shots, None, &mut |step: Step| {
        bar.set_length(step.of as u64);
        bar.set_position(step.done as u64);
        bar.set_message(format!("loss {:.3}", step.loss));
        Ok(())
    })?;
    bar.finish_and_clear();
    classifier.save(&arguments.out)?;
    let origin = Origin {
        schema: Origin::SCHEMA,
        learner,
        classes: split.classes.clone(),
        dataset: split.dataset.clone(),
        protocol: split.protocol,
        shots: split.shots,
        seed: split.seed,
        split_sha256: split.digest()?,
        base: base.fingerprint().map(str::to_owned),
        exif: arguments.exif,
    };
    origin.write(&arguments.out)?;
    output(&format!(
        "{}\n{} steps, {} images seen, {} trained numbers, final loss {:.4} nats\n",
        arguments.out.display(),
        fit.steps,
        fit.images_seen,
        fit.trainable_parameters,
        fit.final_loss.unwrap_or(f64::NAN),
    ))
}
