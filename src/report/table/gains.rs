//! Gains of one learner over another, or over itself with fewer examples, and the images they save.

use crate::comparison::curve::{ENOUGH_SEEDS, FEW_SEEDS};
use crate::comparison::micro_gate::MicroGate;
use crate::comparison::paired::{Difference, Test};
use crate::comparison::saved::Saved;
use crate::config::Shots;
use crate::report::table::{Cell, Column, Group, Kind, Row, Table, Value, columns};

const BRACKETS: &str = "In brackets: 95 % interval over seeds and test images, those of one drawing together.";

/// The wording for intervals of `seeds` seeds, with a warning where these are too few.
fn brackets(seeds: impl Iterator<Item = usize>) -> String {
    let few = seeds
        .filter(|seeds| *seeds > 1)
        .min()
        .is_some_and(|seeds| seeds < ENOUGH_SEEDS);
    if few {
        format!("{BRACKETS} {FEW_SEEDS}")
    } else {
        BRACKETS.to_owned()
    }
}

fn group(difference: &Difference) -> Group {
    Group::of(&difference.dataset, difference.protocol)
}

fn gain(difference: &Difference) -> Cell {
    Value::from(&difference.gain).marked(is_red(difference))
}

fn shots(difference: &Difference) -> Cell {
    Cell::from(Value::Shots(difference.learner.1)).capped(difference.capped)
}

fn is_red(difference: &Difference) -> bool {
    difference.red.0 || difference.red.1
}

/// Gain of one learner over others, paired by seed and image.
#[must_use]
pub fn differences(differences: &[Difference]) -> Table {
    let row = |d: &Difference| Row {
        group: group(d),
        micro: d.micro,
        cells: vec![
            Value::text(&d.learner.0).into(),
            Value::text(&d.other.0).into(),
            shots(d),
            Value::Count(d.seeds).into(),
            gain(d),
            Value::P(d.gain.components.p_value()).marked(is_red(d)),
        ],
    };
    Table {
        name: "gains",
        title: "Gain in percentage points on the same draws and images".into(),
        columns: columns(&[
            ("learner", Kind::Text),
            ("against", Kind::Text),
            ("k", Kind::Count),
            ("seeds", Kind::Count),
            ("gain", Kind::Gain),
            ("p", Kind::P),
        ]),
        rows: differences.iter().map(row).collect(),
        remarks: vec![
            brackets(differences.iter().map(|d| d.seeds))
                + " p: two-sided, of the interval, not corrected for several.",
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
        let row = rows
            .iter()
            .position(|row| row.group == group && row.cells[..2] == names);
        let row = row.unwrap_or_else(|| {
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
    let mut columns = columns(&[("learner", Kind::Text), ("over", Kind::Text)]);
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
        let red = is_red(d);
        Row {
            group: group(d),
            micro: d.micro,
            cells: vec![
                Value::text(&d.learner.0).into(),
                Value::text(&d.other.0).into(),
                shots(d),
                Value::Count(d.seeds).into(),
                gain(d),
                Value::text(if test.grouped { "sign-flip" } else { "McNemar" }).into(),
                Value::SeedTests(test.exact.clone(), d.gain.mean > 0.0).marked(red),
                Value::P(test.p).marked(red),
                Value::P(test.holm).marked(red),
                test.detectable.map_or(Value::Missing, Value::Share).marked(red),
            ],
        }
    };
    Table {
        name: "paired-tests",
        title: "Paired tests on the same draws and images".into(),
        columns: columns(&[
            ("learner", Kind::Text),
            ("against", Kind::Text),
            ("k", Kind::Count),
            ("seeds", Kind::Count),
            ("gain", Kind::Gain),
            ("exact test", Kind::Text),
            ("exact p", Kind::SeedTests),
            ("p", Kind::P),
            ("Holm p", Kind::P),
            ("detectable", Kind::Share),
        ]),
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
            ("stronger", Kind::Text),
            ("weaker", Kind::Text),
            ("k", Kind::Count),
            ("seeds", Kind::Count),
            ("accuracy", Kind::Share),
            ("weaker needs", Kind::Examples),
            ("saved per class", Kind::Examples),
            ("saved in all", Kind::Examples),
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
        ("learner", Kind::Text),
        ("seeds", Kind::Count),
        ("k = 16", Kind::Accuracy),
        ("over raw pixels", Kind::Gain),
        ("over own k = 1", Kind::Gain),
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
