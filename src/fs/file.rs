//! Files that are either whole or absent, whatever moment the power goes and however many processes write.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::process;

/// A temporary file of a process that nothing is known of is left alone for so long.
const ABANDONED: Duration = Duration::from_secs(600);

/// Replaces `path` by `bytes`: written to a name of its own (see [`temporary`]), flushed to the disk, renamed,
/// and the folder flushed too, so that the new name survives a crash as well.
///
/// # Errors
/// [`Error::Io`] naming `path`; the temporary file is removed and the old file, if any, stays.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = temporary(path);
    let written = write_through(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if let Err(source) = written {
        // The first failure is the one to report; what is left behind would only waste space.
        let _ = fs::remove_file(&temporary);
        return Err(Error::io("write", path)(source));
    }
    flush_folder(path)
}

/// As [`replace`], for one of the few files of a cache: what killed processes had begun to write for it goes first.
///
/// # Errors
/// As [`replace`].
pub fn replace_in_cache(path: &Path, bytes: &[u8]) -> Result<()> {
    if let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) {
        process::remove_abandoned(folder, name, "tmp");
    }
    replace(path, bytes)
}

/// As [`replace_in_cache`], of a value as JSON; the folder is made. `kind`: its name in the message when there is no JSON of
/// the value.
pub(crate) fn replace_json_in_cache(path: &Path, kind: &'static str, json: serde_json::Result<Vec<u8>>) -> Result<()> {
    let json = json.map_err(|e| Error::Malformed {
        kind,
        path: path.into(),
        reason: e.to_string(),
    })?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::io("make", folder))?;
    }
    replace_in_cache(path, &json)
}

/// The value that a JSON file of a cache holds; `None` where it is absent or torn, since it can be made again.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// As [`replace`], unless `path` holds these bytes already. Says whether it wrote.
///
/// # Errors
/// As [`replace`].
pub fn replace_if_changed(path: &Path, bytes: &[u8]) -> Result<bool> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(false);
    }
    replace(path, bytes).map(|()| true)
}

/// The bytes of a file that may be absent.
///
/// # Errors
/// [`Error::Io`] when it is there but cannot be read.
pub fn read_if_present(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path)(e)),
    }
}

/// The next bytes of a stream, at most as many as `chunk` holds; none at its end.
pub(crate) fn next_bytes<'a>(from: &mut (impl Read + ?Sized), chunk: &'a mut [u8]) -> io::Result<&'a [u8]> {
    loop {
        match from.read(chunk) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            read => return Ok(chunk.get(..read?).unwrap_or_default()),
        }
    }
}

/// The first bytes of a file, fewer where it is shorter, and the file behind them.
///
/// # Errors
/// [`Error::Io`] when it cannot be read.
pub(crate) fn first_bytes(path: &Path, count: u64) -> Result<(Vec<u8>, File)> {
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let mut bytes = Vec::new();
    let read = (&mut file).take(count).read_to_end(&mut bytes);
    read.map_err(Error::io("read", path))?;
    Ok((bytes, file))
}

/// Removes a file that may be absent.
///
/// # Errors
/// [`Error::Io`] when it is there and stays.
pub fn remove_if_present(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Makes a folder and its parents, and proves that files can be written into it: a read-only mount, a
/// full disk or a missing right shows up here, before any work is done. Then removes what killed writers left in
/// it, see `remove_abandoned`.
///
/// # Errors
/// [`Error::Io`] naming the folder.
pub fn make_writable_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io("make folder", folder))?;
    let probe = temporary(&folder.join(".writable"));
    // A block's worth: an empty file can be made on a full disk.
    let written = write_through(&probe, &[0; 4096]).and_then(|()| fs::metadata(&probe)?.modified());
    let removed = remove_if_present(&probe);
    let now = written.map_err(Error::io("write into", folder))?;
    removed?;
    remove_abandoned(folder, now)
}

/// Removes temporary files whose writer has certainly ended, and those of unknown writers when they are ten minutes
/// older than `now`, the time that the folder's own file system gives to a file written now.
fn remove_abandoned(folder: &Path, now: SystemTime) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let entry = entry.map_err(Error::io("read", folder))?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.ends_with(".tmp")) else {
            continue;
        };
        let abandoned = match process::owner(name, "tmp") {
            Some(writer) => writer.is_gone(),
            None => {
                let modified = entry.metadata().and_then(|file| file.modified());
                modified.is_ok_and(|then| now.duration_since(then).is_ok_and(|age| age > ABANDONED))
            }
        };
        if abandoned {
            remove_if_present(&entry.path())?;
        }
    }
    Ok(())
}

/// A name beside `path` that no other writer has.
#[must_use]
pub fn temporary(path: &Path) -> PathBuf {
    process::temporary(path, "tmp")
}

/// Writes a file and returns when its bytes are on the disk.
///
/// # Errors
/// The error of the system.
pub fn write_through(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Flushes the folder of a file, so that the file's name survives a crash.
///
/// # Errors
/// [`Error::Io`] naming the folder.
pub fn flush_folder(path: &Path) -> Result<()> {
    flush(match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    })
}

/// Flushes a folder: its names survive a crash.
///
/// # Errors
/// [`Error::Io`] naming it.
pub fn flush(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(Error::io("flush", folder))
}

/// Waits for the lock; `None` on file systems that have none, as some of clusters.
///
/// `work`: what another process does that has it.
///
/// # Errors
/// [`Error::Io`] when the file cannot be written.
pub fn lock(path: &Path, work: &str) -> Result<Option<File>> {
    let file = File::create(path).map_err(Error::io("write", path))?;
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        tracing::info!("waiting for another process that {work}");
    }
    match file.lock() {
        Ok(()) => Ok(Some(file)),
        Err(error) => {
            tracing::debug!("cannot lock `{}`: {error}", path.display());
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Process;

    #[test]
    fn replaces_whole_files_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert!(!replace_if_changed(&path, b"two").unwrap());
        assert!(replace_if_changed(&path, b"three").unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_names_the_file_and_keeps_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir(&path).unwrap(); // a file cannot be renamed over a folder
        let error = replace(&path, b"x").unwrap_err();
        assert!(error.to_string().contains("taken"), "{error}");
        assert!(path.is_dir());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_found_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = make_writable_folder(&file.join("inside")).unwrap_err();
        assert!(error.to_string().contains("inside"), "{error}");
        make_writable_folder(&folder.path().join("a/b")).unwrap();
        assert_eq!(fs::read_dir(folder.path().join("a/b")).unwrap().count(), 0);
    }

    #[test]
    fn many_writers_of_one_file_leave_one_whole_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.csv");
        std::thread::scope(|threads| {
            for writer in 0..4u8 {
                let path = &path;
                threads.spawn(move || {
                    for _ in 0..20 {
                        replace(path, &vec![writer; 100_000]).unwrap();
                    }
                });
            }
        });
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.len() == 100_000 && bytes.iter().all(|byte| *byte == bytes[0]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn leftovers_of_ended_writers_go_and_those_of_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (this, now) = (Process::this(), SystemTime::now());
        let ended = Process {
            started: this.started - 1,
            ..this.clone()
        };
        let foreign = Process {
            boot: "another".into(),
            ..this.clone()
        };
        let write = |name: String, age: u64| {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_modified(now - Duration::from_secs(age)).unwrap();
        };
        write(format!("ended.json.{}-3.tmp", ended.tag()), 0);
        write(format!("live.json.{}-3.tmp", this.tag()), 9_000);
        write(format!("far.json.{}-3.tmp", foreign.tag()), 590);
        write(format!("far-old.json.{}-3.tmp", foreign.tag()), 610);
        write("unnamed.json.tmp".into(), 610);
        write("kept.json".into(), 610);
        remove_abandoned(folder.path(), now).unwrap();
        let mut left: Vec<String> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .map(|name| name.split('.').next().unwrap().to_owned())
            .collect();
        left.sort();
        assert_eq!(left, ["far", "kept", "live"]);
    }
}
