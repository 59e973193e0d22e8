//! Hashes of whole files, in lower-case hex.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use md5::Md5;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Lower-case hex hash of a file: "md5", else "sha256".
pub(crate) fn hash(path: &Path, kind: &str) -> Result<String> {
    match kind {
        "md5" => digest::<Md5>(path),
        _ => digest::<Sha256>(path),
    }
}

/// Lower-case hex hash of a file, read piece by piece.
fn digest<D: Digest>(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let mut hasher = D::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(hex(&hasher.finalize())),
            Ok(read) => hasher.update(chunk.get(..read).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io("read", path)(e)),
        }
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
