//! How a sweep looks while it runs: two bars on a terminal, a line a cell elsewhere.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::terminal::{harmless, tell};
use crate::error::Error;
use crate::experiment::event::Event;
use crate::experiment::plan::Cell;
use crate::experiment::sweep::Progress;
use crate::store::record::Record;

/// Draws to stderr.
pub(super) struct Live {
    terminal: bool,
    bars: MultiProgress,
    all: ProgressBar,
    cell: ProgressBar,
    cells: usize,
    done: usize,
    /// Test images of the running cell: predicted, in all.
    test: (u64, u64),
    started: Instant,
    /// What was said last of cells that others run.
    waiting: Vec<String>,
}

impl Live {
    pub(super) fn new() -> Self {
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

impl Progress for Live {
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
            super::report(error)
        ));
    }

    fn end(&mut self) {
        self.cell.finish_and_clear();
        self.all.finish_and_clear();
    }
}
