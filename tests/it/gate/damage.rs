//! Damaged baselines: no panic, no hang, and never a green gate.

#![allow(clippy::print_stdout, reason = "says what was done")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use kshot::gate::folder::Folder;
use kshot::gate::folder::Shared;
use kshot::gate::noise::Noise;
use kshot::gate::problem::Role;
use kshot::gate::report::{NoiseSource, Outcome};
use kshot::gate::{Settings, judge};
use rand::{Rng as _, RngCore};
use sha2::{Digest as _, Sha256};

use super::cells::{Cell, folder};
use super::{BASELINE, RESULTS};
use crate::support::{Sandbox, contents, copy};

fn mutations() -> u64 {
    std::env::var("KSHOT_GATE_MUTATIONS").map_or(200, |count| count.parse().unwrap())
}

/// One random change: a bit, a byte, a stretch cut out, doubled or filled, a digit.
fn damaged(bytes: &[u8], random: &mut dyn RngCore) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = random.random_range(0..bytes.len().max(1));
    let long = random
        .random_range(1..=bytes.len().clamp(1, 64))
        .min(bytes.len() - at.min(bytes.len()));
    match random.random_range(0..7_u32) {
        _ if bytes.is_empty() => bytes.push(0),
        0 => bytes[at] ^= 1 << random.random_range(0..8_u32),
        1 => bytes[at] = random.random(),
        2 => drop(bytes.drain(at..at + long)),
        3 => {
            let piece = bytes[at..at + long].to_vec();
            bytes.splice(at..at, piece);
        }
        4 => bytes[at..at + long].fill(if random.random() { 0 } else { 0xff }),
        5 => bytes.truncate(at),
        _ => {
            // In text, numbers are what hurts.
            let digits: Vec<usize> = (0..bytes.len()).filter(|&i| bytes[i].is_ascii_digit()).collect();
            if !digits.is_empty() {
                let i = digits[random.random_range(0..digits.len())];
                let number: &[u8] = [&b"9"[..], b"-1", b"1e999", b"18446744073709551615", b"null", b"0"]
                    [random.random_range(0..6_usize)];
                bytes.splice(i..=i, number.iter().copied());
            }
        }
    }
    bytes
}

/// What the gate comes to, as its verb does it; `None` for an error.
fn outcome(results: &Path, baseline: &Path) -> Option<Outcome> {
    let shared = &mut Shared::default();
    let results = Folder::read(results, Role::Results, shared).ok()?;
    let read = Folder::read(baseline, Role::Baseline, shared).ok()?;
    let (noise, source) = match Noise::read(baseline).ok()? {
        Some(noise) => (noise, NoiseSource::Stored),
        None => (Noise::default(), NoiseSource::NotMeasured),
    };
    let settings = Settings {
        margin: 0.005,
        level: 0.05,
    };
    let report = judge((&results, &read), (&noise, source), settings, Vec::new());
    let forms = [report.text(), report.junit(), report.markdown(), report.json().unwrap()];
    assert!(forms.iter().all(|form| !form.is_empty()));
    Some(report.outcome)
}

/// A baseline, and results that lost a tenth against it: sound, the gate is red.
fn red(sandbox: &Sandbox, promoted: bool) {
    let cell = |seed, right, rank| Cell {
        seed,
        right,
        rank,
        images: 120,
        ..Cell::default()
    };
    folder(
        &sandbox.path(RESULTS),
        &[0, 1].map(|seed| cell(seed, |i| i % 4 > 0 && i % 7 != 1, 8)),
    );
    let old = [0, 1].map(|seed| cell(seed, |i| i % 4 > 0, 4));
    if promoted {
        folder(&sandbox.path("results/before"), &old);
        sandbox.succeed(&["promote", "results/before", BASELINE]);
    } else {
        folder(&sandbox.path(BASELINE), &old);
    }
}

fn never_green(promoted: bool) {
    let sandbox = Sandbox::new();
    red(&sandbox, promoted);
    let (results, baseline) = (sandbox.path(RESULTS), sandbox.path(BASELINE));
    assert_eq!(outcome(&results, &baseline), Some(Outcome::Red));
    let read = |path: &PathBuf| {
        path.starts_with("cells")
            || path.starts_with("predictions")
            || path.to_string_lossy().starts_with("predictions.parquet")
    };
    let files: Vec<(PathBuf, Vec<u8>)> = contents(&baseline).into_iter().filter(|(path, _)| read(path)).collect();
    let (mut errors, mut red) = (0, 0);
    for number in 0..mutations() {
        let random = &mut kshot::seed::rng(number, "damage");
        let (path, bytes) = &files[random.random_range(0..files.len())];
        let bad = damaged(bytes, random);
        let path_there = baseline.join(path);
        fs::write(&path_there, &bad).unwrap();
        // Sometimes the hash beside it is made to fit, as whoever edits a file on purpose would do.
        let hash = baseline.join("predictions.parquet.sha256");
        let kept = fs::read(&hash).ok();
        if path == Path::new("predictions.parquet") && number % 2 == 0 {
            let hex: String = Sha256::digest(&bad).iter().map(|byte| format!("{byte:02x}")).collect();
            fs::write(&hash, format!("{hex}  predictions.parquet\n")).unwrap();
        }
        let clock = Instant::now();
        let found = std::panic::catch_unwind(|| outcome(&results, &baseline));
        let found = found.unwrap_or_else(|_| panic!("mutation {number} of {}", path.display()));
        assert!(clock.elapsed() < Duration::from_secs(10), "mutation {number}");
        match found {
            None | Some(Outcome::Error) => errors += 1,
            // What does not matter was changed: a date, a blank.
            Some(Outcome::Red) => red += 1,
            // Said to be of another machine.
            Some(Outcome::NoiseUnknown) => errors += 1,
            Some(Outcome::Green) => panic!("mutation {number} of {} is green", path.display()),
        }
        fs::write(&path_there, bytes).unwrap();
        if let Some(kept) = kept {
            fs::write(&hash, kept).unwrap();
        }
    }
    println!("{errors} errors, {red} red");
    assert!(errors > 0);
}

#[test]
fn a_damaged_live_baseline_is_never_green() {
    never_green(false);
}

#[test]
fn a_damaged_promoted_baseline_is_never_green() {
    never_green(true);
}

#[test]
fn damaged_noise_is_never_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::new();
    red(&sandbox, true);
    copy(&sandbox.path(BASELINE), &sandbox.path("results/again"));
    let accept = [
        "gate",
        RESULTS,
        "--baseline",
        BASELINE,
        "--repeat",
        "results/again",
        "--accept",
    ];
    sandbox.succeed(&accept);
    let good = fs::read(sandbox.path(BASELINE).join("noise.json")).unwrap();
    let (mut read, mut refused) = (0, 0);
    for number in 0..10 * mutations() {
        let random = &mut kshot::seed::rng(number, "noise");
        fs::write(folder.path().join("noise.json"), damaged(&good, random)).unwrap();
        match Noise::read(folder.path()) {
            Ok(noise) => {
                let noise = noise.unwrap();
                assert!(noise.pools().iter().all(|pool| pool.noise_points.is_finite()));
                for cell in &noise.cells {
                    let of = noise.of(&cell.key).unwrap();
                    assert!(of.variance.is_finite() && of.uncertainty >= 0.0, "{of:?}");
                }
                read += 1;
            }
            Err(_) => refused += 1,
        }
    }
    println!("{read} read, {refused} refused");
    assert!(refused > 0);
}

/// The binary on a few of them, with its memory bounded.
#[test]
fn the_binary_survives_what_the_library_does() {
    let sandbox = Sandbox::new();
    red(&sandbox, true);
    let path = sandbox.path(BASELINE).join("predictions.parquet");
    let good = fs::read(&path).unwrap();
    for number in 0..mutations() / 20 {
        let bad = damaged(&good, &mut kshot::seed::rng(number, "binary"));
        let hex: String = Sha256::digest(&bad).iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(&path, bad).unwrap();
        fs::write(
            sandbox.path(BASELINE).join("predictions.parquet.sha256"),
            format!("{hex}  predictions.parquet\n"),
        )
        .unwrap();
        let kshot = env!("CARGO_BIN_EXE_kshot");
        let output = std::process::Command::new("sh")
            .args([
                "-c",
                &format!("ulimit -v 4000000; exec {kshot} gate {RESULTS} --baseline {BASELINE}"),
            ])
            .current_dir(sandbox.path(""))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{number}: {said}");
        assert!(!said.contains("panicked"), "{number}: {said}");
    }
}
