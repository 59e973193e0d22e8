//! The committed manifests of the four real datasets, on archives in exactly their official layouts: labels made here
//! in the structure of the real ones, two or three tiny images a class, under `clean` and `coop`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use kshot::config::Protocol;
use kshot::data::fetch::HubPlaces;
use kshot::data::manifest::{self, Form, Manifest};
use kshot::data::{self, Dataset, LabelledImage};
use kshot::error::{Error, Result};
use sha2::{Digest as _, Sha256};

use super::fixture::{gz, jpeg, mat5, tar, zip};

pub(super) const FOUR: [&str; 4] = ["caltech101", "oxford-flowers", "oxford-pets", "stanford-cars"];

pub(super) fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets")
}

pub(super) fn committed_manifest(name: &str) -> Manifest {
    manifest::load(&committed(), name).unwrap()
}

/// A committed manifest with files of one's own in place of the downloaded ones.
pub(super) struct Staged {
    folder: tempfile::TempDir,
    name: &'static str,
}

impl Staged {
    /// `files`: role and bytes; what is left out is not there. A file of the promised size keeps the promised hash.
    /// `expect`: other counts than those of the manifest.
    pub(super) fn new(name: &'static str, files: &[(&str, Vec<u8>)], expect: Option<[i64; 3]>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("datasets")).unwrap();
        let text = std::fs::read_to_string(committed().join(format!("{name}.toml"))).unwrap();
        let mut manifest: toml::Table = toml::from_str(&text).unwrap();
        for file in manifest["file"].as_array_mut().unwrap() {
            let file = file.as_table_mut().unwrap();
            let Some((_, bytes)) = files.iter().find(|(role, _)| Some(*role) == file["role"].as_str()) else {
                continue;
            };
            let path = folder
                .path()
                .join("cache/downloads")
                .join(name)
                .join(file["name"].as_str().unwrap());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
            if file["size"].as_integer() != Some(bytes.len() as i64) {
                file.insert("size".into(), (bytes.len() as i64).into());
                let hash: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
                file.insert("sha256".into(), hash.into());
            }
        }
        if let Some([classes, pool, test]) = expect {
            let counts = [("classes", classes), ("pool", pool), ("test", test)];
            let expect = counts.map(|(key, value)| (key.to_owned(), value.into()));
            manifest.insert("expect".into(), toml::Table::from_iter(expect).into());
        }
        let manifest = toml::to_string(&manifest).unwrap();
        std::fs::write(folder.path().join("datasets").join(format!("{name}.toml")), manifest).unwrap();
        Self { folder, name }
    }

    fn hub(&self) -> HubPlaces {
        HubPlaces {
            endpoint: "https://hub.invalid".into(),
            cache: self.folder.path().join("hub"),
            token: None,
            offline: true,
        }
    }

    pub(super) fn open(&self, protocol: Protocol) -> Result<Dataset> {
        let (datasets, cache) = (self.folder.path().join("datasets"), self.folder.path().join("cache"));
        data::open_with(self.name, protocol, &datasets, &cache, &self.hub())
    }

    #[track_caller]
    fn message(&self, protocol: Protocol) -> String {
        let error = self.open(protocol).unwrap_err();
        assert!(error.hint().is_some());
        error.to_string().replace(self.folder.path().to_str().unwrap(), "[TMP]")
    }
}

/// Images of each class, in class order.
pub(super) fn per_class(dataset: &Dataset, side: &[LabelledImage]) -> Vec<usize> {
    let mut counts = vec![0; dataset.classes.len()];
    for image in side {
        counts[image.class as usize] += 1;
    }
    counts
}

/// A CoOp split file of images and class names: the first of each class trains, the second validates, others test.
fn coop_file(classes: &[(String, Vec<String>)]) -> Vec<u8> {
    let mut sides: BTreeMap<&str, Vec<serde_json::Value>> = BTreeMap::new();
    for (label, (name, images)) in classes.iter().enumerate() {
        for (image, side) in images
            .iter()
            .zip(["train", "val"].into_iter().chain(std::iter::repeat("test")))
        {
            sides
                .entry(side)
                .or_default()
                .push(serde_json::json!([image, label, name]));
        }
    }
    serde_json::to_vec(&sides).unwrap()
}

fn images(names: impl IntoIterator<Item = String>) -> Vec<u8> {
    gz(&tar(names
        .into_iter()
        .zip((0..=255).cycle())
        .map(|(name, colour)| (name, jpeg(colour)))))
}

/// Two training images a class, one for validation, one for testing; numbers run through the classes, not by class.
fn flowers(rename: fn(&str) -> String) -> Staged {
    let names = committed_manifest("oxford-flowers").class_names;
    let labels: Vec<u32> = (0..4).flat_map(|_| 1..=102).collect();
    let numbers = |round: u32| -> Vec<u32> { (1..=102).map(|class| round * 102 + class).rev().collect() };
    let ids = [
        mat5::numbers("trnid", &[numbers(2), numbers(0)].concat()),
        mat5::numbers("valid", &numbers(3)),
        mat5::numbers("tstid", &numbers(1)),
    ];
    let of_class = |class: usize| {
        (0..4)
            .map(|round| format!("image_{:05}.jpg", round * 102 + class + 1))
            .collect()
    };
    let coop: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(class, name)| (rename(name), of_class(class)))
        .collect();
    let files = [
        ("images", images((1..=408).map(|i| format!("jpg/image_{i:05}.jpg")))),
        ("labels", mat5::file(&[mat5::numbers("labels", &labels)])),
        ("splits", mat5::file(&ids)),
        ("coop-split", coop_file(&coop)),
    ];
    Staged::new("oxford-flowers", &files, Some([102, 306, 102]))
}

fn without_question_mark(name: &str) -> String {
    name.trim_end_matches('?').to_owned()
}

#[test]
fn flowers_have_official_sides_and_coop_s() {
    let set = flowers(without_question_mark);
    let clean = set.open(Protocol::Clean).unwrap();
    assert_eq!(per_class(&clean, &clean.pool), [3; 102]);
    assert_eq!(clean.test[0].id, "jpg/image_00103.jpg");
    let coop = set.open(Protocol::Coop).unwrap();
    assert_eq!([coop.pool.len(), coop.val.len(), coop.test.len()], [102, 102, 204]);
    let differ: Vec<_> = (0..102).filter(|i| clean.classes[*i] != coop.classes[*i]).collect();
    assert_eq!((differ, coop.classes[59].as_str()), (vec![59], "pink-yellow dahlia"));
    assert_eq!(coop.val[0].id, "jpg/image_00103.jpg");
    assert_eq!(coop.origin.form, Form::Archive);
    assert!(
        coop.origin.source.contains("split_zhou_OxfordFlowers.json sha256:"),
        "{}",
        coop.origin.source
    );
}

#[test]
fn a_coop_file_that_names_another_class_or_image_is_refused() {
    let other = flowers(|name| {
        if name == "sweet pea" {
            "sweat pea".into()
        } else {
            without_question_mark(name)
        }
    });
    insta::assert_snapshot!(other.message(Protocol::Coop), @"");
    // `clean` does not ask CoOp.
    other.open(Protocol::Clean).unwrap();
    let swapped = flowers(|name| match name {
        "sweet pea" => "tiger lily".into(),
        "tiger lily" => "sweet pea".into(),
        other => without_question_mark(other),
    });
    insta::assert_snapshot!(swapped.message(Protocol::Coop), @"");
    let (pets, _) = pets(|image| image.replace("Sphynx_3", "Sphynx_9"));
    insta::assert_snapshot!(pets.message(Protocol::Coop), @"");
}

/// Lists of `trainval` (two a class) and `test` (one), with CoOp's file; `rename` its images.
fn pets(rename: fn(&str) -> String) -> (Staged, Vec<String>) {
    let names = committed_manifest("oxford-pets").class_names;
    let line = |class: usize, i: usize| format!("{}_{i} {} 1 1\n", names[class], class + 1);
    let trainval: String = (0..37).flat_map(|class| [line(class, 2), line(class, 10)]).collect();
    let test: String = (0..37).map(|class| line(class, 3)).collect();
    let annotations = gz(&tar([
        ("./annotations/trainval.txt", trainval.as_bytes()),
        ("./annotations/test.txt", test.as_bytes()),
        ("./annotations/trimaps/._Bengal_1.png", b"AppleDouble"),
    ]));
    let all = names
        .iter()
        .flat_map(|name| [2, 10, 3, 77].map(|i| format!("images/{name}_{i}.jpg")));
    let of_class = |name: &String| [10, 2, 3].map(|i| rename(&format!("{name}_{i}.jpg"))).to_vec();
    let coop: Vec<_> = names.iter().map(|name| (name.to_lowercase(), of_class(name))).collect();
    let files = [
        ("images", images(all.chain(["images/Abyssinian_100.mat".to_owned()]))),
        ("annotations", annotations),
        ("coop-split", coop_file(&coop)),
    ];
    (Staged::new("oxford-pets", &files, Some([37, 74, 37])), names)
}

#[test]
fn pets_keep_their_order_which_ignores_case() {
    let (set, names) = pets(str::to_owned);
    let clean = set.open(Protocol::Clean).unwrap();
    assert_eq!(clean.classes, names);
    assert_eq!(
        clean.classes[..3],
        ["Abyssinian", "american_bulldog", "american_pit_bull_terrier"]
    );
    assert_eq!(
        (per_class(&clean, &clean.pool), per_class(&clean, &clean.test)),
        (vec![2; 37], vec![1; 37])
    );
    let coop = set.open(Protocol::Coop).unwrap();
    assert_eq!([coop.pool.len(), coop.val.len(), coop.test.len()], [37, 37, 37]);
    assert_eq!(coop.classes[0], "abyssinian");
    let ids = |side: &[LabelledImage]| -> BTreeSet<String> { side.iter().map(|image| image.id.clone()).collect() };
    assert_eq!(ids(&coop.test), ids(&clean.test));
    assert!(coop.pool.iter().all(|image| image.id.ends_with("_10.jpg")));
}

/// Training images 1 to 392, test images 1 to 196; the labelled test annotations or CoOp's file say what these are.
fn cars(with_labels: bool, with_coop: bool) -> Staged {
    let names = committed_manifest("stanford-cars").class_names;
    let row = |class: Option<usize>, name: String| {
        let mut row = [39, 116, 569, 375].map(|v| mat5::numbers("", &[v])).to_vec();
        row.extend(class.map(|class| mat5::numbers("", &[class as u32 + 1])));
        row.push(mat5::text(&name));
        row
    };
    let annos = |classes: &[usize], with_class: bool| {
        let rows: Vec<_> = classes
            .iter()
            .zip(1..)
            .map(|(class, i)| row(with_class.then_some(*class), format!("{i:05}.jpg")))
            .collect();
        let boxes = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"].into_iter();
        let fields: Vec<_> = boxes.chain(with_class.then_some("class")).chain(["fname"]).collect();
        mat5::file(&[mat5::structs("annotations", &fields, &rows)])
    };
    // In no order of classes: 13 has no common factor with 196.
    let train: Vec<usize> = (0..392).map(|i| i * 13 % 196).collect();
    let test: Vec<usize> = (0..196).map(|i| i * 27 % 196).collect();
    let cells: Vec<_> = names.iter().map(|name| mat5::text(name)).collect();
    let devkit = gz(&tar([
        (
            "devkit/cars_meta.mat",
            mat5::file(&[mat5::cells("class_names", &cells)]),
        ),
        ("devkit/cars_train_annos.mat", annos(&train, true)),
        ("devkit/cars_test_annos.mat", annos(&test, false)),
    ]));
    let of_class = |class: usize| -> Vec<String> {
        let of = |side: &str, classes: &[usize]| -> Vec<String> {
            let of_class = classes.iter().zip(1..).filter(|(c, _)| **c == class);
            of_class.map(|(_, i)| format!("{side}/{i:05}.jpg")).collect()
        };
        [of("cars_train", &train), of("cars_test", &test)].concat()
    };
    let year_first = |name: &String| {
        let (car, year) = name.rsplit_once(' ').unwrap();
        format!("{year} {car}")
    };
    let coop: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(class, name)| (year_first(name), of_class(class)))
        .collect();
    let mut files = vec![
        (
            "train-images",
            images((1..=392).map(|i| format!("cars_train/{i:05}.jpg"))),
        ),
        (
            "test-images",
            images((1..=196).map(|i| format!("cars_test/{i:05}.jpg"))),
        ),
        ("devkit", devkit),
    ];
    if with_labels {
        files.push(("test-labels", annos(&test, true)));
    }
    if with_coop {
        files.push(("coop-split", coop_file(&coop)));
    }
    Staged::new("stanford-cars", &files, Some([196, 392, 196]))
}

#[test]
fn cars_have_the_same_labels_from_the_devkit_and_from_coop() {
    let labels = |side: &[LabelledImage]| super::fixture::labels(side);
    let official = cars(true, false).open(Protocol::Clean).unwrap();
    let set = cars(false, true);
    let from_coop = set.open(Protocol::Clean).unwrap();
    assert_eq!(labels(&from_coop.test), labels(&official.test));
    assert_eq!(labels(&from_coop.pool), labels(&official.pool));
    assert_eq!(from_coop.classes, official.classes);
    assert_eq!(per_class(&official, &official.pool), [2; 196]);
    let coop = set.open(Protocol::Coop).unwrap();
    assert_eq!([coop.pool.len(), coop.val.len(), coop.test.len()], [196; 3]);
    assert_eq!(coop.classes[0], "2000 AM General Hummer SUV");
    assert_eq!(labels(&coop.test), labels(&official.test));
    insta::assert_snapshot!(cars(false, false).message(Protocol::Coop), @"");
}

/// The four folders whose classes CoOp names otherwise.
pub(super) fn folder_of(coop: &str) -> &str {
    match coop {
        "airplane" => "airplanes",
        "face" => "Faces",
        "leopard" => "Leopards",
        "motorbike" => "Motorbikes",
        same => same,
    }
}

fn caltech(rename: fn(&str) -> &str) -> Staged {
    let classes = [
        "face",
        "leopard",
        "motorbike",
        "accordion",
        "airplane",
        "water_lilly",
        "yin_yang",
    ];
    let image = |class: &str, i: usize| format!("{}/image_{i:04}.jpg", folder_of(class));
    let coop: Vec<_> = classes
        .map(|class| (rename(class).to_owned(), (1..=4).map(|i| image(class, i)).collect()))
        .into();
    let listed = classes.iter().flat_map(|class| (1..=4).map(move |i| image(class, i)));
    let others = (1..=4).flat_map(|i| ["BACKGROUND_Google", "Faces_easy"].map(|f| format!("{f}/image_{i:04}.jpg")));
    let all = listed.chain(others).chain(["BACKGROUND_Google/tmp".to_owned()]);
    let nested = images(all.map(|path| format!("101_ObjectCategories/{path}")));
    let archive = zip(&[
        ("caltech-101/101_ObjectCategories.tar.gz", &nested),
        ("caltech-101/Annotations.tar", b"not needed"),
        ("__MACOSX/caltech-101/._Annotations.tar", b"junk"),
    ]);
    Staged::new(
        "caltech101",
        &[("archive", archive), ("coop-split", coop_file(&coop))],
        Some([7, 14, 14]),
    )
}

#[test]
fn caltech_has_validation_images_under_coop_only() {
    let set = caltech(|class| class);
    let clean = set.open(Protocol::Clean).unwrap();
    assert_eq!([clean.pool.len(), clean.val.len(), clean.test.len()], [14, 0, 14]);
    let coop = set.open(Protocol::Coop).unwrap();
    assert_eq!([coop.pool.len(), coop.val.len(), coop.test.len()], [7, 7, 14]);
    assert_eq!(coop.classes, clean.classes);
    assert_eq!(coop.val[0].id, "Faces/image_0002.jpg");
    let wrong = caltech(|class| {
        if class == "face" {
            "leopard"
        } else if class == "leopard" {
            "face"
        } else {
            class
        }
    });
    insta::assert_snapshot!(wrong.message(Protocol::Coop), @"");
}

/// Neither hashed nor decoded a second time: what is known of an image holds for every protocol.
#[test]
fn images_are_looked_at_once_for_all_protocols() {
    let (set, _) = pets(str::to_owned);
    let clean = set.open(Protocol::Clean).unwrap();
    let image = &clean.pool[0];
    let size = std::fs::metadata(&image.path).unwrap().len() as usize;
    std::fs::write(&image.path, vec![0; size]).unwrap();
    let coop = set.open(Protocol::Coop).unwrap();
    let same = [&coop.pool, &coop.val]
        .into_iter()
        .flatten()
        .find(|other| other.id == image.id)
        .unwrap();
    assert_eq!(
        (&same.sha256, same.dhash, &same.path),
        (&image.sha256, image.dhash, &image.path)
    );
    assert_ne!(image.dhash, 0);
}

#[test]
fn manifests_are_complete_and_their_addresses_secure() {
    for name in FOUR {
        let manifest = committed_manifest(name);
        assert!(!manifest.micro && manifest.expect.is_some() && manifest.homepage.is_some());
        assert!(!manifest.citation.is_empty() && !manifest.notes.is_empty());
        assert!(manifest.coop.is_some() && manifest.hub.as_ref().unwrap().expect.is_some());
        for protocol in [Protocol::Clean, Protocol::Tinker, Protocol::Coop] {
            assert!(!manifest.forms(protocol).unwrap().is_empty(), "{name} under {protocol}");
        }
        for file in &manifest.files {
            assert!(
                file.path.is_none() && file.size > 0 && file.sha256.is_some(),
                "{name}: {}",
                file.name
            );
            assert!(
                file.urls.iter().all(|url| url.starts_with("https://")),
                "{name}: {:?}",
                file.urls
            );
            assert!(
                !file.urls.is_empty() || !file.dead_urls.is_empty(),
                "{name}: {}",
                file.name
            );
        }
        let coop = manifest.files.iter().find(|file| file.role == "coop-split").unwrap();
        assert!(
            coop.urls[0].contains("/c7e7e68ae4eeadfab98e7886b2d6c9cf48a7ceb5/"),
            "a pinned revision"
        );
        let expect = manifest.expect.unwrap();
        if !manifest.class_names.is_empty() {
            assert_eq!(manifest.class_names.len(), expect.classes, "{name}");
            assert_eq!(
                manifest.class_names.iter().collect::<BTreeSet<_>>().len(),
                expect.classes,
                "{name}"
            );
        }
    }
    let first = |name, protocol| committed_manifest(name).forms(protocol).unwrap()[0];
    assert_eq!(first("stanford-cars", Protocol::Clean), Form::Hub);
    assert_eq!(first("oxford-pets", Protocol::Clean), Form::Archive);
    assert_eq!(
        committed_manifest("caltech101").forms(Protocol::Clean).unwrap(),
        [Form::Archive]
    );
    let pets = committed_manifest("oxford-pets").hub.unwrap();
    assert_eq!(pets.shards.len(), 6);
    assert!(
        pets.shards
            .iter()
            .all(|s| s.size.is_some() && s.sha256.as_ref().is_some_and(|hash| hash.len() == 64))
    );
}

#[test]
fn a_dataset_that_was_not_fetched_names_files_and_places() {
    let empty = |name| Staged::new(name, &[], None);
    let messages = FOUR.map(|name| empty(name).message(Protocol::Clean)).join("\n");
    insta::assert_snapshot!(messages, @"");
    let error = empty("caltech101").open(Protocol::Tinker).unwrap_err();
    assert!(matches!(&error, Error::NotFetched { dataset, .. } if dataset == "caltech101"));
    assert!(error.hint().unwrap().contains("kshot data fetch caltech101"));
}
