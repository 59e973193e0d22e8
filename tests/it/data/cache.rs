//! Unpacked once, found again, healed, and shared between processes.

use std::time::SystemTime;

use super::fixture::{Fixture, gz, jpeg, tar};
use super::layouts::flowers;

fn index_time(set: &Fixture) -> SystemTime {
    let [key] = set.kept().try_into().unwrap();
    let index = set.cache().join("datasets/toy").join(key).join("index.json");
    std::fs::metadata(index).unwrap().modified().unwrap()
}

#[test]
fn the_second_open_reads_the_index() {
    let set = flowers(&[1, 2, 2, 1, 2, 1]);
    let first = set.open().unwrap();
    let made = index_time(&set);
    assert_eq!(set.open().unwrap(), first);
    assert_eq!(index_time(&set), made);
    // Without the stamps the archives are hashed again, not unpacked again.
    std::fs::remove_file(set.cache().join("datasets/toy/verified.json")).unwrap();
    assert_eq!(set.open().unwrap(), first);
    assert_eq!(index_time(&set), made);
}

#[test]
fn a_damaged_cache_is_made_again() {
    let set = flowers(&[1, 2, 2, 1, 2, 1]);
    let first = set.open().unwrap();
    std::fs::remove_file(&first.pool[0].path).unwrap();
    assert_eq!(set.open().unwrap(), first);
    std::fs::write(&first.pool[0].path, b"short").unwrap();
    assert_eq!(set.open().unwrap(), first);
    let index = first.pool[0].path.ancestors().nth(3).unwrap().join("index.json");
    std::fs::write(&index, b"{").unwrap();
    assert_eq!(set.open().unwrap(), first);
    assert_eq!(set.kept().len(), 1);
}

#[test]
fn an_archive_altered_after_the_check_is_hashed_again() {
    let set = flowers(&[1, 2, 2, 1, 2, 1]);
    set.open().unwrap();
    let archive = set.datasets().join("102flowers.tgz");
    let mut bytes = std::fs::read(&archive).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&archive, bytes).unwrap();
    let error = set.open().unwrap_err().to_string();
    assert!(error.contains("102flowers.tgz` has sha256 "), "{error}");
}

#[test]
fn other_labels_are_read_anew_from_the_same_images() {
    let set = flowers(&[1, 2, 2, 1, 2, 1]);
    let first = set.open().unwrap();
    let relabelled = flowers(&[1, 2, 2, 1, 2, 2]);
    let data = kshot::data::open("toy", &relabelled.datasets(), &set.cache());
    assert!(data.is_err(), "no manifest yet");
    let expected = relabelled.open().unwrap();
    let second = kshot::data::open("toy", &relabelled.datasets(), &set.cache()).unwrap();
    assert_eq!(
        super::fixture::labels(&second.test),
        super::fixture::labels(&expected.test)
    );
    assert_ne!(
        super::fixture::labels(&second.test),
        super::fixture::labels(&first.test)
    );
    assert_eq!(set.kept().len(), 1);
    assert_eq!(set.open().unwrap(), first);
}

#[test]
fn other_images_get_another_folder() {
    let set = Fixture::new("folders", "").file("archive", "a.tar", &tar(folders(1)));
    set.open().unwrap();
    let other = Fixture::new("folders", "").file("archive", "a.tar", &tar(folders(2)));
    other.open().unwrap();
    let second = kshot::data::open("toy", &other.datasets(), &set.cache()).unwrap();
    assert_eq!(set.kept().len(), 2);
    assert_ne!(set.open().unwrap().pool[0].sha256, second.pool[0].sha256);
}

fn folders(colour: u8) -> Vec<(String, Vec<u8>)> {
    ["train/a/1.jpg", "test/a/2.jpg"]
        .map(|name| (name.to_owned(), jpeg(colour)))
        .into()
}

/// What a process that was killed leaves behind is removed by the next one that unpacks.
#[test]
fn leftovers_are_removed() {
    let set = flowers(&[1, 2, 2, 1, 2, 1]);
    let leftover = set.cache().join("datasets/toy/0123456789abcdef.4242.partial");
    std::fs::create_dir_all(leftover.join("files/jpg")).unwrap();
    std::fs::write(leftover.join("files/jpg/half.jpg"), b"half").unwrap();
    std::fs::write(set.cache().join("datasets/toy/verified.4242.partial"), b"{").unwrap();
    set.open().unwrap();
    assert_eq!(set.kept().len(), 1);
}

#[test]
fn several_at_once_do_no_harm() {
    let images = ["train", "test"]
        .into_iter()
        .flat_map(|side| (0..60).map(move |i| (format!("{side}/a/{i}.jpg"), jpeg(i))));
    let set = Fixture::new("folders", "")
        .file("archive", "x.tar.gz", &gz(&tar(images)))
        .expecting(1, 60, 60);
    // Writes the manifest, and fails after it.
    let cache = set.folder.path().join("no");
    std::fs::write(set.cache(), b"a file where the cache should be").unwrap();
    assert!(set.open().is_err());
    let opened: Vec<_> = std::thread::scope(|scope| {
        let open = || kshot::data::open("toy", &set.datasets(), &cache).unwrap();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(opened.iter().all(|data| *data == opened[0]));
    let names = std::fs::read_dir(cache.join("datasets/toy")).unwrap();
    assert!(
        names
            .map(|e| e.unwrap().file_name())
            .all(|n| !n.to_str().unwrap().ends_with("partial"))
    );
}
