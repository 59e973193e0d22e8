//! The caption that a reader needs to trust the lines: protocol, seeds, meaning of the bands, and the caveat of
//! micro results.

use crate::comparison::curve;
use crate::comparison::curve::{IntervalKind, Panel, Point, distinct};
use crate::config::Shots;
use crate::error::Result;
use crate::report::figure::canvas::{Canvas, Position, TextFormat};
use crate::report::figure::style::{INK, SMALL, SOFT_INK};
use crate::report::figure::{cost, panel};

/// Printed under every figure and table of micro results.
pub const MICRO_CAVEAT: &str = "Micro models on miniature datasets: these numbers say nothing about the real ones.";

/// Printed under every figure that shows runs whose sanity control failed.
const RED_CAVEAT: &str = "Struck out, or named red: a sanity control is red, the number is not to be used.";

const LINE: f64 = 16.0;
/// Mean advance of the embedded font's letters over its size in a line of text, on the wide side.
const LETTER: f64 = 0.55;

/// A line under the figure; the caveat is set in bold.
pub(super) struct Line {
    text: String,
    caveat: bool,
}

/// The lines under the figure, none wider than `width` pixels: what `points` are, then `notes`, then the caveat.
pub(super) fn footnotes(points: &[Point], notes: &[String], width: f64) -> Vec<Line> {
    let letters = (width / (SMALL * LETTER)) as usize;
    let own = [
        describe(points, "Bands"),
        over_datasets(points),
        levels(points, "Zero-shot levels", |p| !p.shots.any()),
        levels(points, "Full-data levels", |p| {
            p.shots == Shots::All && panel::is_drawn(p)
        }),
        capped(points),
    ];
    let mut lines: Vec<Line> = own
        .iter()
        .chain(notes)
        .filter(|text| !text.is_empty())
        .flat_map(|text| wrap(text, letters))
        .map(|text| Line { text, caveat: false })
        .collect();
    let caveats = [
        (points.iter().any(|p| p.red), RED_CAVEAT),
        (points.iter().any(|p| p.micro), MICRO_CAVEAT),
    ];
    for (_, caveat) in caveats.iter().filter(|(applies, _)| *applies) {
        let text = (*caveat).to_owned();
        lines.push(Line { text, caveat: true });
    }
    lines
}

pub(super) fn height(lines: &[Line]) -> f64 {
    lines.len() as f64 * LINE
}

pub(super) fn draw(sheet: &mut Canvas<'_>, lines: &[Line], (x, y): Position) -> Result<()> {
    for (index, line) in lines.iter().enumerate() {
        let set = if line.caveat {
            TextFormat::new(SMALL, INK).bold()
        } else {
            TextFormat::new(SMALL, SOFT_INK)
        };
        sheet.text((x, y + (index as f64 + 0.5) * LINE), &line.text, set)?;
    }
    Ok(())
}

/// Protocol, seeds and intervals of `points`, in a sentence each; `intervals` is where they are seen,
/// e.g. "Bands". Means over datasets are not spoken of.
#[must_use]
pub fn describe(points: &[Point], intervals: &str) -> String {
    let points: Vec<Point> = points.iter().filter(|p| p.panel == Panel::Dataset).cloned().collect();
    let protocols: Vec<String> = distinct(&points, |p| p.protocol)
        .iter()
        .map(ToString::to_string)
        .collect();
    let (without, with): (Vec<Point>, Vec<Point>) = points.into_iter().partition(|p| !p.shots.any());
    let (full, drawn): (Vec<Point>, Vec<Point>) = with.into_iter().partition(|p| p.shots == Shots::All);
    let mut sentences = vec![format!("Protocol {}.", protocols.join(", "))];
    if !drawn.is_empty() {
        let mut seeds = seeds(&drawn);
        if let Some(first) = seeds.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        sentences.push(format!("{seeds}; all learners see the same draws of examples."));
    }
    sentences.push("n: test images.".into());
    if !drawn.is_empty() {
        let kinds = kinds(&drawn, ToString::to_string);
        sentences.push(format!("{intervals}: 95 % {kinds}."));
        let few = |p: &Point| (2..curve::ENOUGH_SEEDS).contains(&p.seeds.split_whitespace().count());
        sentences.extend(drawn.iter().any(few).then(|| curve::FEW_SEEDS.to_owned()));
    }
    if !without.is_empty() {
        let kinds = kinds(&without, |kind| kind.name().to_owned());
        sentences.push(format!("Zero-shot (k = 0): no examples, one run, 95 % {kinds}."));
    }
    if !full.is_empty() {
        let (seeds, kinds) = (seeds(&full), kinds(&full, |kind| kind.name().to_owned()));
        sentences.push(format!(
            "Full data (k = all): the whole training pool, {seeds}, 95 % {kinds}."
        ));
    }
    sentences.join(" ")
}

fn seeds(points: &[Point]) -> String {
    match &distinct(points, |p| p.seeds.clone())[..] {
        [one] if one.contains(' ') => format!("mean over seeds {}", one.replace(' ', ", ")),
        [one] => format!("seed {one}"),
        _ => "mean over the seeds of each point".to_owned(),
    }
}

/// Sentence about the panels of means and of costs; empty without them.
fn over_datasets(points: &[Point]) -> String {
    let means: Vec<Point> = points.iter().filter(|p| p.panel == Panel::Mean).cloned().collect();
    let mut sentences = Vec::new();
    if !means.is_empty() {
        sentences.push(format!(
            "Mean: datasets weigh the same, learners that were run on all of them, 95 % {}.",
            kinds(&means, |kind| kind.name().to_owned())
        ));
    }
    let timed: Vec<&Point> = points.iter().filter(|p| p.device_seconds.is_some()).collect();
    if !timed.is_empty() {
        sentences.push(format!(
            "Cost: wall-clock seconds of training and testing times devices, mean over runs, one marker a number of \
             examples, joined from the fewest to the most; what a cell took from an earlier one's memory, such as \
             features of a frozen model, is not in it. Measured on {}.",
            cost::measured_on(&timed)
        ));
    }
    sentences.join(" ")
}

/// Sentence about points with fewer shots than were asked for; empty without such points.
fn capped(points: &[Point]) -> String {
    let of_dataset = |p: &&Point| p.panel == Panel::Dataset && p.capped.is_some();
    let capped: Vec<Point> = points.iter().filter(of_dataset).cloned().collect();
    let named = |(dataset, asked, place): &(String, Shots, Shots)| format!("{dataset} {place} in place of {asked}");
    let named: Vec<String> = distinct(&capped, |p| (p.dataset.clone(), p.shots, p.place()))
        .iter()
        .map(named)
        .collect();
    if named.is_empty() {
        return String::new();
    }
    format!(
        "* Fewer examples per class than were asked for, all that the smallest class has: {}.",
        named.join("; ")
    )
}

fn kinds(points: &[Point], name: impl Fn(&IntervalKind) -> String) -> String {
    let mut kinds = distinct(points, |p| p.interval);
    kinds.sort();
    kinds.iter().map(name).collect::<Vec<_>>().join(", or ")
}

/// Levels with their intervals, which the drawing leaves out; empty without such points.
fn levels(points: &[Point], title: &str, which: impl Fn(&Point) -> bool) -> String {
    let own: Vec<Point> = points.iter().filter(|p| which(p)).cloned().collect();
    let learners = distinct(&own, |p| p.learner.clone());
    let percent = |share: f64| format!("{:.1}", 100.0 * share);
    let level = |p: &Point| {
        let (mean, low, high) = (percent(p.mean), percent(p.low), percent(p.high));
        format!("{} {mean} [{low}, {high}]", p.dataset)
    };
    let of = |learner: &String| {
        let levels: Vec<String> = own.iter().filter(|p| p.learner == *learner).map(level).collect();
        levels.join("; ")
    };
    match &learners[..] {
        [] => String::new(),
        [one] => format!("{title}: {}.", of(one)),
        several => {
            let each: Vec<String> = several.iter().map(|one| format!("{one}: {}", of(one))).collect();
            format!("{title}. {}.", each.join(". "))
        }
    }
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
