//! Images read, hashed and decoded ahead of the model, by all cores.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use super::images::Paths;
use crate::data::LabelledImage;
use crate::error::{Error, Result};
use crate::formats::image::Decoding;
use crate::learner::{Preprocessor, View};

/// Paths in groups of a fixed number, but for the last.
pub(super) struct Batches {
    paths: Paths,
    size: usize,
}

impl Batches {
    pub(super) fn new(paths: Paths, size: usize) -> Self {
        Self {
            paths,
            size: size.max(1),
        }
    }
}

impl Iterator for Batches {
    type Item = Result<Vec<PathBuf>>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch: Result<Vec<PathBuf>> = self.paths.by_ref().take(self.size).collect();
        match batch {
            Ok(batch) if batch.is_empty() => None,
            other => Some(other),
        }
    }
}

/// An image file that was preprocessed.
pub(super) struct Looked {
    /// Its name in answers.
    pub(super) name: String,
    /// The image with what the model is to see of it; else why it cannot be seen.
    pub(super) seen: Result<(LabelledImage, View)>,
}

/// Looks at batches in a thread of their own, which ends when the receiver is dropped, or after an error.
///
/// It makes one batch while the model has another, and waits with it until the model takes it: were there a queue, memory would
/// rise at the moment, early or late, when the model is slow enough for it to fill.
pub(super) fn look<'scope>(
    scope: &'scope Scope<'scope, '_>,
    batches: impl Iterator<Item = Result<Vec<PathBuf>>> + Send + 'scope,
    preprocessor: Arc<dyn Preprocessor>,
    exif: bool,
) -> Receiver<Result<Vec<Looked>>> {
    let (send, receive) = sync_channel(0);
    scope.spawn(move || fill(batches, &*preprocessor, exif, &send));
    receive
}

fn fill(
    batches: impl Iterator<Item = Result<Vec<PathBuf>>>,
    preprocessor: &dyn Preprocessor,
    exif: bool,
    send: &SyncSender<Result<Vec<Looked>>>,
) {
    for batch in batches {
        let looked = batch.map(|paths| {
            paths
                .into_par_iter()
                .map(|path| look_at(path, preprocessor, exif))
                .collect()
        });
        let failed = looked.is_err();
        if send.send(looked).is_err() || failed {
            return;
        }
    }
}

fn look_at(path: PathBuf, preprocessor: &dyn Preprocessor, exif: bool) -> Looked {
    Looked {
        name: path.display().to_string(),
        // Whatever an image does to its preprocessing, the others of the batch are none the worse for it.
        seen: catch_unwind(AssertUnwindSafe(|| seen(&path, preprocessor, exif))).unwrap_or_else(|_| {
            Err(Error::Image {
                image: path.display().to_string(),
                reason: "its preprocessing broke off".into(),
            })
        }),
    }
}

/// An image of which nothing is known; its class is a place holder that no answer depends on.
fn seen(path: &Path, preprocessor: &dyn Preprocessor, exif: bool) -> Result<(LabelledImage, View)> {
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    let image = LabelledImage {
        id: path.display().to_string(),
        class: 0,
        sha256: crate::fs::hash::hex(&Sha256::digest(&bytes)),
        path: path.to_path_buf(),
        decoding: Decoding { exif, mode: None },
        ..LabelledImage::default()
    };
    let view = preprocessor.preprocess(&image, &bytes)?;
    Ok((image, view))
}
