//! Sampling sessions and their prompts.

use std::sync::{Arc, Mutex};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::engine::{PromptScores, SamplingParams, Stop};
use crate::serve::base::Base;
use crate::serve::exchange::{Reply, Request};
use crate::serve::generation::{Listener, News, Prompt, Weights};
use crate::serve::input::{InputReader, JsonInput};
use crate::serve::promise::{Outcome, Resolver};
use crate::serve::refusal::Refusal;
use crate::serve::service::{Service, hash_json, seed_of};
use crate::serve::tinker_path::TinkerPath;
use crate::serve::wire::{self, TopkLogprobs};

type Answer = Result<Reply, Refusal>;

#[derive(Deserialize)]
struct CreateSamplingSession {
    session_id: String,
    sampling_session_seq_id: u64,
    base_model: Option<String>,
    model_path: Option<String>,
}

/// `POST create_sampling_session`
pub(in crate::serve) fn create(service: &Arc<Service>, request: &Request) -> Answer {
    let asked: CreateSamplingSession = request.json()?;
    service.touch(&asked.session_id)?;
    let id = format!("{}:sample:{}", asked.session_id, asked.sampling_session_seq_id);
    let (base_model, path, weights) = match (&asked.model_path, &asked.base_model) {
        (Some(path), name) => {
            let path = TinkerPath::parse(path)?;
            let (own, weights) = service.saved(&path)?;
            if let Some(name) = name {
                let (base, _) = service.model(name)?;
                if base.name() != own {
                    return Err(Refusal::bad(format!("`{path}` is of base model `{own}`, not `{name}`")));
                }
            }
            (own, Some(path), weights)
        }
        (None, Some(name)) => {
            service.model(name)?;
            (name.clone(), None, Weights::Base)
        }
        (None, None) => return Err(Refusal::bad("either base_model or model_path is needed")),
    };
    service.open_sampler(id.clone(), &base_model, path, Arc::new(Mutex::new(weights)))?;
    Ok(Reply::Json(
        json!({"sampling_session_id": id, "type": "create_sampling_session"}),
    ))
}

/// `GET samplers/{id}`
pub(in crate::serve) fn get(service: &Arc<Service>, request: &Request) -> Answer {
    let sampler = service.sampler(request.place(0))?;
    let path = sampler.path.as_ref().map(ToString::to_string);
    Ok(Reply::Json(
        json!({"sampler_id": sampler.id, "base_model": sampler.base_model, "model_path": path}),
    ))
}

/// Texts or tokens that end a continuation, in the forms that clients send.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "a text, a list of texts or a list of tokens is taken")]
enum JsonStop {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonSampling {
    max_tokens: Option<i64>,
    seed: Option<i64>,
    stop: Option<JsonStop>,
    #[serde(default = "one")]
    temperature: f64,
    #[serde(default = "off")]
    top_k: i64,
    #[serde(default = "one")]
    top_p: f64,
}

fn one() -> f64 {
    1.0
}

fn off() -> i64 {
    -1
}

#[derive(Debug, Deserialize)]
struct Sample {
    sampling_session_id: Option<String>,
    seq_id: Option<i64>,
    #[serde(default = "single")]
    num_samples: i64,
    prompt: JsonInput,
    sampling_params: JsonSampling,
    #[serde(default)]
    prompt_logprobs: Option<bool>,
    #[serde(default)]
    topk_prompt_logprobs: i64,
    #[serde(default)]
    topk_sample_logprobs: i64,
    #[serde(default)]
    prompt_alt_tokens_k: i64,
    prompt_logprobs_last_n: Option<i64>,
    target_prompt_logprobs: Option<Value>,
    record_stability_info: Option<bool>,
}

fn single() -> i64 {
    1
}

/// # Errors
/// A refusal of settings by which nothing can be drawn.
pub(in crate::serve) fn check_draws(temperature: f64, top_p: f64) -> Result<(), Refusal> {
    if !(temperature >= 0.0 && temperature.is_finite()) {
        return Err(Refusal::bad(format!(
            "temperature is {temperature}, not a number from 0"
        )));
    }
    if !(0.0..=1.0).contains(&top_p) {
        return Err(Refusal::bad(format!("top_p is {top_p}, not a share from 0 to 1")));
    }
    Ok(())
}

/// A number within bounds.
pub(in crate::serve) fn within(name: &str, value: i64, least: i64, most: usize) -> Result<usize, Refusal> {
    let found = usize::try_from(value)
        .ok()
        .filter(|found| value >= least && *found <= most);
    found.ok_or_else(|| Refusal::bad(format!("{name} is {value}, not from {least} to {most}")))
}

/// A number from 1 on, which may be larger than what there is: `most` says how much that is.
pub(in crate::serve) fn from_1(name: &str, value: i64, most: usize) -> Result<usize, Refusal> {
    let found = usize::try_from(value).ok().filter(|found| *found >= 1);
    found.ok_or_else(|| Refusal::bad(format!("{name} is {value}, not from 1 to {most}")))
}

impl Sample {
    /// The settings for the engine, for a prompt of so many positions.
    fn params(&self, base: &Base, positions: usize, seed: u64) -> Result<SamplingParams, Refusal> {
        let asked = &self.sampling_params;
        let left = base.limits.positions.saturating_sub(positions);
        if left == 0 {
            return Err(Refusal::bad(format!(
                "the prompt has {positions} positions, which leaves none to continue"
            )));
        }
        let stop = match &asked.stop {
            None => Stop::from(base.ends.clone()),
            // An empty list: nothing ends it but the length.
            Some(JsonStop::Tokens(tokens)) => Stop::from(tokens.clone()),
            Some(JsonStop::Texts(texts)) if texts.is_empty() => Stop::default(),
            Some(JsonStop::Texts(texts)) => Stop {
                tokens: base.ends.clone(),
                texts: texts.clone(),
            },
            Some(JsonStop::Text(text)) => Stop {
                tokens: base.ends.clone(),
                texts: vec![text.clone()],
            },
        };
        let top_k = match asked.top_k {
            -1 | 0 => None,
            k => Some(from_1("top_k", k, base.limits.vocabulary)?),
        };
        Ok(SamplingParams {
            max_tokens: match asked.max_tokens {
                None => left.min(base.limits.default_tokens),
                Some(most) => from_1("max_tokens", most, left)?.min(left),
            },
            stop,
            temperature: asked.temperature,
            top_k,
            top_p: asked.top_p,
            seed,
            top_logprobs: within(
                "topk_sample_logprobs",
                self.topk_sample_logprobs,
                0,
                base.limits.alternatives,
            )?,
        })
    }

    /// # Errors
    /// A refusal of what is not built.
    fn check(&self) -> Result<(), Refusal> {
        check_draws(self.sampling_params.temperature, self.sampling_params.top_p)?;
        if self.prompt_alt_tokens_k != 0 {
            return Err(Refusal::bad(
                "prompt_alt_tokens_k is not supported here; topk_prompt_logprobs is",
            ));
        }
        if self.record_stability_info == Some(true) {
            return Err(Refusal::bad(
                "record_stability_info is not supported here: no loss asks for it",
            ));
        }
        if self.target_prompt_logprobs.is_some() {
            return Err(Refusal::bad(
                "target_prompt_logprobs is not supported here; prompt_logprobs is",
            ));
        }
        Ok(())
    }
}

/// `POST asample`
pub(in crate::serve) fn sample(service: &Arc<Service>, request: &Request) -> Answer {
    let text: Value = request.json()?;
    let asked: Sample = request.json()?;
    let id = asked.sampling_session_id.as_deref();
    let id = id.ok_or_else(|| Refusal::bad("sampling_session_id is missing"))?;
    let sampler = service.sampler(id)?;
    let number = asked.seq_id.and_then(|number| u64::try_from(number).ok());
    let number = number.ok_or_else(|| Refusal::bad("seq_id is missing or below 0"))?;
    asked.check()?;
    let base = &sampler.generation.base;
    let samples = within("num_samples", asked.num_samples, 1, base.limits.samples)?;
    let top_prompt = within(
        "topk_prompt_logprobs",
        asked.topk_prompt_logprobs,
        0,
        base.limits.alternatives,
    )?;
    let last = asked
        .prompt_logprobs_last_n
        .map(|last| within("prompt_logprobs_last_n", last, 0, base.limits.positions))
        .transpose()?;
    let mut reader = InputReader::new(&base.renderer, &base.limits);
    let input = reader.read(&asked.prompt.clone().wire()?)?;
    let charge = service.images.take(reader.bytes())?;
    let seed = match asked.sampling_params.seed {
        Some(seed) => seed as u64,
        None => seed_of(&format!("{id}/{number}")),
    };
    let params = asked.params(base, input.positions(), seed)?;
    let scored = asked.prompt_logprobs.unwrap_or(false) || top_prompt > 0;
    let ids = |request_id: &str| (0..samples).map(|i| format!("{request_id}-{i}")).collect::<Vec<_>>();
    let (request_id, resolver) = service.submit_sample(&sampler, number, hash_json("asample", &text))?;
    let reply = json!({"request_id": request_id, "sample_sequence_ids": ids(&request_id)});
    let Some(resolver) = resolver else {
        return Ok(Reply::Json(reply));
    };
    service.metrics.add("prompts", 1);
    let collected = Collected {
        resolver: Some(resolver),
        response: wire::SampleResponse::default(),
        sequences: vec![Sequence::default(); samples],
        open: samples,
        top: (params.top_logprobs, top_prompt),
        last,
    };
    let prompt = Prompt {
        weights: sampler.weights(),
        input,
        params,
        samples,
        prompt_logprobs: scored.then_some(top_prompt),
        choices: Vec::new(),
        charge: Some(charge),
    };
    if let Err(refusal) = sampler.generation.submit(prompt, collected.listener()) {
        // The number was not used: the client sends the same again.
        service.forget_sample(&sampler, number);
        return Err(refusal);
    }
    Ok(Reply::Json(reply))
}

#[derive(Debug, Clone, Default)]
struct Sequence {
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    top: wire::Alternatives,
    stopped: bool,
}

/// The continuations of a prompt as they come.
struct Collected {
    resolver: Option<Resolver>,
    response: wire::SampleResponse,
    sequences: Vec<Sequence>,
    open: usize,
    /// Alternatives of each token, and of each position of the prompt.
    top: (usize, usize),
    /// Report the log-probabilities of so many positions at the end of the prompt only.
    last: Option<usize>,
}

impl Collected {
    fn listener(mut self) -> Listener {
        Box::new(move |news| {
            self.take(news);
            self.resolver.is_some()
        })
    }

    fn take(&mut self, news: News) {
        match news {
            News::Prompt(scores) => self.prompt(scores),
            News::Choices(_) => {}
            News::Token {
                sample,
                token,
                logprob,
                top,
            } => {
                if let Some(sequence) = self.sequences.get_mut(sample) {
                    sequence.tokens.push(token);
                    sequence.logprobs.push(logprob);
                    sequence.top.push(top);
                }
            }
            News::Finished { sample, stopped, .. } => {
                if let Some(sequence) = self.sequences.get_mut(sample) {
                    sequence.stopped = stopped;
                }
                self.open = self.open.saturating_sub(1);
                if self.open == 0 {
                    self.finish();
                }
            }
            News::Failed { message, user } => {
                if let Some(resolver) = self.resolver.take() {
                    resolver.keep(Outcome::Failed { message, user });
                }
            }
        }
    }

    fn prompt(&mut self, scores: PromptScores) {
        let count = scores.logprobs.len();
        let first = self.last.map_or(0, |last| count.saturating_sub(last));
        let shown = |(place, logprob): (usize, Option<f32>)| {
            if place < first {
                f32::NAN
            } else {
                logprob.unwrap_or(f32::NAN)
            }
        };
        self.response.prompt_logprobs = Some(wire::floats(scores.logprobs.into_iter().enumerate().map(shown)));
        if self.top.1 > 0 {
            self.response.topk_prompt_logprobs = Some(TopkLogprobs::of(&scores.top_logprobs, self.top.1));
        }
    }

    fn finish(&mut self) {
        let Some(resolver) = self.resolver.take() else {
            return;
        };
        let top = self.top.0;
        let sequence = |one: Sequence| wire::SampledSequence {
            stop_reason: i32::from(!one.stopped),
            tokens: wire::ints(one.tokens),
            logprobs: Some(wire::floats(one.logprobs)),
            topk_sampled_logprobs: (top > 0).then(|| TopkLogprobs::of(&one.top, top)),
        };
        let mut response = std::mem::take(&mut self.response);
        response.sequences = std::mem::take(&mut self.sequences).into_iter().map(sequence).collect();
        resolver.keep(Outcome::Sample(response));
    }
}

/// A result in JSON, as SDKs before 0.18 read it.
pub(in crate::serve) fn output_json(response: &wire::SampleResponse) -> Value {
    let floats = |bytes: &Option<Vec<u8>>| -> Option<Vec<Option<f32>>> {
        let values = wire::elements(bytes.as_deref()?, f32::from_le_bytes)?;
        Some(
            values
                .into_iter()
                .map(|value| value.is_finite().then_some(value))
                .collect(),
        )
    };
    let sequence = |one: &wire::SampledSequence| {
        json!({
            "stop_reason": if one.stop_reason == 0 { "stop" } else { "length" },
            "tokens": wire::elements(&one.tokens, u32::from_le_bytes).unwrap_or_default(), "logprobs": floats(&one.logprobs),
        })
    };
    let sequences: Vec<Value> = response.sequences.iter().map(sequence).collect();
    json!({"type": "sample", "sequences": sequences, "prompt_logprobs": floats(&response.prompt_logprobs)})
}
