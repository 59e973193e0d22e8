//! Which form of a dataset is on this machine, and are its files those that the manifest promises?

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Origin;
use crate::config::Protocol;
use crate::error::{Cause, Error, Result};
use crate::fetch::{HubFile, HubSettings, hub_files, repository};
use crate::formats::parquet::Columns;
use crate::fs::{file, hash::hash};
use crate::manifest::{Form, Manifest, OwnParquet, OwnShard, SourceFile};

/// One form of a dataset, with the files of it that are on this machine.
#[derive(Debug)]
pub(crate) struct DatasetFiles<'a> {
    pub manifest: &'a Manifest,
    pub protocol: Protocol,
    pub form: Form,
    /// Commit of the repository.
    pub commit: Option<String>,
    pub files: Vec<LocalFile>,
}

/// Names and places of files that are not there.
type Missing = Vec<(String, PathBuf)>;

/// A file on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalFile {
    /// Role of an archive or label file, split of a parquet file.
    pub role: String,
    pub name: String,
    pub path: PathBuf,
    /// Bytes, where they are known beforehand.
    pub size: Option<u64>,
    /// "sha256" or "md5" and its value: the one to be found, or after [`DatasetFiles::verify`] the one found.
    pub digest: Option<(&'static str, String)>,
    /// Unpacked; label files are read where they lie.
    pub is_archive: bool,
}

/// Columns and splits of parquet files with images in them.
pub(crate) struct ParquetForm<'a> {
    pub columns: Columns<'a>,
    pub train: &'a [String],
    pub val: &'a [String],
    pub test: &'a [String],
}

/// One archive, label file or parquet file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileCheck {
    /// Its name.
    pub name: String,
    /// Why it is not the file that it should be; nothing when it is.
    pub wrong: Option<String>,
}

/// A file as it was when its hash was right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    size: u64,
    /// Nanoseconds since 1970.
    changed: u128,
    digest: String,
}

impl<'a> DatasetFiles<'a> {
    /// The first form that serves the protocol and is complete on this machine. `hub` says where the hub client keeps its files.
    pub(crate) fn choose(manifest: &'a Manifest, protocol: Protocol, hub: &HubSettings) -> Result<Self> {
        let forms = manifest.forms(protocol);
        let forms = forms.map_err(|reason| manifest.fail(reason).because(Cause::Protocol))?;
        let mut missing = Vec::new();
        for form in forms {
            let found = match form {
                Form::Archive => archive(manifest, protocol).map(|files| (None, files)),
                Form::Hub => parquet_of_hub(manifest, hub),
            };
            match found {
                Ok((commit, files)) => {
                    return Ok(Self {
                        manifest,
                        protocol,
                        form,
                        commit,
                        files,
                    });
                }
                Err(lacking) if missing.is_empty() => missing = lacking,
                Err(_) => {}
            }
        }
        // A file that the manifest places is nobody's to fetch.
        let placed = |path: &PathBuf| {
            let mut files = manifest.files.iter().filter(|file| file.path.is_some());
            files.any(|file| manifest.place(file) == *path) || manifest.parquet.is_some()
        };
        if let Some((_, path)) = missing.iter().find(|(_, path)| placed(path)) {
            return Err(Error::io("read", path)(std::io::ErrorKind::NotFound.into()));
        }
        Err(Error::NotFetched {
            dataset: manifest.name.clone(),
            missing,
            option: protocol.fetch_option(),
        })
    }

    /// True if rows, classes and images that are no good are left out and told, rather than the end of it: nobody has
    /// looked at these files before.
    pub(crate) fn is_lenient(&self) -> bool {
        match (self.form, &self.manifest.hub) {
            (Form::Hub, Some(hub)) => self.manifest.class_names.is_empty() && hub.expect.is_none(),
            _ => self.manifest.parquet.is_some(),
        }
    }

    /// The parquet files of the hub, or a user's own, if the dataset comes in such.
    pub(crate) fn parquet(&self) -> Option<ParquetForm<'a>> {
        let (image, label, train, val, test) = match (self.form, &self.manifest.hub, &self.manifest.parquet) {
            (Form::Hub, Some(hub), _) => (&hub.image, &hub.label, &hub.train, &hub.val, &hub.test),
            (Form::Archive, _, Some(own)) => (&own.image, &own.label, &own.train, &own.val, &own.test),
            _ => return None,
        };
        let columns = Columns { image, label };
        Some(ParquetForm {
            columns,
            train,
            val,
            test,
        })
    }

    /// The file of a role, if it is there.
    pub(crate) fn file(&self, role: &str) -> Option<&LocalFile> {
        self.files.iter().find(|file| file.role == role)
    }

    /// Checks size and hash of every file, and keeps the hashes of those of which none was known.
    ///
    /// Files whose size and time of change are those of an earlier check are not hashed again; these
    /// stamps are kept in `cache/verified.json`. A file altered within its size and with its time set back passes:
    /// the stamps guard against accidents, the hashes of the images themselves are in every result.
    pub(crate) fn verify(&mut self, cache: &Path) -> Result<()> {
        let memory = cache.join("verified.json");
        let known: BTreeMap<PathBuf, Stamp> = file::read_json(&memory).unwrap_or_default();
        let mut all = known.clone();
        let checked = self.check(&known);
        for (file, result) in self.files.iter_mut().zip(checked) {
            let (path, stamp) = result?;
            file.digest.get_or_insert_with(|| ("sha256", stamp.digest.clone()));
            all.insert(path, stamp);
        }
        if all != known
            && let Err(error) =
                file::replace_json_in_cache(&memory, "list of verified files", serde_json::to_vec_pretty(&all))
        {
            // Only speed is lost, e.g. with a cache that is read-only.
            tracing::debug!("{error}: files will be hashed again next time");
        }
        Ok(())
    }

    /// Hashes every file, whatever is known of it, and says of each whether it is the one that it should be.
    pub(crate) fn rehash(&mut self) -> Vec<FileCheck> {
        let checked = self.check(&BTreeMap::new());
        let mut found = Vec::new();
        for (file, result) in self.files.iter_mut().zip(checked) {
            let wrong = match result {
                Ok((_, stamp)) => {
                    file.digest.get_or_insert(("sha256", stamp.digest));
                    None
                }
                Err(error) => Some(error.to_string()),
            };
            let name = file.name.clone();
            found.push(FileCheck { name, wrong });
        }
        found
    }

    fn check(&self, known: &BTreeMap<PathBuf, Stamp>) -> Vec<Result<(PathBuf, Stamp)>> {
        self.files.par_iter().map(|file| check(file, known)).collect()
    }

    /// For the protocol card.
    pub(crate) fn origin(&self) -> Origin {
        let file = |file: &LocalFile| {
            let (kind, hash) = file.digest.clone().unwrap_or_default();
            format!("{} {kind}:{hash}", file.name)
        };
        let source = match (&self.manifest.directory, &self.manifest.hub, self.form) {
            (_, Some(hub), Form::Hub) => hub.repo.clone(),
            (Some(directory), _, _) => self.manifest.resolve(directory).display().to_string(),
            _ => self.files.iter().map(file).collect::<Vec<_>>().join(", "),
        };
        Origin {
            form: self.form,
            source,
            revision: self.commit.clone(),
        }
    }
}

/// Archives and label files, or a user's own parquet files.
fn archive(manifest: &Manifest, protocol: Protocol) -> Result<Vec<LocalFile>, Missing> {
    if let Some(parquet) = &manifest.parquet {
        return own_parquet(manifest, parquet);
    }
    let there = |file: &SourceFile| manifest.place(file).exists();
    let needed = manifest.needed(protocol, there).into_iter();
    let missing = needed.filter(|file| !there(file));
    let missing: Missing = missing.map(|file| (file.name.clone(), manifest.place(file))).collect();
    if !missing.is_empty() {
        return Err(missing);
    }
    let roles = manifest.layout.roles();
    let placed = |file: &SourceFile| LocalFile {
        role: file.role.clone(),
        name: file.name.clone(),
        path: manifest.place(file),
        size: Some(file.size),
        digest: file.digest().map(|(kind, hash)| (kind, hash.to_owned())),
        is_archive: roles.iter().any(|role| role.is_archive && role.name == file.role),
    };
    Ok(manifest.files.iter().filter(|file| there(file)).map(placed).collect())
}

fn own_parquet(manifest: &Manifest, parquet: &OwnParquet) -> Result<Vec<LocalFile>, Missing> {
    let placed = |shard: &OwnShard| {
        let path = manifest.resolve(&shard.path);
        LocalFile {
            role: shard.split.clone(),
            name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            path,
            size: Some(shard.size),
            digest: Some(("sha256", shard.sha256.clone())),
            is_archive: true,
        }
    };
    let files: Vec<LocalFile> = parquet.shards.iter().map(placed).collect();
    let missing = files.iter().filter(|file| !file.path.exists());
    let missing: Missing = missing.map(|file| (file.name.clone(), file.path.clone())).collect();
    if missing.is_empty() { Ok(files) } else { Err(missing) }
}

/// Commit and parquet files of the repository.
fn parquet_of_hub(manifest: &Manifest, settings: &HubSettings) -> Result<(Option<String>, Vec<LocalFile>), Missing> {
    let Some(hub) = &manifest.hub else {
        return Err(Vec::new());
    };
    // As fetched by kshot, which keeps a listing; else as Python's client left it.
    let found = match hub_files(hub, &manifest.downloads, settings) {
        Some(fetched) => fetched,
        None => repository::on_disk(hub, &settings.cache)?,
    };
    let file = |shard: HubFile| LocalFile {
        role: shard.split,
        name: shard.name,
        path: shard.path,
        size: shard.size,
        digest: shard.sha256.map(|hash| ("sha256", hash)),
        is_archive: true,
    };
    let mut files: Vec<LocalFile> = found.shards.into_iter().map(file).collect();
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((Some(found.commit), files))
}

/// Time of the last change of a file's bytes, in nanoseconds since 1970.
pub(crate) fn changed(metadata: &std::fs::Metadata) -> std::io::Result<u128> {
    let changed = metadata.modified()?;
    Ok(changed.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos()))
}

/// A file's real path and its stamp, once its hash is right.
fn check(file: &LocalFile, known: &BTreeMap<PathBuf, Stamp>) -> Result<(PathBuf, Stamp)> {
    let path = file.path.canonicalize().map_err(Error::io("read", &file.path))?;
    let metadata = std::fs::metadata(&path).map_err(Error::io("read", &path))?;
    let size = metadata.len();
    let wrong = |what, found: String, expected: &str| Error::WrongBytes {
        path: path.clone(),
        what,
        found,
        expected: expected.to_owned(),
    };
    if let Some(expected) = file.size.filter(|expected| *expected != size) {
        return Err(wrong("size", size.to_string(), &expected.to_string()));
    }
    let changed = changed(&metadata).map_err(Error::io("read", &path))?;
    let stamp = known
        .get(&path)
        .filter(|stamp| stamp.size == size && stamp.changed == changed);
    let digest = match (&file.digest, stamp) {
        (Some((_, expected)), Some(stamp)) if stamp.digest == *expected => expected.clone(),
        (None, Some(stamp)) => stamp.digest.clone(),
        (None, None) => hash(&path, "sha256")?,
        (Some((what, expected)), _) => {
            let found = hash(&path, what)?;
            if found != *expected {
                return Err(wrong(what, found, expected));
            }
            found
        }
    };
    Ok((path, Stamp { size, changed, digest }))
}
