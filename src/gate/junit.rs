//! The report as JUnit XML, the form that Jenkins, GitLab and GitHub's reporters read: one test case a cell.
//!
//! Settings are properties of the test suite, where every reader allows them; the numbers of a cell are the output of its
//! test case. What belongs to no known cell is a test case of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::gate::problem::Problem;
use crate::gate::report::{CellNoiseFrom, CellReport, Report, Verdict};
use crate::gate::text;
use crate::report::figure::MICRO_CAVEAT;
use crate::store::record::CellKey;

impl Report {
    /// As JUnit XML.
    #[must_use]
    pub fn junit(&self) -> String {
        let mut errors: BTreeMap<Option<&CellKey>, Vec<&Problem>> = BTreeMap::new();
        for error in &self.errors {
            errors.entry(error.cell.as_ref()).or_default().push(error);
        }
        let compared: BTreeMap<&CellKey, &CellReport> = self.cells.iter().map(|cell| (&cell.key, cell)).collect();
        let mut keys: Vec<&CellKey> = compared
            .keys()
            .copied()
            .chain(errors.keys().filter_map(|key| *key))
            .collect();
        keys.sort();
        keys.dedup();
        let nameless = errors.remove(&None).unwrap_or_default();

        let mut cases = String::new();
        let (mut failed, mut in_error) = (0, 0);
        for key in &keys {
            let class = format!("{}.{}.{}", key.dataset, key.protocol, key.learner);
            let name = format!("{}, seed {}", text::shots(key.shots), key.seed);
            let cell = compared.get(key).copied();
            let problems = errors.get(&Some(*key)).map_or(&[][..], Vec::as_slice);
            let unknown = cell.is_some_and(|cell| cell.verdict == Verdict::NoiseUnknown);
            in_error += usize::from(!problems.is_empty() || unknown);
            // A test case has one of the two.
            let lost = problems.is_empty() && cell.is_some_and(|cell| cell.verdict == Verdict::Loss);
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
            ("outcome", text::headline(self)),
            ("results", self.results.clone()),
            ("baseline", self.baseline.clone()),
            ("margin_points", text::plain(self.margin_points)),
            ("level", text::plain(self.level)),
            ("family", self.family.to_string()),
            ("noise", text::noise(self).join(" ")),
            ("caveat", caveat.to_owned()),
        ] {
            let (name, value) = (escaped(name), escaped(&value));
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
        let finding = text::finding(cell);
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
        let output = escaped(&format!("{}: {finding}", cell.verdict.name()));
        inside += &format!("      <system-out>{output}</system-out>\n");
    }
    let (class, name) = (escaped(class), escaped(name));
    if inside.is_empty() {
        return format!("    <testcase classname=\"{class}\" name=\"{name}\" time=\"0\"/>\n");
    }
    format!("    <testcase classname=\"{class}\" name=\"{name}\" time=\"0\">\n{inside}    </testcase>\n")
}

fn element(tag: &str, kind: &str, message: &str, text: &str) -> String {
    let (kind, message, text) = (escaped(kind), escaped(message), escaped(text));
    format!("      <{tag} type=\"{kind}\" message=\"{message}\">{text}</{tag}>\n")
}

/// Text for an attribute or an element. XML 1.0 has no form at all for most control characters.
fn escaped(text: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_name_can_leave_its_place() {
        assert_eq!(
            escaped("a<b> & \"c\" 'd'\n\u{1b}[0m"),
            "a&lt;b&gt; &amp; &quot;c&quot; &apos;d&apos;&#10;\u{fffd}[0m"
        );
    }
}
