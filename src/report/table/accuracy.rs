//! Accuracy of learners: by shots, by reading, without examples, by wording of the question and by normalisation of
//! likelihoods; and their calibration.

use serde_json::Value as Json;

use crate::comparison::curve::{IntervalKind, Point, distinct};
use crate::comparison::series::{READINGS, Series, label, reading_name};
use crate::comparison::zero_shot::{Against, ZeroShot};
use crate::config::Shots;
use crate::report::figure::describe;
use crate::report::table::{AccuracyKind, Cell, Column, Group, Kind, Row, Table, Value, columns};
use crate::statistics::Interval;
use crate::statistics::calibration::{Calibration, Tempered};
use crate::statistics::metric::{Metrics, Normalised};
use crate::store::record::Record;

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
                about: first.metric.map(|metric| AccuracyKind {
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
                about: Some(AccuracyKind {
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
                about: Some(AccuracyKind {
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

/// Accuracy of the most probable name by four normalisations: rows dataset × learner × shots. Empty where no record
/// has them.
#[must_use]
pub fn normalisations(series: &[Series]) -> Table {
    let row = |s: &Series| {
        let all: Option<Vec<Normalised>> = s.runs.iter().map(|run| run.record.normalised).collect();
        let all = all?;
        let red = s.runs.iter().any(|run| run.red);
        let mean = |number: fn(&Normalised) -> f64| {
            let sum: f64 = all.iter().map(number).sum();
            Value::Share(sum / all.len().max(1) as f64).marked(red)
        };
        let cells: Vec<Cell> = vec![
            Value::text(&s.learner).into(),
            Cell::from(Value::Shots(s.shots)).capped(s.capped()),
            Value::Count(s.runs.len()).into(),
            mean(|n| n.sum),
            mean(|n| n.per_token),
            mean(|n| n.per_byte),
            mean(|n| n.prior_corrected),
        ];
        Some(row_of(s, cells))
    };
    let mut columns = columns(&[("learner", Kind::Text), ("k", Kind::Count), ("runs", Kind::Count)]);
    let names = ["sum", "per token", "per byte", "less the prior"];
    columns.extend(names.map(|name| Column::new(name, Kind::Share)));
    Table {
        name: "normalisations",
        title: "Accuracy of the most probable name by normalisation".into(),
        columns,
        rows: series.iter().filter_map(row).collect(),
        remarks: vec![
            "In %, mean over runs. Sum: the reading `likelihood`; per token and per byte: over the length of the name; less \
             the prior: less the log-probability of the name without the picture."
                .to_owned(),
        ],
        long: true,
    }
}

/// Accuracy without examples over the wordings of the question: rows dataset × reading, of learners that differ in
/// nothing else. Empty where there is one wording.
#[must_use]
pub fn wordings(series: &[Series]) -> Table {
    let settings = |s: &Series| -> Option<(Option<String>, Json)> {
        let record = &s.runs.first()?.record;
        let mut settings = record.hyper_parameters.clone();
        settings.as_object_mut()?.remove("prompt");
        Some((record.weights.clone(), settings))
    };
    let unseen: Vec<&Series> = series
        .iter()
        .filter(|s| s.shots == Shots::K(0) && s.reading().is_some())
        .collect();
    let mut rows = Vec::new();
    for (index, first) in unseen.iter().enumerate() {
        let alike =
            |s: &&&Series| s.dataset == first.dataset && s.protocol == first.protocol && settings(s) == settings(first);
        if unseen.iter().take(index).any(|s| alike(&s)) {
            continue;
        }
        let group: Vec<&&Series> = unseen.iter().filter(alike).collect();
        if group.len() < 2 {
            continue;
        }
        let red = group.iter().any(|s| s.runs.iter().any(|run| run.red));
        for reading in READINGS {
            let of = |metrics: &Metrics| metrics.value_by(reading);
            let values: Option<Vec<f64>> = group.iter().map(|s| of(&s.runs.first()?.record.metrics)).collect();
            let Some(values) = values else {
                continue;
            };
            let low = values.iter().copied().fold(f64::INFINITY, f64::min);
            let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let share = |share: f64| Value::Share(share).marked(red);
            let cells: Vec<Cell> = vec![
                Value::text(&first.learner).into(),
                Value::text(reading_name(reading)).into(),
                Value::Count(group.len()).into(),
                share(values.iter().sum::<f64>() / values.len() as f64),
                share(low),
                share(high),
                share(high - low),
            ];
            rows.push(row_of(first, cells));
        }
    }
    let mut columns = columns(&[
        ("learner", Kind::Text),
        ("reading", Kind::Text),
        ("wordings", Kind::Count),
    ]);
    let names = ["mean", "lowest", "highest", "spread"];
    columns.extend(names.map(|name| Column::new(name, Kind::Share)));
    Table {
        name: "wordings",
        title: "Zero-shot accuracy over wordings of the question".into(),
        columns,
        rows,
        remarks: vec![
            "In %, of learners that differ in the wording of the question only, under the name of the first."
                .to_owned(),
        ],
        long: false,
    }
}

fn row_of(series: &Series, cells: Vec<Cell>) -> Row {
    Row {
        group: Group::of(&series.dataset, series.protocol),
        micro: series.is_micro(),
        cells,
    }
}

/// Calibration of learners with probabilities, as they are and at a temperature fitted inside the shots: rows dataset ×
/// learner × shots. Empty where no record has any.
#[must_use]
pub fn calibration(series: &[Series]) -> Table {
    let row = |s: &Series| {
        let red = s.runs.iter().any(|run| run.red);
        let mean = |number: &dyn Fn(&Record) -> Option<f64>| {
            let numbers: Option<Vec<f64>> = s.runs.iter().map(|run| number(&run.record)).collect();
            numbers.map(|n| n.iter().sum::<f64>() / n.len() as f64)
        };
        let plain = |number: fn(&Calibration) -> f64| mean(&|record| record.calibration.as_ref().map(number));
        let tempered = |number: fn(&Tempered) -> f64| mean(&|record| record.tempered.as_ref().map(number));
        let share = |share: Option<f64>| share.map_or(Value::Missing, Value::Share).marked(red);
        let number = |number: Option<f64>| number.map_or(Value::Missing, Value::Nats).marked(red);
        plain(|c| c.ece)?;
        let cells: Vec<Cell> = vec![
            Value::text(&s.learner).into(),
            Cell::from(Value::Shots(s.shots)).capped(s.capped()),
            Value::Count(s.runs.len()).into(),
            share(plain(|c| c.ece)),
            share(plain(|c| c.ece_equal_mass)),
            number(plain(|c| c.brier)),
            number(plain(|c| c.nll)),
            number(tempered(|t| t.temperature)),
            share(tempered(|t| t.test.ece)),
            number(tempered(|t| t.test.nll)),
        ];
        Some(Row {
            group: Group::of(&s.dataset, s.protocol),
            micro: s.is_micro(),
            cells,
        })
    };
    let mut columns = columns(&[("learner", Kind::Text), ("k", Kind::Count), ("runs", Kind::Count)]);
    let numbers = [
        ("ECE", Kind::Share),
        ("ECE, equal mass", Kind::Share),
        ("Brier", Kind::Nats),
        ("NLL", Kind::Nats),
        ("T", Kind::Nats),
        ("ECE at T", Kind::Share),
        ("NLL at T", Kind::Nats),
    ];
    columns.extend(numbers.map(|(name, kind)| Column::new(name, kind)));
    Table {
        name: "calibration",
        title: "Calibration".into(),
        columns,
        rows: series.iter().filter_map(row).collect(),
        remarks: vec![
            "Mean over runs, of class probabilities normalised over the classes. ECE: expected calibration error in %, 15 \
             bins of equal width, and of equally many images; Brier: mean squared error summed over classes, 0 to 2; NLL in \
             nats. T: temperature fitted to held-out shots, where the sweep has `calibration`; no test image had a part in \
             it."
            .to_owned(),
        ],
        long: true,
    }
}
