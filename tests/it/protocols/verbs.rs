//! `coop` from the command line: splits printed, read back and refused; a sweep on index files.

use std::collections::BTreeMap;
use std::fs;

use kshot::config::Protocol;
use kshot::statistics::metric::Headline;
use kshot::store::Store;

use super::listing::Entry;
use crate::support::{Sandbox, datasets, stderr};

const SPLIT: [&str; 4] = ["split", "mini-caltech101", "--protocol", "coop"];

fn split(sandbox: &Sandbox, arguments: &[&str]) -> String {
    sandbox.succeed(&[&SPLIT, arguments].concat())
}

#[test]
fn index_files_go_in_and_out() {
    let sandbox = Sandbox::new();
    let file = split(&sandbox, &["--shots", "4", "--seed", "7", "--format", "indices"]);
    let path = sandbox.path("shot_4-seed_7.json");
    fs::write(&path, &file).unwrap();
    let read = ["--shots", "4", "--indices", path.to_str().unwrap()];
    assert_eq!(split(&sandbox, &[&read[..], &["--format", "indices"]].concat()), file);
    let json: serde_json::Value = serde_json::from_str(&split(&sandbox, &read)).unwrap();
    let count = |side: &str| json[side].as_array().unwrap().len();
    assert_eq!([count("train"), count("val"), count("test")], [40, 40, 180]);

    let line = file.lines().find(|line| line.contains("impath")).unwrap();
    let id = line.rsplit('/').next().unwrap().trim_end_matches("\",");
    fs::write(&path, file.replacen(id, "image_9999.jpg", 1)).unwrap();
    let refused = sandbox.run(&[&SPLIT[..], &read].concat());
    assert_eq!(refused.status.code(), Some(2));
    let said = stderr(&refused);
    assert!(
        said.contains("image_9999.jpg`: is no image of this side") && said.contains("hint: "),
        "{said}"
    );
}

#[test]
fn the_split_file_is_that_of_the_dataset() {
    let sandbox = Sandbox::new();
    let read = |text: &str| -> BTreeMap<String, Vec<Entry>> { serde_json::from_str(text).unwrap() };
    let written = split(&sandbox, &["--shots", "0", "--format", "split-zhou"]);
    let own = fs::read_to_string(datasets().join("mini/mini-caltech101/split_zhou_Caltech101.json")).unwrap();
    assert_eq!(read(&written), read(&own));
    let clean = sandbox.run(&["split", "mini-pets", "--shots", "1", "--format", "split-zhou"]);
    assert!(
        stderr(&clean).contains("CoOp's files have no names for its images"),
        "{}",
        stderr(&clean)
    );
}

#[test]
fn a_sweep_reads_its_shots_from_index_files() {
    let sandbox = Sandbox::new();
    let config = "name = 'coop'\nprotocol = 'coop'\ndatasets = ['mini-caltech101']\nshots = [2]\nseeds = [1, 2]\n\
                  indices = 'files'\n[[learner]]\nmethod = 'pixels'\n";
    fs::write(sandbox.path("coop.toml"), config).unwrap();
    let folder = sandbox.path("files/caltech101");
    fs::create_dir_all(&folder).unwrap();
    let sweep = ["sweep", "--config", "coop.toml", "--results", "out", "--tables"];
    // Draws of other seeds, so that nothing but the files gives them.
    for (seed, own) in [("1", "11"), ("2", "12")] {
        let missing = sandbox.run(&sweep);
        assert_eq!(missing.status.code(), Some(2));
        let name = format!("files/caltech101/shot_2-seed_{seed}.json`: there is no such file");
        assert!(stderr(&missing).contains(&name), "{}", stderr(&missing));
        let file = split(&sandbox, &["--shots", "2", "--seed", own, "--format", "indices"]);
        fs::write(folder.join(format!("shot_2-seed_{seed}.json")), file).unwrap();
    }
    let printed = sandbox.succeed(&sweep);
    assert!(printed.contains("mini-caltech101, protocol coop (top-1"), "{printed}");
    let records = Store::open_existing(&sandbox.path("out")).unwrap().records().unwrap();
    assert_eq!(records.len(), 2);
    for (record, own) in records.iter().zip(["11", "12"]) {
        assert_eq!(
            (record.key.protocol, record.metrics.headline),
            (Protocol::Coop, Headline::Top1)
        );
        let card = record.card.as_ref().unwrap();
        let counts = [
            card.counts.pool,
            card.counts.val,
            card.counts.test,
            card.counts.train,
            card.counts.val_drawn,
        ];
        assert_eq!((counts, card.capped), ([200, 40, 180, 20, 20], None));
        let stored =
            fs::read_to_string(sandbox.path(&format!("out/splits/mini-caltech101-coop-k2-s{}.json", record.key.seed)))
                .unwrap();
        let drawn = split(&sandbox, &["--shots", "2", "--seed", own]);
        let train = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["train"].clone();
        assert_eq!(train(&stored), train(&drawn));
    }
    let too_many = sandbox.run(&[&SPLIT[..], &["--shots", "21"]].concat());
    assert!(
        stderr(&too_many).contains("has 20 training images, 21 shots"),
        "{}",
        stderr(&too_many)
    );
}
