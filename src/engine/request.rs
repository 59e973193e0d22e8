//! Requests to continue a prompt, news of them, and the answer among given ones.

use std::collections::HashSet;

use rand::Rng as _;

use super::sample::{ROWS, draws_of, print_of, score};
use super::{Alternative, Engine, PromptScores, SamplingParams, Snapshot};
use crate::error::{Error, Result};
use crate::example::{ModelInput, Sequence};
use crate::models::qwen3_vl::{Features, PrefixTree};

/// A prompt to continue.
#[derive(Debug, Clone)]
pub struct GenerationRequest {
    /// The weights that continue it.
    pub snapshot: Snapshot,
    /// The prompt.
    pub prompt: ModelInput,
    /// Settings of each continuation. Continuation `i` of a prompt draws as [`Engine::sample`] does when it is asked the prompt
    /// for the `i + 1`st time.
    pub params: SamplingParams,
    /// Continuations to make, at least one; the prompt is read once.
    pub samples: usize,
    /// Report the log-probabilities of the prompt's own tokens, and so many of the likeliest tokens in each place.
    pub prompt_logprobs: Option<usize>,
    /// The only answers that are allowed, if any are given: all are scored in one pass, and one is taken by its probability as a
    /// whole (the likeliest at temperature 0). Each should end with the token that ends an answer, unless none is the
    /// beginning of another. Of the other settings only the seed matters then.
    pub choices: Vec<Vec<u32>>,
}

/// Number of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(super) u64);

/// News of a request.
#[derive(Debug)]
pub enum Event {
    /// The prompt was read and its log-probabilities were asked for; before all tokens.
    Prompt {
        /// The request.
        id: RequestId,
        /// Of the prompt's own tokens.
        scores: PromptScores,
    },
    /// The allowed answers have been scored; before all tokens.
    Choices {
        /// The request.
        id: RequestId,
        /// Of each answer, given that it is one of them: they add up to 1.
        probabilities: Vec<f64>,
        /// Of each answer, each token: natural-log probabilities.
        logprobs: Vec<Vec<f32>>,
    },
    /// A token of a continuation.
    Token {
        /// The request.
        id: RequestId,
        /// Which of its continuations, from 0.
        sample: usize,
        /// The token.
        token: u32,
        /// Its natural-log probability under the model.
        logprob: f32,
        /// The likeliest tokens in its place, as many as were asked for.
        top: Vec<Alternative>,
    },
    /// A continuation is complete; a request is done when all of its continuations are.
    Finished {
        /// The request.
        id: RequestId,
        /// Which of its continuations, from 0.
        sample: usize,
        /// True if a stop token or text ended it, or it is one of the allowed answers; else its length did.
        stopped: bool,
        /// Which of the allowed answers it is.
        choice: Option<usize>,
    },
    /// The request could not be carried out and is gone; others go on.
    Failed {
        /// The request.
        id: RequestId,
        /// The cause.
        error: Error,
    },
}

impl Event {
    /// The request.
    #[must_use]
    pub fn id(&self) -> RequestId {
        match self {
            Self::Prompt { id, .. }
            | Self::Choices { id, .. }
            | Self::Token { id, .. }
            | Self::Finished { id, .. }
            | Self::Failed { id, .. } => *id,
        }
    }

    /// Leaves one failure of each request that failed, and nothing else of it; gives these requests.
    pub(super) fn settle(events: &mut Vec<Self>) -> HashSet<RequestId> {
        let failed = events.iter().filter(|event| matches!(event, Self::Failed { .. }));
        let failed: HashSet<RequestId> = failed.map(Self::id).collect();
        let mut told = HashSet::new();
        events.retain(|event| match event {
            Self::Failed { id, .. } => told.insert(*id),
            other => !failed.contains(&other.id()),
        });
        failed
    }
}

/// A request whose prompt was not read yet.
#[derive(Debug)]
pub(super) struct Waiting {
    pub id: RequestId,
    pub request: GenerationRequest,
    /// Rows of the prompt.
    length: usize,
    /// Rows that the prompt, and the tree of allowed answers, take in a pass.
    pub rows: usize,
}

impl Waiting {
    /// # Errors
    /// As [`super::Generator::submit`].
    pub(super) fn new(engine: &Engine, id: RequestId, request: GenerationRequest) -> Result<Self> {
        let unfit = |reason: &str| Err(Error::Sampling { reason: reason.into() });
        request.params.check()?;
        if request.samples == 0 {
            return unfit("no continuation is asked for");
        }
        if !request.params.stop.texts.is_empty() {
            engine.written(&[])?;
        }
        let length = engine.read_one(&request.prompt, 0)?.sequence.ids.len();
        let mut rows = length;
        for choice in &request.choices {
            engine.check_tokens(choice, 0)?;
            if choice.is_empty() {
                return unfit("one of the allowed answers is empty");
            }
        }
        if !request.choices.is_empty() {
            rows += PrefixTree::new(&request.choices)?.tokens().len();
        }
        Ok(Self {
            id,
            request,
            length,
            rows,
        })
    }

    /// Rows of keys and values of each continuation.
    pub(super) fn capacity(&self) -> usize {
        self.length.saturating_add(self.request.params.max_tokens)
    }

    /// Continuations that are made token by token; one at least, since the prompt is read in any case.
    pub(super) fn slots(&self) -> usize {
        match (self.request.choices.is_empty(), self.request.params.max_tokens) {
            (false, _) => 0,
            (true, 0) => 1,
            (true, _) => self.request.samples,
        }
    }
}

/// All the news of requests that allow given answers only.
pub(super) fn answer_by_choice(engine: &Engine, snapshot: &Snapshot, guided: &[Waiting]) -> Result<Vec<Event>> {
    let inputs = engine.read(guided.iter().map(|waiting| &waiting.request.prompt), 0)?;
    let features = engine.features(snapshot, &inputs)?;
    let prints: Vec<String> = inputs.iter().map(print_of).collect();
    let sequences = inputs.into_iter().map(|input| input.sequence);
    let prompts: Vec<(Sequence, Option<Features>)> = sequences.zip(features).collect();
    let allowed: Vec<&[Vec<u32>]> = guided
        .iter()
        .map(|waiting| waiting.request.choices.as_slice())
        .collect();
    let scores = score(&snapshot.model, &prompts, &allowed, ROWS)?;
    let mut events = Vec::new();
    for ((Waiting { id, request, .. }, print), scores) in guided.iter().zip(prints).zip(scores) {
        let id = *id;
        if let Some(top) = request.prompt_logprobs {
            let prompt = std::slice::from_ref(&request.prompt);
            let scores = engine.prompt_logprobs(snapshot, prompt, top)?;
            events.extend(scores.into_iter().map(|scores| Event::Prompt { id, scores }));
        }
        let each = scores.iter().map(|own| own.iter().map(|score| score.logprob).collect());
        let logprobs: Vec<Vec<f32>> = each.collect();
        let totals = logprobs
            .iter()
            .map(|own| own.iter().map(|&logprob| f64::from(logprob)).sum());
        let totals: Vec<f64> = totals.collect();
        if totals.iter().any(|total| !total.is_finite()) {
            let reason = "the log-probability of an allowed answer is not finite".into();
            events.push(Event::Failed {
                id,
                error: Error::Sampler { reason },
            });
            continue;
        }
        let probabilities = softmax(&totals, 1.0);
        let mut tokens = Vec::new();
        for sample in 0..request.samples {
            let choice = match request.params.temperature == 0.0 {
                true => first_largest(&totals),
                false => {
                    let mut draws = draws_of(&print, request.params.seed, sample + 1);
                    drawn(&softmax(&totals, request.params.temperature), draws.random())
                }
            };
            for (&token, &logprob) in request.choices[choice].iter().zip(&logprobs[choice]) {
                tokens.push(Event::Token {
                    id,
                    sample,
                    token,
                    logprob,
                    top: Vec::new(),
                });
            }
            tokens.push(Event::Finished {
                id,
                sample,
                stopped: true,
                choice: Some(choice),
            });
        }
        events.push(Event::Choices {
            id,
            probabilities,
            logprobs,
        });
        events.append(&mut tokens);
    }
    Ok(events)
}

/// Probabilities from log-probabilities that are divided by a temperature.
fn softmax(logprobs: &[f64], temperature: f64) -> Vec<f64> {
    let highest = logprobs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logprobs.iter().map(|x| ((x - highest) / temperature).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

fn first_largest(values: &[f64]) -> usize {
    let all = values.iter().enumerate();
    all.fold(0, |best, (i, value)| if *value > values[best] { i } else { best })
}

/// The place in a distribution of a number from 0 to 1.
fn drawn(probabilities: &[f64], mut left: f64) -> usize {
    let mut last = 0;
    for (i, probability) in probabilities.iter().enumerate().filter(|(_, p)| **p > 0.0) {
        last = i;
        left -= probability;
        if left < 0.0 {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_falls_where_the_probability_is() {
        let probabilities = softmax(&[0.2f64.ln(), f64::NEG_INFINITY, 0.6f64.ln()], 1.0);
        for (found, expected) in probabilities.iter().zip([0.25, 0.0, 0.75]) {
            assert!((found - expected).abs() < 1e-12);
        }
        for (number, place) in [(0.0, 0), (0.2499, 0), (0.2501, 2), (0.9999, 2), (1.0, 2)] {
            assert_eq!(drawn(&probabilities, number), place);
        }
        let hot = softmax(&[0.2f64.ln(), 0.6f64.ln()], 2.0);
        assert!((hot[1] / hot[0] - 3f64.sqrt()).abs() < 1e-12);
        assert_eq!(first_largest(&[-3.0, -1.0, -1.0]), 1);
    }

    #[test]
    fn a_request_that_failed_has_no_other_news() {
        let failed = |id| Event::Failed {
            id: RequestId(id),
            error: Error::NoGradients,
        };
        let finished = |id| Event::Finished {
            id: RequestId(id),
            sample: 0,
            stopped: true,
            choice: None,
        };
        let mut events = vec![finished(1), finished(2), failed(1), failed(1), finished(1)];
        assert_eq!(Event::settle(&mut events), [RequestId(1)].into());
        let ids: Vec<u64> = events.iter().map(|event| event.id().0).collect();
        assert_eq!(ids, [2, 1]);
    }
}
