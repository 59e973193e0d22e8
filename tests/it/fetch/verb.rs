//! `kshot data fetch`, as a user calls it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;

use super::hub_server::{Repository, commit};
use super::proxies::Proxy;
use super::server::{Reply, Server};
use super::{names, noise, sha256};
use crate::support::stderr;

/// A user's machine: manifests, caches, and the built binary.
pub struct User {
    pub folder: TempDir,
}

impl User {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("datasets")).unwrap();
        Self { folder }
    }

    pub fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join(inside)
    }

    /// Writes a manifest.
    pub fn dataset(&self, name: &str, layout: &str, rest: &str) {
        let text = format!(
            "name = \"{name}\"\ntitle = \"Toy\"\nlayout = \"{layout}\"\nlicence = \"none\"\ncitation = \"nobody\"\n{rest}"
        );
        fs::write(self.path(&format!("datasets/{name}.toml")), text).unwrap();
    }

    /// A command that knows no network but what it is told.
    pub fn kshot(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kshot"));
        let names = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"];
        for name in names.into_iter().map(str::to_owned).chain(names.map(str::to_uppercase)) {
            command.env_remove(name);
        }
        for name in [
            "KSHOT_LOG",
            "KSHOT_MIRROR",
            "KSHOT_OFFLINE",
            "HF_HUB_OFFLINE",
            "HF_TOKEN",
            "HF_TOKEN_PATH",
            "HF_HUB_CACHE",
            "HUGGINGFACE_HUB_CACHE",
            "SSL_CERT_FILE",
            "COLUMNS",
        ] {
            command.env_remove(name);
        }
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("KSHOT_HOME", self.folder.path())
            .env("KSHOT_CACHE", self.path("cache"))
            .env("HF_HOME", self.path("hf"))
            .env("HF_ENDPOINT", "http://127.0.0.1:9");
        command
    }
}

/// A `[[file]]` table.
pub fn file(role: &str, name: &str, bytes: &[u8], urls: &[String]) -> String {
    format!(
        "[[file]]\nrole = \"{role}\"\nname = \"{name}\"\nurls = {urls:?}\nsize = {}\nsha256 = \"{}\"\n",
        bytes.len(),
        sha256(bytes)
    )
}

#[track_caller]
fn succeeded(output: &Output) -> (String, String) {
    let said = stderr(output);
    assert!(output.status.success(), "{said}");
    (String::from_utf8(output.stdout.clone()).unwrap(), said)
}

#[test]
fn what_is_where_is_said_at_the_end() {
    let bytes = noise(3_000_000, 1);
    let served = bytes.clone();
    let server = Server::new(move |request| Reply::file(request, &served).trickle(300_000, Duration::from_millis(2)));
    let user = User::new();
    user.dataset(
        "toy",
        "folders",
        &file("archive", "a.tgz", &bytes, &[server.url("/a.tgz")]),
    );
    let (said, progress) = succeeded(&user.kshot(&["data", "fetch", "toy"]).output().unwrap());
    let place = user.path("cache/downloads/toy");
    let wanted = format!("toy: archive, 1 file (2.86 MiB), 1 new, in {}\n", place.display());
    assert_eq!(said, wanted);
    assert!(progress.starts_with("toy/a.tgz: 2.86 MiB\n"), "{progress}");
    assert!(
        progress.contains(" %, ") && progress.contains(" s left\n"),
        "{progress}"
    );
    assert!(progress.ends_with("toy/a.tgz: complete\n"), "{progress}");
    let (said, progress) = succeeded(&user.kshot(&["data", "fetch", "toy"]).output().unwrap());
    assert_eq!((said, progress.as_str()), (wanted.replace("1 new", "0 new"), ""));
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn a_form_that_fails_falls_through_to_the_next() {
    let bytes = noise(5_000, 2);
    let hub = Repository::new("o/n", &[("train.parquet", &bytes), ("test.parquet", &bytes)]).serve();
    let gone = Server::new(|_| Reply::status(404));
    let user = User::new();
    let archive = file("archive", "a.tgz", &bytes, &[gone.url("/a.tgz")]);
    user.dataset(
        "toy",
        "folders",
        &format!("{archive}[hub]\nrepo = \"o/n\"\nrevision = \"main\"\n"),
    );
    let fetch = |more: &[&str]| {
        let arguments: Vec<&str> = ["data", "fetch", "toy"].iter().chain(more).copied().collect();
        user.kshot(&arguments).env("HF_ENDPOINT", hub.url("")).output().unwrap()
    };
    let (said, warning) = succeeded(&fetch(&[]));
    assert!(
        said.starts_with(&format!("toy: hub at commit {}, 2 files", commit('a'))),
        "{said}"
    );
    assert!(
        warning.contains("warning: no archive of toy, so its hub is fetched"),
        "{warning}"
    );
    // Both splits are the same bytes: they lie there once.
    assert_eq!(names(&user.path("hf/hub/datasets--o--n/blobs")), [sha256(&bytes)]);
    let only = fetch(&["--source", "archive"]);
    assert_eq!(only.status.code(), Some(2));
    assert!(stderr(&only).contains("error: cannot fetch `toy`") && stderr(&only).contains("\nhint: "));
    assert!(fetch(&["--source", "hub"]).status.success());
}

#[test]
fn of_several_datasets_each_is_tried() {
    let bytes = noise(5_000, 3);
    let served = bytes.clone();
    let server = Server::new(move |request| match request.path.as_str() {
        "/a" => Reply::file(request, &served),
        _ => Reply::status(404),
    });
    let user = User::new();
    for name in ["bad", "good"] {
        let url = server.url(if name == "good" { "/a" } else { "/b" });
        user.dataset(name, "folders", &file("archive", "a.tgz", &bytes, &[url]));
    }
    user.dataset("mine", "folders", "directory = \"x\"\n");
    let output = user
        .kshot(&["data", "fetch", "bad", "unknown", "good", "mine"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(said.starts_with("good: archive, 1 file "), "{said}");
    assert!(
        said.ends_with("mine: nothing to fetch, its files are on this machine\n"),
        "{said}"
    );
    let errors = stderr(&output);
    for wanted in [
        "error: cannot fetch `bad`:",
        "error: unknown dataset `unknown`",
        "error: 2 of 4 datasets could not be fetched",
    ] {
        assert!(errors.contains(wanted), "`{wanted}` is not in: {errors}");
    }
}

#[test]
fn the_environment_names_mirror_offline_and_token() {
    let bytes = noise(5_000, 4);
    let served = bytes.clone();
    let mirror = Server::new(move |request| match request.path.as_str() {
        "/m/toy/a.tgz" => Reply::file(request, &served),
        _ => Reply::status(404),
    });
    let user = User::new();
    user.dataset("toy", "folders", &file("archive", "a.tgz", &bytes, &[]));
    for variable in ["KSHOT_OFFLINE", "HF_HUB_OFFLINE"] {
        let mut offline = user.kshot(&["data", "fetch", "toy"]);
        let output = offline
            .env("KSHOT_MIRROR", mirror.url("/m"))
            .env(variable, "1")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        for wanted in [
            "KSHOT_OFFLINE",
            "5000 bytes",
            &sha256(&bytes),
            "cache/downloads/toy/a.tgz`",
            "by hand",
        ] {
            assert!(
                stderr(&output).contains(wanted),
                "`{wanted}` is not in: {}",
                stderr(&output)
            );
        }
    }
    assert_eq!(mirror.asked().len(), 0);
    let mut command = user.kshot(&["data", "fetch", "toy"]);
    succeeded(&command.env("KSHOT_MIRROR", mirror.url("/m/")).output().unwrap());

    // The token: of the variable, else of the file that another one names, else of HF_HOME.
    let mut repository = Repository::new("o/n", &[("train.parquet", &bytes), ("test.parquet", &bytes)]);
    repository.token = Some("hf_secret".into());
    let hub = repository.serve();
    let user = User::new();
    user.dataset(
        "toy",
        "folders",
        "directory = \"x\"\n[hub]\nrepo = \"o/n\"\nrevision = \"main\"\n",
    );
    let fetch = |variable: &str, value: &str| {
        let mut command = user.kshot(&["-vv", "data", "fetch", "toy"]);
        let output = command
            .env("HF_ENDPOINT", hub.url(""))
            .env(variable, value)
            .output()
            .unwrap();
        assert!(
            !stderr(&output).contains("hf_secret") && !String::from_utf8_lossy(&output.stdout).contains("hf_secret")
        );
        drop(fs::remove_dir_all(user.path("cache")));
        drop(fs::remove_dir_all(user.path("hf/hub")));
        output.status.success()
    };
    assert!(!fetch("X", "") && !fetch("HF_TOKEN", "hf_other"));
    assert!(fetch("HF_TOKEN", "hf_secret"));
    fs::write(user.path("token"), "hf_secret\n").unwrap();
    assert!(fetch("HF_TOKEN_PATH", user.path("token").to_str().unwrap()));
    fs::create_dir_all(user.path("hf")).unwrap();
    fs::copy(user.path("token"), user.path("hf/token")).unwrap();
    assert!(fetch("X", ""));
}

#[test]
fn proxies_of_the_environment_are_used() {
    let bytes = noise(5_000, 5);
    let served = bytes.clone();
    let server = Server::new(move |request| Reply::file(request, &served));
    let proxy = Proxy::http();
    for (variable, except, asked) in [
        ("HTTP_PROXY", "", 1),
        ("all_proxy", "", 2),
        ("HTTPS_PROXY", "127.0.0.1", 2),
    ] {
        let user = User::new();
        user.dataset(
            "toy",
            "folders",
            &file("archive", "a.tgz", &bytes, &[server.url("/a.tgz")]),
        );
        let mut command = user.kshot(&["data", "fetch", "toy"]);
        succeeded(
            &command
                .env(variable, format!("http://{}", proxy.address))
                .env("NO_PROXY", except)
                .output()
                .unwrap(),
        );
        let seen = proxy.seen.lock().unwrap();
        assert_eq!(seen.len(), asked, "{variable}: {seen:?}");
    }
    // The whole address, as RFC 9112 (3.2.2) has it.
    let seen = proxy.seen.lock().unwrap();
    assert!(
        seen[0].starts_with(&format!("GET {} HTTP/1.1\r\n", server.url("/a.tgz"))),
        "{seen:?}"
    );
}

#[test]
fn a_device_that_is_too_small_is_named() {
    let user = User::new();
    let archive = file("archive", "a.tgz", b"x", &[]).replace("size = 1", "size = 1000000000000000000");
    user.dataset("toy", "folders", &archive);
    let output = user.kshot(&["data", "fetch", "toy"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(
        said.contains("needs 2200000000000000000 bytes more, its device has "),
        "{said}"
    );
    assert!(
        said.contains("cache/downloads/toy`") && said.contains("hint: free some space"),
        "{said}"
    );
}
