//! A file that could not be had: what it is, where it belongs, and what each source said.

use std::fmt;
use std::path::PathBuf;

use super::Cause;

/// A file of a dataset that is not on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingFile {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Kind and value of its hash.
    pub digest: Option<(&'static str, String)>,
    /// Where it belongs.
    pub place: PathBuf,
    /// Each source that was asked, and why it did not give the file.
    pub sources: Vec<(String, String)>,
}

impl fmt::Display for MissingFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ({} bytes", self.name, self.size)?;
        if let Some((kind, value)) = &self.digest {
            write!(f, ", {kind} {value}")?;
        }
        write!(f, ") belongs at `{}`", self.place.display())?;
        if self.sources.is_empty() {
            f.write_str("\n    no address of it is known: it has to be put there by hand")?;
        }
        for (source, reason) in &self.sources {
            write!(f, "\n    {source}: {reason}")?;
        }
        Ok(())
    }
}

/// One line or more a file, for the text of an error.
pub(super) fn list(files: &[MissingFile]) -> String {
    files.iter().map(|file| format!("\n  {file}")).collect()
}

/// Names and places, in one line.
pub(super) fn places(files: &[(String, PathBuf)]) -> String {
    let place = |(name, path): &(String, PathBuf)| format!("`{name}` should lie at `{}`", path.display());
    files.iter().map(place).collect::<Vec<_>>().join(", ")
}

/// The answer of the last source of the first file: a server's status, that it was not asked, or anything else.
pub(super) fn cause(files: &[MissingFile]) -> Cause {
    let reason = files
        .first()
        .and_then(|file| file.sources.last())
        .map(|(_, reason)| reason);
    let Some(reason) = reason else {
        return Cause::NoSource;
    };
    let status = reason.split_whitespace().next().and_then(|word| word.parse().ok());
    match status {
        // The address itself is out of date: no token helps.
        Some(404 | 410) => Cause::NoSource,
        Some(status) if (400..600).contains(&status) => Cause::of_status(status),
        _ if reason.contains("KSHOT_OFFLINE") => Cause::Offline,
        _ if reason.contains("bytes instead of") || reason.contains(" instead of ") => Cause::NoSource,
        _ => Cause::Network,
    }
}
