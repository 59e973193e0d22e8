//! Archives that try to write where they must not.

use std::fs;
use std::path::Path;

use kshot::formats::archive::unpack;
use tar::EntryType::{self, Block, Char, Fifo, Link, Regular, Symlink};

use super::made::{ZipEntry, tar, tar_header, zip_by_hand};
use crate::data::fixture::{self, gz};
use crate::support::contents;

/// Unpacks into `a/b/target` of a folder with a file at every level, and gives the refusal; nothing but the target
/// has changed, and in it are plain files and folders only.
#[track_caller]
fn refused(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("a/b/target");
    fs::create_dir_all(&target).unwrap();
    for level in ["", "a/", "a/b/"] {
        fs::write(folder.path().join(format!("{level}victim")), "whole").unwrap();
    }
    let archive = folder.path().join("archive");
    fs::write(&archive, bytes).unwrap();
    let outside = |path: &Path| !path.starts_with("a/b/target");
    let listing = || {
        let mut files = contents(folder.path());
        files.retain(|path, _| outside(path));
        files
    };
    let before = listing();
    let error = unpack(&archive, &target).unwrap_err();
    assert_eq!(listing(), before, "something outside the target has changed");
    assert!(error.hint().is_some());
    all_plain(&target);
    let text = error.to_string();
    text.replace(folder.path().to_str().unwrap(), "[TMP]")
        .replace("archive `[TMP]/archive`: ", "")
}

fn all_plain(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        assert!(
            kind.is_file() || kind.is_dir(),
            "{} is neither file nor folder",
            path.display()
        );
        if kind.is_dir() {
            all_plain(&path);
        }
    }
}

/// An entry of four bytes, or of none.
fn stored<'a>(name: &'a str, deflated: &'a [u8], mode: u32) -> ZipEntry<'a> {
    ZipEntry {
        name,
        deflated,
        said_size: deflated.len().saturating_sub(5) as u64,
        mode,
    }
}

const PATHS: [&str; 11] = [
    "../victim",
    "x/../../victim",
    "./../../victim",
    "x/y/../../../victim",
    "/victim",
    "//victim",
    "C:\\victim",
    "..\\victim",
    "x\\..\\..\\victim",
    "\\\\server\\share\\victim",
    "x/..",
];

#[test]
fn paths_that_lead_out() {
    let one = |name| fixture::tar([("fine.jpg", &b"fine"[..]), (name, b"overwritten")]);
    let in_tar = PATHS.map(|name| refused(&one(name)));
    let in_gz = PATHS.map(|name| refused(&gz(&one(name))));
    assert_eq!(in_tar, in_gz);
    // By hand: the library writes some of these names in another way.
    let in_zip = PATHS.map(|name| refused(&zip_by_hand(&[stored(name, b"\x01\x04\0\xfb\xffover", 0o100_644)])));
    assert_eq!(in_tar, in_zip);
    let nested = PATHS.map(|name| refused(&fixture::zip(&[("toy/inner.tar.gz", &gz(&one(name)))])));
    // The same of an archive within an archive, where names have the outer folder in front.
    for (said, alone) in nested.iter().zip(&in_tar) {
        assert_eq!(said.replace("`toy/", "`"), *alone);
    }
    insta::assert_snapshot!(in_tar.join("\n"));
}

/// A folder's name is no safer than a file's.
#[test]
fn folders_that_lead_out() {
    for name in ["../escape", "/escape", "x/../../escape"] {
        assert!(refused(&tar(&[(name, EntryType::Directory, "", b"")])).contains("escape"));
        let folder = format!("{name}/");
        assert!(refused(&zip_by_hand(&[stored(&folder, b"\x03\0", 0o040_755)])).contains("escape"));
    }
}

/// Long names come in entries of their own, which the header's name does not show.
#[test]
fn long_names_that_lead_out() {
    let long = format!("{}../../victim", "x/../".repeat(40));
    let gnu = tar(&[
        ("././@LongLink", EntryType::GNULongName, "", long.as_bytes()),
        ("short", Regular, "", b"x"),
    ]);
    assert!(refused(&gnu).contains("leads out of its folder"));
    let record = " path=../../victim\n";
    let pax = format!("{}{record}", record.len() + 2);
    let pax = tar(&[
        ("pax", EntryType::XHeader, "", pax.as_bytes()),
        ("short", Regular, "", b"x"),
    ]);
    assert!(refused(&pax).contains("`../../victim` leads out"));
}

#[test]
fn links_and_writing_through_them() {
    let cases = [
        tar(&[("out", Symlink, "..", b""), ("out/victim", Regular, "", b"overwritten")]),
        tar(&[("out", Symlink, "../victim", b""), ("out", Regular, "", b"overwritten")]),
        tar(&[("out", Symlink, "/tmp", b"")]),
        tar(&[("out", Link, "../victim", b""), ("out", Regular, "", b"overwritten")]),
        tar(&[("in", Regular, "", b"x"), ("out", Link, "in", b"")]),
        tar(&[("device", Char, "", b"")]),
        tar(&[("device", Block, "", b"")]),
        tar(&[("pipe", Fifo, "", b"")]),
        tar(&[("odd", EntryType::new(b'Z'), "", b"")]),
    ];
    insta::assert_snapshot!(cases.map(|bytes| refused(&bytes)).join("\n"));
    // The same by zip: what an entry is stands in the upper half of its Unix mode.
    let deflated = |text: &[u8]| [&[1, text.len() as u8, 0, !(text.len() as u8), 0xff][..], text].concat();
    for (kind, content) in [
        (0o120_777, "../../.."),
        (0o020_666, ""),
        (0o060_666, ""),
        (0o010_666, ""),
        (0o140_666, ""),
    ] {
        let content = deflated(content.as_bytes());
        let entry = |name, mode| ZipEntry {
            name,
            deflated: &content,
            said_size: content.len() as u64 - 5,
            mode,
        };
        let said = refused(&zip_by_hand(&[entry("out", kind), entry("out/victim", 0o100_644)]));
        assert_eq!(
            said, "entry `out` is a link or device; only files and folders are unpacked",
            "{kind:o}"
        );
    }
}

/// A link that lies in the target already is not followed either: targets are made by kshot and hold none.
#[test]
fn nothing_is_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let (archive, target) = (folder.path().join("archive"), folder.path().join("target"));
    fs::create_dir(&target).unwrap();
    fs::write(folder.path().join("victim"), "whole").unwrap();
    std::os::unix::fs::symlink("../victim", target.join("out")).unwrap();
    fs::write(&archive, fixture::tar([("out", b"overwritten")])).unwrap();
    let error = unpack(&archive, &target).unwrap_err().to_string();
    assert!(error.contains("stands twice"), "{error}");
    assert_eq!(fs::read(folder.path().join("victim")).unwrap(), b"whole");
}

/// Headers that say more or less than there is.
#[test]
fn sizes_that_lie() {
    let mut large = tar_header("a", Regular, 1 << 40, "").as_bytes().to_vec();
    large.extend([7; 512]);
    let mut some = tar_header("a", Regular, 5000, "").as_bytes().to_vec();
    some.extend([7; 512]);
    let stored = [&[1, 4, 0, 0xfb, 0xff][..], b"four"].concat();
    let zip = |said_size| {
        zip_by_hand(&[ZipEntry {
            name: "a",
            deflated: &stored,
            said_size,
            mode: 0o100_644,
        }])
    };
    let cases = [large, some, zip(3), zip(5), zip(1 << 40)];
    insta::assert_snapshot!(cases.map(|bytes| refused(&bytes)).join("\n"));
}
