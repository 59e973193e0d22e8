//! From a config to cells: everything that can be wrong is found here, before anything is trained.

use std::env;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::config::Shots;
use crate::data::split::{self, Split, SplitItem};
use crate::data::{self, Dataset, LabelledImage};
use crate::engine::CacheStats;
use crate::environment::Variable;
use crate::error::Result;
use crate::example::ImageCache;
use crate::experiment::config::Sweep;
use crate::fs::{cache_folder, data_folder};
use crate::learner::base::{Base, Bases};
use crate::learner::{Classifier, Learner};
use crate::manifest::ManifestFolders;
use crate::nn::DeviceSpec;
use crate::store::record::{CellKey, Identity};

/// Raised whenever a code change may change numbers, so that old cells are not taken for new ones. 3: photographs are
/// upright, colours of 16 bits and the first frames of GIFs are Pillow's.
pub const RECIPE: u32 = 3;

/// Folders and bounds on this machine.
#[derive(Debug, Clone)]
pub struct Places {
    /// Relative model folders are looked up here.
    pub home: PathBuf,
    /// Where manifests are looked for.
    pub datasets: ManifestFolders,
    /// Unpacked datasets.
    pub cache: PathBuf,
    /// Bound of the cache of shrunk images below `cache`, as [`ImageCache::new`] takes it.
    pub image_cache_gigabytes: Option<f64>,
    /// Bound of the features of pictures that each model that writes keeps, in 10⁹ bytes; `None`: 2 GiB.
    pub feature_gigabytes: Option<f64>,
}

impl Places {
    /// Those that the environment names. Manifests are those in `datasets` of the working folder, or of `KSHOT_HOME`; those of the
    /// user in `kshot/datasets` of the platform's folder for data; and those inside the binary. Unpacked data goes to
    /// `KSHOT_CACHE`, else the platform's cache folder; `KSHOT_IMAGE_CACHE_GB` bounds what of it are shrunk images, 0 for none,
    /// and `KSHOT_FEATURE_CACHE_GB` what is kept in memory of what a frozen tower saw in pictures.
    #[must_use]
    pub fn from_env() -> Self {
        let home = Variable::Home.path().or_else(|| env::current_dir().ok());
        let home = home.unwrap_or_default();
        let folders = [Some(home.clone()), data_folder()].into_iter().flatten();
        let folders = folders.map(|folder| folder.join("datasets"));
        Self {
            datasets: ManifestFolders::with_embedded(folders.collect()),
            cache: cache_folder(),
            image_cache_gigabytes: gigabytes(Variable::ImageCache),
            feature_gigabytes: gigabytes(Variable::FeatureCache),
            home,
        }
    }

    /// The cache of shrunk images; none if the bound is 0.
    #[must_use]
    pub fn image_cache(&self) -> Option<ImageCache> {
        ImageCache::new(&self.cache.join("images"), self.image_cache_gigabytes)
    }
}

fn gigabytes(variable: Variable) -> Option<f64> {
    let bound = variable.text()?;
    let gigabytes = bound.parse().ok().filter(|gigabytes: &f64| gigabytes.is_finite());
    if gigabytes.is_none() {
        let name = variable.name();
        tracing::warn!("{name} is `{bound}`, which is no number of gigabytes: the default holds");
    }
    gigabytes
}

/// One point of one curve, ready to run.
pub struct Cell {
    /// Key that results are compared by.
    pub key: CellKey,
    /// Hash of everything that may change its numbers.
    pub run_id: String,
    /// The learner with its settings.
    pub learner: Learner,
    /// The dataset.
    pub dataset: Arc<Dataset>,
    /// The images that are learned from and predicted.
    pub split: Arc<Split>,
    /// Parts of the shots for its temperature, where one is fitted.
    pub folds: Option<usize>,
    /// The base model, shared by all cells that use it.
    base: Arc<dyn Base>,
    /// Its device, and the type of its weights.
    pub place: DeviceSpec,
}

/// All cells of a sweep, in the order in which they run: dataset, seed, shots, learner.
///
/// Opens every dataset, draws every split and loads every model, so that a wrong name, a damaged
/// file or too many shots are reported before the first cell.
///
/// # Errors
/// Whatever is wrong with datasets, splits or models.
pub fn plan(sweep: &Sweep, places: &Places) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    each(sweep, places, &mut |cell| cells.push(cell))?;
    Ok(cells)
}

/// As [`plan`], but one cell after the other: a split is as large as its image lists, and in a large sweep all of them
/// together are larger than anything else.
///
/// # Errors
/// As [`plan`].
pub fn each(sweep: &Sweep, places: &Places, take: &mut dyn FnMut(Cell)) -> Result<()> {
    let mut bases = Bases::new(&places.home).keeping(places.image_cache());
    if let Some(gigabytes) = places.feature_gigabytes {
        bases = bases.with_feature_bytes((gigabytes * 1e9) as usize);
    }
    for learner in &sweep.learners {
        learner.load(&mut bases)?;
    }
    for name in &sweep.datasets {
        let dataset = data::open_for(name, sweep.protocol, &places.datasets, &places.cache)?.with_exif(sweep.exif);
        let dataset = Arc::new(without_refused(dataset, &sweep.learners));
        for &seed in &sweep.seeds {
            for &shots in &sweep.shots {
                let learners = learners_at(sweep, shots, seed);
                if learners.is_empty() {
                    continue;
                }
                let indices = sweep.indices.as_deref();
                let indices = indices.and_then(|folder| split::index_path(folder, &dataset, shots, seed));
                let split = split::draw(&dataset, sweep.protocol, shots, seed, indices.as_deref())?;
                let split = Arc::new(split);
                for own in learners {
                    let mut learner = own.under(sweep.protocol, shots);
                    learner.describe(Some(dataset.layout));
                    let mut cell = Cell {
                        key: CellKey {
                            dataset: dataset.name.clone(),
                            protocol: sweep.protocol,
                            learner: learner.name().to_owned(),
                            shots,
                            seed,
                        },
                        run_id: String::new(),
                        dataset: dataset.clone(),
                        split: split.clone(),
                        folds: folds(sweep, own, shots),
                        base: learner.load(&mut bases)?,
                        place: bases.place(learner.model(), learner.dtype())?,
                        learner,
                    };
                    cell.run_id = cell.identity().run_id();
                    take(cell);
                }
            }
        }
    }
    Ok(())
}

/// A dataset without the images whose size one of the learners cannot take. All learners go without them: they are compared on
/// the same images.
#[must_use]
pub fn without_refused(dataset: Dataset, learners: &[Learner]) -> Dataset {
    let dataset = dataset.without(|width, height| learners.iter().any(|learner| learner.refuses(width, height)));
    if let [first, ..] = &dataset.refused[..] {
        let (name, count) = (&dataset.name, dataset.refused.len());
        tracing::warn!(
            "dataset `{name}`: {count} images are left out for all learners, `{first}` first: Qwen3-VL takes none whose longer side \
             is more than 200 times the other"
        );
    }
    dataset
}

/// The learners that have a cell at `shots` and `seed`. Without shots there is nothing to draw and nothing to train, so only
/// learners that can answer unseen have one, and only under the first seed; with shots, those that learn.
pub(super) fn learners_at(sweep: &Sweep, shots: Shots, seed: u64) -> Vec<&Learner> {
    let has_cell = |learner: &&Learner| match shots.any() {
        true => learner.learns(),
        false => learner.answers_unseen() && sweep.seeds.first() == Some(&seed),
    };
    sweep.learners.iter().filter(has_cell).collect()
}

/// Parts of the shots for the temperature of a learner: where the sweep asks for one, the learner has probabilities and
/// there is a shot of every class for every part.
pub(super) fn folds(sweep: &Sweep, learner: &Learner, shots: Shots) -> Option<usize> {
    let folds = sweep.calibration.as_ref()?.folds;
    let enough = shots.count().is_none_or(|k| k as usize >= folds);
    (enough && learner.has_probabilities()).then_some(folds)
}

impl Cell {
    /// Everything that may change this cell's numbers. Made anew each time: in a large sweep the image
    /// lists of all cells together would be large.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let mut hyper_parameters = self.learner.identity(self.key.shots);
        if let (Some(folds), Value::Object(fields)) = (self.folds, &mut hyper_parameters) {
            // No number of before depends on it, but a cell without a temperature is not one with it.
            fields.insert("calibration".into(), json!({"folds": folds}));
        }
        // How images become pixels, where that is not the default.
        if let (Some(image), Value::Object(fields)) = (self.dataset.test.first(), &mut hyper_parameters) {
            if !image.decoding.exif {
                fields.insert("exif".into(), false.into());
            }
            if let Some(mode) = image.decoding.mode {
                fields.insert("image_mode".into(), mode.name().into());
            }
        }
        let ids = |items: &[SplitItem]| items.iter().map(|i| (i.id.clone(), i.sha256.clone())).collect();
        Identity {
            key: self.key.clone(),
            hyper_parameters,
            train: ids(&self.split.train),
            test: ids(&self.split.test),
            classes: self.split.classes.clone(),
            weights: self.base.fingerprint().map(str::to_owned),
            dtype: self.place.dtype_name().into(),
            backend: self.base.backend().into(),
            recipe: RECIPE,
        }
    }

    /// Hash that tells its base model from all others; `None` without a model.
    pub(super) fn fingerprint(&self) -> Option<&str> {
        self.base.fingerprint()
    }

    /// Images to learn from, in the split's order; none at k = 0.
    ///
    /// # Errors
    /// The split names an image that the dataset does not have.
    pub fn shots(&self) -> Result<Vec<LabelledImage>> {
        self.split.train_images(&self.dataset)
    }

    /// Images to predict, in the split's order.
    ///
    /// # Errors
    /// As [`Cell::shots`].
    pub fn test(&self) -> Result<Vec<LabelledImage>> {
        self.split.test_images(&self.dataset)
    }

    /// A fresh classifier of this cell's learner.
    ///
    /// # Errors
    /// As [`Base::classifier`].
    pub fn classifier(&self) -> Result<Box<dyn Classifier>> {
        self.base.classifier(&self.split.classes, self.key.seed)
    }

    /// True if another cell asks about the same test images, preprocessed alike for the same vision tower.
    pub(super) fn shares_views_with(&self, other: &Self) -> bool {
        let identity = |cell: &Self| cell.base.tower().map(|tower| tower.identity);
        Arc::ptr_eq(&self.dataset, &other.dataset)
            && identity(self).is_some()
            && identity(self) == identity(other)
            && self.split.test == other.split.test
    }

    /// Test images of which its vision tower keeps features, where these are not all.
    pub(super) fn capacity(&self) -> Option<usize> {
        let capacity = self.base.tower()?.capacity;
        capacity.filter(|capacity| *capacity < self.split.test.len())
    }

    /// Look-ups of pictures by its base model so far, all cells together.
    #[must_use]
    pub fn lookups(&self) -> Option<CacheStats> {
        self.base.tower()?.lookups
    }

    /// Images that pass through a model when this cell runs: its share of the sweep's progress bar.
    #[must_use]
    pub fn images(&self) -> u64 {
        let trained = if self.key.shots.any() {
            self.learner.images_seen(self.split.classes.len())
        } else {
            0
        };
        (trained + self.split.test.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_shots_there_is_one_cell_and_only_for_those_who_answer_unseen() {
        let config = "name = 'm'\ndatasets = ['a']\nshots = [0, 1]\nseeds = [4, 2]\n\
            [[learner]]\nmethod = 'pixels'\n[[learner]]\nmethod = 'qwen3-vl-lora'\nmodel = 'm'\nname = 'writer'\n\
            [[learner]]\nmethod = 'clip-zero-shot'\nmodel = 'm'\n";
        let sweep = Sweep::parse(config, "c", &[]).unwrap();
        let names = |shots: u32, seed| -> Vec<&str> {
            let learners = learners_at(&sweep, shots.into(), seed);
            learners.iter().map(|learner| learner.name()).collect()
        };
        assert_eq!(names(0, 4), ["writer", "CLIP zero-shot"]);
        assert!(names(0, 2).is_empty());
        assert_eq!(names(1, 4), names(1, 2));
        assert_eq!(names(1, 2), ["raw pixels 1-NN", "writer"]);
    }
}
