//! Published results in a panel that they are comparable with: small grey rings with the number of their footnote.

use plotters::style::text_anchor::HPos;

use crate::comparison::curve::Point;
use crate::error::Result;
use crate::report::anchor::Anchor;
use crate::report::figure::canvas::{Canvas, Type};
use crate::report::figure::panel::{Axis, Frame};
use crate::report::figure::place::{Area, Taken};
use crate::report::figure::style::{GREY, SMALL, SOFT_INK};

/// A published result that a panel of the figure shows.
pub(super) struct Published<'a> {
    /// Number of the footnote.
    pub(super) number: usize,
    pub(super) anchor: &'a Anchor,
}

/// Those of `anchors` that are comparable with `points` and have a place on `axis`, numbered by model, method and
/// source.
pub(super) fn comparable<'a>(points: &[Point], anchors: &'a [Anchor], axis: &Axis) -> Vec<Published<'a>> {
    let mut names: Vec<[&str; 3]> = Vec::new();
    let mut found = Vec::new();
    let placed = anchors
        .iter()
        .filter(|anchor| (0.0..=1.0).contains(&axis.along(anchor.shots)));
    for anchor in placed.filter(|anchor| points.iter().any(|p| anchor.matches(p))) {
        let name = name(anchor);
        let known = names.iter().position(|known| *known == name);
        let number = known.unwrap_or_else(|| {
            names.push(name);
            names.len() - 1
        });
        found.push(Published {
            number: number + 1,
            anchor,
        });
    }
    found
}

fn name(anchor: &Anchor) -> [&str; 3] {
    [&anchor.model, &anchor.method, &anchor.source]
}

/// What the numbers mean; empty without published results.
pub(super) fn footnote(published: &[Published<'_>]) -> String {
    let mut told: Vec<String> = Vec::new();
    for one in published {
        let [model, method, source] = name(one.anchor);
        let text = format!("{}: {model}, {method} ({source})", one.number);
        if !told.contains(&text) {
            told.push(text);
        }
    }
    if told.is_empty() {
        return String::new();
    }
    format!(
        "Grey rings: published results of the same dataset, protocol and metric. {}.",
        told.join("; ")
    )
}

/// Draws those of `published` that are comparable with `points`, the points of one panel.
pub(super) fn draw(
    sheet: &mut Canvas<'_>,
    frame: &Frame,
    axis: &Axis,
    points: &[&Point],
    published: &[Published<'_>],
    taken: &mut Taken,
) -> Result<()> {
    let own: Vec<&Published<'_>> = published
        .iter()
        .filter(|one| points.iter().any(|p| one.anchor.matches(p)))
        .collect();
    let at = |one: &Published<'_>| {
        let along = axis.along(one.anchor.shots);
        (frame.x(along), frame.y(one.anchor.accuracy / 100.0))
    };
    for one in &own {
        taken.marker(at(one));
        sheet.ring(at(one), GREY)?;
    }
    for one in own {
        let ((x, y), text) = (at(one), one.number.to_string());
        let (width, height) = (text.len() as f64 * 7.5, 13.0);
        let beside = [
            (9.0, 0.0),
            (-9.0, 0.0),
            (0.0, -11.0),
            (0.0, 11.0),
            (8.0, -9.0),
            (-8.0, -9.0),
            (8.0, 9.0),
        ];
        let candidates = beside.map(|(dx, dy)| Area::around((x + dx, y + dy), width, height));
        if let Some(area) = taken.freest(&candidates, &frame.inner()) {
            let set = Type::new(SMALL, SOFT_INK).anchored(HPos::Center);
            sheet.text(area.middle(), &text, set)?;
        }
    }
    Ok(())
}
