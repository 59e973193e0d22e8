//! Tables to draw.

use crate::prediction::Reading;
use crate::report::figure::tests::*;

/// Plausible curves of five learners on `datasets`.
pub(super) fn sample(datasets: &[(&str, &str, usize)]) -> Vec<Point> {
    let learners = [
        ("DINOv2 LoRA", 0.30, 0.47),
        ("DINOv2 k-NN", 0.27, 0.26),
        ("DINOv2 logistic regression", 0.28, 0.36),
        ("DINOv2 nearest mean", 0.28, 0.30),
        ("raw pixels 1-NN", 0.15, 0.17),
    ];
    let mut points = Vec::new();
    for (d, (dataset, regime, classes)) in datasets.iter().enumerate() {
        for (name, start, rise) in learners {
            for (step, shots) in [1, 2, 4, 8, 16].into_iter().enumerate() {
                let rounded = |share: f64| (share * 1e6).round() / 1e6;
                let share = step as f64 / 4.0;
                let mean = start
                    + 0.05 * (d as f64 * 1.7).sin()
                    + rise * share.powf(0.8)
                    + 0.012 * (shots as f64 + d as f64).cos();
                let half = 0.06 - 0.03 * share;
                points.push(Point {
                    panel: Panel::Dataset,
                    dataset: (*dataset).into(),
                    protocol: Protocol::Clean,
                    regime: Some((*regime).into()),
                    micro: true,
                    metric: Some(if dataset.contains("caltech") {
                        Headline::MeanPerClass
                    } else {
                        Headline::Top1
                    }),
                    chance: rounded(1.0 / *classes as f64),
                    learner: name.into(),
                    reading: None,
                    subject: name == "DINOv2 LoRA",
                    shots: shots.into(),
                    seeds: "0 1 2 3 4".into(),
                    n_test: classes * 24,
                    mean: rounded(mean),
                    low: rounded(mean - half),
                    high: rounded(mean + half),
                    interval: IntervalKind::SeedsImages,
                    t_low: Some(rounded(mean - 1.2 * half)),
                    t_high: Some(rounded(mean + 1.2 * half)),
                    red: false,
                    device_seconds: None,
                    device: String::new(),
                    capped: None,
                });
            }
        }
    }
    points
}

/// [`sample`] with a writing learner and its result without examples.
pub(super) fn sample_with_writer(datasets: &[(&str, &str, usize)], name: &str) -> Vec<Point> {
    let mut points = sample(datasets);
    for (d, (dataset, regime, _)) in datasets.iter().enumerate() {
        let mut own: Vec<Point> = points
            .iter()
            .filter(|p| p.dataset == *dataset && p.learner == "DINOv2 k-NN")
            .cloned()
            .collect();
        let level = if *regime == "known" { 0.3 } else { 0.12 } + 0.02 * d as f64;
        own.push(Point {
            shots: 0.into(),
            seeds: String::new(),
            mean: level,
            low: level - 0.04,
            high: level + 0.05,
            interval: IntervalKind::Images,
            t_low: None,
            t_high: None,
            ..own[0].clone()
        });
        for point in &mut own {
            point.learner = name.into();
            point.reading = Some(Reading::Free);
            point.subject = true;
            if point.shots > 0 {
                point.mean = (point.mean * 1.2 * 1e6).round() / 1e6;
            }
        }
        points.extend(own);
    }
    points
}

/// `points` with full data of every learner, the means of all datasets and what everything took.
pub(super) fn whole(mut points: Vec<Point>) -> Vec<Point> {
    let largest: Vec<Point> = points.iter().filter(|p| p.shots == 16).cloned().collect();
    points.extend(largest.into_iter().map(|p| Point {
        shots: Shots::All,
        seeds: "0".into(),
        mean: (p.mean + 0.06).min(1.0),
        interval: IntervalKind::Wilson,
        ..p
    }));
    let datasets = distinct(&points, |p| p.dataset.clone());
    let (first, count) = (datasets[0].clone(), datasets.len() as f64);
    for (index, point) in points.iter_mut().enumerate() {
        point.device_seconds = Some([0.002, 0.31, 4.9, 57.0][index % 4] + f64::from(point.shots.any()));
        point.device = "cpu, 2 threads".into();
    }
    let mean = |one: &Point| {
        let own = |p: &&Point| p.learner == one.learner && p.shots == one.shots;
        let over = |number: fn(&Point) -> f64| points.iter().filter(own).map(number).sum::<f64>() / count;
        Point {
            panel: Panel::Mean,
            dataset: format!("mean of {count} datasets"),
            regime: None,
            metric: None,
            mean: over(|p| p.mean),
            low: over(|p| p.low),
            high: over(|p| p.high),
            interval: IntervalKind::Datasets,
            ..one.clone()
        }
    };
    let means: Vec<Point> = points.iter().filter(|p| p.dataset == first).map(mean).collect();
    points.extend(means.into_iter().filter(|_| datasets.len() > 1));
    points
}

pub(super) const FIVE: [(&str, &str, usize); 5] = [
    ("mini-caltech101", "known", 10),
    ("mini-cars", "novel", 8),
    ("mini-fashion", "novel", 10),
    ("mini-flowers", "known", 8),
    ("mini-pets", "known", 12),
];
