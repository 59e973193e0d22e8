//! kill -9 at random moments, and two processes at once: the same final bytes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rand::Rng as _;

use super::hub_server::Repository;
use super::noise;
use super::server::{Reply, Server};
use super::verb::{User, file};
use crate::support::contents;

const SIZE: usize = 400_000;

/// One server for two archives and a hub repository of two shards, in no hurry.
fn world(user: &User) -> Server {
    let bytes: Vec<Vec<u8>> = (0..4).map(|seed| noise(SIZE, seed)).collect();
    let shards = [
        ("data/train-00000-of-00001.parquet", bytes[2].as_slice()),
        ("data/test-00000-of-00001.parquet", &bytes[3]),
    ];
    let hub = Repository::new("o/n", &shards);
    let archives = Arc::new([bytes[0].clone(), bytes[1].clone()]);
    let served = Arc::clone(&archives);
    let server = Server::new(move |request| {
        let reply = match request.path.as_str() {
            "/images.tar.gz" => Reply::file(request, &served[0]),
            "/annotations.tar.gz" => Reply::file(request, &served[1]),
            _ => hub.answer(request),
        };
        if reply.body.len() > 10_000 {
            reply.trickle(8_000, Duration::from_millis(1))
        } else {
            reply
        }
    });
    let files: String = [("images", 0), ("annotations", 1)]
        .map(|(role, i)| {
            let name = format!("{role}.tar.gz");
            file(role, &name, &archives[i], &[server.url(&format!("/{name}"))])
        })
        .concat();
    user.dataset(
        "toy",
        "oxford-pets",
        &format!("{files}[hub]\nrepo = \"o/n\"\nrevision = \"main\"\n"),
    );
    server
}

fn start(user: &User, server: &Server, form: &str) -> Child {
    let mut command = user.kshot(&["data", "fetch", "toy", "--source", form]);
    command
        .env("HF_ENDPOINT", server.url(""))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().unwrap()
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
    for form in ["archive", "hub"] {
        let undisturbed = {
            let user = User::new();
            let server = world(&user);
            assert!(start(&user, &server, form).wait().unwrap().success());
            fetched(&user)
        };
        assert!(undisturbed.values().filter(|bytes| bytes.len() == SIZE).count() >= 2);
        let (mut kills, mut midway) = (0, 0);
        // Ten kills of each form; two a round, one in what the other left.
        for _ in 0..30 {
            if kills >= 10 {
                break;
            }
            let user = User::new();
            let server = world(&user);
            for _ in 0..2 {
                let before = server.sent();
                let due = before + random.random_range(0..2 * SIZE - before.min(SIZE));
                let mut child = start(&user, &server, form);
                let give_up = Instant::now() + Duration::from_secs(60);
                while server.sent() < due && child.try_wait().unwrap().is_none() && Instant::now() < give_up {
                    thread::sleep(Duration::from_micros(300));
                }
                // Also between two writes, in the check, in the renaming.
                thread::sleep(Duration::from_micros(random.random_range(0..3_000)));
                let alive = child.try_wait().unwrap().is_none();
                child.kill().unwrap();
                child.wait().unwrap();
                kills += usize::from(alive);
                let now = fetched(&user);
                midway += usize::from(
                    now.keys()
                        .any(|path| path.extension().is_some_and(|e| e == "part" || e == "incomplete")),
                );
                // No file has its name before it is right.
                for (path, bytes) in &now {
                    let partial = path.extension().is_some_and(|e| e == "part" || e == "incomplete");
                    assert!(partial || undisturbed.get(path) == Some(bytes), "{}", path.display());
                }
            }
            assert!(start(&user, &server, form).wait().unwrap().success());
            let now = fetched(&user);
            assert_eq!(now.keys().collect::<Vec<_>>(), undisturbed.keys().collect::<Vec<_>>());
            assert!(now == undisturbed, "other bytes than undisturbed");
        }
        assert!(
            kills >= 10 && midway >= 5,
            "{form}: {kills} kills, {midway} in the midst of a file"
        );
    }
}

#[test]
fn two_processes_fetch_each_file_once() {
    for form in ["archive", "hub"] {
        let user = User::new();
        let server = world(&user);
        let (mut one, mut two) = (start(&user, &server, form), start(&user, &server, form));
        assert!(one.wait().unwrap().success() && two.wait().unwrap().success());
        let asked: Vec<_> = server
            .asked()
            .iter()
            .filter(|r| r.path.contains(".tar.gz") || r.path.contains("/resolve/"))
            .cloned()
            .collect();
        assert_eq!(asked.len(), 2, "{asked:?}");
        let names: Vec<_> = fetched(&user).into_keys().collect();
        assert!(
            names
                .iter()
                .all(|path| path.extension().is_none_or(|e| e != "part" && e != "incomplete")),
            "{names:?}"
        );
    }
}
