//! Safetensors files of a hub-layout model folder, memory-mapped.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs::File;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use memmap2::{Mmap, UncheckedAdvice};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, Metadata};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::fs::hash::{self, hex};
use crate::nn::{DeviceSpec, LayerNorm, Projection};

/// The single-file name of the hub layout.
const WEIGHTS: &str = "model.safetensors";
/// The list of shards, when there are several files.
const INDEX: &str = "model.safetensors.index.json";
/// Number of names of a kind that an error message lists before it only counts.
const LISTED: usize = 8;
/// Bytes that may stand in for what does not fit, beside those of the files.
const SPARE: usize = 64 << 20;
/// Bytes that a small stand-in counts for, which bounds how many there are.
const SMALLEST: usize = 1 << 10;

/// Bytes before the header: its length.
const LENGTH: usize = 8;
/// More than any header has.
const LONGEST_HEADER: u64 = 100 << 20;
/// Bytes that one thread looks at in one go; a multiple of every type's size.
const PART: usize = 1 << 20;

/// All tensors of one or more safetensors files, read from the page cache when they are taken.
///
/// A tensor is held twice, as the file has it and in its place, only while it is taken. What does not fit is
/// collected, so that one error names every missing, mis-shaped, non-finite and unexpected tensor: see
/// [`Weights::finish`].
#[derive(Debug)]
pub struct Weights {
    /// The file, or the list of files, that should name every tensor.
    path: PathBuf,
    shards: Vec<Shard>,
    entries: BTreeMap<String, Entry>,
    problems: BTreeMap<Problem, Vec<String>>,
    /// Bytes that may still stand in for what does not fit.
    spare: usize,
}

#[derive(Debug)]
struct Entry {
    shard: usize,
    stored: Stored,
    taken: bool,
}

/// Problems with tensors, the gravest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Problem {
    Missing,
    Shape,
    Type,
    Values,
    Surplus,
}

impl Problem {
    /// Words for all those that are not listed one by one, and the remedy.
    fn words(self) -> (&'static str, &'static str) {
        const OF_ONE_MODEL: &str =
            "config.json and weights have to be of one model: take both from one revision of its repository";
        match self {
            Self::Missing => ("are missing", OF_ONE_MODEL),
            Self::Shape => ("have another shape than the config asks for", OF_ONE_MODEL),
            Self::Type => (
                "have a type that is not supported",
                "take the checkpoint that is not quantised: BF16, F16, F32 and F64 are supported",
            ),
            Self::Values => (
                "hold values that are not finite or too large",
                "the checkpoint is damaged or diverged when it was trained: fetch it again or take another",
            ),
            Self::Surplus => ("are not part of this model", OF_ONE_MODEL),
        }
    }
}

impl Weights {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when there are no weights, a shard is missing, truncated or damaged, or lacks a tensor that
    /// it should have.
    pub fn open(dir: &Path) -> Result<Self> {
        let single = dir.join(WEIGHTS);
        if single.symlink_metadata().is_ok() {
            return Self::from_files(&single, std::slice::from_ref(&single));
        }
        let path = dir.join(INDEX);
        if !path.is_file() {
            return Err(damaged(dir, format!("neither {WEIGHTS} nor {INDEX} is there")));
        }
        let shards = shards_of(&path)?;
        let gone = |name: &str| dir.join(name).symlink_metadata().is_err();
        if let Some((name, tensors)) = shards.iter().find(|(name, _)| gone(name)) {
            let held = listed(tensors);
            let reason = format!("names the shard `{name}`, which is not there; it holds {held}");
            return Err(damaged(&path, reason));
        }
        let files: Vec<PathBuf> = shards.keys().map(|name| dir.join(name)).collect();
        let weights = Self::from_files(&path, &files)?;
        for (name, tensors) in &shards {
            let found = |tensor: &str| Some(weights.shards.get(weights.entries.get(tensor)?.shard)?.name());
            let absent = tensors.iter().filter(|tensor| found(tensor).as_ref() != Some(name));
            let absent: Vec<&String> = absent.collect();
            if !absent.is_empty() {
                let absent = listed(absent);
                let reason = format!("says that the shard `{name}` holds {absent}, which it does not");
                return Err(damaged(&path, reason));
            }
        }
        Ok(weights)
    }

    /// Opens safetensors files; `path` is what errors about tensors that are in none of them name.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when a file is missing, damaged or repeats a tensor of another.
    pub fn from_files(path: &Path, files: &[PathBuf]) -> Result<Self> {
        let mut weights = Self {
            path: path.to_path_buf(),
            shards: Vec::new(),
            entries: BTreeMap::new(),
            problems: BTreeMap::new(),
            spare: SPARE,
        };
        for file in files {
            let (shard, tensors) = Shard::open(file)?;
            for (name, stored) in tensors {
                let entry = Entry {
                    shard: weights.shards.len(),
                    stored,
                    taken: false,
                };
                if weights.entries.contains_key(&name) {
                    let reason = format!("holds tensor `{name}`, which an earlier file holds too");
                    return Err(damaged(file, reason));
                }
                weights.entries.insert(name, entry);
            }
            weights.spare += shard.size();
            weights.shards.push(shard);
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

    /// Names of the tensors that nobody took or ignored, sorted.
    pub(crate) fn left(&self) -> impl Iterator<Item = &str> {
        let left = self.entries.iter().filter(|(_, entry)| !entry.taken);
        left.map(|(name, _)| name.as_str())
    }

    /// Names and shapes of all tensors, sorted by name.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        let all = self.entries.iter();
        all.map(|(name, entry)| (name.as_str(), entry.stored.shape.as_slice()))
    }

    /// The shape of a tensor, if it is there.
    #[must_use]
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.stored.shape.as_slice())
    }

    /// Lower-case hex SHA-256 of `config`, followed by the SHA-256 of the file; of several files, by that of their
    /// SHA-256s in the order of their names, so that they are hashed side by side.
    ///
    /// Hashes of large files are kept in the cache folder: see [`hash`].
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read.
    pub fn fingerprint(&self, config: &[u8]) -> Result<String> {
        let paths: Vec<PathBuf> = self.shards.iter().map(|shard| shard.path.clone()).collect();
        let hashes: Vec<Vec<u8>> = hash::sha256(&paths)?.iter().map(|hash| unhex(hash)).collect();
        let files = match hashes.as_slice() {
            [one] => one.clone(),
            several => Sha256::digest(several.concat()).to_vec(),
        };
        Ok(hex(&Sha256::new().chain_update(config).chain_update(files).finalize()))
    }

    /// The tensor `name` of `shape` in its place.
    ///
    /// A tensor that is missing or does not fit comes back as zeros, and [`Weights::finish`] reports it.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when those zeros would be more bytes than the files have; when the device fails.
    pub fn take(&mut self, name: &str, shape: &[usize], spec: &DeviceSpec) -> Result<Tensor> {
        match self.read(name, shape, spec)? {
            Ok(tensor) => Ok(tensor),
            Err((problem, reason)) => {
                let described = format!("{} {reason}", self.which(name));
                self.problems.entry(problem).or_default().push(described);
                // What stands in for it takes no more memory than the files could fill.
                let numbers = shape.iter().try_fold(1usize, |all, &size| all.checked_mul(size));
                let bytes = numbers.and_then(|numbers| numbers.checked_mul(spec.dtype.size_in_bytes()));
                match bytes.and_then(|bytes| self.spare.checked_sub(bytes.max(SMALLEST))) {
                    Some(left) => self.spare = left,
                    None => return Err(self.report()),
                }
                Ok(Tensor::zeros(shape, spec.dtype, &spec.device)?)
            }
        }
    }

    fn read(&mut self, name: &str, shape: &[usize], spec: &DeviceSpec) -> Result<Result<Tensor, (Problem, String)>> {
        let Some(entry) = self.entries.get_mut(name) else {
            return Ok(Err((Problem::Missing, "is missing".into())));
        };
        entry.taken = true;
        let stored = &entry.stored;
        if stored.shape != shape {
            let reason = format!("has shape {:?}, the config asks for {shape:?}", stored.shape);
            return Ok(Err((Problem::Shape, reason)));
        }
        let Some(dtype) = float(stored.dtype) else {
            return Ok(Err((Problem::Type, format!("has type {:?}", stored.dtype))));
        };
        let found = self.shards.get(entry.shard);
        let Some((shard, bytes)) = found.and_then(|shard| Some((shard, shard.bytes(&stored.range)?))) else {
            return Ok(Err((Problem::Missing, "ends after the end of the file".into())));
        };
        if let Err(reason) = check_values(bytes, dtype, spec.dtype) {
            return Ok(Err((Problem::Values, reason)));
        }
        let device = if dtype == spec.dtype {
            &spec.device
        } else {
            &Device::Cpu
        };
        let tensor = Tensor::from_raw_buffer(bytes, dtype, shape, device)?;
        // Before the type changes: a copy, the pages it came from and its new form would be three.
        shard.release(&stored.range);
        Ok(Ok(tensor.to_dtype(spec.dtype)?.to_device(&spec.device)?))
    }

    /// A tensor by name, and where there are several files by that of its file.
    fn which(&self, name: &str) -> String {
        let entry = self.entries.get(name).filter(|_| self.shards.len() > 1);
        match entry.and_then(|entry| self.shards.get(entry.shard)) {
            Some(shard) => format!("`{name}` in `{}`", shard.name()),
            None => format!("`{name}`"),
        }
    }

    /// Ends the loading: everything was there, fitted, and nothing is left over.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] that lists what was wrong.
    pub fn finish(mut self) -> Result<()> {
        let unused = self.entries.iter().filter(|(_, entry)| !entry.taken);
        let surplus = unused.map(|(name, entry)| {
            let (which, shape) = (self.which(name), &entry.stored.shape);
            format!("{which} {shape:?} is not part of this model")
        });
        let surplus: Vec<String> = surplus.collect();
        if !surplus.is_empty() {
            self.problems.insert(Problem::Surplus, surplus);
        }
        if self.problems.is_empty() {
            return Ok(());
        }
        Err(self.report())
    }

    /// Faults found so far.
    fn report(&self) -> Error {
        let mut parts = Vec::new();
        for (problem, tensors) in &self.problems {
            parts.extend(tensors.iter().take(LISTED).cloned());
            if tensors.len() > LISTED {
                parts.push(format!("and {} more {}", tensors.len() - LISTED, problem.words().0));
            }
        }
        let mut remedies: Vec<&str> = self.problems.keys().map(|problem| problem.words().1).collect();
        remedies.dedup();
        Error::checkpoint(&self.path, parts.join("; "), remedies.join("; "))
    }
}

/// One safetensors file, memory-mapped.
#[derive(Debug)]
struct Shard {
    path: PathBuf,
    map: Mmap,
}

/// A tensor as a file has it.
#[derive(Debug)]
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    /// Bytes of the file.
    range: Range<usize>,
}

impl Shard {
    /// Opens a file whose header and length fit together; its tensors in the order of their bytes.
    fn open(path: &Path) -> Result<(Self, Vec<(String, Stored)>)> {
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
    fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Bytes of the file.
    fn size(&self) -> usize {
        self.map.len()
    }

    fn bytes(&self, range: &Range<usize>) -> Option<&[u8]> {
        self.map.get(range.clone())
    }

    /// Lets the memory go that holds these bytes; they are read again if they are asked for again.
    #[expect(
        unsafe_code,
        reason = "advice that may change what memory holds is unsafe in general"
    )]
    fn release(&self, range: &Range<usize>) {
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

/// Checks that each value of `bytes` (little-endian, of type `from`) is finite, and stays so as type `to`, where they lie,
/// without a copy. The problem is given as the end of a sentence about a tensor.
fn check_values(bytes: &[u8], from: DType, to: DType) -> Result<(), String> {
    let finite = match from {
        // A value is infinite or no number when all bits of its exponent are set.
        DType::BF16 => all::<2>(bytes, |value| u16::from_le_bytes(value) & 0x7f80 != 0x7f80),
        DType::F16 => all::<2>(bytes, |value| u16::from_le_bytes(value) & 0x7c00 != 0x7c00),
        DType::F32 => all::<4>(bytes, |value| u32::from_le_bytes(value) & 0x7f80_0000 != 0x7f80_0000),
        _ => all::<8>(bytes, |value| f64::from_le_bytes(value).is_finite()),
    };
    if !finite {
        return Err("holds values that are not finite".into());
    }
    let limit = limit(to);
    if limit >= self::limit(from) {
        return Ok(());
    }
    let fit = match from {
        DType::BF16 => all::<2>(bytes, |value| {
            f64::from(f32::from_bits(u32::from(u16::from_le_bytes(value)) << 16)).abs() < limit
        }),
        DType::F32 => all::<4>(bytes, |value| f64::from(f32::from_le_bytes(value)).abs() < limit),
        _ => all::<8>(bytes, |value| f64::from_le_bytes(value).abs() < limit),
    };
    if !fit {
        return Err(format!("holds values that {} cannot hold", to.as_str()));
    }
    Ok(())
}

/// From where on a number becomes infinite as this type: half a step above the largest one.
fn limit(dtype: DType) -> f64 {
    let (digits, exponent) = match dtype {
        DType::F16 => (11, 15),
        DType::BF16 => (8, 127),
        DType::F32 => (24, 127),
        _ => return f64::INFINITY,
    };
    (2.0 - 0.5f64.powi(digits)) * 2f64.powi(exponent)
}

fn all<const N: usize>(bytes: &[u8], good: impl Fn([u8; N]) -> bool + Sync) -> bool {
    // Without an early end inside a part, so that vector instructions do it.
    let part = |part: &[u8]| {
        let (values, _) = part.as_chunks::<N>();
        values.iter().fold(true, |all, value| all & good(*value))
    };
    bytes.par_chunks(PART).all(part)
}

/// A type of floating-point numbers that weights may have.
pub(crate) fn float(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        Dtype::F64 => Some(DType::F64),
        _ => None,
    }
}

/// Gives a tensor by its hub name and shape.
pub type Take<'a> = dyn FnMut(&str, &[usize]) -> Result<Tensor> + 'a;

/// A linear layer by its hub name.
pub(crate) fn linear(take: &mut Take, name: &str, from: usize, to: usize, bias: bool) -> Result<Projection> {
    let weight = take(&format!("{name}.weight"), &[to, from])?;
    let bias = bias.then(|| take(&format!("{name}.bias"), &[to])).transpose()?;
    Projection::new(weight, bias)
}

/// A layer norm by its hub name.
pub(crate) fn layer_norm(take: &mut Take, name: &str, width: usize, eps: f64) -> Result<LayerNorm> {
    Ok(LayerNorm {
        weight: take(&format!("{name}.weight"), &[width])?,
        bias: take(&format!("{name}.bias"), &[width])?,
        eps,
    })
}

/// The shards that a `model.safetensors.index.json` names, with the tensors of each.
fn shards_of(path: &Path) -> Result<BTreeMap<String, BTreeSet<String>>> {
    #[derive(Deserialize)]
    struct Index {
        /// File of each tensor.
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read(path).map_err(Error::io("read", path))?;
    let index: Index =
        serde_json::from_slice(&text).map_err(|e| damaged(path, format!("is not a list of shards: {e}")))?;
    // An index must not lead out of the model folder.
    let leads_out = |name: &&String| Path::new(name).file_name().is_none_or(|file| file != name.as_str());
    if let Some(name) = index.weight_map.values().find(leads_out) {
        let reason = format!("names the shard `{name}`, which is not a file name");
        return Err(damaged(path, reason));
    }
    if index.weight_map.is_empty() {
        return Err(damaged(path, "names no tensor".into()));
    }
    let mut shards: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (tensor, shard) in index.weight_map {
        shards.entry(shard).or_default().insert(tensor);
    }
    Ok(shards)
}

/// Names for a message: the first few, and how many more there are.
fn listed(names: impl IntoIterator<Item = impl Display>) -> String {
    first_few(names.into_iter().map(|name| format!("`{name}`")))
}

/// The first few of some parts of a message, and how many more there are.
pub(crate) fn first_few(parts: impl Iterator<Item = String>) -> String {
    let parts: Vec<String> = parts.collect();
    let first = parts.get(..LISTED).unwrap_or(&parts).join(", ");
    match parts.len().saturating_sub(LISTED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// A file that is not as it was published.
fn damaged(path: &Path, reason: String) -> Error {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let remedy = match repository_of(path) {
        Some(id) => format!("`kshot model fetch {id}` checks every file and fetches what is wrong or missing again"),
        None => format!("fetch or copy `{name}` again from where the model comes from"),
    };
    Error::checkpoint(path, reason, remedy)
}

/// Repository and commit of a path in the hub's cache: `…/models--<owner>--<name>/snapshots/<commit>/…`.
pub(crate) fn snapshot_of(path: &Path) -> Option<(String, String)> {
    let mut parts = path.components().map(|part| part.as_os_str().to_string_lossy());
    parts.by_ref().find(|part| part == "snapshots")?;
    Some((repository_of(path)?, parts.next()?.into_owned()))
}

/// The repository of a file in the hub's cache: `…/models--<owner>--<name>/snapshots/<commit>/…`.
fn repository_of(path: &Path) -> Option<String> {
    path.components().find_map(|part| match part {
        Component::Normal(part) => Some(part.to_str()?.strip_prefix("models--")?.replace("--", "/")),
        _ => None,
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let (pairs, _) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or_default() as u8;
    let byte = |[high, low]: &[u8; 2]| 16 * digit(*high) + digit(*low);
    pairs.iter().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    const FLOATS: [DType; 4] = [DType::BF16, DType::F16, DType::F32, DType::F64];

    fn bytes(value: f64, dtype: DType) -> Vec<u8> {
        let mut values = vec![0.5; 700];
        values[699] = value;
        let tensor = Tensor::new(values, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        safetensors::tensor::View::data(&tensor).into_owned()
    }

    /// True if candle's own conversion keeps the value finite.
    fn stays(value: f64, from: DType, to: DType) -> bool {
        let tensor = Tensor::new(&[value], &Device::Cpu).unwrap().to_dtype(from).unwrap();
        let there = tensor.to_dtype(to).unwrap().to_dtype(DType::F64).unwrap();
        there.to_vec1::<f64>().unwrap()[0].is_finite()
    }

    #[test]
    fn what_is_not_finite_is_seen_in_every_type() {
        for from in FLOATS {
            for wrong in [f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                let refused = check_values(&bytes(wrong, from), from, DType::F32);
                assert!(refused.unwrap_err().contains("not finite"), "{from:?} {wrong}");
            }
            for right in [0.0, -0.0, 1.0, 65504.0, -65504.0, 6e-8] {
                check_values(&bytes(right, from), from, DType::F32).unwrap();
            }
        }
    }

    #[test]
    fn what_would_become_infinite_is_refused_and_nothing_else() {
        let values = [
            1.0, 65504.0, 65519.0, 65520.0, 1e5, 3.38e38, 3.3961e38, 3.3962e38, 3.402e38, 1e39, -1e300,
        ];
        for from in FLOATS {
            for to in [DType::BF16, DType::F16, DType::F32] {
                for value in values {
                    let passes = check_values(&bytes(value, from), from, to).is_ok();
                    assert_eq!(passes, stays(value, from, to), "{value} from {from:?} to {to:?}");
                }
            }
        }
    }
}
