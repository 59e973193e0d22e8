//! Where each image of a made dataset comes from.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// One row of a provenance file: CSV with a header, one row an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Path inside the dataset.
    pub id: String,
    /// Class name.
    pub class: String,
    /// What was drawn.
    pub concept: String,
    /// Who drew it: a family of drawings by one designer.
    pub family: String,
    /// The drawing: images of one drawing are not independent.
    pub drawing: String,
    /// Which side of the split it is for.
    pub role: String,
}

/// Reads a provenance file.
///
/// # Errors
/// [`Error::Labels`] naming the line.
pub fn read(path: &Path) -> Result<Vec<Provenance>> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let rows = csv::Reader::from_reader(bytes.as_slice())
        .into_deserialize()
        .collect::<Result<_, _>>();
    rows.map_err(|e| Error::Labels {
        path: path.into(),
        reason: e.to_string(),
    })
}
