use std::path::Path;

use crate::comparison::curve::{points, zero_shots};
use crate::comparison::paired;
use crate::comparison::paired::{at_most_shots, micro_gates as gates, tests};
use crate::comparison::saved::labelled_images_saved;
use crate::comparison::series::Series;
use crate::report::table::forms::signed;
use crate::report::table::*;
use crate::store::record::tests::{cell, written_cell};

fn series() -> Vec<Series> {
    let mut cells = Vec::new();
    for seed in 0..2 {
        cells.push(cell(("mini-pets", "DINOv2 LoRA", 1, seed), 40, |i| i % 8 < 3));
        cells.push(cell(("mini-pets", "DINOv2 LoRA", 16, seed), 40, |i| i % 8 < 7));
        cells.push(cell(("mini-pets", "raw pixels", 16, seed), 40, |i| i % 8 < 4));
    }
    Series::group(cells.into_iter().map(Ok)).unwrap()
}

#[test]
fn accuracy_in_both_forms() {
    let table = accuracy(&points(&series()));
    insta::assert_snapshot!(table.plain(), @r"
    Accuracy in % by labelled examples per class

      learner                  k = 1             k = 16
    mini-pets (top-1, novel concepts, n = 40, guessing 25.0 %)
      DINOv2 LoRA  37.5 [20.8, 57.8]  87.5 [73.7, 94.6]
      raw pixels                   –  50.0 [28.4, 71.6]

    Protocol clean. Mean over seeds 0, 1; all learners see the same draws of examples. n: test images. In brackets: 95 % interval over seeds and test images, those of one drawing together. With two seeds the variance between draws is hardly known and an interval is as wide as that makes it (Student's t with one degree of freedom): take it for a bound, and five seeds for a result.
    Micro models on miniature datasets: these numbers say nothing about the real ones.
    ");
    insta::assert_snapshot!(table.markdown(), @r"
    **Accuracy in % by labelled examples per class**

    | dataset | learner | k = 1 | k = 16 |
    |---|---|--:|--:|
    | mini-pets (top-1, novel concepts, n = 40, guessing 25.0 %) | DINOv2 LoRA | 37.5 [20.8, 57.8] | 87.5 [73.7, 94.6] |
    |  | raw pixels | – | 50.0 [28.4, 71.6] |

    Protocol clean. Mean over seeds 0, 1; all learners see the same draws of examples. n: test images. In brackets: 95 % interval over seeds and test images, those of one drawing together. With two seeds the variance between draws is hardly known and an interval is as wide as that makes it (Student's t with one degree of freedom): take it for a bound, and five seeds for a result.

    Micro models on miniature datasets: these numbers say nothing about the real ones.
    ");
}

#[test]
fn fewer_shots_than_asked_for_are_marked_in_every_form() {
    let card = |k: u32| {
        serde_json::from_value(serde_json::json!({
            "protocol": "tinker", "form": "hub", "source": "s", "revision": null, "classes": 4, "classes_sha256": "",
            "counts": {"pool": 1, "val": 0, "test": 1, "train": 1, "val_drawn": 0}, "headline": "top1", "left_out": 0,
            "capped": (k == 16).then_some(10), "near_duplicates": null,
        }))
        .unwrap()
    };
    let mut cells = Vec::new();
    for (learner, k, right) in [
        ("x LoRA", 8, 3),
        ("x LoRA", 16, 7),
        ("raw pixels", 8, 2),
        ("raw pixels", 16, 4),
    ] {
        let mut cell = cell(("flowers", learner, k, 0), 40, |i| i % 8 < right);
        cell.0.card = Some(card(k));
        cell.0.key.protocol = Protocol::Tinker;
        cells.push(cell);
    }
    let series = Series::group(cells.into_iter().map(Ok)).unwrap();
    let table = accuracy(&points(&series));
    insta::assert_snapshot!(table.markdown(), @r"
    **Accuracy in % by labelled examples per class**

    | dataset | learner | k = 8 | k = 16 |
    |---|---|--:|--:|
    | flowers, protocol tinker (top-1, novel concepts, n = 40, guessing 25.0 %) | raw pixels | 25.0 [10.4, 49.0] | 50.0 [28.4, 71.6] (k = 10*) |
    |  | x LoRA | 37.5 [20.8, 57.8] | 87.5 [73.7, 94.6] (k = 10*) |

    Protocol tinker. Seed 0; all learners see the same draws of examples. n: test images. In brackets: 95 % interval over test images, those of one drawing together (one seed: not over draws).

    Marked *: fewer examples per class than were asked for, all that the smallest class has

    Micro models on miniature datasets: these numbers say nothing about the real ones.
    ");
    let csv = String::from_utf8(table.csv(Path::new("t")).unwrap()).unwrap();
    assert!(csv.lines().next().unwrap().ends_with(",red,capped"), "{csv}");
    assert!(csv.lines().nth(1).unwrap().ends_with(",,k = 16: 10"), "{csv}");
    assert!(json(&[table]).contains("k = 16: 10"));
    let gains = differences(
        &tests(&series, &["x LoRA"])
            .unwrap()
            .iter()
            .map(|t| t.difference.clone())
            .collect::<Vec<_>>(),
    );
    let plain = gains.plain();
    assert!(
        plain.contains(" 10*  ") && plain.contains("flowers, protocol tinker\n") && plain.contains(CAP_NOTE),
        "{plain}"
    );
    // Two numbers of shots of which one is capped are too few for a curve.
    assert!(
        labelled_images_saved(&series, &["x LoRA", "raw pixels"])
            .unwrap()
            .is_empty()
    );
}

#[test]
fn comparisons_in_both_forms() {
    let series = series();
    let table = differences(&at_most_shots(&tests(&series, &["DINOv2 LoRA"]).unwrap()));
    insta::assert_snapshot!(table.markdown(), @r"
    **Gain in percentage points on the same draws and images**

    | dataset | learner | against | k | seeds | gain | p |
    |---|---|---|--:|--:|--:|--:|
    | mini-pets | DINOv2 LoRA | raw pixels | 16 | 2 | +37.5 [+17.6, +57.4] | 0.0009 |

    In brackets: 95 % interval over seeds and test images, those of one drawing together. With two seeds the variance between draws is hardly known and an interval is as wide as that makes it (Student's t with one degree of freedom): take it for a bound, and five seeds for a result. p: two-sided, of the interval, not corrected for several.

    Micro models on miniature datasets: these numbers say nothing about the real ones.
    ");
    let table = micro_gates(&gates(&series, "DINOv2 LoRA").unwrap());
    insta::assert_snapshot!(table.plain(), @r"
    Bar for micro models at k = 16

      learner      seeds             k = 16       over raw pixels        over own k = 1  passes
    mini-pets
      DINOv2 LoRA      2  87.5 [73.7, 94.6]  +37.5 [+17.6, +57.4]  +50.0 [+33.0, +67.0]  yes

    Asked for: at least 50 %, 15 points over raw pixels, 10 points over one shot, both gains' 95 % intervals above zero.
    Micro models on miniature datasets: these numbers say nothing about the real ones.
    ");
}

/// A writing learner beside the others, with a result without shots; known concepts in one set, novel in the other.
fn with_a_writer() -> Vec<Series> {
    let mut cells = Vec::new();
    for (dataset, regime, knows) in [("mini-flowers", "known", 4), ("mini-pets", "novel", 2)] {
        let mut vlm = |shots, seed, free: u32, trie: u32| {
            let key = (dataset, "Qwen3-VL LoRA", shots, seed);
            let mut cell = written_cell(key, 40, move |i| i % 8 < free, move |i| i % 8 < trie);
            cell.0.regime = Some(regime.into());
            cells.push(cell);
        };
        vlm(0, 0, 1, knows);
        for seed in 0..2 {
            vlm(1, seed, 2, 3);
            vlm(16, seed, 7, 8);
        }
        for seed in 0..2 {
            for (learner, shots, right) in [("DINOv2 LoRA", 1, 3), ("DINOv2 LoRA", 16, 7), ("raw pixels", 16, 3)] {
                let mut cell = cell((dataset, learner, shots, seed), 40, move |i| i % 8 < right);
                cell.0.regime = Some(regime.into());
                cells.push(cell);
            }
        }
    }
    Series::group(cells.into_iter().map(Ok)).unwrap()
}

#[test]
fn a_writing_learner_has_its_readings_beside_it() {
    let series = with_a_writer();
    insta::assert_snapshot!(accuracy(&points(&series)).plain());
    insta::assert_snapshot!(readings(&series).markdown());
    insta::assert_snapshot!(readings(&series).plain());
    assert!(readings(&self::series()).rows.is_empty());
}

#[test]
fn zero_shot_is_held_against_guessing() {
    insta::assert_snapshot!(zero_shot(&zero_shots(&with_a_writer())).markdown());
}

#[test]
fn gains_of_a_writing_learner() {
    let series = with_a_writer();
    let subjects = paired::subjects(&series);
    insta::assert_snapshot!(differences(&at_most_shots(&tests(&series, &subjects).unwrap())).markdown());
    let gains = paired::along_shots(&series, "Qwen3-VL LoRA", &subjects).unwrap();
    insta::assert_snapshot!(along_shots(&gains).markdown());
    let mut bars = gates(&series, "Qwen3-VL LoRA").unwrap();
    bars.extend(gates(&series, "DINOv2 LoRA").unwrap());
    insta::assert_snapshot!(micro_gates(&bars).markdown());
}

#[test]
fn signs() {
    assert_eq!(
        [signed(0.1), signed(-0.1), signed(-0.0001), signed(0.0)],
        ["+10.0", "−10.0", "0.0", "0.0"]
    );
}

/// A table of every kind of value, with a letter that each form has to guard, and one red cell.
fn every_kind() -> Table {
    let mut series = with_a_writer();
    let of = |s: &Series, shots: u32| s.dataset == "mini-pets" && s.learner == "DINOv2 LoRA" && s.shots == shots;
    for one in series.iter_mut().filter(|s| of(s, 16)) {
        one.runs[1].red = true;
    }
    accuracy(&points(&series))
}

#[test]
fn a_red_cell_is_marked_in_every_form() {
    let table = every_kind();
    let (mark, plain) = ("87.5 [73.7, 94.6]†", table.plain());
    assert_eq!(plain.matches(mark).count(), 1, "{plain}");
    assert!(plain.ends_with(&format!("{RED_NOTE}\n")) && table.markdown().contains(mark));
    let latex = table.latex();
    assert_eq!(latex.matches("94.6{]}\\textsuperscript{\\dag}").count(), 1, "{latex}");
    let csv = String::from_utf8(table.csv(Path::new("p")).unwrap()).unwrap();
    assert_eq!(csv.lines().filter(|line| line.ends_with(",k = 16")).count(), 1, "{csv}");
    let json: serde_json::Value = serde_json::from_str(&json(&[table])).unwrap();
    let rows = json["tables"][0]["rows"].as_array().unwrap().clone();
    let red: Vec<_> = rows
        .iter()
        .filter(|row| row["red"] == serde_json::json!(["k = 16"]))
        .collect();
    assert_eq!((red.len(), &red[0]["dataset"]), (1, &serde_json::json!("mini-pets")));
    assert_eq!(json["tables"][0]["notes"][2], RED_NOTE);
}

#[test]
fn all_forms_hold_the_same_numbers() {
    let series = with_a_writer();
    let table = paired_tests(&tests(&series, &paired::subjects(&series)).unwrap());
    insta::assert_snapshot!(table.markdown());
    insta::assert_snapshot!(table.latex());
    insta::assert_snapshot!(String::from_utf8(table.csv(Path::new("p")).unwrap()).unwrap());
    let mut first = table;
    first.rows.truncate(1);
    insta::assert_snapshot!(json(&[first]));
    let accuracies = accuracy(&points(&series));
    insta::assert_snapshot!(String::from_utf8(accuracies.csv(Path::new("p")).unwrap()).unwrap());
    let saved = images_saved(&labelled_images_saved(&series, &paired::subjects(&series)).unwrap());
    insta::assert_snapshot!(saved.plain());
    insta::assert_snapshot!(String::from_utf8(saved.csv(Path::new("p")).unwrap()).unwrap());
}

#[test]
fn latex_has_as_many_cells_in_every_row() {
    let latex = every_kind().latex();
    let tabular = latex
        .split("\\toprule\n")
        .nth(1)
        .unwrap()
        .split("\\bottomrule")
        .next()
        .unwrap();
    let cells = |line: &str| line.matches(" & ").count() + 1;
    let rows: Vec<&str> = tabular
        .lines()
        .filter(|l| l.ends_with("\\\\") && !l.contains("multicolumn"))
        .collect();
    assert!(rows.len() > 5 && rows.iter().all(|row| cells(row) == 4), "{latex}");
    assert_eq!(latex.matches('{').count(), latex.matches('}').count());
    assert!(latex.contains("\\begin{tabular}{lrrr}") && latex.contains("guessing 25.0 \\%)"));
}

#[test]
fn bounds_and_small_p_values_are_told() {
    let examples = |number, signed| {
        let interval = (Bounded::AtMost(-3.0), Bounded::MoreThan(12.0));
        let cell = Cell::from(Value::Examples {
            number,
            interval,
            signed,
            digits: 1,
        });
        cell.text()
    };
    assert_eq!(examples(Bounded::Known(2.26), true), "+2.3 [≤ −3, > +12]");
    assert_eq!(examples(Bounded::MoreThan(16.0), false), "> 16 [≤ 3, > 12]");
    assert_eq!(examples(Bounded::Known(-0.01), true), "0.0 [≤ −3, > +12]");
    let text = |value: Value| Cell::from(value).text();
    assert_eq!(
        [1e-9, 0.000_4, 1.0].map(|p| text(Value::P(p))),
        ["< 0.0001", "0.0004", "1.0000"]
    );
    let test = |net_wins, p| SeedTest { net_wins, p };
    let seeds = vec![test(9, 0.001), test(5, 0.2), test(-8, 0.01)];
    assert_eq!(text(Value::SeedTests(seeds, true)), "1 of 3 < 0.05, 1 against");
}
