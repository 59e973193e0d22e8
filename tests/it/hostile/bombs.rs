//! A megabyte that wants to be ten gigabytes.

use std::fs;
use std::path::Path;

use kshot::formats::archive::unpack;
use kshot::formats::mat::MatFile;

use super::limited::{self, Bounds, said};
use super::made::{ZipEntry, deflated_zeros, gz_of_deflated, mat, tar_header, zip_by_hand};
use crate::data::fixture::zip;

const BOUNDS: Bounds = Bounds {
    mebibytes: 700,
    seconds: 60,
    file_mebibytes: 100,
};
/// What an archive of a megabyte may come to, see `LIMITS` in `archive.rs`.
const MOST_UNPACKED: u64 = 65 << 20;

/// The bombs; those of one layer reach deflate's own limit of a gigabyte for each megabyte.
fn bomb(name: &str) -> Vec<u8> {
    let ten_gigabytes = 10 << 30;
    let entry = |name, deflated, said_size| ZipEntry {
        name,
        deflated,
        said_size,
        mode: 0o100_644,
    };
    match name {
        "zip" => zip_by_hand(&[entry("a", &deflated_zeros(1000, b""), 1000 << 20)]),
        "zip that says it is small" => zip_by_hand(&[entry("a", &deflated_zeros(1000, b""), 4096)]),
        // Fifield's: ten entries share one stream.
        "zip of entries that overlap" => {
            let zeros = deflated_zeros(1000, b"");
            let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
            let share = |(i, name)| entry(name, if i == 0 { zeros.as_slice() } else { &[] }, 1000 << 20);
            zip_by_hand(&names.into_iter().enumerate().map(share).collect::<Vec<_>>())
        }
        // One entry of ten gigabytes, packed twice: well below a megabyte.
        "tar.gz in zip" => {
            let header = tar_header("a", tar::EntryType::Regular, ten_gigabytes, "");
            zip(&[(
                "x/inner.tar.gz",
                &gz_of_deflated(&deflated_zeros(10 << 10, header.as_bytes())),
            )])
        }
        "tar.gz" => {
            let header = tar_header("a", tar::EntryType::Regular, 1000 << 20, "");
            gz_of_deflated(&deflated_zeros(1000, header.as_bytes()))
        }
        // An empty tar with padding that does not end.
        "tar.gz of padding" => gz_of_deflated(&deflated_zeros(1000, b"")),
        "mat" => {
            let zlib = [&[0x78, 0xda][..], &deflated_zeros(1000, &mat::numbers("x", &[1]))].concat();
            let tag = [15_u32.to_le_bytes(), (zlib.len() as u32).to_le_bytes()].concat();
            [mat::file(&[]), tag, zlib].concat()
        }
        other => panic!("no bomb `{other}`"),
    }
}

#[test]
fn bombs_are_stopped_early() {
    let bombs = [
        ("zip", "unpacks to more than an archive of this size may hold"),
        ("zip that says it is small", "larger than its declared"),
        ("zip of entries that overlap", "has entries that overlap"),
        ("tar.gz in zip", "unpacks to more than an archive of this size may hold"),
        ("tar.gz", "unpacks to more than an archive of this size may hold"),
        ("tar.gz of padding", "more bytes than an archive of this size may hold"),
        ("mat", "inflates to more than any label file holds"),
    ];
    for (name, wanted) in bombs {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bomb");
        let bytes = bomb(name);
        assert!(bytes.len() < 1_200_000, "{name} has {} bytes", bytes.len());
        fs::write(&path, bytes).unwrap();
        let output = limited::run("hostile::bombs::worker", "KSHOT_BOMB", path.to_str().unwrap(), &BOUNDS);
        let said = said(&output);
        assert!(output.status.success() && said.contains(wanted), "{name}: {said}");
        let unpacked = size(&folder.path().join("target"));
        assert!(unpacked <= MOST_UNPACKED, "{name}: {unpacked} bytes were written");
    }
}

fn size(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let of = |path: &Path| {
        if path.is_dir() {
            size(path)
        } else {
            path.metadata().unwrap().len()
        }
    };
    entries.map(|entry| of(&entry.unwrap().path())).sum()
}

#[test]
#[ignore = "run by `bombs_are_stopped_early`, with bounds"]
fn worker() {
    let Ok(path) = std::env::var("KSHOT_BOMB") else { return };
    let path = Path::new(&path);
    let target = path.with_file_name("target");
    fs::create_dir(&target).unwrap();
    let is_mat = fs::read(path).unwrap().starts_with(b"MATLAB");
    let error = if is_mat {
        MatFile::read(path).unwrap_err()
    } else {
        unpack(path, &target).unwrap_err()
    };
    println!("refused: {error}");
}
