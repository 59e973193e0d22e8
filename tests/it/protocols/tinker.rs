//! `tinker` draws the rows that ten lines of Python draw (`tests/fixtures/tinker/reference.py`).

use std::collections::BTreeMap;
use std::fs;

use kshot::config::Protocol;
use kshot::data::split;
use kshot::manifest::Form;

use super::listing::dataset;
use crate::support::root;

/// Classes, rows and first state of the generator of labels, as in `reference.py`.
pub(super) const SETS: [(&str, (u32, usize, u64)); 4] = [
    ("caltech", (12, 230, 1)),
    ("cars", (9, 260, 2)),
    ("flowers", (8, 80, 3)),
    ("pets", (6, 150, 4)),
];

/// The label of each row, as in `reference.py`: classes come in no order.
pub(super) fn labels((classes, rows, mut state): (u32, usize, u64)) -> Vec<u32> {
    let next = |_| {
        state = (state * 1_103_515_245 + 12_345) % (1 << 31);
        (state >> 16) as u32 % classes
    };
    (0..rows).map(next).collect()
}

/// `seed 0, k = 1` → rows, for each set.
pub(super) fn answers() -> BTreeMap<String, BTreeMap<String, Vec<usize>>> {
    let text = fs::read_to_string(root().join("tests/fixtures/tinker/answers.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn rows_are_those_of_the_python_reference() {
    let answers = answers();
    assert_eq!(answers.len(), SETS.len());
    for (name, how) in SETS {
        let row = |(row, label)| (format!("train/{row:05}.png"), label);
        let pool: Vec<_> = labels(how).into_iter().enumerate().map(row).collect();
        assert!(!pool.is_sorted_by_key(|(_, label)| *label), "rows are shuffled");
        let classes = (0..how.0).map(|class| format!("Class_{class}")).collect();
        let data = dataset(Form::Hub, classes, &pool, &[]);
        for seed in 0..5 {
            for k in [1_u32, 4, 16] {
                let split = split::draw(&data, Protocol::Tinker, k, seed, None).unwrap();
                let expected = &answers[name][&format!("seed {seed}, k = {k}")];
                let ids: Vec<String> = expected.iter().map(|&i| pool[i].0.clone()).collect();
                let drawn: Vec<&String> = split.train.iter().map(|item| &item.id).collect();
                assert_eq!(drawn, ids.iter().collect::<Vec<_>>(), "{name}, seed {seed}, k = {k}");
                assert!(
                    split
                        .train
                        .iter()
                        .zip(expected)
                        .all(|(item, &i)| item.class == pool[i].1)
                );
                assert_eq!(split.classes[0], "class 0");
            }
        }
        let fewest = (0..how.0)
            .map(|class| pool.iter().filter(|(_, label)| *label == class).count())
            .min();
        let capped = split::draw(&data, Protocol::Tinker, 16, 0, None).unwrap().capped;
        assert_eq!(capped, fewest.map(|n| n as u32).filter(|n| *n < 16), "{name}");
    }
}
