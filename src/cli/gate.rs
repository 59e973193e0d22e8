//! `kshot gate`: did any cell really get worse?

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{output, plot};
use crate::error::{Error, Result};
use crate::gate::baseline::accept;
use crate::gate::folder::{Folder, Shared};
use crate::gate::noise::Noise;
use crate::gate::problem::{GateError, Problem, Role};
use crate::gate::report::{self, NoiseSource, Outcome, Report};
use crate::gate::{Settings, baseline, judge};
use crate::store::replacement;

/// Compare results with a baseline, image by image, and say whether any cell really got worse.
///
/// Exit code 0: no loss beyond the margin is shown. 1: one is. 2: something cannot be compared (a missing or torn cell, a
/// changed draw, class list, set of test images, protocol or metric, a red sanity control), or the noise is unknown. If
/// nothing changed, the chance of a red gate is at most the level, whatever the number of cells (Holm). Both folders may
/// be live or promoted.
///
/// Runs that differ without any change of the code (another device or number of threads, a GPU, a service) need --repeat:
/// unchanged runs of the baseline, from which the run-to-run noise is measured. --accept stores it beside the new
/// baseline for later nights, and puts the new baseline in the old one's place in one step. Noise that was not measured
/// is taken to be at most what the baseline's seeds differ by; with one seed it is unknown.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kshot gate results/nightly --baseline results/reference/nightly
  kshot gate results/nightly --baseline results/reference/nightly --junit gate.xml --markdown gate.md
  kshot gate results/nightly --baseline results/reference/nightly --accept")]
pub(super) struct Arguments {
    /// A results folder, as `kshot sweep` writes it.
    results: PathBuf,
    /// What it is compared with: an earlier results folder.
    #[arg(long, value_name = "DIR")]
    baseline: PathBuf,
    /// Results of the baseline's code run again unchanged; may be given several times.
    #[arg(long, value_name = "DIR")]
    repeat: Vec<PathBuf>,
    /// Losses up to here are borne, in percentage points.
    #[arg(long, value_name = "POINTS", default_value_t = 0.5, value_parser = margin)]
    margin: f64,
    /// Chance of a red gate when nothing changed, at most; between 0 and 1.
    #[arg(long, value_name = "P", default_value_t = 0.05, value_parser = level)]
    level: f64,
    /// Write the report with every number to FILE.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report as JUnit XML to FILE, one test case a cell.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write the report as Markdown to FILE.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Make the results the new baseline in DIR, red or green; the first one, if there is none yet.
    #[arg(long)]
    accept: bool,
}

impl Arguments {
    /// All that are read.
    fn folders(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.results, &self.baseline].into_iter().chain(&self.repeat)
    }
}

fn margin(text: &str) -> Result<f64, String> {
    let margin = text.parse().ok().filter(|margin| (0.0..100.0).contains(margin));
    margin.ok_or_else(|| "a number of percentage points from 0".into())
}

fn level(text: &str) -> Result<f64, String> {
    let level = text.parse().ok().filter(|level| *level > 0.0 && *level < 0.5);
    level.ok_or_else(|| "a probability above 0 and below 0.5, such as 0.05".into())
}

/// True when the gate is green, or was opened by accepting.
pub(super) fn run(arguments: &Arguments) -> Result<bool> {
    all_different(arguments)?;
    let folders: Vec<&Path> = arguments.folders().map(PathBuf::as_path).collect();
    // A baseline may be replaced at any time, by `--accept` or `kshot promote`.
    let (results, repeated, baseline, stored) = replacement::steadily(&folders, || read(arguments))?;
    let Some(baseline) = baseline else {
        return accept_first(arguments, &results, &repeated);
    };
    let (noise, source, problems) = if repeated.is_empty() {
        match stored {
            Some(noise) => (noise, NoiseSource::Stored, Vec::new()),
            None => (Noise::default(), NoiseSource::NotMeasured, Vec::new()),
        }
    } else {
        let (noise, problems) = baseline::measure(&baseline, &repeated);
        let folders = arguments.repeat.iter().map(|path| path.display().to_string()).collect();
        (noise, NoiseSource::Repeats { folders }, problems)
    };
    let settings = Settings {
        margin: arguments.margin / 100.0,
        level: arguments.level,
    };
    let report = judge((&results, &baseline), (&noise, source), settings, problems);
    output(&report.text())?;
    write(arguments, &report)?;

    if arguments.accept {
        let measured = (!repeated.is_empty()).then_some(&noise);
        let promoted = promote(arguments, &results, measured, &report.errors)?;
        output(&replaced(&report, &baseline, promoted))?;
        return Ok(true);
    }
    let (results, baseline) = (arguments.results.clone(), arguments.baseline.clone());
    match report.outcome {
        Outcome::Green => Ok(true),
        Outcome::Red => Ok(false),
        Outcome::NoiseUnknown => Err(GateError::NoiseUnknown {
            results,
            baseline,
            cells: report.with(report::CellVerdict::NoiseUnknown).count(),
            remedy: report.how_to_measure(),
        }
        .into()),
        Outcome::Error => Err(GateError::NotJudged {
            results,
            baseline,
            problems: report.errors.len(),
        }
        .into()),
    }
}

/// All folders, as they were at one moment: results, repeats, baseline (`None` where the first one is to be accepted) and the
/// noise that it has stored.
type Read = (Folder, Vec<Folder>, Option<Folder>, Option<Noise>);

fn read(arguments: &Arguments) -> Result<Read> {
    let shared = &mut Shared::default();
    let results = Folder::read(&arguments.results, Role::Results, shared)?;
    let repeats = arguments.repeat.iter();
    let repeated = repeats
        .map(|path| Folder::read(path, Role::Repeat, shared))
        .collect::<Result<_>>()?;
    let current = replacement::current(&arguments.baseline);
    let first = arguments.accept && !current.join("cells").is_dir();
    let baseline = (!first).then(|| Folder::read(&arguments.baseline, Role::Baseline, shared));
    let stored = match first || !arguments.repeat.is_empty() {
        true => None,
        false => Noise::read(&current)?,
    };
    Ok((results, repeated, baseline.transpose()?, stored))
}

/// There is nothing to compare with yet; repeats are those of the results themselves.
fn accept_first(arguments: &Arguments, results: &Folder, repeated: &[Folder]) -> Result<bool> {
    let (noise, mut problems) = baseline::measure(results, repeated);
    problems.extend(results.problems.clone());
    let listed: String = problems
        .iter()
        .map(|p| format!("{} ({}): {}\n", p.kind.name(), p.role.name(), p.finding))
        .collect();
    output(&listed)?;
    let measured = (!repeated.is_empty()).then_some(&noise);
    let promoted = promote(arguments, results, measured, &problems)?;
    output(&format!(
        "Accepted: {promoted} cells are the first baseline in {}.\n",
        arguments.baseline.display()
    ))?;
    Ok(true)
}

/// Number of cells of the new baseline, which has its figure, too.
fn promote(arguments: &Arguments, results: &Folder, noise: Option<&Noise>, problems: &[Problem]) -> Result<usize> {
    let records = accept(results, &arguments.baseline, noise, problems, plot::draw)?;
    if records.len() < results.cells.len() {
        tracing::warn!(
            "{} cells of `{}` are not in its ledger, and not in the new baseline",
            results.cells.len() - records.len(),
            results.path.display()
        );
    }
    Ok(records.len())
}

/// Changes of the baseline.
fn replaced(report: &Report, baseline: &Folder, promoted: usize) -> String {
    let lost = report.with(report::CellVerdict::Loss).count();
    let changed = report
        .cells
        .iter()
        .filter(|cell| cell.verdict != report::CellVerdict::Unchanged)
        .count();
    let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let mut said = format!(
        "{} with other predictions, {lost} with a loss, {} new",
        count(changed, "compared cell"),
        report.new_cells.len()
    );
    if !report.errors.is_empty() {
        said += &format!(", {} above settled", count(report.errors.len(), "error"));
    }
    format!(
        "\nAccepted: {} replace the {} in {}: {said}.\n",
        count(promoted, "cell"),
        baseline.cells.len(),
        baseline.path.display(),
    )
}

fn write(arguments: &Arguments, report: &Report) -> Result<()> {
    if let Some(path) = &arguments.json {
        let json = report.json().map_err(|e| Error::io("write", path)(e.into()))?;
        fs::write(path, json).map_err(Error::io("write", path))?;
    }
    if let Some(path) = &arguments.junit {
        fs::write(path, report.junit()).map_err(Error::io("write", path))?;
    }
    if let Some(path) = &arguments.markdown {
        fs::write(path, report.markdown()).map_err(Error::io("write", path))?;
    }
    Ok(())
}

/// A folder compared with itself would always be green, and as a repeat would make the noise look small.
fn all_different(arguments: &Arguments) -> Result<()> {
    let mut seen = Vec::new();
    for path in arguments.folders() {
        let Ok(real) = fs::canonicalize(path) else { continue };
        if seen.contains(&real) {
            return Err(GateError::SameFolder { path: path.clone() }.into());
        }
        seen.push(real);
    }
    Ok(())
}
