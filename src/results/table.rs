//! The numbers of a figure as text: Markdown for a README, plain for a terminal.

use crate::results::statistics::bootstrap::Estimate;

mod accuracy;
mod gains;

pub use accuracy::{accuracy, readings, zero_shot};
pub use gains::{along_shots, differences, micro_gates};

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
                Some("learner" | "against" | "over" | "reading" | "interval" | "as expected" | "passes")
            )
    }
}

#[cfg(test)]
mod tests;
