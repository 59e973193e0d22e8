//! Index files as cross_modal_adaptation writes them: read, refused and written byte for byte.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use kshot::config::Protocol;
use kshot::data::Dataset;
use kshot::data::split;
use kshot::data::split::{Split, index_file, split_file};
use kshot::error::{Error, Result};

use super::listing::{Entry, coop};

/// Classes in the order in which CoOp's file first has them, which is not that of their labels.
const CLASSES: [(u32, &str); 3] = [(2, "pink-yellow dahlia"), (0, "café \u{1f33a} \"x\""), (1, "ball moss")];

fn side(name: &str, size: usize) -> Vec<Entry> {
    let of = |(label, class): (u32, &'static str)| {
        (0..size).map(move |i| {
            // Numbers that are no order: 7 has no factor in common with any size used here.
            let number = i * 7 % size;
            (format!("{name}/{label}_{number:02}.jpg"), label, class.to_owned())
        })
    };
    CLASSES.into_iter().flat_map(of).collect()
}

struct Files {
    folder: tempfile::TempDir,
    data: Dataset,
    sides: [Vec<Entry>; 3],
}

impl Files {
    fn new() -> Self {
        let sides = [side("train", 12), side("val", 6), side("test", 5)];
        let data = coop("toy-set/jpg", "images/", sides.each_ref().map(Vec::as_slice));
        Self {
            folder: tempfile::tempdir().unwrap(),
            data,
            sides,
        }
    }

    /// An index file of these places in the train and val lists, in the bytes of Python's `json.dump(…, indent=4)`.
    fn python(&self, places: [&[usize]; 2]) -> String {
        let side = |side: &[Entry], places: &[usize]| {
            let entries: Vec<String> = places
                .iter()
                .map(|&place| {
                    let (path, label, class) = &side[place];
                    let class = class
                        .replace('\\', "\\\\")
                        .replace('"', "\\\"")
                        .replace('é', "\\u00e9")
                        .replace('\u{1f33a}', "\\ud83c\\udf3a");
                    format!(
                        "            {{\n                \"impath\": \"./data/toy-set/jpg/{path}\",\n                \
                         \"label\": {label},\n                \"classname\": \"{class}\"\n            }}"
                    )
                })
                .collect();
            let places: Vec<String> = places.iter().map(|place| format!("            {place}")).collect();
            format!(
                "{{\n        \"data\": [\n{}\n        ],\n        \"indices\": [\n{}\n        ]\n    }}",
                entries.join(",\n"),
                places.join(",\n")
            )
        };
        format!(
            "{{\n    \"train\": {},\n    \"val\": {}\n}}",
            side(&self.sides[0], places[0]),
            side(&self.sides[1], places[1])
        )
    }

    fn write(&self, text: &str) -> PathBuf {
        let path = self.folder.path().join("shot_2-seed_1.json");
        fs::write(&path, text).unwrap();
        path
    }

    fn read(&self, text: &str, k: u32) -> Result<Split> {
        split::draw(&self.data, Protocol::Coop, k, 1, Some(&self.write(text)))
    }

    /// Two of each class, in the order of the file.
    fn two(&self) -> String {
        self.python([&[3, 0, 23, 14, 24, 31], &[5, 2, 6, 11, 12, 17]])
    }
}

#[test]
fn an_index_file_is_read_and_written_byte_for_byte() {
    let files = Files::new();
    let text = files.two();
    let split = files.read(&text, 2).unwrap();
    let ids: Vec<&str> = split.train.iter().map(|item| item.id.as_str()).collect();
    let expected: Vec<String> = [3, 0, 23, 14, 24, 31]
        .iter()
        .map(|&place: &usize| format!("images/{}", files.sides[0][place].0))
        .collect();
    assert_eq!(ids, expected);
    assert_eq!((split.train.len(), split.val.len(), split.test.len()), (6, 6, 15));
    assert_eq!(
        (split.train[0].class, split.classes[2].as_str()),
        (2, "pink-yellow dahlia")
    );
    assert_eq!(index_file(&files.data, &split).unwrap(), text);
}

#[test]
fn own_draws_are_written_so_that_they_are_read_again() {
    let files = Files::new();
    for (k, seed) in [(1, 0), (4, 1), (5, 2)] {
        let split = split::draw(&files.data, Protocol::Coop, k, seed, None).unwrap();
        let text = index_file(&files.data, &split).unwrap();
        let path = files.write(&text);
        assert_eq!(
            split::draw(&files.data, Protocol::Coop, k, seed, Some(&path)).unwrap(),
            split
        );
        assert_eq!(split.val.len(), 3 * k.min(4) as usize);
    }
}

#[test]
fn a_split_file_is_written_as_coop_has_it() {
    let files = Files::new();
    let text = split_file(&files.data).unwrap();
    assert!(text.is_ascii() && text.contains("caf\\u00e9 \\ud83c\\udf3a \\\"x\\\""));
    let start = "{\n    \"train\": [\n        [\n            \"train/2_00.jpg\",\n            2,\n            \
                 \"pink-yellow dahlia\"\n        ],\n        [\n            \"train/2_07.jpg\",";
    assert!(
        text.starts_with(start) && text.ends_with("\n        ]\n    ]\n}"),
        "{text}"
    );
    let read: std::collections::BTreeMap<String, Vec<Entry>> = serde_json::from_str(&text).unwrap();
    let again = ["train", "val", "test"].map(|side| read[side].clone());
    assert_eq!(again, files.sides);
}

#[test]
fn whatever_does_not_fit_is_refused_by_name() {
    let files = Files::new();
    let text = files.two();
    let first = "./data/toy-set/jpg/train/2_09.jpg";
    assert!(text.contains(first));
    let once = |from: &str, to: &str| text.replacen(from, to, 1);
    let cases = [
        (
            once("train/2_09.jpg", "train/2_99.jpg"),
            "train entry `./data/toy-set/jpg/train/2_99.jpg`: is no image",
        ),
        (
            once("train/2_09.jpg", "test/2_02.jpg"),
            "test/2_02.jpg`: is no image of this side",
        ),
        (
            once("./data/toy-set/jpg/train/2_09.jpg", "./data/other/jpg/train/2_09.jpg"),
            "does not lie in `./data/toy-set/jpg/`",
        ),
        (
            once("\"label\": 2", "\"label\": 1"),
            "train/2_09.jpg`: is label 1 `pink-yellow dahlia`, but the dataset has 2",
        ),
        (
            once("pink-yellow dahlia", "pink-yellow dahlia?"),
            "is label 2 `pink-yellow dahlia?`, but the dataset has 2",
        ),
        (
            once("            3,\n", "            4,\n"),
            "train/2_09.jpg`: is not number 4 of CoOp's list",
        ),
        (
            files.python([&[3, 3, 23, 14, 24, 31], &[5, 2, 6, 11, 12, 17]]),
            "train entry `./data/toy-set/jpg/train/2_09.jpg`: stands twice",
        ),
        (
            files.python([&[3, 0, 1, 14, 24, 31], &[5, 2, 6, 11, 12, 17]]),
            "class `café \u{1f33a} \"x\"` has 1 entries, not 2",
        ),
        (
            files.python([&[3, 0, 23, 14, 24, 31], &[5, 2, 6, 11, 12]]),
            "val side: class `ball moss` has 1 entries, not 2",
        ),
        (once("            3,\n", ""), "6 entries, but 5 indices"),
        (once("\"impath\"", "\"path\""), "no few-shot index file"),
        (text[..text.len() / 2].to_owned(), "no few-shot index file"),
    ];
    for (changed, told) in cases {
        assert_ne!(changed, text, "{told}");
        let error = files.read(&changed, 2).unwrap_err();
        assert!(matches!(error.kind(), Error::Indices { .. }), "{error}");
        let said = error.to_string();
        assert!(
            said.contains(told) && said.contains("shot_2-seed_1.json"),
            "{told}: {said}"
        );
        assert!(error.hint().unwrap().contains("cross_modal_adaptation"));
    }
    let other_k = files.read(&text, 4).unwrap_err().to_string();
    assert!(other_k.contains("has 2 entries, not 4"), "{other_k}");
    let missing = split::draw(
        &files.data,
        Protocol::Coop,
        2,
        0,
        Some(&files.folder.path().join("none.json")),
    );
    assert!(
        missing
            .unwrap_err()
            .to_string()
            .ends_with("none.json`: there is no such file")
    );
    for protocol in [Protocol::Clean, Protocol::Tinker] {
        let refused = split::draw(&files.data, protocol, 2, 0, Some(&files.write(&text))).unwrap_err();
        assert!(
            refused.to_string().contains("belong to the protocol `coop`"),
            "{refused}"
        );
    }
}

/// Every entry of a file, each of its fields changed in turn.
#[test]
fn no_changed_entry_goes_unnoticed() {
    let files = Files::new();
    let text = files.two();
    let mut log = String::new();
    for (number, line) in text.lines().enumerate() {
        let field = line.trim();
        let changed = if field.starts_with("\"impath\"") {
            line.replace(".jpg\"", "0.jpg\"")
        } else if field.starts_with("\"label\"") {
            format!("{}: 7,", line.split(':').next().unwrap())
        } else if field.starts_with("\"classname\"") {
            line.replace(": \"", ": \"a ")
        } else if field.trim_end_matches(',').parse::<usize>().is_ok() {
            line.replacen(field.trim_end_matches(','), "1", 1)
        } else {
            continue;
        };
        let lines: Vec<&str> = text
            .lines()
            .enumerate()
            .map(|(i, line)| if i == number { changed.as_str() } else { line })
            .collect();
        let error = files.read(&lines.join("\n"), 2).unwrap_err();
        writeln!(log, "{error}").unwrap();
    }
    assert_eq!(log.lines().count(), 12 * 4);
    assert_eq!(log.matches("entry `./data/").count(), 12 * 4, "{log}");
}
