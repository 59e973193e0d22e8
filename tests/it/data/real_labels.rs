//! The official label files, which may not be redistributed: `KSHOT_REAL_LABELS` points to a folder with
//! `mat/{cars_meta,cars_train_annos,cars_test_annos,imagelabels,setid}.mat` and
//! `splits/split_zhou_StanfordCars.json.gz`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::PathBuf;

use kshot::data::mat::{Array, MatFile};

use super::fixture::{Fixture, gz, png, tar, zip};

fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("KSHOT_REAL_LABELS").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: KSHOT_REAL_LABELS is not set, so the official label files are not read");
    }
    folder
}

fn numbers(file: &MatFile, name: &str) -> Vec<u32> {
    file.get(name)
        .unwrap()
        .numbers()
        .unwrap()
        .iter()
        .map(|v| *v as u32)
        .collect()
}

fn texts(arrays: &[&Array]) -> Vec<String> {
    arrays.iter().map(|a| a.text().unwrap().to_owned()).collect()
}

#[test]
fn flowers() {
    let Some(folder) = folder() else { return };
    let labels = numbers(&MatFile::read(&folder.join("mat/imagelabels.mat")).unwrap(), "labels");
    assert_eq!(labels.len(), 8189);
    assert_eq!(labels.iter().collect::<BTreeSet<_>>().len(), 102);
    let sets = MatFile::read(&folder.join("mat/setid.mat")).unwrap();
    let sets = ["trnid", "valid", "tstid"].map(|name| numbers(&sets, name));
    assert_eq!(sets.each_ref().map(Vec::len), [1020, 1020, 6149]);
    let all: BTreeSet<_> = sets.iter().flatten().copied().collect();
    assert_eq!((all.len(), all.first(), all.last()), (8189, Some(&1), Some(&8189)));
    // Ten of each class to train with: only with `label index = image number - 1` does this come out.
    let mut per_class = BTreeMap::new();
    for image in &sets[0] {
        *per_class.entry(labels[*image as usize - 1]).or_insert(0) += 1;
    }
    assert!(per_class.len() == 102 && per_class.values().all(|count| *count == 10));
}

#[test]
fn cars() {
    let Some(folder) = folder() else { return };
    let meta = MatFile::read(&folder.join("mat/cars_meta.mat")).unwrap();
    let names = texts(
        &meta
            .get("class_names")
            .unwrap()
            .cells()
            .unwrap()
            .iter()
            .collect::<Vec<_>>(),
    );
    assert_eq!(names.len(), 196);
    assert_eq!(
        (names[0].as_str(), names[195].as_str()),
        ("AM General Hummer SUV 2000", "smart fortwo Convertible 2012")
    );
    assert!(names.contains(&"Ram C/V Cargo Van Minivan 2012".to_owned()));

    let test = MatFile::read(&folder.join("mat/cars_test_annos.mat")).unwrap();
    let test = test.get("annotations").unwrap();
    assert_eq!(test.field("fname").unwrap().len(), 8041);
    assert!(test.field("class").is_none());

    let train = MatFile::read(&folder.join("mat/cars_train_annos.mat")).unwrap();
    let train = train.get("annotations").unwrap();
    let files = texts(&train.field("fname").unwrap());
    let classes = train
        .field("class")
        .unwrap()
        .into_iter()
        .map(|a| a.numbers().unwrap()[0] as u32 - 1);
    let devkit: BTreeMap<String, u32> = files.into_iter().zip(classes).collect();
    assert_eq!(devkit.len(), 8144);

    let split = std::fs::File::open(folder.join("splits/split_zhou_StanfordCars.json.gz")).unwrap();
    let mut json = String::new();
    flate2::read::GzDecoder::new(split).read_to_string(&mut json).unwrap();
    let split: BTreeMap<String, Vec<(String, u32, String)>> = serde_json::from_str(&json).unwrap();
    let mut coop = BTreeMap::new();
    for (path, label, name) in split["train"].iter().chain(&split["val"]) {
        coop.insert(path.strip_prefix("cars_train/").unwrap().to_owned(), *label);
        // CoOp puts the year first.
        let (rest, year) = names[*label as usize].rsplit_once(' ').unwrap();
        assert_eq!(*name, format!("{year} {rest}"));
    }
    assert_eq!(coop, devkit);
}

/// One tiny image under many names: the labels are real, the pixels are not needed.
fn stand_ins<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Vec<u8> {
    let image = png(7);
    tar(names.into_iter().map(|name| (name, image.clone())))
}

fn official(folder: &std::path::Path, file: &str) -> Vec<u8> {
    std::fs::read(folder.join(file)).unwrap()
}

#[test]
fn cars_open_with_test_labels_from_coop() {
    let Some(folder) = folder() else { return };
    let images = |side: &str, count: u32| gz(&stand_ins((1..=count).map(|i| format!("{side}/{i:05}.jpg"))));
    let mat = |name: &str| {
        (
            format!("devkit/{name}.mat"),
            official(&folder, &format!("mat/{name}.mat")),
        )
    };
    let data = Fixture::new("stanford-cars", "")
        .file("train-images", "cars_train.tgz", &images("cars_train", 8144))
        .file("test-images", "cars_test.tgz", &images("cars_test", 8041))
        .file(
            "devkit",
            "car_devkit.tgz",
            &gz(&tar(["cars_meta", "cars_train_annos", "cars_test_annos"].map(mat))),
        )
        .file(
            "coop-split",
            "split.json.gz",
            &official(&folder, "splits/split_zhou_StanfordCars.json.gz"),
        )
        .expecting(196, 8144, 8041)
        .open()
        .unwrap();
    assert_eq!(data.pool[0].id, "cars_train/00001.jpg");
    assert_eq!(data.classes[data.pool[0].class as usize], "Audi TTS Coupe 2012");
    let per_class: BTreeSet<_> = (0..196)
        .map(|c| data.test.iter().filter(|i| i.class == c).count())
        .collect();
    assert_eq!((per_class.first(), per_class.last()), (Some(&24), Some(&68)));
}

#[test]
fn flowers_open_with_20_images_a_class_to_draw_from() {
    let Some(folder) = folder() else { return };
    let names: Vec<_> = (1..=102).map(|i| format!("\"flower {i}\"")).collect();
    let data = Fixture::new("oxford-flowers", &format!("class_names = [{}]", names.join(", ")))
        .file(
            "images",
            "102flowers.tgz",
            &gz(&stand_ins((1..=8189).map(|i| format!("jpg/image_{i:05}.jpg")))),
        )
        .file("labels", "imagelabels.mat", &official(&folder, "mat/imagelabels.mat"))
        .file("splits", "setid.mat", &official(&folder, "mat/setid.mat"))
        .expecting(102, 2040, 6149)
        .open()
        .unwrap();
    assert!((0..102).all(|c| data.pool.iter().filter(|i| i.class == c).count() == 20));
    assert_eq!(kshot::data::split::clean(&data, 16, 1).unwrap().train.len(), 16 * 102);
}

#[test]
fn caltech_opens_with_coop_s_hundred_classes() {
    let Some(folder) = folder() else { return };
    let split = official(&folder, "splits/split_zhou_Caltech101.json.gz");
    let mut json = String::new();
    flate2::read::GzDecoder::new(split.as_slice())
        .read_to_string(&mut json)
        .unwrap();
    let listed: BTreeMap<String, Vec<(String, u32, String)>> = serde_json::from_str(&json).unwrap();
    let names = listed
        .values()
        .flatten()
        .map(|(path, ..)| format!("101_ObjectCategories/{path}"));
    let nested = gz(&stand_ins(
        names.chain(["101_ObjectCategories/BACKGROUND_Google/tmp".into()]),
    ));
    let data = Fixture::new("caltech101", "")
        .file(
            "archive",
            "caltech-101.zip",
            &zip(&[("caltech-101/101_ObjectCategories.tar.gz", &nested)]),
        )
        .file("coop-split", "split.json.gz", &split)
        .expecting(100, 4128 + 1649, 2465)
        .open()
        .unwrap();
    assert_eq!(data.classes[..4], ["face", "leopard", "motorbike", "accordion"]);
}
