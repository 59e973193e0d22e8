//! Models that may not be had, or not be run: what is said, and that nothing is written.

use kshot::error::Error;
use kshot::fetch::Token;

use super::hub_server::Repository;
use super::models::{CONFIG, FIRST, INDEX, at, fetch, files_asked, sharded};
use super::server::{Reply, Server};
use super::{Machine, names};

#[track_caller]
fn refused(machine: &Machine, named: &[&str], advised: &[&str]) {
    let error = fetch(machine, "owner/small").unwrap_err();
    for part in named {
        assert!(error.to_string().contains(part), "`{part}` is not in: {error}");
    }
    let hint = error.hint().unwrap();
    for part in advised {
        assert!(hint.contains(part), "`{part}` is not in: {hint}");
    }
    assert!(!machine.path("hub").exists(), "something was written");
}

#[test]
fn gated_private_and_unknown_models_are_told_apart_as_far_as_the_hub_does() {
    let mut gated = sharded().0;
    gated.licence = Some("hf_accepted".into());
    let hub = gated.serve();
    let mut machine = at(&hub);
    let page = hub.url("/owner/small");
    refused(
        &machine,
        &["owner/small", "is gated"],
        &["licence at ", &page, "HF_TOKEN", "hf auth login"],
    );
    machine.remote.hub.token = Token::new("hf_other");
    refused(
        &machine,
        &["owner/small", "is gated", "this token"],
        &["accept its licence", &page],
    );
    machine.remote.hub.token = Token::new("hf_accepted");
    assert_eq!(fetch(&machine, "owner/small").unwrap().files, 8);

    let elsewhere = Repository::model("owner/other", &[]).serve();
    refused(
        &at(&elsewhere),
        &["owner/small", "knows no such model"],
        &["check its name", "HF_TOKEN"],
    );
    let nothing = Server::new(|_| Reply::status(404));
    refused(
        &at(&nothing),
        &["owner/small", "knows no such model"],
        &["check its name", "hf auth login"],
    );
    let broken = Server::new(|_| Reply::status(500));
    refused(&at(&broken), &["owner/small", "answers: 500"], &[]);
    let mut offline = at(&hub);
    offline.remote.hub.offline = true;
    refused(&offline, &["owner/small", "KSHOT_OFFLINE"], &[]);
}

#[test]
fn repositories_without_what_is_needed_are_told_before_a_byte_is_written() {
    let with = |files: &[(&str, &[u8])]| Repository::model("owner/small", files).serve();
    refused(
        &at(&with(&[("model.safetensors", b"x")])),
        &["has no `config.json`"],
        &[],
    );
    let pickled = with(&[("config.json", CONFIG), ("pytorch_model.bin", b"x")]);
    refused(
        &at(&pickled),
        &["no weights as safetensors", "pytorch_model.bin"],
        &["save_pretrained"],
    );
    let llama = with(&[("config.json", CONFIG), ("model-Q4_K_M.gguf", b"x")]);
    refused(&at(&llama), &["model-Q4_K_M.gguf", "llama.cpp"], &["made from"]);
    let blind = with(&[("config.json", CONFIG), ("model.safetensors", b"x")]);
    refused(&at(&blind), &["preprocessor_config.json", "processor_config.json"], &[]);
    let older: [(&str, &[u8]); 3] = [
        ("config.json", CONFIG),
        ("model.safetensors", b"x"),
        ("processor_config.json", b"{\"processor_class\": \"X\"}"),
    ];
    refused(&at(&with(&older)), &["`image_processor`"], &[]);
    let newer: [(&str, &[u8]); 3] = [
        ("config.json", CONFIG),
        ("model.safetensors", b"x"),
        ("processor_config.json", b"{\"image_processor\": {}}"),
    ];
    assert_eq!(fetch(&at(&with(&newer)), "owner/small").unwrap().files, 3);
    let index = format!(r#"{{"weight_map": {{"a": "{FIRST}"}}}}"#);
    let lacking = with(&[("config.json", CONFIG), (INDEX, index.as_bytes())]);
    refused(&at(&lacking), &[INDEX, FIRST, "does not have"], &[]);
    let torn = with(&[("config.json", CONFIG), (INDEX, b"{")]);
    refused(&at(&torn), &[INDEX], &[]);
    for path in ["../config.json", "/etc/config.json", "a\\b"] {
        let leading_out = with(&[("config.json", CONFIG), ("model.safetensors", b"x"), (path, b"x")]);
        refused(&at(&leading_out), &[path], &[]);
    }
}

#[test]
fn room_is_looked_for_before_the_first_byte() {
    let (repository, _) = sharded();
    let hub = Server::new(move |request| {
        let reply = repository.answer(request);
        let text = String::from_utf8_lossy(&reply.body).replace(":90000", ":1000000000000000000");
        match request.path.contains("/tree/") {
            true => Reply::json(&serde_json::from_str(&text).unwrap()).with("Link", &reply_link(&reply)),
            false => reply,
        }
    });
    let machine = at(&hub);
    let error = fetch(&machine, "owner/small").unwrap_err();
    let Error::DiskSpace { needed, .. } = error else {
        panic!("{error}")
    };
    assert!(needed > 1_000_000_000_000_000_000);
    assert!(error.hint().unwrap().contains("HF_HOME"));
    let asked = files_asked(&hub);
    assert!(asked.iter().all(|path| path.ends_with("json")), "{asked:?}");
    assert_eq!(
        names(&machine.path("hub/models--owner--small/blobs")),
        Vec::<String>::new()
    );
}

fn reply_link(reply: &Reply) -> String {
    let link = reply.headers.iter().find(|(name, _)| name == "Link");
    link.map(|(_, value)| value.clone()).unwrap_or_default()
}
