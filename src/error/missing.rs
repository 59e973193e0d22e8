//! A file that could not be had: what it is, where it belongs, and what each source said.

use std::fmt;
use std::path::PathBuf;

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
