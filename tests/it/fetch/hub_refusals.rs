//! Hubs that refuse, lie, or may not be asked.

use std::time::{Duration, Instant};

use kshot::error::Error;
use kshot::fetch::hub_listing;
use kshot::manifest::Form;

use super::hub::{manifest, repository};
use super::hub_server::Repository;
use super::server::{Reply, Server};
use super::{Machine, names};

#[test]
fn a_hub_that_refuses_or_lies_is_told() {
    let machine_at = |hub: &Server| {
        let mut machine = Machine::new();
        machine.remote.hub.endpoint = hub.url("");
        machine
    };
    let refuse = |hub: Server, reason: &str| {
        let machine = machine_at(&hub);
        let error = machine
            .fetch(&manifest(&machine, "revision = \"main\"\n"), Form::Hub)
            .0
            .unwrap_err();
        assert!(
            matches!(error.kind(), Error::Hub { .. }) && error.to_string().contains(reason),
            "{error}"
        );
        let remedy = match reason {
            "401 Unauthorized" => "`HF_TOKEN`",
            "404 Not Found" => "check name and revision",
            _ => "`HF_ENDPOINT`",
        };
        assert!(error.hint().unwrap().contains(remedy));
        assert_eq!(
            names(machine.folder.path()),
            ["downloads", "toy.toml"],
            "nothing was written elsewhere"
        );
    };
    let mut private = repository().0;
    private.token = Some("hf_other".into());
    refuse(private.serve(), "401 Unauthorized");
    refuse(Server::new(|_| Reply::status(404)), "404 Not Found");
    refuse(Server::new(|_| Reply::whole(b"<html>")), "its revision: ");
    refuse(
        Server::new(|_| Reply::json(&serde_json::json!({"sha": "../../x"}))),
        "says that main is commit `../../x`",
    );
    for path in [
        "../train-00000-of-00001.parquet",
        "/data/train-0.parquet",
        "data/../../train-0.parquet",
        "a\\b/train-0.parquet",
    ] {
        let files: Vec<(&str, &[u8])> = vec![(path, b"x"), ("data/test-00000-of-00001.parquet", b"x")];
        let repository = Repository::new("owner/cards", &files);
        let hub = Server::new(move |request| {
            if request.path.contains("/data?") {
                return Reply::status(404);
            }
            repository.answer(request)
        });
        refuse(hub, "lists a file whose name or hash is not one");
    }
    for repo in ["a/b/c", "../x", "owner", "a/b?c"] {
        let machine = Machine::new();
        let (places, policy) = (&machine.remote.hub, &machine.remote.policy);
        let error = hub_listing(repo, "main", None, places, policy).unwrap_err();
        assert_eq!(
            repo == "owner",
            !error.to_string().contains("is no `owner/name`"),
            "{error}"
        );
    }
}

#[test]
fn offline_an_unknown_repository_says_how_to_bring_it_here() {
    let hub = repository().0.serve();
    let mut machine = Machine::new();
    machine.remote.hub.endpoint = hub.url("");
    machine.remote.hub.offline = true;
    let error = machine
        .fetch(&manifest(&machine, "revision = \"main\"\n"), Form::Hub)
        .0
        .unwrap_err();
    for wanted in ["KSHOT_OFFLINE", "hub/datasets--owner--cards", "downloads/toy/hub.json"] {
        assert!(error.to_string().contains(wanted), "{error}");
    }
    assert_eq!(hub.asked().len(), 0);
}

/// Before, only silence and large files had a bound: a list that came byte by byte was waited for as long as it came.
#[test]
fn a_hub_that_trickles_is_named_and_left() {
    let pause = Duration::from_millis(20);
    let answer = Duration::from_millis(200);
    let list = vec![b' '; 100_000];
    let slow_body = Server::new(move |_| Reply::whole(&list).trickle(1, pause));
    let longer = Duration::from_secs(30);
    let slow_head = Server::new(move |_| {
        std::thread::sleep(longer);
        Reply::status(200)
    });
    for hub in [slow_body, slow_head] {
        let mut machine = Machine::new();
        machine.remote.hub.endpoint = hub.url("");
        machine.remote.policy.answer = answer;
        machine.remote.policy.tries = 2;
        let started = Instant::now();
        let error = hub_listing("owner/cards", "main", None, &machine.remote.hub, &machine.remote.policy).unwrap_err();
        let took = started.elapsed();
        let host = hub.url("").replace("http://", "");
        assert!(
            error
                .to_string()
                .contains(&format!("{host} is too slow: no whole answer in 0.2 s")),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("run the same command again later"));
        assert!(took < Duration::from_secs(5), "{took:?}");
        assert_eq!(hub.asked().len(), 2);
    }
}

/// An answer of more bytes than any list or config has is not read to its end.
#[test]
fn a_hub_that_sends_without_end_is_left() {
    let much = vec![b'['; 70 << 20];
    let hub = Server::new(move |_| Reply::whole(&much));
    let mut machine = Machine::new();
    machine.remote.hub.endpoint = hub.url("");
    let error = hub_listing("owner/cards", "main", None, &machine.remote.hub, &machine.remote.policy).unwrap_err();
    assert!(error.to_string().contains("sends more than 64 MiB"), "{error}");
    assert_eq!(hub.asked().len(), 1);
}
