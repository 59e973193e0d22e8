//! The report for a terminal: what is wrong first, then what got worse, then what got better, then everything.

use crate::gate::report::{Report, Verdict};
use crate::gate::wording;

impl Report {
    /// As plain text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut lines = vec![wording::headline(self), wording::procedure(self).replace('`', "")];
        let noise = wording::noise(self);
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
                lines.extend([format!("  {}", cell.key), format!("    {}", wording::finding(cell))]);
            }
        }
        if !self.new_cells.is_empty() {
            lines.extend([String::new(), "New cells".into()]);
            lines.extend(self.new_cells.iter().map(|key| format!("  {key}")));
        }
        lines.extend([String::new(), wording::summary(self), String::new()]);
        let table = if self.cells.is_empty() {
            String::new()
        } else {
            wording::table(self).plain()
        };
        lines.join("\n") + "\n" + &table
    }
}
