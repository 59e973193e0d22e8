//! Containers of one machine: each has its first process, number 1, and all share a cache and a results folder.

use std::fs;
use std::process::{Command, Stdio};

use crate::support::{Sandbox, contents};

/// How a process gets a PID namespace and a `/proc` of its own here, if it may.
fn namespace() -> Option<&'static [&'static str]> {
    let ways: [&[&str]; 2] = [
        &["--pid", "--fork", "--mount-proc", "--kill-child"],
        &[
            "--user",
            "--map-root-user",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
        ],
    ];
    ways.into_iter().find(|way| {
        let mut probe = Command::new("unshare");
        let probe = probe.args(*way).arg("true").stdout(Stdio::null()).stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    })
}

/// The cells of a sweep as the first process of a container.
fn contained(sandbox: &Sandbox, namespace: &[&str], arguments: &[&str]) -> Command {
    let template = sandbox.kshot(arguments);
    let mut command = Command::new("unshare");
    command
        .args(namespace)
        .arg(template.get_program())
        .args(template.get_args());
    for (name, value) in template.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
        .current_dir(sandbox.path(""))
        .env("KSHOT_CACHE", sandbox.path("cache"));
    command
}

/// Before, names in the cache had the process number only, which is 1 in each.
#[test]
fn three_containers_share_one_cache_and_one_results_folder() {
    let Some(namespace) = namespace() else {
        eprintln!("skipped: no PID namespace may be made here");
        return;
    };
    let mut failed = Vec::new();
    let mut ledger = None;
    for round in 0..10 {
        let sandbox = Sandbox::new();
        let arguments = ["sweep", "--config", "tiny.toml", "--lease", "2"];
        let running: Vec<_> = (0..3)
            .map(|_| {
                let mut one = contained(&sandbox, namespace, &arguments);
                one.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        for one in running {
            let output = one.wait_with_output().unwrap();
            if !output.status.success() {
                failed.push(format!("{round}: {}", String::from_utf8_lossy(&output.stderr)));
            }
        }
        let left: Vec<_> = contents(&sandbox.path("cache"))
            .into_keys()
            .filter(|path| path.to_string_lossy().contains("partial"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
        let bytes = fs::read(sandbox.path("results/tiny/ledger.csv")).unwrap();
        assert_eq!(*ledger.get_or_insert_with(|| bytes.clone()), bytes);
    }
    assert!(failed.is_empty(), "{} of 30: {failed:#?}", failed.len());
}

/// In a time namespace the start of each process has another number; with the `/proc` of another PID namespace the
/// numbers of processes themselves. Both looked like owners that had ended, and their cells were taken from them.
#[test]
fn live_owners_in_other_time_and_proc_namespaces_keep_their_cells() {
    let ways: [(&str, &[&str]); 2] = [
        (
            "a time namespace",
            &["--time", "--boottime", "86400", "--fork", "--kill-child"],
        ),
        (
            "the /proc of another PID namespace",
            &["--pid", "--fork", "--kill-child"],
        ),
    ];
    for (what, way) in ways {
        let probe = Command::new("unshare")
            .args(way)
            .arg("true")
            .stderr(Stdio::null())
            .status();
        if !probe.is_ok_and(|status| status.success()) {
            eprintln!("skipped: {what} may not be made here");
            continue;
        }
        let sandbox = Sandbox::new();
        fs::write(sandbox.path("long.toml"), LONG).unwrap();
        let long = ["sweep", "--config", "long.toml"];
        let mut owner = contained(&sandbox, way, &long)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let claims = sandbox.path("results/long/claims");
        while fs::read_dir(&claims).map_or(0, Iterator::count) == 0 {
            assert!(owner.try_wait().unwrap().is_none(), "{what}: it has ended");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let other = sandbox
            .kshot(&long)
            .env("KSHOT_CACHE", sandbox.path("cache"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let owner = owner.wait_with_output().unwrap();
        let other = other.wait_with_output().unwrap();
        let said = [owner.stderr, other.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(owner.status.success() && other.status.success(), "{what}: {said:?}");
        assert!(
            !said
                .iter()
                .any(|text| text.contains("taken over") || text.contains("dropped")),
            "{what}: {said:?}"
        );
    }
}

/// One cell of some seconds.
const LONG: &str = r#"
name = "long"
datasets = ["mini-pets"]
shots = [2]

[[learner]]
method = "dinov2-lora"
model = "datasets/mini/models/micro-dinov2"
images_per_class = 24
batch = 8
rank = 4
"#;
