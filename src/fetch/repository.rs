//! Repositories of the hub, and where Python's `huggingface_hub` keeps them:
//! `<cache>/{datasets,models}--<owner>--<name>/{blobs/<hash>, refs/<revision>, snapshots/<commit>/<path> -> blob}`.

use std::path::{Path, PathBuf};

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Dataset,
    Model,
}

/// A repository by its `owner/name`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Repository<'a> {
    pub(crate) kind: Kind,
    pub(crate) name: &'a str,
}

impl<'a> Repository<'a> {
    pub(crate) fn dataset(name: &'a str) -> Self {
        let kind = Kind::Dataset;
        Self { kind, name }
    }

    pub(crate) fn model(name: &'a str) -> Self {
        let kind = Kind::Model;
        Self { kind, name }
    }

    /// Name of its folder in the cache.
    pub(super) fn folder_name(&self) -> String {
        let kind = match self.kind {
            Kind::Dataset => "datasets",
            Kind::Model => "models",
        };
        format!("{kind}--{}", self.name.replace('/', "--"))
    }

    /// Its folder in the cache.
    pub(crate) fn folder(&self, cache: &Path) -> PathBuf {
        cache.join(self.folder_name())
    }

    /// The folder of a commit's files.
    pub(crate) fn snapshot(&self, commit: &str, cache: &Path) -> PathBuf {
        self.folder(cache).join("snapshots").join(commit)
    }

    /// The commit that Python's client or an earlier call found for a branch or tag; a commit is itself.
    pub(crate) fn commit(&self, revision: &str, cache: &Path) -> Option<String> {
        if is_hash(revision, 40) {
            return Some(revision.into());
        }
        if !is_inside(revision) {
            return None;
        }
        let text = std::fs::read_to_string(self.folder(cache).join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_hash(commit, 40))
    }

    /// Where the hub answers questions about it, below its endpoint.
    pub(super) fn questions(&self) -> String {
        match self.kind {
            Kind::Dataset => format!("api/datasets/{}", self.name),
            Kind::Model => format!("api/models/{}", self.name),
        }
    }

    /// Its page, and the folder of its files, below the hub's endpoint.
    pub(super) fn page(&self) -> String {
        match self.kind {
            Kind::Dataset => format!("datasets/{}", self.name),
            Kind::Model => self.name.to_owned(),
        }
    }
}

/// Names are `owner/name` of letters, digits and `-_.`, as the hub has them; a few old ones have no owner.
pub(super) fn is_name(repo: &str) -> bool {
    let is_plain = |part: &str| {
        part.chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    repo.split('/').count() <= 2 && is_inside(repo) && repo.split('/').all(is_plain)
}

/// A relative path that stays where it is put.
pub(super) fn is_inside(path: &str) -> bool {
    let is_plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', '\0', ':']);
    path.split('/').all(is_plain)
}

pub(super) fn is_hash(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}
