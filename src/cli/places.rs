//! The folders of datasets and caches.

use std::env;
use std::path::{Path, PathBuf};

use crate::experiment::plan::Places;
use crate::fs::cache_folder;

/// The folder that holds `datasets/`: `KSHOT_HOME`, else the working folder or its nearest ancestor that
/// has one, else the source folder this binary was built in. Unpacked data goes to `KSHOT_CACHE`, else
/// the platform's cache folder; `KSHOT_IMAGE_CACHE_GB` bounds what of it are shrunk images, 0 for none,
/// and `KSHOT_FEATURE_CACHE_GB` what is kept in memory of what a frozen tower saw in pictures.
pub(super) fn places() -> Places {
    let home = env::var_os("KSHOT_HOME").map(PathBuf::from).unwrap_or_else(|| {
        let working = env::current_dir().unwrap_or_default();
        working
            .ancestors()
            .find(|folder| folder.join("datasets").is_dir())
            .unwrap_or(Path::new(env!("CARGO_MANIFEST_DIR")))
            .to_path_buf()
    });
    Places {
        datasets: home.join("datasets"),
        cache: cache_folder(),
        image_cache_gigabytes: gigabytes("KSHOT_IMAGE_CACHE_GB"),
        feature_gigabytes: gigabytes("KSHOT_FEATURE_CACHE_GB"),
        home,
    }
}

fn gigabytes(name: &str) -> Option<f64> {
    let bound = env::var(name).ok().filter(|bound| !bound.is_empty())?;
    let gigabytes = bound.parse().ok().filter(|gigabytes: &f64| gigabytes.is_finite());
    if gigabytes.is_none() {
        tracing::warn!("{name} is `{bound}`, which is no number of gigabytes: the default holds");
    }
    gigabytes
}
