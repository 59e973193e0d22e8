//! One file from the first of its sources that gives the right bytes.
//!
//! Bytes are gathered beside the file's place and get its name only when length and hash are right. An interrupted
//! transfer is continued, by this process or a later one; bytes of several sources that do not make the right file
//! together are thrown away and fetched once more from this source alone.

use std::fs::{File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{fs, io, thread};

use reqwest::StatusCode;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderName, IF_RANGE, RANGE};

use crate::error::{Error, MissingFile, Result};
use crate::fetch::FetchProgress;
use crate::fetch::client::{Client, Remote, Trouble, encoded_path, shown};
use crate::fs::file::{self, next_bytes};
use crate::fs::hash::hash;
use crate::http::Response;

/// An address of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Url(String),
    /// A URL that may not be asked.
    Offline(String),
    /// A file of a mirror on this machine.
    Path(PathBuf),
}

impl Address {
    /// The addresses of a file, as far as they may be asked: below the mirror by its parts, then the others.
    pub(crate) fn list(remote: &Remote, parts: &[&str], others: impl Iterator<Item = String>) -> Vec<Self> {
        let mirror = remote.mirror.iter().map(|base| Self::of_mirror(base, parts));
        let usable = |source| match source {
            Self::Url(url) if remote.hub.offline => Self::Offline(url),
            other => other,
        };
        mirror.chain(others.map(Self::Url)).map(usable).collect()
    }

    /// `<base>/<part>/<part>…` of a mirror that is a URL or a folder.
    fn of_mirror(base: &str, parts: &[&str]) -> Self {
        let folder = base.strip_prefix("file://").unwrap_or(base);
        if folder.contains("://") {
            let parts: Vec<String> = parts.iter().map(|part| encoded_path(part)).collect();
            Self::Url(format!("{base}/{}", parts.join("/")))
        } else {
            Self::Path(parts.iter().fold(PathBuf::from(folder), |path, part| path.join(part)))
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Url(url) | Self::Offline(url) => shown(url),
            Self::Path(path) => path.display().to_string(),
        }
    }
}

/// A file that is to be had.
#[derive(Debug, Clone)]
pub(super) struct Download {
    /// Its name in messages.
    pub name: String,
    /// Path it belongs at.
    pub place: PathBuf,
    /// Path at which its bytes are gathered, on the same device.
    pub partial: PathBuf,
    pub size: u64,
    /// Kind and lower-case hex value of its hash.
    pub digest: Option<(&'static str, String)>,
    /// In order of preference.
    pub sources: Vec<Address>,
}

/// Why a source did not give a file.
enum DownloadError {
    /// Another source may.
    Address(String),
    /// Something on this machine is wrong: no source will.
    Machine(Error),
}

impl From<Error> for DownloadError {
    fn from(error: Error) -> Self {
        Self::Machine(error)
    }
}

impl Download {
    /// Is this file there, with the right length and hash? `Err` of what is wrong with it.
    pub(crate) fn check(&self, path: &Path) -> Result<Result<(), String>> {
        let found = match fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Err("not there".into())),
            Err(e) => return Err(Error::io("read", path)(e)),
        };
        if found != self.size {
            return Ok(Err(format!("has {found} bytes instead of {}", self.size)));
        }
        match &self.digest {
            Some((kind, expected)) => Ok(match hash(path, kind)? {
                found if found == *expected => Ok(()),
                found => Err(format!("has {kind} {found} instead of {expected}")),
            }),
            None => Ok(Ok(())),
        }
    }

    /// The report that none of its sources gave it. `place`: the path that a person would put it at.
    pub(crate) fn missing(&self, place: &Path, sources: Vec<(String, String)>) -> MissingFile {
        MissingFile {
            name: self.name.clone(),
            size: self.size,
            digest: self.digest.clone(),
            place: place.into(),
            sources,
        }
    }

    /// Bytes that have arrived already.
    pub(crate) fn arrived(&self) -> u64 {
        fs::metadata(&self.partial).map_or(0, |found| found.len().min(self.size))
    }

    /// Fetches the file; `Ok(Err)` lists every source with its reason.
    pub(crate) fn obtain(
        &self,
        client: &Client,
        progress: &dyn FetchProgress,
    ) -> Result<Result<(), Vec<(String, String)>>> {
        let mut refused = Vec::new();
        progress.begin(&self.name, self.size, self.arrived());
        for source in &self.sources {
            let outcome = match source {
                Address::Path(path) => self.copy(path, progress),
                Address::Url(url) => {
                    let transfer = Transfer {
                        download: self,
                        url,
                        client,
                        progress,
                        alone: false,
                        etag: None,
                    };
                    transfer.run()
                }
                Address::Offline(_) => {
                    let reason = "not asked, as KSHOT_OFFLINE or HF_HUB_OFFLINE is set";
                    refused.push((source.shown(), reason.into()));
                    continue;
                }
            };
            match outcome.and_then(|()| Ok(self.accept()?)) {
                Ok(()) => {
                    progress.end(&self.name, true);
                    return Ok(Ok(()));
                }
                Err(DownloadError::Address(reason)) => {
                    progress.note(&format!("{}: {}: {reason}", self.name, source.shown()));
                    refused.push((source.shown(), reason));
                }
                Err(DownloadError::Machine(error)) => {
                    progress.end(&self.name, false);
                    return Err(error);
                }
            }
        }
        progress.end(&self.name, false);
        Ok(Err(refused))
    }

    /// The gathered bytes are right: they get the file's name, for good.
    fn accept(&self) -> Result<()> {
        let synced = File::open(&self.partial).and_then(|file| file.sync_all());
        synced.map_err(Error::io("write", &self.partial))?;
        fs::rename(&self.partial, &self.place).map_err(Error::io("write", &self.place))?;
        let folder = self.place.parent().unwrap_or(Path::new("."));
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(Error::io("write", folder))
    }

    pub(crate) fn discard(&self) -> Result<()> {
        file::remove_if_present(&self.partial)
    }

    fn copy(&self, from: &Path, progress: &dyn FetchProgress) -> Result<(), DownloadError> {
        let mut source = File::open(from).map_err(|e| DownloadError::Address(e.to_string()))?;
        let length = source.metadata().map_or(0, |metadata| metadata.len());
        if length != self.size {
            return Err(DownloadError::Address(format!(
                "has {length} bytes instead of {}",
                self.size
            )));
        }
        let mut target = File::create(&self.partial).map_err(Error::io("write", &self.partial))?;
        let mut chunk = vec![0; 1 << 20];
        let mut copied = 0;
        loop {
            let bytes = next_bytes(&mut source, &mut chunk).map_err(|e| DownloadError::Address(e.to_string()))?;
            if bytes.is_empty() {
                break;
            }
            target.write_all(bytes).map_err(Error::io("write", &self.partial))?;
            copied += bytes.len() as u64;
            progress.at(&self.name, copied);
        }
        self.check(&self.partial)?.map_err(|reason| match self.discard() {
            Ok(()) => DownloadError::Address(reason),
            Err(error) => DownloadError::Machine(error),
        })
    }
}

/// Outcome of one request.
enum Attempt {
    /// All bytes have arrived, right or wrong.
    Complete,
    /// To be tried again, from where it stands.
    Again(Trouble),
    /// To be tried again from the first byte.
    Anew(String),
}

/// The transfer of a file from one URL.
struct Transfer<'a> {
    download: &'a Download,
    url: &'a str,
    client: &'a Client,
    progress: &'a dyn FetchProgress,
    /// Every byte gathered so far came from this URL.
    alone: bool,
    /// Version of the file, where the server names it.
    etag: Option<String>,
}

impl Transfer<'_> {
    /// Ends with the right bytes gathered.
    fn run(mut self) -> Result<(), DownloadError> {
        let size = self.download.size;
        let policy = &self.client.remote.policy;
        // A hundredth more than ever before is progress: attempts are counted anew, but not for ever.
        let mut furthest = self.download.arrived();
        let mut failed = 0;
        loop {
            let outcome = if self.length()? == Some(size) {
                Attempt::Complete
            } else {
                self.attempt()?
            };
            let (reason, after) = match outcome {
                Attempt::Complete => match self.download.check(&self.download.partial)? {
                    Ok(()) => return Ok(()),
                    Err(reason) => {
                        let alone = self.alone;
                        self.restart()?;
                        if alone {
                            return Err(DownloadError::Address(reason));
                        }
                        // Nothing is known against this source yet.
                        (furthest, failed) = (0, 0);
                        continue;
                    }
                },
                Attempt::Again(trouble) if !trouble.passes => return Err(DownloadError::Address(trouble.reason)),
                Attempt::Again(trouble) => (trouble.reason, trouble.after),
                Attempt::Anew(reason) => {
                    self.restart()?;
                    (reason, None)
                }
            };
            let arrived = self.download.arrived();
            if arrived >= furthest + size.div_ceil(100).max(1) {
                (furthest, failed) = (arrived, 0);
            }
            failed += 1;
            if failed >= policy.tries {
                return Err(DownloadError::Address(format!(
                    "{reason} ({failed} times without progress)"
                )));
            }
            let wait = policy.wait(self.url, failed - 1, after);
            self.progress.note(&format!(
                "{}: {reason} at byte {arrived}, again in {:.2} s",
                self.download.name,
                wait.as_secs_f64()
            ));
            thread::sleep(wait);
        }
    }

    /// Bytes gathered; more than there can be are thrown away.
    fn length(&mut self) -> Result<Option<u64>> {
        match fs::metadata(&self.download.partial) {
            Ok(found) if found.len() > self.download.size => self.restart().map(|()| None),
            Ok(found) => Ok(Some(found.len())),
            Err(_) => Ok(None),
        }
    }

    fn restart(&mut self) -> Result<()> {
        self.download.discard()?;
        (self.alone, self.etag) = (true, None);
        self.progress.at(&self.download.name, 0);
        Ok(())
    }

    /// One request for what is missing.
    fn attempt(&mut self) -> Result<Attempt> {
        let size = self.download.size;
        let from = self.length()?.unwrap_or(0);
        if from == 0 {
            self.alone = true;
        }
        let mut headers: Vec<(HeaderName, String)> = Vec::new();
        if from > 0 {
            headers.push((RANGE, format!("bytes={from}-")));
            headers.extend(self.etag.clone().map(|etag| (IF_RANGE, etag)));
        }
        let response = match self.client.get(self.url, &headers, None) {
            Err(Trouble { status, .. }) if from > 0 && status == Some(StatusCode::RANGE_NOT_SATISFIABLE) => {
                return Ok(Attempt::Anew(format!("has no byte {from}")));
            }
            Err(trouble) => return Ok(Attempt::Again(trouble)),
            Ok(response) => response,
        };
        let from = if response.status == StatusCode::PARTIAL_CONTENT {
            let range = response.header(&CONTENT_RANGE).and_then(content_range);
            match range {
                Some((_, Some(total))) if total != size => {
                    return Ok(Attempt::Again(wrong_length(total, size)));
                }
                Some((first, _)) if first == from && from > 0 => from,
                _ => {
                    return Ok(Attempt::Anew(
                        "sends another part of the file than was asked for".into(),
                    ));
                }
            }
        } else {
            let length = response.header(&CONTENT_LENGTH).and_then(|value| value.parse().ok());
            if let Some(length) = length.filter(|length| *length != size) {
                return Ok(Attempt::Again(wrong_length(length, size)));
            }
            self.alone = true;
            0
        };
        // A weak one says nothing about bytes.
        let etag = response.header(&ETAG).filter(|etag| etag.starts_with('"'));
        let etag = etag.map(str::to_owned);
        if from > 0 && self.etag.is_some() && etag.is_some() && etag != self.etag {
            return Ok(Attempt::Anew("has changed meanwhile".into()));
        }
        self.etag = etag.or(self.etag.take()).filter(|_| self.alone);
        self.receive(from, response)
    }

    /// Appends what a server sends to the bytes before `from`.
    fn receive(&mut self, from: u64, mut response: Response) -> Result<Attempt> {
        let size = self.download.size;
        let partial = &self.download.partial;
        let failed = || Error::io("write", partial);
        let mut options = OpenOptions::new();
        let mut file = options
            .create(true)
            .write(true)
            .truncate(false)
            .open(partial)
            .map_err(failed())?;
        file.set_len(from).map_err(failed())?;
        file.seek(SeekFrom::Start(from)).map_err(failed())?;
        let (least, window) = self.client.remote.policy.slowest;
        let mut since = (Instant::now(), from);
        let mut at = from;
        loop {
            let bytes = match response.chunk() {
                Ok(Some(bytes)) => bytes,
                Ok(None) => break,
                Err(failure) => return Ok(Attempt::Again(failure.into())),
            };
            at += bytes.len() as u64;
            if at > size {
                drop(file);
                self.restart()?;
                return Ok(Attempt::Again(Trouble::lasting(format!(
                    "sends more than {size} bytes"
                ))));
            }
            file.write_all(&bytes).map_err(failed())?;
            self.progress.at(&self.download.name, at);
            if since.0.elapsed() >= window {
                if at - since.1 < least && at < size {
                    return Ok(Attempt::Again(Trouble::passing("too slow")));
                }
                since = (Instant::now(), at);
            }
        }
        if at < size {
            return Ok(Attempt::Again(Trouble::passing(format!(
                "ends after {at} of {size} bytes"
            ))));
        }
        Ok(Attempt::Complete)
    }
}

fn wrong_length(found: u64, expected: u64) -> Trouble {
    Trouble::lasting(format!("has {found} bytes instead of {expected}"))
}

/// First byte and length of the whole file, of `bytes 5-9/10` (RFC 9110, 14.4).
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.trim().parse().ok()?, total.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for wrong in ["", "5-9/10", "bytes */10", "bytes 5/10", "bytes x-9/10"] {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }
}
