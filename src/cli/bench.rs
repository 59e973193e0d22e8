//! `kshot bench`: speed and memory of a model of any shape, with random weights.

use std::io::{self, BufRead as _};
use std::path::{Path, PathBuf};

use candle_core::DType;
use clap::{Args, ValueEnum};
use serde_json::json;

use super::version::COMMIT;
use super::{output, terminal};
use crate::checkpoint::shapes::NAMES;
use crate::error::{Error, Result};
use crate::experiment::bench::{DATASETS, Dataset, Report, Request, prepared, run as measure};
use crate::experiment::plan::Places;
use crate::nn::DeviceSpec;
use crate::process::temporary;

/// Measure training, answering and image reading on this machine: any model shape, random weights.
///
/// The shape's checkpoint is written once in the hub's layout and loaded as every other; then LoRA is trained and questions
/// are answered by the engine's own verbs, on photographs, texts and class names as long as a dataset's. Beside each speed
/// stand the share of what a large product reaches on the same device in the same run, the seconds that the operations
/// would take at that speed (the floor), and memory as measured and as estimated beforehand.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kshot bench --shape qwen3-vl-2b --layers 4 --batch 4
  kshot bench --shape dinov2-base --batch 16 --json --out results/bench
  kshot bench --shape qwen-medium --dataset square-224 --batch 3 --rank 8

Shapes: qwen3-vl-{2b,4b,8b,32b,30b-a3b,235b-a22b}, dinov2-{small,base,large,giant} and
dinov2-with-registers-{…}; qwen-medium and qwen-tiny are made up, for two cores.
Datasets: caltech101, stanford-cars, oxford-flowers, oxford-pets, square-224 (pictures of 224 pixels).")]
pub(super) struct Arguments {
    /// The model's shape, by name.
    #[arg(long, value_name = "NAME")]
    shape: String,
    /// Keep so many layers; the tower of a Qwen3-VL keeps the same share of its blocks.
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// Type of the frozen weights; by default bf16 on a GPU and f32 on the CPU.
    #[arg(long, value_enum)]
    dtype: Option<Type>,
    /// Images a training step, and asked about at once.
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: usize,
    /// Rank of the adapters; by default that of the learner.
    #[arg(long, value_name = "R")]
    rank: Option<usize>,
    /// Whose photographs, texts and class names are imitated in size.
    #[arg(long, value_name = "NAME", default_value = "oxford-pets")]
    dataset: String,
    /// Repetitions that count, after one that does not.
    #[arg(long, value_name = "N", default_value_t = 3)]
    steps: usize,
    /// Keep the checkpoint in this folder, or take the one that is there; without it, it is made in `KSHOT_CACHE`
    /// and removed.
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// The report as JSON on stdout.
    #[arg(long)]
    json: bool,
    /// Also write the report to DIR/<shape>-….json.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Take steps on demand: write batch, adapter, loss and gradients to DIR, then for each phase named in a line
    /// on stdin answer with its seconds. `benches/peer.py` takes turns with another program so.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["json", "out"])]
    serve_steps: Option<PathBuf>,
}

/// Types of frozen weights.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Type {
    F32,
    Bf16,
    F16,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let places = Places::from_env();
    let Some(dataset) = Dataset::named(&arguments.dataset) else {
        let known: Vec<&str> = DATASETS.iter().map(|dataset| dataset.name).collect();
        let reason = format!("`{}` is not one of {}", arguments.dataset, known.join(", "));
        return Err(Error::config("--dataset", reason));
    };
    if !NAMES.contains(&arguments.shape.as_str()) {
        let reason = format!("`{}` is not one of {}", arguments.shape, NAMES.join(", "));
        return Err(Error::config("--shape", reason));
    }
    if arguments.batch == 0 || arguments.steps == 0 || arguments.rank == Some(0) || arguments.layers == Some(0) {
        return Err(Error::config("--batch, --steps, --rank, --layers", "must be above 0"));
    }
    let mut place = DeviceSpec::best()?;
    match arguments.dtype {
        Some(Type::F32) => place.dtype = DType::F32,
        Some(Type::Bf16) => place.dtype = DType::BF16,
        Some(Type::F16) => place.dtype = DType::F16,
        None => {}
    }
    let scratch = temporary(&places.cache.join("bench").join(name(arguments)), "tmp");
    let request = Request {
        shape: arguments.shape.clone(),
        layers: arguments.layers,
        place,
        batch: arguments.batch,
        rank: arguments.rank,
        dataset,
        steps: arguments.steps,
        checkpoint: arguments.checkpoint.clone().unwrap_or_else(|| scratch.clone()),
        commit: COMMIT.map(str::to_owned),
    };
    let done = match &arguments.serve_steps {
        Some(dir) => serve(&request, dir),
        None => report(arguments, &request),
    };
    if arguments.checkpoint.is_none()
        && let Err(e) = std::fs::remove_dir_all(&scratch)
        && e.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!("`{}` could not be removed: {e}", scratch.display());
    }
    done
}

/// `qwen3-vl-2b-4-layers`
fn name(arguments: &Arguments) -> String {
    match arguments.layers {
        Some(layers) => format!("{}-{layers}-layers", arguments.shape),
        None => arguments.shape.clone(),
    }
}

fn report(arguments: &Arguments, request: &Request) -> Result<()> {
    let report: Report = measure(request, &mut |line| {
        // If stderr is gone there is nobody left to tell.
        terminal::tell(&format!("{line}\n"));
    })?;
    let json = serde_json::to_string_pretty(&report).map_err(|e| Error::io("write", "the report")(e.into()))? + "\n";
    if let Some(dir) = &arguments.out {
        std::fs::create_dir_all(dir).map_err(Error::io("make", dir))?;
        let device = if report.hardware.gpu.is_some() { "gpu" } else { "cpu" };
        let name = format!("{}-{}-{}-batch-{}", name(arguments), device, report.dtype, report.batch);
        let path = dir.join(name + ".json");
        std::fs::write(&path, &json).map_err(Error::io("write", &path))?;
    }
    output(&if arguments.json { json } else { report.text() })
}

/// One JSON object a line: first what was written to `dir`, then one for each line that is read.
fn serve(request: &Request, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Error::io("make", dir))?;
    let mut steps = prepared(request)?;
    let mut known = steps.exchange(dir)?;
    known["checkpoint"] = request.checkpoint.display().to_string().into();
    known["dtype"] = request.place.dtype_name().into();
    known["commit"] = request.commit.clone().into();
    output(&format!("{known}\n"))?;
    for line in io::stdin().lock().lines() {
        let line = line.map_err(Error::io("read", "stdin"))?;
        let phase = line.trim();
        if phase.is_empty() {
            continue;
        }
        let seconds = steps.seconds(phase)?;
        output(&format!("{}\n", json!({"phase": phase, "seconds": seconds})))?;
    }
    Ok(())
}
