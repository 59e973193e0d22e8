//! Pixels, tokens and prompts of Qwen3-VL against transformers.

use std::path::Path;

use kshot::example::{Grid, Message, PREFILL, Part, PatchProcessor, Prompter, QUESTION, Role};
use kshot::formats::image::decode;

use crate::goldens::{self, Golden, values};
use crate::qwen_support::{Reference, grids, patches};

/// The fixtures that come with their tokenizer: all that `make_fixture.py` makes.
fn with_tokenizer() -> Vec<Golden> {
    let mut all = goldens::qwen3_vl();
    all.retain(|golden| golden.model.join("tokenizer.json").is_file());
    assert!(!all.is_empty());
    all
}

fn prompter(golden: &Golden) -> (Prompter, PatchProcessor) {
    let processor = PatchProcessor::load(&golden.model).unwrap();
    (Prompter::load(&golden.model, processor.merge()).unwrap(), processor)
}

/// In 8-bit units before normalisation: within 1 in at least 99 % of values, never more than 2.
#[test]
fn pixels_match() {
    let mut compared = 0;
    for golden in with_tokenizer() {
        let expected = golden.tensors("processor.safetensors");
        let processor = PatchProcessor::load(&golden.model).unwrap();
        for (key, tensor) in &expected {
            let Some(name) = key.strip_suffix(".fast") else {
                continue;
            };
            let path = golden.expected.join("images").join(format!("{name}.png"));
            let image = decode(&std::fs::read(&path).unwrap(), name).unwrap();
            let found = processor.patches(&image, false).unwrap();
            assert_eq!(
                [found.grid],
                grids(&expected[&format!("{name}.grid_thw")])[..],
                "{} {name}",
                golden.name
            );
            let expected = values(&patches(tensor));
            assert_eq!(found.values.len(), expected.len());
            let levels = |i: usize| (f64::from(found.values[i]) - expected[i]).abs() * 127.5;
            let largest = (0..expected.len()).map(levels).fold(0.0, f64::max);
            let off = (0..expected.len()).filter(|&i| levels(i) > 1.01).count() as f64 / expected.len() as f64;
            assert!(
                largest <= 2.01 && off <= 0.01,
                "{} {name}: {largest} levels, {off} off",
                golden.name
            );
            compared += 1;
        }
    }
    assert!(compared > 0, "no pixels to compare");
}

/// A processor of these pixel limits.
fn limits(folder: &Path, golden: &Golden, min: u64, max: u64) -> PatchProcessor {
    let text = std::fs::read_to_string(golden.model.join("preprocessor_config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config["size"] = serde_json::json!({"shortest_edge": min, "longest_edge": max});
    std::fs::write(folder.join("preprocessor_config.json"), config.to_string()).unwrap();
    PatchProcessor::load(folder).unwrap()
}

#[test]
fn sizes_match() {
    for golden in with_tokenizer() {
        let folder = tempfile::tempdir().unwrap();
        let real = limits(folder.path(), &golden, 65_536, 16_777_216);
        let small = limits(folder.path(), &golden, 4096, 65_536);
        let table = golden.notes()["smart_resize_hw_real_then_small"].clone();
        for (size, expected) in table.as_object().unwrap() {
            let (height, width) = size.split_once('x').unwrap();
            let (height, width) = (height.parse().unwrap(), width.parse().unwrap());
            let expected: Vec<u32> = serde_json::from_value(expected.clone()).unwrap();
            assert_eq!(real.size(height, width).unwrap(), (expected[0], expected[1]), "{size}");
            assert_eq!(small.size(height, width).unwrap(), (expected[2], expected[3]), "{size}");
        }
    }
}

#[test]
fn token_lists_match() {
    for golden in with_tokenizer() {
        let tokenizer = prompter(&golden).0;
        for (text, expected) in golden.notes()["token_lists"].as_object().unwrap() {
            let expected: Vec<u32> = serde_json::from_value(expected.clone()).unwrap();
            assert_eq!(tokenizer.tokenizer().encode(text).unwrap(), expected, "{text:?}");
        }
    }
}

/// Images first, then the text, as the goldens ask.
fn messages(images: usize, text: &str, answer: Option<&str>) -> Vec<Message> {
    let mut content = vec![Part::Image; images];
    content.push(Part::Text(text.into()));
    let mut all = vec![Message {
        role: Role::User,
        content,
    }];
    all.extend(answer.map(|text| Message {
        role: Role::Assistant,
        content: vec![Part::Text(text.into())],
    }));
    all
}

#[test]
fn conversations_match() {
    for golden in with_tokenizer() {
        let (prompter, _) = prompter(&golden);
        let (reference, forward) = (Reference::load(&golden), golden.tensors("forward.safetensors"));
        let notes = golden.notes();
        let texts: Vec<String> = serde_json::from_value(notes["texts_prompt"].clone()).unwrap();
        let answers: Vec<String> = serde_json::from_value(notes["answers"].clone()).unwrap();
        for (i, sequence) in reference.sequences.iter().enumerate() {
            let question = texts[i]
                .rsplit_once("<|vision_end|>")
                .unwrap()
                .1
                .split_once("<|im_end|>")
                .unwrap()
                .0;
            let count = sequence.images.len();
            let full = messages(count, question, Some(&answers[i]));
            let found = prompter.conversation(&full, &sequence.images, None).unwrap();
            assert_eq!(found, *sequence, "{} sequence {i}", golden.name);
            let open = messages(count, question, None);
            let found = prompter.conversation(&open, &sequence.images, Some("")).unwrap();
            let expected = forward[&format!("gen.{i}.prompt_ids")].to_vec1::<i64>().unwrap();
            assert_eq!(found.ids, expected.into_iter().map(|id| id as u32).collect::<Vec<_>>());
        }
    }
}

#[test]
fn text_may_stand_before_between_and_after_images() {
    for golden in with_tokenizer() {
        let (prompter, processor) = prompter(&golden);
        let merge = processor.merge();
        let (first, second) = (
            Grid {
                rows: merge,
                columns: 3 * merge,
            },
            Grid {
                rows: 2 * merge,
                columns: merge,
            },
        );
        let text = |text: &str| Part::Text(text.into());
        let content = vec![
            text("before "),
            Part::Image,
            text(" between "),
            Part::Image,
            text(" after"),
        ];
        let messages = [Message {
            role: Role::User,
            content,
        }];
        let found = prompter.conversation(&messages, &[first, second], Some("")).unwrap();
        let image = |count: usize| format!("<|vision_start|>{}<|vision_end|>", "<|image_pad|>".repeat(count));
        let expected = format!(
            "<|im_start|>user\nbefore {} between {} after<|im_end|>\n<|im_start|>assistant\n",
            image(3),
            image(2)
        );
        assert_eq!(found.ids, prompter.tokenizer().encode(&expected).unwrap());
        assert!(prompter.conversation(&messages, &[first], None).is_err());
        assert!(prompter.conversation(&messages, &[first, second, first], None).is_err());
    }
}

#[test]
fn the_answer_bears_the_loss() {
    for golden in with_tokenizer() {
        let (prompter, processor) = prompter(&golden);
        let grid = Grid {
            rows: 2 * processor.merge(),
            columns: processor.merge(),
        };
        let question = prompter.question(grid).unwrap();
        for name in ["red fox", "boeing 737-200", "(odd) name", "7up"] {
            let (sequence, answer) = prompter.answered(grid, name).unwrap();
            assert_eq!(sequence.ids[..answer.start], question.ids);
            assert_eq!(answer.end, sequence.ids.len());
            assert_eq!(sequence.ids.last(), Some(&prompter.end()));
            let text = prompter
                .tokenizer()
                .decode(&sequence.ids[answer.start..answer.end - 1])
                .unwrap();
            assert_eq!(text, format!(" {name}"));
        }
        let text = prompter.tokenizer().decode(&question.ids).unwrap();
        assert!(text.contains(QUESTION) && text.ends_with(PREFILL), "{text}");
    }
}
