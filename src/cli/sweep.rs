//! `kshot sweep`, the main job, and `kshot run`, one cell of it; the options by which verbs name a sweep (`--config`, `--set` and
//! `--results`); the progress of cells.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use candle_core::Device;
use clap::Args;
use indicatif::ProgressBar;

use super::plot::Drawn;
use super::terminal::{Bars, harmless, is_quiet};
use super::version::COMMIT;
use super::{dry_run, interrupt, output, plot, report};
use crate::error::{Error, Result};
use crate::experiment::cell::Event;
use crate::experiment::config::{QUICKSTART, Sweep};
use crate::experiment::estimate;
use crate::experiment::folder as results;
use crate::experiment::plan::{self, Cell, Places};
use crate::experiment::sweep::{self, Progress, Shard, Sweeper};
use crate::nn::memory;
use crate::store::Store;
use crate::store::claim::{Claims, LONGEST_LEASE};
use crate::store::record::{CellKey, Record};

/// Train and evaluate every cell of datasets × shots × seeds × learners that is not finished yet, then
/// draw the figure, write the tables and print a summary.
///
/// A sweep that adds datasets, shots, seeds or learners to the results of another, or runs a part of it, extends the same folder;
/// one with other settings needs a folder of its own (--results), or takes this one (--replace).
///
/// Any number of processes, on any machines that share the results folder, may run the same sweep at once: each cell
/// is run by one of them, and the cells of one that dies are taken over.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kshot sweep                                       the embedded quickstart
  kshot sweep --config configs/mini-full.toml
  kshot sweep --set name=rank-8 --set learner.0.rank=8 --dry-run
  kshot sweep --config configs/mini-full.toml --shard $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT
                                                    one task of a job array, see configs/cluster/")]
pub(super) struct Arguments {
    #[command(flatten)]
    config: Config,
    /// Run only cells I, I+N, I+2N, … of the plan, I from 0 to N-1; table and figure are of all that are finished.
    #[arg(long, value_name = "I/N", default_value = "0/1", hide_default_value = true)]
    shard: Shard,
    #[command(flatten)]
    lease: Lease,
    /// Cells that run side by side, each on its share of the threads [default: on a CPU as many as there are threads and memory
    /// for, on a GPU 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Check everything, list the cells and estimate hours, memory and disk, but train nothing and write no results. Datasets and
    /// models that are not on this machine yet are estimated by their manifests and names.
    #[arg(long)]
    dry_run: bool,
    /// The same as JSON.
    #[arg(long, requires = "dry_run")]
    json: bool,
    /// Print all tables in place of the summary; their files are written in any case.
    #[arg(long)]
    tables: bool,
    /// Begin the folder anew: remove its cells that are none of this sweep's. Without it they stay where they belong to the same
    /// experiment, and else the sweep is refused.
    #[arg(long, conflicts_with = "dry_run")]
    replace: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let places = Places::from_env();
    let (asked, folder) = arguments.config.read()?;
    if arguments.dry_run {
        return dry_run::run(&asked, &places, &folder, arguments.shard, arguments.json);
    }
    interrupt::promise(interrupt::GOES_ON);
    let mut cells = plan::plan(&asked, &places)?;
    let store = Store::open(&folder)?;
    if arguments.replace {
        results::replace(&cells, &store)?;
    }
    let sweep = results::joined(&asked, &mut cells, &store)?;
    let jobs = arguments.jobs.map_or_else(|| jobs(&cells, &places), usize::from);
    let claims = arguments.lease.claims(&folder)?;
    let mut bars = SweepBars::new();
    let failed = Sweeper::new(&sweep, &store, claims, COMMIT, &mut bars, jobs).run(&cells, arguments.shard)?;
    let drawn = sweep::conclude(&asked, &cells, &store, |records| match records {
        [] => Ok(None),
        records => plot::draw(&store, records).map(Some),
    })?;
    if let Some(drawn) = drawn {
        if arguments.tables {
            output(&plot::plain(&drawn.tables))?;
        } else if !is_quiet() {
            output(&ending(&drawn, &folder, &asked, &arguments.config))?;
        }
    }
    if failed > 0 {
        return Err(Error::CellsFailed {
            failed,
            total: arguments.shard.part(&cells).count(),
        });
    }
    Ok(())
}

/// The summary of the results, where they are, and what to do next.
fn ending(drawn: &Drawn, folder: &Path, sweep: &Sweep, config: &Config) -> String {
    let mut text = format!("{}\n", drawn.summary);
    for (name, file) in [
        ("figure", "figures/accuracy.svg"),
        ("tables", "tables/tables.md"),
        ("ledger", "ledger.csv"),
    ] {
        text += &format!("{name}  {}\n", folder.join(file).display());
    }
    let next = if drawn.micro && sweep.is_quickstart() {
        "kshot data import DIR --name NAME    your own images, a folder for each class".to_owned()
    } else if drawn.seeds < CLAIM_SEEDS && sweep.seeds.len() < CLAIM_SEEDS {
        let seeds: Vec<String> = (0..CLAIM_SEEDS).map(|seed| seed.to_string()).collect();
        format!("{} --set 'seeds=[{}]'", config.command("sweep"), seeds.join(", "))
    } else {
        format!("kshot verify {}", folder.display())
    };
    text + &format!("next    {next}\n")
}

/// Seeds that a claim takes.
const CLAIM_SEEDS: usize = 5;

/// Train and evaluate one cell of a sweep and print its key, accuracy and record.
///
/// May be called again and again: a finished cell is not run again, one that was cut short goes on where it was, and
/// one that another process runs is waited for. Tables, figures and the ledger are not made: `kshot sweep` with the
/// same config makes them once the cells are finished, and `kshot plot` draws them again.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kshot sweep --config configs/mini-full.toml --dry-run            the cells with their RUN_ID
  kshot run --config configs/mini-full.toml --cell 0123456789abcdef")]
pub(super) struct RunArguments {
    #[command(flatten)]
    config: Config,
    /// The cell, as `kshot sweep --dry-run` lists it.
    #[arg(long, value_name = "RUN_ID")]
    cell: String,
    #[command(flatten)]
    lease: Lease,
}

pub(super) fn run_one(arguments: &RunArguments) -> Result<()> {
    let places = Places::from_env();
    let (asked, folder) = arguments.config.read()?;
    interrupt::promise(interrupt::GOES_ON);
    let mut cells = plan::plan(&asked, &places)?;
    let store = Store::open(&folder)?;
    let sweep = results::joined(&asked, &mut cells, &store)?;
    let cell = cells.iter().find(|cell| cell.run_id == arguments.cell);
    let cell = cell.ok_or_else(|| Error::UnknownCell {
        run_id: arguments.cell.clone(),
        cells: cells.len(),
    })?;
    store.write_sweep_config(&sweep.to_toml()?)?;
    let claims = arguments.lease.claims(&folder)?;
    let mut bars = SweepBars::new();
    let record = Sweeper::new(&sweep, &store, claims, COMMIT, &mut bars, 1).run_one(cell)?;
    let path = store.cell_path(&record.run_id);
    output(&format!(
        "{} · {:.1} % · {}\n",
        record.key,
        100.0 * record.value(),
        path.display()
    ))
}

#[derive(Debug, Args)]
pub(super) struct Config {
    /// The sweep; without it, `configs/quickstart.toml` as of the build.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Change a value of the config: path.to.field=value, list items by number.
    #[arg(long, value_name = "A.B=V")]
    set: Vec<String>,
    /// Folder of this sweep's results [default: results/<name of the sweep>].
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
}

impl Config {
    /// The sweep, and the folder of its results.
    pub(super) fn read(&self) -> Result<(Sweep, PathBuf)> {
        let (text, origin) = match &self.config {
            Some(path) => (
                fs::read_to_string(path).map_err(Error::io("read", path))?,
                path.display().to_string(),
            ),
            None => (QUICKSTART.to_owned(), "configs/quickstart.toml".to_owned()),
        };
        let sweep = Sweep::parse(&text, &origin, &self.set)?;
        let folder = self.results.clone();
        let folder = folder.unwrap_or_else(|| Path::new("results").join(&sweep.name));
        Ok((sweep, folder))
    }

    /// The same options for another verb.
    pub(super) fn command(&self, verb: &str) -> String {
        let mut command = format!("kshot {verb}");
        let mut add = |option: &str, value: String| command += &format!(" {option} {value}");
        if let Some(config) = &self.config {
            add("--config", config.display().to_string());
        }
        self.set.iter().for_each(|set| add("--set", format!("'{set}'")));
        if let Some(results) = &self.results {
            add("--results", results.display().to_string());
        }
        command
    }
}

/// Cells at once where nothing is said. Small models gain most by one thread a cell; a GPU has all threads busy with one.
fn jobs(cells: &[Cell], places: &Places) -> usize {
    if cells.iter().any(|cell| !cell.place.device.is_cpu()) {
        return 1;
    }
    let free = memory::free(&Device::Cpu).ok().flatten();
    let fitting = match (free, estimate::beside(cells, &places.home)) {
        (Some(free), Some(each)) => free / each.max(1),
        _ => 1,
    };
    rayon::current_num_threads().min(fitting as usize).max(1)
}

/// Time for which a process may be silent.
#[derive(Debug, Args)]
struct Lease {
    /// A process that gives no sign of life for so long loses its cell to another one.
    #[arg(long = "lease", value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=LONGEST_LEASE))]
    seconds: u64,
}

impl Lease {
    fn claims(&self, folder: &Path) -> Result<Claims> {
        Claims::open(folder, Duration::from_secs(self.seconds))
    }
}

/// The progress of a sweep: a bar for all of it, and one for each cell that runs.
struct SweepBars {
    bars: Bars,
    all: ProgressBar,
    running: HashMap<String, Running>,
    cells: usize,
    done: usize,
    /// The last lines about cells that others run.
    waiting: Vec<String>,
}

/// A cell that runs.
struct Running {
    bar: ProgressBar,
    /// Test images that are predicted.
    predicted: u64,
}

impl SweepBars {
    fn new() -> Self {
        Self {
            bars: Bars::new(),
            all: ProgressBar::hidden(),
            running: HashMap::new(),
            cells: 0,
            done: 0,
            waiting: Vec::new(),
        }
    }

    /// Counts a cell and gives the line that tells how it ended.
    fn count(&mut self, run_id: &str, key: &CellKey, end: &str) -> String {
        self.stop(run_id);
        self.done += 1;
        format!("[{}/{}] {key} · {end}", self.done, self.cells)
    }

    fn stop(&mut self, run_id: &str) {
        if let Some(cell) = self.running.remove(run_id) {
            self.bars.remove(&cell.bar);
        }
    }

    /// A bar below the others, if bars are shown.
    fn bar(&self, length: u64, style: &str) -> ProgressBar {
        match self.bars.are_shown {
            true => self.bars.add(length, style),
            false => ProgressBar::hidden(),
        }
    }
}

impl Progress for SweepBars {
    fn begin(&mut self, cells: usize, finished: usize, images: u64) {
        (self.cells, self.done) = (cells, finished);
        if finished > 0 {
            self.bars
                .line(&format!("{finished} of {cells} cells are finished already"));
        }
        if finished < cells {
            let all = "{bar:30} {prefix} · {human_pos}/{human_len} images · {rate} · ETA {eta}";
            self.all = self.bar(images, all);
            self.all.enable_steady_tick(Duration::from_millis(200));
        }
    }

    fn start(&mut self, cell: &Cell) {
        self.all.set_prefix(format!("cell {}/{}", self.done + 1, self.cells));
        let bar = self.bar(cell.split.test.len() as u64, "{bar:30} {prefix} · {pos}/{len} {msg}");
        bar.set_prefix(harmless(&cell.key.to_string()).into_owned());
        self.running.insert(cell.run_id.clone(), Running { bar, predicted: 0 });
    }

    fn event(&mut self, cell: &Cell, event: Event) {
        let Some(Running { bar, predicted }) = self.running.get_mut(&cell.run_id) else {
            return;
        };
        match event {
            Event::Trained(step) => {
                self.all.inc(step.images as u64);
                bar.set_length(step.of as u64);
                bar.set_position(step.done as u64);
                bar.set_message(format!("steps · loss {:.3}", step.loss));
                if step.done == step.of {
                    bar.set_message("steps done, predicting");
                }
            }
            Event::Predicted(images) => {
                self.all.inc(images as u64);
                *predicted += images as u64;
                bar.set_length(cell.split.test.len() as u64);
                bar.set_position(*predicted);
                bar.set_message("images predicted");
            }
            Event::Complete => {}
        }
    }

    fn finish(&mut self, record: &Record) {
        let seconds = record.timing.train_seconds + record.timing.eval_seconds;
        let end = format!("{:.1} % · {seconds:.1} s", 100.0 * record.value());
        let line = self.count(&record.run_id, &record.key, &end);
        self.bars.line(&line);
    }

    fn found(&mut self, record: &Record, cell: &Cell) {
        self.all.inc(cell.images());
        let end = format!("{:.1} % · by another process", 100.0 * record.value());
        let line = self.count(&record.run_id, &record.key, &end);
        self.bars.line(&line);
    }

    fn lose(&mut self, cell: &Cell, error: &Error) {
        self.stop(&cell.run_id);
        let hint = error.hint().unwrap_or_default();
        self.bars.warn(&format!("{} · dropped: {error}; {hint}", cell.key));
    }

    fn wait(&mut self, others: &[(&Cell, String)]) {
        let waiting: Vec<String> = others
            .iter()
            .map(|(cell, owner)| format!("waiting for {} · run by {owner}", cell.key))
            .collect();
        for line in &waiting {
            if !self.waiting.contains(line) {
                self.bars.line(line);
            }
        }
        self.all
            .set_prefix(format!("waiting for {} cells of others", others.len()));
        self.waiting = waiting;
    }

    fn fail(&mut self, cell: &Cell, error: &Error) {
        let line = self.count(&cell.run_id, &cell.key, &format!("FAILED\n{}", report(error)));
        self.bars.warn(&line);
    }

    fn end(&mut self) {
        self.all.finish_and_clear();
    }
}
