//! Archives in their official layouts → verified images → k-shot splits.

use std::path::PathBuf;

pub mod image;

/// A dataset whose every image was found, hashed and decoded once.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Name of its manifest.
    pub name: String,
    /// One line for people.
    pub title: String,
    /// Class names, in label order.
    pub classes: Vec<String>,
    /// Images that shots may be drawn from, in a fixed order.
    pub pool: Vec<LabelledImage>,
    /// Images that are only ever predicted, in a fixed order.
    pub test: Vec<LabelledImage>,
    /// Small stand-in shipped with kshot: its numbers say nothing about the real dataset.
    pub micro: bool,
}

/// An image on disk with its class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelledImage {
    /// Path inside the dataset, with `/`: stable across machines.
    pub id: String,
    /// Index into [`Dataset::classes`].
    pub class: u32,
    /// Lower-case hex SHA-256 of the encoded file.
    pub sha256: String,
    /// Images that are not independent (views of one drawing) share a group.
    pub group: Option<String>,
    /// The encoded file.
    pub path: PathBuf,
}
