//! The report as text: for a terminal; as Markdown for a page such as the summary of a workflow's job; and as JUnit XML,
//! the form that Jenkins, GitLab and GitHub's reporters read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::config::Shots;
use crate::gate::problem::Problem;
use crate::gate::report::{CellNoiseFrom, CellReport, CellVerdict, NoiseSource, Outcome, Report};
use crate::report::figure::MICRO_CAVEAT;
use crate::report::table::{Cell, Group, Kind, Row, Table, Value, columns};
use crate::store::record::CellKey;

/// The verdicts whose cells are told one by one, with their headings.
const TOLD: [(CellVerdict, &str); 3] = [
    (CellVerdict::Loss, "Losses"),
    (CellVerdict::NoiseUnknown, "Noise unknown"),
    (CellVerdict::Improvement, "Improvements"),
];

/// The outcome in one line.
fn headline(report: &Report) -> String {
    let (margin, family) = (plain(report.margin_points), cells(report.family));
    let lost = report.with(CellVerdict::Loss).count();
    let losses = format!("{lost} of {family} lost more than {margin} points");
    match report.outcome {
        Outcome::Green => format!("GREEN: no loss of more than {margin} points is shown in {family}"),
        Outcome::Red => format!("RED: {losses}"),
        Outcome::NoiseUnknown => {
            let unknown = report.with(CellVerdict::NoiseUnknown).count();
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
fn noise(report: &Report) -> Vec<String> {
    let mut lines = match &report.noise_from {
        NoiseSource::NotMeasured => {
            let taken = report.cells.iter().any(|cell| cell.noise_from.is_none()) || report.cells.is_empty();
            let zero = if taken { ", taken as 0" } else { "" };
            vec![format!("Run-to-run noise: not measured{zero}.")]
        }
        NoiseSource::Repeats { folders } => measured(report, &format!("measured from `{}`", folders.join("`, `"))),
        NoiseSource::Stored => measured(report, "as stored beside the baseline"),
    };
    let mut counts: BTreeMap<&CellNoiseFrom, usize> = BTreeMap::new();
    for from in report.cells.iter().filter_map(|cell| cell.noise_from.as_ref()) {
        *counts.entry(from).or_default() += 1;
    }
    lines.extend(counts.into_iter().map(|(from, count)| match (from, cells(count)) {
        (CellNoiseFrom::Seeds { places }, cells) => {
            format!("Estimated for {cells}, made {places}: at most what the baseline's seeds differ by.")
        }
        (CellNoiseFrom::Unknown { places }, cells) => {
            format!("Noise unknown for {cells}, made {places}, with one seed: neither green nor red.")
        }
    }));
    if report.with(CellVerdict::NoiseUnknown).next().is_some() {
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
        CellVerdict::Loss,
        CellVerdict::Improvement,
        CellVerdict::NoLossShown,
        CellVerdict::NoiseUnknown,
        CellVerdict::Unchanged,
    ];
    let counts = verdicts.map(|verdict| (report.with(verdict).count(), verdict.name()));
    let counted = counts.iter().filter(|(count, _)| *count > 0);
    let mut said: Vec<String> = counted.map(|(count, name)| format!("{count} {name}")).collect();
    if !report.new_cells.is_empty() {
        said.push(format!("{} new, not compared", report.new_cells.len()));
    }
    if said.is_empty() {
        said.push("none compared".into());
    }
    format!("Cells: {}.", said.join(", "))
}

/// The numbers of one cell in a sentence.
fn finding(cell: &CellReport) -> String {
    let (p, holm) = match cell.verdict {
        CellVerdict::Improvement => (cell.p_gain, cell.p_gain_holm),
        _ => (cell.p_loss, cell.p_loss_holm),
    };
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
        probability(p),
        probability(holm),
    )
}

/// All compared cells.
fn table(report: &Report) -> Table {
    let row = |cell: &CellReport| {
        let key = &cell.key;
        let finds = |points: Option<f64>| points.map_or(Value::Missing, |points| Value::Text(format!("{points:.1}")));
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
            (Kind::Text, &["learner"]),
            (Kind::Count, &["k", "seed"]),
            (Kind::Share, &["before", "now"]),
            (Kind::Gain, &["change"]),
            (Kind::Count, &["won", "lost"]),
            (Kind::P, &["p", "Holm"]),
            (Kind::Gain, &["finds", "in family"]),
            (Kind::Text, &["verdict"]),
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

fn shots(shots: Shots) -> String {
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
fn plain(number: f64) -> String {
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
        lines.extend(noise(self).iter().enumerate().map(|(i, line)| {
            let line = line.replace('`', "");
            if i == 0 { line } else { format!("  {line}") }
        }));
        if !self.errors.is_empty() {
            lines.extend([String::new(), "Errors".into()]);
            for error in &self.errors {
                let (kind, folder) = (error.kind.name(), error.role.name());
                lines.push(format!("  {kind} ({folder}): {}", of_its_cell(error)));
                lines.push(format!("    hint: {}", error.remedy()));
            }
        }
        for (verdict, heading) in TOLD {
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
        let text = lines.join("\n") + "\n";
        if self.cells.is_empty() {
            return text;
        }
        text + &table(self).plain()
    }

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
        lines.push(String::new());
        lines.extend(noise(self).into_iter().enumerate().map(|(i, line)| match i {
            0 => line,
            _ => format!("* {}", escaped(&line)),
        }));
        let mut section = |heading: &str, items: Vec<String>| {
            if !items.is_empty() {
                lines.extend([String::new(), format!("### {heading}"), String::new()]);
                lines.extend(items.into_iter().map(|item| format!("* {item}")));
            }
        };
        let errors = self.errors.iter().map(|error| {
            let (kind, folder, said) = (error.kind.name(), error.role.name(), escaped(&of_its_cell(error)));
            format!("**{kind}** ({folder}): {said}<br>_{}_", error.remedy())
        });
        section("Errors", errors.collect());
        for (verdict, heading) in TOLD {
            let item = |cell: &CellReport| format!("**{}**: {}", escaped(&cell.key.to_string()), finding(cell));
            section(heading, self.with(verdict).map(item).collect());
        }
        let new_cells = self.new_cells.iter().map(|key| escaped(&key.to_string()));
        section("New cells", new_cells.collect());
        lines.extend([String::new(), summary(self)]);
        if !self.cells.is_empty() {
            lines.extend([String::new(), table(self).markdown()]);
        }
        lines.join("\n").trim_end().to_owned() + "\n"
    }

    /// As JUnit XML: one test case a cell. Settings are properties of the test suite, where every reader allows them; the
    /// numbers of a cell are the output of its test case. What belongs to no known cell is a test case of its own.
    #[must_use]
    pub fn junit(&self) -> String {
        let mut errors: BTreeMap<Option<&CellKey>, Vec<&Problem>> = BTreeMap::new();
        for error in &self.errors {
            errors.entry(error.cell.as_ref()).or_default().push(error);
        }
        let compared: BTreeMap<&CellKey, &CellReport> = self.cells.iter().map(|cell| (&cell.key, cell)).collect();
        let nameless = errors.remove(&None).unwrap_or_default();
        let keys: BTreeSet<&CellKey> = compared
            .keys()
            .copied()
            .chain(errors.keys().flatten().copied())
            .collect();

        let mut cases = String::new();
        let (mut failed, mut in_error) = (0, 0);
        for key in &keys {
            let class = format!("{}.{}.{}", key.dataset, key.protocol, key.learner);
            let name = format!("{}, seed {}", shots(key.shots), key.seed);
            let cell = compared.get(key).copied();
            let problems = errors.get(&Some(*key)).map_or(&[][..], Vec::as_slice);
            let unknown = cell.is_some_and(|cell| cell.verdict == CellVerdict::NoiseUnknown);
            in_error += usize::from(!problems.is_empty() || unknown);
            // A test case has one of the two.
            let lost = problems.is_empty() && cell.is_some_and(|cell| cell.verdict == CellVerdict::Loss);
            failed += usize::from(lost);
            cases += &case(&class, &name, problems, cell, lost);
        }
        for problem in &nameless {
            in_error += 1;
            cases += &case("kshot.gate", problem.kind.name(), &[problem], None, false);
        }
        let tests = keys.len() + nameless.len();
        let counts = format!("tests=\"{tests}\" failures=\"{failed}\" errors=\"{in_error}\"");
        let mut properties = String::new();
        let caveat = if self.micro { MICRO_CAVEAT } else { "" };
        for (name, value) in [
            ("outcome", headline(self)),
            ("results", self.results.clone()),
            ("baseline", self.baseline.clone()),
            ("margin_points", plain(self.margin_points)),
            ("level", plain(self.level)),
            ("family", self.family.to_string()),
            ("noise", noise(self).join(" ")),
            ("caveat", caveat.to_owned()),
        ] {
            let (name, value) = (xml(name), xml(&value));
            let _ = writeln!(properties, "      <property name=\"{name}\" value=\"{value}\"/>");
        }
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"kshot gate\" {counts} time=\"0\">\n  \
             <testsuite name=\"kshot gate\" {counts} skipped=\"0\" time=\"0\">\n    <properties>\n{properties}    \
             </properties>\n{cases}  </testsuite>\n</testsuites>\n"
        )
    }
}

fn case(class: &str, name: &str, problems: &[&Problem], cell: Option<&CellReport>, lost: bool) -> String {
    let mut inside = String::new();
    if let Some(first) = problems.first() {
        let said = |p: &&Problem| format!("{} ({}): {}", p.kind.name(), p.role.name(), p.finding);
        let all: Vec<String> = problems.iter().map(said).collect();
        inside += &element("error", first.kind.name(), &all.join("\n"), first.remedy());
    }
    if let Some(cell) = cell {
        let finding = finding(cell);
        if problems.is_empty()
            && let Some(CellNoiseFrom::Unknown { places }) = &cell.noise_from
        {
            let message = format!("made {places}: neither green nor red until the noise is measured");
            inside += &element("error", cell.verdict.name(), &message, &finding);
        }
        if lost {
            let message = format!("lost {:.2} points", -cell.change_points);
            inside += &element("failure", "loss", &message, &finding);
        }
        let output = xml(&format!("{}: {finding}", cell.verdict.name()));
        inside += &format!("      <system-out>{output}</system-out>\n");
    }
    let end = match inside.as_str() {
        "" => "/>".to_owned(),
        inside => format!(">\n{inside}    </testcase>"),
    };
    format!(
        "    <testcase classname=\"{}\" name=\"{}\" time=\"0\"{end}\n",
        xml(class),
        xml(name)
    )
}

fn element(tag: &str, kind: &str, message: &str, text: &str) -> String {
    let (kind, message, text) = (xml(kind), xml(message), xml(text));
    format!("      <{tag} type=\"{kind}\" message=\"{message}\">{text}</{tag}>\n")
}

/// Text for an attribute or an element. XML 1.0 has no form at all for most control characters.
fn xml(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push_str("&#9;"),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            _ => out.push(c),
        }
    }
    out
}

/// A finding with the cell that it is about, where there is one.
fn of_its_cell(problem: &Problem) -> String {
    let cell = problem.cell.as_ref().map(|key| format!("{key}: "));
    cell.unwrap_or_default() + &problem.finding
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

#[cfg(test)]
mod tests {
    use super::xml as escaped;

    #[test]
    fn nothing_in_a_name_can_leave_its_place() {
        assert_eq!(
            escaped("a<b> & \"c\" 'd'\n\u{1b}[0m"),
            "a&lt;b&gt; &amp; &quot;c&quot; &apos;d&apos;&#10;\u{fffd}[0m"
        );
    }
}
