//! Archives in their official layouts → verified images → k-shot splits.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::config::Protocol;
use crate::error::{Error, Result};
use crate::fetch;
use crate::formats::image::Decoding;
use crate::fs::hash::{Stamp, hex};
pub use crate::manifest::ManifestFolders;
use crate::manifest::{self, Layout, Manifest, Regime};
use files::DatasetFiles;

mod cache;
pub mod card;
pub mod check;
mod files;
pub mod index;
pub mod layout;
pub mod overlap;
pub mod split;

/// A dataset whose every image was found, hashed and decoded once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// Name of its manifest.
    pub name: String,
    /// One line for people.
    pub title: String,
    /// Class names, in label order.
    pub classes: Vec<String>,
    /// Images that shots may be drawn from, sorted by id.
    pub pool: Vec<LabelledImage>,
    /// Images that a protocol sets aside for validation, sorted by id: counted, never learned from.
    pub val: Vec<LabelledImage>,
    /// Images that are only ever predicted, sorted by id.
    pub test: Vec<LabelledImage>,
    /// Origin of the files.
    pub origin: Origin,
    /// Official form it came in.
    pub layout: Layout,
    /// Small stand-in shipped with kshot: its numbers say nothing about the real dataset.
    pub micro: bool,
    /// Relation of its concepts to the stand-in models' pre-training, where that is known.
    pub regime: Option<Regime>,
    /// Images that the manifest's `skip` left out.
    pub left_out: usize,
    /// Ids of images that were left out since a learner cannot take their size.
    pub refused: Vec<String>,
    /// Its images in CoOp's files, if it was opened for their protocol.
    pub coop: Option<split::CoopList>,
}

/// Origin of a dataset's files, for the protocol card.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// In which form.
    pub form: manifest::Form,
    /// Names of the files with their hashes, or the repository, or the folder.
    pub source: String,
    /// Commit of the repository.
    pub revision: Option<String>,
}

/// An image on disk with its class.
#[derive(Debug, Clone, Default)]
pub struct LabelledImage {
    /// Path inside the dataset, with `/`: stable across machines.
    pub id: String,
    /// Index into [`Dataset::classes`].
    pub class: u32,
    /// Lower-case hex SHA-256 of the encoded file.
    pub sha256: String,
    /// Images that are not independent (views of one drawing) share a group.
    pub group: Option<String>,
    /// Difference hash of its pixels, see [`overlap::dhash`]; 0 for an image of no dataset.
    pub dhash: u64,
    /// The encoded file.
    pub path: PathBuf,
    /// Width and height of the upright picture in pixels; `None` for an image of no dataset.
    pub size: Option<(u32, u32)>,
    /// The rules by which its bytes become pixels.
    pub decoding: Decoding,
    /// The file's state when `sha256` was computed; `None` where that is not known.
    pub stamp: Option<Stamp>,
}

/// Which image it is; the state of its file is no part of that.
impl PartialEq for LabelledImage {
    fn eq(&self, other: &Self) -> bool {
        let Self {
            id,
            class,
            sha256,
            group,
            dhash,
            path,
            size,
            decoding,
            stamp: _,
        } = self;
        (id, class, sha256, group) == (&other.id, &other.class, &other.sha256, &other.group)
            && (dhash, path, size, decoding) == (&other.dhash, &other.path, &other.size, &other.decoding)
    }
}

impl Eq for LabelledImage {}

impl LabelledImage {
    /// The bytes of the file, proved to be those that `sha256` stands for: results are stored under that hash. An image
    /// without a hash is read as it is.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::ChangedImage`] when other bytes lie there now.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        let bytes = std::fs::read(&self.path).map_err(Error::io("read", &self.path))?;
        if !self.sha256.is_empty() && hex(&Sha256::digest(&bytes)) != self.sha256 {
            return Err(Error::ChangedImage {
                path: self.path.clone(),
                id: self.id.clone(),
                sha256: self.sha256.clone(),
            });
        }
        Ok(bytes)
    }

    /// The pixels of the file's [bytes](Self::bytes).
    ///
    /// # Errors
    /// As there; [`Error::Image`] when they cannot be decoded.
    pub fn pixels(&self) -> Result<::image::RgbImage> {
        self.decoded(&self.bytes()?)
    }

    /// The pixels of bytes that were read already.
    ///
    /// # Errors
    /// [`Error::Image`] names the file.
    pub fn decoded(&self, bytes: &[u8]) -> Result<::image::RgbImage> {
        self.decoding.decode(bytes, &self.path.display().to_string())
    }

    /// Equal for images of equal pixels only: the hash of the file, with the rules of decoding where they are not the
    /// default ones.
    #[must_use]
    pub fn content(&self) -> String {
        format!("{}{}", self.sha256, self.decoding.mark())
    }

    /// True if the file is untouched since its hash was computed. Where nothing is known of it, it is read.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        let is_same = |stamp: &Stamp| Stamp::of(&self.path).is_ok_and(|now| now == *stamp);
        self.stamp.as_ref().is_some_and(is_same)
    }
}

impl Dataset {
    /// Error of a dataset that is not what it should be.
    pub(crate) fn fail(&self, reason: impl Into<String>) -> Error {
        Error::Dataset {
            dataset: self.name.clone(),
            reason: reason.into(),
        }
    }

    /// The same without the images whose width and height are refused, for all learners alike; their ids are kept in
    /// [`Dataset::refused`].
    #[must_use]
    pub fn without(mut self, refuses: impl Fn(u32, u32) -> bool) -> Self {
        let refused = &mut self.refused;
        for side in [&mut self.pool, &mut self.val, &mut self.test] {
            side.retain(|image| {
                let is_refused = image.size.is_some_and(|(width, height)| refuses(width, height));
                if is_refused {
                    refused.push(image.id.clone());
                }
                !is_refused
            });
        }
        self
    }

    /// The same, with every image decoded by the choice for EXIF's orientation.
    #[must_use]
    pub fn with_exif(mut self, exif: bool) -> Self {
        let sides = [&mut self.pool, &mut self.val, &mut self.test];
        for image in sides.into_iter().flatten() {
            image.decoding.exif = exif;
        }
        self
    }
}

/// Opens a dataset by the name of its manifest, which is looked for in `datasets`: a folder, or several.
///
/// The first call checks sizes and hashes of all files, unpacks them below `cache`, decodes every image
/// once and writes an index. Later calls read the index: they check that each image still lies there
/// with its size, and each archive with its size and time of change (hashing it again if that moved).
///
/// # Errors
/// [`Error::UnknownDataset`], [`Error::NotFetched`], [`Error::Manifest`], [`Error::WrongBytes`], [`Error::Archive`],
/// [`Error::Labels`], [`Error::Image`] and [`Error::Dataset`], each naming file or image. Nothing
/// half-written stays in the cache.
pub fn open(name: &str, datasets: impl Into<ManifestFolders>, cache: &Path) -> Result<Dataset> {
    open_for(name, Protocol::Clean, datasets, cache)
}

/// As [`open`], with the images, classes and sides that a protocol has.
///
/// # Errors
/// As [`open`].
pub fn open_for(name: &str, protocol: Protocol, datasets: impl Into<ManifestFolders>, cache: &Path) -> Result<Dataset> {
    open_with(name, protocol, datasets, cache, &fetch::HubSettings::from_env())
}

/// As [`open_for`], with hub files where `hub` says.
///
/// # Errors
/// As [`open`].
pub fn open_with(
    name: &str,
    protocol: Protocol,
    datasets: impl Into<ManifestFolders>,
    cache: &Path,
    hub: &fetch::HubSettings,
) -> Result<Dataset> {
    let manifest = manifest_of(name, datasets, cache)?;
    let cache = cache.join("datasets").join(name);
    let mut source = DatasetFiles::choose(&manifest, protocol, hub)?;
    source.verify(&cache)?;
    let opened = cache::indexed(&source, &cache)?;
    Ok(opened.index.dataset(opened.listed, &source, &opened.root))
}

/// A dataset as its index has it, without a look at whether its images are still those: for whoever compares them.
/// One that was not opened before is.
///
/// # Errors
/// As [`open`].
pub fn open_as_indexed(
    name: &str,
    protocol: Protocol,
    datasets: impl Into<ManifestFolders>,
    cache: &Path,
) -> Result<Dataset> {
    let (datasets, hub) = (datasets.into(), fetch::HubSettings::from_env());
    let manifest = manifest_of(name, &datasets, cache)?;
    let source = DatasetFiles::choose(&manifest, protocol, &hub)?;
    match cache::as_indexed(&source, &cache.join("datasets").join(name))? {
        Some(opened) => Ok(opened.index.dataset(opened.listed, &source, &opened.root)),
        None => open_with(name, protocol, &datasets, cache, &hub),
    }
}

/// Presence of a dataset on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// Every file comes with its manifest.
    pub embedded: bool,
    /// Its images lie in a folder of the user's own.
    pub own: bool,
    /// Forms of which every needed file is there, unchecked.
    pub forms: Vec<manifest::Form>,
}

impl std::fmt::Display for Presence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self { own: true, .. } => "own folder",
            Self { forms, .. } if forms.is_empty() => "not fetched",
            Self { embedded: true, .. } => "embedded",
            _ => "fetched",
        })
    }
}

/// Which forms of a dataset are on this machine.
///
/// # Errors
/// Error of the manifest.
pub fn presence(
    name: &str,
    datasets: impl Into<ManifestFolders>,
    cache: &Path,
    hub: &fetch::HubSettings,
) -> Result<Presence> {
    let manifest = manifest_of(name, datasets, cache)?;
    let mut forms = Vec::new();
    for protocol in [Protocol::Clean, Protocol::Tinker, Protocol::Coop] {
        if let Ok(source) = DatasetFiles::choose(&manifest, protocol, hub)
            && !forms.contains(&source.form)
        {
            forms.push(source.form);
        }
    }
    Ok(Presence {
        embedded: manifest.hub.is_none()
            && manifest.parquet.is_none()
            && manifest.files.iter().all(|file| file.path.is_some()),
        own: manifest.directory.is_some() || manifest.parquet.is_some(),
        forms,
    })
}

/// A manifest that knows where its files are downloaded to.
fn manifest_of(name: &str, datasets: impl Into<ManifestFolders>, cache: &Path) -> Result<Manifest> {
    let mut manifest = manifest::load(datasets, name)?;
    manifest.downloads = cache.join("downloads").join(name);
    Ok(manifest)
}
