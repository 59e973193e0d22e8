//! Official forms of datasets: each file of this folder turns unpacked archives and label files into
//! class names, pool, validation and test images.

mod caltech101;
pub mod coop;
pub(crate) mod folders;
mod hub;
pub(crate) mod names;
mod oxford_flowers;
mod oxford_pets;
pub mod sides;
mod stanford_cars;
pub mod table;

use std::path::{Path, PathBuf};

use super::files::DatasetFiles;
use crate::config::Protocol;
use crate::error::{Error, Result};
use crate::manifest::{Form, Layout, Manifest};

/// The use of a file of a layout.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Role {
    pub name: &'static str,
    pub required: bool,
    /// Unpacked; label files are read where they lie.
    pub is_archive: bool,
}

impl Layout {
    /// Roles a `[[file]]` may have.
    pub(crate) fn roles(self) -> &'static [Role] {
        const fn archive(name: &'static str) -> Role {
            Role {
                name,
                required: true,
                is_archive: true,
            }
        }
        const fn labels(name: &'static str) -> Role {
            Role {
                name,
                required: true,
                is_archive: false,
            }
        }
        const fn optional(role: Role) -> Role {
            Role {
                required: false,
                ..role
            }
        }
        match self {
            Self::OxfordPets => {
                const {
                    &[
                        archive("images"),
                        archive("annotations"),
                        optional(labels("coop-split")),
                    ]
                }
            }
            Self::StanfordCars => {
                const {
                    &[
                        archive("train-images"),
                        archive("test-images"),
                        archive("devkit"),
                        optional(labels("test-labels")),
                        optional(labels("coop-split")),
                    ]
                }
            }
            Self::OxfordFlowers => {
                const {
                    &[
                        archive("images"),
                        labels("labels"),
                        labels("splits"),
                        optional(labels("coop-split")),
                    ]
                }
            }
            Self::Caltech101 => const { &[archive("archive"), labels("coop-split")] },
            Self::Folders => const { &[optional(archive("archive"))] },
            Self::Table => {
                const {
                    &[
                        optional(labels("table")),
                        optional(labels("train-table")),
                        optional(labels("validation-table")),
                        optional(labels("test-table")),
                    ]
                }
            }
            Self::Parquet => &[],
        }
    }

    /// Roles of which one will do: who labels the test images of Stanford Cars.
    pub(crate) fn alternatives(self) -> &'static [&'static str] {
        match self {
            Self::StanfordCars => &["test-labels", "coop-split"],
            _ => &[],
        }
    }
}

/// Contents of the label files; that the images are there is checked later, for every layout alike.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Listing {
    /// Class names, in label order.
    pub classes: Vec<String>,
    /// Images that shots may be drawn from.
    pub pool: Vec<Item>,
    /// Images that a protocol sets aside for validation.
    pub val: Vec<Item>,
    /// Images that are only ever predicted.
    pub test: Vec<Item>,
}

/// One labelled image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    /// Path inside the dataset, with `/`.
    pub id: String,
    /// Path of the image below the root of the unpacked files, if not `id`.
    pub file: Option<String>,
    /// Index into [`Listing::classes`].
    pub class: u32,
}

impl Item {
    fn new(id: impl Into<String>, class: u32) -> Self {
        Self {
            id: id.into(),
            file: None,
            class,
        }
    }
}

/// A dataset's files, unpacked and ready to be read.
pub(crate) struct Unpacked<'a> {
    pub manifest: &'a Manifest,
    pub source: &'a DatasetFiles<'a>,
    /// Folder that all archives were unpacked into, or the folder that the manifest names.
    pub root: &'a Path,
}

impl Unpacked<'_> {
    /// Path of a label file that stands beside the archives.
    fn label_file(&self, role: &str) -> Option<PathBuf> {
        self.source.file(role).map(|file| file.path.clone())
    }

    fn required(&self, role: &str) -> Result<PathBuf> {
        self.label_file(role)
            .ok_or_else(|| self.fail(format!("no file has the role `{role}`")))
    }

    /// Error of a dataset whose parts do not fit together.
    fn fail(&self, reason: String) -> Error {
        Error::Dataset {
            dataset: self.manifest.name.clone(),
            reason,
        }
    }
}

/// Reads the labels of a dataset in its layout, with the classes and sides that a protocol has.
pub(crate) fn read(unpacked: &Unpacked, protocol: Protocol) -> Result<Listing> {
    let manifest = unpacked.manifest;
    let mut listing = match (&manifest.hub, &manifest.parquet, unpacked.source.form) {
        (Some(hub), _, Form::Hub) => hub::read(unpacked, protocol, [&hub.train, &hub.val, &hub.test])?,
        (_, Some(files), Form::Archive) => hub::read(unpacked, protocol, [&files.train, &files.val, &files.test])?,
        _ => archive(unpacked, protocol)?,
    };
    names::leave_out(&mut listing, &manifest.skip_classes).map_err(|reason| unpacked.fail(reason))?;
    // Under the other protocols names and order are part of the protocol.
    if protocol == Protocol::Clean {
        if !manifest.class_names.is_empty() {
            hub::as_named(&mut listing, &manifest.class_names).map_err(|reason| unpacked.fail(reason))?;
        }
        // Which labels there are in parquet files is known once they are unpacked.
        let all_known = !unpacked.source.is_lenient();
        listing.classes =
            sides::renamed(listing.classes, &manifest.rename, all_known).map_err(|reason| unpacked.fail(reason))?;
    }
    if unpacked.source.is_lenient() {
        for note in names::prune(&mut listing) {
            tracing::warn!("dataset `{}`: {note}", manifest.name);
        }
        if listing.classes.len() < 2 {
            let reason = "fewer than two classes have images to learn from and images to test on";
            return Err(unpacked.fail(reason.into()));
        }
    }
    Ok(listing)
}

/// Archives in their official layout.
fn archive(unpacked: &Unpacked, protocol: Protocol) -> Result<Listing> {
    let layout = unpacked.manifest.layout;
    if layout == Layout::Caltech101 {
        return caltech101::read(unpacked, protocol);
    }
    let (official, same_name): (_, fn(&str, &str) -> bool) = match layout {
        Layout::OxfordPets => (oxford_pets::read(unpacked)?, coop::same_but_for_case),
        Layout::StanfordCars => (stanford_cars::read(unpacked)?, coop::same_but_for_the_year_s_place),
        Layout::OxfordFlowers => (oxford_flowers::read(unpacked)?, coop::same_but_for_a_question_mark),
        Layout::Caltech101 | Layout::Folders => (folders::read(unpacked)?, coop::same_but_for_case),
        Layout::Table => (table::read(unpacked)?, coop::same_but_for_case),
        Layout::Parquet => {
            return Err(unpacked.fail("its layout is `parquet`, and its manifest has no `[parquet]`".into()));
        }
    };
    if protocol == Protocol::Coop {
        coop::listing(unpacked, &official, same_name)
    } else {
        Ok(official)
    }
}

/// Error of a label file.
fn wrong(path: &Path, reason: impl Into<String>) -> Error {
    Error::Labels {
        path: path.into(),
        reason: reason.into(),
    }
}

/// A one-based label or index that a MATLAB file stores as a double: zero-based, below `end`.
fn zero_based(value: f64, end: usize) -> Option<u32> {
    let whole = value.fract() == 0.0 && value >= 1.0 && value <= end as f64;
    whole.then_some(value as u32 - 1)
}
