//! How often the intervals and tests hold what they say, on made-up results of which the truth is known.
//!
//! ```text
//! cargo bench --bench coverage -- [--runs N] [--seeds 2,3,5,10] [--world TEXT] [--list]
//! ```
//!
//! A world states test images (independent, or in groups that depend on one another), classes, the accuracy, and the
//! standard deviation between seeds. Every run draws 25 pairs of learners without a difference: 5 datasets with 5
//! numbers of shots each, which share their images. An answer is right where a latent number is positive: class and
//! accuracy, the difficulty of group and image (60 % of the variance within a seed, two thirds of it shared by both
//! learners), the seed's effect (half of its variance shared by both), and seed × group and seed × image. The records go
//! through the product's own code: [`curve::points`], [`curve::with_means`], [`paired::paired`] and [`holm`].
//!
//! One JSON line a world, number of seeds and statistic: coverage of nominal 95 % (where seed sds differ between series,
//! that of the worst), its Monte-Carlo error, the median width of the interval and that of an ideal one, 3.92 times the
//! true standard deviation, in points; for differences the share of runs in which any of the 25 tests is found false at
//! 5 % after Holm's correction, and the power for a true gap of 3 points beside that of the known standard deviation.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use std::sync::Arc;

use kshot::comparison::curve;
use kshot::comparison::curve::Panel;
use kshot::comparison::paired;
use kshot::comparison::series::{Run, Series, TestSet};
use kshot::config::Protocol;
use kshot::prediction::{Prediction, Reading};
use kshot::statistics::distribution;
use kshot::statistics::exact::holm;
use kshot::statistics::metric::Headline;
use kshot::store::record::{CellDetails, CellKey, Identity, Record, Timing, TrainingSummary};
use rayon::prelude::*;

const DATASETS: usize = 5;
const SHOTS: [u32; 5] = [1, 2, 4, 8, 16];
const TESTS: usize = DATASETS * SHOTS.len();
const CLASSES: usize = 10;
const GAP: f64 = 0.03;
/// Variance within a seed: difficulty that both learners share, own difficulty, seed × image.
const SHARED: f64 = 0.4;
const OWN: f64 = 0.2;
const LEFT: f64 = 0.4;
/// Of each of these, the part of the group.
const OF_GROUP: f64 = 0.7;

#[derive(Clone)]
struct World {
    groups: usize,
    per_group: usize,
    /// Between seeds, in points, of the five numbers of shots of a dataset.
    seed_sds: [f64; 5],
    accuracy: f64,
    per_class: bool,
}

impl World {
    fn name(&self) -> String {
        let images = match self.per_group {
            1 => format!("{} images", self.groups),
            n => format!("{} groups of {n}", self.groups),
        };
        let sd = if self.is_mixed() {
            self.seed_sds.map(|sd| sd.to_string()).join(" ")
        } else {
            self.seed_sds[0].to_string()
        };
        let metric = if self.per_class { "mean per class" } else { "top-1" };
        format!(
            "{images}, seed sd {sd}, accuracy {:.0}, {metric}",
            self.accuracy * 100.0
        )
    }

    fn is_mixed(&self) -> bool {
        self.seed_sds.iter().any(|sd| *sd != self.seed_sds[0])
    }
}

/// The grid, worlds whose series differ, and accuracies near the ends.
fn worlds() -> Vec<World> {
    let mut worlds = Vec::new();
    let mut add = |(groups, per_group), seed_sds, accuracy, per_class| {
        worlds.push(World {
            groups,
            per_group,
            seed_sds,
            accuracy,
            per_class,
        });
    };
    let designs = [(20, 9), (90, 4), (1000, 1), (3669, 1), (8041, 1)];
    for per_class in [false, true] {
        for design in designs {
            for sd in [0.0, 1.0, 3.0, 8.0] {
                add(design, [sd; 5], 0.75, per_class);
            }
        }
        for design in [(20, 9), (3669, 1)] {
            add(design, [5.0, 4.0, 3.0, 2.0, 1.0], 0.75, per_class);
            add(design, [8.0, 3.0, 1.0, 0.0, 0.0], 0.75, per_class);
        }
        for design in [(20, 9), (90, 4), (1000, 1), (3669, 1)] {
            for accuracy in [0.05, 0.95] {
                add(design, [1.0; 5], accuracy, per_class);
            }
        }
        add((3669, 1), [0.3; 5], 0.99, per_class);
    }
    worlds
}

/// A counter through a mixer (SplitMix64; Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Four standard normal numbers, of 65,536 equally likely ones.
    fn four(&mut self, table: &[f32]) -> [f32; 4] {
        let bits = self.next();
        [0, 16, 32, 48].map(|shift| table[(bits >> shift) as usize & 0xffff])
    }

    fn normals(&mut self, table: &[f32], n: usize) -> Vec<f32> {
        let mut numbers = Vec::with_capacity(n + 3);
        while numbers.len() < n {
            numbers.extend(self.four(table));
        }
        numbers.truncate(n);
        numbers
    }
}

/// The mean of Φ(x + scale·a) over standard normal a, and its standard deviation.
fn of_seeds(x: f64, scale: f64, table: &[f32]) -> (f64, f64) {
    let (mut mean, mut square) = (0.0, 0.0);
    let every = 256;
    let steps = (table.len() / every) as f64;
    for a in table.iter().skip(every / 2).step_by(every) {
        let p = distribution::normal_cdf(x + scale * f64::from(*a));
        mean += p / steps;
        square += p * p / steps;
    }
    (mean, (square - mean * mean).max(0.0).sqrt())
}

/// What the classes and a standard deviation between seeds are on the latent scale.
struct Latent {
    /// Threshold of each class.
    classes: Vec<f64>,
    /// Scale of the seed's effect.
    seed: f64,
    /// The accuracy that the world really has.
    truth: f64,
}

/// Images of each class, very unequal, in whole groups.
fn class_of_groups(world: &World) -> Vec<u32> {
    let sizes = [1, 1, 1, 2, 2, 2, 2, 3, 3, 3];
    let mut classes: Vec<u32> = Vec::new();
    while classes.len() < world.groups {
        for (class, size) in (0..).zip(sizes) {
            classes.extend(std::iter::repeat_n(class, size));
        }
    }
    classes.truncate(world.groups);
    classes.sort_unstable();
    classes
}

fn latent(world: &World, sd: f64, accuracy: f64, weights: &[f64], table: &[f32]) -> Latent {
    // Where classes weigh the same they also differ.
    let offset = |class: usize| {
        if world.per_class {
            (class as f64 - 4.5) / 9.0
        } else {
            0.0
        }
    };
    let level = |seed: f64| {
        let (mut low, mut high) = (-8.0, 8.0);
        for _ in 0..60 {
            let middle = f64::midpoint(low, high);
            let over = (1.0 + seed * seed).sqrt();
            let mean: f64 = (0..CLASSES)
                .map(|c| weights[c] * distribution::normal_cdf((middle + offset(c)) / over))
                .sum();
            if mean < accuracy {
                low = middle;
            } else {
                high = middle;
            }
        }
        f64::midpoint(low, high)
    };
    let (mut low, mut high) = (0.0, 6.0);
    for _ in 0..if sd > 0.0 { 30 } else { 0 } {
        let middle = f64::midpoint(low, high);
        if of_seeds(level(middle), middle, table).1 * 100.0 < sd {
            low = middle;
        } else {
            high = middle;
        }
    }
    let seed = low;
    let classes: Vec<f64> = (0..CLASSES).map(|c| level(seed) + offset(c)).collect();
    let over = (1.0 + seed * seed).sqrt();
    let truth = (0..CLASSES)
        .map(|c| weights[c] * distribution::normal_cdf(classes[c] / over))
        .sum();
    Latent { classes, seed, truth }
}

/// A record as of a real cell, of which only what comparisons read is right.
fn record(world: &World) -> Record {
    let identity = Identity {
        key: CellKey {
            dataset: String::new(),
            protocol: Protocol::Clean,
            learner: String::new(),
            shots: 1.into(),
            seed: 0,
        },
        hyper_parameters: serde_json::json!({ "method": "made up" }),
        train: vec![],
        test: vec![],
        classes: (0..CLASSES).map(|c| format!("class {c}")).collect(),
        weights: None,
        dtype: "f32".into(),
        backend: "local".into(),
        recipe: 1,
    };
    let account = CellDetails {
        reading: Reading::Likelihood,
        headline: if world.per_class {
            Headline::MeanPerClass
        } else {
            Headline::Top1
        },
        micro: false,
        regime: None,
        split_sha256: String::new(),
        card: None,
        fitted: None,
        names: None,
        training: TrainingSummary::default(),
        timing: Timing::default(),
    };
    let row = Prediction {
        id: String::new(),
        sha256: String::new(),
        group: None,
        truth: 0,
        free_text: None,
        free_class: None,
        trie_class: None,
        likelihood_class: Some(0),
        log_probs: None,
    };
    let mut record = Record::new(&identity, account, &[row], String::new());
    record.n_test = world.groups * world.per_group;
    record.n_groups = world.groups;
    record
}

/// The answers of one run of the world: learner "a" beside learner "b", 25 series each, dataset by dataset.
struct Maker<'a> {
    world: &'a World,
    seeds: usize,
    table: &'a [f32],
    record: Record,
    test: Arc<TestSet>,
    /// Of a and b, by number of shots.
    latents: [Vec<Latent>; 2],
}

impl<'a> Maker<'a> {
    fn new(world: &'a World, seeds: usize, table: &'a [f32], gap: f64) -> Self {
        let of_groups = class_of_groups(world);
        let classes: Vec<u32> = of_groups
            .iter()
            .flat_map(|c| std::iter::repeat_n(*c, world.per_group))
            .collect();
        let weights: Vec<f64> = (0..CLASSES)
            .map(|c| {
                if world.per_class {
                    1.0 / CLASSES as f64
                } else {
                    classes.iter().filter(|own| **own as usize == c).count() as f64 / classes.len() as f64
                }
            })
            .collect();
        let images = classes
            .iter()
            .enumerate()
            .map(|(i, c)| (format!("{i:05}"), String::new(), *c));
        let test = TestSet {
            images: images.collect(),
            groups: (0..classes.len() as u32).map(|i| i / world.per_group as u32).collect(),
        };
        let latents = [gap, 0.0].map(|gap| {
            let of = |sd: &f64| latent(world, *sd, world.accuracy + gap, &weights, table);
            world.seed_sds.iter().map(of).collect()
        });
        Self {
            world,
            seeds,
            table,
            record: record(world),
            test: Arc::new(test),
            latents,
        }
    }

    fn truth(&self, learner: usize, shots: usize) -> f64 {
        self.latents[learner][shots].truth
    }

    /// Series of both learners, 25 each.
    fn draw(&self, random: &mut Random) -> [Vec<Series>; 2] {
        let mut series = [Vec::new(), Vec::new()];
        let (groups, size) = (self.world.groups, self.world.per_group);
        for dataset in 0..DATASETS {
            let shared = self.difficulty(random, SHARED);
            let own = [self.difficulty(random, OWN), self.difficulty(random, OWN)];
            for (at, shots) in SHOTS.iter().enumerate() {
                let drawn: Vec<f32> = random.normals(self.table, self.seeds);
                for (learner, series) in series.iter_mut().enumerate() {
                    let latent = &self.latents[learner][at];
                    let mut thresholds: Vec<f32> = vec![0.0; groups * size];
                    for (i, threshold) in thresholds.iter_mut().enumerate() {
                        let class = self.test.images[i].2 as usize;
                        *threshold = -(latent.classes[class] as f32 + shared[i] + own[learner][i]);
                    }
                    let apart = random.normals(self.table, self.seeds);
                    let runs = (0..self.seeds).map(|seed| {
                        let effect = (drawn[seed] + apart[seed]) * (latent.seed * 0.5_f64.sqrt()) as f32;
                        let mut record = self.record.clone();
                        record.key.dataset = format!("{dataset}");
                        record.key.learner = ["a", "b"][learner].into();
                        record.key.shots = (*shots).into();
                        record.key.seed = seed as u64;
                        Run {
                            record,
                            correct: self.answers(random, &thresholds, effect),
                            others: vec![],
                            red: false,
                        }
                    });
                    series.push(Series {
                        dataset: format!("{dataset}"),
                        protocol: Protocol::Clean,
                        learner: ["a", "b"][learner].into(),
                        shots: (*shots).into(),
                        test: Arc::clone(&self.test),
                        runs: runs.collect(),
                    });
                }
            }
        }
        series
    }

    /// One number an image with this variance, partly of its group.
    fn difficulty(&self, random: &mut Random, variance: f64) -> Vec<f32> {
        let size = self.world.per_group;
        let images = random.normals(self.table, self.world.groups * size);
        if size == 1 {
            return images.iter().map(|u| u * variance.sqrt() as f32).collect();
        }
        let of_groups = random.normals(self.table, self.world.groups);
        let (group, image) = (
            (variance * OF_GROUP).sqrt() as f32,
            (variance * (1.0 - OF_GROUP)).sqrt() as f32,
        );
        images
            .iter()
            .enumerate()
            .map(|(i, u)| group * of_groups[i / size] + image * u)
            .collect()
    }

    fn answers(&self, random: &mut Random, thresholds: &[f32], effect: f32) -> Vec<bool> {
        let noise = self.difficulty(random, LEFT);
        thresholds
            .iter()
            .zip(noise)
            .map(|(threshold, noise)| noise + effect > *threshold)
            .collect()
    }
}

/// One interval.
#[derive(Clone, Copy)]
struct Seen {
    estimate: f64,
    covers: bool,
    width: f64,
}

/// What one run showed.
struct Shown {
    accuracy: Vec<Seen>,
    difference: Vec<Seen>,
    over_datasets: Vec<Seen>,
    /// A true difference of zero was rejected.
    rejected: bool,
    found: usize,
}

fn show(maker: &Maker<'_>, random: &mut Random) -> Shown {
    let [a, b] = maker.draw(random);
    let points = curve::with_means(curve::points(&a), &a);
    let shots_of = |k: kshot::config::Shots| SHOTS.iter().position(|s| k == *s).expect("its own shots");
    let seen = |panel: Panel| -> Vec<Seen> {
        let of = points.iter().filter(|p| p.panel == panel);
        of.map(|p| {
            let truth = maker.truth(0, shots_of(p.shots));
            Seen {
                estimate: p.mean,
                covers: p.low <= truth && truth <= p.high,
                width: p.high - p.low,
            }
        })
        .collect()
    };
    let gains: Vec<_> = a
        .iter()
        .zip(&b)
        .map(|(a, b)| paired::paired(a, b).expect("comparable").expect("common seeds").gain)
        .collect();
    let difference = gains.iter().zip(&a).map(|(gain, series)| {
        let at = shots_of(series.shots);
        let truth = maker.truth(0, at) - maker.truth(1, at);
        Seen {
            estimate: gain.mean,
            covers: gain.interval.low <= truth && truth <= gain.interval.high,
            width: gain.interval.high - gain.interval.low,
        }
    });
    let p: Vec<f64> = gains.iter().map(|gain| gain.components.p_value()).collect();
    Shown {
        accuracy: seen(Panel::Dataset),
        over_datasets: seen(Panel::Mean),
        rejected: holm(&p).iter().any(|p| *p <= 0.05),
        found: gains
            .iter()
            .zip(&p)
            .filter(|(gain, p)| **p <= 0.05 && gain.mean > 0.0)
            .count(),
        difference: difference.collect(),
    }
}

fn table() -> Vec<f32> {
    (0..65_536)
        .map(|i| distribution::normal_quantile((f64::from(i) + 0.5) / 65_536.0) as f32)
        .collect()
}

fn runs_of(maker: &Maker<'_>, runs: usize, stream: u64) -> Vec<Shown> {
    (0..runs as u64)
        .into_par_iter()
        .map(|run| {
            let mut random =
                Random(stream.wrapping_mul(0xd134_2543_de82_ef95) ^ run.wrapping_mul(0x2545_f491_4f6c_dd1d));
            random.next();
            show(maker, &mut random)
        })
        .collect()
}

/// Coverage, error, median width and ideal width, in points, of the series with the same number of shots where they
/// differ (the worst one), else of all.
fn summary(runs: &[Shown], of: impl Fn(&Shown) -> &[Seen], kinds: usize, mixed: bool) -> (f64, f64, f64, f64) {
    let one = |kind: Option<usize>| {
        let chosen = |run: &Shown| -> Vec<Seen> {
            let all = of(run).iter().enumerate();
            all.filter(|(i, _)| kind.is_none_or(|k| i % kinds == k))
                .map(|(_, seen)| *seen)
                .collect()
        };
        let per_run: Vec<Vec<Seen>> = runs.iter().map(chosen).collect();
        let shares: Vec<f64> = per_run
            .iter()
            .map(|run| run.iter().filter(|seen| seen.covers).count() as f64 / run.len() as f64)
            .collect();
        let n = shares.len() as f64;
        let coverage = shares.iter().sum::<f64>() / n;
        let error = (shares.iter().map(|s| (s - coverage).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt();
        let all: Vec<Seen> = per_run.concat();
        let mut widths: Vec<f64> = all.iter().map(|seen| seen.width).collect();
        widths.sort_by(f64::total_cmp);
        let mean = all.iter().map(|seen| seen.estimate).sum::<f64>() / all.len() as f64;
        let sd = (all.iter().map(|seen| (seen.estimate - mean).powi(2)).sum::<f64>() / (all.len() as f64 - 1.0)).sqrt();
        (
            coverage,
            error,
            100.0 * widths[widths.len() / 2],
            100.0 * 3.919_927_969_080_108 * sd,
        )
    };
    if mixed {
        let all: Vec<_> = (0..kinds).map(|kind| one(Some(kind))).collect();
        all.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).expect("some")
    } else {
        one(None)
    }
}

fn main() {
    let mut runs = 400;
    let mut seeds = vec![2, 3, 5, 10];
    let mut filter = String::new();
    let mut list = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} needs a value"));
        match argument.as_str() {
            "--runs" => runs = value().parse().expect("a number of runs"),
            "--seeds" => {
                seeds = value()
                    .split(',')
                    .map(|s| s.parse().expect("numbers of seeds"))
                    .collect();
            }
            "--world" => filter = value(),
            "--list" => list = true,
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    let table = table();
    for (number, world) in worlds()
        .iter()
        .enumerate()
        .filter(|(_, world)| world.name().contains(&filter))
    {
        let name = world.name();
        if list {
            println!("{name}");
            continue;
        }
        for &count in &seeds {
            let maker = Maker::new(world, count, &table, 0.0);
            let shown = runs_of(&maker, runs, (number * 100 + count) as u64);
            let fwer = shown.iter().filter(|run| run.rejected).count() as f64 / runs as f64;
            // Mixed worlds have no one gap to be found, and near the ends there is no room for it.
            let power = (!world.is_mixed() && world.accuracy + GAP < 1.0).then(|| {
                let maker = Maker::new(world, count, &table, GAP);
                let shown = runs_of(&maker, runs.div_ceil(10), (number * 100 + count + 50) as u64);
                shown.iter().map(|run| run.found as f64 / TESTS as f64).sum::<f64>() / shown.len() as f64
            });
            let kinds = SHOTS.len();
            let metric = if world.per_class { "mean per class" } else { "top-1" };
            let print = |what: &str, of: &dyn Fn(&Shown) -> &[Seen], differences: bool| {
                let (coverage, se, width, oracle_width) = summary(&shown, of, kinds, world.is_mixed());
                let mut line = serde_json::json!({
                    "world": name, "seeds": count, "statistic": format!("{what}, {metric}"),
                    "coverage": coverage, "se": se, "width": width, "oracle_width": oracle_width,
                    "fwer": differences.then_some(fwer),
                });
                if let Some(power) = power.filter(|_| differences) {
                    let far = GAP * 100.0 / (oracle_width / 3.919_927_969_080_108);
                    line["power"] = power.into();
                    line["oracle_power"] = distribution::normal_cdf(far - 1.959_963_984_540_054).into();
                }
                println!("{line}");
            };
            print("accuracy", &|run| &run.accuracy, false);
            print("difference", &|run| &run.difference, true);
            print("mean of 5 datasets", &|run| &run.over_datasets, false);
        }
    }
}
