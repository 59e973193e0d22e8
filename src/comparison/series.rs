//! The runs behind one point of a curve: one learner at one number of shots, over all seeds.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{Protocol, Shots};
use crate::error::{Error, Result};
use crate::prediction::{Prediction, Reading};
use crate::statistics::metric;
use crate::statistics::metric::Headline;
use crate::statistics::variance::Scores;
use crate::store::Store;
use crate::store::record::{CellKey, Record};

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
    /// For each image of the test set: true if it was answered correctly, by the record's reading.
    pub correct: Vec<bool>,
    /// The same by every other reading that was taken.
    pub others: Vec<(Reading, Vec<bool>)>,
    /// A sanity control of this cell is red: its numbers are not to be used.
    pub red: bool,
}

impl Run {
    fn correct_by(&self, reading: Reading) -> Option<&[bool]> {
        if reading == self.record.reading {
            return Some(&self.correct);
        }
        let other = self.others.iter().find(|(other, _)| *other == reading);
        other.map(|(_, correct)| correct.as_slice())
    }
}

/// All runs of one learner at one number of shots on one dataset.
#[derive(Debug, Clone)]
pub struct Series {
    /// Name of the dataset.
    pub dataset: String,
    /// Protocol by which shots and test images were chosen.
    pub protocol: Protocol,
    /// Label of the learner.
    pub learner: String,
    /// Labelled examples per class.
    pub shots: Shots,
    /// Images that every run was tested on.
    pub test: Arc<TestSet>,
    /// One run a seed, sorted by seed; a single one at k = 0; never empty.
    pub runs: Vec<Run>,
}

impl Series {
    /// The series that `records` belong to, sorted by dataset, protocol, learner and shots.
    ///
    /// Of two records with one key (the hyper-parameters were changed in between) the later one counts,
    /// with a warning. At k = 0, where nothing is drawn, the seed is no part of the key.
    ///
    /// # Errors
    /// As [`Store::predictions`]; [`Error::NotComparable`] when runs of one series differ in test images,
    /// classes, reading or metric.
    pub fn load(store: &Store, records: &[Record]) -> Result<Vec<Self>> {
        let cell = |record: &Record| Ok((record.clone(), store.predictions(&record.run_id)?));
        let mut all = Self::group(records.iter().map(cell))?;
        for run in all.iter_mut().flat_map(|series| &mut series.runs) {
            run.red = store.controls(&run.record)?.is_some_and(|controls| controls.is_red());
        }
        Ok(all)
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
            let mut place = record.key.clone();
            place.seed *= u64::from(place.shots.any());
            if let Some((_, other)) = runs.get(&place) {
                tracing::warn!("two results for {}: the later one counts", record.key);
                let age = |r: &Record| (r.timing.finished.clone(), r.run_id.clone());
                if age(&other.record) > age(&record) {
                    continue;
                }
            }
            let (test, run) = reduce(record, predictions);
            // All runs on a dataset share one copy of its test set.
            let test = known.iter().find(|set| ***set == test).cloned().unwrap_or_else(|| {
                known.push(Arc::new(test));
                Arc::clone(&known[known.len() - 1])
            });
            runs.insert(place, (test, run));
        }
        let mut all: Vec<Self> = Vec::new();
        for (key, (test, run)) in runs {
            let holds = |series: &&mut Self| {
                (&series.dataset, series.protocol, &series.learner, series.shots)
                    == (&key.dataset, key.protocol, &key.learner, key.shots)
            };
            match all.last_mut().filter(holds) {
                Some(series) => {
                    check_same((&series.runs[0], &series.test), (&run, &test))?;
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

    /// Seeds of its runs, in order; none at k = 0.
    #[must_use]
    pub fn seeds(&self) -> Vec<u64> {
        let drawn = self.runs.iter().filter(|_| self.shots.any());
        drawn.map(|run| run.record.key.seed).collect()
    }

    /// The reading behind its accuracy, where the learner writes its answers; `None` for one that only chooses
    /// among the classes.
    #[must_use]
    pub fn reading(&self) -> Option<Reading> {
        let record = &self.runs[0].record;
        record.metrics.readings.written().then_some(record.reading)
    }

    /// The learner, with its [reading](Series::reading).
    #[must_use]
    pub fn label(&self) -> String {
        label(&self.learner, self.reading())
    }

    /// Which accuracy it reports.
    #[must_use]
    pub fn headline(&self) -> Headline {
        self.runs[0].record.metrics.headline
    }

    /// True if any of it is from a miniature dataset, or by a micro model.
    #[must_use]
    pub fn is_micro(&self) -> bool {
        self.runs.iter().any(|run| run.record.micro)
    }

    /// True if a sanity control of any of its runs is red.
    #[must_use]
    pub fn is_red(&self) -> bool {
        self.runs.iter().any(|run| run.red)
    }

    /// Shots that a class really has, where more were asked for and the protocol takes what there is.
    #[must_use]
    pub fn capped(&self) -> Option<u32> {
        self.runs[0].record.card.as_ref().and_then(|card| card.capped)
    }

    /// Headline accuracy of each run, between 0 and 1, in order of seeds.
    #[must_use]
    pub fn values(&self) -> Vec<f64> {
        self.runs.iter().map(|run| run.record.value()).collect()
    }

    /// Right (1) or wrong (0), image by image and seed by seed.
    #[must_use]
    pub fn scores(&self) -> Scores {
        let runs: Vec<&[bool]> = self.runs.iter().map(|run| run.correct.as_slice()).collect();
        self.scores_of(&runs)
    }

    /// As [`Series::scores`], by another reading; `None` where a run did not take it.
    #[must_use]
    pub fn scores_by(&self, reading: Reading) -> Option<Scores> {
        let runs: Option<Vec<&[bool]>> = self.runs.iter().map(|run| run.correct_by(reading)).collect();
        Some(self.scores_of(&runs?))
    }

    /// As [`Series::scores`], of the runs with these seeds alone.
    #[must_use]
    pub fn scores_on(&self, seeds: &[u64]) -> Scores {
        let has = |run: &&Run| seeds.contains(&run.record.key.seed);
        let runs: Vec<&[bool]> = self.runs.iter().filter(has).map(|run| run.correct.as_slice()).collect();
        self.scores_of(&runs)
    }

    /// Own score minus the other's (−1, 0 or 1), image by image, for the seeds that both have. The one run without
    /// shots is met by every run of the other. Each learner counts by its own headline reading.
    ///
    /// # Errors
    /// [`Error::NotComparable`] when test images, classes or metric differ, or the readings of one learner.
    pub fn differences(&self, other: &Self) -> Result<Scores> {
        check_same((&self.runs[0], &self.test), (&other.runs[0], &other.test))?;
        let undrawn = !self.shots.any() || !other.shots.any();
        let meet = |(own, other): &(&Run, &Run)| undrawn || own.record.key.seed == other.record.key.seed;
        let pairs: Vec<(&[bool], &[bool])> = self
            .runs
            .iter()
            .flat_map(|own| other.runs.iter().map(move |other| (own, other)))
            .filter(meet)
            .map(|(own, other)| (own.correct.as_slice(), other.correct.as_slice()))
            .collect();
        let score = |right: bool| f64::from(u8::from(right));
        Ok(self.scores_with(pairs.len(), |image| {
            let of = move |(own, other): &(&[bool], &[bool])| score(own[image]) - score(other[image]);
            pairs.iter().map(of)
        }))
    }

    fn scores_of(&self, runs: &[&[bool]]) -> Scores {
        self.scores_with(runs.len(), |image| {
            runs.iter().map(move |correct| f64::from(u8::from(correct[image])))
        })
    }

    fn scores_with<I: Iterator<Item = f64>>(&self, seeds: usize, scores: impl Fn(usize) -> I) -> Scores {
        let per_class = self.headline() == Headline::MeanPerClass;
        let images = &self.test.images;
        let mut values = Vec::with_capacity(images.len() * seeds);
        for image in 0..images.len() {
            values.extend(scores(image));
        }
        let strata = images.iter().map(|(_, _, truth)| if per_class { *truth } else { 0 });
        Scores {
            groups: self.test.groups.clone(),
            strata: strata.collect(),
            seeds,
            values,
        }
    }
}

/// A learner's name with the reading that its accuracy is by, where there is a choice.
#[must_use]
pub fn label(learner: &str, reading: Option<Reading>) -> String {
    match reading {
        Some(reading) => format!("{learner} ({})", reading_name(reading)),
        None => learner.to_owned(),
    }
}

/// Name of a reading in tables and figures.
#[must_use]
pub fn reading_name(reading: Reading) -> &'static str {
    match reading {
        Reading::Free => "free text",
        Reading::Trie => "trie",
        Reading::Likelihood => "likelihood",
    }
}

/// Every reading, in the order of the columns of tables.
pub const READINGS: [Reading; 3] = [Reading::Free, Reading::Trie, Reading::Likelihood];

/// The test set of a cell, sorted by id, with what was right on it.
fn reduce(record: Record, mut predictions: Vec<Prediction>) -> (TestSet, Run) {
    predictions.sort_by(|a, b| a.id.cmp(&b.id));
    let by = |reading| predictions.iter().map(|p| p.correct(reading)).collect();
    let others = READINGS
        .into_iter()
        .filter(|&r| r != record.reading && metric::taken(&predictions, r));
    let run = Run {
        correct: by(record.reading),
        others: others.map(|reading| (reading, by(reading))).collect(),
        record,
        red: false,
    };
    let mut numbers: BTreeMap<(bool, String), u32> = BTreeMap::new();
    let mut test = TestSet {
        images: Vec::new(),
        groups: Vec::new(),
    };
    for prediction in predictions {
        let name = match prediction.group {
            Some(group) => (true, group),
            None => (false, prediction.id.clone()),
        };
        let next = numbers.len() as u32;
        test.groups.push(*numbers.entry(name).or_insert(next));
        test.images.push((prediction.id, prediction.sha256, prediction.truth));
    }
    (test, run)
}

// Shared test sets are equal without a look at their images.
fn check_same((left, left_test): (&Run, &Arc<TestSet>), (right, right_test): (&Run, &Arc<TestSet>)) -> Result<()> {
    let (a, b) = (&left.record, &right.record);
    let differs = if left_test != right_test {
        "they were tested on different images"
    } else if a.classes != b.classes {
        "their class lists differ"
    } else if a.key.protocol != b.key.protocol {
        "their protocols differ"
    } else if a.metrics.headline != b.metrics.headline || (a.key.learner == b.key.learner && a.reading != b.reading) {
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
mod tests {
    use super::*;
    use crate::store::record::tests::{cell, written_cell};

    type Cell = (Record, Vec<Prediction>);

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
        let shots: Vec<_> = series.iter().map(|s| (s.shots.count().unwrap(), s.seeds())).collect();
        assert_eq!(shots, [(4, vec![1, 7]), (8, vec![0])]);
        assert!(Arc::ptr_eq(&series[0].test, &series[1].test));
        let scores = series[0].scores();
        let images: Vec<&[f64]> = scores.images().collect();
        assert_eq!((images[0], images[7]), (&[0.0, 1.0][..], &[1.0, 0.0][..]));
        assert_eq!(scores.groups[6..], [3, 3]);
    }

    #[test]
    fn differences_pair_seeds_and_images() {
        let series = |learner, seeds: &[u64], right: fn(u32) -> bool| {
            let cells = seeds.iter().map(|&seed| Ok(cell(("a", learner, 4, seed), 4, right)));
            Series::group(cells).unwrap().remove(0)
        };
        let ours = series("x", &[0, 1, 2], |i| i != 3);
        let theirs = series("y", &[1, 2, 5], |i| i == 0 || i == 3);
        let scores = ours.differences(&theirs).unwrap();
        let scores: Vec<&[f64]> = scores.images().collect();
        assert_eq!(scores, [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]]);
    }

    #[test]
    fn the_run_without_shots_meets_every_draw() {
        let zero = |seed| written_cell(("a", "VLM LoRA", 0, seed), 4, |_| false, |i| i == 1);
        let cells = [
            zero(7), // the first seed was another one once: the same answers
            zero(0),
            written_cell(("a", "VLM LoRA", 4, 0), 4, |i| i < 2, |_| true),
            written_cell(("a", "VLM LoRA", 4, 1), 4, |i| i < 3, |_| true),
            cell(("a", "x", 4, 1), 4, |i| i == 0),
        ];
        let series = Series::group(cells.into_iter().map(Ok)).unwrap();
        let [zero, four, other] = &series[..] else {
            panic!("{series:?}")
        };
        assert_eq!(
            (zero.runs.len(), zero.seeds(), zero.label().as_str()),
            (1, vec![], "VLM LoRA (free text)")
        );
        assert_eq!(other.label(), "x");
        let scores = |own: &Series, other: &Series| -> Vec<Vec<f64>> {
            let scores = own.differences(other).unwrap();
            scores.images().map(<[f64]>::to_vec).collect()
        };
        assert_eq!(scores(four, zero), [[1.0, 1.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]);
        assert_eq!(scores(zero, four)[0], [-1.0, -1.0]);
        assert_eq!(
            scores(four, other),
            [[0.0], [1.0], [1.0], [0.0]],
            "each by its own reading"
        );
        let by = |reading| zero.scores_by(reading).unwrap().values;
        assert_eq!(by(Reading::Trie), [0.0, 1.0, 0.0, 0.0]);
        assert_eq!(by(Reading::Free).iter().sum::<f64>(), 0.0);
        assert!(other.scores_by(Reading::Trie).is_none() && other.scores_by(Reading::Likelihood).is_some());
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
