//! The part of the hub's HTTP interface that datasets and models are fetched by.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::server::{Reply, Request, Server};
use super::sha256;

/// A repository of a dataset, or of a model.
#[derive(Clone, Default)]
pub struct Repository {
    /// `owner/name`.
    pub name: String,
    /// Commit of each branch.
    pub branches: BTreeMap<String, String>,
    /// Files of each commit.
    pub commits: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// Without it nothing is answered.
    pub token: Option<String>,
    /// Without it a model's files are not given, though they are listed.
    pub licence: Option<String>,
    pub is_model: bool,
    /// Where files are redirected to, by their SHA-256.
    pub storage: Option<String>,
}

/// A commit's name: one digit, again and again.
pub fn commit(digit: char) -> String {
    digit.to_string().repeat(40)
}

impl Repository {
    /// With one commit on `main`.
    pub fn new(name: &str, files: &[(&str, &[u8])]) -> Self {
        Self::default().named(name).with("main", &commit('a'), files)
    }

    /// The same of a model.
    pub fn model(name: &str, files: &[(&str, &[u8])]) -> Self {
        Self {
            is_model: true,
            ..Self::new(name, files)
        }
    }

    fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    pub fn with(mut self, branch: &str, commit: &str, files: &[(&str, &[u8])]) -> Self {
        let files = files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec()));
        self.branches.insert(branch.into(), commit.into());
        self.commits.insert(commit.into(), files.collect());
        self
    }

    pub fn serve(self) -> Server {
        Server::new(move |request| self.answer(request))
    }

    pub fn answer(&self, request: &Request) -> Reply {
        let authorization = self.token.as_ref().map(|token| format!("Bearer {token}"));
        if authorization.is_some() && request.header("authorization") != authorization.as_deref() {
            return Reply::status(401);
        }
        let coded = |status, code: &str| Reply::status(status).with("X-Error-Code", code);
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let folder = if self.is_model { "" } else { "/datasets" };
        let (api, resolve) = (self.api(), format!("{folder}/{}/resolve/", self.name));
        if self.is_model && !path.starts_with(&api) && !path.starts_with(&resolve) {
            return coded(401, "RepoNotFound");
        }
        let shown = self.licence.as_ref().map(|token| format!("Bearer {token}"));
        if path.starts_with(&resolve) && shown.is_some() && request.header("authorization") != shown.as_deref() {
            return coded(request.header("authorization").map_or(401, |_| 403), "GatedRepo");
        }
        let answer = if let Some(rest) = path.strip_prefix(&api) {
            match rest.split_once('/') {
                Some(("revision", branch)) => self.revision(&branch.replace("%2F", "/")),
                Some(("tree", tree)) => self.tree(request, tree, query),
                _ => None,
            }
        } else {
            path.strip_prefix(&resolve).and_then(|rest| self.file(request, rest))
        };
        answer.unwrap_or_else(|| match self.is_model {
            true => coded(404, "RevisionNotFound"),
            false => Reply::status(404),
        })
    }

    fn api(&self) -> String {
        let kind = if self.is_model { "models" } else { "datasets" };
        format!("/api/{kind}/{}/", self.name)
    }

    fn revision(&self, branch: &str) -> Option<Reply> {
        let commit = self.branches.get(branch)?;
        Some(Reply::json(&json!({"id": self.name, "sha": commit, "private": false})))
    }

    /// Two files a page.
    fn tree(&self, request: &Request, tree: &str, query: &str) -> Option<Reply> {
        let (commit, folder) = tree.split_once('/').unwrap_or((tree, ""));
        let inside = |path: &str| folder.is_empty() || path.starts_with(&format!("{folder}/"));
        let files: Vec<_> = self
            .commits
            .get(commit)?
            .iter()
            .filter(|(path, _)| inside(path))
            .collect();
        if files.is_empty() && !folder.is_empty() {
            return None;
        }
        let entry = |(path, bytes): &(&String, &Vec<u8>)| {
            let mut entry = json!({"type": "file", "oid": &sha256(bytes)[..40], "size": bytes.len(), "path": path});
            if [".parquet", ".safetensors", "tokenizer.json"]
                .iter()
                .any(|end| path.ends_with(end))
            {
                // Pointer files are what git holds of these.
                entry["lfs"] = json!({"oid": sha256(bytes), "size": bytes.len(), "pointerSize": 134});
            }
            entry
        };
        let mut rows = vec![json!({"type": "directory", "oid": "c".repeat(40), "size": 0, "path": "data"})];
        let page: usize = query.split_once("cursor=").map_or(0, |(_, page)| page.parse().unwrap());
        rows.extend(files.iter().skip(2 * page).take(2).map(entry));
        let reply = Reply::json(&rows.into());
        Some(if files.len() > 2 * (page + 1) {
            let host = request.header("host").unwrap();
            let next = format!(
                "http://{host}{}tree/{tree}?recursive=true&cursor={}",
                self.api(),
                page + 1
            );
            reply.with("Link", &format!("<{next}>; rel=\"next\""))
        } else {
            reply
        })
    }

    fn file(&self, request: &Request, rest: &str) -> Option<Reply> {
        let (commit, path) = rest.split_once('/')?;
        let bytes = self.commits.get(commit)?.get(path)?;
        let hash = sha256(bytes);
        Some(match &self.storage {
            Some(storage) => Reply::redirect(&format!("{storage}/{hash}?signature=secret"))
                .with("X-Repo-Commit", commit)
                .with("X-Linked-Etag", &format!("\"{hash}\""))
                .with("X-Linked-Size", &bytes.len().to_string()),
            None => Reply::file(request, bytes),
        })
    }
}

/// Gives bytes by their SHA-256, as the storage behind the hub does.
pub fn storage(files: &[&[u8]]) -> (Server, Arc<Mutex<Vec<Option<String>>>>) {
    let files: BTreeMap<String, Vec<u8>> = files.iter().map(|bytes| (sha256(bytes), bytes.to_vec())).collect();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let authorizations = Arc::clone(&seen);
    let server = Server::new(move |request| {
        authorizations
            .lock()
            .unwrap()
            .push(request.header("authorization").map(str::to_owned));
        let hash = request.path.trim_start_matches('/').split('?').next().unwrap();
        files
            .get(hash)
            .map_or_else(|| Reply::status(403), |bytes| Reply::file(request, bytes))
    });
    (server, seen)
}
