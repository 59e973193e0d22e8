//! The grid of panels, and the legend in it.

use crate::comparison::curve::Point;
use crate::comparison::series::reading_name;
use crate::config::Shots;
use crate::error::Result;
use crate::report::figure::canvas::{Canvas, Position, TextFormat};
use crate::report::figure::panel::CURVE_WIDTH;
use crate::report::figure::style::{CHANCE, CHANCE_DASH, FULL_DATA_DASH, INK, LABEL, ZERO_SHOT_DASH, curve_style};
use crate::report::figure::{HEAD, MARGIN, panel, shortened};

/// Room left of the first column for the name of the y axis.
const Y_NAME: f64 = 22.0;
const COLUMN_GAP: f64 = 14.0;
/// Width of a panel with its tick labels.
pub(super) const PANEL_WIDTH: f64 = 312.0;
/// From one column of panels to the next.
const COLUMN: f64 = PANEL_WIDTH + COLUMN_GAP;
/// Entries of the legend that fit into one panel's place.
const LEGEND_FITS: usize = 10;

/// The legend stands beside one, two or four panels, else in the free places of the last row, else in a strip
/// below it.
pub(super) struct Grid {
    panels: usize,
    pub columns: usize,
    rows: usize,
    legend: LegendPosition,
    legend_entries: usize,
}

enum LegendPosition {
    Beside,
    Free,
    Strip,
}

const STRIP_COLUMNS: usize = 3;

impl Grid {
    pub(crate) fn new(panels: usize, legend_entries: usize) -> Self {
        let columns = match panels {
            0 | 1 => 1,
            2 | 4 => 2,
            _ => 3,
        };
        let rows = panels.div_ceil(columns);
        let legend = if columns < 3 {
            LegendPosition::Beside
        } else if panels < columns * rows {
            LegendPosition::Free
        } else {
            LegendPosition::Strip
        };
        Self {
            panels,
            columns,
            rows,
            legend,
            legend_entries,
        }
    }

    pub(crate) fn width(&self) -> f64 {
        let columns = if matches!(self.legend, LegendPosition::Beside) {
            self.columns + 1
        } else {
            self.columns
        };
        Self::place(columns, 0).0 - COLUMN_GAP + MARGIN
    }

    fn place(column: usize, row: usize) -> Position {
        let x = MARGIN + Y_NAME + column as f64 * COLUMN;
        (x, HEAD + row as f64 * panel::HEIGHT)
    }

    pub(crate) fn panel_at(&self, index: usize) -> Position {
        Self::place(index % self.columns, index / self.columns)
    }

    /// The panel below this one, if any.
    pub(crate) fn below(&self, index: usize) -> Option<usize> {
        Some(index + self.columns).filter(|below| *below < self.panels)
    }

    pub(crate) fn legend_columns(&self) -> usize {
        match self.legend {
            LegendPosition::Strip => STRIP_COLUMNS,
            LegendPosition::Free if self.legend_entries > LEGEND_FITS => {
                (self.columns * self.rows - self.panels).min(2)
            }
            LegendPosition::Free | LegendPosition::Beside => 1,
        }
    }

    pub(crate) fn legend_at(&self) -> Position {
        let (x, y) = match self.legend {
            LegendPosition::Beside => Self::place(self.columns, 0),
            LegendPosition::Free => self.panel_at(self.panels),
            LegendPosition::Strip => {
                return (Self::place(0, 0).0 + panel::LEFT, self.panels_bottom() + 4.0);
            }
        };
        (x + panel::LEFT, y + panel::TOP)
    }

    fn panels_bottom(&self) -> f64 {
        Self::place(0, self.rows).1
    }

    /// The lower end of panels and legend.
    pub(crate) fn bottom(&self) -> f64 {
        let rows = self.legend_entries.div_ceil(self.legend_columns());
        let legend = self.legend_at().1 + rows as f64 * ROW + 2.0;
        self.panels_bottom().max(legend) + 10.0
    }
}

/// Height of an entry.
const ROW: f64 = 23.0;
const SAMPLE: f64 = 38.0;

/// A line in the panels and what it is called.
pub(super) struct Entry {
    line: Line,
    name: String,
}

enum Line {
    /// Of the learner of this place.
    Curve(usize),
    /// The same learner without examples.
    ZeroShot(usize),
    /// The same learner with the whole pool.
    FullData(usize),
    Guessing,
}

/// Contents of `points`: the curve of each of `learners`, its levels, guessing.
pub(super) fn entries(points: &[Point], learners: &[String]) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (index, learner) in learners.iter().enumerate() {
        let own = || points.iter().filter(|p| p.learner == *learner);
        let curve = own().find(|p| p.shots.any() && p.shots != Shots::All);
        let read = |point: &Point| {
            let reading = point.reading.map(|reading| format!(" ({})", reading_name(reading)));
            reading.unwrap_or_default()
        };
        entries.extend(curve.map(|point| Entry {
            line: Line::Curve(index),
            name: shortened(learner, &read(point)),
        }));
        let levels = own().filter(|p| panel::is_drawn(p));
        let (zero, full): (Vec<&Point>, Vec<&Point>) = levels.partition(|p| !p.shots.any());
        entries.extend(zero.first().map(|_| Entry {
            line: Line::ZeroShot(index),
            name: shortened(learner, ", zero-shot"),
        }));
        entries.extend(full.first().map(|_| Entry {
            line: Line::FullData(index),
            name: shortened(learner, ", full data"),
        }));
    }
    entries.push(Entry {
        line: Line::Guessing,
        name: "guessing".into(),
    });
    entries
}

/// Draws the legend with its top left corner at `at`, column by column.
pub(super) fn draw(sheet: &mut Canvas<'_>, entries: &[Entry], at: Position, columns: usize) -> Result<()> {
    let rows = entries.len().div_ceil(columns);
    for (index, entry) in entries.iter().enumerate() {
        let x = at.0 + (index / rows) as f64 * COLUMN;
        let y = at.1 + ((index % rows) as f64 + 0.5) * ROW;
        let line = [(x, y), (x + SAMPLE, y)];
        match entry.line {
            Line::Curve(learner) => {
                let style = curve_style(learner);
                sheet.line(&line, style.colour, CURVE_WIDTH, style.dash)?;
                sheet.marker((x + SAMPLE / 2.0, y), style.marker, style.colour)?;
            }
            Line::ZeroShot(learner) => sheet.line(&line, curve_style(learner).colour, 1.6, ZERO_SHOT_DASH)?,
            Line::FullData(learner) => sheet.line(&line, curve_style(learner).colour, 1.6, FULL_DATA_DASH)?,
            Line::Guessing => sheet.line(&line, CHANCE, 1.2, CHANCE_DASH)?,
        }
        sheet.text((x + SAMPLE + 9.0, y), &entry.name, TextFormat::new(LABEL, INK))?;
    }
    Ok(())
}
