//! The local engine: one device, one frozen base, many adapters by id. Its verbs are Tinker's.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::example::{Chunk, Datum, ModelInput, PatchProcessor, Picture, Sequence, Tokenizer};
use crate::formats::image_processor::image_settings;
use crate::fs::hash::hex;
use crate::models::lora::Lora;
use crate::models::qwen3_vl::Qwen3Vl;
pub use crate::models::qwen3_vl::TokenScore;
pub use crate::nn::AdamParams;
use crate::nn::{DeviceSpec, MicroBatches};

mod adapters;
mod examples;
mod features;
mod generator;
mod loss;
#[cfg(test)]
mod micro;
mod request;
mod sample;
mod sampling;
mod train;
mod train_state;

use adapters::Adapters;
pub use features::CacheStats;
use features::FeatureCache;
pub(crate) use features::FifoCache;
pub use generator::{Generator, GeneratorSettings};
pub use loss::{LossFn, Objective, PolicyInputs};
pub use request::{Event, GenerationRequest, RequestId};
pub(crate) use sample::ROWS as SCORED_AT_ONCE;
pub use sample::Snapshot;
pub use sampling::{Alternative, PromptScores, SampledSequence, SamplingParams, Stop};
pub(crate) use train_state::TrainState;

/// The settings of an adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    /// The layers and the rank.
    pub lora: Lora,
    /// Decides the initialisation.
    pub seed: u64,
    /// A PEFT adapter folder to start from instead of a fresh adapter.
    pub start: Option<PathBuf>,
}

/// Result of a forward pass over training examples.
#[derive(Debug, Clone, PartialEq)]
pub struct ForwardOutput {
    /// Sum of the loss over all positions: for cross-entropy of `-weight · ln p(target)`, in nats.
    pub loss_sum: f64,
    /// For each example and position the log-probability of its target, nats; 0 where there is no loss, unless
    /// [`Objective::all_logprobs`] asks for more.
    pub logprobs: Vec<Vec<f32>>,
}

/// Files beside the weights that decide what the model is given, and so what it computes.
const ALSO_PRINTED: [&str; 4] = [
    "tokenizer.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer_config.json",
];

/// Prefix of the names of trained tensors in tower and merger.
const VISION: &str = "base_model.model.model.visual.";

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

/// A model's input as the model takes it.
#[derive(Debug)]
struct Input<'a> {
    /// Tokens, a placeholder for every token of a picture, and the pictures' grids.
    sequence: Sequence,
    /// The pictures, in order.
    pictures: Vec<&'a Picture>,
}

/// One device, one frozen base, many adapters. Its verbs may be called from several threads at once: those of one adapter
/// take turns, those of different ones run beside each other.
#[derive(Debug)]
pub struct Engine {
    base: Qwen3Vl,
    processor: PatchProcessor,
    settings: Settings,
    cache: FeatureCache,
    adapters: Mutex<Adapters>,
    fingerprint: String,
    /// Of every snapshot of the base.
    base_identity: Arc<()>,
    /// The folder of the model, for its tokenizer.
    folder: PathBuf,
    /// Loaded when a text is first to be matched.
    tokenizer: OnceLock<Tokenizer>,
    /// Sequences of a pass.
    micro_batches: Mutex<MicroBatches>,
}

/// A panic elsewhere leaves no half-done change behind: what is kept changes only when all is computed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        let (merge, width) = (vision.spatial_merge_size, vision.patch_width());
        let (given, given_width) = (processor.merge(), processor.patch_width());
        if (merge, width) != (given, given_width) {
            return Err(Error::model(
                model_dir,
                format!(
                    "the image processor merges {given} x {given} patches of {given_width} numbers, config.json {merge} x \
                     {merge} of {width}"
                ),
            ));
        }
        Ok(Self {
            fingerprint: fingerprint(&base, model_dir)?,
            base_identity: Arc::default(),
            folder: model_dir.to_path_buf(),
            tokenizer: OnceLock::new(),
            base,
            processor,
            settings,
            cache: FeatureCache::default(),
            adapters: Mutex::default(),
            micro_batches: Mutex::new(MicroBatches::of(settings.micro_batch)),
        })
    }

    /// Lower-case hex SHA-256 over the weights, tokenizer, chat template and image processor.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Waits until the device has done all that it was told.
    pub fn synchronize(&self) -> Result<()> {
        Ok(self.base.device().synchronize()?)
    }

    /// The text of tokens, special ones written out.
    ///
    /// # Errors
    /// [`Error::Model`] when the model's folder lacks a tokenizer.
    pub fn written(&self, tokens: &[u32]) -> Result<String> {
        let tokenizer = match self.tokenizer.get() {
            Some(tokenizer) => tokenizer,
            None => {
                let tokenizer = Tokenizer::load(&self.folder)?;
                self.tokenizer.get_or_init(|| tokenizer)
            }
        };
        tokenizer.decode_all(tokens)
    }

    /// Width D of the decoder.
    #[must_use]
    pub fn width(&self) -> usize {
        self.base.config().text_config.hidden_size
    }

    /// Reads inputs, the first of which is number `first` of those that the caller was given.
    ///
    /// # Errors
    /// [`Error::Input`] when one is empty, has a token that the model does not know or a placeholder among its
    /// texts, or a picture of another number of tokens than the model makes of it; [`Error::Image`].
    fn read<'a>(&self, inputs: impl IntoIterator<Item = &'a ModelInput>, first: usize) -> Result<Vec<Input<'a>>> {
        let inputs = inputs.into_iter().zip(first..);
        inputs.map(|(input, index)| self.read_one(input, index)).collect()
    }

    fn read_one<'a>(&self, input: &'a ModelInput, index: usize) -> Result<Input<'a>> {
        let fail = |reason: String| Err(Error::Input { index, reason });
        let placeholder = self.base.config().image_token_id;
        let (mut ids, mut images, mut pictures) = (Vec::with_capacity(input.positions()), Vec::new(), Vec::new());
        for chunk in &input.chunks {
            match chunk {
                Chunk::Tokens(text) => {
                    self.check_tokens(text, index)?;
                    ids.extend(text);
                }
                Chunk::Picture(picture) => {
                    let grid = self.processor.grid(&picture.pixels)?;
                    let (said, tokens) = (picture.tokens, grid.tokens(self.processor.merge()));
                    if tokens != said {
                        return fail(format!(
                            "a picture is said to have {said} tokens, the model sees it as {tokens}"
                        ));
                    }
                    if ids.last() == Some(&placeholder) {
                        return fail("two pictures stand side by side without a token between them".into());
                    }
                    ids.extend(std::iter::repeat_n(placeholder, tokens));
                    images.push(grid);
                    pictures.push(picture);
                }
            }
        }
        if ids.is_empty() {
            return fail("it is empty".into());
        }
        let sequence = Sequence { ids, images };
        Ok(Input { sequence, pictures })
    }

    /// # Errors
    /// [`Error::Input`] when a token of a text is not in the vocabulary, or stands for a picture.
    fn check_tokens(&self, ids: &[u32], index: usize) -> Result<()> {
        let config = self.base.config();
        let (vocabulary, placeholder) = (config.text_config.vocab_size, config.image_token_id);
        let mut ids = ids.iter().copied();
        let Some(id) = ids.find(|&id| id as usize >= vocabulary || id == placeholder) else {
            return Ok(());
        };
        let reason = if id == placeholder {
            format!("token {id} stands for a picture and cannot be part of a text")
        } else {
            format!("token {id} is not among the model's {vocabulary}")
        };
        Err(Error::Input { index, reason })
    }

    /// # Errors
    /// [`Error::Input`] when targets and weights are not as many as positions, a weight is not finite, or a
    /// target that bears weight is not in the vocabulary.
    fn check_targets(&self, datum: &Datum, index: usize) -> Result<()> {
        let fail = |reason: String| Err(Error::Input { index, reason });
        let (positions, targets, weights) = (datum.input.positions(), datum.target_tokens.len(), datum.weights.len());
        if (targets, weights) != (positions, positions) {
            return fail(format!(
                "{targets} targets and {weights} weights for {positions} positions"
            ));
        }
        if let Some(weight) = datum.weights.iter().find(|weight| !weight.is_finite()) {
            return fail(format!("a weight of {weight}"));
        }
        let vocabulary = self.base.config().text_config.vocab_size;
        for (&target, &weight) in datum.target_tokens.iter().zip(&datum.weights) {
            if weight != 0.0 && target as usize >= vocabulary {
                return fail(format!("target {target} is not among the model's {vocabulary} tokens"));
            }
        }
        Ok(())
    }

    /// Inputs in passes, with the number of the first of each.
    fn passes<'a, T>(&self, inputs: &'a [T]) -> impl Iterator<Item = (&'a [T], usize)> + use<'a, T> {
        let size = lock(&self.micro_batches).size();
        inputs.chunks(size).zip((0..).step_by(size))
    }
}

/// True if a model has trained tensors of its own in tower or merger.
fn vision_is_trained(model: &Qwen3Vl) -> bool {
    model.trainable().iter().any(|(name, _)| name.starts_with(VISION))
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
