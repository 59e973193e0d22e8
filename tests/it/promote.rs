//! The compact form of a results folder stands in for the folder itself.

use std::fs;

use kshot::results::store::Store;

use crate::support::{Sandbox, contents, copy, stderr};

const SWEEP: [&str; 3] = ["sweep", "--config", "tiny.toml"];
const RESULTS: &str = "results/tiny";
const COMPACT: &str = "results/reference/tiny";

#[test]
fn the_compact_form_gives_the_same_figure_and_tables() {
    let sandbox = Sandbox::new();
    let table = sandbox.succeed(&SWEEP);
    let original = contents(&sandbox.path(RESULTS));
    let store = Store::open_existing(&sandbox.path(RESULTS)).unwrap();
    let records = store.records().unwrap();
    // The cell of an older configuration: complete, but not in the ledger.
    let other = sandbox.run(&[
        "sweep",
        "--config",
        "tiny.toml",
        "--set",
        "learner.0.rank=2",
        "--set",
        "shots=[1]",
    ]);
    assert!(other.status.success(), "{}", stderr(&other));
    assert_eq!(store.records().unwrap().len(), records.len() + 1);
    fs::write(
        sandbox.path(RESULTS).join("ledger.csv"),
        &original[std::path::Path::new("ledger.csv")],
    )
    .unwrap();
    fs::write(
        sandbox.path(RESULTS).join("sweep.toml"),
        &original[std::path::Path::new("sweep.toml")],
    )
    .unwrap();

    assert_eq!(sandbox.succeed(&["promote", RESULTS, COMPACT]), table);
    let promoted = contents(&sandbox.path(COMPACT));
    for (name, bytes) in &promoted {
        if !name.to_str().unwrap().starts_with("predictions.parquet") {
            assert!(original.get(name) == Some(bytes), "{} differs", name.display());
        }
    }
    // All but splits and the cells' own prediction files.
    assert_eq!(promoted.len(), 4 + 3 + 3 + 2, "{:?}", promoted.keys());

    // A second time, over what is there: nothing changes, and what does not belong is gone.
    fs::write(sandbox.path(COMPACT).join("cells/0123456789abcdef.json"), "{}").unwrap();
    sandbox.succeed(&["promote", RESULTS, COMPACT]);
    assert_eq!(contents(&sandbox.path(COMPACT)), promoted);

    let rows: Vec<_> = records.iter().map(|r| store.predictions(&r.run_id).unwrap()).collect();
    fs::remove_dir_all(sandbox.path(RESULTS)).unwrap();
    copy(&sandbox.path(COMPACT), &sandbox.path(RESULTS));
    for figure in contents(&sandbox.path(RESULTS).join("figures")).keys() {
        fs::remove_file(sandbox.path(RESULTS).join("figures").join(figure)).unwrap();
    }
    assert_eq!(sandbox.succeed(&["plot", RESULTS]), table);
    assert_eq!(contents(&sandbox.path(RESULTS)), promoted);
    let compact = Store::open_existing(&sandbox.path(RESULTS)).unwrap();
    assert_eq!(compact.records().unwrap(), records);
    for (record, rows) in records.iter().zip(rows) {
        assert_eq!(compact.predictions(&record.run_id).unwrap(), rows);
    }
}

#[test]
fn damaged_compact_predictions_are_named_and_not_trusted() {
    let sandbox = Sandbox::new();
    sandbox.succeed(&["sweep", "--config", "tiny.toml", "--set", "learner.0.batch=8"]);
    sandbox.succeed(&["promote", RESULTS, COMPACT]);
    let path = sandbox.path(COMPACT).join("predictions.parquet");
    let good = fs::read(&path).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 4;
    for bad in [good[..good.len() / 2].to_vec(), flipped, Vec::new()] {
        fs::write(&path, bad).unwrap();
        let plot = sandbox.run(&["plot", COMPACT]);
        assert_eq!(plot.status.code(), Some(2));
        assert!(
            stderr(&plot).contains("predictions.parquet` is not trusted"),
            "{}",
            stderr(&plot)
        );
    }
    fs::write(&path, &good).unwrap();
    sandbox.succeed(&["plot", COMPACT]);

    // A record without rows in the file: that cell alone is not finished.
    let cells = sandbox.path(COMPACT).join("cells");
    let name = contents(&cells).into_keys().next().unwrap();
    let record = fs::read_to_string(cells.join(&name)).unwrap();
    let run_id = name.file_stem().unwrap().to_str().unwrap();
    let absent = "0123456789abcdef";
    fs::write(cells.join(format!("{absent}.json")), record.replace(run_id, absent)).unwrap();
    let store = Store::open_existing(&sandbox.path(COMPACT)).unwrap();
    assert_eq!(store.finished(absent).unwrap(), None);
    assert_eq!(store.records().unwrap().len(), 4);

    // Rows that are not those of the record.
    let record = record.replace("\"predictions_sha256\": \"", "\"predictions_sha256\": \"0");
    fs::write(cells.join(&name), record).unwrap();
    assert_eq!(store.finished(run_id).unwrap(), None);
}

#[test]
fn what_cannot_be_promoted_is_refused() {
    let sandbox = Sandbox::new();
    let missing = sandbox.run(&["promote", "nothing", COMPACT]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(
        stderr(&missing).contains("holds no finished cells"),
        "{}",
        stderr(&missing)
    );

    let store = Store::open(&sandbox.path(RESULTS)).unwrap();
    store.write_ledger(&[]).unwrap();
    let empty = sandbox.run(&["promote", RESULTS, COMPACT]);
    assert_eq!(empty.status.code(), Some(2));
    assert!(stderr(&empty).contains("holds no finished cells"), "{}", stderr(&empty));
    assert!(!sandbox.path(COMPACT).exists());

    let onto_itself = sandbox.run(&["promote", RESULTS, RESULTS]);
    assert_eq!(onto_itself.status.code(), Some(2));
    assert!(
        stderr(&onto_itself).contains("a sweep's own results"),
        "{}",
        stderr(&onto_itself)
    );
}
