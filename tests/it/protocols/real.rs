//! The published split and index files: `KSHOT_REAL_LABELS` points to a folder with `splits/split_zhou_*.json.gz` and
//! `indices.tar.gz` of cross_modal_adaptation.

#![allow(clippy::print_stdout, reason = "says what was done or skipped")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::PathBuf;

use flate2::read::GzDecoder;
use kshot::config::Protocol;
use kshot::data::split;
use kshot::data::split::{index_file, split_file};

use super::listing::{Entry, coop};

/// Folder of index files, split file, image root, what an id has in front of CoOp's path, and sizes of the sides.
const SETS: [(&str, &str, &str, &str, [usize; 3]); 4] = [
    (
        "caltech101",
        "Caltech101",
        "caltech-101/101_ObjectCategories",
        "",
        [4128, 1649, 2465],
    ),
    (
        "oxford_flowers",
        "OxfordFlowers",
        "oxford_flowers/jpg",
        "jpg/",
        [4093, 1633, 2463],
    ),
    (
        "oxford_pets",
        "OxfordPets",
        "oxford_pets/images",
        "images/",
        [2944, 736, 3669],
    ),
    ("stanford_cars", "StanfordCars", "stanford_cars", "", [6509, 1635, 8041]),
];

pub(super) fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("KSHOT_REAL_LABELS").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: KSHOT_REAL_LABELS is not set, so the published split files are not read");
    }
    folder
}

/// A gzip-compressed file as text.
pub(super) fn unzipped(path: PathBuf) -> String {
    let mut text = String::new();
    GzDecoder::new(File::open(path).unwrap())
        .read_to_string(&mut text)
        .unwrap();
    text
}

#[test]
fn every_published_index_file_is_read_and_written_byte_for_byte() {
    let Some(folder) = folder() else { return };
    let mut files = BTreeMap::new();
    let archive = File::open(folder.join("indices.tar.gz")).unwrap();
    for entry in tar::Archive::new(GzDecoder::new(archive)).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        files.insert(entry.path().unwrap().display().to_string(), text);
    }
    files.retain(|name, _| name.ends_with(".json"));
    assert_eq!(files.len(), 60);
    let work = tempfile::tempdir().unwrap();
    let mut entries = 0;
    for (index_folder, name, root, prefix, sizes) in SETS {
        let text = unzipped(folder.join(format!("splits/split_zhou_{name}.json.gz")));
        let sides: BTreeMap<String, Vec<Entry>> = serde_json::from_str(&text).unwrap();
        let sides = ["train", "val", "test"].map(|side| sides[side].as_slice());
        assert_eq!(sides.map(<[Entry]>::len), sizes);
        let data = coop(root, prefix, sides);
        assert_eq!(data.coop.as_ref().unwrap().index_folder(), index_folder);
        assert!(
            split_file(&data).unwrap() == text,
            "the split file of {name} is written otherwise"
        );

        for k in [1_u32, 2, 4, 8, 16] {
            for seed in 1..=3 {
                let what = format!("indices/{index_folder}/shot_{k}-seed_{seed}.json");
                let text = &files[&what];
                let path = work.path().join("file.json");
                fs::write(&path, text).unwrap();
                let split = split::draw(&data, Protocol::Coop, k, seed, Some(&path)).unwrap();
                assert_eq!(split.train.len(), k as usize * data.classes.len(), "{what}");
                assert_eq!(split.val.len(), k.min(4) as usize * data.classes.len(), "{what}");
                assert!(
                    index_file(&data, &split).unwrap() == *text,
                    "{what} is written otherwise"
                );
                entries += split.train.len() + split.val.len();

                // One id changed: refused, and named.
                let first = split.train[0].id.strip_prefix(prefix).unwrap();
                fs::write(&path, text.replacen(first, &format!("{first}x"), 1)).unwrap();
                let error = split::draw(&data, Protocol::Coop, k, seed, Some(&path)).unwrap_err();
                assert!(error.to_string().contains(&format!("{first}x`")), "{what}: {error}");
            }
        }
    }
    println!("60 index files with {entries} entries");
}
