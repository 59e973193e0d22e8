//! The report as text: for a terminal, and as Markdown for a page such as the summary of a workflow's job.

use std::collections::BTreeMap;

use crate::config::Shots;
use crate::gate::report::{CellNoiseFrom, CellReport, NoiseSource, Outcome, Report, Verdict};
use crate::report::table::{Cell, Group, Kind, Row, Table, Value, columns};

/// The outcome in one line.
pub(super) fn headline(report: &Report) -> String {
    let (margin, family) = (plain(report.margin_points), cells(report.family));
    let lost = report.with(Verdict::Loss).count();
    let losses = format!("{lost} of {family} lost more than {margin} points");
    match report.outcome {
        Outcome::Green => format!("GREEN: no loss of more than {margin} points is shown in {family}"),
        Outcome::Red => format!("RED: {losses}"),
        Outcome::NoiseUnknown => {
            let unknown = report.with(Verdict::NoiseUnknown).count();
            let all = cells(report.cells.len());
            format!("NOISE UNKNOWN: {unknown} of {all} can be told neither better nor worse")
        }
        Outcome::Error => {
            let errors = match report.errors.len() {
                1 => "1 error keeps a cell".into(),
                many => format!("{many} errors keep cells"),
            };
            let others = if lost > 0 { format!("; {losses}") } else { String::new() };
            format!("ERROR: {errors} from being compared{others}")
        }
    }
}

/// Sentence about the folders compared and the tests.
fn procedure(report: &Report) -> String {
    format!(
        "`{}` against `{}`, image by image; one-sided tests of a loss beyond {} points, at {} % over {} (Holm).",
        report.results,
        report.baseline,
        plain(report.margin_points),
        plain(100.0 * report.level),
        cells(report.family)
    )
}

/// Sentences about the noise.
pub(super) fn noise(report: &Report) -> Vec<String> {
    let mut lines = match &report.noise_from {
        NoiseSource::NotMeasured => {
            let taken = report.cells.iter().any(|cell| cell.noise_from.is_none()) || report.cells.is_empty();
            let zero = if taken { ", taken as 0" } else { "" };
            vec![format!("Run-to-run noise: not measured{zero}.")]
        }
        NoiseSource::Repeats { folders } => measured(report, &format!("measured from `{}`", folders.join("`, `"))),
        NoiseSource::Stored => measured(report, "as stored beside the baseline"),
    };
    let mut seeds: BTreeMap<&str, usize> = BTreeMap::new();
    let mut unknown: BTreeMap<&str, usize> = BTreeMap::new();
    for cell in &report.cells {
        match &cell.noise_from {
            Some(CellNoiseFrom::Seeds { places }) => *seeds.entry(places).or_default() += 1,
            Some(CellNoiseFrom::Unknown { places }) => *unknown.entry(places).or_default() += 1,
            None => {}
        }
    }
    lines.extend(seeds.into_iter().map(|(places, count)| {
        format!(
            "Estimated for {}, made {places}: at most what the baseline's seeds differ by.",
            cells(count)
        )
    }));
    lines.extend(unknown.into_iter().map(|(places, count)| {
        format!(
            "Noise unknown for {}, made {places}, with one seed: neither green nor red.",
            cells(count)
        )
    }));
    if report.with(Verdict::NoiseUnknown).next().is_some() {
        lines.push(format!("To measure it: {}", report.how_to_measure()));
    }
    lines
}

fn measured(report: &Report, source: &str) -> Vec<String> {
    let mut lines = vec![format!(
        "Run-to-run noise, {source}: how far unchanged runs lie apart (standard deviation, in points)."
    )];
    lines.extend(report.noise.iter().map(|pool| {
        format!(
            "{}, {}: {:.2}, of which single images explain {:.2} and {:.2} is noise ({}; degrees of freedom: {})",
            pool.learner,
            shots(pool.shots),
            pool.change_points,
            pool.images_points,
            pool.noise_points,
            cells(pool.cells),
            pool.degrees
        )
    }));
    let zero = |cell: &&CellReport| cell.noise_points.is_none() && cell.noise_from.is_none();
    let unmeasured = report.cells.iter().filter(zero).count();
    if unmeasured > 0 {
        lines.push(format!("Not measured for {}: taken as 0 there.", cells(unmeasured)));
    }
    lines
}

/// Number of cells by verdict.
fn summary(report: &Report) -> String {
    let verdicts = [
        Verdict::Loss,
        Verdict::Improvement,
        Verdict::NoLossShown,
        Verdict::NoiseUnknown,
        Verdict::Unchanged,
    ];
    let counts = verdicts.map(|verdict| (report.with(verdict).count(), verdict.name()));
    let mut said: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    if !report.new_cells.is_empty() {
        said.push(format!("{} new, not compared", report.new_cells.len()));
    }
    if said.is_empty() {
        said.push("none compared".into());
    }
    format!("Cells: {}.", said.join(", "))
}

/// The numbers of one cell in a sentence.
pub(super) fn finding(cell: &CellReport) -> String {
    format!(
        "{} → {} %, {} points; {} won, {} lost of {} images, {} of {} groups changed; p {}, Holm {}",
        percent(cell.baseline_accuracy),
        percent(cell.accuracy),
        change(cell),
        cell.wins,
        cell.losses,
        cell.images,
        cell.changed_groups,
        cell.groups,
        probability(if cell.verdict == Verdict::Improvement {
            cell.p_gain
        } else {
            cell.p_loss
        }),
        probability(if cell.verdict == Verdict::Improvement {
            cell.p_gain_holm
        } else {
            cell.p_loss_holm
        }),
    )
}

/// All compared cells.
fn table(report: &Report) -> Table {
    let row = |cell: &CellReport| {
        let key = &cell.key;
        let finds = |points: Option<f64>| match points {
            Some(points) => Value::Text(format!("{points:.1}")),
            None => Value::Missing,
        };
        let cells = [
            Value::Text(key.learner.clone()),
            Value::Shots(key.shots),
            Value::Text(key.seed.to_string()),
            Value::Text(percent(cell.baseline_accuracy)),
            Value::Text(percent(cell.accuracy)),
            Value::Text(change(cell)),
            Value::Count(cell.wins),
            Value::Count(cell.losses),
            Value::Text(probability(cell.p_loss)),
            Value::Text(probability(cell.p_loss_holm)),
            finds(cell.finds_points),
            finds(cell.finds_in_family_points),
            Value::Text(cell.verdict.name().to_owned()),
        ];
        Row {
            group: Group::of(&key.dataset, key.protocol),
            micro: report.micro,
            cells: cells.map(Cell::from).into(),
        }
    };
    let remarks = vec![
        "Change: in points, with its 95 % interval. Won, lost: test images. p, Holm: of a loss beyond the margin."
            .into(),
        format!(
            "Finds: the smallest true loss, in points, that this test finds on four nights of five, for the cell alone and \
             in this family of {}; – if none.",
            report.family
        ),
    ];
    Table {
        name: "gate",
        title: "All compared cells".into(),
        columns: columns(&[
            ("learner", Kind::Text),
            ("k", Kind::Count),
            ("seed", Kind::Count),
            ("before", Kind::Share),
            ("now", Kind::Share),
            ("change", Kind::Gain),
            ("won", Kind::Count),
            ("lost", Kind::Count),
            ("p", Kind::P),
            ("Holm", Kind::P),
            ("finds", Kind::Gain),
            ("in family", Kind::Gain),
            ("verdict", Kind::Text),
        ]),
        rows: report.cells.iter().map(row).collect(),
        remarks,
        long: false,
    }
}

fn change(cell: &CellReport) -> String {
    let interval = cell
        .interval_points
        .map(|i| format!(" [{}, {}]", signed(i.low), signed(i.high)));
    signed(cell.change_points) + &interval.unwrap_or_default()
}

pub(super) fn shots(shots: Shots) -> String {
    let plural = if shots == Shots::K(1) { "" } else { "s" };
    format!("{shots} shot{plural}")
}

fn cells(count: usize) -> String {
    format!("{count} cell{}", if count == 1 { "" } else { "s" })
}

fn percent(share: f64) -> String {
    format!("{:.2}", 100.0 * share)
}

/// Two digits and a sign, none for zero.
fn signed(points: f64) -> String {
    let size = format!("{:.2}", points.abs());
    match size.as_str() {
        "0.00" => size,
        _ if points < 0.0 => format!("−{size}"),
        _ => format!("+{size}"),
    }
}

/// As few digits as say it.
pub(super) fn plain(number: f64) -> String {
    let text = format!("{number:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn probability(p: f64) -> String {
    if p < 0.0001 {
        "<0.0001".into()
    } else {
        format!("{p:.4}")
    }
}

impl Report {
    /// As plain text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut lines = vec![headline(self), procedure(self).replace('`', "")];
        let noise = noise(self);
        lines.extend(noise.iter().enumerate().map(|(i, line)| {
            let line = line.replace('`', "");
            if i == 0 { line } else { format!("  {line}") }
        }));
        if !self.errors.is_empty() {
            lines.extend([String::new(), "Errors".into()]);
            for error in &self.errors {
                let cell = error.cell.as_ref().map(|key| format!("{key}: ")).unwrap_or_default();
                let (kind, folder) = (error.kind.name(), error.role.name());
                lines.push(format!("  {kind} ({folder}): {cell}{}", error.finding));
                lines.push(format!("    hint: {}", error.remedy()));
            }
        }
        for (verdict, heading) in [
            (Verdict::Loss, "Losses"),
            (Verdict::NoiseUnknown, "Noise unknown"),
            (Verdict::Improvement, "Improvements"),
        ] {
            if self.with(verdict).next().is_some() {
                lines.extend([String::new(), heading.into()]);
            }
            for cell in self.with(verdict) {
                lines.extend([format!("  {}", cell.key), format!("    {}", finding(cell))]);
            }
        }
        if !self.new_cells.is_empty() {
            lines.extend([String::new(), "New cells".into()]);
            lines.extend(self.new_cells.iter().map(|key| format!("  {key}")));
        }
        lines.extend([String::new(), summary(self), String::new()]);
        let table = if self.cells.is_empty() {
            String::new()
        } else {
            table(self).plain()
        };
        lines.join("\n") + "\n" + &table
    }
}

impl Report {
    /// As GitHub-flavoured Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let sign = match self.outcome {
            Outcome::Green => "✅",
            Outcome::Red => "❌",
            Outcome::Error | Outcome::NoiseUnknown => "⚠️",
        };
        let mut lines = vec![format!("## {sign} {}", escaped(&headline(self))), String::new()];
        lines.push(procedure(self));
        let noise = noise(self);
        lines.push(String::new());
        lines.extend(noise.iter().enumerate().map(|(i, line)| {
            if i == 0 {
                line.clone()
            } else {
                format!("* {}", escaped(line))
            }
        }));
        let mut section = |heading: &str, items: Vec<String>| {
            if !items.is_empty() {
                lines.extend([String::new(), format!("### {heading}"), String::new()]);
                lines.extend(items.into_iter().map(|item| format!("* {item}")));
            }
        };
        let errors = self.errors.iter().map(|error| {
            let cell = error.cell.as_ref().map(|key| format!("{key}: ")).unwrap_or_default();
            let (kind, folder) = (error.kind.name(), error.role.name());
            let said = escaped(&format!("{cell}{}", error.finding));
            format!("**{kind}** ({folder}): {said}<br>_{}_", error.remedy())
        });
        section("Errors", errors.collect());
        for (verdict, heading) in [
            (Verdict::Loss, "Losses"),
            (Verdict::NoiseUnknown, "Noise unknown"),
            (Verdict::Improvement, "Improvements"),
        ] {
            let cells = self.with(verdict);
            let item = |cell| format!("**{}**: {}", escaped(&key(cell)), finding(cell));
            section(heading, cells.map(item).collect());
        }
        section(
            "New cells",
            self.new_cells.iter().map(|key| escaped(&key.to_string())).collect(),
        );
        lines.extend([String::new(), summary(self)]);
        if !self.cells.is_empty() {
            lines.extend([String::new(), table(self).markdown()]);
        }
        lines.join("\n").trim_end().to_owned() + "\n"
    }
}

fn key(cell: &crate::gate::report::CellReport) -> String {
    cell.key.to_string()
}

/// Names and messages are not ours: what Markdown or HTML would take as markup is escaped.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\n' | '\r' => out.push(' '),
            '*' | '_' | '[' | ']' | '|' | '#' => {
                out.push('\\');
                out.push(c);
            }
            _ => out.push(c),
        }
    }
    out
}
