//! `kshot serve` and requests that are wrong, hostile or cut off by a kill.

use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::serve_support::*;

#[test]
fn what_is_wrong_is_refused_with_a_reason_and_harms_nobody() {
    let state = state();
    let server = Server::start(state.path(), &[], None);
    let session = server.session();
    let model = server.model(&session, 0);
    let data = example([255, 0, 0], &[100, MESSAGE_END]);
    let (loss, _) = server.forward_backward(&request(&model, 1, &data, true));

    let good = request(&model, 2, &data, false);
    let one = |input: Vec<u8>, tensors: Vec<u8>| field(3, &[input, tensors].concat());
    let target = |values: &[i64]| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        tensor("target_tokens", 2, &bytes, values.len())
    };
    let weights = |values: &[f32]| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        tensor("weights", 1, &bytes, values.len())
    };
    let image = |file: &[u8], expected| image_chunk(file, expected);
    let bomb = png_of(12_000, 12_000, [0, 0, 0]);
    assert!(bomb.len() < 3_000_000);
    let torn = &png([1, 2, 3])[..60];
    let faults: Vec<(&str, Vec<u8>, &str)> = vec![
        ("no data", Vec::new(), "no data"),
        ("no input", one(Vec::new(), target(&[])), "empty"),
        ("no targets", one(text_chunk(&[1, 2]), Vec::new()), "target_tokens"),
        ("too few targets", one(text_chunk(&[1, 2]), target(&[3])), "2 positions"),
        ("an unknown token", one(text_chunk(&[1, 960]), target(&[3, 4])), "960"),
        (
            "an unknown target",
            one(text_chunk(&[1, 2]), target(&[3, 5000])),
            "5000",
        ),
        (
            "a NaN weight",
            one(
                text_chunk(&[1, 2]),
                [target(&[3, 4]), weights(&[1.0, f32::NAN])].concat(),
            ),
            "NaN",
        ),
        (
            "an infinite weight",
            one(
                text_chunk(&[1, 2]),
                [target(&[3, 4]), weights(&[f32::INFINITY, 1.0])].concat(),
            ),
            "inf",
        ),
        (
            "an unknown input",
            one(text_chunk(&[1]), [target(&[3]), tensor("mask", 1, &[0; 4], 1)].concat()),
            "mask",
        ),
        (
            "half a token",
            one(field(1, &field(1, &field(1, &[1, 0, 0]))), target(&[3])),
            "int32",
        ),
        ("too long", one(text_chunk(&vec![1; 5000]), target(&[3])), "positions"),
        ("no image", one(image(b"hello", None), target(&[3])), "decode"),
        ("a torn image", one(image(torn, None), target(&[3])), "decode"),
        ("a bomb", one(image(&bomb, None), target(&[3])), "pixels"),
        (
            "a line",
            one(image(&png_of(900, 2, [9, 9, 9]), None), target(&[3])),
            "200",
        ),
        (
            "other tokens than expected",
            one(image(&png([1, 2, 3]), Some(8)), target(&[3])),
            "9 tokens",
        ),
        ("sound", one(field(1, &field(3, b"")), target(&[3])), "dmel"),
        ("nothing", one(field(1, b""), target(&[3])), "neither"),
    ];
    for ((name, data, word), number) in faults.iter().zip(2..) {
        let answer = server.submit(&request(&model, number, data, false));
        // What only the model can say comes as the result.
        let said = if answer.status == 200 {
            let result = server.result(&answer.json()).json();
            assert_eq!(result["category"], "user", "{name}: {result}");
            result.to_string()
        } else {
            assert!(
                (400..500).contains(&answer.status) && ![408, 409, 429].contains(&answer.status),
                "{name}"
            );
            assert!(answer.json()["detail"].is_string());
            answer.text()
        };
        assert!(said.contains(word), "{name}: {said}");
    }
    for body in [&b"\xff\xff\xff"[..], &good[..good.len() / 2]] {
        let answer = server.submit(body);
        assert!(
            answer.status == 400 && answer.text().contains("ForwardBackwardRequest"),
            "{}",
            answer.text()
        );
    }
    let zstd = [("content-type", "application/x-protobuf"), ("content-encoding", "zstd")];
    let frame = ruzstd::encoding::compress_to_vec(&good[..], ruzstd::encoding::CompressionLevel::Fastest);
    let cut = server.ask("POST", "/api/v1/forward_backward", &zstd, &frame[..frame.len() - 9]);
    assert_eq!(cut.status, 400, "{}", cut.text());
    let zeros =
        ruzstd::encoding::compress_to_vec(&vec![0u8; 100 << 20][..], ruzstd::encoding::CompressionLevel::Fastest);
    assert_eq!(
        server.ask("POST", "/api/v1/forward_backward", &zstd, &zeros).status,
        413
    );
    let large = vec![0u8; 65 << 20];
    assert_eq!(server.ask("POST", "/api/v1/telemetry", &[], &large).status, 413);

    let adam = |params: &str| {
        let body = format!(r#"{{"model_id": "{model}", "seq_id": 50, "adam_params": {params}}}"#);
        server.ask("POST", "/api/v1/optim_step", &[], body.as_bytes()).status
    };
    for params in [
        r#"{"learning_rate": NaN}"#,
        r#"{"learning_rate": 1e999}"#,
        r#"{"learning_rate": -1}"#,
        r#"{"eps": "x"}"#,
    ] {
        assert_eq!(adam(params), 400, "{params}");
    }
    let lora = json!({"rank": 4});
    for (call, body, status) in [
        (
            "create_model",
            json!({"session_id": session, "model_seq_id": 1, "base_model": "none", "lora_config": lora}),
            404,
        ),
        (
            "create_model",
            json!({"session_id": "x", "model_seq_id": 1, "base_model": MODEL, "lora_config": lora}),
            404,
        ),
        (
            "create_model",
            json!({"session_id": session, "model_seq_id": 1, "base_model": MODEL, "lora_config": {"rank": 0}}),
            400,
        ),
        (
            "create_model",
            json!({"session_id": session, "model_seq_id": 1, "base_model": MODEL}),
            400,
        ),
        ("get_info", json!({"model_id": "x:train:0"}), 404),
        ("optim_step", json!({"model_id": model}), 400),
        ("optim_step", json!({"model_id": model, "seq_id": -4}), 400),
        (
            "save_weights",
            json!({"model_id": model, "seq_id": 60, "path": "../../x"}),
            400,
        ),
        (
            "save_weights",
            json!({"model_id": model, "seq_id": 61, "path": ""}),
            400,
        ),
        (
            "save_weights",
            json!({"model_id": model, "seq_id": 62, "path": "x", "ttl_seconds": -1}),
            400,
        ),
        (
            "save_weights",
            json!({"model_id": model, "seq_id": 63, "path": "x", "ttl_seconds": i64::MAX}),
            400,
        ),
        (
            "load_weights",
            json!({"session_id": session, "model_seq_id": 5, "path": "tinker://a/b/c"}),
            400,
        ),
        (
            "load_weights",
            json!({"session_id": session, "model_seq_id": 5, "path": format!("tinker://{model}/weights/none")}),
            404,
        ),
        (
            "weights_info",
            json!({"tinker_path": format!("tinker://{model}/weights/../x")}),
            400,
        ),
        (
            "create_sampling_session",
            json!({"session_id": session, "sampling_session_seq_id": 0, "base_model": "none"}),
            404,
        ),
        (
            "create_sampling_session",
            json!({"session_id": session, "sampling_session_seq_id": 0}),
            400,
        ),
        (
            "asample",
            json!({"sampling_session_id": "x", "seq_id": 0, "prompt": {"chunks": []}, "sampling_params": {}}),
            404,
        ),
        ("retrieve_future", json!({"request_id": "x"}), 404),
        ("retrieve_future", json!([]), 400),
        ("nothing", json!({}), 404),
    ] {
        let (found, reason) = server.refused(call, &body);
        assert_eq!(found, status, "{call} {body}: {reason}");
        assert!(!reason.is_empty());
    }
    let sampler = json!({"session_id": session, "sampling_session_seq_id": 9, "base_model": MODEL});
    let sampler = server.call("create_sampling_session", &sampler)["sampling_session_id"].clone();
    let ask = |more: Value| {
        let mut body = json!({"sampling_session_id": sampler, "seq_id": 0, "num_samples": 1,
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1, 2]}]}, "sampling_params": {"max_tokens": 2}});
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        server.refused("asample", &body)
    };
    for more in [
        json!({"num_samples": 0}),
        json!({"num_samples": 1_000_000}),
        json!({"seq_id": null}),
        json!({"sampling_params": {"temperature": -1}}),
        json!({"sampling_params": {"top_p": 3}}),
        json!({"sampling_params": {"max_tokens": -3}}),
        json!({"prompt": {"chunks": []}}),
        json!({"prompt": {"chunks": [{"type": "image", "format": "png", "data": "!"}]}}),
        json!({"prompt": {"chunks": [{"type": "image_asset_pointer", "format": "png", "location": "x"}]}}),
        json!({"topk_sample_logprobs": 100_000}),
        json!({"prompt_alt_tokens_k": 2}),
    ] {
        let (status, reason) = ask(more.clone());
        assert!(status == 400 && !reason.is_empty(), "{more}: {status} {reason}");
    }
    // A field at fault is named, with what it may be.
    let example = |dtype: &str, targets: Value| {
        json!({"model_id": model, "seq_id": 70, "forward_backward_input": {"loss_fn": "cross_entropy", "data": [{
            "model_input": {"chunks": [{"type": "encoded_text", "tokens": [1, 2]}]},
            "loss_fn_inputs": {"target_tokens": {"data": targets, "dtype": dtype}}}]}})
    };
    for (call, body, words) in [
        (
            "optim_step",
            json!({"model_id": model, "seq_id": 71, "adam_params": {"momentum": 0.9}}),
            ["adam_params", "`momentum`"],
        ),
        (
            "optim_step",
            json!({"model_id": model, "seq_id": 72, "adam_params": {"eps": "x"}}),
            ["`adam_params.eps`", "f64"],
        ),
        (
            "forward_backward",
            example("int64", json!([3, 4.5])),
            ["target_tokens", "4.5"],
        ),
        (
            "forward_backward",
            example("float32", json!([3, 4.5])),
            ["target_tokens", "4.5"],
        ),
        (
            "forward_backward",
            example("int64", json!([3, 1e300])),
            ["target_tokens", "int64"],
        ),
        (
            "create_model",
            json!({"session_id": session, "model_seq_id": 3, "base_model": MODEL, "lora_config": {"rank": 4, "alpha": 8}}),
            ["lora_config", "`alpha`"],
        ),
    ] {
        let (status, reason) = server.refused(call, &body);
        assert_eq!(status, 400, "{call} {body}: {reason}");
        assert!(words.iter().all(|word| reason.contains(word)), "{body}: {reason}");
    }
    for (params, words) in [
        (json!({"max_tokens": 0}), ["max_tokens is 0", "from 1 to"]),
        (json!({"top_k": -2}), ["top_k is -2", "from 1 to 960"]),
        (json!({"min_p": 0.1}), ["sampling_params", "`min_p`"]),
        (json!({"stop": {"a": 1}}), ["`sampling_params.stop`", "list of tokens"]),
        (json!({"stop": ["a", 1]}), ["`sampling_params.stop`", "list of texts"]),
    ] {
        let (status, reason) = ask(json!({"sampling_params": params}));
        assert_eq!(status, 400, "{params}: {reason}");
        assert!(words.iter().all(|word| reason.contains(word)), "{params}: {reason}");
    }
    let (status, reason) = ask(json!({"record_stability_info": true}));
    assert!(status == 400 && reason.contains("record_stability_info"), "{reason}");
    // The server and this client go on as before.
    assert_eq!(server.forward_backward(&request(&model, 100, &data, true)).0, loss);
}

/// Requests of every kind, as they are sent.
fn recorded(session: &str, model: &str) -> Vec<(String, &'static str, Vec<u8>)> {
    let json = |call: &str, body: Value| {
        (
            format!("/api/v1/{call}"),
            "application/json",
            body.to_string().into_bytes(),
        )
    };
    let data = example([255, 0, 0], &[100, MESSAGE_END]);
    let chat = json!({"model": MODEL, "max_tokens": 2, "messages": [{"role": "user", "content": "What is it?"}], "logprobs": true,
        "top_logprobs": 2, "n": 2, "stop": ["x"], "seed": 3, "stream": true});
    let mut all = vec![
        json("create_session", json!({"tags": ["a"], "user_metadata": {"b": "c"}})),
        json("get_info", json!({"model_id": model})),
        json(
            "optim_step",
            json!({"model_id": model, "seq_id": 2, "adam_params": {"learning_rate": 1e-4, "grad_clip_norm": 1.0}}),
        ),
        json(
            "save_weights",
            json!({"model_id": model, "seq_id": 3, "path": "a", "ttl_seconds": 60}),
        ),
        json(
            "load_weights",
            json!({"session_id": session, "model_seq_id": 7, "path": format!("tinker://{model}/weights/a"), "optimizer": true}),
        ),
        json(
            "save_weights_for_sampler",
            json!({"model_id": model, "seq_id": 4, "sampling_session_seq_id": 0, "kind": "snapshot"}),
        ),
        json(
            "asample",
            json!({"sampling_session_id": format!("{session}:sample:9"), "seq_id": 0, "num_samples": 2,
            "prompt": prompt([9, 9, 9], &[]), "sampling_params": {"max_tokens": 2, "temperature": 0.5, "top_k": 5, "stop": [940]},
            "prompt_logprobs": true, "topk_prompt_logprobs": 2}),
        ),
        json("retrieve_future", json!({"request_id": "0"})),
        json(
            "weights_info",
            json!({"tinker_path": format!("tinker://{model}/weights/a")}),
        ),
    ];
    all.push((
        "/api/v1/forward_backward".into(),
        "application/x-protobuf",
        request(model, 1, &data, false),
    ));
    all.push((
        "/v1/chat/completions".into(),
        "application/json",
        chat.to_string().into_bytes(),
    ));
    let completion = json!({"model": MODEL, "prompt": "a photo", "max_tokens": 2, "logprobs": 1});
    all.push((
        "/oai/api/v1/completions".into(),
        "application/json",
        completion.to_string().into_bytes(),
    ));
    all
}

/// Damages some bytes: changed, dropped, repeated, or replaced by numbers and words that mean something.
fn mutated(bytes: &[u8], rng: &mut rand_chacha::ChaCha8Rng) -> Vec<u8> {
    const WORDS: [&[u8]; 10] = [
        b"-1",
        b"1e999",
        b"null",
        b"[]",
        b"{}",
        b"\"\"",
        b"18446744073709551615",
        b"../",
        b"\xff",
        b"true",
    ];
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..=bytes.len());
        let end = (at + rng.random_range(0..9)).min(bytes.len());
        match rng.random_range(0..5) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            3 => drop(bytes.splice(at..end, WORDS[rng.random_range(0..WORDS.len())].iter().copied())),
            _ => bytes.truncate(at),
        }
    }
    bytes
}

#[test]
fn mutated_requests_never_panic_nor_answer_with_a_fault() {
    let count: usize = std::env::var("KSHOT_SERVE_MUTATIONS").map_or(3000, |text| text.parse().unwrap());
    let state = state();
    let server = Server::start(state.path(), &[], None);
    let session = server.session();
    let model = server.model(&session, 0);
    server.call(
        "create_sampling_session",
        &json!({"session_id": session, "sampling_session_seq_id": 9, "base_model": MODEL}),
    );
    let requests = recorded(&session, &model);
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
    let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
    for _ in 0..count {
        let (path, kind, body) = &requests[rng.random_range(0..requests.len())];
        let body = mutated(body, &mut rng);
        let answer = server.try_ask("POST", path, &[("content-type", kind)], &body);
        let answer = answer.unwrap_or_else(|| panic!("{path} {}: no answer", String::from_utf8_lossy(&body)));
        let status = answer.status;
        *statuses.entry(status).or_default() += 1;
        let told = String::from_utf8_lossy(&body);
        assert!(status < 500, "{path} {told}: {status} {}", answer.text());
        assert!(
            !answer.text().contains("a fault of the server"),
            "{path} {told}: {}",
            answer.text()
        );
    }
    assert!(statuses[&200] > count / 50 && statuses.len() >= 3, "{statuses:?}");
    let other = server.model(&session, 1_000);
    server.forward_backward(&request(&other, 1, &lesson(), false));
}

#[test]
fn an_acknowledged_checkpoint_survives_a_kill() {
    let kills: u32 = std::env::var("KSHOT_SERVE_KILLS").map_or(4, |text| text.parse().unwrap());
    let state = state();
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
    let data = example([255, 0, 0], &[100, MESSAGE_END]);
    // Path of each checkpoint that was acknowledged, and the loss that it has.
    let mut kept: Vec<(String, f64)> = Vec::new();
    for round in 0..kills {
        let mut server = Server::start(state.path(), &[], None);
        let session = server.session();
        let model = server.model(&session, 0);
        let mut number = 0;
        let mut next = || {
            number += 1;
            number
        };
        for step in 0..2 {
            server.forward_backward(&request(&model, next(), &data, false));
            server.step(&model, next(), 1e-3 * f64::from(round + 1));
            let loss = server.forward_backward(&request(&model, next(), &data, true)).0;
            let name = format!("r{round}s{step}");
            let saved = server.finished(
                "save_weights",
                &json!({"model_id": model, "seq_id": next(), "path": name}),
            );
            kept.push((saved["path"].as_str().unwrap().to_owned(), loss));
        }
        // Saves that nobody waits for, one over the last.
        let over = json!({"model_id": model, "seq_id": next(), "path": format!("r{round}s1"), "overwrite": true});
        server.call("save_weights", &over);
        server.call(
            "save_weights",
            &json!({"model_id": model, "seq_id": next(), "path": "late"}),
        );
        std::thread::sleep(std::time::Duration::from_millis(rng.random_range(0..60)));
        server.process().kill().unwrap();
        drop(server);
    }
    let server = Server::start(state.path(), &[], None);
    let session = server.session();
    for ((path, loss), number) in kept.iter().zip(0..) {
        let load = json!({"session_id": session, "model_seq_id": number, "path": path, "optimizer": true});
        let model = server.finished("load_weights", &load)["model_id"]
            .as_str()
            .unwrap()
            .to_owned();
        assert_eq!(
            server.forward_backward(&request(&model, 1, &data, true)).0,
            *loss,
            "{path}"
        );
    }
    for entry in server.get("/api/v1/checkpoints?limit=1000")["checkpoints"]
        .as_array()
        .unwrap()
    {
        let load =
            json!({"session_id": session, "model_seq_id": 1000, "path": entry["tinker_path"], "optimizer": true});
        let loaded = server.call("load_weights", &load);
        assert!(server.result(&loaded).json().get("error").is_none());
        let unload = server.call("unload_model", &json!({"model_id": format!("{session}:train:1000")}));
        server.result(&unload);
    }
}
