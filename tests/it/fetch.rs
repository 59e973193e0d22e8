//! Fetching, against a real HTTP server on loopback.

mod faults;
mod hardship;
mod hub;
mod hub_refusals;
pub mod hub_server;
mod kill;
mod model_verb;
mod models;
mod models_refused;
mod official;
mod proxies;
mod resume;
pub mod server;
mod sources;
mod tls;
pub mod verb;
mod wire;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use kshot::error::Result;
use kshot::fetch;
use kshot::fetch::{FetchProgress, Fetched, HubSettings, Policy, Remote};
use kshot::manifest::{Form, Manifest};
use sha2::Digest as _;
use tempfile::TempDir;

fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Bytes without a pattern.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    use rand::RngCore as _;
    let mut bytes = vec![0; length];
    kshot::seed::rng(seed, "test/noise").fill_bytes(&mut bytes);
    bytes
}

/// One dataset of one file, and a machine to fetch it to.
struct Machine {
    folder: TempDir,
    remote: Remote,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let remote = Remote {
            mirror: None,
            hub: HubSettings {
                endpoint: "http://127.0.0.1:9".into(),
                cache: folder.path().join("hub"),
                token: None,
                offline: false,
            },
            policy: Policy {
                first_wait: Duration::from_millis(1),
                longest_wait: Duration::from_millis(4),
                retry_after_second: Duration::from_millis(10),
                proxies: false,
                jitter: 0,
                ..Policy::default()
            },
        };
        Self { folder, remote }
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join(inside)
    }

    /// A manifest of the name `toy`: `rest` is everything after the head.
    fn manifest(&self, rest: &str) -> Manifest {
        self.manifest_of("folders", rest)
    }

    fn manifest_of(&self, layout: &str, rest: &str) -> Manifest {
        let path = self.path("toy.toml");
        let head = format!(
            "name = \"toy\"\ntitle = \"Toy\"\nlayout = \"{layout}\"\nlicence = \"none\"\ncitation = \"nobody\"\n"
        );
        std::fs::write(&path, head + rest).unwrap();
        let mut manifest = Manifest::read(&path).unwrap();
        manifest.downloads = self.path("downloads/toy");
        manifest
    }

    /// One archive that should have these bytes, from these addresses.
    fn archive(&self, bytes: &[u8], urls: &[String]) -> Manifest {
        self.manifest(&format!(
            "[[file]]\nrole = \"archive\"\nname = \"a.tgz\"\nurls = {urls:?}\nsize = {}\nsha256 = \"{}\"\n",
            bytes.len(),
            sha256(bytes)
        ))
    }

    fn fetch(&self, manifest: &Manifest, form: Form) -> (Result<Fetched>, Vec<String>) {
        let notes = Notes::default();
        let outcome = fetch::fetch(manifest, form, &self.remote, &notes);
        (outcome, notes.0.into_inner().unwrap())
    }

    /// Fetches the archive and demands that it has these bytes, and that nothing else stays.
    #[track_caller]
    fn succeed(&self, bytes: &[u8], urls: &[String]) -> Vec<String> {
        let (outcome, notes) = self.fetch(&self.archive(bytes, urls), Form::Archive);
        outcome.unwrap();
        self.assert_whole(bytes);
        notes
    }

    #[track_caller]
    fn assert_whole(&self, bytes: &[u8]) {
        assert!(std::fs::read(self.path("downloads/toy/a.tgz")).unwrap() == bytes);
        assert_eq!(self.downloads(), ["a.tgz"]);
    }

    /// Fetches the archive, which must fail, and gives the reasons of its sources.
    #[track_caller]
    fn refused(&self, bytes: &[u8], urls: &[String]) -> Vec<String> {
        let (outcome, _) = self.fetch(&self.archive(bytes, urls), Form::Archive);
        let error = outcome.unwrap_err();
        assert!(error.hint().is_some());
        let kshot::error::Error::NotFetchable { files, .. } = error else {
            panic!("{error}")
        };
        assert!(!self.path("downloads/toy/a.tgz").exists());
        files
            .into_iter()
            .flat_map(|file| file.sources)
            .map(|(_, reason)| reason)
            .collect()
    }

    /// Names in the dataset's folder of downloads, without the lock.
    fn downloads(&self) -> Vec<String> {
        names(&self.path("downloads/toy"))
    }
}

/// Names of a folder, without locks, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != ".lock");
    names.sort();
    names
}

/// Keeps what was told, and that every file which begins also ends.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl FetchProgress for Notes {
    fn begin(&self, _: &str, size: u64, present: u64) {
        assert!(present <= size);
    }
    fn at(&self, _: &str, _: u64) {}
    fn note(&self, text: &str) {
        self.0.lock().unwrap().push(text.into());
    }
    fn end(&self, _: &str, _: bool) {}
}
