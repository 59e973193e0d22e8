//! The tables of a sweep: files beside the figure, and every form on stdout.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Sandbox, contents, stderr};

const RESULTS: &str = "results/tiny";

#[test]
fn every_form_is_written_and_printed() {
    let sandbox = Sandbox::new();
    let swept = sandbox.succeed(&["sweep", "--config", "tiny.toml", "--tables"]);
    let folder = sandbox.path(RESULTS).join("tables");
    let written = contents(&folder);
    let names: Vec<_> = written.keys().map(|name| name.to_str().unwrap()).collect();
    let expected = [
        "accuracy.csv",
        "calibration.csv",
        "gains.csv",
        "paired-tests.csv",
        "tables.json",
        "tables.md",
        "tables.tex",
    ];
    assert_eq!(names, expected, "tables without rows have no file");

    let print = |format: &str| sandbox.succeed(&["plot", RESULTS, "--format", format]);
    let file = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    assert_eq!(print("plain"), swept);
    assert_eq!(print("markdown"), file("tables.md"));
    assert_eq!(print("latex"), file("tables.tex"));
    assert_eq!(print("json"), file("tables.json"));
    let parts = ["accuracy", "calibration", "gains", "paired-tests"]
        .map(|name| format!("# {name}\n{}", file(&format!("{name}.csv"))));
    assert_eq!(print("csv"), parts.join("\n"));
    assert_eq!(contents(&folder), written, "the same again");

    // One number in all of them.
    let tables: Value = serde_json::from_str(&file("tables.json")).unwrap();
    let row = &tables["tables"][0]["rows"][0];
    let accuracy = &row["k = 2"]["value"];
    let shown = format!("{:.1} [", 100.0 * accuracy.as_f64().unwrap());
    for text in [&swept, &file("tables.md"), &file("tables.tex").replace("{[}", "[")] {
        assert!(text.contains(&shown), "{shown} is not in {text}");
    }
    let csv = file("accuracy.csv");
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let column = reader
        .headers()
        .unwrap()
        .iter()
        .position(|name| name == "k = 2")
        .unwrap();
    let first = reader.records().next().unwrap().unwrap();
    assert_eq!(first[column].parse::<f64>().unwrap(), accuracy.as_f64().unwrap());
    assert_eq!(
        (&first[0], &row["dataset"], &row["micro"]),
        ("mini-pets", &json!("mini-pets"), &json!(true))
    );
    for table in tables["tables"].as_array().unwrap() {
        let caveat = table["notes"].as_array().unwrap().last().unwrap().as_str().unwrap();
        assert!(caveat.starts_with("Micro models on miniature datasets"), "{table}");
    }

    let unknown = sandbox.run(&["plot", RESULTS, "--format", "word"]);
    assert!(
        stderr(&unknown).contains("plain, markdown, latex, csv, json"),
        "{}",
        stderr(&unknown)
    );
}
