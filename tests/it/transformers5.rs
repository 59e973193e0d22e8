//! Model folders as transformers 5 saves them compute what those of the hub compute.
//!
//! `tests/fixtures/transformers5/*` is what `save_pretrained` of transformers 5.24.0 wrote for the micro models and their
//! processors, without weights and tokenizer.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Sandbox, copy, model, root, stderr, writing_model};

/// Largest difference of a log-probability.
const TOLERANCE: f64 = 1e-4;

fn saved(name: &str) -> PathBuf {
    root().join("tests/fixtures/transformers5").join(name)
}

/// The folder that transformers 5 wrote, with the weights of `base`.
fn folder(sandbox: &Sandbox, name: &str, base: &Path) -> PathBuf {
    let folder = sandbox.path(name);
    copy(&saved(name), &folder);
    for file in ["model.safetensors", "tokenizer.json"] {
        if base.join(file).exists() {
            fs::copy(base.join(file), folder.join(file)).unwrap();
        }
    }
    folder
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn drawings(expected: &Value) -> Vec<String> {
    let images = expected["images"].as_array().unwrap().iter();
    let path = |image: &Value| {
        root()
            .join("tests/fixtures/predict")
            .join(image["image"].as_str().unwrap())
    };
    images.map(|image| text(&path(image))).collect()
}

#[test]
fn a_qwen_folder_of_transformers_5_predicts_what_transformers_does() {
    let sandbox = Sandbox::new();
    let folder = folder(&sandbox, "qwen3-vl", &writing_model());
    assert!(!folder.join("preprocessor_config.json").exists());
    let fixtures = root().join("tests/fixtures/predict");
    let expected: Value = serde_json::from_slice(&fs::read(fixtures.join("transformers.json")).unwrap()).unwrap();
    let (folder, labels, images) = (text(&folder), text(&fixtures.join("names.txt")), drawings(&expected));
    let mut arguments = vec!["predict", "--json", "--model", &folder, "--labels", &labels];
    arguments.extend(images.iter().map(String::as_str));
    let found = sandbox.succeed(&arguments);
    assert_eq!(found.lines().count(), images.len());
    for (line, image) in found.lines().zip(expected["images"].as_array().unwrap()) {
        let found: Value = serde_json::from_str(line).unwrap();
        for (name, wanted) in image["log_probs"].as_object().unwrap() {
            let off = (found["log_probs"][name].as_f64().unwrap() - wanted.as_f64().unwrap()).abs();
            assert!(off <= TOLERANCE, "{name}: {off:e}");
        }
    }
}

#[test]
fn a_vision_model_in_either_form_has_the_same_features() {
    let sandbox = Sandbox::new();
    let image = text(&root().join("tests/fixtures/predict/drawing-1.png"));
    let embed = |folder: &Path| sandbox.succeed(&["embed", "--model", &text(folder), &image]);
    let usual = embed(&model());
    let new = folder(&sandbox, "dinov2", &model());
    assert!(embed(&new) == usual);
    // As a processor with a text part writes it.
    let older = new.join("preprocessor_config.json");
    let inner: Value = serde_json::from_slice(&fs::read(&older).unwrap()).unwrap();
    fs::remove_file(&older).unwrap();
    let nested = serde_json::json!({"image_processor": inner, "processor_class": "Processor"});
    fs::write(new.join("processor_config.json"), nested.to_string()).unwrap();
    assert!(embed(&new) == usual);
    // Where both are there, the nested one counts.
    fs::write(
        &older,
        r#"{"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}"#,
    )
    .unwrap();
    assert!(embed(&new) == usual);
    fs::remove_file(new.join("processor_config.json")).unwrap();
    assert!(embed(&new) != usual);
    fs::remove_file(&older).unwrap();
    let output = sandbox.run(&["embed", "--model", &text(&new), &image]);
    assert!(
        stderr(&output).contains("preprocessor_config.json"),
        "{}",
        stderr(&output)
    );
}
