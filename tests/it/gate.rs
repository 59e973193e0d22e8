//! The gate, end to end: what it compares, what it refuses to compare, and how it says so.

mod accept;
mod cells;
mod damage;
mod kill;
mod memory;
mod noise;

use std::fs;

use kshot::config::Protocol;
use kshot::error::Error;
use kshot::statistics::metric::Headline;
use kshot::store::Store;
use kshot::store::control;
use kshot::store::control::{Control, Controls, Measure, Name};
use kshot::store::record::{Failure, utc_now};

use self::cells::{Cell, folder};
use crate::support::{Sandbox, stderr};

const RESULTS: &str = "results/nightly";
const BASELINE: &str = "results/reference/nightly";
const GATE: [&str; 4] = ["gate", RESULTS, "--baseline", BASELINE];

fn gate(sandbox: &Sandbox, more: &[&str]) -> (i32, String, String) {
    let output = sandbox.run(&[&GATE, more].concat());
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    (output.status.code().unwrap(), text, stderr(&output))
}

/// An odd name: nothing in it may be taken as markup.
const ODD: &str = "k-NN <k> & \"5\" | 'l2'";

/// A night with one cell of every kind: lost, gained, lost by chance, unchanged, and new.
fn eventful(sandbox: &Sandbox) {
    let of = |learner, seed, right, rank| Cell {
        learner,
        seed,
        right,
        rank,
        ..Cell::default()
    };
    let drawings = |right, rank| Cell {
        dataset: "mini-caltech101",
        images: 180,
        views: 6,
        headline: Headline::MeanPerClass,
        right,
        rank,
        ..Cell::default()
    };
    let quarter: fn(u32) -> bool = |i| i % 4 > 0;
    folder(
        &sandbox.path(BASELINE),
        &[
            of("DINOv2 LoRA", 0, quarter, 4),
            of("DINOv2 LoRA", 1, quarter, 4),
            of(ODD, 0, quarter, 4),
            of("Qwen3-VL LoRA", 0, quarter, 4),
            drawings(quarter, 4),
        ],
    );
    folder(
        &sandbox.path(RESULTS),
        &[
            of("DINOv2 LoRA", 0, |i| i % 4 > 0 && i % 10 != 1, 8), // every tenth is lost
            of("DINOv2 LoRA", 1, |i| i % 4 > 0 || i % 10 == 0, 8),
            of(ODD, 0, quarter, 8),
            of("Qwen3-VL LoRA", 0, |i| i % 4 > 0 && i % 100 != 1 || i == 8, 8),
            drawings(|i| i % 4 > 0 && (i >= 24 || i % 6 < 3), 8), // half of four drawings
            of("raw pixels 1-NN", 0, quarter, 8),
        ],
    );
}

#[test]
fn an_eventful_night_in_all_four_forms() {
    let sandbox = Sandbox::new();
    eventful(&sandbox);
    let forms = ["--json", "gate.json", "--junit", "gate.xml", "--markdown", "gate.md"];
    let (code, text, said) = gate(&sandbox, &forms);
    assert_eq!((code, said.as_str()), (1, ""), "a red gate is no error");
    insta::assert_snapshot!("text", text);
    for (name, file) in [("json", "gate.json"), ("junit", "gate.xml"), ("markdown", "gate.md")] {
        insta::assert_snapshot!(name, fs::read_to_string(sandbox.path(file)).unwrap());
    }
    let json: serde_json::Value = serde_json::from_slice(&fs::read(sandbox.path("gate.json")).unwrap()).unwrap();
    assert_eq!(json["cells"].as_array().unwrap().len(), 5);
    // Beyond any margin there is no loss.
    let (code, text, _) = gate(&sandbox, &["--margin", "20"]);
    assert!(code == 0 && text.starts_with("GREEN"), "{text}");
}

#[test]
fn the_same_predictions_are_green_whatever_the_run_ids_and_the_form() {
    let sandbox = Sandbox::new();
    let cell = |rank| Cell {
        rank,
        ..Cell::default()
    };
    folder(&sandbox.path("results/old"), &[cell(4)]);
    sandbox.succeed(&["promote", "results/old", BASELINE]);
    folder(&sandbox.path(RESULTS), &[cell(8)]);
    let (code, text, said) = gate(&sandbox, &[]);
    assert_eq!((code, said.as_str()), (0, ""));
    assert!(
        text.starts_with("GREEN") && text.contains("Cells: 1 unchanged."),
        "{text}"
    );
}

/// One cell each that cannot be compared, for all reasons there are, and a sound one that has lost.
#[test]
fn what_cannot_be_compared_is_an_error_and_not_a_comparison() {
    let sandbox = Sandbox::new();
    let seeded = |seed| Cell {
        seed,
        rank: 4,
        ..Cell::default()
    };
    folder(&sandbox.path(BASELINE), &(0..11).map(seeded).collect::<Vec<_>>());
    // All of these lost every answer: compared, each would be a loss.
    let lost = |seed| Cell {
        seed,
        rank: 8,
        right: |_| false,
        ..Cell::default()
    };
    let store = folder(
        &sandbox.path(RESULTS),
        &[
            lost(0),
            Cell {
                split: "fedcba9876543210",
                ..lost(1)
            },
            Cell {
                classes: ["ant", "bee", "cow", "dog"],
                ..lost(2)
            },
            Cell { bytes: "01", ..lost(3) },
            Cell { images: 399, ..lost(4) },
            Cell {
                headline: Headline::MeanPerClass,
                ..lost(5)
            },
            lost(6),
            lost(7),
            Cell { rank: 9, ..lost(7) },
            lost(8),
            lost(9),
        ],
    );
    let by_seed = |seed: u64| {
        let all = store.records().unwrap();
        all.into_iter().find(|record| record.key.seed == seed).unwrap()
    };
    let red = by_seed(8);
    store
        .write_controls(&Controls {
            schema: control::SCHEMA,
            run_id: red.run_id,
            key: red.key,
            predictions_sha256: red.predictions_sha256,
            controls: vec![Control::judged(
                Name::ReloadParity,
                0,
                vec![Measure::new("answers differ", 3, 400).at_most(0)],
            )],
            seconds: 1.0,
            finished: utc_now(),
            commit: None,
        })
        .unwrap();
    let torn = by_seed(6).run_id;
    let parquet = sandbox.path(RESULTS).join(format!("predictions/{torn}.parquet"));
    let bytes = fs::read(&parquet).unwrap();
    fs::write(&parquet, &bytes[..bytes.len() / 2]).unwrap();
    let other = by_seed(9).run_id;
    let cell = sandbox.path(RESULTS).join(format!("cells/{other}.json"));
    let text = fs::read_to_string(&cell).unwrap();
    fs::write(
        &cell,
        text.replace("\"protocol\": \"clean\"", "\"protocol\": \"coarse\""),
    )
    .unwrap();
    let key = seeded(10).finish(&Store::open(&sandbox.path("elsewhere")).unwrap()).key;
    let failed = Error::Figure {
        reason: "of the weather".into(),
    };
    store.fail(&Failure::new("0123456789abcdef", &key, &failed)).unwrap();

    let (code, text, said) = gate(
        &sandbox,
        &["--junit", "gate.xml", "--markdown", "gate.md", "--json", "gate.json"],
    );
    assert_eq!(code, 2);
    let json: serde_json::Value = serde_json::from_slice(&fs::read(sandbox.path("gate.json")).unwrap()).unwrap();
    let kinds: Vec<&str> = json["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["kind"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "missing",
            "torn",
            "twice",
            "red-control",
            "protocol",
            "classes",
            "test-images",
            "test-images",
            "draw",
            "metric"
        ]
    );
    // The sound one is compared all the same, and only that.
    assert_eq!(
        (json["family"].as_u64(), json["outcome"].as_str()),
        (Some(1), Some("error"))
    );
    let xml = fs::read_to_string(sandbox.path("gate.xml")).unwrap();
    assert!(xml.contains("tests=\"11\" failures=\"1\" errors=\"10\""), "{xml}");
    assert!(
        fs::read_to_string(sandbox.path("gate.md"))
            .unwrap()
            .contains("### Errors")
    );
    let shown = |text: &str| {
        text.replace(&torn, "[TORN]")
            .replace(&other, "[OTHER]")
            .lines()
            .take_while(|line| !line.starts_with("All compared"))
            .map(|line| line.to_owned() + "\n")
            .collect::<String>()
    };
    insta::assert_snapshot!("errors", shown(&text) + "stderr:\n" + &said);
}

#[test]
fn protocols_are_kept_apart() {
    let of = |protocol| Cell {
        protocol,
        ..Cell::default()
    };
    let judged = |results: &[Protocol], baseline: &[Protocol]| {
        let sandbox = Sandbox::new();
        folder(
            &sandbox.path(RESULTS),
            &results.iter().map(|p| of(*p)).collect::<Vec<_>>(),
        );
        folder(
            &sandbox.path(BASELINE),
            &baseline.iter().map(|p| of(*p)).collect::<Vec<_>>(),
        );
        gate(&sandbox, &["--json", "gate.json"]);
        let json: serde_json::Value = serde_json::from_slice(&fs::read(sandbox.path("gate.json")).unwrap()).unwrap();
        let of = |list: &str, field: &str| -> Vec<String> {
            let items = json[list].as_array().unwrap().iter();
            items
                .map(|item| item[field].as_str().unwrap_or_default().to_owned())
                .collect()
        };
        (
            of("errors", "kind"),
            of("new_cells", "protocol"),
            json["family"].as_u64().unwrap(),
        )
    };
    let (clean, coop) = (Protocol::Clean, Protocol::Coop);
    let some = |word: &str| vec![word.to_owned()];
    assert_eq!(judged(&[clean, coop], &[clean, coop]), (vec![], vec![], 2));
    assert_eq!(judged(&[clean], &[clean, coop]), (some("missing"), vec![], 1));
    assert_eq!(judged(&[clean, coop], &[clean]), (vec![], some("coop"), 1));
    assert_eq!(judged(&[coop], &[clean]), (some("protocol"), vec![], 0));
}

#[test]
fn a_folder_says_nothing_about_itself() {
    let sandbox = Sandbox::new();
    folder(&sandbox.path(RESULTS), &[Cell::default()]);
    for (baseline, more) in [(RESULTS, None), ("results/other", Some("results/../results/nightly"))] {
        folder(&sandbox.path("results/other"), &[Cell::default()]);
        let mut arguments = vec!["gate", RESULTS, "--baseline", baseline];
        arguments.extend(more.iter().flat_map(|more| ["--repeat", *more]));
        let output = sandbox.run(&arguments);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains("is named twice"), "{}", stderr(&output));
    }
    for wrong in [["--margin", "-1"], ["--level", "0"], ["--level", "5"]] {
        assert_eq!(gate(&sandbox, &wrong).0, 2);
    }
}
