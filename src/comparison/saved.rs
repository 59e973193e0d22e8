//! Labelled images saved: how many examples per class the weaker of two learners needs to be as often right as
//! the stronger.
//!
//! The weaker learner's mean accuracy over its measured numbers of shots is made a curve, between two points linear
//! in log2 k. Where it first comes to the stronger learner's accuracy, the weaker is as good. Outside of what was
//! measured nothing is guessed: an accuracy that the curve does not reach needs "more than" its last k, one that it
//! starts at or above "at most" its first.
//!
//! The interval is Fieller's: a place on the axis belongs to it where the paired difference between the stronger
//! learner and the weaker's curve there is not told from zero. That difference is a mean of paired scores like any
//! other, so the ends follow in closed form from [`variance`], without a random
//! number; where the first or the last measured k belongs to it, its end is a bound.

use crate::comparison::series::Series;
use crate::config::Protocol;
use crate::error::Result;
use crate::statistics::variance;
use crate::statistics::variance::{Components, LEVEL, Part, Scores};

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
}

/// Shots that the weaker learner needs for the stronger one's accuracy at one number of shots.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved {
    /// Name of the dataset.
    pub dataset: String,
    /// Protocol by which shots and test images were chosen.
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
    /// Accuracy of the stronger, between 0 and 1.
    pub accuracy: f64,
    /// Labelled examples per class with which the weaker is right as often.
    pub needed: Bounded,
    /// Its 95 % interval, over seeds and test images: from the first to the last number of examples at which the two
    /// are not told apart; bounds where that is the first or the last measured.
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

/// Mean accuracy of one learner over numbers of shots.
struct Curve<'a> {
    series: Vec<(u32, &'a Series)>,
    means: Vec<f64>,
    /// One for each number of shots.
    scores: Vec<Scores>,
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
        let is_own = |s: &&Series| s.dataset == dataset && s.protocol == protocol && s.learner == learner;
        // Of two numbers of shots that are capped at the same, neither has a place of its own.
        let own = series.iter().filter(is_own).filter(|s| s.capped().is_none());
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
    let (Some(one), Some(other)) = (Curve::of(ones, &seeds), Curve::of(others, &seeds)) else {
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
    fn of(mut series: Vec<(u32, &'a Series)>, seeds: &[u64]) -> Option<Self> {
        series.sort_by_key(|(k, _)| *k);
        let scores: Vec<Scores> = series.iter().map(|(_, s)| s.scores_on(seeds)).collect();
        let mean = |scores: &Scores| variance::components(scores).map(|components| components.mean);
        Some(Self {
            means: scores.iter().map(mean).collect::<Option<_>>()?,
            series,
            scores,
        })
    }

    fn ends(&self) -> (f64, f64) {
        let k = |end: Option<&(u32, &Series)>| end.map_or(0.0, |(k, _)| f64::from(*k));
        (k(self.series.first()), k(self.series.last()))
    }

    /// Examples per class at which the curve first comes to `accuracy`.
    fn reaches(&self, accuracy: f64) -> Bounded {
        // A share is a sum of few thousand numbers: what is apart by less is the same.
        let accuracy = accuracy - 1e-12;
        let mut before: Option<(f64, f64)> = None;
        for (&(k, _), &mean) in self.series.iter().zip(&self.means) {
            let at = f64::from(k).log2();
            match before {
                None if mean >= accuracy => return Bounded::AtMost(f64::from(k)),
                Some((left, low)) if mean >= accuracy => {
                    let share = (accuracy - low) / (mean - low);
                    return Bounded::Known((left + (at - left) * share).exp2());
                }
                _ => before = Some((at, mean)),
            }
        }
        Bounded::MoreThan(self.ends().1)
    }

    /// The first and the last number of examples at which `scores`, which are the stronger learner's, are not told from
    /// this curve; where they are told from all of it, both ends are where the sign changes first.
    fn not_told_from(&self, scores: &Scores) -> Option<(Bounded, Bounded)> {
        let segments: Vec<Segment> = (1..self.series.len())
            .map(|right| Segment::between(self, right - 1, right, scores))
            .collect::<Option<_>>()?;
        let (first, last) = self.ends();
        let (start, end) = (segments.first()?.at(0.0), segments.last()?.at(1.0));
        let mut inside = Vec::new();
        for segment in &segments {
            inside.extend(segment.inside());
        }
        let low = match inside.first() {
            _ if start.told() == Some(Side::Above) => Bounded::AtMost(first),
            Some(&(low, _)) if start.told().is_some() => Bounded::Known(low),
            Some(_) => Bounded::AtMost(first),
            None => Bounded::MoreThan(last),
        };
        let high = match inside.last() {
            _ if end.told() == Some(Side::Below) => Bounded::MoreThan(last),
            Some(&(_, high)) if end.told().is_some() => Bounded::Known(high),
            Some(_) => Bounded::MoreThan(last),
            None => Bounded::AtMost(first),
        };
        Some((low, high))
    }
}

/// The side of the stronger learner on which the weaker's curve is told to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Below,
    Above,
}

/// The difference between the stronger learner and the weaker's curve at one place.
struct Position {
    difference: f64,
    half: f64,
}

impl Position {
    fn told(&self) -> Option<Side> {
        if self.difference > self.half + 1e-12 {
            Some(Side::Below)
        } else if self.difference < -self.half - 1e-12 {
            Some(Side::Above)
        } else {
            None
        }
    }
}

/// The difference along the curve between two measured numbers of shots. It is linear in the place, and the parts of
/// its variance are parabolas, each known from three places.
struct Segment {
    /// log2 of both numbers of shots.
    ends: (f64, f64),
    /// At the left end, in the middle, and at the right end.
    places: [Components; 3],
}

/// Steps in which a segment is searched for the ends of the interval.
const STEPS: u32 = 64;

impl Segment {
    fn between(curve: &Curve<'_>, left: usize, right: usize, scores: &Scores) -> Option<Self> {
        let (weaker_left, weaker_right) = (curve.scores.get(left)?, curve.scores.get(right)?);
        let at = |share: f64| {
            let mut difference = scores.clone();
            let weaker = weaker_left.values.iter().zip(&weaker_right.values);
            for (score, (l, r)) in difference.values.iter_mut().zip(weaker) {
                *score -= l * (1.0 - share) + r * share;
            }
            variance::components(&difference)
        };
        let place = |at: usize| curve.series.get(at).map(|(k, _)| f64::from(*k).log2());
        Some(Self {
            ends: (place(left)?, place(right)?),
            places: [at(0.0)?, at(0.5)?, at(1.0)?],
        })
    }

    /// The difference at `share` of the way.
    fn at(&self, share: f64) -> Position {
        let [left, middle, right] = &self.places;
        let parabola = |of: &dyn Fn(&Components) -> f64| {
            let (a, b, c) = (of(left), of(middle), of(right));
            let bend = 2.0 * (a - 2.0 * b + c);
            (a + (c - a - bend) * share + bend * share * share).max(0.0)
        };
        let part = |variance: f64, degrees: f64| Part { variance, degrees };
        let seeds = |c: &Components| c.by_seed.map_or(0.0, |part| part.variance);
        let rest = |c: &Components| c.left.map_or(0.0, |part| part.variance);
        let there = Components {
            mean: left.mean + (right.mean - left.mean) * share,
            by_seed: middle.by_seed.map(|own| part(parabola(&seeds), own.degrees)),
            left: middle.left.map(|own| part(parabola(&rest), own.degrees)),
            by_image: part(parabola(&|c| c.by_image.variance), middle.by_image.degrees),
            ..*middle
        };
        Position {
            difference: there.mean,
            half: there.half_width(LEVEL),
        }
    }

    /// Stretches of numbers of examples at which nothing is told.
    fn inside(&self) -> Vec<(f64, f64)> {
        let place = |share: f64| (self.ends.0 + (self.ends.1 - self.ends.0) * share).exp2();
        let edge = |mut told: f64, mut untold: f64| {
            for _ in 0..50 {
                let middle = f64::midpoint(told, untold);
                if self.at(middle).told().is_some() {
                    told = middle;
                } else {
                    untold = middle;
                }
            }
            untold
        };
        let looked = |step: u32| {
            let share = f64::from(step) / f64::from(STEPS);
            (share, self.at(share).told())
        };
        let looked: Vec<(f64, Option<Side>)> = (0..=STEPS).map(looked).collect();
        let mut found: Vec<(f64, f64)> = Vec::new();
        if looked[0].1.is_none() {
            found.push((place(0.0), place(0.0)));
        }
        for steps in looked.windows(2) {
            let ((last, before), (share, side)) = (steps[0], steps[1]);
            match (before, side) {
                (Some(_), None) => found.push((place(edge(last, share)), place(share))),
                (None, _) => {
                    if let Some((_, high)) = found.last_mut() {
                        *high = place(if side.is_some() { edge(share, last) } else { share });
                    }
                }
                // The sign changes between two steps: the difference is zero in between.
                (Some(one), Some(other)) if one != other => {
                    let (a, b) = (self.at(last).difference, self.at(share).difference);
                    let zero = place(last + (share - last) * a / (a - b));
                    found.push((zero, zero));
                }
                (Some(_), Some(_)) => {}
            }
        }
        found
    }
}

fn at_shots(stronger: &Curve<'_>, at: usize, weaker: &Curve<'_>, seeds: usize) -> Option<Saved> {
    let (shots, series) = *stronger.series.get(at)?;
    let accuracy = *stronger.means.get(at)?;
    let interval = weaker.not_told_from(stronger.scores.get(at)?)?;
    let record = &series.runs.first()?.record;
    let behind = || weaker.series.iter().map(|(_, s)| *s).chain([series]);
    Some(Saved {
        dataset: series.dataset.clone(),
        protocol: series.protocol,
        micro: behind().any(Series::is_micro),
        red: behind().any(Series::is_red),
        classes: record.classes.len(),
        seeds,
        shots,
        stronger: series.label(),
        weaker: weaker.series.first()?.1.label(),
        accuracy,
        needed: weaker.reaches(accuracy),
        interval,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::tests::cell;

    /// Images in 40 drawings; `right` of every eight images are answered, other ones for another seed.
    fn curve(
        learner: &str,
        seeds: u64,
        points: &[(u32, u32)],
    ) -> Vec<(crate::store::record::Record, Vec<crate::prediction::Prediction>)> {
        let at = |seed: u64| {
            points.iter().map(move |&(shots, right)| {
                cell(("a", learner, shots, seed), 160, move |i| {
                    (i + u32::try_from(seed).unwrap()) % 8 < right
                })
            })
        };
        (0..seeds).flat_map(at).collect()
    }

    fn saved(cells: [Vec<(crate::store::record::Record, Vec<crate::prediction::Prediction>)>; 2]) -> Vec<Saved> {
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
        // The same answers at every k: level from the first on, and never above.
        assert_eq!(one_curve[0].needed, Bounded::AtMost(1.0));
        assert_eq!(one_curve[0].interval, (Bounded::AtMost(1.0), Bounded::MoreThan(16.0)));
    }

    #[test]
    fn after_a_dip_the_curve_rises_again() {
        // 4/8 at k = 2, 2/8 at 4, 6/8 at 8. 5/8 lies three quarters of the way from 4 to 8.
        let found = saved([
            curve("VLM", 2, &[(1, 5), (2, 7)]),
            curve("DINO", 2, &[(1, 1), (2, 4), (4, 2), (8, 6)]),
        ]);
        let Bounded::Known(needed) = found[0].needed else {
            panic!("{found:?}")
        };
        assert!((needed - 2.75_f64.exp2()).abs() < 1e-6, "{needed}");
    }

    #[test]
    fn where_an_end_lies_between_measured_points_the_difference_is_as_wide_as_its_interval() {
        let found = saved([
            curve("VLM", 3, &[(1, 1), (4, 4), (64, 8)]),
            curve("DINO", 3, &[(1, 1), (4, 2), (64, 7)]),
        ]);
        let (Bounded::Known(low), Bounded::Known(high)) = found[1].interval else {
            panic!("{found:?}")
        };
        // Half of the images, and the weaker rises from a quarter to seven eighths over four doublings.
        let (Bounded::Known(needed), 4) = (found[1].needed, found[1].shots) else {
            panic!("{found:?}")
        };
        assert!((needed - (2.0 + 4.0 * 0.4_f64).exp2()).abs() < 1e-6, "{needed}");
        assert!(
            4.0 < low && low < needed && needed < high && high < 64.0,
            "{low} {needed} {high}"
        );
    }

    #[test]
    fn seeds_are_those_that_all_cells_share() {
        let found = saved([curve("VLM", 3, &[(1, 4), (2, 6)]), curve("DINO", 2, &[(1, 2), (2, 5)])]);
        assert_eq!(found.iter().map(|s| s.seeds).collect::<Vec<_>>(), [2, 2]);
        let none = saved([curve("VLM", 1, &[(1, 4)]), curve("DINO", 1, &[(1, 2), (2, 5)])]);
        assert_eq!(none, []);
    }
}
