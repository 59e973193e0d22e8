//! `config.json` of Qwen3-VL, dense and with experts.

use std::path::Path;

use serde::Deserialize;

use crate::checkpoint::architecture::read_config;
use crate::checkpoint::bounds;
use crate::error::{Error, Result};

/// The values of `config.json` that shape the model (transformers' `Qwen3VLConfig` and `Qwen3VLMoeConfig`).
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Config {
    model_type: String,
    /// The decoder.
    pub text_config: TextConfig,
    /// The vision tower.
    pub vision_config: VisionConfig,
    /// The placeholder that stands once for every merged patch.
    pub image_token_id: u32,
    #[serde(default)]
    tie_word_embeddings: Option<bool>,
}

/// The decoder's part (`Qwen3VLTextConfig`).
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct TextConfig {
    /// Width D of a token.
    pub hidden_size: usize,
    /// Width of the middle of a dense MLP.
    pub intermediate_size: usize,
    #[serde(flatten)]
    layers: ExpertLayers,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Heads of the queries.
    pub num_attention_heads: usize,
    /// Heads of keys and values; they divide those of the queries.
    pub num_key_value_heads: usize,
    #[serde(default)]
    head_dim: Option<usize>,
    /// Rows of the embedding table, V.
    pub vocab_size: usize,
    /// Epsilon of every RMS norm.
    pub rms_norm_eps: f64,
    /// True if the attention's linear layers have a bias.
    #[serde(default)]
    pub attention_bias: bool,
    hidden_act: String,
    #[serde(default)]
    rope_theta: Option<f64>,
    #[serde(default)]
    rope_scaling: Option<Rope>,
    #[serde(default)]
    rope_parameters: Option<Rope>,
    #[serde(default)]
    tie_word_embeddings: Option<bool>,
}

/// `rope_scaling` of the hub's files; `rope_parameters`, with theta, where transformers 5 wrote them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Rope {
    #[serde(default)]
    rope_theta: Option<f64>,
    #[serde(default)]
    rope_type: Option<String>,
    #[serde(default)]
    mrope_section: Option<[usize; 3]>,
    #[serde(default)]
    mrope_interleaved: Option<bool>,
}

/// The vision tower's part (`Qwen3VLVisionConfig`).
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct VisionConfig {
    /// Width of a patch's token.
    pub hidden_size: usize,
    /// Width of the MLP's middle.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Rows of the position table, a square.
    pub num_position_embeddings: usize,
    /// Blocks whose output goes, merged, into the first decoder layers.
    pub deepstack_visual_indexes: Vec<usize>,
    /// Width of a merged token, the decoder's D.
    pub out_hidden_size: usize,
    /// Pixels per side of a patch.
    pub patch_size: usize,
    /// Patches per side of a merged token.
    pub spatial_merge_size: usize,
    /// Frames of a patch; an image is repeated to fill them.
    pub temporal_patch_size: usize,
    /// Colour channels.
    pub in_channels: usize,
    hidden_act: String,
    #[serde(default)]
    rope_parameters: Option<Rope>,
}

impl Config {
    /// Reads `config.json`; also gives its bytes.
    ///
    /// # Errors
    /// [`Error::Model`] when the file is missing, is no Qwen3-VL config, or its numbers do not fit together.
    pub fn load(dir: &Path) -> Result<(Self, Vec<u8>)> {
        let (path, bytes) = read_config(dir)?;
        let config = Self::parse(&bytes).map_err(|reason| Error::model(path, reason))?;
        Ok((config, bytes))
    }

    /// A config from the text of `config.json`.
    ///
    /// # Errors
    /// The first problem with it, in words.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let any: serde_json::Value = serde_json::from_slice(text).map_err(|e| format!("not JSON: {e}"))?;
        let kind = any.get("model_type").and_then(serde_json::Value::as_str);
        match kind {
            Some("qwen3_vl" | "qwen3_vl_moe") => {}
            Some(other) => {
                return Err(format!(
                    "model_type `{other}` is not supported, only `qwen3_vl` and `qwen3_vl_moe`"
                ));
            }
            None => return Err("there is no model_type".into()),
        }
        let mut config: Self = serde_json::from_value(any).map_err(|e| format!("not a Qwen3-VL config: {e}"))?;
        if config.model_type == "qwen3_vl_moe" {
            config.text_config.layers.check()?;
        } else {
            config.text_config.layers = ExpertLayers::default();
        }
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let (text, vision) = (&self.text_config, &self.vision_config);
        let section = text.mrope_section().into_iter().max().unwrap_or(0);
        let (vision_middle, positions) = (vision.intermediate_size, vision.num_position_embeddings);
        bounds::check(&[
            ("hidden_size", text.hidden_size, bounds::WIDTH),
            ("intermediate_size", text.intermediate_size, bounds::MIDDLE),
            ("num_hidden_layers", text.num_hidden_layers, bounds::LAYERS),
            ("num_attention_heads", text.num_attention_heads, bounds::HEADS),
            ("num_key_value_heads", text.num_key_value_heads, bounds::HEADS),
            ("head_dim", text.head_dim.unwrap_or(0), bounds::WIDTH),
            ("vocab_size", text.vocab_size, bounds::VOCABULARY),
            ("mrope_section", section, bounds::WIDTH),
            ("hidden_size of the vision tower", vision.hidden_size, bounds::WIDTH),
            ("intermediate_size of the vision tower", vision_middle, bounds::MIDDLE),
            ("depth", vision.depth, bounds::LAYERS),
            ("num_heads", vision.num_heads, bounds::HEADS),
            ("num_position_embeddings", positions, bounds::POSITIONS),
            ("out_hidden_size", vision.out_hidden_size, bounds::WIDTH),
            ("patch_size", vision.patch_size, bounds::PATCH),
            ("spatial_merge_size", vision.spatial_merge_size, bounds::FEW),
            ("temporal_patch_size", vision.temporal_patch_size, bounds::FEW),
            ("in_channels", vision.in_channels, bounds::FEW),
        ])?;
        let positive = [
            ("hidden_size", text.hidden_size),
            ("num_attention_heads", text.num_attention_heads),
            ("num_key_value_heads", text.num_key_value_heads),
            ("vocab_size", text.vocab_size),
            ("patch_size", vision.patch_size),
            ("spatial_merge_size", vision.spatial_merge_size),
            ("temporal_patch_size", vision.temporal_patch_size),
            ("num_heads", vision.num_heads),
            ("num_position_embeddings", positions),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{name} is 0"));
        }
        if text.num_attention_heads % text.num_key_value_heads != 0 {
            let (heads, keys) = (text.num_attention_heads, text.num_key_value_heads);
            return Err(format!(
                "num_attention_heads {heads} is not a multiple of num_key_value_heads {keys}"
            ));
        }
        if text.head_dim() % 2 != 0 || text.head_dim() == 0 {
            return Err(format!("head_dim {} is not even", text.head_dim()));
        }
        if vision.hidden_size % vision.num_heads != 0 || vision.head_dim() % 4 != 0 || vision.head_dim() == 0 {
            let (d, heads) = (vision.hidden_size, vision.num_heads);
            return Err(format!(
                "the vision tower's hidden_size {d} over {heads} heads is not a multiple of 4"
            ));
        }
        if vision.out_hidden_size != text.hidden_size {
            let (out, d) = (vision.out_hidden_size, text.hidden_size);
            return Err(format!(
                "out_hidden_size {out} of the vision tower is not the decoder's hidden_size {d}"
            ));
        }
        let deep = &vision.deepstack_visual_indexes;
        if deep.iter().any(|&index| index >= vision.depth) || deep.len() > text.num_hidden_layers {
            return Err(format!("deepstack_visual_indexes {deep:?} do not fit the depths"));
        }
        if deep.iter().enumerate().any(|(i, index)| deep[..i].contains(index)) {
            return Err(format!("deepstack_visual_indexes {deep:?} repeat a block"));
        }
        if vision.side().pow(2) != positions {
            return Err(format!("num_position_embeddings {positions} is no square"));
        }
        if text.hidden_act != "silu" || vision.hidden_act != "gelu_pytorch_tanh" {
            let (text, vision) = (&text.hidden_act, &vision.hidden_act);
            return Err(format!(
                "hidden_act `{text}` and `{vision}`: only `silu` and `gelu_pytorch_tanh` are supported"
            ));
        }
        text.check_rope()
    }

    /// True if the embedding table is also the head.
    #[must_use]
    pub fn tied(&self) -> bool {
        let stated = self.tie_word_embeddings.or(self.text_config.tie_word_embeddings);
        stated.unwrap_or(false)
    }
}

impl TextConfig {
    /// Width K of a head.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    /// The experts of layer `i`; none where it is dense.
    #[must_use]
    pub fn experts(&self, i: usize) -> Option<ExpertConfig> {
        let layers = &self.layers;
        let step = layers.decoder_sparse_step.unwrap_or(1);
        let dense = layers.mlp_only_layers.as_ref().is_some_and(|dense| dense.contains(&i));
        if dense || !(i + 1).is_multiple_of(step) {
            return None;
        }
        Some(ExpertConfig {
            count: layers.num_experts?,
            chosen: layers.num_experts_per_tok?,
            middle: layers.moe_intermediate_size?,
        })
    }

    fn rope(&self) -> impl Iterator<Item = &Rope> {
        self.rope_parameters.iter().chain(&self.rope_scaling)
    }

    /// Base of the rotary frequencies.
    #[must_use]
    pub fn rope_theta(&self) -> f64 {
        let stated = self.rope().find_map(|rope| rope.rope_theta);
        stated.or(self.rope_theta).unwrap_or(5_000_000.0)
    }

    /// Frequencies that turn by time, height and width.
    #[must_use]
    pub fn mrope_section(&self) -> [usize; 3] {
        self.rope().find_map(|rope| rope.mrope_section).unwrap_or([24, 20, 20])
    }

    fn check_rope(&self) -> Result<(), String> {
        for rope in self.rope() {
            if let Some(other) = rope.rope_type.as_deref().filter(|&kind| kind != "default") {
                return Err(format!("rope_type `{other}` is not supported, only `default`"));
            }
            if rope.mrope_interleaved == Some(false) {
                return Err("mrope_interleaved = false is not supported".into());
            }
        }
        Ok(())
    }
}

/// The experts of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertConfig {
    /// E
    pub count: usize,
    /// Number of experts that a token goes through.
    pub chosen: usize,
    /// Width of an expert's middle.
    pub middle: usize,
}

/// The layers that have experts, and their experts (`Qwen3VLMoeTextConfig`); nothing of it stands in a dense model's file.
///
/// `norm_topk_prob` is not read: transformers too scales the weights of the chosen experts to a sum of 1 whatever it
/// says.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
struct ExpertLayers {
    #[serde(default, alias = "num_local_experts")]
    num_experts: Option<usize>,
    #[serde(default)]
    num_experts_per_tok: Option<usize>,
    #[serde(default)]
    moe_intermediate_size: Option<usize>,
    #[serde(default)]
    decoder_sparse_step: Option<usize>,
    #[serde(default)]
    mlp_only_layers: Option<Vec<usize>>,
}

impl ExpertLayers {
    /// The first problem with the experts of a `qwen3_vl_moe`, in words.
    fn check(&self) -> Result<(), String> {
        let middle = self.moe_intermediate_size.unwrap_or(0);
        bounds::check(&[
            ("num_experts", self.num_experts.unwrap_or(0), bounds::HEADS),
            ("moe_intermediate_size", middle, bounds::MIDDLE),
        ])?;
        let numbers = [
            ("num_experts", self.num_experts),
            ("num_experts_per_tok", self.num_experts_per_tok),
            ("moe_intermediate_size", self.moe_intermediate_size),
            ("decoder_sparse_step", self.decoder_sparse_step.or(Some(1))),
        ];
        for (name, number) in numbers {
            match number {
                None => return Err(format!("{name} is missing")),
                Some(0) => return Err(format!("{name} is 0")),
                Some(_) => {}
            }
        }
        let (all, chosen) = (self.num_experts.unwrap_or(0), self.num_experts_per_tok.unwrap_or(0));
        if chosen > all {
            return Err(format!("num_experts_per_tok {chosen} is more than num_experts {all}"));
        }
        Ok(())
    }
}

impl VisionConfig {
    /// Width of a head.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    /// Rows and columns of the position table.
    #[must_use]
    pub fn side(&self) -> usize {
        self.num_position_embeddings.isqrt()
    }

    /// Numbers of a patch, all frames and channels.
    #[must_use]
    pub fn patch_width(&self) -> usize {
        self.in_channels * self.temporal_patch_size * self.patch_size * self.patch_size
    }

    /// Base of the rotary frequencies.
    #[must_use]
    pub fn rope_theta(&self) -> f64 {
        let stated = self.rope_parameters.as_ref().and_then(|rope| rope.rope_theta);
        stated.unwrap_or(10_000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::shapes;

    const SMALL: &str = r#"{"model_type": "qwen3_vl", "image_token_id": 9, "tie_word_embeddings": true,
        "text_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 10, "rms_norm_eps": 1e-6, "hidden_act": "silu",
            "rope_theta": 5000000, "rope_scaling": {"mrope_interleaved": true, "mrope_section": [4, 2, 2], "rope_type": "default"}},
        "vision_config": {"hidden_size": 16, "intermediate_size": 32, "depth": 2, "num_heads": 2, "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0], "out_hidden_size": 32, "patch_size": 16, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "in_channels": 3, "hidden_act": "gelu_pytorch_tanh"}}"#;

    #[test]
    fn reads_the_hub_form_and_that_of_transformers_5() {
        let config = Config::parse(SMALL.as_bytes()).unwrap();
        assert!(config.tied());
        assert_eq!(config.text_config.mrope_section(), [4, 2, 2]);
        assert_eq!(config.text_config.rope_theta(), 5e6);
        let new = SMALL.replace(
            "\"rope_theta\": 5000000, \"rope_scaling\": {",
            "\"rope_parameters\": {\"rope_theta\": 1e6, ",
        );
        assert_eq!(Config::parse(new.as_bytes()).unwrap().text_config.rope_theta(), 1e6);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (from, to, word) in [
            ("\"qwen3_vl\"", "\"qwen2_5_vl\"", "`qwen3_vl_moe`"),
            (
                "\"num_key_value_heads\": 2",
                "\"num_key_value_heads\": 3",
                "num_key_value_heads",
            ),
            ("\"out_hidden_size\": 32", "\"out_hidden_size\": 31", "out_hidden_size"),
            ("[0]", "[2]", "deepstack"),
            (
                "\"num_position_embeddings\": 16",
                "\"num_position_embeddings\": 15",
                "square",
            ),
            ("\"silu\"", "\"gelu\"", "hidden_act"),
            ("\"rope_type\": \"default\"", "\"rope_type\": \"yarn\"", "yarn"),
        ] {
            let error = Config::parse(SMALL.replace(from, to).as_bytes()).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn cut_shapes_are_read() {
        for name in shapes::NAMES.iter().filter(|name| name.starts_with("qwen")) {
            for layers in 1..40 {
                let mut config = shapes::config(name).unwrap();
                shapes::cut(&mut config, layers);
                if !name.contains("a3b") && !name.contains("a22b") {
                    Config::parse(config.to_string().as_bytes()).unwrap();
                }
            }
        }
    }

    /// `Qwen/Qwen3-VL-235B-A22B-Instruct`, what of its `config.json` shapes the model.
    const LARGE: &str = r#"{"image_token_id": 151655, "model_type": "qwen3_vl_moe", "tie_word_embeddings": false,
        "text_config": {"attention_bias": false, "head_dim": 128, "hidden_act": "silu", "hidden_size": 4096,
            "intermediate_size": 12288, "model_type": "qwen3_vl_moe_text", "num_attention_heads": 64,
            "num_hidden_layers": 94, "num_key_value_heads": 4, "rms_norm_eps": 1e-06,
            "rope_scaling": {"mrope_interleaved": true, "mrope_section": [24, 20, 20], "rope_type": "default"},
            "rope_theta": 5000000, "vocab_size": 151936, "decoder_sparse_step": 1, "mlp_only_layers": [],
            "moe_intermediate_size": 1536, "norm_topk_prob": true, "num_experts": 128, "num_experts_per_tok": 8},
        "vision_config": {"deepstack_visual_indexes": [8, 16, 24], "depth": 27, "hidden_size": 1152,
            "intermediate_size": 4304, "num_heads": 16, "hidden_act": "gelu_pytorch_tanh", "in_channels": 3,
            "model_type": "qwen3_vl_moe", "num_position_embeddings": 2304, "out_hidden_size": 4096, "patch_size": 16,
            "spatial_merge_size": 2, "temporal_patch_size": 2}}"#;

    #[test]
    fn the_largest_model_and_the_form_of_transformers_5() {
        let config = Config::parse(LARGE.as_bytes()).unwrap();
        let experts = config.text_config.experts(93).unwrap();
        assert_eq!((experts.count, experts.chosen, experts.middle), (128, 8, 1536));
        assert!(!config.tied());
        let new = LARGE
            .replace("\"num_experts\"", "\"num_local_experts\"")
            .replace(
                "\"decoder_sparse_step\": 1, \"mlp_only_layers\": [],",
                "\"mlp_only_layers\": null,",
            )
            .replace("\"rope_theta\": 5000000,", "")
            .replace("\"rope_scaling\": {", "\"rope_parameters\": {\"rope_theta\": 5000000, ");
        let config = Config::parse(new.as_bytes()).unwrap();
        assert_eq!(config.text_config.experts(0), Some(experts));
        assert_eq!(config.text_config.rope_theta(), 5e6);
        let tied = LARGE
            .replace("\"tie_word_embeddings\": false,", "")
            .replace("\"head_dim\"", "\"tie_word_embeddings\": true, \"head_dim\"");
        assert!(Config::parse(tied.as_bytes()).unwrap().tied());
    }

    #[test]
    fn some_layers_are_dense() {
        let mixed = LARGE.replace("\"mlp_only_layers\": []", "\"mlp_only_layers\": [3]");
        let mixed = mixed.replace("\"decoder_sparse_step\": 1", "\"decoder_sparse_step\": 2");
        let text = Config::parse(mixed.as_bytes()).unwrap().text_config;
        let sparse: Vec<usize> = (0..8).filter(|&i| text.experts(i).is_some()).collect();
        assert_eq!(sparse, [1, 5, 7]);
        // A dense model has no experts, whatever else its file says.
        let dense = LARGE.replace(
            "\"model_type\": \"qwen3_vl_moe\", \"tie",
            "\"model_type\": \"qwen3_vl\", \"tie",
        );
        assert!(
            Config::parse(dense.as_bytes())
                .unwrap()
                .text_config
                .experts(0)
                .is_none()
        );
    }

    #[test]
    fn experts_that_do_not_fit_are_refused() {
        for (from, to, word) in [
            ("\"num_experts\": 128", "\"num_experts\": 0", "num_experts is 0"),
            ("\"num_experts\": 128", "\"experts\": 128", "num_experts is missing"),
            ("\"num_experts_per_tok\": 8", "\"num_experts_per_tok\": 129", "129"),
            (
                "\"num_experts_per_tok\": 8",
                "\"num_experts_per_tok\": \"8\"",
                "Qwen3-VL config",
            ),
            (
                "\"moe_intermediate_size\": 1536",
                "\"moe_intermediate_size\": 0",
                "moe_intermediate_size",
            ),
            (
                "\"decoder_sparse_step\": 1",
                "\"decoder_sparse_step\": 0",
                "decoder_sparse_step",
            ),
        ] {
            let error = Config::parse(LARGE.replace(from, to).as_bytes()).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
