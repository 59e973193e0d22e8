//! The command line: one file a verb. Data goes to stdout, everything else to stderr.
//!
//! Exit codes: 0 success, 1 a check says no, 2 error.

mod bench;
mod control;
mod data;
mod dry_run;
mod embed;
mod eval;
mod gate;
mod images;
mod merge;
mod model;
mod places;
mod plot;
mod predict;
mod promote;
mod run;
mod split;
mod subject;
mod sweep;
mod terminal;
mod threads;
mod train;
mod verify;

use std::error::Error as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Error, Result};

/// How well does a model classify images with k labelled examples per class?
#[derive(Debug, Parser)]
#[command(name = "kshot", version, propagate_version = true, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    /// Say more (-v) or much more (-vv) on stderr.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Sweep(sweep::Arguments),
    Run(run::Arguments),
    #[command(subcommand)]
    Data(data::Verb),
    #[command(subcommand)]
    Model(model::Verb),
    Split(split::Arguments),
    Train(train::Arguments),
    Eval(eval::Arguments),
    Predict(predict::Arguments),
    Embed(embed::Arguments),
    Merge(merge::Arguments),
    Plot(plot::Arguments),
    Gate(gate::Arguments),
    Promote(promote::Arguments),
    Verify(verify::Arguments),
    Control(control::Arguments),
    Bench(bench::Arguments),
}

/// Verdict of a verb that judges when nothing failed; a verb that only does something ends with `Yes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Exit code 0.
    Yes,
    /// Exit code 1: the verb did its work and a check says no. What it says is the verb's own output.
    No,
}

impl From<bool> for Verdict {
    fn from(passed: bool) -> Self {
        if passed { Self::Yes } else { Self::No }
    }
}

/// Parses the command line, runs the verb, reports an error.
#[must_use]
pub fn main() -> ExitCode {
    threads::settle();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return unparsed(&error),
    };
    let level = ["warn", "info", "debug"][usize::from(arguments.verbose.min(2))];
    let filter = tracing_subscriber::EnvFilter::try_from_env("KSHOT_LOG").unwrap_or_else(|_| level.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| terminal::Stderr)
        // Colours would have to be told from what names bring along.
        .with_ansi(false)
        .without_time()
        .init();
    let done = |()| Verdict::Yes;
    let outcome = match arguments.verb {
        Verb::Sweep(arguments) => sweep::run(&arguments).map(done),
        Verb::Run(arguments) => run::run(&arguments).map(done),
        Verb::Data(verb) => data::run(&verb),
        Verb::Model(verb) => model::run(&verb).map(done),
        Verb::Split(arguments) => split::run(&arguments).map(done),
        Verb::Train(arguments) => train::run(&arguments).map(done),
        Verb::Eval(arguments) => eval::run(&arguments).map(done),
        Verb::Predict(arguments) => predict::run(&arguments).map(done),
        Verb::Embed(arguments) => embed::run(&arguments).map(done),
        Verb::Merge(arguments) => merge::run(&arguments).map(done),
        Verb::Gate(arguments) => gate::run(&arguments),
        Verb::Plot(arguments) => plot::run(&arguments).map(done),
        Verb::Promote(arguments) => promote::run(&arguments).map(done),
        Verb::Verify(arguments) => verify::run(&arguments),
        Verb::Control(arguments) => control::run(&arguments),
        Verb::Bench(arguments) => bench::run(&arguments).map(done),
    };
    match outcome {
        Ok(Verdict::Yes) => ExitCode::SUCCESS,
        Ok(Verdict::No) => ExitCode::from(1),
        Err(error) => {
            terminal::tell(&report(&error));
            ExitCode::from(2)
        }
    }
}

/// The message of the command line's parser, in colour where that is shown; names that are no options may hold anything.
fn unparsed(error: &clap::Error) -> ExitCode {
    let plain = error.render().to_string();
    if error.use_stderr() && terminal::harmless(&plain) != plain {
        terminal::tell(&plain);
        return ExitCode::from(2);
    }
    error.exit()
}

/// `error:` and `cause:` lines, then a blank line and `hint:` lines. Further lines of a message are indented, so that no
/// name with a line feed in it looks like a line of kshot's.
fn report(error: &Error) -> String {
    let line = |label: &str, message: &dyn std::fmt::Display| {
        let message = message.to_string();
        let mut lines = message.lines();
        let first = lines.next().unwrap_or("");
        let rest: String = lines.map(|line| format!("\n{}", indented(line))).collect();
        format!("{label}: {first}{rest}\n")
    };
    let mut text = line("error", error);
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &line("cause", error);
        cause = error.source();
    }
    if let Some(hint) = error.hint() {
        text += "\n";
        text += &line("hint", &hint);
    }
    text
}

fn indented(line: &str) -> String {
    let looks_like_ours = ["error:", "cause:", "hint:"]
        .iter()
        .any(|label| line.starts_with(label));
    format!("{}{line}", if looks_like_ours { "  " } else { "" })
}

/// Writes text or JSON to stdout. A reader that has gone away (`kshot … | head`) is no error.
fn output(text: &str) -> Result<()> {
    match io::stdout()
        .write_all(terminal::harmless(text).as_bytes())
        .and_then(|()| io::stdout().flush())
    {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(Error::io("write to", "stdout")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_report_names_error_cause_and_hint() {
        let error = Error::Io {
            action: "write",
            path: "results/x".into(),
            source: io::Error::from(io::ErrorKind::StorageFull),
        };
        let text = report(&error);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "error: cannot write `results/x`");
        assert!(
            lines[1].starts_with("cause: ") && lines[2].is_empty() && lines[3].starts_with("hint: "),
            "{text}"
        );
    }
}
