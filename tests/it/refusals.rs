//! What kshot says when it cannot do what it was asked for: the thing, the cause, and a remedy that fits the cause. Hints
//! used to follow the type of an error, so that a file that does not parse was to be deleted, whatever it was.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::json;

use crate::fetch::server::{Reply, Server};
use crate::support::{Sandbox, copy, model, stderr, writing_model};

/// A refusal has exit code 2, an error with `error`, and a hint with `hint`, which names nothing of `not`.
fn refusal(output: &Output, error: &str, hint: &str, not: &[&str]) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let (above, below) = said.split_once("\nhint: ").unwrap_or_else(|| panic!("no hint: {said}"));
    assert!(above.contains(error), "`{error}` is not in: {said}");
    assert!(below.contains(hint), "`{hint}` is not hinted at: {said}");
    for word in not {
        assert!(!below.contains(word), "`{word}` is hinted at: {said}");
    }
}

/// Words that were hinted at under causes that they do not fit.
const STRAY: [&str; 4] = ["delete `", "restore it", "one revision", "HF_TOKEN"];

#[test]
fn what_is_no_results_folder_is_not_to_be_deleted() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("README.md"), "# Mine\n").unwrap();
    fs::create_dir(sandbox.path("empty")).unwrap();
    fs::create_dir_all(sandbox.path("begun/cells")).unwrap();
    refusal(
        &sandbox.run(&["plot", "README.md"]),
        "`README.md`",
        "the CSV of a figure",
        &STRAY,
    );
    refusal(
        &sandbox.run(&["plot", "empty"]),
        "`empty` holds no finished cells",
        "`kshot sweep`",
        &STRAY,
    );
    refusal(&sandbox.run(&["verify", "empty"]), "`empty`", "`kshot sweep`", &STRAY);
    refusal(
        &sandbox.run(&["verify", "README.md"]),
        "`README.md`",
        "name a folder",
        &STRAY,
    );
    refusal(
        &sandbox.run(&["plot", "no/such"]),
        "`no/such`",
        "check the path",
        &STRAY,
    );
    refusal(
        &sandbox.run(&["promote", "begun", "there"]),
        "`begun`",
        "`kshot sweep`",
        &STRAY,
    );
    assert_eq!(fs::read_to_string(sandbox.path("README.md")).unwrap(), "# Mine\n");
}

#[test]
fn a_config_is_corrected_and_an_option_is_looked_up() {
    let sandbox = Sandbox::new();
    let tiny = fs::read_to_string(sandbox.path("tiny.toml")).unwrap();
    fs::write(sandbox.path("typo.toml"), tiny.replace("rank = 4", "rnk = 4")).unwrap();
    fs::write(sandbox.path("latin.toml"), b"name = \"\xe9\"\n").unwrap();
    let sweep = |config: &str| sandbox.run(&["sweep", "--config", config]);
    refusal(&sweep("typo.toml"), "rnk", "correct the entry", &STRAY);
    refusal(&sweep("latin.toml"), "`latin.toml`", "UTF-8", &STRAY);
    refusal(&sweep("configs"), "`configs`", "check the path", &STRAY);
    refusal(&sweep("/"), "`/`", "name a file, not a folder", &STRAY);
    refusal(&sweep("tiny.toml/x"), "`tiny.toml/x`", "`tiny.toml` is a file", &STRAY);
    let model = model();
    let train = [
        &["train", "--model", model.to_str().unwrap(), "--dataset", "mini-pets"][..],
        &["--shots", "0", "--out", "a"],
    ];
    refusal(&sandbox.run(&train.concat()), "--shots", "`--help`", &STRAY);
}

#[test]
fn a_model_file_is_named_with_where_it_comes_from() {
    let refused = |from: &Path, learner: &str, damage: &dyn Fn(&Path), error: &str, hint: &str| {
        let sandbox = Sandbox::new();
        let folder = sandbox.path("model");
        copy(from, &folder);
        damage(&folder);
        fs::write(
            sandbox.path("one.toml"),
            format!("name = 'one'\ndatasets = ['mini-pets']\nshots = [1]\n[[learner]]\nmethod = '{learner}'\nmodel = 'model'\n"),
        )
        .unwrap();
        refusal(&sandbox.run(&["sweep", "--config", "one.toml"]), error, hint, &STRAY);
    };
    let without = |name: &'static str| move |folder: &Path| fs::remove_file(folder.join(name)).unwrap();
    let (vision, writing) = (model(), writing_model());
    let fetch = "`kshot model fetch owner/name`";
    refused(&vision, "dinov2-lora", &without("config.json"), "config.json", fetch);
    refused(&writing, "qwen3-vl-lora", &without("config.json"), "config.json", fetch);
    refused(
        &writing,
        "qwen3-vl-lora",
        &without("tokenizer.json"),
        "tokenizer.json",
        "save_pretrained",
    );
    let torn = |folder: &Path| fs::write(folder.join("config.json"), "{").unwrap();
    refused(
        &vision,
        "dinov2-lora",
        &torn,
        "config.json",
        "the model's own repository",
    );
}

#[test]
fn what_may_not_be_read_is_made_readable() {
    use std::os::unix::fs::PermissionsExt as _;
    let sandbox = Sandbox::new();
    let config = sandbox.path("tiny.toml");
    fs::set_permissions(&config, fs::Permissions::from_mode(0o0)).unwrap();
    if fs::read(&config).is_ok() {
        eprintln!("skipped: this user may read everything");
    } else {
        let refused = sandbox.run(&["sweep", "--config", "tiny.toml"]);
        refusal(&refused, "`tiny.toml`", "chmod u+r", &STRAY);
    }
    let denied = |action, reading: bool| {
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let hint = kshot::error::Error::io(action, "x")(denied).hint().unwrap();
        assert_eq!(hint.contains("chmod u+r"), reading, "{hint}");
        assert_eq!(hint.contains("`--results`"), !reading, "{hint}");
    };
    denied("read", true);
    denied("write", false);
}

#[test]
fn a_hub_refuses_for_one_of_many_reasons() {
    // What the hub of the test answers, for a model and for a dataset, and the remedy.
    let cases: [(u16, &str, &str, &[&str]); 5] = [
        (401, "401", "HF_TOKEN", &["later"]),
        (403, "403", "HF_TOKEN", &["later"]),
        (404, "404", "check name and revision", &["later"]),
        (429, "429", "wait some minutes", &["licence"]),
        (503, "503", "run the same command again later", &["HF_TOKEN", "licence"]),
    ];
    for (status, error, hint, not) in cases {
        let hub = Server::new(move |_| Reply::status(status).with("Retry-After", "0"));
        let sandbox = Sandbox::new();
        let fetch = |arguments: &[&str]| {
            let mut command = sandbox.kshot(arguments);
            for proxy in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
                command.env_remove(proxy);
            }
            command
                .env("HF_ENDPOINT", hub.url(""))
                .env("KSHOT_HOME", sandbox.path("home"))
                .env_remove("HF_TOKEN")
                .output()
                .unwrap()
        };
        fs::create_dir_all(sandbox.path("home/datasets")).unwrap();
        let imported = fetch(&["data", "import", "owner/cards", "--name", "cards"]);
        refusal(&imported, error, hint, not);
    }
}

#[test]
fn a_machine_without_a_network_says_so() {
    let sandbox = Sandbox::new();
    let fetch = |name: &str, value: &str| {
        let mut command = sandbox.kshot(&["model", "fetch", "owner/name"]);
        for proxy in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(proxy);
        }
        command.env(name, value).output().unwrap()
    };
    // Nobody listens there.
    refusal(
        &fetch("HF_ENDPOINT", "http://127.0.0.1:9"),
        "127.0.0.1:9",
        "HTTPS_PROXY",
        &["HF_TOKEN"],
    );
    let offline = fetch("KSHOT_OFFLINE", "1");
    refusal(&offline, "owner/name", "where there is a network", &["HF_TOKEN"]);
    let bad = sandbox.run(&["model", "fetch", "../x/y"]);
    refusal(&bad, "is no `owner/name`", "named `owner/name`", &["HF_TOKEN"]);
}

#[test]
fn the_remedy_for_a_dataset_is_its_own() {
    let sandbox = Sandbox::new();
    let data = |arguments: &[&str]| sandbox.run(&[&["data"], arguments].concat());
    refusal(&data(&["show", "mini-pests"]), "mini-pests", "known datasets: ", &STRAY);
    let split = |more: &[&str]| sandbox.run(&[&["split", "mini-pets"], more].concat());
    fs::write(sandbox.path("i.json"), "{}").unwrap();
    refusal(
        &split(&["--shots", "1", "--indices", "i.json"]),
        "`i.json`",
        "`--protocol coop`",
        &STRAY,
    );
    refusal(&split(&["--shots", "1000"]), "1000", "ask for at most", &STRAY);
    refusal(
        &split(&["--shots", "1", "--protocol", "tinker"]),
        "tinker",
        "`--protocol`",
        &STRAY,
    );
}

/// A damaged file that kshot makes itself is made again; one of noise or of controls by its own verb.
#[test]
fn every_file_of_results_has_the_verb_that_makes_it() {
    use kshot::error::Error;
    for (kind, verb) in [
        ("cell record", "`kshot sweep`"),
        ("ledger", "`kshot sweep`"),
        ("file of run-to-run noise", "`kshot gate --accept`"),
        ("file of sanity controls", "`kshot control`"),
        ("curve table", "`kshot plot`"),
        ("dataset index", "delete `x`"),
    ] {
        let path = "x".into();
        let reason = String::new();
        let hint = Error::Malformed { kind, path, reason }.hint().unwrap();
        assert!(hint.contains(verb), "{kind}: {hint}");
        assert_eq!(crate::hints::faulty(&hint), None);
    }
}

/// Control characters in names of files, classes and learners, and in what a server says, are written out.
#[test]
fn nothing_acts_on_the_terminal() {
    let sandbox = Sandbox::new();
    let acts = |text: &[u8]| text.iter().any(|b| *b == 0x1b || *b == 7 || *b == b'\r');
    let silent = |output: &Output| {
        assert!(!acts(&output.stderr), "{:?}", String::from_utf8_lossy(&output.stderr));
        assert!(!acts(&output.stdout), "{:?}", String::from_utf8_lossy(&output.stdout));
    };
    let evil = "\u{1b}[2J\u{1b}]0;x\u{7}";
    let refused = sandbox.run(&["plot", evil]);
    refusal(&refused, "\\u001b[2J", "check the path", &[]);
    silent(&refused);
    silent(&sandbox.run(&[evil]));
    silent(&sandbox.run(&["plot", "a", evil]));
    // A name with a line feed does not look like a line of kshot's.
    let forged = stderr(&sandbox.run(&["plot", "a\nhint: `rm x`"]));
    assert!(
        forged.contains("\n  hint: `rm x`") && forged.matches("\nhint: ").count() == 1,
        "{forged}"
    );

    let own = sandbox.path("own");
    for side in ["train", "test"] {
        for class in [evil.replace('/', ""), "b".into()] {
            let folder = own.join(side).join(class);
            fs::create_dir_all(&folder).unwrap();
            for i in 0..2u8 {
                let shade = i * 90 + side.len() as u8;
                image::RgbImage::from_pixel(16, 16, image::Rgb([shade, 7, 200]))
                    .save(folder.join(format!("{i}.png")))
                    .unwrap();
            }
        }
    }
    let home = sandbox.path("home");
    fs::create_dir_all(home.join("datasets")).unwrap();
    let run = |arguments: &[&str]| {
        sandbox
            .kshot(arguments)
            .env("KSHOT_HOME", &home)
            .env("KSHOT_CACHE", sandbox.path("cache"))
            .output()
            .unwrap()
    };
    silent(&run(&["data", "import", own.to_str().unwrap(), "--name", "own"]));
    silent(&run(&["data", "show", "own"]));
    silent(&run(&["data", "verify", "own"]));
    fs::write(own.join("train/b/1.png"), "no image").unwrap();
    silent(&run(&["data", "verify", "own"]));
    let learner = format!(
        "name = 'l{}'",
        evil.escape_unicode()
            .to_string()
            .replace("\\u{", "\\u00")
            .replace('}', "")
    );
    let config = format!(
        "name = 'evil'\ndatasets = ['mini-pets']\nshots = [1]\n[[learner]]\nmethod = 'pixels'\n{}\n",
        learner.replace('\'', "\"").replace("\\u007", "\\u0007")
    );
    fs::write(sandbox.path("evil.toml"), config).unwrap();
    let swept = sandbox.run(&["sweep", "--config", "evil.toml"]);
    silent(&swept);
}

/// A learner whose name is a formula to a spreadsheet: `=…` before.
#[test]
fn no_cell_of_a_csv_is_computed_by_a_spreadsheet() {
    let sandbox = Sandbox::new();
    let name = "=HYPERLINK(1)";
    let set = json!(name).to_string();
    sandbox.succeed(&[
        "sweep",
        "--config",
        "tiny.toml",
        "--set",
        &format!("learner.1.name={set}"),
    ]);
    let mut seen = 0;
    for (path, bytes) in crate::support::contents(&sandbox.path("results/tiny")) {
        if path.extension().is_some_and(|end| end == "csv") {
            let mut table = csv::Reader::from_reader(&bytes[..]);
            let header = table.headers().unwrap().clone();
            for row in std::iter::once(header).chain(table.records().map(Result::unwrap)) {
                for cell in &row {
                    let first = cell.chars().next().unwrap_or(' ');
                    assert!(
                        !"=+-@\t\r".contains(first) || cell.parse::<f64>().is_ok(),
                        "{}: {cell}",
                        path.display()
                    );
                    seen += usize::from(cell == format!("'{name}"));
                }
            }
        }
    }
    assert!(seen > 2, "{seen}");
    // The name itself is what the records and the figure have, drawn from its CSV again too.
    sandbox.succeed(&["plot", "results/tiny/figures/accuracy.csv"]);
    let figure = fs::read_to_string(sandbox.path("results/tiny/figures/accuracy.svg")).unwrap();
    assert!(!figure.contains(&format!("'{name}")));
}
