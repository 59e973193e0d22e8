//! The gate on simulated nights: red when something got worse, and hardly ever otherwise.

use kshot::config::Protocol;
use kshot::gate::Family;
use kshot::gate::change::{Evidence, Group};
use kshot::gate::noise::{CellNoise, Noise};
use kshot::seed;
use kshot::store::record::CellKey;
use rand::Rng;
use rayon::prelude::*;

const NIGHTS: usize = 1_000;
const LEVEL: f64 = 0.05;
const HALF_A_POINT: f64 = 0.005;
/// Test images of the largest of the real datasets' cells, and the share of them that changes from run to run.
const IMAGES: usize = 3_669;
const DISCORDANT: f64 = 0.06;

/// Share of simulated nights that `night` calls red; each has a random stream of its own.
#[expect(
    clippy::print_stdout,
    reason = "the rates are what `cargo test -- --nocapture gate_simulation` is run for"
)]
fn red(world: &str, night: impl Fn(&mut dyn rand::RngCore) -> bool + Sync) -> f64 {
    let one = |n: usize| night(&mut seed::rng(n as u64, world));
    let red = (0..NIGHTS).into_par_iter().filter(|n| one(*n)).count();
    let share = red as f64 / NIGHTS as f64;
    println!("{world}: {:.1} % of {NIGHTS} nights red", 100.0 * share);
    share
}

/// What 1,000 nights allow for at a true 5 %.
fn holds_the_level(share: f64) -> bool {
    share <= LEVEL + 2.0 * (LEVEL * (1.0 - LEVEL) / NIGHTS as f64).sqrt()
}

fn is_red(cells: &[Vec<Group>], margin: f64) -> bool {
    let evidence: Vec<Evidence> = cells.iter().map(|groups| Evidence::of(groups, margin, None)).collect();
    Family::of(&evidence).is_red(LEVEL)
}

/// Images of one's own, of which `discordant` change, more for the worse than for the better if there is a `drop`.
fn independent(n: usize, discordant: f64, drop: f64, random: &mut dyn rand::RngCore) -> Vec<Group> {
    let weight = 1.0 / n as f64;
    let (lost, changed) = ((discordant + drop) / 2.0, discordant);
    let image = |_| {
        let change = match random.random::<f64>() {
            u if u < lost => -weight,
            u if u < changed => weight,
            _ => 0.0,
        };
        Group { weight, change }
    };
    (0..n).map(image).collect()
}

/// 180 images of 20 to 30 drawings. A quarter of the drawings changes, most views of it in the same direction.
fn clustered(random: &mut dyn rand::RngCore) -> Vec<Group> {
    let drawings = random.random_range(20..=30_usize);
    let views = |drawing: usize| 180 / drawings + usize::from(drawing < 180 % drawings);
    let group = |drawing| {
        let views = views(drawing);
        let direction = if random.random::<f64>() < 0.5 { 1.0 } else { -1.0 };
        let touched = random.random::<f64>() < 0.25;
        let changed = (0..views).filter(|_| random.random::<f64>() < 0.6).count();
        Group {
            weight: views as f64 / 180.0,
            change: if touched {
                direction * changed as f64 / 180.0
            } else {
                0.0
            },
        }
    };
    (0..drawings).map(group).collect()
}

#[test]
fn nights_without_change_are_red_at_most_at_the_level() {
    for margin in [0.0, HALF_A_POINT] {
        let points = 100.0 * margin;
        let world = |name: &str| format!("no change, margin {points} points, {name}");
        let alone = red(&world("one cell of 3,669 images"), |random| {
            is_red(&[independent(IMAGES, DISCORDANT, 0.0, random)], margin)
        });
        assert!(holds_the_level(alone));
        if margin == 0.0 {
            assert!(alone > 0.02, "a test that never rejects would hold any level");
        }
        assert!(holds_the_level(red(&world("20 cells of 3,669 images"), |random| {
            let cells: Vec<_> = (0..20).map(|_| independent(IMAGES, DISCORDANT, 0.0, random)).collect();
            is_red(&cells, margin)
        })));
        assert!(holds_the_level(red(
            &world("one cell of 180 images in drawings"),
            |random| { is_red(&[clustered(random)], margin) }
        )));
        assert!(holds_the_level(red(
            &world("20 cells of 180 images in drawings"),
            |random| {
                let cells: Vec<_> = (0..20).map(|_| clustered(random)).collect();
                is_red(&cells, margin)
            }
        )));
        assert!(holds_the_level(red(
            &world("20 cells of 40 images, few of which change"),
            |random| {
                let cells: Vec<_> = (0..20).map(|_| independent(40, 0.08, 0.0, random)).collect();
                is_red(&cells, margin)
            }
        )));
    }
    // Views of one drawing taken as independent: what the groups are for.
    let naive = red("no change, 180 images in drawings taken as independent", |random| {
        let mut images = Vec::new();
        for group in clustered(random) {
            let views = (group.weight * 180.0).round() as usize;
            let changed = (group.change.abs() * 180.0).round() as usize;
            images.extend((0..views).map(|view| Group {
                weight: 1.0 / 180.0,
                change: if view < changed {
                    group.change.signum() / 180.0
                } else {
                    0.0
                },
            }));
        }
        is_red(&[images], 0.0)
    });
    assert!(naive > 0.15, "{naive}");
}

#[test]
fn a_loss_of_two_points_in_3669_images_is_found() {
    let drop = 0.02;
    let alone = red("two points lost, one cell of 3,669 images", |random| {
        is_red(&[independent(IMAGES, DISCORDANT, drop, random)], HALF_A_POINT)
    });
    assert!(alone >= 0.95, "{alone}");
    let family = red("two points lost in one of 20 cells of 3,669 images, Holm", |random| {
        let of = |cell| if cell == 7 { drop } else { 0.0 };
        let cells: Vec<_> = (0..20)
            .map(|cell| independent(IMAGES, DISCORDANT, of(cell), random))
            .collect();
        is_red(&cells, HALF_A_POINT)
    });
    assert!((0.70..=alone).contains(&family), "{family}");
    // A loss within the margin is none.
    assert!(holds_the_level(red(
        "half a point lost, one cell of 3,669 images",
        |random| { is_red(&[independent(IMAGES, DISCORDANT, HALF_A_POINT, random)], HALF_A_POINT) }
    )));
}

/// The smallest loss that a report states is found about as often as it says: on four nights of five.
#[test]
fn the_smallest_detectable_loss_is_what_it_says() {
    for (n, discordant) in [(IMAGES, DISCORDANT), (1_000, 0.1), (180, 0.15)] {
        for level in [LEVEL, LEVEL / 36.0] {
            let quiet = independent(n, discordant, 0.0, &mut seed::rng(0, "quiet night"));
            let loss = Evidence::of(&quiet, HALF_A_POINT, None).detectable(level, 1.0).unwrap();
            // On top of what changes anyway: so many images more are lost.
            let found = red(
                &format!("{:.2} points lost in {n} images, level {level:.4}", 100.0 * loss),
                |random| {
                    let mut groups = independent(n, discordant, 0.0, random);
                    for group in groups.iter_mut().filter(|g| g.change == 0.0) {
                        let lost = random.random::<f64>() < loss / (1.0 - discordant);
                        group.change = if lost { -group.weight } else { 0.0 };
                    }
                    Evidence::of(&groups, HALF_A_POINT, None).loss <= level
                },
            );
            assert!((0.70..=0.90).contains(&found), "{found}");
        }
    }
}

/// The same with images in drawings, whole drawings being lost; the quiet night has many shapes.
#[test]
fn the_smallest_detectable_loss_of_clustered_images_is_no_smaller_than_it_says() {
    for level in [LEVEL, LEVEL / 27.0] {
        let world = format!("the loss that the report names, 180 images in drawings, level {level:.4}");
        let found = red(&world, |random| {
            let mut groups = clustered(random);
            let loss = Evidence::of(&groups, HALF_A_POINT, None)
                .detectable(level, 1.0)
                .unwrap_or(1.0);
            let still: f64 = groups.iter().filter(|g| g.change == 0.0).map(|g| g.weight).sum();
            for group in groups.iter_mut().filter(|g| g.change == 0.0) {
                let lost = random.random::<f64>() < loss / still;
                group.change = if lost { -group.weight } else { 0.0 };
            }
            Evidence::of(&groups, HALF_A_POINT, None).loss <= level
        });
        assert!((0.65..=0.97).contains(&found), "{found}");
    }
}

/// One cell on all runs: the tenth part of its images flickers, with a chance that moves from run to run.
struct Flickering {
    key: CellKey,
    images: usize,
    /// Standard deviation of that chance.
    moves: f64,
}

impl Flickering {
    fn new(dataset: usize, seed: u64, moves: f64) -> Self {
        let key = CellKey {
            dataset: format!("set {dataset}"),
            protocol: Protocol::Clean,
            learner: "x".into(),
            shots: 16.into(),
            seed,
        };
        Self {
            key,
            images: 500,
            moves,
        }
    }

    /// What each image that may change adds to the accuracy of a run.
    fn run(&self, random: &mut dyn rand::RngCore) -> Vec<f64> {
        let flickering = self.images / 10;
        let (u, v): (f64, f64) = (random.random(), random.random());
        let normal = (-2.0 * (1.0 - u).ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos();
        let chance = 0.5 + self.moves * normal;
        let right = |_| f64::from(u8::from(random.random::<f64>() < chance)) / self.images as f64;
        (0..flickering).map(right).collect()
    }

    /// All images; of those that never change by chance, a share `drop` of the whole is lost.
    fn pair(&self, old: &[f64], new: &[f64], drop: f64) -> Vec<Group> {
        let weight = 1.0 / self.images as f64;
        let still = |i: usize| Group {
            weight,
            change: if (i as f64) < drop * self.images as f64 {
                -weight
            } else {
                0.0
            },
        };
        let changed = old.iter().zip(new).map(|(old, new)| Group {
            weight,
            change: new - old,
        });
        changed.chain((0..self.images - old.len()).map(still)).collect()
    }
}

/// A night after a baseline and `repeats` unchanged runs; the noise is measured from these, or left out of account.
fn noisy_night(
    cells: &[Flickering],
    repeats: usize,
    (margin, drop): (f64, f64),
    measured: bool,
    random: &mut dyn rand::RngCore,
) -> bool {
    let runs: Vec<Vec<Vec<f64>>> = cells
        .iter()
        .map(|cell| (0..=repeats).map(|_| cell.run(random)).collect())
        .collect();
    let of_cells = cells
        .iter()
        .zip(&runs)
        .filter_map(|(cell, runs)| CellNoise::of(cell.key.clone(), runs));
    let noise = Noise::new(if measured { of_cells.collect() } else { vec![] });
    let evidence: Vec<Evidence> = cells
        .iter()
        .zip(&runs)
        .enumerate()
        .map(|(i, (cell, runs))| {
            let drop = if i == 0 { drop } else { 0.0 };
            Evidence::of(
                &cell.pair(&runs[0], &cell.run(random), drop),
                margin,
                noise.of(&cell.key),
            )
        })
        .collect();
    Family::of(&evidence).is_red(LEVEL)
}

#[test]
fn run_to_run_noise_that_was_measured_does_not_turn_the_gate_red() {
    let strong = |dataset: usize, seed| Flickering::new(dataset, seed, 0.2); // two points a run
    let alone = vec![strong(0, 0)];
    let family: Vec<_> = (0..20).map(|i| strong(i / 5, (i % 5) as u64)).collect();
    let calm: Vec<_> = (0..20).map(|i| Flickering::new(i / 5, (i % 5) as u64, 0.0)).collect();
    // Half of the datasets hardly move, which must not hide the noise of the others.
    let mixed: Vec<_> = (0..20)
        .map(|i| Flickering::new(i / 5, (i % 5) as u64, if i < 10 { 0.04 } else { 0.2 }))
        .collect();
    for margin in [0.0, HALF_A_POINT] {
        for (name, cells) in [
            ("one cell", &alone),
            ("20 cells", &family),
            ("20 cells without noise", &calm),
            ("20 cells of unequal noise", &mixed),
        ] {
            let world = format!("run-to-run noise, margin {} points, {name}", 100.0 * margin);
            let share = red(&world, |random| noisy_night(cells, 5, (margin, 0.0), true, random));
            assert!(holds_the_level(share));
        }
    }
    let world = "run-to-run noise, one repeat, 20 cells";
    assert!(holds_the_level(red(world, |random| {
        noisy_night(&family, 1, (0.0, 0.0), true, random)
    })));
    let ignored = red("run-to-run noise left out of account, 20 cells", |random| {
        noisy_night(&family, 5, (HALF_A_POINT, 0.0), false, random)
    });
    assert!(ignored > 0.5, "{ignored}");
    // It is not deaf: nine points less in one of the cells.
    let found = red(
        "run-to-run noise of two points, nine points lost in one of 20 cells",
        |random| noisy_night(&family, 5, (HALF_A_POINT, 0.09), true, random),
    );
    assert!(found > 0.2, "{found}");
}

/// Nights of each world whose runs differ.
fn nights() -> usize {
    std::env::var("KSHOT_NIGHTS").map_or(200, |nights| nights.parse().unwrap())
}

/// As [`holds_the_level`], for so many nights; three standard errors, for there are many worlds.
fn is_at_most_the_level(share: f64) -> bool {
    share <= LEVEL + 3.0 * (LEVEL * (1.0 - LEVEL) / nights() as f64).sqrt()
}

/// Cells of the size of the real datasets whose accuracy moves from run to run, and from seed to seed: an image is right
/// if it is easier than the accuracy of the run, but for some that flicker by themselves.
#[derive(Clone)]
struct Moving {
    /// Standard deviation between runs of each dataset, a share.
    runs: Vec<f64>,
    /// The same between seeds.
    seeds_sd: f64,
    seeds: usize,
    images: usize,
    /// Share of images that flicker between two runs.
    flicker: f64,
}

/// What the gate has to know the noise by.
#[derive(Clone, Copy, PartialEq)]
enum Known {
    /// Unchanged runs of the baseline.
    Repeats(usize),
    /// The seeds of the baseline.
    Seeds,
}

impl Moving {
    fn normal(random: &mut dyn rand::RngCore) -> f64 {
        let (u, v): (f64, f64) = (random.random(), random.random());
        (-2.0 * (1.0 - u).ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
    }

    /// What each image adds to the accuracy of a run.
    fn run(&self, accuracy: f64, sd: f64, random: &mut dyn rand::RngCore) -> Vec<f64> {
        let worth = 1.0 / self.images as f64;
        let accuracy = (accuracy + sd * Self::normal(random)).clamp(0.0, 1.0);
        let easier = (accuracy * self.images as f64).round() as usize;
        let mut right = vec![worth; easier];
        right.resize(self.images, 0.0);
        for _ in 0..(self.flicker / 2.0 * self.images as f64) as usize {
            let flickering = random.random_range(0..self.images);
            right[flickering] = worth - right[flickering];
        }
        right
    }

    /// Whether a night is red on which every cell lost `drop`.
    fn night(&self, known: Known, drop: f64, random: &mut dyn rand::RngCore) -> bool {
        let (mut cells, mut noise) = (Vec::new(), Vec::new());
        for (dataset, &sd) in self.runs.iter().enumerate() {
            let mut accuracies = Vec::new();
            let mut first = None;
            for seed in 0..self.seeds {
                let key = Flickering::new(dataset, seed as u64, 0.0).key;
                let accuracy = 0.75 + self.seeds_sd * Self::normal(random);
                let old = self.run(accuracy, sd, random);
                let new = self.run(accuracy - drop, sd, random);
                accuracies.push(old.iter().sum());
                first.get_or_insert(key.clone());
                let mut runs = vec![old.clone()];
                if let Known::Repeats(repeats) = known {
                    runs.extend((0..repeats).map(|_| self.run(accuracy, sd, random)));
                    noise.extend(CellNoise::of(key.clone(), &runs));
                }
                cells.push((key, old, new));
            }
            if known == Known::Seeds {
                noise.extend(first.and_then(|key| CellNoise::of_seeds(key, &accuracies)));
            }
        }
        let noise = Noise::new(noise);
        let weight = 1.0 / self.images as f64;
        let evidence: Vec<Evidence> = cells
            .iter()
            .map(|(key, old, new)| {
                let change = |(old, new): (&f64, &f64)| Group {
                    weight,
                    change: new - old,
                };
                let groups: Vec<Group> = old.iter().zip(new).map(change).collect();
                Evidence::of(&groups, HALF_A_POINT, noise.of(key))
            })
            .collect();
        Family::of(&evidence).is_red(LEVEL)
    }

    #[expect(clippy::print_stdout, reason = "as in `red`")]
    fn red(&self, world: &str, known: Known, drop: f64) -> f64 {
        let one = |n: usize| self.night(known, drop, &mut seed::rng(n as u64, world));
        let red = (0..nights()).into_par_iter().filter(|n| one(*n)).count();
        let share = red as f64 / nights() as f64;
        println!("{world}: {:.1} % of {} nights red", 100.0 * share, nights());
        share
    }
}

#[test]
fn runs_that_move_by_themselves_are_not_red() {
    let kinds: [(&str, Vec<f64>); 6] = [
        ("run sd 0", vec![0.0]),
        ("run sd 1", vec![0.01]),
        ("run sd 3", vec![0.03]),
        ("4 datasets, run sd 1", vec![0.01; 4]),
        ("4 datasets, run sd 3", vec![0.03; 4]),
        ("4 datasets, run sd 0, 0, 1 and 3", vec![0.0, 0.0, 0.01, 0.03]),
    ];
    for (name, runs) in kinds {
        for seeds in [1, 2, 3, 5] {
            let world = |seeds_sd| Moving {
                runs: runs.clone(),
                seeds_sd,
                seeds,
                images: IMAGES,
                flicker: DISCORDANT,
            };
            for repeats in [1, 2, 5] {
                let told = format!("no change, {name}, seeds {seeds}, {repeats} repeats");
                let share = world(0.02).red(&told, Known::Repeats(repeats), 0.0);
                assert!(is_at_most_the_level(share), "{told}: {share}");
            }
            if seeds > 1 {
                for seeds_sd in [0.0, 0.02] {
                    let told = format!("no change, {name}, {seeds} seeds that differ by {seeds_sd}, not measured");
                    let share = world(seeds_sd).red(&told, Known::Seeds, 0.0);
                    assert!(is_at_most_the_level(share), "{told}: {share}");
                }
            }
        }
    }
}

#[test]
fn a_drop_of_three_points_is_red_where_runs_move_by_half_a_point() {
    // With one seed and images that flicker as well, known noise would give 90 %; what five repeats know gives less.
    for (seeds, repeats, flicker, least) in [
        (1, 5, 0.0, 0.9),
        (1, 10, 0.0, 0.9),
        (1, 5, DISCORDANT, 0.75),
        (3, 3, DISCORDANT, 0.9),
        (3, 5, DISCORDANT, 0.9),
        (5, 2, DISCORDANT, 0.9),
        (5, 5, DISCORDANT, 0.9),
    ] {
        let world = Moving {
            runs: vec![0.005],
            seeds_sd: 0.02,
            seeds,
            images: IMAGES,
            flicker,
        };
        let told = format!("3 points lost, run sd 0.5, flicker {flicker}, seeds {seeds}, {repeats} repeats");
        let share = world.red(&told, Known::Repeats(repeats), 0.03);
        let noise = 2.0 * (least * (1.0 - least) / nights() as f64).sqrt();
        assert!(share >= least - noise, "{told}: {share}");
    }
}
