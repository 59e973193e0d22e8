//! Folders that are either whole or absent, whatever moment the power goes.

use std::fs;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread::{self, ScopedJoinHandle};

use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::fs::file;
use crate::fs::hash::{hash, hex};
use crate::process::{owner, temporary};

const SUMS: &str = "SHA256SUMS";

/// Lets `fill` write into a folder beside `dir` that no other process uses, flushes what it wrote to the disk and puts it in the place of `dir`. What
/// was there is `<dir>.old` for the moment between.
///
/// # Errors
/// Those of `fill`; [`Error::Io`]. What was there stays, and nothing half-written is left behind.
pub(crate) fn replace(dir: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let (new, old) = (temporary(dir, "tmp"), beside(dir, "old"));
    remove_unfinished(dir, |name| owner(name, "tmp").is_some_and(|owner| owner.is_gone()))?;
    let written = fs::create_dir_all(&new)
        .map_err(Error::io("make", &new))
        .and_then(|()| fill(&new))
        .and_then(|()| flush(&new));
    if let Err(error) = written {
        // The first failure is the one to report; what is left behind would only waste space.
        let _ = remove(&new);
        return Err(error);
    }
    if dir.is_dir() {
        remove(&old)?;
        fs::rename(dir, &old).map_err(Error::io("rename", dir))?;
    }
    fs::rename(&new, dir).map_err(Error::io("rename", &new))?;
    file::flush_folder(dir)?;
    remove(&old)
}

/// The folder, or what it held before where [`replace`] was cut short between the two.
pub(crate) fn current(dir: &Path) -> PathBuf {
    let old = beside(dir, "old");
    if !dir.is_dir() && old.is_dir() { old } else { dir.into() }
}

/// Removes the folder with all that [`replace`] may have left beside it, if it is there.
///
/// # Errors
/// [`Error::Io`] when something stays.
pub(crate) fn forget(dir: &Path) -> Result<()> {
    // What `current` would fall back on goes first.
    remove(&beside(dir, "old"))?;
    remove_unfinished(dir, |_| true)?;
    remove(dir)
}

/// Writes `SHA256SUMS` of all files below the folder, as sha256sum writes it.
pub(crate) fn write_sums(dir: &Path) -> Result<()> {
    let path = dir.join(SUMS);
    fs::write(&path, sums(dir)?).map_err(Error::io("write", &path))
}

/// Checks that every file of `SHA256SUMS` is there with the bytes that were written, and no other.
///
/// # Errors
/// [`Error::State`] that names the first file that is not.
pub(crate) fn check_sums(dir: &Path) -> Result<()> {
    let path = dir.join(SUMS);
    let written = fs::read(&path).map_err(|e| torn(&path, &e.to_string()))?;
    let written = String::from_utf8_lossy(&written);
    let found = sums(dir)?;
    if written == found {
        return Ok(());
    }
    let only_in = |these: &'_ str, others: &str| {
        let new = |line: &&str| !others.lines().any(|other| other == *line);
        let line = these.lines().find(new)?;
        line.split_once("  ").map(|(_, file)| dir.join(file))
    };
    if let Some(file) = only_in(&found, &written) {
        return Err(torn(&file, "its bytes are not those that SHA256SUMS names"));
    }
    Err(match only_in(&written, &found) {
        Some(file) => torn(&file, "SHA256SUMS names it, and it is not there"),
        None => torn(&path, "it does not fit the files beside it"),
    })
}

/// `sha256  path` of every file below the folder but the sums themselves, sorted by path.
fn sums(dir: &Path) -> Result<String> {
    let (mut files, _) = contents(dir)?;
    files.sort();
    let mut sums = String::new();
    for path in files {
        let name = path.strip_prefix(dir).unwrap_or(&path);
        if name != Path::new(SUMS) {
            sums += &format!("{}  {}\n", hash(&path, "sha256")?, name.display());
        }
    }
    Ok(sums)
}

/// The error of a file that is not as it was written.
pub(crate) fn torn(path: &Path, reason: &str) -> Error {
    Error::State {
        path: path.to_path_buf(),
        reason: format!("is torn: {reason}"),
    }
}

/// Lower-case hex SHA-256 of the names and bytes of a folder's files; folders inside it do not count.
pub(crate) fn fingerprint(dir: &Path) -> Result<String> {
    let dir = current(dir);
    let entries = fs::read_dir(&dir).map_err(Error::io("read", &dir))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut files: Vec<PathBuf> = paths.collect::<Result<_, _>>().map_err(Error::io("read", &dir))?;
    files.retain(|path| path.is_file());
    files.sort();
    let mut all = Sha256::new();
    for path in files {
        all.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        all.update([0]);
        all.update(hash(&path, "sha256")?);
    }
    Ok(hex(&all.finalize()))
}

/// All files below a folder, and all folders with itself.
fn contents(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    let mut next = 0;
    while let Some(folder) = folders.get(next).cloned() {
        for entry in fs::read_dir(&folder).map_err(Error::io("read", &folder))? {
            let path = entry.map_err(Error::io("read", &folder))?.path();
            if path.is_dir() { &mut folders } else { &mut files }.push(path);
        }
        next += 1;
    }
    Ok((files, folders))
}

/// All files at once, since a disk that is asked at once answers at once; then the folders.
fn flush(folder: &Path) -> Result<()> {
    let (files, folders) = contents(folder)?;
    for all in [files, folders] {
        thread::scope(|scope| {
            let begun: Vec<_> = all.iter().map(|path| scope.spawn(|| file::flush(path))).collect();
            let ended = |flushed: ScopedJoinHandle<'_, Result<()>>| flushed.join().unwrap_or_else(|e| resume_unwind(e));
            begun.into_iter().try_for_each(ended)
        })?;
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", folder)(e)),
        _ => Ok(()),
    }
}

/// Removes what [`replace`] has begun beside a folder, here or in other processes, where `which` says so of its name.
fn remove_unfinished(dir: &Path, which: impl Fn(&str) -> bool) -> Result<()> {
    let above = dir.parent().filter(|above| *above != Path::new(""));
    let above = above.unwrap_or(Path::new("."));
    let begins = beside(dir, "");
    let begins = begins.file_name().and_then(|name| name.to_str()).unwrap_or("/");
    let entries = match fs::read_dir(above) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::io("read", above))?,
    };
    for entry in entries {
        let name = entry.map_err(Error::io("read", above))?.file_name();
        let unfinished = |name: &&str| name.starts_with(begins) && name.ends_with(".tmp") && which(name);
        if let Some(name) = name.to_str().filter(unfinished) {
            remove(&above.join(name))?;
        }
    }
    Ok(())
}

/// `<dir>.<end>`
fn beside(dir: &Path, end: &str) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(".");
    name.push(end);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(text: &str) -> impl FnOnce(&Path) -> Result<()> {
        let text = text.to_owned();
        move |folder| {
            fs::create_dir(folder.join("inside")).unwrap();
            fs::write(folder.join("inside/file"), text).unwrap();
            Ok(())
        }
    }

    #[test]
    fn a_folder_is_replaced_whole_or_not_at_all() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("a/b");
        replace(&dir, write("one")).unwrap();
        replace(&dir, write("two")).unwrap();
        let failed = replace(&dir, |folder| {
            write("three")(folder)?;
            Err(Error::NoGradients)
        });
        assert!(matches!(failed, Err(Error::NoGradients)));
        assert_eq!(fs::read_to_string(dir.join("inside/file")).unwrap(), "two");
        assert_eq!(fs::read_dir(scratch.path().join("a")).unwrap().count(), 1);
    }

    #[test]
    fn what_was_there_is_found_when_the_power_went_between() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("a");
        replace(&dir, write("one")).unwrap();
        fs::rename(&dir, scratch.path().join("a.old")).unwrap();
        assert_eq!(fs::read_to_string(current(&dir).join("inside/file")).unwrap(), "one");
        replace(&dir, write("two")).unwrap();
        assert_eq!(
            (current(&dir), fs::read_dir(scratch.path()).unwrap().count()),
            (dir.clone(), 1)
        );
        for left in [beside(&dir, "old"), temporary(&dir, "tmp")] {
            fs::create_dir(left).unwrap();
        }
        forget(&dir).unwrap();
        forget(&dir).unwrap();
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_is_hashed_whole() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("a");
        let bytes = vec![7; (1 << 20) + 5];
        fs::write(&file, &bytes).unwrap();
        assert_eq!(hash(&file, "sha256").unwrap(), hex(&Sha256::digest(&bytes)));
    }

    #[test]
    fn sums_name_the_first_file_that_is_not_as_it_was_written() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        fs::create_dir(at("inside")).unwrap();
        fs::write(at("a"), "one").unwrap();
        fs::write(at("inside/b"), "two").unwrap();
        let named = || check_sums(scratch.path()).unwrap_err().to_string();
        assert!(named().contains(SUMS), "{}", named());
        write_sums(scratch.path()).unwrap();
        check_sums(scratch.path()).unwrap();
        fs::write(at("inside/b"), "three").unwrap();
        assert!(named().contains("inside/b"), "{}", named());
        fs::remove_file(at("inside/b")).unwrap();
        assert!(named().contains("inside/b"), "{}", named());
        fs::write(at("inside/b"), "two").unwrap();
        fs::write(at("c"), "more").unwrap();
        assert!(named().contains("/c"), "{}", named());
    }
}
