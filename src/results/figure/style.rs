//! How curves look: told apart by colour, by dash and by marker, so that grey print and colour-blind
//! readers lose nothing.

/// A colour, 8 bits a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rgb(pub(super) u8, pub(super) u8, pub(super) u8);

pub(super) const INK: Rgb = Rgb(0x22, 0x22, 0x22);
pub(super) const SOFT_INK: Rgb = Rgb(0x55, 0x55, 0x55);
pub(super) const GRID: Rgb = Rgb(0xE4, 0xE4, 0xE4);
pub(super) const PAPER: Rgb = Rgb(0xFF, 0xFF, 0xFF);

/// Sizes of type in pixels at natural size; 11 is the smallest.
pub(super) const TITLE: f64 = 16.0;
pub(super) const PANEL_TITLE: f64 = 13.0;
pub(super) const LABEL: f64 = 12.0;
pub(super) const SMALL: f64 = 11.0;

/// Shape at a curve's points, about 8 px wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marker {
    Circle,
    Square,
    Triangle,
    Diamond,
    Cross,
}

/// Look of one learner's curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct CurveStyle {
    pub(super) colour: Rgb,
    /// Lengths of ink and gap in turn, in pixels; empty for a solid line.
    pub(super) dash: &'static [f64],
    pub(super) marker: Marker,
}

/// The palette of Okabe and Ito (2008) without its yellow, which vanishes on white.
const COLOURS: [Rgb; 7] = [
    Rgb(0xD5, 0x5E, 0x00), // vermillion
    Rgb(0x56, 0xB4, 0xE9), // sky blue
    Rgb(0x00, 0x72, 0xB2), // blue
    Rgb(0x00, 0x9E, 0x73), // bluish green
    Rgb(0x00, 0x00, 0x00), // black
    Rgb(0xCC, 0x79, 0xA7), // reddish purple
    Rgb(0xE6, 0x9F, 0x00), // orange
];
const DASHES: [&[f64]; 6] = [
    &[],
    &[9.0, 3.0],
    &[9.0, 3.0, 2.0, 3.0],
    &[5.0, 3.0],
    &[1.5, 3.0],
    &[12.0, 3.0, 2.0, 3.0, 2.0, 3.0],
];
const MARKERS: [Marker; 5] = [
    Marker::Circle,
    Marker::Square,
    Marker::Triangle,
    Marker::Diamond,
    Marker::Cross,
];

/// Look of the `index`-th learner. Colour, dash and marker repeat after 7, 6 and 5 learners, all three
/// together after 210.
pub(super) fn curve_style(index: usize) -> CurveStyle {
    CurveStyle {
        colour: COLOURS[index % COLOURS.len()],
        dash: DASHES[index % DASHES.len()],
        marker: MARKERS[index % MARKERS.len()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_curves_look_alike_in_grey() {
        let grey = |Rgb(r, g, b): Rgb| 0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b);
        for a in 0..12 {
            for b in 0..a {
                let (a, b) = (curve_style(a), curve_style(b));
                let shades = (grey(a.colour) - grey(b.colour)).abs() / 255.0;
                // Where shades are close, dash or marker differ.
                assert!(shades > 0.2 || a.dash != b.dash || a.marker != b.marker, "{a:?} {b:?}");
            }
        }
        for index in 0..12 {
            assert!(grey(curve_style(index).colour) < 0.65 * 255.0, "too pale on white");
        }
    }
}
