//! The tables that there are: accuracy of learners (by shots, by reading, without examples, by wording of the question and
//! by normalisation of likelihoods), their calibration, and gains of one learner over another, or over itself with fewer
//! examples, with the images they save.

use serde_json::Value as Json;

use crate::comparison::between::Between;
use crate::comparison::curve::{ENOUGH_SEEDS, FEW_SEEDS, IntervalKind, Point, ZeroShot, distinct};
use crate::comparison::paired::{Difference, MicroGate, Test};
use crate::comparison::saved::Saved;
use crate::comparison::series::{READINGS, Series, label, reading_name};
use crate::config::Shots;
use crate::report::figure::describe;
use crate::report::table::{Cell, Column, Group, Kind, Row, Table, Value, columns};
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
        rows.extend(own.first().map(|first| {
            let group = Group::of(&first.dataset, first.protocol);
            Row {
                group: match first.metric {
                    Some(metric) => group.measured_by(metric, first.regime.clone(), first.n_test, first.chance),
                    None => group,
                },
                micro: own.iter().any(|p| p.micro),
                cells: std::iter::once(name).chain(shots.iter().map(|&k| cell(k))).collect(),
            }
        }));
    }
    let mut columns = columns(&[(Kind::Text, &["learner"])]);
    columns.extend(shots.iter().map(|k| Column::new(format!("k = {k}"), Kind::Accuracy)));
    Table {
        name: "accuracy",
        title: "Accuracy in % by labelled examples per class".into(),
        columns,
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

/// Columns of [`row_of`].
const OF_SERIES: [(Kind, &[&str]); 2] = [(Kind::Text, &["learner"]), (Kind::Count, &["k", "runs"])];

/// A row about a series: learner, shots, runs, then `cells`.
fn row_of(series: &Series, learner: String, cells: impl IntoIterator<Item = Cell>) -> Row {
    let first: [Cell; 3] = [
        Value::Text(learner).into(),
        Cell::from(Value::Shots(series.shots)).capped(series.capped()),
        Value::Count(series.runs.len()).into(),
    ];
    Row {
        group: Group::of(&series.dataset, series.protocol),
        micro: series.is_micro(),
        cells: first.into_iter().chain(cells).collect(),
    }
}

/// Mean over the runs of a series; `None` where one has no such number.
fn mean(series: &Series, number: impl Fn(&Record) -> Option<f64>) -> Option<f64> {
    let numbers: Option<Vec<f64>> = series.runs.iter().map(|run| number(&run.record)).collect();
    numbers.map(|n| n.iter().sum::<f64>() / n.len() as f64)
}

/// Accuracy of learners that write their answers, by every reading that was taken, with the share of invalid
/// answers and calibration: rows dataset × learner × shots. Empty where no learner writes.
#[must_use]
pub fn readings(series: &[Series]) -> Table {
    let row = |s: &Series| {
        let mean = |number: &dyn Fn(&Metrics) -> Option<f64>| mean(s, |record| number(&record.metrics));
        let cell = |value: Option<Value>| value.unwrap_or(Value::Missing).marked(s.is_red());
        let share = |share: Option<f64>| cell(share.map(Value::Share));
        let invalid = |m: &Metrics| m.readings.free.map(|free| free.invalid_rate);
        let mut cells: Vec<Cell> = READINGS
            .iter()
            .map(|reading| share(mean(&|m| m.value_by(*reading))))
            .collect();
        cells.extend([share(mean(&invalid)), share(mean(&|m| m.ece))]);
        cells.push(cell(mean(&|m| m.nll).map(Value::Nats)));
        let record = &s.runs[0].record;
        let chance = 1.0 / record.classes.len().max(1) as f64;
        let row = row_of(s, s.label(), cells);
        Row {
            group: (row.group).measured_by(s.headline(), record.regime.clone(), record.n_test, chance),
            ..row
        }
    };
    let names = READINGS.map(reading_name);
    let numbers = columns(&[
        (Kind::Share, &names),
        (Kind::Share, &["invalid", "calibration error"]),
        (Kind::Nats, &["NLL"]),
    ]);
    Table {
        name: "readings",
        title: "Accuracy by reading".into(),
        columns: [columns(&OF_SERIES), numbers].concat(),
        rows: series.iter().filter(|s| s.reading().is_some()).map(row).collect(),
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
        let expected = z.fits_regime().map(|fits| Value::text(if fits { "yes" } else { "no" }));
        Row {
            group: Group::of(&z.dataset, z.protocol).measured_by(z.metric, z.regime.clone(), z.n_test, z.chance),
            micro: z.micro,
            cells: vec![
                Value::text(&z.learner).into(),
                Value::text(reading_name(z.reading)).into(),
                Value::Accuracy(z.accuracy, z.interval, None).marked(z.red),
                Value::Share(z.chance).into(),
                Value::text(z.against_chance().name()).marked(z.red),
                expected.unwrap_or(Value::Missing).marked(z.red),
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
            (Kind::Text, &["learner", "reading"]),
            (Kind::Accuracy, &["accuracy"]),
            (Kind::Share, &["guessing"]),
            (Kind::Text, &["interval", "as expected"]),
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
    let numbers: [fn(Normalised) -> f64; 4] = [|n| n.sum, |n| n.per_token, |n| n.per_byte, |n| n.prior_corrected];
    let row = |s: &Series| {
        let cell = |number: fn(Normalised) -> f64| {
            let share = mean(s, |record| record.normalised.map(number))?;
            Some(Value::Share(share).marked(s.is_red()))
        };
        let cells: Option<Vec<Cell>> = numbers.into_iter().map(cell).collect();
        Some(row_of(s, s.learner.clone(), cells?))
    };
    let names = columns(&[(Kind::Share, &["sum", "per token", "per byte", "less the prior"])]);
    Table {
        name: "normalisations",
        title: "Accuracy of the most probable name by normalisation".into(),
        columns: [columns(&OF_SERIES), names].concat(),
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
        let red = group.iter().any(|s| s.is_red());
        for reading in READINGS {
            let of = |metrics: &Metrics| metrics.value_by(reading);
            let values: Option<Vec<f64>> = group.iter().map(|s| of(&s.runs.first()?.record.metrics)).collect();
            let Some(values) = values else {
                continue;
            };
            let low = values.iter().copied().fold(f64::INFINITY, f64::min);
            let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let share = |share: f64| Value::Share(share).marked(red);
            rows.push(Row {
                group: Group::of(&first.dataset, first.protocol),
                micro: first.is_micro(),
                cells: vec![
                    Value::text(&first.learner).into(),
                    Value::text(reading_name(reading)).into(),
                    Value::Count(group.len()).into(),
                    share(values.iter().sum::<f64>() / values.len() as f64),
                    share(low),
                    share(high),
                    share(high - low),
                ],
            });
        }
    }
    Table {
        name: "wordings",
        title: "Zero-shot accuracy over wordings of the question".into(),
        columns: columns(&[
            (Kind::Text, &["learner", "reading"]),
            (Kind::Count, &["wordings"]),
            (Kind::Share, &["mean", "lowest", "highest", "spread"]),
        ]),
        rows,
        remarks: vec![
            "In %, of learners that differ in the wording of the question only, under the name of the first."
                .to_owned(),
        ],
        long: false,
    }
}

/// Calibration of learners with probabilities, as they are and at a temperature fitted inside the shots: rows dataset ×
/// learner × shots. Empty where no record has any.
#[must_use]
pub fn calibration(series: &[Series]) -> Table {
    let row = |s: &Series| {
        let plain = |number: fn(&Calibration) -> f64| mean(s, |record| record.calibration.as_ref().map(number));
        let tempered = |number: fn(&Tempered) -> f64| mean(s, |record| record.tempered.as_ref().map(number));
        plain(|c| c.ece)?;
        let values = [
            plain(|c| c.ece).map(Value::Share),
            plain(|c| c.ece_equal_mass).map(Value::Share),
            plain(|c| c.brier).map(Value::Nats),
            plain(|c| c.nll).map(Value::Nats),
            tempered(|t| t.temperature).map(Value::Nats),
            tempered(|t| t.test.ece).map(Value::Share),
            tempered(|t| t.test.nll).map(Value::Nats),
        ];
        let cells = values.map(|value| value.unwrap_or(Value::Missing).marked(s.is_red()));
        Some(row_of(s, s.learner.clone(), cells))
    };
    let numbers = columns(&[
        (Kind::Share, &["ECE", "ECE, equal mass"]),
        (Kind::Nats, &["Brier", "NLL", "T"]),
        (Kind::Share, &["ECE at T"]),
        (Kind::Nats, &["NLL at T"]),
    ]);
    Table {
        name: "calibration",
        title: "Calibration".into(),
        columns: [columns(&OF_SERIES), numbers].concat(),
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

const BRACKETS: &str = "In brackets: 95 % interval over seeds and test images, those of one drawing together.";

/// The wording for intervals of `seeds` seeds, with a warning where these are too few.
fn brackets(seeds: impl Iterator<Item = usize>) -> String {
    let fewest = seeds.filter(|seeds| *seeds > 1).min();
    if fewest.is_some_and(|seeds| seeds < ENOUGH_SEEDS) {
        format!("{BRACKETS} {FEW_SEEDS}")
    } else {
        BRACKETS.to_owned()
    }
}

fn group(difference: &Difference) -> Group {
    Group::of(&difference.dataset, difference.protocol)
}

fn gain(difference: &Difference) -> Cell {
    Value::Gain(difference.gain.mean, difference.gain.interval).marked(is_red(difference))
}

fn is_red(difference: &Difference) -> bool {
    difference.red.0 || difference.red.1
}

/// Columns of [`row_about`].
const OF_DIFFERENCE: [(Kind, &[&str]); 3] = [
    (Kind::Text, &["learner", "against"]),
    (Kind::Count, &["k", "seeds"]),
    (Kind::Gain, &["gain"]),
];

/// A row about a difference: both learners, shots, seeds, the gain, then `values` of it.
fn row_about(d: &Difference, values: impl IntoIterator<Item = Cell>) -> Row {
    let first: [Cell; 5] = [
        Value::text(&d.learner.0).into(),
        Value::text(&d.other.0).into(),
        Cell::from(Value::Shots(d.learner.1)).capped(d.capped),
        Value::Count(d.seeds).into(),
        gain(d),
    ];
    Row {
        group: group(d),
        micro: d.micro,
        cells: first.into_iter().chain(values).collect(),
    }
}

/// Gain of one learner over others, paired by seed and image.
#[must_use]
pub fn differences(differences: &[Difference]) -> Table {
    let row = |d: &Difference| row_about(d, [Value::P(d.gain.components.p_value()).marked(is_red(d))]);
    Table {
        name: "gains",
        title: "Gain in percentage points on the same draws and images".into(),
        columns: [columns(&OF_DIFFERENCE), columns(&[(Kind::P, &["p"])])].concat(),
        rows: differences.iter().map(row).collect(),
        remarks: vec![
            brackets(differences.iter().map(|d| d.seeds))
                + " p: two-sided, of the interval, not corrected for several.",
        ],
        long: false,
    }
}

/// Series of two results folders, with the second's gain over the first where they can be paired.
#[must_use]
pub fn between(both: &[Between]) -> Table {
    let row = |one: &Between| {
        let difference = one.gain.as_ref().ok();
        let red = difference.is_some_and(is_red);
        let of = |value: Option<Value>| value.unwrap_or(Value::Missing).marked(red);
        Row {
            group: Group::of(&one.dataset, one.protocol),
            micro: one.micro,
            cells: vec![
                Value::text(&one.learner).into(),
                Value::Shots(one.shots).into(),
                Value::Count(difference.map_or(0, |difference| difference.seeds)).into(),
                Value::Share(one.accuracies[0]).marked(red),
                Value::Share(one.accuracies[1]).marked(red),
                of(difference.map(|difference| Value::Gain(difference.gain.mean, difference.gain.interval))),
                of(difference.map(|difference| Value::P(difference.gain.components.p_value()))),
            ],
        }
    };
    Table {
        name: "between",
        title: "Accuracy in % of two results folders".into(),
        columns: columns(&[
            (Kind::Text, &["learner"]),
            (Kind::Count, &["k", "common seeds"]),
            (Kind::Share, &["first", "second"]),
            (Kind::Gain, &["gain"]),
            (Kind::P, &["p"]),
        ]),
        rows: both.iter().map(row).collect(),
        remarks: vec![
            brackets(both.iter().filter_map(|one| Some(one.gain.as_ref().ok()?.seeds)))
                + " Accuracies are over all seeds of each folder, gains over the common ones. p: two-sided, of the interval, not corrected \
                   for several.",
        ],
        long: false,
    }
}

/// Gain of one learner by shots: over others with as many, over itself with fewer.
#[must_use]
pub fn along_shots(differences: &[Difference]) -> Table {
    let mut shots: Vec<Shots> = differences.iter().map(|d| d.learner.1).collect();
    shots.sort_unstable();
    shots.dedup();
    let over = |d: &Difference| match (&d.learner.0, &d.other) {
        (own, (other, few)) if own == other => format!("itself, k = {few}"),
        (_, (other, _)) => other.clone(),
    };
    let mut rows: Vec<Row> = Vec::new();
    for difference in differences {
        let names = [difference.learner.0.clone(), over(difference)].map(|name| Cell::from(Value::Text(name)));
        let group = group(difference);
        let known = |row: &Row| row.group == group && row.cells[..2] == names;
        let row = rows.iter().position(known).unwrap_or_else(|| {
            let empty = std::iter::repeat_n(Cell::from(Value::Missing), shots.len());
            rows.push(Row {
                group,
                micro: false,
                cells: names.into_iter().chain(empty).collect(),
            });
            rows.len() - 1
        });
        rows[row].micro |= difference.micro;
        if let Ok(column) = shots.binary_search(&difference.learner.1) {
            rows[row].cells[2 + column] = gain(difference).capped(difference.capped);
        }
    }
    let mut columns = columns(&[(Kind::Text, &["learner", "over"])]);
    columns.extend(shots.iter().map(|k| Column::new(format!("k = {k}"), Kind::Gain)));
    Table {
        name: "gains-by-shots",
        title: "Gain in percentage points by labelled examples per class".into(),
        columns,
        rows,
        remarks: vec![brackets(differences.iter().map(|d| d.seeds))],
        long: false,
    }
}

/// Every pair of learners at every number of shots, tested.
#[must_use]
pub fn paired_tests(tests: &[Test]) -> Table {
    let row = |test: &Test| {
        let d = &test.difference;
        let exact = if test.grouped { "sign-flip" } else { "McNemar" };
        let values = [
            Value::SeedTests(test.exact.clone(), d.gain.mean > 0.0),
            Value::P(test.p),
            Value::P(test.holm),
            test.detectable.map_or(Value::Missing, Value::Share),
        ];
        let marked = values.map(|value| value.marked(is_red(d)));
        row_about(d, std::iter::once(Value::text(exact).into()).chain(marked))
    };
    let of_tests = columns(&[
        (Kind::Text, &["exact test"]),
        (Kind::SeedTests, &["exact p"]),
        (Kind::P, &["p", "Holm p"]),
        (Kind::Share, &["detectable"]),
    ]);
    Table {
        name: "paired-tests",
        title: "Paired tests on the same draws and images".into(),
        columns: [columns(&OF_DIFFERENCE), of_tests].concat(),
        rows: tests.iter().map(row).collect(),
        remarks: vec![
            brackets(tests.iter().map(|test| test.difference.seeds)),
            "Gain in percentage points. Exact p: seeds whose own exact test shows the gain, on counts of images: \
             McNemar's test; where test images come in groups of dependent ones the sign-flip test over groups, which \
             is McNemar's when every image stands alone. p: of the interval, over seeds and images. Holm p: the same corrected over datasets × k for \
             each pair of learners. All p values are two-sided. Detectable: the true difference in percentage points \
             that a test at 5 % finds with probability 80 %."
                .to_owned(),
        ],
        long: true,
    }
}

/// Labelled images that the stronger of two learners saves.
#[must_use]
pub fn images_saved(saved: &[Saved]) -> Table {
    let row = |s: &Saved| {
        let ((per_class, per_class_interval), (in_all, in_all_interval)) = (s.per_class(), s.in_all());
        let examples = |number, interval, signed, digits| {
            let value = Value::Examples {
                number,
                interval,
                signed,
                digits,
            };
            value.marked(s.red)
        };
        Row {
            group: Group::of(&s.dataset, s.protocol),
            micro: s.micro,
            cells: vec![
                Value::text(&s.stronger).into(),
                Value::text(&s.weaker).into(),
                Value::Count(s.shots as usize).into(),
                Value::Count(s.seeds).into(),
                Value::Share(s.accuracy).marked(s.red),
                examples(s.needed, s.interval, false, 1),
                examples(per_class, per_class_interval, true, 1),
                examples(in_all, in_all_interval, true, 0),
            ],
        }
    };
    Table {
        name: "images-saved",
        title: "Labelled images saved by the stronger learner".into(),
        columns: columns(&[
            (Kind::Text, &["stronger", "weaker"]),
            (Kind::Count, &["k", "seeds"]),
            (Kind::Share, &["accuracy"]),
            (Kind::Examples, &["weaker needs", "saved per class", "saved in all"]),
        ]),
        rows: saved.iter().map(row).collect(),
        remarks: vec![
            "Weaker needs: labelled examples per class with which the weaker learner is as often right as the \
             stronger with k, on its mean curve, linear in log2 k between measured points, where that first comes so far. \
             > and ≤: beyond what was measured, so that only a bound is known. In brackets: all numbers of examples at \
             which the paired 95 % interval of the difference contains zero."
                .to_owned(),
        ],
        long: false,
    }
}

/// Which datasets clear the bar for micro models.
#[must_use]
pub fn micro_gates(gates: &[MicroGate]) -> Table {
    // Without a learner that writes there is no zero-shot bar.
    let zero_shot = gates.iter().any(|g| g.writes);
    let row = |g: &MicroGate| {
        let accuracy = Value::Accuracy(g.accuracy.mean, g.accuracy.interval, None);
        let mut cells: Vec<Cell> = vec![
            Value::text(&g.learner).into(),
            Value::Count(g.seeds).into(),
            accuracy.marked(g.over_pixels.red.0),
            gain(&g.over_pixels),
            gain(&g.over_one_shot),
        ];
        let over_zero_shot = g.over_zero_shot.as_ref().map_or(Value::Missing.into(), gain);
        cells.extend(zero_shot.then_some(over_zero_shot));
        let compared = [Some(&g.over_pixels), Some(&g.over_one_shot), g.over_zero_shot.as_ref()];
        let red = compared.into_iter().flatten().any(is_red);
        cells.push(Value::text(if g.passes() { "yes" } else { "no" }).marked(red));
        Row {
            group: group(&g.over_pixels),
            micro: true,
            cells,
        }
    };
    let mut columns = columns(&[
        (Kind::Text, &["learner"]),
        (Kind::Count, &["seeds"]),
        (Kind::Accuracy, &["k = 16"]),
        (Kind::Gain, &["over raw pixels", "over own k = 1"]),
    ]);
    columns.extend(zero_shot.then(|| Column::new("over own k = 0", Kind::Gain)));
    columns.push(Column::new("passes", Kind::Text));
    let asked = if zero_shot {
        "Asked for: at least 50 %, 15 points over raw pixels, 10 points over one shot, of a learner that writes also \
         a gain over zero shots; all gains' 95 % intervals above zero."
    } else {
        "Asked for: at least 50 %, 15 points over raw pixels, 10 points over one shot, both gains' 95 % intervals above zero."
    };
    Table {
        name: "micro-bar",
        title: "Bar for micro models at k = 16".into(),
        columns,
        rows: gates.iter().map(row).collect(),
        remarks: vec![asked.into()],
        long: false,
    }
}
