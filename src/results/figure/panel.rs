//! One dataset: title, axes, bands, lines, markers, levels without examples.

use plotters::style::text_anchor::HPos;

use crate::config::Shots;
use crate::error::Result;
use crate::results::curve::{Point, distinct};
use crate::results::figure::canvas::{At, Canvas, Type};
use crate::results::figure::style::{GRID, INK, LABEL, PANEL_TITLE, SMALL, SOFT_INK, curve_style};
use crate::results::metric::Headline;

/// Height of a panel with its title, tick labels and the name of the x axis.
pub(super) const HEIGHT: f64 = 300.0;
/// Room for the panel's title.
pub(super) const TOP: f64 = 46.0;
/// Room for the tick labels of the y axis.
pub(super) const LEFT: f64 = 32.0;
const BOTTOM: f64 = 48.0;
const RIGHT: f64 = 6.0;
/// Free room left and right of the outermost points, in doublings of the shots.
const X_PADDING: f64 = 0.3;
const BAND_OPACITY: f64 = 0.14;

/// The axis of shots, shared by all panels.
pub(super) struct Axis {
    low: f64,
    high: f64,
    ticks: Vec<u32>,
}

impl Axis {
    /// From the smallest to the largest number of shots above zero, on a log2 scale; every number of shots is
    /// labelled while there is room, else the powers of two.
    pub(super) fn new(points: &[Point]) -> Self {
        let mut ticks: Vec<u32> = distinct(points, |p| p.shots)
            .into_iter()
            .filter_map(Shots::count)
            .collect();
        ticks.retain(|shots| *shots > 0);
        ticks.sort_unstable();
        let crowded = ticks.windows(2).any(|pair| position(pair[1]) - position(pair[0]) < 0.4) || ticks.len() > 10;
        let (first, last) = (ticks.first().copied().unwrap_or(1), ticks.last().copied().unwrap_or(1));
        if crowded {
            ticks = (0..32)
                .map(|power| 1 << power)
                .filter(|shots| (first..=last).contains(shots))
                .collect();
        }
        Self {
            low: position(first) - X_PADDING,
            high: position(last) + X_PADDING,
            ticks,
        }
    }
}

fn position(shots: u32) -> f64 {
    f64::from(shots.max(1)).log2()
}

/// Where a panel stands and which axes it names.
pub(super) struct Frame {
    pub(super) at: At,
    pub(super) width: f64,
    pub(super) name_x: bool,
    pub(super) name_y: bool,
}

impl Frame {
    fn left(&self) -> f64 {
        self.at.0 + LEFT
    }
    fn right(&self) -> f64 {
        self.at.0 + self.width - RIGHT
    }
    fn top(&self) -> f64 {
        self.at.1 + TOP
    }
    fn bottom(&self) -> f64 {
        self.at.1 + HEIGHT - BOTTOM
    }
    fn x(&self, axis: &Axis, shots: Shots) -> f64 {
        let share = (position(shots.count().unwrap_or(1)) - axis.low) / (axis.high - axis.low);
        self.left() + share * (self.right() - self.left())
    }
    fn y(&self, share: f64) -> f64 {
        self.bottom() - share.clamp(0.0, 1.0) * (self.bottom() - self.top())
    }
}

/// Draws the panel of one dataset. Learners are styled by their place in `learners`.
pub(super) fn draw(
    sheet: &mut Canvas<'_>,
    frame: &Frame,
    axis: &Axis,
    points: &[&Point],
    learners: &[String],
) -> Result<()> {
    titles(sheet, frame, points)?;
    axes(sheet, frame, axis)?;
    let curves: Vec<(usize, Vec<&Point>)> = learners
        .iter()
        .map(|learner| {
            let own = points
                .iter()
                .copied()
                .filter(|p| p.learner == *learner && p.shots.any() && p.shots != Shots::All);
            let mut curve: Vec<&Point> = own.collect();
            curve.sort_by_key(|p| p.shots);
            curve
        })
        .enumerate()
        .filter(|(_, curve)| !curve.is_empty())
        .collect();
    for (index, curve) in &curves {
        band(sheet, frame, axis, curve, *index)?;
    }
    if let Some(point) = points.first() {
        let y = frame.y(point.chance);
        sheet.line(&[(frame.left(), y), (frame.right(), y)], SOFT_INK, 1.2, CHANCE_DASH)?;
    }
    zero_shots(sheet, frame, points, learners)?;
    // The first learner of the legend is drawn last, on top.
    for (index, curve) in curves.iter().rev() {
        let style = curve_style(*index);
        let line: Vec<At> = curve
            .iter()
            .map(|p| (frame.x(axis, p.shots), frame.y(p.mean)))
            .collect();
        sheet.line(&line, style.colour, 2.0, style.dash)?;
        for at in line {
            sheet.marker(at, style.marker, style.colour)?;
        }
    }
    Ok(())
}

/// Dash of the line of guessing.
pub(super) const CHANCE_DASH: &[f64] = &[1.2, 2.6];
/// Dash of the level without examples.
pub(super) const ZERO_SHOT_DASH: &[f64] = &[7.0, 4.0];
/// Between the names of two levels.
const NAME_HEIGHT: f64 = 13.0;

/// A level line for each learner that answered without examples, named at its right end.
fn zero_shots(sheet: &mut Canvas<'_>, frame: &Frame, points: &[&Point], learners: &[String]) -> Result<()> {
    let mut levels = Vec::new();
    for (index, learner) in learners.iter().enumerate() {
        let level = points.iter().find(|p| p.learner == *learner && p.shots == 0);
        levels.extend(level.map(|point| (frame.y(point.mean), curve_style(index).colour)));
    }
    levels.sort_by(|a, b| b.0.total_cmp(&a.0));
    // From the lowest: above its line and clear of the name below, from the highest: below the panel's edge.
    let mut names: Vec<f64> = levels.iter().map(|(y, _)| y - NAME_HEIGHT / 2.0).collect();
    for i in 1..names.len() {
        names[i] = names[i].min(names[i - 1] - NAME_HEIGHT);
    }
    let mut highest = frame.top() + NAME_HEIGHT / 2.0;
    for name in names.iter_mut().rev() {
        *name = name.max(highest);
        highest = *name + NAME_HEIGHT;
    }
    for ((y, colour), name) in levels.into_iter().zip(names) {
        sheet.line(&[(frame.left(), y), (frame.right(), y)], colour, 1.6, ZERO_SHOT_DASH)?;
        let set = Type::new(SMALL, colour).anchored(HPos::Right);
        sheet.text((frame.right() - 2.0, name), "zero-shot", set)?;
    }
    Ok(())
}

fn titles(sheet: &mut Canvas<'_>, frame: &Frame, points: &[&Point]) -> Result<()> {
    let Some(point) = points.first() else {
        return Ok(());
    };
    let metric = match point.metric {
        Headline::Top1 => "top-1",
        Headline::MeanPerClass => "mean per class",
    };
    let told = |form: &dyn Fn(&str) -> String| point.regime.as_deref().map(form).unwrap_or_default();
    let regime = told(&|regime| format!("{regime} concepts · "));
    let mark = told(&|regime| format!(" ({regime})"));
    let mut sizes: Vec<usize> = points.iter().map(|p| p.n_test).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let size = match sizes[..] {
        [size] => format!(" · n = {size}"),
        _ => String::new(),
    };
    let (x, y) = (frame.left(), frame.at.1);
    sheet.text(
        (x, y + 13.0),
        &super::shortened(&point.dataset, &mark),
        Type::new(PANEL_TITLE, INK).bold(),
    )?;
    sheet.text(
        (x, y + 31.0),
        &format!("{regime}{metric}{size}"),
        Type::new(SMALL, SOFT_INK),
    )
}

fn axes(sheet: &mut Canvas<'_>, frame: &Frame, axis: &Axis) -> Result<()> {
    let (left, right, bottom) = (frame.left(), frame.right(), frame.bottom());
    for percent in [0_u32, 20, 40, 60, 80, 100] {
        let y = frame.y(f64::from(percent) / 100.0);
        if percent > 0 {
            sheet.line(&[(left, y), (right, y)], GRID, 1.0, &[])?;
        }
        let label = Type::new(SMALL, INK).anchored(HPos::Right);
        sheet.text((left - 6.0, y), &percent.to_string(), label)?;
    }
    sheet.line(&[(left, bottom), (right, bottom)], INK, 1.0, &[])?;
    for &shots in &axis.ticks {
        let x = frame.x(axis, shots.into());
        sheet.line(&[(x, bottom), (x, bottom + 4.0)], INK, 1.0, &[])?;
        let label = Type::new(SMALL, INK).anchored(HPos::Center);
        sheet.text((x, bottom + 13.0), &shots.to_string(), label)?;
    }
    let name = Type::new(LABEL, INK).anchored(HPos::Center);
    if frame.name_x {
        let middle = f64::midpoint(left, right);
        sheet.text((middle, bottom + 31.0), "labelled examples per class", name)?;
    }
    if frame.name_y {
        let middle = f64::midpoint(frame.top(), bottom);
        sheet.text((left - LEFT - 8.0, middle), "accuracy (%)", name.upright())?;
    }
    Ok(())
}

/// The interval: an area along the curve, or a whisker where the curve is a single point.
fn band(sheet: &mut Canvas<'_>, frame: &Frame, axis: &Axis, curve: &[&Point], index: usize) -> Result<()> {
    let colour = curve_style(index).colour;
    let along = |p: &&Point, share: f64| (frame.x(axis, p.shots), frame.y(share));
    if let [point] = curve {
        return sheet.line(&[along(point, point.low), along(point, point.high)], colour, 1.2, &[]);
    }
    let there = curve.iter().map(|p| along(p, p.high));
    let back = curve.iter().rev().map(|p| along(p, p.low));
    sheet.area(&there.chain(back).collect::<Vec<_>>(), colour, BAND_OPACITY)
}
