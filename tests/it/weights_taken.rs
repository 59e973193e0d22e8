//! Tensors on their way from a file to their place: the same numbers, no copy too many, one fingerprint.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use kshot::checkpoint::weights::Weights;
use kshot::error::Error;
use kshot::nn::DeviceSpec;
use safetensors::tensor::View as _;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::weights::{SECOND, SINGLE, committed};

/// One file of random tensors of several types.
fn file_of(tensors: &[(&str, Tensor)]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(SINGLE);
    let tensors: HashMap<String, Tensor> = tensors
        .iter()
        .map(|(name, t)| ((*name).to_owned(), t.clone()))
        .collect();
    candle_core::safetensors::save(&tensors, &path).unwrap();
    (folder, path)
}

#[test]
fn each_type_comes_out_as_each_other_one_to_the_bit() {
    let numbers = Tensor::randn(0.0, 100.0, (13, 7), &Device::Cpu).unwrap();
    for from in [DType::BF16, DType::F16, DType::F32, DType::F64] {
        let stored = numbers.to_dtype(from).unwrap();
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let (_folder, path) = file_of(&[("a", stored.clone())]);
            let mut weights = Weights::from_files(&path, std::slice::from_ref(&path)).unwrap();
            let place = DeviceSpec {
                dtype,
                ..DeviceSpec::cpu()
            };
            let taken = weights.take("a", &[13, 7], &place).unwrap();
            weights.finish().unwrap();
            let expected = stored.to_dtype(dtype).unwrap();
            assert_eq!((taken.dtype(), taken.dims()), (dtype, expected.dims()));
            assert_eq!(taken.data(), expected.data(), "{from:?} as {dtype:?}");
        }
    }
}

#[test]
fn what_a_type_cannot_hold_is_refused() {
    let large = Tensor::new(&[1.0f32, 70_000.0], &Device::Cpu).unwrap();
    let (_folder, path) = file_of(&[("a", large)]);
    let take = |dtype| {
        let mut weights = Weights::from_files(&path, std::slice::from_ref(&path)).unwrap();
        let place = DeviceSpec {
            dtype,
            ..DeviceSpec::cpu()
        };
        weights.take("a", &[2], &place).unwrap();
        weights.finish()
    };
    take(DType::BF16).unwrap();
    let error = take(DType::F16).unwrap_err();
    assert!(matches!(error, Error::Checkpoint { .. }));
    assert!(
        error.to_string().contains("`a` holds values that f16 cannot hold"),
        "{error}"
    );
}

/// Kilobytes of a file's maps that are in this process's memory.
fn mapped(path: &Path) -> usize {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut sum, mut found) = (0, false);
    let mut inside = false;
    for line in maps.lines() {
        if line.split_whitespace().count() > 3 && line.contains('-') && !line.contains("kB") {
            inside = line.ends_with(path.to_str().unwrap());
            found |= inside;
        } else if let (true, Some(rss)) = (inside, line.strip_prefix("Rss:")) {
            sum += rss.trim().trim_end_matches("kB").trim().parse::<usize>().unwrap();
        }
    }
    assert!(found, "{} is not mapped", path.display());
    sum
}

#[test]
fn taken_tensors_leave_the_map() {
    let one = Tensor::zeros((512, 1024), DType::BF16, &Device::Cpu).unwrap();
    let names: Vec<String> = (0..12).map(|i| format!("t{i}")).collect();
    let tensors: Vec<(&str, Tensor)> = names.iter().map(|name| (name.as_str(), one.clone())).collect();
    let (_folder, path) = file_of(&tensors);
    let path = path.canonicalize().unwrap();
    let mut weights = Weights::from_files(&path, std::slice::from_ref(&path)).unwrap();
    for name in &names {
        weights.take(name, &[512, 1024], &DeviceSpec::cpu()).unwrap();
        let left = mapped(&path);
        assert!(left < 1024, "{left} kB of the file stay in memory after {name}");
    }
    weights.finish().unwrap();
}

#[test]
fn the_fingerprint_is_that_of_all_earlier_records() {
    let config = b"{}";
    let digest = |parts: &[&[u8]]| Sha256::digest(parts.concat()).to_vec();
    let of = |files: &[PathBuf]| {
        let weights = Weights::from_files(Path::new("x"), files).unwrap();
        weights.fingerprint(config).unwrap()
    };
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let dir = committed("qwen3vl-untied");
    let files = [dir.join("model-00001-of-00002.safetensors"), dir.join(SECOND)];
    let hashes = files.each_ref().map(|file| digest(&[&fs::read(file).unwrap()]));
    assert_eq!(of(&files[..1]), hex(&digest(&[config, &hashes[0]])));
    let both = digest(&[&hashes[0], &hashes[1]]);
    assert_eq!(of(&files), hex(&digest(&[config, &both])));
}
