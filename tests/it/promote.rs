//! The compact form of a results folder stands in for the folder itself.

use std::fs;
use std::path::Path;

use kshot::comparison::curve;
use kshot::config::Protocol;
use kshot::prediction::{Prediction, Reading};
use kshot::statistics::metric::{Headline, Metrics};
use kshot::store::Store;
use kshot::store::record::{CellDetails, CellKey, Identity, Timing, TrainingSummary};

use crate::support::{Sandbox, contents, copy, root, stderr};

const SWEEP: [&str; 3] = ["sweep", "--config", "tiny.toml"];
const RESULTS: &str = "results/tiny";
const COMPACT: &str = "results/reference/tiny";

#[test]
fn the_compact_form_gives_the_same_figure_and_tables() {
    let sandbox = Sandbox::new();
    let table = sandbox.succeed(&[&SWEEP[..], &["--tables"]].concat());
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
        "--results",
        "results/other",
    ]);
    assert!(other.status.success(), "{}", stderr(&other));
    for inside in ["cells", "predictions"] {
        let (from, to) = (
            sandbox.path("results/other").join(inside),
            sandbox.path(RESULTS).join(inside),
        );
        for name in contents(&from).keys().filter(|name| !to.join(name).exists()) {
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
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
        if name.starts_with("cells") {
            // The same without its white space.
            let parsed = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
            assert_eq!(parsed(&original[name]), parsed(bytes));
            assert!(bytes.len() < original[name].len());
        } else if !name.to_str().unwrap().starts_with("predictions.parquet") {
            assert!(original.get(name) == Some(bytes), "{} differs", name.display());
        }
    }
    // All but splits and the cells' own prediction files.
    assert_eq!(promoted.len(), 4 + 8 + 3 + 2 + 7, "{:?}", promoted.keys());

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
    let record = record.replace("\"predictions_sha256\":\"", "\"predictions_sha256\":\"0");
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

/// The committed reference, of whatever version, gives the numbers that were committed with it.
#[test]
fn the_committed_reference_is_read() {
    let sandbox = Sandbox::new();
    let committed = root().join("results/reference/mini-full");
    copy(&committed, &sandbox.path(COMPACT));
    let table = sandbox.succeed(&["plot", COMPACT]);
    assert!(table.contains("Bar for micro models"), "{table}");
    let points = |folder: &Path| {
        let path = folder.join("figures/accuracy.csv");
        curve::from_csv(&path, &fs::read(&path).unwrap()).unwrap()
    };
    assert_eq!(points(&sandbox.path(COMPACT)), points(&committed));
    let drawing = |folder: &Path| fs::read(folder.join("figures/accuracy.svg")).unwrap();
    assert!(
        drawing(&sandbox.path(COMPACT)) == drawing(&committed),
        "drawn otherwise"
    );
}

#[test]
fn the_table_beside_a_figure_draws_it_again() {
    let sandbox = Sandbox::new();
    let folder = sandbox.path("figures");
    copy(&root().join("results/reference/mini-full/figures"), &folder);
    // A checkout has the drawing, not what is made from it.
    let drawing = fs::read(folder.join("accuracy.svg")).unwrap();
    for kind in ["svg", "png", "pdf"] {
        let _ = fs::remove_file(folder.join("accuracy").with_extension(kind));
    }
    let table = sandbox.succeed(&["plot", "figures/accuracy.csv"]);
    assert!(table.contains("mini-pets") && !table.contains("mean of"), "{table}");
    assert!(fs::read(folder.join("accuracy.svg")).unwrap() == drawing);
    assert!(fs::read(folder.join("accuracy.png")).unwrap().starts_with(b"\x89PNG"));
    assert!(fs::read(folder.join("accuracy.pdf")).unwrap().starts_with(b"%PDF"));

    fs::write(folder.join("accuracy.csv"), "dataset,shots\na,b\n").unwrap();
    let bad = sandbox.run(&["plot", "figures/accuracy.csv"]);
    assert_eq!(bad.status.code(), Some(2));
    assert!(stderr(&bad).contains("accuracy.csv"), "{}", stderr(&bad));
}

/// Stores a cell of 40 images in pairs, of four classes; of a learner that writes where `free` is given, which says
/// on how many of eight images the text is right. Every fifth wrong text names no class.
fn finish(store: &Store, (dataset, learner, shots, seed): (&str, &str, u32, u64), free: Option<u32>, chosen: u32) {
    let identity = Identity {
        key: CellKey {
            dataset: dataset.into(),
            protocol: Protocol::Clean,
            learner: learner.into(),
            shots: shots.into(),
            seed,
        },
        hyper_parameters: serde_json::json!({ "method": if learner.contains("pixels") { "pixels" } else { "other" } }),
        train: vec![],
        test: vec![],
        classes: ["ant", "bee", "cat", "dog"].map(String::from).into(),
        weights: None,
        dtype: "f32".into(),
        backend: "local".into(),
        recipe: 1,
    };
    let row = |i: u32| {
        let truth = i % 4;
        let answer = |share: u32| (truth + u32::from(i % 8 >= share)) % 4;
        let written = free.map(|share| Some(answer(share)).filter(|class| *class == truth || !i.is_multiple_of(5)));
        Prediction {
            id: format!("test/{i:02}.png"),
            sha256: format!("{i:064x}"),
            group: Some(format!("drawing {}", i / 2)),
            truth,
            free_text: written.map(|class| class.map_or("a yak".into(), |c| identity.classes[c as usize].clone())),
            free_class: written.flatten(),
            trie_class: free.map(|_| answer(chosen)),
            likelihood_class: Some(answer(chosen)),
            log_probs: free.map(|_| (0..4).map(|c| if c == answer(chosen) { -2.5 } else { -4.0 }).collect()),
        }
    };
    let account = CellDetails {
        reading: if free.is_some() {
            Reading::Free
        } else {
            Reading::Likelihood
        },
        headline: Headline::Top1,
        micro: true,
        regime: Some(if dataset == "mini-flowers" { "known" } else { "novel" }.into()),
        split_sha256: "cc".into(),
        card: None,
        fitted: None,
        names: None,
        training: TrainingSummary {
            trainable_parameters: u64::from(learner.contains("LoRA")),
            chosen: None,
            ..TrainingSummary::default()
        },
        timing: Timing::default(),
    };
    let rows: Vec<_> = (0..40).map(row).collect();
    store.finish(&identity, account, &rows).unwrap();
}

#[test]
fn a_writing_learner_is_told_beside_the_others_and_survives_promotion() {
    let sandbox = Sandbox::new();
    let store = Store::open(&sandbox.path(RESULTS)).unwrap();
    store.write_sweep_config("name = \"tiny\"\n").unwrap();
    for (dataset, knows) in [("mini-flowers", 4), ("mini-pets", 2)] {
        finish(&store, (dataset, "Qwen3-VL LoRA", 0, 0), Some(1), knows);
        for seed in 0..2 {
            finish(&store, (dataset, "Qwen3-VL LoRA", 1, seed), Some(3), 4);
            finish(&store, (dataset, "Qwen3-VL LoRA", 16, seed), Some(7), 7);
            finish(&store, (dataset, "DINOv2 LoRA", 1, seed), None, 4);
            finish(&store, (dataset, "DINOv2 LoRA", 16, seed), None, 6);
            finish(&store, (dataset, "raw pixels 1-NN", 16, seed), None, 3);
        }
    }
    let records = store.records().unwrap();
    store.write_ledger(&records).unwrap();
    let table = sandbox.succeed(&["plot", RESULTS]);
    insta::assert_snapshot!(table);

    let ledger = fs::read_to_string(sandbox.path(RESULTS).join("ledger.csv")).unwrap();
    let mut rows = csv::Reader::from_reader(ledger.as_bytes());
    let columns = rows.headers().unwrap().clone();
    let told: Vec<Vec<String>> = rows
        .records()
        .map(|row| {
            let row = row.unwrap();
            let names = ["learner", "shots", "reading", "accuracy"];
            let names = names
                .iter()
                .chain(&["accuracy_free", "accuracy_trie", "accuracy_likelihood", "invalid_free"]);
            names
                .map(|name| row[columns.iter().position(|column| column == *name).unwrap()].to_owned())
                .collect()
        })
        .collect();
    assert_eq!(
        told[0],
        ["DINOv2 LoRA", "1", "likelihood", "0.500000", "", "", "0.500000", ""]
    );
    let zero = told.iter().find(|row| row[1] == "0").unwrap();
    assert_eq!(
        zero[..],
        [
            "Qwen3-VL LoRA",
            "0",
            "free",
            "0.125000",
            "0.125000",
            "0.500000",
            "0.500000",
            "0.175000"
        ]
    );

    assert_eq!(sandbox.succeed(&["promote", RESULTS, COMPACT]), table);
    let compact = Store::open_existing(&sandbox.path(COMPACT)).unwrap();
    assert_eq!(compact.records().unwrap(), records);
    for record in &records {
        let rows = compact.predictions(&record.run_id).unwrap();
        assert_eq!(rows, store.predictions(&record.run_id).unwrap());
        assert_eq!(
            Metrics::of(&rows, record.reading, record.metrics.headline),
            record.metrics
        );
    }
}
