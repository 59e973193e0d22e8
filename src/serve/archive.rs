//! A folder as a tar file, written while a client reads it.

use std::io::{self, BufWriter};
use std::sync::Arc;
use std::thread;

use super::budget::Charge;
use super::exchange::{ChannelBody, ChannelWriter};
use super::held::HeldFolder;

/// Bytes of a piece.
const PIECE: usize = 1 << 16;

/// The body of an archive of a folder, which is held until it is written. If a file cannot be read the body ends in an error and
/// without the end of an archive, so that nobody takes it for whole.
///
/// # Errors
/// When the system gives no thread.
pub(super) fn body(folder: Arc<HeldFolder>, charge: Charge) -> io::Result<ChannelBody> {
    let (sender, body) = ChannelBody::new();
    let write = move || {
        let writer = BufWriter::with_capacity(PIECE, ChannelWriter::new(sender));
        let mut archive = tar::Builder::new(writer);
        archive.mode(tar::HeaderMode::Deterministic);
        let written = archive
            .append_dir_all("", folder.path())
            .and_then(|()| archive.finish());
        if let Err(error) = written {
            tracing::warn!("the archive of `{}` was broken off: {error}", folder.path().display());
            // Before the builder goes: it would write the end of an archive.
            archive.get_mut().get_mut().break_off(error);
        }
        drop((archive, charge));
    };
    thread::Builder::new().name("archive".into()).spawn(write)?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::future::poll_fn;
    use std::pin::Pin;

    use axum::body::HttpBody as _;

    use super::*;
    use crate::serve::budget::Budget;

    /// The bytes of a folder's archive, and the error that it ends in.
    fn read(folder: &std::path::Path) -> (Vec<u8>, Option<io::ErrorKind>) {
        let charge = Budget::new(1, "").take(1).unwrap();
        let mut body = body(HeldFolder::lasting(folder.into()), charge).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut all = Vec::new();
        loop {
            match runtime.block_on(poll_fn(|context| Pin::new(&mut body).poll_frame(context))) {
                None => return (all, None),
                Some(Ok(piece)) => all.extend_from_slice(&piece.into_data().unwrap()),
                Some(Err(error)) => return (all, Some(error.kind())),
            }
        }
    }

    #[test]
    fn an_archive_is_whole_or_ends_in_an_error() {
        let scratch = tempfile::tempdir().unwrap();
        // More than one piece.
        fs::write(scratch.path().join("a"), vec![7; 3 * PIECE]).unwrap();
        let (bytes, error) = read(scratch.path());
        assert_eq!(error, None);
        let names = |bytes: &[u8]| {
            let mut archive = tar::Archive::new(bytes);
            let entries = archive.entries().unwrap();
            let names: io::Result<Vec<String>> =
                entries.map(|entry| Ok(entry?.path()?.display().to_string())).collect();
            names
        };
        assert!(names(&bytes).unwrap().contains(&"a".to_owned()));
        std::os::unix::fs::symlink("nowhere", scratch.path().join("b")).unwrap();
        let (bytes, error) = read(scratch.path());
        assert_eq!(error, Some(io::ErrorKind::NotFound));
        assert!(!bytes.ends_with(&[0; 1024]), "it has the end of an archive");
    }
}
