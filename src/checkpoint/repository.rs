//! The folder of a model that a config or a command line names.

use std::path::{Path, PathBuf};

use crate::embedded;
use crate::error::{Error, Result};
use crate::fetch::{CachedModel, HubSettings, ModelId, cached_model};

/// The folder of a model: one of that path, absolute or below the working folder or `home`; else the one inside the binary that has
/// this path in the source tree; else the snapshot of `owner/name` or `owner/name@revision` in the hub's cache. Nothing is fetched.
///
/// # Errors
/// [`Error::Checkpoint`] that says what is not there, with the command that fetches it; [`Error::Io`] when a model inside the binary
/// cannot be unpacked.
pub fn locate(model: &Path, home: &Path) -> Result<PathBuf> {
    let places = &HubSettings::from_env();
    let near = [model.to_path_buf(), home.join(model)];
    if let Some(folder) = near.into_iter().find(|folder| folder.is_dir()) {
        return Ok(folder);
    }
    if embedded::contains(model) {
        return Ok(embedded::unpacked()?.join(model));
    }
    let Some(id) = model.to_str().and_then(ModelId::parse) else {
        return Err(Error::checkpoint(
            home.join(model),
            "there is no such folder",
            "check the path; a model of the hub is named `owner/name` or `owner/name@revision`",
        ));
    };
    let reason = match cached_model(&id, places) {
        CachedModel::Whole(folder) => return Ok(folder),
        CachedModel::Partial { folder, lacking } => format!(
            "is not complete in the hub's cache: `{}` lacks {}",
            folder.display(),
            lacking.join(", ")
        ),
        CachedModel::Absent => format!(
            "there is no such folder, nor is this model in the hub's cache, where it would lie in `{}`",
            id.folder(places).display()
        ),
    };
    let remedy = if places.offline {
        format!(
            "KSHOT_OFFLINE or HF_HUB_OFFLINE is set: run `kshot model fetch {id}` where there is a network, then copy \
             `{}` to this machine",
            id.folder(places).display()
        )
    } else {
        format!("`kshot model fetch {id}` downloads what is missing")
    };
    Err(Error::checkpoint(model, reason, remedy))
}
