//! Labelled images saved: how many examples per class the weaker of two learners needs to be as often right as
//! the stronger.
//!
//! The weaker learner's mean accuracy over its measured numbers of shots is made a curve: never falling (each
//! point is raised to the largest before it, which favours the weaker learner), and between two points linear in
//! log2 k. Where the stronger learner's accuracy lies on that curve, the weaker is as good. Outside of what was
//! measured nothing is guessed: an accuracy that the curve does not reach needs "more than" its last k, one that
//! it starts at or above "at most" its first.

use rayon::prelude::*;

use crate::config::Protocol;
use crate::error::Result;
use crate::results::series::Series;
use crate::results::statistics::bootstrap::{self, Image};

/// A number of which sometimes only a bound is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bounded {
    /// It, or less.
    AtMost(f64),
    /// It.
    Known(f64),
    /// More than it.
    MoreThan(f64),
}

impl Bounded {
    /// The number, or the bound.
    #[must_use]
    pub fn number(self) -> f64 {
        match self {
            Self::AtMost(number) | Self::Known(number) | Self::MoreThan(number) => number,
        }
    }

    /// The same of another number, which must grow with the old one.
    #[must_use]
    pub fn map(self, change: impl Fn(f64) -> f64) -> Self {
        match self {
            Self::AtMost(number) => Self::AtMost(change(number)),
            Self::Known(number) => Self::Known(change(number)),
            Self::MoreThan(number) => Self::MoreThan(change(number)),
        }
    }

    /// Ascending, bounds at the ends.
    fn rank(&self) -> (u8, f64) {
        match self {
            Self::AtMost(number) => (0, *number),
            Self::Known(number) => (1, *number),
            Self::MoreThan(number) => (2, *number),
        }
    }
}

/// What the stronger learner's accuracy at one number of shots costs the weaker.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved {
    /// Name of the dataset.
    pub dataset: String,
    /// How shots and test images were chosen.
    pub protocol: Protocol,
    /// From a miniature dataset, or by a micro model.
    pub micro: bool,
    /// A sanity control of a cell behind it is red: it is not to be used.
    pub red: bool,
    /// Classes of the dataset.
    pub classes: usize,
    /// Seeds that all cells behind it share.
    pub seeds: usize,
    /// Labelled examples per class that the stronger learner has.
    pub shots: u32,
    /// The learner that is more often right at `shots`, with the reading it counts by.
    pub stronger: String,
    /// The other one.
    pub weaker: String,
    /// How often the stronger is right, between 0 and 1.
    pub accuracy: f64,
    /// Labelled examples per class with which the weaker is right as often.
    pub needed: Bounded,
    /// Its 95 % percentile interval, over draws and groups of dependent images that are resampled at once for both
    /// learners and all numbers of shots. Its ends are resampled values, bounds where these are.
    pub interval: (Bounded, Bounded),
}

impl Saved {
    /// Labelled examples per class that the stronger learner saves, with the interval; negative where the weaker
    /// may need fewer.
    #[must_use]
    pub fn per_class(&self) -> (Bounded, (Bounded, Bounded)) {
        let less = |needed: Bounded| needed.map(|n| n - f64::from(self.shots));
        (less(self.needed), (less(self.interval.0), less(self.interval.1)))
    }

    /// The same over all classes.
    #[must_use]
    pub fn in_all(&self) -> (Bounded, (Bounded, Bounded)) {
        let times = |saved: Bounded| saved.map(|n| n * self.classes as f64);
        let (saved, (low, high)) = self.per_class();
        (times(saved), (times(low), times(high)))
    }
}

/// Mean accuracy of one learner over numbers of shots: as it is, and resampled.
struct Curve<'a> {
    series: Vec<(u32, &'a Series)>,
    means: Vec<f64>,
    /// One a number of shots; the n-th values of all belong together.
    resampled: Vec<Vec<f64>>,
}

/// For each pair of `subjects` on each dataset, at every k ≥ 1 that both have. Cells without examples and those with
/// the whole pool have no place on the axis and do not count. Nothing where a learner has no two k, or no seed is
/// common to all of its cells and the other's.
///
/// # Errors
/// [`crate::error::Error::NotComparable`] when test images, classes or metric differ.
pub fn labelled_images_saved(series: &[Series], subjects: &[&str]) -> Result<Vec<Saved>> {
    let mut places: Vec<(&str, Protocol)> = series.iter().map(|s| (s.dataset.as_str(), s.protocol)).collect();
    places.dedup();
    let mut saved = Vec::new();
    for place in places {
        for (rank, one) in subjects.iter().enumerate() {
            for other in &subjects[rank + 1..] {
                saved.extend(on_one_dataset(series, place, (one, other))?);
            }
        }
    }
    Ok(saved)
}

fn on_one_dataset(
    series: &[Series],
    (dataset, protocol): (&str, Protocol),
    (one, other): (&str, &str),
) -> Result<Vec<Saved>> {
    let of = |learner: &str| -> Vec<(u32, &Series)> {
        let own = series
            .iter()
            .filter(|s| s.dataset == dataset && s.protocol == protocol && s.learner == learner);
        // Of two numbers of shots that are capped at the same, neither has a place of its own.
        let own = own.filter(|s| s.capped().is_none());
        own.filter_map(|s| s.shots.count().filter(|k| *k > 0).map(|k| (k, s)))
            .collect()
    };
    let (ones, others) = (of(one), of(other));
    if ones.len() < 2 || others.len() < 2 {
        return Ok(Vec::new());
    }
    for (_, series) in ones.iter().chain(&others) {
        series.differences(ones[0].1)?; // all tested alike
    }
    let mut seeds = ones[0].1.seeds();
    for (_, series) in ones.iter().chain(&others) {
        let own = series.seeds();
        seeds.retain(|seed| own.contains(seed));
    }
    // One stream for all: what is resampled together must be compared.
    let purpose = format!("saved/{dataset}/{protocol}/{one}/{other}");
    let (Some(one), Some(other)) = (Curve::of(ones, &seeds, &purpose), Curve::of(others, &seeds, &purpose)) else {
        return Ok(Vec::new());
    };
    let mut saved = Vec::new();
    for (own_at, (shots, _)) in one.series.iter().enumerate() {
        let Some(other_at) = other.series.iter().position(|(k, _)| k == shots) else {
            continue;
        };
        // Of equals the first counts as the stronger, and saves nothing.
        let (stronger, at, weaker) = if one.means[own_at] >= other.means[other_at] {
            (&one, own_at, &other)
        } else {
            (&other, other_at, &one)
        };
        saved.extend(at_shots(stronger, at, weaker, seeds.len()));
    }
    Ok(saved)
}

impl<'a> Curve<'a> {
    fn of(series: Vec<(u32, &'a Series)>, seeds: &[u64], purpose: &str) -> Option<Self> {
        let images: Vec<Vec<Image>> = series.iter().map(|(_, s)| on_seeds(s, seeds)).collect();
        let means = images.iter().map(|i| bootstrap::mean(i)).collect::<Option<_>>()?;
        let resampled = images
            .par_iter()
            .map(|i| bootstrap::replicates(i, purpose))
            .collect::<Option<_>>()?;
        Some(Self {
            series,
            means,
            resampled,
        })
    }

    /// Examples per class at which the curve through `means` reaches `accuracy`.
    fn reaches(&self, means: &[f64], accuracy: f64) -> Bounded {
        // A share is a sum of few thousand numbers: what is apart by less is the same.
        let accuracy = accuracy - 1e-12;
        let mut before: Option<(f64, f64)> = None;
        for (&(k, _), &mean) in self.series.iter().zip(means) {
            let at = f64::from(k).log2();
            match before {
                None if mean >= accuracy => return Bounded::AtMost(f64::from(k)),
                Some((left, low)) if mean >= accuracy => {
                    let share = (accuracy - low) / (mean - low);
                    return Bounded::Known((left + (at - left) * share).exp2());
                }
                // A mean below an earlier one is raised to it.
                Some((_, low)) => before = Some((at, low.max(mean))),
                None => before = Some((at, mean)),
            }
        }
        Bounded::MoreThan(self.series.last().map_or(0.0, |(k, _)| f64::from(*k)))
    }
}

/// The images of a series, with the scores of `seeds` alone.
fn on_seeds(series: &Series, seeds: &[u64]) -> Vec<Image> {
    let own = series.seeds();
    let places: Vec<usize> = seeds
        .iter()
        .filter_map(|seed| own.iter().position(|s| s == seed))
        .collect();
    let mut images = series.images();
    for image in &mut images {
        image.scores = places.iter().map(|&place| image.scores[place]).collect();
    }
    images
}

fn at_shots(stronger: &Curve<'_>, at: usize, weaker: &Curve<'_>, seeds: usize) -> Option<Saved> {
    let (shots, series) = *stronger.series.get(at)?;
    let accuracy = *stronger.means.get(at)?;
    let mut resampled: Vec<Bounded> = (0..bootstrap::RESAMPLES)
        .map(|n| {
            let means: Vec<f64> = weaker.resampled.iter().map(|values| values[n]).collect();
            weaker.reaches(&means, stronger.resampled[at][n])
        })
        .collect();
    resampled.sort_by(|a, b| {
        let (a, b) = (a.rank(), b.rank());
        a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
    });
    // Order statistics, outwards: between a bound and a number there is nothing to interpolate.
    let last = (resampled.len() - 1) as f64;
    let interval = (
        *resampled.get((0.025 * last).floor() as usize)?,
        *resampled.get((0.975 * last).ceil() as usize)?,
    );
    let record = &series.runs.first()?.record;
    let behind = || weaker.series.iter().map(|(_, s)| *s).chain([series]);
    Some(Saved {
        dataset: series.dataset.clone(),
        protocol: series.protocol,
        micro: behind().any(Series::is_micro),
        red: behind().flat_map(|s| &s.runs).any(|run| run.red),
        classes: record.classes.len(),
        seeds,
        shots,
        stronger: series.label(),
        weaker: weaker.series.first()?.1.label(),
        accuracy,
        needed: weaker.reaches(&weaker.means, accuracy),
        interval,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::series::tests::cell;

    /// Images in 40 drawings; `right` of every eight images are answered, other ones for another seed.
    fn curve(
        learner: &str,
        seeds: u64,
        points: &[(u32, u32)],
    ) -> Vec<(crate::results::record::Record, Vec<crate::prediction::Prediction>)> {
        let at = |seed: u64| {
            points.iter().map(move |&(shots, right)| {
                cell(("a", learner, shots, seed), 160, move |i| {
                    (i + u32::try_from(seed).unwrap()) % 8 < right
                })
            })
        };
        (0..seeds).flat_map(at).collect()
    }

    fn saved(cells: [Vec<(crate::results::record::Record, Vec<crate::prediction::Prediction>)>; 2]) -> Vec<Saved> {
        let series = Series::group(cells.into_iter().flatten().map(Ok)).unwrap();
        labelled_images_saved(&series, &["VLM", "DINO"]).unwrap()
    }

    #[test]
    fn between_measured_points_the_curve_is_linear_in_log_k() {
        // VLM is right on 4/8 at k = 2. DINO is right on 3/8 at 4 and 5/8 at 16: as good half-way, at k = 8.
        let found = saved([
            curve("VLM", 2, &[(2, 4), (4, 3), (16, 7)]),
            curve("DINO", 2, &[(2, 1), (4, 3), (16, 5)]),
        ]);
        assert_eq!(found.len(), 3);
        let first = &found[0];
        assert_eq!(
            (first.shots, first.stronger.as_str(), first.weaker.as_str()),
            (2, "VLM", "DINO")
        );
        assert!((first.accuracy - 0.5).abs() < 1e-12);
        let Bounded::Known(needed) = first.needed else {
            panic!("{first:?}")
        };
        assert!((needed - 8.0).abs() < 1e-6, "{needed}");
        let (Bounded::Known(per_class), _) = first.per_class() else {
            panic!("{first:?}")
        };
        let (Bounded::Known(in_all), _) = first.in_all() else {
            panic!("{first:?}")
        };
        assert!(
            (per_class - 6.0).abs() < 1e-6 && (in_all - 24.0).abs() < 1e-5,
            "four classes"
        );
        // Equal at k = 4: the first is called the stronger, and nothing is saved.
        let Bounded::Known(needed) = found[1].needed else {
            panic!("{found:?}")
        };
        assert!((needed - 4.0).abs() < 1e-6 && found[1].stronger == "VLM");
        // 7/8 is never reached.
        assert_eq!(found[2].needed, Bounded::MoreThan(16.0));
        assert_eq!(found[2].per_class().0, Bounded::MoreThan(0.0));
        assert_eq!(found[2].interval, (Bounded::MoreThan(16.0), Bounded::MoreThan(16.0)));
    }

    #[test]
    fn the_interval_holds_the_number_and_says_where_it_is_only_bounded() {
        let (low, high) = {
            let found = saved([
                curve("VLM", 2, &[(1, 4), (16, 6)]),
                curve("DINO", 2, &[(1, 3), (16, 5)]),
            ]);
            found[0].interval
        };
        // At k = 1 one image in eight ahead: half-way to the weaker's gain of two, so four examples.
        assert!(low.number() < 4.0 && high.number() > 4.0, "{low:?} {high:?}");
        let one_curve = saved([
            curve("VLM", 2, &[(1, 4), (16, 6)]),
            curve("DINO", 2, &[(1, 4), (16, 4)]),
        ]);
        // The same answers at k = 1 in every resample.
        assert_eq!(one_curve[0].needed, Bounded::AtMost(1.0));
        assert_eq!(one_curve[0].interval, (Bounded::AtMost(1.0), Bounded::AtMost(1.0)));
    }

    #[test]
    fn a_dip_in_the_weaker_curve_is_bridged() {
        // 4/8 at k = 2, 2/8 at 4, 6/8 at 8. 5/8 lies between 4/8 (raised, at 4) and 6/8 (at 8): half-way.
        let found = saved([
            curve("VLM", 2, &[(1, 5), (2, 7)]),
            curve("DINO", 2, &[(1, 1), (2, 4), (4, 2), (8, 6)]),
        ]);
        let Bounded::Known(needed) = found[0].needed else {
            panic!("{found:?}")
        };
        assert!((needed - 32.0_f64.sqrt()).abs() < 1e-6, "{needed}");
    }

    #[test]
    fn seeds_are_those_that_all_cells_share() {
        let found = saved([curve("VLM", 3, &[(1, 4), (2, 6)]), curve("DINO", 2, &[(1, 2), (2, 5)])]);
        assert_eq!(found.iter().map(|s| s.seeds).collect::<Vec<_>>(), [2, 2]);
        let none = saved([curve("VLM", 1, &[(1, 4)]), curve("DINO", 1, &[(1, 2), (2, 5)])]);
        assert_eq!(none, []);
    }
}
