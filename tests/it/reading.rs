//! Free, trie and likelihood readings of class names.

use std::sync::OnceLock;

use kshot::backend::Sampler;
use kshot::engine::{SampledSequence, SamplingParams, TokenScore};
use kshot::error::{Error, Result};
use kshot::example::{Chunk, ModelInput, Renderer};
use kshot::learner::reading::{Answer, Answers};
use kshot::prediction::Reading;
use proptest::prelude::*;

use crate::goldens;

const ALL: [Reading; 3] = [Reading::Free, Reading::Trie, Reading::Likelihood];

/// One for all tests: a full vocabulary takes a second to load.
fn renderer() -> &'static Renderer {
    static RENDERER: OnceLock<Renderer> = OnceLock::new();
    RENDERER.get_or_init(|| {
        let mut fixtures = goldens::qwen3_vl();
        fixtures.retain(|golden| golden.model.join("tokenizer.json").is_file());
        Renderer::load(&fixtures[0].model, None).unwrap()
    })
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// A model that is a table: for prompt and tokens so far the logit of each token that it knows.
struct Script<F> {
    /// Ascending.
    vocabulary: Vec<u32>,
    logit: F,
    /// Prompts decoded and prompts scored so far.
    decoded: usize,
    scored: usize,
}

impl<F: Fn(u32, &[u32], u32) -> f32> Script<F> {
    fn new(vocabulary: impl IntoIterator<Item = u32>, logit: F) -> Self {
        let mut vocabulary: Vec<u32> = vocabulary.into_iter().collect();
        vocabulary.sort_unstable();
        vocabulary.dedup();
        Self {
            vocabulary,
            logit,
            decoded: 0,
            scored: 0,
        }
    }

    /// Log-probabilities of the vocabulary, and the likeliest, the lowest of equals.
    fn next(&self, prompt: u32, before: &[u32]) -> (Vec<f32>, u32) {
        let logits: Vec<f32> = self
            .vocabulary
            .iter()
            .map(|&token| (self.logit)(prompt, before, token))
            .collect();
        let normaliser = logits.iter().map(|logit| logit.exp()).sum::<f32>().ln();
        let mut best = 0;
        for (i, logit) in logits.iter().enumerate() {
            if *logit > logits[best] {
                best = i;
            }
        }
        (
            logits.iter().map(|logit| logit - normaliser).collect(),
            self.vocabulary[best],
        )
    }

    fn log_prob(&self, prompt: u32, before: &[u32], token: u32) -> f32 {
        self.next(prompt, before).0[self.vocabulary.binary_search(&token).unwrap()]
    }
}

/// The number that tells a prompt from others.
fn number(prompt: &ModelInput) -> u32 {
    match &prompt.chunks[..] {
        [Chunk::Tokens(ids)] => ids[0],
        other => panic!("{other:?}"),
    }
}

fn prompts(count: u32) -> Vec<ModelInput> {
    let prompt = |i| ModelInput::default().followed_by(&[i]);
    (0..count).map(prompt).collect()
}

impl<F: Fn(u32, &[u32], u32) -> f32 + Send> Sampler for Script<F> {
    fn sample(&mut self, prompts: &[ModelInput], params: &SamplingParams) -> Result<Vec<SampledSequence>> {
        assert_eq!((params.temperature, params.stop.tokens.len()), (0.0, 1));
        self.decoded += prompts.len();
        let one = |prompt: &ModelInput| {
            let mut tokens = Vec::new();
            while tokens.len() < params.max_tokens && tokens.last() != params.stop.tokens.first() {
                tokens.push(self.next(number(prompt), &tokens).1);
            }
            SampledSequence {
                logprobs: vec![0.0; tokens.len()],
                stopped: tokens.last() == params.stop.tokens.first(),
                tokens,
                ..SampledSequence::default()
            }
        };
        Ok(prompts.iter().map(one).collect())
    }

    fn compute_logprobs(
        &mut self,
        prompts: &[ModelInput],
        continuations: &[&[Vec<u32>]],
    ) -> Result<Vec<Vec<Vec<TokenScore>>>> {
        self.scored += prompts.len();
        let mut scores = Vec::new();
        for (prompt, continuations) in prompts.iter().zip(continuations) {
            let score = |continuation: &Vec<u32>| {
                let token = |i: usize| TokenScore {
                    logprob: self.log_prob(number(prompt), &continuation[..i], continuation[i]),
                    likeliest: self.next(number(prompt), &continuation[..i]).1,
                };
                (0..continuation.len()).map(token).collect()
            };
            scores.push(continuations.iter().map(score).collect());
        }
        Ok(scores)
    }
}

/// A script that writes one text a prompt and finds everything else as improbable as the next.
fn writing(answers: &Answers, texts: Vec<Vec<u32>>) -> Script<impl Fn(u32, &[u32], u32) -> f32 + Send> {
    let vocabulary: Vec<u32> = answers.tokens().iter().chain(&texts).flatten().copied().collect();
    Script::new(vocabulary, move |prompt, before, token| {
        let text = &texts[prompt as usize];
        let on = text.starts_with(before) && text.get(before.len()) == Some(&token);
        if on { 5.0 } else { 0.0 }
    })
}

#[test]
fn what_is_written_is_read() {
    let renderer = renderer();
    let classes = names(&["cat", "Cat_Fish", "red fox"]);
    let answers = Answers::new(renderer, &classes, "").unwrap();
    let end = renderer.prompter().end();
    let text = |text: &str| {
        let mut tokens = renderer.prompter().tokenizer().encode(text).unwrap();
        tokens.push(end);
        tokens
    };
    assert_eq!(answers.tokens()[1], text(" Cat Fish"));
    let mut endless = text(" cat");
    endless.pop();
    endless.extend([text("\n")[0]; 64]);
    let texts = [
        (text(" cat"), "cat", Some(0)),
        (text(" Cat Fish"), "Cat Fish", Some(1)),
        (text(" cat fish."), "cat fish.", Some(1)),
        (text(" \"Red  FOX\" "), "\"Red  FOX\"", Some(2)),
        (text(" red foxes"), "red foxes", None),
        (text(" a red fox"), "a red fox", None),
        (text(""), "", None),
        (endless, "cat", None),
    ];
    let mut script = writing(&answers, texts.iter().map(|(tokens, ..)| tokens.clone()).collect());
    let found = answers.read(&mut script, &prompts(8), &ALL, None).unwrap();
    for (answer, (_, text, class)) in found.iter().zip(&texts) {
        assert_eq!((answer.free_text.as_deref(), answer.free_class), (Some(*text), *class));
    }
    // Names as they are written are known from the scores; the others were decoded.
    assert_eq!((script.scored, script.decoded), (8, 6));
    let log_prob = |name: &[u32]| -> f32 { (0..name.len()).map(|i| script.log_prob(1, &name[..i], name[i])).sum() };
    let expected: Vec<f32> = answers.tokens().iter().map(|name| log_prob(name)).collect();
    let log_probs = found[1].log_probs.as_ref().unwrap();
    assert!(
        log_probs.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5),
        "{log_probs:?} {expected:?}"
    );
    assert_eq!(found[1].trie_class, Some(1));
}

#[test]
fn only_what_is_asked_for_is_answered() {
    let answers = Answers::new(renderer(), &names(&["cat", "dog"]), "").unwrap();
    let mut script = writing(&answers, vec![answers.tokens()[1].clone()]);
    let mut read = |readings: &[Reading]| {
        answers
            .read(&mut script, &prompts(1), readings, None)
            .unwrap()
            .remove(0)
    };
    assert_eq!(read(&[]), Answer::default());
    let trie = read(&[Reading::Trie]);
    assert_eq!(
        (trie.trie_class, &trie.free_text, &trie.log_probs),
        (Some(1), &None, &None)
    );
    let likelihood = read(&[Reading::Likelihood]);
    assert!(
        likelihood
            .log_probs
            .is_some_and(|log_probs| log_probs[1] > log_probs[0])
    );
    assert_eq!((likelihood.trie_class, likelihood.free_class), (None, None));
    assert_eq!((script.scored, script.decoded), (2, 0));
}

#[test]
fn the_end_token_competes_and_the_lower_of_equal_tokens_wins() {
    let renderer = renderer();
    let end = renderer.prompter().end();
    let answers = Answers::new(renderer, &names(&["cat fish", "cat", "red fox", "dog"]), "").unwrap();
    let cat = answers.tokens()[1].clone();
    let fish = answers.tokens()[0][cat.len() - 1];
    assert!(answers.tokens()[0].starts_with(&cat[..cat.len() - 1]) && fish != end);
    // After " cat": the end is likelier, the other word is, both are equal, and something else is likeliest.
    let logit = |prompt: u32, before: &[u32], token: u32| match before.len() + 1 {
        at if at < cat.len() => f32::from(u8::from(token == cat[before.len()])),
        at if at > cat.len() => 0.0,
        _ => match (prompt, token) {
            (0, token) if token == end => 2.0,
            (1, token) if token == fish => 2.0,
            (2, token) if token == fish || token == end => 2.0,
            (3, 0) => 3.0,
            (3, token) if token == end => 2.0,
            _ => 1.0,
        },
    };
    let vocabulary: Vec<u32> = answers.tokens().iter().flatten().copied().chain([0]).collect();
    let mut script = Script::new(vocabulary, logit);
    let found = answers.read(&mut script, &prompts(4), &ALL, None).unwrap();
    let classes: Vec<_> = found.iter().map(|answer| answer.trie_class.unwrap()).collect();
    assert_eq!(classes, [1, 0, u32::from(end < fish), 1]);
    assert_eq!((found[0].free_class, found[3].free_class), (Some(1), None));
}

#[test]
fn names_that_answers_cannot_tell_apart_are_refused() {
    let renderer = renderer();
    for (pair, word) in [
        (["guinea_pig", "Guinea Pig"], "guinea_pig"),
        (["St. Bernard", "st. bernard."], "St. Bernard"),
        (["cat", " _ "], "nothing"),
    ] {
        let error = Answers::new(renderer, &names(&pair), "").unwrap_err();
        assert!(matches!(&error, Error::ClassName { name, .. } if name == pair[1]));
        assert!(error.to_string().contains(word) && error.hint().is_some(), "{error}");
    }
}

/// A sampler that answers too little, or what is no number.
struct Broken(Vec<Vec<Vec<TokenScore>>>);

impl Sampler for Broken {
    fn sample(&mut self, _: &[ModelInput], _: &SamplingParams) -> Result<Vec<SampledSequence>> {
        Ok(Vec::new())
    }
    fn compute_logprobs(&mut self, _: &[ModelInput], _: &[&[Vec<u32>]]) -> Result<Vec<Vec<Vec<TokenScore>>>> {
        Ok(self.0.clone())
    }
}

#[test]
fn answers_of_another_shape_are_errors() {
    let answers = Answers::new(renderer(), &names(&["cat"]), "").unwrap();
    let length = answers.tokens()[0].len();
    let score = |logprob| TokenScore { logprob, likeliest: 0 };
    for scores in [
        vec![],
        vec![vec![]],
        vec![vec![vec![score(-1.0); length + 1]]],
        vec![vec![vec![score(f32::NAN); length]]],
    ] {
        let error = answers
            .read(&mut Broken(scores), &prompts(1), &[Reading::Trie], None)
            .unwrap_err();
        assert!(matches!(error, Error::Sampler { .. }));
    }
    let error = answers
        .read(&mut Broken(vec![]), &prompts(1), &[Reading::Free], None)
        .unwrap_err();
    assert!(matches!(error, Error::Sampler { .. }));
    assert!(
        answers
            .read(&mut Broken(vec![]), &prompts(1), &[Reading::Free], Some(&[]))
            .is_err()
    );
}

/// The next token by brute force: the likeliest of those with which some name goes on.
fn constrained(
    script: &Script<impl Fn(u32, &[u32], u32) -> f32>,
    names: &[Vec<u32>],
    prompt: u32,
    end: u32,
) -> Option<u32> {
    let mut written: Vec<u32> = Vec::new();
    while written.last() != Some(&end) {
        let mut best: Option<(f32, u32)> = None;
        for &token in &script.vocabulary {
            let longer = [&written[..], &[token]].concat();
            let logit = (script.logit)(prompt, &written, token);
            if names.iter().any(|name| name.starts_with(&longer)) && best.is_none_or(|(most, _)| logit > most) {
                best = Some((logit, token));
            }
        }
        written.push(best?.1);
    }
    names.iter().position(|name| *name == written).map(|class| class as u32)
}

/// A number that looks random.
fn mixed(parts: &[u32]) -> u64 {
    let mix = |hash: u64, part: &u32| {
        let hash = (hash ^ u64::from(*part)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^ (hash >> 29)
    };
    parts.iter().fold(0x51_7c_c1_b7_27_22_0a_95, mix)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn readings_equal_brute_force_and_hints_change_nothing(
        seed in any::<u32>(),
        strength in 0u8..8,
        classes in prop::collection::hash_set(
            prop::collection::vec(prop::sample::select(vec!["cat", "fish", "red", "fox"]), 1..4), 1..7),
    ) {
        const PROMPTS: u32 = 12;
        let renderer = renderer();
        let end = renderer.prompter().end();
        let mut classes: Vec<String> = classes.into_iter().map(|words| words.join(" ")).collect();
        classes.sort();
        let answers = Answers::new(renderer, &classes, "").unwrap();
        let names = answers.tokens().to_vec();
        let favourite = |prompt: u32| mixed(&[seed, prompt]) as usize % names.len();
        // Logits are small whole numbers: many are equal.
        let logit = |prompt: u32, before: &[u32], token: u32| {
            let place = [&[seed, prompt, token], before].concat();
            let path = &names[favourite(prompt)];
            let on = path.starts_with(before) && path.get(before.len()) == Some(&token);
            (mixed(&place) >> 40) as u8 as f32 % 4.0 + if on { f32::from(strength) } else { 0.0 }
        };
        let vocabulary: Vec<u32> = names.iter().flatten().copied().chain([1, 70, end]).collect();
        let mut script = Script::new(vocabulary, logit);
        let prompts = prompts(PROMPTS);
        let all = answers.read(&mut script, &prompts, &ALL, None).unwrap();
        for (prompt, answer) in (0..).zip(&all) {
            prop_assert_eq!(answer.trie_class, constrained(&script, &names, prompt, end));
        }
        let truth: Vec<u32> = (0..PROMPTS).map(|prompt| favourite(prompt) as u32).collect();
        let mut shuffled = truth.clone();
        shuffled.rotate_left(5);
        let beyond = vec![999; PROMPTS as usize];
        let mut decoded = Vec::new();
        for hints in [None, Some(&truth), Some(&shuffled), Some(&beyond)] {
            script.decoded = 0;
            let free = answers.read(&mut script, &prompts, &[Reading::Free], hints.map(Vec::as_slice)).unwrap();
            decoded.push(script.decoded);
            for (free, all) in free.iter().zip(&all) {
                prop_assert_eq!((&free.free_text, free.free_class), (&all.free_text, all.free_class));
            }
        }
        prop_assert!(decoded[0] == prompts.len() && decoded[1] <= decoded[0] && decoded[3] == decoded[0]);
        prop_assert!(strength < 7 || decoded[1] == 0);
    }
}
