//! Image features of the vision tower; those of the frozen tower are cached, within [`super::Settings::feature_bytes`].
//!
//! On the CPU every picture has a pass of its own, so that its features do not depend, not even in the last bit, on which
//! others were new at the same time. Elsewhere a pass of one small picture leaves the device idle: there all new
//! pictures of a call share one packed pass, without padding, each attending within itself. Products of other heights may be
//! summed in another order there, so that the last bits of features depend on what was in the cache.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Condvar, Mutex, PoisonError};

use candle_core::Tensor;
use rayon::prelude::*;

use super::{Engine, Input, lock};
use crate::error::Result;
use crate::example::{Grid, ModelInput, PatchProcessor, Picture, PictureKey};
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

/// Features of pictures by the frozen tower, for several threads: a picture that one of them is encoding is waited for.
#[derive(Debug, Default)]
pub(super) struct FeatureCache {
    kept: Mutex<Kept>,
    /// Told whenever pictures are through.
    encoded: Condvar,
}

#[derive(Debug, Default)]
struct Kept {
    features: FifoCache<Key, Features>,
    /// Pictures that some thread is encoding.
    encoding: HashSet<Key>,
    /// Without the bytes.
    stats: CacheStats,
}

/// Pictures that this thread is encoding; let go whatever comes of it.
struct Encoding<'a> {
    cache: &'a FeatureCache,
    keys: Vec<Key>,
}

impl Drop for Encoding<'_> {
    fn drop(&mut self) {
        let mut kept = lock(&self.cache.kept);
        for key in &self.keys {
            kept.encoding.remove(key);
        }
        self.cache.encoded.notify_all();
    }
}

/// Pictures that a thread of this pool takes on at once on a CPU, so that others may take on the next ones.
fn portion() -> usize {
    4 * rayon::current_num_threads()
}

impl Kept {
    fn stats(&self) -> CacheStats {
        CacheStats {
            bytes: self.features.bytes(),
            ..self.stats
        }
    }
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
        lock(&self.cache.kept).stats()
    }

    /// True if pictures are encoded on the CPU, each by itself: several threads may [`Self::encode`] at a time.
    #[must_use]
    pub fn encodes_on_cpu(&self) -> bool {
        self.base.device().is_cpu()
    }

    /// Encodes the pictures of a prompt by the frozen tower and keeps their features, as far as these are kept: what continues the
    /// prompt then finds them. For any thread.
    ///
    /// # Errors
    /// As of sampling from the prompt.
    pub fn encode(&self, prompt: &ModelInput) -> Result<()> {
        if self.settings.cache_features {
            self.frozen_features(&self.read([prompt], 0)?)?;
        }
        Ok(())
    }

    /// The features of each input's pictures by the frozen tower.
    pub(super) fn frozen_features(&self, inputs: &[Input]) -> Result<Vec<Option<Features>>> {
        let pictures = || inputs.iter().flat_map(|input| &input.pictures).copied();
        // Of all pictures, whatever others evict meanwhile.
        let mut known: HashMap<Key, Features> = HashMap::new();
        let mut missed = 0;
        loop {
            let Some(new) = self.missing(pictures(), &mut known) else {
                break;
            };
            missed += new.keys.len();
            let own = |key: &Key| pictures().find(|picture| key_of(picture) == *key);
            let own: Vec<&Picture> = new.keys.iter().filter_map(own).collect();
            // As the device is best asked.
            let encode = if self.base.device().is_cpu() {
                encode_each
            } else {
                encode_packed
            };
            let encoded = new.keys.iter().cloned().zip(encode(&self.base, &self.processor, &own)?);
            let mut encoded: Vec<(Key, Features)> = encoded.collect();
            known.extend(encoded.iter().cloned());
            if self.settings.cache_features {
                encoded
                    .sort_by(|(a, _), (b, _)| (&a.0.sha256, a.0.mirrored, a.1).cmp(&(&b.0.sha256, b.0.mirrored, b.1)));
                let mut kept = lock(&self.cache.kept);
                for (key, features) in encoded {
                    let tensors = std::iter::once(&features.merged).chain(&features.deepstack);
                    let bytes = tensors
                        .map(|tensor| tensor.elem_count() * tensor.dtype().size_in_bytes())
                        .sum();
                    kept.features.insert(key, features, bytes);
                }
                // Of older features as many as fit.
                kept.features.evict(self.settings.feature_bytes, known.len());
            }
        }
        let mut kept = lock(&self.cache.kept);
        kept.stats.misses += missed as u64;
        kept.stats.hits += (pictures().count() - missed) as u64;
        tracing::debug!("features: {:?}", kept.stats());
        drop(kept);
        let gathered = inputs.iter().map(|input| {
            let own = input.pictures.iter().filter_map(|picture| known.get(&key_of(picture)));
            Features::cat(&own.collect::<Vec<_>>())
        });
        gathered.collect()
    }

    /// Pictures to encode next; those that are kept go into `known`, those that another thread is encoding are waited for. `None`
    /// once all are known.
    fn missing<'p>(
        &self,
        pictures: impl Iterator<Item = &'p Picture> + Clone,
        known: &mut HashMap<Key, Features>,
    ) -> Option<Encoding<'_>> {
        let at_once = if self.base.device().is_cpu() {
            portion()
        } else {
            usize::MAX
        };
        let mut kept = lock(&self.cache.kept);
        loop {
            let (mut keys, mut awaited) = (Vec::new(), false);
            for key in pictures.clone().map(key_of) {
                if known.contains_key(&key) || keys.contains(&key) {
                } else if let Some(features) = kept.features.get(&key) {
                    known.insert(key, features.clone());
                } else if kept.encoding.contains(&key) {
                    awaited = true;
                } else if keys.len() < at_once {
                    keys.push(key);
                }
            }
            if !keys.is_empty() {
                // What is not kept is of no use to others.
                if self.settings.cache_features {
                    kept.encoding.extend(keys.iter().cloned());
                }
                let cache = &self.cache;
                return Some(Encoding { cache, keys });
            }
            if !awaited {
                return None;
            }
            kept = self.cache.encoded.wait(kept).unwrap_or_else(PoisonError::into_inner);
        }
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

fn key_of(picture: &Picture) -> Key {
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
