//! Accuracy against labelled examples per class: title, axes, bands, lines, markers, levels. Of one dataset, or of
//! the mean of several.

use plotters::style::text_anchor::HPos;

use crate::comparison::curve::{Panel, Point, distinct};
use crate::config::{Protocol, Shots};
use crate::error::Result;
use crate::report::figure::canvas::{At, Canvas, Type};
use crate::report::figure::level;
use crate::report::figure::place::{Area, Taken};
use crate::report::figure::published;
use crate::report::figure::published::Published;
use crate::report::figure::style::{CHANCE, CHANCE_DASH, GRID, INK, LABEL, PANEL_TITLE, SMALL, SOFT_INK, curve_style};
use crate::statistics::metric::Headline;

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
/// Opacity of a band: of the learners in question, and of the others.
const BAND_OPACITY: [f64; 2] = [0.16, 0.06];

/// A mark on the x axis: how far along the axis it is, between 0 and 1, and its label.
pub(super) type Tick = (f64, String);

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

    /// How far along the axis: without examples at its start, the whole pool at its end.
    pub(super) fn along(&self, shots: Shots) -> f64 {
        match shots {
            Shots::K(0) => 0.0,
            Shots::K(k) => (position(k) - self.low) / (self.high - self.low),
            Shots::All => 1.0,
        }
    }

    fn marks(&self) -> Vec<Tick> {
        let mark = |k: &u32| (self.along(Shots::K(*k)), k.to_string());
        self.ticks.iter().map(mark).collect()
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
    pub(super) fn left(&self) -> f64 {
        self.at.0 + LEFT
    }
    pub(super) fn right(&self) -> f64 {
        self.at.0 + self.width - RIGHT
    }
    fn top(&self) -> f64 {
        self.at.1 + TOP
    }
    fn bottom(&self) -> f64 {
        self.at.1 + HEIGHT - BOTTOM
    }
    pub(super) fn x(&self, along: f64) -> f64 {
        self.left() + along * (self.right() - self.left())
    }
    pub(super) fn y(&self, share: f64) -> f64 {
        self.bottom() - share.clamp(0.0, 1.0) * (self.bottom() - self.top())
    }
    /// Where curves are.
    pub(super) fn inner(&self) -> Area {
        Area {
            left: self.left(),
            top: self.top(),
            right: self.right(),
            bottom: self.bottom(),
        }
    }
}

/// Draws a panel. Learners are styled by their place in `learners`.
pub(super) fn draw(
    sheet: &mut Canvas<'_>,
    frame: &Frame,
    axis: &Axis,
    points: &[&Point],
    learners: &[String],
    published: &[Published],
) -> Result<()> {
    let Some(first) = points.first() else {
        return Ok(());
    };
    let (title, subtitle) = titles(first, points);
    head(sheet, frame, &title, &subtitle)?;
    axes(sheet, frame, &axis.marks(), "labelled examples per class")?;
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
    for (index, curve) in curves.iter().rev() {
        band(sheet, frame, axis, curve, *index)?;
    }
    let mut taken = Taken::default();
    let y = frame.y(first.chance);
    let guessing = [(frame.left(), y), (frame.right(), y)];
    sheet.line(&guessing, CHANCE, 1.2, CHANCE_DASH)?;
    taken.line(&guessing);
    let levels = level::levels(frame, points, learners);
    for level in &levels {
        level.draw(sheet, frame)?;
        taken.line(&level.line(frame));
    }
    // The first learner of the legend is drawn last, on top.
    for (index, curve) in curves.iter().rev() {
        let at = |p: &&Point| (frame.x(axis.along(p.place())), frame.y(p.mean));
        let line: Vec<(At, bool)> = curve.iter().map(|p| (at(p), p.red)).collect();
        draw_curve(sheet, &line, *index, &mut taken)?;
    }
    capped(sheet, frame, axis, points)?;
    for level in &levels {
        level.draw_name(sheet, frame, &mut taken)?;
    }
    published::draw(sheet, frame, axis, points, published, &mut taken)
}

/// Names the numbers of shots that stand for more, which the classes do not have: between the marks of the axis where
/// there is room, else above it.
fn capped(sheet: &mut Canvas<'_>, frame: &Frame, axis: &Axis, points: &[&Point]) -> Result<()> {
    let capped: Vec<Point> = points
        .iter()
        .filter(|p| p.capped.is_some())
        .map(|p| (*p).clone())
        .collect();
    for place in distinct(&capped, Point::place) {
        let x = frame.x(axis.along(place));
        let crowded = axis.marks().iter().any(|(mark, _)| (frame.x(*mark) - x).abs() < 16.0);
        let side = if crowded { -1.0 } else { 1.0 };
        sheet.line(&[(x, frame.bottom()), (x, frame.bottom() + 4.0 * side)], INK, 1.0, &[])?;
        let set = Type::new(SMALL, INK).anchored(HPos::Center);
        sheet.text((x, frame.bottom() + 13.0 * side), &format!("{place}*"), set)?;
    }
    Ok(())
}

/// A learner's line and markers; those whose flag is set are struck out.
pub(super) fn draw_curve(
    sheet: &mut Canvas<'_>,
    points: &[(At, bool)],
    learner: usize,
    taken: &mut Taken,
) -> Result<()> {
    let style = curve_style(learner);
    let line: Vec<At> = points.iter().map(|(at, _)| *at).collect();
    sheet.line(&line, style.colour, CURVE_WIDTH, style.dash)?;
    taken.line(&line);
    for &(at, red) in points {
        taken.marker(at);
        if red {
            sheet.struck_marker(at, style.marker, style.colour)?;
        } else {
            sheet.marker(at, style.marker, style.colour)?;
        }
    }
    Ok(())
}

/// Width of a learner's line.
pub(super) const CURVE_WIDTH: f64 = 2.0;

/// Title and subtitle of a panel.
fn titles(first: &Point, points: &[&Point]) -> (String, String) {
    let metric = match first.metric {
        Some(Headline::Top1) => "top-1",
        Some(Headline::MeanPerClass) => "mean per class",
        None => "each by its own metric",
    };
    let told = |form: &dyn Fn(&str) -> String| first.regime.as_deref().map(form).unwrap_or_default();
    let regime = told(&|regime| format!("{regime} concepts · "));
    let mark = told(&|regime| format!(" ({regime})"));
    let mut sizes: Vec<usize> = points.iter().map(|p| p.n_test).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let size = match sizes[..] {
        [size] if first.panel == Panel::Dataset => format!(" · n = {size}"),
        _ => String::new(),
    };
    let protocol = match first.protocol {
        Protocol::Clean => String::new(),
        other => format!("protocol {other} · "),
    };
    (
        crate::report::figure::shortened(&first.dataset, &mark),
        format!("{protocol}{regime}{metric}{size}"),
    )
}

/// Draws what stands above a panel.
pub(super) fn head(sheet: &mut Canvas<'_>, frame: &Frame, title: &str, subtitle: &str) -> Result<()> {
    let (x, y) = (frame.left(), frame.at.1);
    sheet.text((x, y + 13.0), title, Type::new(PANEL_TITLE, INK).bold())?;
    sheet.text((x, y + 31.0), subtitle, Type::new(SMALL, SOFT_INK))
}

/// Draws both axes: accuracy, and what `ticks` and `name` say.
pub(super) fn axes(sheet: &mut Canvas<'_>, frame: &Frame, ticks: &[Tick], name: &str) -> Result<()> {
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
    for (along, label) in ticks {
        let x = frame.x(*along);
        sheet.line(&[(x, bottom), (x, bottom + 4.0)], INK, 1.0, &[])?;
        let set = Type::new(SMALL, INK).anchored(HPos::Center);
        sheet.text((x, bottom + 13.0), label, set)?;
    }
    let set = Type::new(LABEL, INK).anchored(HPos::Center);
    if frame.name_x {
        let middle = f64::midpoint(left, right);
        sheet.text((middle, bottom + 31.0), name, set)?;
    }
    if frame.name_y {
        let middle = f64::midpoint(frame.top(), bottom);
        sheet.text((left - LEFT - 8.0, middle), "accuracy (%)", set.upright())?;
    }
    Ok(())
}

/// The interval: an area along the curve, or a whisker where the curve is a single point.
fn band(sheet: &mut Canvas<'_>, frame: &Frame, axis: &Axis, curve: &[&Point], index: usize) -> Result<()> {
    let colour = curve_style(index).colour;
    let along = |p: &&Point, share: f64| (frame.x(axis.along(p.place())), frame.y(share));
    if let [point] = curve {
        return sheet.line(&[along(point, point.low), along(point, point.high)], colour, 1.2, &[]);
    }
    let there = curve.iter().map(|p| along(p, p.high));
    let back = curve.iter().rev().map(|p| along(p, p.low));
    let opacity = BAND_OPACITY[usize::from(!curve[0].subject)];
    sheet.area(&there.chain(back).collect::<Vec<_>>(), colour, opacity)
}
