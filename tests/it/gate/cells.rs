//! Results folders made by hand.

use std::path::Path;

use kshot::config::Protocol;
use kshot::prediction::{Prediction, Reading};
use kshot::results::metric::Headline;
use kshot::results::record::{Account, CellKey, Identity, Record, Timing, TrainingSummary};
use kshot::results::store::Store;

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
        }
    }
}

impl Cell {
    pub fn finish(&self, store: &Store) -> Record {
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
        let account = Account {
            reading: Reading::Likelihood,
            headline: self.headline,
            micro: true,
            regime: None,
            split_sha256: self.split.into(),
            card: None,
            fitted: None,
            names: None,
            training: TrainingSummary::default(),
            timing: Timing::default(),
        };
        let rows: Vec<_> = (0..self.images).map(row).collect();
        store.finish(&identity, account, &rows).unwrap()
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
