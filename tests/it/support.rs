//! What the end-to-end tests share: the built binary in a sandbox of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kshot::data::LabelledImage;
use kshot::experiment::config::Sweep;
use kshot::experiment::plan;
use kshot::experiment::plan::{Cell, Places};
use kshot::learner::Classifier;
use kshot::prediction::Prediction;
use tempfile::TempDir;

/// Two classes of learner, one dataset, seconds of work; written in each sandbox as `tiny.toml`.
pub const TINY: &str = r#"
name = "tiny"
datasets = ["mini-pets"]
shots = [1, 2]

[[learner]]
method = "dinov2-lora"
model = "datasets/mini/models/micro-dinov2"
images_per_class = 8
batch = 16
rank = 4

[[learner]]
method = "pixels"
"#;

/// The checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The committed manifests.
pub fn datasets() -> PathBuf {
    root().join("datasets")
}

/// The committed micro model.
pub fn model() -> PathBuf {
    datasets().join("mini/models/micro-dinov2")
}

/// The committed micro model that writes.
pub fn writing_model() -> PathBuf {
    datasets().join("mini/models/micro-qwen3-vl")
}

/// Unpacked datasets, shared by the tests of this build.
pub fn cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache")
}

/// The cells of a config on the committed datasets, with some settings changed.
pub fn cells(config: &str, set: &[&str]) -> Vec<Cell> {
    let overrides: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
    let sweep = Sweep::parse(config, "test", &overrides).unwrap();
    let places = Places {
        home: root().into(),
        datasets: (&datasets()).into(),
        cache: cache(),
        image_cache_gigabytes: None,
        feature_gigabytes: None,
    };
    plan::plan(&sweep, &places).unwrap()
}

/// All predictions of a classifier.
pub fn predict(classifier: &mut dyn Classifier, test: &[LabelledImage]) -> Vec<Prediction> {
    let mut rows = Vec::new();
    classifier
        .predict(test, &mut |batch| {
            rows.extend_from_slice(batch);
            Ok(())
        })
        .unwrap();
    rows
}

/// An empty working folder.
pub struct Sandbox {
    folder: TempDir,
}

impl Sandbox {
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("tiny.toml"), TINY).unwrap();
        Self { folder }
    }

    pub fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join(inside)
    }

    /// A command line of the built binary, working in the sandbox on the committed datasets.
    pub fn kshot(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kshot"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("KSHOT_HOME", root())
            .env("KSHOT_CACHE", cache())
            .env("HF_HOME", self.path("huggingface"))
            .env_remove("HF_HUB_CACHE")
            .env_remove("COLUMNS")
            .env_remove("KSHOT_LOG");
        command
    }

    /// Runs to the end, whatever the exit code.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.kshot(arguments).output().unwrap()
    }

    /// Runs and demands exit code 0; returns stdout.
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// What was said on stderr. The hint of every refusal that a test looks at has to name things that exist.
pub fn stderr(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    crate::hints::check(&said);
    said
}

/// Copies a folder with everything in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// Every file below a folder with its bytes, by relative path.
pub fn contents(folder: &Path) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    fn walk(folder: &Path, base: &Path, into: &mut std::collections::BTreeMap<PathBuf, Vec<u8>>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, base, into);
            } else {
                match fs::read(&path) {
                    Ok(bytes) => into.insert(path.strip_prefix(base).unwrap().to_owned(), bytes),
                    // Gone since it was listed: other processes may be at work.
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
                    Err(e) => panic!("{}: {e}", path.display()),
                };
            }
        }
    }
    let mut files = std::collections::BTreeMap::new();
    walk(folder, folder, &mut files);
    files
}

/// What records of cells that a test runs itself say of their process.
pub const PROVENANCE: kshot::experiment::cell::Provenance<'static> = kshot::experiment::cell::Provenance {
    commit: None,
    threads: 1,
    jobs: 1,
};
