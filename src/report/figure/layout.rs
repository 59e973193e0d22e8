//! What stands around the panels: their grid, the legend in it, and below it the caption that a reader needs to trust the
//! lines: protocol, seeds, meaning of the bands, and the caveat of micro results.

use crate::comparison::curve;
use crate::comparison::curve::{IntervalKind, Panel, Point, distinct};
use crate::comparison::series::reading_name;
use crate::config::Shots;
use crate::error::Result;
use crate::report::figure::canvas::{
    Canvas, FULL_DATA_DASH, MARGIN, Position, SMALL, TextFormat, ZERO_SHOT_DASH, curve_style,
};
use crate::report::figure::{HEAD, panel, shortened};

/// Room left of the first column for the name of the y axis.
const Y_NAME: f64 = 22.0;
const COLUMN_GAP: f64 = 14.0;
/// From one column of panels to the next.
const COLUMN: f64 = panel::WIDTH + COLUMN_GAP;
/// Entries of the legend that fit into one panel's place.
const LEGEND_FITS: usize = 10;

/// The legend stands beside one, two or four panels, else in the free places of the last row, else in a strip
/// below it.
pub(super) struct Grid {
    panels: usize,
    pub columns: usize,
    rows: usize,
    legend: LegendPosition,
    entries: Vec<Entry>,
}

enum LegendPosition {
    Beside,
    Free,
    Strip,
}

const STRIP_COLUMNS: usize = 3;

impl Grid {
    /// Of so many panels that show `points`.
    pub(crate) fn new(panels: usize, points: &[Point], learners: &[String]) -> Self {
        let columns = match panels {
            0 | 1 => 1,
            2 | 4 => 2,
            _ => 3,
        };
        let rows = panels.div_ceil(columns);
        let legend = if columns < 3 {
            LegendPosition::Beside
        } else if panels < columns * rows {
            LegendPosition::Free
        } else {
            LegendPosition::Strip
        };
        Self {
            panels,
            columns,
            rows,
            legend,
            entries: entries(points, learners),
        }
    }

    pub(crate) fn width(&self) -> f64 {
        let beside = matches!(self.legend, LegendPosition::Beside);
        let columns = self.columns + usize::from(beside);
        Self::place(columns, 0).0 - COLUMN_GAP + MARGIN
    }

    fn place(column: usize, row: usize) -> Position {
        let x = MARGIN + Y_NAME + column as f64 * COLUMN;
        (x, HEAD + row as f64 * panel::HEIGHT)
    }

    pub(crate) fn panel_at(&self, index: usize) -> Position {
        Self::place(index % self.columns, index / self.columns)
    }

    /// The panel below this one, if any.
    pub(crate) fn below(&self, index: usize) -> Option<usize> {
        Some(index + self.columns).filter(|below| *below < self.panels)
    }

    fn legend_rows(&self) -> usize {
        let columns = match self.legend {
            LegendPosition::Strip => STRIP_COLUMNS,
            LegendPosition::Free if self.entries.len() > LEGEND_FITS => (self.columns * self.rows - self.panels).min(2),
            LegendPosition::Free | LegendPosition::Beside => 1,
        };
        self.entries.len().div_ceil(columns)
    }

    fn legend_at(&self) -> Position {
        let (x, y) = match self.legend {
            LegendPosition::Beside => Self::place(self.columns, 0),
            LegendPosition::Free => self.panel_at(self.panels),
            LegendPosition::Strip => {
                return (Self::place(0, 0).0 + panel::LEFT, self.panels_bottom() + 4.0);
            }
        };
        (x + panel::LEFT, y + panel::TOP)
    }

    fn panels_bottom(&self) -> f64 {
        Self::place(0, self.rows).1
    }

    /// The lower end of panels and legend.
    pub(crate) fn bottom(&self) -> f64 {
        let legend = self.legend_at().1 + self.legend_rows() as f64 * ROW + 2.0;
        self.panels_bottom().max(legend) + 10.0
    }

    /// Draws the legend, column by column.
    pub(crate) fn draw_legend(&self, sheet: &mut Canvas<'_>) -> Result<()> {
        let (at, rows) = (self.legend_at(), self.legend_rows());
        for (index, entry) in self.entries.iter().enumerate() {
            let x = at.0 + (index / rows) as f64 * COLUMN;
            let y = at.1 + ((index % rows) as f64 + 0.5) * ROW;
            let line = [(x, y), (x + SAMPLE, y)];
            match entry.sample {
                Sample::Curve(learner) => {
                    let style = curve_style(learner);
                    sheet.curve(&line, style)?;
                    sheet.marker((x + SAMPLE / 2.0, y), style.marker, style.colour)?;
                }
                Sample::ZeroShot(learner) => sheet.level(line, curve_style(learner).colour, ZERO_SHOT_DASH)?,
                Sample::FullData(learner) => sheet.level(line, curve_style(learner).colour, FULL_DATA_DASH)?,
                Sample::Guessing => sheet.reference(line)?,
            }
            sheet.text((x + SAMPLE + 9.0, y), &entry.name, TextFormat::ENTRY)?;
        }
        Ok(())
    }
}

/// Height of an entry.
const ROW: f64 = 23.0;
const SAMPLE: f64 = 38.0;

/// A line in the panels and what it is called.
struct Entry {
    sample: Sample,
    name: String,
}

enum Sample {
    /// Of the learner of this place.
    Curve(usize),
    /// The same learner without examples.
    ZeroShot(usize),
    /// The same learner with the whole pool.
    FullData(usize),
    Guessing,
}

/// Contents of `points`: the curve of each of `learners`, its levels, guessing.
fn entries(points: &[Point], learners: &[String]) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (index, learner) in learners.iter().enumerate() {
        let own = || points.iter().filter(|p| p.learner == *learner);
        let mut push = |sample, remark: &str| {
            let name = shortened(learner, remark);
            entries.push(Entry { sample, name });
        };
        if let Some(point) = own().find(|p| p.shots.any() && p.shots != Shots::All) {
            let reading = point.reading.map(|reading| format!(" ({})", reading_name(reading)));
            push(Sample::Curve(index), &reading.unwrap_or_default());
        }
        let levels = || own().filter(|p| panel::is_drawn(p));
        if levels().any(|p| !p.shots.any()) {
            push(Sample::ZeroShot(index), ", zero-shot");
        }
        if levels().any(|p| p.shots.any()) {
            push(Sample::FullData(index), ", full data");
        }
    }
    entries.push(Entry {
        sample: Sample::Guessing,
        name: "guessing".into(),
    });
    entries
}

/// Printed under every figure and table of micro results.
pub const MICRO_CAVEAT: &str = "Micro models on miniature datasets: these numbers say nothing about the real ones.";

/// Printed under every figure that shows runs whose sanity control failed.
const RED_CAVEAT: &str = "Struck out, or named red: a sanity control is red, the number is not to be used.";

const FOOTNOTE_HEIGHT: f64 = 16.0;
/// Mean advance of the embedded font's letters over its size in a line of text, on the wide side.
const LETTER: f64 = 0.55;

/// The lines under a figure; caveats are set in bold.
pub(super) struct Footnotes(Vec<(String, TextFormat)>);

impl Footnotes {
    /// None wider than `width` pixels: what `points` are, then `note`, then the caveats.
    pub(crate) fn new(points: &[Point], note: &str, width: f64) -> Self {
        let letters = (width / (SMALL * LETTER)) as usize;
        let full_data = |p: &Point| p.shots == Shots::All && panel::is_drawn(p);
        let texts = [
            describe(points, "Bands"),
            over_datasets(points),
            levels(points, "Zero-shot levels", |p| !p.shots.any()),
            levels(points, "Full-data levels", full_data),
            capped(points),
            note.to_owned(),
        ];
        let told = texts.iter().filter(|text| !text.is_empty());
        let notes = told
            .flat_map(|text| wrap(text, letters))
            .map(|line| (line, TextFormat::NOTE));
        let red = points.iter().any(|p| p.red).then_some(RED_CAVEAT);
        let micro = points.iter().any(|p| p.micro).then_some(MICRO_CAVEAT);
        let caveats = red.into_iter().chain(micro);
        Self(
            notes
                .chain(caveats.map(|line| (line.to_owned(), TextFormat::CAVEAT)))
                .collect(),
        )
    }

    pub(crate) fn height(&self) -> f64 {
        self.0.len() as f64 * FOOTNOTE_HEIGHT
    }

    pub(crate) fn draw(&self, sheet: &mut Canvas<'_>, (x, y): Position) -> Result<()> {
        for (index, (line, format)) in self.0.iter().enumerate() {
            sheet.text((x, y + (index as f64 + 0.5) * FOOTNOTE_HEIGHT), line, *format)?;
        }
        Ok(())
    }
}

/// Protocol, seeds and intervals of `points`, in a sentence each; `intervals` is where they are seen,
/// e.g. "Bands". Means over datasets are not spoken of.
#[must_use]
pub fn describe(points: &[Point], intervals: &str) -> String {
    let of_datasets = || points.iter().filter(|p| p.panel == Panel::Dataset);
    let protocols = distinct(of_datasets(), |p| p.protocol);
    let protocols: Vec<String> = protocols.iter().map(ToString::to_string).collect();
    let (without, with): (Vec<&Point>, Vec<&Point>) = of_datasets().partition(|p| !p.shots.any());
    let (full, drawn): (Vec<&Point>, Vec<&Point>) = with.into_iter().partition(|p| p.shots == Shots::All);
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
        let few = |p: &&Point| (2..curve::ENOUGH_SEEDS).contains(&p.seeds.split_whitespace().count());
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

fn seeds(points: &[&Point]) -> String {
    match &distinct(points.iter().copied(), |p| p.seeds.clone())[..] {
        [one] if one.contains(' ') => format!("mean over seeds {}", one.replace(' ', ", ")),
        [one] => format!("seed {one}"),
        _ => "mean over the seeds of each point".to_owned(),
    }
}

/// Sentence about the panels of means and of costs; empty without them.
fn over_datasets(points: &[Point]) -> String {
    let means: Vec<&Point> = points.iter().filter(|p| p.panel == Panel::Mean).collect();
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
            panel::measured_on(&timed)
        ));
    }
    sentences.join(" ")
}

/// Sentence about points with fewer shots than were asked for; empty without such points.
fn capped(points: &[Point]) -> String {
    let of_dataset = |p: &&Point| p.panel == Panel::Dataset && p.capped.is_some();
    let capped = points.iter().filter(of_dataset);
    let named = |p: &Point| format!("{} {} in place of {}", p.dataset, p.place(), p.shots);
    let named = distinct(capped, named);
    if named.is_empty() {
        return String::new();
    }
    format!(
        "* Fewer examples per class than were asked for, all that the smallest class has: {}.",
        named.join("; ")
    )
}

fn kinds(points: &[&Point], name: impl Fn(&IntervalKind) -> String) -> String {
    let mut kinds = distinct(points.iter().copied(), |p| p.interval);
    kinds.sort();
    kinds.iter().map(name).collect::<Vec<_>>().join(", or ")
}

/// Levels with their intervals, which the drawing leaves out; empty without such points.
fn levels(points: &[Point], title: &str, which: impl Fn(&Point) -> bool) -> String {
    let own = || points.iter().filter(|p| which(p));
    let learners = distinct(own(), |p| p.learner.clone());
    let percent = |share: f64| format!("{:.1}", 100.0 * share);
    let level = |p: &Point| {
        let (mean, low, high) = (percent(p.mean), percent(p.low), percent(p.high));
        format!("{} {mean} [{low}, {high}]", p.dataset)
    };
    let of = |learner: &String| {
        let levels: Vec<String> = own().filter(|p| p.learner == *learner).map(level).collect();
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
