//! The forms of tables. For people, with shares in %: for a terminal, as Markdown, and as LaTeX with the rules of the
//! package `booktabs`. For programs, with shares as they are, between 0 and 1 and with six digits, and columns of their
//! own for the ends of intervals: CSV, one file a table, and JSON.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use crate::comparison::paired::{LEVEL, SeedTest};
use crate::comparison::saved::Bounded;
use crate::config::Protocol;
use crate::error::{Error, Result};
use crate::report::table::{Cell, Group, Kind, Row, Table, Value};
use crate::statistics::Interval;
use crate::statistics::metric::Headline;
use crate::store::ledger;

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
    /// The rows of each group.
    pub fn groups(&self) -> impl Iterator<Item = &[Row]> {
        self.rows.chunk_by(|a, b| a.group == b.group)
    }

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
        for rows in self.groups() {
            for (index, each) in rows.iter().enumerate() {
                let group = if index == 0 {
                    each.group.to_string()
                } else {
                    String::new()
                };
                lines.push(row(&group, &mut each.cells.iter().map(Cell::text)));
            }
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
        let texts = |row: &Row| row.cells.iter().map(Cell::text).collect::<Vec<_>>();
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
        let mut cells = rows.iter();
        for rows in self.groups() {
            lines.push(rows[0].group.to_string());
            lines.extend(cells.by_ref().take(rows.len()).map(|cells| row(cells)));
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
    #[must_use]
    pub fn text(&self) -> String {
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
    let against = (against > 0).then(|| format!(", {against} against"));
    format!("{agree} of {} < {LEVEL}{}", tests.len(), against.unwrap_or_default())
}

/// Seeds whose exact test is significant: in the direction told, and in the other.
fn significant(tests: &[SeedTest], gain: bool) -> (usize, usize) {
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
        let alignment = self.columns.iter().map(|c| if c.is_text() { 'l' } else { 'r' });
        let alignment: String = alignment.collect();
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
        for rows in self.groups() {
            let (width, group) = (self.columns.len(), escape(&rows[0].group.to_string()));
            lines.push("\\midrule".to_owned());
            lines.push(format!("\\multicolumn{{{width}}}{{l}}{{\\textit{{{group}}}}} \\\\"));
            lines.extend(rows.iter().map(|each| row(&mut each.cells.iter().map(Cell::text))));
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

/// Columns of every row before its own: what it is about.
const IDENTITY: [&str; 7] = ["dataset", "protocol", "metric", "regime", "n_test", "chance", "micro"];
/// Names the columns of a row whose sanity control is red.
const RED_COLUMNS: &str = "red";
/// Names the columns of a row that are of fewer examples than were asked for, with their number; there where any are.
const CAPPED_COLUMNS: &str = "capped";

impl Kind {
    /// Its name, and the parts of a value: names added to that of the column, the first for the value itself.
    fn form(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Text => ("text", &[""]),
            Self::Count => ("count", &[""]),
            Self::Share => ("share", &[""]),
            Self::Accuracy => ("share with interval", &["", "low", "high", "t_low", "t_high"]),
            Self::Gain => ("difference of shares with interval", &["", "low", "high"]),
            Self::P => ("p value", &[""]),
            Self::Nats => ("nats", &[""]),
            Self::SeedTests => (
                "p values by seed, and how many show the gain or its opposite",
                &["by seed", "below 0.05", "against", "net wins"],
            ),
            Self::Examples => (
                "number of examples with interval",
                &["", "bound", "low", "low_bound", "high", "high_bound"],
            ),
        }
    }

    fn parts(self) -> &'static [&'static str] {
        self.form().1
    }
}

impl Table {
    /// As CSV with a header; `path` is where it is to be written.
    ///
    /// # Errors
    /// [`Error::Io`] naming `path`.
    pub fn csv(&self, path: &Path) -> Result<Vec<u8>> {
        let failed = |e: csv::Error| Error::io("write", path)(e.into());
        let mut table = csv::Writer::from_writer(Vec::new());
        let own = self.columns.iter().flat_map(|column| {
            let named = |part: &&str| format!("{} {part}", column.name).trim_end().to_owned();
            column.kind.parts().iter().map(named).collect::<Vec<_>>()
        });
        let mut header: Vec<String> = IDENTITY.map(String::from).into_iter().chain(own).collect();
        header.push(RED_COLUMNS.into());
        header.extend(self.is_capped().then(|| CAPPED_COLUMNS.into()));
        let header = header.iter().map(|name| ledger::cell(name).into_owned());
        table.write_record(header).map_err(failed)?;
        for row in &self.rows {
            let mut fields: Vec<String> = identity(row).iter().map(|(_, value)| field(value)).collect();
            for (of, column) in row.cells.iter().zip(&self.columns) {
                fields.extend(of.value.raw(column.kind).iter().map(field));
            }
            fields.push(self.red(row).join("; "));
            fields.extend(self.is_capped().then(|| self.capped(row).join("; ")));
            let fields = fields.iter().map(|text| ledger::cell(text).into_owned());
            table.write_record(fields).map_err(failed)?;
        }
        table.into_inner().map_err(|e| failed(e.into_error().into()))
    }

    fn json(&self) -> Json {
        let columns = self.columns.iter();
        let columns = columns.map(|column| json!({ "name": column.name, "kind": column.kind.form().0 }));
        let rows = self.rows.iter().map(|row| {
            let mut fields: Map<String, Json> = identity(row)
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect();
            for (cell, column) in row.cells.iter().zip(&self.columns) {
                fields.insert(column.name.clone(), object(column.kind, cell.value.raw(column.kind)));
            }
            fields.insert(RED_COLUMNS.to_owned(), json!(self.red(row)));
            if self.is_capped() {
                fields.insert(CAPPED_COLUMNS.to_owned(), json!(self.capped(row)));
            }
            Json::Object(fields)
        });
        json!({
            "name": self.name,
            "title": self.title,
            "columns": columns.collect::<Vec<_>>(),
            "rows": rows.collect::<Vec<_>>(),
            "micro": self.is_micro(),
            "notes": self.notes(),
        })
    }

    fn capped(&self, row: &Row) -> Vec<String> {
        let cells = row.cells.iter().zip(&self.columns);
        cells
            .filter_map(|(cell, column)| cell.capped.map(|k| format!("{}: {k}", column.name)))
            .collect()
    }

    fn red(&self, row: &Row) -> Vec<String> {
        let red = row.cells.iter().zip(&self.columns).filter(|(cell, _)| cell.red);
        red.map(|(_, column)| column.name.clone()).collect()
    }
}

/// Tables as one JSON document.
#[must_use]
pub fn json(tables: &[Table]) -> String {
    let tables: Vec<Json> = tables.iter().map(Table::json).collect();
    format!("{:#}\n", json!({ "tables": tables }))
}

fn identity(row: &Row) -> [(&'static str, Json); IDENTITY.len()] {
    let about = row.group.about.as_ref();
    let values = [
        json!(row.group.dataset),
        json!(row.group.protocol),
        json!(about.map(|about| about.metric)),
        json!(about.and_then(|about| about.regime.clone())),
        json!(about.map(|about| about.n_test)),
        json!(about.map(|about| rounded(about.chance))),
        json!(row.micro),
    ];
    let mut names = IDENTITY.into_iter();
    values.map(|value| (names.next().unwrap_or_default(), value))
}

/// A value of one part as it is, one of several as an object, nothing as `null`.
fn object(kind: Kind, raw: Vec<Json>) -> Json {
    if raw.iter().all(Json::is_null) {
        return Json::Null;
    }
    let named = kind.parts().iter();
    let named = named.map(|part| if part.is_empty() { "value" } else { part });
    let mut parts: Vec<(&str, Json)> = named.zip(raw).collect();
    if parts.len() == 1 {
        return parts.remove(0).1;
    }
    let parts = parts.into_iter().map(|(part, value)| (part.to_owned(), value));
    Json::Object(parts.collect())
}

/// A field of a CSV file: no quotes, nothing for `null`, lists separated by spaces.
fn field(value: &Json) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) => text.clone(),
        Json::Array(items) => items.iter().map(field).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

impl Value {
    /// The parts of the value, as [`Kind::parts`] names them.
    fn raw(&self, kind: Kind) -> Vec<Json> {
        let of = |interval: &Interval| [json!(rounded(interval.low)), json!(rounded(interval.high))];
        let mut parts = match self {
            Self::Missing => vec![],
            Self::Text(words) => vec![json!(words)],
            Self::Count(number) => vec![json!(number)],
            Self::Shots(shots) => vec![json!(shots)],
            Self::Share(number) | Self::Nats(number) => vec![json!(rounded(*number))],
            Self::P(p) => vec![json!(significant_digits(*p))],
            Self::Accuracy(mean, interval, over_seeds) => {
                let mut parts = vec![json!(rounded(*mean))];
                parts.extend(of(interval));
                parts.extend(over_seeds.iter().flat_map(of));
                parts
            }
            Self::Gain(mean, interval) => std::iter::once(json!(rounded(*mean))).chain(of(interval)).collect(),
            Self::SeedTests(tests, gain) => seed_test_parts(tests, *gain),
            Self::Examples {
                number,
                interval: (low, high),
                ..
            } => [number, low, high].into_iter().flat_map(|n| bounded(*n)).collect(),
        };
        parts.resize(kind.parts().len(), Json::Null);
        parts
    }
}

fn seed_test_parts(tests: &[SeedTest], gain: bool) -> Vec<Json> {
    let (agree, against) = significant(tests, gain);
    let p: Vec<f64> = tests.iter().map(|test| significant_digits(test.p)).collect();
    let net_wins: Vec<i64> = tests.iter().map(|test| test.net_wins).collect();
    vec![json!(p), json!(agree), json!(against), json!(net_wins)]
}

fn bounded(number: Bounded) -> [Json; 2] {
    let bound = match number {
        Bounded::AtMost(_) => "at most",
        Bounded::Known(_) => "known",
        Bounded::MoreThan(_) => "more than",
    };
    [json!(rounded(number.number())), json!(bound)]
}

/// To six digits after the point; never a negative zero.
fn rounded(number: f64) -> f64 {
    (number * 1e6).round() / 1e6 + 0.0
}

/// To six digits, however small.
fn significant_digits(number: f64) -> f64 {
    format!("{number:.5e}").parse().unwrap_or(number)
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
