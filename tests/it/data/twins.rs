//! Twins of the four real datasets: label files in the structure of the official ones, with their class names, and two
//! to four tiny images a class.

use std::collections::BTreeMap;

use super::fixture::{gz, jpeg, mat5, tar, zip};
use super::four::{Staged, committed_manifest};

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
pub(super) fn flowers(rename: fn(&str) -> String) -> Staged {
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

pub(super) fn without_question_mark(name: &str) -> String {
    name.trim_end_matches('?').to_owned()
}

/// Lists of `trainval` (two a class) and `test` (one), with CoOp's file; `rename` its images.
pub(super) fn pets(rename: fn(&str) -> String) -> (Staged, Vec<String>) {
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

/// Training images 1 to 392, test images 1 to 196; the labelled test annotations or CoOp's file say what these are.
pub(super) fn cars(with_labels: bool, with_coop: bool) -> Staged {
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

pub(super) fn caltech(rename: fn(&str) -> &str) -> Staged {
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
