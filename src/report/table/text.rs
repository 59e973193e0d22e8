//! Tables as text for people: for a terminal, as Markdown, and as LaTeX with the rules of the package `booktabs`.

use crate::comparison::paired::{LEVEL, SeedTest};
use crate::comparison::saved::Bounded;
use crate::config::Protocol;
use crate::report::table::{Cell, Group, Table, Value};
use crate::statistics::metric::Headline;

/// Stands where there is no number.
const NOTHING: &str = "–";
/// Behind a number of examples that is smaller than what was asked for.
const CAPPED: &str = "*";
/// Behind a number whose control is red.
const RED: &str = "†";

/// A cell of Markdown: no bar ends it, no letter after `<` begins a tag.
fn escaped(cell: &str) -> String {
    let mut text = String::with_capacity(cell.len());
    let mut letters = cell.chars().peekable();
    while let Some(letter) = letters.next() {
        let tag = letter == '<'
            && letters
                .peek()
                .is_some_and(|next| !next.is_ascii_digit() && *next != ' ');
        text.push_str(if letter == '|' || tag { "\\" } else { "" });
        text.push(letter);
    }
    text
}

impl Table {
    /// As GitHub-flavoured Markdown, each group named in its first row.
    #[must_use]
    pub fn markdown(&self) -> String {
        let row = |group: &str, cells: &mut dyn Iterator<Item = String>| {
            let cells = std::iter::once(group.to_owned()).chain(cells);
            let cells: Vec<_> = cells.map(|cell| escaped(&cell)).collect();
            format!("| {} |", cells.join(" | "))
        };
        let rules = self
            .columns
            .iter()
            .map(|column| if column.is_text() { "---" } else { "--:" });
        let rules: Vec<_> = std::iter::once("---").chain(rules).collect();
        let mut lines = vec![format!("**{}**", self.title), String::new()];
        lines.push(row(
            "dataset",
            &mut self.columns.iter().map(|column| column.name.clone()),
        ));
        lines.push(format!("|{}|", rules.join("|")));
        let mut before: Option<&Group> = None;
        for each in &self.rows {
            let group = if before == Some(&each.group) {
                String::new()
            } else {
                each.group.to_string()
            };
            lines.push(row(&group, &mut each.cells.iter().map(Cell::text)));
            before = Some(&each.group);
        }
        for note in self.notes() {
            lines.extend([String::new(), note]);
        }
        lines.join("\n") + "\n"
    }

    /// Aligned for a terminal, a heading line for each group.
    #[must_use]
    pub fn plain(&self) -> String {
        let letters = |text: &String| text.chars().count();
        let names: Vec<String> = self.columns.iter().map(|column| column.name.clone()).collect();
        let texts = |row: &crate::report::table::Row| row.cells.iter().map(Cell::text).collect::<Vec<_>>();
        let rows: Vec<Vec<String>> = self.rows.iter().map(texts).collect();
        let widest = |(column, name)| {
            let cells = rows.iter().filter_map(|cells| cells.get(column));
            cells.chain([name]).map(letters).max().unwrap_or(0)
        };
        let widths: Vec<usize> = names.iter().enumerate().map(widest).collect();
        let row = |cells: &[String]| {
            let padded = cells.iter().zip(&widths).zip(&self.columns);
            let padded = padded.map(|((cell, &width), column)| {
                let space = " ".repeat(width.saturating_sub(letters(cell)));
                if column.is_text() {
                    format!("  {cell}{space}")
                } else {
                    format!("  {space}{cell}")
                }
            });
            padded.collect::<String>().trim_end().to_owned()
        };
        let mut lines = vec![self.title.clone(), String::new(), row(&names)];
        let mut before: Option<&Group> = None;
        for (each, cells) in self.rows.iter().zip(&rows) {
            if before != Some(&each.group) {
                lines.push(each.group.to_string());
            }
            before = Some(&each.group);
            lines.push(row(cells));
        }
        lines.push(String::new());
        lines.extend(self.notes());
        lines.join("\n") + "\n"
    }
}

impl std::fmt::Display for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.dataset)?;
        if self.protocol != Protocol::default() {
            write!(f, ", protocol {}", self.protocol)?;
        }
        let Some(about) = &self.about else { return Ok(()) };
        let metric = match about.metric {
            Headline::Top1 => "top-1",
            Headline::MeanPerClass => "mean per class",
        };
        let regime = about.regime.as_ref().map(|regime| format!(", {regime} concepts"));
        let (regime, chance) = (regime.unwrap_or_default(), percent(about.chance));
        write!(f, " ({metric}{regime}, n = {}, guessing {chance} %)", about.n_test)
    }
}

impl Cell {
    /// For people: shares in %, rounded, marked where a control is red.
    pub(super) fn text(&self) -> String {
        let mark = if self.red { RED } else { "" };
        match (&self.value, self.capped) {
            (value, None) => format!("{}{mark}", value.shown()),
            (Value::Shots(_), Some(k)) => format!("{k}{CAPPED}{mark}"),
            (value, Some(k)) => format!("{}{mark} (k = {k}{CAPPED})", value.shown()),
        }
    }
}

impl Value {
    fn shown(&self) -> String {
        match self {
            Self::Missing => NOTHING.to_owned(),
            Self::Text(words) => words.clone(),
            Self::Count(number) => number.to_string(),
            Self::Shots(shots) => shots.to_string(),
            Self::Share(share) => percent(*share),
            Self::Accuracy(mean, interval, _) => {
                with_interval(&percent(*mean), &percent(interval.low), &percent(interval.high))
            }
            Self::Gain(mean, interval) => with_interval(&signed(*mean), &signed(interval.low), &signed(interval.high)),
            Self::P(p) if *p < 0.000_05 => "< 0.0001".to_owned(),
            Self::P(p) => format!("{p:.4}"),
            Self::Nats(nats) => format!("{nats:.2}"),
            Self::SeedTests(tests, gain) => seed_tests(tests, *gain),
            Self::Examples {
                number,
                interval: (low, high),
                signed,
                digits,
            } => {
                let text = |number: Bounded| examples(number, *signed, *digits);
                with_interval(&text(*number), &text(*low), &text(*high))
            }
        }
    }
}

fn with_interval(mean: &str, low: &str, high: &str) -> String {
    format!("{mean} [{low}, {high}]")
}

/// Number of seeds that show the difference, and of those that show its opposite.
fn seed_tests(tests: &[SeedTest], gain: bool) -> String {
    let (agree, against) = significant(tests, gain);
    let against = if against > 0 {
        format!(", {against} against")
    } else {
        String::new()
    };
    format!("{agree} of {} < {LEVEL}{against}", tests.len())
}

/// Seeds whose exact test is significant: in the direction told, and in the other.
pub(super) fn significant(tests: &[SeedTest], gain: bool) -> (usize, usize) {
    let shown = |gain: bool| {
        let significant = tests.iter().filter(|test| test.p < LEVEL);
        significant.filter(|test| (test.net_wins > 0) == gain).count()
    };
    (shown(gain), shown(!gain))
}

fn examples(number: Bounded, signed: bool, digits: usize) -> String {
    let bound = match number {
        Bounded::AtMost(_) => "≤ ",
        Bounded::Known(_) => "",
        Bounded::MoreThan(_) => "> ",
    };
    let size = format!("{:.digits$}", number.number().abs());
    let size = match number {
        // A bound is a number of shots that was measured, a whole one.
        Bounded::Known(_) => size.as_str(),
        _ => size.strip_suffix(".0").unwrap_or(&size),
    };
    let nothing = size.chars().all(|c| c == '0' || c == '.');
    let sign = match (signed, number.number() < 0.0) {
        (true, _) if nothing => "",
        (true, false) => "+",
        (true, true) => "−",
        (false, _) => "",
    };
    format!("{bound}{sign}{size}")
}

/// In %, with one digit after the point.
fn percent(share: f64) -> String {
    let text = format!("{:.1}", 100.0 * share);
    if text == "-0.0" { "0.0".into() } else { text }
}

/// As [`percent`], with a sign.
pub(super) fn signed(share: f64) -> String {
    let text = percent(share);
    match text.strip_prefix('-') {
        Some(size) => format!("−{size}"),
        None if text == "0.0" => text,
        None => format!("+{text}"),
    }
}

impl Table {
    /// A `table` environment that needs `\usepackage{booktabs}` and nothing else: a line for each group, then its
    /// rows; notes below.
    #[must_use]
    pub fn latex(&self) -> String {
        let alignment: String = self
            .columns
            .iter()
            .map(|c| if c.is_text() { 'l' } else { 'r' })
            .collect();
        let row = |cells: &mut dyn Iterator<Item = String>| {
            let cells: Vec<String> = cells.map(|cell| escape(&cell)).collect();
            format!("{} \\\\", cells.join(" & "))
        };
        let mut lines = vec![
            "\\begin{table}".to_owned(),
            "\\centering".to_owned(),
            format!("\\caption{{{}}}", escape(&self.title)),
            format!("\\label{{tab:{}}}", self.name),
            "\\footnotesize".to_owned(),
            format!("\\begin{{tabular}}{{{alignment}}}"),
            "\\toprule".to_owned(),
            row(&mut self.columns.iter().map(|column| column.name.clone())),
        ];
        let mut before: Option<&Group> = None;
        for each in &self.rows {
            if before != Some(&each.group) {
                let (width, group) = (self.columns.len(), escape(&each.group.to_string()));
                lines.push("\\midrule".to_owned());
                lines.push(format!("\\multicolumn{{{width}}}{{l}}{{\\textit{{{group}}}}} \\\\"));
            }
            before = Some(&each.group);
            lines.push(row(&mut each.cells.iter().map(Cell::text)));
        }
        lines.extend(["\\bottomrule", "\\end{tabular}"].map(String::from));
        lines.push("\\par\\raggedright".to_owned());
        for note in self.notes() {
            lines.extend(["\\par\\smallskip".to_owned(), escape(&note)]);
        }
        lines.push("\\end{table}".to_owned());
        lines.join("\n") + "\n"
    }
}

/// Text with every letter that LaTeX would take for something else, or that an old font lacks, written out.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => escaped.extend(['\\', letter]),
            '\\' => escaped += "\\textbackslash{}",
            '~' => escaped += "\\textasciitilde{}",
            '^' => escaped += "\\textasciicircum{}",
            '<' => escaped += "$<$",
            '>' => escaped += "$>$",
            '≤' => escaped += "$\\leq$",
            '≥' => escaped += "$\\geq$",
            '−' => escaped += "$-$",
            '×' => escaped += "$\\times$",
            '–' => escaped += "--",
            '’' => escaped.push('\''),
            '†' => escaped += "\\textsuperscript{\\dag}",
            // At the start of a row `[` would be read as an argument of the `\\` before.
            '[' => escaped += "{[}",
            ']' => escaped += "{]}",
            _ => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn nothing_is_left_for_latex_to_misread() {
        assert_eq!(
            escape(r"a_b & 50 % of {x} #1 $ ^~\ [−1, ≤ 2]†"),
            r"a\_b \& 50 \% of \{x\} \#1 \$ \textasciicircum{}\textasciitilde{}\textbackslash{} {[}$-$1, $\leq$ 2{]}\textsuperscript{\dag}"
        );
    }
}
