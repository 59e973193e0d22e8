//! One instance of every kind of images that people have: what an import made of it at commit 1f3e0cb, and what it makes
//! of it now.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use kshot::data::LabelledImage;
use kshot::error::Result;
use kshot::import;
use kshot::import::{ImportOptions, Imported};
use serde_json::Value;

use super::own::{Own, png};
use crate::data::hub::{Row, shard, shard_with};
use crate::hostile::made::encoded;

/// An instance: its name, what commit 1f3e0cb said, the images, and what of them is imported.
struct Instance {
    name: &'static str,
    before: &'static str,
    make: fn(Own) -> Own,
    from: &'static str,
    asked: fn(&Own) -> ImportOptions,
}

fn nothing(_: &Own) -> ImportOptions {
    ImportOptions::default()
}

fn imported(own: &Own, from: &str, asked: &ImportOptions) -> Result<(Imported, Vec<String>)> {
    let found = import::discover(&own.path(from), "birds", &own.datasets(), asked)?;
    let mut said = found.notes();
    said.extend(
        found
            .left_out()
            .iter()
            .map(|(name, why)| format!("`{name}` is left out: {why}")),
    );
    if !found.ignored().is_empty() {
        said.push(format!("ignored: {}", found.ignored().join(", ")));
    }
    let imported = found.adopt(&own.datasets(), &own.cache())?;
    said.extend(
        imported
            .unreadable
            .iter()
            .map(|(name, _)| format!("`{name}` cannot be read")),
    );
    said.extend(
        imported
            .small_classes
            .iter()
            .map(|(name, why)| format!("class `{name}` is left out: {why}")),
    );
    said.extend(
        imported
            .rename
            .iter()
            .map(|(from, to)| format!("`{from}` is called `{to}`")),
    );
    said.extend(
        imported
            .twins
            .same
            .iter()
            .map(|(pool, test)| format!("`{pool}` and `{test}` are the same")),
    );
    Ok((imported, said))
}

/// Ids with their classes; of many the first and the last.
fn side(images: &[LabelledImage], classes: &[String]) -> String {
    let one = |image: &LabelledImage| format!("{}={}", image.id, classes[image.class as usize]);
    match images {
        [first, .., last] => format!("{} {}…{}", images.len(), one(first), one(last)),
        _ => images.iter().map(one).collect::<Vec<_>>().join(" "),
    }
}

fn outcome(instance: &Instance) -> String {
    let own = (instance.make)(Own::new());
    let asked = (instance.asked)(&own);
    let text = match imported(&own, instance.from, &asked) {
        Ok((Imported { dataset, .. }, said)) => {
            let mut text = format!(
                "{}\n  pool {}\n  test {}",
                dataset.classes.join(", "),
                side(&dataset.pool, &dataset.classes),
                side(&dataset.test, &dataset.classes)
            );
            // Look-alikes of other instances are of no account here.
            for line in said {
                let _ = write!(text, "\n  {line}");
            }
            text
        }
        Err(error) => {
            assert!(!own.manifest().exists(), "{}", instance.name);
            format!("refused: {error}\n  hint: {}", error.hint().unwrap())
        }
    };
    text.replace(own.folder.path().to_str().unwrap(), "[TMP]")
}

/// Classes `a` and `b` below two folders.
fn both(own: Own, train: &str, test: &str) -> Own {
    own.images(&format!("{train}/a"), 3)
        .images(&format!("{train}/b"), 3)
        .images(&format!("{test}/a"), 1)
        .images(&format!("{test}/b"), 2)
}

/// A table beside four images, written by a function of the folder.
fn table(own: Own, name: &str, bytes: impl AsRef<[u8]>) -> Own {
    own.images("x", 4).write(name, bytes)
}

fn utf_16(text: &str) -> Vec<u8> {
    [0xfeff]
        .into_iter()
        .chain(text.encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect()
}

fn row(i: u8, label: Option<i64>) -> Row {
    (Some(png("row", i)), format!("{i}.png"), label)
}

fn rows(first: u8, labels: &[Option<i64>]) -> Vec<Row> {
    (first..).zip(labels).map(|(i, label)| row(i, *label)).collect()
}

const FOUR: &str = "x/0.png,a\nx/1.png,b\nx/2.png,a\nx/3.png,b\n";

#[rustfmt::skip]
const INSTANCES: &[Instance] = &[
    Instance { name: "capitals", before: "refused: class folder `Testing` holds the folder `a`",
        make: |own| both(own, "Training", "Testing"), from: "", asked: nothing },
    Instance { name: "with `set`", before: "refused: class folder `test_set` holds the folder `a`",
        make: |own| both(own, "training_set", "test_set"), from: "", asked: nothing },
    Instance { name: "each within its own", before: "refused: class folder `seg_test` holds the folder `seg_test`",
        make: |own| both(own, "seg_train/seg_train", "seg_test/seg_test").images("seg_pred/seg_pred", 2), from: "", asked: nothing },
    Instance { name: "train and eval", before: "`eval/` left out without a word, a share of `train` tested on",
        make: |own| both(own, "train", "eval"), from: "", asked: nothing },
    Instance { name: "two folders around", before: "refused: class folder `archive` holds the folder `train`",
        make: |own| both(own, "data/archive/train", "data/archive/test"), from: "", asked: nothing },
    Instance { name: "Kaggle's flat test", before: "refused: class `a` is in `train` but not in `test`",
        make: |own| own.images("train/a", 3).images("train/b", 3).images("test", 4), from: "", asked: nothing },
    Instance { name: "classes called after splits", before: "two classes",
        make: |own| own.images("test_tubes", 4).images("train_station", 4), from: "", asked: nothing },
    Instance { name: "numbers that are the label", before: "four folders, refused as one class `rupees`",
        make: |own| own.images("10 rupees", 2).images("20 rupees", 2).images("100 rupees", 2), from: "", asked: nothing },
    Instance { name: "numbers in names", before: "`Up` and `Musketeers`",
        make: |own| own.images("7-Up", 2).images("3 Musketeers", 2), from: "", asked: nothing },
    Instance { name: "an enumeration", before: "`cat` and `dog`",
        make: |own| own.images("0_cat", 2).images("1_dog", 2), from: "", asked: nothing },
    Instance { name: "accents typed in two ways", before: "refused: class `Cafe\u{301}` is in `test` but not in `train`",
        make: |own| own.images("train/Caf\u{e9}", 2).images("train/b", 2).images("test/Cafe\u{301}", 1).images("test/b", 1), from: "", asked: nothing },
    Instance { name: "underscores on one side", before: "refused: class `grey fox` is in `test` but not in `train`",
        make: |own| own.images("train/grey_fox", 2).images("train/b", 2).images("test/Grey fox", 1).images("test/b", 1), from: "", asked: nothing },
    Instance { name: "two folders, one name", before: "refused, naming both",
        make: |own| own.images("Caf\u{e9}", 2).images("Cafe\u{301}", 2).images("b", 2), from: "", asked: nothing },
    Instance { name: "a link that leads nowhere", before: "refused: cannot read `a/gone.png`",
        make: |own| { let own = own.images("a", 2).images("b", 2); std::os::unix::fs::symlink("nowhere", own.path("a/gone.png")).unwrap(); own }, from: "", asked: nothing },
    Instance { name: "a name that is not UTF-8", before: "refused: its name is not UTF-8",
        make: |own| { let own = own.images("a", 2).images("b", 2); fs::write(own.path("a").join(std::ffi::OsStr::from_bytes(b"caf\xe9.png")), png("x", 1)).unwrap(); own }, from: "", asked: nothing },
    Instance { name: "a name with a backslash", before: "refused: dataset `birds`: image `a/x\\y.png` has a name with a backslash",
        make: |own| own.images("a", 2).images("b", 2).write("a/x\\y.png", png("x", 1)), from: "", asked: nothing },
    Instance { name: "a class with one image", before: "refused: classes with too few images",
        make: |own| own.images("a", 2).images("b", 2).images("c", 1), from: "", asked: nothing },
    Instance { name: "an empty file and a broken one", before: "skipped and named",
        make: |own| own.images("a", 3).images("b", 3).write("a/empty.png", b"").write("b/broken.jpg", b"\xff\xd8\xff"), from: "", asked: nothing },
    Instance { name: "one image on both sides", before: "nothing said",
        make: |own| own.write("train/a/0.png", png("a", 0)).images("train/b", 1).write("test/a/7.png", png("a", 0)).write("test/b/9.png", png("b", 5)), from: "", asked: nothing },
    Instance { name: "metadata.csv in the folder", before: "refused: no folder of images",
        make: |own| table(own, "metadata.csv", format!("file_name,label\n{FOUR}")), from: "", asked: nothing },
    Instance { name: "metadata.jsonl in each split", before: "refused: `train` holds no class folder",
        make: |own| own.images("train", 2).images("test", 2)
            .write("train/metadata.jsonl", "{\"file_name\": \"0.png\", \"label\": \"a\"}\n{\"file_name\": \"1.png\", \"label\": \"b\"}\n")
            .write("test/metadata.jsonl", "{\"file_name\": \"0.png\", \"label\": \"a\"}\n{\"file_name\": \"1.png\", \"label\": \"b\"}\n"), from: "", asked: nothing },
    Instance { name: "Keras's columns", before: "refused: needs the columns `path` and `label`",
        make: |own| table(own, "t.csv", format!("filename,class\n{FOUR}")), from: "t.csv", asked: nothing },
    Instance { name: "semicolons", before: "refused: needs the columns `path` and `label`",
        make: |own| table(own, "t.csv", format!("path,label\n{FOUR}").replace(',', ";")), from: "t.csv", asked: nothing },
    Instance { name: "tabs in a .csv", before: "refused: needs the columns `path` and `label`",
        make: |own| table(own, "t.csv", format!("path,label\n{FOUR}").replace(',', "\t")), from: "t.csv", asked: nothing },
    Instance { name: "bars", before: "refused: needs the columns `path` and `label`",
        make: |own| table(own, "t.csv", format!("path,label\n{FOUR}").replace(',', "|")), from: "t.csv", asked: nothing },
    Instance { name: "columns of other names", before: "no way to name them",
        make: |own| table(own, "t.csv", format!("photo,what\n{FOUR}")), from: "t.csv",
        asked: |_| ImportOptions { path_column: Some("photo".into()), label_column: Some("what".into()), ..ImportOptions::default() } },
    Instance { name: "columns of other names, not said", before: "refused, no remedy",
        make: |own| table(own, "t.csv", format!("photo,what\n{FOUR}")), from: "t.csv", asked: nothing },
    Instance { name: "absolute paths", before: "refused: path … has an absolute path",
        make: |own| {
            let root = own.path("").canonicalize().unwrap();
            let lines: String = FOUR.lines().map(|line| format!("{}/{line}\n", root.display())).collect();
            table(own, "t.csv", format!("path,label\n{lines}"))
        }, from: "t.csv", asked: nothing },
    Instance { name: "absolute paths to elsewhere", before: "refused: path … has an absolute path",
        make: |own| {
            let root = own.path("").canonicalize().unwrap();
            let lines: String = FOUR.lines().map(|line| format!("{}/{line}\n", root.display())).collect();
            own.images("x", 4).write("tables/t.csv", format!("path,label\n{lines}"))
        }, from: "tables/t.csv", asked: nothing },
    Instance { name: "paths that lead up", before: "refused: leads out of its folder by `..`",
        make: |own| own.images("x", 4).write("tables/t.csv", format!("path,label\n{}", FOUR.replace("x/", "../x/"))), from: "tables/t.csv", asked: nothing },
    Instance { name: "UTF-16", before: "refused: needs the columns `path` and `label`",
        make: |own| table(own, "t.csv", utf_16(&format!("path,label\n{FOUR}"))), from: "t.csv", asked: nothing },
    Instance { name: "cp1252", before: "refused: CSV error: invalid UTF-8",
        make: |own| table(own, "t.csv", b"path,label\nx/0.png,caf\xe9\n"), from: "t.csv", asked: nothing },
    Instance { name: "Kaggle's ids", before: "refused: 4 of its images are not there",
        make: |own| own.images("train", 4).images("test", 2).write("train.csv", "id,breed\n0,a\n1,b\n2,a\n3,b\n"), from: "train.csv", asked: nothing },
    Instance { name: "rows with holes", before: "refused: row 5: no label",
        make: |own| table(own, "t.csv", format!("path,label\n{FOUR}x/0.png,\n,a\nx/gone.png,a\n")), from: "t.csv", asked: nothing },
    Instance { name: "a test split without labels", before: "refused: row 5: no label",
        make: |own| table(own, "t.csv", format!("path,label,split\n{}x/9.png,,test\n", FOUR.replace('\n', ",train\n"))), from: "t.csv", asked: nothing },
    Instance { name: "a test split of −1", before: "a class `-1`",
        make: |own| table(own, "t.csv", "path,label,split\nx/0.png,0,train\nx/1.png,1,train\nx/2.png,0,train\nx/3.png,1,train\nx/4.png,-1,test\n"), from: "t.csv", asked: nothing },
    Instance { name: "numbers and their names", before: "classes `0` and `1`, no names",
        make: |own| table(own, "t.csv", "path,label\nx/0.png,0\nx/1.png,1\nx/2.png,0\nx/3.png,1\n").write("names.txt", "cat\nguinea_pig\n"), from: "t.csv",
        asked: |own| ImportOptions { names: Some(own.path("names.txt")), ..ImportOptions::default() } },
    Instance { name: "splits by the first folder", before: "all in one, a share of it tested on",
        make: |own| own.images("train", 2).images("test", 2).write("t.csv", "path,label\ntrain/0.png,a\ntrain/1.png,b\ntest/0.png,a\ntest/1.png,b\n"), from: "t.csv", asked: nothing },
    Instance { name: "parquet with images", before: "refused: needs the columns `path` and `label`",
        make: |own| own.write("t.parquet", shard(&rows(0, &[Some(0), Some(1), Some(0), Some(1)]), &["grey_fox", "b"])), from: "t.parquet", asked: nothing },
    Instance { name: "parquet with holes and an unused name", before: "after the download: row 1: it has no label",
        make: |own| own.write("t.parquet", shard(&rows(0, &[Some(0), None, Some(1), Some(0), Some(1), Some(-1), Some(9)]), &["a", "b", "unused"])), from: "t.parquet", asked: nothing },
    Instance { name: "parquet with a broken image", before: "after the download: cannot decode image",
        make: |own| { let mut rows = rows(0, &[Some(0), Some(1), Some(0), Some(1), Some(0), Some(1)]); rows[2].0 = Some(b"broken".to_vec()); own.write("t.parquet", shard(&rows, &["a", "b"])) }, from: "t.parquet", asked: nothing },
    Instance { name: "parquet of numbers with names given", before: "refused: the integers of `label` have no names",
        make: |own| own.write("t.parquet", shard_with(&rows(0, &[Some(0), Some(1), Some(0), Some(1)]), None, ["image", "label"], parquet::basic::Compression::SNAPPY)).write("names.json", "{\"0\": \"cat\", \"1\": \"dog\"}"), from: "t.parquet",
        asked: |own| ImportOptions { names: Some(own.path("names.json")), ..ImportOptions::default() } },
    Instance { name: "a folder of parquet, the test without labels", before: "refused: no folder of images",
        make: |own| own.write("data/train-00000-of-00002.parquet", shard(&rows(0, &[Some(0), Some(1)]), &["a", "b"]))
            .write("data/train-00001-of-00002.parquet", shard(&rows(2, &[Some(0), Some(1)]), &["a", "b"]))
            .write("data/test-00000-of-00001.parquet", shard(&rows(4, &[Some(-1), Some(-1)]), &["a", "b"])), from: "", asked: nothing },
    Instance { name: "a folder of parquet with both splits", before: "refused: no folder of images",
        make: |own| own.write("train.parquet", shard(&rows(0, &[Some(0), Some(1)]), &["a", "b"]))
            .write("test.parquet", shard(&rows(4, &[Some(1), Some(0)]), &["a", "b"])), from: "", asked: nothing },
];

#[test]
fn every_kind_of_images_is_taken_or_refused_by_name() {
    let mut text = String::new();
    for instance in INSTANCES {
        let _ = writeln!(
            text,
            "{}\n  before: {}\n  after: {}\n",
            instance.name,
            instance.before,
            outcome(instance)
        );
    }
    insta::assert_snapshot!(text);
}

/// Folders as Python's `datasets` 5.2 reads them (tests/fixtures/import/make.py): where the rules agree, sides and labels
/// are the same; where they do not, the import says so.
#[test]
fn folders_are_read_as_datasets_does_or_it_is_said() {
    let read: Value = serde_json::from_str(include_str!("../../fixtures/import/datasets.json")).unwrap();
    let (mut same, mut told) = (0, 0);
    for tree in read["trees"].as_array().unwrap() {
        let files = tree["files"].as_object().unwrap();
        let mut own = Own::new();
        for (i, file) in (0..).zip(files.keys()) {
            own = own.write(file, png(file, i));
        }
        for (name, text) in tree["texts"].as_object().unwrap() {
            own = own.write(name, text.as_str().unwrap());
        }
        let found = import::discover(&own.path(""), "birds", &own.datasets(), &ImportOptions::default());
        let notes = found.as_ref().map(|found| found.notes().join("\n")).unwrap_or_default();
        let says = notes.contains("reads this folder otherwise");
        // With one image a class nothing is left to learn from: what matters is which side an image is on.
        let Ok(imported) = found.and_then(|found| found.adopt(&own.datasets(), &own.cache())) else {
            assert!(!tree["texts"].as_object().unwrap().is_empty(), "{files:?}");
            continue;
        };
        let dataset = &imported.dataset;
        let mut ours: Vec<(String, &str, &str)> = Vec::new();
        for (images, side) in [(&dataset.pool, "pool"), (&dataset.test, "test")] {
            let side = if imported.holdout.is_some() { "pool" } else { side };
            for image in images {
                let path = image.path.strip_prefix(own.path("").canonicalize().unwrap()).unwrap();
                ours.push((
                    path.to_str().unwrap().to_owned(),
                    side,
                    &dataset.classes[image.class as usize],
                ));
            }
        }
        ours.sort();
        let mut theirs: Vec<(String, &str, &str)> = Vec::new();
        for (file, rows) in files {
            for row in rows.as_array().unwrap() {
                let side = if row[0] == "test" { "test" } else { "pool" };
                theirs.push((file.clone(), side, row[1].as_str().unwrap_or("")));
            }
        }
        theirs.sort();
        if ours == theirs {
            same += 1;
            assert!(!says, "{files:?}: {notes}");
        } else {
            told += 1;
            let plain = |rows: &[(String, &str, &str)]| -> Vec<String> {
                rows.iter()
                    .map(|(file, side, label)| format!("{file} {side} {}", label.to_lowercase().replace('_', " ")))
                    .collect()
            };
            // Names are spelled otherwise by design; all else is said.
            assert!(
                says || plain(&ours) == plain(&theirs),
                "{files:?}\n{ours:?}\n{theirs:?}\n{notes}"
            );
        }
    }
    assert!(same >= 11 && told >= 8, "{same} {told}");
}

#[test]
fn a_table_with_one_good_image_is_no_dataset() {
    let own = Own::new()
        .write("x/0.bmp", encoded(image::ImageFormat::Bmp))
        .write("t.csv", "path,label\nx/0.bmp,a\n");
    assert!(own.refused("t.csv").contains("`a` is its only class"));
}

/// tests/fixtures/import/modes/make.py has the pixels that datasets 5.2.0 gives (before: those of the file, unconverted).
#[test]
fn images_of_a_parquet_are_brought_to_its_mode_as_datasets_does() {
    let fixtures = crate::support::root().join("tests/fixtures/import/modes");
    let expected: Value = serde_json::from_slice(&fs::read(fixtures.join("modes.json")).unwrap()).unwrap();
    for mode in ["L", "LA", "RGB", "RGBA"] {
        let own = Own::new();
        fs::copy(
            fixtures.join(format!("modes-{mode}.parquet")),
            own.path("images.parquet"),
        )
        .unwrap();
        let (found, _) = imported(&own, "images.parquet", &ImportOptions::default()).unwrap();
        let mut seen: Vec<Vec<u8>> = [&found.dataset.pool, &found.dataset.test]
            .into_iter()
            .flatten()
            .map(|image| image.pixels().unwrap().into_raw())
            .collect();
        let mut wanted: Vec<Vec<u8>> = serde_json::from_value(expected["modes"][mode].clone()).unwrap();
        seen.sort();
        wanted.sort();
        assert_eq!(seen, wanted, "{mode}");
    }
}
