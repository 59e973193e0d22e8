//! `kshot verify` finds what does not hold, and only that.

use std::fs;
use std::path::Path;

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
