//! The vision tower: patches of any number of images, each attending within its own image.

use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};

use super::config::VisionConfig;
use crate::checkpoint::weights::{Take, layer_norm, linear};
use crate::error::{Error, Result};
use crate::example::Grid;
use crate::nn::ops::{Heads, Mask, Segment, gelu, gelu_tanh, rotary, segment_attention};
use crate::nn::{LayerNorm, Projection, checkpointing};

/// Epsilon of the layer norms, fixed in the reference.
const EPS: f64 = 1e-6;

/// Patches to merged tokens. Letters in shapes: N patches of all images, W the tower's width, M merged
/// tokens, D the decoder's width.
#[derive(Debug, Clone)]
pub(super) struct Tower {
    /// Conv3d whose stride is its kernel, as a linear layer over a patch's numbers.
    patch_embed: Projection,
    /// (side · side, W)
    positions: Tensor,
    blocks: Vec<Block>,
    merger: Merger,
    deepstack: Vec<Merger>,
    config: Arc<VisionConfig>,
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
struct AttentionContext {
    cos: Tensor, // (N, W / heads / 2)
    sin: Tensor, // (N, W / heads / 2)
    segments: Arc<[Segment]>,
}

#[derive(Debug, Clone)]
struct Block {
    norm1: LayerNorm,
    qkv: Projection,
    proj: Projection,
    norm2: LayerNorm,
    fc1: Projection,
    fc2: Projection,
    heads: usize,
}

/// Squares of patches to tokens of the decoder's width.
#[derive(Debug, Clone)]
struct Merger {
    norm: LayerNorm,
    fc1: Projection,
    fc2: Projection,
}

/// Frequencies of a rotary embedding: `count` of them, from 1 down to 1/theta.
pub(super) fn frequencies(theta: f64, count: usize) -> Vec<f32> {
    (0..count)
        .map(|i| (1.0 / theta.powf(i as f64 / count as f64)) as f32)
        .collect()
}

/// Cosines and sines of angles, `width` a row.
pub(super) fn rotation(angles: &[f32], width: usize, device: &Device) -> Result<(Tensor, Tensor)> {
    let table = |of: fn(f32) -> f32| {
        let values = angles.iter().map(|&angle| of(angle)).collect::<Vec<f32>>();
        Tensor::from_vec(values, (angles.len() / width, width), device)
    };
    Ok((table(f32::cos)?, table(f32::sin)?))
}

impl Features {
    /// The features of several groups of images, one after the other; nothing when there is no group.
    ///
    /// # Errors
    /// When the groups come from different models.
    pub fn cat(groups: &[&Self]) -> Result<Option<Self>> {
        let Some(first) = groups.first() else { return Ok(None) };
        let all = |of: &dyn Fn(&Self) -> Tensor| {
            let parts: Vec<Tensor> = groups.iter().map(|group| of(group)).collect();
            Tensor::cat(&parts, 0)
        };
        let deepstack = (0..first.deepstack.len()).map(|i| all(&|group| group.deepstack[i].clone()));
        Ok(Some(Self {
            merged: all(&|group| group.merged.clone())?,
            deepstack: deepstack.collect::<candle_core::Result<_>>()?,
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
        let vars = self.all().map(Var::from_tensor).collect::<Result<Vec<_>, _>>()?;
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
    pub(super) fn load(vision: &VisionConfig, take: &mut Take) -> Result<Self> {
        let (w, patch, frames) = (vision.hidden_size, vision.patch_size, vision.temporal_patch_size);
        let (middle, out) = (vision.intermediate_size, vision.out_hidden_size);
        let at = |end: &str| format!("model.visual.{end}");
        let kernel = [w, vision.in_channels, frames, patch, patch];
        let kernel = take(&at("patch_embed.proj.weight"), &kernel)?.reshape((w, vision.patch_width()))?;
        let patch_embed = Projection::new(kernel, Some(take(&at("patch_embed.proj.bias"), &[w])?))?;
        let positions = take(&at("pos_embed.weight"), &[vision.num_position_embeddings, w])?;
        let mut blocks = Vec::with_capacity(vision.depth);
        for i in 0..vision.depth {
            let name = |end: &str| at(&format!("blocks.{i}.{end}"));
            blocks.push(Block {
                norm1: layer_norm(take, &name("norm1"), w, EPS)?,
                qkv: linear(take, &name("attn.qkv"), w, 3 * w, true)?,
                proj: linear(take, &name("attn.proj"), w, w, true)?,
                norm2: layer_norm(take, &name("norm2"), w, EPS)?,
                fc1: linear(take, &name("mlp.linear_fc1"), w, middle, true)?,
                fc2: linear(take, &name("mlp.linear_fc2"), middle, w, true)?,
                heads: vision.num_heads,
            });
        }
        let square = w * vision.spatial_merge_size.pow(2);
        let mut merger = |name: &str, norm: usize| -> Result<Merger> {
            Ok(Merger {
                norm: layer_norm(take, &at(&format!("{name}.norm")), norm, EPS)?,
                fc1: linear(take, &at(&format!("{name}.linear_fc1")), square, square, true)?,
                fc2: linear(take, &at(&format!("{name}.linear_fc2")), square, out, true)?,
            })
        };
        Ok(Self {
            patch_embed,
            positions,
            blocks,
            merger: merger("merger", w)?,
            deepstack: (0..vision.deepstack_visual_indexes.len())
                .map(|i| merger(&format!("deepstack_merger_list.{i}"), square))
                .collect::<Result<_>>()?,
            config: Arc::new(vision.clone()),
        })
    }

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
            return Err(Error::tensor("a tower without states"));
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
        let device = self.positions.device();
        let part = |(indices, weights): (Vec<u32>, Vec<f32>)| -> Result<Tensor> {
            let count = indices.len();
            let indices = Tensor::from_vec(indices, count, device)?;
            let weights = Tensor::from_vec(weights, (count, 1), device)?;
            let taken = self.positions.index_select(&indices, 0)?.to_dtype(DType::F32)?;
            Ok(taken.broadcast_mul(&weights)?)
        };
        let [first, others @ ..] = taps;
        others
            .into_iter()
            .try_fold(part(first)?, |sum, tap| Ok((sum + part(tap)?)?))
    }

    fn context(&self, grids: &[Grid]) -> Result<AttentionContext> {
        let quarter = self.config.head_dim() / 4;
        let frequencies = frequencies(self.config.rope_theta(), quarter);
        let (mut angles, mut segments) = (Vec::new(), Vec::new());
        let mut start = 0;
        for grid in grids {
            for (row, column) in grid.block_order(self.config.spatial_merge_size) {
                for place in [row, column] {
                    angles.extend(frequencies.iter().map(|frequency| place as f32 * frequency));
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
        let (cos, sin) = rotation(&angles, 2 * quarter, self.positions.device())?;
        Ok(AttentionContext {
            cos,
            sin,
            segments: segments.into(),
        })
    }

    pub(super) fn layers_mut(&mut self) -> Vec<(String, &mut Projection)> {
        let mut all = Vec::new();
        for (i, block) in self.blocks.iter_mut().enumerate() {
            let name = |end: &str| format!("model.visual.blocks.{i}.{end}");
            all.extend([
                (name("attn.qkv"), &mut block.qkv),
                (name("attn.proj"), &mut block.proj),
                (name("mlp.linear_fc1"), &mut block.fc1),
                (name("mlp.linear_fc2"), &mut block.fc2),
            ]);
        }
        let deepstack = self.deepstack.iter_mut().enumerate();
        let deepstack = deepstack.map(|(i, merger)| (format!("deepstack_merger_list.{i}"), merger));
        for (name, merger) in std::iter::once(("merger".to_owned(), &mut self.merger)).chain(deepstack) {
            all.extend([
                (format!("model.visual.{name}.linear_fc1"), &mut merger.fc1),
                (format!("model.visual.{name}.linear_fc2"), &mut merger.fc2),
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
