//! Text in CSV that people open in spreadsheets: nothing in it is computed.
//!
//! A spreadsheet takes a cell that begins with `=`, `+`, `-`, `@`, a tab or a carriage return for a formula, quoted or
//! not. Such text gets a `'` in front, which spreadsheets do not show; numbers stay as they are, and so does all text that
//! begins with anything else. Reading takes the mark away again. JSON, Parquet and records hold every name as it is.

use std::borrow::Cow;

/// True if a text begins as formulas do, after any number of marks, and is neither a number nor a list of numbers.
fn is_formula(text: &str) -> bool {
    text.trim_start_matches('\'')
        .starts_with(['=', '+', '-', '@', '\t', '\r'])
        && !text.split(' ').all(|word| word.parse::<f64>().is_ok())
}

/// A text as it stands in a cell.
#[must_use]
pub fn cell(text: &str) -> Cow<'_, str> {
    if is_formula(text) {
        format!("'{text}").into()
    } else {
        text.into()
    }
}

/// The text of a cell.
#[must_use]
pub fn text(cell: &str) -> &str {
    match cell.strip_prefix('\'') {
        Some(text) if is_formula(text) => text,
        _ => cell,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_are_marked_and_read_back_and_numbers_stay() {
        for (name, marked) in [
            ("=HYPERLINK(\"http://x\")", "'=HYPERLINK(\"http://x\")"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
            ("-a", "'-a"),
            ("'=1", "''=1"),
            ("\t=1", "'\t=1"),
        ] {
            assert_eq!((cell(name).as_ref(), text(marked)), (marked, name));
        }
        for kept in ["-0.5", "-5 -5", "+1e-3", "", "7-Up", "a=b", "'quoted'", "'"] {
            assert_eq!((cell(kept).as_ref(), text(kept)), (kept, kept));
        }
    }
}
