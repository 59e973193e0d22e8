//! What a reader must know to trust the lines: protocol, seeds, what the bands are, and the caveat of
//! micro results.

use crate::error::Result;
use crate::results::curve::{IntervalKind, Point, distinct};
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
    let text = [describe(points, "Bands"), levels(points)].join(" ");
    let mut lines: Vec<Line> = wrap(text.trim_end(), letters)
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
    let (without, drawn): (Vec<Point>, Vec<Point>) = points.iter().cloned().partition(|p| p.shots == 0);
    let mut sentences = vec![format!("Protocol {}.", protocols.join(", "))];
    if !drawn.is_empty() {
        let seeds = distinct(&drawn, |p| p.seeds.clone());
        let seeds = match &seeds[..] {
            [one] if one.contains(' ') => format!("Mean over seeds {}", one.replace(' ', ", ")),
            [one] => format!("Seed {one}"),
            _ => "Mean over the seeds of each point".to_owned(),
        };
        sentences.push(format!("{seeds}; all learners see the same draws of examples."));
    }
    sentences.push("n: test images.".into());
    if !drawn.is_empty() {
        let kinds = kinds(&drawn, ToString::to_string);
        sentences.push(format!("{intervals}: 95 % {kinds}."));
    }
    if !without.is_empty() {
        let kinds = kinds(&without, |kind| kind.name().to_owned());
        sentences.push(format!("Zero-shot (k = 0): no examples, one run, 95 % {kinds}."));
    }
    sentences.join(" ")
}

fn kinds(points: &[Point], name: impl Fn(&IntervalKind) -> String) -> String {
    let mut kinds = distinct(points, |p| p.interval);
    kinds.sort();
    kinds.iter().map(name).collect::<Vec<_>>().join(", or ")
}

/// The levels without examples with their intervals, which the drawing leaves out; nothing without such points.
fn levels(points: &[Point]) -> String {
    let without: Vec<&Point> = points.iter().filter(|p| p.shots == 0).collect();
    let several = without.iter().any(|p| p.learner != without[0].learner);
    let percent = |share: f64| format!("{:.1}", 100.0 * share);
    let level = |p: &&Point| {
        let learner = if several {
            format!("{}, ", p.learner)
        } else {
            String::new()
        };
        let (mean, low, high) = (percent(p.mean), percent(p.low), percent(p.high));
        format!("{learner}{} {mean} [{low}, {high}]", p.dataset)
    };
    let levels: Vec<String> = without.iter().map(level).collect();
    if levels.is_empty() {
        return String::new();
    }
    format!("Zero-shot levels: {}.", levels.join("; "))
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
