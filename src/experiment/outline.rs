//! The cells of a sweep in numbers, also where its datasets or models are not on this machine yet.

use std::path::{Path, PathBuf};

use crate::checkpoint::repository;
use crate::data::{self, Dataset, LabelledImage};
use crate::error::{Error, Result};
use crate::experiment::config::Sweep;
use crate::experiment::plan::{self, Cell, Places, folds, learners_at, without_refused};
use crate::learner::Learner;
use crate::manifest;
use crate::manifest::{Expect, Form, Manifest};
use crate::store::record::CellKey;

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
