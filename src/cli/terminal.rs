//! Text and progress on stderr: names from files, archives and servers are not trusted with control characters; bars on a
//! terminal, lines elsewhere.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};

use crate::cli::{output, report};
use crate::error::{Error, Result};
use crate::experiment::event::Event;
use crate::experiment::plan::Cell;
use crate::experiment::sweep::Progress;
use crate::fetch::FetchProgress;
use crate::store::record::Record;

/// True if a character changes how others are shown, or what the terminal does: control characters other than line feed
/// and tab, and those that turn the direction of writing.
fn acts(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\t'))
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with such characters written as `\u001b`. That is how JSON writes them too: JSON stays what it was.
pub(super) fn harmless(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) {
            shown += &format!("\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    shown.into()
}

/// Text for stderr. If it is gone there is nobody left to tell.
pub(in crate::cli) fn tell(text: &str) {
    let _ = io::stderr().write_all(harmless(text).as_bytes());
}

/// Stderr for what writes bytes, whole lines at a time.
pub(super) struct Stderr;

impl io::Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(harmless(&String::from_utf8_lossy(bytes)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Fewest bytes between two lines: smaller files come in too fast to be told of.
const LINE: u64 = 1 << 20;

/// Draws to stderr.
pub(super) struct DownloadBars {
    terminal: bool,
    bars: MultiProgress,
    files: Mutex<HashMap<String, FileBar>>,
}

/// A file on its way.
struct FileBar {
    bar: ProgressBar,
    size: u64,
    /// Bytes that were there at first, and the time.
    from: (u64, Instant),
    /// Bytes that were there at the last line.
    told: u64,
}

impl DownloadBars {
    pub(crate) fn new() -> Self {
        Self {
            terminal: io::stderr().is_terminal(),
            bars: MultiProgress::new(),
            files: Mutex::default(),
        }
    }

    fn with<R>(&self, name: &str, work: impl FnOnce(&mut FileBar) -> R) -> Option<R> {
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

impl FetchProgress for DownloadBars {
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
        let file = FileBar {
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

/// Draws to stderr.
pub(super) struct SweepBars {
    terminal: bool,
    bars: MultiProgress,
    all: ProgressBar,
    cell: ProgressBar,
    cells: usize,
    done: usize,
    /// Test images of the running cell: predicted, in all.
    test: (u64, u64),
    started: Instant,
    /// The last lines about cells that others run.
    waiting: Vec<String>,
}

impl SweepBars {
    pub(crate) fn new() -> Self {
        let hidden = ProgressBar::hidden();
        Self {
            terminal: io::stderr().is_terminal(),
            bars: MultiProgress::new(),
            all: hidden.clone(),
            cell: hidden,
            cells: 0,
            done: 0,
            test: (0, 0),
            started: Instant::now(),
            waiting: Vec::new(),
        }
    }

    fn line(&self, text: &str) {
        if self.terminal {
            // Above the bars; a terminal that went away loses only decoration.
            let _ = self.bars.println(harmless(text));
        } else {
            tell(&format!("{text}\n"));
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─")
}

impl Progress for SweepBars {
    fn begin(&mut self, cells: usize, finished: usize, images: u64) {
        (self.cells, self.done, self.started) = (cells, finished, Instant::now());
        if finished > 0 {
            self.line(&format!("{finished} of {cells} cells are finished already"));
        }
        if self.terminal && finished < cells {
            let all = style("{bar:30} {prefix} · {human_pos}/{human_len} images · {per_sec} · ETA {eta}");
            self.all = self.bars.add(ProgressBar::new(images).with_style(all));
            self.all.enable_steady_tick(Duration::from_millis(200));
            let cell = style("{bar:30} {prefix} · {pos}/{len} {msg}");
            self.cell = self.bars.add(ProgressBar::new(0).with_style(cell));
        }
    }

    fn start(&mut self, cell: &Cell) {
        self.all.set_prefix(format!("cell {}/{}", self.done + 1, self.cells));
        self.cell.reset();
        self.cell.set_prefix(harmless(&cell.key.to_string()).into_owned());
        self.test = (0, cell.split.test.len() as u64);
        self.cell.set_length(self.test.1);
        self.cell.set_message("");
    }

    fn together(&mut self, cells: usize) {
        self.cell.reset();
        self.cell.set_prefix(format!("{cells} cells together"));
        self.test.1 *= cells as u64;
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Trained(step) => {
                self.all.inc(step.images as u64);
                self.cell.set_length(step.of as u64);
                self.cell.set_position(step.done as u64);
                self.cell.set_message(format!("steps · loss {:.3}", step.loss));
                if step.done == step.of {
                    self.cell.set_message("steps done, predicting");
                }
            }
            Event::Predicted(images) => {
                self.all.inc(images as u64);
                self.test.0 += images as u64;
                self.cell.set_length(self.test.1);
                self.cell.set_position(self.test.0);
                self.cell.set_message("images predicted");
            }
            Event::Complete => {}
        }
    }

    fn finish(&mut self, record: &Record) {
        self.done += 1;
        let seconds = record.timing.train_seconds + record.timing.eval_seconds;
        self.line(&format!(
            "[{}/{}] {} · {:.1} % · {seconds:.1} s",
            self.done,
            self.cells,
            record.key,
            100.0 * record.value()
        ));
    }

    fn found(&mut self, record: &Record, cell: &Cell) {
        self.done += 1;
        self.all.inc(cell.images());
        self.line(&format!(
            "[{}/{}] {} · {:.1} % · by another process",
            self.done,
            self.cells,
            record.key,
            100.0 * record.value()
        ));
    }

    fn lose(&mut self, cell: &Cell, error: &Error) {
        let hint = error.hint().unwrap_or_default();
        self.line(&format!("{} · dropped: {error}; {hint}", cell.key));
    }

    fn wait(&mut self, others: &[(&Cell, String)]) {
        let waiting: Vec<String> = others
            .iter()
            .map(|(cell, owner)| format!("waiting for {} · run by {owner}", cell.key))
            .collect();
        for line in &waiting {
            if !self.waiting.contains(line) {
                self.line(line);
            }
        }
        self.cell.reset();
        self.cell
            .set_prefix(format!("waiting for {} cells of others", others.len()));
        self.waiting = waiting;
    }

    fn fail(&mut self, cell: &Cell, error: &Error) {
        self.done += 1;
        self.line(&format!(
            "[{}/{}] {} · FAILED\n{}",
            self.done,
            self.cells,
            cell.key,
            crate::cli::report(error)
        ));
    }

    fn end(&mut self) {
        self.cell.finish_and_clear();
        self.all.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_written_out_and_nothing_else_changes() {
        assert_eq!(
            harmless("a\u{1b}[31mb\u{9b}2J\u{7}\r\u{202e}"),
            "a\\u001b[31mb\\u009b2J\\u0007\\u000d\\u202e"
        );
        for kept in ["", "plain\n\ttext", "Größe · 5 × 7 — 犬 🐕", "a\u{200d}b"] {
            assert!(matches!(harmless(kept), Cow::Borrowed(same) if same == kept));
        }
        let json = "{\"a\":\"\u{9b}\"}";
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(read(&harmless(json)), read(json));
    }
}
