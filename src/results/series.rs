//! The runs behind one point of a curve: one learner at one number of shots, over all seeds.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::Protocol;
use crate::error::{Error, Result};
use crate::prediction::Prediction;
use crate::results::metric::Headline;
use crate::results::record::{CellKey, Record};
use crate::results::statistics::bootstrap::Image;
use crate::results::store::Store;

/// The images that all runs of a series were tested on, sorted by id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestSet {
    /// Id, SHA-256 and true class of each image.
    pub images: Vec<(String, String, u32)>,
    /// Group of each image, numbered from 0; an image without a group is one of its own.
    pub groups: Vec<u32>,
}

/// One finished cell, reduced to what comparisons need.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its record.
    pub record: Record,
    /// Whether each image of the test set was answered correctly, by the record's reading.
    pub correct: Vec<bool>,
}

/// All runs of one learner at one number of shots on one dataset.
#[derive(Debug, Clone)]
pub struct Series {
    /// Name of the dataset.
    pub dataset: String,
    /// How shots and test images were chosen.
    pub protocol: Protocol,
    /// Label of the learner.
    pub learner: String,
    /// Labelled examples per class.
    pub shots: u32,
    /// What every run was tested on.
    pub test: Arc<TestSet>,
    /// One run a seed, sorted by seed; never empty.
    pub runs: Vec<Run>,
}

impl Series {
    /// The series that `records` belong to, sorted by dataset, protocol, learner and shots.
    ///
    /// Of two records with one key (the hyper-parameters were changed in between) the later one counts,
    /// with a warning.
    ///
    /// # Errors
    /// As [`Store::predictions`]; [`Error::NotComparable`] when runs of one series differ in test images,
    /// classes, reading or metric.
    pub fn load(store: &Store, records: &[Record]) -> Result<Vec<Self>> {
        let cells = records
            .iter()
            .map(|record| Ok((record.clone(), store.predictions(&record.run_id)?)));
        Self::group(cells)
    }

    /// As [`Series::load`], from cells at hand.
    ///
    /// # Errors
    /// As [`Series::load`], and whatever the iterator yields.
    pub fn group(cells: impl Iterator<Item = Result<(Record, Vec<Prediction>)>>) -> Result<Vec<Self>> {
        let mut runs: BTreeMap<CellKey, (Arc<TestSet>, Run)> = BTreeMap::new();
        let mut known: Vec<Arc<TestSet>> = Vec::new();
        for cell in cells {
            let (record, predictions) = cell?;
            if let Some((_, other)) = runs.get(&record.key) {
                tracing::warn!("two results for {}: the later one counts", record.key);
                let age = |r: &Record| (r.timing.finished.clone(), r.run_id.clone());
                if age(&other.record) > age(&record) {
                    continue;
                }
            }
            let (test, correct) = reduce(&record, predictions);
            // All runs on a dataset share one copy of its test set.
            let test = known.iter().find(|set| ***set == test).cloned().unwrap_or_else(|| {
                known.push(Arc::new(test));
                Arc::clone(&known[known.len() - 1])
            });
            runs.insert(record.key.clone(), (test, Run { record, correct }));
        }
        let mut all: Vec<Self> = Vec::new();
        for (key, (test, run)) in runs {
            match all.last_mut().filter(|series| series.holds(&key)) {
                Some(series) => {
                    check_same(&series.runs[0], &series.test, &run, &test)?;
                    series.runs.push(run);
                }
                None => all.push(Self {
                    dataset: key.dataset,
                    protocol: key.protocol,
                    learner: key.learner,
                    shots: key.shots,
                    test,
                    runs: vec![run],
                }),
            }
        }
        Ok(all)
    }

    fn holds(&self, key: &CellKey) -> bool {
        self.dataset == key.dataset
            && self.protocol == key.protocol
            && self.learner == key.learner
            && self.shots == key.shots
    }

    /// Seeds of its runs, in order.
    #[must_use]
    pub fn seeds(&self) -> Vec<u64> {
        self.runs.iter().map(|run| run.record.key.seed).collect()
    }

    /// Which accuracy it reports.
    #[must_use]
    pub fn headline(&self) -> Headline {
        self.runs[0].record.metrics.headline
    }

    /// Whether any of it is from a miniature dataset, or by a micro model.
    #[must_use]
    pub fn is_micro(&self) -> bool {
        self.runs.iter().any(|run| run.record.micro)
    }

    /// Headline accuracy of each run, between 0 and 1, in order of seeds.
    #[must_use]
    pub fn values(&self) -> Vec<f64> {
        self.runs.iter().map(|run| run.record.value()).collect()
    }

    /// Whether right (1) or wrong (0), image by image and seed by seed.
    #[must_use]
    pub fn images(&self) -> Vec<Image> {
        self.images_with(|image| {
            self.runs
                .iter()
                .map(|run| f64::from(u8::from(run.correct[image])))
                .collect()
        })
    }

    /// Own score minus the other's (−1, 0 or 1), image by image, for the seeds that both have.
    ///
    /// # Errors
    /// [`Error::NotComparable`] when test images, classes, reading or metric differ.
    pub fn differences(&self, other: &Self) -> Result<Vec<Image>> {
        check_same(&self.runs[0], &self.test, &other.runs[0], &other.test)?;
        let pairs: Vec<(&Run, &Run)> = self
            .runs
            .iter()
            .filter_map(|own| {
                let same_seed = |run: &&Run| run.record.key.seed == own.record.key.seed;
                Some((own, other.runs.iter().find(same_seed)?))
            })
            .collect();
        let score = |run: &Run, image: usize| f64::from(u8::from(run.correct[image]));
        Ok(self.images_with(|image| {
            pairs
                .iter()
                .map(|(own, other)| score(own, image) - score(other, image))
                .collect()
        }))
    }

    fn images_with(&self, scores: impl Fn(usize) -> Vec<f64>) -> Vec<Image> {
        let per_class = self.headline() == Headline::MeanPerClass;
        let one = |(i, (&group, (_, _, truth))): (usize, (&u32, &(String, String, u32)))| Image {
            group,
            stratum: if per_class { *truth } else { 0 },
            scores: scores(i),
        };
        self.test
            .groups
            .iter()
            .zip(&self.test.images)
            .enumerate()
            .map(one)
            .collect()
    }
}

/// The test set of a cell, sorted by id, with what was right on it.
fn reduce(record: &Record, mut predictions: Vec<Prediction>) -> (TestSet, Vec<bool>) {
    predictions.sort_by(|a, b| a.id.cmp(&b.id));
    let mut numbers: BTreeMap<(bool, String), u32> = BTreeMap::new();
    let mut test = TestSet {
        images: Vec::new(),
        groups: Vec::new(),
    };
    let mut correct = Vec::new();
    for prediction in predictions {
        correct.push(prediction.correct(record.reading));
        let name = match prediction.group {
            Some(group) => (true, group),
            None => (false, prediction.id.clone()),
        };
        let next = numbers.len() as u32;
        test.groups.push(*numbers.entry(name).or_insert(next));
        test.images.push((prediction.id, prediction.sha256, prediction.truth));
    }
    (test, correct)
}

fn check_same(left: &Run, left_test: &TestSet, right: &Run, right_test: &TestSet) -> Result<()> {
    let (a, b) = (&left.record, &right.record);
    let differs = if left_test != right_test {
        "they were tested on different images"
    } else if a.classes != b.classes {
        "their class lists differ"
    } else if a.key.protocol != b.key.protocol {
        "their protocols differ"
    } else if a.reading != b.reading || a.metrics.headline != b.metrics.headline {
        "they report different metrics"
    } else {
        return Ok(());
    };
    let name = |record: &Record| format!("`{}` ({})", record.key, record.run_id);
    Err(Error::NotComparable {
        left: name(a),
        right: name(b),
        reason: differs.into(),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::prediction::Reading;
    use crate::results::record::{Account, Identity, Timing, TrainingSummary};

    type Cell = (Record, Vec<Prediction>);

    /// A finished cell with `n` test images of 4 classes in pairs that show one drawing, of which `right`
    /// says which are answered correctly.
    pub(crate) fn cell(
        (dataset, learner, shots, seed): (&str, &str, u32, u64),
        n: u32,
        right: impl Fn(u32) -> bool,
    ) -> Cell {
        let method = if learner.contains("pixels") { "pixels" } else { "other" };
        let identity = Identity {
            key: CellKey {
                dataset: dataset.into(),
                protocol: Protocol::Clean,
                learner: learner.into(),
                shots,
                seed,
            },
            hyper_parameters: serde_json::json!({ "method": method }),
            train: vec![],
            test: vec![],
            classes: ["ant", "bee", "cat", "dog"].map(String::from).into(),
            weights: None,
            dtype: "f32".into(),
            backend: "local".into(),
            recipe: 1,
        };
        let account = Account {
            reading: Reading::Likelihood,
            headline: Headline::Top1,
            micro: true,
            regime: Some("novel".into()),
            split_sha256: "00".into(),
            training: TrainingSummary {
                trainable_parameters: u64::from(learner.contains("LoRA")),
                ..TrainingSummary::default()
            },
            timing: Timing::default(),
        };
        let row = |i: u32| Prediction {
            id: format!("{i:04}.png"),
            sha256: format!("{i:02x}"),
            group: Some(format!("drawing {}", i / 2)),
            truth: i % 4,
            free_text: None,
            free_class: None,
            trie_class: None,
            likelihood_class: Some(if right(i) { i % 4 } else { (i + 1) % 4 }),
            log_probs: None,
        };
        let rows: Vec<_> = (0..n).map(row).collect();
        (Record::new(&identity, account, &rows, String::new()), rows)
    }

    #[test]
    fn runs_are_grouped_by_seed_and_images_aligned_by_id() {
        let mut second = cell(("a", "x", 4, 7), 8, |i| i < 2);
        second.1.reverse(); // another order of the same images
        let cells = [
            cell(("a", "x", 8, 0), 8, |_| true),
            second,
            cell(("a", "x", 4, 1), 8, |i| i == 7),
        ];
        let series = Series::group(cells.into_iter().map(Ok)).unwrap();
        let shots: Vec<_> = series.iter().map(|s| (s.shots, s.seeds())).collect();
        assert_eq!(shots, [(4, vec![1, 7]), (8, vec![0])]);
        assert!(Arc::ptr_eq(&series[0].test, &series[1].test));
        let images = series[0].images();
        assert_eq!(images[0].scores, [0.0, 1.0]);
        assert_eq!(images[7].scores, [1.0, 0.0]);
        assert_eq!((images[6].group, images[7].group), (3, 3));
    }

    #[test]
    fn differences_pair_seeds_and_images() {
        let series = |learner, seeds: &[u64], right: fn(u32) -> bool| {
            let cells = seeds.iter().map(|&seed| Ok(cell(("a", learner, 4, seed), 4, right)));
            Series::group(cells).unwrap().remove(0)
        };
        let ours = series("x", &[0, 1, 2], |i| i != 3);
        let theirs = series("y", &[1, 2, 5], |i| i == 0 || i == 3);
        let scores: Vec<_> = ours
            .differences(&theirs)
            .unwrap()
            .into_iter()
            .map(|image| image.scores)
            .collect();
        assert_eq!(scores, [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]]);
    }

    #[test]
    fn other_images_classes_or_metrics_are_not_compared() {
        let changes: [fn(&mut Cell); 4] = [
            |c| c.1[0].sha256 = "other".into(),
            |c| c.0.classes.swap(0, 1),
            |c| c.0.metrics.headline = Headline::MeanPerClass,
            |c| c.0.reading = Reading::Free,
        ];
        for change in changes {
            let mut other = cell(("a", "x", 4, 1), 4, |_| true);
            change(&mut other);
            let cells = [cell(("a", "x", 4, 0), 4, |_| true), other];
            let error = Series::group(cells.into_iter().map(Ok)).unwrap_err();
            assert!(matches!(error, Error::NotComparable { .. }), "{error}");
        }
    }

    #[test]
    fn of_two_results_for_one_cell_the_later_counts() {
        let (mut old, rows) = cell(("a", "x", 4, 0), 4, |_| false);
        old.timing.finished = "2026-01-01T00:00:00Z".into();
        let (mut new, new_rows) = cell(("a", "x", 4, 0), 4, |_| true);
        new.timing.finished = "2026-01-02T00:00:00Z".into();
        let (old, new) = ((old, rows), (new, new_rows));
        for cells in [[old.clone(), new.clone()], [new, old]] {
            let series = Series::group(cells.into_iter().map(Ok)).unwrap();
            assert_eq!(series[0].values(), [1.0]);
        }
    }
}
