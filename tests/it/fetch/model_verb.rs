//! `kshot model fetch` and models by name, as a user calls them.

use std::fs;
use std::path::Path;
use std::process::Output;

use super::hub_server::{Repository, commit};
use super::names;
use super::server::Server;
use super::verb::User;
use crate::support::{cache, root, stderr};

/// A repository with the files of a folder of this checkout.
fn published(name: &str, folders: &[&str]) -> Repository {
    let mut files: Vec<(String, Vec<u8>)> = vec![("README.md".into(), b"# Model".to_vec())];
    for folder in folders {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if files.iter().all(|(other, _)| *other != name) {
                files.push((name, fs::read(path).unwrap()));
            }
        }
    }
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
        .collect();
    Repository::model(name, &files)
}

fn run(user: &User, hub: &Server, arguments: &[&str]) -> Output {
    let mut command = user.kshot(arguments);
    command.env("HF_ENDPOINT", hub.url(""));
    command.output().unwrap()
}

#[track_caller]
fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn refused(output: &Output, parts: &[&str]) {
    assert_eq!(output.status.code(), Some(2));
    for part in parts {
        assert!(stderr(output).contains(part), "`{part}` is not in: {}", stderr(output));
    }
}

const DRAWING: &str = "tests/fixtures/predict/drawing-1.png";

fn drawing() -> String {
    root().join(DRAWING).to_str().unwrap().to_owned()
}

/// Makes no connection and knows the committed datasets.
fn offline(user: &User, arguments: &[&str]) -> Output {
    let mut command = user.kshot(arguments);
    command
        .env("KSHOT_OFFLINE", "1")
        .env("KSHOT_HOME", root())
        .env("KSHOT_CACHE", cache());
    command.output().unwrap()
}

#[test]
fn a_sharded_model_that_was_fetched_answers_by_its_name() {
    let fixtures = "tests/fixtures/oracle/fixtures";
    let (sharded, tokens) = (format!("{fixtures}/qwen3vl-untied"), format!("{fixtures}/qwen3vl-tied"));
    let mut repository = published("owner/writes", &[&sharded]);
    let files = repository.commits.get_mut(&commit('a')).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.json"] {
        files.insert(name.into(), fs::read(root().join(&tokens).join(name)).unwrap());
    }
    let hub = repository.serve();
    let user = User::new();
    fs::write(user.path("names.txt"), "cat\ndog\n").unwrap();
    let image = drawing();
    let predict = [
        "predict",
        "--model",
        "owner/writes",
        "--labels",
        "names.txt",
        "--json",
        &image,
    ];
    let (folder, command) = (
        user.path("hf/hub/models--owner--writes"),
        "hint: `kshot model fetch owner/writes`",
    );
    refused(
        &run(&user, &hub, &predict),
        &["`owner/writes`", folder.to_str().unwrap(), command],
    );
    refused(&offline(&user, &predict), &["`owner/writes`", "KSHOT_OFFLINE", "copy"]);
    refused(
        &offline(&user, &["model", "fetch", "owner/writes"]),
        &["`owner/writes`", "KSHOT_OFFLINE", "copy"],
    );
    assert_eq!(hub.asked().len(), 0, "nothing is downloaded by itself");

    let fetch = ["model", "fetch", "owner/writes"];
    let first = run(&user, &hub, &fetch);
    let snapshot = folder.join("snapshots").join(commit('a'));
    let wanted = format!("owner/writes: commit {}, 9 files (", commit('a'));
    assert!(said(&first).starts_with(&wanted), "{}", said(&first));
    assert!(said(&first).ends_with(&format!("9 new, in {}\n", snapshot.display())));
    assert!(stderr(&first).contains("owner/writes/model-00001-of-00002.safetensors: complete\n"));
    let asked = hub.asked().len();
    assert!(said(&run(&user, &hub, &fetch)).contains(" 0 new, in "));
    assert!(
        hub.asked()[asked..]
            .iter()
            .all(|request| request.path.starts_with("/api/models/"))
    );
    assert!(said(&offline(&user, &fetch)).contains("owner/writes: complete, in "));

    let answer: serde_json::Value = serde_json::from_str(&said(&offline(&user, &predict))).unwrap();
    assert!(answer["log_probs"]["cat"].as_f64().unwrap() < 0.0);
    // As from its folder, to the last digit.
    let by_folder = [&["predict", "--model", snapshot.to_str().unwrap()], &predict[3..]].concat();
    assert_eq!(said(&offline(&user, &by_folder)), said(&offline(&user, &predict)));
    let pinned = format!("owner/writes@{}", commit('a'));
    let by_commit = [&["predict", "--model", pinned.as_str()], &predict[3..]].concat();
    assert_eq!(said(&offline(&user, &by_commit)), said(&offline(&user, &predict)));
    let adapter = root().join("tests/fixtures/oracle/goldens/qwen3vl-untied/adapter_r8");
    let merge = [
        "merge",
        "--model",
        "owner/writes",
        "--adapter",
        adapter.to_str().unwrap(),
        "--out",
        "merged",
    ];
    said(&offline(&user, &merge));
    assert!(user.path("merged/model-00002-of-00002.safetensors").is_file());

    fs::remove_file(fs::canonicalize(snapshot.join("model-00001-of-00002.safetensors")).unwrap()).unwrap();
    let partial = run(&user, &hub, &predict);
    refused(
        &partial,
        &["is not complete", "`model-00001-of-00002.safetensors`", command],
    );
    assert!(said(&run(&user, &hub, &fetch)).contains(" 1 new, in "));
    said(&offline(&user, &predict));
}

#[test]
fn a_vision_model_is_trained_and_asked_by_its_name() {
    let hub = published("owner/sees", &["datasets/mini/models/micro-dinov2"]).serve();
    let user = User::new();
    let image = drawing();
    said(&run(&user, &hub, &["model", "fetch", "owner/sees"]));
    let snapshot = user.path("hf/hub/models--owner--sees/snapshots").join(commit('a'));
    assert_eq!(
        names(&snapshot),
        ["config.json", "model.safetensors", "preprocessor_config.json"]
    );
    let features = said(&offline(&user, &["embed", "--model", "owner/sees", &image]));
    let committed = root().join("datasets/mini/models/micro-dinov2");
    let of_folder = offline(&user, &["embed", "--model", committed.to_str().unwrap(), &image]);
    assert_eq!(features, said(&of_folder));
    let train = [
        "train",
        "--model",
        "owner/sees",
        "--dataset",
        "mini-pets",
        "--shots",
        "1",
        "--out",
        "adapter",
        "--set",
        "images_per_class=2",
    ];
    said(&offline(&user, &train));
    let predict = ["predict", "--model", "owner/sees", "--adapter", "adapter", &image];
    assert!(said(&offline(&user, &predict)).starts_with(&image));
}

#[test]
fn what_cannot_be_run_is_not_fetched() {
    let files: [(&str, &[u8]); 2] = [
        ("config.json", b"{\"model_type\": \"llama\"}"),
        ("model.safetensors", b"x"),
    ];
    let hub = Repository::model("owner/talks", &files).serve();
    let user = User::new();
    let output = run(&user, &hub, &["model", "fetch", "owner/talks"]);
    refused(
        &output,
        &[
            "`owner/talks/config.json`",
            "model_type `llama`",
            "hint: ",
            "`qwen3_vl`",
        ],
    );
    assert!(!user.path("hf").exists());
}

#[test]
fn of_several_models_each_is_tried_and_secrets_are_kept() {
    let mut gated = published("owner/sees", &["datasets/mini/models/micro-dinov2"]);
    gated.licence = Some("hf_secret".into());
    let hub = gated.serve();
    let user = User::new();
    let fetch = ["-vv", "model", "fetch", "owner/sees", "owner/none", "no name"];
    let output = run(&user, &hub, &fetch);
    refused(
        &output,
        &[
            "error: model `owner/sees`: is gated",
            "hint: accept its licence at ",
            "HF_TOKEN",
            "error: model `owner/none`: ",
            "error: hub repository `no name`: ",
            "error: 3 of 3 models could not be fetched",
        ],
    );
    let mut command = user.kshot(&fetch);
    let output = command
        .env("HF_ENDPOINT", hub.url(""))
        .env("HF_TOKEN", "hf_secret")
        .output()
        .unwrap();
    refused(&output, &["error: 2 of 3 models could not be fetched"]);
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("owner/sees: commit "));
    assert!(!stderr(&output).contains("hf_secret"));
}

#[test]
fn a_folder_that_is_not_there_is_no_model_of_the_hub() {
    let user = User::new();
    let image = drawing();
    let output = user
        .kshot(&["embed", "--model", "models/a/b", &image])
        .output()
        .unwrap();
    refused(
        &output,
        &["models/a/b`: there is no such folder", "hint: check the path"],
    );
    assert!(!Path::new(&user.path("hf")).exists());
}
