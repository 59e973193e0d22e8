use super::*;
use crate::results::comparison::{self, against_others};
use crate::results::curve::points;
use crate::results::micro_gate::micro_gates as gates;
use crate::results::series::Series;
use crate::results::series::tests::{cell, written_cell};
use crate::results::zero_shot::zero_shots;

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
      DINOv2 LoRA  37.5 [20.0, 57.5]  87.5 [77.5, 95.0]
      raw pixels                   –  50.0 [30.0, 70.0]

    Protocol clean. Mean over seeds 0, 1; all learners see the same draws of examples. n: test images. In brackets: 95 % bootstrap over seeds and groups of dependent test images.
    Micro models on miniature datasets: these numbers say nothing about the real ones.
    ");
    insta::assert_snapshot!(table.markdown(), @r"
    **Accuracy in % by labelled examples per class**

    | dataset | learner | k = 1 | k = 16 |
    |---|---|--:|--:|
    | mini-pets (top-1, novel concepts, n = 40, guessing 25.0 %) | DINOv2 LoRA | 37.5 [20.0, 57.5] | 87.5 [77.5, 95.0] |
    |  | raw pixels | – | 50.0 [30.0, 70.0] |

    Protocol clean. Mean over seeds 0, 1; all learners see the same draws of examples. n: test images. In brackets: 95 % bootstrap over seeds and groups of dependent test images.

    Micro models on miniature datasets: these numbers say nothing about the real ones.
    ");
}

#[test]
fn comparisons_in_both_forms() {
    let series = series();
    let table = differences(&against_others(&series, &["DINOv2 LoRA"]).unwrap());
    insta::assert_snapshot!(table.markdown(), @r"
    **Gain in percentage points on the same draws and images**

    | dataset | learner | against | k | seeds | gain | resamples ≤ 0, % |
    |---|---|---|--:|--:|--:|--:|
    | mini-pets | DINOv2 LoRA | raw pixels | 16 | 2 | +37.5 [+20.0, +57.5] | 0.0 |

    In brackets: 95 % bootstrap over seeds and groups of dependent test images.

    Micro models on miniature datasets: these numbers say nothing about the real ones.
    ");
    let table = micro_gates(&gates(&series, "DINOv2 LoRA").unwrap());
    insta::assert_snapshot!(table.plain(), @r"
    Bar for micro models at k = 16

      learner      seeds             k = 16       over raw pixels        over own k = 1  passes
    mini-pets
      DINOv2 LoRA      2  87.5 [77.5, 95.0]  +37.5 [+20.0, +57.5]  +50.0 [+35.0, +65.0]  yes

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
    let subjects = comparison::subjects(&series);
    insta::assert_snapshot!(differences(&against_others(&series, &subjects).unwrap()).markdown());
    let gains = comparison::along_shots(&series, "Qwen3-VL LoRA", &subjects).unwrap();
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
