//! Safetensors files of a hub-layout model folder, memory-mapped.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::data::hex;
use crate::error::{Error, Result};
use crate::nn::Place;

/// The single-file name of the hub layout.
const WEIGHTS: &str = "model.safetensors";
/// The list of shards, when there are several files.
const INDEX: &str = "model.safetensors.index.json";
/// How many names an error message lists before it only counts.
const LISTED: usize = 8;

/// All tensors of one or more safetensors files, read from the page cache when they are taken.
///
/// What does not fit is collected, so that one error names every missing, mis-shaped, non-finite
/// and unexpected tensor: see [`Weights::finish`].
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    maps: Vec<Mmap>,
    entries: BTreeMap<String, Entry>,
    fingerprint: Sha256,
    problems: Vec<String>,
}

#[derive(Debug)]
struct Entry {
    map: usize,
    start: usize,
    end: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    taken: bool,
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// [`Error::Model`] when there are no weights, a shard is missing or a file is damaged.
    pub fn open(dir: &Path) -> Result<Self> {
        let single = dir.join(WEIGHTS);
        if single.is_file() {
            return Self::from_files(dir, &[single]);
        }
        let index_path = dir.join(INDEX);
        if !index_path.is_file() {
            return Err(model_error(dir, format!("neither {WEIGHTS} nor {INDEX} is there")));
        }
        let text = std::fs::read_to_string(&index_path).map_err(Error::io("read", &index_path))?;
        let index: Index =
            serde_json::from_str(&text).map_err(|e| model_error(&index_path, format!("not a list of shards: {e}")))?;
        let mut names: Vec<&String> = index.weight_map.values().collect();
        names.sort();
        names.dedup();
        let mut files = Vec::new();
        for name in names {
            // A shard is a plain file name: an index must not lead out of the model folder.
            if Path::new(name).file_name().is_none_or(|file| file != name.as_str()) {
                return Err(model_error(&index_path, format!("`{name}` is not a file name")));
            }
            files.push(dir.join(name));
        }
        Self::from_files(dir, &files)
    }

    /// Opens safetensors files; `path` is what errors name.
    ///
    /// # Errors
    /// [`Error::Model`] when a file is missing, damaged or repeats a tensor of another.
    pub fn from_files(path: &Path, files: &[PathBuf]) -> Result<Self> {
        let mut weights = Self {
            path: path.to_path_buf(),
            maps: Vec::new(),
            entries: BTreeMap::new(),
            fingerprint: Sha256::new(),
            problems: Vec::new(),
        };
        for file in files {
            let map = map_file(file)?;
            let (header, metadata) = SafeTensors::read_metadata(&map)
                .map_err(|e| model_error(file, format!("not a safetensors file, or a truncated one: {e}")))?;
            for (name, info) in metadata.tensors() {
                let entry = Entry {
                    map: weights.maps.len(),
                    start: 8 + header + info.data_offsets.0,
                    end: 8 + header + info.data_offsets.1,
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                    taken: false,
                };
                if weights.entries.insert(name.clone(), entry).is_some() {
                    return Err(model_error(file, format!("tensor `{name}` is in an earlier file too")));
                }
            }
            weights.fingerprint.update(&map);
            weights.maps.push(map);
        }
        Ok(weights)
    }

    /// Strips `prefix` from the names that have it, e.g. `dinov2.` of a classifier's checkpoint.
    #[must_use]
    pub fn without_prefix(mut self, prefix: &str) -> Self {
        let entries = std::mem::take(&mut self.entries);
        let strip = |name: String| name.strip_prefix(prefix).map_or(name.clone(), str::to_owned);
        self.entries = entries.into_iter().map(|(name, entry)| (strip(name), entry)).collect();
        self
    }

    /// Marks tensors as known and not needed.
    pub fn ignore(&mut self, unneeded: impl Fn(&str) -> bool) {
        for (name, entry) in &mut self.entries {
            entry.taken |= unneeded(name);
        }
    }

    /// Names and shapes of all tensors, sorted by name.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.entries
            .iter()
            .map(|(name, entry)| (name.as_str(), entry.shape.as_slice()))
    }

    /// Lower-case hex SHA-256 of `config` followed by the bytes of all files.
    #[must_use]
    pub fn fingerprint(&self, config: &[u8]) -> String {
        let files = self.fingerprint.clone().finalize();
        hex(&Sha256::new().chain_update(config).chain_update(files).finalize())
    }

    /// The tensor `name` of `shape` in its place.
    ///
    /// A tensor that is missing or does not fit comes back as zeros, and [`Weights::finish`] reports it.
    ///
    /// # Errors
    /// Only when the device fails.
    pub fn take(&mut self, name: &str, shape: &[usize], place: &Place) -> Result<Tensor> {
        match self.read(name, shape)? {
            Ok(tensor) => Ok(tensor.to_dtype(place.dtype)?.to_device(&place.device)?),
            Err(problem) => {
                self.problems.push(format!("`{name}` {problem}"));
                Ok(Tensor::zeros(shape, place.dtype, &place.device)?)
            }
        }
    }

    fn read(&mut self, name: &str, shape: &[usize]) -> Result<Result<Tensor, String>> {
        let Some(entry) = self.entries.get_mut(name) else {
            return Ok(Err("is missing".into()));
        };
        entry.taken = true;
        if entry.shape != shape {
            return Ok(Err(format!(
                "has shape {:?}, the config asks for {shape:?}",
                entry.shape
            )));
        }
        let dtype = match entry.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::F64 => DType::F64,
            other => return Ok(Err(format!("has type {other:?}, not a float"))),
        };
        let bytes = self.maps.get(entry.map).and_then(|map| map.get(entry.start..entry.end));
        let Some(bytes) = bytes else {
            return Ok(Err("ends after the end of the file".into()));
        };
        let tensor = Tensor::from_raw_buffer(bytes, dtype, shape, &Device::Cpu)?.to_dtype(DType::F32)?;
        let finite = crate::nn::ops::with_values(&tensor, |values| Ok(values.iter().all(|x| x.is_finite())))?;
        Ok(if finite {
            Ok(tensor)
        } else {
            Err("holds values that are not finite".into())
        })
    }

    /// Ends the loading: everything was there, fitted, and nothing is left over.
    ///
    /// # Errors
    /// [`Error::Model`] that lists what was wrong.
    pub fn finish(mut self) -> Result<()> {
        for (name, entry) in &self.entries {
            if !entry.taken {
                self.problems
                    .push(format!("`{name}` {:?} is not part of this model", entry.shape));
            }
        }
        if self.problems.is_empty() {
            return Ok(());
        }
        let more = self.problems.len().saturating_sub(LISTED);
        let mut reason = self.problems[..self.problems.len() - more].join("; ");
        if more > 0 {
            reason.push_str(&format!("; and {more} more"));
        }
        Err(model_error(&self.path, reason))
    }
}

#[expect(
    unsafe_code,
    reason = "a memory map is unsafe because another process may change the file meanwhile"
)]
pub(super) fn map_file(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    // SAFETY: the map is read only. Weights are not written while a program reads them; one that
    // breaks this gets wrong numbers or a bus error, as with every other reader of safetensors.
    unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))
}

fn model_error(path: &Path, reason: String) -> Error {
    Error::Model {
        path: path.to_path_buf(),
        reason,
    }
}
