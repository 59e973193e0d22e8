//! How much accuracy hangs on how a writing model is asked and read: by normalisation of likelihoods, and by wording
//! of the question.

use serde_json::Value as Json;

use crate::comparison::series::{READINGS, Series, reading_name};
use crate::config::Shots;
use crate::report::table::{Cell, Column, Group, Kind, Row, Table, Value, columns};
use crate::statistics::metric::Metrics;
use crate::statistics::metric::Normalised;

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
        group: Group {
            dataset: series.dataset.clone(),
            protocol: series.protocol,
            about: None,
        },
        micro: series.is_micro(),
        cells,
    }
}
