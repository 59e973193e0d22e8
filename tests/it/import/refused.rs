//! What cannot be a dataset is said with its remedy, and no manifest is written.

use std::fs;

use super::own::{Own, is_empty, png};

#[test]
fn folders_of_another_form() {
    let cases = [
        Own::new(),
        Own::new().write("a.png", png("a", 1)).write("b.png", png("b", 1)),
        Own::new().images("cat", 3),
        Own::new().images("cat", 3).images("dog/brown", 3),
        Own::new()
            .images("cat", 3)
            .images("dog", 1)
            .images("eel", 0)
            .write("eel/x.HEIC", b"heic"),
        Own::new().images("grey_fox", 3).images("Grey fox", 3),
        Own::new()
            .images("train/cat", 3)
            .images("train/dog", 3)
            .images("test/cat", 3),
        Own::new()
            .images("train/cat", 3)
            .images("train/dog", 3)
            .images("test/cat", 3)
            .images("test/doge", 3)
            .images("test/dog", 1),
        Own::new()
            .images("cat", 3)
            .images("dog", 2)
            .write("dog/0.png", b"no image"),
    ];
    insta::assert_snapshot!(cases.map(|own| own.refused("")).join("\n"));
}

#[test]
fn files_that_are_no_tables() {
    let own = Own::new()
        .write("photos.zip", b"PK\x03\x04")
        .write("notes.txt", "some words\nand more\n")
        .write("missing.csv", "path,label\nno/such.png,a\n../up.png,b\n")
        .write("absent.csv", "path,label\nno/such.png,a\nnor/this.png,b\n")
        .write("binary", [0xff; 300]);
    let cases = [
        "photos.zip",
        "notes.txt",
        "missing.csv",
        "absent.csv",
        "binary",
        "nowhere",
    ];
    insta::assert_snapshot!(cases.map(|file| own.refused(file)).join("\n"));
}

#[test]
fn names_that_cannot_be_or_are_taken() {
    let own = Own::new().images("cat", 3).images("dog", 3);
    for name in ["../up", "a/b", "", ".hidden", "two words"] {
        let error = kshot::import::discover(
            &own.path(""),
            name,
            &own.datasets(),
            &kshot::import::ImportOptions::default(),
        )
        .unwrap_err();
        assert!(error.to_string().contains("may hold only"), "{error}");
    }
    assert!(is_empty(&own.datasets()));
    own.import("").unwrap();
    let before = fs::read(own.manifest()).unwrap();
    let error = own.import("").unwrap_err();
    assert!(error.to_string().contains("birds.toml` is there already"), "{error}");
    assert_eq!(fs::read(own.manifest()).unwrap(), before);
}
