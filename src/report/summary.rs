//! What a sweep ends with on a terminal: one table of accuracies, which learners are told apart, and the caveats, in lines of at
//! most [`WIDTH`] columns. All numbers are in the tables' files.

use std::fmt::Write as _;

use crate::comparison::curve::{ENOUGH_SEEDS, Panel, Point, distinct};
use crate::comparison::paired::{LEVEL, Test};
use crate::comparison::series::label;
use crate::config::{Protocol, Shots};
use crate::report::figure::MICRO_CAVEAT;
use crate::report::table::{CAP_NOTE, RED_NOTE};

/// Columns of the longest line, but for names that are longer themselves.
pub const WIDTH: usize = 100;
/// Longer names of learners are cut.
const LONGEST_NAME: usize = 40;
/// Pairs of learners that are told of; of others their number.
const PAIRS: usize = 12;

/// A column of the table: its heads, and the point that each learner has there.
struct Column<'a> {
    heads: [String; 2],
    chance: f64,
    points: Vec<Option<&'a Point>>,
}

/// The summary of `points`, with their means over datasets, and of the paired tests between learners.
#[must_use]
pub fn summary(points: &[Point], tests: &[Test]) -> String {
    let learners = distinct(points, |point| (point.learner.clone(), point.reading));
    let names: Vec<String> = learners
        .iter()
        .map(|(name, reading)| cut(&label(name, *reading)))
        .collect();
    let own: Vec<&Point> = points.iter().filter(|point| point.panel == Panel::Dataset).collect();
    let datasets = distinct(own.iter().copied(), |point| (point.dataset.clone(), point.protocol));
    let of = |point: &&Point, learner: usize| {
        learners
            .get(learner)
            .is_some_and(|(name, reading)| (name, *reading) == (&point.learner, point.reading))
    };
    let all = 0..learners.len();
    let (title, columns): (String, Vec<Column>) = match &datasets[..] {
        [] => return String::new(),
        [(dataset, protocol)] => {
            let mut shots = distinct(own.iter().copied(), |point| point.shots);
            shots.sort_unstable();
            let column = |k: Shots| {
                let at = |learner| own.iter().copied().find(|point| of(point, learner) && point.shots == k);
                Column::new([format!("k = {k}"), String::new()], all.clone().map(at).collect())
            };
            let title = format!(
                "{}: accuracy in % by labelled examples per class (k)",
                named(dataset, *protocol)
            );
            (title, shots.into_iter().map(column).collect())
        }
        _ => {
            let column = |dataset: &str, protocol: Protocol, panel: Panel| {
                let here = |point: &&Point| {
                    point.panel == panel && (point.dataset.as_str(), point.protocol) == (dataset, protocol)
                };
                let most = points.iter().filter(here).map(|point| point.shots).max();
                let at = |learner| {
                    let own = points.iter().filter(here).filter(|point| of(point, learner));
                    own.max_by_key(|point| point.shots)
                };
                let k = most.map_or(String::new(), |k| format!("k = {k}"));
                Column::new([named(dataset, protocol), k], all.clone().map(at).collect())
            };
            let means = points.iter().filter(|point| point.panel == Panel::Mean);
            let means = distinct(means, |point| (point.dataset.clone(), point.protocol));
            let own = datasets
                .iter()
                .map(|(dataset, protocol)| column(dataset, *protocol, Panel::Dataset));
            let means = means
                .iter()
                .map(|(dataset, protocol)| column(dataset, *protocol, Panel::Mean));
            (
                "Accuracy in % with the most labelled examples per class (k)".into(),
                own.chain(means).collect(),
            )
        }
    };
    let mut text = title + "; in brackets 95 % intervals\n";
    text += &bands(&names, &columns);
    for part in [told_apart(tests, datasets.len()), caveats(points)] {
        if !part.is_empty() {
            text += &format!("\n{part}");
        }
    }
    text
}

impl<'a> Column<'a> {
    fn new(heads: [String; 2], points: Vec<Option<&'a Point>>) -> Self {
        let chance = points.iter().flatten().next().map_or(0.0, |point| point.chance);
        Self { heads, chance, points }
    }

    /// The shots that its head names, which are those of most of its points.
    fn shots(&self) -> Option<Shots> {
        self.points.iter().flatten().map(|point| point.shots).max()
    }

    fn cells(&self) -> Vec<String> {
        let shots = self.shots();
        let cell = |point: &Option<&Point>| point.map_or("–".to_owned(), |point| cell(point, shots));
        self.points.iter().map(cell).collect()
    }
}

/// A mean with its interval and the marks of its notes; with its shots where they are not those of the column.
fn cell(point: &Point, shots: Option<Shots>) -> String {
    let [mean, low, high] = [point.mean, point.low, point.high].map(|share| 100.0 * share);
    let red = if point.red { "†" } else { "" };
    let own = match (point.capped, shots) {
        (Some(k), _) => format!(" (k = {k}*)"),
        (None, Some(shots)) if shots != point.shots => format!(" (k = {})", point.shots),
        _ => String::new(),
    };
    format!("{mean:.1} [{low:.1}, {high:.1}]{red}{own}")
}

fn named(dataset: &str, protocol: Protocol) -> String {
    match protocol {
        Protocol::Clean => dataset.to_owned(),
        other => format!("{dataset} ({other})"),
    }
}

fn cut(name: &str) -> String {
    if name.chars().count() <= LONGEST_NAME {
        return name.to_owned();
    }
    name.chars().take(LONGEST_NAME - 1).chain(['…']).collect()
}

/// A column with the text of its cells.
type Filled<'a> = (&'a Column<'a>, Vec<String>);

/// The table in as many bands as its columns take, one below the other.
fn bands(names: &[String], columns: &[Column]) -> String {
    let letters = |text: &str| text.chars().count();
    let wide = names
        .iter()
        .map(|name| letters(name))
        .chain(["guessing".len()])
        .max()
        .unwrap_or(0);
    let columns: Vec<Filled> = columns.iter().map(|column| (column, column.cells())).collect();
    let width = |(column, cells): &Filled| {
        let texts = cells.iter().chain(&column.heads);
        texts.map(|text| letters(text)).max().unwrap_or(0) + 2
    };
    let mut text = String::new();
    let mut rest = &columns[..];
    while !rest.is_empty() {
        let mut used = wide;
        let fits = |column: &&Filled| {
            used += width(column);
            used <= WIDTH
        };
        let (band, more) = rest.split_at(rest.iter().take_while(fits).count().max(1));
        rest = more;
        let mut line = |first: &str, cell: &dyn Fn(&Filled) -> String| {
            let mut line = format!("{first}{}", " ".repeat(wide.saturating_sub(letters(first))));
            for column in band {
                let cell = cell(column);
                let space = width(column).saturating_sub(letters(&cell));
                line += &format!("{}{cell}", " ".repeat(space));
            }
            let _ = writeln!(text, "{}", line.trim_end());
        };
        for head in 0..2 {
            if band.iter().any(|(column, _)| !column.heads[head].is_empty()) {
                line("", &|(column, _)| column.heads[head].clone());
            }
        }
        for (row, name) in names.iter().enumerate() {
            line(name, &|(_, cells)| cells.get(row).cloned().unwrap_or_default());
        }
        line("guessing", &|(column, _)| format!("{:.1}", 100.0 * column.chance));
    }
    text
}

/// Which learners the paired tests tell apart, at the most shots that both have, a line each pair.
fn told_apart(tests: &[Test], datasets: usize) -> String {
    let mut pairs: Vec<((&str, &str), Vec<&Test>)> = Vec::new();
    for test in tests {
        let difference = &test.difference;
        let pair = (difference.learner.0.as_str(), difference.other.0.as_str());
        let place = pairs.iter().position(|(known, _)| *known == pair).unwrap_or_else(|| {
            pairs.push((pair, Vec::new()));
            pairs.len() - 1
        });
        let known = &mut pairs[place].1;
        let same = |other: &&mut &Test| {
            (&other.difference.dataset, other.difference.protocol) == (&difference.dataset, difference.protocol)
        };
        match known.iter_mut().find(same) {
            Some(other) if other.difference.learner.1 < difference.learner.1 => *other = test,
            Some(_) => {}
            None => known.push(test),
        }
    }
    if pairs.is_empty() {
        return String::new();
    }
    let mut text =
        format!("Told apart with the most examples, paired by draw and image (p ≤ {LEVEL} after Holm's correction):\n");
    for ((learner, other), tests) in pairs.iter().take(PAIRS) {
        let (apart, alike): (Vec<&Test>, Vec<&Test>) = tests.iter().partition(|test| test.holm <= LEVEL);
        let names = |better: bool| {
            let found = apart.iter().filter(|test| (test.difference.gain.mean > 0.0) == better);
            found
                .map(|test| test.difference.dataset.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        };
        let verdict = match (&tests[..], datasets) {
            ([test], 1) => {
                let gain = &test.difference.gain;
                let [mean, low, high] = [gain.mean, gain.interval.low, gain.interval.high].map(|share| 100.0 * share);
                let said = if alike.is_empty() {
                    "told apart"
                } else {
                    "not told apart"
                };
                let gain = format!("{mean:+.1} [{low:+.1}, {high:+.1}]").replace('-', "−");
                format!("{gain} points: {said}")
            }
            _ => {
                let count = format!("on {} of {} datasets", apart.len(), tests.len());
                let parts = [(names(true), "better on "), (names(false), "worse on ")];
                let parts = parts.into_iter().filter(|(names, _)| !names.is_empty());
                let said: Vec<String> = parts.map(|(names, what)| format!("{what}{names}")).collect();
                let said = if said.is_empty() {
                    count.clone()
                } else {
                    format!("{count}: {}", said.join("; "))
                };
                let line = format!("  {learner} – {other}: {said}");
                // Names that do not fit are in the table.
                if line.chars().count() <= WIDTH { said } else { count }
            }
        };
        let _ = writeln!(text, "  {learner} – {other}: {verdict}");
    }
    if pairs.len() > PAIRS {
        let _ = writeln!(
            text,
            "  and {} more pairs in tables/paired-tests.csv",
            pairs.len() - PAIRS
        );
    }
    text
}

/// What a reader has to know of these numbers.
fn caveats(points: &[Point]) -> String {
    let own = || {
        points
            .iter()
            .filter(|point| point.panel == Panel::Dataset && point.shots.any())
    };
    let seeds = own().map(|point| point.seeds.split_whitespace().count()).min();
    let mut lines = Vec::new();
    match seeds {
        Some(1) => lines.push("One seed: intervals are over test images alone, not over draws of the examples."),
        Some(count) if count < ENOUGH_SEEDS => {
            lines.push("Two seeds: an interval is a bound, not a result. Claims take five.");
        }
        _ => {}
    }
    lines.extend(points.iter().any(|point| point.micro).then_some(MICRO_CAVEAT));
    lines.extend(points.iter().any(|point| point.capped.is_some()).then_some(CAP_NOTE));
    lines.extend(points.iter().any(|point| point.red).then_some(RED_NOTE));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparison::series::Series;
    use crate::comparison::{curve, paired};
    use crate::store::record::tests::cell as stored;

    /// The summary of made-up cells on so many datasets: `a` answers all images, `b` every second one, `c` as `a` does.
    fn of(datasets: &[&str], shots: &[u32], seeds: u64) -> String {
        let mut cells = Vec::new();
        for dataset in datasets {
            for &k in shots {
                for seed in 0..seeds {
                    for learner in ["a long name of a learner", "b", "c"] {
                        cells.push(Ok(stored((dataset, learner, k, seed), 80, |i| {
                            learner != "b" || (i / 2) % 2 == 0
                        })));
                    }
                }
            }
        }
        let series = Series::group(cells.into_iter()).unwrap();
        let subjects = paired::subjects(&series);
        let tests = paired::tests(&series, &subjects).unwrap();
        summary(&curve::with_means(curve::points(&series), &series), &tests)
    }

    #[test]
    fn one_dataset_is_shown_by_shots_and_several_with_the_most() {
        insta::assert_snapshot!(of(&["birds"], &[1, 2, 4, 8, 16, 32], 5));
        insta::assert_snapshot!(of(
            &["mini-caltech101", "mini-cars", "mini-flowers", "mini-pets"],
            &[1, 16],
            2
        ));
    }

    #[test]
    fn no_line_is_longer_than_it_may_be() {
        for datasets in [
            &["birds"][..],
            &["a-dataset-of-a-long-name", "another-dataset-with-a-name", "c", "d"][..],
        ] {
            let text = of(datasets, &[1, 2, 4, 8, 16], 3);
            for line in text.lines() {
                assert!(line.chars().count() <= WIDTH, "{line}");
            }
        }
        assert_eq!(summary(&[], &[]), "");
    }
}
