//! The report for a page, such as the summary of a workflow's job.

use crate::gate::report::{Outcome, Report, Verdict};
use crate::gate::wording;

impl Report {
    /// As GitHub-flavoured Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let sign = match self.outcome {
            Outcome::Green => "✅",
            Outcome::Red => "❌",
            Outcome::Error | Outcome::NoiseUnknown => "⚠️",
        };
        let mut lines = vec![
            format!("## {sign} {}", escaped(&wording::headline(self))),
            String::new(),
        ];
        lines.push(wording::procedure(self));
        let noise = wording::noise(self);
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
            let item = |cell| format!("**{}**: {}", escaped(&key(cell)), wording::finding(cell));
            section(heading, cells.map(item).collect());
        }
        section(
            "New cells",
            self.new_cells.iter().map(|key| escaped(&key.to_string())).collect(),
        );
        lines.extend([String::new(), wording::summary(self)]);
        if !self.cells.is_empty() {
            lines.extend([String::new(), wording::table(self).markdown()]);
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
