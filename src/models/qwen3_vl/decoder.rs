//! The language model.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::batch::Batch;
use super::cache::KvCache;
use super::config::{ExpertConfig, TextConfig};
use super::vision::{Features, frequencies, rotation};
use crate::checkpoint::weights::{Take, linear};
use crate::error::{Error, Result};
use crate::nn::ops::{Heads, Segment, compute_type, gated_silu, rotary, segment_attention};
use crate::nn::{Experts, Moe, Projection, RmsNorm};

/// Tokens to states. Letters in shapes: R rows (tokens of all sequences), D width, H and G heads of
/// queries and of keys, K head width, M image tokens.
#[derive(Debug, Clone)]
pub(super) struct Decoder {
    /// (V, D)
    pub embedding: Tensor,
    pub layers: Vec<Layer>,
    pub norm: RmsNorm,
    config: Arc<TextConfig>,
}

#[derive(Debug, Clone)]
pub(super) struct Layer {
    input_norm: RmsNorm,
    q: Projection,
    k: Projection,
    v: Projection,
    o: Projection,
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    heads: Heads,
    post_norm: RmsNorm,
    mlp: Mlp,
}

/// The feed-forward part of a layer.
#[derive(Debug, Clone)]
enum Mlp {
    Dense {
        gate: Projection,
        up: Projection,
        down: Projection,
    },
    Experts(Moe),
}

/// Inputs that all layers share: the angles of the rotation, the attention mask, and the rows of image tokens.
pub(super) struct AttentionContext {
    cos: Tensor, // (R, K/2)
    sin: Tensor, // (R, K/2)
    segments: Arc<[Segment]>,
    visual: Option<Tensor>, // (M), where there are any
}

/// The names and shapes, E, in and out, of the stacks of experts in a layer.
pub(super) fn stack_shapes(i: usize, hidden: usize, experts: ExpertConfig) -> [(String, [usize; 3]); 2] {
    let name = |end: &str| format!("model.language_model.layers.{i}.mlp.experts.{end}");
    let ExpertConfig { count, middle, .. } = experts;
    [
        (name("gate_up_proj"), [count, hidden, 2 * middle]),
        (name("down_proj"), [count, middle, hidden]),
    ]
}

impl Decoder {
    pub(super) fn load(text: &TextConfig, take: &mut Take) -> Result<Self> {
        let (d, k, middle) = (text.hidden_size, text.head_dim(), text.intermediate_size);
        let heads = Heads {
            query: text.num_attention_heads,
            key: text.num_key_value_heads,
        };
        let at = |end: &str| format!("model.language_model.{end}");
        let norm = |take: &mut Take, name: &str, width: usize| -> Result<RmsNorm> {
            Ok(RmsNorm {
                weight: take(&format!("{name}.weight"), &[width])?,
                eps: text.rms_norm_eps,
            })
        };
        let embedding = take(&at("embed_tokens.weight"), &[text.vocab_size, d])?;
        let mut layers = Vec::with_capacity(text.num_hidden_layers);
        for i in 0..text.num_hidden_layers {
            let name = |end: &str| at(&format!("layers.{i}.{end}"));
            let bias = text.attention_bias;
            layers.push(Layer {
                input_norm: norm(take, &name("input_layernorm"), d)?,
                q: linear(take, &name("self_attn.q_proj"), d, heads.query * k, bias)?,
                k: linear(take, &name("self_attn.k_proj"), d, heads.key * k, bias)?,
                v: linear(take, &name("self_attn.v_proj"), d, heads.key * k, bias)?,
                o: linear(take, &name("self_attn.o_proj"), heads.query * k, d, bias)?,
                q_norm: norm(take, &name("self_attn.q_norm"), k)?,
                k_norm: norm(take, &name("self_attn.k_norm"), k)?,
                heads,
                post_norm: norm(take, &name("post_attention_layernorm"), d)?,
                mlp: match text.experts(i) {
                    None => Mlp::Dense {
                        gate: linear(take, &name("mlp.gate_proj"), d, middle, false)?,
                        up: linear(take, &name("mlp.up_proj"), d, middle, false)?,
                        down: linear(take, &name("mlp.down_proj"), middle, d, false)?,
                    },
                    Some(experts) => {
                        let stacks = stack_shapes(i, d, experts);
                        let [gate_up, down] = stacks.map(|(name, shape)| Experts::new(take(&name, &shape)?));
                        Mlp::Experts(Moe {
                            gate_up: gate_up?,
                            down: down?,
                            router: linear(take, &name("mlp.gate"), d, experts.count, false)?,
                            chosen: experts.chosen,
                        })
                    }
                },
            });
        }
        Ok(Self {
            embedding,
            layers,
            norm: norm(take, &at("norm"), d)?,
            config: Arc::new(text.clone()),
        })
    }

    /// Embeddings of the tokens, images in place of their placeholders: (R, D).
    pub(super) fn embed(&self, batch: &Batch, features: Option<&Features>) -> Result<Tensor> {
        let rows = batch.ids.len();
        let ids = Tensor::from_slice(&batch.ids, rows, self.device())?;
        let embedded = self.embedding.index_select(&ids, 0)?.to_dtype(self.dtype())?;
        let expected = batch.visual.len();
        let found = features.map_or(0, |features| features.merged.dims().first().copied().unwrap_or(0));
        if found != expected {
            return Err(Error::tensor(format!(
                "{found} image features for {expected} image tokens"
            )));
        }
        let (Some(features), Some(visual)) = (features, self.visual_rows(batch)?) else {
            return Ok(embedded);
        };
        let mut text = vec![1f32; rows];
        for &row in &batch.visual {
            text[row as usize] = 0.0;
        }
        let text = Tensor::from_vec(text, (rows, 1), self.device())?.to_dtype(embedded.dtype())?;
        Ok(embedded.broadcast_mul(&text)?.index_add(&visual, &features.merged, 0)?)
    }

    /// The context of a batch, after the tokens that `cache` holds.
    pub(super) fn context(&self, batch: &Batch, cache: Option<&KvCache>) -> Result<AttentionContext> {
        let segments = match cache {
            Some(cache) => cache.segments(&batch.lengths)?,
            None => batch.segments(),
        };
        let half = self.config.head_dim() / 2;
        let frequencies = frequencies(self.config.rope_theta(), half);
        let axes = axes(self.config.mrope_section(), half);
        let mut angles = Vec::with_capacity(batch.ids.len() * half);
        for row in 0..batch.ids.len() {
            let turned = axes.iter().zip(&frequencies);
            angles.extend(turned.map(|(axis, frequency)| batch.axes[*axis][row] as f32 * frequency));
        }
        let (cos, sin) = rotation(&angles, half, self.device())?;
        Ok(AttentionContext {
            cos,
            sin,
            segments,
            visual: self.visual_rows(batch)?,
        })
    }

    /// One layer with what is added after it: (R, D) → (R, D).
    pub(super) fn layer(
        &self,
        i: usize,
        x: &Tensor,
        context: &AttentionContext,
        features: Option<&Features>,
        cache: Option<&mut KvCache>,
        visit: &mut super::Visit,
    ) -> Result<Tensor> {
        visit("text.layer_in", i, x);
        let x = self.layers[i].forward(i, x, context, cache, visit)?;
        visit("text.layer_out", i, &x);
        match (features.and_then(|features| features.deepstack.get(i)), &context.visual) {
            (Some(deep), Some(visual)) => Ok(x.index_add(visual, deep, 0)?),
            _ => Ok(x),
        }
    }

    /// Nothing where there are none: a GPU has no empty tensors.
    fn visual_rows(&self, batch: &Batch) -> Result<Option<Tensor>> {
        let count = batch.visual.len();
        let rows = (count > 0).then(|| Tensor::from_slice(&batch.visual, count, self.device()));
        Ok(rows.transpose()?)
    }

    /// Type of the states.
    pub(super) fn dtype(&self) -> DType {
        compute_type(&self.embedding)
    }

    pub(super) fn device(&self) -> &Device {
        self.embedding.device()
    }

    pub(super) fn layers_mut(&mut self) -> Vec<(String, &mut Projection)> {
        let mut all = Vec::new();
        for (i, layer) in self.layers.iter_mut().enumerate() {
            let name = |end: &str| format!("model.language_model.layers.{i}.{end}");
            all.extend([
                (name("self_attn.q_proj"), &mut layer.q),
                (name("self_attn.k_proj"), &mut layer.k),
                (name("self_attn.v_proj"), &mut layer.v),
                (name("self_attn.o_proj"), &mut layer.o),
            ]);
            if let Mlp::Dense { gate, up, down } = &mut layer.mlp {
                all.extend([
                    (name("mlp.gate_proj"), gate),
                    (name("mlp.up_proj"), up),
                    (name("mlp.down_proj"), down),
                ]);
            }
        }
        all
    }

    pub(super) fn experts_mut(&mut self) -> Vec<(String, &mut Experts)> {
        let mut all = Vec::new();
        for (i, layer) in self.layers.iter_mut().enumerate() {
            if let Mlp::Experts(moe) = &mut layer.mlp {
                let name = |end: &str| format!("model.language_model.layers.{i}.mlp.experts.{end}");
                all.extend([
                    (name("gate_up_proj"), &mut moe.gate_up),
                    (name("down_proj"), &mut moe.down),
                ]);
            }
        }
        all
    }
}

/// The axis (0 time, 1 height, 2 width) whose position turns each frequency: interleaved as far as the
/// sections of height and width reach, time beyond.
fn axes(section: [usize; 3], half: usize) -> Vec<usize> {
    let mut axes = vec![0; half];
    for axis in [1, 2] {
        for i in (axis..(3 * section[axis]).min(half)).step_by(3) {
            axes[i] = axis;
        }
    }
    axes
}

impl Layer {
    fn forward(
        &self,
        i: usize,
        x: &Tensor,
        context: &AttentionContext,
        cache: Option<&mut KvCache>,
        visit: &mut super::Visit,
    ) -> Result<Tensor> {
        let attended = self.attention(i, &self.input_norm.forward(x)?, context, cache)?;
        visit("text.attn_out", i, &attended);
        let x = (x + attended)?;
        let normed = self.post_norm.forward(&x)?;
        let out = match &self.mlp {
            Mlp::Dense { gate, up, down } => {
                let wide = gated_silu(&gate.forward(&normed)?, &up.forward(&normed)?)?;
                down.forward(&wide)?
            }
            Mlp::Experts(moe) => {
                let (out, routing) = moe.forward(&normed)?;
                visit("text.router_logits", i, &routing.logits);
                visit("text.router_weights", i, &routing.weights);
                visit("text.router_experts", i, &routing.experts);
                out
            }
        };
        visit("text.mlp_out", i, &out);
        Ok((x + out)?)
    }

    fn attention(
        &self,
        i: usize,
        x: &Tensor,
        context: &AttentionContext,
        cache: Option<&mut KvCache>,
    ) -> Result<Tensor> {
        let AttentionContext { cos, sin, segments, .. } = context;
        let (rows, _) = x.dims2()?;
        let turned = |layer: &Projection, norm: &RmsNorm, heads: usize| -> Result<Tensor> {
            let head_dim = norm.weight.elem_count();
            let normed = norm.forward(&layer.forward(x)?.reshape((rows * heads, head_dim))?)?;
            Ok(rotary(&normed.reshape((rows, heads * head_dim))?, cos, sin)?)
        };
        let q = turned(&self.q, &self.q_norm, self.heads.query)?;
        let k = turned(&self.k, &self.k_norm, self.heads.key)?;
        let v = self.v.forward(x)?;
        let (k, v) = match cache {
            Some(cache) => cache.append(i, segments, &k, &v)?,
            None => (k, v),
        };
        self.o.forward(&segment_attention(&q, &k, &v, self.heads, segments)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_interleaved() {
        assert_eq!(axes([4, 2, 2], 8), [0, 1, 2, 0, 1, 2, 0, 0]);
        assert_eq!(axes([24, 20, 20], 64).iter().filter(|&&axis| axis == 2).count(), 20);
        assert_eq!(axes([2, 3, 3], 8), [0, 1, 2, 0, 1, 2, 0, 1]);
    }
}
