//! Readers of lists, which need a dataset around them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use kshot::config::Protocol;
use kshot::data;
use kshot::data::layout::coop;
use kshot::data::split;
use kshot::data::split::CoopList;
use kshot::data::{Dataset, LabelledImage, Origin};
use kshot::manifest::{CoopPaths, Layout};

use crate::hostile::made::encoded;

/// Two classes with two images on each side, opened for CoOp's protocol.
fn dataset() -> Dataset {
    let side = |side: &str| -> Vec<LabelledImage> {
        let image = |i: u32| LabelledImage {
            id: format!("images/{side}_{i}.jpg"),
            class: i % 2,
            sha256: "0".repeat(64),
            path: PathBuf::new(),
            ..LabelledImage::default()
        };
        (0..4).map(image).collect()
    };
    let (pool, val, test) = (side("train"), side("val"), side("test"));
    let ids = |images: &[LabelledImage]| images.iter().map(|image| image.id.clone()).collect();
    let coop = CoopList {
        paths: CoopPaths {
            root: "toy/images".into(),
            prefix: "images/".into(),
        },
        train: ids(&pool),
        val: ids(&val),
        test: ids(&test),
    };
    Dataset {
        name: "toy".into(),
        title: "Toy".into(),
        classes: vec!["cat".into(), "guinea pig".into()],
        pool,
        val,
        test,
        origin: Origin::default(),
        layout: Layout::OxfordPets,
        micro: false,
        regime: None,
        left_out: 0,
        refused: Vec::new(),
        coop: Some(coop),
    }
}

pub fn split_files() -> Vec<Vec<u8>> {
    vec![
        split::split_file(&dataset()).unwrap().into_bytes(),
        br#"{"train": [["a/1.jpg", 0, "a"]], "val": [], "test": [["b/2.jpg", 1, "b"]]}"#.to_vec(),
    ]
}

pub fn read_split_file(bytes: &[u8], folder: &Path) -> bool {
    let path = folder.join("split.json");
    fs::write(&path, bytes).unwrap();
    let accepted = coop::Split::read(&path).and_then(|split| split.classes(&path)).is_ok();
    fs::remove_file(path).unwrap();
    accepted
}

pub fn index_files() -> Vec<Vec<u8>> {
    let dataset = dataset();
    let files = [1, 2].map(|shots| {
        let split = split::draw(&dataset, Protocol::Coop, shots, 1, None).unwrap();
        split::index_file(&dataset, &split).unwrap().into_bytes()
    });
    files.to_vec()
}

pub fn read_index_file(bytes: &[u8], folder: &Path) -> bool {
    static DATASET: OnceLock<Dataset> = OnceLock::new();
    let path = folder.join("shot_1-seed_1.json");
    fs::write(&path, bytes).unwrap();
    let dataset = DATASET.get_or_init(dataset);
    let accepted = [1, 2].map(|shots| split::draw(dataset, Protocol::Coop, shots, 1, Some(&path)).is_ok());
    fs::remove_file(path).unwrap();
    accepted.contains(&true)
}

/// The dataset whose index is damaged, beside the scratch folder.
fn indexed(folder: &Path) -> (PathBuf, PathBuf) {
    let place = folder.parent().unwrap().with_file_name("indexed");
    (place.join("datasets"), place.join("cache"))
}

/// The only index in a cache.
fn index(cache: &Path) -> Option<PathBuf> {
    let keys = fs::read_dir(cache.join("datasets/toy")).ok()?;
    keys.map(|key| key.unwrap().path().join("index.json"))
        .find(|index| index.exists())
}

pub fn indices() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let scratch = folder.path().join("above/scratch");
    let (datasets, cache) = indexed(&scratch);
    open(&datasets, &cache);
    vec![fs::read(index(&cache).unwrap()).unwrap()]
}

fn open(datasets: &Path, cache: &Path) -> Dataset {
    if !datasets.exists() {
        fs::create_dir_all(datasets).unwrap();
        for image in ["train/a/1", "train/b/2", "test/a/3", "test/b/4"] {
            let path = datasets.join("toy").join(image);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, encoded(image::ImageFormat::Bmp)).unwrap();
        }
        let manifest = "name = \"toy\"\ntitle = \"Toy\"\nlayout = \"folders\"\ndirectory = \"toy\"\nlicence = \"none\"\ncitation = \"none\"\n";
        fs::write(datasets.join("toy.toml"), manifest).unwrap();
    }
    data::open("toy", datasets, cache).unwrap()
}

/// A damaged index is made anew, or was not damaged where it counts: the dataset always opens, with all images.
pub fn read_index(bytes: &[u8], folder: &Path) -> bool {
    let (datasets, cache) = indexed(folder);
    if !datasets.exists() {
        open(&datasets, &cache);
    }
    let path = index(&cache).unwrap();
    fs::write(&path, bytes).unwrap();
    let dataset = open(&datasets, &cache);
    for image in dataset.pool.iter().chain(&dataset.test) {
        assert!(image.path.starts_with(&datasets), "{}", image.path.display());
    }
    serde_json::from_slice::<serde_json::Value>(bytes).is_ok()
}
