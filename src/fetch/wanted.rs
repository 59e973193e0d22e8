//! One file from the first of its sources that gives the right bytes.
//!
//! Bytes are gathered beside the file's place and get its name only when length and hash are right.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::fetch::FetchProgress;
use crate::fetch::client::{Client, encoded_path, shown};
use crate::fetch::transfer::Transfer;
use crate::fs::hash::hash;

/// Where a file may be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Url(String),
    /// A URL that may not be asked.
    Offline(String),
    /// A file of a mirror on this machine.
    Path(PathBuf),
}

impl Source {
    /// `<base>/<part>/<part>…` of a mirror that is a URL or a folder.
    pub(super) fn of_mirror(base: &str, parts: &[&str]) -> Self {
        let folder = base.strip_prefix("file://").unwrap_or(base);
        if folder.contains("://") {
            let parts: Vec<String> = parts.iter().map(|part| encoded_path(part)).collect();
            Self::Url(format!("{base}/{}", parts.join("/")))
        } else {
            Self::Path(parts.iter().fold(PathBuf::from(folder), |path, part| path.join(part)))
        }
    }

    pub(super) fn shown(&self) -> String {
        match self {
            Self::Url(url) | Self::Offline(url) => shown(url),
            Self::Path(path) => path.display().to_string(),
        }
    }
}

/// A file that is to be had.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// What people call it.
    pub name: String,
    /// Where it belongs.
    pub place: PathBuf,
    /// Where its bytes are gathered, on the same device.
    pub partial: PathBuf,
    pub size: u64,
    /// Kind and lower-case hex value of its hash.
    pub digest: Option<(&'static str, String)>,
    /// In order of preference.
    pub sources: Vec<Source>,
}

/// Why a source did not give a file.
pub(super) enum Stop {
    /// Another source may.
    Source(String),
    /// Something on this machine is wrong: no source will.
    Machine(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Machine(error)
    }
}

impl Wanted {
    /// Is this file there, with the right length and hash? `Err` of what is wrong with it.
    pub(super) fn check(&self, path: &Path) -> Result<Result<(), String>> {
        let found = match fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Err("not there".into())),
            Err(e) => return Err(Error::io("read", path)(e)),
        };
        if found != self.size {
            return Ok(Err(format!("has {found} bytes instead of {}", self.size)));
        }
        match &self.digest {
            Some((kind, wanted)) => {
                let found = hash(path, kind)?;
                Ok(if found == *wanted {
                    Ok(())
                } else {
                    Err(format!("has {kind} {found} instead of {wanted}"))
                })
            }
            None => Ok(Ok(())),
        }
    }

    /// Bytes that have arrived already.
    pub(super) fn arrived(&self) -> u64 {
        fs::metadata(&self.partial).map_or(0, |found| found.len().min(self.size))
    }

    /// Fetches the file; `Ok(Err)` lists every source with its reason.
    pub(super) fn obtain(
        &self,
        client: &Client,
        progress: &dyn FetchProgress,
    ) -> Result<Result<(), Vec<(String, String)>>> {
        let mut refused = Vec::new();
        progress.begin(&self.name, self.size, self.arrived());
        for source in &self.sources {
            let outcome = match source {
                Source::Path(path) => self.copy(path, progress),
                Source::Url(url) => Transfer::new(self, url, client, progress).run(),
                Source::Offline(_) => {
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
                Err(Stop::Source(reason)) => {
                    progress.note(&format!("{}: {}: {reason}", self.name, source.shown()));
                    refused.push((source.shown(), reason));
                }
                Err(Stop::Machine(error)) => {
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

    pub(super) fn discard(&self) -> Result<()> {
        match fs::remove_file(&self.partial) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &self.partial)(e)),
            _ => Ok(()),
        }
    }

    fn copy(&self, from: &Path, progress: &dyn FetchProgress) -> Result<(), Stop> {
        let mut source = match File::open(from) {
            Ok(file) => file,
            Err(e) => return Err(Stop::Source(e.to_string())),
        };
        let length = source.metadata().map_or(0, |metadata| metadata.len());
        if length != self.size {
            return Err(Stop::Source(format!("has {length} bytes instead of {}", self.size)));
        }
        let mut target = File::create(&self.partial).map_err(Error::io("write", &self.partial))?;
        let mut chunk = vec![0; 1 << 20];
        let mut copied = 0;
        loop {
            let read = match source.read(&mut chunk) {
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Stop::Source(e.to_string())),
            };
            let Some(bytes) = chunk.get(..read).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            target.write_all(bytes).map_err(Error::io("write", &self.partial))?;
            copied += bytes.len() as u64;
            progress.at(&self.name, copied);
        }
        self.check(&self.partial)?.map_err(|reason| match self.discard() {
            Ok(()) => Stop::Source(reason),
            Err(error) => Stop::Machine(error),
        })
    }
}
