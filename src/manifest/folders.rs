//! Where manifests are looked for: folders of the user's, and beside them those inside the binary.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{Manifest, check_name};
use crate::embedded;
use crate::error::{Error, Result};
use crate::fs::is_writable;

/// Folders of manifests, in the order in which they are searched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFolders {
    folders: Vec<PathBuf>,
    /// Those inside the binary are found too, after all others.
    with_embedded: bool,
}

impl ManifestFolders {
    /// The folders in this order, and after them what is inside the binary.
    #[must_use]
    pub fn with_embedded(folders: Vec<PathBuf>) -> Self {
        Self {
            folders,
            with_embedded: true,
        }
    }

    /// The file that a new manifest of this name is written to: in the first folder that can be written.
    ///
    /// # Errors
    /// Why there can be none, as a sentence.
    pub(crate) fn new_file(&self, name: &str) -> Result<PathBuf, NoNewFile> {
        check_name(name).map_err(NoNewFile::Named)?;
        if let Some(path) = self
            .folders
            .iter()
            .map(|folder| file_of(folder, name))
            .find(|path| path.exists())
        {
            return Err(NoNewFile::Exists(path));
        }
        if self.with_embedded && embedded::manifest(name).is_some() {
            return Err(NoNewFile::Named(format!(
                "`{name}` is the name of a dataset inside kshot"
            )));
        }
        let writable = self.folders.iter().find(|folder| is_writable(folder));
        let folder = writable
            .or(self.folders.first())
            .map_or(Path::new("."), PathBuf::as_path);
        Ok(file_of(folder, name))
    }

    /// The file of the manifest of a dataset, if there is one of that name.
    fn file(&self, name: &str) -> Result<Option<PathBuf>> {
        let own = self
            .folders
            .iter()
            .map(|folder| file_of(folder, name))
            .find(|path| path.exists());
        let inside = embedded::manifest(name).filter(|_| self.with_embedded);
        match (own, inside) {
            (Some(own), inside) => {
                if let Some(inside) = inside {
                    warn_of_other(name, &own, inside);
                }
                Ok(Some(own))
            }
            (None, Some(_)) => Ok(Some(file_of(&embedded::unpacked()?.join("datasets"), name))),
            (None, None) => Ok(None),
        }
    }

    /// Names of all manifests, sorted.
    fn names(&self) -> Result<BTreeSet<String>> {
        let mut all = BTreeSet::new();
        for folder in &self.folders {
            // Where there are manifests inside the binary, nobody needs to have one of their own.
            match names(folder) {
                Err(Error::Io { source, .. }) if self.with_embedded && source.kind() == ErrorKind::NotFound => {}
                found => all.extend(found?),
            }
        }
        if self.with_embedded {
            all.extend(embedded::datasets().map(str::to_owned));
        }
        Ok(all)
    }
}

/// Why there is no file for a new manifest.
pub(crate) enum NoNewFile {
    /// There is one already.
    Exists(PathBuf),
    /// The name will not do.
    Named(String),
}

/// One folder alone.
impl From<&Path> for ManifestFolders {
    fn from(folder: &Path) -> Self {
        Self {
            folders: vec![folder.into()],
            with_embedded: false,
        }
    }
}

impl From<&PathBuf> for ManifestFolders {
    fn from(folder: &PathBuf) -> Self {
        folder.as_path().into()
    }
}

impl From<&Self> for ManifestFolders {
    fn from(folders: &Self) -> Self {
        folders.clone()
    }
}

/// Every manifest that is found, sorted by name; a wrong one as its error, so that it hides no other.
///
/// # Errors
/// [`Error::Io`] when a folder cannot be read.
pub fn list(datasets: impl Into<ManifestFolders>) -> Result<Vec<Result<Manifest>>> {
    let datasets = datasets.into();
    let found = datasets.names()?.into_iter().map(|name| load(&datasets, &name));
    Ok(found.collect())
}

/// The manifest of one dataset.
///
/// # Errors
/// [`Error::UnknownDataset`] with the names that exist, or as [`Manifest::read`].
pub fn load(datasets: impl Into<ManifestFolders>, name: &str) -> Result<Manifest> {
    let datasets = datasets.into();
    match datasets.file(name)? {
        Some(path) => Manifest::read(&path),
        None => Err(Error::UnknownDataset {
            name: name.into(),
            known: datasets.names()?.into_iter().collect(),
        }),
    }
}

fn file_of(datasets: &Path, name: &str) -> PathBuf {
    datasets.join(format!("{name}.toml"))
}

/// Names of the manifests in a folder.
fn names(datasets: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(datasets).map_err(Error::io("list", datasets))? {
        let path = entry.map_err(Error::io("list", datasets))?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        names.extend(
            stem.filter(|_| path.extension().is_some_and(|end| end == "toml"))
                .map(str::to_owned),
        );
    }
    Ok(names)
}

/// Tells once that a manifest of the user's stands for one of the same name inside the binary, and is not the same.
fn warn_of_other(name: &str, own: &Path, inside: &[u8]) {
    static TOLD: Mutex<BTreeMap<PathBuf, ()>> = Mutex::new(BTreeMap::new());
    let same = std::fs::read(own).is_ok_and(|text| text == inside);
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if !same && told.insert(own.to_owned(), ()).is_none() {
        let own = own.display();
        tracing::warn!("dataset `{name}` is that of `{own}`, not the one of the same name inside kshot");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A manifest of a folder of images.
    fn text(name: &str, title: &str) -> String {
        format!(
            "name = \"{name}\"\ntitle = \"{title}\"\nlayout = \"folders\"\nlicence = \"none\"\ncitation = \"nobody\"\n\
             directory = \"images\"\nholdout = 0.5\n"
        )
    }

    #[test]
    fn folders_are_searched_in_order_and_what_is_inside_the_binary_is_found_beside_them() {
        let scratch = tempfile::tempdir().unwrap();
        let (first, second, absent) = (
            scratch.path().join("a"),
            scratch.path().join("b"),
            scratch.path().join("c"),
        );
        for (folder, name, title) in [(&first, "x", "one"), (&second, "x", "two"), (&second, "y", "three")] {
            fs::create_dir_all(folder).unwrap();
            fs::write(file_of(folder, name), text(name, title)).unwrap();
        }
        let all = ManifestFolders::with_embedded(vec![absent.clone(), first, second]);
        let title = |name: &str| load(&all, name).unwrap().title;
        assert_eq!((title("x"), title("y")), ("one".into(), "three".into()));
        let names: Vec<String> = all.names().unwrap().into_iter().collect();
        assert_eq!(names.len(), 11, "{names:?}");
        assert!(names.iter().any(|name| name == "mini-cars") && names.is_sorted());
        let Err(Error::UnknownDataset { known, .. }) = load(&all, "z") else {
            panic!()
        };
        assert_eq!(known, names);
        // Without what is inside, a folder that is not there is an error.
        assert!(matches!(load(&absent, "x"), Err(Error::Io { .. })));
    }

    #[test]
    fn a_wrong_manifest_hides_no_other() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(file_of(scratch.path(), "good"), text("good", "one")).unwrap();
        fs::write(file_of(scratch.path(), "bad"), "name = 1").unwrap();
        let listed = list(scratch.path()).unwrap();
        assert!(matches!(&listed[..], [Err(Error::Manifest { path, .. }), Ok(good)]
            if path.ends_with("bad.toml") && good.name == "good"));
    }

    #[test]
    fn a_new_manifest_goes_to_the_first_folder_under_a_name_that_is_free() {
        let scratch = tempfile::tempdir().unwrap();
        let (first, second) = (scratch.path().join("a/datasets"), scratch.path().join("b"));
        fs::create_dir_all(&second).unwrap();
        fs::write(file_of(&second, "x"), text("x", "one")).unwrap();
        let all = ManifestFolders::with_embedded(vec![first.clone(), second.clone()]);
        assert!(matches!(all.new_file("y"), Ok(path) if path == file_of(&first, "y")));
        assert!(matches!(all.new_file("x"), Err(NoNewFile::Exists(path)) if path == file_of(&second, "x")));
        assert!(matches!(all.new_file("mini-pets"), Err(NoNewFile::Named(reason)) if reason.contains("inside kshot")));
        assert!(matches!(all.new_file("../x"), Err(NoNewFile::Named(_))));
        let blocked = scratch.path().join("file");
        fs::write(&blocked, "").unwrap();
        let all = ManifestFolders::with_embedded(vec![blocked.join("datasets"), second.clone()]);
        assert!(matches!(all.new_file("y"), Ok(path) if path == file_of(&second, "y")));
    }
}
