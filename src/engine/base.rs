//! The frozen base and the adapters that are trained on it.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Var;
use sha2::{Digest as _, Sha256};

use super::AdapterConfig;
use super::features::FeatureCache;
use super::train_state::TrainState;
use crate::error::{Cause, Error, Result};
use crate::example::PatchProcessor;
use crate::formats::image_processor::image_settings;
use crate::fs::hash::hex;
use crate::models::qwen3_vl::Qwen3Vl;
use crate::nn::{DeviceSpec, MicroBatches, ParamGroup};
use crate::seed;

/// Files beside the weights that decide what the model is given, and so what it computes.
const ALSO_PRINTED: [&str; 4] = [
    "tokenizer.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer_config.json",
];

/// Prefix of the names of trained tensors in tower and merger.
pub(super) const VISION: &str = "base_model.model.model.visual.";

/// Bytes of features that are kept where nothing else is said.
pub const FEATURE_BYTES: usize = 2 << 30;

/// Settings of memory and speed; none of them changes what is computed, but for the last bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Sequences per pass.
    pub micro_batch: usize,
    /// Run each layer twice in training and keep only the states between layers.
    pub checkpointing: bool,
    /// Keep a frozen tower's features of a picture for the next time.
    pub cache_features: bool,
    /// Bytes of such features, on the model's device and of its type; beyond it the oldest go. Those of the
    /// last call are kept in any case, so that with 0 a batch that is asked about twice is encoded once.
    pub feature_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            micro_batch: 32,
            checkpointing: false,
            cache_features: true,
            feature_bytes: FEATURE_BYTES,
        }
    }
}

/// Number of an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdapterId(u64);

/// An adapter in training.
#[derive(Debug)]
pub(super) struct Adapter {
    pub(super) config: AdapterConfig,
    /// The base with the adapter's variables; the frozen tensors are shared.
    pub(super) model: Qwen3Vl,
    pub(super) training: TrainState,
}

/// One device, one frozen base, many adapters.
#[derive(Debug)]
pub struct Engine {
    pub(super) base: Qwen3Vl,
    pub(super) processor: PatchProcessor,
    pub(super) settings: Settings,
    pub(super) cache: FeatureCache,
    adapters: BTreeMap<AdapterId, Adapter>,
    next: u64,
    fingerprint: String,
    /// Sequences of a pass.
    pub(super) micro_batches: MicroBatches,
}

impl Engine {
    /// Loads a hub-layout folder.
    ///
    /// # Errors
    /// [`Error::Model`] when it lacks something, or model and image processor do not fit each other.
    pub fn load(model_dir: &Path, spec: &DeviceSpec, settings: Settings) -> Result<Self> {
        let base = Qwen3Vl::load(model_dir, spec)?;
        let processor = PatchProcessor::load(model_dir)?;
        let vision = &base.config().vision_config;
        let (wants, gives) = (
            (vision.spatial_merge_size, vision.patch_width()),
            (processor.merge(), processor.patch_width()),
        );
        if wants != gives {
            let reason = format!(
                "the image processor merges {} x {0} patches of {} numbers, config.json {} x {2} of {}",
                gives.0, gives.1, wants.0, wants.1
            );
            return Err(Error::Model {
                path: model_dir.to_path_buf(),
                reason,
            });
        }
        Ok(Self {
            fingerprint: fingerprint(&base, model_dir)?,
            base,
            processor,
            settings,
            cache: FeatureCache::default(),
            adapters: BTreeMap::new(),
            next: 0,
            micro_batches: MicroBatches::of(settings.micro_batch),
        })
    }

    /// Lower-case hex SHA-256 over the weights, tokenizer, chat template and image processor.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Waits until the device has done all that it was told.
    ///
    /// # Errors
    /// Failures that the device reports.
    pub fn synchronize(&self) -> Result<()> {
        Ok(self.base.device().synchronize()?)
    }

    /// Width D of the decoder.
    #[must_use]
    pub fn width(&self) -> usize {
        self.base.config().text_config.hidden_size
    }

    /// A new adapter, fresh or started from a PEFT folder.
    ///
    /// # Errors
    /// [`Error::Model`] when it does not fit the model, or the folder holds another one than the config says.
    pub fn add(&mut self, config: &AdapterConfig) -> Result<AdapterId> {
        let mut model = self.base.with_lora(&config.lora, &mut seed::rng(config.seed, "lora"))?;
        if let Some(start) = &config.start {
            let loaded = self.base.load_adapter(start)?;
            if shapes(&loaded.trainable()) != shapes(&model.trainable()) || !same_scale(&loaded, &model)? {
                let reason = format!(
                    "holds an adapter of other layers, rank or alpha than targets {:?}, rank {}, alpha {}",
                    config.lora.targets, config.lora.rank, config.lora.alpha
                );
                return Err(Error::Model {
                    path: start.clone(),
                    reason,
                }
                .because(Cause::Adapter));
            }
            model = loaded;
        }
        let variables = model.trainable();
        let group = ParamGroup {
            vars: variables.iter().map(|(_, var)| var.clone()).collect(),
            lr: 1.0,
            weight_decay: 1.0,
        };
        let id = AdapterId(self.next);
        self.next += 1;
        let adapter = Adapter {
            config: config.clone(),
            model,
            training: TrainState::new(variables, vec![group])?,
        };
        self.adapters.insert(id, adapter);
        Ok(id)
    }

    /// Frees an adapter with its optimiser, if it is there.
    pub fn remove(&mut self, id: AdapterId) {
        self.adapters.remove(&id);
    }

    /// Names and shapes of what is trained, in order, as keys of a PEFT adapter file.
    ///
    /// # Errors
    /// [`Error::NoAdapter`].
    pub fn trainable(&self, id: AdapterId) -> Result<Vec<(String, Vec<usize>)>> {
        Ok(shapes(self.adapter(id)?.training.variables()))
    }

    pub(super) fn adapter(&self, id: AdapterId) -> Result<&Adapter> {
        self.adapters.get(&id).ok_or(Error::NoAdapter { id: id.0 })
    }

    pub(super) fn adapter_mut(&mut self, id: AdapterId) -> Result<&mut Adapter> {
        self.adapters.get_mut(&id).ok_or(Error::NoAdapter { id: id.0 })
    }
}

/// True if a model has trained tensors of its own in tower or merger.
pub(super) fn vision_is_trained(model: &Qwen3Vl) -> bool {
    model.trainable().iter().any(|(name, _)| name.starts_with(VISION))
}

fn shapes(variables: &[(String, Var)]) -> Vec<(String, Vec<usize>)> {
    let shape = |(name, var): &(String, Var)| (name.clone(), var.dims().to_vec());
    variables.iter().map(shape).collect()
}

/// True if two models' updates are scaled alike, but for rounding.
fn same_scale(a: &Qwen3Vl, b: &Qwen3Vl) -> Result<bool> {
    let ((_, a), (_, b)) = (a.adapter_shape()?, b.adapter_shape()?);
    Ok((a - b).abs() <= 1e-9 * b.abs())
}

/// Lower-case hex SHA-256 over the weights of a loaded model and the tokenizer, chat template and image processor of its
/// folder.
///
/// # Errors
/// [`Error::Io`], [`Error::Model`] when a file of the folder cannot be read.
pub fn fingerprint(base: &Qwen3Vl, model_dir: &Path) -> Result<String> {
    let mut hash = Sha256::new().chain_update(base.fingerprint());
    let mut print = |name: &str, bytes: &[u8]| {
        hash.update(name);
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for name in ALSO_PRINTED {
        let path = model_dir.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => print(name, &bytes),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("read", &path)(e)),
        }
    }
    // The image processor under the name of its file, whichever that is.
    let settings = image_settings(model_dir)?;
    let name = settings.path.file_name().unwrap_or_default().to_string_lossy();
    print(&name, &settings.text);
    Ok(hex(&hash.finalize()))
}
