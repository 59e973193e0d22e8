//! `kshot serve` as OpenAI's clients ask it.

use serde_json::{Value, json};

use crate::serve_support::*;

fn question(colour: [u8; 3]) -> Value {
    let url = format!("data:image/png;base64,{}", base64(&png(colour)));
    json!([{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "What is the name of the subject in this photo?"},
    ]}])
}

fn chat(more: Value) -> Value {
    let mut body = json!({"model": MODEL, "messages": question([200, 30, 30]), "max_tokens": 12, "temperature": 0});
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

/// The events of a stream, which ends with `[DONE]`.
fn events(text: &str) -> Vec<Value> {
    let mut lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(lines.pop(), Some("[DONE]"), "{text}");
    lines
        .into_iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn chat_answers_whole_streamed_and_guided() {
    let state = state();
    let server = Server::start(state.path(), &[], None);
    let listed = server.get("/oai/api/v1/models");
    assert_eq!(listed["data"][0]["id"], MODEL);
    let ask = |more: Value| {
        let answer = server.post("/v1/chat/completions", &chat(more.clone()));
        assert_eq!(answer.status, 200, "{more}: {}", answer.text());
        answer
    };
    let whole = ask(json!({"logprobs": true, "top_logprobs": 3})).json();
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(!text.is_empty() && !text.contains("<|im_end|>"), "{whole}");
    let tokens = whole["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(
        tokens.len(),
        whole["usage"]["completion_tokens"].as_u64().unwrap() as usize
    );
    for token in tokens {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        // Greedy: each is the likeliest.
        assert_eq!(
            (&top[0]["token"], &top[0]["logprob"]),
            (&token["token"], &token["logprob"])
        );
    }
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");

    let streamed = ask(json!({"stream": true, "stream_options": {"include_usage": true}, "logprobs": true}));
    assert!(streamed.head.contains("text/event-stream"));
    let pieces = events(&streamed.text());
    assert_eq!(pieces[0]["choices"][0]["delta"]["role"], "assistant");
    let last = pieces.last().unwrap();
    assert_eq!((&last["usage"], &last["choices"]), (&whole["usage"], &json!([])));
    let said: String = pieces
        .iter()
        .filter_map(|piece| piece["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(said, text);
    let reasons: Vec<&Value> = pieces
        .iter()
        .map(|piece| &piece["choices"][0]["finish_reason"])
        .filter(|reason| !reason.is_null())
        .collect();
    assert_eq!(reasons, ["stop"]);

    // A stop text is not part of the answer, however it is cut into tokens.
    let middle: String = text.chars().skip(1).take(2).collect();
    let stopped = ask(json!({"stop": middle})).json();
    assert_eq!(
        stopped["choices"][0]["message"]["content"],
        text[..text.find(&middle).unwrap()]
    );
    let pieces = events(&ask(json!({"stop": [middle], "stream": true})).text());
    let said: String = pieces
        .iter()
        .filter_map(|piece| piece["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(said, text[..text.find(&middle).unwrap()]);

    // A stop token ends the answer and is not part of it.
    let sampler = json!({"session_id": server.session(), "sampling_session_seq_id": 0, "base_model": MODEL});
    let sampler = server.call("create_sampling_session", &sampler)["sampling_session_id"].clone();
    let tokens = json!([938, 20, 30, 40, 41]);
    let body = json!({"sampling_session_id": sampler, "seq_id": 0, "prompt": {"chunks": [{"type": "encoded_text", "tokens": tokens}]},
        "sampling_params": {"max_tokens": 6, "temperature": 0, "stop": []}});
    let (sequences, _) = sampled(&server.result(&server.call("asample", &body)).body);
    let second = sequences[0].0[1];
    assert_ne!(second, sequences[0].0[0]);
    let complete = |more: Value| {
        let mut body = json!({"model": MODEL, "prompt": tokens, "max_tokens": 6, "temperature": 0, "logprobs": 0});
        body["stop_token_ids"] = more;
        server.post("/v1/completions", &body).json()["choices"][0].clone()
    };
    let (whole, stopped) = (complete(json!([])), complete(json!([second])));
    let written = |choice: &Value| choice["logprobs"]["tokens"].as_array().unwrap().clone();
    assert_eq!(written(&stopped), written(&whole)[..2]);
    assert_eq!(
        (&stopped["text"], &stopped["finish_reason"]),
        (&written(&whole)[0], &json!("stop"))
    );

    let several = ask(json!({"n": 3, "temperature": 1.0, "seed": 4, "max_completion_tokens": 3})).json();
    assert_eq!(several["choices"].as_array().unwrap().len(), 3);
    let again = ask(json!({"n": 3, "temperature": 1.0, "seed": 4, "max_completion_tokens": 3})).json();
    assert_eq!(several["choices"], again["choices"]);

    let names = ["beagle", "pug", "sphynx"];
    let guided = ask(json!({"guided_choice": names})).json();
    let choice = &guided["choices"][0]["guided_choice"];
    assert_eq!(guided["choices"][0]["message"]["content"], choice["choice"]);
    let probabilities = choice["probabilities"].as_object().unwrap();
    let sum: f64 = probabilities.values().map(|p| p.as_f64().unwrap()).sum();
    assert!(probabilities.len() == 3 && (sum - 1.0).abs() < 1e-6, "{choice}");
    let best = probabilities
        .iter()
        .max_by(|a, b| a.1.as_f64().unwrap().total_cmp(&b.1.as_f64().unwrap()));
    assert_eq!(best.unwrap().0, choice["choice"].as_str().unwrap());
    let schema =
        json!({"type": "object", "properties": {"breed": {"type": "string", "enum": names}}, "required": ["breed"]});
    let format = json!({"type": "json_schema", "json_schema": {"name": "breed", "schema": schema}});
    let object = ask(json!({"response_format": format})).json();
    let content: Value = serde_json::from_str(object["choices"][0]["message"]["content"].as_str().unwrap()).unwrap();
    assert_eq!(content["breed"], choice["choice"]);
    let pieces = events(&ask(json!({"guided_choice": names, "stream": true})).text());
    let said: String = pieces
        .iter()
        .filter_map(|piece| piece["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(choice["choice"], said);
}

#[test]
fn completions_of_a_run_that_still_trains() {
    let state = state();
    let server = Server::start(state.path(), &[], None);
    let session = server.session();
    let model = server.model(&session, 0);
    for step in 0..8 {
        server.forward_backward(&request(&model, 2 * step + 1, &lesson(), false));
        server.step(&model, 2 * step + 2, 5e-3);
    }
    let saved = server.finished(
        "save_weights_for_sampler",
        &json!({"model_id": model, "seq_id": 17, "path": "now"}),
    );
    server.submit(&request(&model, 18, &lesson(), false));
    let body = json!({"model": saved["path"], "prompt": [[938, 20, 30, 40, 41], [938, 20]], "max_tokens": 4, "temperature": 0,
        "logprobs": 2});
    let answer = server.post("/oai/api/v1/completions", &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = answer.json();
    assert_eq!(answer["choices"].as_array().unwrap().len(), 2);
    let count = answer["choices"][0]["logprobs"]["token_logprobs"]
        .as_array()
        .unwrap()
        .len();
    assert!((1..=4).contains(&count), "{answer}");
    assert_eq!(
        answer["choices"][0]["logprobs"]["top_logprobs"][0]
            .as_object()
            .unwrap()
            .len(),
        2
    );
    let models = server.get("/v1/models");
    assert!(
        models["data"]
            .as_array()
            .unwrap()
            .iter()
            .any(|entry| entry["id"] == saved["path"]),
        "{models}"
    );
    let path = saved["path"].as_str().unwrap();
    assert_eq!(
        server.get(&format!("/v1/models/{}", path.replace('/', "%2F")))["id"],
        path
    );
}

#[test]
fn refusals_have_openai_s_form() {
    let state = state();
    let server = Server::start(state.path(), &[], None);
    for (more, status, word) in [
        (json!({"model": "gpt-9"}), 404, "gpt-9"),
        (json!({"messages": []}), 400, "messages"),
        (json!({"n": 0}), 400, "n is 0"),
        (json!({"max_tokens": 0}), 400, "max_tokens"),
        (json!({"temperature": -1}), 400, "temperature"),
        (json!({"top_p": 2}), 400, "top_p"),
        (json!({"tools": [{}]}), 400, "tools"),
        (json!({"presence_penalty": 1}), 400, "presence_penalty"),
        (json!({"stop": ""}), 400, "stop"),
        (json!({"top_logprobs": 2}), 400, "logprobs"),
        (json!({"logprobs": true, "top_logprobs": 1000}), 400, "top_logprobs"),
        (json!({"guided_choice": []}), 400, "chosen"),
        (json!({"guided_choice": ["a", "a"]}), 400, "different"),
        (json!({"response_format": {"type": "json_object"}}), 400, "json_schema"),
        (json!({"messages": [{"role": "tool", "content": "x"}]}), 400, "tool"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}]}]}),
            400,
            "data URIs",
        ),
        (
            json!({"messages": [{"role": "user", "content": "a <|image_pad|> b"}]}),
            400,
            "image",
        ),
        (json!({"model": "tinker://../weights/x"}), 400, "tinker://"),
        (json!({"messages": "x"}), 400, "`messages`"),
        (
            json!({"messages": [{"role": "user", "content": 1}]}),
            400,
            "a text or a list of parts",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
            400,
            "`messages[0].content[0]`",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": 5}]}]}),
            400,
            "image_url is an object",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}]}]}),
            400,
            "messages[0]: content[0]: the image cannot be decoded",
        ),
        (
            json!({"messages": [{"role": "user", "content": "a <|image_pad|> b"}]}),
            400,
            "messages[0]: content[0]: the text holds `<|image_pad|>`",
        ),
        (json!({"stop": [1]}), 400, "a text or a list of texts"),
        (json!({"max_tokens": 0}), 400, "from 1 to"),
        (json!({"max_completion_tokens": 0}), 400, "max_completion_tokens is 0"),
        (json!({"guided_regex": "a|b"}), 400, "guided_regex"),
        (json!({"guided_json": {"type": "object"}}), 400, "guided_json"),
        (json!({"guided_grammar": "x"}), 400, "guided_grammar"),
        (
            json!({"structured_outputs": {"regex": "a|b"}}),
            400,
            "structured_outputs",
        ),
        (
            json!({"structured_outputs": {"choice": ["a"]}, "guided_choice": ["a"]}),
            400,
            "exclude",
        ),
        (json!({"repetition_penalty": 1.1}), 400, "repetition_penalty"),
        (json!({"frequency_penalty": -1}), 400, "frequency_penalty"),
        (json!({"min_p": 0.1}), 400, "min_p"),
        (json!({"min_tokens": 3}), 400, "min_tokens"),
        (json!({"ignore_eos": true}), 400, "ignore_eos"),
        (json!({"functions": [{}]}), 400, "functions"),
        (json!({"tool_choice": "required"}), 400, "tool_choice"),
        (json!({"prompt_logprobs": 0}), 400, "prompt_logprobs"),
        (json!({"add_generation_prompt": false}), 400, "add_generation_prompt"),
        (json!({"logit_bias": {"5": 1}}), 400, "logit_bias"),
        (json!({"best_of": 3}), 400, "best_of"),
        (json!({"echo": true}), 400, "echo"),
        (json!({"suffix": "x"}), 400, "suffix"),
        (json!({"stop_token_ids": [100_000]}), 400, "stop_token_ids"),
        (
            json!({"a_field_of_another_server": 1}),
            400,
            "a_field_of_another_server",
        ),
    ] {
        let answer = server.post("/v1/chat/completions", &chat(more.clone()));
        assert_eq!(answer.status, status, "{more}: {}", answer.text());
        let body = answer.json();
        assert!(
            body["error"]["message"].as_str().unwrap().contains(word),
            "{more}: {body}"
        );
        assert!(body["error"]["type"].is_string() && body["error"].as_object().unwrap().contains_key("code"));
    }
    assert_eq!(server.ask("GET", "/v1/chat/completions", &[], b"").status, 405);
    let nowhere = server.ask("GET", "/v1/none", &[], b"").json();
    assert!(nowhere["error"]["message"].is_string());
    assert_eq!(nowhere["error"]["code"], "unknown_url");
    for (more, word) in [
        (json!({"response_format": {"type": "json_object"}}), "response_format"),
        (json!({"continue_final_message": true}), "continue_final_message"),
        (json!({"prompt": {"a": 1}}), "`prompt`: a text, a list"),
        (json!({"prompt": "a <|image_pad|>"}), "<|image_pad|>"),
        (json!({"logprobs": true}), "`logprobs`"),
    ] {
        let mut body = json!({"model": MODEL, "prompt": "a photo", "max_tokens": 2});
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        let answer = server.post("/v1/completions", &body);
        assert_eq!(answer.status, 400, "{more}: {}", answer.text());
        assert!(answer.text().contains(word), "{more}: {}", answer.text());
    }
    // Defaults that clients write out are no request.
    let defaults = json!({"presence_penalty": 0, "repetition_penalty": 1.0, "min_p": 0, "logit_bias": {}, "tools": [], "n": 2, "best_of": 2,
        "echo": false, "ignore_eos": false, "add_generation_prompt": true, "response_format": {"type": "text"}, "user": "me", "stop": null,
        "max_tokens": 1_000_000, "stop_token_ids": [], "guided_regex": null, "structured_outputs": {"choice": ["beagle", "pug"], "regex": null}});
    let answer = server.post("/v1/chat/completions", &chat(defaults));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let words = ["beagle", "pug"].map(|word| json!(word));
    assert!(
        words.contains(&answer.json()["choices"][1]["message"]["content"]),
        "{}",
        answer.text()
    );
}
