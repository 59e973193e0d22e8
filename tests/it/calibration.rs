//! Choices and temperatures made inside the shots, and what is kept of likelihoods, through the built binary.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use crate::support::{self, Sandbox, stderr};

// Photographs: each image is independent of all others.
const PROBES: &str = r#"
name = "probes"
datasets = ["mini-fashion"]
shots = [1, 4]

[[learner]]
method = "logistic-regression"
model = "datasets/mini/models/micro-dinov2"
name = "grid"
grid = true

[[learner]]
method = "dinov2-lora"
model = "datasets/mini/models/micro-dinov2"
images_per_class = 8
batch = 16
rank = 4

[[learner]]
method = "nearest-mean"
model = "datasets/mini/models/micro-dinov2"
"#;

/// The records of a sweep, by learner and shots.
fn records(sandbox: &Sandbox, name: &str) -> BTreeMap<(String, u64), Value> {
    fs::read_dir(sandbox.path(&format!("results/{name}/cells")))
        .unwrap()
        .map(|entry| {
            let record: Value = serde_json::from_slice(&fs::read(entry.unwrap().path()).unwrap()).unwrap();
            let key = &record["key"];
            let place = (
                key["learner"].as_str().unwrap().to_owned(),
                key["shots"].as_u64().unwrap(),
            );
            (place, record)
        })
        .collect()
}

#[test]
fn the_temperature_is_fitted_inside_the_shots() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("probes.toml"), PROBES).unwrap();
    let sweep = ["sweep", "--config", "probes.toml"];
    sandbox.succeed(&sweep);
    let plain = records(&sandbox, "probes");
    let grid = |k| &plain[&("grid".to_owned(), k)];
    assert_eq!(grid(1)["training"]["chosen"], Value::Null);
    let chosen = &grid(4)["training"]["chosen"];
    assert!(chosen["c"].is_number() && chosen["folds"] == 4, "{chosen}");
    assert!(plain.values().all(|record| record.get("tempered").is_none()));

    let tempered = [&sweep[..], &["--set", "calibration={folds=2}", "--results", "with"]].concat();
    sandbox.succeed(&tempered);
    fs::rename(sandbox.path("with"), sandbox.path("results/with")).unwrap();
    let with = records(&sandbox, "with");
    assert_eq!(with.len(), plain.len());
    for (place, record) in &with {
        let before = &plain[place];
        // Nothing of before has changed.
        assert_eq!(record["predictions_sha256"], before["predictions_sha256"], "{place:?}");
        assert_eq!(record["metrics"], before["metrics"], "{place:?}");
        let asked = place.1 == 4 && place.0 != "DINOv2 nearest mean";
        assert_eq!(record["run_id"] != before["run_id"], asked, "{place:?}");
        // Half of four shots are too few for the grid: a temperature would be another model's.
        let expected = asked && place.0 != "grid";
        assert_eq!(record.get("tempered").is_some(), expected, "{place:?}");
        if expected {
            let tempered = &record["tempered"];
            let [before, after] = [0, 1].map(|i| tempered["held_out_nll"][i].as_f64().unwrap());
            assert!(after <= before, "{tempered}");
            assert_eq!(
                (&tempered["folds"], &tempered["held_out"]),
                (&json!(2), &record["n_train"])
            );
            assert_eq!(record["hyper_parameters"]["calibration"], json!({"folds": 2}));
        }
        // The kind without probabilities has no calibration at all.
        assert_eq!(
            record.get("calibration").is_some(),
            place.0 != "DINOv2 nearest mean",
            "{place:?}"
        );
    }
    assert!(
        !sandbox.path("results/with/states").is_dir()
            || support::contents(&sandbox.path("results/with/states")).is_empty()
    );
    for figure in ["svg", "png", "pdf", "csv"] {
        assert!(
            sandbox
                .path(&format!("results/with/figures/reliability.{figure}"))
                .is_file()
        );
    }
    let table = fs::read_to_string(sandbox.path("results/with/tables/calibration.csv")).unwrap();
    assert!(table.contains("ECE at T") && table.contains("grid"), "{table}");
    sandbox.succeed(&["verify", "results/with"]);

    // A number that the predictions do not give is found.
    let (_, record) = with
        .iter()
        .find(|(place, _)| place.1 == 4 && place.0 == "DINOv2 LoRA")
        .unwrap();
    let mut changed = record.clone();
    changed["tempered"]["test"]["brier"] = json!(0.5);
    let path = format!("results/with/cells/{}.json", record["run_id"].as_str().unwrap());
    fs::write(sandbox.path(&path), changed.to_string()).unwrap();
    let refused = sandbox.run(&["verify", "results/with"]);
    assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
    let said = format!("{}{}", String::from_utf8_lossy(&refused.stdout), stderr(&refused));
    assert!(said.contains("calibration at the temperature"), "{said}");
}

const WORDINGS: &str = r#"
name = "wordings"
datasets = ["mini-cars"]
shots = [0]

[[learner]]
method = "qwen3-vl-lora"
model = "datasets/mini/models/micro-qwen3-vl"
name = "default"
readings = ["trie", "likelihood"]
reading = "trie"

[[learner]]
method = "qwen3-vl-lora"
model = "datasets/mini/models/micro-qwen3-vl"
name = "category"
prompt = "category"
readings = ["trie", "likelihood"]
reading = "trie"
"#;

#[test]
fn wordings_and_normalisations_stand_beside_the_headline() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("wordings.toml"), WORDINGS).unwrap();
    let printed = sandbox.succeed(&["sweep", "--config", "wordings.toml", "--tables"]);
    assert!(printed.contains("over wordings of the question"), "{printed}");
    let records = records(&sandbox, "wordings");
    let of = |name: &str| &records[&(name.to_owned(), 0)];
    assert_eq!(of("default")["hyper_parameters"].get("prompt"), None);
    assert_eq!(of("category")["hyper_parameters"]["prompt"], "category");
    assert_ne!(
        of("default")["predictions_sha256"],
        of("category")["predictions_sha256"]
    );
    for record in records.values() {
        let classes = record["classes"].as_array().unwrap();
        let names = &record["names"];
        for list in ["tokens", "bytes", "prior"] {
            assert_eq!(names[list].as_array().unwrap().len(), classes.len(), "{list}");
        }
        let bytes = names["bytes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|b| b.as_u64().unwrap() as usize);
        assert!(
            bytes
                .zip(classes)
                .all(|(bytes, name)| bytes == name.as_str().unwrap().len())
        );
        assert!(
            names["prior"]
                .as_array()
                .unwrap()
                .iter()
                .all(|p| p.as_f64().unwrap() < 0.0)
        );
        let likelihood = &record["metrics"]["readings"]["likelihood"]["top1"];
        assert_eq!(&record["normalised"]["sum"], likelihood, "{record}");
    }
    let spread = fs::read_to_string(sandbox.path("results/wordings/tables/wordings.csv")).unwrap();
    assert!(spread.lines().count() >= 3, "{spread}");
    let normalised = fs::read_to_string(sandbox.path("results/wordings/tables/normalisations.csv")).unwrap();
    assert!(normalised.contains("less the prior"), "{normalised}");
    sandbox.succeed(&["verify", "results/wordings"]);
}
