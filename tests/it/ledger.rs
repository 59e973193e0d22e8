//! Order, shards and interruptions leave no trace in the ledger.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use kshot::config::Protocol;
use kshot::experiment::sweep::Shard;
use kshot::prediction::{Prediction, Reading};
use kshot::statistics::metric::Headline;
use kshot::store::Store;
use kshot::store::claim::{ClaimOutcome, Claims};
use kshot::store::record::{CellDetails, CellKey, Identity, Timing, TrainingSummary};
use proptest::prelude::*;
use tempfile::TempDir;

const CELLS: u32 = 12;

fn identity(number: u32) -> Identity {
    Identity {
        key: CellKey {
            dataset: ["b", "a"][number as usize % 2].into(),
            protocol: Protocol::Clean,
            learner: ["y, \"z\"", "x"][number as usize / 2 % 2].into(),
            shots: [1, 2, 4][number as usize / 4].into(),
            seed: 3,
        },
        hyper_parameters: serde_json::json!({"method": "knn"}),
        train: vec![("train/0.png".into(), "aa".into())],
        test: vec![("test/0.png".into(), "bb".into())],
        classes: vec!["cat".into(), "dog".into(), "yak".into()],
        weights: None,
        dtype: "f32".into(),
        backend: "local".into(),
        recipe: 1,
    }
}

fn rows(number: u32) -> Vec<Prediction> {
    let row = |i: u32| Prediction {
        id: format!("test/{i}.png"),
        sha256: format!("{i:064x}"),
        group: None,
        truth: i % 3,
        free_text: None,
        free_class: None,
        trie_class: None,
        likelihood_class: Some((i * 7 + number) % 3),
        log_probs: Some(vec![-0.5, -1.0 - number as f32 / 8.0, -3.0]),
    };
    (0..9).map(row).collect()
}

/// Stores a cell as a process does that took `seconds`.
fn store(store: &Store, number: u32, seconds: f64) {
    let account = CellDetails {
        reading: Reading::Likelihood,
        headline: Headline::Top1,
        micro: true,
        regime: None,
        split_sha256: "cc".into(),
        card: None,
        fitted: None,
        names: None,
        training: TrainingSummary::default(),
        timing: Timing {
            eval_seconds: seconds,
            device: "cpu".into(),
            threads: 1,
            jobs: 1,
            devices: 1,
            sessions: 1,
            ..Timing::default()
        },
    };
    store.finish(&identity(number), account, &rows(number)).unwrap();
}

fn ledger(store: &Store) -> Vec<u8> {
    store.write_ledger(&store.records().unwrap()).unwrap();
    fs::read(store.folder().join("ledger.csv")).unwrap()
}

/// How a process ends with a cell.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Finished,
    /// Killed before the record is stored: the prediction file may be there, whole or of another run.
    Before,
    /// Killed between record and the removal of the claim.
    After,
    /// The record is torn by a crash of the machine.
    Torn,
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        4 => Just(End::Finished),
        2 => Just(End::Before),
        1 => Just(End::After),
        1 => Just(End::Torn),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn order_shards_and_interruptions_leave_no_trace(
        order in Just((0..CELLS).collect::<Vec<_>>()).prop_shuffle(),
        shards in (1..5_usize).prop_flat_map(|of| Just((0..of).collect::<Vec<_>>()).prop_shuffle()),
        ends in proptest::collection::vec(end(), CELLS as usize * 2),
        seconds in 0.0..9.0_f64,
    ) {
        let reference = TempDir::new().unwrap();
        let reference = Store::open(reference.path()).unwrap();
        (0..CELLS).for_each(|number| store(&reference, number, 1.5));

        let folder = TempDir::new().unwrap();
        let mut ends = ends.into_iter();
        let mut ran = 0;
        // Every shard once in its order, then once more without shards, as a requeued or a last job does.
        let parts: Vec<Shard> = shards.iter().map(|i| format!("{i}/{}", shards.len()).parse().unwrap()).collect();
        for shard in parts.into_iter().chain(["0/1".parse().unwrap()]) {
            let opened = Store::open(folder.path()).unwrap();
            let mut claims = Claims::open(folder.path(), Duration::from_secs(60)).unwrap();
            for number in order.iter().copied().filter(|number| shard.has(*number as usize)) {
                let run_id = identity(number).run_id();
                if opened.finished(&run_id).unwrap().is_some() {
                    continue;
                }
                let ClaimOutcome::Ours(claim) = claims.take(&run_id).unwrap() else {
                    panic!("a dead process holds cell {number}");
                };
                let cell = folder.path().join(format!("cells/{run_id}.json"));
                let end = ends.next().unwrap_or(End::Finished);
                claim.confirm().unwrap();
                store(&opened, number, seconds);
                ran += 1;
                match end {
                    End::Finished => {}
                    End::Before => fs::remove_file(&cell).unwrap(),
                    End::Torn => {
                        let bytes = fs::read(&cell).unwrap();
                        fs::write(&cell, &bytes[..bytes.len() / 2]).unwrap();
                    }
                    End::After => {
                        drop(claim);
                        let name = folder.path().join(format!("claims/{run_id}.3.json"));
                        fs::write(name, "{").unwrap();
                    }
                }
            }
        }
        // What the last pass itself left unfinished is finished by one that nothing interrupts.
        let last = Store::open(folder.path()).unwrap();
        for number in order {
            if last.finished(&identity(number).run_id()).unwrap().is_none() {
                store(&last, number, seconds);
                ran += 1;
            }
        }
        prop_assert!(ran >= CELLS);
        prop_assert!(ledger(&last) == ledger(&reference));
        let records = last.records().unwrap();
        let finished: HashSet<&str> = records.iter().map(|record| record.run_id.as_str()).collect();
        last.remove_leftovers(&finished).unwrap();
        prop_assert!(last.leftovers(|_| true).unwrap().is_empty());
        for record in &records {
            let same = |store: &Store| fs::read(store.folder().join(format!("predictions/{}.parquet", record.run_id)));
            prop_assert!(same(&last).unwrap() == same(&reference).unwrap());
        }
    }
}
