//! `kshot verify` finds what does not hold, and only that.

use std::fs;
use std::path::Path;

use kshot::experiment::verify::verify as findings;
use kshot::store::Store;
use kshot::store::record::seal;
use serde_json::Value;

use crate::support::{Sandbox, contents, copy};

/// Exit code and stdout.
fn verify(sandbox: &Sandbox, folder: &str, more: &[&str]) -> (Option<i32>, String) {
    let arguments: Vec<&str> = ["verify", folder].iter().chain(more).copied().collect();
    let output = sandbox.run(&arguments);
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

/// Changes the first file below a folder whose name ends so.
fn damage(folder: &Path, end: &str, change: impl Fn(String) -> String) {
    let files = contents(folder);
    let (name, bytes) = files
        .iter()
        .find(|(name, _)| name.to_str().unwrap().ends_with(end))
        .unwrap();
    let text = String::from_utf8(bytes.clone()).unwrap();
    let changed = change(text.clone());
    assert_ne!(changed, text);
    fs::write(folder.join(name), changed).unwrap();
}

#[test]
fn what_holds_and_what_does_not() {
    let sandbox = Sandbox::new();
    sandbox.succeed(&["sweep", "--config", "tiny.toml"]);
    let (code, text) = verify(&sandbox, "results/tiny", &[]);
    assert_eq!(code, Some(0), "{text}");
    for words in [
        "4 cells are whole",
        "720 predictions",
        "ledger.csv, timings.csv",
        "everything holds",
    ] {
        assert!(text.contains(words), "`{words}` is not in: {text}");
    }
    sandbox.succeed(&["promote", "results/tiny", "compact"]);
    let (code, text) = verify(&sandbox, "compact", &[]);
    assert!(code == Some(0) && text.contains("4 cells are whole"), "{text}");

    /// The last digit of a number after a name is another.
    fn nudge(text: &str, name: &str) -> String {
        let at = text.find(name).unwrap() + name.len();
        let end = at + text[at..].find([',', '\n', '}']).unwrap();
        let digit = text.as_bytes()[end - 1];
        let other = if digit == b'1' { "2" } else { "1" };
        format!("{}{other}{}", &text[..end - 1], &text[end..])
    }
    type Case = (&'static str, fn(&Path), &'static str);
    let cases: [Case; 7] = [
        (
            "a metric",
            |f| damage(&f.join("cells"), ".json", |t| nudge(&t, "\"nll\": ")),
            "nll is ",
        ),
        (
            "n_groups",
            |f| damage(&f.join("cells"), ".json", |t| nudge(&t, "\"n_groups\": ")),
            "n_groups is ",
        ),
        (
            "a torn record",
            |f| damage(&f.join("cells"), ".json", |t| t[..t.len() / 2].into()),
            "cells/",
        ),
        (
            "a split",
            |f| damage(&f.join("splits"), ".json", |t| t.replacen('a', "b", 1)),
            "it is not the split",
        ),
        (
            "no split",
            |f| {
                fs::remove_dir_all(f.join("splits"))
                    .and_then(|()| fs::create_dir(f.join("splits")))
                    .unwrap();
            },
            "is missing",
        ),
        (
            "the ledger",
            |f| damage(f, "ledger.csv", |t| t.replacen("0.", "1.", 1)),
            "`ledger.csv`: it is not what",
        ),
        (
            "predictions",
            |f| {
                let files = contents(&f.join("predictions"));
                fs::remove_file(f.join("predictions").join(files.keys().next().unwrap())).unwrap();
            },
            "it is missing",
        ),
    ];
    for (what, change, words) in cases {
        let folder = sandbox.path("damaged");
        copy(&sandbox.path("results/tiny"), &folder);
        change(&folder);
        let (code, text) = verify(&sandbox, "damaged", &[]);
        assert_eq!(code, Some(1), "{what}: {text}");
        assert!(
            text.contains(words) && text.contains("not hold"),
            "{what}: `{words}` is not in: {text}"
        );
        let (code, json) = verify(&sandbox, "damaged", &["--json"]);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert!(
            code == Some(1) && !json["problems"].as_array().unwrap().is_empty(),
            "{what}: {json}"
        );
        fs::remove_dir_all(folder).unwrap();
    }
    // What a running cell leaves is listed, and is no fault.
    fs::create_dir_all(sandbox.path("results/tiny/claims")).unwrap();
    fs::write(sandbox.path("results/tiny/claims/0123456789abcdef.0.json"), "{").unwrap();
    let (code, text) = verify(&sandbox, "results/tiny", &[]);
    assert!(
        code == Some(0) && text.contains("note: `claims/0123456789abcdef.0.json`"),
        "{text}"
    );
    assert_eq!(verify(&sandbox, "nowhere", &[]).0, Some(2));
}

/// Every leaf of a JSON value, by its path.
fn leaves(value: &Value, at: &str, all: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields
            .iter()
            .for_each(|(name, field)| leaves(field, &format!("{at}/{name}"), all)),
        Value::Array(items) => (0..)
            .zip(items)
            .for_each(|(i, item): (usize, _)| leaves(item, &format!("{at}/{i}"), all)),
        _ => all.push(at.to_owned()),
    }
}

/// Another value of the same type, such as could stand there.
fn edited(value: &Value) -> Value {
    match value {
        Value::Bool(is) => (!is).into(),
        Value::Number(number) => match number.as_u64() {
            Some(number) => (number + 1).into(),
            None => (number.as_f64().unwrap() * 1.25 + 0.5).into(),
        },
        Value::String(text) => {
            // One letter or digit is another: hashes stay hashes, dates stay dates.
            let mut text: Vec<char> = text.chars().collect();
            let last = text.pop();
            text.push(if last == Some('a') { 'b' } else { 'a' });
            text.into_iter().collect::<String>().into()
        }
        _ => 1.into(),
    }
}

/// Whether a results folder is found to hold.
fn holds(folder: &Path) -> bool {
    findings(&Store::open_existing(folder).unwrap()).is_ok_and(|found| found.hold())
}

/// Leaves of a JSON file of which nothing is said when they are edited one by one.
fn unnoticed(folder: &Path, file: &str, sealed: bool, every: usize) -> Vec<String> {
    let path = folder.join(file);
    let whole = fs::read(&path).unwrap();
    let json: Value = serde_json::from_slice(&whole).unwrap();
    let mut all = Vec::new();
    leaves(&json, "", &mut all);
    assert!(all.len() > 10, "{file}");
    let mut found = Vec::new();
    for leaf in all.into_iter().step_by(every) {
        if sealed && leaf == "/seal" {
            continue;
        }
        let mut changed = json.clone();
        *changed.pointer_mut(&leaf).unwrap() = edited(json.pointer(&leaf).unwrap());
        if sealed {
            changed["seal"] = seal(&changed).into();
        }
        fs::write(&path, serde_json::to_vec_pretty(&changed).unwrap()).unwrap();
        if holds(folder) {
            found.push(leaf);
        }
    }
    fs::write(&path, whole).unwrap();
    found
}

/// Files of a folder inside a results folder, as seen from there.
fn inside(results: &Path, folder: &str) -> Vec<String> {
    let files = contents(&results.join(folder));
    files
        .keys()
        .map(|name| format!("{folder}/{}", name.display()))
        .collect()
}

#[test]
fn no_leaf_of_any_file_can_be_edited_unnoticed() {
    let sandbox = Sandbox::new();
    sandbox.succeed(&["sweep", "--config", "tiny.toml"]);
    sandbox.succeed(&["promote", "results/tiny", "compact"]);
    for (folder, is_live) in [("results/tiny", true), ("compact", false)] {
        let folder = sandbox.path(folder);
        assert!(holds(&folder));
        let mut unsealed: Vec<String> = Vec::new();
        for record in inside(&folder, "cells") {
            assert_eq!(unnoticed(&folder, &record, false, 1), [""; 0], "{record}");
            unsealed.extend(unnoticed(&folder, &record, true, 1));
        }
        unsealed.sort();
        unsealed.dedup();
        // With the seal computed anew: what is told by nothing else that is stored. Where the data came from and how many images
        // there were to draw from say the dataset alone, the hash of a prediction file that is no more says nothing in the
        // compact form, and processes, devices and jobs are in no table.
        let dataset = [
            "/card/counts/pool",
            "/card/counts/val",
            "/card/form",
            "/card/left_out",
            "/card/near_duplicates/within",
            "/card/source",
            "/card/revision",
        ];
        let alone = [
            "/timing/devices",
            "/timing/jobs",
            "/timing/sessions",
            "/predictions_file_sha256",
            "/card/capped",
            "/card/counts/val_drawn",
        ];
        let excused = |leaf: &&String| {
            !dataset.iter().chain(&alone).any(|known| known == leaf) && !leaf.starts_with("/card/near_duplicates/list")
        };
        let more: Vec<&String> = unsealed.iter().filter(excused).collect();
        assert!(more.is_empty(), "{more:?}");
        if is_live {
            for split in inside(&folder, "splits") {
                assert_eq!(unnoticed(&folder, &split, false, 17), [""; 0], "{split}");
            }
        }
        for table in ["ledger.csv", "timings.csv"] {
            let whole = fs::read_to_string(folder.join(table)).unwrap();
            for (row, line) in whole.lines().enumerate() {
                for column in 0..line.split(',').count() {
                    let rows: Vec<String> = whole
                        .lines()
                        .enumerate()
                        .map(|(r, line)| {
                            let cells = line.split(',').enumerate();
                            let cell = |(c, text): (usize, &str)| {
                                if (r, c) == (row, column) {
                                    format!("{text}1")
                                } else {
                                    text.into()
                                }
                            };
                            cells.map(cell).collect::<Vec<String>>().join(",")
                        })
                        .collect();
                    fs::write(folder.join(table), rows.join("\n") + "\n").unwrap();
                    assert!(!holds(&folder), "{table}, row {row}, column {column}");
                }
            }
            fs::write(folder.join(table), whole).unwrap();
        }
    }
}

#[test]
fn swapped_labels_and_another_config_are_found() {
    let sandbox = Sandbox::new();
    sandbox.succeed(&["sweep", "--config", "tiny.toml"]);
    sandbox.succeed(&["promote", "results/tiny", "compact"]);
    for folder in ["results/tiny", "compact"] {
        let folder = sandbox.path(folder);
        let records = inside(&folder, "cells");
        let read = |file: &String| -> Value { serde_json::from_slice(&fs::read(folder.join(file)).unwrap()).unwrap() };
        let label = |record: &Value| record["key"]["learner"].clone();
        let (one, other) = records
            .iter()
            .flat_map(|a| records.iter().map(move |b| (a, b)))
            .find(|(a, b)| label(&read(a)) != label(&read(b)) && read(a)["key"]["shots"] == read(b)["key"]["shots"])
            .unwrap();
        let kept = [one, other].map(|file| fs::read(folder.join(file)).unwrap());
        for (file, with) in [(one, label(&read(other))), (other, label(&read(one)))] {
            let mut record = read(file);
            record["key"]["learner"] = with;
            record["seal"] = seal(&record).into();
            fs::write(folder.join(file), record.to_string()).unwrap();
        }
        let found = findings(&Store::open_existing(&folder).unwrap()).unwrap();
        let wrong = found
            .problems
            .iter()
            .filter(|problem| problem.reason.contains("`run_id`"))
            .count();
        assert!(wrong >= 2, "{:?}", found.problems);
        for (file, bytes) in [one, other].into_iter().zip(kept) {
            fs::write(folder.join(file), bytes).unwrap();
        }
        assert!(holds(&folder));

        let path = folder.join("sweep.toml");
        let config = fs::read_to_string(&path).unwrap();
        for (from, to) in [
            ("seeds = [", "seeds = [77, "),
            ("exif = true", "exif = false"),
            ("protocol = \"clean\"", "protocol = \"tinker\""),
        ] {
            let changed = config.replacen(from, to, 1);
            assert_ne!(changed, config, "{from}");
            let changed = if from.starts_with("seeds") {
                changed.replace("77, 0", "77")
            } else {
                changed
            };
            fs::write(&path, changed).unwrap();
            assert!(!holds(&folder), "{from}");
        }
        fs::remove_file(&path).unwrap();
        assert!(!holds(&folder));
        fs::write(&path, config).unwrap();
    }
}

/// Records of recipe 2 and schema 2 and 3 are read, and what can be compared of them is.
#[test]
fn the_reference_of_an_earlier_schema_holds() {
    let reference = crate::support::root().join("results/reference/mini-full");
    let found = findings(&Store::open_existing(&reference).unwrap()).unwrap();
    assert!(found.hold(), "{:?}", found.problems);
}

/// 2,000 mutations of a record and as many of a split: none panics, none takes long, none passes for whole.
#[test]
fn mutated_records_and_splits_never_pass() {
    use crate::hostile::fuzz::mutate::{Random, mutate};

    let sandbox = Sandbox::new();
    let only = ["sweep", "--config", "tiny.toml", "--set", "shots=[1]"];
    sandbox.succeed(&only);
    let folder = sandbox.path("results/tiny");
    for (inside_of, seed) in [("cells", 1), ("splits", 2)] {
        let files = inside(&folder, inside_of);
        let seeds: Vec<Vec<u8>> = files.iter().map(|file| fs::read(folder.join(file)).unwrap()).collect();
        let path = folder.join(&files[0]);
        let whole: Value = serde_json::from_slice(&seeds[0]).unwrap();
        for iteration in 0..2_000 {
            let bytes = mutate(&seeds[..1], &mut Random::of(seed, iteration));
            // What reads as the same JSON is the same record; a split is its bytes.
            let same = match inside_of {
                "cells" => serde_json::from_slice::<Value>(&bytes).is_ok_and(|json| json == whole),
                _ => bytes == seeds[0],
            };
            fs::write(&path, &bytes).unwrap();
            let start = std::time::Instant::now();
            let passed = holds(&folder);
            assert!(start.elapsed().as_secs() < 10, "{inside_of} {iteration}");
            assert_eq!(
                passed,
                same,
                "{inside_of} {iteration}: {}",
                String::from_utf8_lossy(&bytes)
            );
        }
        fs::write(&path, &seeds[0]).unwrap();
    }
}
