//! What the tower sees in pictures; that of the frozen tower is kept.

use std::collections::{HashMap, VecDeque};

use candle_core::Tensor;
use rayon::prelude::*;

use super::Engine;
use super::inputs::Input;
use crate::error::Result;
use crate::example::{Grid, PatchProcessor, Picture, PictureKey};
use crate::models::qwen3_vl::{Features, Qwen3Vl};

/// Bytes of features that are kept; beyond it the oldest go.
const CAPACITY: usize = 2 << 30;

/// Which picture in which size: pictures of one file may have been shrunk differently.
type Key = (PictureKey, (u32, u32));

/// Features of pictures as the frozen tower sees them.
#[derive(Debug, Default)]
pub(super) struct FeatureCache {
    kept: HashMap<Key, Features>,
    /// Oldest first.
    order: VecDeque<Key>,
    bytes: usize,
}

impl FeatureCache {
    fn keep(&mut self, key: Key, features: Features) {
        self.bytes += bytes(&features);
        self.order.push_back(key.clone());
        self.kept.insert(key, features);
        while self.bytes > CAPACITY
            && let Some(oldest) = self.order.pop_front()
        {
            let gone = self.kept.remove(&oldest);
            self.bytes -= gone.as_ref().map_or(0, bytes);
        }
    }
}

impl Engine {
    /// The features of each input's pictures, as the frozen tower sees them.
    ///
    /// # Errors
    /// Pictures that cannot be cut into patches; what the device reports.
    pub(super) fn frozen_features(&mut self, inputs: &[Input]) -> Result<Vec<Option<Features>>> {
        let mut new: Vec<(Key, &Picture)> = Vec::new();
        for picture in inputs.iter().flat_map(|input| &input.pictures) {
            let key = key(picture);
            if !self.cache.kept.contains_key(&key) && new.iter().all(|(other, _)| *other != key) {
                new.push((key, picture));
            }
        }
        let pictures: Vec<&Picture> = new.iter().map(|(_, picture)| *picture).collect();
        let seen = see_apart(&self.base, &self.processor, &pictures)?;
        let seen: HashMap<Key, Features> = new.into_iter().map(|(key, _)| key).zip(seen).collect();
        let of = |picture: &Picture| {
            let key = key(picture);
            seen.get(&key).or_else(|| self.cache.kept.get(&key))
        };
        let gathered = inputs.iter().map(|input| {
            let own: Vec<&Features> = input.pictures.iter().filter_map(|picture| of(picture)).collect();
            Features::cat(&own)
        });
        let gathered = gathered.collect::<Result<_>>()?;
        if self.settings.cache_features {
            let mut seen: Vec<_> = seen.into_iter().collect();
            seen.sort_by(|(a, _), (b, _)| (&a.0.sha256, a.0.mirrored, a.1).cmp(&(&b.0.sha256, b.0.mirrored, b.1)));
            for (key, features) in seen {
                self.cache.keep(key, features);
            }
        }
        Ok(gathered)
    }

    /// The features of each input's pictures, as a model with trained tensors in tower or merger sees them.
    ///
    /// # Errors
    /// As [`Engine::frozen_features`].
    pub(super) fn own_features(&self, model: &Qwen3Vl, inputs: &[Input]) -> Result<Vec<Option<Features>>> {
        let one = |input: &Input| {
            let seen = see_apart(model, &self.processor, &input.pictures)?;
            Features::cat(&seen.iter().collect::<Vec<_>>())
        };
        inputs.iter().map(one).collect()
    }

    /// (N, patch numbers) of all pictures of several inputs, with their grids.
    ///
    /// # Errors
    /// [`crate::error::Error::Image`].
    pub(super) fn patches(&self, inputs: &[Input]) -> Result<(Tensor, Vec<Grid>)> {
        let pictures: Vec<&Picture> = inputs.iter().flat_map(|input| &input.pictures).copied().collect();
        patches(&self.base, &self.processor, &pictures)
    }
}

/// Each picture in a pass of its own: what is seen in a picture must not depend, not even in its last bit, on
/// which others were new at the same time.
fn see_apart(model: &Qwen3Vl, processor: &PatchProcessor, pictures: &[&Picture]) -> Result<Vec<Features>> {
    let one = |picture: &&Picture| {
        let (patches, grids) = patches(model, processor, &[picture])?;
        Ok(model.see(&patches, &grids)?.detached())
    };
    if model.device().is_cpu() {
        pictures.par_iter().map(one).collect()
    } else {
        pictures.iter().map(one).collect()
    }
}

/// (N, patch numbers) of pictures, one after the other, with their grids.
fn patches(model: &Qwen3Vl, processor: &PatchProcessor, pictures: &[&Picture]) -> Result<(Tensor, Vec<Grid>)> {
    let cut = pictures
        .par_iter()
        .map(|picture| processor.patches(&picture.pixels, false));
    let cut = cut.collect::<Result<Vec<_>>>()?;
    let grids: Vec<Grid> = cut.iter().map(|patches| patches.grid).collect();
    let values: Vec<f32> = cut.into_iter().flat_map(|patches| patches.values).collect();
    let shape = (grids.iter().map(Grid::patches).sum::<usize>(), processor.patch_width());
    Ok((Tensor::from_vec(values, shape, model.device())?, grids))
}

fn key(picture: &Picture) -> Key {
    (picture.key.clone(), picture.pixels.dimensions())
}

fn bytes(features: &Features) -> usize {
    let all = std::iter::once(&features.merged).chain(&features.deepstack);
    all.map(|tensor| tensor.elem_count() * tensor.dtype().size_in_bytes())
        .sum()
}
