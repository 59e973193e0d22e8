//! Accuracy against what it takes: device-seconds of training and testing, on a log10 axis.

use crate::comparison::curve::{Point, devices};
use crate::error::Result;
use crate::report::figure::canvas::{Canvas, Position};
use crate::report::figure::panel::OccupiedAreas;
use crate::report::figure::panel::{PanelFrame, Tick, axes, draw_curve, head};

/// Free room beside the outermost points, in powers of ten.
const PADDING: f64 = 0.15;
/// Labels that fit under a panel.
const LABELS: i32 = 6;

/// The axis of device-seconds.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    /// Over all that was timed; at least from one power of ten to the next, so that there are labels.
    fn new(points: &[&Point]) -> Self {
        let seconds = || points.iter().filter_map(|p| p.device_seconds);
        let low = seconds().fold(f64::MAX, f64::min).log10() - PADDING;
        let high = seconds().fold(f64::MIN_POSITIVE, f64::max).log10() + PADDING;
        if high - low >= 1.5 {
            return Self { low, high };
        }
        Self {
            low: low.min(low.floor() + 0.9),
            high: high.max(low.floor() + 1.1).max(low + 1.2),
        }
    }

    fn along(&self, seconds: f64) -> f64 {
        (seconds.log10() - self.low) / (self.high - self.low)
    }

    fn marks(&self) -> Vec<Tick> {
        let (first, last) = (self.low.ceil() as i32, self.high.floor() as i32);
        let step = (last - first) / LABELS + 1;
        let powers = (first..=last).filter(|power| power.rem_euclid(step) == 0);
        powers
            .map(|power| (self.along(10_f64.powi(power)), plain(power)))
            .collect()
    }
}

/// Ten to the power, as it is read most easily.
fn plain(power: i32) -> String {
    match power {
        ..0 => format!("{:.*}", power.unsigned_abs() as usize, 10_f64.powi(power)),
        0..=3 => format!("{}", 10_u32.pow(power.unsigned_abs())),
        4..=5 => format!("{},000", 10_u32.pow(power.unsigned_abs() - 3)),
        _ => format!("1e{power}"),
    }
}

/// True if there is anything to draw.
pub(super) fn is_timed(points: &[&Point]) -> bool {
    points.iter().any(|p| p.device_seconds.is_some())
}

/// Devices that the points were measured on.
pub(super) fn measured_on(points: &[&Point]) -> String {
    let timed = points.iter().filter(|p| p.device_seconds.is_some());
    devices(timed.map(|p| p.device.clone()))
}

/// Draws the panel: one line a learner, one marker a number of examples, joined from the fewest to the most.
pub(super) fn draw(sheet: &mut Canvas<'_>, frame: &PanelFrame, points: &[&Point], learners: &[String]) -> Result<()> {
    let Some(first) = points.first() else {
        return Ok(());
    };
    let device = measured_on(points);
    let device = match device.split("; ").count() {
        1 => device,
        _ => "several devices, see below".into(),
    };
    head(sheet, frame, "cost", &format!("{} · {device}", first.dataset))?;
    let axis = Axis::new(points);
    axes(sheet, frame, &axis.marks(), "device-seconds per cell")?;
    let mut occupied = OccupiedAreas::default();
    // The first learner of the legend is drawn last, on top.
    for (index, learner) in learners.iter().enumerate().rev() {
        let mut own: Vec<&Point> = points.iter().copied().filter(|p| p.learner == *learner).collect();
        own.sort_by_key(|p| p.shots);
        let line: Vec<(Position, bool)> = own
            .iter()
            .filter_map(|p| {
                let at = (frame.x(axis.along(p.device_seconds?)), frame.y(p.mean));
                Some((at, p.red))
            })
            .collect();
        draw_curve(sheet, &line, index, &mut occupied)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_ten_are_written_plainly() {
        let written: Vec<String> = (-3..=6).map(plain).collect();
        assert_eq!(
            written,
            [
                "0.001", "0.01", "0.1", "1", "10", "100", "1000", "10,000", "100,000", "1e6"
            ]
        );
    }
}
