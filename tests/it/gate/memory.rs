//! Very many cells in little memory.

#![allow(clippy::print_stdout, reason = "says what was done")]

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use kshot::store::Store;
use kshot::store::promote;

use super::cells::{Cell, many};
use crate::support::Sandbox;

/// Runs to the end; seconds of computing, which other processes do not lengthen, and peak of resident memory in MB.
fn measured(sandbox: &Sandbox, arguments: &[&str]) -> (f64, f64) {
    let output = fs::File::create(sandbox.path("stdout")).unwrap();
    let mut child = sandbox
        .kshot(arguments)
        .stdout(output)
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let [status, stat] = ["status", "stat"].map(|file| format!("/proc/{}/{file}", child.id()));
    let (mut peak, mut seconds) = (0.0_f64, 0.0_f64);
    let exit = loop {
        if let Ok(text) = fs::read_to_string(&status)
            && let Some(line) = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))
        {
            let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
            peak = peak.max(kib / 1e3);
        }
        // Fields 14 and 15 of proc_pid_stat(5), in hundredths of a second; the second field may hold blanks.
        if let Ok(text) = fs::read_to_string(&stat)
            && let Some((_, fields)) = text.rsplit_once(") ")
        {
            let ticks = fields
                .split(' ')
                .skip(11)
                .take(2)
                .map(|field| field.parse::<f64>().unwrap());
            seconds = seconds.max(ticks.sum::<f64>() / 100.0);
        }
        if let Some(exit) = child.try_wait().unwrap() {
            break exit;
        }
        thread::sleep(Duration::from_millis(2));
    };
    // The made-up cells have made-up names, which `verify` finds: exit code 1.
    assert!(
        exit.success() || arguments[0] == "verify" && exit.code() == Some(1),
        "{arguments:?}: {}",
        fs::read_to_string(sandbox.path("stdout")).unwrap()
    );
    (seconds, peak)
}

/// A night and a baseline of so many cells; seconds and megabytes of the gate and `verify` on both live, and on the
/// compact form of the baseline.
fn run(cells: usize, images: u32, whole: bool) -> Vec<(&'static str, f64, f64)> {
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
    if whole {
        // Figures and tables have a test of their own.
        let store = Store::open_existing(&sandbox.path("results/before")).unwrap();
        promote::promote(&store, &sandbox.path("results/reference"), |_, _| Ok(())).unwrap();
        take(
            "gate, promoted",
            &["gate", "results/night", "--baseline", "results/reference"],
        );
        take("verify, promoted", &["verify", "results/reference"]);
    }
    found
}

#[test]
fn a_cell_takes_kilobytes() {
    let few = run(200, 200, true);
    let more = run(1_200, 200, false);
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
