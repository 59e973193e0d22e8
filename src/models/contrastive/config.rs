//! `config.json` of CLIP and SigLIP, with transformers' defaults: hub files leave out what equals them.

use std::path::Path;

use candle_transformers::models::{clip, siglip};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::checkpoint::architecture::read_config;
use crate::checkpoint::bounds;
use crate::error::{Error, Result};

/// Layer-norm epsilon that candle-transformers' CLIP has built in.
const CLIP_EPS: f64 = 1e-5;

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Softmax-trained (Radford et al. 2021).
    Clip,
    /// Sigmoid-trained (Zhai et al. 2023).
    Siglip,
}

/// The shape of both towers.
#[derive(Debug, Clone)]
pub struct Config {
    text: Tower,
    vision: Tower,
    /// Width P of the features; CLIP's.
    projection: usize,
}

/// A tower's part of `config.json`.
#[derive(Debug, Clone, Deserialize)]
struct Part {
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    hidden_act: Option<String>,
    layer_norm_eps: Option<f64>,
    vocab_size: Option<usize>,
    max_position_embeddings: Option<usize>,
    projection_size: Option<usize>,
    image_size: Option<usize>,
    patch_size: Option<usize>,
    num_channels: Option<usize>,
    vision_use_head: Option<bool>,
}

/// The same with nothing left open.
#[derive(Debug, Clone)]
struct Tower {
    hidden: usize,
    wide: usize,
    layers: usize,
    heads: usize,
    act: String,
    eps: f64,
    vocabulary: usize,
    context: usize,
    image: usize,
    patch: usize,
}

impl Config {
    /// Reads `config.json` of a model folder, which is to be of one family; also its bytes.
    ///
    /// # Errors
    /// [`Error::Model`] when it is missing, malformed, of another architecture, or asks for what is not supported.
    pub fn load(dir: &Path, family: Family) -> Result<(Self, Vec<u8>)> {
        let (path, bytes) = read_config(dir)?;
        let config = Self::parse(&bytes, family).map_err(|reason| Error::model(path, reason))?;
        Ok((config, bytes))
    }

    /// A config from the text of `config.json`.
    ///
    /// # Errors
    /// The fault in it, in words.
    pub fn parse(text: &[u8], family: Family) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(text).map_err(|e| format!("is no JSON: {e}"))?;
        Self::new(&value, family)
    }

    fn new(value: &Value, family: Family) -> Result<Self, String> {
        let expected = match family {
            Family::Clip => "clip",
            Family::Siglip => "siglip",
        };
        let kind = value.get("model_type").and_then(Value::as_str);
        if kind != Some(expected) {
            return Err(format!("`model_type` is {kind:?}, this learner needs \"{expected}\""));
        }
        let part = |name: &str| -> Result<Part, String> {
            let part = value.get(name).cloned();
            serde_json::from_value(part.unwrap_or_else(|| json!({}))).map_err(|e| format!("`{name}`: {e}"))
        };
        let (text, vision) = (part("text_config")?, part("vision_config")?);
        let projection = match value.get("projection_dim") {
            None => 512,
            Some(dim) => dim.as_u64().ok_or("`projection_dim` is not a number")? as usize,
        };
        bounds::check(&[("projection_dim", projection, bounds::WIDTH)])?;
        if projection == 0 {
            return Err("projection_dim is 0".into());
        }
        if family == Family::Siglip {
            let (from, to) = (text.hidden_size.unwrap_or(768), text.projection_size);
            if to.is_some_and(|to| to != from) {
                return Err(format!(
                    "`projection_size` is {to:?}, only that of hidden_size {from} is supported"
                ));
            }
            if vision.vision_use_head == Some(false) {
                return Err("`vision_use_head` is false: without the pooling head there are no image features".into());
            }
        }
        if vision.num_channels.is_some_and(|channels| channels != 3) {
            return Err(format!("`num_channels` is {:?}, images have 3", vision.num_channels));
        }
        let vision_default = Tower::of_base(family);
        let text_default = match family {
            Family::Clip => Tower {
                hidden: 512,
                wide: 2048,
                heads: 8,
                ..vision_default.clone()
            },
            Family::Siglip => vision_default.clone(),
        };
        let (text, vision) = (text.or(text_default), vision.or(vision_default));
        for (name, tower) in [("text_config", &text), ("vision_config", &vision)] {
            tower.check(family).map_err(|reason| format!("`{name}`: {reason}"))?;
        }
        Ok(Self {
            text,
            vision,
            projection,
        })
    }

    /// Side of the images, in pixels.
    #[must_use]
    pub fn image_size(&self) -> usize {
        self.vision.image
    }

    /// Tokens that a text may have.
    #[must_use]
    pub fn context(&self) -> usize {
        self.text.context
    }

    pub(super) fn clip(&self) -> clip::ClipConfig {
        let (text, vision) = (&self.text, &self.vision);
        let activation = clip::text_model::Activation::QuickGelu;
        clip::ClipConfig {
            text_config: clip::text_model::ClipTextConfig {
                vocab_size: text.vocabulary,
                embed_dim: text.hidden,
                activation,
                intermediate_size: text.wide,
                max_position_embeddings: text.context,
                pad_with: None,
                num_hidden_layers: text.layers,
                num_attention_heads: text.heads,
                projection_dim: self.projection,
            },
            vision_config: clip::vision_model::ClipVisionConfig {
                embed_dim: vision.hidden,
                activation,
                intermediate_size: vision.wide,
                num_hidden_layers: vision.layers,
                num_attention_heads: vision.heads,
                projection_dim: self.projection,
                num_channels: 3,
                image_size: vision.image,
                patch_size: vision.patch,
            },
            // Read from the weights.
            logit_scale_init_value: 0.0,
            image_size: vision.image,
        }
    }

    pub(super) fn siglip(&self) -> siglip::Config {
        let (text, vision) = (&self.text, &self.vision);
        siglip::Config {
            text_config: siglip::TextConfig {
                vocab_size: text.vocabulary,
                hidden_size: text.hidden,
                intermediate_size: text.wide,
                num_hidden_layers: text.layers,
                num_attention_heads: text.heads,
                max_position_embeddings: text.context,
                hidden_act: activation(&text.act),
                layer_norm_eps: text.eps,
                // Not used by the model.
                pad_token_id: 1,
                bos_token_id: 0,
                eos_token_id: 1,
            },
            vision_config: siglip::VisionConfig {
                hidden_size: vision.hidden,
                intermediate_size: vision.wide,
                num_hidden_layers: vision.layers,
                num_attention_heads: vision.heads,
                num_channels: 3,
                image_size: vision.image,
                patch_size: vision.patch,
                hidden_act: activation(&vision.act),
                layer_norm_eps: vision.eps,
            },
        }
    }
}

/// Of those that [`Tower::check`] lets through.
fn activation(name: &str) -> candle_nn::Activation {
    match name {
        "gelu" => candle_nn::Activation::Gelu,
        _ => candle_nn::Activation::GeluPytorchTanh,
    }
}

impl Part {
    /// The tower, with what was left open as in another.
    fn or(self, default: Tower) -> Tower {
        Tower {
            hidden: self.hidden_size.unwrap_or(default.hidden),
            wide: self.intermediate_size.unwrap_or(default.wide),
            layers: self.num_hidden_layers.unwrap_or(default.layers),
            heads: self.num_attention_heads.unwrap_or(default.heads),
            act: self.hidden_act.unwrap_or(default.act),
            eps: self.layer_norm_eps.unwrap_or(default.eps),
            vocabulary: self.vocab_size.unwrap_or(default.vocabulary),
            context: self.max_position_embeddings.unwrap_or(default.context),
            image: self.image_size.unwrap_or(default.image),
            patch: self.patch_size.unwrap_or(default.patch),
        }
    }
}

impl Tower {
    /// The image tower of the base model.
    fn of_base(family: Family) -> Self {
        let (act, eps, vocabulary, context, patch) = match family {
            Family::Clip => ("quick_gelu", CLIP_EPS, 49_408, 77, 32),
            Family::Siglip => ("gelu_pytorch_tanh", 1e-6, 32_000, 64, 16),
        };
        Self {
            hidden: 768,
            wide: 3072,
            layers: 12,
            heads: 12,
            act: act.into(),
            eps,
            vocabulary,
            context,
            image: 224,
            patch,
        }
    }

    fn check(&self, family: Family) -> Result<(), String> {
        bounds::check(&[
            ("hidden_size", self.hidden, bounds::WIDTH),
            ("intermediate_size", self.wide, bounds::MIDDLE),
            ("num_hidden_layers", self.layers, bounds::LAYERS),
            ("num_attention_heads", self.heads, bounds::HEADS),
            ("vocab_size", self.vocabulary, bounds::VOCABULARY),
            ("max_position_embeddings", self.context, bounds::POSITIONS),
            ("image_size", self.image, bounds::IMAGE),
            ("patch_size", self.patch, bounds::PATCH),
        ])?;
        let (hidden, heads) = (self.hidden, self.heads);
        if hidden == 0 || heads == 0 || !hidden.is_multiple_of(heads) {
            return Err(format!(
                "hidden_size {hidden} is not a multiple of num_attention_heads {heads}"
            ));
        }
        if self.patch == 0 || self.image < self.patch {
            return Err(format!("image_size {} holds no patch of {}", self.image, self.patch));
        }
        if self.context == 0 {
            return Err("max_position_embeddings is 0".into());
        }
        let supported: &[&str] = match family {
            Family::Clip => &["quick_gelu"],
            Family::Siglip => &["gelu_pytorch_tanh", "gelu"],
        };
        let act = self.act.as_str();
        if !supported.contains(&act) {
            let supported = supported.join("`, `");
            return Err(format!("hidden_act `{act}` is not supported, only `{supported}`"));
        }
        if family == Family::Clip && (self.eps - CLIP_EPS).abs() > 1e-12 {
            return Err(format!("layer_norm_eps {} is not supported, only {CLIP_EPS}", self.eps));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(value: Value, family: Family) -> String {
        Config::new(&value, family).unwrap_err()
    }

    #[test]
    fn what_a_config_leaves_out_is_the_base_model() {
        // google/siglip-base-patch16-224 says no more than this.
        let siglip = json!({"model_type": "siglip", "text_config": {"vocab_size": 32000}, "vision_config": {}});
        let config = Config::new(&siglip, Family::Siglip).unwrap();
        assert_eq!(
            (config.context(), config.image_size(), config.vision.patch),
            (64, 224, 16)
        );
        assert_eq!(
            (config.text.hidden, config.text.wide, config.text.heads),
            (768, 3072, 12)
        );
        let clip = Config::new(&json!({"model_type": "clip"}), Family::Clip).unwrap();
        assert_eq!(
            (clip.text.hidden, clip.text.heads, clip.vision.hidden, clip.projection),
            (512, 8, 768, 512)
        );
        assert_eq!(
            (clip.context(), clip.vision.patch, clip.text.vocabulary),
            (77, 32, 49_408)
        );
    }

    #[test]
    fn what_the_towers_would_silently_compute_otherwise_is_refused() {
        let clip = |text: Value| refused(json!({"model_type": "clip", "text_config": text}), Family::Clip);
        assert!(clip(json!({"hidden_act": "gelu"})).contains("quick_gelu"));
        assert!(clip(json!({"layer_norm_eps": 1e-6})).contains("layer_norm_eps"));
        assert!(clip(json!({"hidden_size": 10, "num_attention_heads": 4})).contains("multiple"));
        assert!(clip(json!({"hidden_size": "wide"})).contains("text_config"));
        let siglip = |value: Value| refused(value, Family::Siglip);
        assert!(siglip(json!({"model_type": "clip"})).contains("\"siglip\""));
        let head = json!({"model_type": "siglip", "vision_config": {"vision_use_head": false}});
        assert!(siglip(head).contains("vision_use_head"));
        let projection = json!({"model_type": "siglip", "text_config": {"projection_size": 5}});
        assert!(siglip(projection).contains("projection_size"));
    }
}
