//! Keys and values of what the decoder has read.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::config::TextConfig;
use crate::error::{Error, Result};
use crate::nn::ops::{Mask, Segment};

/// Number of a sequence in a cache; none is given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(u64);

/// The rows of one sequence.
#[derive(Debug, Clone, Copy)]
struct Slot {
    id: SlotId,
    start: usize,
    /// Room for so many tokens.
    capacity: usize,
    /// Tokens so far.
    length: usize,
}

/// Keys and values of several sequences in every layer. It is passed into the decoder, which adds the
/// rows it is given; no gradient flows through it.
///
/// Sequences come and go: each has rows of its own in tensors that all share, which grow when there is no gap that is large
/// enough.
#[derive(Debug)]
pub struct KvCache {
    dtype: DType,
    device: Device,
    /// Numbers of a row: G·K.
    width: usize,
    /// Rows of each tensor.
    rows: usize,
    /// Rows beyond which the tensors grow no more than they must.
    enough: usize,
    /// In the order of their rows.
    slots: Vec<Slot>,
    next: u64,
    depth: usize,
    /// Keys and values of each layer, (rows, G·K); none as long as there are no rows: a GPU has no empty tensors.
    layers: Vec<(Tensor, Tensor)>,
}

impl KvCache {
    /// A cache without sequences, whose tensors are doubled as they grow, up to `enough` rows; `dtype` is that of the states,
    /// [`super::Qwen3Vl::state_type`].
    #[must_use]
    pub fn empty(config: &TextConfig, enough: usize, dtype: DType, device: &Device) -> Self {
        Self {
            enough,
            dtype,
            device: device.clone(),
            width: config.num_key_value_heads * config.head_dim(),
            rows: 0,
            slots: Vec::new(),
            next: 0,
            depth: config.num_hidden_layers,
            layers: Vec::new(),
        }
    }

    /// A cache with room for `capacity` tokens of each of `sequences` sequences; `dtype` is that of the
    /// states, [`super::Qwen3Vl::state_type`].
    pub fn new(config: &TextConfig, sequences: usize, capacity: usize, dtype: DType, device: &Device) -> Result<Self> {
        let mut cache = Self::empty(config, sequences * capacity, dtype, device);
        cache.grow(sequences * capacity)?;
        for _ in 0..sequences {
            cache.add(capacity)?;
        }
        Ok(cache)
    }

    /// Bytes of one row in all layers, keys and values.
    #[must_use]
    pub fn row_bytes(config: &TextConfig, dtype: DType) -> usize {
        2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim() * dtype.size_in_bytes()
    }

    /// Rows that the tensors have, or would need for sequences of these capacities besides.
    #[must_use]
    pub fn rows_with(&self, capacities: impl IntoIterator<Item = usize>) -> usize {
        // Each in the first gap that has room, as they will be placed.
        let mut gaps: Vec<usize> = self.gaps().map(|(_, _, room)| room).collect();
        let mut end = self.slots.last().map_or(0, |slot| slot.start + slot.capacity);
        for capacity in capacities {
            match gaps.iter_mut().find(|room| **room >= capacity) {
                Some(room) => *room -= capacity,
                None => end += capacity,
            }
        }
        end.max(self.rows)
    }

    /// Room for `capacity` tokens of one more sequence.
    pub fn add(&mut self, capacity: usize) -> Result<SlotId> {
        let end = self.slots.last().map_or(0, |slot| slot.start + slot.capacity);
        let gap = self.gaps().find(|(_, _, room)| *room >= capacity);
        let (at, start) = gap.map_or((self.slots.len(), end), |(at, start, _)| (at, start));
        if start + capacity > self.rows {
            // Twice as many, so that growing stays rare.
            self.grow((start + capacity).max(self.enough.min(2 * self.rows)))?;
        }
        let id = SlotId(self.next);
        self.next += 1;
        let slot = Slot {
            id,
            start,
            capacity,
            length: 0,
        };
        self.slots.insert(at, slot);
        Ok(id)
    }

    /// Frees the rows of a sequence.
    pub fn remove(&mut self, id: SlotId) {
        self.slots.retain(|slot| slot.id != id);
    }

    /// Gives a sequence the tokens of another one.
    ///
    /// # Errors
    /// When one of the two is not there, or there is no room for them.
    pub fn copy(&mut self, from: SlotId, to: SlotId) -> Result<()> {
        let find = |id: SlotId| self.slots.iter().position(|slot| slot.id == id);
        let (Some(from), Some(to)) = (find(from), find(to)) else {
            return Err(Error::tensor(format!("no sequences {from:?} and {to:?} in a cache")));
        };
        let (Slot { start, length, .. }, target) = (self.slots[from], self.slots[to]);
        if length > target.capacity {
            return Err(full(length, target.capacity));
        }
        if length > 0 {
            for all in self.layers.iter().flat_map(|(keys, values)| [keys, values]) {
                all.slice_set(&all.narrow(0, start, length)?.copy()?, 0, target.start)?;
            }
        }
        self.slots[to].length = length;
        Ok(())
    }

    /// The sequences in the order in which a batch gives their rows.
    pub fn order(&self) -> impl Iterator<Item = SlotId> + '_ {
        self.slots.iter().map(|slot| slot.id)
    }

    /// Gaps before, between and behind the sequences: the place in their order, the first row, the rows.
    fn gaps(&self) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        let starts = self.slots.iter().map(|slot| slot.start).chain([self.rows]);
        let ends = self.slots.iter().map(|slot| slot.start + slot.capacity);
        let gaps = std::iter::once(0).chain(ends).zip(starts).enumerate();
        gaps.map(|(at, (end, start))| (at, end, start.saturating_sub(end)))
    }

    fn grow(&mut self, rows: usize) -> Result<()> {
        if rows == 0 {
            return Ok(());
        }
        let zeros = || Tensor::zeros((rows, self.width), self.dtype, &self.device);
        let grown = |old: &Tensor| -> Result<Tensor> {
            let new = zeros()?;
            new.slice_set(old, 0, 0)?;
            Ok(new)
        };
        // One layer after the other, so that two sizes of one alone are in memory.
        for (keys, values) in &mut self.layers {
            (*keys, *values) = (grown(keys)?, grown(values)?);
        }
        for _ in self.layers.len()..self.depth {
            self.layers.push((zeros()?, zeros()?));
        }
        self.rows = rows;
        Ok(())
    }

    /// The segments of `new` further tokens of each sequence: all of them and all before them are keys.
    pub(super) fn segments(&self, new: &[usize]) -> Result<Arc<[Segment]>> {
        if new.len() != self.slots.len() {
            let (new, known) = (new.len(), self.slots.len());
            return Err(Error::tensor(format!("{new} sequences for a cache of {known}")));
        }
        let mut segments = Vec::with_capacity(new.len());
        let mut row = 0;
        for (&new, slot) in new.iter().zip(&self.slots) {
            let tokens = slot.length + new;
            if tokens > slot.capacity {
                return Err(full(tokens, slot.capacity));
            }
            if new > 0 {
                segments.push(Segment {
                    queries: row..row + new,
                    keys: slot.start..slot.start + tokens,
                    mask: Mask::Causal,
                });
                row += new;
            }
        }
        Ok(segments.into())
    }

    /// Adds the keys and values of new rows; gives all keys and values of the layer.
    pub(super) fn append(
        &mut self,
        layer: usize,
        segments: &[Segment],
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let Some((all_keys, all_values)) = self.layers.get(layer) else {
            return Err(Error::tensor(format!("a cache without layer {layer}")));
        };
        for Segment {
            queries, keys: seen, ..
        } in segments
        {
            for (all, new) in [(all_keys, keys), (all_values, values)] {
                let new = new.detach().narrow(0, queries.start, queries.len())?.contiguous()?;
                all.slice_set(&new, 0, seen.end - queries.len())?;
            }
        }
        Ok((all_keys.clone(), all_values.clone()))
    }

    /// Counts the tokens that all layers have now processed.
    pub(super) fn advance(&mut self, new: &[usize]) {
        for (slot, new) in self.slots.iter_mut().zip(new) {
            slot.length += new;
        }
    }
}

fn full(tokens: usize, capacity: usize) -> Error {
    Error::tensor(format!("{tokens} tokens in a cache of {capacity}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> KvCache {
        let json = r#"{"hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 2, "num_attention_heads": 1,
            "num_key_value_heads": 1, "head_dim": 2, "vocab_size": 9, "rms_norm_eps": 1e-6, "hidden_act": "silu",
            "rope_scaling": {"mrope_section": [1, 0, 0]}}"#;
        let config: TextConfig = serde_json::from_str(json).unwrap();
        KvCache::empty(&config, 256, DType::F32, &Device::Cpu)
    }

    /// Gives each sequence in `order` so many tokens whose keys and values are the numbers from `first` on.
    fn read(cache: &mut KvCache, new: &[usize], first: f32) {
        let count: usize = new.iter().sum();
        let numbers: Vec<f32> = (0..2 * count).map(|i| first + i as f32).collect();
        let rows = Tensor::from_vec(numbers, (count, 2), &Device::Cpu).unwrap();
        let segments = cache.segments(new).unwrap();
        for layer in 0..2 {
            cache.append(layer, &segments, &rows, &(&rows * 2.0).unwrap()).unwrap();
        }
        cache.advance(new);
    }

    fn values_of(cache: &KvCache, id: SlotId) -> Vec<f32> {
        let slot = cache.slots.iter().find(|slot| slot.id == id).unwrap();
        let values = &cache.layers[1].1;
        let own = values.narrow(0, slot.start, slot.length).unwrap();
        own.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn sequences_come_and_go_and_keep_what_they_read() {
        let mut cache = cache();
        let (a, b) = (cache.add(3).unwrap(), cache.add(2).unwrap());
        read(&mut cache, &[2, 1], 1.0);
        assert_eq!(
            (values_of(&cache, a), values_of(&cache, b)),
            (vec![2.0, 4.0, 6.0, 8.0], vec![10.0, 12.0])
        );
        // Growing changes nothing, and a gap is used by what fits into it.
        let c = cache.add(9).unwrap();
        assert_eq!(values_of(&cache, a), [2.0, 4.0, 6.0, 8.0]);
        cache.remove(a);
        let rows = cache.rows;
        assert_eq!(cache.rows_with([3]), rows);
        let d = cache.add(3).unwrap();
        assert_eq!((cache.order().collect::<Vec<_>>(), cache.rows), (vec![d, b, c], rows));
        read(&mut cache, &[0, 1, 0], 20.0);
        assert_eq!(values_of(&cache, b), [10.0, 12.0, 40.0, 42.0]);
        assert!(cache.segments(&[0, 1, 0]).is_err(), "more tokens than room");
        cache.copy(b, d).unwrap();
        assert_eq!(values_of(&cache, d), values_of(&cache, b));
        read(&mut cache, &[1, 0, 0], 30.0);
        assert_eq!(values_of(&cache, b), [10.0, 12.0, 40.0, 42.0]);
        assert_eq!(values_of(&cache, d), [10.0, 12.0, 40.0, 42.0, 60.0, 62.0]);
        assert!(cache.copy(d, b).is_err() && cache.copy(a, b).is_err());
    }

    #[test]
    fn the_rows_that_are_foretold_are_those_that_are_taken() {
        use rand::Rng as _;
        let mut rng = crate::seed::rng(0, "slots");
        let mut cache = cache();
        let mut live = Vec::new();
        for _ in 0..500 {
            let capacity = rng.random_range(1..20);
            let foretold = cache.rows_with([capacity]);
            let before = cache.rows;
            live.push(cache.add(capacity).unwrap());
            // It may take up to twice as much, so that growing stays rare, as long as that is not more than enough.
            assert!(
                cache.rows == before.max(foretold) || cache.rows == 256.min(2 * before),
                "{}",
                cache.rows
            );
            while live.len() > 8 {
                let at = rng.random_range(0..live.len());
                cache.remove(live.swap_remove(at));
            }
            let mut end = 0;
            for slot in &cache.slots {
                assert!(slot.start >= end);
                end = slot.start + slot.capacity;
            }
            assert!(end <= cache.rows && cache.rows <= 512);
        }
    }
}
