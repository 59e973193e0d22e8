//! Many processes on one results folder: every cell is run by one of them, whatever happens to the others.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kshot::process::Process;
use serde_json::{Value, json};

use crate::forty::{self, CELLS, Running};
use crate::support::{Sandbox, contents, root, stderr};

/// Claims in a results folder, of the process if one is given: file, cell.
fn claims(folder: &Path, of: Option<u32>) -> Vec<(PathBuf, String)> {
    let files = contents(&folder.join("claims"));
    let held = files.into_iter().filter_map(|(path, bytes)| {
        // Not those that are about to be made.
        path.extension().filter(|end| *end == "json")?;
        let claim: Value = serde_json::from_slice(&bytes).ok()?;
        let owned = of.is_none_or(|pid| claim["owner"]["pid"] == pid);
        owned.then(|| (path, claim["run_id"].as_str().unwrap().to_owned()))
    });
    held.collect()
}

/// The cells of a sweep, as `--dry-run --json` lists them.
fn planned(sandbox: &Sandbox, config: &str) -> Vec<Value> {
    let listed = sandbox.succeed(&["sweep", "--config", config, "--dry-run", "--json"]);
    let plan: Value = serde_json::from_str(&listed).unwrap();
    plan["cells"].as_array().unwrap().clone()
}

/// Stops a process in the middle of a cell; the cells that it holds and has not stored, first one that it is at work on.
fn stop_in_a_cell(running: &mut Running, folder: &Path) -> Vec<String> {
    let pid = running.id();
    // It has looked for a record and begun, and does not put one into its place.
    let at_work = |lines: &[String], run_id: &str| {
        let heard = format!("cell {run_id}: ");
        let last = lines.iter().rfind(|line| line.contains(&heard));
        last.is_some_and(|line| !line.contains("Complete"))
    };
    loop {
        let held = |lines: &[String]| {
            // Of cells side by side some may be stored, with claims that are about to go.
            let mut held: Vec<String> = claims(folder, Some(pid))
                .into_iter()
                .map(|(_, run_id)| run_id)
                .filter(|run_id| !folder.join(format!("cells/{run_id}.json")).exists())
                .collect();
            held.sort_by_key(|run_id| !at_work(lines, run_id));
            if held.first().is_some_and(|run_id| at_work(lines, run_id)) {
                held
            } else {
                Vec::new()
            }
        };
        assert!(
            running.until(|lines| !held(lines).is_empty()),
            "it ended without a cell"
        );
        running.signal("-STOP");
        // What it said before it stopped has to be read.
        std::thread::sleep(std::time::Duration::from_millis(50));
        let held = held(&running.lines());
        if !held.is_empty() {
            return held;
        }
        running.signal("-CONT");
    }
}

#[test]
fn four_sweeps_share_the_cells() {
    let sandbox = forty::sandbox();
    let running: Vec<Running> = (0..4).map(|_| Running::sweep(&sandbox, &[])).collect();
    let ran: Vec<usize> = running.into_iter().map(|sweep| forty::ran(&sweep.succeed())).collect();
    assert_eq!(ran.iter().sum::<usize>(), CELLS, "{ran:?}");
    forty::assert_whole(&sandbox.path("results/forty"));
}

#[test]
fn the_cells_of_a_killed_sweep_are_taken_over() {
    let sandbox = forty::sandbox();
    let folder = sandbox.path("results/forty");
    let mut others: Vec<Running> = (0..3).map(|_| Running::sweep(&sandbox, &[])).collect();
    let mut victim = Running::sweep(&sandbox, &[]);
    let held = stop_in_a_cell(&mut victim, &folder);
    // What a process leaves that is killed between writing a file and putting it into its place.
    let (claim, _) = &claims(&folder, Some(victim.id()))[0];
    let mut claim: Value = serde_json::from_slice(&fs::read(folder.join("claims").join(claim)).unwrap()).unwrap();
    let tag = serde_json::from_value::<Process>(claim["owner"].take()).unwrap().tag();
    for path in ["claims/0.0.json", "cells/0.json", "predictions/0.parquet", "ledger.csv"] {
        fs::write(folder.join(format!("{path}.{tag}-1000000.tmp")), "half").unwrap();
    }
    let (alive, lines) = victim.kill();
    assert!(alive);
    let mut ran = forty::ran(&lines);
    let mut said = Vec::new();
    for other in others.drain(..) {
        let lines = other.succeed();
        ran += forty::ran(&lines);
        said.extend(lines);
    }
    assert_eq!(ran, CELLS);
    for run_id in held {
        let taken = format!("cell {run_id} is taken over: process ");
        assert!(
            said.iter()
                .any(|line| line.contains(&taken) && line.ends_with("has ended")),
            "{run_id}"
        );
    }
    forty::assert_whole(&folder);
}

#[test]
fn a_cell_that_fails_elsewhere_is_not_waited_for_and_not_tried_again() {
    let sandbox = forty::sandbox();
    let folder = sandbox.path("results/forty");
    let cells = planned(&sandbox, "forty.toml");
    let run_id = cells.last().unwrap()["run_id"].as_str().unwrap();
    // A file cannot take the place of a folder.
    let obstacle = folder.join(format!("predictions/{run_id}.parquet"));
    fs::create_dir_all(&obstacle).unwrap();
    let mut sweeps = [(); 2].map(|()| Running::sweep(&sandbox, &[]));
    let lines: Vec<String> = sweeps
        .iter_mut()
        .flat_map(|sweep| {
            let (status, lines) = sweep.end();
            assert_eq!(status.code(), Some(2), "{lines:?}");
            lines
        })
        .collect();
    assert_eq!(forty::ran(&lines), CELLS - 1);
    let said = |words: &str| lines.iter().filter(|line| line.contains(words)).count();
    assert_eq!(said("FAILED"), 2, "{lines:?}");
    assert_eq!(
        said(&format!("error: cell {run_id} failed in another process: cannot write")),
        1,
        "{lines:?}"
    );
    assert_eq!(said("error: 1 of 40 cells failed"), 2);
    fs::remove_dir(&obstacle).unwrap();
    assert_eq!(forty::ran(&Running::sweep(&sandbox, &[]).succeed()), 1);
    forty::assert_whole(&folder);
}

#[test]
fn a_sweep_that_sleeps_for_longer_than_its_lease_drops_its_work() {
    let sandbox = forty::sandbox();
    let folder = sandbox.path("results/forty");
    let mut sleeper = Running::sweep(&sandbox, &["--lease", "1"]);
    let held = stop_in_a_cell(&mut sleeper, &folder);
    let others = Running::sweep(&sandbox, &["--lease", "1"]).succeed();
    let taken = format!("cell {} is taken over: process {} on ", held[0], sleeper.id());
    assert!(
        others
            .iter()
            .any(|line| line.contains(&taken) && line.contains("was silent for 1 s")),
        "{others:?}"
    );
    let stored = forty::finished(&folder);
    assert_eq!(stored.len(), CELLS);
    sleeper.signal("-CONT");
    let lines = sleeper.succeed();
    assert!(
        lines
            .iter()
            .any(|line| line.contains("dropped: ") && line.contains("--lease")),
        "{lines:?}"
    );
    assert_eq!(forty::finished(&folder), stored, "nothing is stored twice");
    assert_eq!(forty::ran(&lines) + forty::ran(&others), CELLS);
    forty::assert_whole(&folder);
}

#[test]
fn claims_of_another_machine_are_waited_for_a_lease() {
    let sandbox = Sandbox::new();
    let cells = planned(&sandbox, "tiny.toml");
    assert!(
        cells.len() == 4 && cells.iter().all(|cell| cell["state"] == "to do"),
        "{cells:?}"
    );
    let claim = |n: usize| format!("results/tiny/claims/{}.{n}.json", cells[n]["run_id"].as_str().unwrap());
    fs::create_dir_all(sandbox.path("results/tiny/claims")).unwrap();
    let foreign = json!({
        "schema": 1,
        "run_id": cells[0]["run_id"],
        "owner": {"host": "node-7", "boot": "5cd8", "pid_namespace": 1, "pid": 1, "started": 1, "user": 0},
        "token": "0123456789abcdef",
        "lease_seconds": 1.0,
        "beat": 3,
        "time": "2020-01-01T00:00:00Z",
    });
    fs::write(sandbox.path(&claim(0)), foreign.to_string()).unwrap();
    fs::write(sandbox.path(&claim(1)), "{\"schema\":").unwrap();
    let said = sandbox.run(&["sweep", "--config", "tiny.toml", "--lease", "1"]);
    assert!(said.status.success());
    let said = stderr(&said);
    let key = format!(
        "waiting for mini-pets · clean · {}",
        cells[0]["key"]["learner"].as_str().unwrap()
    );
    for words in [
        key.as_str(),
        "run by process 1 on node-7",
        "process 1 on node-7 was silent for 1 s",
        &format!("{}` is torn", claim(1)),
        "[4/4]",
    ] {
        assert!(said.contains(words), "`{words}` is not in: {said}");
    }
    assert!(claims(&sandbox.path("results/tiny"), None).is_empty());
    let cells = planned(&sandbox, "tiny.toml");
    assert!(cells.iter().all(|cell| cell["state"] == "finished"), "{cells:?}");
}

#[test]
fn one_cell_is_run_once_however_often_it_is_asked_for() {
    let (sandbox, whole) = (Sandbox::new(), Sandbox::new());
    whole.succeed(&["sweep", "--config", "tiny.toml"]);
    for cell in planned(&sandbox, "tiny.toml") {
        let run_id = cell["run_id"].as_str().unwrap();
        let call = ["run", "--config", "tiny.toml", "--cell", run_id];
        let line = sandbox.succeed(&call);
        let path = format!("results/tiny/cells/{run_id}.json");
        assert!(line.contains(cell["key"]["learner"].as_str().unwrap()), "{line}");
        assert!(line.ends_with(&format!(" % · {path}\n")), "{line}");
        let stored = fs::metadata(sandbox.path(&path)).unwrap().modified().unwrap();
        let again = sandbox.run(&call);
        assert_eq!(String::from_utf8(again.stdout.clone()).unwrap(), line);
        assert!(stderr(&again).contains("1 of 1 cells are finished already"));
        assert_eq!(fs::metadata(sandbox.path(&path)).unwrap().modified().unwrap(), stored);
    }
    assert!(!sandbox.path("results/tiny/ledger.csv").exists());
    let last = sandbox.run(&["sweep", "--config", "tiny.toml"]);
    assert!(stderr(&last).contains("4 of 4 cells are finished already"));
    let of = |sandbox: &Sandbox| forty::results(&sandbox.path("results/tiny"));
    assert!(of(&sandbox) == of(&whole));

    let unknown = sandbox.run(&["run", "--config", "tiny.toml", "--cell", "0123456789abcdef"]);
    assert_eq!(unknown.status.code(), Some(2));
    let said = stderr(&unknown);
    assert!(
        said.contains("0123456789abcdef") && said.contains("--dry-run"),
        "{said}"
    );
}

#[test]
fn shards_in_any_order_make_the_same_ledger() {
    let whole = Sandbox::new();
    whole.succeed(&["sweep", "--config", "tiny.toml"]);
    let whole = forty::results(&whole.path("results/tiny"));
    for shards in [&["1/2", "0/2"][..], &["2/3", "0/3", "1/3"]] {
        let sandbox = Sandbox::new();
        for shard in shards {
            sandbox.succeed(&["sweep", "--config", "tiny.toml", "--shard", shard]);
        }
        assert!(forty::results(&sandbox.path("results/tiny")) == whole, "{shards:?}");
    }
    for (wrong, word) in [("2/2", "count from 0"), ("1", "0/4"), ("-1/2", "0/4")] {
        let sandbox = Sandbox::new();
        let refused = sandbox.run(&["sweep", "--config", "tiny.toml", &format!("--shard={wrong}")]);
        assert_eq!(refused.status.code(), Some(2));
        assert!(stderr(&refused).contains(word), "{}", stderr(&refused));
    }
}

/// The command line of the committed cluster files, with the variables that the scheduler sets.
#[test]
fn what_the_cluster_files_call_works() {
    let whole = Sandbox::new();
    whole.succeed(&["sweep", "--config", "tiny.toml"]);
    let whole = forty::results(&whole.path("results/tiny"));
    let path = {
        let binary = Path::new(env!("CARGO_BIN_EXE_kshot")).parent().unwrap();
        format!("{}:{}", binary.display(), std::env::var("PATH").unwrap())
    };
    let bash = |sandbox: &Sandbox, arguments: &[&str], variables: &[(&str, &str)]| {
        let template = sandbox.kshot(&[]);
        let mut bash = Command::new("bash");
        bash.args(arguments).current_dir(sandbox.path(""));
        for (name, value) in template.get_envs() {
            if let Some(value) = value {
                bash.env(name, value);
            }
        }
        bash.env("PATH", &path)
            .env("CONFIG", "tiny.toml")
            .envs(variables.iter().copied());
        let output = bash.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    };

    let script = root().join("configs/cluster/slurm.sbatch");
    let script = script.to_str().unwrap();
    let sandbox = Sandbox::new();
    bash(&sandbox, &["-n", script], &[]);
    // Two tasks of an array, then the dependent job of one task.
    for (task, tasks) in [("1", "2"), ("0", "2"), ("0", "1")] {
        let variables = [("SLURM_ARRAY_TASK_ID", task), ("SLURM_ARRAY_TASK_COUNT", tasks)];
        bash(&sandbox, &[script], &variables);
    }
    assert!(forty::results(&sandbox.path("results/tiny")) == whole);

    let job = fs::read_to_string(root().join("configs/cluster/indexed-job.yaml")).unwrap();
    for field in [
        "completionMode: Indexed",
        "backoffLimitPerIndex:",
        "restartPolicy: Never",
        "ReadWriteMany",
    ] {
        assert!(job.contains(field), "{field}");
    }
    let number = |field: &str| {
        let line = job.lines().find_map(|line| line.trim().strip_prefix(field));
        line.unwrap().trim().to_owned()
    };
    let call = job
        .lines()
        .map(str::trim)
        .find(|line| line.starts_with("exec kshot sweep"))
        .unwrap();
    assert!(
        call.contains(&format!("$JOB_COMPLETION_INDEX/{}", number("completions:"))),
        "{call}"
    );
    let sandbox = Sandbox::new();
    for index in 0..number("completions:").parse::<usize>().unwrap() {
        let index = index.to_string();
        let call = call.replace("/results/sweep", "results/tiny");
        bash(&sandbox, &["-c", &call], &[("JOB_COMPLETION_INDEX", &index)]);
    }
    assert!(forty::results(&sandbox.path("results/tiny")) == whole);
}
