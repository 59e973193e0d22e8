//! `kshot control` end to end, and what a red control does to the numbers.

use std::fs;
use std::path::Path;

use kshot::experiment::config::Sweep;
use kshot::experiment::plan::Cell;
use kshot::experiment::{cell, control};
use kshot::store::Store;
use kshot::store::control::{Controls, Name, Verdict};

use crate::support::{self, Sandbox, TINY, stderr};

const RESULTS: &str = "results/tiny";

/// The one control file of a sandbox, and its text.
fn control_file(sandbox: &Sandbox) -> (std::path::PathBuf, String) {
    let folder = sandbox.path(RESULTS).join("controls");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let file = files.remove(0);
    let text = fs::read_to_string(&file).unwrap();
    (file, text)
}

/// `control` of each row of a ledger, by run id.
fn marks(folder: &Path) -> Vec<(String, String)> {
    let mut ledger = csv::Reader::from_path(folder.join("ledger.csv")).unwrap();
    let column = |name: &str, headers: &csv::StringRecord| headers.iter().position(|h| h == name).unwrap();
    let headers = ledger.headers().unwrap().clone();
    let (run_id, control) = (column("run_id", &headers), column("control", &headers));
    let rows = ledger.records().map(|row| row.unwrap());
    rows.map(|row| (row[run_id].to_owned(), row[control].to_owned()))
        .collect()
}

#[test]
fn a_sweep_is_controlled_and_a_red_control_marks_its_cell() {
    let sandbox = Sandbox::new();
    let verb = ["control", "--config", "tiny.toml"];
    let missing = sandbox.run(&verb);
    assert_eq!(missing.status.code(), Some(2));
    let said = stderr(&missing);
    assert!(
        said.contains("2 shots") && said.contains("`kshot sweep --config tiny.toml` makes them"),
        "{said}"
    );

    sandbox.succeed(&["sweep", "--config", "tiny.toml"]);
    assert!(marks(&sandbox.path(RESULTS)).iter().all(|(_, mark)| mark.is_empty()));
    let table = sandbox.succeed(&verb);
    assert!(
        table.contains("none is red") && table.contains("shuffled images"),
        "{table}"
    );
    let (file, text) = control_file(&sandbox);
    let controls: Controls = serde_json::from_str(&text).unwrap();
    assert_eq!(controls.key.shots, 2, "the most shots");
    let verdicts: Vec<_> = controls.controls.iter().map(|c| (c.name, c.verdict)).collect();
    let judged = [
        Name::Reproduced,
        Name::ShuffledImages,
        Name::ShuffledLabels,
        Name::AdapterOffOn,
        Name::ReloadParity,
    ];
    assert_eq!(verdicts, judged.map(|name| (name, Verdict::Green)));
    let marked = |mark: &str| {
        let marks = marks(&sandbox.path(RESULTS));
        let (own, others): (Vec<_>, Vec<_>) = marks.iter().partition(|(run_id, _)| *run_id == controls.run_id);
        assert!(
            own.len() == 1 && others.len() == 3 && others.iter().all(|(_, mark)| mark.is_empty()),
            "{marks:?}"
        );
        assert_eq!(own[0].1, mark);
    };
    marked("green");

    // A second call controls nothing: it would take another time.
    assert_eq!(sandbox.succeed(&verb), table);
    assert_eq!(fs::read_to_string(&file).unwrap(), text);

    // Any fault found later counts, in every place.
    let mut red = controls.clone();
    red.controls[4].verdict = Verdict::Red;
    fs::write(&file, serde_json::to_string(&red).unwrap()).unwrap();
    let output = sandbox.run(&verb);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        table.contains("RED        reload parity") && table.contains("not to be used"),
        "{table}"
    );
    marked("red: reload parity");
    sandbox.succeed(&["sweep", "--config", "tiny.toml"]);
    marked("red: reload parity");
    sandbox.succeed(&["promote", RESULTS, "compact"]);
    assert!(
        marks(&sandbox.path("compact"))
            .iter()
            .any(|(_, mark)| mark == "red: reload parity")
    );

    // Controls of other predictions do not count.
    red.predictions_sha256 = "00".into();
    fs::write(&file, serde_json::to_string(&red).unwrap()).unwrap();
    sandbox.succeed(&verb);
    marked("green");
    let again: Controls = serde_json::from_str(&control_file(&sandbox).1).unwrap();
    assert_eq!(again.controls, controls.controls, "the same draws, the same numbers");
}

#[test]
fn a_cell_is_chosen_for_every_dataset_and_learner_with_an_adapter() {
    let two = format!("{TINY}\n[[learner]]\nmethod = 'dinov2-lora'\nname = 'wide'\nmodel = '{MODEL}'\nrank = 8\n");
    let set = ["datasets=['mini-pets', 'mini-cars']", "seeds=[5, 1]", "shots=[4, 2]"];
    let cells = support::cells(&two, &set);
    let keys = |cells: Vec<&Cell>| -> Vec<String> { cells.iter().map(|cell| cell.key.to_string()).collect() };
    let chosen = keys(control::choose(&cells, Some(5), &[]).unwrap());
    let expected = ["mini-pets", "mini-cars"].map(|dataset| {
        ["DINOv2 LoRA", "wide"].map(|learner| format!("{dataset} · clean · {learner} · 4 shots · seed 5"))
    });
    assert_eq!(chosen, expected.concat());

    let asked = |run_id: &str| control::choose(&cells, Some(5), &[run_id.to_owned()]);
    let other = cells
        .iter()
        .find(|cell| cell.key.seed == 1 && cell.learner.has_adapter())
        .unwrap();
    assert_eq!(keys(asked(&other.run_id).unwrap()), [other.key.to_string()]);
    let pixels = cells.iter().find(|cell| !cell.learner.has_adapter()).unwrap();
    for refused in [&pixels.run_id, "0123"] {
        assert!(
            asked(refused).err().unwrap().hint().unwrap().contains("--dry-run"),
            "{refused}"
        );
    }
    let none = support::cells(TINY, &["learner=[{method='pixels'}]"]);
    assert!(control::choose(&none, Some(0), &[]).is_err());
}

const MODEL: &str = "datasets/mini/models/micro-dinov2";

/// A model that writes has all six; on a set whose names it knows, shuffled labels are held against that.
#[test]
fn a_model_that_writes_is_green_on_known_and_novel_concepts() {
    let writing = "
name = 'writing'
datasets = ['mini-flowers', 'mini-cars']
shots = [4]
[[learner]]
method = 'qwen3-vl-lora'
model = 'datasets/mini/models/micro-qwen3-vl'
images_per_class = 40
learning_rate = 4e-3
";
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let sweep = Sweep::parse(writing, "writing", &[]).unwrap();
    for cell in support::cells(writing, &[]) {
        let record = cell::run(&cell, &store, &sweep, support::PROVENANCE, &mut |_| Ok(())).unwrap();
        let mut heard = Vec::new();
        let on = &mut |name| heard.push(name);
        let controls = control::run(&cell, &store, &record, support::root(), None, on).unwrap();
        assert_eq!(heard.len(), 6);
        assert!(
            controls
                .controls
                .iter()
                .all(|control| control.verdict == Verdict::Green),
            "{controls:#?}"
        );
        assert_eq!(store.controls(&record).unwrap(), Some(controls));
    }
}
