//! A repository of the hub by its name: a manifest at a fixed commit, then fetched and opened like any other.

use std::fs;

use image::ImageFormat;
use kshot::manifest::Manifest;

use crate::data::hub::{Row, shard};
use crate::fetch::hub_server::{Repository, commit};
use crate::fetch::verb::User;
use crate::hostile::made::encoded;
use crate::support::stderr;

/// A shard of so many images of two classes in turn.
fn images(first: usize, count: usize) -> Vec<u8> {
    let row = |i: usize| -> Row {
        (
            Some(encoded(ImageFormat::Png)),
            format!("{i}.png"),
            Some((i % 2) as i64),
        )
    };
    shard(
        &(first..first + count).map(row).collect::<Vec<_>>(),
        &["grey fox", "cat"],
    )
}

#[test]
fn a_repository_is_named_fetched_and_opened() {
    let (train, test, extra) = (images(0, 8), images(8, 4), images(12, 2));
    let files: [(&str, &[u8]); 4] = [
        ("README.md", b"no parquet"),
        ("data/train-00000-of-00001.parquet", &train),
        ("data/test-00000-of-00001.parquet", &test),
        ("data/unlabelled-00000-of-00001.parquet", &extra),
    ];
    let server = Repository::new("someone/toys", &files).serve();
    let user = User::new();
    let run = |arguments: &[&str]| {
        let output = user
            .kshot(arguments)
            .env("HF_ENDPOINT", server.url(""))
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout.clone()).unwrap(),
            stderr(&output),
        )
    };
    let (code, said, trouble) = run(&["data", "import", "someone/toys", "--name", "toys"]);
    assert_eq!(code, Some(0), "{trouble}");
    let said = said.replace(user.folder.path().to_str().unwrap(), "[TMP]");
    insta::assert_snapshot!(said);
    let manifest = Manifest::read(&user.path("datasets/toys.toml")).unwrap();
    let hub = manifest.hub.unwrap();
    assert_eq!(hub.revision, commit('a'));
    assert_eq!(
        (hub.train, hub.val, hub.test),
        (vec!["train".into()], vec![], vec!["test".into()])
    );
    assert!(
        hub.shards
            .iter()
            .all(|shard| shard.size.is_some() && shard.sha256.is_some())
    );

    let (code, _, trouble) = run(&["data", "fetch", "toys"]);
    assert_eq!(code, Some(0), "{trouble}");
    let (code, said, trouble) = run(&["data", "show", "toys"]);
    assert_eq!(code, Some(0), "{trouble}");
    assert!(said.contains("grey fox") && said.contains("cat"), "{said}");

    // A second time, and a repository that is not there.
    let (code, _, trouble) = run(&["data", "import", "someone/toys", "--name", "toys"]);
    assert!(code == Some(2) && trouble.contains("is there already"), "{trouble}");
    let (code, _, trouble) = run(&["data", "import", "someone/nothing", "--name", "nothing"]);
    assert!(
        code == Some(2) && trouble.contains("someone/nothing") && trouble.contains("hint: "),
        "{trouble}"
    );
    assert!(!user.path("datasets/nothing.toml").exists());
}

#[test]
fn a_repository_without_images_or_split_is_refused() {
    let table = crate::import::parquet(&[("text", &[Some("a")]), ("label", &[Some("b")])]);
    let (one, two) = (images(0, 4), images(4, 4));
    let files = |files: &[(&str, &[u8])]| Repository::new("someone/toys", files).serve();
    let cases = [
        files(&[("data/train-00000-of-00001.parquet", &table)]),
        files(&[
            ("data/a-00000-of-00001.parquet", &one),
            ("data/b-00000-of-00001.parquet", &two),
        ]),
        files(&[("data/train-00000-of-00001.parquet", b"this is no parquet file")]),
    ];
    let user = User::new();
    let said = cases.map(|server| {
        let arguments = ["data", "import", "someone/toys", "--name", "toys"];
        let output = user
            .kshot(&arguments)
            .env("HF_ENDPOINT", server.url(""))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        stderr(&output)
    });
    assert!(fs::read_dir(user.path("datasets")).unwrap().next().is_none());
    insta::assert_snapshot!(said.join("\n"));
}

/// One split under another name is what there is to learn from, and a share of it is kept for the test.
#[test]
fn a_single_split_is_split_by_share() {
    let all = images(0, 20);
    let server = Repository::new("someone/toys", &[("data/full-00000-of-00001.parquet", &all)]).serve();
    let user = User::new();
    for arguments in [
        ["import", "someone/toys", "--name", "toys"].as_slice(),
        &["fetch", "toys"],
        &["show", "toys"],
    ] {
        let arguments = [&["data"], arguments].concat();
        let output = user
            .kshot(&arguments)
            .env("HF_ENDPOINT", server.url(""))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let said = String::from_utf8(output.stdout).unwrap();
        if arguments.contains(&"show") {
            assert!(
                said.contains("14 images to draw shots from") && said.contains("6 test images"),
                "{said}"
            );
        }
    }
}
