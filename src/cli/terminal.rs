//! Text and bars on stderr: names from files, archives and servers are not trusted with control characters.

use std::borrow::Cow;
use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fmt, io};

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};

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
pub(super) fn tell(text: &str) {
    let _ = io::stderr().write_all(harmless(text).as_bytes());
}

static QUIET: AtomicBool = AtomicBool::new(false);

/// From here on no progress is shown and nothing is said that nobody asked for.
pub(super) fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// True after [`be_quiet`].
pub(super) fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// A bar of its own; hidden where stderr is no terminal.
pub(super) fn bar(bar: ProgressBar) -> ProgressBar {
    if is_quiet() || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    bar
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

/// Bars on stderr where it is a terminal, lines elsewhere.
pub(super) struct Bars {
    pub are_shown: bool,
    bars: MultiProgress,
}

impl Bars {
    pub(super) fn new() -> Self {
        Self {
            are_shown: io::stderr().is_terminal() && !is_quiet(),
            bars: MultiProgress::new(),
        }
    }

    /// A new bar below the others.
    pub(super) fn add(&self, length: u64, template: &str) -> ProgressBar {
        let style = style(template).progress_chars("━╸─");
        self.bars.add(ProgressBar::new(length).with_style(style))
    }

    pub(super) fn remove(&self, bar: &ProgressBar) {
        self.bars.remove(bar);
    }

    /// A line above the bars, about progress.
    pub(super) fn line(&self, text: &str) {
        if !is_quiet() {
            self.warn(text);
        }
    }

    /// A line above the bars that nobody should miss.
    pub(super) fn warn(&self, text: &str) {
        if self.are_shown {
            // A terminal that went away loses only decoration.
            let _ = self.bars.println(harmless(text));
        } else {
            tell(&format!("{text}\n"));
        }
    }
}

/// The style of a template; templates are constants and parse. `{rate}` is in images a second.
pub(super) fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.with_key("rate", |state: &ProgressState, text: &mut dyn fmt::Write| {
        // A rate that cannot be written is decoration that is missing.
        let _ = write!(text, "{:.1} images/s", state.per_sec());
    })
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
