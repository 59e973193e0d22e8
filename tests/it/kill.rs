//! kill -9 at random moments, again and again: the results are those of an undisturbed run, and hardly anything is
//! done twice.

use std::collections::HashMap;
use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use crate::forty::{self, CELLS, CHECKPOINT_STEPS, Running};
use crate::support::{Sandbox, contents, stderr};

/// A generator good enough to choose moments: splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// What a process told of its work on cells, in order.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Told {
    /// So many steps were done, of so many.
    Trained(usize, usize),
    /// So many more images were predicted.
    Predicted(usize),
}

fn told(line: &str) -> Option<(&str, Told)> {
    let (run_id, event) = line.split_once("cell ")?.1.split_once(": ")?;
    let number = |after: &str| -> Option<usize> {
        let digits = event.split_once(after)?.1;
        digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    if event.starts_with("Trained(") {
        return Some((run_id, Told::Trained(number("done: ")?, number("of: ")?)));
    }
    event
        .starts_with("Predicted(")
        .then(|| number("Predicted(").map(|n| (run_id, Told::Predicted(n))))?
}

/// How far a cell has come in any process.
#[derive(Debug, Default)]
struct Progress {
    steps: usize,
    images: usize,
}

/// Follows what a process told, and demands that it went on where the one before it was: at most so many steps, and
/// no closed batch, are done again. Gives how many were.
fn follow(cells: &mut HashMap<String, Progress>, lines: &[String]) -> usize {
    let mut here: HashMap<&str, Progress> = HashMap::new();
    let mut again = 0;
    for (run_id, told) in lines.iter().filter_map(|line| told(line)) {
        let before = cells.get(run_id);
        let first = here.get(run_id).is_none_or(|now| match told {
            Told::Trained(..) => now.steps == 0,
            Told::Predicted(_) => now.images == usize::MAX,
        });
        let now = here.entry(run_id).or_insert(Progress {
            steps: 0,
            images: usize::MAX,
        });
        match told {
            Told::Trained(done, of) => {
                if first && let Some(before) = before {
                    // A state that was kept is told at once; a training that starts anew begins with its first step.
                    let kept = if done == 1 { 0 } else { done };
                    let repeated = before.steps.saturating_sub(kept);
                    assert!(repeated <= CHECKPOINT_STEPS, "{run_id}: {repeated} of {of} steps again");
                    again += repeated;
                }
                now.steps = done;
            }
            Told::Predicted(images) => {
                if first {
                    let kept = before.map_or(0, |before| before.images);
                    assert!(
                        images >= kept,
                        "{run_id}: {images} of {kept} predicted images were kept"
                    );
                }
                now.images = if first { images } else { now.images + images };
            }
        }
    }
    for (run_id, now) in here {
        let all = cells.entry(run_id.to_owned()).or_default();
        all.steps = all.steps.max(now.steps);
        if now.images != usize::MAX {
            all.images = all.images.max(now.images);
        }
    }
    again
}

#[test]
fn killed_at_random_moments_it_ends_with_the_same_bytes() {
    // A few more than are wanted: on a fast machine some find that the sweep has just ended.
    let planned = std::env::var("KSHOT_KILLS").map_or(12, |kills| kills.parse::<usize>().unwrap());
    let sandbox = forty::sandbox();
    let folder = sandbox.path("results/forty");
    let mut random = Random(4);
    let mut cells = HashMap::new();
    let (mut kills, mut in_training, mut in_evaluation, mut again) = (0, 0, 0, 0);
    let mut stored = forty::finished(&folder);
    for number in 0..planned {
        // What cells side by side began, cells together end, and the other way round.
        let mut running = match number % 2 {
            0 => Running::sweep(&sandbox, &["--jobs", "4"]),
            _ => Running::image_major(&sandbox),
        };
        // Spread over the run; then in training, in evaluation or wherever it is.
        let due = number * CELLS / planned;
        let mut alive = running.until(|_| forty::finished(&folder).len() >= due);
        let from = running.lines().len();
        let after = |lines: &[String], wanted: fn(Told) -> bool| {
            lines[from..]
                .iter()
                .filter_map(|line| told(line))
                .any(|(_, told)| wanted(told))
        };
        // One that is ahead is killed as soon as it works on a cell, or before: the later ones want something to do.
        let ahead = forty::finished(&folder).len() > due;
        alive = alive
            && match number % 3 {
                2 => true,
                _ if ahead => running.until(|lines| lines.iter().any(|line| told(line).is_some())),
                0 => running.until(|lines| after(lines, |told| matches!(told, Told::Trained(done, of) if done < of))),
                _ => running.until(|lines| after(lines, |told| matches!(told, Told::Predicted(_)))),
            };
        if alive {
            let most = if number % 3 == 2 && !ahead { 400_000 } else { 20_000 };
            thread::sleep(Duration::from_micros(random.below(most)));
        }
        let (alive, lines) = running.kill();
        kills += usize::from(alive);
        let last = lines.iter().rev().find_map(|line| told(line));
        in_training += usize::from(matches!(last, Some((_, Told::Trained(done, of))) if done < of));
        in_evaluation += usize::from(matches!(last, Some((_, Told::Predicted(_)))));
        again += follow(&mut cells, &lines);
        // A finished cell is never run again.
        let now = forty::finished(&folder);
        for (run_id, file) in &stored {
            assert_eq!(now.get(run_id), Some(file), "cell {run_id} was stored again");
        }
        stored = now;
    }
    assert!(kills * 4 >= planned * 3, "only {kills} of {planned} found it alive");
    assert!(in_training >= planned / 10 && in_evaluation >= planned / 10);

    let lines = Running::sweep(&sandbox, &[]).succeed();
    again += follow(&mut cells, &lines);
    let now = forty::finished(&folder);
    assert!(stored.iter().all(|(run_id, file)| now.get(run_id) == Some(file)));
    assert_eq!(forty::ran(&lines), CELLS - stored.len());
    forty::assert_whole(&folder);
    assert!(again <= kills * CHECKPOINT_STEPS);
    println!("{kills} kills, {in_training} in training, {in_evaluation} in evaluation; {again} steps were done again");
}

#[test]
fn what_is_told_is_understood() {
    let line = "DEBUG kshot::experiment::sweep: cell 01ab: Trained(Step { done: 4, of: 10, images: 16, loss: 2.5 })";
    assert_eq!(told(line), Some(("01ab", Told::Trained(4, 10))));
    assert_eq!(
        told("DEBUG x: cell 01ab: Predicted(64)"),
        Some(("01ab", Told::Predicted(64)))
    );
    assert_eq!(told("[1/40] mini-pets · clean · cell 3: x · 1 shot"), None);
    let lines = |done: &[usize]| -> Vec<String> {
        let line = |done| format!("cell a: Trained(Step {{ done: {done}, of: 9, images: 16, loss: 2.5 }})");
        done.iter().map(line).collect()
    };
    let mut cells = HashMap::new();
    assert_eq!(follow(&mut cells, &lines(&[1, 2, 3])), 0);
    assert_eq!(follow(&mut cells, &lines(&[2, 3, 4, 5])), 1);
    let anew = std::panic::catch_unwind(move || follow(&mut cells, &lines(&[1, 2])));
    assert!(anew.is_err(), "five steps done again must not go unnoticed");
}

/// Killed while datasets are unpacked and hashes are written down, again and again in one cache: nothing torn is taken for
/// whole, and the next process that gets through leaves nothing of the others behind.
#[test]
fn a_cache_that_is_written_while_processes_are_killed_stays_whole() {
    let sandbox = Sandbox::new();
    let cache = sandbox.path("cache");
    let sweep = |sandbox: &Sandbox| {
        let mut command = sandbox.kshot(&["sweep", "--config", "tiny.toml", "--dry-run", "--json"]);
        command.env("KSHOT_CACHE", &cache);
        command
    };
    let mut random = Random(7);
    let (mut cut, mut longest) = (0, 400);
    for _ in 0..30 {
        // A whole one has nothing to write any more.
        if fs::read_dir(&cache).is_ok() && random.below(2) == 0 {
            fs::remove_dir_all(&cache).unwrap();
        }
        let mut child = sweep(&sandbox)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(random.below(longest)));
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            longest = (longest * 4 / 5).max(20);
        } else {
            cut += 1;
        }
    }
    assert!(cut > 3, "{cut} kills");
    let last = sweep(&sandbox).output().unwrap();
    assert!(last.status.success(), "{}", stderr(&last));
    let left: Vec<_> = contents(&cache)
        .into_keys()
        .filter(|path| path.to_string_lossy().contains("partial"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let cells = |stdout: &[u8]| serde_json::from_slice::<serde_json::Value>(stdout).unwrap()["cells"].take();
    let undisturbed = Sandbox::new().run(&["sweep", "--config", "tiny.toml", "--dry-run", "--json"]);
    assert_eq!(cells(&last.stdout), cells(&undisturbed.stdout));
}
