//! Sizes of models: of a folder by its `config.json`, of some hub repositories without it.

use std::path::Path;

use serde_json::Value;

/// What an estimate needs to know of a base model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Shape {
    /// A decoder with a vision tower.
    Writing(Writing),
    /// A vision transformer.
    Vision(Blocks),
}

/// A Qwen3-VL.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Writing {
    pub(super) hidden: f64,
    pub(super) layers: f64,
    /// Width of the queries: heads times their width.
    pub(super) queries: f64,
    /// Width of keys, and of values.
    pub(super) keys: f64,
    /// Width of the MLP's middle that a token passes through.
    pub(super) middle: f64,
    /// The same of all experts together, with the router; of a dense model, as `middle`.
    pub(super) middle_of_all: f64,
    pub(super) vocabulary: f64,
    pub(super) tied: bool,
    /// Mergers of patches: one, and one for each deepstack layer.
    pub(super) mergers: f64,
    pub(super) tower: Blocks,
}

/// The blocks of a vision transformer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Blocks {
    pub(super) width: f64,
    pub(super) depth: f64,
    pub(super) middle: f64,
    /// Pixels per side of a patch.
    pub(super) patch: f64,
}

impl Shape {
    /// That of a folder in the hub's layout; none if it cannot be read.
    pub(super) fn read(folder: &Path) -> Option<Self> {
        let config: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).ok()?).ok()?;
        let number = |part: &Value, name: &str| part.get(name)?.as_f64();
        if let (Some(text), Some(vision)) = (config.get("text_config"), config.get("vision_config")) {
            let (hidden, heads) = (number(text, "hidden_size")?, number(text, "num_attention_heads")?);
            let head = number(text, "head_dim").unwrap_or(hidden / heads);
            let dense = number(text, "intermediate_size")?;
            // With experts: what a token passes through of them, and the router, a third of a row of middle.
            let (middle, middle_of_all) = match (number(text, "num_experts"), number(text, "moe_intermediate_size")) {
                (Some(all), Some(one)) if all > 0.0 => {
                    let of_token = one * number(text, "num_experts_per_tok")?;
                    (of_token + all / 3.0, one * all + all / 3.0)
                }
                _ => (dense, dense),
            };
            return Some(Self::Writing(Writing {
                hidden,
                layers: number(text, "num_hidden_layers")?,
                queries: heads * head,
                keys: number(text, "num_key_value_heads")? * head,
                middle,
                middle_of_all,
                vocabulary: number(text, "vocab_size")?,
                tied: config
                    .get("tie_word_embeddings")
                    .and_then(Value::as_bool)
                    .unwrap_or(false),
                mergers: vision.get("deepstack_visual_indexes")?.as_array()?.len() as f64 + 1.0,
                tower: Blocks {
                    width: number(vision, "hidden_size")?,
                    depth: number(vision, "depth")?,
                    middle: number(vision, "intermediate_size")?,
                    patch: number(vision, "patch_size")?,
                },
            }));
        }
        let width = number(&config, "hidden_size")?;
        Some(Self::Vision(Blocks {
            width,
            depth: number(&config, "num_hidden_layers")?,
            middle: width * number(&config, "mlp_ratio").unwrap_or(4.0),
            patch: number(&config, "patch_size")?,
        }))
    }

    /// That of a hub repository, as its `config.json` is known to say.
    pub(super) fn known(repository: &str) -> Option<Self> {
        let small = [1024.0, 24.0, 4096.0];
        let large = [1152.0, 27.0, 4304.0];
        // Width, layers, query heads, middle; experts in all and for a token.
        let (text, experts, tied, tower) = match repository {
            "Qwen/Qwen3-VL-2B-Instruct" => ([2048.0, 28.0, 16.0, 6144.0], None, true, small),
            "Qwen/Qwen3-VL-4B-Instruct" => ([2560.0, 36.0, 32.0, 9728.0], None, true, small),
            "Qwen/Qwen3-VL-8B-Instruct" => ([4096.0, 36.0, 32.0, 12288.0], None, false, large),
            "Qwen/Qwen3-VL-32B-Instruct" => ([5120.0, 64.0, 64.0, 25600.0], None, false, large),
            "Qwen/Qwen3-VL-30B-A3B-Instruct" => ([2048.0, 48.0, 32.0, 768.0], Some((128.0, 8.0)), false, large),
            "Qwen/Qwen3-VL-235B-A22B-Instruct" => ([4096.0, 94.0, 64.0, 1536.0], Some((128.0, 8.0)), false, large),
            _ => return Self::known_vision(repository),
        };
        let [hidden, layers, heads, middle] = text;
        // Four heads of keys and values with experts, else eight; each 128 wide. The router is a third of a row of middle.
        let (all, of_token) = experts.unwrap_or((1.0, 1.0));
        let router = if experts.is_some() { all / 3.0 } else { 0.0 };
        Some(Self::Writing(Writing {
            hidden,
            layers,
            queries: 128.0 * heads,
            keys: 128.0 * if experts.is_some() { 4.0 } else { 8.0 },
            middle: middle * of_token + router,
            middle_of_all: middle * all + router,
            vocabulary: 151_936.0,
            tied,
            mergers: 4.0,
            tower: Blocks {
                width: tower[0],
                depth: tower[1],
                middle: tower[2],
                patch: 16.0,
            },
        }))
    }

    fn known_vision(repository: &str) -> Option<Self> {
        let name = repository.strip_prefix("facebook/dinov2-")?;
        let (width, depth) = match name.strip_prefix("with-registers-").unwrap_or(name) {
            "small" => (384.0, 12.0),
            "base" => (768.0, 12.0),
            "large" => (1024.0, 24.0),
            _ => return None,
        };
        Some(Self::Vision(Blocks {
            width,
            depth,
            middle: 4.0 * width,
            patch: 14.0,
        }))
    }

    /// Numbers in all.
    pub(super) fn parameters(&self) -> f64 {
        match self {
            Self::Vision(blocks) => blocks.parameters(),
            Self::Writing(model) => {
                let tables = if model.tied { 1.0 } else { 2.0 } * model.vocabulary * model.hidden;
                let layer = model.attention() + 3.0 * model.hidden * model.middle_of_all;
                model.layers * layer + tables + model.tower.parameters() + model.mergers * model.merger()
            }
        }
    }
}

impl Blocks {
    /// Numbers that a token passes through.
    pub(super) fn parameters(&self) -> f64 {
        self.depth * (4.0 * self.width.powi(2) + 2.0 * self.width * self.middle)
    }
}

impl Writing {
    fn attention(&self) -> f64 {
        2.0 * self.hidden * (self.queries + self.keys)
    }

    /// Numbers of the layers that a token passes through.
    pub(super) fn active(&self) -> f64 {
        self.layers * (self.attention() + 3.0 * self.hidden * self.middle)
    }

    /// Numbers of one of the mergers.
    pub(super) fn merger(&self) -> f64 {
        let four = 4.0 * self.tower.width;
        four.powi(2) + four * self.hidden
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes in the names, and of the papers.
    #[test]
    fn known_models_have_the_size_of_their_name() {
        for (name, billions) in [
            ("Qwen/Qwen3-VL-2B-Instruct", 2.12),
            ("Qwen/Qwen3-VL-4B-Instruct", 4.43),
            ("Qwen/Qwen3-VL-8B-Instruct", 8.76),
            ("Qwen/Qwen3-VL-32B-Instruct", 33.4),
            ("Qwen/Qwen3-VL-30B-A3B-Instruct", 31.1),
            ("Qwen/Qwen3-VL-235B-A22B-Instruct", 235.7),
            ("facebook/dinov2-base", 0.085),
        ] {
            let found = Shape::known(name).unwrap().parameters() / 1e9;
            assert!((found / billions - 1.0).abs() < 0.01, "{name}: {found}");
        }
        assert!(Shape::known("openai/clip-vit-base-patch32").is_none());
    }

    #[test]
    fn a_folder_says_the_same_as_its_files() {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/mini/models");
        for (name, bytes_each) in [("micro-dinov2", 4.0), ("micro-qwen3-vl", 2.0)] {
            let bytes = std::fs::metadata(models.join(name).join("model.safetensors"))
                .unwrap()
                .len();
            let stored = bytes as f64 / bytes_each;
            let found = Shape::read(&models.join(name)).unwrap().parameters();
            assert!((found / stored - 1.0).abs() < 0.1, "{name}: {found} of {stored}");
        }
        assert!(Shape::read(Path::new("nowhere")).is_none());
    }
}
