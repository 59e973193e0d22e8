//! What `sweep --dry-run` says of the committed configs, with neither their data nor their models on this machine.

use std::fs;
use std::io::Read as _;
use std::process::Stdio;

use serde_json::Value;

use crate::support::{Sandbox, root, stderr};

/// The dry run of a committed config with empty caches.
fn planned(sandbox: &Sandbox, config: &str, more: &[&str]) -> String {
    let config = root().join("configs").join(config);
    let arguments = [&["sweep", "--config", config.to_str().unwrap(), "--dry-run"], more].concat();
    let output = sandbox
        .kshot(&arguments)
        .env("KSHOT_CACHE", sandbox.path("cache"))
        .env("HF_HOME", sandbox.path("hub"))
        .env_remove("HF_HUB_CACHE")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn plan(config: &str) -> Value {
    let sandbox = Sandbox::new();
    let plan = serde_json::from_str(&planned(&sandbox, config, &["--json"])).unwrap();
    assert!(!sandbox.path("results").exists());
    plan
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

/// Four datasets, five draws at five numbers of shots of four learners, and the writer's answers without any.
#[test]
fn the_four_datasets_are_counted_by_their_manifests() {
    let plan = plan("four-datasets.toml");
    let cells = plan["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 4 * (5 * 5 * 4 + 1));
    assert!(
        cells
            .iter()
            .all(|cell| cell["run_id"].is_null() && cell["state"] == "to do")
    );
    let writer = &plan["estimate"]["learners"][0];
    assert_eq!(writer["device"], "H200");
    // 160 images a class, of 100, 196, 102 and 37 classes; test sides of 2,465, 8,041, 6,149 and 3,669.
    assert_eq!(writer["train_images"], 25 * 160 * (100 + 196 + 102 + 37));
    assert_eq!(writer["test_images"], 26 * (2465 + 8041 + 6149 + 3669));
    let estimate = &plan["estimate"];
    assert_eq!(estimate["missing_datasets"].as_array().unwrap().len(), 4);
    assert_eq!(
        estimate["missing_models"],
        serde_json::json!(["Qwen/Qwen3-VL-8B-Instruct", "facebook/dinov2-base"])
    );
    // Published sizes: 5.7e12 operations a training pass; 17.5 GB of weights.
    assert!((5.0..40.0).contains(&number(&estimate["device_hours"])), "{estimate}");
    // 17.5 GB of weights; beside weights in half precision the products of adapters are kept too, which is more than all else.
    assert!((90e9..130e9).contains(&number(&estimate["memory_bytes"])), "{estimate}");
    assert!(
        (17e9..19e9).contains(&number(&estimate["disk"]["weights"])),
        "{estimate}"
    );
    assert!(number(&estimate["disk"]["downloads"]) > 1e9, "{estimate}");
    assert!(number(&estimate["disk"]["image_cache"]) > 1e9, "{estimate}");
}

#[test]
fn the_published_figure_is_counted_by_the_hub_repositories() {
    let plan = plan("tinker-figure.toml");
    let cells = plan["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 4 * 5 * 3 * 2);
    assert!(cells.iter().all(|cell| cell["key"]["protocol"] == "tinker"));
    let caltech = cells
        .iter()
        .find(|cell| cell["key"]["dataset"] == "caltech101")
        .unwrap();
    // 102 labels there, one of them the background.
    assert_eq!(caltech["images"], 160 * 102 + 6085);
}

#[test]
fn the_text_names_what_is_missing_and_what_is_assumed() {
    let sandbox = Sandbox::new();
    let text = planned(&sandbox, "four-datasets.toml", &[]);
    for said in [
        "404 cells",
        "device-hours",
        "kshot data fetch caltech101 stanford-cars oxford-flowers oxford-pets",
        "model not on this machine: facebook/dinov2-base",
        "nothing of it was measured",
        "disk:",
        "memory",
    ] {
        assert!(text.contains(said), "no `{said}` in {text}");
    }
    // A shard of it costs less.
    let part = planned(&sandbox, "four-datasets.toml", &["--shard", "0/4"]);
    assert!(part.contains("101 cells"), "{part}");
}

/// What runs here is counted for this machine: by its speed, or by that of cells that are finished.
#[test]
fn a_micro_sweep_is_counted_for_this_machine() {
    let sandbox = Sandbox::new();
    let arguments = ["sweep", "--config", "tiny.toml", "--dry-run", "--json"];
    let plan: Value = serde_json::from_str(&sandbox.succeed(&arguments)).unwrap();
    let lora = &plan["estimate"]["learners"][0];
    assert_eq!((&lora["device"], &lora["measured"]), (&"cpu".into(), &false.into()));
    assert!(
        number(&lora["hours"]) > 0.0 && number(&lora["memory_bytes"]) > 1e6,
        "{lora}"
    );
    assert!(plan["cells"][0]["run_id"].as_str().unwrap().len() == 16);
    assert_eq!(plan["estimate"]["disk"]["downloads"], 0);

    sandbox.succeed(&["sweep", "--config", "tiny.toml"]);
    let more = [&arguments[..], &["--set", "seeds=[0, 1]"]].concat();
    let plan: Value = serde_json::from_str(&sandbox.succeed(&more)).unwrap();
    let lora = &plan["estimate"]["learners"][0];
    assert_eq!((&lora["cells"], &lora["measured"]), (&2.into(), &true.into()), "{plan}");
}

/// A snapshot in the hub's cache is found by the repository's name.
#[test]
fn a_model_in_the_cache_of_the_hub_is_on_this_machine() {
    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    let sandbox = Sandbox::new();
    let cached = sandbox.path("hub/hub/models--owner--micro");
    crate::support::copy(&crate::support::model(), &cached.join("snapshots").join(COMMIT));
    fs::create_dir_all(cached.join("refs")).unwrap();
    fs::write(cached.join("refs/main"), COMMIT).unwrap();
    let run = |model: &str| {
        sandbox
            .kshot(&[
                "sweep",
                "--config",
                "tiny.toml",
                "--dry-run",
                "--set",
                &format!("learner.0.model={model}"),
            ])
            .env("HF_HOME", sandbox.path("hub"))
            .env_remove("HF_HUB_CACHE")
            .output()
            .unwrap()
    };
    let there = run("owner/micro");
    assert!(there.status.success(), "{}", stderr(&there));
    assert!(!String::from_utf8_lossy(&there.stdout).contains("not on this machine"));
    let absent = run("owner/other");
    assert!(String::from_utf8_lossy(&absent.stdout).contains("model not on this machine: owner/other"));
}

/// Peak of resident memory in 10⁶ bytes, and seconds of processor time, of a dry run of so many cells.
fn dry_run_of(cells: usize) -> (f64, f64) {
    let sandbox = Sandbox::new();
    let seeds: Vec<String> = (0..cells / 2).map(|seed| seed.to_string()).collect();
    let config = format!(
        "name = 'many'\ndatasets = ['mini-pets']\nshots = [1]\nseeds = [{}]\n[[learner]]\nmethod = 'pixels'\n\
         [[learner]]\nmethod = 'dinov2-lora'\nmodel = 'datasets/mini/models/micro-dinov2'\n",
        seeds.join(",")
    );
    fs::write(sandbox.path("many.toml"), config).unwrap();
    let mut command = sandbox.kshot(&["sweep", "--config", "many.toml", "--dry-run"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let process = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", child.id())).unwrap_or_default();
    // Read while it is looked at: what it writes in the end is more than a pipe holds.
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).unwrap();
        text
    });
    let (mut peak, mut ticks) = (0.0_f64, 0.0_f64);
    loop {
        let status = process("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let Some(kilobytes) = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok()) else {
            break;
        };
        peak = peak.max(kilobytes * 1024.0 / 1e6);
        let stat = process("stat");
        if let Some((_, rest)) = stat.rsplit_once(") ") {
            let used = rest
                .split(' ')
                .skip(11)
                .take(2)
                .filter_map(|n| n.parse::<f64>().ok())
                .sum();
            ticks = ticks.max(used);
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(child.wait().unwrap().success());
    assert!(reader.join().unwrap().contains(&format!("{cells} cells")));
    (peak, ticks / 100.0)
}

/// Before, all splits were kept until the end: 638 MB for 10,000 cells.
#[test]
fn ten_thousand_cells_take_little_memory_and_time_in_proportion() {
    let (_, few_seconds) = dry_run_of(1_000);
    let (peak, seconds) = dry_run_of(10_000);
    let exponent = (seconds / few_seconds).log10();
    eprintln!("10,000 cells: {peak:.0} MB, {seconds:.2} s after {few_seconds:.2} s for 1,000, exponent {exponent:.2}");
    assert!(peak < 150.0, "{peak} MB");
    assert!(
        exponent <= 1.05,
        "{few_seconds} s for 1,000 cells, {seconds} s for 10,000"
    );
}
