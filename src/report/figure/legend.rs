//! Which line is whose.

use crate::comparison::curve::Point;
use crate::comparison::series::reading_name;
use crate::config::Shots;
use crate::error::Result;
use crate::report::figure::canvas::{At, Canvas, Type};
use crate::report::figure::grid::COLUMN;
use crate::report::figure::panel::CURVE_WIDTH;
use crate::report::figure::style::{CHANCE, CHANCE_DASH, FULL_DATA_DASH, INK, LABEL, ZERO_SHOT_DASH, curve_style};
use crate::report::figure::{level, shortened};

/// Height of an entry.
pub(super) const ROW: f64 = 23.0;
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

/// What `points` show: the curve of each of `learners`, its levels, guessing.
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
        let levels = own().filter(|p| level::is_drawn(p));
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
pub(super) fn draw(sheet: &mut Canvas<'_>, entries: &[Entry], at: At, columns: usize) -> Result<()> {
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
        sheet.text((x + SAMPLE + 9.0, y), &entry.name, Type::new(LABEL, INK))?;
    }
    Ok(())
}
