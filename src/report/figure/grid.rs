//! Where panels and legend stand.

use crate::report::figure::canvas::At;
use crate::report::figure::{HEAD, MARGIN, legend, panel};

/// Room left of the first column for the name of the y axis.
const Y_NAME: f64 = 22.0;
const COLUMN_GAP: f64 = 14.0;
/// Width of a panel with its tick labels.
pub(super) const PANEL_WIDTH: f64 = 312.0;
/// From one column of panels to the next.
pub(super) const COLUMN: f64 = PANEL_WIDTH + COLUMN_GAP;
/// Entries of the legend that fit into one panel's place.
const LEGEND_FITS: usize = 10;

/// The legend stands beside one, two or four panels, else in the free places of the last row, else in a strip
/// below it.
pub(super) struct Grid {
    panels: usize,
    pub(super) columns: usize,
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
    pub(super) fn new(panels: usize, legend_entries: usize) -> Self {
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

    pub(super) fn width(&self) -> f64 {
        let columns = if matches!(self.legend, Place::Beside) {
            self.columns + 1
        } else {
            self.columns
        };
        Self::place(columns, 0).0 - COLUMN_GAP + MARGIN
    }

    fn place(column: usize, row: usize) -> At {
        let x = MARGIN + Y_NAME + column as f64 * COLUMN;
        (x, HEAD + row as f64 * panel::HEIGHT)
    }

    pub(super) fn panel_at(&self, index: usize) -> At {
        Self::place(index % self.columns, index / self.columns)
    }

    /// The panel below this one, if any.
    pub(super) fn below(&self, index: usize) -> Option<usize> {
        Some(index + self.columns).filter(|below| *below < self.panels)
    }

    pub(super) fn legend_columns(&self) -> usize {
        match self.legend {
            Place::Strip => STRIP_COLUMNS,
            Place::Free if self.legend_entries > LEGEND_FITS => (self.columns * self.rows - self.panels).min(2),
            Place::Free | Place::Beside => 1,
        }
    }

    pub(super) fn legend_at(&self) -> At {
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

    /// The lower end of panels and legend.
    pub(super) fn bottom(&self) -> f64 {
        let rows = self.legend_entries.div_ceil(self.legend_columns());
        let legend = self.legend_at().1 + rows as f64 * legend::ROW + 2.0;
        self.panels_bottom().max(legend) + 10.0
    }
}
