//! Fields of requests that are not read: those that ask for nothing, and those that would change an answer.
//!
//! Names are OpenAI's and vLLM's. A field that is not known here is refused: it may have been meant to change the answer.

use serde_json::{Map, Value};

use super::question::Form;
use crate::serve::refusal::Refusal;

/// Values of a field that ask for nothing; null does of every field.
#[derive(Clone, Copy)]
enum Neutral {
    Null,
    Number(f64),
    Is(bool),
    /// An empty text, list or object.
    Empty,
    /// One of these words, or a list of them.
    Word(&'static [&'static str]),
}

impl Neutral {
    fn allows(self, value: &Value) -> bool {
        match (self, value) {
            (_, Value::Null) => true,
            (Self::Null, _) => false,
            (Self::Number(neutral), value) => value.as_f64() == Some(neutral),
            (Self::Is(neutral), value) => value.as_bool() == Some(neutral),
            (Self::Empty, Value::String(text)) => text.is_empty(),
            (Self::Empty, Value::Array(list)) => list.is_empty(),
            (Self::Empty, Value::Object(map)) => map.is_empty(),
            (Self::Word(words), Value::String(text)) => words.contains(&text.as_str()),
            (Self::Word(words), Value::Array(list)) => list.iter().all(|one| Self::Word(words).allows(one)),
            (Self::Empty | Self::Word(_), _) => false,
        }
    }

    /// The end of a refusal.
    fn remedy(self) -> String {
        match self {
            Self::Null => "leave it out".into(),
            Self::Number(neutral) => format!("leave it out, or send {neutral}"),
            Self::Is(neutral) => format!("leave it out, or send {neutral}"),
            Self::Empty => "leave it out, or send it empty".into(),
            Self::Word(words) => format!("leave it out, or send {}", words.join(" or ")),
        }
    }
}

/// Fields that both calls read.
const READ: [&str; 16] = [
    "model",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "n",
    "best_of",
    "stop",
    "stop_token_ids",
    "stream",
    "stream_options",
    "guided_choice",
    "structured_outputs",
    "logprobs",
];

/// Fields that the chat alone reads.
const READ_OF_CHAT: [&str; 5] = [
    "messages",
    "top_logprobs",
    "response_format",
    "continue_final_message",
    "add_generation_prompt",
];

/// Fields that change no answer: who asks, and how a server may go about it.
const HARMLESS: [&str; 20] = [
    "user",
    "store",
    "metadata",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "cache_salt",
    "parallel_tool_calls",
    "prediction",
    "priority",
    "request_id",
    "include_reasoning",
    "guided_decoding_backend",
    "guided_whitespace_pattern",
    "add_special_tokens",
    "spaces_between_special_tokens",
    "early_stopping",
    "stream_interval",
    "return_metrics",
];

/// Fields that would change an answer, and are not supported.
const NOT_SUPPORTED: [(&str, Neutral); 41] = [
    ("presence_penalty", Neutral::Number(0.0)),
    ("frequency_penalty", Neutral::Number(0.0)),
    ("repetition_penalty", Neutral::Number(1.0)),
    ("length_penalty", Neutral::Number(1.0)),
    ("min_p", Neutral::Number(0.0)),
    ("min_tokens", Neutral::Number(0.0)),
    ("ignore_eos", Neutral::Is(false)),
    ("use_beam_search", Neutral::Is(false)),
    ("include_stop_str_in_output", Neutral::Is(false)),
    ("skip_special_tokens", Neutral::Is(true)),
    ("echo", Neutral::Is(false)),
    ("suffix", Neutral::Empty),
    ("logit_bias", Neutral::Empty),
    ("allowed_token_ids", Neutral::Empty),
    ("bad_words", Neutral::Empty),
    ("logits_processors", Neutral::Empty),
    ("guided_regex", Neutral::Null),
    ("guided_json", Neutral::Null),
    ("guided_grammar", Neutral::Null),
    ("structural_tag", Neutral::Null),
    ("tools", Neutral::Empty),
    ("tool_choice", Neutral::Word(&["none", "auto"])),
    ("functions", Neutral::Empty),
    ("function_call", Neutral::Word(&["none", "auto"])),
    ("prompt_logprobs", Neutral::Null),
    ("truncate_prompt_tokens", Neutral::Null),
    ("return_token_ids", Neutral::Is(false)),
    ("return_tokens_as_token_ids", Neutral::Is(false)),
    ("prompt_embeds", Neutral::Null),
    ("chat_template", Neutral::Null),
    ("chat_template_kwargs", Neutral::Empty),
    ("documents", Neutral::Empty),
    ("mm_processor_kwargs", Neutral::Empty),
    ("reasoning_effort", Neutral::Word(&["none"])),
    ("thinking_token_budget", Neutral::Null),
    ("verbosity", Neutral::Word(&["medium"])),
    ("modalities", Neutral::Word(&["text"])),
    ("audio", Neutral::Null),
    ("web_search_options", Neutral::Null),
    ("kv_transfer_params", Neutral::Null),
    ("vllm_xargs", Neutral::Empty),
];

/// Fields of the chat, as completions may have them.
const NOT_OF_COMPLETIONS: [(&str, Neutral); 3] = [
    ("response_format", Neutral::Null),
    ("continue_final_message", Neutral::Is(false)),
    ("add_generation_prompt", Neutral::Is(true)),
];

/// # Errors
/// A refusal that names a field that would be ignored otherwise.
pub(super) fn check(form: Form, request: &Map<String, Value>) -> Result<(), Refusal> {
    for (name, value) in request {
        let name = name.as_str();
        let own = match form {
            Form::Chat => READ_OF_CHAT.contains(&name),
            Form::Completion => name == "prompt",
        };
        if own || READ.contains(&name) || HARMLESS.contains(&name) {
            continue;
        }
        if form == Form::Completion && name == "response_format" && value.get("type") == Some(&Value::from("text")) {
            continue;
        }
        let of_chat = NOT_OF_COMPLETIONS.iter().filter(|_| form == Form::Completion);
        let known = NOT_SUPPORTED.iter().chain(of_chat).find(|(known, _)| *known == name);
        match known {
            Some((_, neutral)) if neutral.allows(value) => {}
            Some((_, neutral)) => {
                let remedy = neutral.remedy();
                return Err(Refusal::bad(format!("`{name}` is not supported here; {remedy}")));
            }
            None if value.is_null() => {}
            None => {
                let shown: String = name.chars().take(60).collect();
                return Err(Refusal::bad(format!(
                    "`{shown}` is no field that is known here; leave it out"
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reason(form: Form, request: &Value) -> Option<String> {
        check(form, request.as_object().unwrap())
            .err()
            .map(|refusal| refusal.message)
    }

    #[test]
    fn fields_at_their_defaults_are_taken_and_others_are_named() {
        for (name, neutral) in NOT_SUPPORTED {
            for form in [Form::Chat, Form::Completion] {
                let values = match neutral {
                    Neutral::Null => vec![json!(null)],
                    Neutral::Number(number) => vec![json!(number), json!(number as i64)],
                    Neutral::Is(neutral) => vec![json!(neutral)],
                    Neutral::Empty => vec![json!(""), json!([]), json!({}), json!(null)],
                    Neutral::Word(words) => words.iter().map(|word| json!(word)).collect(),
                };
                for value in values {
                    assert_eq!(reason(form, &json!({name: value})), None, "{name} {value}");
                }
                for value in [json!(0.5), json!("other"), json!(["other"]), json!({"other": 1})] {
                    let refused = reason(form, &json!({name: value})).unwrap_or_default();
                    assert!(refused.contains(&format!("`{name}`")), "{name} {value}: {refused}");
                }
            }
        }
        for (request, form, taken) in [
            (json!({"foo": 1}), Form::Chat, false),
            (json!({"foo": null}), Form::Chat, true),
            (
                json!({"user": "me", "model": "m", "stop_token_ids": [1]}),
                Form::Chat,
                true,
            ),
            (json!({"messages": []}), Form::Completion, false),
            (json!({"prompt": ""}), Form::Chat, false),
            (json!({"response_format": {"type": "text"}}), Form::Completion, true),
            (
                json!({"response_format": {"type": "json_object"}}),
                Form::Completion,
                false,
            ),
            (json!({"continue_final_message": true}), Form::Completion, false),
            (json!({"add_generation_prompt": true}), Form::Completion, true),
            (json!({"min_tokens": 1}), Form::Chat, false),
            (json!({"ignore_eos": true}), Form::Chat, false),
        ] {
            assert_eq!(reason(form, &request).is_none(), taken, "{request}");
        }
    }
}
