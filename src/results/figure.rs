//! Accuracy against labelled examples per class: one panel a dataset, one line and band a learner. What a learner
//! answers without examples is a level line in its colour, as zero has no place on the axis of doublings.
//!
//! The only input is the table of [`Point`]s that is written beside the drawing as CSV, so that the CSV
//! makes the drawing again, byte for byte. PNG and PDF are made from the SVG.

use std::fs;
use std::path::Path;

use crate::config::Protocol;
use crate::error::{Error, Result};
use crate::results::curve::{self, Point, distinct};
use crate::results::file;

mod canvas;
mod caption;
mod legend;
mod panel;
mod pdf;
mod raster;
mod style;

pub use caption::{MICRO_CAVEAT, describe};
pub use pdf::pdf;
pub use raster::png;

use canvas::{Canvas, Type, figure_error};
use style::{INK, TITLE};

const MARGIN: f64 = 16.0;
/// Room for the figure's title.
const HEAD: f64 = 44.0;
/// Room left of the first column for the name of the y axis.
const Y_NAME: f64 = 22.0;
const COLUMN_GAP: f64 = 14.0;
const PANEL_WIDTH: f64 = 312.0;
/// Letters of a dataset's or learner's name that fit where it is printed.
const NAME_LETTERS: usize = 34;

/// Draws `points` and writes `accuracy.svg`, `accuracy.png`, `accuracy.pdf` and `accuracy.csv` into `folder`.
///
/// # Errors
/// As [`svg`], [`png`] and [`pdf`]; [`crate::error::Error::Io`] when a file cannot be written.
pub fn write(folder: &Path, points: &[Point]) -> Result<()> {
    let drawing = svg(points)?;
    let (raster, page) = (png(&drawing)?, pdf(&drawing)?);
    fs::create_dir_all(folder).map_err(Error::io("make", folder))?;
    let table = folder.join("accuracy.csv");
    file::replace_if_changed(&table, &curve::to_csv(points, &table)?)?;
    file::replace_if_changed(&folder.join("accuracy.svg"), drawing.as_bytes())?;
    file::replace_if_changed(&folder.join("accuracy.png"), &raster)?;
    file::replace_if_changed(&folder.join("accuracy.pdf"), &page)?;
    Ok(())
}

/// The figure as SVG; the same points give the same bytes.
///
/// # Errors
/// [`crate::error::Error::Figure`] when there are no points or the drawing fails.
pub fn svg(points: &[Point]) -> Result<String> {
    if points.is_empty() {
        return Err(figure_error("there are no finished cells"));
    }
    let panels = distinct(points, |p| (p.dataset.clone(), p.protocol));
    let learners = learners(points);
    let entries = legend::entries(points, &learners);
    let grid = Grid::new(panels.len(), entries.len());
    let width = grid.width();
    let footnotes = caption::footnotes(points, width - 2.0 * MARGIN);
    let height = grid.bottom() + caption::height(&footnotes) + MARGIN;

    canvas::draw(width, height, "Accuracy against labelled examples per class", |sheet| {
        sheet.area(&corners((0.0, 0.0), width, height), style::PAPER, 1.0)?;
        let title = "Accuracy by number of labelled examples per class";
        sheet.text((MARGIN, MARGIN + 8.0), title, Type::new(TITLE, INK).bold())?;
        let axis = panel::Axis::new(points);
        for (index, name) in panels.iter().enumerate() {
            draw_panel(sheet, points, name, &learners, &axis, &grid, index)?;
        }
        legend::draw(sheet, &entries, grid.legend_at(), grid.legend_columns())?;
        caption::draw(sheet, &footnotes, (MARGIN, grid.bottom()))
    })
}

fn draw_panel(
    sheet: &mut Canvas<'_>,
    points: &[Point],
    (dataset, protocol): &(String, Protocol),
    learners: &[String],
    axis: &panel::Axis,
    grid: &Grid,
    index: usize,
) -> Result<()> {
    let own: Vec<&Point> = points
        .iter()
        .filter(|p| p.dataset == *dataset && p.protocol == *protocol)
        .collect();
    let frame = panel::Frame {
        at: grid.panel_at(index),
        width: PANEL_WIDTH,
        name_x: grid.is_lowest(index),
        name_y: index.is_multiple_of(grid.columns),
    };
    panel::draw(sheet, &frame, axis, &own, learners)
}

/// The corners of a rectangle.
fn corners((x, y): canvas::At, width: f64, height: f64) -> [canvas::At; 4] {
    [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
}

/// The learners in the order of the legend: those that write their answers first.
fn learners(points: &[Point]) -> Vec<String> {
    let mut learners = distinct(points, |p| (p.reading.is_none(), p.learner.clone()));
    learners.sort_by_key(|(chooses, _)| *chooses);
    let mut names: Vec<String> = Vec::new();
    for (_, name) in learners {
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

/// Where panels and legend stand: the legend beside one, two or four panels, else in a free place of the
/// last row, else in a strip below it.
struct Grid {
    panels: usize,
    columns: usize,
    rows: usize,
    legend: Place,
    legend_entries: usize,
}

enum Place {
    Beside,
    Free,
    Strip,
}

const STRIP_COLUMNS: usize = 3;

impl Grid {
    fn new(panels: usize, legend_entries: usize) -> Self {
        let columns = match panels {
            0 | 1 => 1,
            2 | 4 => 2,
            _ => 3,
        };
        let rows = panels.div_ceil(columns);
        let legend = if columns < 3 {
            Place::Beside
        } else if panels < columns * rows {
            Place::Free
        } else {
            Place::Strip
        };
        Self {
            panels,
            columns,
            rows,
            legend,
            legend_entries,
        }
    }

    fn width(&self) -> f64 {
        let columns = if matches!(self.legend, Place::Beside) {
            self.columns + 1
        } else {
            self.columns
        };
        Self::place(columns, 0).0 - COLUMN_GAP + MARGIN
    }

    fn place(column: usize, row: usize) -> canvas::At {
        let x = MARGIN + Y_NAME + column as f64 * (PANEL_WIDTH + COLUMN_GAP);
        (x, HEAD + row as f64 * panel::HEIGHT)
    }

    fn panel_at(&self, index: usize) -> canvas::At {
        Self::place(index % self.columns, index / self.columns)
    }

    /// Whether no panel stands below this one.
    fn is_lowest(&self, index: usize) -> bool {
        index + self.columns >= self.panels
    }

    fn legend_columns(&self) -> usize {
        if matches!(self.legend, Place::Strip) {
            STRIP_COLUMNS
        } else {
            1
        }
    }

    fn legend_at(&self) -> canvas::At {
        let (x, y) = match self.legend {
            Place::Beside => Self::place(self.columns, 0),
            Place::Free => self.panel_at(self.panels),
            Place::Strip => {
                return (Self::place(0, 0).0 + panel::LEFT, self.panels_bottom() + 4.0);
            }
        };
        (x + panel::LEFT, y + panel::TOP)
    }

    fn panels_bottom(&self) -> f64 {
        Self::place(0, self.rows).1
    }

    fn bottom(&self) -> f64 {
        let rows = self.legend_entries.div_ceil(self.legend_columns());
        let legend = self.legend_at().1 + rows as f64 * legend::ROW + 2.0;
        self.panels_bottom().max(legend) + 10.0
    }
}

#[cfg(test)]
mod tests;
