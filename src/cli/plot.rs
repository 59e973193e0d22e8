//! `kshot plot`: figure and tables of stored results, on disk and as text, as a sweep ends with them; `kshot promote`: results made
//! small enough to be committed.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::output;
use crate::comparison::curve::Panel;
use crate::comparison::series::Series;
use crate::comparison::{curve, paired, reliability};
use crate::error::Result;
use crate::fs::file;
use crate::report::summary::summary;
use crate::report::table::Table;
use crate::report::{figure, table};
use crate::store::record::Record;
use crate::store::{Store, promote};

/// Draw `figures/` of a results folder again, write its `tables/`, and print the tables; or draw a figure from its
/// CSV alone, beside it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kshot plot results/quickstart
  kshot plot results/quickstart/figures/accuracy.csv
  kshot plot results/quickstart --format latex > tables.tex")]
pub(super) struct Arguments {
    /// A results folder, as `kshot sweep` writes it, or the CSV of a figure.
    results: PathBuf,
    /// Form of the printed tables.
    #[arg(long, value_enum, default_value_t = Format::Plain)]
    format: Format,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let tables = if arguments.results.is_file() {
        // The accuracies: what a table of curves holds.
        let mut points = figure::redraw(&arguments.results)?;
        points.retain(|point| point.panel == Panel::Dataset);
        vec![table::accuracy(&points)]
    } else {
        let store = Store::open_existing(&arguments.results)?;
        draw(&store, &store.records()?)?.tables
    };
    output(&text(&tables, arguments.format)?)
}

/// Write the compact form of a results folder, with all predictions, and print its table.
///
/// Every finished cell of its ledger.csv goes in: cells/, one predictions.parquet for all of them,
/// sweep.toml, ledger.csv, timings.csv and figures/, but no splits and no adapters. `kshot plot` reads it
/// as it reads any results folder. An older compact form in DIR is replaced in one step: whenever this is killed, DIR is
/// the old form or the new one.
#[derive(Debug, Args)]
#[command(after_help = "Example: kshot promote results/mini-full results/reference/mini-full")]
pub(super) struct PromoteArguments {
    /// A results folder, as `kshot sweep` writes it.
    results: PathBuf,
    /// Where the compact form goes.
    dir: PathBuf,
}

pub(super) fn promote(arguments: &PromoteArguments) -> Result<()> {
    // Drawn from what was written, which is thereby read back once.
    let (records, drawn) = promote::promote(&Store::open_existing(&arguments.results)?, &arguments.dir, draw)?;
    tracing::info!("{} cells are in `{}`", records.len(), arguments.dir.display());
    output(&plain(&drawn.tables))
}

/// A form of tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Aligned, for a terminal; without the longest table.
    Plain,
    /// GitHub-flavoured.
    Markdown,
    /// `table` environments; they need the package booktabs.
    Latex,
    /// Unrounded numbers, ends of intervals in columns of their own; a line with the name before each table.
    Csv,
    /// Unrounded numbers, with columns and notes.
    Json,
}

/// What there is to say of results.
pub(super) struct Drawn {
    /// The tables that have rows.
    pub tables: Vec<Table>,
    /// What of them fits a screen.
    pub summary: String,
    /// From miniature datasets, or by micro models.
    pub micro: bool,
    /// Fewest seeds of a point with examples.
    pub seeds: usize,
}

/// Draws the figure of `records` into the store, writes [all tables](table::all) that have rows beside it and gives them, with
/// their summary.
pub(super) fn draw(store: &Store, records: &[Record]) -> Result<Drawn> {
    let series = Series::load(store, records)?;
    let points = curve::points(&series);
    let with_means = curve::with_means(points.clone(), &series);
    figure::write(&store.figures(), &with_means)?;
    figure::reliability::write(&store.figures(), &reliability::rows(store, &series)?)?;

    let tests = paired::tests(&series, &paired::subjects(&series))?;
    let tables = table::all(&series, &points, &tests)?;
    let seeds = series
        .iter()
        .filter(|series| series.shots.any())
        .map(|series| series.runs.len());
    Ok(Drawn {
        tables: write(&store.folder().join("tables"), tables)?,
        summary: summary(&with_means, &tests),
        micro: series.iter().any(Series::is_micro),
        seeds: seeds.min().unwrap_or(0),
    })
}

/// Writes the tables that have rows, and removes the files of those that have none.
fn write(folder: &Path, tables: Vec<Table>) -> Result<Vec<Table>> {
    file::make_writable_folder(folder)?;
    let (tables, empty): (Vec<Table>, Vec<Table>) = tables.into_iter().partition(|table| !table.rows.is_empty());
    for table in empty {
        file::remove_if_present(&folder.join(table.name).with_extension("csv"))?;
    }
    for table in &tables {
        let path = folder.join(table.name).with_extension("csv");
        file::replace_if_changed(&path, &table.csv(&path)?)?;
    }
    for (format, ending) in [(Format::Markdown, "md"), (Format::Latex, "tex"), (Format::Json, "json")] {
        let path = folder.join("tables").with_extension(ending);
        file::replace_if_changed(&path, text(&tables, format)?.as_bytes())?;
    }
    Ok(tables)
}

/// Tables one below the other.
fn text(tables: &[Table], format: Format) -> Result<String> {
    let joined = |form: fn(&Table) -> String| tables.iter().map(form).collect::<Vec<_>>().join("\n");
    Ok(match format {
        Format::Plain => plain(tables),
        Format::Markdown => joined(Table::markdown),
        Format::Latex => joined(Table::latex),
        Format::Csv => {
            let one = |table: &Table| {
                let csv = table.csv(Path::new("stdout"))?;
                Ok(format!("# {}\n{}", table.name, String::from_utf8_lossy(&csv)))
            };
            tables.iter().map(one).collect::<Result<Vec<_>>>()?.join("\n")
        }
        Format::Json => table::json(tables),
    })
}

/// For a terminal: long tables are only named.
pub(super) fn plain(tables: &[Table]) -> String {
    let one = |table: &Table| match table.long {
        true => format!(
            "{}: {} rows in tables/{}.csv\n",
            table.title,
            table.rows.len(),
            table.name
        ),
        false => table.plain(),
    };
    tables.iter().map(one).collect::<Vec<_>>().join("\n")
}
