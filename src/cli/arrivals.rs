//! How files come in: a bar each on a terminal, now and then a line elsewhere.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};

use super::terminal::{harmless, tell};
use super::{output, report};
use crate::error::{Error, Result};
use crate::fetch::FetchProgress;

/// Fewest bytes between two lines: smaller files come in too fast to be told of.
const LINE: u64 = 1 << 20;

/// Draws to stderr.
pub(super) struct Live {
    terminal: bool,
    bars: MultiProgress,
    files: Mutex<HashMap<String, File>>,
}

/// A file on its way.
struct File {
    bar: ProgressBar,
    size: u64,
    /// What was there at first, and when.
    from: (u64, Instant),
    /// Bytes that were there at the last line.
    told: u64,
}

impl Live {
    pub(super) fn new() -> Self {
        Self {
            terminal: io::stderr().is_terminal(),
            bars: MultiProgress::new(),
            files: Mutex::default(),
        }
    }

    fn with<R>(&self, name: &str, work: impl FnOnce(&mut File) -> R) -> Option<R> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.get_mut(name).map(work)
    }
}

/// Fetches several things by name and prints what came of each; one that fails does not keep the others from coming.
///
/// # Errors
/// The error of the only one, or how many of `what` failed; a closed stdout.
pub(super) fn fetch_each(what: &'static str, names: &[String], fetch: impl Fn(&str) -> Result<String>) -> Result<()> {
    let mut failed = 0;
    for name in names {
        match fetch(name) {
            Ok(said) => output(&said)?,
            Err(error) if names.len() == 1 => return Err(error),
            Err(error) => {
                failed += 1;
                tell(&report(&error));
            }
        }
    }
    match failed {
        0 => Ok(()),
        _ => Err(Error::SomeNotFetched {
            what,
            failed,
            total: names.len(),
        }),
    }
}

/// Bytes for people.
pub(super) fn amount(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

impl FetchProgress for Live {
    fn begin(&self, name: &str, size: u64, present: u64) {
        let bar = if self.terminal {
            let style = "{bar:30} {prefix} · {bytes}/{total_bytes} · {bytes_per_sec} · ETA {eta}";
            let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(size)
                .with_style(style.progress_chars("━╸─"))
                .with_prefix(harmless(name).into_owned());
            let bar = self.bars.add(bar);
            bar.set_position(present);
            bar.reset_eta();
            bar
        } else {
            let there = if present > 0 {
                format!(", {} of it are there", amount(present))
            } else {
                String::new()
            };
            self.note(&format!("{name}: {}{there}", amount(size)));
            ProgressBar::hidden()
        };
        let file = File {
            bar,
            size,
            from: (present, Instant::now()),
            told: present,
        };
        self.files
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.into(), file);
    }

    fn at(&self, name: &str, bytes: u64) {
        let line = self.with(name, |file| {
            file.bar.set_position(bytes);
            if bytes < file.from.0 {
                file.from = (bytes, Instant::now());
                file.told = bytes;
            }
            let step = (file.size / 10).max(LINE);
            if bytes < file.told + step || bytes == file.size {
                return None;
            }
            file.told = bytes;
            let speed = (bytes - file.from.0) as f64 / file.from.1.elapsed().as_secs_f64().max(1e-3);
            let left = (file.size - bytes) as f64 / speed;
            let percent = 100.0 * bytes as f64 / file.size as f64;
            let speed = amount(speed as u64);
            Some(format!("{name}: {percent:.0} %, {speed}/s, {left:.0} s left"))
        });
        if let Some(line) = line.flatten().filter(|_| !self.terminal) {
            self.note(&line);
        }
    }

    fn note(&self, text: &str) {
        if self.terminal {
            // Above the bars; a terminal that went away loses only decoration.
            let _ = self.bars.println(harmless(text));
        } else {
            tell(&format!("{text}\n"));
        }
    }

    fn end(&self, name: &str, complete: bool) {
        let file = self.files.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        if let Some(file) = file {
            self.bars.remove(&file.bar);
        }
        if complete {
            self.note(&format!("{name}: complete"));
        }
    }
}
