//! A results folder survives what happens to folders: torn files, leftovers, other orders.

use std::fs;
use std::path::Path;

use kshot::config::Protocol;
use kshot::data::LabelledImage;
use kshot::error::Error;
use kshot::prediction::{Prediction, Reading};
use kshot::statistics::metric::{Headline, Metrics};
use kshot::store::Store;
use kshot::store::record::{CellDetails, CellKey, Failure, Identity, Record, Timing, TrainingSummary};
use proptest::prelude::*;

fn identity(dataset: &str, learner: &str, shots: u32, seed: u64) -> Identity {
    Identity {
        key: CellKey {
            dataset: dataset.into(),
            protocol: Protocol::Clean,
            learner: learner.into(),
            shots: shots.into(),
            seed,
        },
        hyper_parameters: serde_json::json!({"method": "knn", "temperature": 0.07}),
        train: vec![("train/0.png".into(), "aa".into())],
        test: vec![("test/0.png".into(), "bb".into())],
        classes: vec!["cat".into(), "dog".into(), "yak".into()],
        weights: None,
        dtype: "f32".into(),
        backend: "local".into(),
        recipe: 1,
    }
}

fn account() -> CellDetails {
    CellDetails {
        reading: Reading::Likelihood,
        headline: Headline::Top1,
        micro: true,
        regime: Some("known".into()),
        split_sha256: "cc".into(),
        card: None,
        fitted: None,
        names: None,
        training: TrainingSummary {
            steps: 3,
            images_seen: 96,
            final_loss: Some(0.125),
            trainable_parameters: 7,
            halved_to: None,
            chosen: None,
        },
        timing: Timing {
            train_seconds: 1.5,
            device: "cpu".into(),
            threads: 2,
            jobs: 1,
            ..Timing::default()
        },
    }
}

/// `n` images in groups of two; the answer is right unless `salt` says otherwise.
fn rows(n: u32, salt: u32) -> Vec<Prediction> {
    let row = |i: u32| Prediction {
        id: format!("test/{i}.png"),
        sha256: format!("{i:064x}"),
        group: Some(format!("drawing {}", i / 2)),
        truth: i % 3,
        free_text: None,
        free_class: None,
        trie_class: None,
        likelihood_class: Some(if (i * 7 + salt).is_multiple_of(5) {
            (i + 1) % 3
        } else {
            i % 3
        }),
        log_probs: Some((0..3).map(|c| if c == i % 3 { -0.25 } else { -2.2 }).collect()),
    };
    (0..n).map(row).collect()
}

/// The image that a row is about.
fn image(row: &Prediction) -> LabelledImage {
    LabelledImage {
        id: row.id.clone(),
        class: row.truth,
        sha256: row.sha256.clone(),
        group: row.group.clone(),
        path: "".into(),
        ..LabelledImage::default()
    }
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_finished_cell_reads_back_whole() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let identity = identity("mini-pets", "DINOv2 k-NN", 4, 0);
    let run_id = identity.run_id();
    assert_eq!(store.finished(&run_id).unwrap(), None);
    assert!(matches!(
        store.predictions(&run_id).unwrap_err().kind(),
        Error::Predictions { .. }
    ));

    let failure = Failure::new(&run_id, &identity.key, &Error::Figure { reason: "x".into() });
    store.fail(&failure).unwrap();
    let test: Vec<LabelledImage> = rows(3, 0).iter().map(image).collect();
    let mut partial = store.partial(&run_id, &test).unwrap();
    partial.append(&rows(3, 0)[..2], 1.0).unwrap();
    let mut partial = store.partial(&run_id, &test).unwrap();
    partial.append(&rows(3, 0)[2..], 1.0).unwrap();
    assert_eq!(partial.complete().unwrap(), rows(3, 0));
    assert_eq!(
        store.finished(&run_id).unwrap(),
        None,
        "a running or failed cell is not finished"
    );

    let record = store.finish(&identity, account(), &rows(8, 1)).unwrap();
    assert_eq!((record.n_test, record.n_groups, record.n_train), (8, 4, 1));
    assert_eq!(store.finished(&run_id).unwrap().as_ref(), Some(&record));
    assert_eq!(store.predictions(&run_id).unwrap(), rows(8, 1));
    assert_eq!(store.records().unwrap(), std::slice::from_ref(&record));
    let again = Metrics::of(
        &store.predictions(&run_id).unwrap(),
        record.reading,
        record.metrics.headline,
    );
    assert_eq!(
        again, record.metrics,
        "metrics can be computed again from what is stored"
    );
    assert_eq!(files(&folder.path().join("cells")), [format!("{run_id}.json")]);
    assert_eq!(files(&folder.path().join("predictions")), [format!("{run_id}.parquet")]);
}

#[test]
fn torn_missing_and_foreign_files_are_not_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let identity = identity("mini-pets", "DINOv2 k-NN", 4, 0);
    let run_id = identity.run_id();
    let cell = folder.path().join(format!("cells/{run_id}.json"));
    let parquet = folder.path().join(format!("predictions/{run_id}.parquet"));
    store.finish(&identity, account(), &rows(8, 1)).unwrap();
    let (good_cell, good_parquet) = (fs::read(&cell).unwrap(), fs::read(&parquet).unwrap());
    let text = String::from_utf8(good_cell.clone()).unwrap();

    type Damage = (&'static str, Vec<u8>, Option<Vec<u8>>);
    let mut damaged: Vec<Damage> = vec![
        (
            "another schema",
            text.replace("\"schema\": 3", "\"schema\": 99").into(),
            Some(good_parquet.clone()),
        ),
        (
            "an unknown field",
            text.replace("\"schema\": 3", "\"schema\": 3, \"x\": 2").into(),
            Some(good_parquet.clone()),
        ),
        (
            "another cell",
            text.replace(&run_id, "0123456789abcdef").into(),
            Some(good_parquet.clone()),
        ),
        ("no predictions", good_cell.clone(), None),
        (
            "torn predictions",
            good_cell.clone(),
            Some(good_parquet[..good_parquet.len() / 2].to_vec()),
        ),
        ("empty predictions", good_cell.clone(), Some(Vec::new())),
    ];
    for share in [0, 1, 4, 9] {
        damaged.push((
            "a torn record",
            good_cell[..good_cell.len() * share / 10].to_vec(),
            Some(good_parquet.clone()),
        ));
    }
    store.finish(&identity, account(), &rows(8, 2)).unwrap();
    damaged.push((
        "predictions of another run",
        good_cell.clone(),
        Some(fs::read(&parquet).unwrap()),
    ));

    for (what, cell_bytes, parquet_bytes) in damaged {
        fs::write(&cell, cell_bytes).unwrap();
        match parquet_bytes {
            Some(bytes) => fs::write(&parquet, bytes).unwrap(),
            None => fs::remove_file(&parquet).unwrap(),
        }
        assert_eq!(store.finished(&run_id).unwrap(), None, "{what}");
        assert_eq!(store.records().unwrap(), [], "{what}");
        // Running the cell again heals it.
        let record = store.finish(&identity, account(), &rows(8, 1)).unwrap();
        assert_eq!(store.finished(&run_id).unwrap(), Some(record), "{what}");
        assert_eq!(fs::read(&cell).unwrap(), good_cell, "{what}");
        assert_eq!(fs::read(&parquet).unwrap(), good_parquet, "{what}");
    }
}

#[test]
fn records_of_the_schema_before_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let record = store
        .finish(&identity("mini-pets", "DINOv2 k-NN", 4, 0), account(), &rows(8, 1))
        .unwrap();
    let path = folder.path().join(format!("cells/{}.json", record.run_id));
    let text = fs::read_to_string(&path).unwrap();
    // It had no protocol card.
    let old: String = text
        .replace("\"schema\": 3", "\"schema\": 2")
        .lines()
        .filter(|line| !line.contains("\"card\""))
        .collect();
    assert!(old.len() < text.len() - 10 && record.card.is_none(), "{text}");
    fs::write(&path, old).unwrap();
    assert_eq!(store.finished(&record.run_id).unwrap(), Some(record));
}

#[test]
fn no_flipped_bit_in_the_predictions_goes_unnoticed() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let record = store
        .finish(&identity("mini-pets", "DINOv2 k-NN", 4, 0), account(), &rows(3, 1))
        .unwrap();
    let path = folder.path().join(format!("predictions/{}.parquet", record.run_id));
    let good = fs::read(&path).unwrap();
    for index in (0..good.len()).step_by(7) {
        let mut damaged = good.clone();
        damaged[index] ^= 1 << (index % 8);
        fs::write(&path, damaged).unwrap();
        assert_eq!(store.finished(&record.run_id).unwrap(), None, "byte {index}");
    }
    fs::write(&path, good).unwrap();
    assert_eq!(store.finished(&record.run_id).unwrap(), Some(record));
}

#[test]
fn predictions_that_do_not_fit_their_classes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let identity = identity("mini-pets", "DINOv2 k-NN", 4, 0);
    let changes: [fn(&mut Vec<Prediction>); 5] = [
        Vec::clear,
        |rows| rows[1].truth = 3,
        |rows| rows[1].free_class = Some(9),
        |rows| rows[1].log_probs = Some(vec![-0.1]),
        |rows| rows[1].log_probs = Some(vec![-0.1, f32::NAN, -3.0]),
    ];
    for change in changes {
        let mut rows = rows(4, 0);
        change(&mut rows);
        let error = store.finish(&identity, account(), &rows).unwrap_err();
        assert!(matches!(error, Error::Predictions { .. }), "{error}");
        assert!(files(&folder.path().join("predictions")).is_empty(), "{error}");
    }
}

#[test]
fn splits_and_config_are_written_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    store.write_sweep_config("name = \"a\"\n").unwrap();
    let key = CellKey {
        dataset: "mini-pets".into(),
        protocol: Protocol::Clean,
        learner: "x".into(),
        shots: 4.into(),
        seed: 2,
    };
    let write = |split: &[&str]| store.write_split(&key, &split).unwrap();
    let first = write(&["a", "b"]);
    assert_eq!(files(&folder.path().join("splits")), ["mini-pets-clean-k4-s2.json"]);
    assert_eq!(write(&["a", "b"]), first);
    assert_ne!(write(&["b", "a"]), first);
    assert_eq!(
        fs::read_to_string(folder.path().join("sweep.toml")).unwrap(),
        "name = \"a\"\n"
    );
}

#[test]
fn a_folder_without_results_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = Store::open_existing(folder.path()).unwrap_err();
    assert!(matches!(error, Error::NoResults { .. }), "{error}");
    fs::write(folder.path().join("file"), "").unwrap();
    let error = Store::open(&folder.path().join("file")).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[test]
fn numbers_without_a_json_form_do_not_tear_the_record() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let mut account = account();
    account.timing.train_images_per_second = f64::NAN;
    account.timing.eval_images_per_second = f64::INFINITY;
    account.training.final_loss = Some(f64::NAN);
    let identity = identity("mini-pets", "DINOv2 k-NN", 4, 0);
    let mut rows = rows(8, 0);
    rows[0].log_probs = Some(vec![f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY]);
    let record = store.finish(&identity, account, &rows).unwrap();
    assert_eq!(record.timing.eval_images_per_second, 0.0);
    assert_eq!(store.finished(&record.run_id).unwrap(), Some(record));
}

fn ledgers(store: &Store, records: &[Record]) -> (String, String) {
    store.write_ledger(records).unwrap();
    let read = |name| fs::read_to_string(store.folder().join(name)).unwrap();
    (read("ledger.csv"), read("timings.csv"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]
    /// A record read back is the record, to the last bit of its numbers.
    #[test]
    fn records_survive_the_disk(
        loss in -1e3..1e3_f64,
        seconds in proptest::collection::vec(0.0..1e6_f64, 4),
        confidence in proptest::collection::vec(-9.0..-0.01_f32, 3),
        n in 1..40_u32,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut account = account();
        account.training.final_loss = Some(loss);
        let timing = &mut account.timing;
        (timing.train_seconds, timing.eval_seconds) = (seconds[0], seconds[1]);
        (timing.train_images_per_second, timing.eval_images_per_second) = (seconds[2], seconds[3]);
        let mut rows = rows(n, 1);
        rows.iter_mut().for_each(|row| row.log_probs = Some(confidence.clone()));
        let record = store.finish(&identity("mini-pets", "x", 4, 0), account, &rows).unwrap();
        let read = store.finished(&record.run_id).unwrap();
        prop_assert_eq!(read.as_ref(), Some(&record));
        let stored = store.predictions(&record.run_id).unwrap();
        prop_assert_eq!(Metrics::of(&stored, record.reading, record.metrics.headline), record.metrics);
    }

    /// Any order of cells, with any of them finished twice, gives the same ledger; dates and seconds do
    /// not reach it.
    #[test]
    fn the_ledger_does_not_depend_on_the_order_of_cells(
        order in Just((0..8_usize).collect::<Vec<_>>()).prop_shuffle(),
        repeated in proptest::collection::vec(0..8_usize, 0..3),
        seconds in 0.0..9.0_f64,
    ) {
        let cells: Vec<_> = (0..8_u32)
            .map(|i| identity(["b", "a"][i as usize % 2], ["y, \"z\"", "x"][i as usize / 2 % 2], 1 << (i / 4), 3))
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let reference = Store::open(&folder.path().join("reference")).unwrap();
        let shuffled = Store::open(&folder.path().join("shuffled")).unwrap();
        for (i, cell) in cells.iter().enumerate() {
            reference.finish(cell, account(), &rows(6, i as u32)).unwrap();
        }
        for &i in order.iter().chain(&repeated) {
            let mut account = account();
            account.timing.train_seconds = seconds;
            shuffled.finish(&cells[i], account, &rows(6, i as u32)).unwrap();
        }
        let (ledger, timings) = ledgers(&reference, &reference.records().unwrap());
        let (shuffled_ledger, shuffled_timings) = ledgers(&shuffled, &shuffled.records().unwrap());
        prop_assert_eq!(&ledger, &shuffled_ledger);
        prop_assert_eq!(ledger.lines().count(), 9);
        prop_assert_eq!(timings == shuffled_timings, (seconds - 1.5).abs() < 5e-4);
        let mut backwards = reference.records().unwrap();
        backwards.reverse();
        prop_assert_eq!(ledgers(&reference, &backwards).0, ledger);
    }
}
