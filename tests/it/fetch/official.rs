//! The four datasets in miniature, in their official forms: fetched from each kind of source, then opened.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use kshot::config::Protocol;
use kshot::data;
use kshot::data::Dataset;
use kshot::fetch::HubSettings;

use super::hub_server::Repository;
use super::server::{Reply, Server};
use super::verb::User;
use crate::data::fixture::{Fixture, gz, jpeg, labels, tar};
use crate::data::hub::{Row, shard};
use crate::data::layouts::{COOP_CALTECH, caltech, cars, flowers, pets_annotations, pets_images};
use crate::support::{contents, stderr};

/// A dataset in the official archives, and what its repository holds.
pub struct Official {
    pub name: &'static str,
    archives: Fixture,
    /// Classes in label order, and how many rows its splits have.
    classes: &'static [&'static str],
    pub splits: &'static [(&'static str, usize)],
    /// Lines in `[hub]`.
    hub: &'static str,
}

pub fn official() -> [Official; 4] {
    let pets = Fixture::new("oxford-pets", "")
        .file("images", "images.tar.gz", &gz(&tar(pets_images())))
        .file("annotations", "annotations.tar.gz", &pets_annotations());
    [
        Official {
            name: "oxford-pets",
            archives: pets,
            classes: &["Abyssinian", "american_bulldog", "Bengal"],
            splits: &[("train", 4), ("test", 3)],
            hub: "",
        },
        Official {
            name: "stanford-cars",
            archives: cars(true),
            classes: &["Ram C/V Cargo Van Minivan 2012", "AM General Hummer SUV 2000"],
            splits: &[("train", 3), ("test", 2)],
            hub: "",
        },
        Official {
            name: "oxford-flowers",
            archives: flowers(&[1, 2, 2, 1, 2, 1]),
            classes: &["pink primrose", "hard-leaved pocket orchid"],
            splits: &[("train", 2), ("validation", 2), ("test", 3)],
            hub: "val = [\"validation\"]\n",
        },
        Official {
            name: "caltech101",
            archives: caltech("Faces", COOP_CALTECH.as_bytes()),
            classes: &["accordion", "background_google"],
            splits: &[("train", 2), ("test", 2)],
            hub: "",
        },
    ]
}

impl Official {
    /// Archives by name.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let files = contents(&self.archives.datasets());
        files
            .into_iter()
            .map(|(path, bytes)| (path.to_str().unwrap().to_owned(), bytes))
            .collect()
    }

    /// The manifest with files from these addresses.
    pub fn manifest(&self, base: Option<&str>, hub: bool) -> String {
        let text = self
            .archives
            .manifest
            .replace("name = \"toy\"", &format!("name = \"{}\"", self.name));
        let text: String = text
            .lines()
            .map(|line| match line.strip_prefix("path = \"") {
                Some(name) => {
                    let name = name.trim_end_matches('"');
                    base.map(|base| format!("urls = [\"{base}/{name}\"]\n"))
                        .unwrap_or_default()
                }
                None => format!("{line}\n"),
            })
            .collect();
        let hub = if hub {
            format!(
                "[hub]\nrepo = \"someone/{}\"\nrevision = \"main\"\n{}",
                self.name, self.hub
            )
        } else {
            String::new()
        };
        text + &hub
    }

    pub fn repository(&self) -> Repository {
        let mut colour = 0;
        let files: Vec<(String, Vec<u8>)> = self
            .splits
            .iter()
            .map(|(split, count)| {
                let row = |i| -> Row {
                    colour += 11;
                    (
                        Some(jpeg(colour)),
                        format!("{i}.jpg"),
                        Some(i as i64 % self.classes.len() as i64),
                    )
                };
                let rows: Vec<Row> = (0..*count).map(row).collect();
                (
                    format!("data/{split}-00000-of-00001.parquet"),
                    shard(&rows, self.classes),
                )
            })
            .collect();
        let files: Vec<(&str, &[u8])> = files
            .iter()
            .map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
            .collect();
        Repository::new(&format!("someone/{}", self.name), &files)
    }

    /// What was fetched, opened without a network.
    pub fn open(&self, user: &User, protocol: Protocol) -> Dataset {
        let places = HubSettings {
            endpoint: "http://127.0.0.1:9".into(),
            cache: user.path("hf/hub"),
            token: None,
            offline: true,
        };
        data::open_with(
            self.name,
            protocol,
            &user.path("datasets"),
            &user.path("cache"),
            &places,
        )
        .unwrap()
    }
}

pub fn write(user: &User, name: &str, manifest: &str) {
    fs::write(user.path(&format!("datasets/{name}.toml")), manifest).unwrap();
}

/// `kshot data fetch` and then, without a network, `kshot data show`; gives what the latter prints.
#[track_caller]
fn fetch_and_show(user: &User, name: &str, environment: &[(&str, &str)]) -> String {
    let mut fetch = user.kshot(&["data", "fetch", name]);
    let output = fetch.envs(environment.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{name}: {}", stderr(&output));
    let output = user
        .kshot(&["data", "show", name])
        .env("KSHOT_OFFLINE", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{name}: {}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn archives_come_from_their_address_or_a_mirror() {
    for set in official() {
        let files = set.files();
        let served = files.clone();
        let server = Server::new(move |request| {
            let name = request.path.rsplit('/').next().unwrap();
            served
                .get(name)
                .map_or_else(|| Reply::status(404), |bytes| Reply::file(request, bytes))
        });
        // As the manifest says; a mirror that is a URL; one that is a folder.
        let addressed = User::new();
        write(
            &addressed,
            set.name,
            &set.manifest(Some(&server.url("/official")), false),
        );
        let shown = fetch_and_show(&addressed, set.name, &[]);
        let missing = server.url("/gone");
        let mirrored = User::new();
        write(&mirrored, set.name, &set.manifest(None, false));
        let by_url = fetch_and_show(&mirrored, set.name, &[("KSHOT_MIRROR", &server.url("/mirror"))]);
        let from_folder = User::new();
        write(&from_folder, set.name, &set.manifest(Some(&missing), false));
        let folder = from_folder.path("mirror");
        fs::create_dir_all(folder.join(set.name)).unwrap();
        for (name, bytes) in &files {
            fs::write(folder.join(set.name).join(name), bytes).unwrap();
        }
        let by_folder = fetch_and_show(&from_folder, set.name, &[("KSHOT_MIRROR", folder.to_str().unwrap())]);
        assert_eq!((&shown, &shown), (&by_url, &by_folder));
        let (opened, original) = (set.open(&addressed, Protocol::Clean), set.archives.open().unwrap());
        assert_eq!(opened.classes, original.classes);
        assert_eq!(
            (labels(&opened.pool), labels(&opened.test)),
            (labels(&original.pool), labels(&original.test))
        );
        assert!(
            shown.contains(&format!("{} classes", original.classes.len())),
            "{shown}"
        );
        let asked: Vec<_> = server.asked().into_iter().map(|request| request.path).collect();
        assert!(
            asked
                .iter()
                .all(|path| path.starts_with("/official/") || path.starts_with(&format!("/mirror/{}/", set.name)))
        );
        assert_eq!(asked.len(), 2 * files.len());
        assert_eq!(
            contents(&addressed.path("cache/downloads")),
            contents(&from_folder.path("cache/downloads"))
        );
    }
}

#[test]
fn hub_files_come_with_classes_and_splits() {
    for set in official() {
        let hub = set.repository().serve();
        let user = User::new();
        // Archives that are gone: the hub's files are taken instead.
        let gone = Server::new(|_| Reply::status(404));
        write(&user, set.name, &set.manifest(Some(&gone.url("")), true));
        let mut fetch = user.kshot(&["data", "fetch", set.name]);
        let output = fetch.env("HF_ENDPOINT", hub.url("")).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(stderr(&output).contains("so its hub is fetched"), "{}", stderr(&output));
        let opened = set.open(&user, Protocol::Tinker);
        assert_eq!(opened.classes, set.classes);
        let rows = |wanted: &str| {
            set.splits
                .iter()
                .find(|(split, _)| *split == wanted)
                .map_or(0, |(_, rows)| *rows)
        };
        assert_eq!((opened.pool.len(), opened.test.len()), (rows("train"), rows("test")));
        assert_eq!(opened.origin.revision, Some(super::hub_server::commit('a')));
        let show = |protocol| {
            let mut show = user.kshot(&["data", "show", set.name, "--protocol", protocol]);
            let output = show.env("KSHOT_OFFLINE", "1").output().unwrap();
            assert!(output.status.success(), "{}", stderr(&output));
            String::from_utf8(output.stdout).unwrap()
        };
        assert!(
            show("tinker").contains(&super::hub_server::commit('a')),
            "{}",
            show("tinker")
        );
        if set.name != "caltech101" {
            let clean = set.open(&user, Protocol::Clean);
            assert_eq!(
                (clean.pool.len(), clean.test.len()),
                (rows("train") + rows("validation"), rows("test"))
            );
            assert!(show("clean").contains(&format!("{} classes", set.classes.len())));
        }
    }
}

#[test]
fn what_is_not_fetched_says_how_to_fetch_it() {
    let [pets, ..] = official();
    let user = User::new();
    write(&user, pets.name, &pets.manifest(None, true));
    let output = user.kshot(&["data", "show", pets.name]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    let place = user.path("cache/downloads/oxford-pets/images.tar.gz");
    for wanted in [
        "`oxford-pets` is not on this machine",
        place.to_str().unwrap(),
        "kshot data fetch",
    ] {
        assert!(said.contains(wanted), "`{wanted}` is not in: {said}");
    }
    assert!(
        Path::new(&user.path("cache/datasets/oxford-pets"))
            .read_dir()
            .is_ok_and(|mut d| d.next().is_none())
            || !user.path("cache/datasets/oxford-pets").exists()
    );
}
