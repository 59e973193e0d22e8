//! `datasets/*.toml`: the files of a dataset, its layout, the forms in which it can be had and what must be found in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::Protocol;
use crate::error::{Error, Result};

mod folders;

pub(crate) use folders::NoNewFile;
pub use folders::{ManifestFolders, list, load};

/// One dataset as described by its TOML file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name: the file's stem.
    pub name: String,
    /// One line for people.
    pub title: String,
    /// Arrangement of archives and labels.
    pub layout: Layout,
    /// Licence of images and labels.
    pub licence: String,
    /// Whom to cite.
    pub citation: String,
    /// Page of its makers.
    pub homepage: Option<String>,
    /// Relation of the concepts to the stand-in models' pre-training.
    pub regime: Option<Regime>,
    /// Small stand-in: its numbers say nothing about the real dataset.
    #[serde(default)]
    pub micro: bool,
    /// CSV `id,class,concept,family,drawing,role` with a row for every image, relative to the manifest.
    pub provenance: Option<PathBuf>,
    /// Known quirks, for people.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Ids of images known to be bad: left out and counted.
    #[serde(default)]
    pub skip: Vec<String>,
    /// Class names in label order: where the label files hold numbers only (Oxford Flowers), and elsewhere to check
    /// and to order those that a source gives.
    #[serde(default)]
    pub class_names: Vec<String>,
    /// Layouts `folders` and `table` only: an existing folder that the images lie in, absolute or relative to
    /// the manifest, in place of an archive.
    pub directory: Option<PathBuf>,
    /// Class names as people write them, by the name that folders or label files have; others stay as they are.
    #[serde(default)]
    pub rename: BTreeMap<String, String>,
    /// Classes to do without, by the name that folders or label files have.
    #[serde(default)]
    pub skip_classes: Vec<String>,
    /// Parquet only: class names are brought into the form that `kshot data import` gives to names of folders.
    #[serde(default)]
    pub clean_names: bool,
    /// Share of each class that is kept for the test where the images come without a split.
    pub holdout: Option<f64>,
    /// The same dataset as parquet files of a Hugging Face repository.
    pub hub: Option<Hub>,
    /// Layout `table` only: columns, and how paths become files.
    pub table: Option<TableForm>,
    /// Layout `parquet` only: files on this machine with images in them.
    pub parquet: Option<OwnParquet>,
    /// Which form is taken where a protocol allows both.
    #[serde(default)]
    pub prefer: Form,
    /// Form of the images' names in CoOp's split and index files.
    pub coop: Option<CoopPaths>,
    /// Archives and label files.
    #[serde(default, rename = "file")]
    pub files: Vec<SourceFile>,
    /// Numbers of classes and images that must be found.
    pub expect: Option<Expect>,
    /// Folder of the manifest: what relative paths are relative to.
    #[serde(skip)]
    pub folder: PathBuf,
    /// Folder that files without a `path` were downloaded to.
    #[serde(skip)]
    pub downloads: PathBuf,
}

/// Hands the list of layouts to a macro. One line a layout: its module in `src/data/layout`, which describes it, and its
/// variant of [`Layout`], whose name in kebab case is the one in manifests. `cargo fmt` does not follow modules out of a macro:
/// `cargo fmt -- src/data/layout/*.rs` formats them.
macro_rules! layouts {
    ($then:ident) => {
        $then! {
            oxford_pets: OxfordPets;
            stanford_cars: StanfordCars;
            oxford_flowers: OxfordFlowers;
            caltech101: Caltech101;
            folders: Folders;
            table: Table;
            parquet: Parquet;
        }
    };
}
pub(crate) use layouts;

/// Makes [`Layout`] of the list.
macro_rules! names {
    ($($module:ident: $layout:ident;)+) => {
        /// Arrangement of archives and labels: one per official form, and those of a user's own images.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Layout {
            $(
                #[doc = concat!("See `data::layout::", stringify!($module), "`.")]
                $layout,
            )+
        }
    };
}

layouts!(names);

/// The layout of images that came without a description.
impl Default for Layout {
    fn default() -> Self {
        Self::Folders
    }
}

/// Relation of a micro dataset's concepts to the pre-training of the stand-in models: met there or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Regime {
    /// Concepts never seen.
    Novel,
    /// Concepts seen, in other drawings than those of the test side.
    Known,
}

impl std::fmt::Display for Regime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Novel => "novel",
            Self::Known => "known",
        })
    }
}

/// One archive or label file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// Its use; each layout names its own.
    pub role: String,
    /// Its official name.
    pub name: String,
    /// Path relative to the manifest; without it the file is downloaded.
    pub path: Option<PathBuf>,
    /// Addresses that have it, in order of preference.
    #[serde(default)]
    pub urls: Vec<String>,
    /// Former addresses: nothing answers there any more.
    #[serde(default)]
    pub dead_urls: Vec<String>,
    /// Bytes.
    pub size: u64,
    /// Lower-case hex SHA-256.
    pub sha256: Option<String>,
    /// Lower-case hex MD5; checked only where no SHA-256 is known.
    pub md5: Option<String>,
}

impl SourceFile {
    /// The strongest hash known: its name and its value.
    pub(crate) fn digest(&self) -> Option<(&'static str, &str)> {
        match (&self.sha256, &self.md5) {
            (Some(hash), _) => Some(("sha256", hash)),
            (None, Some(hash)) => Some(("md5", hash)),
            (None, None) => None,
        }
    }
}

/// Counts that must be found, after skipped images were left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// Number of classes.
    pub classes: usize,
    /// Images that shots may be drawn from.
    pub pool: usize,
    /// Images that are only ever predicted.
    pub test: usize,
    /// Nobody has counted them in this source: other numbers of images are told, not refused.
    #[serde(default)]
    pub unverified: bool,
}

impl Manifest {
    /// Reads and checks one manifest file.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Manifest`] naming the field that is wrong.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        let fail = |reason: String| Error::Manifest {
            path: path.into(),
            reason,
        };
        let mut manifest: Self = toml::from_str(&text).map_err(|e| fail(e.to_string()))?;
        manifest.folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        manifest.check(path).map_err(fail)?;
        Ok(manifest)
    }

    /// The file with a role, if the manifest has one.
    pub(crate) fn file(&self, role: &str) -> Option<&SourceFile> {
        self.files.iter().find(|file| file.role == role)
    }

    /// Path of a file on this machine, whether it is there or not.
    pub(crate) fn place(&self, file: &SourceFile) -> PathBuf {
        match &file.path {
            Some(path) => self.resolve(path),
            None => self.downloads.join(&file.name),
        }
    }

    /// Error of a dataset that is not what it should be.
    pub(crate) fn fail(&self, reason: impl Into<String>) -> Error {
        Error::Dataset {
            dataset: self.name.clone(),
            reason: reason.into(),
        }
    }

    /// A path of the manifest, made usable.
    pub(crate) fn resolve(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }
}

/// Checks that a dataset may have this name: it is the stem of a file, and part of ids and folders.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(is_plain) {
        return Err(format!(
            "name `{name}` may hold only ASCII letters, digits, `-`, `_` and `.`, and not begin with `.`"
        ));
    }
    Ok(())
}

/// In which form a dataset came to this machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Archives and label files in the official layout, or a folder on this machine.
    #[default]
    Archive,
    /// Parquet files of a Hugging Face dataset repository.
    Hub,
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Archive => "archive",
            Self::Hub => "hub",
        })
    }
}

/// A Hugging Face dataset repository that holds images and labels as parquet files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hub {
    /// `owner/name`.
    pub repo: String,
    /// Commit, branch or tag; what it stood for is kept with the files.
    pub revision: String,
    /// Column of images: a struct of `bytes` and `path`.
    #[serde(default = "image_column")]
    pub image: String,
    /// Column of labels: integers whose names are in the files' metadata.
    #[serde(default = "label_column")]
    pub label: String,
    /// Splits that shots are drawn from: the first part of a file's name, `train-00000-of-00001.parquet`.
    #[serde(default = "train_split")]
    pub train: Vec<String>,
    /// Validation splits: part of the pool under `clean`, left alone under `tinker`.
    #[serde(default)]
    pub val: Vec<String>,
    /// Splits that are only ever predicted.
    #[serde(default = "test_split")]
    pub test: Vec<String>,
    /// The files with their sizes and hashes where these are known; else the repository is asked.
    #[serde(default, rename = "shard")]
    pub shards: Vec<Shard>,
    /// Numbers that must be found, validation images counted with the pool.
    pub expect: Option<Expect>,
}

fn image_column() -> String {
    "image".into()
}
fn label_column() -> String {
    "label".into()
}
fn train_split() -> Vec<String> {
    vec!["train".into()]
}
fn test_split() -> Vec<String> {
    vec!["test".into()]
}

/// Parquet files on this machine that hold images and labels.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnParquet {
    /// Column of images: a struct of `bytes` and `path`, or bytes.
    pub image: String,
    /// Column of labels.
    pub label: String,
    /// Splits that shots are drawn from.
    pub train: Vec<String>,
    /// Validation splits: part of the pool.
    #[serde(default)]
    pub val: Vec<String>,
    /// Splits that are only ever predicted.
    #[serde(default)]
    pub test: Vec<String>,
    /// The files, in the order of their rows.
    #[serde(default, rename = "shard")]
    pub shards: Vec<OwnShard>,
}

/// One parquet file on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnShard {
    /// Its place, absolute or relative to the manifest.
    pub path: PathBuf,
    /// Which split its rows belong to.
    pub split: String,
    /// Bytes.
    pub size: u64,
    /// Lower-case hex SHA-256.
    pub sha256: String,
}

/// One parquet file of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// Path inside the repository, e.g. `data/train-00000-of-00003.parquet`.
    pub path: String,
    /// Bytes.
    pub size: Option<u64>,
    /// Lower-case hex SHA-256.
    pub sha256: Option<String>,
}

/// Form of the images' names in CoOp's files: `./data/<root>/<path>` in index files, `<path>` in split files, where this
/// dataset's id is `<prefix><path>`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoopPaths {
    /// Image folder as CoOp lays it out, e.g. `oxford_pets/images`.
    pub root: String,
    /// Prefix of an id before CoOp's path, e.g. `images/`.
    #[serde(default)]
    pub prefix: String,
}

/// The way in which the rows of a table name images and labels; `[table]` in a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TableForm {
    /// Column of paths; without it, the first of the usual names.
    pub path_column: Option<String>,
    /// Column of class names; without it, the first of the usual names.
    pub label_column: Option<String>,
    /// Column of splits; without it, the first of the usual names.
    pub split_column: Option<String>,
    /// Text in front of each path.
    pub prefix: String,
    /// Text behind each path: the ending of the files' names.
    pub suffix: String,
    /// The first folder of each path says its split.
    pub split_by_folder: bool,
}

impl Manifest {
    /// Forms that a protocol may be opened from, the preferred one first.
    ///
    /// `tinker` is defined on hub repositories, `coop` on CoOp's paths into the official archives; `clean` takes
    /// either, but where CoOp's list is the clean split (Caltech-101) only the archives have it.
    ///
    /// # Errors
    /// Why there is none, as the end of a sentence about the dataset.
    pub fn forms(&self, protocol: Protocol) -> Result<Vec<Form>, String> {
        let has_archive = !self.files.is_empty() || self.directory.is_some() || self.parquet.is_some();
        let split_by_coop = self.layout == Layout::Caltech101;
        let (archive, hub, lacking) = match protocol {
            Protocol::Clean => (
                has_archive,
                self.hub.is_some() && !(split_by_coop && has_archive),
                "its manifest has neither files nor a folder nor a `[hub]`",
            ),
            Protocol::Tinker => (
                false,
                self.hub.is_some(),
                "the protocol `tinker` needs a hub repository, and its manifest has no `[hub]`",
            ),
            Protocol::Coop => (
                self.file("coop-split").is_some(),
                false,
                "the protocol `coop` needs CoOp's split file, and its manifest has no file of role `coop-split`",
            ),
        };
        let forms = [(archive, Form::Archive), (hub, Form::Hub)];
        let mut forms: Vec<Form> = forms
            .into_iter()
            .filter_map(|(fits, form)| fits.then_some(form))
            .collect();
        forms.sort_by_key(|form| *form != self.prefer);
        if forms.is_empty() {
            Err(lacking.into())
        } else {
            Ok(forms)
        }
    }

    /// Archives and label files that a protocol cannot do without; where several may stand for one another
    /// (labels of Stanford Cars' test images), all of them, if `there` says that none is there.
    pub fn needed(&self, protocol: Protocol, there: impl Fn(&SourceFile) -> bool) -> Vec<&SourceFile> {
        let alternatives = self.layout.alternatives();
        let is_alternative = |file: &SourceFile| alternatives.contains(&file.role.as_str());
        let one_is_there = self.files.iter().any(|file| is_alternative(file) && there(file));
        let roles = self
            .layout
            .roles()
            .iter()
            .filter(|role| role.required || role.is_archive);
        let is_needed = |file: &&SourceFile| {
            roles.clone().any(|role| role.name == file.role)
                || (protocol == Protocol::Coop && file.role == "coop-split")
                || (is_alternative(file) && !one_is_there)
        };
        self.files.iter().filter(is_needed).collect()
    }
}

impl Manifest {
    fn check(&self, path: &Path) -> Result<(), String> {
        let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        if self.name != stem {
            return Err(format!("name `{}` differs from the file's name `{stem}`", self.name));
        }
        check_name(&self.name)?;
        let roles = self.layout.roles();
        for (i, file) in self.files.iter().enumerate() {
            if !roles.iter().any(|role| role.name == file.role) {
                let known = roles.iter().map(|role| role.name).collect::<Vec<_>>().join(", ");
                return Err(format!("unknown role `{}`, this layout has: {known}", file.role));
            }
            if self.files.iter().take(i).any(|other| other.role == file.role) {
                return Err(format!("role `{}` is given twice", file.role));
            }
            if file.name.is_empty() || file.name.starts_with('.') || file.name.contains(['/', '\\']) {
                return Err(format!("`{}` cannot be the name of a file", file.name));
            }
            let Some((kind, hash)) = file.digest() else {
                return Err(format!("file `{}` has neither sha256 nor md5", file.name));
            };
            let length = if kind == "sha256" { 64 } else { 32 };
            let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            if hash.len() != length || !hash.bytes().all(is_hex) {
                let name = &file.name;
                return Err(format!("{kind} of `{name}` is not {length} lower-case hex digits"));
            }
        }
        // What has a repository may do without archives.
        let hub_only = self.hub.is_some() && self.files.is_empty() && self.directory.is_none();
        for role in roles {
            if role.required && !hub_only && self.file(role.name).is_none() {
                return Err(format!("no file has the role `{}`", role.name));
            }
        }
        if let Some(share) = self.holdout.filter(|share| !(*share > 0.0 && *share < 1.0)) {
            return Err(format!("`holdout` is a share between 0 and 1, not {share}"));
        }
        if (self.layout == Layout::Parquet) != self.parquet.is_some() {
            return Err("the layout `parquet` and `[parquet]` go together".into());
        }
        if self.table.is_some() && self.layout != Layout::Table {
            return Err("`[table]` is for the layout `table` only".into());
        }
        let is_table = ["table", "train-table"].iter().any(|role| self.file(role).is_some());
        if self.layout == Layout::Table && !is_table {
            return Err("no file has the role `table`".into());
        }
        if self.layout == Layout::Table && self.file("table").is_some() && self.files.len() > 1 {
            return Err(
                "give either a `table` or one for each side: `train-table`, `validation-table`, `test-table`".into(),
            );
        }
        match (self.layout, self.directory.is_some(), self.files.is_empty()) {
            (Layout::Folders, true, false) => Err("give either `directory` or a `[[file]]`, not both".into()),
            (Layout::Folders, false, true) if !hub_only => {
                Err("give a `directory`, a `[[file]]` of role `archive` or a `[hub]`".into())
            }
            (Layout::Folders, ..) | (Layout::Table, true, _) => Ok(()),
            (Layout::Table, false, _) => Err("give the `directory` that the table's paths are relative to".into()),
            (_, true, _) => Err("`directory` is for the layouts `folders` and `table` only".into()),
            (Layout::OxfordFlowers, ..) if self.class_names.is_empty() && !hub_only => {
                Err("the layout `oxford-flowers` needs `class_names` in label order".into())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PETS: &str = r#"
name = "pets"
title = "Pets"
layout = "oxford-pets"
licence = "none"
citation = "nobody"
regime = "novel"
micro = true
[[file]]
role = "images"
name = "images.tar.gz"
path = "mini/images.tar.gz"
size = 3
md5 = "5c4f3ee8e5d25df40f4fd59a7f44e54c"
[[file]]
role = "annotations"
name = "annotations.tar.gz"
path = "mini/annotations.tar.gz"
size = 4
sha256 = "52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91"
[expect]
classes = 2
pool = 3
test = 4
"#;

    fn read(text: &str) -> Result<Manifest> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("pets.toml"), text).unwrap();
        load(folder.path(), "pets")
    }

    #[test]
    fn a_manifest_is_read_with_its_paths_resolved() {
        let manifest = read(PETS).unwrap();
        assert_eq!(manifest.layout, Layout::OxfordPets);
        assert_eq!(manifest.regime, Some(Regime::Novel));
        assert!(manifest.micro && manifest.skip.is_empty());
        assert_eq!(manifest.file("images").unwrap().digest().unwrap().0, "md5");
        assert_eq!(manifest.file("annotations").unwrap().digest().unwrap().0, "sha256");
        assert!(manifest.place(&manifest.files[0]).ends_with("mini/images.tar.gz"));
        assert_eq!(
            manifest.expect,
            Some(Expect {
                classes: 2,
                pool: 3,
                test: 4,
                unverified: false
            })
        );
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b", "a"] {
            std::fs::write(folder.path().join(format!("{name}.toml")), "").unwrap();
        }
        let Err(Error::UnknownDataset { known, .. }) = load(folder.path(), "c") else {
            panic!()
        };
        assert_eq!(known, ["a", "b"]);
    }

    const HUB: &str = "\n[hub]\nrepo = \"a/b\"\nrevision = \"main\"\n";
    const COOP: &str = "\n[[file]]\nrole = \"coop-split\"\nname = \"split.json\"\nsize = 1\nmd5 = \"5c4f3ee8e5d25df40f4fd59a7f44e54c\"\n";

    fn forms(manifest: &Manifest, protocol: Protocol) -> Vec<Form> {
        manifest.forms(protocol).unwrap_or_default()
    }

    #[test]
    fn each_protocol_has_its_forms() {
        use Form::{Archive, Hub};
        let plain = read(PETS).unwrap();
        assert_eq!(forms(&plain, Protocol::Clean), [Archive]);
        assert!(plain.forms(Protocol::Tinker).unwrap_err().contains("no `[hub]`"));
        assert!(plain.forms(Protocol::Coop).unwrap_err().contains("coop-split"));
        let both = read(&format!("{PETS}{COOP}{HUB}")).unwrap();
        assert_eq!(forms(&both, Protocol::Clean), [Archive, Hub]);
        assert_eq!(forms(&both, Protocol::Tinker), [Hub]);
        assert_eq!(forms(&both, Protocol::Coop), [Archive]);
        let preferring = Manifest { prefer: Hub, ..both };
        assert_eq!(forms(&preferring, Protocol::Clean), [Hub, Archive]);
        let caltech = Manifest {
            layout: Layout::Caltech101,
            ..preferring
        };
        assert_eq!(forms(&caltech, Protocol::Clean), [Archive]);
    }

    #[test]
    fn one_of_the_files_that_stand_for_each_other_is_enough() {
        let mut manifest = read(&format!("{PETS}{COOP}")).unwrap();
        let roles = |manifest: &Manifest, protocol, there: &[&str]| -> Vec<String> {
            let needed = manifest.needed(protocol, |file| there.contains(&file.role.as_str()));
            needed.iter().map(|file| file.role.clone()).collect()
        };
        assert_eq!(roles(&manifest, Protocol::Clean, &[]), ["images", "annotations"]);
        assert_eq!(
            roles(&manifest, Protocol::Coop, &[]),
            ["images", "annotations", "coop-split"]
        );
        manifest.layout = Layout::StanfordCars;
        for (file, role) in manifest.files.iter_mut().zip(["devkit", "test-labels", "coop-split"]) {
            file.role = role.into();
        }
        assert_eq!(
            roles(&manifest, Protocol::Clean, &[]),
            ["devkit", "test-labels", "coop-split"]
        );
        assert_eq!(roles(&manifest, Protocol::Clean, &["coop-split"]), ["devkit"]);
        assert_eq!(
            roles(&manifest, Protocol::Coop, &["test-labels"]),
            ["devkit", "coop-split"]
        );
    }

    #[test]
    fn each_mistake_is_named() {
        let cases = [
            ("micro = true", "micros = true", "micros"),
            ("layout = \"oxford-pets\"", "layout = \"oxford\"", "oxford"),
            (
                "name = \"pets\"",
                "name = \"cats\"",
                "differs from the file's name `pets`",
            ),
            (
                "role = \"annotations\"",
                "role = \"labels\"",
                "unknown role `labels`, this layout has: images, annotations, coop-split",
            ),
            (
                "role = \"annotations\"",
                "role = \"images\"",
                "role `images` is given twice",
            ),
            (
                "md5 = \"5c4f3ee8e5d25df40f4fd59a7f44e54c\"",
                "",
                "file `images.tar.gz` has neither sha256 nor md5",
            ),
            (
                "5c4f3ee8",
                "5C4F3EE8",
                "md5 of `images.tar.gz` is not 32 lower-case hex digits",
            ),
            (
                "micro = true",
                "holdout = 1.0",
                "`holdout` is a share between 0 and 1, not 1",
            ),
            (
                "micro = true",
                "directory = \"x\"",
                "`directory` is for the layouts `folders` and `table` only",
            ),
        ];
        for (from, to, wanted) in cases {
            assert!(PETS.contains(from));
            let error = read(&PETS.replacen(from, to, 1)).unwrap_err();
            let Error::Manifest { reason, .. } = &error else {
                panic!("{error:?}")
            };
            assert!(reason.contains(wanted), "{reason}");
            assert!(error.hint().is_some());
        }
    }
}
