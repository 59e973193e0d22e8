//! What `kshot serve` keeps and what it leaves: weights in use, ended sessions, its state folder, its own end.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::serve_support::*;

/// Names in a folder.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Asks until it is so: the server tidies every five seconds.
#[track_caller]
fn in_time(what: &str, so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn gauge(server: &Server, name: &str) -> usize {
    let metrics = server.ask("GET", "/metrics", &[], b"").text();
    let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap().parse().unwrap()
}

/// Tokens and log-probabilities of a greedy answer.
fn answer(server: &Server, sampler: &Value, number: u64) -> (Vec<u32>, Vec<f32>) {
    let body = json!({"sampling_session_id": sampler, "seq_id": number, "num_samples": 1, "prompt": prompt([255, 0, 0], &[]),
        "sampling_params": {"max_tokens": 3, "temperature": 0.0, "stop": []}});
    let result = server.result(&server.call("asample", &body));
    let (sequences, _) = sampled(&result.body);
    assert!(!sequences.is_empty(), "{}", result.text());
    (sequences[0].0.clone(), sequences[0].1.clone())
}

fn train(server: &Server, model: &str, first: u64) {
    server.forward_backward(&request(model, first, &lesson(), false));
    server.step(model, first + 1, 5e-3);
}

fn finish(server: &Server, session: &str) {
    server.call(
        &format!("sessions/{session}/finish"),
        &json!({"reason": {"type": "success"}}),
    );
}

#[test]
fn a_sampler_keeps_the_weights_it_was_made_with() {
    let state = state();
    let server = Server::start(state.path(), &[], None);
    let session = server.session();
    let model = server.model(&session, 0);
    train(&server, &model, 1);
    let save = |number: u64| {
        let body = json!({"model_id": model, "seq_id": number, "path": "now", "overwrite": true});
        server.finished("save_weights_for_sampler", &body)["path"].clone()
    };
    let path = save(3);
    let open = |number: u64| {
        let body = json!({"session_id": session, "sampling_session_seq_id": number, "model_path": path});
        server.post("/api/v1/create_sampling_session", &body)
    };
    let (early, late) = (
        open(0).json()["sampling_session_id"].clone(),
        open(1).json()["sampling_session_id"].clone(),
    );
    let first = answer(&server, &early, 0);
    // More snapshots are asked than stay in memory, so that weights are read again.
    train(&server, &model, 4);
    save(6);
    // The same request again is the same sampler.
    assert_eq!(open(1).status, 200);
    let second = answer(&server, &open(2).json()["sampling_session_id"], 0);
    assert_ne!(first, second);
    for number in 0..9 {
        train(&server, &model, 10 + 3 * number);
        let body = json!({"model_id": model, "sampling_session_seq_id": 10 + number, "kind": "snapshot", "seq_id": 12 + 3 * number});
        let passing = server.finished("save_weights_for_sampler", &body)["sampling_session_id"].clone();
        answer(&server, &passing, 0);
    }
    // One was never asked before its checkpoint was replaced.
    assert_eq!(answer(&server, &late, 0), first);
    let deleted = format!("/api/v1/training_runs/{model}/checkpoints/sampler_weights/now");
    assert_eq!(server.ask("DELETE", &deleted, &[], b"").status, 200);
    assert_eq!(answer(&server, &early, 1), first);
    let refused = open(3);
    assert!(
        refused.status == 404 && refused.text().contains("there is no checkpoint"),
        "{}",
        refused.text()
    );
    finish(&server, &session);
    in_time("folders stay", || {
        names(&state.path().join("passing")).is_empty() && names(&state.path().join("runs")).is_empty()
    });
}

#[test]
fn a_sampler_that_follows_its_run_leaves_one_folder() {
    let state = state();
    let server = Server::start(state.path(), &[], None);
    let session = server.session();
    let model = server.model(&session, 0);
    let passing = state.path().join("passing");
    let follow = |number: u64| {
        train(&server, &model, 3 * number + 1);
        let body =
            json!({"model_id": model, "sampling_session_seq_id": number, "kind": "inflight", "seq_id": 3 * number + 3});
        server.finished("save_weights_for_sampler", &body)["sampling_session_id"].clone()
    };
    let first = follow(0);
    let before = answer(&server, &first, 0);
    for number in 1..5 {
        let next = follow(number);
        assert_eq!(names(&passing).len(), 1, "{:?}", names(&passing));
        assert_eq!(answer(&server, &next, 0), answer(&server, &first, number));
    }
    assert_ne!(answer(&server, &first, 9), before);
    finish(&server, &session);
    in_time("the last folder stays", || names(&passing).is_empty());
}

#[test]
fn a_session_that_ends_in_the_middle_leaves_nothing() {
    let state = state();
    let server = Server::start(state.path(), &[], None);
    let lora = json!({"rank": 8});
    for round in 0..12 {
        let session = server.session();
        let create = json!({"session_id": session, "model_seq_id": 0, "base_model": MODEL, "lora_config": lora});
        server.call("create_model", &create);
        if round % 3 > 0 {
            let model = format!("{session}:train:0");
            for number in 1..4 {
                let body =
                    json!({"model_id": model, "sampling_session_seq_id": number, "kind": "snapshot", "seq_id": number});
                server.call("save_weights_for_sampler", &body);
            }
            std::thread::sleep(Duration::from_millis(7 * round));
        }
        finish(&server, &session);
        // What comes afterwards is refused, and is not begun.
        for (call, body) in [
            (
                "create_model",
                json!({"session_id": session, "model_seq_id": 1, "base_model": MODEL, "lora_config": lora}),
            ),
            (
                "create_sampling_session",
                json!({"session_id": session, "sampling_session_seq_id": 9, "base_model": MODEL}),
            ),
        ] {
            assert_eq!(server.refused(call, &body).0, 410, "{call}");
        }
    }
    in_time("something is left", || {
        let gauges = [
            "kshot_training_clients",
            "kshot_samplers",
            "kshot_operations_unfinished",
            "kshot_sessions",
        ];
        gauges.iter().all(|name| gauge(&server, name) == 0)
            && ["runs", "passing"]
                .iter()
                .all(|dir| names(&state.path().join(dir)).is_empty())
    });
}

#[test]
fn what_is_wrong_on_the_disk_is_told_without_paths() {
    let state = state();
    let server = Server::start(state.path(), &[], None);
    let session = server.session();
    let model = server.model(&session, 0);
    train(&server, &model, 1);
    let save = |call: &str, number: u64| {
        let body = json!({"model_id": model, "seq_id": number, "path": "a"});
        server.finished(call, &body)["path"].clone()
    };
    let (saved, named) = (save("save_weights", 3), save("save_weights_for_sampler", 4));
    let body = json!({"model_id": model, "seq_id": 5, "path": "a"});
    let again = server.result(&server.call("save_weights", &body)).json();
    assert!(again["error"].as_str().unwrap().contains("overwrite"), "{again}");
    let sampler = json!({"session_id": session, "sampling_session_seq_id": 0, "model_path": named});
    let sampler = server.call("create_sampling_session", &sampler)["sampling_session_id"].clone();
    let run = state.path().join("runs").join(&model);
    for kind in ["weights", "sampler_weights"] {
        for folder in names(&run.join(kind).join("a")) {
            let weights = run.join(kind).join("a").join(folder).join("adapter_model.safetensors");
            if weights.exists() {
                fs::write(weights, "torn").unwrap();
            }
        }
    }
    let mut told = Vec::new();
    for (number, optimizer) in [(6, true), (7, false)] {
        let load = json!({"model_id": model, "seq_id": number, "path": saved, "optimizer": optimizer});
        told.push(server.result(&server.call("load_weights", &load)).text());
    }
    let body =
        json!({"sampling_session_id": sampler, "seq_id": 0, "prompt": prompt([255, 0, 0], &[]), "sampling_params": {}});
    told.push(server.result(&server.call("asample", &body)).text());
    let body = json!({"model": named, "messages": [{"role": "user", "content": "What is it?"}]});
    told.push(server.post("/v1/chat/completions", &body).text());
    fs::remove_dir_all(run.join("sampler_weights/a")).unwrap();
    told.push(
        server
            .result(&server.call(
                "asample",
                &json!({"sampling_session_id": sampler, "seq_id": 1,
        "prompt": prompt([255, 0, 0], &[]), "sampling_params": {}}),
            ))
            .text(),
    );
    for one in told {
        assert!(one.contains("error"), "{one}");
        let place = state.path().file_name().unwrap().to_str().unwrap();
        assert!(!one.contains(place) && !one.contains("/runs/"), "{one}");
    }
}

#[test]
fn a_step_that_runs_when_the_server_is_told_to_stop_is_finished_and_handed_out() {
    let state = state();
    let mut server = Server::start(state.path(), &[], None);
    let session = server.session();
    let model = server.model(&session, 0);
    let row = vec![7u32; 400];
    let targets: Vec<u8> = row.iter().flat_map(|&token| i64::from(token).to_le_bytes()).collect();
    let one = field(
        3,
        &[text_chunk(&row), tensor("target_tokens", 2, &targets, row.len())].concat(),
    );
    let mut times = Vec::new();
    for number in 1..3 {
        let begun = Instant::now();
        server.forward_backward(&request(&model, number, &one.repeat(8), false));
        times.push(begun.elapsed().as_secs_f64());
    }
    // Some seconds of work on this machine.
    let count = ((6.0 * 8.0 / times[1]) as usize).clamp(8, 4096);
    let running = server.submit(&request(&model, 3, &one.repeat(count), false));
    assert_eq!(running.status, 200, "{}", running.text());
    in_time("it does not run", || gauge(&server, "kshot_operations_unfinished") > 0);
    std::thread::sleep(Duration::from_millis(300));
    let pid = server.process().id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    std::thread::sleep(Duration::from_millis(500));
    // Others are told that nothing new is begun.
    let late = server.submit(&request(&model, 4, &one, false));
    assert!(
        late.status == 410 && late.text().contains("stopping"),
        "{}",
        late.text()
    );
    let (loss, _) = losses(&server.result(&running.json()).body);
    assert!(loss.is_finite());
    assert!(server.process().wait().unwrap().success());
}
