//! `kshot bench` through the binary, on shapes that take no time.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use serde_json::Value;

use crate::support::{Sandbox, stderr};

const WRITER: [&str; 11] = [
    "bench",
    "--shape",
    "qwen-tiny",
    "--layers",
    "1",
    "--batch",
    "2",
    "--steps",
    "1",
    "--dataset",
    "square-224",
];

fn phase<'a>(report: &'a Value, name: &str) -> &'a Value {
    let phases = report["phases"].as_array().unwrap();
    phases.iter().find(|phase| phase["name"] == name).unwrap()
}

#[test]
fn a_writing_shape_is_loaded_trained_asked_and_reported() {
    let sandbox = Sandbox::new();
    let arguments = [&WRITER[..], &["--json", "--out", "out"]].concat();
    let output = sandbox
        .kshot(&arguments)
        .env("KSHOT_CACHE", sandbox.path("cache"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let file = sandbox.path("out/qwen-tiny-1-layers-cpu-f32-batch-2.json");
    assert_eq!(
        report,
        serde_json::from_slice::<Value>(&fs::read(file).unwrap()).unwrap()
    );
    let names: Vec<&str> = report["phases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|phase| phase["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "load",
            "train",
            "train, new pictures",
            "answer freely",
            "answer by trie",
            "answer by likelihood",
            "from JPEG",
            "answer from JPEG"
        ]
    );
    // 7 x 7 merged patches of a picture of 224 pixels, 39 tokens around it, 4 to be written.
    assert_eq!(report["tokens"], serde_json::json!([49.0, 43.0, 4.0]));
    for name in ["train", "answer by trie"] {
        let phase = phase(&report, name);
        let number = |of: &str| phase[of].as_f64().unwrap();
        assert!(number("images_per_second") > 0.0 && number("tflops") > 0.0 && number("floor_seconds") > 0.0);
        assert!((number("share_of_product") * number("median_seconds") / number("floor_seconds") - 1.0).abs() < 1e-6);
        assert!(number("estimated_bytes") > 1e6 && number("peak_bytes") > number("excess_bytes"));
    }
    let new = phase(&report, "train, new pictures")["floor_seconds"].as_f64().unwrap();
    assert!(new > phase(&report, "train")["floor_seconds"].as_f64().unwrap());
    assert!(report["hardware"]["threads"].as_u64().unwrap() > 0 && report["date"].as_str().unwrap().contains('T'));
    // Nothing stays behind.
    assert_eq!(fs::read_dir(sandbox.path("cache/bench")).unwrap().count(), 0);
}

#[test]
fn a_vision_shape_too_and_the_checkpoint_stays_where_it_was_asked_for() {
    let sandbox = Sandbox::new();
    let shape = [
        "bench",
        "--shape",
        "dinov2-with-registers-small",
        "--layers",
        "1",
        "--batch",
        "1",
        "--steps",
        "1",
    ];
    let kept = [&shape[..], &["--checkpoint", "checkpoint"]].concat();
    let text = sandbox.succeed(&kept);
    for said in ["train", "features from JPEG", "images/s", "TFLOP/s", "estimated"] {
        assert!(text.contains(said), "no `{said}` in {text}");
    }
    assert!(sandbox.path("checkpoint/model.safetensors").is_file());
    // What is there is of one layer.
    let other = [
        "bench",
        "--shape",
        "dinov2-small",
        "--layers",
        "1",
        "--checkpoint",
        "checkpoint",
    ];
    let output = sandbox.kshot(&other).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("another shape"), "{}", stderr(&output));
}

#[test]
fn steps_are_taken_on_demand() {
    let sandbox = Sandbox::new();
    let arguments = [&WRITER[..], &["--checkpoint", "model", "--serve-steps", "exchange"]].concat();
    let mut child = sandbox
        .kshot(&arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut asking = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap());
    let mut answer = || {
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        serde_json::from_str::<Value>(&line).unwrap()
    };
    let known = answer();
    assert!(known["loss"].as_f64().unwrap() > 0.0 && known["kind"] == "qwen3_vl");
    let file = fs::read(sandbox.path("exchange/batch.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    assert_eq!(tensors.tensor("input_ids").unwrap().shape()[0], 2);
    assert_eq!(tensors.tensor("pixel_values").unwrap().shape(), [2 * 196, 1536]);
    // A and B of seven linear layers.
    assert_eq!(
        tensors.names().iter().filter(|name| name.starts_with("grad.")).count(),
        14
    );
    assert!(sandbox.path("exchange/adapter/adapter_config.json").is_file());
    for name in ["train", "answer freely"] {
        writeln!(asking, "{name}").unwrap();
        let told = answer();
        assert!(
            told["phase"] == name && told["seconds"].as_f64().unwrap() > 0.0,
            "{told}"
        );
    }
    writeln!(asking, "sleep").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no phase `sleep`"), "{}", stderr(&output));
}

#[test]
fn what_is_not_known_is_named() {
    let sandbox = Sandbox::new();
    for (arguments, said) in [
        (&["bench", "--shape", "qwen3-vl-3b"][..], "qwen3-vl-4b"),
        (
            &["bench", "--shape", "qwen-tiny", "--dataset", "imagenet"],
            "oxford-pets",
        ),
        (&["bench", "--shape", "qwen-tiny", "--batch", "0"], "above 0"),
    ] {
        let output = sandbox.kshot(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
    }
}
