//! Full checkpoints with the adapters added into the weights.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use candle_core::Tensor;
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, SafeTensors, View};

use super::{Config, Qwen3Vl};
use crate::checkpoint::weights::{Weights, float, map_file};
use crate::error::{Cause, Error, Result};
use crate::fs::folder;
use crate::models::lora::Adaptable as _;
use crate::nn::{Experts, Projection};

impl Qwen3Vl {
    /// Writes a hub-layout folder that computes with its weights alone what this model computes with its adapters:
    /// a copy of the base model's folder in which the adapted weights, under their names, in their files, of their
    /// types and in their layouts, have `scale · B · A` added. What is rounded to the files' type is the sum.
    ///
    /// # Errors
    /// [`Error::Model`] when there is no adapter, `base_dir` does not hold the base that this model was loaded from,
    /// or `out` is there already; [`Error::Io`]. Nothing half-written is left behind.
    pub fn save_merged(&self, base_dir: &Path, out: &Path) -> Result<()> {
        if out.exists() {
            let reason = "is there already; a merged model gets a folder of its own";
            return Err(Error::model(out, reason).because(Cause::Occupied));
        }
        if self.config.tied() && self.head.update().is_some() {
            return Err(Error::checkpoint(
                base_dir,
                "`lm_head` is tied to the embedding, which the adapter leaves alone: the sum would change both",
                "use the adapter beside its base (`--adapter`), or train one without `lm_head`",
            ));
        }
        let (_, bytes) = Config::load(base_dir)?;
        if Weights::open(base_dir)?.fingerprint(&bytes)? != self.fingerprint() {
            return Err(Error::model(
                base_dir,
                "is not the base model that the adapters belong to",
            ));
        }
        let layers = self.layers().into_iter().filter(|(_, layer)| layer.update().is_some());
        let layers = layers.map(|(name, layer)| (format!("{name}.weight"), Adapted::Layer(layer)));
        let stacks = self.stacks().into_iter().filter(|(_, stack)| stack.update().is_some());
        let stacks = stacks.map(|(name, stack)| (name, Adapted::Experts(stack)));
        let merged: BTreeMap<String, Adapted> = layers.chain(stacks).collect();
        if merged.is_empty() {
            return Err(self.error("there is no adapter to add into the weights"));
        }
        folder::replace(out, |new| {
            let mut left: BTreeSet<&str> = merged.keys().map(String::as_str).collect();
            copy(base_dir, new, &merged, &mut left)?;
            match left.first() {
                None => Ok(()),
                Some(name) => Err(Error::model(base_dir, format!("tensor `{name}` is missing"))),
            }
        })
    }
}

/// A weight with an adapter. The sum is made when its file is written: all sums of a large model at once would not fit.
enum Adapted {
    Layer(Projection),
    Experts(Experts),
}

impl Adapted {
    /// The weights with the update, laid out as in a file that has this shape; none if it is that of other weights.
    fn merged(&self, shape: &[usize]) -> Result<Option<Tensor>> {
        let sum = match self {
            Self::Layer(layer) => layer.summed()?,
            Self::Experts(stack) => {
                let sum = stack.updated_weight()?;
                let (experts, from, to) = stack.sizes();
                let other = from != to && shape == [experts, to, from];
                if other { sum.transpose(1, 2)? } else { sum }
            }
        };
        Ok(Some(sum).filter(|sum| sum.dims() == shape))
    }
}

/// Copies a folder but for what is hidden; tensors that have a merged form are written in it and leave `left`.
fn copy<'a>(from: &Path, to: &Path, merged: &'a BTreeMap<String, Adapted>, left: &mut BTreeSet<&'a str>) -> Result<()> {
    for entry in fs::read_dir(from).map_err(Error::io("read", from))? {
        let entry = entry.map_err(Error::io("read", from))?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if path.is_dir() {
            fs::create_dir(&target).map_err(Error::io("make", &target))?;
            copy(&path, &target, merged, left)?;
        } else if path.extension().is_none_or(|end| end != "safetensors") || !rewrite(&path, &target, merged, left)? {
            fs::copy(&path, &target).map_err(Error::io("copy", &path))?;
        }
    }
    Ok(())
}

/// Writes a safetensors file with merged tensors in place of their bases; says whether it held any.
fn rewrite<'a>(
    from: &Path,
    to: &Path,
    merged: &'a BTreeMap<String, Adapted>,
    left: &mut BTreeSet<&'a str>,
) -> Result<bool> {
    let damaged = |reason: String| Error::model(from, reason);
    let unread = |e: SafeTensorError| damaged(format!("not a safetensors file: {e}"));
    let map = map_file(from)?;
    let file = SafeTensors::deserialize(&map).map_err(unread)?;
    let (_, header) = SafeTensors::read_metadata(&map).map_err(unread)?;
    let (mut parts, mut any) = (Vec::new(), false);
    for (name, view) in file.tensors() {
        let bytes = match merged.get_key_value(&name) {
            None => Cow::Borrowed(view.data()),
            Some((key, adapted)) => {
                any = true;
                left.remove(key.as_str());
                let (Some(dtype), Some(sum)) = (float(view.dtype()), adapted.merged(view.shape())?) else {
                    return Err(damaged(format!("`{name}` is {:?} of {:?}", view.dtype(), view.shape())));
                };
                Cow::Owned(View::data(&sum.to_dtype(dtype)?.contiguous()?).into_owned())
            }
        };
        let part = Part {
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes,
        };
        parts.push((name, part));
    }
    if any {
        let unwritten = |e| {
            let to = to.display();
            damaged(format!("cannot be written with its adapters to `{to}`: {e}"))
        };
        safetensors::serialize_to_file(parts, header.metadata().clone(), to).map_err(unwritten)?;
    }
    Ok(any)
}

/// A tensor of the new file.
struct Part<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Cow<'a, [u8]>,
}

impl View for Part<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}
