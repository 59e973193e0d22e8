//! Streaming unpack of tar, tar.gz, zip and tar.gz within zip, from archives that nobody vouches for.
//!
//! Nothing is ever held whole in memory. Only plain files and folders come out: absolute paths, `..`,
//! links, devices and entries of one name are errors, junk that macOS leaves behind is skipped, and the
//! amount that one archive may unpack to is bounded. Checksums of gzip and zip are read to their end.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;

use crate::error::{Cause, Error, Result};
use crate::fs::file::{self, next_bytes};

/// Limits of the unpacked size of one archive.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Files and folders. The largest real archive has 14,781 (the annotations of Oxford Pets).
    entries: u64,
    /// Bytes that are allowed whatever the archive's size: small label files compress very well.
    free_bytes: u64,
    /// Unpacked bytes per archive byte above that. Photographs hardly compress (ratio about 1, tiny
    /// ones in tar's 512-byte blocks up to 3); deflate itself reaches 1,032.
    ratio: u64,
    /// Unpacked bytes. The largest real archive is 979 MB.
    bytes: u64,
}

const LIMITS: Limits = Limits {
    entries: 2_000_000,
    free_bytes: 64 << 20,
    ratio: 50,
    bytes: 64 << 30,
};

/// Bytes of headers that may stand between two tar entries: long names and PAX records are held in memory.
const TAR_HEADERS: u64 = 1 << 20;

/// Unpacks `archive` into the existing folder `target`; the format is found by magic bytes.
///
/// A tar.gz within a zip is unpacked where it stands and not kept itself.
///
/// # Errors
/// [`Error::Archive`] naming the entry when the archive is damaged or holds what it must not,
/// [`Error::Io`] when it cannot be read or the target cannot be written.
pub fn unpack(archive: &Path, target: &Path) -> Result<()> {
    unpack_within(archive, target, LIMITS)
}

fn unpack_within(archive: &Path, target: &Path, limits: Limits) -> Result<()> {
    let (magic, mut file) = file::first_bytes(archive, 4)?;
    let size = file.metadata().map_err(Error::io("read", archive))?.len();
    io::Seek::rewind(&mut file).map_err(Error::io("read", archive))?;
    let allowed = limits
        .free_bytes
        .max(size.saturating_mul(limits.ratio))
        .min(limits.bytes);
    let mut unpacking = Unpacking {
        archive,
        target,
        entries: limits.entries,
        bytes: allowed,
        at: String::new(),
    };
    let reader = BufReader::with_capacity(1 << 18, file);
    if magic.starts_with(b"PK") {
        unpacking.zip(reader)
    } else if magic.starts_with(&[0x1f, 0x8b]) {
        unpacking.tar(MultiGzDecoder::new(reader), "", true)
    } else {
        unpacking.tar(reader, "", false)
    }
}

/// An archive on its way to a folder.
struct Unpacking<'a> {
    archive: &'a Path,
    target: &'a Path,
    /// Entries that may still come.
    entries: u64,
    /// Unpacked bytes that may still come.
    bytes: u64,
    /// The entry being read, for messages.
    at: String,
}

impl Unpacking<'_> {
    /// Unpacks a tar stream into the sub-folder `below` (empty or ending in `/`).
    ///
    /// `summed`: the stream carries its own checksum. A bare tar does not, so its end marker is required.
    fn tar(&mut self, stream: impl Read, below: &str, summed: bool) -> Result<()> {
        let allowance = Rc::new(Cell::new(0));
        let mut archive = tar::Archive::new(Metered {
            inner: stream,
            allowance: Rc::clone(&allowance),
        });
        let mut entries = archive.entries().map_err(|e| self.damaged(&e))?;
        let mut padding = 0;
        loop {
            allowance.set(TAR_HEADERS);
            let Some(entry) = entries.next() else { break };
            let mut entry = entry.map_err(|e| self.damaged(&e))?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            // An absolute path stays one within another archive too: it is refused.
            let below = if name.starts_with('/') { "" } else { below };
            self.enter(&format!("{below}{name}"))?;
            let size = entry.size();
            padding = size.wrapping_neg() % 512;
            allowance.set(self.spend(size)?);
            let kind = entry.header().entry_type();
            if !(kind.is_file() || kind.is_dir() || kind.is_contiguous()) {
                let kind = if kind.is_symlink() {
                    "a symbolic link"
                } else if kind.is_hard_link() {
                    "a hard link"
                } else {
                    "no plain file"
                };
                return Err(self.refused(&format!("is {kind}; only files and folders are unpacked")));
            }
            match self.place()? {
                Some(_) if kind.is_dir() => {}
                Some(path) => self.write(&path, &mut entry, size)?,
                None => drop(io::copy(&mut entry, &mut io::sink()).map_err(|e| self.damaged(&e))?),
            }
        }
        let ended = TAR_HEADERS - allowance.get() >= padding + 512;
        if !summed && !ended {
            return Err(self.fail("ends without tar's end marker: it is truncated"));
        }
        // What follows the end marker is padding, but a checksum may stand behind it.
        allowance.set(self.bytes);
        io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(|e| self.damaged(&e))?;
        Ok(())
    }

    fn zip(&mut self, reader: BufReader<File>) -> Result<()> {
        let mut zip = zip::ZipArchive::new(reader).map_err(|e| self.fail(&format!("{e} (truncated?)")))?;
        if zip.has_duplicate_names() {
            return Err(self
                .fail("holds two entries of one name")
                .because(Cause::HostileArchive));
        }
        if zip.has_overlapping_files().map_err(|e| self.fail(&e.to_string()))? {
            return Err(self.fail("has entries that overlap").because(Cause::HostileArchive));
        }
        for index in 0..zip.len() {
            let mut entry = zip
                .by_index(index)
                .map_err(|e| self.fail(&format!("entry {index}: {e}")))?;
            let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
            self.enter(&name)?;
            // The upper half of a Unix mode says what the entry is; zero where the writer left it out.
            let kind = entry.unix_mode().unwrap_or(0) & 0o170_000;
            if entry.is_symlink() || !matches!(kind, 0 | 0o040_000 | 0o100_000) {
                return Err(self.refused("is a link or device; only files and folders are unpacked"));
            }
            let is_dir = entry.is_dir();
            let size = entry.size();
            match self.place()? {
                None => {}
                Some(_) if is_dir => {}
                Some(_) if is_tar_gz(&name) => {
                    let below = match name.rsplit_once('/') {
                        Some((folder, _)) if !folder.is_empty() => name.get(..=folder.len()).unwrap_or_default(),
                        _ => "",
                    };
                    self.tar(MultiGzDecoder::new(BufReader::new(&mut entry)), below, true)?;
                    // The zip's own checksum of the inner archive stands at its end.
                    self.at.clone_from(&name);
                    io::copy(&mut entry, &mut io::sink()).map_err(|e| self.damaged(&e))?;
                }
                Some(path) => {
                    self.spend(size)?;
                    self.write(&path, &mut entry, size)?;
                }
            }
        }
        Ok(())
    }

    /// Counts an entry.
    fn enter(&mut self, name: &str) -> Result<()> {
        name.clone_into(&mut self.at);
        self.entries = self
            .entries
            .checked_sub(1)
            .ok_or_else(|| self.refused("is one entry too many"))?;
        Ok(())
    }

    /// Counts bytes, and gives them back as an allowance.
    fn spend(&mut self, bytes: u64) -> Result<u64> {
        self.bytes = self
            .bytes
            .checked_sub(bytes)
            .ok_or_else(|| self.refused("unpacks to more than an archive of this size may hold"))?;
        Ok(bytes)
    }

    /// Target of the current entry; `None` for junk and for the root folder itself.
    fn place(&self) -> Result<Option<PathBuf>> {
        let parts = plain_parts(&self.at).map_err(|reason| self.refused(reason))?;
        let is_junk = |part: &&str| *part == "__MACOSX" || part.starts_with("._") || *part == ".DS_Store";
        if parts.is_empty() || parts.iter().any(is_junk) {
            return Ok(None);
        }
        Ok(Some(self.target.join(parts.iter().collect::<PathBuf>())))
    }

    /// Writes exactly `size` bytes to a new file.
    fn write(&self, path: &Path, from: &mut impl Read, size: u64) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| match e.kind() {
                io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                    self.refused("lies below an entry that is a file")
                }
                _ => Error::io("make", folder)(e),
            })?;
        }
        let file = File::create_new(path).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => self.refused("stands twice in the archive"),
            _ => Error::io("write", path)(e),
        })?;
        let mut file = BufWriter::new(file);
        let mut chunk = vec![0; 1 << 16];
        let mut left = size;
        // Not `io::copy`: a damaged archive and a full disk are different errors.
        loop {
            let bytes = next_bytes(from, &mut chunk).map_err(|e| self.damaged(&e))?;
            if bytes.is_empty() {
                break;
            }
            left = left
                .checked_sub(bytes.len() as u64)
                .ok_or_else(|| self.refused("is longer than it says"))?;
            file.write_all(bytes).map_err(Error::io("write", path))?;
        }
        if left > 0 {
            return Err(self.fail(&format!(
                "entry `{}` is cut off: {left} of its {size} bytes are missing",
                self.at
            )));
        }
        file.flush().map_err(Error::io("write", path))
    }

    fn fail(&self, reason: &str) -> Error {
        Error::Archive {
            path: self.archive.into(),
            reason: reason.into(),
        }
    }

    fn refused(&self, why: &str) -> Error {
        self.fail(&format!("entry `{}` {why}", self.at))
            .because(Cause::HostileArchive)
    }

    fn damaged(&self, error: &io::Error) -> Error {
        let what = match error.kind() {
            io::ErrorKind::UnexpectedEof => "truncated".into(),
            _ => error.to_string(),
        };
        match self.at.as_str() {
            "" => self.fail(&format!("{what} (at its beginning)")),
            entry => self.fail(&format!("{what} (at or after entry `{entry}`)")),
        }
    }
}

fn is_tar_gz(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    [".tar.gz", ".tgz"].iter().any(|end| name.ends_with(end))
}

/// The components of a relative path with `/`, or why it is not one that stays below its folder.
pub(crate) fn plain_parts(path: &str) -> Result<Vec<&str>, &'static str> {
    if path.starts_with('/') {
        return Err("has an absolute path");
    }
    if path.contains(['\\', '\0', char::REPLACEMENT_CHARACTER]) {
        return Err("has a name with a backslash, a zero byte or no valid UTF-8");
    }
    let parts: Vec<_> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err("leads out of its folder by `..`");
    }
    Ok(parts)
}

/// A stream of which only so many bytes may be read until the allowance is renewed.
struct Metered<R> {
    inner: R,
    allowance: Rc<Cell<u64>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let allowed = self.allowance.get();
        if allowed == 0 && !buffer.is_empty() {
            return match self.inner.read(&mut [0])? {
                0 => Ok(0),
                _ => Err(io::Error::other("more bytes than an archive of this size may hold")),
            };
        }
        let most = buffer.len().min(usize::try_from(allowed).unwrap_or(usize::MAX));
        let read = self.inner.read(buffer.get_mut(..most).unwrap_or_default())?;
        self.allowance.set(allowed.saturating_sub(read as u64));
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_that_stay_below_are_plain() {
        assert_eq!(plain_parts("./images//a.jpg"), Ok(vec!["images", "a.jpg"]));
        assert_eq!(plain_parts("./"), Ok(vec![]));
        for bad in ["/etc/passwd", "a/../../b", "..", "a\\b", "a\0b"] {
            assert!(plain_parts(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bomb_is_stopped_by_size_by_ratio_and_by_number() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("bomb.tar.gz");
        let gz = flate2::write::GzEncoder::new(File::create(&archive).unwrap(), flate2::Compression::best());
        let mut tar = tar::Builder::new(gz);
        for name in ["a", "b", "c"] {
            let mut header = tar::Header::new_gnu();
            header.set_size(1 << 20);
            tar.append_data(&mut header, name, io::repeat(0).take(1 << 20)).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap();

        let none = Limits {
            entries: 9,
            free_bytes: 9 << 20,
            ratio: 1,
            bytes: 9 << 20,
        };
        let cases = [
            (none, None),
            (Limits { bytes: 2 << 20, ..none }, Some("entry `c` unpacks to more")),
            (
                Limits {
                    free_bytes: 0,
                    ratio: 100,
                    ..none
                },
                Some("unpacks to more"),
            ),
            (
                Limits {
                    free_bytes: 0,
                    ratio: 5000,
                    ..none
                },
                None,
            ),
            (Limits { entries: 2, ..none }, Some("entry `c` is one entry too many")),
        ];
        for (i, (limits, wanted)) in cases.into_iter().enumerate() {
            let target = folder.path().join(i.to_string());
            std::fs::create_dir(&target).unwrap();
            let result = unpack_within(&archive, &target, limits);
            match wanted {
                None => result.unwrap(),
                Some(wanted) => assert!(result.unwrap_err().to_string().contains(wanted), "{i}"),
            }
        }
    }

    #[test]
    fn headers_that_never_end_are_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("long-name.tar.gz");
        let gz = flate2::write::GzEncoder::new(File::create(&archive).unwrap(), flate2::Compression::best());
        let mut tar = tar::Builder::new(gz);
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::GNULongName);
        header.set_size(8 << 20);
        tar.append_data(&mut header, "././@LongLink", io::repeat(b'a').take(8 << 20))
            .unwrap();
        tar.into_inner().unwrap().finish().unwrap();
        let error = unpack(&archive, folder.path()).unwrap_err().to_string();
        assert!(error.contains("more bytes than"), "{error}");
    }
}
