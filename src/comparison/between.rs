//! Two results folders beside each other, series by series: the same learner on the same dataset with as many examples.

use crate::comparison::paired::{Difference, paired};
use crate::comparison::series::Series;
use crate::config::{Protocol, Shots};
use crate::error::Error;

/// A series that both folders have.
#[derive(Debug, Clone)]
pub struct Between {
    /// Name of the dataset.
    pub dataset: String,
    /// Protocol by which shots and test images were chosen.
    pub protocol: Protocol,
    /// Label of the learner, with its reading.
    pub learner: String,
    /// Labelled examples per class.
    pub shots: Shots,
    /// Mean accuracy in either folder, between 0 and 1.
    pub accuracies: [f64; 2],
    /// Seeds in either folder.
    pub seeds: [usize; 2],
    /// From a miniature dataset, or by a micro model.
    pub micro: bool,
    /// The second folder's gain over the first, paired by seed and image; or why there is none.
    pub gain: Result<Difference, String>,
    /// Every answer is the same, in every run that both have.
    pub same: bool,
}

/// All that two folders have to do with each other.
#[derive(Debug, Clone, Default)]
pub struct Comparison {
    /// Series of both.
    pub both: Vec<Between>,
    /// Series that one alone has, in words: the first's, the second's.
    pub alone: [Vec<String>; 2],
}

/// Compares the series of two folders.
#[must_use]
pub fn between(first: &[Series], second: &[Series]) -> Comparison {
    let place = |series: &Series| {
        (
            series.dataset.clone(),
            series.protocol,
            series.learner.clone(),
            series.shots,
        )
    };
    let lacking = |these: &[Series], others: &[Series]| -> Vec<String> {
        let alone = these
            .iter()
            .filter(|series| others.iter().all(|other| place(other) != place(series)));
        alone.map(words).collect()
    };
    let both = first.iter().filter_map(|one| {
        let other = second.iter().find(|other| place(other) == place(one))?;
        Some(pair(one, other))
    });
    Comparison {
        both: both.collect(),
        alone: [lacking(first, second), lacking(second, first)],
    }
}

fn words(series: &Series) -> String {
    let Series { dataset, shots, .. } = series;
    format!("{dataset} · {} · {} · k = {shots}", series.protocol, series.label())
}

fn pair(first: &Series, second: &Series) -> Between {
    let gain = match paired(second, first) {
        Ok(Some(difference)) => Ok(difference),
        Ok(None) => Err("they share no seed".to_owned()),
        Err(Error::NotComparable { reason, .. }) => Err(reason),
        Err(error) => Err(error.to_string()),
    };
    let mean = |series: &Series| series.values().iter().sum::<f64>() / series.runs.len().max(1) as f64;
    let runs = first.runs.iter().filter_map(|run| {
        let seed = run.record.key.seed;
        Some((run, second.runs.iter().find(|other| other.record.key.seed == seed)?))
    });
    let mut shared = runs.peekable();
    let same = shared.peek().is_some()
        && shared.all(|(one, other)| one.record.predictions_sha256 == other.record.predictions_sha256);
    Between {
        dataset: first.dataset.clone(),
        protocol: first.protocol,
        learner: first.label(),
        shots: first.shots,
        accuracies: [mean(first), mean(second)],
        seeds: [first.runs.len(), second.runs.len()],
        micro: first.is_micro() || second.is_micro(),
        gain,
        same,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::tests::cell;

    fn series(cells: &[(&str, &str, u32, u64)], images: u32, right: impl Fn(u32) -> bool + Copy) -> Vec<Series> {
        Series::group(cells.iter().map(|key| Ok(cell(*key, images, right)))).unwrap()
    }

    #[test]
    fn what_can_be_paired_is_and_the_rest_says_why() {
        let first = series(
            &[("a", "x", 1, 0), ("a", "x", 1, 1), ("a", "y", 1, 0), ("b", "x", 1, 0)],
            40,
            |i| i % 4 < 2,
        );
        let mut second = series(&[("a", "x", 1, 0), ("a", "x", 1, 1), ("a", "z", 1, 0)], 40, |i| {
            i % 8 < 6
        });
        second.extend(series(&[("b", "x", 1, 0)], 80, |_| true));
        let found = between(&first, &second);
        assert_eq!(
            found.alone,
            [vec!["a · clean · y · k = 1"], vec!["a · clean · z · k = 1"]]
        );
        let [paired, other] = &found.both[..] else {
            panic!("{found:?}")
        };
        let difference = paired.gain.as_ref().unwrap();
        assert!((difference.gain.mean - 0.25).abs() < 1e-9 && difference.seeds == 2 && !paired.same);
        assert_eq!((paired.accuracies, paired.seeds), ([0.5, 0.75], [2, 2]));
        assert!(other.gain.as_ref().unwrap_err().contains("different images"));
        let itself = between(&first, &first);
        assert!(
            itself
                .both
                .iter()
                .all(|one| one.same && one.gain.as_ref().unwrap().gain.mean == 0.0)
        );
        let apart = series(&[("a", "x", 1, 7)], 40, |i| i % 4 < 2);
        assert!(
            between(&first, &apart).both[0]
                .gain
                .as_ref()
                .unwrap_err()
                .contains("no seed")
        );
    }
}
