//! Tables as LaTeX: one `table` environment each, with rules of the package `booktabs`.

use crate::report::table::{Cell, Group, Table};

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
