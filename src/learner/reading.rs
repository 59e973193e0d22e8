//! Readings of a model that writes class names: what it says, what it says when it may say nothing but class
//! names, and how probable each name is. They are three readings of one model and are never mixed.

use std::collections::HashMap;
use std::ops::ControlFlow;

use crate::backend::Sampler;
use crate::engine::{SampledSequence, SamplingParams, TokenScore};
use crate::error::{Error, Result};
use crate::example::{ModelInput, Renderer, Tokenizer, compared, written};
use crate::prediction::Reading;

/// Tokens that a free answer may have beyond those of the longest class name: enough to see that it is none.
const SLACK: usize = 8;
/// A token of at least this probability is the likeliest, and so clearly that no rounding makes it another.
const SURE: f32 = 0.51;

/// The class names of a dataset as answers to the question about an image.
#[derive(Debug, Clone)]
pub struct Answers {
    /// For each class the tokens of its name and the end token; no two are equal.
    tokens: Vec<Vec<u32>>,
    /// For each class the text that its tokens make.
    texts: Vec<String>,
    /// The class of each text in the form of [`compared`].
    classes: HashMap<String, u32>,
    tokenizer: Tokenizer,
    end: u32,
}

/// A model's answer about one image, by the readings that were asked for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    /// The text that greedy decoding writes, without the space before it.
    pub free_text: Option<String>,
    /// The class that this text names after [`compared`]; `None`: it names none or has no end.
    pub free_class: Option<u32>,
    /// The class that greedy decoding writes if it may write class names only.
    pub trie_class: Option<u32>,
    /// For each class, in order, the natural-log probability of its name and the end token.
    pub log_probs: Option<Vec<f32>>,
}

impl Answers {
    /// The answers to [`Renderer::question`] of classes with these names, which are written as [`written`] says, with a text
    /// between each name and the end token.
    ///
    /// # Errors
    /// [`Error::ClassName`] when two names compare as one, or a name is none; as [`Renderer::answer`].
    pub fn new(renderer: &Renderer, classes: &[String], ending: &str) -> Result<Self> {
        let tokenizer = renderer.prompter().tokenizer();
        let mut answers = Self {
            tokens: Vec::with_capacity(classes.len()),
            texts: Vec::with_capacity(classes.len()),
            classes: HashMap::with_capacity(classes.len()),
            tokenizer: tokenizer.clone(),
            end: renderer.prompter().end(),
        };
        for (class, name) in (0..).zip(classes) {
            let fail = |reason: String| Error::ClassName {
                name: name.clone(),
                reason,
            };
            let form = compared(name);
            if form.is_empty() {
                return Err(fail("nothing is left of it to write".into()));
            }
            let tokens = renderer.answer(&(written(name) + ending))?;
            let text = answers.text(&tokens)?;
            if compared(&text) != form {
                return Err(fail(format!("the model's tokens turn it into `{text}`")));
            }
            if let Some(other) = answers.classes.insert(form, class) {
                let other = &classes[other as usize];
                return Err(fail(format!("an answer cannot tell it from the class `{other}`")));
            }
            answers.tokens.push(tokens);
            answers.texts.push(text);
        }
        Ok(answers)
    }

    /// For each class the tokens of its name and the end token.
    #[must_use]
    pub fn tokens(&self) -> &[Vec<u32>] {
        &self.tokens
    }

    /// For each class the text that its tokens make.
    #[must_use]
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Reads the answers to prompts by some readings.
    ///
    /// Trie and likelihood come from the scores of all names in one pass, and so do those free answers that are
    /// class names; a free answer that leaves the names is decoded. Where the free answer alone is asked for,
    /// `hints` (guesses of the answer, one a prompt, e.g. the true class) are scored first, and what is surely
    /// not other than guessed need not be decoded: hints make the free answers cheaper and never change them.
    ///
    /// # Errors
    /// Those of the sampler; [`Error::Sampler`] when it does not answer what it was asked.
    pub fn read(
        &self,
        sampler: &mut dyn Sampler,
        prompts: &[ModelInput],
        readings: &[Reading],
        hints: Option<&[u32]>,
    ) -> Result<Vec<Answer>> {
        let asked = |reading| readings.contains(&reading);
        let mut answers = vec![Answer::default(); prompts.len()];
        // The free answers that are known to be class names.
        let mut named = vec![None; prompts.len()];
        if asked(Reading::Trie) || asked(Reading::Likelihood) {
            let scores = self.score(sampler, prompts, &vec![&self.tokens[..]; prompts.len()])?;
            for ((answer, named), scores) in answers.iter_mut().zip(&mut named).zip(&scores) {
                if asked(Reading::Trie) {
                    answer.trie_class = self.constrained(scores);
                }
                if asked(Reading::Likelihood) {
                    answer.log_probs = Some(scores.iter().map(|tokens| sum(tokens)).collect());
                }
                *named = self.unconstrained(scores);
            }
        } else if asked(Reading::Free)
            && let Some(hints) = hints
        {
            let hinted = |&hint: &u32| self.tokens.get(hint as usize).map_or(&[][..], std::slice::from_ref);
            let continuations: Vec<&[Vec<u32>]> = hints.iter().map(hinted).collect();
            let scores = self.score(sampler, prompts, &continuations)?;
            for ((named, scores), (names, &hint)) in named.iter_mut().zip(&scores).zip(continuations.iter().zip(hints))
            {
                let sure =
                    |(score, token): (&TokenScore, &u32)| score.likeliest == *token && score.logprob >= SURE.ln();
                let mut pairs = names.iter().zip(scores);
                *named = pairs.find_map(|(name, scores)| scores.iter().zip(name).all(sure).then_some(hint));
            }
        }
        if asked(Reading::Free) {
            self.write(sampler, prompts, &named, &mut answers)?;
        }
        Ok(answers)
    }

    /// Fills in the free answers: names that are known, decoded text elsewhere.
    fn write(
        &self,
        sampler: &mut dyn Sampler,
        prompts: &[ModelInput],
        named: &[Option<u32>],
        answers: &mut [Answer],
    ) -> Result<()> {
        let mut open = Vec::new();
        for (i, (named, answer)) in named.iter().zip(answers.iter_mut()).enumerate() {
            match named {
                Some(class) => {
                    answer.free_text = self.texts.get(*class as usize).cloned();
                    answer.free_class = Some(*class);
                }
                None => open.push(i),
            }
        }
        if open.is_empty() {
            return Ok(());
        }
        let longest = self.tokens.iter().map(Vec::len).max().unwrap_or(0) + SLACK;
        let params = SamplingParams::greedy(longest, vec![self.end]);
        let prompts: Vec<ModelInput> = open.iter().map(|&i| prompts[i].clone()).collect();
        let sampled = sampler.sample(&prompts, &params)?;
        if sampled.len() != open.len() {
            return Err(unfit(&format!("{} texts for {} prompts", sampled.len(), open.len())));
        }
        for (i, SampledSequence { tokens, stopped, .. }) in open.into_iter().zip(sampled) {
            let text = self.text(&tokens)?;
            if stopped {
                answers[i].free_class = self.classes.get(&compared(&text)).copied();
            }
            answers[i].free_text = Some(text);
        }
        Ok(())
    }

    /// The text of an answer's tokens.
    fn text(&self, tokens: &[u32]) -> Result<String> {
        let tokens = tokens.strip_suffix(&[self.end]).unwrap_or(tokens);
        Ok(self.tokenizer.decode(tokens)?.trim().to_owned())
    }

    /// Scores that are as many as the tokens, all of them numbers.
    fn score(
        &self,
        sampler: &mut dyn Sampler,
        prompts: &[ModelInput],
        continuations: &[&[Vec<u32>]],
    ) -> Result<Vec<Vec<Vec<TokenScore>>>> {
        if continuations.len() != prompts.len() {
            return Err(unfit(&format!(
                "{} hints for {} prompts",
                continuations.len(),
                prompts.len()
            )));
        }
        let scores = sampler.compute_logprobs(prompts, continuations)?;
        let scored = scores.iter().map(|scores| lengths(scores));
        if !scored.eq(continuations.iter().map(|names| lengths(names))) {
            return Err(unfit("not one score for each token"));
        }
        if scores.iter().flatten().flatten().any(|score| score.logprob.is_nan()) {
            return Err(unfit("a log-probability is not a number"));
        }
        Ok(scores)
    }

    /// Greedy decoding over the names: from the likeliest first token to the likeliest next one of those names
    /// that go on so, the lower of equally likely tokens, until a name ends.
    fn constrained(&self, scores: &[Vec<TokenScore>]) -> Option<u32> {
        self.walk(|place, open| {
            let token = |class: usize| Some((scores[class].get(place)?.logprob, *self.tokens[class].get(place)?));
            let likelier = |a: (f32, u32), b: (f32, u32)| {
                let better = b.0 > a.0 || (b.0 == a.0 && b.1 < a.1);
                if better { b } else { a }
            };
            open.iter()
                .filter_map(|&class| token(class))
                .reduce(likelier)
                .map(|(_, token)| token)
        })
    }

    /// Greedy decoding as far as it stays on the names: the class whose name it writes and ends.
    fn unconstrained(&self, scores: &[Vec<TokenScore>]) -> Option<u32> {
        self.walk(|place, open| scores[*open.first()?].get(place).map(|score| score.likeliest))
    }

    /// Goes from token to token as `choose` says, which is told the place and the classes whose names have begun
    /// so; gives the class whose name is written to its end.
    fn walk(&self, choose: impl Fn(usize, &[usize]) -> Option<u32>) -> Option<u32> {
        let mut open: Vec<usize> = (0..self.tokens.len()).collect();
        let walked = (0..).try_for_each(|place| {
            let Some(token) = choose(place, &open) else {
                return ControlFlow::Break(None);
            };
            open.retain(|&class| self.tokens[class].get(place) == Some(&token));
            match open[..] {
                [] => ControlFlow::Break(None),
                [class, ..] if token == self.end => ControlFlow::Break(Some(class as u32)),
                _ => ControlFlow::Continue(()),
            }
        });
        walked.break_value().flatten()
    }
}

/// Tokens of each continuation.
fn lengths<T>(continuations: &[Vec<T>]) -> Vec<usize> {
    continuations.iter().map(Vec::len).collect()
}

/// Log-probability of a whole continuation.
fn sum(tokens: &[TokenScore]) -> f32 {
    tokens.iter().map(|score| f64::from(score.logprob)).sum::<f64>() as f32
}

fn unfit(reason: &str) -> Error {
    Error::Sampler { reason: reason.into() }
}
