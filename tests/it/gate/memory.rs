//! Very many cells in little memory.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use super::cells::{Cell, many};
use crate::support::Sandbox;

/// Runs to the end; seconds and peak of resident memory in MB.
fn measured(sandbox: &Sandbox, arguments: &[&str]) -> (f64, f64) {
    let clock = Instant::now();
    let output = fs::File::create(sandbox.path("stdout")).unwrap();
    let mut child = sandbox
        .kshot(arguments)
        .stdout(output)
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0.0_f64;
    let exit = loop {
        if let Ok(text) = fs::read_to_string(&status)
            && let Some(line) = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))
        {
            let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
            peak = peak.max(kib / 1e3);
        }
        if let Some(exit) = child.try_wait().unwrap() {
            break exit;
        }
        thread::sleep(Duration::from_millis(2));
    };
    let seconds = clock.elapsed().as_secs_f64();
    assert!(
        exit.success(),
        "{arguments:?}: {}",
        fs::read_to_string(sandbox.path("stdout")).unwrap()
    );
    (seconds, peak)
}

/// A night and a baseline of so many cells; seconds and megabytes of the gate on both live, of `promote`, of `verify` of
/// the compact form, and of the gate on it.
fn run(cells: usize, images: u32, plot: bool) -> Vec<(&'static str, f64, f64)> {
    let sandbox = Sandbox::new();
    let night = |rank| Cell {
        rank,
        images,
        ..Cell::default()
    };
    many(&sandbox.path("results/night"), cells, &night(8));
    many(&sandbox.path("results/before"), cells, &night(4));
    let mut found = Vec::new();
    let mut take = |what, arguments: &[&str]| {
        let (seconds, peak) = measured(&sandbox, arguments);
        println!("{cells} cells of {images} images, {what}: {seconds:.2} s, {peak:.0} MB");
        found.push((what, seconds, peak));
    };
    take(
        "gate, live",
        &[
            "gate",
            "results/night",
            "--baseline",
            "results/before",
            "--json",
            "gate.json",
            "--junit",
            "gate.xml",
            "--markdown",
            "gate.md",
        ],
    );
    assert!(Path::new(&sandbox.path("gate.json")).exists());
    take("verify, live", &["verify", "results/night"]);
    if plot {
        take("promote", &["promote", "results/before", "results/reference"]);
        take(
            "gate, promoted",
            &["gate", "results/night", "--baseline", "results/reference"],
        );
        take("verify, promoted", &["verify", "results/reference"]);
        take("plot", &["plot", "results/night"]);
    }
    found
}

#[test]
fn a_cell_takes_kilobytes() {
    let few = run(200, 400, true);
    let more = run(1_200, 400, false);
    let of = |found: &[(&str, f64, f64)], what: &str| found.iter().find(|(name, ..)| *name == what).unwrap().2;
    let per_cell = (of(&more, "gate, live") - of(&few, "gate, live")) / 1_000.0;
    assert!(per_cell < 0.012, "{per_cell} MB a cell");
}

#[test]
#[ignore = "writes and reads 20,000 cells; tests/slow/run does it"]
fn ten_thousand_cells_in_150_megabytes() {
    let thousand = run(1_000, 400, true);
    let ten = run(10_000, 400, true);
    for ((what, before, _), (_, seconds, peak)) in thousand.iter().zip(&ten) {
        let exponent = (seconds / before).log10();
        println!("{what}: exponent of time {exponent:.3}");
        if what.starts_with("gate") {
            assert!(*peak < 150.0, "{what}: {peak} MB");
            assert!(exponent <= 1.05, "{what}: {exponent}");
        }
    }
}
