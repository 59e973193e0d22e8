//! The cells of a sweep in numbers, and its cost in device-hours, memory and disk, before anything is run or even fetched: also where
//! its datasets or models are not on this machine yet.
//!
//! Hours are operations over a speed: that of finished cells of the same learner where there are some, else an assumed share of
//! what the device does in large matrix products. Real models are counted for one H200, micro models for this machine's CPU.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{Device, Tensor};
use serde::Serialize;

use crate::checkpoint::repository;
use crate::cost::operations::{ANSWER, PHOTOGRAPH_TOKENS, Work};
use crate::cost::shape::Shape;
use crate::data::{self, Dataset, LabelledImage};
use crate::error::{Error, Result};
use crate::experiment::config::Sweep;
use crate::experiment::plan::{self, Cell, Places, folds, learners_at, without_refused};
use crate::learner::Learner;
use crate::manifest::{self, Expect, Form, Manifest};
use crate::store::record::CellKey;
use crate::store::record::Record;

/// A sweep in numbers.
pub struct Outline {
    /// In the order in which they would run.
    pub cells: Vec<Point>,
    /// In the order of the config.
    pub sources: Vec<Images>,
    /// Base models, each once.
    pub models: Vec<Model>,
}

/// A cell in numbers.
pub struct Point {
    /// Key that results are compared by.
    pub key: CellKey,
    /// Its hash, where datasets and models are there.
    pub run_id: Option<String>,
    /// The learner with its settings.
    pub learner: Learner,
    /// Classes to choose among.
    pub classes: usize,
    /// Different images learned from.
    pub shots: usize,
    /// Images passed in training, repeats counted.
    pub trained: usize,
    /// Images predicted.
    pub tested: usize,
}

/// A dataset in numbers.
pub struct Images {
    /// Name of its manifest.
    pub name: String,
    /// True if it is on this machine.
    pub here: bool,
    /// Images that shots are drawn from.
    pub pool: usize,
    /// Images that are predicted.
    pub test: usize,
    /// Bytes still to be downloaded; none if the manifest does not know.
    pub download: Option<u64>,
    /// Some of its images, where they are there.
    pub examples: Vec<LabelledImage>,
}

/// A base model.
pub struct Model {
    /// As the config names it.
    pub name: PathBuf,
    /// Its folder, if it is on this machine.
    pub folder: Option<PathBuf>,
}

impl Point {
    fn of(cell: Cell) -> Self {
        Self {
            classes: cell.split.classes.len(),
            shots: cell.split.train.len(),
            trained: (cell.images() as usize - cell.split.test.len()) * trainings(cell.folds),
            tested: cell.split.test.len(),
            key: cell.key,
            run_id: Some(cell.run_id),
            learner: cell.learner,
        }
    }

    /// Images that pass through a model.
    #[must_use]
    pub fn images(&self) -> u64 {
        (self.trained + self.tested) as u64
    }
}

impl Outline {
    /// That of a sweep whose cells could run now.
    ///
    /// # Errors
    /// As [`plan::plan`].
    pub fn of(sweep: &Sweep, places: &Places) -> Result<Self> {
        let (mut cells, mut sources) = (Vec::new(), Vec::<Images>::new());
        plan::each(sweep, places, &mut |cell| {
            if sources.iter().all(|source| source.name != cell.key.dataset) {
                sources.push(Images::of(&cell.dataset));
            }
            cells.push(Point::of(cell));
        })?;
        Ok(Self {
            models: models(cells.iter().map(|cell| &cell.learner), &places.home),
            cells,
            sources,
        })
    }

    /// That of a config whose datasets or models may be missing: of those, the counts that the manifests promise.
    ///
    /// # Errors
    /// As [`plan::plan`], but not for what is only missing; a dataset without counts in its manifest is
    /// [`Error::NotFetched`] still.
    pub fn promised(sweep: &Sweep, places: &Places) -> Result<Self> {
        let (mut cells, mut sources) = (Vec::new(), Vec::new());
        for name in &sweep.datasets {
            let (images, classes) = match data::open_for(name, sweep.protocol, &places.datasets, &places.cache) {
                Ok(dataset) => {
                    let dataset = without_refused(dataset, &sweep.learners);
                    (Images::of(&dataset), dataset.classes.len())
                }
                Err(error @ Error::NotFetched { .. }) => {
                    let manifest = manifest::load(&places.datasets, name)?;
                    let forms = manifest.forms(sweep.protocol).unwrap_or_default();
                    let promise = forms.first().and_then(|form| promise(&manifest, *form));
                    let (images, expect) = promise.ok_or(error)?;
                    (images, expect.classes)
                }
                Err(error) => return Err(error),
            };
            for &seed in &sweep.seeds {
                for &shots in &sweep.shots {
                    for learner in learners_at(sweep, shots, seed) {
                        let learner = learner.under(sweep.protocol, shots);
                        let drawn = shots
                            .count()
                            .map_or(images.pool, |k| images.pool.min(k as usize * classes));
                        cells.push(Point {
                            key: CellKey {
                                dataset: name.clone(),
                                protocol: sweep.protocol,
                                learner: learner.name().to_owned(),
                                shots,
                                seed,
                            },
                            run_id: None,
                            classes,
                            shots: drawn,
                            trained: if shots.any() {
                                learner.images_seen(classes) * trainings(folds(sweep, &learner, shots))
                            } else {
                                0
                            },
                            tested: images.test,
                            learner,
                        });
                    }
                }
            }
            sources.push(images);
        }
        Ok(Self {
            cells,
            sources,
            models: models(sweep.learners.iter(), &places.home),
        })
    }

    /// Names of missing datasets, and of missing models.
    #[must_use]
    pub fn missing(&self) -> (Vec<&str>, Vec<&Path>) {
        let datasets = self.sources.iter().filter(|source| !source.here);
        let models = self.models.iter().filter(|model| model.folder.is_none());
        (
            datasets.map(|source| source.name.as_str()).collect(),
            models.map(|model| model.name.as_path()).collect(),
        )
    }
}

impl Images {
    fn of(dataset: &Dataset) -> Self {
        // Spread over the test side: neighbours are often of one size.
        let step = (dataset.test.len() / 32).max(1);
        Self {
            name: dataset.name.clone(),
            here: true,
            pool: dataset.pool.len(),
            test: dataset.test.len(),
            download: Some(0),
            examples: dataset.test.iter().step_by(step).take(32).cloned().collect(),
        }
    }
}

/// Trainings of a cell: one, and one for each part of the shots that is held out for its temperature.
fn trainings(folds: Option<usize>) -> usize {
    1 + folds.unwrap_or(0)
}

/// Counts and sizes of a form that is not on this machine.
fn promise(manifest: &Manifest, form: Form) -> Option<(Images, Expect)> {
    let (expect, download) = match (form, &manifest.hub) {
        (Form::Hub, Some(hub)) => {
            let known: Option<u64> = hub.shards.iter().map(|shard| shard.size).sum();
            (
                hub.expect.or(manifest.expect)?,
                known.filter(|_| !hub.shards.is_empty()),
            )
        }
        _ => (
            manifest.expect?,
            Some(manifest.files.iter().map(|file| file.size).sum()),
        ),
    };
    let images = Images {
        name: manifest.name.clone(),
        here: false,
        pool: expect.pool,
        test: expect.test,
        download,
        examples: Vec::new(),
    };
    Some((images, expect))
}

fn models<'a>(learners: impl Iterator<Item = &'a Learner>, home: &Path) -> Vec<Model> {
    let mut models: Vec<Model> = Vec::new();
    for name in learners.filter_map(|learner| learner.model()) {
        if models.iter().all(|model| model.name != name) {
            models.push(Model {
                name: name.to_path_buf(),
                folder: repository::locate(name, home).ok(),
            });
        }
    }
    models
}

/// The GPU that real models are counted for, and its speed in dense bf16 products (maker's data sheet), operations a second.
const GPU: &str = "H200";
const GPU_SPEED: f64 = 989e12;
/// Share of a device's speed in large products that training and answering are assumed to reach.
const REACHED: f64 = 0.4;
/// Models with fewer numbers are stand-ins for a CPU.
const MICRO: f64 = 20e6;
/// Bytes of a shrunk photograph in the image cache, and what that holds by default.
const SHRUNK_BYTES: u64 = 340_000;
const CACHE_BYTES: u64 = 20_000_000_000;

/// A finished cell, as far as the speed of others follows from it.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its name.
    pub run_id: String,
    /// Label of the learner.
    learner: String,
    /// Its share of those that it ran beside others.
    train_seconds: f64,
    eval_seconds: f64,
    trained: u64,
    tested: u64,
}

impl Finished {
    /// That of a record.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        Self {
            run_id: record.run_id.clone(),
            learner: record.key.learner.clone(),
            train_seconds: record.timing.train_seconds / record.timing.jobs.max(1) as f64,
            eval_seconds: record.timing.eval_seconds / record.timing.jobs.max(1) as f64,
            trained: record.training.images_seen,
            tested: record.n_test as u64,
        }
    }
}

/// The cost of what is not finished.
#[derive(Debug, Serialize)]
pub struct Estimate {
    /// One a learner, in the order of the config.
    pub learners: Vec<Cost>,
    /// Sum of those that are known.
    pub device_hours: f64,
    /// The largest.
    pub memory_bytes: u64,
    /// Bytes on disk.
    pub disk: Disk,
    /// Datasets that are not on this machine.
    pub missing_datasets: Vec<String>,
    /// Models that are not on this machine.
    pub missing_models: Vec<PathBuf>,
    /// Assumptions that the numbers rest on.
    pub assumptions: Vec<String>,
}

/// The cost of one learner.
#[derive(Debug, Serialize)]
pub struct Cost {
    /// Its name.
    pub learner: String,
    /// Cells that are not finished.
    pub cells: usize,
    /// Images passed in training, repeats counted.
    pub train_images: u64,
    /// Images predicted.
    pub test_images: u64,
    /// Device of the hours and the memory.
    pub device: &'static str,
    /// None for a model of unknown size.
    pub hours: Option<f64>,
    /// True if the hours rest on finished cells of this learner.
    pub measured: bool,
    /// While training.
    pub memory_bytes: Option<u64>,
}

/// Bytes on disk.
#[derive(Debug, Serialize)]
pub struct Disk {
    /// Still to be downloaded, of those datasets that say how much.
    pub downloads: u64,
    /// Datasets that do not.
    pub downloads_unknown: Vec<String>,
    /// Images once unpacked: about as much as their archives.
    pub unpacked: u64,
    /// Weights of missing models.
    pub weights: u64,
    /// Shrunk images.
    pub image_cache: u64,
    /// Predictions.
    pub results: u64,
}

/// The cost of what `outline` has beyond the cells of `finished`.
///
/// # Errors
/// When this machine's speed cannot be measured.
pub fn estimate(outline: &Outline, finished: &[Finished]) -> Result<Estimate> {
    let done: HashSet<&str> = finished.iter().map(|record| record.run_id.as_str()).collect();
    let is_open = |cell: &&Point| !cell.run_id.as_deref().is_some_and(|id| done.contains(id));
    let open: Vec<&Point> = outline.cells.iter().filter(is_open).collect();
    let mut by_learner: Vec<Vec<&Point>> = Vec::new();
    for &cell in &open {
        let same = |cells: &&mut Vec<&Point>| cells[0].learner.name() == cell.learner.name();
        match by_learner.iter_mut().find(same) {
            Some(cells) => cells.push(cell),
            None => by_learner.push(vec![cell]),
        }
    }
    let mut counted = Counted {
        outline,
        seen: HashMap::new(),
        cpu: None,
    };
    let mut learners = Vec::new();
    for cells in &by_learner {
        learners.push(counted.cost(cells, finished)?);
    }
    let (datasets, models) = outline.missing();
    let weights = outline.models.iter().filter(|model| model.folder.is_none());
    let weights: f64 = weights.filter_map(shape_of).map(|shape| 2.0 * shape.parameters()).sum();
    let unknown = outline.sources.iter().filter(|source| source.download.is_none());
    let downloads: u64 = outline.sources.iter().filter_map(|source| source.download).sum();
    let disk = Disk {
        downloads,
        downloads_unknown: unknown.map(|source| source.name.clone()).collect(),
        unpacked: downloads,
        weights: weights as u64,
        image_cache: image_cache(outline),
        results: open
            .iter()
            .map(|cell| (cell.tested * (60 + 3 * cell.classes)) as u64)
            .sum(),
    };
    Ok(Estimate {
        device_hours: learners.iter().filter_map(|cost| cost.hours).sum(),
        memory_bytes: learners.iter().filter_map(|cost| cost.memory_bytes).max().unwrap_or(0),
        assumptions: assumptions(&learners, counted.cpu),
        learners,
        disk,
        missing_datasets: datasets.into_iter().map(str::to_owned).collect(),
        missing_models: models.into_iter().map(Path::to_path_buf).collect(),
    })
}

/// The most bytes that one more cell at the same time takes on a CPU, beyond the weights that all share; `None` where a model's
/// size is unknown.
#[must_use]
pub fn beside(cells: &[Cell], home: &Path) -> Option<u64> {
    let mut most = 0;
    let mut seen = HashSet::new();
    for cell in cells {
        let Some(name) = cell.learner.model() else { continue };
        if !seen.insert((cell.learner.name(), &cell.key.dataset)) {
            continue;
        }
        let model = Model {
            name: name.to_path_buf(),
            folder: repository::locate(name, home).ok(),
        };
        let tokens = cell
            .learner
            .tokens(model.folder.as_deref(), &Images::of(&cell.dataset).examples);
        let demand = cell.learner.demand(&shape_of(&model)?, tokens, 4.0);
        most = most.max(demand.total() - demand.weights);
    }
    Some(most)
}

/// The count so far.
struct Counted<'a> {
    outline: &'a Outline,
    /// Images whose frozen features are known, by dataset and model: probes share them.
    seen: HashMap<(&'a str, &'a Path), usize>,
    /// Operations a second of this machine in large products, once measured.
    cpu: Option<f64>,
}

impl<'a> Counted<'a> {
    /// The cost of one learner's cells; there is at least one.
    fn cost(&mut self, cells: &[&'a Point], finished: &[Finished]) -> Result<Cost> {
        let name = cells.first().map_or("", |cell| cell.learner.name());
        let mut cost = Cost {
            learner: name.to_owned(),
            cells: cells.len(),
            train_images: cells.iter().map(|cell| cell.trained as u64).sum(),
            test_images: cells.iter().map(|cell| cell.tested as u64).sum(),
            device: "cpu",
            hours: Some(0.0),
            measured: false,
            memory_bytes: Some(0),
        };
        let model = cells.first().and_then(|cell| cell.learner.model());
        let model = model.and_then(|name| self.outline.models.iter().find(|model| model.name == name));
        let mut operations = 0.0;
        if let Some(model) = model {
            let Some(shape) = shape_of(model) else {
                return Ok(Cost {
                    hours: None,
                    memory_bytes: None,
                    ..cost
                });
            };
            let micro = shape.parameters() < MICRO;
            cost.device = if micro { "cpu" } else { GPU };
            // Asked of files: once a dataset, not once a cell.
            let mut known: HashMap<&str, f64> = HashMap::new();
            for cell in cells {
                let mut sources = self.outline.sources.iter();
                let images = sources.find(|source| source.name == cell.key.dataset);
                let tokens = *known.entry(&cell.key.dataset).or_insert_with(|| {
                    cell.learner
                        .tokens(model.folder.as_deref(), images.map_or(&[], |images| &images.examples))
                });
                operations += self.operations(cell, model, images, cell.learner.work(&shape, tokens));
                let bytes = cell.learner.demand(&shape, tokens, if micro { 4.0 } else { 2.0 });
                cost.memory_bytes = cost.memory_bytes.max(Some(bytes.total()));
            }
        }
        if let Some(hours) = measured(cells, finished) {
            cost.hours = Some(hours);
            cost.measured = true;
        } else if operations > 0.0 {
            let speed = match (cost.device, self.cpu) {
                (GPU, _) => GPU_SPEED,
                (_, Some(speed)) => speed,
                _ => *self.cpu.insert(product_speed()?),
            };
            cost.hours = Some(operations / (REACHED * speed) / 3600.0);
        }
        Ok(cost)
    }

    fn operations(&mut self, cell: &'a Point, model: &'a Model, images: Option<&'a Images>, each: Work) -> f64 {
        let seen = match cell.learner.encoded(cell.trained, cell.shots, cell.tested) {
            Some(encoded) => encoded,
            None => {
                let key = (cell.key.dataset.as_str(), model.name.as_path());
                let pool = images.map_or(0, |images| images.pool);
                let known = self.seen.entry(key).or_default();
                let before = *known;
                *known = (before.max(cell.tested) + cell.shots).min(pool + cell.tested);
                *known - before
            }
        };
        cell.trained as f64 * each.trained + cell.tested as f64 * each.tested + seen as f64 * each.seen
    }
}

/// Hours by the speed of finished cells of the same learner.
fn measured(cells: &[&Point], finished: &[Finished]) -> Option<f64> {
    let name = cells.first()?.learner.name();
    let same: Vec<&Finished> = finished.iter().filter(|cell| cell.learner == name).collect();
    let rate = |seconds: fn(&Finished) -> f64, images: fn(&Finished) -> u64| {
        let images: u64 = same.iter().map(|record| images(record)).sum();
        (images > 0).then(|| same.iter().map(|record| seconds(record)).sum::<f64>() / images as f64)
    };
    let answer = rate(|cell| cell.eval_seconds, |cell| cell.tested)?;
    let trained: usize = cells.iter().map(|cell| cell.trained).sum();
    let tested: usize = cells.iter().map(|cell| cell.tested).sum();
    let train = rate(|cell| cell.train_seconds, |cell| cell.trained).or((trained == 0).then_some(0.0))?;
    Some((trained as f64 * train + tested as f64 * answer) / 3600.0)
}

fn shape_of(model: &Model) -> Option<Shape> {
    match &model.folder {
        Some(folder) => Shape::read(folder),
        None => Shape::known(model.name.to_str()?),
    }
}

/// Bytes of shrunk images: small ones are not kept.
fn image_cache(outline: &Outline) -> u64 {
    let longest = outline.cells.iter().filter_map(|cell| cell.learner.longest_side());
    let Some(longest) = longest.max() else { return 0 };
    let is_large = |path: &Path| image::image_dimensions(path).is_ok_and(|(w, h)| w.max(h) > longest);
    let large = outline
        .sources
        .iter()
        .filter(|source| !source.here || source.examples.iter().any(|image| is_large(&image.path)));
    let images: usize = large.map(|source| source.pool + source.test).sum();
    (SHRUNK_BYTES * images as u64).min(CACHE_BYTES)
}

/// Operations a second in large f32 products, all threads of this machine.
fn product_speed() -> Result<f64> {
    const SIDE: usize = 768;
    const TIMES: usize = 4;
    let a = Tensor::ones((SIDE, SIDE), candle_core::DType::F32, &Device::Cpu)?;
    a.matmul(&a)?;
    let start = Instant::now();
    for _ in 0..TIMES {
        a.matmul(&a)?;
    }
    Ok(TIMES as f64 * 2.0 * (SIDE as f64).powi(3) / start.elapsed().as_secs_f64())
}

fn assumptions(learners: &[Cost], cpu: Option<f64>) -> Vec<String> {
    let mut said = Vec::new();
    let percent = 100.0 * REACHED;
    if learners.iter().any(|cost| cost.device == GPU && !cost.measured) {
        let speed = GPU_SPEED / 1e12;
        said.push(format!(
            "hours on one {GPU}: {percent:.0} % of its {speed:.0} TFLOP/s (bf16), which is assumed; nothing of it was measured"
        ));
        said.push(format!(
            "a photograph is {PHOTOGRAPH_TOKENS:.0} tokens for a Qwen3-VL where its size is unknown, an answer {ANSWER:.0}; one forward pass a reading; \
             the tower runs once an image and its mirror image"
        ));
    }
    if let Some(speed) = cpu {
        let speed = speed / 1e9;
        said.push(format!(
            "hours on this CPU: {percent:.0} % of the {speed:.0} GFLOP/s that it does in large products now"
        ));
    }
    if learners.iter().any(|cost| cost.measured) {
        said.push("hours of learners with finished cells here: at the speed of those".into());
    }
    if learners.iter().any(|cost| cost.hours.is_none()) {
        said.push("a model of unknown size counts for nothing".into());
    }
    said.push("memory: weights, what a training step keeps, adapters; decoding images is not counted".into());
    said
}
