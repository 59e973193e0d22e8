//! Accuracy against labelled examples per class: one panel a dataset, one line and band a learner.
//!
//! The only input is the table of [`Point`]s that is written beside the drawing as CSV, so that the CSV
//! makes the drawing again, byte for byte. PNG is made from the SVG.

use std::path::Path;

use crate::config::Protocol;
use crate::error::Result;
use crate::results::curve::{self, Point, distinct};
use crate::results::file;

mod canvas;
mod caption;
mod legend;
mod panel;
mod raster;
mod style;

pub use caption::{MICRO_CAVEAT, describe};
pub use raster::png;

use canvas::{Canvas, Type, figure_error};
use style::{INK, TITLE};

const WIDTH: f64 = 1020.0;
const MARGIN: f64 = 16.0;
/// Room for the figure's title.
const HEAD: f64 = 44.0;
/// Room left of the first column for the name of the y axis.
const Y_NAME: f64 = 22.0;
const COLUMN_GAP: f64 = 14.0;

/// Draws `points` and writes `accuracy.svg`, `accuracy.png` and `accuracy.csv` into `folder`.
///
/// # Errors
/// As [`svg`] and [`png`]; [`crate::error::Error::Io`] when a file cannot be written.
pub fn write(folder: &Path, points: &[Point]) -> Result<()> {
    let drawing = svg(points)?;
    let raster = png(&drawing)?;
    let table = folder.join("accuracy.csv");
    file::replace_if_changed(&table, &curve::to_csv(points, &table)?)?;
    file::replace_if_changed(&folder.join("accuracy.svg"), drawing.as_bytes())?;
    file::replace_if_changed(&folder.join("accuracy.png"), &raster)?;
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
    let learners = distinct(points, |p| p.learner.clone());
    let footnotes = caption::footnotes(points, WIDTH - 2.0 * MARGIN);
    let grid = Grid::new(panels.len(), &learners);
    let height = grid.bottom() + caption::height(&footnotes) + MARGIN;

    canvas::draw(WIDTH, height, "Accuracy against labelled examples per class", |sheet| {
        sheet.area(&corners((0.0, 0.0), WIDTH, height), style::PAPER, 1.0)?;
        let title = "Accuracy by number of labelled examples per class";
        sheet.text((MARGIN, MARGIN + 8.0), title, Type::new(TITLE, INK).bold())?;
        let axis = panel::Axis::new(points);
        for (index, name) in panels.iter().enumerate() {
            draw_panel(sheet, points, name, &learners, &axis, &grid, index)?;
        }
        legend::draw(sheet, &learners, grid.legend_at(), grid.legend_columns())?;
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
    let own: Vec<&Point> = points.iter().filter(|p| p.dataset == *dataset && p.protocol == *protocol).collect();
    let frame = panel::Frame {
        at: grid.panel_at(index),
        width: grid.panel_width(),
        name_x: grid.is_lowest(index),
        name_y: index % grid.columns == 0,
    };
    panel::draw(sheet, &frame, axis, &own, learners)
}

/// The corners of a rectangle.
fn corners((x, y): canvas::At, width: f64, height: f64) -> [canvas::At; 4] {
    [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
}

/// Where panels and legend stand. The legend takes a free place in the last row, or a strip below it.
struct Grid {
    panels: usize,
    columns: usize,
    rows: usize,
    legend_rows: usize,
}

impl Grid {
    fn new(panels: usize, learners: &[String]) -> Self {
        let columns = match panels {
            0 | 1 => 1,
            2 | 4 => 2,
            _ => 3,
        };
        let mut grid = Self { panels, columns, rows: panels.div_ceil(columns), legend_rows: 0 };
        if !grid.has_free_place() {
            grid.legend_rows = legend::rows(learners, grid.legend_columns());
        }
        grid
    }

    fn has_free_place(&self) -> bool {
        self.panels < self.columns * self.rows
    }

    fn panel_width(&self) -> f64 {
        let columns = self.columns as f64;
        (WIDTH - 2.0 * MARGIN - Y_NAME - COLUMN_GAP * (columns - 1.0)) / columns
    }

    fn panel_at(&self, index: usize) -> canvas::At {
        let (column, row) = (index % self.columns, index / self.columns);
        (
            MARGIN + Y_NAME + column as f64 * (self.panel_width() + COLUMN_GAP),
            HEAD + row as f64 * panel::HEIGHT,
        )
    }

    /// Whether no panel stands below this one.
    fn is_lowest(&self, index: usize) -> bool {
        index + self.columns >= self.panels
    }

    fn legend_columns(&self) -> usize {
        if self.has_free_place() { 1 } else { 3 }
    }

    fn legend_at(&self) -> canvas::At {
        if self.has_free_place() {
            let (x, y) = self.panel_at(self.panels);
            (x + panel::LEFT, y + panel::TOP)
        } else {
            (MARGIN + Y_NAME + panel::LEFT, self.panels_bottom() + 6.0)
        }
    }

    fn panels_bottom(&self) -> f64 {
        HEAD + self.rows as f64 * panel::HEIGHT
    }

    fn bottom(&self) -> f64 {
        self.panels_bottom() + self.legend_rows as f64 * legend::ROW + 10.0
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::results::curve::IntervalKind;
    use crate::results::metric::Headline;

    /// Plausible curves of five learners on `datasets`.
    pub(in crate::results) fn sample(datasets: &[(&str, &str, usize)]) -> Vec<Point> {
        let learners = [
            ("DINOv2 LoRA", 0.30, 0.47),
            ("DINOv2 k-NN", 0.27, 0.26),
            ("DINOv2 logistic regression", 0.28, 0.36),
            ("DINOv2 nearest mean", 0.28, 0.30),
            ("raw pixels 1-NN", 0.15, 0.17),
        ];
        let mut points = Vec::new();
        for (d, (dataset, regime, classes)) in datasets.iter().enumerate() {
            for (name, start, rise) in learners {
                for (step, shots) in [1, 2, 4, 8, 16].into_iter().enumerate() {
                    let rounded = |share: f64| (share * 1e6).round() / 1e6;
                    let share = step as f64 / 4.0;
                    let mean = start + 0.05 * (d as f64 * 1.7).sin() + rise * share.powf(0.8) + 0.012 * (shots as f64 + d as f64).cos();
                    let half = 0.06 - 0.03 * share;
                    points.push(Point {
                        dataset: (*dataset).into(),
                        protocol: Protocol::Clean,
                        regime: Some((*regime).into()),
                        micro: true,
                        metric: if dataset.contains("caltech") { Headline::MeanPerClass } else { Headline::Top1 },
                        chance: rounded(1.0 / *classes as f64),
                        learner: name.into(),
                        shots,
                        seeds: "0 1 2 3 4".into(),
                        n_test: classes * 24,
                        mean: rounded(mean),
                        low: rounded(mean - half),
                        high: rounded(mean + half),
                        interval: IntervalKind::BootstrapSeedsImages,
                        t_low: Some(rounded(mean - 1.2 * half)),
                        t_high: Some(rounded(mean + 1.2 * half)),
                    });
                }
            }
        }
        points
    }

    const FIVE: [(&str, &str, usize); 5] = [
        ("mini-caltech101", "known", 10),
        ("mini-cars", "novel", 8),
        ("mini-fashion", "novel", 10),
        ("mini-flowers", "known", 8),
        ("mini-pets", "known", 12),
    ];

    #[test]
    fn dump() {
        let out = std::path::PathBuf::from(std::env::var("DUMP").unwrap());
        for n in [1, 2, 3, 4, 5] {
            std::fs::create_dir_all(out.join(n.to_string())).unwrap();
            write(&out.join(n.to_string()), &sample(&FIVE[..n])).unwrap();
        }
    }
}
