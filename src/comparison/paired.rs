//! One learner against another, or against itself with fewer shots, on the same draws and the same images; and the bar
//! for micro models, which is made of such gains.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::comparison::series::Series;
use crate::config::{Protocol, Shots};
use crate::error::Result;
use crate::statistics::exact::{holm, sign_flip};
use crate::statistics::power::{POWER, smallest_detectable};
use crate::statistics::variance::{Estimate, Scores};

pub use crate::statistics::variance::LEVEL;

/// Gain of `learner` over `other`, paired by seed and image.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Name of the dataset.
    pub dataset: String,
    /// Protocol by which shots and test images were chosen.
    pub protocol: Protocol,
    /// The learner whose gain it is, with its shots. Learners are named with the reading they count by.
    pub learner: (String, Shots),
    /// The other side of the comparison.
    pub other: (String, Shots),
    /// Seeds that both have.
    pub seeds: usize,
    /// From a miniature dataset, or by a micro model.
    pub micro: bool,
    /// A sanity control of the learner, and of the other, is red: their numbers are not to be used.
    pub red: (bool, bool),
    /// See [`Series::capped`]: of the learner.
    pub capped: Option<u32>,
    /// Gain in accuracy, between −1 and 1.
    pub gain: Estimate,
}

impl Difference {
    /// Dataset, protocol and both learners.
    fn pair(&self) -> (&str, Protocol, &str, &str) {
        (&self.dataset, self.protocol, &self.learner.0, &self.other.0)
    }
}

/// A [`Difference`] with all that tells whether it is one.
#[derive(Debug, Clone, PartialEq)]
pub struct Test {
    /// The hypothesis tested.
    pub difference: Difference,
    /// The exact test of each seed, in order of seeds.
    pub exact: Vec<SeedTest>,
    /// True if test images come in groups of dependent ones. If so, the exact test is the sign-flip test over
    /// groups, else it is McNemar's, which is the same test of images that stand alone.
    pub grouped: bool,
    /// Two-sided p value over seeds and images, of the interval of the gain.
    pub p: f64,
    /// The same after Holm's correction over datasets × shots of this pair of learners.
    pub holm: f64,
    /// The smallest true difference that would be found at [`LEVEL`] with [`POWER`]; `None` where all answers
    /// agree, so that nothing tells the variance.
    pub detectable: Option<f64>,
}

/// One seed's answers, tested exactly. Every image counts the same, also where the headline is the mean per class.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SeedTest {
    /// Images that only the learner got right, minus those that only the other got right.
    pub net_wins: i64,
    /// Two-sided p value.
    pub p: f64,
}

/// Paired difference of two series; `None` when they share no seed.
///
/// # Errors
/// [`crate::error::Error::NotComparable`] when test images, classes or metric differ, or the readings of one
/// learner.
pub fn paired(ours: &Series, theirs: &Series) -> Result<Option<Difference>> {
    Ok(difference(ours, theirs, &ours.differences(theirs)?))
}

fn difference(ours: &Series, theirs: &Series, scores: &Scores) -> Option<Difference> {
    Estimate::difference(scores).map(|gain| Difference {
        dataset: ours.dataset.clone(),
        protocol: ours.protocol,
        learner: (ours.label(), ours.shots),
        other: (theirs.label(), theirs.shots),
        seeds: scores.seeds,
        micro: ours.is_micro() || theirs.is_micro(),
        red: (ours.is_red(), theirs.is_red()),
        capped: ours.capped(),
        gain,
    })
}

/// As [`paired`], tested; not yet corrected for other tests.
fn tested(ours: &Series, theirs: &Series) -> Result<Option<Test>> {
    let scores = ours.differences(theirs)?;
    Ok(difference(ours, theirs, &scores).map(|difference| {
        let p = difference.gain.components.p_value();
        let record = &ours.runs[0].record;
        Test {
            exact: (0..difference.seeds).map(|seed| exact(&scores, seed)).collect(),
            grouped: record.n_groups < record.n_test,
            p,
            holm: p,
            detectable: smallest_detectable(&difference.gain.components, LEVEL, POWER),
            difference,
        }
    }))
}

fn exact(scores: &Scores, seed: usize) -> SeedTest {
    let mut groups: BTreeMap<u32, f64> = BTreeMap::new();
    for (group, own) in scores.groups.iter().zip(scores.images()) {
        *groups.entry(*group).or_default() += own.get(seed).copied().unwrap_or_default();
    }
    let sums: Vec<f64> = groups.into_values().collect();
    SeedTest {
        net_wins: sums.iter().sum::<f64>() as i64,
        p: sign_flip(&sums).two_sided(),
    }
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

/// Each of `subjects` against every other learner, dataset by dataset, at every number of shots that both have; of
/// two subjects the earlier one's gain. Corrected over datasets × shots, for each pair of learners.
///
/// # Errors
/// As [`paired`].
pub fn tests(series: &[Series], subjects: &[&str]) -> Result<Vec<Test>> {
    let mut pairs: Vec<(usize, &Series, &Series)> = Vec::new();
    for (rank, subject) in subjects.iter().enumerate() {
        for own in series.iter().filter(|s| s.learner == *subject) {
            let is_other = |s: &&Series| s.learner != *subject && !subjects[..rank].contains(&s.learner.as_str());
            let others = series.iter().filter(is_other);
            let others = others.filter(|s| beside(own, s) && s.shots == own.shots);
            pairs.extend(others.map(|other| (rank, own, other)));
        }
    }
    pairs.sort_by_key(|(rank, own, other)| (&own.dataset, own.protocol, *rank, &other.learner, own.shots));
    let found = pairs.par_iter().map(|(_, ours, theirs)| tested(ours, theirs));
    let found: Vec<Option<Test>> = found.collect::<Result<_>>()?;
    let mut tests: Vec<Test> = found.into_iter().flatten().collect();
    correct(&mut tests);
    Ok(tests)
}

/// Holm's correction over the tests of each pair of learners.
fn correct(tests: &mut [Test]) {
    let mut families: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
    for (index, Test { difference, .. }) in tests.iter().enumerate() {
        let pair = (difference.learner.0.clone(), difference.other.0.clone());
        families.entry(pair).or_default().push(index);
    }
    for family in families.into_values() {
        let p: Vec<f64> = family.iter().map(|&index| tests[index].p).collect();
        for (index, adjusted) in family.into_iter().zip(holm(&p)) {
            tests[index].holm = adjusted;
        }
    }
}

/// Of each pair of learners on each dataset, the difference at the largest number of shots.
#[must_use]
pub fn at_most_shots(tests: &[Test]) -> Vec<Difference> {
    let mut largest: Vec<&Difference> = Vec::new();
    for Test { difference, .. } in tests {
        match largest.iter_mut().find(|d| d.pair() == difference.pair()) {
            Some(known) if known.learner.1 < difference.learner.1 => *known = difference,
            Some(_) => {}
            None => largest.push(difference),
        }
    }
    largest.into_iter().cloned().collect()
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
        let earlier = nearby().filter(itself(0)).chain(nearby().filter(itself(1)));
        pairs.extend(found.chain(earlier).map(|other| (own, other)));
    }
    // Those of one dataset together.
    pairs.sort_by(|(a, _), (b, _)| (&a.dataset, a.protocol).cmp(&(&b.dataset, b.protocol)));
    let found = pairs.par_iter().map(|(ours, theirs)| paired(ours, theirs));
    let found: Vec<Option<Difference>> = found.collect::<Result<_>>()?;
    Ok(found.into_iter().flatten().collect())
}

fn beside(one: &Series, other: &Series) -> bool {
    one.dataset == other.dataset && one.protocol == other.protocol
}

const NONE: u32 = 0;
const FEW: u32 = 1;
const MANY: u32 = 16;
const ACCURACY: f64 = 0.50;
const OVER_PIXELS: f64 = 0.15;
const OVER_ONE_SHOT: f64 = 0.10;

/// Proof that a micro model learns at all: the bar that a miniature dataset has to clear before its figure is
/// worth drawing. At 16 shots the trained learner is right on at least half of the images, 15 points above
/// nearest neighbours on raw pixels, and 10 points above itself at one shot. One that writes its answers must
/// also beat itself without shots. Answers count by the learner's headline reading.
#[derive(Debug, Clone, PartialEq)]
pub struct MicroGate {
    /// Name of the dataset.
    pub dataset: String,
    /// The trained learner, with the reading it counts by.
    pub learner: String,
    /// True if it writes its answers, so that it has to beat itself without shots.
    pub writes: bool,
    /// Seeds behind its accuracy.
    pub seeds: usize,
    /// Its accuracy at 16 shots.
    pub accuracy: Estimate,
    /// Its gain over raw pixels at 16 shots, paired.
    pub over_pixels: Difference,
    /// Its gain over itself at one shot, paired.
    pub over_one_shot: Difference,
    /// Its gain over itself without shots, paired; `None` where there is no such result.
    pub over_zero_shot: Option<Difference>,
}

impl MicroGate {
    /// True if all three means reach their level.
    #[must_use]
    pub fn reaches_levels(&self) -> bool {
        self.accuracy.mean >= ACCURACY
            && self.over_pixels.gain.mean >= OVER_PIXELS
            && self.over_one_shot.gain.mean >= OVER_ONE_SHOT
    }

    /// True if all gains are above zero with 95 % confidence, and none is missing.
    #[must_use]
    pub fn gains_are_certain(&self) -> bool {
        let certain = |difference: &Difference| difference.gain.interval.low > 0.0;
        certain(&self.over_pixels)
            && certain(&self.over_one_shot)
            && self.over_zero_shot.as_ref().map_or(!self.writes, certain)
    }

    /// True if the dataset clears the bar.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.reaches_levels() && self.gains_are_certain()
    }
}

/// The gate of every dataset that has `learner` at 1 and at 16 shots and raw pixels at 16.
///
/// # Errors
/// As [`paired`].
pub fn micro_gates(series: &[Series], learner: &str) -> Result<Vec<MicroGate>> {
    let mut gates = Vec::new();
    for many in series.iter().filter(|s| s.learner == learner && s.shots == MANY) {
        let beside = |s: &&Series| s.dataset == many.dataset && s.protocol == many.protocol;
        let on_pixels = |s: &&Series| s.runs[0].record.hyper_parameters["method"] == "pixels";
        let itself = |shots: u32| {
            let mut beside = series.iter().filter(beside);
            beside.find(|s| s.learner == learner && s.shots == shots)
        };
        let one_shot = itself(FEW);
        let pixels = series.iter().filter(beside).filter(on_pixels).find(|s| s.shots == MANY);
        let (Some(one_shot), Some(pixels)) = (one_shot, pixels) else {
            continue;
        };
        let accuracy = Estimate::share(&many.scores());
        let (over_pixels, over_one_shot) = (paired(many, pixels)?, paired(many, one_shot)?);
        let over_zero_shot = match itself(NONE) {
            Some(none) => paired(many, none)?,
            None => None,
        };
        if let (Some(accuracy), Some(over_pixels), Some(over_one_shot)) = (accuracy, over_pixels, over_one_shot) {
            gates.push(MicroGate {
                dataset: many.dataset.clone(),
                learner: many.label(),
                writes: many.reading().is_some(),
                seeds: many.runs.len(),
                accuracy,
                over_pixels,
                over_one_shot,
                over_zero_shot,
            });
        }
    }
    Ok(gates)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::{distribution, power};
    use crate::store::record::tests::{cell, written_cell};

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
        let tests = tests(&series, &["DINOv2 LoRA"]).unwrap();
        let found = at_most_shots(&tests);
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
            told(&at_most_shots(&tests(&series, &subjects).unwrap())),
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

    #[test]
    fn every_number_of_shots_is_tested_and_corrected_for() {
        let mut cells = Vec::new();
        for seed in 0..2 {
            for (dataset, shots, right) in [("a", 1, 5), ("a", 16, 7), ("b", 1, 4), ("b", 16, 3)] {
                cells.push(cell((dataset, "DINOv2 LoRA", shots, seed), 40, move |i| i % 8 < right));
                cells.push(cell((dataset, "k-NN", shots, seed), 40, |i| i % 8 < 3));
                cells.push(cell((dataset, "raw pixels", shots, seed), 40, |i| i % 8 == 0));
            }
        }
        let series = Series::group(cells.into_iter().map(Ok)).unwrap();
        let tests = tests(&series, &["DINOv2 LoRA"]).unwrap();
        assert_eq!(tests.len(), 8);
        let knn: Vec<&Test> = tests.iter().filter(|t| t.difference.other.0 == "k-NN").collect();
        // Images 2j and 2j + 1 show one drawing. At a, k = 16: of every eight images 3, 4, 5, 6 are won, which
        // are drawings 1 and 3 with one image each and drawing 2 with both; five times.
        let sums: Vec<f64> = [1.0, 2.0, 1.0].repeat(5);
        let won = sign_flip(&sums).two_sided();
        assert!((won - 2.0 / f64::from(1 << 15)).abs() < 1e-12);
        assert_eq!(knn[1].exact, [SeedTest { net_wins: 20, p: won }; 2]);
        assert!(knn.iter().all(|test| test.grouped));
        let p: Vec<f64> = knn.iter().map(|test| test.p).collect();
        // Drawings 0 to 3 gain 0, ½, 1 and ½ in both seeds; 20 of them, so t has 19 degrees of freedom.
        let t = 0.5 / (0.125_f64 / 19.0).sqrt();
        assert!(
            (p[1] / (2.0 * distribution::t_cdf(-t, 19.0)) - 1.0).abs() < 1e-9,
            "{p:?}"
        );
        assert!((p[3] - 1.0).abs() < 1e-12, "{p:?}");
        assert_eq!(knn.iter().map(|test| test.holm).collect::<Vec<_>>(), holm(&p));
        // No answer differs: nothing to tell a spread from.
        assert_eq!(
            (knn[3].detectable, &knn[3].exact[0]),
            (None, &SeedTest { net_wins: 0, p: 1.0 })
        );
        let gain = &knn[1].difference.gain;
        let found = power::power(&gain.components, knn[1].detectable.unwrap(), LEVEL);
        assert!((found - POWER).abs() < 1e-8 && knn[1].detectable.unwrap() > 2.8 * gain.sd);
    }

    /// LoRA at 16 shots right on `many` of 10 images, at one shot on `few`, pixels at 16 on `pixels`.
    fn gate(many: u32, few: u32, pixels: u32) -> MicroGate {
        // The drawing decides, so that both images of a drawing agree.
        let right = |share: u32| move |i: u32| (i / 2 * 7) % 10 < share;
        let cells = (0..3).flat_map(|seed| {
            [
                cell(("a", "LoRA", 16, seed), 400, right(many)),
                cell(("a", "LoRA", 1, seed), 400, right(few)),
                cell(("a", "raw pixels", 16, seed), 400, right(pixels)),
                cell(("b", "LoRA", 16, seed), 8, right(10)), // no pixels, so no gate
            ]
        });
        let series = Series::group(cells.map(Ok)).unwrap();
        let mut gates = micro_gates(&series, "LoRA").unwrap();
        assert_eq!(gates.len(), 1);
        gates.remove(0)
    }

    #[test]
    fn every_bar_counts() {
        let good = gate(7, 3, 5);
        assert!(good.passes());
        assert_eq!(good.seeds, 3);
        assert!((good.accuracy.mean - 0.7).abs() < 1e-12);
        assert!((good.over_pixels.gain.mean - 0.2).abs() < 1e-12);
        assert!((good.over_one_shot.gain.mean - 0.4).abs() < 1e-12);
        assert!(!gate(4, 1, 1).passes(), "below one half");
        assert!(!gate(7, 3, 6).passes(), "ten points over pixels");
        assert!(!gate(7, 7, 5).passes(), "nothing learnt from more shots");
        let certain = gate(7, 7, 5);
        assert!(!certain.gains_are_certain() && !certain.reaches_levels());
    }

    #[test]
    fn a_writing_learner_must_beat_itself_without_shots_too() {
        let right = |share: u32| move |i: u32| (i / 2 * 7) % 10 < share;
        let gate = |none: Option<u32>| {
            let vlm = |shots, seed, share| written_cell(("a", "VLM", shots, seed), 400, right(share), |_| true);
            let mut cells: Vec<_> = none.map(|share| vlm(0, 0, share)).into_iter().collect();
            for seed in 0..3 {
                cells.extend([vlm(1, seed, 3), vlm(16, seed, 7)]);
                cells.push(cell(("a", "raw pixels", 16, seed), 400, right(5)));
            }
            let series = Series::group(cells.into_iter().map(Ok)).unwrap();
            micro_gates(&series, "VLM").unwrap().remove(0)
        };
        let good = gate(Some(2));
        assert!(good.passes() && good.learner == "VLM (free text)");
        let gain = good.over_zero_shot.unwrap();
        assert!((gain.gain.mean - 0.5).abs() < 1e-12 && gain.seeds == 3);
        assert!(!gate(Some(7)).passes(), "it knew as much before");
        assert!(!gate(None).passes(), "nobody looked what it knew before");
    }
}
