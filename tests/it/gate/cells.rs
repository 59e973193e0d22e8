//! Results folders made by hand.

use std::fs;
use std::path::Path;

use kshot::config::Protocol;
use kshot::prediction::{Prediction, Reading};
use kshot::statistics::metric::Headline;
use kshot::store::Store;
use kshot::store::predictions;
use kshot::store::record::{CellDetails, CellKey, Identity, Record, Timing, TrainingSummary};
use sha2::{Digest as _, Sha256};

/// A cell as a test wants it; `..Cell::default()` is one of 400 images, three quarters of them right.
pub struct Cell {
    pub dataset: &'static str,
    pub protocol: Protocol,
    pub learner: &'static str,
    pub seed: u64,
    pub images: u32,
    /// So many views of a drawing are a group; 1: every image stands alone.
    pub views: u32,
    pub headline: Headline,
    /// Whether the answer to an image is right.
    pub right: fn(u32) -> bool,
    /// What makes another identity, and nothing else.
    pub rank: u32,
    pub split: &'static str,
    pub classes: [&'static str; 4],
    /// First byte of the images' hashes.
    pub bytes: &'static str,
    /// What computed it.
    pub device: &'static str,
    pub threads: usize,
}

impl Default for Cell {
    fn default() -> Self {
        Self {
            dataset: "mini-pets",
            protocol: Protocol::Clean,
            learner: "DINOv2 LoRA",
            seed: 0,
            images: 400,
            views: 1,
            headline: Headline::Top1,
            right: |i| i % 4 > 0,
            rank: 4,
            split: "0123456789abcdef",
            classes: ["ant", "bee", "cat", "dog"],
            bytes: "00",
            device: "cpu",
            threads: 2,
        }
    }
}

impl Cell {
    pub fn finish(&self, store: &Store) -> Record {
        let (identity, account, rows) = self.parts();
        store.finish(&identity, account, &rows).unwrap()
    }

    fn parts(&self) -> (Identity, CellDetails, Vec<Prediction>) {
        let identity = Identity {
            key: CellKey {
                dataset: self.dataset.into(),
                protocol: self.protocol,
                learner: self.learner.into(),
                shots: 16.into(),
                seed: self.seed,
            },
            hyper_parameters: serde_json::json!({ "method": "other", "rank": self.rank }),
            train: vec![],
            test: vec![],
            classes: self.classes.map(String::from).into(),
            weights: None,
            dtype: "f32".into(),
            backend: "local".into(),
            recipe: 1,
        };
        let row = |i: u32| Prediction {
            id: format!("test/{i:03}.png"),
            sha256: format!("{}{i:062x}", self.bytes),
            group: (self.views > 1).then(|| format!("drawing {}", i / self.views)),
            truth: i / self.views % 4,
            free_text: None,
            free_class: None,
            trie_class: None,
            likelihood_class: Some((i / self.views + u32::from(!(self.right)(i))) % 4),
            log_probs: None,
        };
        let account = CellDetails {
            reading: Reading::Likelihood,
            headline: self.headline,
            micro: true,
            regime: None,
            split_sha256: self.split.into(),
            card: None,
            fitted: None,
            names: None,
            training: TrainingSummary::default(),
            timing: Timing {
                device: self.device.into(),
                threads: self.threads,
                jobs: 1,
                devices: 1,
                ..Timing::default()
            },
        };
        let rows: Vec<_> = (0..self.images).map(row).collect();
        (identity, account, rows)
    }
}

/// A results folder with these cells, its ledger and its config.
pub fn folder(path: &Path, cells: &[Cell]) -> Store {
    let store = Store::open(path).unwrap();
    for cell in cells {
        cell.finish(&store);
    }
    store.write_ledger(&store.records().unwrap()).unwrap();
    store.write_sweep_config("name = \"nightly\"\n").unwrap();
    store
}

/// A results folder of very many cells, written without waiting for the disk: 20 series a dataset, with seeds from 0.
pub fn many(path: &Path, cells: usize, cell: &Cell) {
    let store = Store::open(path).unwrap();
    fs::remove_dir(path.join("splits")).unwrap(); // they follow from config and seed
    let mut records = Vec::new();
    for i in 0..cells {
        let (mut identity, account, mut rows) = cell.parts();
        identity.key.dataset = format!("set {}", i % 5);
        identity.key.learner = format!("learner {}", i / 5 % 4);
        identity.key.seed = i as u64 / 20;
        for (j, row) in rows.iter_mut().enumerate() {
            // Answers of each cell's own, the same in every folder.
            if (i * 7 + j * 13) % 11 == 0 {
                row.likelihood_class = Some((row.truth + 1) % 4);
            }
            row.log_probs = Some((0..4).map(|c| -0.1 * ((i + j * c) % 50) as f32).collect());
        }
        let encoded = predictions::encode("many", &identity.classes, &rows).unwrap();
        let hash = Sha256::digest(&encoded);
        let hash = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let record = Record::new(&identity, account, &rows, hash);
        let parquet = path.join("predictions").join(format!("{}.parquet", record.run_id));
        fs::write(parquet, encoded).unwrap();
        fs::write(store.cell_path(&record.run_id), serde_json::to_vec(&record).unwrap()).unwrap();
        records.push(record);
    }
    store.write_ledger(&records).unwrap();
    store.write_sweep_config("name = \"many\"\n").unwrap();
}
