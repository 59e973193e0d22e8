//! The part of `config.json` that is about experts.

use serde::Deserialize;

use crate::checkpoint::bounds;

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
pub(super) struct Layers {
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

impl Layers {
    /// The first problem with the experts of a `qwen3_vl_moe`, in words.
    pub(super) fn check(&self) -> Result<(), String> {
        bounds::check(&[
            ("num_experts", self.num_experts.unwrap_or(0), bounds::HEADS),
            (
                "moe_intermediate_size",
                self.moe_intermediate_size.unwrap_or(0),
                bounds::MIDDLE,
            ),
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

    /// The experts of layer `i`, if it has any.
    pub(super) fn experts(&self, i: usize) -> Option<ExpertConfig> {
        let step = self.decoder_sparse_step.unwrap_or(1);
        let dense = self.mlp_only_layers.as_ref().is_some_and(|layers| layers.contains(&i));
        if dense || !(i + 1).is_multiple_of(step) {
            return None;
        }
        Some(ExpertConfig {
            count: self.num_experts?,
            chosen: self.num_experts_per_tok?,
            middle: self.moe_intermediate_size?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;

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
