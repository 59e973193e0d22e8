//! Servers that refuse, lie or are not there: the next source is taken, and no wrong byte gets a file's name.

use std::time::Duration;

use kshot::error::Error;
use kshot::fetch::Token;
use kshot::manifest::Form;

use super::server::{Reply, Server};
use super::{Machine, noise};

const SIZE: usize = 50_000;

/// Serves some bytes well.
fn good(bytes: &[u8]) -> Server {
    let served = bytes.to_vec();
    Server::new(move |request| Reply::file(request, &served))
}

#[test]
fn a_server_that_is_busy_is_asked_again_when_it_says() {
    let bytes = noise(SIZE, 1);
    for status in [429, 503] {
        let served = bytes.clone();
        let server = Server::new(move |request| match request.earlier {
            0 => Reply::status(status).with("Retry-After", "3"),
            1 => Reply::status(status),
            _ => Reply::file(request, &served),
        });
        let notes = Machine::new().succeed(&bytes, &[server.url("/a.tgz")]);
        assert_eq!(server.asked().len(), 3);
        // Three of this machine's seconds, which last 10 ms.
        assert!(
            notes[0].contains(&status.to_string()) && notes[0].ends_with("again in 0.03 s"),
            "{notes:?}"
        );
        assert!(notes[1].ends_with("again in 0.00 s"), "{notes:?}");
    }
}

#[test]
fn a_server_may_name_a_date() {
    let bytes = noise(SIZE, 1);
    let served = bytes.clone();
    let server = Server::new(move |request| match request.earlier {
        0 => Reply::status(503).with("Retry-After", "Thu, 01 Jan 2170 00:00:00 GMT"),
        1 => Reply::status(503).with("Retry-After", "Sun, 06 Nov 1994 08:49:37 GMT"),
        _ => Reply::file(request, &served),
    });
    let mut machine = Machine::new();
    machine.remote.policy.longest_retry_after = Duration::from_millis(70);
    let notes = machine.succeed(&bytes, &[server.url("/a.tgz")]);
    assert!(
        notes[0].ends_with("again in 0.07 s") && notes[1].ends_with("again in 0.00 s"),
        "{notes:?}"
    );
}

#[test]
fn a_server_that_stays_busy_is_left() {
    let bytes = noise(SIZE, 1);
    let busy = Server::new(|_| Reply::status(503).with("Retry-After", "1"));
    let server = good(&bytes);
    Machine::new().succeed(&bytes, &[busy.url("/a.tgz"), server.url("/a.tgz")]);
    assert_eq!((busy.asked().len(), server.asked().len()), (5, 1));
}

#[test]
fn a_file_that_is_not_there_is_asked_for_once() {
    let bytes = noise(SIZE, 2);
    let server = good(&bytes);
    for status in [404, 410, 403, 401, 400] {
        let empty = Server::new(move |_| Reply::status(status));
        let notes = Machine::new().succeed(&bytes, &[empty.url("/a.tgz"), server.url("/a.tgz")]);
        assert_eq!(empty.asked().len(), 1);
        assert!(notes[0].contains(&status.to_string()), "{notes:?}");
    }
}

#[test]
fn a_file_of_the_wrong_length_is_left_at_once() {
    let bytes = noise(SIZE, 3);
    let longer = [bytes.as_slice(), b"more"].concat();
    // Told beforehand or found out; too short is only known for sure after some attempts.
    let replies = [
        (Reply::whole(&bytes[..SIZE - 7]), 1),
        (Reply::whole(&longer), 1),
        (Reply::whole(&longer).endless(), 1),
        (Reply::whole(b"<html>come back later</html>"), 1),
        (Reply::whole(&bytes[..SIZE - 7]).endless(), 5),
        (Reply::whole(b"").endless(), 5),
    ];
    for (reply, requests) in replies {
        let server = good(&bytes);
        let wrong = Server::new(move |_| reply.clone());
        let machine = Machine::new();
        let notes = machine.succeed(&bytes, &[wrong.url("/a.tgz"), server.url("/a.tgz")]);
        assert_eq!(wrong.asked().len(), requests, "{notes:?}");
        let machine = Machine::new();
        assert_eq!(machine.refused(&bytes, &[wrong.url("/a.tgz")]).len(), 1);
        let kept: Vec<_> = machine.downloads();
        assert!(kept.is_empty() || kept == ["a.tgz.part"], "{kept:?}");
    }
}

#[test]
fn a_range_of_a_file_of_another_length_is_left_at_once() {
    let bytes = noise(SIZE, 3);
    let server = good(&bytes);
    let other = good(&noise(SIZE + 1, 4));
    let machine = Machine::new();
    std::fs::create_dir_all(machine.path("downloads/toy")).unwrap();
    std::fs::write(machine.path("downloads/toy/a.tgz.part"), &bytes[..9]).unwrap();
    machine.succeed(&bytes, &[other.url("/a.tgz"), server.url("/a.tgz")]);
    // Nine right bytes are kept for the source that has the others.
    assert_eq!(server.asked()[0].from(), Some(9));
}

#[test]
fn a_flipped_byte_is_found_and_the_next_source_used() {
    let bytes = noise(SIZE, 5);
    for place in [0, SIZE / 2, SIZE - 1] {
        let mut flipped = bytes.clone();
        flipped[place] ^= 1;
        let (bad, server) = (good(&flipped), good(&bytes));
        let machine = Machine::new();
        let notes = machine.succeed(&bytes, &[bad.url("/a.tgz"), server.url("/a.tgz")]);
        assert!(notes[0].contains("has sha256"), "{notes:?}");
        // Nothing of the bad file was built upon.
        assert_eq!((bad.asked().len(), server.asked()[0].from()), (1, None));

        let machine = Machine::new();
        let reasons = machine.refused(&bytes, &[bad.url("/a.tgz")]);
        assert!(reasons[0].starts_with("has sha256"), "{reasons:?}");
        assert_eq!(machine.downloads(), [] as [&str; 0], "the bad file is gone");
    }
}

#[test]
fn every_source_is_told_with_its_reason() {
    let bytes = noise(SIZE, 6);
    let (gone, busy) = (Server::new(|_| Reply::status(404)), Server::new(|_| Reply::status(503)));
    let urls = [
        gone.url("/a.tgz?signature=secret"),
        busy.url("/a.tgz"),
        "http://127.0.0.1:9/a.tgz".to_owned(),
        "no address".to_owned(),
    ];
    let machine = Machine::new();
    let manifest = machine.archive(&bytes, &urls);
    let error = machine.fetch(&manifest, Form::Archive).0.unwrap_err().to_string();
    for wanted in [
        "cannot fetch `toy`",
        &format!("`toy/a.tgz` (50000 bytes, sha256 {})", super::sha256(&bytes)),
        &format!("belongs at `{}`", machine.path("downloads/toy/a.tgz").display()),
        &format!("{}: 404 Not Found", gone.url("/a.tgz")),
        &format!(
            "{}: 503 Service Unavailable (5 times without progress)",
            busy.url("/a.tgz")
        ),
        "http://127.0.0.1:9/a.tgz: io: Connection refused",
        "no address: this is no address",
    ] {
        assert!(error.contains(wanted), "`{wanted}` is not in: {error}");
    }
    assert!(!error.contains("secret"));
}

#[test]
fn redirects_are_followed_but_not_for_ever() {
    let bytes = noise(SIZE, 7);
    let server = good(&bytes);
    let to = server.url("/elsewhere/b");
    let first = Server::new(move |request| match request.path.as_str() {
        "/a.tgz" => Reply::redirect("/deeper/a.tgz"),
        "/deeper/a.tgz" => Reply::redirect("b?x=1"),
        "/deeper/b?x=1" => Reply::redirect(&to).with("X-Linked-Etag", "\"x\""),
        path => Reply::redirect(path),
    });
    let machine = Machine::new();
    machine.succeed(&bytes, &[first.url("/a.tgz")]);
    assert_eq!(
        (first.asked().len(), server.asked()[0].path.as_str()),
        (3, "/elsewhere/b")
    );
    let reasons = Machine::new().refused(&bytes, &[first.url("/loop")]);
    assert_eq!(reasons, ["more than 10 redirects"]);
}

#[test]
fn the_token_goes_to_the_hub_only() {
    let bytes = noise(SIZE, 8);
    let elsewhere = good(&bytes);
    let to = elsewhere.url("/blob");
    let hub = Server::new(move |_| Reply::redirect(&to));
    let mut machine = Machine::new();
    machine.remote.hub.endpoint = hub.url("");
    machine.remote.hub.token = Token::new("hf_secret");
    // The same host with another port is another host.
    let notes = machine.succeed(&bytes, &[hub.url("/a.tgz")]);
    std::fs::remove_file(machine.path("downloads/toy/a.tgz")).unwrap();
    machine.succeed(&bytes, &[elsewhere.url("/a.tgz")]);
    assert!(
        hub.asked()
            .iter()
            .all(|r| r.header("authorization") == Some("Bearer hf_secret"))
    );
    assert!(!hub.asked().is_empty() && elsewhere.asked().len() == 2);
    assert!(elsewhere.asked().iter().all(|r| r.header("authorization").is_none()));
    assert!(!notes.join("").contains("hf_secret"));
    let agent = hub.asked()[0].header("user-agent").unwrap().to_owned();
    assert!(agent.starts_with("kshot/"), "{agent}");
}

#[test]
fn a_full_device_is_found_before_anything_is_fetched() {
    let server = Server::new(|_| Reply::status(500));
    let machine = Machine::new();
    let size = 1_u64 << 60;
    let manifest = machine.manifest(&format!(
        "[[file]]\nrole = \"archive\"\nname = \"a.tgz\"\nurls = [\"{}\"]\nsize = {size}\nmd5 = \"{:032}\"\n",
        server.url("/a.tgz"),
        0
    ));
    let error = machine.fetch(&manifest, Form::Archive).0.unwrap_err();
    let Error::DiskSpace { folder, needed, free } = &error else {
        panic!("{error}")
    };
    assert_eq!(folder, &machine.path("downloads/toy"));
    // The archive, and 1.2 times as much unpacked.
    assert!((2.2 - *needed as f64 / size as f64).abs() < 1e-6 && *free < *needed);
    assert!(error.to_string().contains("downloads/toy") && error.hint().unwrap().contains("KSHOT_CACHE"));
    assert_eq!(server.asked().len(), 0);
}
