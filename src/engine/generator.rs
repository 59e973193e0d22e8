//! Continuous batching: prompts of different lengths and adapters that are continued side by side.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Alternative, Engine, PromptScores, SamplingParams, Snapshot};
use crate::error::{Error, Result};
use crate::example::ModelInput;

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
    /// Continuations to make; the prompt is read once.
    pub samples: usize,
    /// Report the log-probabilities of the prompt's own tokens, and so many of the likeliest tokens in each place.
    pub prompt_logprobs: Option<usize>,
    /// The only answers that are allowed, if any are given; `max_tokens`, `stop`, `top_k` and `top_p` do not matter then.
    pub choices: Vec<Vec<u32>>,
}

/// Number of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u64);

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
    /// A continuation is complete.
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

/// Continues prompts as they come. [`Generator::step`] is to be called as long as there is work; between two steps prompts can be
/// added and given up.
#[derive(Debug)]
pub struct Generator {
    engine: Arc<Engine>,
    waiting: VecDeque<(RequestId, GenerationRequest)>,
    next: u64,
}

impl Generator {
    /// A generator without work.
    #[must_use]
    pub fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            waiting: VecDeque::new(),
            next: 0,
        }
    }

    /// Takes a request on.
    ///
    /// # Errors
    /// [`Error::Input`] when its prompt or one of its choices does not fit the model; [`Error::Sampling`] when a setting makes no
    /// sense.
    pub fn submit(&mut self, request: GenerationRequest) -> Result<RequestId> {
        request.params.check()?;
        self.engine.read_one(&request.prompt, 0)?;
        let id = RequestId(self.next);
        self.next += 1;
        self.waiting.push_back((id, request));
        Ok(id)
    }

    /// Gives a request up; there is no further news of it.
    pub fn cancel(&mut self, id: RequestId) {
        self.waiting.retain(|(other, _)| *other != id);
    }

    /// True if there is nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Requests that wait, and continuations that are being made.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        (self.waiting.len(), 0)
    }

    /// Goes on by one pass; gives the news.
    pub fn step(&mut self) -> Vec<Event> {
        let Some((id, request)) = self.waiting.pop_front() else {
            return Vec::new();
        };
        self.answer(id, &request)
            .unwrap_or_else(|error| vec![Event::Failed { id, error }])
    }

    fn answer(&self, id: RequestId, request: &GenerationRequest) -> Result<Vec<Event>> {
        let GenerationRequest {
            snapshot,
            prompt,
            params,
            ..
        } = request;
        let mut events = Vec::new();
        if !request.choices.is_empty() {
            return Err(Error::Sampling {
                reason: "guided choice is not built yet".into(),
            });
        }
        if let Some(top) = request.prompt_logprobs {
            let scores = self
                .engine
                .prompt_logprobs(snapshot, std::slice::from_ref(prompt), top)?;
            events.extend(scores.into_iter().map(|scores| Event::Prompt { id, scores }));
        }
        let prompts = vec![prompt.clone(); request.samples];
        for (sample, said) in self.engine.sample(snapshot, &prompts, params)?.into_iter().enumerate() {
            let tokens = said.tokens.into_iter().zip(said.logprobs).zip(said.top_logprobs);
            events.extend(tokens.map(|((token, logprob), top)| Event::Token {
                id,
                sample,
                token,
                logprob,
                top,
            }));
            events.push(Event::Finished {
                id,
                sample,
                stopped: said.stopped,
                choice: None,
            });
        }
        Ok(events)
    }
}
