//! `train`, `eval`, `predict`, `embed` and `merge`, as a user runs them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Sandbox, model, root, stderr, writing_model};

/// Images, class names, and what transformers says of them: `tests/slow/predict_qwen.py --write` made it.
fn fixture(file: &str) -> PathBuf {
    root().join("tests/fixtures/predict").join(file)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn lines(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn numbers(value: &Value) -> BTreeMap<String, f64> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn predictions_are_those_of_transformers() {
    let expected: Value = serde_json::from_slice(&fs::read(fixture("transformers.json")).unwrap()).unwrap();
    let expected = expected["images"].as_array().unwrap();
    let images: Vec<PathBuf> = expected
        .iter()
        .map(|image| fixture(image["image"].as_str().unwrap()))
        .collect();
    let (model, names) = (writing_model(), fixture("names.txt"));
    let sandbox = Sandbox::new();
    let ask = |images: &[&Path]| {
        let mut command = vec!["predict", "--model", text(&model), "--labels", text(&names), "--json"];
        command.extend(images.iter().map(|image| text(image)));
        lines(&sandbox.succeed(&command))
    };
    let together = ask(&images.iter().map(PathBuf::as_path).collect::<Vec<_>>());
    assert!(expected.len() >= 3 && together.len() == expected.len());
    for ((image, expected), batched) in images.iter().zip(expected).zip(together) {
        for found in [&batched, &ask(&[image])[0]] {
            assert_eq!(found["text"].as_str().unwrap(), expected["text"].as_str().unwrap());
            let (found, expected) = (numbers(&found["log_probs"]), numbers(&expected["log_probs"]));
            assert_eq!(found.len(), expected.len());
            for (name, expected) in expected {
                assert!(
                    (found[&name] - expected).abs() < 3e-4,
                    "{name}: {} is not {expected}",
                    found[&name]
                );
            }
        }
    }
}

#[test]
fn what_is_trained_can_be_evaluated_asked_continued_and_merged() {
    let sandbox = Sandbox::new();
    let model = writing_model();
    let train = |out: &str, more: &[&str]| {
        let mut command = vec![
            "train",
            "--model",
            text(&model),
            "--dataset",
            "mini-pets",
            "--shots",
            "1",
        ];
        command.extend(["--set", "images_per_class=16", "--out", out]);
        command.extend(more);
        sandbox.succeed(&command)
    };
    train("one", &[]);
    train("same", &[]);
    let weights = |folder: &str| fs::read(sandbox.path(folder).join("adapter_model.safetensors")).unwrap();
    assert_eq!(weights("one"), weights("same"), "the same seed gives the same bytes");
    train("on", &["--start", "one", "--seed", "1"]);
    assert_ne!(weights("one"), weights("on"));

    let eval = |adapter: &[&str]| -> Value {
        let mut command = vec!["eval", "--model", text(&model), "--dataset", "mini-pets", "--json"];
        command.extend(adapter);
        serde_json::from_str(&sandbox.succeed(&command)).unwrap()
    };
    let (base, trained) = (eval(&[]), eval(&["--adapter", "one"]));
    assert_eq!(base["images"], trained["images"]);
    assert_ne!(base["readings"]["likelihood"], trained["readings"]["likelihood"]);
    for reading in ["free", "trie", "likelihood"] {
        assert!(trained["readings"][reading]["top1"].is_number(), "{trained}");
    }

    let image = fixture("drawing-1.png");
    let ask = |more: &[&str]| {
        let mut command = vec!["predict", "--json", text(&image)];
        command.extend(more);
        numbers(&lines(&sandbox.succeed(&command))[0]["log_probs"])
    };
    let adapted = ask(&["--model", text(&model), "--adapter", "one"]);
    sandbox.succeed(&["merge", "--model", text(&model), "--adapter", "one", "--out", "merged"]);
    let names: Vec<&str> = adapted.keys().map(String::as_str).collect();
    fs::write(sandbox.path("names.txt"), names.join("\n")).unwrap();
    let merged = ask(&["--model", "merged", "--labels", "names.txt"]);
    let plain = ask(&["--model", text(&model), "--labels", "names.txt"]);
    let apart = |other: &BTreeMap<String, f64>| {
        adapted
            .iter()
            .map(|(name, found)| (found - other[name]).abs())
            .fold(0.0, f64::max)
    };
    // The merged weights are rounded to the base's 16 bits.
    assert!(
        apart(&merged) < 0.1 && apart(&plain) > 10.0 * apart(&merged),
        "{} {}",
        apart(&merged),
        apart(&plain)
    );
}

#[test]
fn a_vision_model_is_trained_and_asked_too() {
    let sandbox = Sandbox::new();
    let model = model();
    let train = [
        "train",
        "--model",
        text(&model),
        "--dataset",
        "mini-pets",
        "--shots",
        "1",
    ];
    sandbox.succeed(&[&train[..], &["--set", "images_per_class=8", "--out", "vision"]].concat());
    let image = fixture("drawing-1.png");
    let ask = [
        "predict",
        "--model",
        text(&model),
        "--adapter",
        "vision",
        "--json",
        text(&image),
    ];
    let said = &lines(&sandbox.succeed(&ask))[0];
    let total: f64 = numbers(&said["log_probs"]).values().map(|x| x.exp()).sum();
    assert!((total - 1.0).abs() < 1e-4, "{said}");
    assert!(said["free"].is_null() && said["class"] == said["likelihood"]);
}

#[test]
fn features_come_as_lines_and_as_an_array() {
    let sandbox = Sandbox::new();
    let model = model();
    let images = ["drawing-1.png", "drawing-3.jpg"].map(fixture);
    let embed = ["embed", "--model", text(&model), text(&images[0]), text(&images[1])];
    let rows = lines(&sandbox.succeed(&embed));
    let printed: Vec<f32> = rows
        .iter()
        .flat_map(|row| [&row["cls"], &row["mean_patch"]])
        .flat_map(|values| values.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32))
        .collect();
    assert!(
        sandbox
            .succeed(&[&embed[..], &["--npy", "features.npy"]].concat())
            .is_empty()
    );
    let array = candle_core::Tensor::read_npy(sandbox.path("features.npy")).unwrap();
    assert_eq!(array.dims(), [2, printed.len() / 2]);
    assert_eq!(array.flatten_all().unwrap().to_vec1::<f32>().unwrap(), printed);
}

#[test]
fn mistakes_are_named() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("empty.txt"), "\n").unwrap();
    fs::write(sandbox.path("twice.txt"), "guinea_pig\nGuinea Pig\n").unwrap();
    fs::write(
        sandbox.path("torn.png"),
        &fs::read(fixture("drawing-1.png")).unwrap()[..900],
    )
    .unwrap();
    fs::create_dir(sandbox.path("taken")).unwrap();
    let (writing, vision) = (writing_model(), model());
    let image = fixture("drawing-1.png");
    let names = fixture("names.txt");
    let predict = ["predict", "--model", text(&writing)];
    for (command, expected) in [
        ([&predict[..], &[text(&image)]].concat(), "--labels"),
        (
            [&predict[..], &["--labels", "empty.txt", text(&image)]].concat(),
            "empty.txt",
        ),
        (
            [&predict[..], &["--labels", "twice.txt", text(&image)]].concat(),
            "Guinea Pig",
        ),
        (
            [&predict[..], &["--labels", text(&names), "torn.png"]].concat(),
            "torn.png",
        ),
        (
            [&predict[..], &["--labels", text(&names), "absent.png"]].concat(),
            "absent.png",
        ),
        (
            [
                &predict[..],
                &["--labels", text(&names), "--adapter", "taken", text(&image)],
            ]
            .concat(),
            "taken",
        ),
        (
            [
                &predict[..],
                &["--labels", text(&names), "--set", "rnk=3", text(&image)],
            ]
            .concat(),
            "rnk",
        ),
        (
            vec![
                "predict",
                "--model",
                text(&vision),
                "--labels",
                text(&names),
                text(&image),
            ],
            "--adapter",
        ),
        (
            vec!["predict", "--model", "taken", "--labels", text(&names), text(&image)],
            "config.json",
        ),
        (
            vec![
                "train",
                "--model",
                text(&writing),
                "--dataset",
                "mini-pets",
                "--shots",
                "1",
                "--out",
                "taken",
            ],
            "taken",
        ),
        (
            vec![
                "train",
                "--model",
                text(&writing),
                "--dataset",
                "mini-pets",
                "--shots",
                "0",
                "--out",
                "new",
            ],
            "shots",
        ),
        (vec!["embed", "--model", text(&writing), text(&image)], "micro-qwen3-vl"),
        (
            vec![
                "merge",
                "--model",
                text(&writing),
                "--adapter",
                "absent",
                "--out",
                "new",
            ],
            "absent",
        ),
    ] {
        let output = sandbox.run(&command);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{command:?}: {said}");
        assert!(
            said.starts_with("error: ") && said.contains(expected),
            "{command:?}: {said}"
        );
        assert!(output.stdout.is_empty() && !sandbox.path("new").exists());
    }
}
