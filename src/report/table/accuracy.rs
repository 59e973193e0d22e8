//! How often learners are right: by shots, by reading, and without examples.

use crate::comparison::curve::{IntervalKind, Point, distinct};
use crate::comparison::series::{READINGS, Series, label, reading_name};
use crate::comparison::zero_shot::{Against, ZeroShot};
use crate::config::Shots;
use crate::report::figure::describe;
use crate::report::table::{About, Cell, Column, Group, Kind, Row, Table, Value, columns};
use crate::statistics::Interval;
use crate::statistics::metric::Metrics;

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
            Some(p) => value(p).marked(p.red).capped(p.capped),
            None => Value::Missing.into(),
        };
        let name = Cell::from(Value::text(label(&learner, reading)));
        rows.extend(own.first().map(|first| Row {
            group: Group {
                dataset: first.dataset.clone(),
                protocol: first.protocol,
                about: first.metric.map(|metric| About {
                    metric,
                    regime: first.regime.clone(),
                    n_test: first.n_test,
                    chance: first.chance,
                }),
            },
            micro: own.iter().any(|p| p.micro),
            cells: std::iter::once(name).chain(shots.iter().map(|&k| cell(k))).collect(),
        }));
    }
    let by_shots = shots.iter().map(|k| Column::new(format!("k = {k}"), Kind::Accuracy));
    Table {
        name: "accuracy",
        title: "Accuracy in % by labelled examples per class".into(),
        columns: std::iter::once(Column::new("learner", Kind::Text))
            .chain(by_shots)
            .collect(),
        rows,
        remarks: vec![describe(points, "In brackets")],
        long: false,
    }
}

fn value(point: &Point) -> Value {
    let over_seeds = point.t_low.zip(point.t_high).map(|(low, high)| Interval { low, high });
    let interval = Interval {
        low: point.low,
        high: point.high,
    };
    Value::Accuracy(point.mean, interval, over_seeds)
}

/// Accuracy of learners that write their answers, by every reading that was taken, with the share of invalid
/// answers and calibration: rows dataset × learner × shots. Empty where no learner writes.
#[must_use]
pub fn readings(series: &[Series]) -> Table {
    let writing = series.iter().filter(|s| s.reading().is_some());
    let row = |s: &Series| {
        let mean = |number: &dyn Fn(&Metrics) -> Option<f64>| {
            let numbers: Option<Vec<f64>> = s.runs.iter().map(|run| number(&run.record.metrics)).collect();
            numbers.map(|n| n.iter().sum::<f64>() / n.len() as f64)
        };
        let red = s.runs.iter().any(|run| run.red);
        let share = |share: Option<f64>| share.map_or(Value::Missing, Value::Share).marked(red);
        let invalid = |m: &Metrics| m.readings.free.map(|free| free.invalid_rate);
        let mut cells: Vec<Cell> = vec![
            Value::text(s.label()).into(),
            Cell::from(Value::Shots(s.shots)).capped(s.capped()),
            Value::Count(s.runs.len()).into(),
        ];
        cells.extend(READINGS.map(|reading| share(mean(&|m| m.value_by(reading)))));
        cells.push(share(mean(&invalid)));
        cells.push(share(mean(&|m| m.ece)));
        cells.push(mean(&|m| m.nll).map_or(Value::Missing, Value::Nats).marked(red));
        let record = &s.runs[0].record;
        Row {
            group: Group {
                dataset: s.dataset.clone(),
                protocol: s.protocol,
                about: Some(About {
                    metric: s.headline(),
                    regime: record.regime.clone(),
                    n_test: record.n_test,
                    chance: 1.0 / record.classes.len().max(1) as f64,
                }),
            },
            micro: s.is_micro(),
            cells,
        }
    };
    let mut columns = columns(&[("learner", Kind::Text), ("k", Kind::Count), ("runs", Kind::Count)]);
    columns.extend(READINGS.map(|reading| Column::new(reading_name(reading), Kind::Share)));
    columns
        .extend([("invalid", Kind::Share), ("calibration error", Kind::Share)].map(|(n, kind)| Column::new(n, kind)));
    columns.push(Column::new("NLL", Kind::Nats));
    Table {
        name: "readings",
        title: "Accuracy by reading".into(),
        columns,
        rows: writing.map(row).collect(),
        remarks: vec![
            "In %, mean over runs. Free text: the greedy answer names the class; trie: greedy among the class names; \
             likelihood: the most probable name. Invalid: greedy text that names no class. Calibration error and NLL \
             (nats) of the names' probabilities, normalised over the classes."
                .to_owned(),
        ],
        long: false,
    }
}

/// Accuracy without examples by every reading, next to guessing.
#[must_use]
pub fn zero_shot(levels: &[ZeroShot]) -> Table {
    let row = |z: &ZeroShot| {
        let against = match z.against_chance() {
            Against::Above => "above guessing",
            Against::Contains => "contains guessing",
            Against::Below => "below guessing",
        };
        let expected = match z.fits_regime() {
            Some(true) => Value::text("yes"),
            Some(false) => Value::text("no"),
            None => Value::Missing,
        };
        Row {
            group: Group {
                dataset: z.dataset.clone(),
                protocol: z.protocol,
                about: Some(About {
                    metric: z.metric,
                    regime: z.regime.clone(),
                    n_test: z.n_test,
                    chance: z.chance,
                }),
            },
            micro: z.micro,
            cells: vec![
                Value::text(&z.learner).into(),
                Value::text(reading_name(z.reading)).into(),
                Value::Accuracy(z.accuracy, z.interval, None).marked(z.red),
                Value::Share(z.chance).into(),
                Value::text(against).marked(z.red),
                expected.marked(z.red),
            ],
        }
    };
    let mut kinds: Vec<_> = levels.iter().map(|z| z.kind).collect();
    kinds.sort();
    kinds.dedup();
    let kinds: Vec<&str> = kinds.into_iter().map(IntervalKind::name).collect();
    Table {
        name: "zero-shot",
        title: "Zero-shot accuracy in %".into(),
        columns: columns(&[
            ("learner", Kind::Text),
            ("reading", Kind::Text),
            ("accuracy", Kind::Accuracy),
            ("guessing", Kind::Share),
            ("interval", Kind::Text),
            ("as expected", Kind::Text),
        ]),
        rows: levels.iter().map(row).collect(),
        remarks: vec![format!(
            "No examples, one run. In brackets: 95 % {}. Expected of the trie reading: above guessing on known \
             concepts, not told from guessing on novel ones.",
            kinds.join(", or ")
        )],
        long: false,
    }
}
