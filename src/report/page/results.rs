//! What a page shows of one results folder: figures, curves, tables, cells with their costs and hashes, data and shots.

use std::collections::BTreeSet;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::comparison::curve::Point;
use crate::comparison::series::Series;
use crate::comparison::{curve, paired, reliability};
use crate::config::{Protocol, Shots};
use crate::error::{Error, Result};
use crate::fs::file;
use crate::report::figure;
use crate::report::page::answers;
use crate::report::page::answers::{ClassLists, Group, Room, SeriesView};
use crate::report::page::pictures::{Pictures, Place, Wanted};
use crate::report::table;
use crate::report::table::{Kind, Table};
use crate::store::Store;
use crate::store::control::Controls;
use crate::store::record::Record;

/// Shots of a split that are shown, at most.
const SHOTS: usize = 1_600;

/// A results folder that was read.
pub(super) struct Folder<'a> {
    name: &'a str,
    store: &'a Store,
    pub(super) series: Vec<Series>,
}

/// What the page holds of it.
#[derive(Serialize)]
pub(super) struct Results {
    name: String,
    /// Command that makes these results again, where the sweep's config is stored.
    command: Option<String>,
    config: Option<String>,
    /// Said of micro models.
    caveat: Option<&'static str>,
    /// Data URI of the SVG.
    figure: String,
    points: Vec<Point>,
    tables: Vec<TableView>,
    /// Data URI of the SVG; `None` where no learner has probabilities.
    reliability: Option<String>,
    series: Vec<SeriesView>,
    groups: Vec<Group>,
    cells: Vec<Cell>,
    data: Vec<Data>,
}

#[derive(Serialize)]
struct TableView {
    title: String,
    /// Name, and true for words.
    columns: Vec<(String, bool)>,
    groups: Vec<TableGroup>,
    notes: Vec<String>,
    long: bool,
}

#[derive(Serialize)]
struct TableGroup {
    name: String,
    /// Text of each cell, and true where a sanity control behind it is red.
    rows: Vec<Vec<(String, bool)>>,
}

/// A finished cell: its record without class names and settings that the config holds.
#[derive(Serialize)]
struct Cell {
    run_id: String,
    dataset: String,
    protocol: Protocol,
    learner: String,
    shots: Shots,
    seed: u64,
    accuracy: f64,
    top1: f64,
    mean_per_class: f64,
    n_train: usize,
    n_test: usize,
    trainable_parameters: u64,
    steps: u64,
    final_loss: Option<f64>,
    train_seconds: f64,
    eval_seconds: f64,
    device_seconds: f64,
    train_images_per_second: f64,
    eval_images_per_second: f64,
    device: String,
    threads: usize,
    finished: String,
    commit: Option<String>,
    recipe: u32,
    dtype: String,
    backend: String,
    weights: Option<String>,
    split_sha256: String,
    predictions_sha256: String,
    red: bool,
    /// Sanity controls: name, verdict, measures; `None` where the cell was not controlled.
    controls: Option<Vec<(String, String, Vec<String>)>>,
}

/// A dataset under a protocol at one number of shots and seed: its card, and the shots.
#[derive(Serialize)]
struct Data {
    dataset: String,
    protocol: Protocol,
    shots: Shots,
    seed: u64,
    /// The protocol card as it is stored.
    card: Option<serde_json::Value>,
    /// The shots, class by class, in the order drawn.
    images: Vec<u32>,
    /// Shots beyond those shown.
    left_out: usize,
    /// Why no shots are shown.
    note: Option<String>,
}

impl<'a> Folder<'a> {
    /// Reads the cells of a folder, one after the other.
    ///
    /// # Errors
    /// As [`Series::load`]; [`Error::NoResults`] when no cell is finished.
    pub(super) fn open(name: &'a str, store: &'a Store) -> Result<Self> {
        let series = Series::load(store, &store.records()?)?;
        if series.is_empty() {
            return Err(Error::NoResults {
                path: store.folder().into(),
            });
        }
        Ok(Self { name, store, series })
    }

    /// What the page holds of it.
    ///
    /// # Errors
    /// As [`Store::predictions`] and [`figure::svg`].
    pub(super) fn read(&self, room: Room, (classes, pictures): (&mut ClassLists, &mut Pictures)) -> Result<Results> {
        let points = curve::points(&self.series);
        let tests = paired::tests(&self.series, &paired::subjects(&self.series))?;
        let tables = table::all(&self.series, &points, &tests)?;
        let points = curve::with_means(points, &self.series);
        let rows = reliability::rows(self.store, &self.series)?;
        let (series, groups) = answers::read(self.store, &self.series, room, (classes, &mut *pictures))?;
        let config = file::read_if_present(&self.store.folder().join("sweep.toml"))?;
        let config = config.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok(Results {
            name: self.name.to_owned(),
            command: config.as_ref().map(|_| command(self.name)),
            config,
            caveat: self.series.iter().any(Series::is_micro).then_some(figure::MICRO_CAVEAT),
            figure: svg_uri(&figure::svg(&points)?),
            points,
            tables: tables
                .iter()
                .filter(|table| !table.rows.is_empty())
                .map(tabled)
                .collect(),
            reliability: match rows.as_slice() {
                [] => None,
                rows => Some(svg_uri(&figure::reliability::svg(rows)?)),
            },
            series,
            groups,
            cells: self.cells()?,
            data: self.data(pictures)?,
        })
    }

    fn cells(&self) -> Result<Vec<Cell>> {
        let runs = self.series.iter().flat_map(|series| &series.runs);
        runs.map(|run| {
            let controls = self.store.controls(&run.record)?;
            Ok(cell(&run.record, run.red, controls.as_ref()))
        })
        .collect()
    }

    /// Cards and shots of every split, in order.
    fn data(&self, pictures: &mut Pictures) -> Result<Vec<Data>> {
        let mut seen = BTreeSet::new();
        let mut all = Vec::new();
        for record in self
            .series
            .iter()
            .flat_map(|series| &series.runs)
            .map(|run| &run.record)
        {
            let key = &record.key;
            if !seen.insert((key.dataset.clone(), key.protocol, key.shots, key.seed)) {
                continue;
            }
            let card = record.card.as_ref().and_then(|card| serde_json::to_value(card).ok());
            let mut data = Data {
                dataset: key.dataset.clone(),
                protocol: key.protocol,
                shots: key.shots,
                seed: key.seed,
                card,
                images: Vec::new(),
                left_out: 0,
                note: None,
            };
            if key.shots.any() {
                self.shots(record, &mut data, pictures)?;
            }
            all.push(data);
        }
        Ok(all)
    }

    fn shots(&self, record: &Record, data: &mut Data, pictures: &mut Pictures) -> Result<()> {
        let split = match self.store.split(record) {
            Ok(Some(split)) => split,
            Ok(None) => {
                data.note = Some("the split is not stored in this folder".into());
                return Ok(());
            }
            Err(error @ Error::Malformed { .. }) => {
                data.note = Some(error.to_string());
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        data.left_out = split.train.len().saturating_sub(SHOTS);
        for shot in split.train.into_iter().take(SHOTS) {
            let wanted = Wanted {
                dataset: record.key.dataset.clone(),
                protocol: record.key.protocol,
                id: shot.id,
                sha256: shot.sha256,
                class: split.classes.get(shot.class as usize).cloned().unwrap_or_default(),
            };
            data.images.push(pictures.ask(wanted, Place::Shots));
        }
        Ok(())
    }
}

fn command(folder: &str) -> String {
    let config = Path::new(folder).join("sweep.toml");
    let words = [
        "kshot sweep --config",
        &quoted(&config.display().to_string()),
        "--results",
        &quoted(folder),
    ];
    words.join(" ")
}

/// A word of a command line as a shell reads it.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:@%,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn svg_uri(svg: &str) -> String {
    format!("data:image/svg+xml;base64,{}", STANDARD.encode(svg))
}

fn tabled(table: &Table) -> TableView {
    let groups = table.groups().map(|rows| TableGroup {
        name: rows.first().map(|row| row.group.to_string()).unwrap_or_default(),
        rows: (rows.iter())
            .map(|row| row.cells.iter().map(|cell| (cell.text(), cell.red)).collect())
            .collect(),
    });
    TableView {
        title: table.title.clone(),
        columns: (table.columns.iter())
            .map(|column| (column.name.clone(), column.kind == Kind::Text))
            .collect(),
        groups: groups.collect(),
        notes: table.notes(),
        long: table.long,
    }
}

fn cell(record: &Record, red: bool, controls: Option<&Controls>) -> Cell {
    let (key, timing) = (&record.key, &record.timing);
    let controls = controls.map(|controls| {
        let all = controls.controls.iter();
        all.map(|one| {
            let measures = one.measures.iter().map(ToString::to_string).collect();
            (one.name.to_string(), one.verdict.to_string(), measures)
        })
        .collect()
    });
    Cell {
        run_id: record.run_id.clone(),
        dataset: key.dataset.clone(),
        protocol: key.protocol,
        learner: key.learner.clone(),
        shots: key.shots,
        seed: key.seed,
        accuracy: record.value(),
        top1: record.metrics.top1,
        mean_per_class: record.metrics.mean_per_class,
        n_train: record.n_train,
        n_test: record.n_test,
        trainable_parameters: record.training.trainable_parameters,
        steps: record.training.steps,
        final_loss: record.training.final_loss,
        train_seconds: timing.train_seconds,
        eval_seconds: timing.eval_seconds,
        device_seconds: timing.device_seconds(),
        train_images_per_second: timing.train_images_per_second,
        eval_images_per_second: timing.eval_images_per_second,
        device: timing.device.clone(),
        threads: timing.threads,
        finished: timing.finished.clone(),
        commit: timing.commit.clone(),
        recipe: record.recipe,
        dtype: record.dtype.clone(),
        backend: record.backend.clone(),
        weights: record.weights.clone(),
        split_sha256: record.split_sha256.clone(),
        predictions_sha256: record.predictions_sha256.clone(),
        red,
        controls,
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_of_a_command_are_quoted_where_a_shell_would_part_them() {
        assert_eq!(quoted("results/a-1.b"), "results/a-1.b");
        assert_eq!(quoted("my results"), "'my results'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
