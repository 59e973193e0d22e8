//! Keys and values of what the decoder has read, for generation.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::config::TextConfig;
use crate::error::Result;
use crate::nn::ops::{Mask, Segment};

/// Keys and values of several sequences in every layer. It is passed into the decoder, which adds the
/// rows it is given; no gradient flows through it.
#[derive(Debug)]
pub struct KvCache {
    /// Room for each sequence's tokens.
    capacity: usize,
    /// Tokens of each sequence so far.
    lengths: Vec<usize>,
    /// Keys and values of each layer, (sequences · capacity, G·K).
    layers: Vec<(Tensor, Tensor)>,
}

impl KvCache {
    /// An empty cache with room for `capacity` tokens of each of `sequences` sequences; `dtype` is that of the
    /// states, [`super::Qwen3Vl::state_type`].
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn new(config: &TextConfig, sequences: usize, capacity: usize, dtype: DType, device: &Device) -> Result<Self> {
        let shape = (sequences * capacity, config.num_key_value_heads * config.head_dim());
        let zeros = || Tensor::zeros(shape, dtype, device);
        let layers = (0..config.num_hidden_layers)
            .map(|_| Ok((zeros()?, zeros()?)))
            .collect::<Result<_>>()?;
        Ok(Self {
            capacity,
            lengths: vec![0; sequences],
            layers,
        })
    }

    /// Tokens of each sequence so far.
    #[must_use]
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// The segments of `new` further tokens of each sequence: all of them and all before them are keys.
    pub(super) fn segments(&self, new: &[usize]) -> Result<Arc<[Segment]>> {
        if new.len() != self.lengths.len() {
            let reason = format!("{} sequences for a cache of {}", new.len(), self.lengths.len());
            return Err(candle_core::Error::Msg(reason).into());
        }
        let mut segments = Vec::with_capacity(new.len());
        let mut row = 0;
        for (i, (&new, &old)) in new.iter().zip(&self.lengths).enumerate() {
            if old + new > self.capacity {
                let reason = format!("{} tokens in a cache of {}", old + new, self.capacity);
                return Err(candle_core::Error::Msg(reason).into());
            }
            if new > 0 {
                let start = i * self.capacity;
                segments.push(Segment {
                    queries: row..row + new,
                    keys: start..start + old + new,
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
            return Err(candle_core::Error::Msg(format!("a cache without layer {layer}")).into());
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
        for (length, new) in self.lengths.iter_mut().zip(new) {
            *length += new;
        }
    }
}
