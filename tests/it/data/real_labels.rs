//! The official label files, which may not be redistributed: `KSHOT_REAL_LABELS` points to a folder with
//! `mat/{cars_meta,cars_train_annos,cars_test_annos,imagelabels,setid}.mat` and
//! `splits/split_zhou_{Caltech101,OxfordFlowers,OxfordPets,StanfordCars}.json.gz`, `caltech101_labels.txt`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::PathBuf;

use kshot::config::Protocol;
use kshot::data::Dataset;
use kshot::formats::mat::{Array, MatFile};
use sha2::Digest as _;

use super::fixture::{gz, png, tar, zip};
use super::four::{Staged, per_class};
use super::twins::folder_of;

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
    // Ten of each class to train and to validate with: only with `label index = image number - 1` does this come out.
    for set in &sets[..2] {
        let mut per_class = BTreeMap::new();
        for image in set {
            *per_class.entry(labels[*image as usize - 1]).or_insert(0) += 1;
        }
        assert!(per_class.len() == 102 && per_class.values().all(|count| *count == 10));
    }
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
    gz(&tar(names.into_iter().map(|name| (name, image.clone()))))
}

fn official(folder: &std::path::Path, file: &str) -> Vec<u8> {
    std::fs::read(folder.join(file)).unwrap()
}

/// CoOp's file as it is downloaded.
fn split_file(folder: &std::path::Path, name: &str) -> Vec<u8> {
    let packed = official(folder, &format!("splits/split_zhou_{name}.json.gz"));
    let mut json = Vec::new();
    flate2::read::GzDecoder::new(packed.as_slice())
        .read_to_end(&mut json)
        .unwrap();
    json
}

type Listed = BTreeMap<String, Vec<(String, u32, String)>>;

/// SHA-256 of a list as compact JSON with a line feed.
fn digest(list: &impl serde::Serialize) -> String {
    let json = serde_json::to_string(list).unwrap() + "\n";
    sha2::Sha256::digest(json).iter().map(|b| format!("{b:02x}")).collect()
}

fn sizes(data: &Dataset) -> [usize; 3] {
    [data.pool.len(), data.val.len(), data.test.len()]
}

/// The committed manifest expects what the real label files give: its counts, names and hashes are checked on opening.
#[test]
fn flowers_open_under_both_protocols() {
    let Some(folder) = folder() else { return };
    let set = Staged::new(
        "oxford-flowers",
        &[
            ("images", stand_ins((1..=8189).map(|i| format!("jpg/image_{i:05}.jpg")))),
            ("labels", official(&folder, "mat/imagelabels.mat")),
            ("splits", official(&folder, "mat/setid.mat")),
            ("coop-split", split_file(&folder, "OxfordFlowers")),
        ],
        None,
    );
    let clean = set.open(Protocol::Clean).unwrap();
    assert_eq!(sizes(&clean), [2040, 0, 6149]);
    assert_eq!(per_class(&clean, &clean.pool), [20; 102]);
    assert_eq!(
        digest(&clean.classes),
        "78312a75cfce87663c88882358b245e05e4f92c4d51d9cda169eb388c59df5c7"
    );
    let whole: Vec<_> = per_class(&clean, &clean.test).iter().map(|n| n + 20).collect();
    assert_eq!(
        digest(&whole),
        "689dc1763263d7eeae806c69d938b0171f8cdf91bc97ae1a3af16667637726d9"
    );
    let coop = set.open(Protocol::Coop).unwrap();
    assert_eq!(sizes(&coop), [4093, 1633, 2463]);
    let differ: Vec<_> = (0..102).filter(|i| clean.classes[*i] != coop.classes[*i]).collect();
    assert_eq!((differ, coop.classes[59].as_str()), (vec![59], "pink-yellow dahlia"));
    assert_eq!(kshot::data::split::clean(&clean, 16, 1).unwrap().train.len(), 16 * 102);
}

#[test]
fn cars_open_under_both_protocols_with_test_labels_from_coop() {
    let Some(folder) = folder() else { return };
    let images = |side: &str, count: u32| stand_ins((1..=count).map(|i| format!("{side}/{i:05}.jpg")));
    let mat = |name: &str| {
        (
            format!("devkit/{name}.mat"),
            official(&folder, &format!("mat/{name}.mat")),
        )
    };
    let devkit = gz(&tar(["cars_meta", "cars_train_annos", "cars_test_annos"].map(mat)));
    let set = Staged::new(
        "stanford-cars",
        &[
            ("train-images", images("cars_train", 8144)),
            ("test-images", images("cars_test", 8041)),
            ("devkit", devkit),
            ("coop-split", split_file(&folder, "StanfordCars")),
        ],
        None,
    );
    let clean = set.open(Protocol::Clean).unwrap();
    assert_eq!(sizes(&clean), [8144, 0, 8041]);
    assert_eq!(clean.classes[clean.pool[0].class as usize], "Audi TTS Coupe 2012");
    assert_eq!(
        digest(&clean.classes),
        "9da9ec6333105a7a2f0d50d7a5a6afe18b1ec3ede7dd8f1df298e59eb859ce35"
    );
    let counts = [&clean.pool, &clean.test].map(|side| digest(&per_class(&clean, side)));
    assert_eq!(
        counts,
        [
            "7f5bb3dcbb8ef7da9eb46b86b6763175a984bab87de62220eafed9d29ebfa13f",
            "5b9e258d895eeb7bcc0a7368169868ccb5a1cfa32f63f4ebaa79eed70e749b5e"
        ]
    );
    let coop = set.open(Protocol::Coop).unwrap();
    assert_eq!(sizes(&coop), [6509, 1635, 8041]);
    let class_of = |data: &Dataset| -> BTreeMap<String, u32> {
        let all = [&data.pool, &data.val, &data.test].into_iter().flatten();
        all.map(|image| (image.id.clone(), image.class)).collect()
    };
    assert_eq!(class_of(&coop), class_of(&clean));
}

/// The annotations of Pets are not among the real label files: their lists are written from CoOp's, whose train and
/// val are the official trainval.
#[test]
fn pets_open_under_both_protocols() {
    let Some(folder) = folder() else { return };
    let json = split_file(&folder, "OxfordPets");
    let listed: Listed = serde_json::from_slice(&json).unwrap();
    let list = |sides: &[&str]| -> String {
        let entries = sides.iter().flat_map(|side| &listed[*side]);
        entries
            .map(|(image, label, _)| format!("{} {} 1 1\n", image.trim_end_matches(".jpg"), label + 1))
            .collect()
    };
    let annotations = [
        ("annotations/trainval.txt", list(&["train", "val"])),
        ("annotations/test.txt", list(&["test"])),
    ];
    let names = listed.values().flatten().map(|(image, ..)| format!("images/{image}"));
    let set = Staged::new(
        "oxford-pets",
        &[
            ("images", stand_ins(names)),
            ("annotations", gz(&tar(annotations))),
            ("coop-split", json),
        ],
        None,
    );
    let clean = set.open(Protocol::Clean).unwrap();
    assert_eq!(sizes(&clean), [3680, 0, 3669]);
    assert_eq!(
        digest(&clean.classes),
        "9706a007630ead2d985b35d3f5d43ae67854e93cd69707440ba5bfe60f72c8b4"
    );
    let counts = [&clean.pool, &clean.test].map(|side| digest(&per_class(&clean, side)));
    assert_eq!(
        counts,
        [
            "c74c192d97d91fe31ef6d6017873cda8a2083519aa6f3809a35db3d8ecab1d6b",
            "1bea8ac9471034577fe811b7951097b936e03745c9c4fd77d3e223ce049d525f"
        ]
    );
    let coop = set.open(Protocol::Coop).unwrap();
    assert_eq!(sizes(&coop), [2944, 736, 3669]);
    assert!(
        coop.classes
            .iter()
            .zip(&clean.classes)
            .all(|(coop, ours)| *coop == ours.to_lowercase())
    );
}

#[test]
fn caltech_opens_under_both_protocols_and_its_three_orders_hold_the_same_classes() {
    let Some(folder) = folder() else { return };
    let json = split_file(&folder, "Caltech101");
    let listed: Listed = serde_json::from_slice(&json).unwrap();
    let names = listed
        .values()
        .flatten()
        .map(|(path, ..)| format!("101_ObjectCategories/{path}"));
    let nested = stand_ins(names.chain(["101_ObjectCategories/BACKGROUND_Google/tmp".into()]));
    let archive = zip(&[("caltech-101/101_ObjectCategories.tar.gz", &nested)]);
    let set = Staged::new("caltech101", &[("archive", archive), ("coop-split", json)], None);
    let clean = set.open(Protocol::Clean).unwrap();
    assert_eq!(sizes(&clean), [4128 + 1649, 0, 2465]);
    assert_eq!(
        digest(&clean.classes),
        "b93af3975c8da07a19b2802650c3d4cb67bfd6ac4cb1b9a8a3cda2f09ffa680c"
    );
    let whole: Vec<_> = per_class(&clean, &clean.pool)
        .iter()
        .zip(per_class(&clean, &clean.test))
        .map(|(a, b)| a + b)
        .collect();
    assert_eq!(
        digest(&whole),
        "1fcfa501778e57dfb1badbe6ad90dba7a4211f47a6b7a915f7dfdaa571323dc6"
    );
    let coop = set.open(Protocol::Coop).unwrap();
    assert_eq!(sizes(&coop), [4128, 1649, 2465]);
    assert_eq!(coop.classes, clean.classes);

    // By folder in byte order, as torchvision has them; in lower case with the background, as the hub has them.
    let mut folders: BTreeSet<&str> = clean.classes.iter().map(|name| folder_of(name)).collect();
    folders.insert("Faces_easy");
    assert_eq!(
        digest(&folders),
        "0158df89c6b378afa0a1e9a009779f8c063215605f9f9620969b4e5f314f42e1"
    );
    let mut lower: BTreeSet<String> = folders.iter().map(|name| name.to_lowercase()).collect();
    lower.insert("background_google".into());
    assert_eq!(
        digest(&lower),
        "aede82f1d31bdb48c39c7f7f8b31f645a1fde2bc7ba20f24e6e5dd8206f9b557"
    );
    let hub = String::from_utf8(official(&folder, "caltech101_labels.txt")).unwrap();
    assert!(hub.lines().eq(lower.iter().map(String::as_str)));
}
