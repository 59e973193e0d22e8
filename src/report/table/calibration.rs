//! How far the probabilities of learners can be believed.

use crate::comparison::series::Series;
use crate::report::table::{Cell, Column, Group, Kind, Row, Table, Value, columns};
use crate::statistics::calibration::{Calibration, Tempered};
use crate::store::record::Record;

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
            group: Group {
                dataset: s.dataset.clone(),
                protocol: s.protocol,
                about: None,
            },
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
