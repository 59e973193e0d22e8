//! A sheet measured in pixels from its top left corner, drawn as SVG by plotters; and the style of its lines, which are
//! told apart by shade, by hue, by dash and by marker, so that grey print and colour-blind readers lose nothing.

use plotters::backend::{DrawingBackend, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{
    Color as _, FontDesc, FontFamily, FontStyle, FontTransform, RGBAColor, RGBColor, ShapeStyle, TextStyle,
};

use crate::error::{Error, Result};

/// A colour, 8 bits a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rgb(pub(super) u8, pub(super) u8, pub(super) u8);

const INK: Rgb = Rgb(0x22, 0x22, 0x22);
const SOFT_INK: Rgb = Rgb(0x55, 0x55, 0x55);
const GRID: Rgb = Rgb(0xE4, 0xE4, 0xE4);
/// Markers of published results, which are no part of what was measured.
pub(super) const GREY: Rgb = Rgb(0x77, 0x77, 0x77);
pub(super) const PAPER: Rgb = Rgb(0xFF, 0xFF, 0xFF);

/// Room around all that is drawn.
pub(super) const MARGIN: f64 = 16.0;

/// Sizes of type in pixels at natural size; 11 is the smallest.
const TITLE: f64 = 16.0;
const PANEL_TITLE: f64 = 13.0;
const LABEL: f64 = 12.0;
pub(super) const SMALL: f64 = 11.0;

/// Shape at a curve's points, about 8 px wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marker {
    Circle,
    Square,
    Triangle,
    Diamond,
    Cross,
    Inverted,
    Plus,
}

/// Look of one learner's curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct CurveStyle {
    pub colour: Rgb,
    /// Lengths of ink and gap in turn, in pixels; empty for a solid line.
    pub dash: &'static [f64],
    pub marker: Marker,
}

/// Seven steps of luminance between the black of the line of guessing and what still stands out on white, each
/// with a hue that stays apart from the others for every kind of colour vision. The first two, which the learners
/// in question get, are the farthest apart.
const COLOURS: [Rgb; 7] = [
    Rgb(0xDC, 0x55, 0x00), // vermillion
    Rgb(0x19, 0x19, 0x55), // navy
    Rgb(0x14, 0x96, 0xFA), // azure
    Rgb(0x46, 0x78, 0x4B), // green
    Rgb(0x7D, 0x3C, 0xA5), // violet
    Rgb(0x5F, 0x1E, 0x37), // plum
    Rgb(0x87, 0x23, 0x00), // brown
];
const DASHES: [&[f64]; 7] = [
    &[],
    &[9.0, 3.0],
    &[9.0, 3.0, 2.0, 3.0],
    &[5.0, 3.0],
    &[1.5, 3.0],
    &[12.0, 3.0, 2.0, 3.0, 2.0, 3.0],
    &[16.0, 3.0, 5.0, 3.0],
];
const MARKERS: [Marker; 7] = [
    Marker::Circle,
    Marker::Square,
    Marker::Triangle,
    Marker::Diamond,
    Marker::Cross,
    Marker::Inverted,
    Marker::Plus,
];

/// The line of guessing.
const CHANCE: Rgb = Rgb(0, 0, 0);
/// Its dash.
const CHANCE_DASH: &[f64] = &[1.2, 2.6];
/// Dash of the level without examples.
pub(super) const ZERO_SHOT_DASH: &[f64] = &[7.0, 4.0];
/// Dash of the level that the whole training pool reaches.
pub(super) const FULL_DATA_DASH: &[f64] = &[18.0, 4.0];

/// Look of the `index`-th learner. Colour, dash and marker repeat together after seven learners, but then colour
/// and dash go on in another pairing, which repeats after 49.
pub(super) fn curve_style(index: usize) -> CurveStyle {
    let round = index / COLOURS.len();
    CurveStyle {
        colour: COLOURS[index % COLOURS.len()],
        dash: DASHES[(index + round) % DASHES.len()],
        marker: MARKERS[(index + 2 * round) % MARKERS.len()],
    }
}

/// plotters draws on whole pixels: a sheet ten times as large gives tenths.
const SCALE: f64 = 10.0;

/// plotters divides font sizes by this when it writes them.
const PLOTTERS_FONT_SCALE: f64 = 1.24;

/// The embedded font first, then what viewers are likely to have.
const FONTS: &str = "DejaVu Sans, Verdana, sans-serif";

/// A place in pixels, right and down.
pub(super) type Position = (f64, f64);

/// Size, colour and alignment of a text; `at` is its left end, middle or right end, on the middle of the letters' height.
#[derive(Clone, Copy)]
pub(super) struct TextFormat {
    size: f64,
    colour: Rgb,
    bold: bool,
    anchor: HPos,
    /// Reads upwards.
    upright: bool,
}

impl TextFormat {
    /// Of a figure.
    pub(crate) const TITLE: Self = Self::new(TITLE, INK).bold();
    /// Of a panel.
    pub(crate) const PANEL_TITLE: Self = Self::new(PANEL_TITLE, INK).bold();
    /// Of an entry of the legend.
    pub(crate) const ENTRY: Self = Self::new(LABEL, INK);
    /// Of the name of an axis.
    pub(crate) const AXIS: Self = Self::new(LABEL, INK).anchored(HPos::Center);
    /// Of a mark on an axis.
    pub(crate) const MARK: Self = Self::new(SMALL, INK).anchored(HPos::Center);
    /// Of a remark.
    pub(crate) const NOTE: Self = Self::new(SMALL, SOFT_INK);
    /// Of a remark that must not be missed.
    pub(crate) const CAVEAT: Self = Self::new(SMALL, INK).bold();

    pub(crate) const fn new(size: f64, colour: Rgb) -> Self {
        Self {
            size,
            colour,
            bold: false,
            anchor: HPos::Left,
            upright: false,
        }
    }

    const fn bold(self) -> Self {
        Self { bold: true, ..self }
    }

    pub(crate) const fn anchored(self, anchor: HPos) -> Self {
        Self { anchor, ..self }
    }

    pub(crate) fn upright(self) -> Self {
        Self { upright: true, ..self }
    }
}

/// A sheet being drawn.
pub(super) struct Canvas<'a> {
    backend: SVGBackend<'a>,
}

/// Draws a sheet of `width` × `height` pixels and returns it as SVG.
pub(super) fn draw(
    width: f64,
    height: f64,
    description: &str,
    paint: impl FnOnce(&mut Canvas<'_>) -> Result<()>,
) -> Result<String> {
    let mut svg = String::new();
    let size = ((width * SCALE) as u32, (height * SCALE) as u32);
    let mut canvas = Canvas {
        backend: SVGBackend::with_string(&mut svg, size),
    };
    paint(&mut canvas)?;
    canvas.backend.present().map_err(figure_error)?;
    drop(canvas);
    // The sheet keeps its fine coordinates and is shown at its natural size.
    let fine = format!(r#"<svg width="{0}" height="{1}" viewBox="0 0 {0} {1}""#, size.0, size.1);
    let natural = format!(
        r#"<svg role="img" width="{width}" height="{height}" viewBox="0 0 {} {}""#,
        size.0, size.1
    );
    let rest = svg
        .strip_prefix(&fine)
        .ok_or_else(|| figure_error("the SVG header is not as expected"))?;
    let (header, body) = rest
        .split_once('\n')
        .ok_or_else(|| figure_error("the SVG has no body"))?;
    let description = description.replace('&', "&amp;").replace('<', "&lt;");
    Ok(format!("{natural}{header}\n<title>{description}</title>\n{body}"))
}

impl Canvas<'_> {
    /// Paper of this size, and the title of what is drawn on it.
    pub(crate) fn paper(&mut self, width: f64, height: f64, title: &str) -> Result<()> {
        self.area(&[(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)], PAPER, 1.0)?;
        self.text((MARGIN, MARGIN + 8.0), title, TextFormat::TITLE)
    }

    /// An axis, or a mark on it.
    pub(crate) fn axis(&mut self, ends: [Position; 2]) -> Result<()> {
        self.line(&ends, INK, 1.0, &[])
    }

    /// A line of the grid behind the curves.
    pub(crate) fn grid(&mut self, ends: [Position; 2]) -> Result<()> {
        self.line(&ends, GRID, 1.0, &[])
    }

    /// The line that a learner is measured by: guessing, or the diagonal.
    pub(crate) fn reference(&mut self, ends: [Position; 2]) -> Result<()> {
        self.line(&ends, CHANCE, 1.2, CHANCE_DASH)
    }

    /// A level of one learner.
    pub(crate) fn level(&mut self, ends: [Position; 2], colour: Rgb, dash: &[f64]) -> Result<()> {
        self.line(&ends, colour, 1.6, dash)
    }

    /// The curve of one learner.
    pub(crate) fn curve(&mut self, points: &[Position], style: CurveStyle) -> Result<()> {
        self.line(points, style.colour, 2.0, style.dash)
    }

    /// A line through `points`, broken into dashes of alternating ink and gap.
    pub(crate) fn line(&mut self, points: &[Position], colour: Rgb, width: f64, dash: &[f64]) -> Result<()> {
        for piece in dashes(points, dash) {
            self.backend
                .draw_path(piece.into_iter().map(scaled), &stroke(colour, width))
                .map_err(figure_error)?;
        }
        Ok(())
    }

    /// A filled shape without an edge.
    pub(crate) fn area(&mut self, corners: &[Position], colour: Rgb, opacity: f64) -> Result<()> {
        self.backend
            .fill_polygon(corners.iter().copied().map(scaled), &fill(colour, opacity))
            .map_err(figure_error)
    }

    /// A marker with a thin white edge that lifts it off the lines beneath.
    pub(crate) fn marker(&mut self, at: Position, marker: Marker, colour: Rgb) -> Result<()> {
        self.shape(at, marker, 4.7, PAPER)?;
        self.shape(at, marker, 3.7, colour)
    }

    /// A marker struck out: its outline only, under a cross.
    pub(crate) fn struck_marker(&mut self, (x, y): Position, marker: Marker, colour: Rgb) -> Result<()> {
        // A shape of two strokes has no inside.
        let outline = match marker {
            Marker::Cross | Marker::Plus => Marker::Circle,
            other => other,
        };
        self.marker((x, y), outline, colour)?;
        self.shape((x, y), outline, 2.4, PAPER)?;
        for (rise, fall) in [(-5.0, 5.0), (5.0, -5.0)] {
            self.line(&[(x - 5.0, y + rise), (x + 5.0, y + fall)], INK, 1.4, &[])?;
        }
        Ok(())
    }

    /// A small ring.
    pub(crate) fn ring(&mut self, at: Position, colour: Rgb) -> Result<()> {
        self.shape(at, Marker::Circle, 3.4, colour)?;
        self.shape(at, Marker::Circle, 2.1, PAPER)
    }

    /// A filled shape of about `radius`.
    fn shape(&mut self, (x, y): Position, marker: Marker, radius: f64, colour: Rgb) -> Result<()> {
        let corners: &[(f64, f64)] = match marker {
            Marker::Circle => {
                let radius = (radius * SCALE) as u32;
                let drawn = (self.backend).draw_circle(scaled((x, y)), radius, &fill(colour, 1.0), true);
                return drawn.map_err(figure_error);
            }
            // Strokes whose ends and sides lie within the shape.
            Marker::Cross => {
                let (arm, width) = (radius * 0.86, 2.0 * radius - 5.5);
                self.line(&[(x - arm, y - arm), (x + arm, y + arm)], colour, width, &[])?;
                return self.line(&[(x - arm, y + arm), (x + arm, y - arm)], colour, width, &[]);
            }
            Marker::Plus => {
                let (arm, width) = (radius * 1.15, 2.0 * radius - 5.3);
                self.line(&[(x - arm, y), (x + arm, y)], colour, width, &[])?;
                return self.line(&[(x, y - arm), (x, y + arm)], colour, width, &[]);
            }
            Marker::Square => &[(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
            Marker::Triangle => &[(0.0, -1.2), (1.1, 0.8), (-1.1, 0.8)],
            Marker::Inverted => &[(0.0, 1.2), (1.1, -0.8), (-1.1, -0.8)],
            Marker::Diamond => &[(0.0, -1.25), (1.25, 0.0), (0.0, 1.25), (-1.25, 0.0)],
        };
        let around: Vec<Position> = corners
            .iter()
            .map(|(dx, dy)| (x + radius * dx, y + radius * dy))
            .collect();
        self.area(&around, colour, 1.0)
    }

    /// One line of text.
    pub(crate) fn text(&mut self, at: Position, text: &str, set: TextFormat) -> Result<()> {
        let style = if set.bold { FontStyle::Bold } else { FontStyle::Normal };
        let transform = if set.upright {
            FontTransform::Rotate270
        } else {
            FontTransform::None
        };
        let size = set.size * SCALE * PLOTTERS_FONT_SCALE;
        let font = FontDesc::new(FontFamily::Name(FONTS), size, style).transform(transform);
        let colour = rgba(set.colour, 1.0);
        let style = TextStyle::from(font)
            .color(&colour)
            .pos(Pos::new(set.anchor, VPos::Center));
        self.backend.draw_text(text, &style, scaled(at)).map_err(figure_error)
    }
}

/// Cuts a line into its inked pieces; the pattern runs on through the corners.
fn dashes(points: &[Position], pattern: &[f64]) -> Vec<Vec<Position>> {
    if pattern.is_empty() {
        return vec![points.to_vec()];
    }
    let mut pieces = Vec::new();
    let mut piece: Vec<Position> = points.first().copied().into_iter().collect();
    let (mut phase, mut left) = (0, pattern[0]);
    for ends in points.windows(2) {
        let ((mut x, mut y), (to_x, to_y)) = (ends[0], ends[1]);
        loop {
            let rest = (to_x - x).hypot(to_y - y);
            let inked = phase % 2 == 0;
            if rest < left {
                left -= rest;
                if inked {
                    piece.push((to_x, to_y));
                }
                break;
            }
            (x, y) = (x + (to_x - x) * left / rest, y + (to_y - y) * left / rest);
            if inked {
                piece.push((x, y));
                pieces.push(std::mem::take(&mut piece));
            } else {
                piece = vec![(x, y)];
            }
            phase = (phase + 1) % pattern.len();
            left = pattern[phase];
        }
    }
    if piece.len() > 1 {
        pieces.push(piece);
    }
    pieces
}

fn scaled((x, y): Position) -> (i32, i32) {
    ((x * SCALE).round() as i32, (y * SCALE).round() as i32)
}

fn rgba(Rgb(r, g, b): Rgb, opacity: f64) -> RGBAColor {
    RGBColor(r, g, b).mix(opacity)
}

fn fill(colour: Rgb, opacity: f64) -> ShapeStyle {
    ShapeStyle {
        color: rgba(colour, opacity),
        filled: true,
        stroke_width: 0,
    }
}

fn stroke(colour: Rgb, width: f64) -> ShapeStyle {
    ShapeStyle {
        color: rgba(colour, 1.0),
        filled: false,
        stroke_width: (width * SCALE).round() as u32,
    }
}

pub(super) fn figure_error(reason: impl std::fmt::Display) -> Error {
    let reason = reason.to_string();
    Error::Figure { reason }
}

/// Colours as grey print and colour-blind eyes show them.
#[cfg(test)]
pub(super) mod vision {
    use super::Rgb;

    /// Linear light of each channel (IEC 61966-2-1).
    fn linear(Rgb(r, g, b): Rgb) -> [f64; 3] {
        [r, g, b].map(|channel| {
            let c = f64::from(channel) / 255.0;
            if c <= 0.040_45 {
                c / 12.92
            } else {
                ((c + 0.055) / 1.055).powf(2.4)
            }
        })
    }

    /// Contrast ratio of WCAG 2.2: of relative luminances, the lighter over the darker.
    pub(crate) fn contrast(a: Rgb, b: Rgb) -> f64 {
        let luminance = |colour| {
            let [r, g, b] = linear(colour);
            0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05
        };
        let (a, b) = (luminance(a), luminance(b));
        a.max(b) / a.min(b)
    }

    /// Full protanopia, deuteranopia and tritanopia: Machado, Oliveira & Fernandes, "A Physiologically-based Model
    /// for Simulation of Color Vision Deficiency" (2009), severity 1.0, on linear light.
    const DEFICIENCIES: [[[f64; 3]; 3]; 3] = [
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ],
    ];

    fn times(matrix: &[[f64; 3]; 3], v: [f64; 3]) -> [f64; 3] {
        matrix.map(|row| row[0] * v[0] + row[1] * v[1] + row[2] * v[2])
    }

    /// CIE 1976 L*a*b* of linear sRGB under D65.
    fn lab(light: [f64; 3]) -> [f64; 3] {
        const TO_XYZ: [[f64; 3]; 3] = [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ];
        let [x, y, z] = times(&TO_XYZ, light);
        let f = |t: f64| {
            if t > 216.0 / 24389.0 {
                t.cbrt()
            } else {
                (24389.0 / 27.0 * t + 16.0) / 116.0
            }
        };
        let (x, y, z) = (f(x / 0.95047), f(y), f(z / 1.08883));
        [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
    }

    /// The smallest CIE 1976 distance of two colours to the normal eye and to each of three deficient ones.
    pub(crate) fn distance(a: Rgb, b: Rgb) -> f64 {
        const NORMAL: [[f64; 3]; 3] = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
        let seen = |eye: &[[f64; 3]; 3], colour| lab(times(eye, linear(colour)).map(|c| c.clamp(0.0, 1.0)));
        std::iter::once(&NORMAL)
            .chain(&DEFICIENCIES)
            .map(|eye| {
                let (a, b) = (seen(eye, a), seen(eye, b));
                (0..3).map(|i| (a[i] - b[i]).powi(2)).sum::<f64>().sqrt()
            })
            .fold(f64::MAX, f64::min)
    }
}

#[cfg(test)]
mod tests {
    use super::vision::{contrast, distance};
    use super::*;

    #[test]
    fn dashes_follow_their_pattern_round_corners() {
        let pieces = dashes(&[(0.0, 0.0), (5.0, 0.0), (5.0, 5.0)], &[4.0, 3.0]);
        assert_eq!(pieces, [vec![(0.0, 0.0), (4.0, 0.0)], vec![(5.0, 2.0), (5.0, 5.0)]]);
        let solid = [(0.0, 0.0), (1.0, 1.0)];
        assert_eq!(dashes(&solid, &[]), [solid.to_vec()]);
        assert!(dashes(&[], &[1.0, 1.0]).is_empty());
    }

    #[test]
    fn text_cannot_break_the_document() {
        let svg = draw(100.0, 50.0, "a < b & c", |canvas| {
            canvas.text((10.0, 10.0), "<x> & \"y\"", TextFormat::new(11.0, Rgb(0, 0, 0)))
        });
        let svg = svg.unwrap();
        assert!(
            svg.starts_with("<svg role=\"img\" width=\"100\" height=\"50\" viewBox=\"0 0 1000 500\""),
            "{svg}"
        );
        assert!(
            svg.contains("<title>a &lt; b &amp; c</title>") && svg.contains("&lt;x&gt; &amp;"),
            "{svg}"
        );
        assert!(svg.contains("font-size=\"110\""), "{svg}");
    }

    #[test]
    fn the_measures_are_the_published_ones() {
        assert!((contrast(Rgb(0, 0, 0), PAPER) - 21.0).abs() < 1e-9);
        // The darkest grey that passes 4.5 on white, of which WCAG's examples speak.
        assert!((contrast(Rgb(0x77, 0x77, 0x77), PAPER) - 4.478).abs() < 1e-3);
        // Red and a green that protanopes and deuteranopes take for each other more than others do.
        let (red, green) = (Rgb(0xB0, 0x40, 0x20), Rgb(0x60, 0x68, 0x20));
        assert!(distance(red, green) < 30.0, "{}", distance(red, green));
        assert!(distance(Rgb(0, 0, 0), PAPER) > 95.0);
    }

    #[test]
    fn seven_curves_are_apart_in_grey_and_to_every_eye() {
        let mut colours: Vec<Rgb> = (0..7).map(|index| curve_style(index).colour).collect();
        colours.push(CHANCE);
        for (i, &a) in colours.iter().enumerate() {
            assert!(contrast(a, PAPER) >= 3.0, "{a:?} on white: {}", contrast(a, PAPER));
            for &b in &colours[..i] {
                assert!(contrast(a, b) >= 1.25, "{a:?} {b:?} in grey: {}", contrast(a, b));
                assert!(distance(a, b) >= 20.0, "{a:?} {b:?}: {}", distance(a, b));
            }
        }
        assert!(contrast(colours[0], colours[1]) >= 4.0);
        assert!(distance(colours[0], colours[1]) >= 90.0);
    }

    #[test]
    fn dash_and_marker_differ_as_well() {
        for a in 0..7 {
            for b in 0..a {
                let (a, b) = (curve_style(a), curve_style(b));
                assert!(a.dash != b.dash && a.marker != b.marker, "{a:?} {b:?}");
            }
        }
        for a in 0..49 {
            assert!((0..a).all(|b| curve_style(a) != curve_style(b)), "{a}");
        }
    }
}
