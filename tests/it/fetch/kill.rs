//! kill -9 at random moments, and two processes at once: the same final bytes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use kshot::config::Protocol;
use rand::Rng as _;

use super::official::{Official, official, write};
use super::server::{Reply, Server};
use super::verb::User;
use crate::support::contents;

/// A machine that knows a dataset, and a server in no hurry that has it in both forms.
fn world(set: &Official) -> (User, Server) {
    let (files, hub) = (set.files(), set.repository());
    let server = Server::new(move |request| {
        let name = request.path.rsplit('/').next().unwrap();
        let (reply, is_file) = match files.get(name) {
            Some(bytes) => (Reply::file(request, bytes), true),
            None => (hub.answer(request), request.path.contains("/resolve/")),
        };
        let piece = reply.body.len().div_ceil(40).max(1);
        if is_file {
            reply.trickle(piece, Duration::from_millis(1))
        } else {
            reply
        }
    });
    let user = User::new();
    write(&user, set.name, &set.manifest(Some(&server.url("/official")), true));
    (user, server)
}

fn start(user: &User, set: &Official, server: &Server, form: &str) -> Child {
    let mut command = user.kshot(&["data", "fetch", set.name, "--source", form]);
    let command = command.env("HF_ENDPOINT", server.url(""));
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn is_partial(path: &Path) -> bool {
    path.extension()
        .is_some_and(|e| e == "part" || e == "incomplete" || e == "tmp")
}

/// Everything that was fetched, without locks.
fn fetched(user: &User) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = contents(user.folder.path());
    files.retain(|path, _| {
        !path.starts_with("datasets") && !path.ends_with(".lock") && path.extension().is_none_or(|e| e != "lock")
    });
    files
}

#[test]
fn killed_at_random_moments_it_ends_with_the_same_bytes() {
    let mut random = kshot::seed::rng(5, "test/kill");
    let (mut kills, mut midway) = (0, 0);
    for (set, form) in official().iter().flat_map(|set| [(set, "archive"), (set, "hub")]) {
        let (undisturbed, total) = {
            let (user, server) = world(set);
            assert!(start(&user, set, &server, form).wait().unwrap().success());
            (fetched(&user), server.sent())
        };
        let wanted = kills + 3;
        // A round ends with what two killed processes left; some find that there is nothing left to do.
        for _ in 0..20 {
            if kills >= wanted {
                break;
            }
            let (user, server) = world(set);
            for _ in 0..2 {
                let due = random.random_range(server.sent()..total.max(server.sent() + 1));
                let mut child = start(&user, set, &server, form);
                let give_up = Instant::now() + Duration::from_secs(60);
                while server.sent() <= due && child.try_wait().unwrap().is_none() && Instant::now() < give_up {
                    thread::sleep(Duration::from_micros(200));
                }
                // Also between two writes, in the check, in the renaming.
                thread::sleep(Duration::from_micros(random.random_range(0..3_000)));
                let alive = child.try_wait().unwrap().is_none();
                child.kill().unwrap();
                child.wait().unwrap();
                kills += usize::from(alive);
                let now = fetched(&user);
                midway += usize::from(now.keys().any(|path| is_partial(path)));
                // No file has its name before it is right.
                for (path, bytes) in &now {
                    assert!(
                        is_partial(path) || undisturbed.get(path) == Some(bytes),
                        "{}",
                        path.display()
                    );
                }
            }
            assert!(start(&user, set, &server, form).wait().unwrap().success());
            let now = fetched(&user);
            assert_eq!(now.keys().collect::<Vec<_>>(), undisturbed.keys().collect::<Vec<_>>());
            assert!(now == undisturbed, "other bytes than undisturbed");
            let protocol = if form == "hub" {
                Protocol::Tinker
            } else {
                Protocol::Clean
            };
            assert_eq!(set.open(&user, protocol).origin.form.to_string(), form);
        }
    }
    assert!(
        kills >= 20 && midway >= 10,
        "{kills} kills, {midway} in the midst of a file"
    );
}

#[test]
fn two_processes_fetch_each_file_once() {
    for (set, form) in official().iter().flat_map(|set| [(set, "archive"), (set, "hub")]) {
        let (user, server) = world(set);
        let (mut one, mut two) = (start(&user, set, &server, form), start(&user, set, &server, form));
        assert!(one.wait().unwrap().success() && two.wait().unwrap().success());
        let mut asked: Vec<_> = server.asked().into_iter().map(|request| request.path).collect();
        asked.sort();
        let mut once = asked.clone();
        once.dedup();
        assert_eq!(asked, once);
        assert!(!fetched(&user).keys().any(|path| is_partial(path)));
    }
}
