//! The command line: one file a verb. Data goes to stdout, everything else to stderr.
//!
//! Exit codes: 0 success, 1 a check says no, 2 error.

mod bench;
mod check;
mod completions;
mod data;
mod diff;
mod doctor;
mod dry_run;
mod embed;
mod fetch;
mod gate;
mod images;
mod import;
mod init;
mod interrupt;
mod plot;
mod predict;
mod report;
mod serve;
mod sweep;
mod terminal;
mod train;
mod version;

use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::{env, thread};

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::environment::Variable;
use crate::error::{Error, Result};

/// How well does a model classify images with k labelled examples per class?
#[derive(Debug, Parser)]
#[command(name = "kshot", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "kshot --help lists the environment variables too", after_long_help = variables())]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    /// Say more (-v) or much more (-vv) on stderr.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// No progress, no notes and no summary: warnings, errors and what was asked for.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Sweep(sweep::Arguments),
    Run(sweep::RunArguments),
    #[command(subcommand)]
    Data(DataVerb),
    #[command(subcommand)]
    Model(ModelVerb),
    Split(data::SplitArguments),
    Train(train::TrainArguments),
    Eval(train::EvalArguments),
    Predict(predict::Arguments),
    Embed(embed::Arguments),
    Merge(train::MergeArguments),
    Serve(serve::Arguments),
    Plot(plot::Arguments),
    Report(report::Arguments),
    Gate(gate::Arguments),
    Promote(plot::PromoteArguments),
    Verify(check::VerifyArguments),
    Diff(diff::Arguments),
    Control(check::ControlArguments),
    Bench(bench::Arguments),
    Init(init::Arguments),
    Doctor(doctor::Arguments),
    Completions(completions::ShellArguments),
    Man(completions::ManArguments),
}

/// Fetch, import, list, describe and verify datasets.
#[derive(Debug, Subcommand)]
enum DataVerb {
    Fetch(fetch::DataArguments),
    Import(import::Arguments),
    List(data::ListArguments),
    Show(data::ShowArguments),
    Verify(data::VerifyArguments),
}

/// Fetch models of the hub.
#[derive(Debug, Subcommand)]
enum ModelVerb {
    Fetch(fetch::ModelArguments),
}

impl Verb {
    /// Does the work: true unless the verb is one that judges and its check says no. What it says is its own output.
    fn run(&self) -> Result<bool> {
        let done = |()| true;
        match self {
            Self::Sweep(arguments) => sweep::run(arguments).map(done),
            Self::Run(arguments) => sweep::run_one(arguments).map(done),
            Self::Data(DataVerb::Fetch(arguments)) => fetch::data(arguments).map(done),
            Self::Data(DataVerb::Import(arguments)) => import::run(arguments).map(done),
            Self::Data(DataVerb::List(arguments)) => data::list(arguments).map(done),
            Self::Data(DataVerb::Show(arguments)) => data::show(arguments).map(done),
            Self::Data(DataVerb::Verify(arguments)) => data::verify(arguments),
            Self::Model(ModelVerb::Fetch(arguments)) => fetch::model(arguments).map(done),
            Self::Split(arguments) => data::split(arguments).map(done),
            Self::Train(arguments) => train::train(arguments).map(done),
            Self::Eval(arguments) => train::eval(arguments).map(done),
            Self::Predict(arguments) => predict::run(arguments).map(done),
            Self::Embed(arguments) => embed::run(arguments).map(done),
            Self::Merge(arguments) => train::merge(arguments).map(done),
            Self::Serve(arguments) => serve::run(arguments).map(done),
            Self::Plot(arguments) => plot::run(arguments).map(done),
            Self::Report(arguments) => report::run(arguments).map(done),
            Self::Gate(arguments) => gate::run(arguments),
            Self::Promote(arguments) => plot::promote(arguments).map(done),
            Self::Verify(arguments) => check::verify(arguments),
            Self::Diff(arguments) => diff::run(arguments).map(done),
            Self::Control(arguments) => check::control(arguments),
            Self::Bench(arguments) => bench::run(arguments).map(done),
            Self::Init(arguments) => init::run(arguments).map(done),
            Self::Doctor(arguments) => doctor::run(arguments),
            Self::Completions(arguments) => completions::run(arguments).map(done),
            Self::Man(arguments) => completions::man(arguments).map(done),
        }
    }
}

/// Parses the command line, runs the verb, reports an error.
#[must_use]
pub fn main() -> ExitCode {
    // Where it cannot be done the work is merely slower.
    let _ = settle_threads();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return unparsed(&error),
    };
    if arguments.quiet {
        terminal::be_quiet();
    }
    let level = ["warn", "info", "debug"][usize::from(arguments.verbose.min(2))];
    let asked = Variable::Log.text().and_then(|filter| EnvFilter::try_new(filter).ok());
    tracing_subscriber::fmt()
        .with_env_filter(asked.unwrap_or_else(|| level.into()))
        .with_writer(|| terminal::Stderr)
        // Colours would have to be told from what names bring along.
        .with_ansi(false)
        .without_time()
        .init();
    match arguments.verb.run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            terminal::tell(&report(&error));
            ExitCode::from(2)
        }
    }
}

/// The environment variables with their meanings, for the end of the help.
fn variables() -> String {
    let width = Variable::ALL
        .iter()
        .map(|variable| variable.name().len())
        .max()
        .unwrap_or(0);
    let line = |variable: &Variable| format!("  {:width$}  {}", variable.name(), variable.meaning());
    let lines: Vec<String> = Variable::ALL.iter().map(line).collect();
    format!("Environment variables (docs/environment.md):\n{}", lines.join("\n"))
}

/// The message of the command line's parser, in colour where that is shown; names that are no options may hold anything.
fn unparsed(error: &clap::Error) -> ExitCode {
    if error.kind() == ErrorKind::DisplayVersion {
        return match output(&version::text()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(2),
        };
    }
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
    for cause in error.causes() {
        text += &line("cause", cause);
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

/// Items with commas between them.
fn listed(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

/// Writes a value as indented JSON to stdout.
fn output_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::io("write", "stdout")(e.into()))?;
    output(&(text + "\n"))
}

/// candle's own pool waits by spinning, beside rayon's, which does the products: on two cores it made
/// training four times slower. It can be switched off only by this variable, before candle is first used.
const CANDLE: Variable = Variable::CandleThreads;
/// Without it candle reads /proc/cpuinfo at every product.
const RAYON: Variable = Variable::Threads;

/// Milliseconds for which the allocator keeps freed memory before it gives it back to the system; -1: for ever. Every batch wants
/// the same again: kept, what is resident is the same from the first batches on, and nothing waits for the kernel to clear
/// pages. Given back at once it jumps with every batch and the work takes three times as long; by default it creeps up, and a
/// training step of a wide model spends an eighth of its time on cleared pages.
const MIMALLOC: Variable = Variable::PurgeDelay;

/// One thread pool, not two that get in each other's way, and memory that does not creep up over a million images: replaces
/// this process by itself with the variables set, unless they are, since a process cannot safely change its own environment once
/// it has threads.
fn settle_threads() -> io::Result<()> {
    let threads = thread::available_parallelism()?.to_string();
    let mut wanted = vec![(CANDLE, "1"), (RAYON, &threads), (MIMALLOC, "-1")];
    wanted.retain(|(variable, _)| !variable.is_set());
    if wanted.is_empty() {
        return Ok(());
    }
    Err(Command::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        .envs(wanted.into_iter().map(|(variable, value)| (variable.name(), value)))
        .exec())
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
