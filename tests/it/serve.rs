//! `kshot serve` by Tinker's protocol: training, checkpoints, samples.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::serve_support::*;

#[test]
fn a_client_trains_saves_loads_and_samples() {
    let state = state();
    let server = Server::start(state.path(), &[], None);
    assert_eq!(server.get("/healthz")["status"], "ok");
    assert_eq!(
        server.call("client/config", &json!({"sdk_version": "0.38.0"}))["parallel_fwdbwd_chunks"],
        true
    );
    let models = server.get("/api/v1/get_server_capabilities");
    assert!(
        models["supported_models"]
            .as_array()
            .unwrap()
            .iter()
            .any(|model| model["model_name"] == MODEL)
    );
    let session = server.session();
    let model = server.model(&session, 0);
    assert_eq!(model, format!("{session}:train:0"));
    let info = server.call("get_info", &json!({"model_id": model}));
    assert_eq!(
        (&info["lora_rank"], &info["model_data"]["model_name"]),
        (&json!(8), &json!(MODEL))
    );

    let mut losses = Vec::new();
    for step in 0..100 {
        losses.push(
            server
                .forward_backward(&request(&model, 2 * step + 1, &lesson(), false))
                .0,
        );
        server.step(&model, 2 * step + 2, 3e-3);
    }
    assert!(losses[19] < losses[0] / 3.0, "{losses:?}");

    let saved = server.finished(
        "save_weights",
        &json!({"model_id": model, "path": "000020", "seq_id": 201}),
    );
    assert_eq!(saved["path"], format!("tinker://{model}/weights/000020"));
    let (loss, logprobs) = server.forward_backward(&request(&model, 202, &lesson(), true));
    // Each step after loading is that of the client that went on.
    server.forward_backward(&request(&model, 203, &lesson(), false));
    server.step(&model, 204, 3e-3);
    let next = server.forward_backward(&request(&model, 205, &lesson(), true)).0;
    let loaded = server.finished(
        "load_weights",
        &json!({"session_id": session, "model_seq_id": 1, "path": saved["path"], "optimizer": true}),
    );
    let other = loaded["model_id"].as_str().unwrap();
    assert_eq!(
        server.forward_backward(&request(other, 1, &lesson(), true)),
        (loss, logprobs.clone())
    );
    server.forward_backward(&request(other, 2, &lesson(), false));
    server.step(other, 3, 3e-3);
    assert_eq!(server.forward_backward(&request(other, 4, &lesson(), true)).0, next);
    // The same client goes back.
    server.finished(
        "load_weights",
        &json!({"model_id": model, "seq_id": 206, "path": saved["path"], "optimizer": false}),
    );
    assert_eq!(server.forward_backward(&request(&model, 207, &lesson(), true)).0, loss);

    let ephemeral = json!({"model_id": model, "sampling_session_seq_id": 0, "kind": "snapshot", "seq_id": 208});
    let sampler = server.finished("save_weights_for_sampler", &ephemeral)["sampling_session_id"].clone();
    assert_eq!(sampler, format!("{session}:sample:0"));
    let ask = |sampler: &Value, number: u64, prompt: &Value, params: Value, more: Value| {
        let mut body = json!({
            "sampling_session_id": sampler, "seq_id": number, "num_samples": 2, "prompt": prompt, "sampling_params": params,
        });
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        let submitted = server.call("asample", &body);
        let ids: BTreeSet<&str> = submitted["sample_sequence_ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_str().unwrap())
            .collect();
        assert_eq!(ids.len(), body["num_samples"].as_u64().unwrap() as usize);
        sampled(&server.result(&submitted).body)
    };
    let greedy = json!({"max_tokens": 5, "temperature": 0.0});
    let (red, blue) = (prompt([255, 0, 0], &[]), prompt([0, 0, 255], &[]));
    let (sequences, _) = ask(&sampler, 0, &red, greedy.clone(), json!({}));
    assert_eq!((&sequences[0].0, sequences[0].2), (&vec![100, 101, MESSAGE_END], 0));
    assert_eq!(sequences[0], sequences[1]);
    assert_eq!(
        ask(&sampler, 1, &blue, greedy.clone(), json!({})).0[0].0,
        [300, 301, MESSAGE_END]
    );
    // What scores say is what the loss is: red is the first example, and its answer the last three positions of it.
    let whole = prompt([255, 0, 0], &[100, 101, MESSAGE_END]);
    let score = json!({"prompt_logprobs": true, "num_samples": 1});
    let (_, scores) = ask(&sampler, 2, &whole, json!({"max_tokens": 1}), score);
    assert_eq!(scores.len(), 4 + IMAGE_TOKENS + 6);
    assert!(scores[0].is_nan() && scores[1..].iter().all(|score| score.is_finite()));
    let length = logprobs.len() / 3;
    let (said, lost): (f32, f32) = (
        scores[scores.len() - 3..].iter().sum(),
        logprobs[length - 3..length].iter().sum(),
    );
    assert!((said - lost).abs() < 1e-3, "{said} {lost}");
    assert!(
        logprobs[length - 5] < 0.0,
        "positions without weight have log-probabilities too: {logprobs:?}"
    );
    // Stops, as clients send them.
    let at = |stop: Value| json!({"max_tokens": 5, "temperature": 0.0, "stop": stop});
    assert_eq!(ask(&sampler, 3, &red, at(json!([101])), json!({})).0[0].0, [100, 101]);
    let (endless, _) = ask(&sampler, 4, &red, at(json!([])), json!({}));
    assert_eq!((endless[0].0.len(), endless[0].2), (5, 1));
    let seeded = json!({"max_tokens": 5, "temperature": 1.0, "seed": 5, "stop": []});
    let first = ask(&sampler, 5, &blue, seeded.clone(), json!({"num_samples": 4})).0;
    assert_eq!(ask(&sampler, 6, &blue, seeded, json!({"num_samples": 4})).0, first);

    let named = server.finished(
        "save_weights_for_sampler",
        &json!({"model_id": model, "seq_id": 209, "path": "final"}),
    );
    let path = named["path"].clone();
    let made = json!({"session_id": session, "sampling_session_seq_id": 1, "model_path": path});
    let from_path = server.call("create_sampling_session", &made)["sampling_session_id"].clone();
    assert_eq!(
        server.get(&format!("/api/v1/samplers/{}", from_path.as_str().unwrap()))["model_path"],
        path
    );
    assert_eq!(ask(&from_path, 0, &red, greedy, json!({})).0[0], sequences[0]);

    let run = server.get(&format!("/api/v1/training_runs/{model}"));
    assert_eq!(
        (&run["last_sampler_checkpoint"]["tinker_path"], &run["lora_rank"]),
        (&path, &json!(8))
    );
    let info = server.call("weights_info", &json!({"tinker_path": path}));
    assert_eq!(
        (&info["base_model"], &info["train_unembed"]),
        (&json!(MODEL), &json!(false))
    );
    server.call(
        &format!("sessions/{session}/finish"),
        &json!({"reason": {"type": "success"}}),
    );
    assert_eq!(
        server.refused("session_heartbeat", &json!({"session_id": session})).0,
        410
    );
    drop(server);

    // Another server, the same checkpoints.
    let server = Server::start(state.path(), &[], None);
    let session = server.session();
    let again = json!({"session_id": session, "model_seq_id": 0, "path": saved["path"], "optimizer": true});
    let other = server.finished("load_weights", &again)["model_id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        server.forward_backward(&request(&other, 1, &lesson(), true)),
        (loss, logprobs)
    );
    let listed = server.get("/api/v1/checkpoints");
    assert_eq!(listed["checkpoints"].as_array().unwrap().len(), 2);
    let archive = format!("/api/v1/training_runs/{model}/checkpoints/sampler_weights/final/archive");
    let archive = server.ask("GET", &archive, &[], b"").body;
    let names: BTreeSet<String> = tar::Archive::new(&archive[..])
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert!(
        names.contains("adapter_model.safetensors") && names.contains("adapter_config.json"),
        "{names:?}"
    );
    let checkpoint = format!("/api/v1/training_runs/{model}/checkpoints/sampler_weights/final");
    assert_eq!(
        server.ask("POST", &format!("{checkpoint}/publish"), &[], b"").status,
        200
    );
    assert_eq!(
        server.get(&format!("/api/v1/training_runs/{model}/checkpoints"))["checkpoints"][0]["public"],
        true
    );
    assert_eq!(
        server
            .ask("PUT", &format!("{checkpoint}/ttl"), &[], b"{\"ttl_seconds\": 1}")
            .status,
        200
    );
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(server.ask("DELETE", &checkpoint, &[], b"").status, 404);
    assert_eq!(
        server.get("/api/v1/checkpoints")["checkpoints"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let checkpoint = format!("/api/v1/training_runs/{model}/checkpoints/weights/000020");
    assert_eq!(server.ask("DELETE", &checkpoint, &[], b"").status, 200);
    assert_eq!(
        server.get("/api/v1/checkpoints")["checkpoints"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
}

#[test]
fn clients_beside_each_other_train_as_alone_also_after_a_pause() {
    let state = state();
    // Adapters are put away after three seconds.
    let server = Server::start(state.path(), &["--session-timeout", "18"], None);
    let session = server.session();
    let (red, green) = (
        example([255, 0, 0], &[100, MESSAGE_END]),
        example([0, 255, 0], &[200, 201, MESSAGE_END]),
    );
    let train = |model: &str, data: &[u8], step: u64| {
        let loss = server.forward_backward(&request(model, 2 * step + 1, data, false)).0;
        server.step(model, 2 * step + 2, 1e-3);
        loss
    };
    let (a, b) = (server.model(&session, 0), server.model(&session, 1));
    let alone: Vec<f64> = (0..4).map(|step| train(&a, &red, step)).collect();
    let other: Vec<f64> = (0..4).map(|step| train(&b, &green, step)).collect();
    let (c, d) = (server.model(&session, 2), server.model(&session, 3));
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for step in 0..4 {
        first.push(train(&c, &red, step));
        second.push(train(&d, &green, step));
        if step == 1 {
            std::thread::sleep(std::time::Duration::from_millis(9_500));
            let metrics = server.ask("GET", "/metrics", &[], b"").text();
            assert!(metrics.contains("kshot_adapters_put_away_total 4"), "{metrics}");
        }
    }
    assert_eq!((first, second), (alone, other));
}

#[test]
fn submits_are_done_once_in_the_order_of_their_numbers() {
    let state = state();
    let server = Server::start(state.path(), &[], None);
    let session = server.session();
    let model = server.model(&session, 0);
    let (red, green) = (
        example([255, 0, 0], &[100, MESSAGE_END]),
        example([0, 255, 0], &[200, MESSAGE_END]),
    );
    let submit = |number: u64, data: &[u8]| {
        let answer = server.submit(&request(&model, number, data, false));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    // Parts of one call, the lowest last, and one of them twice; then a step.
    let later = submit(2, &green);
    assert_eq!(submit(2, &green)["request_id"], later["request_id"]);
    let first = submit(1, &red);
    let (green_loss, _) = losses(&server.result(&later).body);
    let (red_loss, _) = losses(&server.result(&first).body);
    server.step(&model, 3, 1e-3);
    let after = server.forward_backward(&request(&model, 4, &red, true)).0;
    assert!(after < red_loss);

    let whole = server.model(&session, 1);
    let both = server
        .forward_backward(&request(&whole, 1, &[red.clone(), green].concat(), false))
        .0;
    assert!(
        (both - red_loss - green_loss).abs() < 1e-4,
        "{both} {red_loss} {green_loss}"
    );
    server.step(&whole, 2, 1e-3);
    let same = server.forward_backward(&request(&whole, 3, &red, true)).0;
    assert!((same - after).abs() < 1e-4, "{same} {after}");

    // A refused number is not waited for, and none is used twice.
    let nan = server.post(
        "/api/v1/optim_step",
        &json!({"model_id": model, "seq_id": 5, "adam_params": {"beta1": 2}}),
    );
    assert_eq!(nan.status, 400, "{}", nan.text());
    let begun = std::time::Instant::now();
    server.forward_backward(&request(&model, 6, &red, true));
    assert!(begun.elapsed().as_secs_f64() < 1.5);
    let other = server.submit(&request(&model, 6, &red, false));
    assert_eq!(other.status, 400);
    assert!(other.text().contains("seq_id 6"), "{}", other.text());
    // A step without gradients fails, and the client goes on.
    let step = server.call("optim_step", &json!({"model_id": model, "seq_id": 7}));
    let failed = server.result(&step).json();
    assert_eq!(failed["category"], "user");
    server.forward_backward(&request(&model, 8, &red, true));
}

#[test]
fn json_and_zstd_say_the_same_as_protobuf() {
    let state = state();
    let server = Server::start(state.path(), &[], None);
    let session = server.session();
    let model = server.model(&session, 0);
    let data = example([255, 0, 0], &[100, MESSAGE_END]);
    let (loss, logprobs) = server.forward_backward(&request(&model, 1, &data, true));
    let frame = ruzstd::encoding::compress_to_vec(
        &request(&model, 2, &data, true)[..],
        ruzstd::encoding::CompressionLevel::Fastest,
    );
    let headers = [("content-type", "application/x-protobuf"), ("content-encoding", "zstd")];
    let submitted = server.ask("POST", "/api/v1/forward_backward", &headers, &frame).json();
    assert_eq!(losses(&server.result(&submitted).body), (loss, logprobs.clone()));
    // Any call takes a compressed body.
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, json!({"model_id": model}).to_string().as_bytes()).unwrap();
    let info = server.ask(
        "POST",
        "/api/v1/get_info",
        &[("content-encoding", "gzip")],
        &gzip.finish().unwrap(),
    );
    assert_eq!(info.json()["lora_rank"], 8, "{}", info.text());
    let unknown = server.ask("POST", "/api/v1/get_info", &[("content-encoding", "br")], b"{}");
    assert!(
        unknown.status == 415 && unknown.text().contains("zstd"),
        "{}",
        unknown.text()
    );

    let length = logprobs.len();
    let mut targets = vec![0; length - 2];
    targets.extend([100, MESSAGE_END]);
    let mut weights = vec![0.0; length - 2];
    weights.extend([1.0, 1.0]);
    let datum = json!({"model_input": prompt([255, 0, 0], &[100]), "loss_fn_inputs": {
        "target_tokens": {"data": targets, "dtype": "int64", "shape": [length]},
        "weights": {"data": weights, "dtype": "float32", "shape": [length]},
    }});
    let body = json!({"model_id": model, "seq_id": 3, "forward_input": {"data": [datum], "loss_fn": "cross_entropy"}});
    let submitted = server.call("forward", &body);
    let asked = json!({"request_id": submitted["request_id"]});
    let result = loop {
        let answer = server.post("/api/v1/retrieve_future", &asked);
        if answer.status != 408 {
            break answer.json();
        }
    };
    assert_eq!(result["metrics"]["loss:sum"], loss);
    assert_eq!(result["loss_fn_outputs"][0]["logprobs"]["shape"], json!([length]));
}

#[test]
fn silent_sessions_end_and_keys_are_needed() {
    let state = state();
    let key = "tml-0123456789";
    let server = Server::start(state.path(), &["--session-timeout", "1"], Some(key));
    assert_eq!(server.get("/healthz")["status"], "ok");
    let create = |headers: &[(&str, &str)]| server.ask("POST", "/api/v1/create_session", headers, b"{}");
    for headers in [
        &[][..],
        &[("x-api-key", "tml-0123456788")],
        &[("authorization", "Bearer tml-")],
        &[("x-api-key", "")],
    ] {
        let refused = create(headers);
        assert_eq!(refused.status, 401);
        assert!(!refused.text().contains(key));
    }
    assert_eq!(server.ask("GET", "/metrics", &[], b"").status, 401);
    assert_eq!(
        server
            .ask("GET", "/v1/models", &[("authorization", &format!("Bearer {key}"))], b"")
            .status,
        200
    );
    // The name of the scheme is the same in any case; with a key web pages may ask too.
    let bearer = format!("bearer {key}");
    let page = [("authorization", &*bearer), ("origin", "https://example.com")];
    assert_eq!(server.ask("GET", "/v1/models", &page, b"").status, 200);
    let session = create(&[("x-api-key", key)]).json()["session_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let body = json!({"session_id": session}).to_string();
    let beat = || {
        server.ask(
            "POST",
            "/api/v1/session_heartbeat",
            &[("x-api-key", key)],
            body.as_bytes(),
        )
    };
    assert_eq!(beat().status, 200);
    std::thread::sleep(std::time::Duration::from_secs(12));
    let ended = beat();
    assert_eq!(ended.status, 410);
    assert!(ended.text().contains("silent"), "{}", ended.text());
    let metrics = server.ask("GET", "/metrics", &[("x-api-key", key)], b"").text();
    assert!(
        metrics.contains("kshot_sessions 0") && metrics.contains("route=\"/api/v1/session_heartbeat\",status=\"410\"")
    );
}

#[test]
fn an_address_that_others_reach_needs_a_key() {
    let sandbox = crate::support::Sandbox::new();
    let model = crate::support::writing_model();
    let run = |bind: &str, key: &str| {
        let mut command = sandbox.kshot(&["serve", "--bind", bind, "--model"]);
        let output = command.arg(&model).env("TINKER_API_KEY", key).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        crate::support::stderr(&output)
    };
    let open = run("0.0.0.0:0", "");
    assert!(open.contains("TINKER_API_KEY"));
    let wrong = run("127.0.0.1:0", "secret-of-mine");
    assert!(wrong.contains("tml-") && !wrong.contains("secret-of-mine"), "{wrong}");
    for said in [open, wrong] {
        let hint = said.split_once("\nhint: ").unwrap().1;
        assert!(hint.contains("TINKER_API_KEY") && !hint.contains("sweep"), "{said}");
    }
    // A name is looked up, and an address that is taken is told with the way out.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for host in ["localhost", "127.0.0.1"] {
        let said = run(&format!("{host}:{port}"), "");
        let (error, hint) = said.split_once("\nhint: ").unwrap();
        assert!(
            error.contains(&format!("127.0.0.1:{port}")) && hint.contains("--bind"),
            "{said}"
        );
    }
    assert!(run("localhost", "").contains("HOST:PORT"));
}

#[test]
fn a_web_page_does_not_drive_a_server_without_a_key() {
    let state = state();
    let server = Server::start(state.path(), &[], None);
    let create = |headers: &[(&str, &str)]| server.ask("POST", "/api/v1/create_session", headers, b"{}").status;
    assert_eq!(create(&[("content-type", "text/plain")]), 200);
    // The host of these requests is `kshot`.
    assert_eq!(create(&[("origin", "http://kshot")]), 200);
    for origin in ["https://example.com", "null", "http://kshot:81"] {
        assert_eq!(
            create(&[("content-type", "text/plain"), ("origin", origin)]),
            403,
            "{origin}"
        );
    }
    let chat = server.ask(
        "POST",
        "/v1/chat/completions",
        &[("origin", "https://example.com")],
        b"{}",
    );
    assert_eq!(
        (chat.status, &chat.json()["error"]["type"]),
        (403, &json!("permission_error"))
    );
}
