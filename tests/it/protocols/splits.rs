//! The committed splits of the real datasets, `datasets/splits/*.json`: whole, and what `kshot split` draws.
//!
//! `KSHOT_REAL_LABELS` points to a folder with the official label files (`mat/*.mat`, `splits/split_zhou_*.json.gz`);
//! with `KSHOT_WRITE_SPLITS=1` as well the splits are written anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use image::{ExtendedColorType, ImageEncoder as _, codecs};
use kshot::config::Protocol;
use kshot::data;
use kshot::data::{Dataset, split};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::listing::Entry;
use super::real::{folder, unzipped};
use crate::support::{datasets, root};

const SHOTS: u32 = 16;
const SEEDS: u64 = 5;

/// Dataset, what stands around the part of an id that is written, classes, images to draw from and to predict.
const SETS: [(&str, [&str; 2], usize, usize, usize); 4] = [
    ("caltech101", ["", ".jpg"], 100, 5777, 2465),
    ("oxford-flowers", ["jpg/image_", ".jpg"], 102, 2040, 6149),
    ("oxford-pets", ["images/", ".jpg"], 37, 3680, 3669),
    ("stanford-cars", ["cars_train/", ".jpg"], 196, 8144, 8041),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Committed {
    dataset: String,
    protocol: Protocol,
    form: String,
    shots: u32,
    /// `jpg/image_{}.jpg`.
    id: String,
    classes_sha256: String,
    pool: Side,
    test: Side,
    /// For each class, in label order, its name and its shots in the order drawn: k of them are the first k.
    seeds: BTreeMap<u64, Vec<(String, String)>>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Side {
    images: usize,
    /// Of the sorted ids, a line each.
    ids_sha256: String,
}

fn place(name: &str) -> PathBuf {
    root().join(format!("datasets/splits/{name}.json"))
}

fn sha256(bytes: impl AsRef<[u8]>) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn committed_splits_are_whole() {
    let mut bytes = 0;
    for (name, around, classes, pool, test) in SETS {
        let text = fs::read_to_string(place(name)).unwrap();
        bytes += text.len();
        let split: Committed = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (split.dataset.as_str(), split.protocol, split.form.as_str()),
            (name, Protocol::Clean, "archive")
        );
        assert_eq!((split.shots, split.id), (SHOTS, around.join("{}")));
        assert_eq!((split.pool.images, split.test.images), (pool, test));
        assert_eq!(
            split.seeds.keys().copied().collect::<Vec<_>>(),
            (0..SEEDS).collect::<Vec<_>>()
        );
        let mut draws = BTreeSet::new();
        for drawn in split.seeds.values() {
            let names: Vec<&String> = drawn.iter().map(|(class, _)| class).collect();
            assert_eq!(names.len(), classes);
            let names = serde_json::to_string(&names).unwrap() + "\n";
            assert_eq!(sha256(&names), split.classes_sha256, "{name}");
            let ids: Vec<&str> = drawn.iter().flat_map(|(_, ids)| ids.split(' ')).collect();
            assert!(
                drawn.iter().all(|(_, ids)| ids.split(' ').count() == SHOTS as usize),
                "{name}"
            );
            assert_eq!(
                ids.iter().collect::<BTreeSet<_>>().len(),
                ids.len(),
                "{name}: an image stands twice"
            );
            draws.insert(ids);
        }
        assert_eq!(draws.len() as u64, SEEDS, "{name}: two seeds draw the same");
    }
    assert!(bytes < 900_000, "{bytes}");
}

#[test]
fn committed_splits_are_what_is_drawn_from_the_official_labels() {
    let Some(labels) = folder() else { return };
    for (name, around, classes, pool, test) in SETS {
        let (_folder, data) = opened(&labels, name);
        assert_eq!(
            (data.classes.len(), data.pool.len(), data.test.len()),
            (classes, pool, test)
        );
        let text = written(&data, around);
        if std::env::var_os("KSHOT_WRITE_SPLITS").is_some() {
            fs::create_dir_all(place(name).parent().unwrap()).unwrap();
            fs::write(place(name), &text).unwrap();
        }
        assert!(
            fs::read_to_string(place(name)).unwrap() == text,
            "{name} is drawn otherwise"
        );
        // And fewer shots are the first of these.
        let four = split::draw(&data, Protocol::Clean, 4, 3, None).unwrap();
        let committed: Committed = serde_json::from_str(&text).unwrap();
        let first = committed.seeds[&3].iter().flat_map(|(_, ids)| ids.split(' ').take(4));
        let first: Vec<String> = first.map(|id| around.join(id)).collect();
        assert!(four.train.iter().map(|item| &item.id).eq(&first), "{name}");
    }
}

/// The committed form of a dataset's splits.
fn written(data: &Dataset, [before, after]: [&str; 2]) -> String {
    let short = |id: &str| id.strip_prefix(before).unwrap().strip_suffix(after).unwrap().to_owned();
    let classes = serde_json::to_string(&data.classes).unwrap() + "\n";
    let side = |images: &[data::LabelledImage]| {
        let ids: String = images.iter().map(|image| format!("{}\n", image.id)).collect();
        format!("{{\"images\": {}, \"ids_sha256\": \"{}\"}}", images.len(), sha256(&ids))
    };
    let mut text = format!(
        "{{\n \"dataset\": \"{}\", \"protocol\": \"clean\", \"form\": \"archive\", \"shots\": {SHOTS},\n \
         \"id\": \"{before}{{}}{after}\",\n \"classes_sha256\": \"{}\",\n \"pool\": {},\n \"test\": {},\n \"seeds\": {{\n",
        data.name,
        sha256(&classes),
        side(&data.pool),
        side(&data.test)
    );
    for seed in 0..SEEDS {
        let split = split::draw(data, Protocol::Clean, SHOTS, seed, None).unwrap();
        writeln!(text, "  \"{seed}\": [").unwrap();
        for (class, name) in (0..).zip(&data.classes) {
            let own = split.train.iter().filter(|item| item.class == class);
            let ids: Vec<String> = own.map(|item| short(&item.id)).collect();
            let end = if class as usize + 1 == data.classes.len() {
                ""
            } else {
                ","
            };
            writeln!(
                text,
                "   [{}, \"{}\"]{end}",
                serde_json::to_string(name).unwrap(),
                ids.join(" ")
            )
            .unwrap();
        }
        text += if seed + 1 == SEEDS { "  ]\n" } else { "  ],\n" };
    }
    text + " }\n}\n"
}

/// A real dataset by its own manifest: the official label files, and one tiny image in the place of every other.
fn opened(labels: &Path, name: &str) -> (tempfile::TempDir, Dataset) {
    let coop = |set: &str| -> BTreeMap<String, Vec<Entry>> {
        serde_json::from_str(&unzipped(labels.join(format!("splits/split_zhou_{set}.json.gz")))).unwrap()
    };
    let label_file = |file: &str| fs::read(labels.join(file)).unwrap();
    let files: Vec<(&str, Vec<u8>)> = match name {
        "caltech101" => {
            let listed = coop("Caltech101");
            let paths = listed
                .values()
                .flatten()
                .map(|(path, ..)| format!("101_ObjectCategories/{path}"));
            let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
            writer
                .start_file(
                    "caltech-101/101_ObjectCategories.tar.gz",
                    zip::write::SimpleFileOptions::default(),
                )
                .unwrap();
            writer.write_all(&tar_gz(paths.map(stand_in))).unwrap();
            vec![
                ("archive", writer.finish().unwrap().into_inner()),
                ("coop-split", label_file("splits/split_zhou_Caltech101.json.gz")),
            ]
        }
        "oxford-flowers" => vec![
            (
                "images",
                tar_gz((1..=8189).map(|i| stand_in(format!("jpg/image_{i:05}.jpg")))),
            ),
            ("labels", label_file("mat/imagelabels.mat")),
            ("splits", label_file("mat/setid.mat")),
        ],
        "oxford-pets" => {
            // CoOp re-splits the official trainval; its test is the official one, and so are its labels.
            let listed = coop("OxfordPets");
            let list = |sides: &[&str]| {
                let entries = sides.iter().flat_map(|side| &listed[*side]);
                let line = |(path, label, _): &Entry| {
                    let id = path.strip_suffix(".jpg").unwrap();
                    let species = if id.starts_with(char::is_uppercase) { 1 } else { 2 };
                    format!("{id} {} {species} 1\n", label + 1)
                };
                entries.map(line).collect::<String>().into_bytes()
            };
            let annotations = [
                ("annotations/trainval.txt".to_owned(), list(&["train", "val"])),
                ("annotations/test.txt".to_owned(), list(&["test"])),
            ];
            let images = listed
                .values()
                .flatten()
                .map(|(path, ..)| stand_in(format!("images/{path}")));
            vec![("images", tar_gz(images)), ("annotations", tar_gz(annotations))]
        }
        _ => {
            let images =
                |side: &'static str, count: u32| tar_gz((1..=count).map(|i| stand_in(format!("{side}/{i:05}.jpg"))));
            let devkit = ["cars_meta", "cars_train_annos", "cars_test_annos"]
                .map(|file| (format!("devkit/{file}.mat"), label_file(&format!("mat/{file}.mat"))));
            vec![
                ("train-images", images("cars_train", 8144)),
                ("test-images", images("cars_test", 8041)),
                ("devkit", tar_gz(devkit)),
                ("coop-split", label_file("splits/split_zhou_StanfordCars.json.gz")),
            ]
        }
    };
    let folder = tempfile::tempdir().unwrap();
    let mut manifest: toml::Table = fs::read_to_string(datasets().join(format!("{name}.toml")))
        .unwrap()
        .parse()
        .unwrap();
    for other in ["hub", "prefer", "file"] {
        manifest.remove(other);
    }
    let table = |(role, bytes): (&str, Vec<u8>)| {
        fs::write(folder.path().join(role), &bytes).unwrap();
        let fields: [(&str, toml::Value); 5] = [
            ("role", role.into()),
            ("name", role.into()),
            ("path", role.into()),
            ("size", (bytes.len() as i64).into()),
            ("sha256", sha256(&bytes).into()),
        ];
        toml::Value::Table(
            fields
                .into_iter()
                .map(|(field, value)| (field.to_owned(), value))
                .collect(),
        )
    };
    let files: Vec<toml::Value> = files.into_iter().map(table).collect();
    manifest.insert("file".into(), files.into());
    fs::write(folder.path().join(format!("{name}.toml")), manifest.to_string()).unwrap();
    let data = data::open_for(name, Protocol::Clean, folder.path(), &folder.path().join("cache")).unwrap();
    (folder, data)
}

/// A small picture under a name.
fn stand_in(name: String) -> (String, Vec<u8>) {
    let mut bytes = Vec::new();
    let encoder = codecs::png::PngEncoder::new(&mut bytes);
    encoder.write_image(&[7; 12], 2, 2, ExtendedColorType::Rgb8).unwrap();
    (name, bytes)
}

fn tar_gz(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}
