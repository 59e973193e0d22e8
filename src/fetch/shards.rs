//! Which parquet files of a repository lie in a snapshot of it that Python's hub client made.
//!
//! Files are links to `blobs/<etag>`, and the etag of a large file is its SHA-256.

use std::path::{Path, PathBuf};

use crate::fetch::repository::Repository;
use crate::manifest::Hub;

/// The files of a repository as they lie on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// The commit that the revision stood for.
    pub commit: String,
    /// Split by split, each in the order of its files' names.
    pub shards: Vec<ShardFile>,
}

/// One parquet file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShardFile {
    /// First part of its name.
    pub split: String,
    /// Path inside the repository.
    pub name: String,
    /// Its path.
    pub path: PathBuf,
    /// Bytes, where known.
    pub size: Option<u64>,
    /// Lower-case hex SHA-256, where known.
    pub sha256: Option<String>,
}

/// The files that a manifest needs, or names and places of those that are missing.
pub(crate) fn on_disk(hub: &Hub, folder: &Path) -> Result<Snapshot, Vec<(String, PathBuf)>> {
    let repository = Repository::dataset(&hub.repo);
    let commit = repository.commit(&hub.revision, folder);
    // Where it would lie, as long as nobody knows what a branch stands for.
    let snapshot = repository.snapshot(commit.as_deref().unwrap_or(&hub.revision), folder);
    let mut shards = Vec::new();
    let mut missing = Vec::new();
    let found = if hub.shards.is_empty() {
        found_below(&snapshot)
    } else {
        Vec::new()
    };
    for split in hub.train.iter().chain(&hub.val).chain(&hub.test) {
        let listed = hub
            .shards
            .iter()
            .filter(|shard| split_of(&shard.path) == Some(split.as_str()));
        let mut of_split: Vec<ShardFile> = listed
            .map(|shard| ShardFile {
                split: split.clone(),
                name: shard.path.clone(),
                path: snapshot.join(&shard.path),
                size: shard.size,
                sha256: shard.sha256.clone(),
            })
            .chain(
                found
                    .iter()
                    .filter(|name| split_of(name) == Some(split.as_str()))
                    .map(|name| ShardFile {
                        split: split.clone(),
                        name: name.clone(),
                        path: snapshot.join(name),
                        size: None,
                        sha256: None,
                    }),
            )
            .collect();
        of_split.sort_by(|a, b| a.name.cmp(&b.name));
        let expected = of_split.first().and_then(|shard| number_of_shards(&shard.name));
        if of_split.is_empty() || expected.is_some_and(|n| n != of_split.len()) {
            let n = expected.map_or_else(|| "*".to_owned(), |n| format!("{n:05}"));
            let name = format!("data/{split}-*-of-{n}.parquet");
            missing.push((name.clone(), snapshot.join(name)));
        }
        for shard in of_split {
            if shard.path.is_file() {
                shards.push(with_etag(shard));
            } else {
                missing.push((shard.name, shard.path));
            }
        }
    }
    match commit {
        Some(commit) if missing.is_empty() => Ok(Snapshot { commit, shards }),
        _ => Err(missing),
    }
}

/// The split that a parquet file belongs to, `train` of `data/train-00000-of-00003.parquet`,
/// `data/train-00000-of-00001-0a1b.parquet`, `data/train-0.parquet`, `train.parquet` and `default/train/0000.parquet`.
pub(crate) fn split_of(path: &str) -> Option<&str> {
    let stem = path.strip_suffix(".parquet")?;
    let (folder, name) = stem.rsplit_once('/').unwrap_or(("", stem));
    let split = if is_number(name) {
        folder.rsplit('/').next().unwrap_or(folder)
    } else if let Some((split, _)) = numbered(name) {
        split
    } else {
        let before_number = |&(at, _): &(usize, &str)| name[at + 1..].starts_with(|c: char| c.is_ascii_digit());
        name.match_indices('-')
            .find(before_number)
            .map_or(name, |(at, _)| &name[..at])
    };
    (!split.is_empty()).then_some(split)
}

/// Split and number of files of `<split>-00000-of-00003`, after which a hash may stand.
fn numbered(name: &str) -> Option<(&str, &str)> {
    let parts = |most| name.rsplitn(most, '-').collect::<Vec<_>>();
    match (parts(4).as_slice(), parts(5).as_slice()) {
        (&[total, "of", number, split], _) | (_, &[_, total, "of", number, split])
            if is_number(total) && is_number(number) =>
        {
            Some((split, total))
        }
        _ => None,
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// 3 of `data/train-00000-of-00003.parquet`.
pub(crate) fn number_of_shards(path: &str) -> Option<usize> {
    let name = path.strip_suffix(".parquet")?.rsplit('/').next()?;
    numbered(name)?.1.parse().ok()
}

/// Parquet files of a snapshot, at most two folders down, by their paths inside it.
fn found_below(snapshot: &Path) -> Vec<String> {
    fn collect(folder: &Path, inside: &str, deeper: usize, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let (path, name) = (entry.path(), format!("{inside}{name}"));
            if path.is_dir() {
                if deeper > 0 {
                    collect(&path, &format!("{name}/"), deeper - 1, found);
                }
            } else if name.ends_with(".parquet") {
                found.push(name);
            }
        }
    }
    let mut found = Vec::new();
    collect(snapshot, "", 2, &mut found);
    found
}

/// A hash that the manifest does not know, from the name of the blob that the file is a link to.
fn with_etag(mut shard: ShardFile) -> ShardFile {
    if shard.sha256.is_none() {
        let target = std::fs::read_link(&shard.path).ok();
        let etag = target.and_then(|target| Some(target.file_name()?.to_str()?.to_owned()));
        shard.sha256 = etag.filter(|e| e.len() == 64 && e.bytes().all(|b| b.is_ascii_hexdigit()));
    }
    shard
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_is_what_stands_before_the_numbers() {
        for (path, split) in [
            ("data/train-00000-of-00003.parquet", "train"),
            ("data/gaussian_noise-00000-of-00001.parquet", "gaussian_noise"),
            ("data/train-clean-00000-of-00001.parquet", "train-clean"),
            ("data/train-00000-of-00001-b42a775f407cee45.parquet", "train"),
            ("data/clean-100-00000-of-00002-0a1b.parquet", "clean-100"),
            ("data/test-1.parquet", "test"),
            ("test.parquet", "test"),
            ("default/train/0000.parquet", "train"),
            ("validation/0000.parquet", "validation"),
        ] {
            assert_eq!(split_of(path), Some(split), "{path}");
        }
        assert_eq!(split_of("data/train-00000-of-00003.json"), None);
        assert_eq!(split_of("0000.parquet"), None);
        for name in ["data/train-00001-of-00003.parquet", "train-00001-of-00003-0a1b.parquet"] {
            assert_eq!(number_of_shards(name), Some(3), "{name}");
        }
        assert_eq!(number_of_shards("train.parquet"), None);
    }

    fn hub(revision: &str) -> Hub {
        toml::from_str(&format!(
            "repo = \"o/n\"\nrevision = \"{revision}\"\nval = [\"validation\"]\n"
        ))
        .unwrap()
    }

    #[test]
    fn a_branch_is_followed_to_its_commit_and_all_shards_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let repo = folder.path().join("datasets--o--n");
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let data = repo.join("snapshots").join(commit).join("data");
        std::fs::create_dir_all(&data).unwrap();
        std::fs::create_dir_all(repo.join("refs")).unwrap();
        assert!(on_disk(&hub("main"), folder.path()).is_err());
        std::fs::write(repo.join("refs/main"), commit).unwrap();
        let shards = [
            "train-00000-of-00002",
            "test-00000-of-00001",
            "contrast-00000-of-00001",
            "validation-00000-of-00001",
        ];
        for name in shards {
            std::fs::write(data.join(format!("{name}.parquet")), b"").unwrap();
        }
        let missing = on_disk(&hub("main"), folder.path()).unwrap_err();
        assert_eq!(missing.len(), 1);
        assert_eq!(missing[0].0, "data/train-*-of-00002.parquet");
        std::fs::write(data.join("train-00001-of-00002.parquet"), b"").unwrap();
        let snapshot = on_disk(&hub("main"), folder.path()).unwrap();
        assert_eq!(snapshot, on_disk(&hub(commit), folder.path()).unwrap());
        assert_eq!(snapshot.commit, commit);
        let names: Vec<_> = snapshot.shards.iter().map(|shard| shard.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "data/train-00000-of-00002.parquet",
                "data/train-00001-of-00002.parquet",
                "data/validation-00000-of-00001.parquet",
                "data/test-00000-of-00001.parquet"
            ]
        );
    }
}
