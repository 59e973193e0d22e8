//! The images that a verb is about, one after the other (of a million no list is made), read and decoded ahead of the
//! model by all cores.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::Scope;
use std::{fs, io, iter};

use clap::Args;
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use crate::data::LabelledImage;
use crate::data::layout::folders::is_image;
use crate::error::{Error, Result};
use crate::formats::image::Decoding;
use crate::learner::{Preprocessor, View};

/// True of the name of the standard input.
fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

#[derive(Debug, Args)]
pub(super) struct Images {
    /// JPEG, PNG, GIF, BMP or WebP files; folders, of which every image at any depth is taken, sorted by name; `-` for a list of
    /// paths on the standard input, one a line.
    #[arg(required_unless_present = "from", value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// A list of paths, one a line; `-` for the standard input.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

impl Images {
    /// The paths in order. Each folder's names are held while it is walked through, a list's lines never.
    pub(super) fn paths(&self) -> Paths {
        let images = self.images.clone().into_iter().flat_map(named);
        Box::new(images.chain(self.from.clone().into_iter().flat_map(listed)))
    }

    /// The one file that is all that was named.
    pub(super) fn single(&self) -> Option<&Path> {
        match (&self.images[..], &self.from) {
            ([one], None) if !is_stdin(one) && !one.is_dir() => Some(one),
            _ => None,
        }
    }

    /// Their number, where that can be known beforehand; errors as those of the paths.
    pub(super) fn count(&self) -> Result<Option<u64>> {
        if self.images.iter().chain(&self.from).any(|path| is_stdin(path)) {
            return Ok(None);
        }
        let mut count = 0;
        for path in self.paths() {
            path?;
            count += 1;
        }
        Ok(Some(count))
    }
}

/// Paths of images up to the first error: that of a folder or list that cannot be read, or of a folder without any image.
type Paths = Box<dyn Iterator<Item = Result<PathBuf>> + Send>;

/// A file, folder or list on the command line.
fn named(path: PathBuf) -> Paths {
    if is_stdin(&path) {
        return listed(path);
    }
    if !path.is_dir() {
        return Box::new(iter::once(Ok(path)));
    }
    // Looked for at once: of a folder without any image nothing else would ever be said.
    let mut found = walked(path.clone()).peekable();
    if found.peek().is_some() {
        return Box::new(found);
    }
    Box::new(iter::once_with(move || {
        Err(Error::io("find an image in", path)(io::ErrorKind::NotFound.into()))
    }))
}

/// The images in a folder, at any depth.
fn walked(folder: PathBuf) -> Paths {
    match names(&folder) {
        Ok(names) => Box::new(names.into_iter().flat_map(move |name| found(folder.join(name)))),
        Err(error) => Box::new(iter::once(Err(error))),
    }
}

/// A file or folder in a folder.
fn found(path: PathBuf) -> Paths {
    // Links to files are followed; those to folders could lead back.
    match (path.is_dir(), path.is_symlink()) {
        (true, true) => Box::new(iter::empty()),
        (true, false) => walked(path),
        // One that cannot be opened is an image that cannot be read, which is said where it is read.
        (false, _) => Box::new(is_image(&path).unwrap_or(true).then_some(Ok(path)).into_iter()),
    }
}

/// The lines of a file of paths.
fn listed(path: PathBuf) -> Paths {
    let opened: io::Result<Box<dyn BufRead + Send>> = match is_stdin(&path) {
        true => Ok(Box::new(BufReader::new(io::stdin()))),
        false => File::open(&path).map(|file| Box::new(BufReader::new(file)) as _),
    };
    match opened {
        Ok(lines) => {
            let lines = lines.lines().filter(|line| !line.as_ref().is_ok_and(String::is_empty));
            Box::new(lines.map(move |line| line.map(PathBuf::from).map_err(Error::io("read", &path))))
        }
        Err(error) => Box::new(iter::once(Err(Error::io("read", &path)(error)))),
    }
}

/// Names in a folder without the hidden ones, sorted.
fn names(folder: &Path) -> Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let name = entry.map_err(Error::io("list", folder))?.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            names.push(name);
        }
    }
    names.sort();
    names.shrink_to_fit();
    Ok(names)
}

/// Paths in groups of `size`, but for the last.
pub(super) fn batches(mut paths: Paths, size: usize) -> impl Iterator<Item = Result<Vec<PathBuf>>> + Send {
    iter::from_fn(move || {
        let batch: Result<Vec<PathBuf>> = paths.by_ref().take(size.max(1)).collect();
        batch.map_or_else(
            |error| Some(Err(error)),
            |batch| (!batch.is_empty()).then_some(Ok(batch)),
        )
    })
}

/// An image file that was looked at.
pub(super) struct DecodedImage {
    /// Its name in answers.
    pub name: String,
    /// The image with what the model is to see of it; else why it cannot be seen.
    pub seen: Result<(LabelledImage, View)>,
}

/// Looks at batches in a thread of their own, which ends when the receiver is dropped, or after an error.
///
/// It makes one batch while the model has another, and waits with it until the model takes it: were there a queue, memory would
/// rise at the moment, early or late, when the model is slow enough for it to fill.
pub(super) fn decode_ahead<'scope>(
    scope: &'scope Scope<'scope, '_>,
    batches: impl Iterator<Item = Result<Vec<PathBuf>>> + Send + 'scope,
    preprocessor: Arc<dyn Preprocessor>,
    exif: bool,
) -> Receiver<Result<Vec<DecodedImage>>> {
    let (send, receive) = sync_channel(0);
    scope.spawn(move || {
        let decode = |path: PathBuf| decode(&path, &*preprocessor, exif);
        for batch in batches {
            let decoded = batch.map(|paths| paths.into_par_iter().map(decode).collect());
            let failed = decoded.is_err();
            if send.send(decoded).is_err() || failed {
                return;
            }
        }
    });
    receive
}

fn decode(path: &Path, preprocessor: &dyn Preprocessor, exif: bool) -> DecodedImage {
    let name = path.display().to_string();
    // Whatever an image does to its preprocessing, the others of the batch are none the worse for it.
    let seen = catch_unwind(AssertUnwindSafe(|| seen(path, preprocessor, exif))).unwrap_or_else(|_| {
        Err(Error::Image {
            image: name.clone(),
            reason: "its preprocessing broke off".into(),
        })
    });
    DecodedImage { name, seen }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn found(images: &[PathBuf], from: Option<PathBuf>) -> Result<Vec<PathBuf>> {
        let images = Images {
            images: images.to_vec(),
            from,
        };
        let all: Result<Vec<PathBuf>> = images.paths().collect();
        if let Ok(all) = &all {
            assert_eq!(images.count().unwrap(), Some(all.len() as u64));
        }
        all
    }

    #[test]
    fn files_folders_and_lists_come_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (name, bytes) in [
            ("b/2.JPG", &b""[..]),
            ("b/10.png", b""),
            ("b/.hidden.png", b""),
            ("b/a/x.webp", b""),
            ("b/notes.txt", b"of no image"),
            ("b/named-otherwise", b"\x89PNG\r\n\x1a\n"),
            ("list.txt", b"one.jpg\r\n\ntwo two.png\nlast.gif"),
        ] {
            let path = at(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        std::os::unix::fs::symlink(at("b"), at("b/loop")).unwrap();
        std::os::unix::fs::symlink(at("b/10.png"), at("b/z.png")).unwrap();
        let expected = [
            "c.png",
            "b/10.png",
            "b/2.JPG",
            "b/a/x.webp",
            "b/named-otherwise",
            "b/z.png",
        ]
        .map(at);
        let mut expected = expected.to_vec();
        expected.extend(["one.jpg", "two two.png", "last.gif"].map(PathBuf::from));
        assert_eq!(found(&[at("c.png"), at("b")], Some(at("list.txt"))).unwrap(), expected);
        fs::create_dir_all(at("empty/deeper")).unwrap();
        for wrong in [at("empty"), at("empty/deeper")] {
            assert!(matches!(found(&[at("b"), wrong], None), Err(Error::Io { .. })));
        }
        assert!(matches!(found(&[], Some(at("absent.txt"))), Err(Error::Io { .. })));
    }
}
