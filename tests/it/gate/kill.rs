//! kill -9 at random moments of `gate --accept` and `promote`: the old baseline is there or the new one, never a mixture.

#![allow(clippy::print_stdout, reason = "says what was done")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use kshot::store::replacement;
use rand::Rng as _;

use super::cells::{Cell, folder};
use crate::support::{Sandbox, contents};

const BASELINE: &str = "results/reference/nightly";

/// Kills of each kind that met a process at work.
fn planned() -> u64 {
    std::env::var("KSHOT_SWAP_KILLS").map_or(20, |kills| kills.parse().unwrap())
}

/// What counts in a folder: the files that a reader of it sees, but for those that are in its way.
fn seen(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files: BTreeMap<_, _> = contents(&replacement::current(folder)).into_iter().collect();
    let ours = |path: &PathBuf| path == Path::new("README.md") || path.to_string_lossy().starts_with(".replacement");
    files.retain(|path, _| !ours(path));
    files
}

/// Two results folders, the second with so many cells more.
fn two_nights(sandbox: &Sandbox, more: u64) -> [&'static str; 2] {
    let names = ["results/one", "results/two"];
    for (name, rank) in names.iter().zip([4, 8]) {
        let cell = |seed| Cell {
            seed,
            rank,
            images: 40,
            right: if rank == 4 { |i| i % 4 > 0 } else { |i| i % 5 > 0 },
            ..Cell::default()
        };
        let cells: Vec<Cell> = (0..6 + if rank == 8 { more } else { 0 }).map(cell).collect();
        folder(&sandbox.path(name), &cells);
    }
    names
}

/// Puts one night after the other in the baseline's place with `command`, killed at random moments.
fn killed(name: &str, more: u64, command: impl Fn(&Sandbox, &str) -> std::process::Command) {
    let sandbox = Sandbox::new();
    let nights = two_nights(&sandbox, more);
    let baseline = sandbox.path(BASELINE);
    fs::create_dir_all(&baseline).unwrap();
    fs::write(baseline.join("README.md"), "Ours.\n").unwrap();
    let mut whole = Vec::new();
    let mut longest = Duration::ZERO;
    for _ in 0..2 {
        whole.clear();
        for night in nights {
            let clock = Instant::now();
            let status = command(&sandbox, night).stdout(Stdio::null()).status().unwrap();
            assert!(status.success(), "{name}");
            longest = longest.max(clock.elapsed());
            let files = seen(&baseline);
            assert!(files.len() > 18, "{:?}", files.keys());
            whole.push(files);
        }
    }
    assert!(whole[0] != whole[1]);
    let (mut current, mut old, mut new, mut ended) = (1, 0, 0, 0);
    let mut kill = 0;
    while old + new < planned() {
        kill += 1;
        assert!(kill < 10 * planned(), "{ended} of {kill} had ended");
        let next = 1 - current;
        let mut child = command(&sandbox, nights[next])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Every second one late, where the folders change places.
        let share: f64 = kshot::seed::rng(kill, name).random();
        let share = if kill % 2 == 0 { share } else { 0.6 + 0.5 * share };
        thread::sleep(longest.mul_f64(share));
        let has_ended = child.try_wait().unwrap().is_some();
        let _ = child.kill();
        child.wait().unwrap();
        let found = seen(&baseline);
        if has_ended {
            // Sooner next time.
            longest = longest.mul_f64(0.95);
            ended += 1;
            assert!(found == whole[next], "{name}, kill {kill}");
            current = next;
        } else if found == whole[next] {
            new += 1;
            current = next;
        } else {
            let differ: Vec<_> = found
                .iter()
                .filter(|(path, bytes)| whole[current].get(*path) != Some(*bytes))
                .map(|(path, _)| path)
                .collect();
            assert!(
                found == whole[current],
                "{name}, kill {kill}: neither the old baseline nor the new one: {differ:?}"
            );
            old += 1;
        }
    }
    println!("{name}: {old} times the old baseline, {new} times the new one, {ended} had ended");
    // What killed ones left goes with the next call.
    let next = 1 - current;
    let status = command(&sandbox, nights[next]).stdout(Stdio::null()).status().unwrap();
    assert!(status.success());
    assert!(seen(&baseline) == whole[next]);
    assert_eq!(fs::read_to_string(baseline.join("README.md")).unwrap(), "Ours.\n");
    for around in [baseline.parent().unwrap(), &baseline] {
        let hidden: Vec<_> = fs::read_dir(around)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with('.'))
            .collect();
        assert!(hidden.is_empty(), "{hidden:?}");
    }
}

#[test]
fn a_killed_accept_leaves_the_old_baseline_or_the_new_one() {
    killed("gate --accept", 0, |sandbox, night| {
        // Repeats make the noise a part of what changes at once.
        let again = format!("{night}-again");
        if !sandbox.path(&again).exists() {
            let (from, to) = (sandbox.path(night), sandbox.path(&again));
            crate::support::copy(&from, &to);
        }
        let mut command = sandbox.kshot(&["gate", night, "--baseline", BASELINE, "--accept"]);
        command.args(["--repeat", &again]);
        command
    });
}

#[test]
fn a_killed_promote_leaves_the_old_form_or_the_new_one() {
    killed("promote", 1, |sandbox, night| {
        sandbox.kshot(&["promote", night, BASELINE])
    });
}

/// A folder that cannot change places, for a process works in it.
#[test]
fn a_killed_promote_inside_leaves_the_old_form_or_the_new_one() {
    killed("promote inside", 1, |sandbox, night| {
        let night = format!("../../../{night}");
        let mut command = sandbox.kshot(&["promote", &night, "."]);
        command.current_dir(sandbox.path(BASELINE));
        command
    });
}
