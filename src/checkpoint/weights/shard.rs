//! One safetensors file, memory-mapped.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, UncheckedAdvice};
use safetensors::tensor::{Dtype, Metadata};

use super::{damaged, listed};
use crate::error::{Error, Result};

/// Bytes before the header: its length.
const LENGTH: usize = 8;
/// More than any header has.
const LONGEST_HEADER: u64 = 100 << 20;

#[derive(Debug)]
pub(super) struct Shard {
    pub(super) path: PathBuf,
    map: Mmap,
}

/// A tensor as a file has it.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Bytes of the file.
    pub(super) range: Range<usize>,
}

impl Shard {
    /// Opens a file whose header and length fit together; its tensors in the order of their bytes.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<(String, Stored)>)> {
        let fail = |reason: String| damaged(path, reason);
        if let (Ok(target), false) = (path.read_link(), path.exists()) {
            return Err(fail(format!("is a link to `{}`, which is not there", target.display())));
        }
        let found = std::fs::metadata(path).map_err(Error::io("open", path))?.len();
        if found < LENGTH as u64 {
            return Err(fail(format!(
                "is truncated: it has {found} bytes, too few for any tensor"
            )));
        }
        let map = map_file(path)?;
        if map.starts_with(b"version https://git-lfs") {
            return Err(fail(
                "is a pointer of git's large file storage, not the file that it stands for".into(),
            ));
        }
        let length = map
            .first_chunk::<LENGTH>()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes));
        if length > LONGEST_HEADER {
            return Err(fail("is not a safetensors file".into()));
        }
        let start = LENGTH + length as usize;
        let Some(header) = map.get(LENGTH..start) else {
            return Err(fail(format!(
                "is truncated: it has {found} bytes, its header alone has {start}"
            )));
        };
        let header: Metadata =
            serde_json::from_slice(header).map_err(|e| fail(format!("is not a safetensors file: {e}")))?;
        let tensors: Vec<(String, Stored)> = header
            .offset_keys()
            .into_iter()
            .filter_map(|name| {
                let info = header.info(&name)?;
                let stored = Stored {
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                    range: start + info.data_offsets.0..start + info.data_offsets.1,
                };
                Some((name, stored))
            })
            .collect();
        let wanted = (start + header.data_len()) as u64;
        if found < wanted {
            let cut = tensors.iter().filter(|(_, stored)| stored.range.end as u64 > found);
            let lacking = listed(cut.map(|(name, _)| name));
            return Err(fail(format!(
                "is truncated: it has {found} bytes instead of {wanted}, and lacks all or the end of {lacking}"
            )));
        }
        if found > wanted {
            return Err(fail(format!("has {found} bytes instead of {wanted}")));
        }
        let path = path.to_path_buf();
        Ok((Self { path, map }, tensors))
    }

    /// Name of the file.
    pub(super) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Bytes of the file.
    pub(super) fn size(&self) -> usize {
        self.map.len()
    }

    pub(super) fn bytes(&self, range: &Range<usize>) -> Option<&[u8]> {
        self.map.get(range.clone())
    }

    /// Lets the memory go that holds these bytes; they are read again if they are asked for again.
    #[expect(
        unsafe_code,
        reason = "advice that may change what memory holds is unsafe in general"
    )]
    pub(super) fn release(&self, range: &Range<usize>) {
        // SAFETY: the map is of a file and read only, so the pages are filled again from the file, with the same
        // bytes; the range lies inside the map. Nothing borrows it while it is released, and nothing is lost if
        // it is not.
        let released = unsafe {
            self.map
                .unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len())
        };
        if let Err(error) = released {
            tracing::debug!("memory of `{}` stays: {error}", self.path.display());
        }
    }
}

#[expect(
    unsafe_code,
    reason = "a memory map is unsafe because another process may change the file meanwhile"
)]
pub(crate) fn map_file(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    // SAFETY: the map is read only. Weights are not written while a program reads them; one that
    // breaks this gets wrong numbers or a bus error, as with every other reader of safetensors.
    unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))
}
