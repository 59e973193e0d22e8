//! What becomes a baseline, and what is kept beside it.

use std::fs;

use kshot::gate::noise::Noise;
use kshot::store::Store;

use super::cells::{Cell, folder};
use super::{BASELINE, RESULTS, eventful, gate};
use crate::support::{Sandbox, contents};

#[test]
fn the_first_results_become_the_baseline() {
    let sandbox = Sandbox::new();
    eventful(&sandbox);
    fs::remove_dir_all(sandbox.path(BASELINE)).unwrap();
    let (code, text, said) = gate(&sandbox, &[]);
    assert_eq!((code, text.as_str()), (2, ""));
    assert!(said.contains("holds no finished cells"), "{said}");
    let (code, text, said) = gate(&sandbox, &["--accept"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(
        text,
        format!("Accepted: 6 cells are the first baseline in {BASELINE}.\n")
    );
    assert_eq!(gate(&sandbox, &[]).0, 0);
    assert!(sandbox.path(BASELINE).join("figures/accuracy.svg").exists());
}

/// A loss and a changed draw that were meant end with the new baseline; a missing cell does not.
#[test]
fn accepting_replaces_the_baseline_unless_the_results_are_faulty() {
    let sandbox = Sandbox::new();
    let seeded = |seed| Cell {
        seed,
        ..Cell::default()
    };
    folder(&sandbox.path("results/first"), &[seeded(0), seeded(1), seeded(2)]);
    sandbox.succeed(&["promote", "results/first", BASELINE]);
    let worse = |seed, split| Cell {
        split,
        right: |i| i % 4 > 1,
        ..seeded(seed)
    };
    let draw = Cell::default().split;
    let results = folder(&sandbox.path(RESULTS), &[worse(0, draw), worse(1, "fedcba9876543210")]);
    let before = contents(&sandbox.path(BASELINE));
    let (code, text, said) = gate(&sandbox, &["--accept"]);
    assert_eq!(code, 2, "{text}");
    assert!(
        said.contains("1 error speaks against it") && said.contains("kshot promote"),
        "{said}"
    );
    assert_eq!(contents(&sandbox.path(BASELINE)), before);

    seeded(2).finish(&results);
    results.write_ledger(&results.records().unwrap()).unwrap();
    assert_eq!(gate(&sandbox, &[]).0, 2);
    let (code, text, said) = gate(&sandbox, &["--accept"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(
        text.lines().last().unwrap(),
        format!(
            "Accepted: 3 cells replace the 3 in {BASELINE}: 1 compared cell with other predictions, 1 with a loss, 0 new, \
             1 error above settled."
        )
    );
    let (code, text, _) = gate(&sandbox, &[]);
    assert!(code == 0 && text.contains("Cells: 3 unchanged."), "{text}");
    assert_eq!(
        Store::open_existing(&sandbox.path(BASELINE))
            .unwrap()
            .records()
            .unwrap()
            .len(),
        3
    );
}

#[test]
fn noise_is_measured_from_repeats_and_kept_with_an_accepted_baseline() {
    let sandbox = Sandbox::new();
    let run = |name: &str, right: fn(u32) -> bool| {
        folder(
            &sandbox.path(name),
            &[Cell {
                right,
                ..Cell::default()
            }],
        );
    };
    // Unchanged runs that lose or win dozens of images at once: a loss of 5 points is nothing beside them.
    run(BASELINE, |i| i % 4 > 0);
    run(RESULTS, |i| i % 4 > 0 && i % 20 != 1);
    run("results/again", |i| i % 4 > 0 && i % 10 != 1);
    run("results/once-more", |i| i % 4 > 0 || i % 10 == 0);
    let (code, text, _) = gate(&sandbox, &[]);
    assert_eq!(code, 1);
    assert!(text.contains("Run-to-run noise: not measured, taken as 0."), "{text}");
    let repeats = ["--repeat", "results/again", "--repeat", "results/once-more"];
    let (code, text, said) = gate(&sandbox, &repeats);
    assert_eq!(code, 0, "{text}{said}");
    assert!(
        text.contains("measured from results/again, results/once-more"),
        "{text}"
    );
    assert!(text.contains("1 cell; degrees of freedom: 2"), "{text}");
    assert_eq!(
        Noise::read(&sandbox.path(BASELINE)).unwrap(),
        None,
        "only --accept writes"
    );

    fs::remove_dir_all(sandbox.path(BASELINE)).unwrap();
    run("results/base", |i| i % 4 > 0);
    let first = ["gate", "results/base", "--baseline", BASELINE, "--accept"];
    sandbox.succeed(&[&first, &repeats[..]].concat());
    let noise = Noise::read(&sandbox.path(BASELINE)).unwrap().unwrap();
    assert_eq!((noise.cells.len(), noise.cells[0].runs), (1, 3));
    let (code, text, _) = gate(&sandbox, &[]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("as stored beside the baseline"), "{text}");
    // Accepted without new repeats, it stays.
    assert_eq!(gate(&sandbox, &["--accept"]).0, 0);
    assert_eq!(Noise::read(&sandbox.path(BASELINE)).unwrap(), Some(noise));

    fs::write(sandbox.path(BASELINE).join("noise.json"), "{").unwrap();
    let (code, _, said) = gate(&sandbox, &[]);
    assert!(code == 2 && said.contains("noise.json"), "{said}");
}
