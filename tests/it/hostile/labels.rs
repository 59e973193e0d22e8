//! Label files and manifests that say what cannot be.

use std::fs;

use kshot::data::layout::table;
use kshot::formats::mat::MatFile;
use kshot::manifest::{Manifest, TableForm};

use super::made::mat;

#[test]
fn mat_files_with_lying_lengths_and_depth() {
    let small = || mat::numbers("x", &[1, 2, 3]);
    let with = |at: usize, value: u32| {
        let mut bytes = mat::file(&[small()]);
        bytes[128 + at..132 + at].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    let deep = (0..1000).fold(mat::numbers("", &[1]), |inner, _| mat::cells("", &[inner]));
    let mut cut = mat::compressed(&[small()]);
    cut.truncate(cut.len() - 3);
    let mut longer = mat::compressed(&[small()]);
    longer[132..136].copy_from_slice(&u32::MAX.to_le_bytes());
    let cases = [
        with(4, u32::MAX),     // the variable
        with(12, 0x7fff_fff8), // its flags
        with(32, u32::MAX),    // its first dimension
        with(36, 0x7fff_ffff), // its second dimension
        with(44, u32::MAX),    // its name
        with(60, 0xffff_fff0), // its numbers
        mat::file(&[mat::matrix(1, [i32::MAX, i32::MAX], "x", &[])]),
        mat::file(&[mat::matrix(2, [i32::MAX, 1], "x", &[])]),
        mat::file(&[deep]),
        cut,
        longer,
    ];
    let said = cases.map(|bytes| MatFile::parse(&bytes).unwrap_err());
    insta::assert_snapshot!(said.join("\n"));
}

#[test]
fn tables_with_absurd_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.csv");
    let cases = [
        vec![b'x'; 20 << 20],
        [b"path,label\n".as_slice(), &vec![b','; 5 << 20]].concat(),
        [b"path,label\n\"".as_slice(), &vec![b'a'; 5 << 20]].concat(),
        [b"path,label\n".as_slice(), &b"\n".repeat(5 << 20)].concat(),
        b"PAR1".to_vec(),
        [b"PAR1".as_slice(), &[0xff; 64], &u32::MAX.to_le_bytes(), b"PAR1"].concat(),
    ];
    let said = cases.map(|bytes| {
        fs::write(&path, bytes).unwrap();
        let error = table::read_table(&path, &TableForm::default()).unwrap_err().to_string();
        assert!(error.len() < 2000, "an error of {} bytes", error.len());
        error.replace(path.to_str().unwrap(), "[TMP]/t.csv")
    });
    insta::assert_snapshot!(said.join("\n"));
}

#[test]
fn manifests_with_absurd_content() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.toml");
    let cases = [
        "a = ".to_owned() + &"[".repeat(100_000),
        "a = ".to_owned() + &"{ a = ".repeat(100_000),
        "[".to_owned() + &"a.".repeat(100_000) + "a]",
        "name = \"../../x\"\ntitle = \"\"\nlayout = \"folders\"\ndirectory = \"/\"\nlicence = \"\"\ncitation = \"\""
            .into(),
        "\u{0}".into(),
        "holdout = nan".into(),
    ];
    for text in cases {
        fs::write(&path, &text).unwrap();
        let error = Manifest::read(&path).unwrap_err();
        assert!(error.hint().is_some(), "{error}");
    }
}
