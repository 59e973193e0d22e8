//! Nights on machines whose runs are not the same to the byte, and what the gate makes of them.

use std::fs;

use kshot::gate::noise::Noise;

use super::cells::{Cell, folder};
use super::{BASELINE, RESULTS, gate};
use crate::support::Sandbox;

const FORMS: [&str; 6] = ["--json", "gate.json", "--junit", "gate.xml", "--markdown", "gate.md"];

fn of(sandbox: &Sandbox, name: &str, cells: &[Cell]) {
    folder(&sandbox.path(name), cells);
}

fn seeds(right: fn(u32) -> bool, of: std::ops::Range<u64>) -> Vec<Cell> {
    let cell = |seed| Cell {
        seed,
        right,
        ..Cell::default()
    };
    of.map(cell).collect()
}

#[test]
fn a_cell_of_another_machine_is_neither_green_nor_red_while_the_noise_is_unknown() {
    let sandbox = Sandbox::new();
    of(&sandbox, BASELINE, &[Cell::default()]);
    for (device, threads) in [("cpu", 4), ("cuda:NVIDIA H200", 2)] {
        let _ = fs::remove_dir_all(sandbox.path(RESULTS));
        let worse = Cell {
            right: |i| i % 4 > 1, // a third of what was right is lost
            device,
            threads,
            rank: 8,
            ..Cell::default()
        };
        of(&sandbox, RESULTS, &[worse]);
        let (code, text, said) = gate(&sandbox, &FORMS);
        assert_eq!(code, 2, "{text}");
        assert!(text.starts_with("NOISE UNKNOWN: 1 of 1 cell"), "{text}");
        assert!(text.contains("made on c") && !text.contains("LOSS"), "{text}");
        assert!(said.contains("noise unknown"), "{said}");
        let command = format!("kshot gate {RESULTS} --baseline {BASELINE} --repeat results/repeat");
        assert!(said.contains(&command) && text.contains(&command), "{said}");
        let json: serde_json::Value = serde_json::from_slice(&fs::read(sandbox.path("gate.json")).unwrap()).unwrap();
        assert_eq!(
            (&json["outcome"], &json["cells"][0]["verdict"], &json["family"]),
            (&"noise-unknown".into(), &"noise-unknown".into(), &0.into())
        );
        assert_eq!(json["cells"][0]["p_loss"], 1.0);
        let xml = fs::read_to_string(sandbox.path("gate.xml")).unwrap();
        assert!(xml.contains("tests=\"1\" failures=\"0\" errors=\"1\""), "{xml}");
        let markdown = fs::read_to_string(sandbox.path("gate.md")).unwrap();
        assert!(markdown.starts_with("## ⚠️ NOISE UNKNOWN"), "{markdown}");
    }
    // The same answers are the same, whatever gave them.
    fs::remove_dir_all(sandbox.path(RESULTS)).unwrap();
    let same = Cell {
        device: "cuda:NVIDIA H200",
        rank: 8,
        ..Cell::default()
    };
    of(&sandbox, RESULTS, &[same]);
    let (code, text, _) = gate(&sandbox, &[]);
    assert!(code == 0 && text.contains("1 unchanged"), "{text}");
}

#[test]
fn two_runs_on_one_gpu_differ_by_themselves() {
    let sandbox = Sandbox::new();
    let on_gpu = |right, rank| Cell {
        right,
        rank,
        device: "cuda:NVIDIA H200",
        ..Cell::default()
    };
    of(&sandbox, BASELINE, &[on_gpu(|i| i % 4 > 0, 4)]);
    of(&sandbox, RESULTS, &[on_gpu(|i| i % 4 > 0 && i % 10 != 1, 8)]);
    let (code, text, _) = gate(&sandbox, &[]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("where runs differ by themselves"), "{text}");
}

/// A loss that is known stays one, whatever else is unknown.
#[test]
fn an_unknown_cell_does_not_hide_a_loss() {
    let sandbox = Sandbox::new();
    let other = |right, threads, rank| Cell {
        learner: "Qwen3-VL LoRA",
        right,
        threads,
        rank,
        ..Cell::default()
    };
    let lost = Cell {
        right: |i| i % 4 > 1,
        rank: 8,
        ..Cell::default()
    };
    of(&sandbox, BASELINE, &[Cell::default(), other(|i| i % 4 > 0, 2, 4)]);
    of(&sandbox, RESULTS, &[lost, other(|i| i % 4 > 1, 4, 8)]);
    let (code, text, _) = gate(&sandbox, &[]);
    assert_eq!(code, 1, "{text}");
    assert!(text.starts_with("RED: 1 of 1 cell lost"), "{text}");
    assert!(text.contains("1 LOSS") && text.contains("1 noise unknown"), "{text}");
}

#[test]
fn seeds_bound_the_noise_that_was_not_measured() {
    let elsewhere = |cells: Vec<Cell>| -> Vec<Cell> {
        let other = |cell| Cell {
            threads: 4,
            rank: 8,
            ..cell
        };
        cells.into_iter().map(other).collect()
    };
    let night = |baseline: Vec<Cell>, results: Vec<Cell>| {
        let sandbox = Sandbox::new();
        of(&sandbox, BASELINE, &baseline);
        of(&sandbox, RESULTS, &elsewhere(results));
        let (code, text, _) = gate(&sandbox, &[]);
        assert!(text.contains("at most what the baseline's seeds differ by"), "{text}");
        (code, text)
    };
    // Seeds that agree to a point: a loss of 25 points is one.
    let mut agree = seeds(|i| i % 4 > 0, 0..3);
    agree.extend(seeds(|i| i % 4 > 0 && i % 100 != 1, 3..5));
    let (code, text) = night(agree, seeds(|i| i % 4 > 1, 0..5));
    assert_eq!(code, 1, "{text}");
    // Seeds that lie 25 points apart: who knows.
    let mut differ = seeds(|i| i % 4 > 0, 0..2);
    differ.extend(seeds(|i| i % 4 > 1, 2..4));
    let (code, text) = night(differ, seeds(|i| i % 4 > 1, 0..4));
    assert_eq!(code, 0, "{text}");
}

/// Runs of one machine that are the same to the byte say nothing of another machine.
#[test]
fn noise_that_was_measured_on_one_machine_is_not_that_of_another() {
    let sandbox = Sandbox::new();
    let made = |name: &str, right, threads, rank| {
        let cell = Cell {
            right,
            threads,
            rank,
            ..Cell::default()
        };
        of(&sandbox, name, &[cell]);
    };
    made("results/base", |i| i % 4 > 0, 2, 4);
    sandbox.succeed(&["promote", "results/base", BASELINE]);
    made("results/again", |i| i % 4 > 0, 2, 4);
    made(RESULTS, |i| i % 4 > 0 && i % 10 != 1, 4, 8);
    let (code, text, _) = gate(&sandbox, &["--repeat", "results/again"]);
    assert_eq!(code, 2, "{text}");
    // A repeat where the night was.
    made("results/there", |i| i % 4 > 0 && i % 20 != 3, 4, 4);
    let (code, text, _) = gate(&sandbox, &["--repeat", "results/there"]);
    assert!(code == 0 && text.contains("measured from results/there"), "{text}");
    // Kept, it is known where it was measured.
    let accept = [
        "gate",
        "results/there",
        "--baseline",
        BASELINE,
        "--repeat",
        "results/again",
        "--accept",
    ];
    sandbox.succeed(&accept);
    let kept = Noise::read(&sandbox.path(BASELINE)).unwrap().unwrap();
    assert_eq!(kept.cells[0].places.len(), 1, "the baseline before and its repeat");
}

/// The command that the report names does what it says, on real runs.
#[test]
fn the_noise_of_a_sweep_is_measured_as_the_hint_says() {
    let sandbox = Sandbox::new();
    sandbox.succeed(&["sweep", "--config", "tiny.toml"]);
    sandbox.succeed(&["promote", "results/tiny", BASELINE]);
    let config = format!("{BASELINE}/sweep.toml");
    sandbox.succeed(&["sweep", "--config", &config, "--set", "name=\"repeat\""]);
    sandbox.succeed(&["sweep", "--config", "tiny.toml", "--set", "name=\"night\""]);
    let text = sandbox.succeed(&[
        "gate",
        "results/night",
        "--baseline",
        BASELINE,
        "--repeat",
        "results/repeat",
    ]);
    assert!(text.contains("measured from results/repeat"), "{text}");
}
