//! `kshot eval`: one model on one whole test set.

use std::path::PathBuf;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::subject::Subject;
use super::{output, places::places};
use crate::config::Protocol;
use crate::data::{self, split};
use crate::error::{Cause, Error, Result};
use crate::experiment::plan::without_refused;
use crate::prediction::{Prediction, Reading};
use crate::statistics::metric::{Headline, Metrics};
use crate::store::predictions;

/// Ask a model about a dataset's whole test set and print its accuracy by every reading.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  kshot eval --model datasets/mini/models/micro-qwen3-vl --adapter adapters/flowers-4 --dataset mini-flowers")]
pub(super) struct Arguments {
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

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let places = places();
    let dataset = data::open_for(&arguments.dataset, arguments.protocol, &places.datasets, &places.cache)?
        .with_exif(arguments.subject.exif()?);
    // No shots: the whole test set, and the classes as the protocol names them.
    let classes = split::draw(&dataset, arguments.protocol, 0, 0, None)?.classes;
    if let Some(learned) = arguments.subject.classes()?
        && learned != classes
    {
        return Err(Error::Dataset {
            dataset: dataset.name,
            reason: format!(
                "its class names under the protocol `{}` are not those that the adapter learned",
                arguments.protocol
            ),
        }
        .because(Cause::OtherClasses));
    }
    let mut ready = arguments.subject.ready(&places.home, &classes)?;
    let dataset = without_refused(dataset, std::slice::from_ref(&ready.learner));
    let bar = ProgressBar::new(dataset.test.len() as u64).with_style(
        ProgressStyle::with_template("{bar:30} {pos}/{len} images · {per_sec} · ETA {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
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
        let of = |reading: &Reading| (reading.to_string(), serde_json::json!(metrics(*reading)));
        let by_reading: serde_json::Map<_, _> = readings.iter().map(of).collect();
        let text = serde_json::json!({
            "dataset": dataset.name, "protocol": arguments.protocol, "learner": ready.learner.name(), "images": rows.len(), "readings": by_reading,
        });
        return output(&format!("{text:#}\n"));
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
