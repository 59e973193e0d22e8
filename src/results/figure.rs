//! Accuracy against labelled examples per class: one panel a dataset, one line and band a learner.
//!
//! The only input is the table of [`Point`]s that is written beside the drawing as CSV, so that the CSV
//! makes the drawing again, byte for byte. PNG is made from the SVG.

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
mod raster;
mod style;

pub use caption::{MICRO_CAVEAT, describe};
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

/// Draws `points` and writes `accuracy.svg`, `accuracy.png` and `accuracy.csv` into `folder`.
///
/// # Errors
/// As [`svg`] and [`png`]; [`crate::error::Error::Io`] when a file cannot be written.
pub fn write(folder: &Path, points: &[Point]) -> Result<()> {
    let drawing = svg(points)?;
    let raster = png(&drawing)?;
    fs::create_dir_all(folder).map_err(Error::io("make", folder))?;
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
    let grid = Grid::new(panels.len(), &learners);
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

/// Shortens a name that would run into its neighbour.
fn shortened(name: &str) -> String {
    if name.chars().count() <= NAME_LETTERS {
        return name.to_owned();
    }
    name.chars().take(NAME_LETTERS - 1).chain(['…']).collect()
}

/// Where panels and legend stand: the legend beside one, two or four panels, else in a free place of the
/// last row, else in a strip below it.
struct Grid {
    panels: usize,
    columns: usize,
    rows: usize,
    legend: Place,
}

enum Place {
    Beside,
    Free,
    /// So many rows of entries.
    Strip(usize),
}

const STRIP_COLUMNS: usize = 3;

impl Grid {
    fn new(panels: usize, learners: &[String]) -> Self {
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
            Place::Strip(legend::rows(learners, STRIP_COLUMNS))
        };
        Self {
            panels,
            columns,
            rows,
            legend,
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
        if matches!(self.legend, Place::Strip(_)) {
            STRIP_COLUMNS
        } else {
            1
        }
    }

    fn legend_at(&self) -> canvas::At {
        let (x, y) = match self.legend {
            Place::Beside => Self::place(self.columns, 0),
            Place::Free => self.panel_at(self.panels),
            Place::Strip(_) => {
                return (Self::place(0, 0).0 + panel::LEFT, self.panels_bottom() + 4.0);
            }
        };
        (x + panel::LEFT, y + panel::TOP)
    }

    fn panels_bottom(&self) -> f64 {
        Self::place(0, self.rows).1
    }

    fn bottom(&self) -> f64 {
        let strip = if let Place::Strip(rows) = self.legend {
            rows as f64 * legend::ROW + 6.0
        } else {
            0.0
        };
        self.panels_bottom() + strip + 10.0
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
                    let mean = start
                        + 0.05 * (d as f64 * 1.7).sin()
                        + rise * share.powf(0.8)
                        + 0.012 * (shots as f64 + d as f64).cos();
                    let half = 0.06 - 0.03 * share;
                    points.push(Point {
                        dataset: (*dataset).into(),
                        protocol: Protocol::Clean,
                        regime: Some((*regime).into()),
                        micro: true,
                        metric: if dataset.contains("caltech") {
                            Headline::MeanPerClass
                        } else {
                            Headline::Top1
                        },
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
    fn the_csv_beside_it_draws_it_again() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &sample(&FIVE)).unwrap();
        let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        let points = curve::from_csv(Path::new("accuracy.csv"), &read("accuracy.csv")).unwrap();
        assert_eq!(svg(&points).unwrap().into_bytes(), read("accuracy.svg"));
        assert!(read("accuracy.png").starts_with(b"\x89PNG"));
    }

    #[test]
    fn no_text_is_small_or_cut_or_on_other_text() {
        let many: Vec<_> = (0..7)
            .map(|i| format!("a dataset with quite a long name, number {i}"))
            .collect();
        let many: Vec<_> = many.iter().map(|name| (name.as_str(), "novel", 8)).collect();
        for datasets in [&FIVE[..1], &FIVE[..2], &FIVE[..3], &FIVE[..4], &FIVE, &many[..6], &many] {
            let mut points = sample(datasets);
            if datasets.len() > 5 {
                points
                    .iter_mut()
                    .for_each(|p| p.learner.push_str(", with a long name as well"));
            }
            let drawing = svg(&points).unwrap();
            let sizes = drawing
                .split("font-size=\"")
                .skip(1)
                .map(|rest| rest.split('"').next().unwrap());
            let smallest = sizes.map(|size| size.parse::<f64>().unwrap()).fold(f64::MAX, f64::min);
            assert!(smallest >= 110.0, "tenths of a pixel: {smallest}");

            let (sheet, boxes) = raster::text_boxes(&drawing);
            assert!(boxes.len() > 10 * datasets.len());
            for (i, (text, own)) in boxes.iter().enumerate() {
                let inside =
                    own.left() > 0.0 && own.top() > 0.0 && own.right() < sheet.width() && own.bottom() < sheet.height();
                assert!(inside, "`{text}` leaves the sheet of {} datasets", datasets.len());
                for (other_text, other) in &boxes[..i] {
                    let apart = own.left() > other.right()
                        || other.left() > own.right()
                        || own.top() > other.bottom()
                        || other.top() > own.bottom();
                    assert!(
                        apart,
                        "`{text}` touches `{other_text}` with {} datasets",
                        datasets.len()
                    );
                }
            }
        }
    }

    #[test]
    fn captions_say_what_the_numbers_are() {
        let mut points = sample(&FIVE[..1]);
        let drawing = svg(&points).unwrap();
        for text in [
            MICRO_CAVEAT,
            "known concepts · mean per class · n = 240",
            "Protocol clean. Mean over seeds 0, 1, 2, 3, 4",
        ] {
            assert!(drawing.contains(text), "{text}");
        }
        points.iter_mut().for_each(|p| {
            p.micro = false;
            p.seeds = "3".into();
            p.interval = IntervalKind::Wilson;
        });
        let drawing = svg(&points).unwrap();
        assert!(
            !drawing.contains(MICRO_CAVEAT) && drawing.contains("Seed 3;"),
            "{drawing}"
        );
        assert!(drawing.contains("Wilson"));
    }

    #[test]
    fn odd_tables_are_drawn_too() {
        let mut single = sample(&FIVE[..2]);
        single.retain(|p| p.shots == 4 || p.learner.starts_with("raw"));
        svg(&single).unwrap();
        svg(&single[..1]).unwrap();
        let mut crowded = sample(&FIVE[..1]);
        crowded[1].shots = 5;
        crowded[2].shots = 6;
        svg(&crowded).unwrap();
        assert!(svg(&[]).is_err());
    }
}
