//! Accuracy against labelled examples per class: one panel a dataset, one line and band a learner. What a learner
//! answers without examples, and what it reaches with the whole training pool, are level lines in its colour, as
//! neither has a place on the axis of doublings. Then the same for the mean over datasets, and accuracy against
//! device-seconds. Published results are shown where they are comparable.
//!
//! The only input is the table of [`Point`]s that is written beside the drawing as CSV, so that the CSV
//! makes the drawing again, byte for byte. PNG and PDF are made from the SVG.

use std::fs;
use std::path::Path;

use crate::comparison::curve;
use crate::comparison::curve::{Panel, Point, distinct};
use crate::config::Protocol;
use crate::error::{Error, Result};
use crate::fs::file;
use crate::report::anchor;
use crate::report::anchor::Anchor;

mod canvas;
mod export;
mod layout;
mod panel;
pub mod reliability;

pub use crate::report::figure::export::{pdf, png};
pub use crate::report::figure::layout::{MICRO_CAVEAT, describe};

use crate::report::figure::canvas::{MARGIN, figure_error};
use crate::report::figure::layout::{Footnotes, Grid};
use crate::report::figure::panel::{PanelFrame, Panels};

/// Room for the figure's title.
const HEAD: f64 = 44.0;
/// Letters of a dataset's or learner's name that fit where it is printed.
const NAME_LETTERS: usize = 34;

/// Draws `points` and writes `accuracy.svg`, `accuracy.png`, `accuracy.pdf` and `accuracy.csv` into `folder`.
///
/// # Errors
/// As [`svg`], [`png`] and [`pdf`]; [`crate::error::Error::Io`] when a file cannot be written.
pub fn write(folder: &Path, points: &[Point]) -> Result<()> {
    let files = forms(svg(points)?)?;
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
    for (kind, bytes) in forms(svg(&points)?)? {
        file::replace_if_changed(&table.with_extension(kind), &bytes)?;
    }
    Ok(points)
}

/// A drawing in each of its forms, with what their names end in.
fn forms(drawing: String) -> Result<[(&'static str, Vec<u8>); 3]> {
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

/// Contents of a panel: points of one dataset, or of the mean, against shots or against what they cost.
struct Content<'a> {
    points: Vec<&'a Point>,
    is_cost: bool,
}

fn draw(points: &[Point], anchors: &[Anchor]) -> Result<String> {
    if points.is_empty() {
        return Err(figure_error("there are no finished cells").because(crate::error::Cause::Unfinished));
    }
    let learners = learners(points);
    let contents = contents(points);
    let panels = Panels::new(points, anchors, &learners);
    let grid = Grid::new(contents.len(), points, &learners);
    let width = grid.width();
    let footnotes = Footnotes::new(points, &panels.footnote(), width - 2.0 * MARGIN);
    let height = grid.bottom() + footnotes.height() + MARGIN;

    canvas::draw(width, height, "Accuracy against labelled examples per class", |sheet| {
        sheet.paper(width, height, "Accuracy by number of labelled examples per class")?;
        for (index, content) in contents.iter().enumerate() {
            let below = grid.below(index).map(|below| &contents[below]);
            let name_x = below.is_none_or(|below| below.is_cost != content.is_cost);
            let name_y = index.is_multiple_of(grid.columns);
            let frame = PanelFrame::new(grid.panel_at(index), name_x, name_y);
            if content.is_cost {
                panels.cost(sheet, &frame, &content.points)?;
            } else {
                panels.accuracy(sheet, &frame, &content.points)?;
            }
        }
        grid.draw_legend(sheet)?;
        footnotes.draw(sheet, (MARGIN, grid.bottom()))
    })
}

/// A panel a dataset; then for each protocol its mean, if it has one, and its cost, of the mean or of the one dataset.
fn contents(points: &[Point]) -> Vec<Content<'_>> {
    let of = |(panel, dataset, protocol): &(Panel, String, Protocol), is_cost| {
        let own = |p: &&Point| p.panel == *panel && p.dataset == *dataset && p.protocol == *protocol;
        let points = points.iter().filter(own).collect();
        Content { points, is_cost }
    };
    let (datasets, means): (Vec<_>, Vec<_>) = distinct(points, |p| (p.panel, p.dataset.clone(), p.protocol))
        .into_iter()
        .partition(|(panel, ..)| *panel == Panel::Dataset);
    let mut panels: Vec<Content<'_>> = datasets.iter().map(|place| of(place, false)).collect();
    for protocol in distinct(points, |p| p.protocol) {
        let here = |place: &&(Panel, String, Protocol)| place.2 == protocol;
        let mean = means.iter().find(here);
        panels.extend(mean.map(|mean| of(mean, false)));
        let alone = || {
            datasets
                .iter()
                .find(here)
                .filter(|_| datasets.iter().filter(here).count() == 1)
        };
        let cost = mean.or_else(alone).map(|whole| of(whole, true));
        panels.extend(cost.filter(|cost| panel::is_timed(&cost.points)));
    }
    panels
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
