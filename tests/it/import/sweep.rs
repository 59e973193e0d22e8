//! From a folder of photographs to a figure with two commands.

use std::fs;

use super::own::png;
use crate::support::{Sandbox, cache, contents, datasets, stderr};

const CLASSES: [&str; 12] = [
    "001.Black_footed_Albatross",
    "002.Grey_heron",
    "003.House_sparrow",
    "004.Kingfisher",
    "005.Magpie",
    "006.Nuthatch",
    "007.Oystercatcher",
    "008.Puffin",
    "009.Robin",
    "010.Starling",
    "011.Teal",
    "012.Wren",
];

/// Learners that need seconds, in place of those of the embedded quickstart.
const QUICK: &str = r#"
name = "replaced"
datasets = ["replaced"]
shots = [1]

[[learner]]
method = "nearest-mean"
model = "datasets/mini/models/micro-dinov2"

[[learner]]
method = "pixels"
"#;

#[test]
fn twelve_classes_become_a_sweep_and_a_figure() {
    let sandbox = Sandbox::new();
    let home = sandbox.path("home");
    fs::create_dir_all(home.join("datasets")).unwrap();
    std::os::unix::fs::symlink(datasets().join("mini"), home.join("datasets/mini")).unwrap();
    fs::write(sandbox.path("quick.toml"), QUICK).unwrap();
    for class in CLASSES {
        let folder = sandbox.path("photos/birds").join(class);
        fs::create_dir_all(&folder).unwrap();
        for number in 0..6 {
            fs::write(folder.join(format!("IMG_{number}.PNG")), png(class, number)).unwrap();
        }
    }
    fs::write(sandbox.path("photos/birds/012.Wren/broken.jpg"), b"\xff\xd8\xff\xe0").unwrap();
    fs::write(sandbox.path("photos/birds/notes.txt"), b"mine").unwrap();

    let run = |arguments: &[&str]| {
        let mut command = sandbox.kshot(arguments);
        let output = command
            .env("KSHOT_HOME", &home)
            .env("KSHOT_CACHE", sandbox.path("cache"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        (String::from_utf8(output.stdout.clone()).unwrap(), stderr(&output))
    };
    let (said, noted) = run(&["data", "import", "photos/birds", "--name", "birds"]);
    let said = said.replace(home.to_str().unwrap(), "[HOME]");
    insta::assert_snapshot!(said);
    insta::assert_snapshot!(noted);

    // The command that was proposed, word for word, with quicker learners.
    let proposed = said.lines().find_map(|line| line.strip_prefix("next: kshot ")).unwrap();
    let words = shell_words(proposed);
    let mut arguments: Vec<&str> = words.iter().map(String::as_str).collect();
    arguments.extend(["--config", "quick.toml"]);
    let (table, _) = run(&arguments);
    assert!(table.contains("birds") && table.contains("raw pixels 1-NN"), "{table}");
    let results = contents(&sandbox.path("results/birds"));
    for figure in [
        "figures/accuracy.svg",
        "figures/accuracy.png",
        "figures/accuracy.csv",
        "ledger.csv",
    ] {
        assert!(results.keys().any(|file| file.ends_with(figure)), "no {figure}");
    }
    let predicted = results.keys().filter(|file| file.starts_with("predictions")).count();
    assert_eq!(predicted, 6, "two learners, three shots");
    // Stripes and colours of twelve kinds are easy: were labels and images mixed up, this would be 1 in 12.
    let csv = String::from_utf8(results[std::path::Path::new("figures/accuracy.csv")].clone()).unwrap();
    assert!(csv.lines().count() > 6, "{csv}");
    // The shared cache of the other tests was left alone.
    assert!(!cache().join("datasets/birds").exists());
}

/// A command line as a shell takes it apart: blanks separate, quotes of both kinds join.
fn shell_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in line.chars() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None, ' ') => words.push(std::mem::take(&mut word)),
            (_, c) => word.push(c),
        }
    }
    words.push(word);
    words
}
