//! Image features of the vision tower; those of the frozen tower are cached, within [`super::Settings::feature_bytes`].
//!
//! On the CPU every picture has a pass of its own, so that its features do not depend, not even in the last bit, on which
//! others were new at the same time. Elsewhere a pass of one small picture leaves the device idle: there all new
//! pictures of a call share one packed pass, without padding, each attending within itself. Products of other heights may be
//! summed in another order there, so that the last bits of features depend on what was in the cache.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use candle_core::Tensor;
use rayon::prelude::*;

use super::{Engine, Input};
use crate::error::Result;
use crate::example::{Grid, PatchProcessor, Picture, PictureKey};
use crate::models::qwen3_vl::{Features, Qwen3Vl};

/// Values by key within a bound of bytes; the oldest go first.
#[derive(Debug)]
pub(crate) struct FifoCache<K, V> {
    entries: HashMap<K, (V, usize)>,
    /// Oldest first.
    order: VecDeque<K>,
    bytes: usize,
}

impl<K, V> Default for FifoCache<K, V> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
        }
    }
}

impl<K: Clone + Eq + Hash, V> FifoCache<K, V> {
    /// The value of a key.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(value, _)| value)
    }

    /// Bytes of all entries.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a value of so many bytes, the newest; one that is replaced keeps its place.
    pub(crate) fn insert(&mut self, key: K, value: V, bytes: usize) {
        self.bytes += bytes;
        match self.entries.insert(key.clone(), (value, bytes)) {
            Some((_, old)) => self.bytes -= old,
            None => self.order.push_back(key),
        }
    }

    /// Removes the oldest until all fit into `capacity` bytes; the newest `kept` stay in any case.
    pub(crate) fn evict(&mut self, capacity: usize, kept: usize) {
        while self.bytes > capacity
            && self.order.len() > kept
            && let Some(oldest) = self.order.pop_front()
        {
            self.bytes -= self.entries.remove(&oldest).map_or(0, |(_, bytes)| bytes);
        }
    }
}

/// A picture in one size: pictures of one file may have been shrunk differently.
type Key = (PictureKey, (u32, u32));

/// Statistics of the cache of image features.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Pictures whose features were there already.
    pub hits: u64,
    /// Pictures that the frozen tower had to encode.
    pub misses: u64,
    /// Bytes of features that are kept now.
    pub bytes: usize,
}

/// Features of pictures by the frozen tower.
#[derive(Debug, Default)]
pub(super) struct FeatureCache {
    features: FifoCache<Key, Features>,
    /// Without the bytes.
    stats: CacheStats,
}

impl Engine {
    /// Pictures of so many tokens whose features fit into what is kept; counted in f32.
    #[must_use]
    pub fn feature_capacity(&self, tokens: usize) -> usize {
        let vision = &self.base.config().vision_config;
        let each = (1 + vision.deepstack_visual_indexes.len()) * vision.out_hidden_size * size_of::<f32>();
        if !self.settings.cache_features {
            return 0;
        }
        self.settings.feature_bytes / (tokens * each).max(1)
    }

    /// Statistics of the feature cache so far.
    #[must_use]
    pub fn cache_stats(&self) -> CacheStats {
        CacheStats {
            bytes: self.cache.features.bytes(),
            ..self.cache.stats
        }
    }

    /// The features of each input's pictures by the frozen tower.
    pub(super) fn frozen_features(&mut self, inputs: &[Input]) -> Result<Vec<Option<Features>>> {
        let mut new: Vec<(Key, &Picture)> = Vec::new();
        for picture in inputs.iter().flat_map(|input| &input.pictures) {
            let key = key(picture);
            if self.cache.features.get(&key).is_none() && new.iter().all(|(other, _)| *other != key) {
                new.push((key, picture));
            }
        }
        let (keys, pictures): (Vec<Key>, Vec<&Picture>) = new.into_iter().unzip();
        // As the device is best asked.
        let encode = if self.base.device().is_cpu() {
            encode_each
        } else {
            encode_packed
        };
        let encoded = encode(&self.base, &self.processor, &pictures)?;
        let asked = inputs.iter().map(|input| input.pictures.len() as u64).sum::<u64>();
        self.cache.stats.misses += keys.len() as u64;
        self.cache.stats.hits += asked.saturating_sub(keys.len() as u64);
        let encoded: HashMap<Key, Features> = keys.into_iter().zip(encoded).collect();
        let of = |picture: &Picture| {
            let key = key(picture);
            encoded.get(&key).or_else(|| self.cache.features.get(&key))
        };
        let gathered = inputs.iter().map(|input| {
            let own: Vec<&Features> = input.pictures.iter().filter_map(|picture| of(picture)).collect();
            Features::cat(&own)
        });
        let gathered = gathered.collect::<Result<_>>()?;
        if self.settings.cache_features {
            let mut encoded: Vec<_> = encoded.into_iter().collect();
            encoded.sort_by(|(a, _), (b, _)| (&a.0.sha256, a.0.mirrored, a.1).cmp(&(&b.0.sha256, b.0.mirrored, b.1)));
            let new = encoded.len();
            for (key, features) in encoded {
                let tensors = std::iter::once(&features.merged).chain(&features.deepstack);
                let bytes = tensors.map(|tensor| tensor.elem_count() * tensor.dtype().size_in_bytes());
                let bytes = bytes.sum();
                self.cache.features.insert(key, features, bytes);
            }
            // Of older features as many as fit.
            if new > 0 {
                self.cache.features.evict(self.settings.feature_bytes, new);
            }
        }
        tracing::debug!("features: {:?}", self.cache_stats());
        Ok(gathered)
    }

    /// The features of each input's pictures by a model with trained tensors in tower or merger.
    pub(super) fn trained_features(&self, model: &Qwen3Vl, inputs: &[Input]) -> Result<Vec<Option<Features>>> {
        let one = |input: &Input| {
            let encoded = encode_each(model, &self.processor, &input.pictures)?;
            Features::cat(&encoded.iter().collect::<Vec<_>>())
        };
        inputs.iter().map(one).collect()
    }

    /// (N, patch numbers) of all pictures of several inputs, with their grids.
    pub(super) fn patches(&self, inputs: &[Input]) -> Result<(Tensor, Vec<Grid>)> {
        let pictures: Vec<&Picture> = inputs.iter().flat_map(|input| &input.pictures).copied().collect();
        patches(&self.base, &self.processor, &pictures)
    }
}

/// Each picture in a pass of its own.
fn encode_each(model: &Qwen3Vl, processor: &PatchProcessor, pictures: &[&Picture]) -> Result<Vec<Features>> {
    let one = |picture: &&Picture| {
        let (patches, grids) = patches(model, processor, &[picture])?;
        Ok(model.image_features(&patches, &grids)?.detached())
    };
    if model.device().is_cpu() {
        pictures.par_iter().map(one).collect()
    } else {
        pictures.iter().map(one).collect()
    }
}

/// All pictures in one pass, one after the other, each attending within itself.
fn encode_packed(model: &Qwen3Vl, processor: &PatchProcessor, pictures: &[&Picture]) -> Result<Vec<Features>> {
    if pictures.is_empty() {
        return Ok(Vec::new());
    }
    let (patches, grids) = patches(model, processor, pictures)?;
    let tokens: Vec<usize> = grids.iter().map(|grid| grid.tokens(processor.merge())).collect();
    model.image_features(&patches, &grids)?.detached().split(&tokens)
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use image::RgbImage;

    use super::*;
    use crate::nn::DeviceSpec;

    fn tower() -> (Qwen3Vl, PatchProcessor) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/mini/models/micro-qwen3-vl");
        (
            Qwen3Vl::load(&folder, &DeviceSpec::cpu()).unwrap(),
            PatchProcessor::load(&folder).unwrap(),
        )
    }

    fn picture(number: u32, (width, height): (u32, u32)) -> Picture {
        let shade = |x: u32, y: u32| image::Rgb([(x * 7 + number * 40) as u8, (y * 5) as u8, (x * y) as u8]);
        Picture {
            pixels: Arc::new(RgbImage::from_fn(width, height, shade)),
            key: PictureKey {
                sha256: number.to_string().into(),
                mirrored: false,
            },
            tokens: 0,
        }
    }

    #[test]
    fn pictures_of_all_sizes_are_seen_in_one_pass_as_each_by_itself() {
        let (model, processor) = tower();
        let pictures: Vec<Picture> = [(64, 64), (96, 48), (40, 100), (64, 64), (70, 30)]
            .into_iter()
            .zip(0..)
            .map(|(size, number)| picture(number, size))
            .collect();
        let pictures: Vec<&Picture> = pictures.iter().collect();
        let apart = encode_each(&model, &processor, &pictures).unwrap();
        let packed = encode_packed(&model, &processor, &pictures).unwrap();
        assert_eq!(packed.len(), apart.len());
        for (packed, apart) in packed.iter().zip(&apart) {
            assert_eq!(packed.deepstack.len(), apart.deepstack.len());
            let tensors = |features: &Features| -> Vec<Tensor> {
                std::iter::once(&features.merged)
                    .chain(&features.deepstack)
                    .cloned()
                    .collect()
            };
            for (packed, apart) in tensors(packed).iter().zip(tensors(apart)) {
                assert_eq!(packed.dims(), apart.dims());
                let scalar = |tensor: Tensor| tensor.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                let (off, size) = (scalar((packed - &apart).unwrap()), scalar(apart.clone()));
                assert!(off <= 1e-5 * size, "{off} of {size}");
            }
        }
        assert!(encode_packed(&model, &processor, &[]).unwrap().is_empty());
    }

    fn kept(cache: &FifoCache<&'static str, u32>) -> Vec<&'static str> {
        let mut kept: Vec<_> = cache.entries.keys().copied().collect();
        kept.sort_unstable();
        kept
    }

    #[test]
    fn the_oldest_go_when_there_is_no_room() {
        let mut cache = FifoCache::default();
        for name in ["a", "b", "c", "b", "d"] {
            cache.insert(name, 0, 8);
            cache.evict(24, 0);
            assert!(cache.bytes <= 24 && cache.order.len() == cache.entries.len());
        }
        assert_eq!((kept(&cache), cache.bytes), (vec!["b", "c", "d"], 24));
    }

    #[test]
    fn the_newest_stay_however_small_the_capacity() {
        for (capacity, expected) in [
            (64, vec!["b", "c", "d", "e"]),
            (32, vec!["d", "e"]),
            (0, vec!["d", "e"]),
        ] {
            let mut cache = FifoCache::default();
            for call in [&["a", "b", "c"][..], &["d", "e"]] {
                call.iter().for_each(|name| cache.insert(*name, 0, 16));
                cache.evict(capacity, call.len());
            }
            assert_eq!(
                (kept(&cache), cache.bytes),
                (expected.clone(), 16 * expected.len()),
                "{capacity} bytes"
            );
        }
    }
}
