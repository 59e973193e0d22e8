//! The binary on its own: away from its checkout, beside a user's own manifests, and what it says of itself.

#![allow(clippy::print_stderr, reason = "what is skipped is told")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use kshot::environment::Variable;

use crate::import::own::png;
use crate::support::{Sandbox, contents, root, stderr};

/// Seconds of work: both kinds of archive, a model and images alone.
const SMALL: &str = r#"
name = "small"
datasets = ["mini-pets", "mini-fashion"]
shots = [1, 2]

[[learner]]
method = "nearest-mean"
model = "datasets/mini/models/micro-dinov2"

[[learner]]
method = "pixels"
"#;

/// The binary in an empty working folder with an empty home and nothing in the environment that says where things lie.
fn alone(sandbox: &Sandbox, arguments: &[&str]) -> Command {
    let mut command = sandbox.kshot(arguments);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command.env("HOME", sandbox.path("home"));
    command
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn photographs(sandbox: &Sandbox) {
    for class in ["heron", "magpie"] {
        let folder = sandbox.path("photos").join(class);
        fs::create_dir_all(&folder).unwrap();
        for number in 0..6 {
            fs::write(folder.join(format!("{number}.png")), png(class, number)).unwrap();
        }
    }
}

/// Runs a shell script in namespaces of its own where the checkout is hidden behind an empty folder. None where the system
/// allows no namespaces, which is told.
fn without_checkout(script: &str, sandbox: &Sandbox) -> Option<Output> {
    let allowed = Command::new("unshare").args(["-rm", "true"]).output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: this system allows no user and mount namespaces (`unshare -rm true` fails)");
        return None;
    }
    let hide = format!("mount -t tmpfs none '{}' && ", root().display());
    let output = Command::new("unshare")
        .args(["-rm", "sh", "-euc", &(hide + script)])
        .current_dir(sandbox.path(""))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", sandbox.path("home"))
        .output();
    Some(output.unwrap())
}

#[test]
fn a_binary_alone_does_the_main_job() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("bin")).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_kshot"), sandbox.path("bin/kshot")).unwrap();
    fs::create_dir(sandbox.path("work")).unwrap();
    fs::create_dir(sandbox.path("home")).unwrap();
    fs::write(sandbox.path("work/small.toml"), SMALL).unwrap();
    photographs(&sandbox);
    let script = format!(
        "test ! -e '{}/Cargo.toml'; cd work; ../bin/kshot sweep --config small.toml; ../bin/kshot data import ../photos --name birds; \
         ../bin/kshot data list",
        root().display()
    );
    let Some(output) = without_checkout(&script, &sandbox) else {
        return;
    };
    assert!(output.status.success(), "{}", stderr(&output));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("birds") && said.contains("mini-cars"), "{said}");
    // What it wrote: results and the manifest here, all else in the home.
    let mut here: Vec<_> = fs::read_dir(sandbox.path("work"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    here.sort();
    assert_eq!(here, ["datasets", "results", "small.toml"]);
    assert_eq!(
        contents(&sandbox.path("work/datasets")).into_keys().collect::<Vec<_>>(),
        [Path::new("birds.toml")]
    );
    let home: Vec<_> = fs::read_dir(sandbox.path("home"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(home, [".cache"]);
    // In the checkout it is the same ledger, run_ids included.
    fs::write(sandbox.path("small.toml"), SMALL).unwrap();
    sandbox.succeed(&["sweep", "--config", "small.toml"]);
    let ledger = |folder: &str| fs::read_to_string(sandbox.path(folder).join("results/small/ledger.csv")).unwrap();
    assert_eq!(ledger("work"), ledger(""));
    assert_eq!(ledger("").lines().count(), 9);
}

/// Takes the time of the quickstart: for the slow suite, which names the folder of a quickstart made in the checkout.
#[test]
#[ignore = "minutes: part of the slow suite"]
fn a_binary_alone_ends_in_the_ledger_of_the_quickstart() {
    let Some(made) = std::env::var_os("KSHOT_QUICKSTART") else {
        eprintln!("skipped: KSHOT_QUICKSTART names no results folder of the quickstart");
        return;
    };
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("home")).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_kshot"), sandbox.path("kshot")).unwrap();
    let expected = fs::read_to_string(Path::new(&made).join("ledger.csv")).unwrap();
    let Some(output) = without_checkout("./kshot sweep", &sandbox) else {
        return;
    };
    assert!(output.status.success(), "{}", stderr(&output));
    let ledger = fs::read_to_string(sandbox.path("results/quickstart/ledger.csv")).unwrap();
    assert!(ledger == expected, "the ledgers differ");
}

#[test]
fn own_manifests_are_found_beside_those_inside_the_binary() {
    let sandbox = Sandbox::new();
    photographs(&sandbox);
    let names = |said: &str| {
        said.lines()
            .filter_map(|line| line.split(' ').next())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let list = |sandbox: &Sandbox| names(&succeed(&mut alone(sandbox, &["data", "list"])));
    let inside = list(&sandbox);
    assert_eq!(inside.len(), 9);
    // A folder of that name without manifests hides nothing.
    fs::create_dir_all(sandbox.path("datasets/raw")).unwrap();
    assert_eq!(list(&sandbox), inside);
    let said = succeed(&mut alone(&sandbox, &["data", "import", "photos", "--name", "birds"]));
    let place = sandbox.path("").canonicalize().unwrap();
    let place = place.display();
    assert!(
        said.contains(&format!(
            "manifest: {place}/datasets/birds.toml\nkshot finds it when it runs in `{place}`"
        )),
        "{said}"
    );
    // One in the user's folder for data is found everywhere, and one that is wrong hides no other.
    let shared = sandbox.path("home/.local/share/kshot/datasets");
    fs::create_dir_all(&shared).unwrap();
    let text = fs::read_to_string(sandbox.path("datasets/birds.toml")).unwrap();
    fs::write(
        shared.join("crows.toml"),
        text.replace("name = \"birds\"", "name = \"crows\""),
    )
    .unwrap();
    fs::write(sandbox.path("datasets/wrong.toml"), "name = 1").unwrap();
    let output = alone(&sandbox, &["data", "list"]).output().unwrap();
    let mut expected = inside;
    expected.extend(["birds".to_owned(), "crows".to_owned()]);
    expected.sort();
    assert_eq!(names(&String::from_utf8_lossy(&output.stdout)), expected);
    assert!(
        output.status.success() && stderr(&output).contains("wrong.toml"),
        "{}",
        stderr(&output)
    );
    let elsewhere = sandbox.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let found = names(&succeed(alone(&sandbox, &["data", "list"]).current_dir(&elsewhere)));
    assert!(
        found.contains(&"crows".to_owned()) && !found.contains(&"birds".to_owned()),
        "{found:?}"
    );
    // Names are taken wherever they stand.
    for taken in ["birds", "crows", "mini-pets"] {
        let output = alone(&sandbox, &["data", "import", "photos", "--name", taken])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{taken}");
        stderr(&output);
    }
    // A manifest of the same name as one inside is told.
    fs::write(
        sandbox.path("datasets/mini-pets.toml"),
        text.replace("name = \"birds\"", "name = \"mini-pets\""),
    )
    .unwrap();
    let output = alone(&sandbox, &["data", "show", "mini-pets"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("2 classes"));
    assert!(
        stderr(&output).contains("not the one of the same name inside kshot"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn the_version_says_what_was_built_and_where_it_computes() {
    let sandbox = Sandbox::new();
    let said = succeed(
        sandbox
            .kshot(&["--version"])
            .env("RAYON_NUM_THREADS", "3")
            .env("KSHOT_DEVICE", "cpu"),
    );
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], concat!("kshot ", env!("CARGO_PKG_VERSION")));
    let commit = lines[1].strip_prefix("commit    ").unwrap().trim_end_matches("-dirty");
    assert!(commit == "unknown" || commit.len() == 40, "{said}");
    assert!(
        lines[2].starts_with("features  ") && lines[3] == "device    cpu, 3 threads",
        "{said}"
    );
    assert!(lines[4].starts_with("inside    9 manifests"), "{said}");
    let wrong = succeed(sandbox.kshot(&["sweep", "--version"]).env("KSHOT_DEVICE", "tpu"));
    assert!(wrong.contains("device    none: ") && wrong.contains("`tpu`"), "{wrong}");
}

#[test]
fn every_environment_variable_is_in_the_help_and_in_the_docs() {
    let help = Sandbox::new().succeed(&["--help"]);
    let docs = fs::read_to_string(root().join("docs/environment.md")).unwrap();
    for variable in Variable::ALL {
        let (name, meaning) = (variable.name(), variable.meaning());
        assert!(
            help.lines().any(|line| line.split_whitespace().next() == Some(name)),
            "--help lacks {name}"
        );
        let row = format!("| `{name}` | {meaning} |");
        assert!(docs.contains(&row), "docs/environment.md lacks the line\n{row}");
    }
}
