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
    text: Part,
    vision: Part,
    /// Width P of the features; CLIP's.
    projection: usize,
}

/// A tower's part of `config.json`.
#[derive(Debug, Clone, Deserialize)]
struct Part {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    hidden_act: String,
    layer_norm_eps: f64,
    vocab_size: usize,
    max_position_embeddings: usize,
    projection_size: Option<usize>,
    image_size: usize,
    patch_size: usize,
    num_channels: Option<usize>,
    vision_use_head: Option<bool>,
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
        let (expected, text, vision) = match family {
            Family::Clip => {
                let vision = json!({
                    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
                    "hidden_act": "quick_gelu", "layer_norm_eps": CLIP_EPS, "vocab_size": 49_408,
                    "max_position_embeddings": 77, "image_size": 224, "patch_size": 32,
                });
                let mut text = vision.clone();
                text["hidden_size"] = 512.into();
                text["intermediate_size"] = 2048.into();
                text["num_attention_heads"] = 8.into();
                ("clip", text, vision)
            }
            Family::Siglip => {
                let both = json!({
                    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
                    "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "vocab_size": 32_000,
                    "max_position_embeddings": 64, "image_size": 224, "patch_size": 16,
                });
                ("siglip", both.clone(), both)
            }
        };
        let kind = value.get("model_type").and_then(Value::as_str);
        if kind != Some(expected) {
            return Err(format!("`model_type` is {kind:?}, this learner needs \"{expected}\""));
        }
        let (text, vision) = (
            Part::of(value, "text_config", text)?,
            Part::of(value, "vision_config", vision)?,
        );
        let projection = match value.get("projection_dim") {
            None => 512,
            Some(dim) => dim.as_u64().ok_or("`projection_dim` is not a number")? as usize,
        };
        bounds::check(&[("projection_dim", projection, bounds::WIDTH)])?;
        if projection == 0 {
            return Err("projection_dim is 0".into());
        }
        if family == Family::Siglip {
            let (from, to) = (text.hidden_size, text.projection_size);
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
        self.vision.image_size
    }

    /// Tokens that a text may have.
    #[must_use]
    pub fn context(&self) -> usize {
        self.text.max_position_embeddings
    }

    pub(super) fn clip(&self) -> clip::ClipConfig {
        let (text, vision) = (&self.text, &self.vision);
        let activation = clip::text_model::Activation::QuickGelu;
        clip::ClipConfig {
            text_config: clip::text_model::ClipTextConfig {
                vocab_size: text.vocab_size,
                embed_dim: text.hidden_size,
                activation,
                intermediate_size: text.intermediate_size,
                max_position_embeddings: text.max_position_embeddings,
                pad_with: None,
                num_hidden_layers: text.num_hidden_layers,
                num_attention_heads: text.num_attention_heads,
                projection_dim: self.projection,
            },
            vision_config: clip::vision_model::ClipVisionConfig {
                embed_dim: vision.hidden_size,
                activation,
                intermediate_size: vision.intermediate_size,
                num_hidden_layers: vision.num_hidden_layers,
                num_attention_heads: vision.num_attention_heads,
                projection_dim: self.projection,
                num_channels: 3,
                image_size: vision.image_size,
                patch_size: vision.patch_size,
            },
            // Read from the weights.
            logit_scale_init_value: 0.0,
            image_size: vision.image_size,
        }
    }

    pub(super) fn siglip(&self) -> siglip::Config {
        let (text, vision) = (&self.text, &self.vision);
        siglip::Config {
            text_config: siglip::TextConfig {
                vocab_size: text.vocab_size,
                hidden_size: text.hidden_size,
                intermediate_size: text.intermediate_size,
                num_hidden_layers: text.num_hidden_layers,
                num_attention_heads: text.num_attention_heads,
                max_position_embeddings: text.max_position_embeddings,
                hidden_act: activation(&text.hidden_act),
                layer_norm_eps: text.layer_norm_eps,
                // Not used by the model.
                pad_token_id: 1,
                bos_token_id: 0,
                eos_token_id: 1,
            },
            vision_config: siglip::VisionConfig {
                hidden_size: vision.hidden_size,
                intermediate_size: vision.intermediate_size,
                num_hidden_layers: vision.num_hidden_layers,
                num_attention_heads: vision.num_attention_heads,
                num_channels: 3,
                image_size: vision.image_size,
                patch_size: vision.patch_size,
                hidden_act: activation(&vision.hidden_act),
                layer_norm_eps: vision.layer_norm_eps,
            },
        }
    }
}

/// Of those that [`Part::check`] lets through.
fn activation(name: &str) -> candle_nn::Activation {
    match name {
        "gelu" => candle_nn::Activation::Gelu,
        _ => candle_nn::Activation::GeluPytorchTanh,
    }
}

impl Part {
    /// The part of this name; what it leaves out or has as null is that of the base model.
    fn of(config: &Value, name: &str, mut base: Value) -> Result<Self, String> {
        let part = match (config.get(name), base.as_object_mut()) {
            (Some(Value::Object(given)), Some(all)) => {
                let given = given.iter().filter(|(_, value)| !value.is_null());
                all.extend(given.map(|(field, value)| (field.clone(), value.clone())));
                base
            }
            (None, _) => base,
            (Some(other), _) => other.clone(),
        };
        serde_json::from_value(part).map_err(|e| format!("`{name}`: {e}"))
    }

    fn check(&self, family: Family) -> Result<(), String> {
        bounds::check(&[
            ("hidden_size", self.hidden_size, bounds::WIDTH),
            ("intermediate_size", self.intermediate_size, bounds::MIDDLE),
            ("num_hidden_layers", self.num_hidden_layers, bounds::LAYERS),
            ("num_attention_heads", self.num_attention_heads, bounds::HEADS),
            ("vocab_size", self.vocab_size, bounds::VOCABULARY),
            (
                "max_position_embeddings",
                self.max_position_embeddings,
                bounds::POSITIONS,
            ),
            ("image_size", self.image_size, bounds::IMAGE),
            ("patch_size", self.patch_size, bounds::PATCH),
        ])?;
        bounds::check_heads(self.hidden_size, self.num_attention_heads)?;
        bounds::check_patch(self.image_size, self.patch_size)?;
        if self.max_position_embeddings == 0 {
            return Err("max_position_embeddings is 0".into());
        }
        let supported: &[&str] = match family {
            Family::Clip => &["quick_gelu"],
            Family::Siglip => &["gelu_pytorch_tanh", "gelu"],
        };
        let act = self.hidden_act.as_str();
        if !supported.contains(&act) {
            let supported = supported.join("`, `");
            return Err(format!("hidden_act `{act}` is not supported, only `{supported}`"));
        }
        if family == Family::Clip && (self.layer_norm_eps - CLIP_EPS).abs() > 1e-12 {
            return Err(format!(
                "layer_norm_eps {} is not supported, only {CLIP_EPS}",
                self.layer_norm_eps
            ));
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
            (config.context(), config.image_size(), config.vision.patch_size),
            (64, 224, 16)
        );
        assert_eq!(
            (
                config.text.hidden_size,
                config.text.intermediate_size,
                config.text.num_attention_heads
            ),
            (768, 3072, 12)
        );
        let clip = Config::new(&json!({"model_type": "clip"}), Family::Clip).unwrap();
        assert_eq!(
            (
                clip.text.hidden_size,
                clip.text.num_attention_heads,
                clip.vision.hidden_size,
                clip.projection
            ),
            (512, 8, 768, 512)
        );
        assert_eq!(
            (clip.context(), clip.vision.patch_size, clip.text.vocab_size),
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
