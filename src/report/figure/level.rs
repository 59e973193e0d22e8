//! Level lines: what a learner reaches without examples, and with the whole training pool. Neither has a place on
//! an axis of doublings.

use plotters::style::text_anchor::HPos;

use crate::comparison::curve::Point;
use crate::config::Shots;
use crate::error::Result;
use crate::report::figure::canvas::{At, Canvas, Type};
use crate::report::figure::panel::Frame;
use crate::report::figure::place::{Area, Taken};
use crate::report::figure::style::{FULL_DATA_DASH, Rgb, SMALL, ZERO_SHOT_DASH, curve_style};

/// Height of a name's letters with what hangs below the line.
const NAME_HEIGHT: f64 = 13.0;
/// Mean advance of the letters of the two names over their size, on the wide side.
const LETTER: f64 = 0.58;
/// How far a name may rise out of the panel, below its subtitle.
const ABOVE: f64 = 8.0;
/// Places along a line where its name is tried, beside the two ends.
const BETWEEN: usize = 12;

/// A line across the panel.
pub(super) struct Level {
    y: f64,
    colour: Rgb,
    dash: &'static [f64],
    name: String,
}

/// Whether a point is drawn as a level: every result without examples, and full data of the learners in question.
pub(super) fn is_drawn(point: &Point) -> bool {
    !point.shots.any() || (point.shots == Shots::All && point.subject)
}

/// The levels of a panel, learner by learner.
pub(super) fn levels(frame: &Frame, points: &[&Point], learners: &[String]) -> Vec<Level> {
    let mut levels = Vec::new();
    for (index, learner) in learners.iter().enumerate() {
        for point in points.iter().filter(|p| p.learner == *learner && is_drawn(p)) {
            let (dash, name) = match point.shots {
                Shots::All => (FULL_DATA_DASH, "full data"),
                Shots::K(_) => (ZERO_SHOT_DASH, "zero-shot"),
            };
            levels.push(Level {
                y: frame.y(point.mean),
                colour: curve_style(index).colour,
                dash,
                name: if point.red {
                    format!("{name} (red)")
                } else {
                    name.into()
                },
            });
        }
    }
    levels
}

impl Level {
    pub(super) fn line(&self, frame: &Frame) -> [At; 2] {
        [(frame.left(), self.y), (frame.right(), self.y)]
    }

    pub(super) fn draw(&self, sheet: &mut Canvas<'_>, frame: &Frame) -> Result<()> {
        sheet.line(&self.line(frame), self.colour, 1.6, self.dash)
    }

    /// Names the line where most room is: at its right end, else at its left end, else between, above before below.
    pub(super) fn draw_name(&self, sheet: &mut Canvas<'_>, frame: &Frame, taken: &mut Taken) -> Result<()> {
        let width = self.name.chars().count() as f64 * LETTER * SMALL + 2.0;
        let room = frame.right() - frame.left() - width;
        let at = |along: f64, above: bool| {
            let x = frame.left() + along * room + width / 2.0;
            let off = NAME_HEIGHT / 2.0 + 1.0;
            Area::around((x, if above { self.y - off } else { self.y + off }), width, NAME_HEIGHT)
        };
        let mut candidates = vec![at(1.0, true), at(1.0, false), at(0.0, true), at(0.0, false)];
        for step in (1..BETWEEN).rev() {
            let along = step as f64 / BETWEEN as f64;
            candidates.extend([at(along, true), at(along, false)]);
        }
        let mut bounds = frame.inner();
        bounds.top -= ABOVE;
        match taken.freest(&candidates, &bounds) {
            Some(area) => {
                let set = Type::new(SMALL, self.colour).anchored(HPos::Center);
                sheet.text(area.middle(), &self.name, set)
            }
            None => Ok(()),
        }
    }
}
