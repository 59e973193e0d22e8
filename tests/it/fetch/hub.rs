//! Hub repositories: listings, the cache shared with Python's client, pinned commits.

use std::fs;
use std::path::PathBuf;

use kshot::error::Error;
use kshot::fetch;
use kshot::fetch::{HubFiles, Token, hub_files, hub_listing};
use kshot::manifest::{Form, Manifest};

use super::hub_server::{Repository, commit, storage};
use super::server::{Reply, Server};
use super::{Machine, names, noise, sha256};

const TRAIN: [&str; 2] = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"];
const TEST: &str = "data/test-00000-of-00001.parquet";

/// Three shards among other files, more than a page of them.
pub fn repository() -> (Repository, [Vec<u8>; 3]) {
    let bytes = [noise(9_000, 1), noise(8_000, 2), noise(7_000, 3)];
    let files = [
        (TRAIN[0], bytes[0].as_slice()),
        (TRAIN[1], &bytes[1]),
        (TEST, &bytes[2]),
        ("data/unused-00000-of-00001.parquet", b"x"),
        (".gitattributes", b"*.parquet lfs"),
        ("README.md", b"# Cards"),
    ];
    (Repository::new("owner/cards", &files), bytes)
}

pub fn manifest(machine: &Machine, rest: &str) -> Manifest {
    machine.manifest(&format!("directory = \"x\"\n[hub]\nrepo = \"owner/cards\"\n{rest}"))
}

fn found(machine: &Machine, manifest: &Manifest) -> Option<HubFiles> {
    hub_files(manifest.hub.as_ref().unwrap(), &manifest.downloads, &machine.remote.hub)
}

/// The bytes of a complete dataset, shard by shard.
fn bytes(files: &HubFiles) -> Vec<(String, String, Vec<u8>)> {
    let read = |file: &fetch::HubFile| (file.split.clone(), file.name.clone(), fs::read(&file.path).unwrap());
    files.shards.iter().map(read).collect()
}

fn wanted(bytes: &[Vec<u8>; 3]) -> Vec<(String, String, Vec<u8>)> {
    let [first, second, test] = bytes.clone();
    vec![
        ("test".into(), TEST.into(), test),
        ("train".into(), TRAIN[0].into(), first),
        ("train".into(), TRAIN[1].into(), second),
    ]
}

#[test]
fn shards_that_the_manifest_does_not_list_are_asked_for_and_the_answer_kept() {
    let (mut repository, shards) = repository();
    let (behind, authorizations) = storage(&shards.each_ref().map(Vec::as_slice));
    repository.token = Some("hf_secret".into());
    repository.storage = Some(behind.url(""));
    let hub = repository.serve();
    let mut machine = Machine::new();
    machine.remote.hub.endpoint = hub.url("");
    machine.remote.hub.token = Token::new("hf_secret");
    let manifest = manifest(&machine, "revision = \"main\"\n");
    assert_eq!(found(&machine, &manifest), None);
    let (outcome, _) = machine.fetch(&manifest, Form::Hub);
    let fetched = outcome.unwrap();
    assert_eq!((fetched.files, fetched.fetched, fetched.bytes), (3, 3, 24_000));
    assert_eq!(fetched.commit.as_deref(), Some(commit('a').as_str()));
    // Only the hub saw the token; what it redirects to did not.
    assert_eq!(*authorizations.lock().unwrap(), [None, None, None]);
    assert!(
        hub.asked()
            .iter()
            .all(|r| r.header("authorization") == Some("Bearer hf_secret"))
    );

    // As Python's client lays it out.
    let cache = machine.path("hub/datasets--owner--cards");
    assert_eq!(fs::read_to_string(cache.join("refs/main")).unwrap(), commit('a'));
    let mut hashes: Vec<_> = shards.iter().map(|bytes| sha256(bytes)).collect();
    hashes.sort();
    assert_eq!(names(&cache.join("blobs")), hashes);
    let pointer = cache.join("snapshots").join(commit('a')).join(TEST);
    let target = PathBuf::from(format!("../../../blobs/{}", sha256(&shards[2])));
    assert_eq!(fs::read_link(pointer).unwrap(), target);
    let in_order = [TEST, TRAIN[0], TRAIN[1]].map(|path| path.strip_prefix("data/").unwrap());
    assert_eq!(names(&fetched.folder.join("data")), in_order);

    // Opening and fetching again need no network, and branches that move on are not followed.
    let asked = hub.asked().len();
    machine.remote.hub.endpoint = "http://127.0.0.1:9".into();
    let files = found(&machine, &manifest).unwrap();
    assert_eq!(
        (files.commit.as_str(), files.repo.as_str()),
        (commit('a').as_str(), "owner/cards")
    );
    assert_eq!(bytes(&files), wanted(&shards));
    assert_eq!(files.shards[0].sha256.as_deref(), Some(sha256(&shards[2]).as_str()));
    machine.remote.hub.offline = true;
    assert_eq!(machine.fetch(&manifest, Form::Hub).0.unwrap().fetched, 0);
    assert_eq!(hub.asked().len(), asked);
}

#[test]
fn shards_that_the_manifest_lists_are_not_asked_for() {
    let (repository, shards) = repository();
    let hub = repository.serve();
    let mut machine = Machine::new();
    machine.remote.hub.endpoint = hub.url("");
    let listed: String = [TRAIN[0], TRAIN[1], TEST]
        .iter()
        .zip(&shards)
        .map(|(path, bytes)| {
            let (size, hash) = (bytes.len(), sha256(bytes));
            format!("[[hub.shard]]\npath = \"{path}\"\nsize = {size}\nsha256 = \"{hash}\"\n")
        })
        .collect();
    let manifest = manifest(&machine, &format!("revision = \"{}\"\n{listed}", commit('a')));
    machine.fetch(&manifest, Form::Hub).0.unwrap();
    assert_eq!(bytes(&found(&machine, &manifest).unwrap()), wanted(&shards));
    assert!(
        hub.asked()
            .iter()
            .all(|request| request.path.starts_with("/datasets/owner/cards/resolve/"))
    );
    // What was kept is not needed either: the manifest says it all.
    fs::remove_file(machine.path("downloads/toy/hub.json")).unwrap();
    assert!(found(&machine, &manifest).is_some());
}

#[test]
fn what_python_has_fetched_is_used_and_checked() {
    let (repository, shards) = repository();
    let hub = repository.serve();
    let mut machine = Machine::new();
    machine.remote.hub.endpoint = hub.url("");
    let cache = machine.path("hub/datasets--owner--cards");
    let snapshot = cache.join("snapshots").join(commit('a'));
    fs::create_dir_all(snapshot.join("data")).unwrap();
    fs::create_dir_all(cache.join("blobs")).unwrap();
    let mut flipped = shards[1].clone();
    flipped[5] ^= 1;
    // One whole, one damaged, one whole but without its name.
    for (path, bytes, name) in [(TRAIN[0], &shards[0], 0), (TRAIN[1], &flipped, 1), ("", &shards[2], 2)] {
        let blob = sha256(&shards[name]);
        fs::write(cache.join("blobs").join(&blob), bytes).unwrap();
        if !path.is_empty() {
            std::os::unix::fs::symlink(format!("../../../blobs/{blob}"), snapshot.join(path)).unwrap();
        }
    }
    let manifest = manifest(&machine, &format!("revision = \"{}\"\n", commit('a')));
    let (outcome, notes) = machine.fetch(&manifest, Form::Hub);
    assert_eq!(outcome.unwrap().fetched, 1);
    assert!(
        notes[0].contains("has sha256") && notes[0].contains("train-00001"),
        "{notes:?}"
    );
    assert_eq!(bytes(&found(&machine, &manifest).unwrap()), wanted(&shards));
    assert_eq!(hub.asked_for(".parquet").len(), 1);
    // A file that was put under the commit's name by hand is as good.
    fs::remove_file(snapshot.join(TEST)).unwrap();
    fs::remove_file(cache.join("blobs").join(sha256(&shards[2]))).unwrap();
    assert_eq!(found(&machine, &manifest), None);
    fs::write(snapshot.join(TEST), &shards[2]).unwrap();
    assert_eq!(machine.fetch(&manifest, Form::Hub).0.unwrap().fetched, 0);
    assert_eq!(bytes(&found(&machine, &manifest).unwrap()), wanted(&shards));
}

#[test]
fn shards_survive_cuts_lies_and_a_mirror() {
    let (repository, shards) = repository();
    for (fault, requests) in [("cut", 2), ("flipped", 1), ("status", 3)] {
        let repository = repository.clone();
        let hub = Server::new(move |request| {
            let mut reply = repository.answer(request);
            if !request.path.ends_with(TEST) {
                return reply;
            }
            match (fault, request.earlier) {
                ("cut", 0) => reply.cut(3_500),
                ("flipped", _) => {
                    reply.body[77] ^= 1;
                    reply
                }
                ("status", 0 | 1) => Reply::status(429).with("Retry-After", "0"),
                _ => reply,
            }
        });
        let mut machine = Machine::new();
        machine.remote.hub.endpoint = hub.url("");
        let manifest = manifest(&machine, "revision = \"main\"\n");
        let (outcome, _) = machine.fetch(&manifest, Form::Hub);
        assert_eq!(hub.asked_for(TEST).len(), requests, "{fault}");
        if fault == "flipped" {
            let error = outcome.unwrap_err();
            let place = machine
                .path("hub/datasets--owner--cards/snapshots")
                .join(commit('a'))
                .join(TEST);
            assert!(error.to_string().contains(place.to_str().unwrap()), "{error}");
            let blobs = names(&machine.path("hub/datasets--owner--cards/blobs"));
            assert_eq!(
                blobs.len(),
                2,
                "the other shards are kept, the bad one is gone: {blobs:?}"
            );
            // A mirror that has the right one is asked first.
            let mirrored = machine.path("mirror/toy").join(TEST);
            fs::create_dir_all(mirrored.parent().unwrap()).unwrap();
            fs::write(mirrored, &shards[2]).unwrap();
            machine.remote.mirror = Some(machine.path("mirror").display().to_string());
            assert_eq!(machine.fetch(&manifest, Form::Hub).0.unwrap().fetched, 1);
            assert_eq!(hub.asked_for(TEST).len(), requests);
        } else {
            outcome.unwrap();
        }
        assert_eq!(bytes(&found(&machine, &manifest).unwrap()), wanted(&shards));
    }
}

#[test]
fn a_manifest_that_says_something_else_of_a_shard_is_held_against_the_hub() {
    let hub = repository().0.serve();
    let mut machine = Machine::new();
    machine.remote.hub.endpoint = hub.url("");
    for (shard, reason) in [
        (
            format!("path = \"{TEST}\"\nsize = 5\n"),
            "is not the one that the manifest lists",
        ),
        (
            "path = \"data/train.parquet\"\n".into(),
            "has no file `data/train.parquet`",
        ),
        (
            format!("path = \"{TEST}\"\n"),
            "has no parquet file of the split `train`, only of: test",
        ),
    ] {
        let manifest = manifest(&machine, &format!("revision = \"main\"\n[[hub.shard]]\n{shard}"));
        let error = machine.fetch(&manifest, Form::Hub).0.unwrap_err();
        assert!(
            matches!(error.kind(), Error::Hub { .. }) && error.to_string().contains(reason),
            "{error}"
        );
    }
    assert_eq!(hub.asked_for(".parquet").len(), 0);
}

#[test]
fn usual_arrangements_of_files_are_understood() {
    let cases: [(&[&str], &str); 5] = [
        (
            &[
                "data/train-00000-of-00001-0a1b2c.parquet",
                "data/test-00000-of-00001-0a1b2c.parquet",
            ],
            "test train",
        ),
        (
            &["train/0000.parquet", "test/0000.parquet", "test/0001.parquet"],
            "test test train",
        ),
        (
            &[
                "default/train/0000.parquet",
                "default/test/0000.parquet",
                "other/train/0000.parquet",
            ],
            "test train",
        ),
        (&["train.parquet", "test.parquet"], "test train"),
        (
            &[
                "plain_text/train-00000-of-00001.parquet",
                "plain_text/test-00000-of-00001.parquet",
            ],
            "test train",
        ),
    ];
    for (paths, splits) in cases {
        let files: Vec<(&str, &[u8])> = paths.iter().map(|path| (*path, b"bytes".as_slice())).collect();
        let hub = Repository::new("owner/cards", &files).serve();
        let mut machine = Machine::new();
        machine.remote.hub.endpoint = hub.url("");
        let listing = hub_listing("owner/cards", "main", None, &machine.remote.hub, &machine.remote.policy).unwrap();
        let found: Vec<_> = listing.shards.iter().map(|shard| shard.split.as_str()).collect();
        assert_eq!(found.join(" "), splits, "{paths:?}");
        let manifest = manifest(&machine, "revision = \"main\"\n");
        machine.fetch(&manifest, Form::Hub).0.unwrap();
    }
    let several: Vec<(&str, &[u8])> = vec![("a/train/0000.parquet", b"x"), ("b/train/0000.parquet", b"x")];
    let hub = Repository::new("owner/cards", &several).serve();
    let mut machine = Machine::new();
    machine.remote.hub.endpoint = hub.url("");
    let error = hub_listing("owner/cards", "main", None, &machine.remote.hub, &machine.remote.policy).unwrap_err();
    assert!(
        error.to_string().contains("several configurations: `a`, `b`"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("`--config NAME`"));
    let asked = |name| {
        hub_listing(
            "owner/cards",
            "main",
            Some(name),
            &machine.remote.hub,
            &machine.remote.policy,
        )
    };
    assert_eq!(asked("b").unwrap().shards[0].file.path, "b/train/0000.parquet");
    let error = asked("c").unwrap_err();
    assert!(error.to_string().contains("no configuration `c`: `a`, `b`"), "{error}");
}

#[test]
fn a_repository_of_other_files_is_taken_as_the_hub_converts_it() {
    let other: Vec<(&str, &[u8])> = vec![("images.zip", b"x"), ("README.md", b"y")];
    let converted: Vec<(&str, &[u8])> = vec![
        ("default/train/0000.parquet", b"1"),
        ("default/test/0000.parquet", b"2"),
    ];
    let repository = Repository::new("owner/cards", &other);
    let hub = repository
        .clone()
        .with("refs/convert/parquet", &commit('e'), &converted)
        .serve();
    let mut machine = Machine::new();
    machine.remote.hub.endpoint = hub.url("");
    let listing = hub_listing("owner/cards", "main", None, &machine.remote.hub, &machine.remote.policy).unwrap();
    assert_eq!((listing.revision.as_str(), listing.commit), ("main", commit('e')));
    let manifest = manifest(&machine, "revision = \"main\"\n");
    let fetched = machine.fetch(&manifest, Form::Hub).0.unwrap();
    assert_eq!(fetched.commit, Some(commit('e')));

    let hub = repository.serve();
    let mut machine = Machine::new();
    machine.remote.hub.endpoint = hub.url("");
    let error = hub_listing("owner/cards", "main", None, &machine.remote.hub, &machine.remote.policy).unwrap_err();
    assert!(error.to_string().contains("has no parquet files"), "{error}");
}
