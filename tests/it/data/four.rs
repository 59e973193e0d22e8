//! The committed manifests of the four real datasets, on archives in exactly their official layouts: labels made here
//! in the structure of the real ones, two or three tiny images a class, under `clean` and `coop`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kshot::config::Protocol;
use kshot::data;
use kshot::data::{Dataset, LabelledImage};
use kshot::error::{Error, Result};
use kshot::fetch::HubSettings;
use kshot::manifest;
use kshot::manifest::{Form, Manifest};
use sha2::{Digest as _, Sha256};

use super::twins::{caltech, cars, flowers, pets, without_question_mark};

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

    fn hub(&self) -> HubSettings {
        HubSettings {
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
    insta::assert_snapshot!(other.message(Protocol::Coop), @"label file `[TMP]/cache/downloads/oxford-flowers/split_zhou_OxfordFlowers.json`: `image_00004.jpg` is `sweat pea` there, but officially `sweet pea`");
    // `clean` does not ask CoOp.
    other.open(Protocol::Clean).unwrap();
    let swapped = flowers(|name| match name {
        "sweet pea" => "tiger lily".into(),
        "tiger lily" => "sweet pea".into(),
        other => without_question_mark(other),
    });
    insta::assert_snapshot!(swapped.message(Protocol::Coop), @"label file `[TMP]/cache/downloads/oxford-flowers/split_zhou_OxfordFlowers.json`: `image_00004.jpg` is `tiger lily` there, but officially `sweet pea`");
    let (pets, _) = pets(|image| image.replace("Sphynx_3", "Sphynx_9"));
    insta::assert_snapshot!(pets.message(Protocol::Coop), @"label file `[TMP]/cache/downloads/oxford-pets/split_zhou_OxfordPets.json`: `Sphynx_9.jpg` is no image of this dataset");
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
    insta::assert_snapshot!(cars(false, false).message(Protocol::Coop), @"dataset `stanford-cars` is not on this machine: `cars_test_annos_withlabels.mat` should lie at `[TMP]/cache/downloads/stanford-cars/cars_test_annos_withlabels.mat`, `split_zhou_StanfordCars.json` should lie at `[TMP]/cache/downloads/stanford-cars/split_zhou_StanfordCars.json`");
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
    insta::assert_snapshot!(wrong.message(Protocol::Coop), @"label file `[TMP]/cache/downloads/caltech101/split_zhou_Caltech101.json`: `Faces/image_0001.jpg` is `leopard` there, but lies in `Faces`");
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
    insta::assert_snapshot!(messages, @r"
    dataset `caltech101` is not on this machine: `caltech-101.zip` should lie at `[TMP]/cache/downloads/caltech101/caltech-101.zip`, `split_zhou_Caltech101.json` should lie at `[TMP]/cache/downloads/caltech101/split_zhou_Caltech101.json`
    dataset `oxford-flowers` is not on this machine: `102flowers.tgz` should lie at `[TMP]/cache/downloads/oxford-flowers/102flowers.tgz`, `imagelabels.mat` should lie at `[TMP]/cache/downloads/oxford-flowers/imagelabels.mat`, `setid.mat` should lie at `[TMP]/cache/downloads/oxford-flowers/setid.mat`
    dataset `oxford-pets` is not on this machine: `images.tar.gz` should lie at `[TMP]/cache/downloads/oxford-pets/images.tar.gz`, `annotations.tar.gz` should lie at `[TMP]/cache/downloads/oxford-pets/annotations.tar.gz`
    dataset `stanford-cars` is not on this machine: `data/train-*-of-*.parquet` should lie at `[TMP]/hub/datasets--tanganke--stanford_cars/snapshots/9abf6cf7d6dfa7b95152a0d6e791ea9435b47a40/data/train-*-of-*.parquet`, `data/test-*-of-*.parquet` should lie at `[TMP]/hub/datasets--tanganke--stanford_cars/snapshots/9abf6cf7d6dfa7b95152a0d6e791ea9435b47a40/data/test-*-of-*.parquet`
    ");
    let error = empty("caltech101").open(Protocol::Tinker).unwrap_err();
    assert!(matches!(&error, Error::NotFetched { dataset, .. } if dataset == "caltech101"));
    assert!(
        error
            .hint()
            .unwrap()
            .contains("kshot data fetch caltech101 --source hub")
    );
}
