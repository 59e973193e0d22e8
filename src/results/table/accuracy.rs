//! How often learners are right: by shots, by reading, and without examples.

use super::{Table, interval, percent};
use crate::config::Shots;
use crate::results::curve::{IntervalKind, Point, distinct};
use crate::results::figure::{MICRO_CAVEAT, describe};
use crate::results::metric::{Headline, Metrics};
use crate::results::series::{READINGS, Series, label, reading_name};
use crate::results::zero_shot::{Against, ZeroShot};

/// Accuracy with its 95 % interval: rows dataset × learner, columns shots.
#[must_use]
pub fn accuracy(points: &[Point]) -> Table {
    let mut shots = distinct(points, |p| p.shots);
    shots.sort_unstable();
    let mut rows = Vec::new();
    for (dataset, protocol, learner, reading) in distinct(points, |p| {
        (p.dataset.clone(), p.protocol, p.learner.clone(), p.reading)
    }) {
        let own: Vec<&Point> = points
            .iter()
            .filter(|p| p.dataset == dataset && p.protocol == protocol && p.learner == learner && p.reading == reading)
            .collect();
        let cell = |shots: Shots| match own.iter().find(|p| p.shots == shots) {
            Some(p) => interval(&percent(p.mean), &percent(p.low), &percent(p.high)),
            None => "–".to_owned(),
        };
        let cells = std::iter::once(label(&learner, reading))
            .chain(shots.iter().map(|&k| cell(k)))
            .collect();
        rows.push((own.first().map(|point| group_of(point)).unwrap_or_default(), cells));
    }
    let mut notes = vec![describe(points, "In brackets")];
    notes.extend(points.iter().any(|p| p.micro).then(|| MICRO_CAVEAT.to_owned()));
    Table {
        title: "Accuracy in % by labelled examples per class".into(),
        group: "dataset".into(),
        columns: std::iter::once("learner".into())
            .chain(shots.iter().map(|k| format!("k = {k}")))
            .collect(),
        rows,
        notes,
    }
}

fn group_of(point: &Point) -> String {
    group(
        &point.dataset,
        point.metric,
        point.regime.as_deref(),
        point.n_test,
        point.chance,
    )
}

fn group(dataset: &str, metric: Option<Headline>, regime: Option<&str>, n_test: usize, chance: f64) -> String {
    let metric = match metric {
        Some(Headline::Top1) => "top-1",
        Some(Headline::MeanPerClass) => "mean per class",
        None => "each by its own metric",
    };
    let regime = regime.map(|regime| format!(", {regime} concepts")).unwrap_or_default();
    let chance = percent(chance);
    format!("{dataset} ({metric}{regime}, n = {n_test}, guessing {chance} %)")
}

/// Accuracy of learners that write their answers, by every reading that was taken, with the share of invalid
/// answers and calibration: rows dataset × learner × shots. Empty where no learner writes.
#[must_use]
pub fn readings(series: &[Series]) -> Table {
    let writing: Vec<&Series> = series.iter().filter(|s| s.reading().is_some()).collect();
    let row = |s: &&Series| {
        let mean = |number: &dyn Fn(&Metrics) -> Option<f64>| {
            let numbers: Option<Vec<f64>> = s.runs.iter().map(|run| number(&run.record.metrics)).collect();
            numbers.map(|n| n.iter().sum::<f64>() / n.len() as f64)
        };
        let share = |share: Option<f64>| share.map_or("–".into(), percent);
        let invalid = |m: &Metrics| m.readings.free.map(|free| free.invalid_rate);
        let mut cells = vec![s.label(), s.shots.to_string(), s.runs.len().to_string()];
        cells.extend(READINGS.map(|reading| share(mean(&|m| m.value_by(reading)))));
        cells.push(share(mean(&invalid)));
        cells.push(share(mean(&|m| m.ece)));
        cells.push(mean(&|m| m.nll).map_or("–".into(), |nll| format!("{nll:.2}")));
        let record = &s.runs[0].record;
        let chance = 1.0 / record.classes.len().max(1) as f64;
        let group = group(
            &s.dataset,
            Some(s.headline()),
            record.regime.as_deref(),
            record.n_test,
            chance,
        );
        (group, cells)
    };
    let columns = ["learner", "k", "runs"].map(String::from).into_iter();
    let columns = columns.chain(READINGS.map(|reading| reading_name(reading).to_owned()));
    let mut notes = vec![
        "In %, mean over runs. Free text: the greedy answer names the class; trie: greedy among the class names; \
         likelihood: the most probable name. Invalid: greedy text that names no class. Calibration error and NLL \
         (nats) of the names' probabilities, normalised over the classes."
            .to_owned(),
    ];
    notes.extend(writing.iter().any(|s| s.is_micro()).then(|| MICRO_CAVEAT.to_owned()));
    Table {
        title: "Accuracy by reading".into(),
        group: "dataset".into(),
        columns: columns
            .chain(["invalid", "calibration error", "NLL"].map(String::from))
            .collect(),
        rows: writing.iter().map(row).collect(),
        notes,
    }
}

/// Accuracy without examples by every reading, next to guessing.
#[must_use]
pub fn zero_shot(levels: &[ZeroShot]) -> Table {
    let row = |z: &ZeroShot| {
        let cells = vec![
            z.learner.clone(),
            reading_name(z.reading).to_owned(),
            interval(
                &percent(z.accuracy),
                &percent(z.interval.low),
                &percent(z.interval.high),
            ),
            percent(z.chance),
            match z.against_chance() {
                Against::Above => "above guessing",
                Against::Contains => "contains guessing",
                Against::Below => "below guessing",
            }
            .to_owned(),
            match z.fits_regime() {
                Some(true) => "yes",
                Some(false) => "no",
                None => "–",
            }
            .to_owned(),
        ];
        (
            group(&z.dataset, Some(z.metric), z.regime.as_deref(), z.n_test, z.chance),
            cells,
        )
    };
    let mut kinds: Vec<_> = levels.iter().map(|z| z.kind).collect();
    kinds.sort();
    kinds.dedup();
    let kinds: Vec<&str> = kinds.into_iter().map(IntervalKind::name).collect();
    let mut notes = vec![format!(
        "No examples, one run. In brackets: 95 % {}. Expected of the trie reading: above guessing on known concepts, \
         not told from guessing on novel ones.",
        kinds.join(", or ")
    )];
    notes.extend(levels.iter().any(|z| z.micro).then(|| MICRO_CAVEAT.to_owned()));
    Table {
        title: "Zero-shot accuracy in %".into(),
        group: "dataset".into(),
        columns: ["learner", "reading", "accuracy", "guessing", "interval", "as expected"]
            .map(String::from)
            .into(),
        rows: levels.iter().map(row).collect(),
        notes,
    }
}
