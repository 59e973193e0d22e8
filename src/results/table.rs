//! The numbers of a figure as text: Markdown for a README, plain for a terminal.

use crate::results::comparison::Difference;
use crate::results::curve::{Point, distinct};
use crate::results::figure::{MICRO_CAVEAT, describe};
use crate::results::metric::Headline;
use crate::results::micro_gate::MicroGate;
use crate::results::statistics::bootstrap::Estimate;

/// A table of text, in groups of rows, with notes below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// What a group is, e.g. "dataset".
    pub group: String,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Group and cells of each row.
    pub rows: Vec<(String, Vec<String>)>,
    /// Sentences below it.
    pub notes: Vec<String>,
}

/// Accuracy with its 95 % interval: rows dataset × learner, columns shots.
#[must_use]
pub fn accuracy(points: &[Point]) -> Table {
    let mut shots = distinct(points, |p| p.shots);
    shots.sort_unstable();
    let mut rows = Vec::new();
    for (dataset, protocol, learner) in distinct(points, |p| (p.dataset.clone(), p.protocol, p.learner.clone())) {
        let own: Vec<&Point> = points
            .iter()
            .filter(|p| p.dataset == dataset && p.protocol == protocol && p.learner == learner)
            .collect();
        let cell = |shots: u32| match own.iter().find(|p| p.shots == shots) {
            Some(p) => format!("{} [{}, {}]", percent(p.mean), percent(p.low), percent(p.high)),
            None => "–".to_owned(),
        };
        let cells = std::iter::once(learner.clone())
            .chain(shots.iter().map(|&k| cell(k)))
            .collect();
        rows.push((own.first().map(|point| group_of(point)).unwrap_or_default(), cells));
    }
    let mut notes = vec![describe(points, "In brackets")];
    notes.extend(points.iter().any(|p| p.micro).then(|| MICRO_CAVEAT.to_owned()));
    Table {
        title: "Accuracy in % by labelled examples per class".into(),
        group: "dataset".into(),
        columns: std::iter::once("learner".into())
            .chain(shots.iter().map(|k| format!("k = {k}")))
            .collect(),
        rows,
        notes,
    }
}

fn group_of(point: &Point) -> String {
    let metric = match point.metric {
        Headline::Top1 => "top-1",
        Headline::MeanPerClass => "mean per class",
    };
    let regime = point
        .regime
        .as_ref()
        .map(|regime| format!(", {regime} concepts"))
        .unwrap_or_default();
    let chance = percent(point.chance);
    format!(
        "{} ({metric}{regime}, n = {}, guessing {chance} %)",
        point.dataset, point.n_test
    )
}

/// Gain of one learner over others, paired by seed and image.
#[must_use]
pub fn differences(differences: &[Difference]) -> Table {
    let row = |d: &Difference| {
        let cells = vec![
            d.learner.0.clone(),
            d.other.0.clone(),
            d.learner.1.to_string(),
            d.seeds.to_string(),
            gain(&d.gain),
            percent(d.gain.share_not_positive),
        ];
        (d.dataset.clone(), cells)
    };
    let mut notes = vec!["In brackets: 95 % bootstrap over seeds and groups of dependent test images.".to_owned()];
    notes.extend(differences.iter().any(|d| d.micro).then(|| MICRO_CAVEAT.to_owned()));
    Table {
        title: "Gain in percentage points on the same draws and images".into(),
        group: "dataset".into(),
        columns: ["learner", "against", "k", "seeds", "gain", "resamples ≤ 0, %"]
            .map(String::from)
            .into(),
        rows: differences.iter().map(row).collect(),
        notes,
    }
}

/// Which datasets clear the bar for micro models.
#[must_use]
pub fn micro_gates(gates: &[MicroGate]) -> Table {
    let row = |g: &MicroGate| {
        let accuracy = &g.accuracy;
        let cells = vec![
            g.learner.clone(),
            g.seeds.to_string(),
            interval(
                &percent(accuracy.mean),
                &percent(accuracy.interval.low),
                &percent(accuracy.interval.high),
            ),
            gain(&g.over_pixels.gain),
            gain(&g.over_one_shot.gain),
            if g.passes() { "yes" } else { "no" }.to_owned(),
        ];
        (g.dataset.clone(), cells)
    };
    let columns = [
        "learner",
        "seeds",
        "k = 16",
        "over raw pixels",
        "over own k = 1",
        "passes",
    ];
    Table {
        title: "Bar for micro models at k = 16".into(),
        group: "dataset".into(),
        columns: columns.map(String::from).into(),
        rows: gates.iter().map(row).collect(),
        notes: vec![
            "Asked for: at least 50 %, 15 points over raw pixels, 10 points over one shot, both gains' 95 % intervals above zero.".into(),
            MICRO_CAVEAT.into(),
        ],
    }
}

fn percent(share: f64) -> String {
    let text = format!("{:.1}", 100.0 * share);
    if text == "-0.0" { "0.0".into() } else { text }
}

fn signed(share: f64) -> String {
    let text = percent(share);
    match text.strip_prefix('-') {
        Some(size) => format!("−{size}"),
        None if text == "0.0" => text,
        None => format!("+{text}"),
    }
}

fn gain(estimate: &Estimate) -> String {
    interval(
        &signed(estimate.mean),
        &signed(estimate.interval.low),
        &signed(estimate.interval.high),
    )
}

fn interval(mean: &str, low: &str, high: &str) -> String {
    format!("{mean} [{low}, {high}]")
}

impl Table {
    /// As GitHub-flavoured Markdown, each group named in its first row.
    #[must_use]
    pub fn markdown(&self) -> String {
        let row = |group: &str, cells: &[String]| {
            let cells = std::iter::once(group).chain(cells.iter().map(String::as_str));
            let cells: Vec<_> = cells.map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |", cells.join(" | "))
        };
        let rules = (0..=self.columns.len()).map(|column| if self.is_text(column) { "---" } else { "--:" });
        let mut lines = vec![format!("**{}**", self.title), String::new()];
        lines.push(row(&self.group, &self.columns));
        lines.push(format!("|{}|", rules.collect::<Vec<_>>().join("|")));
        let mut before: Option<&str> = None;
        for (group, cells) in &self.rows {
            lines.push(row(if before == Some(group) { "" } else { group }, cells));
            before = Some(group);
        }
        for note in &self.notes {
            lines.extend([String::new(), note.clone()]);
        }
        lines.join("\n") + "\n"
    }

    /// Aligned for a terminal, a heading line for each group.
    #[must_use]
    pub fn plain(&self) -> String {
        let letters = |text: &String| text.chars().count();
        let widest = |(column, name)| {
            let cells = self.rows.iter().filter_map(|(_, cells)| cells.get(column));
            cells.chain([name]).map(letters).max().unwrap_or(0)
        };
        let widths: Vec<usize> = self.columns.iter().enumerate().map(widest).collect();
        let row = |cells: &[String]| {
            let padded = cells.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
                let space = " ".repeat(width.saturating_sub(letters(cell)));
                if self.is_text(column + 1) {
                    format!("  {cell}{space}")
                } else {
                    format!("  {space}{cell}")
                }
            });
            padded.collect::<String>().trim_end().to_owned()
        };
        let mut lines = vec![self.title.clone(), String::new(), row(&self.columns)];
        let mut before: Option<&str> = None;
        for (group, cells) in &self.rows {
            if before != Some(group) {
                lines.push(group.clone());
            }
            before = Some(group);
            lines.push(row(cells));
        }
        lines.push(String::new());
        lines.extend(self.notes.iter().cloned());
        lines.join("\n") + "\n"
    }

    /// Whether a column, the group being column 0, holds words, which stand left; numbers stand right.
    fn is_text(&self, column: usize) -> bool {
        column == 0
            || matches!(
                self.columns.get(column - 1).map(String::as_str),
                Some("learner" | "against" | "passes")
            )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::comparison::against_others;
    use crate::results::curve::points;
    use crate::results::micro_gate::micro_gates as gates;
    use crate::results::series::Series;
    use crate::results::series::tests::cell;

    fn series() -> Vec<Series> {
        let mut cells = Vec::new();
        for seed in 0..2 {
            cells.push(cell(("mini-pets", "DINOv2 LoRA", 1, seed), 40, |i| i % 8 < 3));
            cells.push(cell(("mini-pets", "DINOv2 LoRA", 16, seed), 40, |i| i % 8 < 7));
            cells.push(cell(("mini-pets", "raw pixels", 16, seed), 40, |i| i % 8 < 4));
        }
        Series::group(cells.into_iter().map(Ok)).unwrap()
    }

    #[test]
    fn accuracy_in_both_forms() {
        let table = accuracy(&points(&series()));
        insta::assert_snapshot!(table.plain(), @r"
        Accuracy in % by labelled examples per class

          learner                  k = 1             k = 16
        mini-pets (top-1, novel concepts, n = 40, guessing 25.0 %)
          DINOv2 LoRA  37.5 [20.0, 57.5]  87.5 [77.5, 95.0]
          raw pixels                   –  50.0 [30.0, 70.0]

        Protocol clean. Mean over seeds 0, 1; all learners see the same draws of examples. n: test images. In brackets: 95 % bootstrap over seeds and groups of dependent test images.
        Micro models on miniature datasets: these numbers say nothing about the real ones.
        ");
        insta::assert_snapshot!(table.markdown(), @r"
        **Accuracy in % by labelled examples per class**

        | dataset | learner | k = 1 | k = 16 |
        |---|---|--:|--:|
        | mini-pets (top-1, novel concepts, n = 40, guessing 25.0 %) | DINOv2 LoRA | 37.5 [20.0, 57.5] | 87.5 [77.5, 95.0] |
        |  | raw pixels | – | 50.0 [30.0, 70.0] |

        Protocol clean. Mean over seeds 0, 1; all learners see the same draws of examples. n: test images. In brackets: 95 % bootstrap over seeds and groups of dependent test images.

        Micro models on miniature datasets: these numbers say nothing about the real ones.
        ");
    }

    #[test]
    fn comparisons_in_both_forms() {
        let series = series();
        let table = differences(&against_others(&series, "DINOv2 LoRA").unwrap());
        insta::assert_snapshot!(table.markdown(), @r"
        **Gain in percentage points on the same draws and images**

        | dataset | learner | against | k | seeds | gain | resamples ≤ 0, % |
        |---|---|---|--:|--:|--:|--:|
        | mini-pets | DINOv2 LoRA | raw pixels | 16 | 2 | +37.5 [+20.0, +57.5] | 0.0 |

        In brackets: 95 % bootstrap over seeds and groups of dependent test images.

        Micro models on miniature datasets: these numbers say nothing about the real ones.
        ");
        let table = micro_gates(&gates(&series, "DINOv2 LoRA").unwrap());
        insta::assert_snapshot!(table.plain(), @r"
        Bar for micro models at k = 16

          learner      seeds             k = 16       over raw pixels        over own k = 1  passes
        mini-pets
          DINOv2 LoRA      2  87.5 [77.5, 95.0]  +37.5 [+20.0, +57.5]  +50.0 [+35.0, +65.0]  yes

        Asked for: at least 50 %, 15 points over raw pixels, 10 points over one shot, both gains' 95 % intervals above zero.
        Micro models on miniature datasets: these numbers say nothing about the real ones.
        ");
    }

    #[test]
    fn signs() {
        assert_eq!(
            [signed(0.1), signed(-0.1), signed(-0.0001), signed(0.0)],
            ["+10.0", "−10.0", "0.0", "0.0"]
        );
    }
}
