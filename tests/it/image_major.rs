//! Cells whose test images are more than what is kept of them: they are asked about each image one after the other.

use std::collections::HashSet;
use std::fs;

use crate::forty::{self, FEW, Running};
use crate::support::{Sandbox, contents, datasets, stderr};

/// Three cells that differ in nothing but the name: what they cost is the tower's work alone.
const THREE: &str = r#"
name = "three"
datasets = ["mini-pets"]
shots = [0]
seeds = [0]
learner = [
    { method = "qwen3-vl-lora", name = "a", model = "datasets/mini/models/micro-qwen3-vl", readings = ["likelihood"], reading = "likelihood" },
    { method = "qwen3-vl-lora", name = "b", model = "datasets/mini/models/micro-qwen3-vl", readings = ["likelihood"], reading = "likelihood" },
    { method = "qwen3-vl-lora", name = "c", model = "datasets/mini/models/micro-qwen3-vl", readings = ["likelihood"], reading = "likelihood" },
]
"#;

/// Pictures that the tower saw in a sweep: the last that was said of it.
fn seen(log: &str) -> usize {
    let last = log.lines().rev().find_map(|line| line.split_once("pictures so far: "));
    last.unwrap().1.split_once(" seen").unwrap().0.parse().unwrap()
}

/// Cells that were asked, and how often it was another one's turn.
fn turns<'l>(log: impl Iterator<Item = &'l str>) -> (usize, usize) {
    let asked = log.filter_map(|line| line.split_once(": Predicted(")?.0.split_once("cell "));
    let asked: Vec<&str> = asked.map(|(_, run_id)| run_id).collect();
    let cells: HashSet<&str> = asked.iter().copied().collect();
    (cells.len(), asked.windows(2).filter(|pair| pair[0] != pair[1]).count())
}

#[test]
fn the_tower_sees_each_test_image_once_for_all_cells_whatever_room_there_is() {
    let swept = |room: Option<&str>| {
        let sandbox = Sandbox::new();
        fs::write(sandbox.path("three.toml"), THREE).unwrap();
        let mut command = sandbox.kshot(&["sweep", "--config", "three.toml"]);
        command.env("KSHOT_LOG", "kshot=debug");
        if let Some(room) = room {
            command.env("KSHOT_FEATURE_CACHE_GB", room);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let mut files = contents(&sandbox.path("results/three"));
        files.retain(|path, _| path.starts_with("predictions") || path.ends_with("ledger.csv"));
        assert_eq!(files.len(), 4);
        (seen(&stderr(&output)), files, stderr(&output))
    };
    let (once, expected, _) = swept(None);
    for room in [FEW, "0"] {
        let (few, found, log) = swept(Some(room));
        assert_eq!(few, once, "{log}");
        assert!(found == expected, "other answers with room {room}");
        // Together they were: the second is asked before the first is through.
        let (cells, turns) = turns(log.lines());
        assert!(cells == 3 && turns > 6, "{cells} cells, {turns} turns: {log}");
    }
}

#[test]
fn adapters_that_take_turns_leave_the_bytes_of_those_that_do_not() {
    let sandbox = forty::sandbox();
    let lines = Running::image_major(&sandbox).succeed();
    assert_eq!(forty::ran(&lines), forty::CELLS);
    // One by one 40 cells change 39 times.
    let (cells, turns) = turns(lines.iter().map(String::as_str));
    assert!(
        cells == forty::CELLS && turns > forty::CELLS + 20,
        "{cells} cells, {turns} turns"
    );
    forty::assert_whole(&sandbox.path("results/forty"));
}

#[test]
fn an_image_that_breaks_meanwhile_fails_each_cell_by_name() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("three.toml"), THREE).unwrap();
    let cache = sandbox.path("cache");
    let dataset = kshot::data::open("mini-pets", &datasets(), &cache).unwrap();
    let broken = &dataset.test.last().unwrap().path;
    let mut command = sandbox.kshot(&["sweep", "--config", "three.toml"]);
    command.env("KSHOT_CACHE", &cache).env("KSHOT_FEATURE_CACHE_GB", FEW);
    let mut running = Running::start(command);
    assert!(running.until(|lines| lines.iter().any(|line| line.contains("Predicted(32)"))));
    fs::write(broken, b"no image").unwrap();
    let (status, lines) = running.end();
    let name = broken.file_name().unwrap().to_str().unwrap();
    let failed = |line: &String| line.contains("FAILED");
    let named = |line: &String| line.starts_with("error: ") && line.contains(name);
    assert!(!status.success());
    assert_eq!(lines.iter().filter(|line| failed(line)).count(), 3, "{lines:?}");
    assert_eq!(lines.iter().filter(|line| named(line)).count(), 3, "{lines:?}");
}
