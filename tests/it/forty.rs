//! A sweep of 40 tiny cells, to be disturbed in every way, and what must be the same in the end.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::support::{Sandbox, contents};

/// 2 datasets × 2 shots × 2 seeds × 5 learners: three of them train by steps, all predict in batches.
const FORTY: &str = r#"
name = "forty"
datasets = ["mini-pets", "mini-cars"]
shots = [1, 2]
seeds = [0, 1]
checkpoint_steps = 2

[[learner]]
name = "vision"
method = "dinov2-lora"
model = "datasets/mini/models/micro-dinov2"
images_per_class = 8
batch = 16
rank = 4

[[learner]]
name = "narrow"
method = "dinov2-lora"
model = "datasets/mini/models/micro-dinov2"
images_per_class = 4
batch = 8
rank = 2

[[learner]]
name = "writer"
method = "qwen3-vl-lora"
model = "datasets/mini/models/micro-qwen3-vl"
images_per_class = 4
batch = 8
reading = "likelihood"
readings = ["likelihood"]

[[learner]]
method = "pixels"

[[learner]]
method = "knn"
model = "datasets/mini/models/micro-dinov2"
"#;

pub const CELLS: usize = 40;
/// `checkpoint_steps` of the sweep.
pub const CHECKPOINT_STEPS: usize = 2;
/// Room for the features of a few images of the micro model, in 10⁹ bytes.
pub const FEW: &str = "0.0005";
pub const SWEEP: [&str; 3] = ["sweep", "--config", "forty.toml"];

/// An empty working folder with `forty.toml`.
pub fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("forty.toml"), FORTY).unwrap();
    sandbox
}

/// What must be the same to the byte, however a sweep got there: ledger, predictions, splits.
pub fn results(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = contents(folder);
    files.retain(|path, _| {
        path == Path::new("ledger.csv") || path.starts_with("predictions") || path.starts_with("splits")
    });
    files
}

/// The results of a run that nothing disturbed, one cell after the other, made once for all tests.
pub fn undisturbed() -> &'static BTreeMap<PathBuf, Vec<u8>> {
    static RESULTS: OnceLock<BTreeMap<PathBuf, Vec<u8>>> = OnceLock::new();
    RESULTS.get_or_init(|| {
        let sandbox = sandbox();
        sandbox.succeed(&[&SWEEP[..], &["--jobs", "1"]].concat());
        let results = results(&sandbox.path("results/forty"));
        assert_eq!(results.len(), 1 + CELLS + 8);
        results
    })
}

/// The results are those of [`undisturbed`], and nothing of what running leaves behind is there.
pub fn assert_whole(folder: &Path) {
    let (found, expected) = (results(folder), undisturbed());
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(expected));
    for (name, bytes) in expected {
        assert!(found.get(name) == Some(bytes), "{} differs", name.display());
    }
    let left: Vec<PathBuf> = contents(folder)
        .into_keys()
        .filter(|path| {
            let name = path.to_str().unwrap();
            name.starts_with("claims")
                || name.starts_with("states")
                || ["partial", "failed", ".tmp"].iter().any(|word| name.contains(word))
        })
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// Cells that have a record, each with what changes whenever its file is written again.
pub fn finished(folder: &Path) -> BTreeMap<String, (u64, i64, i64)> {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = fs::read_dir(folder.join("cells")) else {
        return BTreeMap::new();
    };
    let mut cells = BTreeMap::new();
    for entry in entries {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if let (Some(run_id), Ok(file)) = (name.strip_suffix(".json"), entry.metadata())
            && !run_id.contains('.')
        {
            cells.insert(run_id.to_owned(), (file.ino(), file.mtime(), file.mtime_nsec()));
        }
    }
    cells
}

/// A process whose stderr is read while it runs.
pub struct Running {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .env("KSHOT_LOG", "kshot=debug")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let lines = Arc::new(Mutex::new(Vec::new()));
        let into = lines.clone();
        let reader = thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                into.lock().unwrap().push(line);
            }
        });
        Self {
            child,
            lines,
            reader: Some(reader),
        }
    }

    pub fn sweep(sandbox: &Sandbox, more: &[&str]) -> Self {
        let arguments: Vec<&str> = SWEEP.iter().chain(more).copied().collect();
        Self::start(sandbox.kshot(&arguments))
    }

    /// A sweep with room for a few images' features: cells of one test set are asked about it together.
    pub fn image_major(sandbox: &Sandbox) -> Self {
        let mut command = sandbox.kshot(&SWEEP);
        command.env("KSHOT_FEATURE_CACHE_GB", FEW);
        Self::start(command)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits until `reached` holds of what was said so far; whether that came before the process's end.
    pub fn until(&mut self, reached: impl Fn(&[String]) -> bool) -> bool {
        loop {
            if reached(&self.lines.lock().unwrap()) {
                return true;
            }
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends a signal, e.g. "-STOP".
    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// SIGKILL; whether it was still running, and all it said.
    pub fn kill(mut self) -> (bool, Vec<String>) {
        let running = self.child.try_wait().unwrap().is_none();
        self.child.kill().unwrap();
        (running, self.end().1)
    }

    /// Waits for the end; all it said.
    pub fn end(&mut self) -> (ExitStatus, Vec<String>) {
        let status = self.child.wait().unwrap();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        (status, self.lines())
    }

    /// Waits for the end and demands exit code 0; all it said.
    pub fn succeed(mut self) -> Vec<String> {
        let (status, lines) = self.end();
        assert!(status.success(), "{status}: {}", lines.join("\n"));
        lines
    }
}

/// Cells that a process ran to their end, by the lines it printed for each.
pub fn ran(lines: &[String]) -> usize {
    let of_cells = lines
        .iter()
        .filter(|line| line.starts_with('[') && line.contains(&format!("/{CELLS}] ")));
    of_cells.filter(|line| line.ends_with(" s")).count()
}
