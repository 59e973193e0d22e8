//! One learner against another, or against itself with fewer shots, on the same draws and the same images.

use rayon::prelude::*;

use crate::config::Shots;
use crate::error::Result;
use crate::results::series::Series;
use crate::results::statistics::bootstrap::{self, Estimate};

/// How much better `learner` is than `other`, paired by seed and image.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Name of the dataset.
    pub dataset: String,
    /// The learner whose gain it is, with its shots. Learners are named with the reading they count by.
    pub learner: (String, Shots),
    /// What it is compared with.
    pub other: (String, Shots),
    /// Seeds that both have.
    pub seeds: usize,
    /// From a miniature dataset, or by a micro model.
    pub micro: bool,
    /// Gain in accuracy, between −1 and 1.
    pub gain: Estimate,
}

/// Paired difference of two series; `None` when they share no seed.
///
/// # Errors
/// [`crate::error::Error::NotComparable`] when test images, classes or metric differ, or the readings of one
/// learner.
pub fn paired(ours: &Series, theirs: &Series) -> Result<Option<Difference>> {
    let images = ours.differences(theirs)?;
    let purpose = format!(
        "paired/{}/{}/{}/k{}/{}/k{}",
        ours.dataset, ours.protocol, ours.learner, ours.shots, theirs.learner, theirs.shots
    );
    let seeds = images.first().map_or(0, |image| image.scores.len());
    Ok(bootstrap::estimate(&images, &purpose).map(|gain| Difference {
        dataset: ours.dataset.clone(),
        learner: (ours.label(), ours.shots),
        other: (theirs.label(), theirs.shots),
        seeds,
        micro: ours.is_micro() || theirs.is_micro(),
        gain,
    }))
}

/// The learners that comparisons are about: those that write their answers, then of the others the one that trains
/// the most numbers.
#[must_use]
pub fn subjects(series: &[Series]) -> Vec<&str> {
    let trained = |s: &Series| s.runs.iter().map(|run| run.record.training.trainable_parameters).max();
    let (writing, choosing): (Vec<&Series>, Vec<&Series>) = series.iter().partition(|s| s.reading().is_some());
    let mut subjects: Vec<&str> = writing.iter().map(|s| s.learner.as_str()).collect();
    subjects.sort_unstable();
    subjects.dedup();
    let most = choosing
        .iter()
        .max_by_key(|s| (trained(s), std::cmp::Reverse(&s.learner)));
    subjects.extend(most.map(|s| s.learner.as_str()));
    subjects
}

/// Each of `subjects` against every other learner, dataset by dataset, at the largest number of shots that both
/// have; of two subjects the earlier one's gain.
///
/// # Errors
/// As [`paired`].
pub fn against_others(series: &[Series], subjects: &[&str]) -> Result<Vec<Difference>> {
    let mut pairs: Vec<(&Series, &Series)> = Vec::new();
    let rank_of = |series: &Series| subjects.iter().position(|subject| *subject == series.learner);
    for (rank, subject) in subjects.iter().enumerate() {
        for own in series.iter().filter(|s| s.learner == *subject) {
            let others = series
                .iter()
                .filter(|s| s.learner != *subject && !subjects[..rank].contains(&s.learner.as_str()))
                .filter(|s| beside(own, s) && s.shots == own.shots);
            for other in others {
                let same = |(o, t): &(&Series, &Series)| {
                    beside(o, own) && o.learner == own.learner && t.learner == other.learner
                };
                match pairs.iter_mut().find(|pair| same(pair)) {
                    Some(pair) if pair.0.shots < own.shots => *pair = (own, other),
                    Some(_) => {}
                    None => pairs.push((own, other)),
                }
            }
        }
    }
    pairs.sort_by(|(a, x), (b, y)| (rank_of(a), &x.learner).cmp(&(rank_of(b), &y.learner)));
    all(pairs)
}

/// The gains of `subject` at every number of shots: over itself without shots and with one, and over each of
/// `others` with as many.
///
/// # Errors
/// As [`paired`].
pub fn along_shots(series: &[Series], subject: &str, others: &[&str]) -> Result<Vec<Difference>> {
    let mut pairs = Vec::new();
    for own in series.iter().filter(|s| s.learner == subject) {
        let itself = |few: u32| move |s: &&Series| s.learner == subject && s.shots == few && own.shots > few;
        let nearby = || series.iter().filter(|s| beside(own, s));
        let found = others.iter().flat_map(|other| {
            nearby().filter(move |s| s.learner == *other && s.learner != subject && s.shots == own.shots)
        });
        let found = found
            .chain(nearby().filter(itself(0)))
            .chain(nearby().filter(itself(1)));
        pairs.extend(found.map(|other| (own, other)));
    }
    all(pairs)
}

fn beside(one: &Series, other: &Series) -> bool {
    one.dataset == other.dataset && one.protocol == other.protocol
}

/// The differences of `pairs`, those of one dataset together.
fn all(mut pairs: Vec<(&Series, &Series)>) -> Result<Vec<Difference>> {
    pairs.sort_by(|(a, _), (b, _)| (&a.dataset, a.protocol).cmp(&(&b.dataset, b.protocol)));
    let found: Vec<Option<Difference>> = pairs
        .par_iter()
        .map(|(ours, theirs)| paired(ours, theirs))
        .collect::<Result<_>>()?;
    Ok(found.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::series::tests::{cell, written_cell};

    #[test]
    fn the_subject_meets_every_other_at_the_largest_common_k() {
        let cells = [
            cell(("a", "DINOv2 LoRA", 4, 0), 40, |i| i % 8 > 0),
            cell(("a", "DINOv2 LoRA", 16, 0), 40, |i| i % 8 > 0),
            cell(("a", "raw pixels", 4, 0), 40, |i| i % 8 > 3),
            cell(("a", "raw pixels", 1, 0), 40, |_| false),
            cell(("a", "k-NN", 16, 0), 40, |i| i % 8 < 7),
            cell(("a", "other seed", 16, 1), 40, |i| i % 8 < 7),
            cell(("b", "DINOv2 LoRA", 16, 0), 20, |_| true),
        ];
        let series = Series::group(cells.into_iter().map(Ok)).unwrap();
        assert_eq!(subjects(&series), ["DINOv2 LoRA"]);
        let found = against_others(&series, &["DINOv2 LoRA"]).unwrap();
        let at: Vec<_> = found
            .iter()
            .map(|d| (d.other.0.as_str(), d.learner.1.count().unwrap(), d.seeds))
            .collect();
        assert_eq!(at, [("k-NN", 16, 1), ("raw pixels", 4, 1)]);
        assert!(found[0].gain.mean.abs() < 1e-12);
        assert!((found[1].gain.mean - 0.375).abs() < 1e-12 && found[1].gain.interval.low > 0.0);
    }

    #[test]
    fn a_writing_learner_meets_the_others_and_itself() {
        let vlm =
            |shots, seed, right: u32| written_cell(("a", "VLM", shots, seed), 40, move |i| i % 8 < right, |_| true);
        let mut cells = vec![vlm(0, 0, 1)];
        for seed in 0..2 {
            cells.extend([vlm(1, seed, 3), vlm(16, seed, 7)]);
            cells.push(cell(("a", "DINOv2 LoRA", 16, seed), 40, |i| i % 8 < 5));
            cells.push(cell(("a", "raw pixels", 16, seed), 40, |i| i % 8 < 2));
        }
        let series = Series::group(cells.into_iter().map(Ok)).unwrap();
        let subjects = subjects(&series);
        assert_eq!(subjects, ["VLM", "DINOv2 LoRA"]);
        let told = |found: &[Difference]| -> Vec<(String, u32, String, u32, f64)> {
            let gain = |d: &Difference| (d.gain.mean * 1e6).round() / 1e6;
            found
                .iter()
                .map(|d| {
                    let k = |shots: Shots| shots.count().unwrap();
                    (
                        d.learner.0.clone(),
                        k(d.learner.1),
                        d.other.0.clone(),
                        k(d.other.1),
                        gain(d),
                    )
                })
                .collect()
        };
        let vlm = "VLM (free text)".to_owned();
        assert_eq!(
            told(&against_others(&series, &subjects).unwrap()),
            [
                (vlm.clone(), 16, "DINOv2 LoRA".into(), 16, 0.25),
                (vlm.clone(), 16, "raw pixels".into(), 16, 0.625),
                ("DINOv2 LoRA".into(), 16, "raw pixels".into(), 16, 0.375),
            ]
        );
        assert_eq!(
            told(&along_shots(&series, "VLM", &subjects).unwrap()),
            [
                (vlm.clone(), 1, vlm.clone(), 0, 0.25),
                (vlm.clone(), 16, "DINOv2 LoRA".into(), 16, 0.25),
                (vlm.clone(), 16, vlm.clone(), 0, 0.75),
                (vlm.clone(), 16, vlm, 1, 0.5),
            ]
        );
    }
}
