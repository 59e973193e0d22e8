//! Requests of OpenAI clients, read into prompts and settings.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::fields;

use crate::engine::{SamplingParams, Stop};
use crate::example::{Message, ModelInput, Part, Picture, Role};
use crate::serve::base::Base;
use crate::serve::body::of_value;
use crate::serve::budget::Charge;
use crate::serve::generation::{Generation, Weights};
use crate::serve::input::{InputReader, unpacked};
use crate::serve::native::sampling::{check_draws, from_1, within};
use crate::serve::refusal::Refusal;
use crate::serve::service::{Service, random_id, seed_of};
use crate::serve::tinker_path::{Kind, TinkerPath};
use crate::serve::wire;

/// New tokens of a completion where nothing is said, as OpenAI has it.
const COMPLETION_TOKENS: usize = 16;
/// Answers that one can be held to.
const MOST_CHOICES: usize = 4096;
/// Tokens of all of them.
const MOST_CHOICE_TOKENS: usize = 65_536;
/// Stop texts, and bytes of each.
const MOST_STOPS: usize = 16;
const LONGEST_STOP: usize = 256;

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Chat,
    Completion,
}

/// Answers that one is held to.
#[derive(Debug, Clone, Default)]
pub(super) struct Guide {
    /// The answers.
    pub(super) names: Vec<String>,
    /// The text that is written for each.
    pub(super) written: Vec<String>,
    tokens: Vec<Vec<u32>>,
}

impl Guide {
    pub(super) fn tokens(&self) -> Vec<Vec<u32>> {
        self.tokens.clone()
    }
}

/// A request as it is carried out.
pub(super) struct Question {
    pub(super) form: Form,
    pub(super) model: String,
    pub(super) generation: Arc<Generation>,
    pub(super) weights: Weights,
    pub(super) prompts: Vec<ModelInput>,
    /// Of the images.
    pub(super) charge: Option<Charge>,
    pub(super) params: SamplingParams,
    pub(super) samples: usize,
    pub(super) guide: Option<Guide>,
    pub(super) stream: bool,
    pub(super) usage_in_stream: bool,
    /// Report log-probabilities of tokens, with so many alternatives each.
    pub(super) logprobs: Option<usize>,
}

/// The model and weights of a name: a base model's, a path of a sampler's checkpoint, `BASE;PATH`, an adapter folder's.
///
/// # Errors
/// A refusal when there is none.
pub(super) fn subject(service: &Service, name: &str) -> Result<(Arc<Generation>, Weights), Refusal> {
    let path = name.split_once(';').map_or(name, |(_, path)| path);
    if path.starts_with("tinker://") {
        let path = TinkerPath::parse(path)?;
        if path.kind != Kind::SamplerWeights {
            return Err(Refusal::bad(format!(
                "`{path}` is to be trained on: save_weights_for_sampler makes one to be asked"
            )));
        }
        let (base, weights) = service.saved(&path)?;
        return Ok((service.model(&base)?.1, weights));
    }
    if let Some(adapter) = service.adapters.iter().find(|adapter| adapter.name == name) {
        let weights = Weights::Adapter(adapter.folder.clone());
        return Ok((service.model(&adapter.base)?.1, weights));
    }
    Ok((service.model(name)?.1, Weights::Base))
}

/// Fields of both calls.
#[derive(Debug, Deserialize)]
struct Common {
    model: String,
    max_tokens: Option<i64>,
    max_completion_tokens: Option<i64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    seed: Option<i64>,
    n: Option<i64>,
    stop: Option<Texts>,
    stream: Option<bool>,
    stop_token_ids: Option<Vec<u32>>,
    stream_options: Option<StreamOptions>,
    guided_choice: Option<Vec<String>>,
    structured_outputs: Option<StructuredOutputs>,
    best_of: Option<i64>,
}

/// The one of vLLM's forms that is supported.
#[derive(Debug, Deserialize)]
struct StructuredOutputs {
    choice: Option<Vec<String>>,
    /// The others; vLLM's own client sends them all, as null.
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a text or a list of texts is taken")]
enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Texts {
    fn list(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

impl Common {
    /// # Errors
    /// A refusal of more candidates than answers: each is drawn once.
    fn check_candidates(&self) -> Result<(), Refusal> {
        match self.best_of {
            None | Some(1) => Ok(()),
            Some(candidates) if candidates == self.n.unwrap_or(1) => Ok(()),
            Some(_) => Err(Refusal::bad(
                "`best_of` is not supported here; leave it out, or send the same as `n`",
            )),
        }
    }

    /// The answers that one is held to.
    ///
    /// # Errors
    /// A refusal when two fields name some.
    fn take_choices(&mut self) -> Result<Option<Vec<String>>, Refusal> {
        let structured = self.structured_outputs.take();
        let others = structured.iter().flat_map(|form| &form.others);
        if let Some((name, _)) = others.into_iter().find(|(_, value)| !value.is_null()) {
            let name: String = name.chars().take(100).collect();
            return Err(Refusal::bad(format!(
                "`structured_outputs.{name}` is not supported: `choice` is, a list of the answers allowed"
            )));
        }
        let structured = structured.and_then(|form| form.choice);
        match (self.guided_choice.take(), structured) {
            (Some(_), Some(_)) => Err(Refusal::bad(
                "`guided_choice` and `structured_outputs` exclude each other",
            )),
            (old, new) => Ok(old.or(new)),
        }
    }

    /// The settings for a prompt of at most so many positions.
    fn params(
        &mut self,
        base: &Base,
        positions: usize,
        default: Option<usize>,
        top: usize,
    ) -> Result<SamplingParams, Refusal> {
        self.check_candidates()?;
        let left = base.limits.positions.saturating_sub(positions);
        if left == 0 {
            let most = base.limits.positions;
            return Err(Refusal::bad(format!(
                "the prompt has {positions} positions of the {most} that this model takes"
            )));
        }
        let most = match (self.max_completion_tokens, self.max_tokens) {
            (Some(most), _) => from_1("max_completion_tokens", most, left)?,
            (None, Some(most)) => from_1("max_tokens", most, left)?,
            (None, None) => default.unwrap_or(base.limits.default_tokens),
        };
        let temperature = self.temperature.unwrap_or(1.0);
        let top_p = self.top_p.unwrap_or(1.0);
        check_draws(temperature, top_p)?;
        let texts = self.stop.take().map_or_else(Vec::new, Texts::list);
        if texts.len() > MOST_STOPS || texts.iter().any(|text| text.is_empty() || text.len() > LONGEST_STOP) {
            let bounds = format!("at most {MOST_STOPS} texts of 1 to {LONGEST_STOP} bytes");
            return Err(Refusal::bad(format!("`stop` takes {bounds}")));
        }
        let mut tokens = base.ends.clone();
        for token in self.stop_token_ids.take().unwrap_or_default() {
            let vocabulary = base.limits.vocabulary;
            if token as usize >= vocabulary {
                return Err(Refusal::bad(format!(
                    "stop_token_ids: token {token} is not among the model's {vocabulary}"
                )));
            }
            if !tokens.contains(&token) {
                tokens.push(token);
            }
        }
        let seed = match self.seed {
            Some(seed) => seed as u64,
            None => seed_of(&random_id()?),
        };
        Ok(SamplingParams {
            max_tokens: most.min(left),
            stop: Stop { tokens, texts },
            temperature,
            top_k: match self.top_k {
                None | Some(-1 | 0) => None,
                Some(k) => Some(from_1("top_k", k, base.limits.vocabulary)?),
            },
            top_p,
            seed,
            top_logprobs: within("top_logprobs", top as i64, 0, base.limits.alternatives)?,
        })
    }

    fn samples(&self, base: &Base) -> Result<usize, Refusal> {
        within("n", self.n.unwrap_or(1), 1, base.limits.samples)
    }

    fn usage_in_stream(&self) -> bool {
        self.stream_options
            .as_ref()
            .is_some_and(|options| options.include_usage)
    }
}

/// `chat/completions`
#[derive(Debug)]
pub(super) struct ChatRequest {
    common: Common,
    own: ChatFields,
}

/// Fields of the chat alone.
#[derive(Debug, Deserialize)]
struct ChatFields {
    messages: Vec<ChatMessage>,
    logprobs: Option<bool>,
    top_logprobs: Option<i64>,
    response_format: Option<Value>,
    continue_final_message: Option<bool>,
    add_generation_prompt: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct ChatMessage {
    role: String,
    content: Option<Content>,
}

/// Texts and images of a message; a text alone is one part.
#[derive(Debug)]
struct Content(Vec<ContentPart>);

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parts;
        impl<'de> Visitor<'de> for Parts {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of parts")
            }

            fn visit_str<E>(self, text: &str) -> Result<Content, E> {
                let text = text.to_owned();
                Ok(Content(vec![ContentPart::Text { text }]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Content, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = all.next_element()? {
                    parts.push(part);
                }
                Ok(Content(parts))
            }
        }
        deserializer.deserialize_any(Parts)
    }
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ContentPart {
    Text { text: String },
    ImageUrl { image_url: ImageUrl },
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "image_url is an object with the text `url`")]
enum ImageUrl {
    Object { url: String },
    Plain(String),
}

impl ChatRequest {
    /// The fields of a request.
    ///
    /// # Errors
    /// A refusal that names the field at fault.
    pub(super) fn of(request: &Value) -> Result<Self, Refusal> {
        fields::check(Form::Chat, object(request)?)?;
        let (common, own): (Common, ChatFields) = (of_value(request)?, of_value(request)?);
        if own.add_generation_prompt == Some(false) && own.continue_final_message != Some(true) {
            return Err(Refusal::bad(
                "`add_generation_prompt`: false is supported with `continue_final_message`: true alone",
            ));
        }
        Ok(Self { common, own })
    }

    /// The request as it is carried out.
    ///
    /// # Errors
    /// A refusal that names the fault.
    pub(super) fn read(mut self, service: &Service) -> Result<Question, Refusal> {
        let (generation, weights) = subject(service, &self.common.model)?;
        let base = &generation.base;
        if self.own.messages.is_empty() {
            return Err(Refusal::bad("`messages` is empty"));
        }
        let mut pictures = Vec::new();
        let mut messages = Vec::new();
        let mut reader = InputReader::new(&base.renderer, &base.limits);
        let placeholder = base.placeholder()?;
        for (message, index) in self.own.messages.drain(..).zip(0..) {
            let read = read_message(message, &placeholder, &mut reader, &mut pictures);
            messages.push(read.map_err(|refusal| refusal.of(format!("messages[{index}]")))?);
        }
        let mut prefill = String::new();
        if self.own.continue_final_message == Some(true) {
            let last = messages.pop().filter(|last| last.role == Role::Assistant);
            let last =
                last.ok_or_else(|| Refusal::bad("continue_final_message: the last message is not the assistant's"))?;
            let text = |part: &Part| match part {
                Part::Text(text) => text.clone(),
                Part::Image => String::new(),
            };
            prefill = last.content.iter().map(text).collect();
        }
        let shown: Vec<&Picture> = pictures.iter().collect();
        let prompt = base.renderer.conversation(&messages, &shown, Some(&prefill))?;
        let positions = prompt.positions();
        let top = match (self.own.logprobs, self.own.top_logprobs) {
            (Some(true), top) => Some(within("top_logprobs", top.unwrap_or(0), 0, base.limits.alternatives)?),
            (_, Some(top)) if top != 0 => return Err(Refusal::bad("`top_logprobs` needs `logprobs`: true")),
            _ => None,
        };
        let params = self.common.params(base, positions, None, top.unwrap_or(0))?;
        let names = self.common.take_choices()?;
        let guide = guide(base, names, self.own.response_format.take(), &prefill, positions)?;
        let charge = service.images.take(reader.bytes())?;
        Ok(Question {
            form: Form::Chat,
            samples: self.common.samples(base)?,
            stream: self.common.stream.unwrap_or(false),
            usage_in_stream: self.common.usage_in_stream(),
            model: self.common.model,
            generation: generation.clone(),
            weights,
            prompts: vec![prompt],
            charge: Some(charge),
            params,
            guide,
            logprobs: top,
        })
    }
}

/// The fields of a request.
///
/// # Errors
/// A refusal of what is no object.
fn object(request: &Value) -> Result<&Map<String, Value>, Refusal> {
    let object = request.as_object();
    object.ok_or_else(|| Refusal::bad("the body is not the JSON of this call: an object is taken"))
}

fn read_message(
    message: ChatMessage,
    placeholder: &str,
    reader: &mut InputReader,
    pictures: &mut Vec<Picture>,
) -> Result<Message, Refusal> {
    let role = match message.role.as_str() {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        other => {
            let other: String = other.chars().take(30).collect();
            return Err(Refusal::bad(format!(
                "role `{other}` is none of system, user and assistant"
            )));
        }
    };
    let parts = message.content.map_or_else(Vec::new, |Content(parts)| parts);
    let mut content = Vec::new();
    for (part, index) in parts.into_iter().zip(0..) {
        content.push(match part {
            ContentPart::Text { text } if text.contains(placeholder) => {
                let reason = format!("the text holds `{placeholder}`, which stands for an image: send that as a part");
                return Err(Refusal::bad(reason).of(format!("content[{index}]")));
            }
            ContentPart::Text { text } => Part::Text(text),
            ContentPart::ImageUrl { image_url } => {
                let (ImageUrl::Object { url } | ImageUrl::Plain(url)) = image_url;
                let picture = data_of(&url).and_then(|bytes| reader.picture(&bytes));
                pictures.push(picture.map_err(|refusal| refusal.of(format!("content[{index}]")))?);
                Part::Image
            }
        });
    }
    Ok(Message { role, content })
}

/// The bytes of a data URI. Nothing is fetched.
fn data_of(url: &str) -> Result<Vec<u8>, Refusal> {
    let data = url.strip_prefix("data:").and_then(|rest| rest.split_once(','));
    let Some((kind, data)) = data else {
        let scheme: String = url.chars().take(12).collect();
        return Err(Refusal::bad(format!(
            "images are taken as data URIs (data:image/jpeg;base64,…), and not fetched from `{scheme}…`"
        )));
    };
    if !kind.ends_with(";base64") {
        return Err(Refusal::bad("the image's data URI is not in base 64"));
    }
    unpacked(data.trim()).map_err(Refusal::bad)
}

/// The answers that one is held to: `guided_choice`, or the enum of a `response_format`.
fn guide(
    base: &Base,
    choice: Option<Vec<String>>,
    format: Option<Value>,
    prefill: &str,
    positions: usize,
) -> Result<Option<Guide>, Refusal> {
    let (names, written) = match (choice, format.filter(|format| format["type"] != "text")) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => return Err(Refusal::bad("`guided_choice` and `response_format` exclude each other")),
        (Some(names), None) => (names.clone(), names),
        (None, Some(format)) => enumerated(&format)?,
    };
    let distinct: BTreeSet<&String> = names.iter().collect();
    if names.is_empty()
        || names.len() > MOST_CHOICES
        || distinct.len() < names.len()
        || distinct.contains(&String::new())
    {
        return Err(Refusal::bad(format!(
            "1 to {MOST_CHOICES} different answers, none of them empty, can be chosen from"
        )));
    }
    let tokenizer = base.renderer.prompter().tokenizer();
    let end = base.renderer.prompter().end();
    // After an open sentence a name is a word of its own.
    let space = if prefill.is_empty() || prefill.ends_with(char::is_whitespace) {
        ""
    } else {
        " "
    };
    let mut tokens = Vec::new();
    for name in &names {
        let mut ids = tokenizer.encode(&format!("{space}{name}"))?;
        ids.push(end);
        tokens.push(ids);
    }
    let (longest, all) = tokens
        .iter()
        .fold((0, 0), |(longest, all), ids| (ids.len().max(longest), all + ids.len()));
    let most = base.limits.positions;
    if positions + longest > most {
        return Err(Refusal::bad(format!(
            "the longest answer has {longest} tokens: with the prompt's {positions} that is more than the {most} positions that \
             this model takes"
        )));
    }
    if all > MOST_CHOICE_TOKENS {
        return Err(Refusal::bad(format!(
            "the answers have {all} tokens in all, which is more than {MOST_CHOICE_TOKENS}"
        )));
    }
    Ok(Some(Guide { names, written, tokens }))
}

/// Answers of a JSON schema: a string of an enum, or an object whose one property is such. Each with its JSON.
fn enumerated(format: &Value) -> Result<(Vec<String>, Vec<String>), Refusal> {
    let wrong = || {
        Refusal::bad(
            "`response_format` is supported as a json_schema that is an enum of strings, or an object with one property that is",
        )
    };
    if format["type"] != "json_schema" {
        return Err(wrong());
    }
    let schema = &format["json_schema"]["schema"];
    let names = |schema: &Value| -> Option<Vec<String>> {
        let names = schema.get("enum")?.as_array()?.iter();
        names.map(|name| name.as_str().map(str::to_owned)).collect()
    };
    if let Some(names) = names(schema) {
        let written = names
            .iter()
            .map(|name| Value::from(name.as_str()).to_string())
            .collect();
        return Ok((names, written));
    }
    let properties = schema.get("properties").and_then(Value::as_object).ok_or_else(wrong)?;
    let (Some((key, property)), 1) = (properties.iter().next(), properties.len()) else {
        return Err(wrong());
    };
    let names = names(property).ok_or_else(wrong)?;
    let object =
        |name: &String| Value::Object([(key.clone(), Value::from(name.as_str()))].into_iter().collect()).to_string();
    let written = names.iter().map(object).collect();
    Ok((names, written))
}

/// `completions`
#[derive(Debug)]
pub(super) struct CompletionRequest {
    common: Common,
    own: CompletionFields,
}

/// Fields of completions alone.
#[derive(Debug, Deserialize)]
struct CompletionFields {
    prompt: Prompts,
    logprobs: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "a text, a list of texts, a list of tokens or a list of lists of tokens is taken"
)]
enum Prompts {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    TokenLists(Vec<Vec<u32>>),
}

impl CompletionRequest {
    /// The fields of a request.
    ///
    /// # Errors
    /// A refusal that names the field at fault.
    pub(super) fn of(request: &Value) -> Result<Self, Refusal> {
        fields::check(Form::Completion, object(request)?)?;
        Ok(Self {
            common: of_value(request)?,
            own: of_value(request)?,
        })
    }

    /// The request as it is carried out.
    ///
    /// # Errors
    /// A refusal that names the fault.
    pub(super) fn read(mut self, service: &Service) -> Result<Question, Refusal> {
        let (generation, weights) = subject(service, &self.common.model)?;
        let base = &generation.base;
        let tokenizer = base.renderer.prompter().tokenizer();
        let lists: Vec<Vec<u32>> = match self.own.prompt {
            Prompts::Text(text) => vec![tokenizer.encode(&text)?],
            Prompts::Texts(texts) => texts
                .iter()
                .map(|text| tokenizer.encode(text))
                .collect::<Result<_, _>>()?,
            Prompts::Tokens(tokens) => vec![tokens],
            Prompts::TokenLists(lists) => lists,
        };
        if lists.is_empty() || lists.len() > base.limits.samples {
            return Err(Refusal::bad(format!(
                "1 to {} prompts can be completed at once",
                base.limits.samples
            )));
        }
        let mut reader = InputReader::new(&base.renderer, &base.limits);
        let mut prompts = Vec::new();
        let placeholder = base.renderer.prompter().image();
        for tokens in lists {
            if tokens.contains(&placeholder) {
                let text = base.placeholder()?;
                return Err(Refusal::bad(format!(
                    "`prompt` holds `{text}`, which stands for an image: chat/completions takes images"
                )));
            }
            let kind = wire::ChunkKind::EncodedText(wire::EncodedText {
                tokens: wire::ints(tokens),
            });
            prompts.push(reader.read(&[wire::Chunk { kind: Some(kind) }])?);
        }
        let positions = prompts.iter().map(ModelInput::positions).max().unwrap_or(0);
        let top = self
            .own
            .logprobs
            .map(|top| within("logprobs", top, 0, base.limits.alternatives))
            .transpose()?;
        let params = self
            .common
            .params(base, positions, Some(COMPLETION_TOKENS), top.unwrap_or(0))?;
        let names = self.common.take_choices()?;
        Ok(Question {
            form: Form::Completion,
            guide: guide(base, names, None, "", positions)?,
            samples: self.common.samples(base)?,
            stream: self.common.stream.unwrap_or(false),
            usage_in_stream: self.common.usage_in_stream(),
            model: self.common.model,
            generation: generation.clone(),
            weights,
            prompts,
            charge: None,
            params,
            logprobs: top,
        })
    }
}
