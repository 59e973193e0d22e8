//! Where a file comes from: a mirror, an address, the user's own hand.

use std::fs;

use kshot::error::Error;
use kshot::fetch;
use kshot::manifest::Form;

use super::server::{Reply, Server};
use super::{Machine, noise};

const SIZE: usize = 30_000;

#[test]
fn a_mirror_is_asked_first_whether_address_or_folder() {
    let bytes = noise(SIZE, 1);
    let official = Server::new(|_| Reply::status(404));
    let served = bytes.clone();
    let mirror = Server::new(move |request| match request.path.as_str() {
        "/base/toy/a.tgz" => Reply::file(request, &served),
        _ => Reply::status(404),
    });
    let mut machine = Machine::new();
    machine.remote.mirror = Some(mirror.url("/base"));
    machine.succeed(&bytes, &[official.url("/a.tgz")]);

    let mut machine = Machine::new();
    fs::create_dir_all(machine.path("mirror/toy")).unwrap();
    fs::write(machine.path("mirror/toy/a.tgz"), &bytes).unwrap();
    for form in ["", "file://"] {
        machine.remote.mirror = Some(format!("{form}{}", machine.path("mirror").display()));
        machine.succeed(&bytes, &[official.url("/a.tgz")]);
        fs::remove_file(machine.path("downloads/toy/a.tgz")).unwrap();
    }
    assert_eq!(official.asked().len(), 0);
}

#[test]
fn a_mirror_is_not_believed() {
    let bytes = noise(SIZE, 2);
    let served = bytes.clone();
    let official = Server::new(move |request| Reply::file(request, &served));
    let mut flipped = bytes.clone();
    flipped[SIZE / 3] ^= 8;
    for wrong in [None, Some(flipped), Some(bytes[..9].to_vec())] {
        let mut machine = Machine::new();
        machine.remote.mirror = Some(machine.path("mirror").display().to_string());
        fs::create_dir_all(machine.path("mirror/toy")).unwrap();
        if let Some(wrong) = wrong {
            fs::write(machine.path("mirror/toy/a.tgz"), wrong).unwrap();
        }
        let notes = machine.succeed(&bytes, &[official.url("/a.tgz")]);
        assert!(notes[0].contains("mirror/toy/a.tgz"), "{notes:?}");
    }
}

#[test]
fn the_next_address_is_taken_until_one_is_right() {
    let bytes = noise(SIZE, 3);
    let served = bytes.clone();
    let server = Server::new(move |request| match request.path.as_str() {
        "/third" => Reply::file(request, &served),
        "/second" => Reply::whole(&noise(SIZE, 4)),
        _ => Reply::status(404),
    });
    let machine = Machine::new();
    machine.succeed(&bytes, &["/first", "/second", "/third"].map(|path| server.url(path)));
    let asked: Vec<_> = server.asked().into_iter().map(|request| request.path).collect();
    assert_eq!(asked, ["/first", "/second", "/third"]);
}

#[test]
fn a_file_that_was_put_there_by_hand_is_checked_and_taken() {
    let bytes = noise(SIZE, 5);
    let served = bytes.clone();
    let server = Server::new(move |request| Reply::file(request, &served));
    let machine = Machine::new();
    fs::create_dir_all(machine.path("downloads/toy")).unwrap();
    fs::write(machine.path("downloads/toy/a.tgz"), &bytes).unwrap();
    machine.succeed(&bytes, &[server.url("/a.tgz")]);
    assert_eq!(server.asked().len(), 0);

    // One with wrong bytes loses the name, but is not destroyed.
    fs::write(machine.path("downloads/toy/a.tgz"), b"something else").unwrap();
    let (outcome, notes) = machine.fetch(&machine.archive(&bytes, &[server.url("/a.tgz")]), Form::Archive);
    assert_eq!(outcome.unwrap().fetched, 1);
    assert!(notes[0].contains("has 14 bytes instead of 30000"), "{notes:?}");
    assert_eq!(machine.downloads(), ["a.tgz", "a.tgz.rejected"]);
    assert!(fs::read(machine.path("downloads/toy/a.tgz")).unwrap() == bytes);
    assert_eq!(
        fs::read(machine.path("downloads/toy/a.tgz.rejected")).unwrap(),
        b"something else"
    );
}

#[test]
fn offline_no_connection_is_made_and_the_file_is_named() {
    let bytes = noise(SIZE, 6);
    let server = Server::new(|_| Reply::status(500));
    let mut machine = Machine::new();
    machine.remote.hub.offline = true;
    let manifest = machine.archive(&bytes, &[server.url("/a.tgz")]);
    let error = machine.fetch(&manifest, Form::Archive).0.unwrap_err();
    let place = machine.path("downloads/toy/a.tgz");
    for wanted in [
        "30000 bytes",
        &super::sha256(&bytes),
        place.to_str().unwrap(),
        "KSHOT_OFFLINE",
    ] {
        assert!(error.to_string().contains(wanted), "`{wanted}` is not in: {error}");
    }
    assert!(error.hint().unwrap().contains("by hand"));
    assert_eq!(server.asked().len(), 0);

    // A folder is no connection, and a file that was put there is taken.
    fs::create_dir_all(machine.path("mirror/toy")).unwrap();
    fs::write(machine.path("mirror/toy/a.tgz"), &bytes).unwrap();
    machine.remote.mirror = Some(machine.path("mirror").display().to_string());
    machine.succeed(&bytes, &[server.url("/a.tgz")]);
    machine.remote.mirror = None;
    machine.succeed(&bytes, &[server.url("/a.tgz")]);
    assert_eq!(server.asked().len(), 0);
}

#[test]
fn several_files_come_in_together_and_each_failure_is_told() {
    let bytes: Vec<Vec<u8>> = (0..3).map(|seed| noise(SIZE, seed)).collect();
    let served = bytes.clone();
    let server = Server::new(move |request| match request.path.as_str() {
        "/a" => Reply::file(request, &served[0]),
        "/e" => Reply::file(request, &served[1]),
        "/b" => Reply::status(404),
        _ => Reply::status(410),
    });
    let machine = Machine::new();
    let roles = ["train-images", "test-images", "devkit", "test-labels", "coop-split"];
    let files: String = roles
        .iter()
        .zip(["a", "b", "c", "d", "e"])
        .zip([0, 1, 2, 2, 1])
        .map(|((role, name), i)| {
            format!(
                "[[file]]\nrole = \"{role}\"\nname = \"{name}\"\nurls = [\"{}\"]\nsize = {SIZE}\nsha256 = \"{}\"\n",
                server.url(&format!("/{name}")),
                super::sha256(&bytes[i])
            )
        })
        .collect();
    let manifest = machine.manifest_of("stanford-cars", &files);
    let (outcome, notes) = machine.fetch(&manifest, Form::Archive);
    let Err(Error::NotFetchable { files, .. }) = outcome else {
        panic!("{outcome:?}")
    };
    let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
    // The labels may come from the other file: that they are missing is told, but is no failure.
    assert_eq!(names, ["toy/b", "toy/c"]);
    assert!(notes.iter().any(|note| note.contains("toy/d: left out")), "{notes:?}");
    assert_eq!(machine.downloads(), ["a", "e"]);
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let machine = Machine::new();
    for name in ["../a", "/etc/a", "a/b", "..", ".lock", ""] {
        let path = machine.path("toy.toml");
        machine.archive(b"x", &[]);
        let text = fs::read_to_string(&path)
            .unwrap()
            .replace("\"a.tgz\"", &format!("\"{name}\""));
        fs::write(&path, text).unwrap();
        let error = kshot::manifest::Manifest::read(&path).unwrap_err();
        assert!(error.to_string().contains("cannot be the name of a file"), "{error}");
    }
}

#[test]
fn a_dataset_on_this_machine_has_nothing_to_fetch() {
    let machine = Machine::new();
    assert_eq!(fetch::forms(&machine.manifest("directory = \"x\"\n")), []);
    let hub = "\n[hub]\nrepo = \"a/b\"\nrevision = \"main\"\n";
    let file = "[[file]]\nrole = \"archive\"\nname = \"a\"\nsize = 1\nmd5 = \"00000000000000000000000000000000\"\n";
    for (prefer, wanted) in [
        ("", [Form::Archive, Form::Hub]),
        ("prefer = \"hub\"\n", [Form::Hub, Form::Archive]),
    ] {
        assert_eq!(fetch::forms(&machine.manifest(&format!("{prefer}{file}{hub}"))), wanted);
    }
}
