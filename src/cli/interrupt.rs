//! Ctrl-C and SIGTERM: what is lost, and how the work goes on.

use std::io::{self, IsTerminal as _};
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use super::terminal::tell;

/// Lets the process say, when one of the signals ends it, how its work goes on. It dies of the signal as it would without this, so that a
/// loop of the shell ends with it.
pub(super) fn promise(how: &'static str) {
    let listening = Signals::new([SIGINT, SIGTERM]).and_then(|mut signals| {
        let wait = move || {
            for signal in signals.forever() {
                // Below the bars.
                let line_feed = if io::stderr().is_terminal() { "\n" } else { "" };
                tell(&format!("{line_feed}interrupted: {how}\n"));
                // Without it the process would have to be killed: nothing else can be done here.
                let _ = emulate_default_handler(signal);
            }
        };
        thread::Builder::new().name("signals".into()).spawn(wait)
    });
    if let Err(error) = listening {
        // The signals then end the process as they always do.
        tracing::debug!("signals are not listened to: {error}");
    }
}

/// Said of work that finds what it has done.
pub(super) const GOES_ON: &str = "the same command goes on where this one was";
