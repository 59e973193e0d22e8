//! Finding room for a name between lines and markers.

use crate::report::figure::canvas::At;

/// A rectangle, in pixels right and down.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Area {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
}

impl Area {
    /// The rectangle of `width` × `height` around a place.
    pub(super) fn around((x, y): At, width: f64, height: f64) -> Self {
        Self {
            left: x - width / 2.0,
            top: y - height / 2.0,
            right: x + width / 2.0,
            bottom: y + height / 2.0,
        }
    }

    pub(super) fn middle(&self) -> At {
        (
            f64::midpoint(self.left, self.right),
            f64::midpoint(self.top, self.bottom),
        )
    }

    /// Up to what rounding does.
    fn inside(&self, outer: &Self) -> bool {
        const SLACK: f64 = 1e-6;
        let (left, top) = (outer.left - SLACK, outer.top - SLACK);
        let (right, bottom) = (outer.right + SLACK, outer.bottom + SLACK);
        self.left >= left && self.right <= right && self.top >= top && self.bottom <= bottom
    }

    fn shared(&self, other: &Self) -> f64 {
        let wide = self.right.min(other.right) - self.left.max(other.left);
        let high = self.bottom.min(other.bottom) - self.top.max(other.top);
        wide.max(0.0) * high.max(0.0)
    }
}

/// What is drawn already, each with what covering a square pixel of it costs.
#[derive(Default)]
pub(super) struct Taken(Vec<(Area, f64)>);

const LINE: f64 = 1.0;
const MARKER: f64 = 3.0;
const TEXT: f64 = 100.0;

impl Taken {
    /// A line through `points`.
    pub(super) fn line(&mut self, points: &[At]) {
        for ends in points.windows(2) {
            let ((x, y), (to_x, to_y)) = (ends[0], ends[1]);
            let steps = ((to_x - x).hypot(to_y - y) / 2.0).ceil().max(1.0);
            for step in 0..=steps as usize {
                let share = step as f64 / steps;
                let at = (x + share * (to_x - x), y + share * (to_y - y));
                self.0.push((Area::around(at, 2.0, 2.0), LINE));
            }
        }
    }

    pub(super) fn marker(&mut self, at: At) {
        self.0.push((Area::around(at, 10.0, 10.0), MARKER));
    }

    pub(super) fn text(&mut self, area: Area) {
        self.0.push((area, TEXT));
    }

    /// The first of `candidates` that covers least, all of it within `bounds`; it is taken then. `None` when none
    /// is within.
    pub(super) fn freest(&mut self, candidates: &[Area], bounds: &Area) -> Option<Area> {
        let cost = |area: &Area| -> f64 { self.0.iter().map(|(other, each)| each * area.shared(other)).sum() };
        let mut best: Option<(f64, Area)> = None;
        for candidate in candidates.iter().filter(|area| area.inside(bounds)) {
            let cost = cost(candidate);
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, *candidate));
            }
        }
        let (_, area) = best?;
        self.text(area);
        Some(area)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_freest_places_is_taken() {
        let bounds = Area::around((50.0, 50.0), 100.0, 100.0);
        let candidates =
            [(95.0, 20.0), (80.0, 20.0), (20.0, 20.0), (20.0, 80.0)].map(|at| Area::around(at, 30.0, 10.0));
        let mut taken = Taken::default();
        taken.line(&[(70.0, 0.0), (70.0, 100.0)]);
        let found: Vec<_> = (0..4).map(|_| taken.freest(&candidates, &bounds).unwrap()).collect();
        // The first leaves the bounds; the second is on the line, which costs less than other text, but not under it.
        assert_eq!(found, [candidates[2], candidates[3], candidates[1], candidates[2]]);
        assert_eq!(taken.freest(&candidates[..1], &bounds), None);
        let mut marked = Taken::default();
        marked.marker((80.0, 20.0));
        assert_eq!(marked.freest(&candidates[1..3], &bounds), Some(candidates[2]));
    }
}
