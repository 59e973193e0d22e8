//! The main job, end to end, through the built binary.

use std::path::Path;

use crate::forty;
use crate::support::{Sandbox, contents, stderr};

const SWEEP: [&str; 3] = ["sweep", "--config", "tiny.toml"];

/// What must be the same however a sweep got there: everything but times, and the figures, which show them.
fn results(folder: &Path) -> Vec<(String, Vec<u8>)> {
    contents(folder)
        .into_iter()
        .map(|(path, bytes)| (path.to_str().unwrap().to_owned(), bytes))
        .filter(|(path, _)| path != "timings.csv" && !path.starts_with("cells/") && !path.starts_with("figures/"))
        .collect()
}

#[test]
fn cells_side_by_side_leave_the_bytes_of_those_that_run_one_by_one() {
    for jobs in ["2", "5"] {
        let sandbox = forty::sandbox();
        sandbox.succeed(&[&forty::SWEEP[..], &["--jobs", jobs]].concat());
        forty::assert_whole(&sandbox.path("results/forty"));
    }
}

#[test]
fn a_sweep_writes_every_file_and_a_second_call_trains_nothing() {
    let sandbox = Sandbox::new();
    let table = sandbox.succeed(&SWEEP);
    assert!(table.contains("mini-pets") && table.contains("DINOv2 LoRA"), "{table}");
    let files = contents(&sandbox.path("results/tiny"));
    let names: Vec<&str> = files.keys().map(|p| p.to_str().unwrap()).collect();
    for name in [
        "sweep.toml",
        "ledger.csv",
        "timings.csv",
        "figures/accuracy.svg",
        "figures/accuracy.png",
        "figures/accuracy.pdf",
        "figures/accuracy.csv",
    ] {
        assert!(names.contains(&name), "{name} is missing among {names:?}");
    }
    let count = |folder: &str, end: &str| {
        names
            .iter()
            .filter(|n| n.starts_with(folder) && n.ends_with(end))
            .count()
    };
    assert_eq!(
        (
            count("cells/", ".json"),
            count("predictions/", ".parquet"),
            count("splits/", ".json")
        ),
        (4, 4, 2)
    );
    assert!(
        !names.iter().any(|n| n.contains("partial") || n.contains("tmp")),
        "{names:?}"
    );

    let second = sandbox.run(&SWEEP);
    assert!(second.status.success());
    assert!(
        stderr(&second).contains("4 of 4 cells are finished already"),
        "{}",
        stderr(&second)
    );
    assert_eq!(
        contents(&sandbox.path("results/tiny")),
        files,
        "a second call must not change a byte"
    );
    assert_eq!(String::from_utf8(second.stdout).unwrap(), table);
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let [one, two] = [Sandbox::new(), Sandbox::new()];
    one.succeed(&SWEEP);
    two.succeed(&SWEEP);
    assert_eq!(results(&one.path("results/tiny")), results(&two.path("results/tiny")));
}

#[test]
fn a_torn_cell_file_is_found_and_the_cell_runs_again() {
    let sandbox = Sandbox::new();
    sandbox.succeed(&SWEEP);
    let before = results(&sandbox.path("results/tiny"));
    let cells = contents(&sandbox.path("results/tiny/cells"));
    let (name, bytes) = cells.first_key_value().unwrap();
    std::fs::write(sandbox.path("results/tiny/cells").join(name), &bytes[..bytes.len() / 2]).unwrap();
    let again = sandbox.run(&SWEEP);
    assert!(again.status.success());
    let said = stderr(&again);
    assert!(said.contains("3 of 4 cells are finished already"), "{said}");
    assert!(
        said.contains(name.to_str().unwrap()),
        "the torn file is not named: {said}"
    );
    assert_eq!(results(&sandbox.path("results/tiny")), before);
}

#[test]
fn overrides_change_the_sweep_and_dry_run_trains_nothing() {
    let sandbox = Sandbox::new();
    let plan = sandbox.succeed(&["sweep", "--config", "tiny.toml", "--set", "seeds=[3, 4]", "--dry-run"]);
    assert!(
        plan.contains("seed 3") && plan.contains("seed 4") && !plan.contains("seed 0"),
        "{plan}"
    );
    assert!(!sandbox.path("results").exists());
}
