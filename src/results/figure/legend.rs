//! Which line is whose.

use crate::error::Result;
use crate::results::curve::Point;
use crate::results::figure::canvas::{At, Canvas, Type};
use crate::results::figure::panel::{CHANCE_DASH, ZERO_SHOT_DASH};
use crate::results::figure::shortened;
use crate::results::figure::style::{INK, LABEL, SOFT_INK, curve_style};
use crate::results::series::reading_name;

/// Height of an entry.
pub(super) const ROW: f64 = 23.0;
const COLUMN: f64 = 326.0;
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
    Guessing,
}

/// What `points` show: the curve of each of `learners`, its level without examples, guessing.
pub(super) fn entries(points: &[Point], learners: &[String]) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (index, learner) in learners.iter().enumerate() {
        let of = |zero: bool| points.iter().find(|p| p.learner == *learner && (p.shots == 0) == zero);
        let read = |point: &Point| {
            let reading = point.reading.map(|reading| format!(" ({})", reading_name(reading)));
            reading.unwrap_or_default()
        };
        entries.extend(of(false).map(|point| Entry {
            line: Line::Curve(index),
            name: shortened(learner, &read(point)),
        }));
        entries.extend(of(true).map(|_| Entry {
            line: Line::ZeroShot(index),
            name: shortened(learner, ", zero-shot"),
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
                sheet.line(&line, style.colour, 2.0, style.dash)?;
                sheet.marker((x + SAMPLE / 2.0, y), style.marker, style.colour)?;
            }
            Line::ZeroShot(learner) => sheet.line(&line, curve_style(learner).colour, 1.6, ZERO_SHOT_DASH)?,
            Line::Guessing => sheet.line(&line, SOFT_INK, 1.2, CHANCE_DASH)?,
        }
        sheet.text((x + SAMPLE + 9.0, y), &entry.name, Type::new(LABEL, INK))?;
    }
    Ok(())
}
