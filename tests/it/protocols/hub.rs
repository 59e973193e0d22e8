//! `tinker` from parquet files to a finished sweep.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use image::{ExtendedColorType, ImageEncoder as _, codecs};
use kshot::config::Protocol;
use kshot::data;
use kshot::data::{Dataset, split};
use kshot::fetch::HubSettings;
use kshot::store::Store;

use super::tinker::{SETS, answers, labels};
use crate::support::{Sandbox, writing_model};

const COMMIT: &str = "89abcdef0123456789abcdef0123456789abcdef";

/// A repository of a hub with its files in the hub client's cache below `home`, its manifest in `home/datasets`.
fn repository(home: &Path, name: &str, (classes, rows, state): (u32, usize, u64)) {
    let manifest = format!(
        "name = \"{name}\"\ntitle = \"Toy\"\nlayout = \"folders\"\nlicence = \"none\"\ncitation = \"nobody\"\nmicro = true\n\
         [hub]\nrepo = \"someone/{name}\"\nrevision = \"{COMMIT}\"\n"
    );
    fs::create_dir_all(home.join("datasets")).unwrap();
    fs::write(home.join(format!("datasets/{name}.toml")), manifest).unwrap();
    let folder = hub(home).join(format!("datasets--someone--{name}/snapshots/{COMMIT}/data"));
    fs::create_dir_all(&folder).unwrap();
    let train: Vec<(usize, u32)> = labels((classes, rows, state)).into_iter().enumerate().collect();
    let test: Vec<(usize, u32)> = (0..classes).map(|class| (rows + class as usize, class)).collect();
    let (first, second) = train.split_at(rows / 3);
    shard(&folder.join("train-00000-of-00002.parquet"), first, classes);
    shard(&folder.join("train-00001-of-00002.parquet"), second, classes);
    shard(&folder.join("test-00000-of-00001.parquet"), &test, classes);
}

fn hub(home: &Path) -> PathBuf {
    home.join("hf/hub")
}

/// Rows with their images, in the form of Python's `datasets`.
fn shard(path: &Path, rows: &[(usize, u32)], classes: u32) {
    let names: Vec<String> = (0..classes).map(|class| format!("Class-{class}_x")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let row = |&(row, class): &(usize, u32)| (Some(picture(row, class)), format!("{row}.png"), Some(i64::from(class)));
    let rows: Vec<_> = rows.iter().map(row).collect();
    fs::write(path, crate::data::hub::shard(&rows, &names)).unwrap();
}

/// A picture of its own for each row: its number is in the corner, its class in the slope of a ramp.
fn picture(row: usize, class: u32) -> Vec<u8> {
    let mut pixels: Vec<u8> = (0..192).map(|i| ((i / 24) * (class + 1) * 3 + i % 24) as u8).collect();
    pixels[..3].copy_from_slice(&[(row / 256) as u8, (row % 256) as u8, 7]);
    let mut bytes = Vec::new();
    let encoder = codecs::png::PngEncoder::new(&mut bytes);
    encoder.write_image(&pixels, 8, 8, ExtendedColorType::Rgb8).unwrap();
    bytes
}

fn open(home: &Path, name: &str) -> Dataset {
    let (datasets, cache) = (home.join("datasets"), home.join("cache"));
    let places = HubSettings {
        endpoint: "https://hub.invalid".into(),
        cache: hub(home),
        token: None,
        offline: true,
    };
    data::open_with(name, Protocol::Tinker, &datasets, &cache, &places).unwrap()
}

#[test]
fn parquet_files_with_shuffled_rows_give_the_python_reference_s_rows() {
    let home = tempfile::tempdir().unwrap();
    let answers = answers();
    for (name, how) in SETS {
        repository(home.path(), name, how);
        let data = open(home.path(), name);
        let truth = labels(how);
        assert_eq!((data.pool.len(), data.test.len()), (truth.len(), how.0 as usize));
        let paths: BTreeMap<&str, &Path> = data.pool.iter().map(|i| (i.id.as_str(), i.path.as_path())).collect();
        for seed in 0..5 {
            for k in [1_u32, 4, 16] {
                let split = split::draw(&data, Protocol::Tinker, k, seed, None).unwrap();
                let expected = &answers[name][&format!("seed {seed}, k = {k}")];
                assert_eq!(split.train.len(), expected.len());
                for (item, &row) in split.train.iter().zip(expected) {
                    // The image itself, not only its number.
                    assert_eq!(item.class, truth[row]);
                    assert_eq!(
                        fs::read(paths[item.id.as_str()]).unwrap(),
                        picture(row, truth[row]),
                        "{name}: {}",
                        item.id
                    );
                }
                assert_eq!(split.classes[1], "class 1 x");
            }
        }
    }
}

#[test]
fn a_sweep_under_tinker_caps_marks_and_keeps_its_card() {
    let sandbox = Sandbox::new();
    let home = sandbox.path("home");
    repository(&home, "flowers", SETS[2].1);
    let config = format!(
        "name = 'figure'\nprotocol = 'tinker'\ndatasets = ['flowers']\nshots = [0, 4, 16]\n\
         [[learner]]\nmethod = 'qwen3-vl-lora'\nmodel = '{}'\nimages_per_class = 4\nbatch = 8\nreadings = ['free']\n\
         [[learner]]\nmethod = 'pixels'\n",
        writing_model().display()
    );
    fs::write(sandbox.path("figure.toml"), config).unwrap();
    let kshot = |arguments: &[&str]| {
        let mut command = sandbox.kshot(arguments);
        command
            .env("KSHOT_HOME", &home)
            .env("HF_HOME", home.join("hf"))
            .env_remove("HF_HUB_CACHE");
        let output = command.env("KSHOT_CACHE", home.join("cache")).output().unwrap();
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            crate::support::stderr(&output)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let printed = kshot(&["sweep", "--config", "figure.toml", "--results", "out", "--tables"]);
    assert!(
        printed.contains("flowers, protocol tinker") && printed.contains("(k = 5*)"),
        "{printed}"
    );
    assert!(printed.contains("Marked *"), "{printed}");

    let store = Store::open_existing(&sandbox.path("out")).unwrap();
    let records = store.records().unwrap();
    assert_eq!(records.len(), 5);
    for record in &records {
        let card = record.card.as_ref().unwrap();
        assert_eq!(
            (card.protocol, card.form.to_string().as_str()),
            (Protocol::Tinker, "hub")
        );
        assert_eq!(
            (card.source.as_str(), card.revision.as_deref()),
            ("someone/flowers", Some(COMMIT))
        );
        assert_eq!((card.counts.pool, card.counts.test, card.classes), (80, 8, 8));
        assert_eq!(card.capped, (record.key.shots == 16).then_some(5));
        assert_eq!(card.counts.train, record.n_train);
        assert_eq!(
            (card.headline.as_str(), record.classes[1].as_str()),
            ("top1", "class 1 x")
        );
        let near = card.near_duplicates.as_ref().unwrap();
        assert_eq!(near.pairs > 0, record.n_train > 0, "all pictures are of few forms");
        let loss = record.hyper_parameters.get("loss").and_then(|loss| loss.as_str());
        let trains = record.key.learner.contains("Qwen") && record.n_train > 0;
        assert_eq!(loss, trains.then_some("message"), "{:?}", record.key);
    }
    let figure = fs::read_to_string(sandbox.path("out/figures/accuracy.svg")).unwrap();
    assert!(figure.contains("5*"), "the place of 16 shots");
    assert!(
        kshot(&["verify", "out"]).contains("5 cells"),
        "the folder holds what it says"
    );
    let card: serde_json::Value = serde_json::from_str(&kshot(&[
        "split",
        "flowers",
        "--protocol",
        "tinker",
        "--shots",
        "16",
        "--format",
        "card",
    ]))
    .unwrap();
    assert_eq!(
        (&card["capped"], &card["counts"]["train"]),
        (&5.into(), &serde_json::json!(80))
    );
}
