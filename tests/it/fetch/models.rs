//! Models of the hub: what of them is fetched, how it lies in the cache, and what is said when it cannot be.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use kshot::error::{Error, Result};
use kshot::fetch::{CachedModel, Fetched, ModelId, ModelListing, cached_model};

use super::hub_server::{Repository, commit};
use super::server::{Reply, Server};
use super::{Machine, Notes, names, noise, sha256};

pub const FIRST: &str = "model-00001-of-00002.safetensors";
const SECOND: &str = "model-00002-of-00002.safetensors";
pub const INDEX: &str = "model.safetensors.index.json";
pub const CONFIG: &[u8] = br#"{"model_type": "dinov2"}"#;

/// A sharded model among much that nobody needs to run it.
pub fn sharded() -> (Repository, [Vec<u8>; 2]) {
    let shards = [noise(90_000, 1), noise(40_000, 2)];
    let index = format!(r#"{{"weight_map": {{"a": "{FIRST}", "b": "{SECOND}", "c": "{SECOND}"}}}}"#);
    let files: Vec<(&str, &[u8])> = vec![
        (".gitattributes", b"*.bin lfs"),
        ("README.md", b"# Small"),
        ("config.json", CONFIG),
        ("preprocessor_config.json", b"{}"),
        ("tokenizer.json", b"{\"a\": 1}"),
        ("tokenizer_config.json", b"{}"),
        ("chat_template.jinja", b"{{ x }}"),
        (FIRST, &shards[0]),
        (SECOND, &shards[1]),
        (INDEX, index.as_bytes()),
        ("model-00003-of-00002.safetensors", b"not named by the index"),
        ("pytorch_model.bin", b"a pickle"),
        ("onnx/tokenizer.json", b"{}"),
        ("onnx/model.safetensors", b"x"),
    ];
    (Repository::model("owner/small", &files), shards)
}

const WANTED: [&str; 8] = [
    "chat_template.jinja",
    "config.json",
    FIRST,
    SECOND,
    INDEX,
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

fn id(text: &str) -> ModelId {
    ModelId::parse(text).unwrap()
}

pub fn at(hub: &Server) -> Machine {
    let mut machine = Machine::new();
    machine.remote.hub.endpoint = hub.url("");
    machine
}

pub fn fetch(machine: &Machine, text: &str) -> Result<Fetched> {
    ModelListing::ask(&id(text), &machine.remote)?.fetch(&machine.remote, &Notes::default())
}

fn cached(machine: &Machine, text: &str) -> CachedModel {
    cached_model(&id(text), &machine.remote.hub)
}

fn snapshot(machine: &Machine) -> PathBuf {
    machine.path("hub/models--owner--small/snapshots").join(commit('a'))
}

/// Paths of files that were asked for, without questions about the repository.
pub fn files_asked(hub: &Server) -> Vec<String> {
    let asked = hub.asked().into_iter().map(|request| request.path);
    asked.filter(|path| path.contains("/resolve/")).collect()
}

#[test]
fn what_a_model_needs_is_fetched_once_as_python_lays_it_out() {
    let (repository, shards) = sharded();
    let hub = repository.serve();
    let mut machine = at(&hub);
    assert_eq!(cached(&machine, "owner/small"), CachedModel::Absent);
    let fetched = fetch(&machine, "owner/small").unwrap();
    assert_eq!((fetched.files, fetched.fetched), (8, 8));
    assert_eq!(
        (fetched.commit.unwrap(), &fetched.folder),
        (commit('a'), &snapshot(&machine))
    );
    let mut wanted = WANTED.map(str::to_owned).to_vec();
    wanted.sort();
    assert_eq!(names(&fetched.folder), wanted);
    for (name, bytes) in [(FIRST, &shards[0]), (SECOND, &shards[1])] {
        let link = fs::read_link(fetched.folder.join(name)).unwrap();
        assert_eq!(link, PathBuf::from(format!("../../blobs/{}", sha256(bytes))));
        assert!(fs::read(fetched.folder.join(name)).unwrap() == *bytes);
    }
    let folder = machine.path("hub/models--owner--small");
    assert_eq!(fs::read_to_string(folder.join("refs/main")).unwrap(), commit('a'));
    assert_eq!(cached(&machine, "owner/small"), CachedModel::Whole(snapshot(&machine)));
    assert_eq!(
        cached(&machine, &format!("owner/small@{}", commit('a'))),
        CachedModel::Whole(snapshot(&machine))
    );
    assert_eq!(cached(&machine, "owner/small@v2"), CachedModel::Absent);
    // A second call asks whether there is something new, but for no byte of any file.
    let before = files_asked(&hub).len();
    assert_eq!(fetch(&machine, "owner/small").unwrap().fetched, 0);
    assert_eq!(files_asked(&hub).len(), before);
    // Looking it up makes no connection.
    machine.remote.hub.endpoint = "http://127.0.0.1:9".into();
    assert_eq!(cached(&machine, "owner/small"), CachedModel::Whole(snapshot(&machine)));
}

#[test]
fn a_single_file_is_taken_before_shards() {
    let files: [(&str, &[u8]); 4] = [
        ("config.json", CONFIG),
        ("preprocessor_config.json", b"{}"),
        ("model.safetensors", b"weights"),
        (INDEX, b"{}"),
    ];
    let hub = Repository::model("owner/small", &files).serve();
    let machine = at(&hub);
    let fetched = fetch(&machine, "owner/small").unwrap();
    assert_eq!(
        names(&fetched.folder),
        ["config.json", "model.safetensors", "preprocessor_config.json"]
    );
}

#[test]
fn a_cut_transfer_is_told_as_such_and_continued() {
    let (repository, shards) = sharded();
    let answer = repository.clone();
    let failing = Server::new(move |request| {
        let reply = answer.answer(request);
        match (request.path.ends_with(FIRST), request.earlier) {
            (true, 0) => reply.cut(50_000),
            (true, _) => Reply::status(410),
            _ => reply,
        }
    });
    let mut machine = at(&failing);
    let error = fetch(&machine, "owner/small").unwrap_err();
    let Error::NotFetchable { files, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(files.len(), 1);
    assert!(
        error.to_string().contains(FIRST) && error.to_string().contains("410"),
        "{error}"
    );
    let partial = machine
        .path("hub/models--owner--small/blobs")
        .join(format!("{}.incomplete", sha256(&shards[0])));
    assert_eq!(fs::metadata(&partial).unwrap().len(), 50_000);
    let CachedModel::Partial { lacking, .. } = cached(&machine, "owner/small") else {
        panic!("a cut download counts as whole or absent")
    };
    assert!(lacking[0].contains("cut short"), "{lacking:?}");
    let at_commit = cached(&machine, &format!("owner/small@{}", commit('a')));
    let lacking = vec![format!("`{FIRST}`")];
    let folder = snapshot(&machine);
    assert_eq!(at_commit, CachedModel::Partial { folder, lacking });

    let hub = repository.serve();
    machine.remote.hub.endpoint = hub.url("");
    assert_eq!(fetch(&machine, "owner/small").unwrap().fetched, 1);
    let asked = files_asked(&hub);
    assert_eq!(asked.len(), 1, "{asked:?}");
    let ranges: Vec<_> = hub
        .asked_for(FIRST)
        .iter()
        .map(|r| r.header("range").map(str::to_owned))
        .collect();
    assert_eq!(ranges, [Some("bytes=50000-".to_owned())]);
    assert!(!partial.exists());
    assert!(fs::read(snapshot(&machine).join(FIRST)).unwrap() == shards[0]);
}

#[test]
fn wrong_bytes_are_refused() {
    let (repository, shards) = sharded();
    let hub = Server::new(move |request| {
        let mut reply = repository.answer(request);
        if request.path.ends_with(SECOND) {
            reply.body[100] ^= 1;
        }
        reply
    });
    let machine = at(&hub);
    let error = fetch(&machine, "owner/small").unwrap_err().to_string();
    assert!(
        error.contains(SECOND) && error.contains("has sha256") && error.contains(&sha256(&shards[1])),
        "{error}"
    );
    assert!(!snapshot(&machine).join(SECOND).exists());
    assert!(
        !machine.path("hub/models--owner--small/refs/main").exists(),
        "it is not complete"
    );
    assert!(matches!(
        cached(&machine, &format!("owner/small@{}", commit('a'))),
        CachedModel::Partial { .. }
    ));
}

#[test]
fn a_damaged_file_is_fetched_again() {
    let (repository, shards) = sharded();
    let hub = repository.serve();
    let machine = at(&hub);
    fetch(&machine, "owner/small").unwrap();
    let blob = machine.path("hub/models--owner--small/blobs").join(sha256(&shards[1]));
    let mut flipped = shards[1].clone();
    flipped[7] ^= 1;
    fs::write(&blob, flipped).unwrap();
    assert_eq!(fetch(&machine, "owner/small").unwrap().fetched, 1);
    assert!(fs::read(blob).unwrap() == shards[1]);
}

#[test]
fn a_revision_is_a_branch_a_tag_or_a_commit() {
    let (repository, _) = sharded();
    let files: [(&str, &[u8]); 3] = [
        ("config.json", CONFIG),
        ("preprocessor_config.json", b"{}"),
        ("model.safetensors", b"old weights"),
    ];
    let hub = repository.with("refs/pr/1", &commit('b'), &files).serve();
    let machine = at(&hub);
    for revision in ["refs/pr/1".to_owned(), commit('b')] {
        let fetched = fetch(&machine, &format!("owner/small@{revision}")).unwrap();
        assert_eq!(fetched.commit.unwrap(), commit('b'));
        let weights = fs::read(fetched.folder.join("model.safetensors")).unwrap();
        assert_eq!(weights, b"old weights");
    }
    let refs = machine.path("hub/models--owner--small/refs");
    assert_eq!(fs::read_to_string(refs.join("refs/pr/1")).unwrap(), commit('b'));
    assert_eq!(
        names(&refs),
        ["refs"],
        "a commit needs no note, and `main` was not asked for"
    );
    assert!(matches!(
        cached(&machine, "owner/small@refs/pr/1"),
        CachedModel::Whole(_)
    ));
    assert_eq!(cached(&machine, "owner/small"), CachedModel::Absent);
    let error = fetch(&machine, "owner/small@v9").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`owner/small`: has no such branch, tag or commit"),
        "{error}"
    );
}

#[test]
fn what_python_has_fetched_is_found_and_what_it_has_not_is_named() {
    let machine = Machine::new();
    let folder = machine.path("hub/models--owner--small");
    let snapshot = folder.join("snapshots").join(commit('d'));
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(folder.join("blobs")).unwrap();
    fs::create_dir_all(folder.join("refs")).unwrap();
    // `hf download` notes the commit first, without an end of line.
    fs::write(folder.join("refs/main"), commit('d')).unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let blob = sha256(bytes);
        fs::write(folder.join("blobs").join(&blob), bytes).unwrap();
        symlink(format!("../../blobs/{blob}"), snapshot.join(name)).unwrap();
    };
    let lacking = || match cached(&machine, "owner/small") {
        CachedModel::Partial { lacking, .. } => lacking.join(", "),
        CachedModel::Whole(found) => {
            assert_eq!(found, snapshot);
            "nothing".into()
        }
        CachedModel::Absent => "all".into(),
    };
    let text = lacking();
    assert!(text.contains("`config.json`") && text.contains("its weights"), "{text}");
    put("config.json", CONFIG);
    put("preprocessor_config.json", b"{}");
    put(
        INDEX,
        format!(r#"{{"weight_map": {{"a": "{FIRST}", "b": "{SECOND}"}}}}"#).as_bytes(),
    );
    put(SECOND, b"two");
    assert_eq!(lacking(), format!("`{FIRST}`"));
    put(FIRST, b"one");
    assert_eq!(lacking(), "nothing");
    fs::remove_file(folder.join("blobs").join(sha256(b"two"))).unwrap();
    assert_eq!(lacking(), format!("`{SECOND}`, the bytes of `{SECOND}`"));
}
