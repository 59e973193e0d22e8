//! Shrunk images on disk change no prediction, and spare the decoding.

use std::fs;
use std::path::{Path, PathBuf};

use image::RgbImage;
use kshot::experiment::config::Sweep;
use kshot::experiment::plan;
use kshot::experiment::plan::{Cell, Places};
use kshot::prediction::Prediction;

use crate::support::{predict, root};

const CONFIG: &str = r#"
name = "large"
datasets = ["large"]
shots = [0, 1]

[[learner]]
method = "qwen3-vl-lora"
model = "datasets/mini/models/micro-qwen3-vl"
longest_side = 48
images_per_class = 4
batch = 4

[[learner]]
method = "dinov2-lora"
model = "datasets/mini/models/micro-dinov2"
images_per_class = 4
batch = 4

[[learner]]
method = "nearest-mean"
model = "datasets/mini/models/micro-dinov2"
"#;

/// Two classes of images of 400 x 300 pixels, and two too small to be kept.
fn dataset(folder: &Path) -> PathBuf {
    let mut number = 0;
    for side in ["train", "test"] {
        for class in ["ash", "oak"] {
            let inside = folder.join("photographs").join(side).join(class);
            fs::create_dir_all(&inside).unwrap();
            for i in 0..3 {
                number += 1;
                let (width, height) = if side == "test" && i == 2 { (40, 30) } else { (400, 300) };
                let pixel = |x: u32, y: u32| {
                    let wave = (x * number % 97 + y * 3 % 50) as u8;
                    image::Rgb([wave, 255 - wave, (number * 20) as u8])
                };
                let image = RgbImage::from_fn(width, height, pixel);
                image.save(inside.join(format!("{i}.jpg"))).unwrap();
            }
        }
    }
    let manifests = folder.join("datasets");
    fs::create_dir_all(&manifests).unwrap();
    let text = "name = 'large'\ntitle = 'Large images'\nlayout = 'folders'\nlicence = 'none'\ncitation = 'nobody'\n\
        directory = '../photographs'\n";
    fs::write(manifests.join("large.toml"), text).unwrap();
    manifests
}

fn cells(folder: &Path, datasets: &Path, gigabytes: Option<f64>) -> Vec<Cell> {
    let places = Places {
        home: root().into(),
        datasets: datasets.into(),
        cache: folder.join("cache"),
        image_cache_gigabytes: gigabytes,
        feature_gigabytes: None,
    };
    plan::plan(&Sweep::parse(CONFIG, "test", &[]).unwrap(), &places).unwrap()
}

fn predictions(cells: &[Cell]) -> Vec<Vec<Prediction>> {
    let predicted = |cell: &Cell| {
        let mut classifier = cell.classifier().unwrap();
        if cell.key.shots.any() {
            classifier.fit(&cell.shots().unwrap(), None, &mut |_| Ok(())).unwrap();
        }
        predict(&mut *classifier, &cell.test().unwrap())
    };
    cells.iter().map(predicted).collect()
}

#[test]
fn predictions_are_the_same_without_with_and_from_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let datasets = dataset(folder.path());
    let without = cells(folder.path(), &datasets, Some(0.0));
    let ids: Vec<&str> = without.iter().map(|cell| cell.run_id.as_str()).collect();
    assert_eq!(ids.len(), 4);
    let expected = predictions(&without);
    let images = folder.path().join("cache/images");
    assert!(!images.exists());

    let with = cells(folder.path(), &datasets, None);
    assert_eq!(with.iter().map(|cell| cell.run_id.as_str()).collect::<Vec<_>>(), ids);
    assert_eq!(predictions(&with), expected);
    let kept: Vec<String> = walk(&images);
    let (writer, vision): (Vec<&String>, Vec<&String>) = kept.iter().partition(|name| name.contains("-lanczos48-"));
    // Both learn from two of six images and see four of the same six large test images.
    assert!(writer.len() >= 6 && vision.len() >= 6, "{kept:?}");

    // A file that was replaced by one of the same size is told, whatever the cache holds of it.
    let again = cells(folder.path(), &datasets, None);
    let mut replaced = 0;
    for image in again[0].test().unwrap() {
        if image::image_dimensions(&image.path).unwrap().0 == 400 {
            let size = fs::metadata(&image.path).unwrap().len();
            fs::write(&image.path, vec![0; size as usize]).unwrap();
            assert!(matches!(image.bytes(), Err(kshot::error::Error::ChangedImage { .. })));
            replaced += 1;
        }
    }
    assert!(replaced > 0);
}

/// Names of the entries.
fn walk(images: &Path) -> Vec<String> {
    let folders = fs::read_dir(images)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir());
    let files = folders.flat_map(|folder| fs::read_dir(folder).unwrap());
    files
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}
