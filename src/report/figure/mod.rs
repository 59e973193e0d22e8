//! Accuracy against labelled examples per class: one panel a dataset, one line and band a learner. What a learner
//! answers without examples, and what it reaches with the whole training pool, are level lines in its colour, as
//! neither has a place on the axis of doublings. Then the same for the mean over datasets, and accuracy against
//! device-seconds. Published results are shown where they are comparable.
//!
//! The only input is the table of [`Point`]s that is written beside the drawing as CSV, so that the CSV
//! makes the drawing again, byte for byte. PNG and PDF are made from the SVG.

use std::fs;
use std::path::{Path, PathBuf};

use crate::comparison::curve;
use crate::comparison::curve::{Panel, Point, distinct};
use crate::config::Protocol;
use crate::error::{Error, Result};
use crate::fs::file;
use crate::report::anchor;
use crate::report::anchor::Anchor;

mod canvas;
mod caption;
mod cost;
mod export;
mod grid;
mod panel;
pub mod reliability;
mod style;

pub use crate::report::figure::caption::{MICRO_CAVEAT, describe};
pub use crate::report::figure::export::pdf;
pub use crate::report::figure::export::png;

use crate::report::figure::canvas::{Canvas, TextFormat, figure_error};
use crate::report::figure::grid::{Grid, PANEL_WIDTH};
use crate::report::figure::panel::Published;
use crate::report::figure::style::{INK, TITLE};

const MARGIN: f64 = 16.0;
/// Room for the figure's title.
const HEAD: f64 = 44.0;
/// Letters of a dataset's or learner's name that fit where it is printed.
const NAME_LETTERS: usize = 34;

/// Draws `points` and writes `accuracy.svg`, `accuracy.png`, `accuracy.pdf` and `accuracy.csv` into `folder`.
///
/// # Errors
/// As [`svg`], [`png`] and [`pdf`]; [`crate::error::Error::Io`] when a file cannot be written.
pub fn write(folder: &Path, points: &[Point]) -> Result<()> {
    let files = files(points)?;
    fs::create_dir_all(folder).map_err(Error::io("make", folder))?;
    let table = folder.join("accuracy.csv");
    file::replace_if_changed(&table, &curve::to_csv(points, &table)?)?;
    for (kind, bytes) in files {
        file::replace_if_changed(&folder.join("accuracy").with_extension(kind), &bytes)?;
    }
    Ok(())
}

/// Draws the points of a table that [`write()`] left, and puts SVG, PNG and PDF beside it, under its name; the points.
///
/// # Errors
/// As [`write()`] and [`curve::from_csv`].
pub fn redraw(table: &Path) -> Result<Vec<Point>> {
    let bytes = fs::read(table).map_err(Error::io("read", table))?;
    let points = curve::from_csv(table, &bytes)?;
    for (kind, bytes) in files(&points)? {
        let path: PathBuf = table.with_extension(kind);
        file::replace_if_changed(&path, &bytes)?;
    }
    Ok(points)
}

/// The one drawing in each of its forms, with what their names end in.
fn files(points: &[Point]) -> Result<[(&'static str, Vec<u8>); 3]> {
    let drawing = svg(points)?;
    let (raster, page) = (png(&drawing)?, pdf(&drawing)?);
    Ok([("svg", drawing.into_bytes()), ("png", raster), ("pdf", page)])
}

/// The figure as SVG; the same points give the same bytes.
///
/// # Errors
/// [`crate::error::Error::Figure`] when there are no points or the drawing fails.
pub fn svg(points: &[Point]) -> Result<String> {
    draw(points, &anchor::anchors()?)
}

/// Contents of a panel.
enum Content<'a> {
    /// Of one dataset, or of the mean.
    Accuracy(Vec<&'a Point>),
    Cost(Vec<&'a Point>),
}

fn draw(points: &[Point], anchors: &[Anchor]) -> Result<String> {
    if points.is_empty() {
        return Err(figure_error("there are no finished cells").because(crate::error::Cause::Unfinished));
    }
    let learners = learners(points);
    let panels = panels(points);
    let entries = grid::entries(points, &learners);
    let grid = Grid::new(panels.len(), entries.len());
    let axis = panel::Axis::new(points);
    let published = panel::comparable(points, anchors, &axis);
    let width = grid.width();
    let notes = [panel::footnote(&published)];
    let footnotes = caption::footnotes(points, &notes, width - 2.0 * MARGIN);
    let height = grid.bottom() + caption::height(&footnotes) + MARGIN;

    canvas::draw(width, height, "Accuracy against labelled examples per class", |sheet| {
        sheet.area(&corners((0.0, 0.0), width, height), style::PAPER, 1.0)?;
        let title = "Accuracy by number of labelled examples per class";
        sheet.text((MARGIN, MARGIN + 8.0), title, TextFormat::new(TITLE, INK).bold())?;
        for (index, content) in panels.iter().enumerate() {
            let below = grid.below(index).map(|below| &panels[below]);
            let frame = panel::PanelFrame {
                at: grid.panel_at(index),
                width: PANEL_WIDTH,
                name_x: below.is_none_or(|below| is_cost(below) != is_cost(content)),
                name_y: index.is_multiple_of(grid.columns),
            };
            draw_panel(sheet, &frame, content, &axis, &learners, &published)?;
        }
        grid::draw(sheet, &entries, grid.legend_at(), grid.legend_columns())?;
        caption::draw(sheet, &footnotes, (MARGIN, grid.bottom()))
    })
}

fn is_cost(content: &Content<'_>) -> bool {
    matches!(content, Content::Cost(_))
}

fn draw_panel(
    sheet: &mut Canvas<'_>,
    frame: &panel::PanelFrame,
    content: &Content<'_>,
    axis: &panel::Axis,
    learners: &[String],
    published: &[Published<'_>],
) -> Result<()> {
    match content {
        Content::Accuracy(own) => panel::draw(sheet, frame, axis, own, learners, published),
        Content::Cost(own) => cost::draw(sheet, frame, own, learners),
    }
}

/// A panel a dataset; then for each protocol its mean, if it has one, and its cost, of the mean or of the one dataset.
fn panels(points: &[Point]) -> Vec<Content<'_>> {
    let mut panels = Vec::new();
    let of = |place: &(Panel, String, Protocol)| -> Vec<&Point> {
        let (panel, dataset, protocol) = place;
        let own = |p: &&Point| p.panel == *panel && p.dataset == *dataset && p.protocol == *protocol;
        points.iter().filter(own).collect()
    };
    let (datasets, means): (Vec<_>, Vec<_>) = distinct(points, |p| (p.panel, p.dataset.clone(), p.protocol))
        .into_iter()
        .partition(|(panel, ..)| *panel == Panel::Dataset);
    panels.extend(datasets.iter().map(|place| Content::Accuracy(of(place))));
    for protocol in distinct(points, |p| p.protocol) {
        let here = |place: &&(Panel, String, Protocol)| place.2 == protocol;
        let whole: Option<Vec<&Point>> = match (means.iter().find(here), datasets.iter().filter(here).count()) {
            (Some(mean), _) => {
                panels.push(Content::Accuracy(of(mean)));
                Some(of(mean))
            }
            (None, 1) => datasets.iter().find(here).map(of),
            (None, _) => None,
        };
        panels.extend(whole.filter(|own| cost::is_timed(own)).map(Content::Cost));
    }
    panels
}

/// The corners of a rectangle.
fn corners((x, y): canvas::Position, width: f64, height: f64) -> [canvas::Position; 4] {
    [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
}

/// The learners in the order of the legend: those that write their answers, the others that comparisons are about,
/// the rest.
fn learners(points: &[Point]) -> Vec<String> {
    let mut learners = distinct(points, |p| (p.reading.is_none(), !p.subject, p.learner.clone()));
    learners.sort_by_key(|(chooses, beside, _)| (*chooses, *beside));
    let mut names: Vec<String> = Vec::new();
    for (.., name) in learners {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// A name with what is said of it, the name shortened where both would run into their neighbour.
fn shortened(name: &str, remark: &str) -> String {
    let room = NAME_LETTERS.saturating_sub(remark.chars().count()).max(2);
    if name.chars().count() <= room {
        return format!("{name}{remark}");
    }
    let start: String = name.chars().take(room - 1).collect();
    format!("{start}…{remark}")
}

#[cfg(test)]
mod tests;
