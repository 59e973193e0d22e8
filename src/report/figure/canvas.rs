//! A sheet measured in pixels from its top left corner, drawn as SVG by plotters.

use plotters::backend::{DrawingBackend, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{
    Color as _, FontDesc, FontFamily, FontStyle, FontTransform, RGBAColor, RGBColor, ShapeStyle, TextStyle,
};

use crate::error::{Error, Result};
use crate::report::figure::style::{INK, Marker, PAPER, Rgb};

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
    pub(crate) fn new(size: f64, colour: Rgb) -> Self {
        Self {
            size,
            colour,
            bold: false,
            anchor: HPos::Left,
            upright: false,
        }
    }

    pub(crate) fn bold(self) -> Self {
        Self { bold: true, ..self }
    }

    pub(crate) fn anchored(self, anchor: HPos) -> Self {
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
    canvas.backend.present().map_err(failed)?;
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
    /// A line through `points`, broken into dashes of alternating ink and gap.
    pub(crate) fn line(&mut self, points: &[Position], colour: Rgb, width: f64, dash: &[f64]) -> Result<()> {
        for piece in dashes(points, dash) {
            self.backend
                .draw_path(piece.into_iter().map(scaled), &stroke(colour, width))
                .map_err(failed)?;
        }
        Ok(())
    }

    /// A filled shape without an edge.
    pub(crate) fn area(&mut self, corners: &[Position], colour: Rgb, opacity: f64) -> Result<()> {
        let fill = ShapeStyle {
            color: rgba(colour, opacity),
            filled: true,
            stroke_width: 0,
        };
        self.backend
            .fill_polygon(corners.iter().copied().map(scaled), &fill)
            .map_err(failed)
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
                let fill = ShapeStyle {
                    color: rgba(colour, 1.0),
                    filled: true,
                    stroke_width: 0,
                };
                return self
                    .backend
                    .draw_circle(scaled((x, y)), (radius * SCALE) as u32, &fill, true)
                    .map_err(failed);
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
        self.backend.draw_text(text, &style, scaled(at)).map_err(failed)
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

fn stroke(colour: Rgb, width: f64) -> ShapeStyle {
    ShapeStyle {
        color: rgba(colour, 1.0),
        filled: false,
        stroke_width: (width * SCALE).round() as u32,
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    figure_error(&error.to_string())
}

pub(super) fn figure_error(reason: &str) -> Error {
    Error::Figure { reason: reason.into() }
}

#[cfg(test)]
mod tests {
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
}
