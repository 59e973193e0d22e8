//! What a reader must know to trust the lines: protocol, seeds, what the bands are, and the caveat of
//! micro results.

use crate::error::Result;
use crate::results::curve::{Point, distinct};
use crate::results::figure::canvas::{At, Canvas, Type};
use crate::results::figure::style::{INK, SMALL, SOFT_INK};

/// Printed under every figure and table of micro results.
pub const MICRO_CAVEAT: &str = "Micro models on miniature datasets: these numbers say nothing about the real ones.";

const LINE: f64 = 16.0;
/// Mean advance of the embedded font's letters over its size, on the wide side.
const LETTER: f64 = 0.6;

/// A line under the figure; the caveat is set in bold.
pub(super) struct Line {
    text: String,
    caveat: bool,
}

/// The lines under the figure, none wider than `width` pixels.
pub(super) fn footnotes(points: &[Point], width: f64) -> Vec<Line> {
    let letters = (width / (SMALL * LETTER)) as usize;
    let mut lines: Vec<Line> = wrap(&describe(points, "Bands"), letters)
        .into_iter()
        .map(|text| Line { text, caveat: false })
        .collect();
    if points.iter().any(|p| p.micro) {
        lines.push(Line {
            text: MICRO_CAVEAT.into(),
            caveat: true,
        });
    }
    lines
}

pub(super) fn height(lines: &[Line]) -> f64 {
    lines.len() as f64 * LINE
}

pub(super) fn draw(sheet: &mut Canvas<'_>, lines: &[Line], (x, y): At) -> Result<()> {
    for (index, line) in lines.iter().enumerate() {
        let set = if line.caveat {
            Type::new(SMALL, INK).bold()
        } else {
            Type::new(SMALL, SOFT_INK)
        };
        sheet.text((x, y + (index as f64 + 0.5) * LINE), &line.text, set)?;
    }
    Ok(())
}

/// Protocol, seeds and intervals of `points`, in a sentence each; `intervals` is where they are seen,
/// e.g. "Bands".
#[must_use]
pub fn describe(points: &[Point], intervals: &str) -> String {
    let protocols: Vec<String> = distinct(points, |p| p.protocol)
        .iter()
        .map(ToString::to_string)
        .collect();
    let seeds = distinct(points, |p| p.seeds.clone());
    let seeds = match &seeds[..] {
        [one] if one.contains(' ') => format!("Mean over seeds {}", one.replace(' ', ", ")),
        [one] => format!("Seed {one}"),
        _ => "Mean over the seeds of each point".to_owned(),
    };
    let mut kinds = distinct(points, |p| p.interval);
    kinds.sort();
    let kinds: Vec<String> = kinds.iter().map(ToString::to_string).collect();
    format!(
        "Protocol {}. {seeds}; all learners see the same draws of examples. n: test images. {intervals}: 95 % {}.",
        protocols.join(", "),
        kinds.join(", or ")
    )
}

/// Breaks a text at spaces into lines of at most `letters` letters.
fn wrap(text: &str, letters: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= letters => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_spaces() {
        assert_eq!(wrap("aa bb cc", 5), ["aa bb", "cc"]);
        assert_eq!(wrap("aaaaaaaa b", 3), ["aaaaaaaa", "b"]);
    }
}
