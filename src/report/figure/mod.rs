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
use crate::report::figure::layout::Grid;
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
    let contents = contents(points);
    let panels = Panels::new(points, anchors, &learners);
    let entries = layout::entries(points, &learners);
    let grid = Grid::new(contents.len(), entries.len());
    let width = grid.width();
    let footnotes = layout::footnotes(points, &panels.footnote(), width - 2.0 * MARGIN);
    let height = grid.bottom() + layout::height(&footnotes) + MARGIN;

    canvas::draw(width, height, "Accuracy against labelled examples per class", |sheet| {
        sheet.paper(width, height, "Accuracy by number of labelled examples per class")?;
        for (index, content) in contents.iter().enumerate() {
            let below = grid.below(index).map(|below| &contents[below]);
            let name_x = below.is_none_or(|below| is_cost(below) != is_cost(content));
            let name_y = index.is_multiple_of(grid.columns);
            let frame = PanelFrame::new(grid.panel_at(index), name_x, name_y);
            match content {
                Content::Accuracy(own) => panels.accuracy(sheet, &frame, own)?,
                Content::Cost(own) => panels.cost(sheet, &frame, own)?,
            }
        }
        layout::draw_legend(sheet, &entries, grid.legend_at(), grid.legend_columns())?;
        layout::draw_footnotes(sheet, &footnotes, (MARGIN, grid.bottom()))
    })
}

fn is_cost(content: &Content<'_>) -> bool {
    matches!(content, Content::Cost(_))
}

/// A panel a dataset; then for each protocol its mean, if it has one, and its cost, of the mean or of the one dataset.
fn contents(points: &[Point]) -> Vec<Content<'_>> {
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
        panels.extend(whole.filter(|own| panel::is_timed(own)).map(Content::Cost));
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
