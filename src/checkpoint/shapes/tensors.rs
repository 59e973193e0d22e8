//! The tensors that a config asks for, by hub name.

use serde_json::Value;

/// Names and shapes in the order of the layers; none for a config of another architecture.
#[must_use]
pub fn tensors(config: &Value) -> Option<Vec<(String, Vec<usize>)>> {
    let mut list = List(Vec::new());
    match (config.get("text_config"), config.get("vision_config")) {
        (Some(text), Some(tower)) => {
            list.tower(tower)?;
            list.decoder(text)?;
            let tied = [config, text]
                .iter()
                .find_map(|part| part.get("tie_word_embeddings")?.as_bool());
            if !tied.unwrap_or(false) {
                list.add(
                    "lm_head.weight",
                    [number(text, "vocab_size")?, number(text, "hidden_size")?],
                );
            }
        }
        _ => list.vision(config)?,
    }
    Some(list.0)
}

/// Number of elements of these tensors.
#[must_use]
pub fn numbers(tensors: &[(String, Vec<usize>)]) -> u64 {
    let count = |(_, shape): &(String, Vec<usize>)| shape.iter().map(|&side| side as u64).product::<u64>();
    tensors.iter().map(count).sum()
}

fn number(part: &Value, name: &str) -> Option<usize> {
    Some(part.get(name)?.as_u64()? as usize)
}

struct List(Vec<(String, Vec<usize>)>);

impl List {
    fn add<const N: usize>(&mut self, name: &str, shape: [usize; N]) {
        self.0.push((name.to_owned(), shape.into()));
    }

    fn linear(&mut self, name: &str, from: usize, to: usize, bias: bool) {
        self.add(&format!("{name}.weight"), [to, from]);
        if bias {
            self.add(&format!("{name}.bias"), [to]);
        }
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.add(&format!("{name}.weight"), [width]);
        self.add(&format!("{name}.bias"), [width]);
    }

    /// The vision tower of a Qwen3-VL.
    fn tower(&mut self, vision: &Value) -> Option<()> {
        let of = |name: &str| number(vision, name);
        let (w, middle, patch) = (of("hidden_size")?, of("intermediate_size")?, of("patch_size")?);
        let at = |end: &str| format!("model.visual.{end}");
        let kernel = [w, of("in_channels")?, of("temporal_patch_size")?, patch, patch];
        self.add(&at("patch_embed.proj.weight"), kernel);
        self.add(&at("patch_embed.proj.bias"), [w]);
        self.add(&at("pos_embed.weight"), [of("num_position_embeddings")?, w]);
        for i in 0..of("depth")? {
            let name = |end: &str| at(&format!("blocks.{i}.{end}"));
            self.norm(&name("norm1"), w);
            self.linear(&name("attn.qkv"), w, 3 * w, true);
            self.linear(&name("attn.proj"), w, w, true);
            self.norm(&name("norm2"), w);
            self.linear(&name("mlp.linear_fc1"), w, middle, true);
            self.linear(&name("mlp.linear_fc2"), middle, w, true);
        }
        let (square, out) = (w * of("spatial_merge_size")?.pow(2), of("out_hidden_size")?);
        let deepstack = vision.get("deepstack_visual_indexes")?.as_array()?.len();
        let lists = (0..deepstack).map(|i| (format!("deepstack_merger_list.{i}"), square));
        for (name, norm) in std::iter::once(("merger".to_owned(), w)).chain(lists) {
            self.norm(&at(&format!("{name}.norm")), norm);
            self.linear(&at(&format!("{name}.linear_fc1")), square, square, true);
            self.linear(&at(&format!("{name}.linear_fc2")), square, out, true);
        }
        Some(())
    }

    fn decoder(&mut self, text: &Value) -> Option<()> {
        let of = |name: &str| number(text, name);
        let (d, heads, keys) = (
            of("hidden_size")?,
            of("num_attention_heads")?,
            of("num_key_value_heads")?,
        );
        let k = of("head_dim").or_else(|| d.checked_div(heads))?;
        let bias = text.get("attention_bias").and_then(Value::as_bool).unwrap_or(false);
        let at = |end: &str| format!("model.language_model.{end}");
        self.add(&at("embed_tokens.weight"), [of("vocab_size")?, d]);
        for i in 0..of("num_hidden_layers")? {
            let name = |end: &str| at(&format!("layers.{i}.{end}"));
            self.add(&name("input_layernorm.weight"), [d]);
            self.linear(&name("self_attn.q_proj"), d, heads * k, bias);
            self.linear(&name("self_attn.k_proj"), d, keys * k, bias);
            self.linear(&name("self_attn.v_proj"), d, keys * k, bias);
            self.linear(&name("self_attn.o_proj"), heads * k, d, bias);
            self.add(&name("self_attn.q_norm.weight"), [k]);
            self.add(&name("self_attn.k_norm.weight"), [k]);
            self.add(&name("post_attention_layernorm.weight"), [d]);
            match of("num_experts").filter(|&experts| experts > 0) {
                Some(experts) => {
                    let middle = of("moe_intermediate_size")?;
                    self.linear(&name("mlp.gate"), d, experts, false);
                    self.add(&name("mlp.experts.gate_up_proj"), [experts, d, 2 * middle]);
                    self.add(&name("mlp.experts.down_proj"), [experts, middle, d]);
                }
                None => {
                    let middle = of("intermediate_size")?;
                    self.linear(&name("mlp.gate_proj"), d, middle, false);
                    self.linear(&name("mlp.up_proj"), d, middle, false);
                    self.linear(&name("mlp.down_proj"), middle, d, false);
                }
            }
        }
        self.add(&at("norm.weight"), [d]);
        Some(())
    }

    /// A DINOv2.
    fn vision(&mut self, config: &Value) -> Option<()> {
        let of = |name: &str| number(config, name);
        let (d, patch, side) = (of("hidden_size")?, of("patch_size")?, of("image_size")?);
        let ratio = config.get("mlp_ratio").and_then(Value::as_f64).unwrap_or(4.0);
        let swiglu = config.get("use_swiglu_ffn").and_then(Value::as_bool).unwrap_or(false);
        let wide = (d as f64 * ratio) as usize;
        let bias = config.get("qkv_bias").and_then(Value::as_bool).unwrap_or(true);
        self.add("embeddings.cls_token", [1, 1, d]);
        self.add("embeddings.mask_token", [1, d]);
        if config.get("model_type")?.as_str()? == "dinov2_with_registers" {
            self.add(
                "embeddings.register_tokens",
                [1, of("num_register_tokens").unwrap_or(4), d],
            );
        }
        self.add("embeddings.position_embeddings", [1, 1 + (side / patch).pow(2), d]);
        self.add("embeddings.patch_embeddings.projection.weight", [d, 3, patch, patch]);
        self.add("embeddings.patch_embeddings.projection.bias", [d]);
        for i in 0..of("num_hidden_layers")? {
            let name = |end: &str| format!("encoder.layer.{i}.{end}");
            self.norm(&name("norm1"), d);
            for part in ["query", "key", "value"] {
                self.linear(&name(&format!("attention.attention.{part}")), d, d, bias);
            }
            self.linear(&name("attention.output.dense"), d, d, true);
            self.add(&name("layer_scale1.lambda1"), [d]);
            self.norm(&name("norm2"), d);
            if swiglu {
                let half = ((wide as f64 * 2.0 / 3.0) as usize).div_ceil(8) * 8;
                self.linear(&name("mlp.weights_in"), d, 2 * half, true);
                self.linear(&name("mlp.weights_out"), half, d, true);
            } else {
                self.linear(&name("mlp.fc1"), d, wide, true);
                self.linear(&name("mlp.fc2"), wide, d, true);
            }
            self.add(&name("layer_scale2.lambda1"), [d]);
        }
        self.norm("layernorm", d);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::config;
    use super::*;

    /// The sizes in the names and of the papers, and those that the hub's pages show.
    #[test]
    fn published_sizes() {
        for (name, billions) in [
            ("qwen3-vl-2b", 2.127),
            ("qwen3-vl-4b", 4.438),
            ("qwen3-vl-8b", 8.767),
            ("qwen3-vl-32b", 33.36),
            ("qwen3-vl-30b-a3b", 31.07),
            ("qwen3-vl-235b-a22b", 235.7),
            ("dinov2-small", 0.0221),
            ("dinov2-base", 0.0866),
            ("dinov2-large", 0.3044),
            ("dinov2-giant", 1.1365),
        ] {
            let found = numbers(&tensors(&config(name).unwrap()).unwrap()) as f64 / 1e9;
            assert!((found / billions - 1.0).abs() < 0.002, "{name}: {found}");
        }
    }

    /// The contents of the committed micro models, tensor by tensor.
    #[test]
    fn the_same_tensors_as_in_files() {
        let models = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/mini/models");
        for name in ["micro-dinov2", "micro-qwen3-vl"] {
            let folder = models.join(name);
            let config = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
            let mut expected: Vec<_> = crate::checkpoint::weights::Weights::open(&folder)
                .unwrap()
                .shapes()
                .map(|(name, shape)| (name.to_owned(), shape.to_vec()))
                .collect();
            let mut found = tensors(&config).unwrap();
            let unneeded = |name: &str| name == "embeddings.mask_token" || name == "lm_head.weight";
            found.retain(|(name, _)| !unneeded(name));
            expected.retain(|(name, _)| !unneeded(name));
            found.sort();
            assert_eq!(found, expected, "{name}");
        }
    }
}
