//! The answers of one series counted, one cell after the other: by class, by pair of true and answered class, and by image.

use std::collections::BTreeMap;

use crate::comparison::series::TestSet;
use crate::prediction::{Prediction, Reading};
use crate::statistics::calibration::over_classes;

/// Images that a pair of classes names, at most.
const EXAMPLES: usize = 12;

/// Counts over all seeds of a series.
pub(super) struct Tally {
    reading: Reading,
    /// Answers about images of each class.
    pub(super) tested: Vec<u32>,
    /// The right ones among them.
    pub(super) right: Vec<u32>,
    pairs: BTreeMap<(u32, Option<u32>), Pair>,
    /// Wrong answers to each test image.
    pub(super) wrong: Vec<u16>,
    /// The highest probability of a wrong answer to each test image; `None` where all are right or have none.
    pub(super) sure: Vec<Option<f32>>,
}

/// Answers with one class to images of another, or of the same.
#[derive(Default)]
struct Pair {
    count: u32,
    images: Vec<u32>,
}

/// A pair of classes as it is kept: true class, answered class (`None`: the answer names no class), number of answers, and
/// numbers of some of the images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Confusion {
    pub(super) truth: u32,
    pub(super) answer: Option<u32>,
    pub(super) count: u32,
    pub(super) images: Vec<u32>,
}

/// Pairs that were not kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LeftOut {
    pub(super) pairs: usize,
    pub(super) answers: u32,
}

/// Probability of the answer, normalised over the classes.
pub(super) fn probability(prediction: &Prediction, reading: Reading) -> Option<f64> {
    let log_probs = prediction.log_probs.as_deref()?;
    let answer = prediction.answer(reading)? as usize;
    over_classes(log_probs, 1.0).get(answer).map(|log| log.exp())
}

/// Place of an image in its test set, which is sorted by id.
pub(super) fn place(test: &TestSet, prediction: &Prediction) -> Option<usize> {
    test.images.binary_search_by(|(id, ..)| id.cmp(&prediction.id)).ok()
}

impl Tally {
    pub(super) fn new(reading: Reading, classes: usize, test: &TestSet) -> Self {
        let images = test.images.len();
        Self {
            reading,
            tested: vec![0; classes],
            right: vec![0; classes],
            pairs: BTreeMap::new(),
            wrong: vec![0; images],
            sure: vec![None; images],
        }
    }

    /// Counts the answers of one cell to the images of `test`.
    pub(super) fn add(&mut self, test: &TestSet, predictions: &[Prediction]) {
        for prediction in predictions {
            // A series has one test set, and a stored cell no class beyond its list.
            let (Some(image), truth) = (place(test, prediction), prediction.truth) else {
                continue;
            };
            let answer = prediction.answer(self.reading);
            let is_right = answer == Some(truth);
            if let (Some(tested), Some(right)) =
                (self.tested.get_mut(truth as usize), self.right.get_mut(truth as usize))
            {
                *tested += 1;
                *right += u32::from(is_right);
            }
            let pair = self.pairs.entry((truth, answer)).or_default();
            pair.count += 1;
            if pair.images.len() < EXAMPLES && !pair.images.contains(&(image as u32)) {
                pair.images.push(image as u32);
            }
            if !is_right {
                self.wrong[image] += 1;
                let sure = probability(prediction, self.reading).map(|p| p as f32);
                self.sure[image] = match (self.sure[image], sure) {
                    (Some(before), Some(now)) => Some(before.max(now)),
                    (before, now) => before.or(now),
                };
            }
        }
    }

    /// The `room` most frequent pairs, sorted by class, each with one image at least, and with more as long as all images
    /// together are at most twice as many as there is room for pairs; and what was left out.
    pub(super) fn confusions(&self, room: usize) -> (Vec<Confusion>, LeftOut) {
        let mut ranked: Vec<_> = self.pairs.iter().collect();
        ranked.sort_by_key(|(key, pair)| (std::cmp::Reverse(pair.count), **key));
        let left = ranked.split_off(ranked.len().min(room));
        let left_out = LeftOut {
            pairs: left.len(),
            answers: left.iter().map(|(_, pair)| pair.count).sum(),
        };
        let mut more = room;
        let kept = ranked.into_iter().map(|(&(truth, answer), pair)| {
            let examples = pair.images.len().min(1 + more);
            more -= examples.saturating_sub(1);
            Confusion {
                truth,
                answer,
                count: pair.count,
                images: pair.images[..examples].to_vec(),
            }
        });
        let mut kept: Vec<Confusion> = kept.collect();
        kept.sort_by_key(|pair| (pair.truth, pair.answer));
        (kept, left_out)
    }
}

/// The images with the most probable wrong answers, the surest first; at most `most`.
pub(super) fn surest(tally: &Tally, most: usize) -> Vec<u32> {
    let sure = (0..).zip(&tally.sure);
    let mut images: Vec<(f32, u32)> = sure.filter_map(|(image, p)| Some(((*p)?, image))).collect();
    images.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    images.into_iter().take(most).map(|(_, image)| image).collect()
}

/// The images with the most wrong answers over seeds, at least two; among equals the surer ones first.
pub(super) fn most_often_wrong(tally: &Tally, most: usize) -> Vec<u32> {
    let mut images: Vec<u32> = (0..)
        .zip(&tally.wrong)
        .filter(|(_, n)| **n > 1)
        .map(|(i, _)| i)
        .collect();
    let of = |image: u32| (tally.wrong[image as usize], tally.sure[image as usize].unwrap_or(0.0));
    images.sort_by(|&a, &b| {
        let ((a_wrong, a_sure), (b_wrong, b_sure)) = (of(a), of(b));
        (b_wrong.cmp(&a_wrong)).then(b_sure.total_cmp(&a_sure)).then(a.cmp(&b))
    });
    images.truncate(most);
    images
}

/// The images whose share of right answers differs most between learners; `wrong` are each learner's wrong answers by image
/// and its number of runs.
pub(super) fn disagreements(wrong: &[(&[u16], usize)], most: usize) -> Vec<u32> {
    let images = wrong.iter().map(|(counts, _)| counts.len()).min().unwrap_or(0);
    let spread = |image: usize| {
        let shares = wrong
            .iter()
            .map(|(counts, runs)| f64::from(counts[image]) / (*runs).max(1) as f64);
        let (low, high) = shares.fold((1.0, 0.0), |(low, high), share| (share.min(low), share.max(high)));
        high - low
    };
    let mut spreads: Vec<(f64, u32)> = (0..images).map(|image| (spread(image), image as u32)).collect();
    spreads.retain(|(spread, _)| *spread > 0.0);
    spreads.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    spreads.into_iter().take(most).map(|(_, image)| image).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparison::series::Series;
    use crate::store::record::tests::{cell, written_cell};

    type Cell = (crate::store::record::Record, Vec<Prediction>);

    fn tally(cells: &[Cell]) -> Tally {
        let series = Series::group(cells.iter().cloned().map(Ok)).unwrap();
        assert_eq!(series.len(), 1);
        let series = &series[0];
        let mut tally = Tally::new(series.runs[0].record.reading, 4, &series.test);
        for (_, rows) in cells {
            tally.add(&series.test, rows);
        }
        tally
    }

    #[test]
    fn confusions_are_counted_over_seeds() {
        // Of 8 images of classes 0 1 2 3 0 1 2 3, seed 0 misses images 1 and 5, seed 1 image 1: each is taken for class 2.
        let cells = [
            cell(("a", "x", 1, 0), 8, |i| i != 1 && i != 5),
            cell(("a", "x", 1, 1), 8, |i| i != 1),
        ];
        let tally = tally(&cells);
        assert_eq!(
            (tally.tested.clone(), tally.right.clone()),
            (vec![4; 4], vec![4, 1, 4, 4])
        );
        let (pairs, left) = tally.confusions(100);
        let seen: Vec<_> = pairs.iter().map(|p| (p.truth, p.answer, p.count)).collect();
        let expected = [(0, 0, 4), (1, 1, 1), (1, 2, 3), (2, 2, 4), (3, 3, 4)];
        assert_eq!(
            seen,
            expected.map(|(truth, answer, count)| (truth, Some(answer), count))
        );
        assert_eq!((pairs[2].images.clone(), left), (vec![1, 5], LeftOut::default()));
        assert_eq!(tally.wrong, [0, 2, 0, 0, 0, 1, 0, 0]);
        assert_eq!(most_often_wrong(&tally, 9), [1], "once is not often");
        assert!(surest(&tally, 9).is_empty(), "there are no probabilities");

        let (pairs, left) = tally.confusions(3);
        assert_eq!(pairs.len(), 3);
        assert_eq!(
            (left.pairs, left.answers),
            (2, 4),
            "the rarest are left out, and counted"
        );
        assert!(pairs.iter().all(|pair| !pair.images.is_empty()));
    }

    #[test]
    fn an_answer_that_names_no_class_is_a_pair_of_its_own() {
        let tally = tally(&[written_cell(("a", "x", 1, 0), 8, |i| i > 1, |i| i != 0)]);
        let (pairs, _) = tally.confusions(100);
        let wrong: Vec<_> = pairs.iter().filter(|p| p.answer != Some(p.truth)).collect();
        // Image 0 is written as class 1, image 1 as a yak.
        assert_eq!(wrong.len(), 2);
        assert_eq!((wrong[0].truth, wrong[0].answer), (0, Some(1)));
        assert_eq!((wrong[1].truth, wrong[1].answer), (1, None));
        // By likelihood image 0 is taken for class 1 as well: with a probability of 0.8 over the classes.
        assert_eq!(surest(&tally, 9), [0]);
        assert!((tally.sure[0].unwrap() - 0.8).abs() < 1e-6, "{:?}", tally.sure);
    }

    #[test]
    fn learners_disagree_where_their_shares_of_right_answers_do() {
        let (one, other): ([u16; 4], [u16; 4]) = ([0, 2, 1, 2], [0, 2, 0, 0]);
        assert_eq!(disagreements(&[(&one, 2), (&other, 2)], 9), [3, 2]);
        assert_eq!(disagreements(&[(&one, 2), (&other, 2)], 1), [3]);
        assert!(
            disagreements(&[(&one, 2)], 9).is_empty(),
            "one learner agrees with itself"
        );
    }
}
