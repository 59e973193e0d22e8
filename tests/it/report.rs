//! `kshot report` end to end: the numbers in the page are those of the ledger, and it needs nothing but itself.

#![allow(clippy::print_stdout, reason = "says what was done")]

use std::collections::BTreeMap;
use std::fs;

use kshot::config::Protocol;
use kshot::prediction::{Prediction, Reading};
use kshot::statistics::metric::Headline;
use kshot::store::Store;
use kshot::store::control::{self, Control, Controls, Measure, Name, Verdict};
use kshot::store::record::{CellDetails, CellKey, Identity, Timing, TrainingSummary};
use serde_json::{Value, json};

use crate::images::make;
use crate::support::{Sandbox, stderr};

const RESULTS: &str = "results/tiny";
const PAGE: &str = "results/tiny/report.html";

/// The data of a page, as its script reads them.
fn data(sandbox: &Sandbox, path: &str) -> Value {
    let page = fs::read_to_string(sandbox.path(path)).unwrap();
    let (_, rest) = page
        .split_once(r#"<script type="application/json" id="data">"#)
        .unwrap();
    let (json, _) = rest.split_once("</script>").unwrap();
    serde_json::from_str(json).unwrap()
}

/// Rows of a CSV file by column names.
fn rows(sandbox: &Sandbox, path: &str) -> Vec<BTreeMap<String, String>> {
    let mut table = csv::Reader::from_path(sandbox.path(path)).unwrap();
    table.deserialize().map(|row| row.unwrap()).collect()
}

fn numbers(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect()
}

#[test]
fn the_page_holds_the_numbers_of_the_ledger_and_the_images_behind_them() {
    let sandbox = Sandbox::new();
    sandbox.succeed(&["sweep", "--config", "tiny.toml"]);
    let said = sandbox.succeed(&["report", RESULTS]);
    assert!(said.starts_with("results/tiny/report.html: "), "{said}");
    let page = data(&sandbox, PAGE);
    let results = &page["results"][0];

    let ledger = rows(&sandbox, "results/tiny/ledger.csv");
    let cells = results["cells"].as_array().unwrap();
    assert_eq!(cells.len(), ledger.len());
    for row in &ledger {
        let cell = cells
            .iter()
            .find(|cell| cell["run_id"] == row["run_id"].as_str())
            .unwrap();
        for column in ["accuracy", "top1", "mean_per_class"] {
            let shown = format!("{:.6}", cell[column].as_f64().unwrap());
            assert_eq!(shown, row[column], "{column} of {}", row["run_id"]);
        }
        assert_eq!(cell["predictions_sha256"], row["predictions_sha256"].as_str());
        assert!(cell["controls"].is_null() && cell["red"] == false, "{cell}");

        // One seed: what is counted by class and by pair of classes is the cell's own.
        let of = |series: &&Value| series["learner"] == cell["learner"] && series["shots"] == cell["shots"];
        let series = results["series"].as_array().unwrap().iter().find(of).unwrap();
        let (tested, right) = (numbers(&series["tested"]), numbers(&series["right"]));
        let n_test = cell["n_test"].as_u64().unwrap();
        assert_eq!(tested.iter().sum::<u64>(), n_test);
        let top1 = right.iter().sum::<u64>() as f64 / n_test as f64;
        assert!((top1 - cell["top1"].as_f64().unwrap()).abs() < 1e-12);
        let mut pairs = [0, 0];
        for pair in series["confusion"].as_array().unwrap() {
            pairs[usize::from(pair[0] == pair[1])] += pair[2].as_u64().unwrap();
            let images = numbers(&pair[3]);
            assert!(!images.is_empty(), "every pair has an image");
            let truth =
                &page["classes"][series["classes"].as_u64().unwrap() as usize][pair[0].as_u64().unwrap() as usize];
            for image in images {
                assert_eq!(&page["images"][image as usize][1], truth);
            }
        }
        assert_eq!(pairs, [n_test - right.iter().sum::<u64>(), right.iter().sum::<u64>()]);
    }

    let curve = rows(&sandbox, "results/tiny/figures/accuracy.csv");
    let points = results["points"].as_array().unwrap();
    assert_eq!(points.len(), curve.len());
    for (point, row) in points.iter().zip(&curve) {
        for column in ["mean", "low", "high"] {
            assert_eq!(point[column].as_f64().unwrap(), row[column].parse::<f64>().unwrap());
        }
    }

    // Every image has a thumbnail, and none of the shots is left out.
    let budget = &page["thumbnails"];
    assert_eq!(budget["thumbnails"], budget["images"]);
    assert_eq!((&budget["unreadable"], &budget["left"]), (&json!(0), &json!(0)));
    let shown = page["images"].as_array().unwrap().iter();
    assert!(
        shown
            .clone()
            .all(|image| image[2].as_str().unwrap().starts_with("data:image/jpeg;base64,"))
    );
    let shots: Vec<usize> = (results["data"].as_array().unwrap().iter())
        .map(|split| split["images"].as_array().unwrap().len())
        .collect();
    assert_eq!(shots, [10, 20]);
    let stored = Store::open_existing(&sandbox.path(RESULTS)).unwrap();
    let record = &stored.records().unwrap()[0];
    let split = stored.split(record).unwrap().unwrap();
    for (number, shot) in numbers(&results["data"][0]["images"]).iter().zip(&split.train) {
        assert_eq!(page["images"][*number as usize][0], shot.id.as_str());
    }
}

#[test]
fn the_same_results_give_the_same_page_and_a_red_control_is_red() {
    let sandbox = Sandbox::new();
    sandbox.succeed(&["sweep", "--config", "tiny.toml", "--set", "shots=[1]"]);
    sandbox.succeed(&["report", RESULTS]);
    let first = fs::read(sandbox.path(PAGE)).unwrap();
    sandbox.succeed(&["report", RESULTS, "--out", "pages/again.html"]);
    assert_eq!(fs::read(sandbox.path("pages/again.html")).unwrap(), first);
    // Beside the results it changes nothing.
    sandbox.succeed(&["verify", RESULTS]);

    let store = Store::open_existing(&sandbox.path(RESULTS)).unwrap();
    let record = store.records().unwrap().remove(0);
    let red = Control {
        name: Name::ReloadParity,
        verdict: Verdict::Red,
        measures: vec![Measure::new("rows differ", 3, 180).at_most(0)],
        seed: 0,
    };
    let controls = Controls {
        schema: control::SCHEMA,
        run_id: record.run_id.clone(),
        key: record.key.clone(),
        predictions_sha256: record.predictions_sha256.clone(),
        controls: vec![red],
        seconds: 1.0,
        finished: "2026-01-01T00:00:00Z".into(),
        commit: None,
    };
    let folder = sandbox.path(RESULTS).join("controls");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{}.json", record.run_id));
    fs::write(path, serde_json::to_string(&controls).unwrap()).unwrap();
    sandbox.succeed(&["report", RESULTS]);
    let page = data(&sandbox, PAGE);
    let results = &page["results"][0];
    let red: Vec<&Value> = results["cells"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|cell| cell["red"] == true)
        .collect();
    assert_eq!(red.len(), 1);
    assert_eq!(red[0]["run_id"], record.run_id.as_str());
    assert_eq!(red[0]["controls"][0][1], "RED");
    let accuracy = &results["tables"][0];
    let marked: Vec<&Value> = (accuracy["groups"][0]["rows"].as_array().unwrap().iter())
        .flat_map(|row| row.as_array().unwrap())
        .filter(|cell| cell[1] == true)
        .collect();
    assert_eq!(marked.len(), 1);
    assert!(marked[0][0].as_str().unwrap().ends_with('†'), "{marked:?}");
}

#[test]
fn what_cannot_be_shown_is_said() {
    let sandbox = Sandbox::new();
    make(&sandbox.path("trees"), 8);
    let config = "name='tiny'\ndatasets=['trees']\nshots=[1]\n[[learner]]\nmethod='pixels'\n";
    fs::write(sandbox.path("trees.toml"), config).unwrap();
    for folder in ["own", "elsewhere"] {
        fs::create_dir_all(sandbox.path(folder).join("datasets")).unwrap();
    }
    let run = |home: &str, arguments: &[&str]| {
        let mut command = sandbox.kshot(arguments);
        command.env("KSHOT_CACHE", sandbox.path("cache"));
        let output = command.env("KSHOT_HOME", sandbox.path(home)).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        output
    };
    run("own", &["data", "import", "trees", "--name", "trees"]);
    run("own", &["sweep", "--config", "trees.toml"]);
    run("own", &["promote", RESULTS, "compact"]);

    // No dataset on this machine: the page has everything but the images.
    let output = run("elsewhere", &["report", "compact", RESULTS, "--out", "both.html"]);
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(
        said.contains("thumbnails of 0 of ") && said.contains("could not be read"),
        "{said}"
    );
    assert!(stderr(&output).contains("trees"), "{}", stderr(&output));
    let page = data(&sandbox, "both.html");
    let budget = &page["thumbnails"];
    assert_eq!(budget["unreadable"], budget["images"]);
    assert_eq!(budget["reasons"].as_array().unwrap().len(), 1);
    assert_eq!(page["images"][0][2], 0, "the number of the reason");

    // The compact form has no splits.
    let note = |folder: usize| page["results"][folder]["data"][0]["note"].clone();
    assert!(note(0).as_str().unwrap().contains("not stored"), "{}", note(0));
    assert!(note(1).is_null());
    assert_eq!(page["results"][0]["points"], page["results"][1]["points"]);

    let nothing = sandbox.run(&["report", "nowhere"]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(
        stderr(&nothing).contains("`nowhere` holds no finished cells"),
        "{}",
        stderr(&nothing)
    );
}

/// Size of a made-up sweep.
struct MadeUp {
    images: u32,
    classes: u32,
    learners: u32,
    shots: &'static [u32],
    seeds: u64,
    with_probabilities: bool,
}

impl MadeUp {
    /// Writes its cells: learners that are right about half the time, and otherwise say one of a few other classes or any.
    fn write(&self, folder: &std::path::Path) {
        let store = Store::open(folder).unwrap();
        let classes: Vec<String> = (0..self.classes)
            .map(|class| format!("species number {class}"))
            .collect();
        for learner in 0..self.learners {
            for &shots in self.shots {
                for seed in 0..self.seeds {
                    let identity = Identity {
                        key: CellKey {
                            dataset: "made-up".into(),
                            protocol: Protocol::Clean,
                            learner: format!("learner {learner}"),
                            shots: shots.into(),
                            seed,
                        },
                        hyper_parameters: json!({ "method": "other" }),
                        train: vec![],
                        test: vec![],
                        classes: classes.clone(),
                        weights: None,
                        dtype: "f32".into(),
                        backend: "local".into(),
                        recipe: 1,
                    };
                    let cell = u64::from(learner * 100 + shots) * 100 + seed;
                    let rows: Vec<Prediction> = (0..self.images).map(|image| self.row(image, cell)).collect();
                    store.finish(&identity, details(), &rows).unwrap();
                }
            }
        }
    }

    fn row(&self, image: u32, cell: u64) -> Prediction {
        let mixed = (u64::from(image) + 1)
            .wrapping_mul(cell + 7)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            >> 20;
        let truth = image % self.classes;
        let answer = match mixed % 20 {
            0..=10 => truth,
            11..=15 => (truth + 1 + (mixed >> 8) as u32 % 3) % self.classes,
            _ => (mixed >> 8) as u32 % self.classes,
        };
        let log_prob = |class| {
            if class == answer {
                -0.5
            } else {
                -3.0 - class as f32 * 0.01
            }
        };
        Prediction {
            id: format!("images/species_{truth:04}/photo_{image:06}.jpg"),
            sha256: format!("{image:064x}"),
            group: None,
            truth,
            free_text: None,
            free_class: None,
            trie_class: None,
            likelihood_class: Some(answer),
            log_probs: self
                .with_probabilities
                .then(|| (0..self.classes).map(log_prob).collect()),
        }
    }
}

fn details() -> CellDetails {
    CellDetails {
        reading: Reading::Likelihood,
        headline: Headline::Top1,
        micro: false,
        regime: None,
        split_sha256: "00".into(),
        card: None,
        fitted: None,
        names: None,
        training: TrainingSummary::default(),
        timing: Timing::default(),
    }
}

#[test]
fn a_thousand_classes_stay_within_the_bounds() {
    let sandbox = Sandbox::new();
    let made_up = MadeUp {
        images: 8_000,
        classes: 1_000,
        learners: 6,
        shots: &[1, 2, 4, 8, 16],
        seeds: 2,
        with_probabilities: false,
    };
    made_up.write(&sandbox.path("results/wide"));
    let said = sandbox.succeed(&["report", "results/wide"]);
    let page = data(&sandbox, "results/wide/report.html");
    let bytes = fs::metadata(sandbox.path("results/wide/report.html")).unwrap().len();
    assert!(bytes <= 15_000_000, "{said}");
    let series = page["results"][0]["series"].as_array().unwrap();
    assert_eq!(series.len(), 30);
    let kept = page["pairs"].as_u64().unwrap() as usize;
    let mut left_out = 0;
    for one in series {
        let pairs = one["confusion"].as_array().unwrap();
        assert!(pairs.len() <= kept, "{} pairs", pairs.len());
        let shown: u64 = pairs.iter().map(|pair| pair[2].as_u64().unwrap()).sum();
        let left = one["left_out_answers"].as_u64().unwrap();
        assert_eq!(
            shown + left,
            2 * 8_000,
            "every answer is in a pair or counted as left out"
        );
        left_out += left;
    }
    // No image of this dataset is anywhere: each is listed, and said to be unreadable.
    let budget = &page["thumbnails"];
    assert_eq!(
        (&budget["thumbnails"], &budget["unreadable"]),
        (&json!(0), &budget["images"])
    );
    assert!(left_out > 0, "the bound was not reached");
    println!("{said}{left_out} answers in pairs that were left out");
}

/// 60 cells of 24,000 images and 196 classes, in the folder that `KSHOT_MADE_UP` names, to be looked at: 1.1 GB of predictions.
#[test]
fn a_sweep_of_sixty_large_cells() {
    let Some(folder) = std::env::var_os("KSHOT_MADE_UP") else {
        println!("skipped: KSHOT_MADE_UP names no folder");
        return;
    };
    let images = std::env::var("KSHOT_MADE_UP_IMAGES").map_or(24_000, |images| images.parse().unwrap());
    let made_up = MadeUp {
        images,
        classes: 196,
        learners: 4,
        shots: &[1, 2, 4, 8, 16],
        seeds: 3,
        with_probabilities: true,
    };
    made_up.write(std::path::Path::new(&folder));
}
