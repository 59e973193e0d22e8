//! Texts become the tokens that transformers makes of them.
//!
//! `tests/fixtures/tokenizer/mini.json.gz` was written by `tests/slow/tokenizer_qwen.py` with the vocabulary of the
//! committed fixture; `tests/slow/run` does the same with the full one.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use kshot::example::{Grid, Prompter, Tokenizer, compared, written};
use kshot::manifest;
use serde::Deserialize;

use crate::support::{datasets, root};

/// What transformers made.
#[derive(Deserialize)]
struct Expected {
    strings: Vec<String>,
    ids: Vec<Vec<u32>>,
    /// By number, where it is not the string.
    decoded: BTreeMap<usize, String>,
    names: Vec<String>,
    prompt: Vec<u32>,
    answers: Vec<Vec<u32>>,
}

impl Expected {
    fn read(path: &Path) -> Self {
        serde_json::from_reader(GzDecoder::new(File::open(path).unwrap())).unwrap()
    }

    fn committed() -> Self {
        Self::read(&root().join("tests/fixtures/tokenizer/mini.json.gz"))
    }

    fn compare(&self, model: &Path) {
        assert_eq!((self.strings.len(), self.ids.len()), (2000, 2000));
        let tokenizer = Tokenizer::load(model).unwrap();
        let mut wrong = Vec::new();
        for (number, (text, ids)) in self.strings.iter().zip(&self.ids).enumerate() {
            let found = tokenizer.encode(text).unwrap();
            if found != *ids {
                wrong.push(format!("{text:?} is {found:?} instead of {ids:?}"));
            }
            let plain = tokenizer.decode(ids).unwrap();
            let expected = self.decoded.get(&number).unwrap_or(text);
            if plain != *expected {
                wrong.push(format!("{ids:?} is {plain:?} instead of {expected:?}"));
            }
        }
        // The conversation that is trained and scored, about an image of one token.
        let prompter = Prompter::load(model, 2).unwrap();
        let image = Grid { rows: 2, columns: 2 };
        assert_eq!(prompter.question(image).unwrap().ids, self.prompt);
        assert_eq!(self.names.len(), self.answers.len());
        for (name, answer) in self.names.iter().zip(&self.answers) {
            let (sequence, range) = prompter.answered(image, &written(name)).unwrap();
            if sequence.ids[range.clone()] != **answer || sequence.ids[..range.start] != *self.prompt {
                wrong.push(format!(
                    "the answer {name:?} is {:?} instead of {answer:?}",
                    &sequence.ids[range]
                ));
            }
        }
        assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    }
}

#[test]
fn two_thousand_strings_are_the_tokens_of_transformers() {
    Expected::committed().compare(&root().join("tests/fixtures/oracle/fixtures/qwen3vl-tied"));
}

#[test]
#[ignore = "for tests/slow/run: KSHOT_TOKENIZER names a model folder, KSHOT_TOKENIZER_IDS what transformers made of it"]
fn with_another_vocabulary_too() {
    let path = |name: &str| PathBuf::from(std::env::var_os(name).unwrap());
    Expected::read(&path("KSHOT_TOKENIZER_IDS")).compare(&path("KSHOT_TOKENIZER"));
}

#[test]
fn the_strings_hold_every_class_name_in_every_form() {
    let expected = Expected::committed();
    let has = |text: &str| {
        assert!(
            expected.strings.iter().any(|other| other == text),
            "{text:?} is not among them"
        );
    };
    let mut names = 0;
    for dataset in ["oxford-pets", "oxford-flowers", "stanford-cars"] {
        for name in manifest::load(&datasets(), dataset).unwrap().class_names {
            has(&name);
            has(&format!(" {}<|im_end|>", written(&name)));
            has(&compared(&name));
            assert!(expected.names.contains(&name));
            names += 1;
        }
    }
    assert_eq!(names, 37 + 102 + 196);
    // Caltech's are those of its folders, and of these four CoOp's.
    for name in [
        "accordion",
        "BACKGROUND_Google",
        "water_lilly",
        "yin_yang",
        "airplane",
        "face",
        "leopard",
        "motorbike",
    ] {
        has(name);
        has(&format!(" {}<|im_end|>", written(name)));
    }
    assert_eq!(
        expected
            .names
            .iter()
            .filter(|name| expected.strings.contains(name))
            .count(),
        expected.names.len()
    );
    for special in [
        "<|im_start|>",
        "<|im_end|>",
        "<|image_pad|>",
        "<|vision_start|>",
        "<think>",
    ] {
        assert!(
            expected
                .strings
                .iter()
                .any(|text| text.contains(special) && text.len() > special.len())
        );
    }
}
