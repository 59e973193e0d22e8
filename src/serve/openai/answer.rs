//! Answers to OpenAI clients, whole or as they are written.

use std::sync::Arc;

use axum::body::Bytes;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::{Sender, UnboundedReceiver, unbounded_channel};

use super::question::{Form, Question};
use crate::engine::Stop;
use crate::serve::base::Base;
use crate::serve::checkpoints::Moment;
use crate::serve::exchange::{ChannelBody, Piece, Reply};
use crate::serve::generation::{News, Prompt};
use crate::serve::refusal::Refusal;
use crate::serve::service::{Service, random_id};

/// One continuation.
#[derive(Debug, Default)]
struct Choice {
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    top: Vec<Vec<(u32, f32)>>,
    /// Bytes of its text that were sent.
    sent: usize,
    /// Tokens whose log-probabilities were sent.
    told: usize,
    /// True if it ended by itself, once it has ended.
    stopped: Option<bool>,
    /// Which of the answers allowed it is.
    choice: Option<usize>,
}

/// A question and its answer so far.
struct Dialogue {
    id: String,
    created: i64,
    form: Form,
    model: String,
    base: Arc<Base>,
    stop: Stop,
    logprobs: Option<usize>,
    guide: Option<super::question::Guide>,
    probabilities: Vec<f64>,
    prompt_tokens: usize,
    choices: Vec<Choice>,
    stream: bool,
    usage_in_stream: bool,
}

/// Asks, and answers once all is there, or piece by piece.
///
/// # Errors
/// A refusal when too much waits.
pub(super) fn answer(service: &Arc<Service>, mut question: Question) -> Result<Reply, Refusal> {
    let (sender, news) = unbounded_channel();
    let dialogue = Dialogue {
        id: random_id()?,
        created: Moment::now().seconds(),
        form: question.form,
        model: std::mem::take(&mut question.model),
        base: question.generation.base.clone(),
        stop: question.params.stop.clone(),
        logprobs: question.logprobs,
        prompt_tokens: question.prompts.iter().map(crate::example::ModelInput::positions).sum(),
        choices: (0..question.prompts.len() * question.samples)
            .map(|_| Choice::default())
            .collect(),
        guide: question.guide.take(),
        probabilities: Vec::new(),
        stream: question.stream,
        usage_in_stream: question.usage_in_stream,
    };
    service.metrics.add("prompts", question.prompts.len());
    let choices = dialogue
        .guide
        .as_ref()
        .map_or_else(Vec::new, super::question::Guide::tokens);
    for (input, index) in std::mem::take(&mut question.prompts).into_iter().zip(0..) {
        let prompt = Prompt {
            weights: question.weights.clone(),
            input,
            params: question.params.clone(),
            samples: question.samples,
            prompt_logprobs: None,
            choices: choices.clone(),
            charge: question.charge.take(),
        };
        let (sender, first) = (sender.clone(), index * question.samples);
        // A client that has gone takes its receiver along.
        question
            .generation
            .submit(prompt, Box::new(move |news| sender.send((first, news)).is_ok()))?;
    }
    drop(sender);
    if dialogue.stream {
        let (pieces, body) = ChannelBody::new();
        tokio::runtime::Handle::current().spawn(dialogue.write(news, pieces));
        return Ok(Reply::Stream("text/event-stream", body));
    }
    Ok(Reply::Later(Box::pin(async move {
        dialogue.whole(news).await.map(Reply::Json)
    })))
}

impl Dialogue {
    /// Takes the news; gives the number of the continuation that has changed.
    ///
    /// # Errors
    /// A refusal when the generation failed.
    fn take(&mut self, first: usize, news: News) -> Result<Option<usize>, Refusal> {
        match news {
            News::Prompt(_) => Ok(None),
            News::Choices(probabilities) => {
                self.probabilities = probabilities;
                Ok(None)
            }
            News::Token {
                sample,
                token,
                logprob,
                top,
            } => {
                if let Some(choice) = self.choices.get_mut(first + sample) {
                    choice.tokens.push(token);
                    choice.logprobs.push(logprob);
                    choice.top.push(top);
                }
                Ok(Some(first + sample))
            }
            News::Finished {
                sample,
                stopped,
                choice: chosen,
            } => {
                if let Some(choice) = self.choices.get_mut(first + sample) {
                    choice.stopped = Some(stopped);
                    choice.choice = chosen;
                }
                Ok(Some(first + sample))
            }
            News::Failed { message, user } => Err(if user {
                Refusal::bad(message)
            } else {
                Refusal::fault(message)
            }),
        }
    }

    async fn whole(mut self, mut news: UnboundedReceiver<(usize, News)>) -> Result<Value, Refusal> {
        while let Some((first, one)) = news.recv().await {
            self.take(first, one)?;
        }
        let mut choices = Vec::new();
        for index in 0..self.choices.len() {
            let finish = self
                .finish_reason(index)
                .ok_or_else(|| Refusal::fault("the server is stopping"))?;
            let text = self.text(index)?;
            let logprobs = self.logprobs_of(index, 0)?;
            let mut choice = match self.form {
                Form::Chat => {
                    json!({"index": index, "message": {"role": "assistant", "content": text, "refusal": null}})
                }
                Form::Completion => json!({"index": index, "text": text}),
            };
            choice["logprobs"] = logprobs;
            choice["finish_reason"] = finish.into();
            if let Some(guided) = self.guided(index) {
                choice["guided_choice"] = guided;
            }
            choices.push(choice);
        }
        let mut whole = self.frame();
        whole["choices"] = choices.into();
        whole["usage"] = self.usage();
        Ok(whole)
    }

    /// Sends the answer as server-sent events; ends with `[DONE]`.
    async fn write(mut self, mut news: UnboundedReceiver<(usize, News)>, pieces: Sender<Piece>) {
        let written = self.events(&mut news, &pieces).await;
        if let Err(Some(refusal)) = written {
            let _ = pieces.send(event(&refusal.openai_error())).await;
        }
        let _ = pieces.send(Ok(Bytes::from_static(b"data: [DONE]\n\n"))).await;
    }

    /// # Errors
    /// The refusal of a failed generation; `None` if the client has gone.
    async fn events(
        &mut self,
        news: &mut UnboundedReceiver<(usize, News)>,
        pieces: &Sender<Piece>,
    ) -> Result<(), Option<Refusal>> {
        if self.form == Form::Chat {
            for index in 0..self.choices.len() {
                self.send(
                    pieces,
                    index,
                    json!({"role": "assistant", "content": ""}),
                    Value::Null,
                    None,
                )
                .await?;
            }
        }
        while let Some((first, one)) = news.recv().await {
            let Some(index) = self.take(first, one)? else { continue };
            let (new, logprobs) = self.more(index)?;
            if !new.is_empty() || !logprobs.is_null() {
                let delta = match self.form {
                    Form::Chat => json!({"content": new}),
                    Form::Completion => new.into(),
                };
                self.send(pieces, index, delta, logprobs, None).await?;
            }
            if let Some(reason) = self.finish_reason(index) {
                let delta = match self.form {
                    Form::Chat => json!({}),
                    Form::Completion => "".into(),
                };
                self.send(pieces, index, delta, Value::Null, Some(reason)).await?;
            }
        }
        if self.choices.iter().any(|choice| choice.stopped.is_none()) {
            return Err(Some(Refusal::fault("the server is stopping")));
        }
        if self.usage_in_stream {
            let mut last = self.frame();
            last["choices"] = json!([]);
            last["usage"] = self.usage();
            pieces.send(event(&last)).await.map_err(|_| None)?;
        }
        Ok(())
    }

    async fn send(
        &self,
        pieces: &Sender<Piece>,
        index: usize,
        delta: Value,
        logprobs: Value,
        finish: Option<&str>,
    ) -> Result<(), Option<Refusal>> {
        let key = if self.form == Form::Chat { "delta" } else { "text" };
        let mut choice = json!({"index": index, key: delta, "logprobs": logprobs, "finish_reason": finish});
        if finish.is_some()
            && let Some(guided) = self.guided(index)
        {
            choice["guided_choice"] = guided;
        }
        let mut piece = self.frame();
        piece["choices"] = json!([choice]);
        if self.usage_in_stream {
            piece["usage"] = Value::Null;
        }
        pieces.send(event(&piece)).await.map_err(|_| None)
    }

    fn frame(&self) -> Value {
        let (prefix, object) = match (self.form, self.stream) {
            (Form::Chat, false) => ("chatcmpl", "chat.completion"),
            (Form::Chat, true) => ("chatcmpl", "chat.completion.chunk"),
            (Form::Completion, _) => ("cmpl", "text_completion"),
        };
        let id = format!("{prefix}-{}", self.id);
        json!({"id": id, "object": object, "created": self.created, "model": self.model, "system_fingerprint": null})
    }

    fn usage(&self) -> Value {
        let completion: usize = self.choices.iter().map(|choice| choice.tokens.len()).sum();
        let prompt = self.prompt_tokens;
        json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
    }

    fn finish_reason(&self, index: usize) -> Option<&'static str> {
        let stopped = self.choices.get(index)?.stopped?;
        Some(if stopped { "stop" } else { "length" })
    }

    /// The text of a continuation without its end.
    fn text(&self, index: usize) -> Result<String, Refusal> {
        let Some(choice) = self.choices.get(index) else {
            return Ok(String::new());
        };
        if let (Some(guide), Some(chosen)) = (&self.guide, choice.choice) {
            return Ok(guide.written.get(chosen).cloned().unwrap_or_default());
        }
        // The token that ends an answer is not part of its text.
        let tokens = match choice.tokens.split_last() {
            Some((last, before)) if self.stop.tokens.contains(last) => before,
            _ => &choice.tokens,
        };
        let mut text = self.base.renderer.prompter().tokenizer().decode(tokens)?;
        if let Some(end) = self.stop.find(&text) {
            text.truncate(end);
        }
        Ok(text)
    }

    /// Text and log-probabilities that were not sent yet. What may become a stop text, or is half a character, waits.
    fn more(&mut self, index: usize) -> Result<(String, Value), Refusal> {
        if self.guide.is_some() && self.choices.get(index).is_none_or(|choice| choice.choice.is_none()) {
            // Of a guided answer what is written is known at its end.
            return Ok((String::new(), Value::Null));
        }
        let text = self.text(index)?;
        let Some(choice) = self.choices.get(index) else {
            return Ok((String::new(), Value::Null));
        };
        let mut safe = text.len();
        if choice.stopped.is_none() {
            safe = text.trim_end_matches('\u{fffd}').len();
            let longest = self.stop.texts.iter().map(String::len).max().unwrap_or(0);
            safe = safe.min((text.len() + 1).saturating_sub(longest.max(1)));
            while !text.is_char_boundary(safe) {
                safe -= 1;
            }
        }
        let logprobs = self.logprobs_of(index, choice.told)?;
        let Some(choice) = self.choices.get_mut(index) else {
            return Ok((String::new(), Value::Null));
        };
        let new = text.get(choice.sent..safe).unwrap_or_default().to_owned();
        choice.sent += new.len();
        choice.told = choice.tokens.len();
        Ok((new, logprobs))
    }

    /// The log-probabilities from token `from` on, in the form of the call; null where none are asked for, or there are none.
    fn logprobs_of(&self, index: usize, from: usize) -> Result<Value, Refusal> {
        let (Some(_), Some(choice)) = (self.logprobs, self.choices.get(index)) else {
            return Ok(Value::Null);
        };
        if from >= choice.tokens.len() && from > 0 {
            return Ok(Value::Null);
        }
        let written = |token: u32| self.base.engine.written(&[token]);
        let places = choice.tokens.iter().zip(&choice.logprobs).zip(&choice.top).skip(from);
        if self.form == Form::Chat {
            let mut content = Vec::new();
            for ((&token, &logprob), top) in places {
                let mut one = token_json(&written(token)?, logprob);
                let mut likeliest = Vec::new();
                for &(token, logprob) in top {
                    likeliest.push(token_json(&written(token)?, logprob));
                }
                one["top_logprobs"] = likeliest.into();
                content.push(one);
            }
            return Ok(json!({"content": content, "refusal": null}));
        }
        let (mut tokens, mut logprobs, mut tops, mut offsets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut offset = 0;
        for ((&token, &logprob), top) in places {
            let text = written(token)?;
            offsets.push(offset);
            offset += text.chars().count();
            let mut map = Map::new();
            for &(token, logprob) in top {
                map.insert(written(token)?, json!(logprob));
            }
            tokens.push(text);
            logprobs.push(logprob);
            tops.push(Value::Object(map));
        }
        Ok(json!({"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets}))
    }

    /// The answer among those allowed, with the probability of each.
    fn guided(&self, index: usize) -> Option<Value> {
        let (guide, chosen) = (self.guide.as_ref()?, self.choices.get(index)?.choice?);
        let each = guide.names.iter().zip(&self.probabilities);
        let probabilities: Map<String, Value> = each.map(|(name, &p)| (name.clone(), json!(p))).collect();
        Some(json!({"index": chosen, "choice": guide.names.get(chosen)?, "probabilities": probabilities}))
    }
}

fn token_json(text: &str, logprob: f32) -> Value {
    // Half a character has no text of its own.
    let bytes = (!text.contains('\u{fffd}')).then(|| text.as_bytes().to_vec());
    json!({"token": text, "logprob": logprob, "bytes": bytes})
}

fn event(value: &Value) -> Piece {
    Ok(Bytes::from(format!("data: {value}\n\n")))
}
