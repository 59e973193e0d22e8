//! Qwen3-VL (<https://arxiv.org/abs/2511.21631>), dense and with a mixture of experts, trainable by LoRA.
//!
//! Reference: transformers' `modeling_qwen3_vl.py` and `modeling_qwen3_vl_moe.py`. A vision tower turns patches into tokens of the
//! decoder's width; the features of some of its middle blocks are added after the first decoder layers
//! (deepstack). Sequences are packed one after the other; there is no padding.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use rand_chacha::ChaCha8Rng;

use super::lora::{self, Adaptable};
use crate::checkpoint::weights::{Take, Weights};
use crate::error::{Error, Result};
use crate::example::{Grid, Sequence};
use crate::nn::{DeviceSpec, Experts, Projection};

mod adapter;
mod backward;
mod batch;
mod cache;
mod config;
mod decoder;
mod inference;
mod merge;
mod vision;

pub use super::lora::Lora;
pub use batch::{Batch, Part, Positions, PrefixTree};
pub use cache::{KvCache, SlotId};
pub use config::{Config, ExpertConfig, TextConfig, VisionConfig};
use decoder::Decoder;
pub(crate) use inference::LOGITS_AT_ONCE;
pub use inference::TokenScore;
pub use vision::Features;
use vision::Tower;

/// A Qwen3-VL with frozen weights and, after [`Qwen3Vl::with_lora`], trainable adapters.
///
/// A clone is shallow: it shares all tensors and variables.
#[derive(Debug, Clone)]
pub struct Qwen3Vl {
    tower: Tower,
    decoder: Decoder,
    /// D → V; the embedding table itself where the two are tied.
    head: Projection,
    config: Arc<Config>,
    fingerprint: Arc<str>,
    /// The folder it was loaded from, for the adapter's config.
    origin: Arc<str>,
}

/// Is given each state by name and number, e.g. `text.layer_out`, 3.
type Visit<'a> = dyn FnMut(&str, usize, &Tensor) + 'a;

impl Qwen3Vl {
    /// Loads a hub-layout folder: `config.json` and `model.safetensors` (or its shards).
    ///
    /// # Errors
    /// [`Error::Checkpoint`] that lists what is missing, mis-shaped, unexpected or not finite.
    pub fn load(dir: &Path, spec: &DeviceSpec) -> Result<Self> {
        let (config, bytes) = Config::load(dir)?;
        let mut weights = Weights::open(dir)?;
        if config.tied() {
            // Some writers store the tied head too.
            weights.ignore(|name| name == "lm_head.weight");
        }
        let fingerprint = weights.fingerprint(&bytes)?;
        let transposed = transposed(&config, &weights);
        let mut take = |name: &str, shape: &[usize]| match *shape {
            [experts, from, to] if transposed.contains(name) => {
                let stored = weights.take(name, &[experts, to, from], spec)?;
                Ok(stored.transpose(1, 2)?.contiguous()?)
            }
            _ => weights.take(name, shape, spec),
        };
        let model = Self::build(config, &fingerprint, &dir.to_string_lossy(), &mut take)?;
        weights.finish()?;
        Ok(model)
    }

    /// A model of this shape whose weights `take` gives by their hub names and shapes. `origin` is what errors about it
    /// name.
    ///
    /// # Errors
    /// Those of `take`.
    pub fn build(config: Config, fingerprint: &str, origin: &str, take: &mut Take) -> Result<Self> {
        let tower = Tower::load(&config.vision_config, take)?;
        let decoder = Decoder::load(&config.text_config, take)?;
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
        let all = self.layers().into_iter();
        all.map(|(name, layer)| (format!("{name}.weight"), layer.weight().clone()))
            .collect()
    }

    /// The weights of all stacks of experts by hub name, (E, in, out), with their adapters added in.
    pub fn updated_experts(&self) -> Result<Vec<(String, Tensor)>> {
        let all = self.stacks().into_iter();
        all.map(|(name, stack)| Ok((name, stack.updated_weight()?))).collect()
    }

    /// The values of `config.json`.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Lower-case hex SHA-256 over `config.json` and the weights' bytes: the same weights, the same print.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Features of images: `patches` (N, 3·frames·P·P) of all images, one after the other, in block order.
    ///
    /// They can be computed once per image and reused as long as neither tower nor merger is trained.
    ///
    /// # Errors
    /// When patches and grids do not fit.
    pub fn image_features(&self, patches: &Tensor, grids: &[Grid]) -> Result<Features> {
        self.check_patches(patches, grids)?;
        self.tower.forward(patches, grids, &mut |_, _, _| {})
    }

    /// A batch of whole sequences.
    ///
    /// # Errors
    /// When the placeholders of a sequence do not fit its images, or it is empty.
    pub fn batch(&self, sequences: &[Sequence]) -> Result<Batch> {
        Batch::new(
            sequences,
            self.config.image_token_id,
            self.config.vision_config.spatial_merge_size,
        )
    }

    /// A batch that goes on with the sequences of a cache, in their order ([`KvCache::order`]).
    ///
    /// # Errors
    /// As [`Qwen3Vl::batch`].
    pub fn batch_of(&self, parts: &[Part]) -> Result<Batch> {
        let (image, merge) = (self.config.image_token_id, self.config.vision_config.spatial_merge_size);
        Batch::of_parts(parts, image, merge)
    }

    /// States of all rows of a batch after the final norm, (R, D); `features` are those of all its images.
    ///
    /// # Errors
    /// When batch, features and cache do not fit each other.
    pub fn forward(&self, batch: &Batch, features: Option<&Features>, cache: Option<&mut KvCache>) -> Result<Tensor> {
        self.run(batch, features, cache, &mut |_, _, _| {})
    }

    /// Logits (rows, V) at some rows of the states that [`Qwen3Vl::forward`] gave.
    ///
    /// # Errors
    /// When a row is not there.
    pub fn logits(&self, states: &Tensor, rows: &[u32]) -> Result<Tensor> {
        let rows = Tensor::from_slice(rows, rows.len(), self.device())?;
        self.head.forward(&states.index_select(&rows, 0)?)
    }

    /// All states on the way, under the names of the golden files (`vision.block_out.0`, `text.attn_out.1`, …).
    ///
    /// # Errors
    /// As [`Qwen3Vl::image_features`] and [`Qwen3Vl::forward`].
    pub fn states(&self, batch: &Batch, patches: &Tensor, grids: &[Grid]) -> Result<Vec<(String, Tensor)>> {
        self.check_patches(patches, grids)?;
        let mut states = Vec::new();
        let mut visit = |name: &str, i: usize, state: &Tensor| states.push((format!("{name}.{i}"), state.clone()));
        let features = self.tower.forward(patches, grids, &mut visit)?;
        let last = self.run(batch, Some(&features), None, &mut visit)?;
        visit("text.norm_out", 0, &last);
        Ok(states)
    }

    fn run(
        &self,
        batch: &Batch,
        features: Option<&Features>,
        mut cache: Option<&mut KvCache>,
        visit: &mut Visit,
    ) -> Result<Tensor> {
        let mut x = self.decoder.embed(batch, features)?;
        let context = self.decoder.context(batch, cache.as_deref())?;
        for i in 0..self.decoder.layers.len() {
            let cache = cache.as_deref_mut();
            x = self.decoder.layer(i, &x, &context, features, cache, visit)?;
        }
        if let Some(cache) = cache {
            cache.advance(&batch.lengths);
        }
        self.decoder.norm.forward(&x)
    }

    fn check_patches(&self, patches: &Tensor, grids: &[Grid]) -> Result<()> {
        let vision = &self.config.vision_config;
        let merge = vision.spatial_merge_size;
        let count: usize = grids.iter().map(Grid::patches).sum();
        let fits = |side: usize| side.is_multiple_of(merge);
        let whole = |grid: &Grid| fits(grid.rows) && fits(grid.columns) && grid.patches() > 0;
        let (width, shape) = (vision.patch_width(), patches.dims());
        if shape == [count, width] && count > 0 && grids.iter().all(whole) {
            return Ok(());
        }
        Err(Error::tensor(format!(
            "patches {shape:?} for grids {grids:?}: want {count} x {width}, sides multiples of {merge}"
        )))
    }

    /// The model with fresh adapters in place of any it has: A as PEFT initialises it, B = 0, so the
    /// outputs are still those of the base.
    ///
    /// # Errors
    /// [`Error::Model`] when the rank is 0, no linear layer matches any target, or `lm_head`
    /// is a target and tied to the embedding.
    pub fn with_lora(&self, lora: &Lora, rng: &mut ChaCha8Rng) -> Result<Self> {
        if self.config.tied() && lora.targets.iter().any(|target| target == "lm_head") {
            return Err(self.error("`lm_head` is tied to the embedding and cannot be adapted"));
        }
        lora::with_lora(self, lora, rng)
    }

    /// The model with its adapters added into the weights (those of experts: kept beside them, as copies): the same
    /// outputs to the bit on the CPU, nothing trainable, no graph kept. Use it to evaluate.
    pub fn merged(&self) -> Result<Self> {
        self.map_layers(|_, layer| layer.merged())?
            .map_experts(|_, stack| stack.merged())
    }

    /// The adapters' variables in the order of the layers, then of the expert stacks, A before B, named as keys of
    /// the adapter file that [`Qwen3Vl::save_adapter`] writes:
    /// `base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight`.
    #[must_use]
    pub fn trainable(&self) -> Vec<(String, Var)> {
        lora::trainable(self)
    }

    /// The model with `change(variable)` in place of each variable of its adapters, in the order of [`Qwen3Vl::trainable`].
    ///
    /// # Errors
    /// Those of `change`.
    pub fn with_variables(&self, change: impl FnMut(&Var) -> Result<Var>) -> Result<Self> {
        lora::with_variables(self, change)
    }

    /// Type of the states between layers: f32 on the CPU, that of the weights on a GPU.
    #[must_use]
    pub fn state_type(&self) -> DType {
        self.decoder.dtype()
    }

    /// The device of the tensors.
    #[must_use]
    pub fn device(&self) -> &Device {
        self.decoder.device()
    }
}

/// The stacks of experts that stand in the files as (E, out, in), the layout of transformers 5 in memory. The hub has
/// (E, in, out), which is also what a stack is taken for whose shape could be either.
fn transposed(config: &Config, weights: &Weights) -> HashSet<String> {
    let text = &config.text_config;
    let layers = (0..text.num_hidden_layers).filter_map(|i| Some((i, text.experts(i)?)));
    let stacks = layers.flat_map(|(i, experts)| decoder::stack_shapes(i, text.hidden_size, experts));
    let other = stacks.filter(|(name, [count, from, to])| {
        from != to && weights.shape(name).is_some_and(|shape| shape == [*count, *to, *from])
    });
    other.map(|(name, _)| name).collect()
}

impl Adaptable for Qwen3Vl {
    fn layers_mut(&mut self) -> Vec<(String, &mut Projection)> {
        let mut all = self.tower.layers_mut();
        all.extend(self.decoder.layers_mut());
        // A tied head is the embedding, unless it has an adapter of its own.
        if !self.config.tied() || self.head.update().is_some() {
            all.push(("lm_head".into(), &mut self.head));
        }
        all
    }

    fn experts_mut(&mut self) -> Vec<(String, &mut Experts)> {
        self.decoder.experts_mut()
    }

    fn origin(&self) -> &str {
        &self.origin
    }

    fn device(&self) -> &Device {
        self.decoder.device()
    }
}
