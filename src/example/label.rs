//! Class names as a model is to write them, and answers as they are compared with class names.

use tokenizers::NormalizedString;

/// The class name that a model is asked to write, from the name that a dataset has (often that of a folder):
/// underscores are spaces, runs of white space one space, none at the ends, Unicode composed (NFC). Case,
/// hyphens and all other characters stay: `guinea_pig` is `guinea pig`, `Great_Pyrenees` is `Great Pyrenees`.
#[must_use]
pub fn written(name: &str) -> String {
    let spaced = name.replace('_', " ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut text = NormalizedString::from(words.join(" "));
    text.nfc();
    text.get().to_owned()
}

/// The one normalisation under which an answer names a class: of both the same form must come, nothing less
/// counts. It is [`written`] in lower case, without quotation marks around it and full stops behind it:
/// ` "Guinea pig".` compares as `guinea pig`; `a guinea pig`, `guinea-pig` and `guinea pigs` do not.
#[must_use]
pub fn compared(text: &str) -> String {
    const QUOTES: [char; 9] = ['"', '\'', '`', '“', '”', '‘', '’', '«', '»'];
    let lower = written(&text.to_lowercase());
    let end = |c: char| QUOTES.contains(&c) || c == '.' || c.is_whitespace();
    let begin = |c: char| QUOTES.contains(&c) || c.is_whitespace();
    lower.trim_end_matches(end).trim_start_matches(begin).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_written_as_words() {
        assert_eq!(written("guinea_pig"), "guinea pig");
        assert_eq!(written("  Great__Pyrenees\n"), "Great Pyrenees");
        assert_eq!(written("Chrysler 300 SRT-8\u{a0}2010"), "Chrysler 300 SRT-8 2010");
        assert_eq!(written("cafe\u{301}"), "caf\u{e9}");
    }

    #[test]
    fn answers_are_compared_without_case_and_quotes() {
        for same in [
            "Guinea Pig",
            " guinea pig",
            "guinea_pig.",
            "\"guinea  pig\"",
            "“Guinea pig.” ",
        ] {
            assert_eq!(compared(same), "guinea pig", "{same}");
        }
        for other in ["a guinea pig", "guinea-pig", "guinea pigs", "guineapig", "guinea pig!"] {
            assert_ne!(compared(other), "guinea pig");
        }
        assert_eq!(
            compared("Ford F-450 Super Duty Crew Cab 2012"),
            "ford f-450 super duty crew cab 2012"
        );
        assert_eq!(compared("bird's nest"), "bird's nest");
        assert_eq!(compared("CAFE\u{301}"), compared("caf\u{e9}"));
    }

    proptest! {
        #[test]
        fn both_forms_are_final(text in "\\PC*|[ a-cA-C_.\"'\n-]{0,12}") {
            prop_assert_eq!(written(&written(&text)), written(&text));
            prop_assert_eq!(compared(&compared(&text)), compared(&text));
            prop_assert_eq!(compared(&written(&text)), compared(&text));
        }
    }
}
