//! Each official layout with its quirks, in miniature.

use super::fixture::{Fixture, gz, jpeg, labels, mat5, png, tar, write_tree, zip};

const PETS_TRAINVAL: &str = "Abyssinian_2 1 1 1\namerican_bulldog_7 2 2 1\nAbyssinian_10 1 1 1\nBengal_3 3 1 2\n";
const PETS_TEST: &str = "american_bulldog_9 2 2 1\nBengal_1 3 1 2\nAbyssinian_1 1 1 1\n";

pub(crate) fn pets_images() -> Vec<(String, Vec<u8>)> {
    let listed = PETS_TRAINVAL
        .lines()
        .chain(PETS_TEST.lines())
        .map(|line| line.split(' ').next().unwrap());
    listed
        .zip(1..)
        .map(|(name, colour)| (format!("images/{name}.jpg"), jpeg(colour * 9)))
        .collect()
}

pub(crate) fn pets_annotations() -> Vec<u8> {
    let list = format!("#Image CLASS-ID SPECIES BREED ID\n#ID: 1:37 Class ids\n{PETS_TRAINVAL}{PETS_TEST}");
    gz(&tar([
        ("./annotations/list.txt", list.as_bytes()),
        ("./annotations/trainval.txt", PETS_TRAINVAL.as_bytes()),
        ("./annotations/test.txt", PETS_TEST.as_bytes()),
        ("./annotations/trimaps/._Bengal_1.png", b"AppleDouble"),
        ("./annotations/trimaps/Bengal_1.png", &png(1)),
    ]))
}

#[test]
fn pets_keep_class_order_and_only_listed_images() {
    let mut images = pets_images();
    images[0].1 = png(9); // a PNG that is named .jpg
    images[1].1.extend(b"trailing junk");
    images.push(("images/Abyssinian_100.mat".into(), b"stray".to_vec()));
    images.push(("images/Bengal_77.jpg".into(), b"listed nowhere".to_vec()));
    let set = Fixture::new("oxford-pets", "regime = \"known\"")
        .file("images", "images.tar.gz", &gz(&tar(images)))
        .file("annotations", "annotations.tar.gz", &pets_annotations())
        .expecting(3, 4, 3);
    let data = set.open().unwrap();
    // Case does not count: by bytes, Bengal would come before american_bulldog.
    assert_eq!(data.classes, ["Abyssinian", "american_bulldog", "Bengal"]);
    let pool = [
        "images/Abyssinian_10.jpg 0",
        "images/Abyssinian_2.jpg 0",
        "images/Bengal_3.jpg 2",
        "images/american_bulldog_7.jpg 1",
    ];
    assert_eq!(labels(&data.pool), pool);
    assert_eq!(
        labels(&data.test),
        [
            "images/Abyssinian_1.jpg 0",
            "images/Bengal_1.jpg 2",
            "images/american_bulldog_9.jpg 1"
        ]
    );
    assert!(!data.micro && data.left_out == 0);
    for image in data.pool.iter().chain(&data.test) {
        let bytes = std::fs::read(&image.path).unwrap();
        assert_eq!(image.sha256, sha256(&bytes));
    }
    let unpacked = data.pool[0]
        .path
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("annotations/trimaps");
    assert_eq!(std::fs::read_dir(unpacked).unwrap().count(), 1);
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// 2 classes, 3 training and 2 test images.
pub(crate) fn cars(with_labels: bool) -> Fixture {
    let row = |class: Option<u32>, name: &str| {
        let mut row = vec![mat5::numbers("", &[39]), mat5::numbers("", &[700])];
        row.extend(class.map(|class| mat5::numbers("", &[class])));
        row.push(mat5::text(name));
        row
    };
    let annos = |rows: &[Vec<Vec<u8>>], fields: &[&str]| mat5::file(&[mat5::structs("annotations", fields, rows)]);
    let with_class = ["bbox_x1", "bbox_y1", "class", "fname"];
    let meta = mat5::cells(
        "class_names",
        &[
            mat5::text("Ram C/V Cargo Van Minivan 2012"),
            mat5::text("AM General Hummer SUV 2000"),
        ],
    );
    let train = [
        row(Some(2), "00001.jpg"),
        row(Some(1), "00002.jpg"),
        row(Some(1), "00003.jpg"),
    ];
    let devkit = gz(&tar([
        ("devkit/cars_meta.mat", mat5::file(&[meta])),
        ("devkit/cars_train_annos.mat", annos(&train, &with_class)),
        (
            "devkit/cars_test_annos.mat",
            annos(
                &[row(None, "00001.jpg"), row(None, "00002.jpg")],
                &["bbox_x1", "bbox_y1", "fname"],
            ),
        ),
    ]));
    let images = |folder: &str, count: u8| {
        gz(&tar((1..=count).map(|i| {
            (format!("{folder}/{i:05}.jpg"), jpeg(i * 20 + folder.len() as u8))
        })))
    };
    let set = Fixture::new("stanford-cars", "")
        .file("train-images", "cars_train.tgz", &images("cars_train", 3))
        .file("test-images", "cars_test.tgz", &images("cars_test", 2))
        .file("devkit", "car_devkit.tgz", &devkit);
    if with_labels {
        let test = [row(Some(1), "00001.jpg"), row(Some(2), "00002.jpg")];
        set.file(
            "test-labels",
            "cars_test_annos_withlabels.mat",
            &annos(&test, &with_class),
        )
    } else {
        set
    }
}

#[test]
fn cars_take_names_and_labels_from_struct_arrays() {
    let data = cars(true).open().unwrap();
    assert_eq!(
        data.classes,
        ["Ram C/V Cargo Van Minivan 2012", "AM General Hummer SUV 2000"]
    );
    assert_eq!(
        labels(&data.pool),
        [
            "cars_train/00001.jpg 1",
            "cars_train/00002.jpg 0",
            "cars_train/00003.jpg 0"
        ]
    );
    assert_eq!(labels(&data.test), ["cars_test/00001.jpg 0", "cars_test/00002.jpg 1"]);
}

const COOP_CARS: &str = r#"{"train": [["cars_train/00001.jpg", 1, "2000 AM General Hummer SUV"],
    ["cars_train/00002.jpg", 0, "2012 Ram C/V Cargo Van Minivan"]],
    "val": [["cars_train/00003.jpg", 0, "2012 Ram C/V Cargo Van Minivan"]],
    "test": [["cars_test/00002.jpg", 1, "2000 AM General Hummer SUV"],
    ["cars_test/00001.jpg", 0, "2012 Ram C/V Cargo Van Minivan"]]}"#;

#[test]
fn cars_test_labels_may_come_from_coop() {
    let from_coop = cars(false)
        .file("coop-split", "split_zhou_StanfordCars.json", COOP_CARS.as_bytes())
        .open()
        .unwrap();
    let official = cars(true).open().unwrap();
    assert_eq!(labels(&from_coop.test), labels(&official.test));
    assert_eq!(from_coop.classes, official.classes);

    let wrong = COOP_CARS.replace("00002.jpg\", 0", "00002.jpg\", 1");
    let message = cars(false).file("coop-split", "split.json", wrong.as_bytes()).message();
    insta::assert_snapshot!(message, @"label file `[TMP]/datasets/split.json`: `cars_train/00002.jpg` has another label than in the devkit");
    insta::assert_snapshot!(cars(false).message(), @"dataset `toy`: no labels for the test images: give `cars_test_annos_withlabels.mat` (role `test-labels`) or CoOp's split_zhou_StanfordCars.json (role `coop-split`)");
}

/// 2 classes; images 1, 3 for training, 2 for validation, 5, 4, 6 for testing.
pub(crate) fn flowers(labels: &[u32]) -> Fixture {
    let ids = [
        mat5::numbers("trnid", &[3, 1]),
        mat5::numbers("valid", &[2]),
        mat5::numbers("tstid", &[5, 4, 6]),
    ];
    Fixture::new(
        "oxford-flowers",
        "class_names = [\"pink primrose\", \"hard-leaved pocket orchid\"]",
    )
    .file(
        "images",
        "102flowers.tgz",
        &gz(&tar((1..=6).map(|i| (format!("jpg/image_{i:05}.jpg"), jpeg(i * 30))))),
    )
    .file(
        "labels",
        "imagelabels.mat",
        &mat5::file(&[mat5::numbers("labels", labels)]),
    )
    .file("splits", "setid.mat", &mat5::file(&ids))
}

#[test]
fn flowers_count_images_and_labels_from_one() {
    let data = flowers(&[1, 2, 2, 1, 2, 1]).expecting(2, 3, 3).open().unwrap();
    assert_eq!(
        labels(&data.pool),
        [
            "jpg/image_00001.jpg 0",
            "jpg/image_00002.jpg 1",
            "jpg/image_00003.jpg 1"
        ]
    );
    assert_eq!(
        labels(&data.test),
        [
            "jpg/image_00004.jpg 0",
            "jpg/image_00005.jpg 1",
            "jpg/image_00006.jpg 0"
        ]
    );
    assert_eq!(data.classes[1], "hard-leaved pocket orchid");
}

#[test]
fn flowers_with_labels_that_do_not_fit_are_refused() {
    insta::assert_snapshot!(flowers(&[1, 2, 3, 1, 2, 1]).message(), @"label file `[TMP]/datasets/imagelabels.mat`: label 3 of image 3; the manifest names 2 classes");
    insta::assert_snapshot!(flowers(&[1, 2, 2, 1, 2]).message(), @"label file `[TMP]/datasets/setid.mat`: `tstid` names image 6, labels are given for 1 to 5");
}

pub(crate) const COOP_CALTECH: &str = r#"{"train": [["Faces/image_0002.jpg", 0, "face"], ["yin_yang/image_0001.jpg", 1, "yin_yang"]],
    "val": [["Faces/image_0001.jpg", 0, "face"]],
    "test": [["yin_yang/image_0002.jpg", 1, "yin_yang"], ["Faces/image_0003.jpg", 0, "face"]]}"#;

pub(super) fn caltech_images(faces: &str) -> Vec<(String, Vec<u8>)> {
    let image = |folder: &str, i: u8| {
        (
            format!("101_ObjectCategories/{folder}/image_{i:04}.jpg"),
            jpeg(i * 40 + folder.len() as u8),
        )
    };
    let mut images: Vec<_> = (1..=3).map(|i| image(faces, i)).collect();
    images.extend((1..=2).flat_map(|i| {
        [
            image("yin_yang", i),
            image("Faces_easy", i),
            image("BACKGROUND_Google", i),
        ]
    }));
    images.push((
        "101_ObjectCategories/BACKGROUND_Google/tmp".into(),
        b"no image".to_vec(),
    ));
    images
}

pub(crate) fn caltech(faces: &str, split: &[u8]) -> Fixture {
    let nested = gz(&tar(caltech_images(faces)));
    let archive = zip(&[
        ("caltech-101/101_ObjectCategories.tar.gz", &nested),
        ("__MACOSX/caltech-101/._101_ObjectCategories.tar.gz", b"AppleDouble"),
        ("caltech-101/Annotations.tar", b"not needed"),
        ("caltech-101/.DS_Store", b"junk"),
    ]);
    Fixture::new("caltech101", "")
        .file("archive", "caltech-101.zip", &archive)
        .file("coop-split", "split_zhou_Caltech101.json", split)
}

#[test]
fn caltech_follows_coop_whatever_the_case_of_its_folders() {
    let data = caltech("Faces", COOP_CALTECH.as_bytes())
        .expecting(2, 3, 2)
        .open()
        .unwrap();
    assert_eq!(data.classes, ["face", "yin_yang"]);
    assert_eq!(
        labels(&data.pool),
        [
            "Faces/image_0001.jpg 0",
            "Faces/image_0002.jpg 0",
            "yin_yang/image_0001.jpg 1"
        ]
    );
    assert_eq!(
        labels(&data.test),
        ["Faces/image_0003.jpg 0", "yin_yang/image_0002.jpg 1"]
    );
    let root = data.pool[0].path.ancestors().nth(3).unwrap();
    assert!(root.ends_with("caltech-101") && !root.join("101_ObjectCategories.tar.gz").exists());

    let lower = caltech("faces", &gz(COOP_CALTECH.as_bytes())).open().unwrap();
    assert_eq!(lower.pool[0].id, "Faces/image_0001.jpg");
    assert_eq!(lower.pool[0].sha256, data.pool[0].sha256);
}

#[test]
fn caltech_splits_that_do_not_fit_are_refused() {
    let cases = [
        ("yin_yang/image_0002.jpg", "yin_yang/image_0009.jpg"),
        ("yin_yang/image_0002.jpg", "wrench/image_0001.jpg"),
        ("yin_yang/image_0002.jpg", "BACKGROUND_Google/tmp"),
        (
            "[\"Faces/image_0001.jpg\", 0, \"face\"]",
            "[\"Faces/image_0001.jpg\", 0, \"visage\"]",
        ),
        ("\"val\"", "\"valid\""),
    ];
    let messages = cases.map(|(from, to)| {
        let split = COOP_CALTECH.replacen(from, to, 1);
        assert_ne!(split, COOP_CALTECH);
        caltech("Faces", split.as_bytes()).message()
    });
    insta::assert_snapshot!(messages.join("\n"), @r"
    dataset `toy`: `yin_yang/image_0009.jpg` is labelled `yin_yang`, but there is no such image
    label file `[TMP]/datasets/split_zhou_Caltech101.json`: `wrench/image_0001.jpg`: the archive has no folder `wrench`
    label file `[TMP]/datasets/split_zhou_Caltech101.json`: `BACKGROUND_Google/tmp` is not of the form `<Folder>/image_0001.jpg`
    label file `[TMP]/datasets/split_zhou_Caltech101.json`: label 0 is both `face` and `visage`
    label file `[TMP]/datasets/split_zhou_Caltech101.json`: no CoOp split file: unknown field `valid`, expected one of `train`, `val`, `test` at line 2 column 11
    ");
}

#[test]
fn folders_work_in_an_archive_and_in_place() {
    let files = [
        ("train/b/1.png", png(1)),
        ("train/a/2.jpg", jpeg(2)),
        ("train/a/.hidden", b"junk".to_vec()),
        ("test/a/3.png", png(3)),
        ("test/b/4.png", png(4)),
    ];
    let below = files
        .iter()
        .map(|(name, bytes)| (format!("toy-1.0/{name}"), bytes.clone()));
    let archived = Fixture::new("folders", "")
        .file("archive", "toy.tar", &tar(below))
        .expecting(2, 2, 2)
        .open()
        .unwrap();
    assert_eq!(archived.classes, ["a", "b"]);
    assert_eq!(labels(&archived.pool), ["train/a/2.jpg 0", "train/b/1.png 1"]);
    assert_eq!(labels(&archived.test), ["test/a/3.png 0", "test/b/4.png 1"]);

    let set = Fixture::new("folders", "directory = \"../mine\"");
    let mine = set.folder.path().join("mine");
    write_tree(&mine, &files);
    let in_place = set.open().unwrap();
    assert_eq!(labels(&in_place.pool), labels(&archived.pool));
    assert_eq!(in_place.pool[0].sha256, archived.pool[0].sha256);
    // A change of the folder is seen.
    write_tree(&mine, &[("test/b/5.png", png(5))]);
    assert_eq!(set.open().unwrap().test.len(), 3);
    assert_eq!(set.kept().len(), 2);

    std::fs::remove_dir_all(mine.join("test/b")).unwrap();
    let error = set.open().unwrap_err().to_string();
    assert_eq!(error, "dataset `toy`: class `b` is in `train` but not in `test`");
}
