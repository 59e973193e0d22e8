//! What goes over the wire: the bytes of the file itself, heads within bounds, no more of the user than is needed.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use kshot::fetch::{Token, hub_listing};
use kshot::manifest::Form;

use super::server::{Reply, Server};
use super::{Machine, noise};
use crate::data::fixture::gz;

#[test]
fn an_encoding_changes_no_byte_and_no_length() {
    let bytes = gz(&noise(40_000, 1));
    // Servers that take the ending of a file's name for an encoding of something else.
    for encoding in ["gzip", "x-gzip", "br", "identity"] {
        let served = bytes.clone();
        let server = Server::new(move |request| Reply::file(request, &served).with("Content-Encoding", encoding));
        Machine::new().succeed(&bytes, &[server.url("/a.tgz")]);
        assert_eq!(server.asked()[0].header("accept-encoding"), Some("identity"));
    }
    // A server that packs what it was not asked to.
    let plain = vec![7; 40_000];
    let packed = gz(&plain);
    let length = packed.len();
    let server = Server::new(move |_| Reply::whole(&packed).with("Content-Encoding", "gzip"));
    let reasons = Machine::new().refused(&plain, &[server.url("/a.tgz")]);
    assert_eq!(reasons, [format!("has {length} bytes instead of 40000")]);

    let list = gz(b"[]");
    let hub = Server::new(move |_| Reply::whole(&list).with("Content-Encoding", "gzip"));
    let mut machine = Machine::new();
    machine.remote.hub.endpoint = hub.url("");
    let error = hub_listing("owner/cards", "main", None, &machine.remote.hub, &machine.remote.policy).unwrap_err();
    assert!(
        error.to_string().contains("answers in `gzip`, which was not asked for"),
        "{error}"
    );
    assert_eq!(hub.asked().len(), 1);
}

#[test]
fn a_head_without_end_is_left() {
    let bytes = noise(9_000, 2);
    let long = "x".repeat(8 << 20);
    let one = Server::new(move |_| Reply::status(200).with("X-Long", &long));
    let many = Server::new(|_| (0..5_000).fold(Reply::status(200), |reply, i| reply.with(&format!("X-{i}"), "y")));
    for server in [one, many] {
        let mut machine = Machine::new();
        machine.remote.policy.tries = 2;
        let reasons = machine.refused(&bytes, &[server.url("/a.tgz")]);
        assert_eq!(reasons, ["message head is too large (2 times without progress)"]);
        assert_eq!(server.asked().len(), 2);
    }
}

/// Answers every request by calling `write` until the client goes away, and then says so.
fn endless(write: fn(&mut TcpStream) -> std::io::Result<()>) -> (String, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/a.tgz", listener.local_addr().unwrap());
    let (gone, left) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, gone) = (stream.unwrap(), gone.clone());
            thread::spawn(move || {
                stream.read_exact(&mut [0; 16]).unwrap();
                while write(&mut stream).is_ok() {}
                gone.send(())
            });
        }
    });
    (url, left)
}

#[test]
fn a_head_that_never_ends_is_not_waited_for() {
    let bytes = noise(9_000, 3);
    let trickle = |stream: &mut TcpStream| {
        thread::sleep(Duration::from_millis(5));
        stream.write_all(b"H")
    };
    let header = |stream: &mut TcpStream| {
        thread::sleep(Duration::from_millis(5));
        // Each of these is right by itself.
        stream.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    };
    let flood = |stream: &mut TcpStream| stream.write_all(&b"HTTP/1.1 100 Continue\r\n\r\n".repeat(1_000));
    let stop = |stream: &mut TcpStream| stream.read_exact(&mut [0; 1 << 16]);
    for write in [trickle, header, flood, stop] {
        let (url, left) = endless(write);
        let mut machine = Machine::new();
        machine.remote.policy.answer = Duration::from_millis(300);
        machine.remote.policy.tries = 2;
        let started = Instant::now();
        let reasons = machine.refused(&bytes, std::slice::from_ref(&url));
        let host = url.strip_prefix("http://").unwrap().strip_suffix("/a.tgz").unwrap();
        let slow = format!("{host} is too slow: no whole answer in 0.3 s (2 times without progress)");
        // A byte that no head begins with is seen at once.
        let is_none = "invalid HTTP version parsed (2 times without progress)";
        assert!([slow.as_str(), is_none].contains(&reasons[0].as_str()), "{reasons:?}");
        assert!(started.elapsed() < Duration::from_secs(20));
        // Nothing goes on behind: both connections are closed.
        for _ in 0..2 {
            left.recv_timeout(Duration::from_secs(20)).unwrap();
        }
    }
}

#[test]
fn what_is_no_answer_of_http_is_told() {
    let bytes = noise(9_000, 4);
    for greeting in ["SSH-2.0-OpenSSH_9.6\r\n", "220 mail ready\r\n", ""] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/a.tgz", listener.local_addr().unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                stream.read_exact(&mut [0; 16]).unwrap();
                stream.write_all(greeting.as_bytes()).unwrap();
            }
        });
        let mut machine = Machine::new();
        machine.remote.policy.tries = 2;
        let reasons = machine.refused(&bytes, &[url]);
        assert!(reasons[0].ends_with("(2 times without progress)"), "{reasons:?}");
        assert!(
            !reasons[0].contains("127.0.0.1"),
            "the address is named once: {reasons:?}"
        );
    }
}

#[test]
fn no_cookie_is_kept_and_no_password_passed_on() {
    let bytes = noise(9_000, 5);
    let served = bytes.clone();
    let storage = Server::new(move |request| Reply::file(request, &served).with("Set-Cookie", "a=b"));
    let to = storage.url("/blob");
    let mirror = Server::new(move |request| match request.path.as_str() {
        "/a.tgz" => Reply::redirect("/b.tgz").with("Set-Cookie", "a=b; Path=/"),
        _ => Reply::redirect(&to),
    });
    let machine = Machine::new();
    let with_password = mirror.url("/a.tgz").replace("http://", "http://me:secret@");
    let (outcome, notes) = machine.fetch(&machine.archive(&bytes, &[with_password]), Form::Archive);
    outcome.unwrap();
    assert!(!notes.join("").contains("secret"), "{notes:?}");
    let asked = mirror.asked();
    // `me:secret` as RFC 7617 has it, to the host that it was given for.
    assert!(
        asked
            .iter()
            .all(|request| request.header("authorization") == Some("Basic bWU6c2VjcmV0"))
    );
    assert!(asked.len() == 2 && storage.asked().len() == 1);
    for request in asked.iter().chain(&storage.asked()) {
        assert_eq!((request.header("cookie"), request.header("referer")), (None, None));
    }
    assert_eq!(storage.asked()[0].header("authorization"), None);
}

#[test]
fn a_token_that_no_header_can_hold_is_told() {
    let hub = Server::new(|_| Reply::status(404));
    let mut machine = Machine::new();
    machine.remote.hub.endpoint = hub.url("");
    machine.remote.hub.token = Token::new("hf_two\nhf_lines");
    let error = hub_listing("owner/cards", "main", None, &machine.remote.hub, &machine.remote.policy).unwrap_err();
    assert!(error.to_string().contains("the token has a character"), "{error}");
    assert!(!error.to_string().contains("hf_lines"));
    assert_eq!(hub.asked().len(), 0);
}

/// A caller may be anywhere: also where blocking calls of runtimes panic.
#[test]
fn fetching_works_inside_a_runtime() {
    let bytes = noise(9_000, 6);
    let served = bytes.clone();
    let server = Server::new(move |request| Reply::file(request, &served));
    let url = server.url("/a.tgz");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        Machine::new().succeed(&bytes, std::slice::from_ref(&url));
    });
    assert_eq!(server.asked().len(), 1);
}
