//! The datasets and models inside the binary: the manifests of `datasets/`, the miniature datasets and the micro models, with
//! their licences. On first use they are unpacked into the cache folder, so that a binary on its own, in any folder of any
//! machine, does all that one in a checkout does.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::fs::hash::hex;
use crate::fs::{cache_folder, file, folder};

/// Makes the list of files, by their paths in the source tree.
macro_rules! embedded {
    ($($path:literal,)+) => {
        static FILES: &[(&str, &[u8])] = &[$(($path, include_bytes!(concat!("../", $path)))),+];
    };
}

// All of `datasets/` but how it was made and the lists of splits (there is a test).
embedded! {
    "datasets/caltech101.toml",
    "datasets/mini-caltech101.toml",
    "datasets/mini-cars.toml",
    "datasets/mini-fashion.toml",
    "datasets/mini-flowers.toml",
    "datasets/mini-pets.toml",
    "datasets/mini/NOTICE.md",
    "datasets/mini/licences/Apache-2.0.txt",
    "datasets/mini/licences/MIT-fashion-mnist.txt",
    "datasets/mini/licences/MIT-fluent-emoji.txt",
    "datasets/mini/mini-caltech101/caltech-101.zip",
    "datasets/mini/mini-caltech101/provenance.csv",
    "datasets/mini/mini-caltech101/split_zhou_Caltech101.json",
    "datasets/mini/mini-cars/car_devkit.tgz",
    "datasets/mini/mini-cars/cars_test.tgz",
    "datasets/mini/mini-cars/cars_test_annos_withlabels.mat",
    "datasets/mini/mini-cars/cars_train.tgz",
    "datasets/mini/mini-cars/provenance.csv",
    "datasets/mini/mini-fashion/mini-fashion.tar.gz",
    "datasets/mini/mini-fashion/provenance.csv",
    "datasets/mini/mini-flowers/102flowers.tgz",
    "datasets/mini/mini-flowers/imagelabels.mat",
    "datasets/mini/mini-flowers/provenance.csv",
    "datasets/mini/mini-flowers/setid.mat",
    "datasets/mini/mini-pets/annotations.tar.gz",
    "datasets/mini/mini-pets/images.tar.gz",
    "datasets/mini/mini-pets/provenance.csv",
    "datasets/mini/models/micro-dinov2/README.md",
    "datasets/mini/models/micro-dinov2/config.json",
    "datasets/mini/models/micro-dinov2/model.safetensors",
    "datasets/mini/models/micro-dinov2/preprocessor_config.json",
    "datasets/mini/models/micro-dinov2/recipe.json",
    "datasets/mini/models/micro-dinov2/training_log.csv",
    "datasets/mini/models/micro-qwen3-vl/README.md",
    "datasets/mini/models/micro-qwen3-vl/chat_template.json",
    "datasets/mini/models/micro-qwen3-vl/config.json",
    "datasets/mini/models/micro-qwen3-vl/generation_config.json",
    "datasets/mini/models/micro-qwen3-vl/model.safetensors",
    "datasets/mini/models/micro-qwen3-vl/preprocessor_config.json",
    "datasets/mini/models/micro-qwen3-vl/recipe.json",
    "datasets/mini/models/micro-qwen3-vl/tokenizer.json",
    "datasets/mini/models/micro-qwen3-vl/tokenizer_config.json",
    "datasets/mini/models/micro-qwen3-vl/training_log.csv",
    "datasets/oxford-flowers.toml",
    "datasets/oxford-pets.toml",
    "datasets/stanford-cars.toml",
}

/// Bytes of all files together.
#[must_use]
pub fn size() -> usize {
    FILES.iter().map(|(_, bytes)| bytes.len()).sum()
}

/// Names of the datasets, sorted.
pub fn datasets() -> impl Iterator<Item = &'static str> {
    FILES.iter().filter_map(|(path, _)| stem(path))
}

/// The manifest of a dataset, if there is one of that name.
#[must_use]
pub fn manifest(name: &str) -> Option<&'static [u8]> {
    let found = FILES.iter().find(|(path, _)| stem(path) == Some(name));
    found.map(|(_, bytes)| *bytes)
}

/// Name of the dataset of which a path is the manifest.
fn stem(path: &str) -> Option<&str> {
    path.strip_prefix("datasets/")?
        .strip_suffix(".toml")
        .filter(|name| !name.contains('/'))
}

/// True if a path, as it is in the source tree, is that of a file or folder in here.
#[must_use]
pub fn contains(path: &Path) -> bool {
    path != Path::new("") && FILES.iter().any(|(file, _)| Path::new(file).starts_with(path))
}

/// The folder that holds `datasets/` as it is in the source tree. The first call of a process compares every file there with
/// the one in here, and unpacks them all where one is missing or differs: `<cache>/embedded/<hash of all>`, so that no two
/// versions share a folder.
///
/// # Errors
/// [`Error::Io`] when it cannot be written, as on a full disk.
pub fn unpacked() -> Result<&'static Path> {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    if let Some(folder) = FOLDER.get() {
        return Ok(folder);
    }
    let folder = unpack(&cache_folder().join("embedded"), FILES)?;
    Ok(FOLDER.get_or_init(|| folder))
}

/// Unpacks files into a folder of their own below `around`, unless they are there. Processes that do so at once wait for each
/// other.
fn unpack(around: &Path, files: &[(&str, &[u8])]) -> Result<PathBuf> {
    let target = around.join(&name(files)[..16]);
    if is_whole(&target, files) {
        return Ok(target);
    }
    std::fs::create_dir_all(around).map_err(Error::io("make folder", around))?;
    let _lock = file::lock(&around.join("lock"), "unpacks the embedded datasets")?;
    if is_whole(&target, files) {
        return Ok(target);
    }
    let unpacked = folder::replace(&target, |new| {
        for (path, bytes) in files {
            let path = new.join(path);
            let folder = path.parent().unwrap_or(new);
            std::fs::create_dir_all(folder).map_err(Error::io("make folder", folder))?;
            std::fs::write(&path, bytes).map_err(Error::io("write", &path))?;
        }
        Ok(())
    });
    match unpacked {
        // Without locks another process may have been faster; what it made is the same.
        Err(_) if is_whole(&target, files) => Ok(target),
        other => other.map(|()| target),
    }
}

/// True if every file is there with its bytes.
fn is_whole(folder: &Path, files: &[(&str, &[u8])]) -> bool {
    let same = |(path, bytes): &(&str, &[u8])| std::fs::read(folder.join(path)).is_ok_and(|found| found == *bytes);
    folder.is_dir() && files.iter().all(same)
}

/// Lower-case hex SHA-256 of names and bytes.
fn name(files: &[(&str, &[u8])]) -> String {
    let mut all = Sha256::new();
    for (path, bytes) in files {
        all.update((path.len() as u64).to_le_bytes());
        all.update(path);
        all.update((bytes.len() as u64).to_le_bytes());
        all.update(bytes);
    }
    hex(&all.finalize())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    #[test]
    fn every_file_of_the_datasets_is_listed_and_no_other() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let left_out = ["datasets/README.md", "datasets/splits", "datasets/mini/make"].map(|path| root.join(path));
        let (mut found, mut folders) = (BTreeSet::new(), vec![root.join("datasets")]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if left_out.contains(&path) {
                } else if path.is_dir() {
                    folders.push(path);
                } else {
                    found.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        let listed: BTreeSet<String> = FILES.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(listed, found);
        assert_eq!(listed.len(), FILES.len());
    }

    #[test]
    fn names_and_paths_are_found() {
        assert!(datasets().eq([
            "caltech101",
            "mini-caltech101",
            "mini-cars",
            "mini-fashion",
            "mini-flowers",
            "mini-pets",
            "oxford-flowers",
            "oxford-pets",
            "stanford-cars",
        ]));
        assert!(manifest("mini-pets").is_some_and(|text| text.starts_with(b"name = \"mini-pets\"")));
        assert!(manifest("mini").is_none());
        let has = |path: &str| contains(Path::new(path));
        assert!(has("datasets/mini/models/micro-dinov2") && has("datasets/mini-pets.toml"));
        assert!(!has("") && !has("datasets/mini/models/micro") && !has("datasets/README.md"));
    }

    const TWO: &[(&str, &[u8])] = &[("a.toml", b"one"), ("b/c", b"two")];

    #[test]
    fn files_are_unpacked_once_and_again_where_one_differs() {
        let scratch = tempfile::tempdir().unwrap();
        let around = scratch.path().join("cache/embedded");
        let folder = unpack(&around, TWO).unwrap();
        assert!(is_whole(&folder, TWO));
        let made = |folder: &Path| fs::metadata(folder.join("a.toml")).unwrap().modified().unwrap();
        let first = made(&folder);
        assert_eq!((unpack(&around, TWO).unwrap(), made(&folder)), (folder.clone(), first));
        fs::write(folder.join("b/c"), "ten").unwrap();
        assert_eq!(unpack(&around, TWO).unwrap(), folder);
        assert!(is_whole(&folder, TWO));
        fs::remove_file(folder.join("a.toml")).unwrap();
        unpack(&around, TWO).unwrap();
        assert!(is_whole(&folder, TWO));
        let another: &[(&str, &[u8])] = &[("a.toml", b"one"), ("b/c", b"2")];
        assert_ne!(unpack(&around, another).unwrap(), folder);
        assert!(is_whole(&folder, TWO));
        let left: Vec<_> = fs::read_dir(&around)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left.len(), 3, "two folders and the lock: {left:?}");
    }

    #[test]
    fn processes_that_unpack_at_once_agree() {
        let scratch = tempfile::tempdir().unwrap();
        std::thread::scope(|threads| {
            let one = || unpack(scratch.path(), TWO).unwrap();
            let all: Vec<_> = (0..8).map(|_| threads.spawn(one)).collect();
            for folder in all {
                assert!(is_whole(&folder.join().unwrap(), TWO));
            }
        });
    }
}
