//! Which line is whose.

use crate::error::Result;
use crate::results::figure::canvas::{At, Canvas, Type};
use crate::results::figure::panel::CHANCE_DASH;
use crate::results::figure::style::{INK, LABEL, SOFT_INK, curve_style};

/// Height of an entry.
pub(super) const ROW: f64 = 23.0;
const COLUMN: f64 = 326.0;
const SAMPLE: f64 = 38.0;

/// Rows that the legend needs in `columns`; guessing is an entry too.
pub(super) fn rows(learners: &[String], columns: usize) -> usize {
    (learners.len() + 1).div_ceil(columns)
}

/// Draws the legend with its top left corner at `at`, column by column.
pub(super) fn draw(sheet: &mut Canvas<'_>, learners: &[String], at: At, columns: usize) -> Result<()> {
    let rows = rows(learners, columns);
    let place = |index: usize| {
        (
            at.0 + (index / rows) as f64 * COLUMN,
            at.1 + ((index % rows) as f64 + 0.5) * ROW,
        )
    };
    for (index, learner) in learners.iter().enumerate() {
        let (x, y) = place(index);
        let style = curve_style(index);
        sheet.line(&[(x, y), (x + SAMPLE, y)], style.colour, 2.0, style.dash)?;
        sheet.marker((x + SAMPLE / 2.0, y), style.marker, style.colour)?;
        sheet.text((x + SAMPLE + 9.0, y), &super::shortened(learner), Type::new(LABEL, INK))?;
    }
    let (x, y) = place(learners.len());
    sheet.line(&[(x, y), (x + SAMPLE, y)], SOFT_INK, 1.2, CHANCE_DASH)?;
    sheet.text((x + SAMPLE + 9.0, y), "guessing", Type::new(LABEL, INK))
}
