//! Files that are either whole or absent, whatever moment the power goes.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Replaces `path` by `bytes`: written to `<path>.tmp`, flushed to the disk, renamed, and the folder
/// flushed too, so that the new name survives a crash as well.
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
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path)(e)),
    }
}

/// Removes a file that may be absent.
///
/// # Errors
/// [`Error::Io`] when it is there and stays.
pub fn remove_if_present(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Makes a folder and its parents, and proves that files can be written into it: a read-only mount, a
/// full disk or a missing right shows up here, before any work is done.
///
/// # Errors
/// [`Error::Io`] naming the folder.
pub fn make_writable_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io("make folder", folder))?;
    let probe = folder.join(".writable.tmp");
    // A block's worth: an empty file can be made on a full disk.
    let written = write_through(&probe, &[0; 4096]).map_err(Error::io("write into", folder));
    let removed = remove_if_present(&probe); // another process may have probed, too
    written.and(removed)
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

fn write_through(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Flushes the folder of a file, so that the file's name survives a crash.
pub(super) fn flush_folder(path: &Path) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(Error::io("flush", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
