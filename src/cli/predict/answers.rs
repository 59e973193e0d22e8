//! Answers on the disk, batch by batch, so that a long run goes on where it was cut short.
//!
//! `FILE` has one JSON object a line and nothing else; `FILE.settings`, written before the first answer, says what they were
//! made with. Going on, the answers that are there are compared with the images that are asked about, in order; those of whole
//! batches are kept, what a kill left behind them is cut off.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::cli::ahead::Batches;
use crate::error::{Error, Result};
use crate::fs::file;

/// The answers so far.
pub(super) struct Answers {
    path: PathBuf,
    file: File,
}

/// What was there already.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) answers: usize,
    /// Of them, those that say why there is none.
    pub(super) failed: usize,
    /// The images of the batch that comes next, taken from those that were given.
    pub(super) next: Option<Vec<PathBuf>>,
}

/// What an answer is about.
#[derive(Deserialize)]
struct About {
    image: String,
    error: Option<String>,
}

impl Answers {
    /// Opens a file to append to; it is locked as long as it is open.
    ///
    /// # Errors
    /// [`Error::Continue`] when it has answers made with other settings, or another process is writing it; [`Error::Io`].
    pub(super) fn open(path: &Path, settings: &Value) -> Result<Self> {
        let fail = |reason: String| Error::Continue {
            path: path.to_path_buf(),
            reason,
        };
        if path.exists() && !path.is_file() {
            return Err(fail("it is no file".into()));
        }
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        let file = opened.map_err(Error::io("write", path))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(fail("another process is writing it".into())),
            // Not every file system has locks; without them nobody can tell.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let beside = beside(path);
        let has_answers = file.metadata().is_ok_and(|file| file.len() > 0);
        match file::read_if_present(&beside)? {
            None if has_answers => return Err(fail(format!("`{}` is not there", beside.display()))),
            Some(bytes) if has_answers => {
                let old: Value = serde_json::from_slice(&bytes)
                    .map_err(|e| fail(format!("`{}` is damaged: {e}", beside.display())))?;
                let others = differing(&old, settings);
                if !others.is_empty() {
                    return Err(fail(format!(
                        "its answers were made with another {}",
                        others.join(", another ")
                    )));
                }
            }
            _ => {
                let text = serde_json::to_string_pretty(settings).unwrap_or_default() + "\n";
                file::replace(&beside, text.as_bytes())?;
            }
        }
        tracing::debug!("`{}` is open", path.display());
        Ok(Self {
            path: path.to_path_buf(),
            file,
        })
    }

    /// Takes from `batches` those whose answers are whole, and cuts off what comes after them.
    ///
    /// # Errors
    /// [`Error::Continue`] when the answers are about other images, or there are more of them; as the batches.
    pub(super) fn keep(&mut self, batches: &mut Batches) -> Result<Kept> {
        let fail = |reason: String| Error::Continue {
            path: self.path.clone(),
            reason,
        };
        let mut reader = BufReader::with_capacity(1 << 20, &self.file);
        let (mut kept, mut length, mut line) = (Kept::default(), 0, Vec::new());
        for batch in batches {
            let batch = batch?;
            let (mut whole, mut failed, mut bytes) = (0, 0, 0);
            for path in &batch {
                line.clear();
                reader
                    .read_until(b'\n', &mut line)
                    .map_err(Error::io("read", &self.path))?;
                if !line.ends_with(b"\n") {
                    break; // the end, or the line that a killed process was writing
                }
                let number = kept.answers + whole + 1;
                let about: About =
                    serde_json::from_slice(&line).map_err(|e| fail(format!("line {number} is no answer: {e}")))?;
                if about.image != path.display().to_string() {
                    let (found, asked) = (about.image, path.display());
                    return Err(fail(format!(
                        "line {number} is about `{found}` where the images that are given have `{asked}`"
                    )));
                }
                whole += 1;
                failed += usize::from(about.error.is_some());
                bytes += line.len() as u64;
            }
            if whole < batch.len() {
                kept.next = Some(batch);
                break;
            }
            kept.answers += whole;
            kept.failed += failed;
            length += bytes;
        }
        if kept.next.is_none() {
            line.clear();
            reader
                .read_until(b'\n', &mut line)
                .map_err(Error::io("read", &self.path))?;
            if line.ends_with(b"\n") {
                return Err(fail(format!(
                    "it has more answers than the {} images that are given",
                    kept.answers
                )));
            }
        }
        let cut = self
            .file
            .set_len(length)
            .and_then(|()| self.file.seek(SeekFrom::End(0)));
        cut.map_err(Error::io("write", &self.path))?;
        Ok(kept)
    }

    /// Appends the lines of a batch and returns when they are on the disk.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn append(&mut self, lines: &str) -> Result<()> {
        let written = self
            .file
            .write_all(lines.as_bytes())
            .and_then(|()| self.file.sync_data());
        written.map_err(Error::io("write", &self.path))
    }
}

/// `FILE.settings`.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or(OsStr::new("answers")).to_owned();
    name.push(".settings");
    path.with_file_name(name)
}

/// Names of what differs.
fn differing(old: &Value, new: &Value) -> Vec<String> {
    let names = |value: &Value| -> Vec<String> {
        value
            .as_object()
            .map_or_else(Vec::new, |fields| fields.keys().cloned().collect())
    };
    let mut all = names(new);
    all.extend(names(old));
    all.sort_unstable();
    all.dedup();
    all.retain(|name| old.get(name) != new.get(name));
    all
}
