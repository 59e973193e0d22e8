//! One learner against another on the same draws and the same images.

use crate::error::Result;
use crate::results::series::Series;
use crate::results::statistics::bootstrap::{self, Estimate};

/// How much better `learner` is than `other`, paired by seed and image.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Name of the dataset.
    pub dataset: String,
    /// The learner whose gain it is, with its shots.
    pub learner: (String, u32),
    /// What it is compared with.
    pub other: (String, u32),
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
/// [`crate::error::Error::NotComparable`] when test images, classes, reading or metric differ.
pub fn paired(ours: &Series, theirs: &Series) -> Result<Option<Difference>> {
    let images = ours.differences(theirs)?;
    let purpose = format!(
        "paired/{}/{}/{}/k{}/{}/k{}",
        ours.dataset, ours.protocol, ours.learner, ours.shots, theirs.learner, theirs.shots
    );
    let seeds = images.first().map_or(0, |image| image.scores.len());
    Ok(bootstrap::estimate(&images, &purpose).map(|gain| Difference {
        dataset: ours.dataset.clone(),
        learner: (ours.learner.clone(), ours.shots),
        other: (theirs.learner.clone(), theirs.shots),
        seeds,
        micro: ours.is_micro() || theirs.is_micro(),
        gain,
    }))
}

/// The learner that comparisons are about: the one that trains the most numbers.
#[must_use]
pub fn subject(series: &[Series]) -> Option<&str> {
    let trained = |s: &Series| s.runs.iter().map(|run| run.record.training.trainable_parameters).max();
    let most = series
        .iter()
        .max_by_key(|s| (trained(s), std::cmp::Reverse(&s.learner)))?;
    Some(&most.learner)
}

/// `learner` against every other learner, dataset by dataset, at the largest number of shots that both have.
///
/// # Errors
/// As [`paired`].
pub fn against_others(series: &[Series], learner: &str) -> Result<Vec<Difference>> {
    let mut differences = Vec::new();
    let (ours, others): (Vec<&Series>, Vec<&Series>) = series.iter().partition(|s| s.learner == learner);
    let mut done: Vec<(&str, &str)> = Vec::new();
    for other in &others {
        let place = (other.dataset.as_str(), other.learner.as_str());
        if done.contains(&place) {
            continue;
        }
        done.push(place);
        let common = others
            .iter()
            .filter(|theirs| (theirs.dataset.as_str(), theirs.learner.as_str()) == place)
            .filter_map(|theirs| {
                let same = |own: &&&Series| {
                    own.dataset == theirs.dataset && own.protocol == theirs.protocol && own.shots == theirs.shots
                };
                Some((ours.iter().find(same)?, theirs))
            })
            .max_by_key(|(own, _)| own.shots);
        if let Some((own, theirs)) = common {
            differences.extend(paired(own, theirs)?);
        }
    }
    Ok(differences)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::series::tests::cell;

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
        assert_eq!(subject(&series), Some("DINOv2 LoRA"));
        let found = against_others(&series, "DINOv2 LoRA").unwrap();
        let at: Vec<_> = found
            .iter()
            .map(|d| (d.other.0.as_str(), d.learner.1, d.seeds))
            .collect();
        assert_eq!(at, [("k-NN", 16, 1), ("raw pixels", 4, 1)]);
        assert!(found[0].gain.mean.abs() < 1e-12);
        assert!((found[1].gain.mean - 0.375).abs() < 1e-12 && found[1].gain.interval.low > 0.0);
    }
}
