//! What the command line looks like, word for word.

use crate::support::{Sandbox, stderr};

#[test]
fn help_of_every_verb() {
    let sandbox = Sandbox::new();
    let mut text = String::new();
    for verb in [
        vec![],
        vec!["sweep"],
        vec!["run"],
        vec!["data", "fetch"],
        vec!["data", "list"],
        vec!["data", "show"],
        vec!["data", "verify"],
        vec!["split"],
        vec!["train"],
        vec!["eval"],
        vec!["predict"],
        vec!["embed"],
        vec!["merge"],
        vec!["serve"],
        vec!["plot"],
        vec!["report"],
        vec!["promote"],
        vec!["control"],
        vec!["verify"],
        vec!["bench"],
    ] {
        let arguments: Vec<&str> = verb.iter().copied().chain(["--help"]).collect();
        text += &format!("$ kshot {}\n{}\n", arguments.join(" "), sandbox.succeed(&arguments));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn datasets_are_listed_and_described() {
    let sandbox = Sandbox::new();
    insta::assert_snapshot!(
        sandbox.succeed(&["data", "list"]) + "\n" + &sandbox.succeed(&["data", "show", "mini-cars"])
    );
    let rows: serde_json::Value = serde_json::from_str(&sandbox.succeed(&["data", "list", "--json"])).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 9);
    let state = |name: &str| rows.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap()["state"].clone();
    assert_eq!(
        (state("mini-cars").as_str(), state("oxford-pets").as_str()),
        (Some("embedded"), Some("not fetched"))
    );
}

#[test]
fn a_split_is_json_with_nested_shots() {
    let sandbox = Sandbox::new();
    let ids = |shots: &str| -> Vec<String> {
        let split = sandbox.succeed(&["split", "mini-pets", "--shots", shots, "--seed", "7"]);
        let split: serde_json::Value = serde_json::from_str(&split).unwrap();
        assert_eq!(split["test"].as_array().unwrap().len(), 180);
        split["train"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let (few, many) = (ids("2"), ids("8"));
    assert_eq!((few.len(), many.len()), (20, 80));
    assert!(few.iter().all(|id| many.contains(id)), "shots must nest");
}

#[test]
fn errors_name_the_thing_and_the_remedy() {
    let sandbox = Sandbox::new();
    let mut text = String::new();
    for arguments in [
        vec!["sweep", "--set", "datasets=['mini-pests']"],
        vec!["sweep", "--set", "shots=[1, 99]"],
        vec!["sweep", "--config", "tiny.toml", "--set", "shots=[0, 1]"],
        vec!["sweep", "--set", "learner.0.rnk=4"],
        vec!["sweep", "--set", "learner.0.model=nowhere"],
        vec!["plot", "nowhere"],
    ] {
        let output = sandbox.run(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty(), "an error is no data");
        let said = stderr(&output).replace(env!("CARGO_MANIFEST_DIR"), "[HOME]");
        text += &format!("$ kshot {}\n{said}\n", arguments.join(" "));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn adapters_are_kept_when_asked_for() {
    let sandbox = Sandbox::new();
    sandbox.succeed(&[
        "sweep",
        "--config",
        "tiny.toml",
        "--set",
        "shots=[1]",
        "--set",
        "save_adapters=true",
    ]);
    let kept = crate::support::contents(&sandbox.path("results/tiny/adapters"));
    let names: Vec<&str> = kept.keys().filter_map(|path| path.file_name()?.to_str()).collect();
    assert_eq!(
        names,
        [
            "adapter_config.json",
            "adapter_model.safetensors",
            "head.safetensors",
            "kshot.json"
        ]
    );
}
