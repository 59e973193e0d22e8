//! A piece of work in a process of its own, with bounds that the kernel enforces.

use std::process::{Command, Output};

/// Bounds of a child.
pub struct Bounds {
    /// Address space: what a runaway allocation runs into.
    pub mebibytes: u64,
    /// Processor time: what an endless loop runs into.
    pub seconds: u64,
    /// Size of any one file it writes.
    pub file_mebibytes: u64,
}

/// Runs the ignored test `worker` of this binary with the arguments in `variable`; the output of a child that
/// was killed has no exit code.
pub fn run(worker: &str, variable: &str, value: &str, bounds: &Bounds) -> Output {
    // Blocks of `ulimit -f` are 512 bytes in POSIX and in dash, 1024 in bash: the looser reading does.
    let script = r#"ulimit -c 0; ulimit -v "$1" && ulimit -t "$2" && ulimit -f "$3" && shift 3 && exec "$@""#;
    Command::new("sh")
        .args(["-c", script, "sh"])
        .args([bounds.mebibytes << 10, bounds.seconds, bounds.file_mebibytes << 11].map(|bound| bound.to_string()))
        .arg(std::env::current_exe().unwrap())
        .args([worker, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(variable, value)
        .env("RAYON_NUM_THREADS", "2")
        .env("MALLOC_ARENA_MAX", "2")
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap()
}

/// What a child said, for a failed test's message.
pub fn said(output: &Output) -> String {
    let text = format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    text.chars().take(4000).collect()
}
