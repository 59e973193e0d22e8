//! `kshot train`, `eval` and `merge`: one model on one split, on one whole test set, with its adapter added in; and the model that a
//! verb is about (`--model`, `--adapter` and `--set`).

use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;

use super::terminal::{bar, style};
use super::{output, output_json};
use crate::checkpoint::architecture::Architecture;
use crate::checkpoint::repository;
use crate::config::{Protocol, Shots};
use crate::data::{self, split};
use crate::engine;
use crate::error::{Cause, Error, Result};
use crate::experiment::adapter::Origin;
use crate::experiment::plan::{Places, without_refused};
use crate::fs::folder;
use crate::learner::base::Bases;
use crate::learner::{Classifier, Learner, Step};
use crate::models::qwen3_vl::Qwen3Vl;
use crate::nn::DeviceSpec;
use crate::prediction::{Prediction, Reading};
use crate::statistics::metric::{Headline, Metrics};
use crate::store::predictions;

/// Train one model on k shots of a dataset and write a PEFT adapter folder.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  kshot train --model datasets/mini/models/micro-qwen3-vl --dataset mini-flowers --shots 4 --out adapters/flowers-4")]
pub(super) struct TrainArguments {
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

pub(super) fn train(arguments: &TrainArguments) -> Result<()> {
    let places = Places::from_env();
    let learner = learner(&arguments.model, &places.home, &arguments.set)?.under(arguments.protocol, arguments.shots);
    if arguments.out.exists() {
        let path = arguments.out.clone();
        return Err(Error::Exists { path });
    }
    if !arguments.shots.any() {
        return Err(Error::config("--shots", "there is nothing to learn from 0 examples"));
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
                let path = learner.model().unwrap_or(Path::new(""));
                Error::model(path, "of this kind cannot start from an adapter").because(Cause::NoWeights)
            })?
        }
    };
    let bar = bar(ProgressBar::new(0)).with_style(style("{bar:30} {pos}/{len} steps · {msg} · ETA {eta}"));
    let fit = classifier.fit(&shots, None, &mut |step: Step| {
        bar.set_length(step.of as u64);
        bar.set_position(step.done as u64);
        bar.set_message(format!("loss {:.3}", step.loss));
        Ok(())
    })?;
    bar.finish_and_clear();
    classifier.save(&arguments.out)?;
    Origin::of(learner, &split, base.fingerprint(), arguments.exif)?.write(&arguments.out)?;
    output(&format!(
        "{}\n{} steps, {} images seen, {} trained numbers, final loss {:.4} nats\n",
        arguments.out.display(),
        fit.steps,
        fit.images_seen,
        fit.trainable_parameters,
        fit.final_loss.unwrap_or(f64::NAN),
    ))
}

/// Ask a model about a dataset's whole test set and print its accuracy by every reading.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  kshot eval --model datasets/mini/models/micro-qwen3-vl --adapter adapters/flowers-4 --dataset mini-flowers")]
pub(super) struct EvalArguments {
    #[command(flatten)]
    subject: Subject,
    /// Name of a dataset (`kshot data list`).
    #[arg(long)]
    dataset: String,
    /// Whose test set and class names: clean, tinker or coop.
    #[arg(long, default_value_t)]
    protocol: Protocol,
    /// Write every prediction to this Parquet file.
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn eval(arguments: &EvalArguments) -> Result<()> {
    let places = Places::from_env();
    let dataset = data::open_for(&arguments.dataset, arguments.protocol, &places.datasets, &places.cache)?
        .with_exif(arguments.subject.exif()?);
    // No shots: the whole test set, and the classes as the protocol names them.
    let classes = split::draw(&dataset, arguments.protocol, 0, 0, None)?.classes;
    if let Some(learned) = arguments.subject.classes()?
        && learned != classes
    {
        let (dataset, protocol) = (dataset.name, arguments.protocol);
        let reason = format!("its class names under the protocol `{protocol}` are not those that the adapter learned");
        return Err(Error::Dataset { dataset, reason }.because(Cause::OtherClasses));
    }
    let mut ready = arguments.subject.ready(&places.home, &classes)?;
    let dataset = without_refused(dataset, std::slice::from_ref(&ready.learner));
    let bar = bar(ProgressBar::new(dataset.test.len() as u64))
        .with_style(style("{bar:30} {pos}/{len} images · {rate} · ETA {eta}"));
    let mut rows: Vec<Prediction> = Vec::with_capacity(dataset.test.len());
    ready.classifier.predict(&dataset.test, &mut |batch| {
        rows.extend_from_slice(batch);
        bar.inc(batch.len() as u64);
        Ok(())
    })?;
    bar.finish_and_clear();
    if let Some(path) = &arguments.predictions {
        let bytes = predictions::encode(ready.learner.name(), &classes, &rows)?;
        std::fs::write(path, bytes).map_err(Error::io("write", path))?;
    }
    let metrics = |reading| Metrics::of(&rows, reading, Headline::Top1);
    let readings = ready.learner.readings();
    if arguments.json {
        let of = |reading: &Reading| (reading.to_string(), json!(metrics(*reading)));
        let by_reading: serde_json::Map<_, _> = readings.iter().map(of).collect();
        return output_json(&json!({
            "dataset": dataset.name, "protocol": arguments.protocol, "learner": ready.learner.name(), "images": rows.len(), "readings": by_reading,
        }));
    }
    let (name, learner) = (&dataset.name, ready.learner.name());
    let mut text = format!("{name} · {} · {learner} · {} images\n", arguments.protocol, rows.len());
    text += "reading     top-1 %  mean per class %  invalid %\n";
    for reading in readings {
        let m = metrics(reading);
        text += &format!(
            "{:<10}  {:7.1}  {:16.1}  {:9.1}\n",
            reading.to_string(),
            100.0 * m.top1,
            100.0 * m.mean_per_class,
            100.0 * m.invalid_rate
        );
    }
    output(&text)
}

/// Write a Qwen3-VL with an adapter added into its weights as a full checkpoint, for programs that know no adapters.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  kshot merge --model datasets/mini/models/micro-qwen3-vl --adapter adapters/flowers-4 --out merged")]
pub(super) struct MergeArguments {
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

pub(super) fn merge(arguments: &MergeArguments) -> Result<()> {
    if arguments.out.exists() {
        let path = arguments.out.clone();
        return Err(Error::Exists { path });
    }
    let base = repository::locate(&arguments.model, &Places::from_env().home)?;
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

#[derive(Debug, Args)]
pub(super) struct Subject {
    /// Base model (Qwen3-VL, DINOv2, CLIP or SigLIP): a hub-layout folder, or owner/name of one that `kshot model fetch` got.
    #[arg(long, value_name = "DIR|ID")]
    model: PathBuf,
    /// Folder of a trained adapter; without one a Qwen3-VL answers with its own weights.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Change a setting of the learner: field=value.
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// Turn photographs as their EXIF orientation says [default: as in the adapter's training, else true].
    #[arg(long, value_name = "BOOL")]
    exif: Option<bool>,
}

/// A model that is ready to be asked.
pub(super) struct Ready {
    pub learner: Learner,
    pub classifier: Box<dyn Classifier>,
    /// Tells the base model from all others.
    pub base: Option<String>,
    /// SHA-256 of the adapter's files.
    pub adapter: Option<String>,
}

impl Subject {
    /// Class names that came with the adapter.
    pub(super) fn classes(&self) -> Result<Option<Vec<String>>> {
        Ok(self.origin()?.map(|origin| origin.classes))
    }

    /// True if photographs are turned as their EXIF orientation says.
    pub(super) fn exif(&self) -> Result<bool> {
        match self.exif {
            Some(exif) => Ok(exif),
            None => Ok(self.origin()?.is_none_or(|origin| origin.exif)),
        }
    }

    fn origin(&self) -> Result<Option<Origin>> {
        self.adapter.as_deref().map_or(Ok(None), Origin::read)
    }

    /// The model with its adapter, about to choose among `classes`.
    pub(super) fn ready(&self, home: &Path, classes: &[String]) -> Result<Ready> {
        let learner = match self.origin()? {
            Some(origin) => origin.learner.at(&self.model, &self.set)?,
            None => learner(&self.model, home, &self.set)?,
        };
        if self.adapter.is_none() && !learner.answers_unseen() {
            let reason = "has no class names of its own: it answers only with an adapter (`--adapter DIR`)";
            return Err(Error::model(&self.model, reason));
        }
        // A verb asks about each image once: nothing is to be kept of it.
        let base = learner.load(&mut Bases::new(home).with_feature_bytes(0))?;
        let mut classifier = base.classifier(classes, 0)?;
        if let Some(adapter) = &self.adapter {
            if let Some(origin) = self.origin()? {
                origin.check_base(adapter, base.fingerprint())?;
            }
            classifier.load(adapter)?;
        }
        Ok(Ready {
            learner,
            classifier,
            base: base.fingerprint().map(str::to_owned),
            adapter: self.adapter.as_deref().map(folder::fingerprint).transpose()?,
        })
    }
}

/// The learner that a model, by folder or by name, is for.
fn learner(model: &Path, home: &Path, set: &[String]) -> Result<Learner> {
    let architecture = Architecture::of(&repository::locate(model, home)?)?;
    let method = Learner::method_of(architecture).unwrap_or_default();
    Learner::parse(&method, model, set)
}
