//! Interrupted transfers go on where they were, and end with the right bytes.

use std::time::Duration;

use super::server::{Reply, Server};
use super::{Machine, noise, sha256};

const SIZE: usize = 200_000;

#[test]
fn a_cut_at_every_tenth_of_a_file_costs_only_the_rest() {
    let bytes = noise(SIZE, 1);
    for tenth in 0..10 {
        let cut = SIZE * tenth / 10;
        let served = bytes.clone();
        let server = Server::new(move |request| {
            let reply = Reply::file(request, &served);
            if request.earlier == 0 { reply.cut(cut) } else { reply }
        });
        let machine = Machine::new();
        machine.succeed(&bytes, &[server.url("/a.tgz")]);
        let asked: Vec<_> = server.asked().iter().map(|request| request.from()).collect();
        let rest = (cut > 0).then_some(cut);
        assert_eq!(asked, [None, rest], "cut at {cut}");
        if cut > 0 {
            let if_range = server.asked()[1].header("if-range").unwrap().to_owned();
            assert_eq!(if_range, format!("\"{}\"", sha256(&bytes)));
        }
    }
}

#[test]
fn a_connection_that_is_cut_again_and_again_gets_there() {
    let bytes = noise(SIZE, 2);
    let served = bytes.clone();
    let server = Server::new(move |request| Reply::file(request, &served).cut(SIZE / 10));
    let machine = Machine::new();
    machine.succeed(&bytes, &[server.url("/a.tgz")]);
    let asked: Vec<_> = server.asked().iter().filter_map(|request| request.from()).collect();
    assert_eq!(asked, (1..10).map(|tenth| SIZE * tenth / 10).collect::<Vec<_>>());
}

#[test]
fn a_server_that_ignores_ranges_starts_anew() {
    let bytes = noise(SIZE, 3);
    let served = bytes.clone();
    let server = Server::new(move |request| {
        let reply = Reply::whole(&served);
        if request.earlier < 2 {
            reply.cut(SIZE / 2)
        } else {
            reply
        }
    });
    let machine = Machine::new();
    machine.succeed(&bytes, &[server.url("/a.tgz")]);
    assert_eq!(server.asked().len(), 3);
    assert_eq!(server.asked()[2].from(), Some(SIZE / 2));
}

#[test]
fn a_server_that_ignores_ranges_and_is_always_cut_is_left() {
    let bytes = noise(SIZE, 3);
    let served = bytes.clone();
    let server = Server::new(move |_| Reply::whole(&served).cut(SIZE / 2));
    let machine = Machine::new();
    let reasons = machine.refused(&bytes, &[server.url("/a.tgz")]);
    assert!(reasons[0].contains("times without progress"), "{reasons:?}");
    assert!(server.asked().len() <= 10);
}

#[test]
fn a_server_that_sends_another_range_is_asked_for_the_whole() {
    let bytes = noise(SIZE, 4);
    for lie in [
        "bytes 0-99999/200000",
        "bytes 100001-199999/200000",
        "bytes */200000",
        "nonsense",
    ] {
        let served = bytes.clone();
        let server = Server::new(move |request| match (request.earlier, request.from()) {
            (0, _) => Reply::file(request, &served).cut(SIZE / 2),
            (_, Some(_)) => Reply {
                status: 206,
                ..Reply::whole(&served[..SIZE / 2]).with("Content-Range", lie)
            },
            (_, None) => Reply::whole(&served),
        });
        let machine = Machine::new();
        machine.succeed(&bytes, &[server.url("/a.tgz")]);
        assert_eq!(server.asked().len(), 3, "{lie}");
    }
}

#[test]
fn a_file_that_changes_meanwhile_is_fetched_anew() {
    let (old, new) = (noise(SIZE, 5), noise(SIZE, 6));
    for holds_if_range in [true, false] {
        let (first, then) = (old.clone(), new.clone());
        let server = Server::new(move |request| match request.earlier {
            0 => Reply::file(request, &first).cut(SIZE / 3),
            _ if holds_if_range => Reply::file(request, &then),
            _ => Reply::file(&request.without("if-range"), &then),
        });
        let machine = Machine::new();
        machine.succeed(&new, &[server.url("/a.tgz")]);
        assert_eq!(server.asked().len(), if holds_if_range { 2 } else { 3 });
    }
}

#[test]
fn what_another_process_left_is_continued() {
    let bytes = noise(SIZE, 7);
    let served = bytes.clone();
    let server = Server::new(move |request| Reply::file(request, &served));
    let machine = Machine::new();
    std::fs::create_dir_all(machine.path("downloads/toy")).unwrap();
    std::fs::write(machine.path("downloads/toy/a.tgz.part"), &bytes[..SIZE - 1]).unwrap();
    machine.succeed(&bytes, &[server.url("/a.tgz")]);
    let asked: Vec<_> = server.asked().iter().map(|request| request.from()).collect();
    assert_eq!(asked, [Some(SIZE - 1)]);
}

#[test]
fn wrong_bytes_that_another_source_left_are_thrown_away() {
    let bytes = noise(SIZE, 8);
    let mut too_many = bytes.clone();
    too_many.push(0);
    // Half of another file; all of another file; more than the file.
    for (left, wanted) in [
        (noise(SIZE / 2, 9), vec![Some(SIZE / 2), None]),
        (noise(SIZE, 9), vec![None]),
        (too_many, vec![None]),
    ] {
        let served = bytes.clone();
        let server = Server::new(move |request| Reply::file(request, &served).cut(SIZE - 1));
        let machine = Machine::new();
        std::fs::create_dir_all(machine.path("downloads/toy")).unwrap();
        std::fs::write(machine.path("downloads/toy/a.tgz.part"), left).unwrap();
        machine.succeed(&bytes, &[server.url("/a.tgz")]);
        let asked: Vec<_> = server.asked().iter().map(|request| request.from()).collect();
        assert_eq!(asked[..wanted.len()], wanted);
        // Cut a byte before the end, the second pass goes on as well.
        assert_eq!(asked[wanted.len()..], [Some(SIZE - 1)]);
    }
}

#[test]
fn a_complete_part_needs_no_request() {
    let bytes = noise(SIZE, 10);
    let server = Server::new(|_| Reply::status(500));
    let machine = Machine::new();
    std::fs::create_dir_all(machine.path("downloads/toy")).unwrap();
    std::fs::write(machine.path("downloads/toy/a.tgz.part"), &bytes).unwrap();
    machine.succeed(&bytes, &[server.url("/a.tgz")]);
    assert_eq!(server.asked().len(), 0);
}

#[test]
fn a_server_that_denies_the_range_is_asked_for_the_whole() {
    let bytes = noise(SIZE, 11);
    let served = bytes.clone();
    let server = Server::new(move |request| match request.from() {
        Some(_) => Reply::status(416),
        None => Reply::whole(&served),
    });
    let machine = Machine::new();
    std::fs::create_dir_all(machine.path("downloads/toy")).unwrap();
    std::fs::write(machine.path("downloads/toy/a.tgz.part"), &bytes[..9]).unwrap();
    machine.succeed(&bytes, &[server.url("/a.tgz")]);
    let asked: Vec<_> = server.asked().iter().map(|request| request.from()).collect();
    assert_eq!(asked, [Some(9), None]);
}

#[test]
fn a_trickle_is_waited_for_unless_it_is_too_slow() {
    let bytes = noise(2_000, 12);
    let served = bytes.clone();
    let server = Server::new(move |request| Reply::file(request, &served).trickle(100, Duration::from_millis(2)));
    Machine::new().succeed(&bytes, &[server.url("/a.tgz")]);
    assert_eq!(server.asked().len(), 1);

    let mut machine = Machine::new();
    machine.remote.policy.slowest = (u64::MAX, Duration::ZERO);
    machine.remote.policy.tries = 2;
    // Every piece is progress; the last one is not held against a source.
    machine.succeed(&bytes, &[server.url("/a.tgz")]);
    assert!(server.asked().len() > 2);
}

#[test]
fn a_server_that_falls_silent_is_left() {
    let bytes = noise(2_000, 13);
    let (slow, served) = (bytes.clone(), bytes.clone());
    let silent = Server::new(move |_| Reply::whole(&slow).trickle(1, Duration::from_secs(3)));
    let server = Server::new(move |request| Reply::file(request, &served));
    let mut machine = Machine::new();
    machine.remote.policy.silence = Duration::from_millis(150);
    machine.remote.policy.tries = 1;
    let notes = machine.succeed(&bytes, &[silent.url("/a.tgz"), server.url("/a.tgz")]);
    assert!(notes[0].contains("timeout"), "{notes:?}");
}
