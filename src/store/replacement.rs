//! Folders that are replaced as a whole: whatever moment a process is killed, the old folder is there or the new one.
//!
//! The new folder is written beside the old one under a hidden name, flushed to the disk, and the two exchange their names,
//! which is one step of the file system (`renameat2` with `RENAME_EXCHANGE`). Where that cannot be, because the folder is a
//! mount point, holds the working directory of this process or a large tree of somebody else's, lies in a folder that
//! cannot be written, or on a file system that does not exchange names, the new folder goes into the old one as
//! `.replacement`. Its rename to that name is the one step: from then on it is what readers see ([`current`]), while its
//! files are put in their places one by one. The next replacement finishes what a killed one has begun.
//!
//! Files that the new folder does not make itself stay: a `README.md`, a `.gitignore`, whatever lies beside the results.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rayon::prelude::*;
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::fs::file;
use crate::process::{self, Process};

/// A new folder inside the old one, complete and not yet in its place.
const PENDING: &str = ".replacement";
/// Ending of the names of folders that are being written or removed.
const UNFINISHED: &str = ".next";
/// Such a folder of a process that nothing is known of is left alone for so long.
const ABANDONED: Duration = Duration::from_secs(24 * 3_600);
/// More files than that beside the results are not taken along into a new folder: they stay where they are.
const MOST_KEPT: usize = 1_000;
/// Times that a folder is read again that is replaced meanwhile.
const ATTEMPTS: usize = 8;

/// The files that a kind of folder is made of.
#[derive(Debug, Clone, Copy)]
pub struct FolderLayout {
    /// True if a file, by its path inside the folder, is one of those that are made anew each time.
    pub is_made: fn(&Path) -> bool,
    /// Files that readers look for and that a new folder inherits where it does not bring its own.
    pub inherited: &'static [&'static str],
}

/// The folder whose files count for what lies at `folder`: it, or its complete replacement that is not yet in place.
#[must_use]
pub fn current(folder: &Path) -> PathBuf {
    let pending = folder.join(PENDING);
    if pending.is_dir() { pending } else { folder.into() }
}

/// Lets `build` write a new folder, and puts it in the place of `folder` in one step. What `build` returns is handed on;
/// it may be called twice, with another empty folder, where the first one turns out to be in a place that will not do.
///
/// # Errors
/// Those of `build`; [`Error::Io`] when something cannot be written. The old folder then stays as it is.
pub fn replace<T>(folder: &Path, layout: FolderLayout, build: impl Fn(&Path) -> Result<T>) -> Result<T> {
    let folder = &real(folder)?;
    let exists = folder.is_dir();
    if !exists && fs::symlink_metadata(folder).is_ok() {
        return Err(Error::io("replace", folder)(ErrorKind::NotADirectory.into()));
    }
    remove_abandoned(folder)?;
    if exists && current(folder) != *folder {
        settle(folder, layout, &lock(folder)?)?;
    }
    if exists && !may_move(folder) {
        return inside(folder, layout, build);
    }
    let kept = if exists {
        match others(folder, layout).map_err(Error::io("read", folder))? {
            Some(kept) => kept,
            None => return inside(folder, layout, build),
        }
    } else {
        Vec::new()
    };
    let next = unfinished(folder);
    match fs::create_dir(&next) {
        Ok(()) => {}
        Err(error) if exists && is_forbidden(&error) => return inside(folder, layout, build),
        Err(error) => return Err(Error::io("make folder", &next)(error)),
    }
    let permitted = || {
        if exists {
            fs::set_permissions(&next, fs::metadata(folder)?.permissions())?;
        }
        Ok(())
    };
    let built = fill(folder, (&next, &kept), &build, permitted, Error::io("write", &next))?;
    if !exists {
        fs::rename(&next, folder).map_err(Error::io("write", folder))?;
        file::flush_folder(folder)?;
        return Ok(built);
    }
    match renameat_with(CWD, &next, CWD, folder, RenameFlags::EXCHANGE) {
        Ok(()) => {
            file::flush_folder(folder)?;
            remove(&next);
            Ok(built)
        }
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            let lock = lock(folder)?;
            fs::rename(&next, folder.join(PENDING)).map_err(Error::io("write", folder))?;
            settle(folder, layout, &lock).map(|()| built)
        }
        Err(Errno::XDEV | Errno::BUSY | Errno::ACCESS | Errno::PERM) => {
            remove(&next);
            inside(folder, layout, build)
        }
        Err(error) => {
            remove(&next);
            Err(Error::io("replace", folder)(error.into()))
        }
    }
}

/// Reads folders that may be replaced meanwhile: again, until they were the same before and after.
///
/// # Errors
/// Those of `read`; [`Error::Io`] when a folder was replaced each time.
pub fn steadily<T>(folders: &[&Path], mut read: impl FnMut() -> Result<T>) -> Result<T> {
    let marks = || -> Vec<_> { folders.iter().map(|folder| mark(folder)).collect() };
    for _ in 0..ATTEMPTS {
        let before = marks();
        let result = read();
        if marks() == before {
            return result;
        }
        tracing::debug!("a folder was replaced while it was read: once more");
    }
    let folder = folders.first().copied().unwrap_or_else(|| Path::new("."));
    let busy = io::Error::other("it was replaced each time it was read");
    Err(Error::io("read", folder)(busy))
}

/// Tells a folder from the one that takes its place, be it beside it or inside.
fn mark(folder: &Path) -> Option<(PathBuf, u64, u64, i64, i64)> {
    let now = current(folder);
    let found = fs::metadata(&now).ok()?;
    Some((now, found.dev(), found.ino(), found.ctime(), found.ctime_nsec()))
}

/// The true place of a folder, now or later: behind links, with the folder around it made.
fn real(folder: &Path) -> Result<PathBuf> {
    match fs::canonicalize(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        other => return other.map_err(Error::io("find", folder)),
    }
    let around = match folder.parent() {
        Some(around) if around != Path::new("") => around,
        _ => Path::new("."),
    };
    if let Ok(target) = fs::read_link(folder) {
        return real(&around.join(target)); // a link to what is not there yet
    }
    fs::create_dir_all(around).map_err(Error::io("make folder", around))?;
    let around = fs::canonicalize(around).map_err(Error::io("find", around))?;
    Ok(folder.file_name().map_or(around.clone(), |name| around.join(name)))
}

/// True if another folder can have its name: it is no mount point, and this process is not in it.
fn may_move(folder: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    let here = std::env::current_dir().and_then(fs::canonicalize);
    folder.parent().is_some_and(|around| device(around) == device(folder))
        && here.is_ok_and(|here| !here.starts_with(folder))
}

fn is_forbidden(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
    )
}

/// The way that needs nothing but the folder itself.
fn inside<T>(folder: &Path, layout: FolderLayout, build: impl Fn(&Path) -> Result<T>) -> Result<T> {
    let lock = lock(folder)?;
    if current(folder) != folder {
        settle(folder, layout, &lock)?;
    }
    let next = unfinished(&folder.join(PENDING));
    fs::create_dir(&next).map_err(Error::io("write into", folder))?;
    let inherited: Vec<PathBuf> = layout.inherited.iter().map(PathBuf::from).collect();
    let pending = || fs::rename(&next, folder.join(PENDING));
    let built = fill(
        folder,
        (&next, &inherited),
        &build,
        pending,
        Error::io("write into", folder),
    )?;
    settle(folder, layout, &lock)?;
    Ok(built)
}

/// Lets `build` write the new folder `next`, which takes over `kept` files of the old one, is flushed and finished.
/// When any of it fails, nothing of the new folder stays.
fn fill<T>(
    folder: &Path,
    (next, kept): (&Path, &[PathBuf]),
    build: &impl Fn(&Path) -> Result<T>,
    finish: impl FnOnce() -> io::Result<()>,
    failed: impl FnOnce(io::Error) -> Error,
) -> Result<T> {
    let built = build(next).and_then(|built| {
        let complete = keep(folder, next, kept)
            .and_then(|()| sync(next))
            .and_then(|()| finish());
        complete.map_err(failed).map(|()| built)
    });
    if built.is_err() {
        // The first failure is the one to report; what is left behind would only waste space.
        let _ = fs::remove_dir_all(next);
    }
    built
}

/// One replacement inside a folder at a time. A file system that knows no locks has to do without.
fn lock(folder: &Path) -> Result<File> {
    let opened = File::open(folder).map_err(Error::io("read", folder))?;
    if let Err(error) = flock(&opened, FlockOperation::LockExclusive) {
        tracing::debug!("no lock on `{}`: {error}", folder.display());
    }
    Ok(opened)
}

/// Puts the files of a complete replacement in their places. Until all are there, readers see the replacement itself.
fn settle(folder: &Path, layout: FolderLayout, lock: &File) -> Result<()> {
    let pending = folder.join(PENDING);
    let failed = Error::io("write into", folder);
    let settled = || -> io::Result<()> {
        lock.sync_all()?; // the name of the replacement
        let files = walk(&pending)?;
        for inside in &files {
            put(&pending.join(inside), &folder.join(inside))?;
        }
        let made: HashSet<&PathBuf> = files.iter().collect();
        // Folders that hold nothing of ours need not be looked into.
        for inside in walk_made(folder, layout)? {
            if !made.contains(&inside) {
                fs::remove_file(folder.join(&inside))?;
            }
        }
        for around in files.iter().filter_map(|file| file.parent()).collect::<HashSet<_>>() {
            let around = folder.join(around);
            // Second names of files that a killed process was about to put in their places.
            process::remove_abandoned(&around, "", "tmp");
            File::open(around)?.sync_all()?;
        }
        Ok(())
    };
    settled().map_err(failed)?;
    let done = unfinished(&pending);
    fs::rename(&pending, &done).map_err(Error::io("write into", folder))?;
    remove(&done);
    Ok(())
}

/// One file under a second name, over whatever has that name.
fn put(from: &Path, to: &Path) -> io::Result<()> {
    let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    if let (Ok(new), Ok(old)) = (fs::symlink_metadata(from), fs::symlink_metadata(to))
        && same(new, old)
    {
        return Ok(());
    }
    if let Some(around) = to.parent() {
        fs::create_dir_all(around)?;
    }
    let temporary = file::temporary(to);
    let placed = link_or_copy(from, &temporary).and_then(|()| fs::rename(&temporary, to));
    if placed.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    placed
}

fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    if let Ok(target) = fs::read_link(from) {
        return symlink(target, to);
    }
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(error),
        // Not every file system has hard links, and the kernel refuses those to files of other users.
        Err(_) => fs::copy(from, to).and_then(|_| File::open(to)?.sync_all()),
    }
}

/// The files of a folder that a new one takes along; `None` when it is better to leave them where they are.
fn others(folder: &Path, layout: FolderLayout) -> io::Result<Option<Vec<PathBuf>>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(inside) = folders.pop() {
        for entry in fs::read_dir(folder.join(&inside))? {
            let entry = entry?;
            let path = inside.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                let elsewhere = entry.metadata()?.dev() != fs::metadata(folder)?.dev();
                if elsewhere || entry.file_name() == ".git" {
                    return Ok(None);
                }
                folders.push(path);
            } else if !(layout.is_made)(&path) && !is_temporary(&path) {
                found.push(path);
            }
        }
        if found.len() > MOST_KEPT || folders.len() > MOST_KEPT {
            return Ok(None);
        }
    }
    Ok(Some(found))
}

fn is_temporary(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "tmp")
}

/// Gives `to` the files of `from`, by their paths inside, that it lacks.
fn keep(from: &Path, to: &Path, files: &[PathBuf]) -> io::Result<()> {
    for inside in files {
        let (old, new) = (from.join(inside), to.join(inside));
        let Ok(kind) = fs::symlink_metadata(&old).map(|found| found.file_type()) else {
            continue;
        };
        if !(kind.is_file() || kind.is_symlink()) || fs::symlink_metadata(&new).is_ok() {
            continue;
        }
        if let Some(around) = new.parent() {
            fs::create_dir_all(around)?;
        }
        link_or_copy(&old, &new)?;
    }
    Ok(())
}

/// Paths of all files of a folder, as seen from it.
fn walk(folder: &Path) -> io::Result<Vec<PathBuf>> {
    walk_into(folder, |_| true)
}

/// The same of those folders in it that it `enters`.
fn walk_into(folder: &Path, enters: impl Fn(&Path) -> bool) -> io::Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(inside) = folders.pop() {
        for entry in fs::read_dir(folder.join(&inside))? {
            let entry = entry?;
            let path = inside.join(entry.file_name());
            if !entry.file_type()?.is_dir() {
                files.push(path);
            } else if enters(&path) {
                folders.push(path);
            }
        }
    }
    Ok(files)
}

/// The files of a layout that are in a folder: at its top or one folder down.
fn walk_made(folder: &Path, layout: FolderLayout) -> io::Result<Vec<PathBuf>> {
    let at_top = |inside: &Path| inside.components().count() == 1;
    let mut made = walk_into(folder, |inside| at_top(inside) && inside != Path::new(PENDING))?;
    made.retain(|path| (layout.is_made)(path));
    Ok(made)
}

/// Flushes every file and folder of a tree.
fn sync(folder: &Path) -> io::Result<()> {
    let files = walk(folder)?;
    let flush = |path: &Path| match File::open(path) {
        Ok(file) => file.sync_all(),
        // A link that leads nowhere, or a file that is not ours to read, was not written now.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => Ok(()),
        Err(error) => Err(error),
    };
    files.par_iter().try_for_each(|inside| flush(&folder.join(inside)))?;
    let mut folders: HashSet<&Path> = files.iter().flat_map(|file| file.ancestors().skip(1)).collect();
    folders.insert(Path::new(""));
    folders.into_iter().try_for_each(|inside| flush(&folder.join(inside)))
}

/// Removes a folder that nobody reads any more. If some of it stays, the next replacement tries again.
fn remove(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder) {
        tracing::warn!("`{}` is not needed any more and stays: {error}", folder.display());
    }
}

/// A hidden name beside `path` that no other writer has: `.<name>.<tag of the process>-<number>.next`.
fn unfinished(path: &Path) -> PathBuf {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let (prefix, tag) = (prefix(path), Process::this().tag());
    path.with_file_name(format!("{prefix}{tag}-{number}{UNFINISHED}"))
}

fn prefix(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!(".{}.", name.trim_start_matches('.'))
}

/// Removes what killed replacements of `folder` left beside it and in it. A folder around it that cannot be read holds
/// none that could be removed.
fn remove_abandoned(folder: &Path) -> Result<()> {
    for path in [folder.to_owned(), folder.join(PENDING)] {
        let Some(entries) = path.parent().and_then(|around| fs::read_dir(around).ok()) else {
            continue;
        };
        for entry in entries {
            let Ok(entry) = entry else { continue };
            let name = entry.file_name();
            let tag = name.to_str().and_then(|name| {
                let rest = name.strip_prefix(&prefix(&path))?.strip_suffix(UNFINISHED)?;
                (!rest.contains('.')).then(|| rest.rsplit_once('-').map(|(tag, _)| tag))?
            });
            let Some(tag) = tag else { continue };
            let abandoned = match Process::of_tag(tag) {
                Some(writer) => writer.is_gone(),
                None => {
                    let written = entry.metadata().and_then(|found| found.modified());
                    let age = written.map(|then| SystemTime::now().duration_since(then).unwrap_or_default());
                    age.is_ok_and(|age| age > ABANDONED)
                }
            };
            if abandoned {
                remove(&entry.path());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: FolderLayout = FolderLayout {
        is_made: |path| path.starts_with("cells") && path.extension().is_some_and(|ending| ending == "json"),
        inherited: &["noise.json"],
    };

    /// A folder of so many cells that say `what`.
    fn made(what: &'static str, cells: usize) -> impl Fn(&Path) -> Result<()> {
        move |folder| {
            fs::create_dir_all(folder.join("cells")).unwrap();
            for cell in 0..cells {
                fs::write(folder.join(format!("cells/{cell}.json")), what).unwrap();
            }
            Ok(())
        }
    }

    /// Every file that a reader sees, with what it says.
    fn seen(folder: &Path) -> Vec<(String, String)> {
        let folder = current(folder);
        let mut files: Vec<_> = walk(&folder)
            .unwrap()
            .into_iter()
            .map(|path| {
                (
                    path.display().to_string(),
                    fs::read_to_string(folder.join(&path)).unwrap(),
                )
            })
            .collect();
        files.sort();
        files
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        let own = |(path, said): &(&str, &str)| ((*path).to_owned(), (*said).to_owned());
        expected.iter().map(own).collect()
    }

    const OLD: [(&str, &str); 5] = [
        (".gitignore", "*.png"),
        ("README.md", "ours"),
        ("cells/0.json", "old"),
        ("cells/1.json", "old"),
        ("noise.json", "{}"),
    ];
    const NEW: [(&str, &str); 4] = [
        (".gitignore", "*.png"),
        ("README.md", "ours"),
        ("cells/0.json", "new"),
        ("noise.json", "{}"),
    ];

    /// A folder with two old cells and what others put there.
    fn old(folder: &Path) {
        replace(folder, LAYOUT, made("old", 2)).unwrap();
        for (name, said) in [(".gitignore", "*.png"), ("README.md", "ours"), ("noise.json", "{}")] {
            fs::write(folder.join(name), said).unwrap();
        }
        assert_eq!(seen(folder), pairs(&OLD));
    }

    #[test]
    fn a_folder_is_replaced_and_what_others_put_there_stays() {
        use std::os::unix::fs::PermissionsExt as _;
        let around = tempfile::tempdir().unwrap();
        let folder = around.path().join("a/baseline");
        old(&folder);
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).unwrap();
        replace(&folder, LAYOUT, made("new", 1)).unwrap();
        assert_eq!(seen(&folder), pairs(&NEW));
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o750);
        assert_eq!(fs::read_dir(around.path().join("a")).unwrap().count(), 1);
    }

    #[test]
    fn a_link_stays_one_and_its_folder_is_replaced_on_whatever_file_system() {
        let around = tempfile::tempdir().unwrap();
        for elsewhere in [tempfile::tempdir_in("/dev/shm"), tempfile::tempdir()] {
            let Ok(elsewhere) = elsewhere else { continue };
            let (link, folder) = (around.path().join("baseline"), elsewhere.path().join("real"));
            let _ = fs::remove_file(&link);
            symlink(&folder, &link).unwrap();
            // First a link to nothing.
            old(&link);
            replace(&link, LAYOUT, made("new", 1)).unwrap();
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
            assert_eq!(seen(&folder), pairs(&NEW));
            assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
        }
    }

    /// The way of mount points, read-only folders around and file systems without exchange.
    #[test]
    fn inside_the_folder_it_comes_to_the_same() {
        let around = tempfile::tempdir().unwrap();
        let folder = around.path().join("baseline");
        old(&folder);
        inside(&folder, LAYOUT, made("new", 1)).unwrap();
        assert_eq!(seen(&folder), pairs(&NEW));
        // A repository is not moved from under its users.
        fs::create_dir(folder.join(".git")).unwrap();
        fs::write(folder.join(".git/HEAD"), "ref").unwrap();
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        let before = inode(&folder);
        replace(&folder, LAYOUT, made("newer", 1)).unwrap();
        assert_eq!(inode(&folder), before);
        assert!(seen(&folder).contains(&("cells/0.json".into(), "newer".into())));
    }

    #[test]
    fn a_complete_replacement_is_what_readers_see_and_the_next_call_puts_it_in_place() {
        let around = tempfile::tempdir().unwrap();
        let folder = around.path().join("baseline");
        old(&folder);
        // As a process leaves it that is killed right after the one step, or among the files.
        made("new", 1)(&folder.join(PENDING)).unwrap();
        for (path, said) in seen(&folder) {
            assert_eq!((path.as_str(), said.as_str()), ("cells/0.json", "new"));
        }
        let mark_before = mark(&folder);
        settle(&folder, LAYOUT, &lock(&folder).unwrap()).unwrap();
        assert_ne!(mark(&folder), mark_before);
        assert_eq!(seen(&folder), pairs(&NEW));
        made("newest", 1)(&folder.join(PENDING)).unwrap();
        replace(&folder, LAYOUT, made("last", 1)).unwrap();
        assert!(seen(&folder).contains(&("cells/0.json".into(), "last".into())));
        assert!(!folder.join(PENDING).exists());
    }

    #[test]
    fn a_failed_replacement_leaves_the_old_folder_and_nothing_else() {
        let around = tempfile::tempdir().unwrap();
        let folder = around.path().join("baseline");
        old(&folder);
        let fails = |new: &Path| -> Result<()> {
            made("new", 1)(new)?;
            Err(Error::NoResults { path: new.into() })
        };
        replace(&folder, LAYOUT, fails).unwrap_err();
        inside(&folder, LAYOUT, fails).unwrap_err();
        assert_eq!(seen(&folder), pairs(&OLD));
        assert_eq!(fs::read_dir(around.path()).unwrap().count(), 1);
        fs::write(around.path().join("file"), "").unwrap();
        replace(&around.path().join("file"), LAYOUT, made("new", 1)).unwrap_err();
    }

    #[test]
    fn what_killed_processes_left_goes_and_what_living_ones_write_stays() {
        let around = tempfile::tempdir().unwrap();
        let folder = around.path().join("baseline");
        old(&folder);
        let this = Process::this();
        let gone = Process {
            started: this.started - 1,
            ..this.clone()
        };
        let name = |of: &str, writer: &Process| format!(".{of}.{}-0.next", writer.tag());
        let left = [
            around.path().join(name("baseline", &gone)),
            folder.join(name("replacement", &gone)),
        ];
        let stays = [
            around.path().join(name("baseline", this)),
            around.path().join(name("other", &gone)),
        ];
        for path in left.iter().chain(&stays) {
            fs::create_dir(path).unwrap();
        }
        replace(&folder, LAYOUT, made("new", 1)).unwrap();
        assert!(left.iter().all(|path| !path.exists()));
        assert!(stays.iter().all(|path| path.exists()));
    }

    #[test]
    fn a_file_that_a_killed_process_was_putting_in_its_place_leaves_no_second_name() {
        let around = tempfile::tempdir().unwrap();
        let folder = around.path().join("baseline");
        old(&folder);
        let this = Process::this();
        let gone = Process {
            started: this.started - 1,
            ..this.clone()
        };
        let beside = |writer: &Process| folder.join(format!("cells/0.json.{}-3.tmp", writer.tag()));
        let (left, stays) = (beside(&gone), beside(this));
        let foreign = folder.join("cells/notes.tmp");
        for path in [&left, &stays, &foreign] {
            fs::write(path, "old").unwrap();
        }
        made("new", 1)(&folder.join(PENDING)).unwrap();
        settle(&folder, LAYOUT, &lock(&folder).unwrap()).unwrap();
        assert!(!left.exists() && stays.exists() && foreign.exists());
    }

    #[test]
    fn readers_see_one_state_while_writers_replace_it() {
        let around = tempfile::tempdir().unwrap();
        let folder = &around.path().join("baseline");
        replace(folder, LAYOUT, made("0", 20)).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                for round in 0..60 {
                    let what = ["0", "1"][round % 2];
                    if round % 3 == 0 {
                        inside(folder, LAYOUT, made(what, 20)).unwrap();
                    } else {
                        replace(folder, LAYOUT, made(what, 20)).unwrap();
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                done.store(true, Ordering::Relaxed);
            });
            let mut read = 0;
            while !done.load(Ordering::Relaxed) {
                let state = steadily(&[folder], || {
                    let folder = current(folder);
                    let cell = |i: usize| folder.join(format!("cells/{i}.json"));
                    let say = |i| fs::read_to_string(cell(i)).map_err(Error::io("read", &cell(i)));
                    (0..20).map(say).collect::<Result<Vec<String>>>()
                });
                if let Ok(state) = state {
                    assert!(state.iter().all(|said| *said == state[0]), "{state:?}");
                    read += 1;
                }
            }
            assert!(read > 0);
        });
    }
}
