//! The embedded pack: no leak between shots and test images.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use kshot::data;
use kshot::data::{Dataset, LabelledImage, index, overlap, split};
use kshot::manifest;
use kshot::manifest::Manifest;

const EMOJI: [&str; 4] = ["mini-pets", "mini-cars", "mini-flowers", "mini-caltech101"];
const FASHION: &str = "mini-fashion";

fn datasets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets")
}

fn open(name: &str) -> (tempfile::TempDir, Dataset) {
    let cache = tempfile::tempdir().unwrap();
    let data = data::open(name, &datasets(), cache.path()).unwrap();
    (cache, data)
}

fn manifest(name: &str) -> Manifest {
    manifest::load(&datasets(), name).unwrap()
}

#[test]
fn the_pack_is_complete() {
    let listed: Vec<_> = manifest::list(&datasets())
        .unwrap()
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let micro: Vec<_> = listed.iter().filter(|m| m.micro).map(|m| m.name.as_str()).collect();
    assert_eq!(
        micro,
        [
            "mini-caltech101",
            "mini-cars",
            "mini-fashion",
            "mini-flowers",
            "mini-pets"
        ]
    );
    for name in micro {
        assert!(manifest(name).expect.is_some(), "{name} has no [expect]");
        let (_cache, data) = open(name);
        assert!(data.classes.len() >= 8, "{name}: {} classes", data.classes.len());
        for (class, title) in (0..).zip(&data.classes) {
            let count = |side: &[LabelledImage]| side.iter().filter(|image| image.class == class).count();
            assert!(
                count(&data.test) >= 12,
                "{name}: {} test images of {title}",
                count(&data.test)
            );
            assert!(
                count(&data.pool) >= 16,
                "{name}: {} training images of {title}",
                count(&data.pool)
            );
        }
        let split = split::clean(&data, 16, 0).unwrap();
        assert_eq!(
            (split.train.len(), split.test.len()),
            (16 * data.classes.len(), data.test.len())
        );
        for image in data.pool.iter().step_by(40) {
            let pixels = kshot::formats::image::decode(&std::fs::read(&image.path).unwrap(), &image.id).unwrap();
            assert_eq!(image.dhash, overlap::dhash(&pixels), "{name}: {}", image.id);
        }
        assert_eq!(data::open(name, &datasets(), _cache.path()).unwrap(), data);
    }
}

#[test]
fn shots_and_test_images_are_drawn_by_different_families() {
    for name in EMOJI {
        let (_cache, data) = open(name);
        let manifest = manifest(name);
        assert_eq!(data.regime, manifest.regime);
        assert!(
            data.regime.is_some(),
            "{name} does not say whether its concepts are novel"
        );
        let csv = datasets().join(manifest.provenance.unwrap());
        let rows: BTreeMap<_, _> = index::read(&csv)
            .unwrap()
            .into_iter()
            .map(|row| (row.id.clone(), row))
            .collect();
        let families =
            |side: &[LabelledImage]| -> BTreeSet<String> { side.iter().map(|i| rows[&i.id].family.clone()).collect() };
        let (shots, test) = (families(&data.pool), families(&data.test));
        assert!(shots.is_disjoint(&test), "{name}: {shots:?} and {test:?}");
        assert!(data.pool.iter().all(|image| rows[&image.id].role == "pool"));
        assert!(data.test.iter().all(|image| rows[&image.id].role == "test"));
        let groups =
            |side: &[LabelledImage]| -> BTreeSet<String> { side.iter().map(|i| i.group.clone().unwrap()).collect() };
        assert!(groups(&data.pool).is_disjoint(&groups(&data.test)));
    }
}

/// Pairs of a pool image and a test image whose difference hashes differ in at most four bits.
fn near_duplicates(data: &Dataset) -> Vec<overlap::Pair> {
    let hash = |image: &LabelledImage| overlap::dhash(&image.pixels().unwrap());
    let hashes = |images: &[LabelledImage]| -> Vec<u64> { images.iter().map(hash).collect() };
    overlap::count_pairs(&hashes(&data.pool), &hashes(&data.test), 4, usize::MAX).1
}

#[test]
fn no_test_emoji_looks_like_a_shot() {
    for name in EMOJI {
        let (_cache, data) = open(name);
        let pairs = near_duplicates(&data);
        let pairs: Vec<_> = pairs
            .iter()
            .map(|p| (&data.pool[p.pool].id, &data.test[p.test].id, p.distance))
            .collect();
        assert!(pairs.is_empty(), "{name}: {pairs:?}");
    }
}

#[test]
fn no_photograph_stands_on_both_sides() {
    let (_cache, data) = open(FASHION);
    let hashes: BTreeSet<_> = data.pool.iter().map(|i| &i.sha256).collect();
    assert_eq!(hashes.len(), data.pool.len());
    assert!(data.test.iter().all(|image| !hashes.contains(&image.sha256)));
    let pixels = |image: &LabelledImage| {
        let decoded = kshot::formats::image::decode(&std::fs::read(&image.path).unwrap(), &image.id).unwrap();
        (decoded.dimensions(), decoded.into_raw())
    };
    let pool: BTreeSet<_> = data.pool.iter().map(pixels).collect();
    assert_eq!(pool.len(), data.pool.len());
    assert!(data.test.iter().all(|image| !pool.contains(&pixels(image))));
    let pairs = near_duplicates(&data);
    let test: BTreeSet<_> = pairs.iter().map(|pair| pair.test).collect();
    println!(
        "{FASHION}: {} of {} test images within dHash distance 4 of a pool image",
        test.len(),
        data.test.len()
    );
}
