//! A model from a hub-layout folder, or with random weights; its weights by hub name.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::decoder::{Decoder, Layer, Mlp};
use super::vision::{Block, Merger, Tower};
use super::{Config, ExpertConfig, Qwen3Vl};
use crate::checkpoint::weights::Weights;
use crate::error::Result;
use crate::models::lora::Adaptable as _;
use crate::nn::ops::Heads;
use crate::nn::{DeviceSpec, Experts, LayerNorm, Moe, Projection, RmsNorm};

/// Epsilon of the vision tower's layer norms, fixed in the reference.
const VISION_EPS: f64 = 1e-6;

/// Gives a tensor by its hub name and shape.
type Take<'a> = dyn FnMut(&str, &[usize]) -> Result<Tensor> + 'a;

impl Qwen3Vl {
    /// Loads a hub-layout folder: `config.json` and `model.safetensors` (or its shards).
    ///
    /// # Errors
    /// [`crate::error::Error::Checkpoint`] that lists what is missing, mis-shaped, unexpected or not finite.
    pub fn load(dir: &Path, spec: &DeviceSpec) -> Result<Self> {
        let (config, bytes) = Config::load(dir)?;
        let mut weights = Weights::open(dir)?;
        if config.tied() {
            // Some writers store the tied head too.
            weights.ignore(|name| name == "lm_head.weight");
        }
        let fingerprint = weights.fingerprint(&bytes)?;
        let transposed = transposed(&config, &weights);
        let model = Self::build(
            config,
            &fingerprint,
            &dir.to_string_lossy(),
            &mut |name, shape| match *shape {
                [experts, from, to] if transposed.contains(name) => {
                    let stored = weights.take(name, &[experts, to, from], spec)?;
                    Ok(stored.transpose(1, 2)?.contiguous()?)
                }
                _ => weights.take(name, shape, spec),
            },
        )?;
        weights.finish()?;
        Ok(model)
    }

    /// A model of this shape with random weights, for benchmarks and tests.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn random(config: &Config, rng: &mut ChaCha8Rng, device: &Device) -> Result<Self> {
        Self::build(config.clone(), "random", "random weights", &mut |name, shape| {
            let fan_in: usize = match *shape {
                [_, inputs, _] => inputs, // experts
                _ => shape[1..].iter().product(),
            };
            let norm =
                name.ends_with("norm.weight") || name.ends_with("norm1.weight") || name.ends_with("norm2.weight");
            let (centre, width) = match shape.len() {
                1 if norm || name.ends_with("layernorm.weight") => (1.0, 0.1),
                1 => (0.0, 0.1),
                _ => (0.0, (3.0 / fan_in as f32).sqrt()),
            };
            let values = uniform(shape.iter().product(), centre, width, rng.random());
            Ok(Tensor::from_vec(values, shape, device)?)
        })
    }

    fn build(config: Config, fingerprint: &str, origin: &str, take: &mut Take) -> Result<Self> {
        let tower = tower(&config, take)?;
        let decoder = decoder(&config, take)?;
        let text = &config.text_config;
        let head = if config.tied() {
            decoder.embedding.clone()
        } else {
            take("lm_head.weight", &[text.vocab_size, text.hidden_size])?
        };
        Ok(Self {
            tower,
            decoder,
            head: Projection::new(head, None)?,
            config: Arc::new(config),
            fingerprint: fingerprint.into(),
            origin: origin.into(),
        })
    }

    /// The weights of all linear layers that can carry an adapter, by hub name: (out, in). Adapters are not
    /// added in; see [`Qwen3Vl::merged`].
    #[must_use]
    pub fn linear_weights(&self) -> Vec<(String, Tensor)> {
        self.layers()
            .into_iter()
            .map(|(name, layer)| (format!("{name}.weight"), layer.weight().clone()))
            .collect()
    }

    /// The weights of all stacks of experts by hub name, (E, in, out), with their adapters added in.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn updated_experts(&self) -> Result<Vec<(String, Tensor)>> {
        let all = self.stacks().into_iter();
        all.map(|(name, stack)| Ok((name, stack.updated_weight()?))).collect()
    }
}

/// The names and shapes, E, in and out, of the stacks of experts in a layer.
fn stack_shapes(i: usize, hidden: usize, experts: ExpertConfig) -> [(String, [usize; 3]); 2] {
    let name = |end: &str| format!("model.language_model.layers.{i}.mlp.experts.{end}");
    let ExpertConfig { count, middle, .. } = experts;
    [
        (name("gate_up_proj"), [count, hidden, 2 * middle]),
        (name("down_proj"), [count, middle, hidden]),
    ]
}

/// The stacks of experts that stand in the files as (E, out, in), the layout of transformers 5 in memory. The hub has
/// (E, in, out), which is also what a stack is taken for whose shape could be either.
fn transposed(config: &Config, weights: &Weights) -> HashSet<String> {
    let text = &config.text_config;
    let layers = (0..text.num_hidden_layers).filter_map(|i| Some((i, text.experts(i)?)));
    let mut other: HashSet<(String, Vec<usize>)> = HashSet::new();
    for (i, experts) in layers {
        for (name, [count, from, to]) in stack_shapes(i, text.hidden_size, experts) {
            if from != to {
                other.insert((name, vec![count, to, from]));
            }
        }
    }
    let stored = weights.shapes().map(|(name, shape)| (name.to_owned(), shape.to_vec()));
    stored
        .filter(|found| other.contains(found))
        .map(|(name, _)| name)
        .collect()
}

/// Values in `centre` ± `width` from a counter and a mixing function (SplitMix64's): the layers of large models have
/// billions, and each piece can be filled by its own thread.
fn uniform(count: usize, centre: f32, width: f32, seed: u64) -> Vec<f32> {
    let at = |i: usize| {
        let mut z = seed.wrapping_add((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // 24 bits: what an f32 between 0 and 1 holds.
        let share = (z >> 40) as f32 / (1u32 << 24) as f32;
        centre + width * (2.0 * share - 1.0)
    };
    (0..count).into_par_iter().map(at).collect()
}

fn linear(take: &mut Take, name: &str, from: usize, to: usize, bias: bool) -> Result<Projection> {
    let weight = take(&format!("{name}.weight"), &[to, from])?;
    let bias = if bias {
        Some(take(&format!("{name}.bias"), &[to])?)
    } else {
        None
    };
    Projection::new(weight, bias)
}

fn layer_norm(take: &mut Take, name: &str, width: usize) -> Result<LayerNorm> {
    let weight = take(&format!("{name}.weight"), &[width])?;
    Ok(LayerNorm {
        weight,
        bias: take(&format!("{name}.bias"), &[width])?,
        eps: VISION_EPS,
    })
}

fn tower(config: &Config, take: &mut Take) -> Result<Tower> {
    let vision = &config.vision_config;
    let (w, patch, frames) = (vision.hidden_size, vision.patch_size, vision.temporal_patch_size);
    let at = |end: &str| format!("model.visual.{end}");
    let kernel = take(
        &at("patch_embed.proj.weight"),
        &[w, vision.in_channels, frames, patch, patch],
    )?;
    let bias = take(&at("patch_embed.proj.bias"), &[w])?;
    let patch_embed = Projection::new(kernel.reshape((w, vision.patch_width()))?, Some(bias))?;
    let positions = take(&at("pos_embed.weight"), &[vision.num_position_embeddings, w])?;
    let mut blocks = Vec::with_capacity(vision.depth);
    for i in 0..vision.depth {
        let name = |end: &str| at(&format!("blocks.{i}.{end}"));
        blocks.push(Block {
            norm1: layer_norm(take, &name("norm1"), w)?,
            qkv: linear(take, &name("attn.qkv"), w, 3 * w, true)?,
            proj: linear(take, &name("attn.proj"), w, w, true)?,
            norm2: layer_norm(take, &name("norm2"), w)?,
            fc1: linear(take, &name("mlp.linear_fc1"), w, vision.intermediate_size, true)?,
            fc2: linear(take, &name("mlp.linear_fc2"), vision.intermediate_size, w, true)?,
            heads: vision.num_heads,
        });
    }
    let square = w * vision.spatial_merge_size.pow(2);
    let mut merger = |name: &str, norm: usize| -> Result<Merger> {
        Ok(Merger {
            norm: layer_norm(take, &format!("{name}.norm"), norm)?,
            fc1: linear(take, &format!("{name}.linear_fc1"), square, square, true)?,
            fc2: linear(
                take,
                &format!("{name}.linear_fc2"),
                square,
                vision.out_hidden_size,
                true,
            )?,
        })
    };
    let last = merger(&at("merger"), w)?;
    let deepstack = (0..vision.deepstack_visual_indexes.len())
        .map(|i| merger(&at(&format!("deepstack_merger_list.{i}")), square))
        .collect::<Result<_>>()?;
    Ok(Tower {
        patch_embed,
        positions,
        blocks,
        merger: last,
        deepstack,
        config: Arc::new(vision.clone()),
    })
}

fn decoder(config: &Config, take: &mut Take) -> Result<Decoder> {
    let text = &config.text_config;
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
                    let [gate_up, down] = stack_shapes(i, d, experts);
                    let mut stack = |(name, shape): (String, [usize; 3])| Experts::new(take(&name, &shape)?);
                    Mlp::Experts(Moe {
                        gate_up: stack(gate_up)?,
                        down: stack(down)?,
                        router: linear(take, &name("mlp.gate"), d, experts.count, false)?,
                        chosen: experts.chosen,
                    })
                }
            },
        });
    }
    let last = norm(take, &at("norm"), d)?;
    Ok(Decoder {
        embedding,
        layers,
        norm: last,
        config: Arc::new(text.clone()),
    })
}
