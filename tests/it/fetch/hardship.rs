//! Each of the four datasets in miniature, in both forms, from servers that fail in every way: the same final bytes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use kshot::manifest::{Form, Manifest};

use super::Machine;
use super::hub_server::Repository;
use super::official::{Official, official};
use super::server::{Reply, Request, Server};
use crate::support::contents;

/// What goes wrong with each file.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// The connection is cut after so many tenths.
    Cut(usize),
    /// So are all connections, and ranges are ignored until the third.
    NoRange,
    /// 429 or 503, twice.
    Busy(u16),
    /// Of the first address only: bytes are missing at the end.
    Short,
    /// Of the first address only.
    Flipped,
}

impl Fault {
    fn strike(self, request: &Request, good: Reply, whole: &[u8], is_last_source: bool) -> Reply {
        match self {
            Self::Cut(tenths) if request.earlier == 0 => good.cut(whole.len() * tenths / 10),
            Self::NoRange if request.earlier < 2 => Reply::whole(whole).cut(whole.len() / 2),
            Self::NoRange => Reply::whole(whole),
            Self::Busy(status) if request.earlier == 0 => Reply::status(status).with("Retry-After", "1"),
            Self::Busy(status) if request.earlier == 1 => Reply::status(status),
            Self::Short if !is_last_source => Reply::whole(&whole[..whole.len() - 1]),
            Self::Flipped if !is_last_source => {
                let mut flipped = whole.to_vec();
                flipped[whole.len() / 2] ^= 1;
                Reply::whole(&flipped)
            }
            _ => good,
        }
    }
}

fn all() -> Vec<Fault> {
    let mut faults = vec![
        Fault::NoRange,
        Fault::Busy(429),
        Fault::Busy(503),
        Fault::Short,
        Fault::Flipped,
    ];
    faults.extend((0..10).map(Fault::Cut));
    faults
}

/// Files by the end of their address.
fn files(set: &Official, repository: &Repository) -> BTreeMap<String, Vec<u8>> {
    let mut files = set.files();
    files.extend(
        repository
            .commits
            .values()
            .flatten()
            .map(|(path, bytes)| (path.clone(), bytes.clone())),
    );
    files
}

/// What a fetch leaves, and how often it asked.
fn outcome(set: &Official, form: Form, fault: Fault) -> (BTreeMap<PathBuf, Vec<u8>>, usize) {
    let repository = Arc::new(set.repository());
    let files = files(set, &repository);
    let server = Server::new(move |request| {
        let found = files
            .iter()
            .find(|(name, _)| request.path.ends_with(&format!("/{name}")));
        match found {
            Some((_, bytes)) => {
                let is_last = !request.path.starts_with("/first/");
                fault.strike(request, Reply::file(request, bytes), bytes, is_last)
            }
            None => repository.answer(request),
        }
    });
    let mut machine = Machine::new();
    machine.remote.hub.endpoint = server.url("");
    machine.remote.mirror = Some(server.url("/first"));
    let path = machine.path(&format!("{}.toml", set.name));
    std::fs::write(&path, set.manifest(Some(&server.url("/official")), true)).unwrap();
    let mut manifest = Manifest::read(&path).unwrap();
    manifest.downloads = machine.path("downloads");
    let (fetched, notes) = machine.fetch(&manifest, form);
    fetched.unwrap_or_else(|e| panic!("{} as {form}, {fault:?}: {e} {notes:?}", set.name));
    let mut left = contents(machine.folder.path());
    left.retain(|path, _| path.extension().is_none_or(|e| e != "lock" && e != "toml") && !path.ends_with(".lock"));
    (left, server.asked().len())
}

#[test]
fn each_of_the_four_survives_every_fault_in_both_forms() {
    for (set, form) in official()
        .iter()
        .flat_map(|set| [(set, Form::Archive), (set, Form::Hub)])
    {
        let (undisturbed, requests) = outcome(set, form, Fault::None);
        assert!(undisturbed.len() >= 2);
        for fault in all() {
            let (left, asked) = outcome(set, form, fault);
            assert_eq!(
                left.keys().collect::<Vec<_>>(),
                undisturbed.keys().collect::<Vec<_>>(),
                "{} as {form}, {fault:?}",
                set.name
            );
            assert!(
                left == undisturbed,
                "{} as {form}: other bytes after {fault:?}",
                set.name
            );
            assert!(asked > requests, "{} as {form}: {fault:?} never struck", set.name);
        }
    }
}
