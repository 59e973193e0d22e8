//! A panel of accuracy against labelled examples per class, of one dataset or of the mean of several: title, axes, bands,
//! lines and markers; level lines of results without a place on an axis of doublings; published results as grey rings;
//! and the search for room beside them for names. Then the panel of accuracy against what it takes: device-seconds of training
//! and testing, on a log10 axis.

use plotters::style::text_anchor::HPos;

use crate::comparison::curve::{Panel, Point, devices, distinct};
use crate::config::{Protocol, Shots};
use crate::error::Result;
use crate::report::anchor::Anchor;
use crate::report::figure::canvas::{
    Canvas, FULL_DATA_DASH, GREY, Position, Rgb, SMALL, TextFormat, ZERO_SHOT_DASH, curve_style,
};
use crate::report::figure::shortened;
use crate::statistics::metric::Headline;

/// Width of a panel with its tick labels.
pub(super) const WIDTH: f64 = 312.0;
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
type Tick = (f64, String);

/// The axis of shots, shared by all panels.
struct Axis {
    low: f64,
    high: f64,
    ticks: Vec<u32>,
}

impl Axis {
    /// From the smallest to the largest number of shots above zero, on a log2 scale; every number of shots is
    /// labelled while there is room, else the powers of two.
    fn new(points: &[Point]) -> Self {
        let shots = distinct(points, |p| p.shots).into_iter().filter_map(Shots::count);
        let mut ticks: Vec<u32> = shots.filter(|shots| *shots > 0).collect();
        ticks.sort_unstable();
        let crowded = ticks.windows(2).any(|pair| position(pair[1]) - position(pair[0]) < 0.4) || ticks.len() > 10;
        let (first, last) = (ticks.first().copied().unwrap_or(1), ticks.last().copied().unwrap_or(1));
        if crowded {
            let powers = (0..32).map(|power| 1 << power);
            ticks = powers.filter(|shots| (first..=last).contains(shots)).collect();
        }
        Self {
            low: position(first) - X_PADDING,
            high: position(last) + X_PADDING,
            ticks,
        }
    }

    /// Position along the axis: without examples at its start, the whole pool at its end.
    fn along(&self, shots: Shots) -> f64 {
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

/// Place of a panel, and the axes it names.
pub(super) struct PanelFrame {
    at: Position,
    /// Area of the curves.
    inner: Area,
    name_x: bool,
    name_y: bool,
}

impl PanelFrame {
    pub(crate) fn new((x, y): Position, name_x: bool, name_y: bool) -> Self {
        let inner = Area {
            left: x + LEFT,
            top: y + TOP,
            right: x + WIDTH - RIGHT,
            bottom: y + HEIGHT - BOTTOM,
        };
        Self {
            at: (x, y),
            inner,
            name_x,
            name_y,
        }
    }

    fn x(&self, along: f64) -> f64 {
        self.inner.left + along * (self.inner.right - self.inner.left)
    }

    fn y(&self, share: f64) -> f64 {
        self.inner.bottom - share.clamp(0.0, 1.0) * (self.inner.bottom - self.inner.top)
    }

    /// A line across the panel at this height.
    fn across(&self, y: f64) -> [Position; 2] {
        [(self.inner.left, y), (self.inner.right, y)]
    }
}

/// All that the panels of a figure share.
pub(super) struct Panels<'a> {
    axis: Axis,
    /// Learners are styled by their place.
    learners: &'a [String],
    published: Vec<Published<'a>>,
}

impl<'a> Panels<'a> {
    pub(crate) fn new(points: &[Point], anchors: &'a [Anchor], learners: &'a [String]) -> Self {
        let axis = Axis::new(points);
        Self {
            published: comparable(points, anchors, &axis),
            axis,
            learners,
        }
    }

    /// Draws a panel of accuracy.
    pub(crate) fn accuracy(&self, sheet: &mut Canvas<'_>, frame: &PanelFrame, points: &[&Point]) -> Result<()> {
        let Some(first) = points.first() else {
            return Ok(());
        };
        let (title, subtitle) = titles(first, points);
        head(sheet, frame, &title, &subtitle)?;
        axes(sheet, frame, &self.axis.marks(), "labelled examples per class")?;
        let has_place = |p: &&Point| p.shots.any() && p.shots != Shots::All;
        let curve = |learner| of_learner(points.iter().copied().filter(has_place), learner);
        let curves = self.learners.iter().map(curve).enumerate();
        let curves: Vec<(usize, Vec<&Point>)> = curves.filter(|(_, curve)| !curve.is_empty()).collect();
        for (index, curve) in curves.iter().rev() {
            band(sheet, frame, &self.axis, curve, *index)?;
        }
        let mut occupied = OccupiedAreas::default();
        let guessing = frame.across(frame.y(first.chance));
        sheet.reference(guessing)?;
        occupied.line(&guessing);
        let levels = levels(frame, points, self.learners);
        for level in &levels {
            sheet.level(frame.across(level.y), level.colour, level.dash)?;
            occupied.line(&frame.across(level.y));
        }
        // The first learner of the legend is drawn last, on top.
        for (index, curve) in curves.iter().rev() {
            let at = |p: &&Point| (frame.x(self.axis.along(p.place())), frame.y(p.mean));
            let line: Vec<(Position, bool)> = curve.iter().map(|p| (at(p), p.red)).collect();
            draw_curve(sheet, &line, *index, &mut occupied)?;
        }
        self.capped(sheet, frame, points)?;
        for level in &levels {
            level.draw_name(sheet, frame, &mut occupied)?;
        }
        self.draw_published(sheet, frame, points, &mut occupied)
    }

    /// Draws a panel of costs: one line a learner, one marker a number of examples, joined from the fewest to the most.
    pub(crate) fn cost(&self, sheet: &mut Canvas<'_>, frame: &PanelFrame, points: &[&Point]) -> Result<()> {
        let Some(first) = points.first() else {
            return Ok(());
        };
        let device = measured_on(points);
        let device = match device.split("; ").count() {
            1 => device,
            _ => "several devices, see below".into(),
        };
        head(sheet, frame, "cost", &format!("{} · {device}", first.dataset))?;
        let axis = CostAxis::new(points);
        axes(sheet, frame, &axis.marks(), "device-seconds per cell")?;
        let mut occupied = OccupiedAreas::default();
        // The first learner of the legend is drawn last, on top.
        for (index, learner) in self.learners.iter().enumerate().rev() {
            let at = |p: &&Point| Some(((frame.x(axis.along(p.device_seconds?)), frame.y(p.mean)), p.red));
            let own = of_learner(points.iter().copied(), learner);
            let line: Vec<(Position, bool)> = own.iter().filter_map(at).collect();
            draw_curve(sheet, &line, index, &mut occupied)?;
        }
        Ok(())
    }

    /// Names the numbers of shots that stand for more, which the classes do not have: between the marks of the axis where
    /// there is room, else above it.
    fn capped(&self, sheet: &mut Canvas<'_>, frame: &PanelFrame, points: &[&Point]) -> Result<()> {
        let capped = points.iter().copied().filter(|p| p.capped.is_some());
        let bottom = frame.inner.bottom;
        for place in distinct(capped, Point::place) {
            let x = frame.x(self.axis.along(place));
            let crowded = self
                .axis
                .marks()
                .iter()
                .any(|(mark, _)| (frame.x(*mark) - x).abs() < 16.0);
            let side = if crowded { -1.0 } else { 1.0 };
            sheet.axis([(x, bottom), (x, bottom + 4.0 * side)])?;
            sheet.text((x, bottom + 13.0 * side), &format!("{place}*"), TextFormat::MARK)?;
        }
        Ok(())
    }

    /// Draws published results that are comparable with `points`, the points of one panel.
    fn draw_published(
        &self,
        sheet: &mut Canvas<'_>,
        frame: &PanelFrame,
        points: &[&Point],
        occupied: &mut OccupiedAreas,
    ) -> Result<()> {
        let comparable = |one: &&Published<'_>| points.iter().any(|p| one.anchor.matches(p));
        let own: Vec<&Published<'_>> = self.published.iter().filter(comparable).collect();
        let at = |one: &Published<'_>| {
            let along = self.axis.along(one.anchor.shots);
            (frame.x(along), frame.y(one.anchor.accuracy / 100.0))
        };
        for one in &own {
            occupied.marker(at(one));
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
            if let Some(area) = occupied.freest(&candidates, &frame.inner) {
                sheet.text(area.middle(), &text, TextFormat::NOTE.anchored(HPos::Center))?;
            }
        }
        Ok(())
    }

    /// Meaning of the numbers; empty without published results.
    pub(crate) fn footnote(&self) -> String {
        let mut told: Vec<String> = Vec::new();
        for one in &self.published {
            let [model, method, source] = published_name(one.anchor);
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
}

/// A published result that a panel of the figure shows.
struct Published<'a> {
    /// Number of the footnote.
    number: usize,
    anchor: &'a Anchor,
}

/// Those of `anchors` that are comparable with `points` and have a place on `axis`, numbered by model, method and
/// source.
fn comparable<'a>(points: &[Point], anchors: &'a [Anchor], axis: &Axis) -> Vec<Published<'a>> {
    let mut names: Vec<[&str; 3]> = Vec::new();
    let mut found = Vec::new();
    let has_place = |anchor: &&Anchor| (0.0..=1.0).contains(&axis.along(anchor.shots));
    let placed = anchors.iter().filter(has_place);
    for anchor in placed.filter(|anchor| points.iter().any(|p| anchor.matches(p))) {
        let name = published_name(anchor);
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

/// The points of a learner, from the fewest shots to the most.
fn of_learner<'a>(points: impl Iterator<Item = &'a Point>, learner: &String) -> Vec<&'a Point> {
    let mut own: Vec<&Point> = points.filter(|p| p.learner == *learner).collect();
    own.sort_by_key(|p| p.shots);
    own
}

/// A learner's line and markers; those whose flag is set are struck out.
fn draw_curve(
    sheet: &mut Canvas<'_>,
    points: &[(Position, bool)],
    learner: usize,
    occupied: &mut OccupiedAreas,
) -> Result<()> {
    let style = curve_style(learner);
    let line: Vec<Position> = points.iter().map(|(at, _)| *at).collect();
    sheet.curve(&line, style)?;
    occupied.line(&line);
    for &(at, red) in points {
        occupied.marker(at);
        if red {
            sheet.struck_marker(at, style.marker, style.colour)?;
        } else {
            sheet.marker(at, style.marker, style.colour)?;
        }
    }
    Ok(())
}

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
        shortened(&first.dataset, &mark),
        format!("{protocol}{regime}{metric}{size}"),
    )
}

/// Draws what stands above a panel.
fn head(sheet: &mut Canvas<'_>, frame: &PanelFrame, title: &str, subtitle: &str) -> Result<()> {
    let (x, y) = (frame.inner.left, frame.at.1);
    sheet.text((x, y + 13.0), title, TextFormat::PANEL_TITLE)?;
    sheet.text((x, y + 31.0), subtitle, TextFormat::NOTE)
}

/// Draws both axes: accuracy, and what `ticks` and `name` say.
fn axes(sheet: &mut Canvas<'_>, frame: &PanelFrame, ticks: &[Tick], name: &str) -> Result<()> {
    let Area {
        left,
        top,
        right,
        bottom,
    } = frame.inner;
    for percent in [0_u32, 20, 40, 60, 80, 100] {
        let y = frame.y(f64::from(percent) / 100.0);
        if percent > 0 {
            sheet.grid(frame.across(y))?;
        }
        let mark = TextFormat::MARK.anchored(HPos::Right);
        sheet.text((left - 6.0, y), &percent.to_string(), mark)?;
    }
    sheet.axis(frame.across(bottom))?;
    for (along, label) in ticks {
        let x = frame.x(*along);
        sheet.axis([(x, bottom), (x, bottom + 4.0)])?;
        sheet.text((x, bottom + 13.0), label, TextFormat::MARK)?;
    }
    if frame.name_x {
        let middle = f64::midpoint(left, right);
        sheet.text((middle, bottom + 31.0), name, TextFormat::AXIS)?;
    }
    if frame.name_y {
        let middle = f64::midpoint(top, bottom);
        sheet.text((left - LEFT - 8.0, middle), "accuracy (%)", TextFormat::AXIS.upright())?;
    }
    Ok(())
}

/// The interval: an area along the curve, or a whisker where the curve is a single point.
fn band(sheet: &mut Canvas<'_>, frame: &PanelFrame, axis: &Axis, curve: &[&Point], index: usize) -> Result<()> {
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

/// Height of a name's letters with what hangs below the line.
const NAME_HEIGHT: f64 = 13.0;
/// Mean advance of the letters of the two names over their size, on the wide side.
const LETTER: f64 = 0.58;
/// Height by which a name may rise out of the panel, below its subtitle.
const ABOVE: f64 = 8.0;
/// Places along a line where its name is tried, beside the two ends.
const BETWEEN: usize = 12;

/// A line across the panel.
struct Level {
    y: f64,
    colour: Rgb,
    dash: &'static [f64],
    name: String,
}

/// True if a point is drawn as a level: every result without examples, and full data of the learners in question.
pub(super) fn is_drawn(point: &Point) -> bool {
    !point.shots.any() || (point.shots == Shots::All && point.subject)
}

/// The levels of a panel, learner by learner.
fn levels(frame: &PanelFrame, points: &[&Point], learners: &[String]) -> Vec<Level> {
    let mut levels = Vec::new();
    for (index, learner) in learners.iter().enumerate() {
        for point in points.iter().filter(|p| p.learner == *learner && is_drawn(p)) {
            let (dash, name) = match point.shots {
                Shots::All => (FULL_DATA_DASH, "full data"),
                Shots::K(_) => (ZERO_SHOT_DASH, "zero-shot"),
            };
            let red = if point.red { " (red)" } else { "" };
            levels.push(Level {
                y: frame.y(point.mean),
                colour: curve_style(index).colour,
                dash,
                name: format!("{name}{red}"),
            });
        }
    }
    levels
}

impl Level {
    /// Names the line where most room is: at its right end, else at its left end, else between, above before below.
    fn draw_name(&self, sheet: &mut Canvas<'_>, frame: &PanelFrame, occupied: &mut OccupiedAreas) -> Result<()> {
        let width = self.name.chars().count() as f64 * LETTER * SMALL + 2.0;
        let room = frame.inner.right - frame.inner.left - width;
        let at = |along: f64, above: bool| {
            let x = frame.inner.left + along * room + width / 2.0;
            let off = NAME_HEIGHT / 2.0 + 1.0;
            Area::around((x, if above { self.y - off } else { self.y + off }), width, NAME_HEIGHT)
        };
        let mut candidates = vec![at(1.0, true), at(1.0, false), at(0.0, true), at(0.0, false)];
        for step in (1..BETWEEN).rev() {
            let along = step as f64 / BETWEEN as f64;
            candidates.extend([at(along, true), at(along, false)]);
        }
        let mut bounds = frame.inner;
        bounds.top -= ABOVE;
        if let Some(area) = occupied.freest(&candidates, &bounds) {
            let set = TextFormat::new(SMALL, self.colour).anchored(HPos::Center);
            sheet.text(area.middle(), &self.name, set)?;
        }
        Ok(())
    }
}

fn published_name(anchor: &Anchor) -> [&str; 3] {
    [&anchor.model, &anchor.method, &anchor.source]
}

/// Free room beside the outermost points, in powers of ten.
const COST_PADDING: f64 = 0.15;
/// Labels that fit under a panel.
const LABELS: i32 = 6;

/// The axis of device-seconds.
struct CostAxis {
    low: f64,
    high: f64,
}

impl CostAxis {
    /// Over all that was timed; at least from one power of ten to the next, so that there are labels.
    fn new(points: &[&Point]) -> Self {
        let seconds = || points.iter().filter_map(|p| p.device_seconds);
        let low = seconds().fold(f64::MAX, f64::min).log10() - COST_PADDING;
        let high = seconds().fold(f64::MIN_POSITIVE, f64::max).log10() + COST_PADDING;
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
            .map(|power| (self.along(10_f64.powi(power)), power_of_ten(power)))
            .collect()
    }
}

/// Ten to the power, as it is read most easily.
fn power_of_ten(power: i32) -> String {
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

/// A rectangle, in pixels right and down.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Area {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

impl Area {
    /// The rectangle of `width` × `height` around a place.
    fn around((x, y): Position, width: f64, height: f64) -> Self {
        Self {
            left: x - width / 2.0,
            top: y - height / 2.0,
            right: x + width / 2.0,
            bottom: y + height / 2.0,
        }
    }

    fn middle(&self) -> Position {
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

/// Areas that are drawn already, each with the cost of covering a square pixel of it.
#[derive(Default)]
struct OccupiedAreas(Vec<(Area, f64)>);

const LINE: f64 = 1.0;
const MARKER: f64 = 3.0;
const TEXT: f64 = 100.0;

impl OccupiedAreas {
    /// A line through `points`.
    fn line(&mut self, points: &[Position]) {
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

    fn marker(&mut self, at: Position) {
        self.0.push((Area::around(at, 10.0, 10.0), MARKER));
    }

    fn text(&mut self, area: Area) {
        self.0.push((area, TEXT));
    }

    /// The first of `candidates` that covers least, all of it within `bounds`; it is taken then. `None` when none
    /// is within.
    fn freest(&mut self, candidates: &[Area], bounds: &Area) -> Option<Area> {
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
        let mut occupied = OccupiedAreas::default();
        occupied.line(&[(70.0, 0.0), (70.0, 100.0)]);
        let found: Vec<_> = (0..4).map(|_| occupied.freest(&candidates, &bounds).unwrap()).collect();
        // The first leaves the bounds; the second is on the line, which costs less than other text, but not under it.
        assert_eq!(found, [candidates[2], candidates[3], candidates[1], candidates[2]]);
        assert_eq!(occupied.freest(&candidates[..1], &bounds), None);
        let mut marked = OccupiedAreas::default();
        marked.marker((80.0, 20.0));
        assert_eq!(marked.freest(&candidates[1..3], &bounds), Some(candidates[2]));
    }

    #[test]
    fn powers_of_ten_are_written_plainly() {
        let written: Vec<String> = (-3..=6).map(power_of_ten).collect();
        assert_eq!(
            written,
            [
                "0.001", "0.01", "0.1", "1", "10", "100", "1000", "10,000", "100,000", "1e6"
            ]
        );
    }
}
