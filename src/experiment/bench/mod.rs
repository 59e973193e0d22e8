//! Speed of a model of some shape in training and at answers on this machine, with random weights: the engine's own verbs on
//! photographs and texts of the sizes that the datasets have, beside what the hardware can do and what was estimated.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::checkpoint::shapes;
use crate::cost::memory::Use;
use crate::cost::shape::Shape;
use crate::error::{Cause, Error, Result};
use crate::models::lora::Lora;
use crate::nn::{DeviceSpec, memory};
use crate::store::record::utc_now;

mod checkpoint;
mod report;
mod vision;
mod workload;
mod writing;

pub use report::{Hardware, Phase, Report};
pub use workload::{DATASETS, Dataset};

/// Side of the products that tell the speed of a device.
const SIDE: usize = 2048;
/// Of the same on a GPU.
const GPU_SIDE: usize = 8192;

/// Settings of a measurement.
#[derive(Debug, Clone)]
pub struct Request {
    /// One of [`shapes::NAMES`].
    pub shape: String,
    /// Layers to keep; all by default.
    pub layers: Option<usize>,
    /// Device, and type of the frozen weights.
    pub place: DeviceSpec,
    /// Images a step, and asked about at once.
    pub batch: usize,
    /// Rank of the adapters; that of the learner by default.
    pub rank: Option<usize>,
    /// Sizes of photographs, names and texts.
    pub dataset: Dataset,
    /// Repetitions that count, after one that does not.
    pub steps: usize,
    /// Folder of the checkpoint, which is made if it is not there.
    pub checkpoint: PathBuf,
    /// Commit of the source tree, where known.
    pub commit: Option<String>,
}

/// Work of one repetition of a phase.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Work {
    images: usize,
    /// Tokens that the model reads.
    tokens: f64,
    /// Operations; 0 where no model is at work.
    operations: f64,
    /// Bytes by the estimate.
    estimate: Option<u64>,
}

/// A loaded model with its workload.
pub(crate) trait Benchmark {
    /// Phases that can be measured, in order.
    fn phases(&self) -> &'static [&'static str];

    /// Work of a phase.
    fn work(&self, phase: &str) -> Work;

    /// One repetition of a phase, until the device is done.
    fn repeat(&mut self, phase: &str) -> Result<()>;

    /// Numbers of the adapters.
    fn trained(&self) -> u64;

    /// Tokens of a picture, of a text with its answer, of an answer.
    fn tokens(&self) -> [f64; 3];

    /// Writes what another program needs to do the same to a folder: `batch.safetensors` with inputs, loss and gradients,
    /// and the adapter as a PEFT folder; gives what there is to know beside.
    fn exchange(&mut self, dir: &Path) -> Result<Value>;

    /// Seconds of one repetition of a phase.
    ///
    /// # Errors
    /// [`Error::Sampling`] when there is no such phase; what the engine reports.
    fn seconds(&mut self, phase: &str) -> Result<f64> {
        if !self.phases().contains(&phase) {
            let reason = format!("no phase `{phase}`, only {}", self.phases().join(", "));
            return Err(Error::Sampling { reason }.because(Cause::Option));
        }
        let start = Instant::now();
        self.repeat(phase)?;
        Ok(start.elapsed().as_secs_f64())
    }
}

/// A loaded model with its workload, which takes steps on demand, so that others can take turns with it.
pub(crate) fn prepared(request: &Request) -> Result<Box<dyn Benchmark>> {
    let config = made(request)?;
    load(request, &config)
}

/// Measures all phases; `say` hears of each.
///
/// # Errors
/// [`Error::Config`] when the shape is not known; what loading, training and answering report.
pub fn run(request: &Request, say: &mut dyn FnMut(&str)) -> Result<Report> {
    let started = Instant::now();
    let config = made(request)?;
    say(&format!(
        "{:.1} s: checkpoint in `{}`",
        started.elapsed().as_secs_f64(),
        request.checkpoint.display()
    ));
    let speed = product_speed(&request.place)?;
    say(&format!(
        "products of the size of {}: {:.3} TFLOP/s",
        side(&request.place),
        speed / 1e12
    ));
    let free = memory::free(&request.place.device)?;
    memory::reset_peak();
    let baseline = memory::resident();

    let start = Instant::now();
    let mut subject = load(request, &config)?;
    let seconds = start.elapsed().as_secs_f64();
    let Some(shape) = Shape::of(&config) else {
        return Err(unknown(request));
    };
    let mut phases = vec![Phase::loading(seconds, baseline, memory::peak())];
    say(&phases[0].line());
    for &name in subject.phases() {
        // The first warms up; while it runs the allocator gives back what the phase before left, which is none of this one's.
        subject.repeat(name)?;
        memory::reset_peak();
        let mut seconds = Vec::with_capacity(request.steps);
        for _ in 0..request.steps {
            seconds.push(subject.seconds(name)?);
        }
        let phase = Phase::new(name, seconds, &subject.work(name), speed, baseline, memory::peak());
        say(&phase.line());
        phases.push(phase);
    }
    let left = memory::free(&request.place.device)?;
    Ok(Report {
        schema: 1,
        shape: request.shape.clone(),
        layers: request.layers,
        parameters: shape.parameters() as u64,
        trained: subject.trained(),
        dtype: request.place.dtype_name().to_owned(),
        batch: request.batch,
        dataset: request.dataset.name.to_owned(),
        tokens: subject.tokens(),
        product_flops_per_second: speed,
        baseline_bytes: baseline,
        device_bytes: free.zip(left).map(|(free, left)| free.saturating_sub(left)),
        phases,
        hardware: report::here(&request.place),
        date: utc_now(),
        commit: request.commit.clone(),
    })
}

/// The config of the shape, its checkpoint written where it is not there yet.
fn made(request: &Request) -> Result<Value> {
    let mut config = shapes::config(&request.shape).ok_or_else(|| unknown(request))?;
    if let Some(layers) = request.layers {
        shapes::cut(&mut config, layers);
    }
    if !request.checkpoint.join("config.json").is_file() {
        checkpoint::write(&request.checkpoint, &config, checkpoint::SHARD)?;
    }
    let path = request.checkpoint.join("config.json");
    let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
    if serde_json::from_slice::<Value>(&text).ok().as_ref() != Some(&config) {
        let error = Error::model(&request.checkpoint, "holds a checkpoint of another shape or depth");
        return Err(error.because(Cause::BenchCheckpoint));
    }
    Ok(config)
}

fn load(request: &Request, config: &Value) -> Result<Box<dyn Benchmark>> {
    let shape = Shape::of(config).ok_or_else(|| unknown(request))?;
    Ok(if config.get("vision_config").is_some() {
        Box::new(writing::WritingBenchmark::load(request, shape)?)
    } else {
        Box::new(vision::VisionBenchmark::load(request, shape)?)
    })
}

/// A learner with every default.
fn defaults<L: DeserializeOwned>() -> Result<L> {
    toml::from_str("model = ''").map_err(|e| Error::config("defaults", e.to_string()))
}

/// Terms of the memory estimate that follow from the request; a model adds its own.
fn usage(request: &Request, lora: &Lora) -> Use {
    Use {
        lora: lora.clone(),
        adapters: 1.0,
        weight_bytes: request.place.dtype.size_in_bytes() as f64,
        fused: request.place.device.is_cpu(),
        fused_adapters: request.place.device.is_cpu(),
        batch: request.batch as f64,
        micro_batch: request.batch as f64,
        checkpointing: false,
        visual: 0.0,
        text: 0.0,
        answer: 0.0,
        names: 0.0,
        pictures: 0.0,
        threads: rayon::current_num_threads() as f64,
    }
}

/// Writes a batch for another program.
fn save(tensors: &HashMap<String, Tensor>, dir: &Path) -> Result<()> {
    let path = dir.join("batch.safetensors");
    candle_core::safetensors::save(tensors, &path).map_err(Error::saving(&path))
}

fn unknown(request: &Request) -> Error {
    let reason = format!("not one of {}", shapes::NAMES.join(", "));
    Error::config(format!("--shape {}", request.shape), reason)
}

fn side(place: &DeviceSpec) -> usize {
    if place.device.is_cpu() { SIDE } else { GPU_SIDE }
}

/// Operations a second in a large product: the median of five, after one. The CPU computes in f32 whatever the weights are.
fn product_speed(place: &DeviceSpec) -> Result<f64> {
    let side = side(place);
    let dtype = if place.device.is_cpu() { DType::F32 } else { place.dtype };
    let a = Tensor::randn(0f32, 1.0, (side, side), &Device::Cpu)?;
    let a = a.to_dtype(dtype)?.to_device(&place.device)?;
    let mut seconds = Vec::new();
    for _ in 0..6 {
        let start = Instant::now();
        std::hint::black_box(a.matmul(&a)?);
        place.device.synchronize()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.remove(0);
    Ok(2.0 * (side as f64).powi(3) / report::median(&seconds))
}
