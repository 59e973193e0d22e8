//! The shapes of published models: what their `config.json` and `preprocessor_config.json` say, and which tensors their
//! weights are made of. Written down from public material, since nothing is fetched for them.

use serde_json::{Value, json};

/// Every shape, as a user names it.
pub const NAMES: [&str; 16] = [
    "qwen3-vl-2b",
    "qwen3-vl-4b",
    "qwen3-vl-8b",
    "qwen3-vl-32b",
    "qwen3-vl-30b-a3b",
    "qwen3-vl-235b-a22b",
    "qwen-medium",
    "qwen-tiny",
    "dinov2-small",
    "dinov2-base",
    "dinov2-large",
    "dinov2-giant",
    "dinov2-with-registers-small",
    "dinov2-with-registers-base",
    "dinov2-with-registers-large",
    "dinov2-with-registers-giant",
];

/// The decoder of a Qwen3-VL and the tower before it.
struct Writing {
    hidden: usize,
    layers: usize,
    heads: usize,
    key_heads: usize,
    head: usize,
    middle: usize,
    /// Experts in all, for a token, and the width of one's middle.
    experts: Option<[usize; 3]>,
    tied: bool,
    vocabulary: usize,
    /// Of the placeholder of images; those of video, start and end are told from it.
    image: u32,
    sections: [usize; 3],
    tower: Tower,
}

struct Tower {
    width: usize,
    depth: usize,
    middle: usize,
    heads: usize,
    deepstack: [usize; 3],
}

const SMALL_TOWER: Tower = Tower {
    width: 1024,
    depth: 24,
    middle: 4096,
    heads: 16,
    deepstack: [5, 11, 17],
};
const LARGE_TOWER: Tower = Tower {
    width: 1152,
    depth: 27,
    middle: 4304,
    heads: 16,
    deepstack: [8, 16, 24],
};

/// `config.json` of a shape by one of [`NAMES`], or by its repository on the hub; none for others.
#[must_use]
pub fn config(name: &str) -> Option<Value> {
    let name = name.to_lowercase();
    let name = name.strip_prefix("qwen/").unwrap_or(&name);
    let name = name.strip_prefix("facebook/").unwrap_or(name);
    let name = name.strip_suffix("-instruct").unwrap_or(name);
    if let Some(size) = name.strip_prefix("dinov2-") {
        return vision(size);
    }
    let published = |hidden, layers, heads, middle, tied, tower| Writing {
        hidden,
        layers,
        heads,
        key_heads: 8,
        head: 128,
        middle,
        experts: None,
        tied,
        vocabulary: 151_936,
        image: 151_655,
        sections: [24, 20, 20],
        tower,
    };
    let mixed = |hidden, layers, heads, middle, expert| Writing {
        key_heads: 4,
        experts: Some([128, 8, expert]),
        ..published(hidden, layers, heads, middle, false, LARGE_TOWER)
    };
    Some(writing(&match name {
        "qwen3-vl-2b" => published(2048, 28, 16, 6144, true, SMALL_TOWER),
        "qwen3-vl-4b" => published(2560, 36, 32, 9728, true, SMALL_TOWER),
        "qwen3-vl-8b" => published(4096, 36, 32, 12288, false, LARGE_TOWER),
        "qwen3-vl-32b" => published(5120, 64, 64, 25600, false, LARGE_TOWER),
        "qwen3-vl-30b-a3b" => mixed(2048, 48, 32, 6144, 768),
        "qwen3-vl-235b-a22b" => mixed(4096, 94, 64, 12288, 1536),
        "qwen-medium" => made_up(256, 8, 8, 768),
        "qwen-tiny" => made_up(64, 2, 4, 96),
        _ => return None,
    }))
}

/// A shape that two cores train quickly: decoder and tower are as deep and as wide as each other.
fn made_up(hidden: usize, layers: usize, heads: usize, middle: usize) -> Writing {
    Writing {
        hidden,
        layers,
        heads,
        key_heads: heads / 2,
        head: 32,
        middle,
        experts: None,
        tied: true,
        vocabulary: 2048,
        image: 2000,
        sections: [8, 4, 4],
        tower: Tower {
            width: hidden,
            depth: layers,
            middle: 4 * hidden,
            heads,
            deepstack: if layers < 6 { [0, 1, 1] } else { [1, 3, 5] },
        },
    }
}

fn writing(shape: &Writing) -> Value {
    let (kind, class) = match shape.experts {
        Some(_) => ("qwen3_vl_moe", "Qwen3VLMoe"),
        None => ("qwen3_vl", "Qwen3VL"),
    };
    let mut deepstack = shape.tower.deepstack.to_vec();
    deepstack.dedup();
    let mut config = json!({
        "architectures": [format!("{class}ForConditionalGeneration")],
        "model_type": kind,
        "image_token_id": shape.image,
        "video_token_id": shape.image + 1,
        "vision_start_token_id": if shape.image > 100_000 { 151_652 } else { shape.image + 2 },
        "vision_end_token_id": if shape.image > 100_000 { 151_653 } else { shape.image + 3 },
        "tie_word_embeddings": shape.tied,
        "text_config": {
            "model_type": format!("{kind}_text"),
            "dtype": "bfloat16",
            "hidden_size": shape.hidden,
            "intermediate_size": shape.middle,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.key_heads,
            "head_dim": shape.head,
            "hidden_act": "silu",
            "attention_bias": false,
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "max_position_embeddings": 262_144,
            "rms_norm_eps": 1e-6,
            "rope_theta": 5_000_000,
            "rope_scaling": {"rope_type": "default", "mrope_interleaved": true, "mrope_section": shape.sections},
            "use_cache": true,
            "vocab_size": shape.vocabulary,
            "tie_word_embeddings": shape.tied,
        },
        "vision_config": {
            "model_type": kind,
            "hidden_size": shape.tower.width,
            "intermediate_size": shape.tower.middle,
            "depth": shape.tower.depth,
            "num_heads": shape.tower.heads,
            "deepstack_visual_indexes": deepstack,
            "out_hidden_size": shape.hidden,
            "num_position_embeddings": 2304,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "in_channels": 3,
            "hidden_act": "gelu_pytorch_tanh",
            "initializer_range": 0.02,
        },
    });
    if let (Some([all, of_token, middle]), Some(text)) = (shape.experts, config["text_config"].as_object_mut()) {
        text.extend([
            ("num_experts".to_owned(), all.into()),
            ("num_experts_per_tok".to_owned(), of_token.into()),
            ("moe_intermediate_size".to_owned(), middle.into()),
            ("decoder_sparse_step".to_owned(), 1.into()),
            ("mlp_only_layers".to_owned(), json!([])),
            ("norm_topk_prob".to_owned(), true.into()),
        ]);
    }
    config
}

fn vision(size: &str) -> Option<Value> {
    let registered = size.strip_prefix("with-registers-");
    let (registers, size) = (registered.is_some(), registered.unwrap_or(size));
    let (width, depth, heads) = match size {
        "small" => (384, 12, 6),
        "base" => (768, 12, 12),
        "large" => (1024, 24, 16),
        "giant" => (1536, 40, 24),
        _ => return None,
    };
    let mut config = json!({
        "architectures": [if registers { "Dinov2WithRegistersModel" } else { "Dinov2Model" }],
        "model_type": if registers { "dinov2_with_registers" } else { "dinov2" },
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "mlp_ratio": 4,
        "use_swiglu_ffn": size == "giant",
        "hidden_act": "gelu",
        "image_size": 518,
        "patch_size": 14,
        "num_channels": 3,
        "qkv_bias": true,
        "layerscale_value": 1.0,
        "layer_norm_eps": 1e-6,
        "initializer_range": 0.02,
    });
    if registers {
        config["num_register_tokens"] = 4.into();
    }
    Some(config)
}

/// Cuts a config to `layers` layers, if it has more. The tower of a Qwen3-VL keeps the same share of its blocks, rounded
/// up; its deepstack is taken from the same relative depths, from each block and for each layer once at most.
pub fn cut(config: &mut Value, layers: usize) {
    let number = |value: &Value| value.as_u64().unwrap_or(0) as usize;
    if config.get("vision_config").is_none() {
        let kept = layers.clamp(1, number(&config["num_hidden_layers"]).max(1));
        config["num_hidden_layers"] = kept.into();
        return;
    }
    let of = number(&config["text_config"]["num_hidden_layers"]).max(1);
    let depth = number(&config["vision_config"]["depth"]).max(1);
    let kept = layers.clamp(1, of);
    let blocks = (depth * kept).div_ceil(of);
    let taps = config["vision_config"]["deepstack_visual_indexes"].as_array();
    let taps = taps.into_iter().flatten();
    let mut taps: Vec<usize> = taps.map(|tap| number(tap) * blocks / depth).collect();
    taps.dedup();
    taps.truncate(kept);
    config["text_config"]["num_hidden_layers"] = kept.into();
    config["vision_config"]["depth"] = blocks.into();
    config["vision_config"]["deepstack_visual_indexes"] = taps.into();
}

/// `preprocessor_config.json` that belongs to a config.
#[must_use]
pub fn preprocessor(config: &Value) -> Value {
    if config.get("vision_config").is_none() {
        return json!({
            "image_processor_type": "BitImageProcessor",
            "do_resize": true,
            "size": {"shortest_edge": 256},
            "resample": 3,
            "do_center_crop": true,
            "crop_size": {"height": 224, "width": 224},
            "do_rescale": true,
            "rescale_factor": 1.0 / 255.0,
            "do_normalize": true,
            "do_convert_rgb": true,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        });
    }
    // The made-up shapes take pictures of 224 pixels as they are.
    let published = config["text_config"]["vocab_size"].as_u64() > Some(100_000);
    json!({
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "processor_class": "Qwen3VLProcessor",
        "size": {"shortest_edge": if published { 65_536 } else { 4096 }, "longest_edge": 16_777_216},
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    })
}

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
                let shape = [number(text, "vocab_size")?, number(text, "hidden_size")?];
                list.add("lm_head.weight", shape);
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
        let (d, heads) = (of("hidden_size")?, of("num_attention_heads")?);
        let keys = of("num_key_value_heads")?;
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
            let registers = of("num_register_tokens").unwrap_or(4);
            self.add("embeddings.register_tokens", [1, registers, d]);
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
    use super::*;

    #[test]
    fn every_name_is_a_shape_and_repositories_are_the_same() {
        for name in NAMES {
            assert!(config(name).is_some(), "{name}");
        }
        for (repository, name) in [
            ("Qwen/Qwen3-VL-30B-A3B-Instruct", "qwen3-vl-30b-a3b"),
            ("facebook/dinov2-with-registers-giant", "dinov2-with-registers-giant"),
        ] {
            assert_eq!(config(repository), config(name));
        }
        assert!(config("openai/clip-vit-base-patch32").is_none() && config("dinov2-huge").is_none());
    }

    #[test]
    fn a_cut_keeps_shares_and_every_deepstack_block_is_there() {
        for name in NAMES.iter().filter(|name| name.starts_with("qwen")) {
            for layers in 1..40 {
                let mut config = config(name).unwrap();
                cut(&mut config, layers);
                let text = config["text_config"]["num_hidden_layers"].as_u64().unwrap();
                let depth = config["vision_config"]["depth"].as_u64().unwrap();
                let taps = config["vision_config"]["deepstack_visual_indexes"].as_array().unwrap();
                assert!(text >= 1 && text <= layers as u64 && depth >= 1 && !taps.is_empty());
                assert!(taps.len() as u64 <= text && taps.iter().all(|tap| tap.as_u64().unwrap() < depth));
            }
        }
        let mut half = config("qwen3-vl-2b").unwrap();
        cut(&mut half, 14);
        assert_eq!(half["vision_config"]["depth"], 12);
        assert_eq!(half["vision_config"]["deepstack_visual_indexes"], json!([2, 5, 8]));
        let mut giant = config("dinov2-giant").unwrap();
        cut(&mut giant, 3);
        assert_eq!(giant["num_hidden_layers"], 3);
    }

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
