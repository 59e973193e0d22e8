//! The vision tower: patches of any number of images, each attending within its own image.

use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};

use super::config::VisionConfig;
use crate::error::Result;
use crate::example::Grid;
use crate::nn::ops::{Heads, Mask, Segment, gelu, gelu_tanh, rotary, segment_attention};
use crate::nn::{LayerNorm, Projection, checkpointing};

/// Patches to merged tokens. Letters in shapes: N patches of all images, W the tower's width, M merged
/// tokens, D the decoder's width.
#[derive(Debug, Clone)]
pub(super) struct Tower {
    /// Conv3d whose stride is its kernel, as a linear layer over a patch's numbers.
    pub(super) patch_embed: Projection,
    /// (side · side, W)
    pub(super) positions: Tensor,
    pub(super) blocks: Vec<Block>,
    pub(super) merger: Merger,
    pub(super) deepstack: Vec<Merger>,
    pub(super) config: Arc<VisionConfig>,
}

/// Image features for the decoder, in the order of their tokens.
#[derive(Debug, Clone)]
pub struct Features {
    /// (M, D), in place of the placeholders' embeddings.
    pub merged: Tensor,
    /// (M, D) each, added after the first layers, one each.
    pub deepstack: Vec<Tensor>,
}

/// Inputs that all blocks share: the angles of the rotation and the attention mask.
pub(super) struct AttentionContext {
    cos: Tensor, // (N, W / heads / 2)
    sin: Tensor, // (N, W / heads / 2)
    segments: Arc<[Segment]>,
}

#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) norm1: LayerNorm,
    pub(super) qkv: Projection,
    pub(super) proj: Projection,
    pub(super) norm2: LayerNorm,
    pub(super) fc1: Projection,
    pub(super) fc2: Projection,
    pub(super) heads: usize,
}

/// Squares of patches to tokens of the decoder's width.
#[derive(Debug, Clone)]
pub(super) struct Merger {
    pub(super) norm: LayerNorm,
    pub(super) fc1: Projection,
    pub(super) fc2: Projection,
}

impl Features {
    /// The features of several groups of images, one after the other; nothing when there is no group.
    ///
    /// # Errors
    /// When the groups come from different models.
    pub fn cat(groups: &[&Self]) -> Result<Option<Self>> {
        let Some(first) = groups.first() else { return Ok(None) };
        let all = |of: &dyn Fn(&Self) -> Tensor| -> Result<Tensor> {
            Ok(Tensor::cat(
                &groups.iter().map(|group| of(group)).collect::<Vec<_>>(),
                0,
            )?)
        };
        let deepstack = (0..first.deepstack.len()).map(|i| all(&|group| group.deepstack[i].clone()));
        Ok(Some(Self {
            merged: all(&|group| group.merged.clone())?,
            deepstack: deepstack.collect::<Result<_>>()?,
        }))
    }

    /// The features of each image, of these numbers of tokens; [`Features::cat`] the other way.
    ///
    /// # Errors
    /// When there are not so many tokens.
    pub fn split(&self, tokens: &[usize]) -> Result<Vec<Self>> {
        let mut start = 0;
        let mut groups = Vec::with_capacity(tokens.len());
        for &count in tokens {
            // Copied, so that one image's features do not keep those of all in memory.
            let own = |all: &Tensor| all.narrow(0, start, count)?.force_contiguous();
            groups.push(Self {
                merged: own(&self.merged)?,
                deepstack: self.deepstack.iter().map(own).collect::<candle_core::Result<_>>()?,
            });
            start += count;
        }
        Ok(groups)
    }

    /// Merged first, then the deepstack.
    pub(super) fn all(&self) -> impl Iterator<Item = &Tensor> {
        std::iter::once(&self.merged).chain(&self.deepstack)
    }

    /// The same values as variables of their own, in the order of [`Features::all`].
    pub(super) fn cut(&self) -> Result<(Vec<Var>, Self)> {
        let vars = self
            .all()
            .map(Var::from_tensor)
            .collect::<candle_core::Result<Vec<_>>>()?;
        let mut tensors = vars.iter().map(|var| var.as_tensor().clone());
        let merged = tensors.next().unwrap_or_else(|| self.merged.clone());
        let deepstack = tensors.collect();
        Ok((vars, Self { merged, deepstack }))
    }

    /// The same values without the graph that made them.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self {
            merged: self.merged.detach(),
            deepstack: self.deepstack.iter().map(Tensor::detach).collect(),
        }
    }
}

impl Tower {
    /// (N, patch numbers) of images with these grids → features; `visit` is given the states under the names
    /// of the golden files.
    pub(super) fn forward(&self, patches: &Tensor, grids: &[Grid], visit: &mut super::Visit) -> Result<Features> {
        let mut x = self.embed(patches, grids, visit)?;
        let context = self.context(grids)?;
        visit("vision.block_in", 0, &x);
        let mut deepstack = Vec::with_capacity(self.deepstack.len());
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x, &context)?;
            visit("vision.block_out", i, &x);
            if let Some((tap, merger)) = self.tap(i) {
                let merged = merger.forward(&x)?;
                visit("vision.deepstack", tap, &merged);
                deepstack.push(merged);
            }
        }
        let merged = self.merger.forward(&x)?;
        visit("vision.merger_out", 0, &merged);
        Ok(Features { merged, deepstack })
    }

    /// The input of the first block and the output of each, outside any graph.
    pub(super) fn states(&self, patches: &Tensor, grids: &[Grid]) -> Result<Vec<Tensor>> {
        let (x, context) = (self.embed(patches, grids, &mut |_, _, _| {})?, self.context(grids)?);
        checkpointing::states(self.blocks.len(), &x, |i, x| self.blocks[i].forward(x, &context))
    }

    /// The features that belong to these states.
    pub(super) fn features(&self, states: &[Tensor]) -> Result<Features> {
        let taps = states.iter().skip(1).enumerate();
        let taps = taps.filter_map(|(i, x)| Some(self.tap(i)?.1.forward(x)));
        let Some(last) = states.last() else {
            return Err(candle_core::Error::Msg("a tower without states".into()).into());
        };
        Ok(Features {
            deepstack: taps.collect::<Result<_>>()?,
            merged: self.merger.forward(last)?,
        })
    }

    /// The gradients of `vars` in tower and mergers, given those of the features, in the order of [`Features::all`].
    pub(super) fn backward(
        &self,
        states: Vec<Tensor>,
        grids: &[Grid],
        upstream: &[Option<Tensor>],
        vars: &[Var],
    ) -> Result<GradStore> {
        let context = self.context(grids)?;
        let part = |merger: &Merger, x: &Tensor, place: usize| -> Result<Tensor> {
            let merged = merger.forward(x)?;
            // A feature that reaches no loss has a gradient of zero.
            let weighted = match upstream.get(place) {
                Some(Some(upstream)) => (merged * upstream)?,
                _ => (merged * 0.0)?,
            };
            Ok(weighted.sum_all()?)
        };
        let side = |i: usize, x: &Tensor| {
            let Some((_, merger)) = self.tap(i) else {
                return Ok(None);
            };
            let before = (0..i).filter(|&i| self.tap(i).is_some()).count();
            part(merger, x, 1 + before).map(Some)
        };
        let layer = |i: usize, x: &Tensor| self.blocks[i].forward(x, &context);
        let loss = |x: &Tensor| part(&self.merger, x, 0);
        Ok(checkpointing::backward_over(states, false, layer, side, loss, vars)?.gradients)
    }

    /// The merger of the deepstack that is fed by block `i`, with its number.
    fn tap(&self, i: usize) -> Option<(usize, &Merger)> {
        let taps = &self.config.deepstack_visual_indexes;
        let tap = taps.iter().position(|&index| index == i)?;
        Some((tap, self.deepstack.get(tap)?))
    }

    /// Patches with their positions: (N, W).
    fn embed(&self, patches: &Tensor, grids: &[Grid], visit: &mut super::Visit) -> Result<Tensor> {
        let embedded = self.patch_embed.forward(patches)?;
        visit("vision.patch_embed", 0, &embedded);
        let positions = self.position_embeddings(grids)?.to_dtype(embedded.dtype())?;
        Ok((embedded + positions)?)
    }

    /// The table resampled to each grid, bilinear with aligned corners: (N, W), f32.
    fn position_embeddings(&self, grids: &[Grid]) -> Result<Tensor> {
        let side = self.config.side();
        let mut taps: [(Vec<u32>, Vec<f32>); 4] = Default::default();
        for grid in grids {
            for (row, column) in grid.block_order(self.config.spatial_merge_size) {
                let (rows, columns) = (neighbours(row, grid.rows, side), neighbours(column, grid.columns, side));
                for (i, (indices, weights)) in taps.iter_mut().enumerate() {
                    let ((row, row_weight), (column, column_weight)) = (rows[i / 2], columns[i % 2]);
                    indices.push((row * side + column) as u32);
                    weights.push(row_weight * column_weight);
                }
            }
        }
        let device = self.device();
        let mut sum: Option<Tensor> = None;
        for (indices, weights) in taps {
            let count = indices.len();
            let indices = Tensor::from_vec(indices, count, device)?;
            let weights = Tensor::from_vec(weights, (count, 1), device)?;
            let taken = self.positions.index_select(&indices, 0)?.to_dtype(DType::F32)?;
            let part = taken.broadcast_mul(&weights)?;
            sum = Some(match sum {
                None => part,
                Some(sum) => (sum + part)?,
            });
        }
        sum.ok_or_else(|| candle_core::Error::Msg("no taps".into()).into())
    }

    fn context(&self, grids: &[Grid]) -> Result<AttentionContext> {
        let quarter = self.config.head_dim() / 4;
        let theta = self.config.rope_theta();
        let frequencies: Vec<f32> = (0..quarter)
            .map(|i| (1.0 / theta.powf(i as f64 / quarter as f64)) as f32)
            .collect();
        let (mut cos, mut sin, mut segments) = (Vec::new(), Vec::new(), Vec::new());
        let mut start = 0;
        for grid in grids {
            for (row, column) in grid.block_order(self.config.spatial_merge_size) {
                for place in [row, column] {
                    for frequency in &frequencies {
                        let angle = place as f32 * frequency;
                        cos.push(angle.cos());
                        sin.push(angle.sin());
                    }
                }
            }
            let rows = start..start + grid.patches();
            start = rows.end;
            segments.push(Segment {
                queries: rows.clone(),
                keys: rows,
                mask: Mask::Full,
            });
        }
        let angles = |values| Tensor::from_vec(values, (start, 2 * quarter), self.device());
        Ok(AttentionContext {
            cos: angles(cos)?,
            sin: angles(sin)?,
            segments: segments.into(),
        })
    }

    fn device(&self) -> &Device {
        self.positions.device()
    }

    pub(super) fn layers_mut(&mut self) -> Vec<(String, &mut Projection)> {
        let mut all = Vec::new();
        for (i, block) in self.blocks.iter_mut().enumerate() {
            let name = |end: &str| format!("blocks.{i}.{end}");
            all.extend([
                (name("attn.qkv"), &mut block.qkv),
                (name("attn.proj"), &mut block.proj),
                (name("mlp.linear_fc1"), &mut block.fc1),
                (name("mlp.linear_fc2"), &mut block.fc2),
            ]);
        }
        all.extend([
            ("merger.linear_fc1".to_owned(), &mut self.merger.fc1),
            ("merger.linear_fc2".to_owned(), &mut self.merger.fc2),
        ]);
        for (i, merger) in self.deepstack.iter_mut().enumerate() {
            let name = |end: &str| format!("deepstack_merger_list.{i}.{end}");
            all.extend([
                (name("linear_fc1"), &mut merger.fc1),
                (name("linear_fc2"), &mut merger.fc2),
            ]);
        }
        all
    }
}

/// The two rows of a table of `side` between which position `index` of `size` falls, with their weights.
fn neighbours(index: usize, size: usize, side: usize) -> [(usize, f32); 2] {
    let place = index as f32 * (side - 1) as f32 / (size.max(2) - 1) as f32;
    let (first, fraction) = (place.floor() as usize, place - place.floor());
    [
        (first.min(side - 1), 1.0 - fraction),
        ((first + 1).min(side - 1), fraction),
    ]
}

impl Block {
    /// (N, W) → (N, W).
    fn forward(&self, x: &Tensor, context: &AttentionContext) -> Result<Tensor> {
        let (_, width) = x.dims2()?;
        let qkv = self.qkv.forward(&self.norm1.forward(x)?)?;
        let part = |i: usize| qkv.narrow(1, i * width, width);
        let (cos, sin) = (&context.cos, &context.sin);
        let (q, k) = (rotary(&part(0)?, cos, sin)?, rotary(&part(1)?, cos, sin)?);
        let heads = Heads {
            query: self.heads,
            key: self.heads,
        };
        let attended = segment_attention(&q, &k, &part(2)?, heads, &context.segments)?;
        let x = (x + self.proj.forward(&attended)?)?;
        let wide = gelu_tanh(&self.fc1.forward(&self.norm2.forward(&x)?)?)?;
        Ok((&x + self.fc2.forward(&wide)?)?)
    }
}

impl Merger {
    /// (N, W) → (M, D). The norm is over a patch, or over a whole square where it is as wide as one.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let square = self.fc1.inputs();
        let squares = x.elem_count() / square;
        let normed = if self.norm.weight.elem_count() == square {
            self.norm.forward(&x.reshape((squares, square))?)?
        } else {
            self.norm.forward(x)?.reshape((squares, square))?
        };
        self.fc2.forward(&gelu(&self.fc1.forward(&normed)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::neighbours;

    #[test]
    fn corners_are_aligned() {
        assert_eq!(neighbours(0, 5, 12), [(0, 1.0), (1, 0.0)]);
        assert_eq!(neighbours(4, 5, 12), [(11, 1.0), (11, 0.0)]);
        assert_eq!(neighbours(0, 1, 12), [(0, 1.0), (1, 0.0)]);
        assert_eq!(neighbours(1, 3, 4), [(1, 0.5), (2, 0.5)]);
    }
}
