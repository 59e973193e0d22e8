//! What a newcomer sees of a sweep: its summary, silence where asked for, a last word when interrupted; and a folder of results
//! that loses no row.

#![allow(clippy::print_stderr, reason = "what is skipped is told")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use crate::support::{Sandbox, stderr};

/// Learners that need next to no time.
const QUICK: &str = r#"
name = "quick"
datasets = ["mini-pets"]
shots = [1, 2]

[[learner]]
method = "nearest-mean"
model = "datasets/mini/models/micro-dinov2"

[[learner]]
method = "pixels"
"#;

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("quick.toml"), QUICK).unwrap();
    sandbox
}

fn sweep<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["sweep", "--config", "quick.toml"], more].concat()
}

#[test]
fn a_sweep_ends_with_a_screen_of_text_and_all_tables_on_request() {
    let sandbox = sandbox();
    let said = sandbox.succeed(&sweep(&[]));
    insta::assert_snapshot!(said);
    assert!(said.lines().count() <= 40 && said.lines().all(|line| line.chars().count() <= 100));
    for path in said
        .lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(_, path)| path)
    {
        assert!(!path.starts_with("results/") || sandbox.path(path).is_file(), "{path}");
    }
    let tables = sandbox.succeed(&sweep(&["--tables"]));
    for title in [
        "Accuracy in % by labelled examples per class",
        "Gain in percentage points",
    ] {
        assert!(tables.contains(title), "{tables}");
    }
    // Redirected twice, the same.
    assert_eq!(sandbox.succeed(&sweep(&[])), said);
}

#[test]
fn a_quiet_sweep_says_nothing_but_what_is_wrong() {
    let sandbox = sandbox();
    let output = sandbox.run(&sweep(&["--quiet"]));
    assert!(
        output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
        "{}",
        stderr(&output)
    );
    assert!(sandbox.path("results/quick/figures/accuracy.svg").is_file());
    assert!(!sandbox.succeed(&sweep(&["-q", "--tables"])).is_empty());
    let output = sandbox.run(&sweep(&["-q", "--set", "datasets=['nowhere']"]));
    assert!(stderr(&output).contains("unknown dataset"));
}

#[test]
fn an_interrupted_sweep_says_how_it_goes_on_and_dies_of_the_signal() {
    let sandbox = Sandbox::new();
    // One cell that ends at once, and one that would take hours.
    let config = QUICK.replace("name = \"quick\"", "name = \"slow\"")
        + "[[learner]]\nmethod = \"dinov2-lora\"\nmodel = \"datasets/mini/models/micro-dinov2\"\nimages_per_class = 2000000\n";
    fs::write(sandbox.path("slow.toml"), config).unwrap();
    for (name, number) in [("INT", 2), ("TERM", 15)] {
        let arguments = ["sweep", "--config", "slow.toml", "--set", "shots=[1]", "--jobs", "1"];
        let mut child = sandbox
            .kshot(&arguments)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("cells are finished") && !line.starts_with("[2/3]") {
            line.clear();
            assert!(said.read_line(&mut line).unwrap() > 0, "it ended early");
        }
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(number), "{rest}");
        assert!(
            rest.contains("interrupted: the same command goes on where this one was"),
            "{rest}"
        );
    }
}

#[test]
fn no_colour_means_none() {
    let sandbox = Sandbox::new();
    let shown = |colour: bool, command: &str| {
        // A terminal is made for it: without one there are no colours in any case.
        let mut script = Command::new("script");
        let line = format!("{} {command}", env!("CARGO_BIN_EXE_kshot"));
        script
            .args(["-qec", &line, "/dev/null"])
            .env("TERM", "xterm-256color")
            .current_dir(sandbox.path(""));
        script.env_remove("NO_COLOR").env_remove("CLICOLOR");
        if !colour {
            script.env("NO_COLOR", "1");
        }
        script
            .stdin(Stdio::null())
            .output()
            .ok()
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let Some(coloured) = shown(true, "--help") else {
        eprintln!("skipped: there is no `script` to make a terminal with");
        return;
    };
    assert!(coloured.contains("\u{1b}["), "{coloured}");
    for command in [
        "--help",
        "sweep --no-such-option",
        "sweep --config nowhere.toml",
        "data list",
    ] {
        let plain = shown(false, command).unwrap();
        assert!(!plain.is_empty() && !plain.contains("\u{1b}["), "{command}: {plain}");
    }
}

#[test]
fn a_part_or_more_of_a_sweep_extends_its_folder() {
    let sandbox = sandbox();
    let file = |name: &str| fs::read_to_string(sandbox.path("results/quick").join(name)).unwrap();
    let verified = || {
        assert!(
            sandbox
                .succeed(&["verify", "results/quick"])
                .ends_with("everything holds\n")
        );
    };
    sandbox.succeed(&sweep(&[]));
    let (ledger, config) = (file("ledger.csv"), file("sweep.toml"));
    assert_eq!(ledger.lines().count(), 5);
    // A part: nothing is lost.
    sandbox.succeed(&sweep(&["--set", "shots=[1]"]));
    assert_eq!((file("ledger.csv"), file("sweep.toml")), (ledger.clone(), config));
    verified();
    // More of each kind.
    sandbox.succeed(&sweep(&["--set", "shots=[4]"]));
    sandbox.succeed(&sweep(&["--set", "seeds=[3]"]));
    sandbox.succeed(&sweep(&["--set", "datasets=['mini-fashion']"]));
    let extended = file("ledger.csv");
    assert_eq!(extended.lines().count(), 1 + 4 + 2 + 4 + 4);
    assert!(ledger.lines().all(|row| extended.contains(row)));
    verified();
    let config = file("sweep.toml");
    for line in ["shots = [1, 2, 4]", "seeds = [0, 3]"] {
        let plain: String = config.split_whitespace().collect();
        assert!(plain.contains(&line.replace(' ', "")), "{config}");
    }
}

#[test]
fn another_experiment_is_refused_until_it_is_told_to_replace() {
    let sandbox = sandbox();
    let ledger = || fs::read_to_string(sandbox.path("results/quick/ledger.csv")).unwrap();
    sandbox.succeed(&sweep(&[]));
    let before = ledger();
    let mut said = String::new();
    for set in ["learner.1.side=12", "exif=false"] {
        let output = sandbox.run(&sweep(&["--set", set]));
        assert_eq!(output.status.code(), Some(2), "{set}");
        said += &format!("--set {set}\n{}\n", stderr(&output));
        assert_eq!(ledger(), before, "{set}");
    }
    insta::assert_snapshot!(said);
    // Other settings at other shots: no cell is in the place of another, and still it is another experiment.
    let output = sandbox.run(&sweep(&["--set", "learner.1.side=12", "--set", "shots=[4]"]));
    assert!(stderr(&output).contains("`side` is"), "{}", stderr(&output));
    // A folder of its own, or this one anew.
    sandbox.succeed(&sweep(&["--set", "learner.1.side=12", "--results", "results/other"]));
    let diff = sandbox.succeed(&["diff", "results/quick", "results/other"]);
    insta::assert_snapshot!(diff);
    sandbox.succeed(&sweep(&["--set", "learner.1.side=12", "--replace"]));
    let after = ledger();
    assert_eq!(after.lines().count(), 5);
    assert_eq!(
        after.lines().filter(|row| before.contains(row)).count(),
        3,
        "the header and the learner that is the same"
    );
    assert!(
        sandbox
            .succeed(&["verify", "results/quick"])
            .ends_with("everything holds\n")
    );
    let cells = fs::read_dir(sandbox.path("results/quick/cells")).unwrap().count();
    assert_eq!(cells, 4);
}

#[test]
fn a_config_to_begin_with_takes_two_edits() {
    let sandbox = Sandbox::new();
    let said = sandbox.succeed(&["init", "own"]);
    assert_eq!(
        said,
        "own.toml\nnext    edit it, then: kshot sweep --config own.toml --dry-run\n"
    );
    assert_eq!(
        sandbox.run(&["init", "own"]).status.code(),
        Some(2),
        "nothing is written over"
    );
    // The edits, and micro models in place of those that would have to be fetched.
    let text = fs::read_to_string(sandbox.path("own.toml")).unwrap();
    let text = text
        .replace("\"birds\"", "\"mini-pets\"")
        .replace("shots = [0, 1, 2, 4, 8]", "shots = [0, 1, 2]");
    let text = text.replace("Qwen/Qwen3-VL-2B-Instruct", "datasets/mini/models/micro-qwen3-vl");
    let text = text.replace("facebook/dinov2-base", "datasets/mini/models/micro-dinov2");
    fs::write(sandbox.path("own.toml"), text).unwrap();
    let planned = sandbox.succeed(&["sweep", "--config", "own.toml", "--dry-run"]);
    assert!(planned.contains("51 cells"), "{planned}");
    for (kind, file) in [("four-datasets", "four.toml"), ("tinker", "figure.toml")] {
        sandbox.succeed(&["init", kind, "--out", file]);
        assert!(
            fs::read_to_string(sandbox.path(file))
                .unwrap()
                .contains(&format!("kshot sweep --config {file}"))
        );
        // Not fetched: the plan is made from manifests and names.
        sandbox.succeed(&["sweep", "--config", file, "--dry-run"]);
    }
}

#[test]
fn the_doctor_says_what_would_not_work() {
    let sandbox = Sandbox::new();
    let said = sandbox.succeed(&["doctor"]);
    assert!(
        said.ends_with("nothing is missing: `kshot sweep` runs here\n") && said.contains("mini-pets"),
        "{said}"
    );
    let secret = sandbox
        .kshot(&["doctor"])
        .env("HF_TOKEN", "hf_secret")
        .env("KSHOT_DEVICE", "tpu")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&secret.stdout).into_owned();
    assert_eq!(secret.status.code(), Some(1), "{said}");
    assert!(
        said.contains("WRONG: ") && said.contains("`tpu`") && said.contains("a token") && said.contains("HF_TOKEN"),
        "{said}"
    );
    assert!(!said.contains("hf_secret"));
}

#[test]
fn shells_and_man_know_the_verbs() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(sandbox.succeed(&["completions", shell]).contains("sweep"), "{shell}");
    }
    sandbox.succeed(&["man", "pages"]);
    let page = fs::read_to_string(sandbox.path("pages/kshot-sweep.1")).unwrap();
    assert!(page.contains(".TH") && page.contains("replace"), "{page}");
}
