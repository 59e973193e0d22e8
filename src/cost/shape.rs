//! The sizes of a model that decide its cost.

use std::path::Path;

use serde_json::Value;

use crate::checkpoint::shapes;
use crate::config::ExpertLora;
use crate::models::lora::{self, Lora};

/// A model's sizes.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    pub(crate) kind: Kind,
    /// Names and shapes of all tensors.
    tensors: Vec<(String, Vec<usize>)>,
}

/// The two architectures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A decoder with a vision tower.
    Writing(Writing),
    /// A vision transformer.
    Vision(Blocks),
}

/// A Qwen3-VL.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Writing {
    pub(crate) hidden: f64,
    pub(crate) layers: f64,
    /// Heads of the queries.
    pub(crate) heads: f64,
    /// Width of the queries: heads times their width.
    pub(crate) queries: f64,
    /// Width of keys, and of values.
    pub(crate) keys: f64,
    /// Width of the MLP's middle that a token passes through: of all its experts together.
    pub(crate) middle: f64,
    /// Experts to choose among; 0 in a dense model.
    pub(crate) experts: f64,
    /// Of these, a token's.
    pub(crate) chosen: f64,
    pub(crate) vocabulary: f64,
    /// Mergers of patches: one, and one for each deepstack layer.
    pub(crate) mergers: f64,
    pub(crate) tower: Blocks,
}

/// The blocks of a vision transformer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Blocks {
    pub(crate) width: f64,
    pub(crate) depth: f64,
    pub(crate) middle: f64,
    /// Matrices of the MLP: 2, or 3 where one of them gates.
    pub(crate) matrices: f64,
    /// Pixels per side of a patch.
    pub(crate) patch: f64,
    /// Numbers of a patch.
    pub(crate) patch_numbers: f64,
    /// Tokens beside those of patches.
    pub(crate) extra: f64,
}

impl Shape {
    /// That of a folder in the hub's layout; none if it cannot be read.
    pub(crate) fn read(folder: &Path) -> Option<Self> {
        Self::of(&serde_json::from_slice(&std::fs::read(folder.join("config.json")).ok()?).ok()?)
    }

    /// That of a hub repository, as its `config.json` is known to say.
    pub(crate) fn known(repository: &str) -> Option<Self> {
        Self::of(&shapes::config(repository)?)
    }

    /// That of a `config.json`; none if something is missing in it.
    pub(crate) fn of(config: &Value) -> Option<Self> {
        let kind = match (config.get("text_config"), config.get("vision_config")) {
            (Some(text), Some(vision)) => Kind::Writing(writing(text, vision)?),
            _ => Kind::Vision(vision(config)?),
        };
        Some(Self {
            kind,
            tensors: shapes::tensors(config)?,
        })
    }

    /// Numbers in all.
    pub(crate) fn parameters(&self) -> f64 {
        shapes::numbers(&self.tensors) as f64
    }

    /// The layers that an adapter adds to.
    pub(crate) fn adapted(&self, lora: &Lora) -> Adapted {
        let mut adapted = Adapted::default();
        let rank = lora.rank as f64;
        let chosen = match self.kind {
            Kind::Writing(model) => model.chosen,
            Kind::Vision(_) => 0.0,
        };
        for (name, shape) in &self.tensors {
            match *shape.as_slice() {
                [out, inputs] => {
                    let layer = name.strip_suffix(".weight");
                    // The router is never adapted.
                    if layer.is_none_or(|layer| layer.ends_with("mlp.gate") || !lora.targets_module(layer)) {
                        continue;
                    }
                    let (out, inputs) = (out as f64, inputs as f64);
                    adapted.numbers += rank * (out + inputs);
                    adapted.active += rank * (out + inputs);
                    adapted.weights += out * inputs;
                    adapted.largest = adapted.largest.max(out * inputs);
                    adapted.outputs += out;
                }
                [experts, inputs, out] if lora::is_expert_target(lora, name) => {
                    let [experts, inputs, out] = [experts, inputs, out].map(|side| side as f64);
                    let of = |count: f64| match lora.experts {
                        ExpertLora::Each => count * (inputs + out),
                        ExpertLora::Shared if name.ends_with("gate_up_proj") => 2.0 * inputs + count * out,
                        ExpertLora::Shared => count * inputs + out,
                    };
                    adapted.numbers += rank * of(experts);
                    adapted.active += rank * of(chosen);
                    adapted.expert_outputs += out * chosen;
                }
                _ => {}
            }
        }
        adapted
    }
}

/// Linear layers with adapters.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Adapted {
    /// Trained numbers.
    pub(crate) numbers: f64,
    /// Of these, the ones that a token passes through.
    pub(crate) active: f64,
    /// Frozen numbers of the same layers, stacks of experts aside.
    pub(crate) weights: f64,
    /// Of the largest of them.
    pub(crate) largest: f64,
    /// Numbers that come out of them for a token, in all layers.
    pub(crate) outputs: f64,
    /// The same of stacks of experts.
    pub(crate) expert_outputs: f64,
}

fn number(part: &Value, name: &str) -> Option<f64> {
    part.get(name)?.as_f64()
}

fn writing(text: &Value, vision: &Value) -> Option<Writing> {
    let (hidden, heads) = (number(text, "hidden_size")?, number(text, "num_attention_heads")?);
    let head = number(text, "head_dim").unwrap_or(hidden / heads);
    let experts = number(text, "num_experts").unwrap_or(0.0);
    let (chosen, middle) = if experts > 0.0 {
        let chosen = number(text, "num_experts_per_tok")?;
        (chosen, number(text, "moe_intermediate_size")? * chosen)
    } else {
        (0.0, number(text, "intermediate_size")?)
    };
    let patch = number(vision, "patch_size")?;
    Some(Writing {
        hidden,
        layers: number(text, "num_hidden_layers")?,
        heads,
        queries: heads * head,
        keys: number(text, "num_key_value_heads")? * head,
        middle,
        experts,
        chosen,
        vocabulary: number(text, "vocab_size")?,
        mergers: vision.get("deepstack_visual_indexes")?.as_array()?.len() as f64 + 1.0,
        tower: Blocks {
            width: number(vision, "hidden_size")?,
            depth: number(vision, "depth")?,
            middle: number(vision, "intermediate_size")?,
            matrices: 2.0,
            patch,
            patch_numbers: number(vision, "in_channels")? * number(vision, "temporal_patch_size")? * patch.powi(2),
            extra: 0.0,
        },
    })
}

fn vision(config: &Value) -> Option<Blocks> {
    let width = number(config, "hidden_size")?;
    let wide = (width * number(config, "mlp_ratio").unwrap_or(4.0)).floor();
    let gated = config.get("use_swiglu_ffn").and_then(Value::as_bool).unwrap_or(false);
    let patch = number(config, "patch_size")?;
    let registers = match config.get("model_type")?.as_str()? {
        "dinov2_with_registers" => number(config, "num_register_tokens").unwrap_or(4.0),
        _ => 0.0,
    };
    Some(Blocks {
        width,
        depth: number(config, "num_hidden_layers")?,
        middle: if gated {
            ((wide * 2.0 / 3.0).floor() / 8.0).ceil() * 8.0
        } else {
            wide
        },
        matrices: if gated { 3.0 } else { 2.0 },
        patch,
        patch_numbers: 3.0 * patch.powi(2),
        extra: 1.0 + registers,
    })
}

impl Blocks {
    /// Numbers that a token passes through.
    pub(crate) fn active(&self) -> f64 {
        self.depth * (4.0 * self.width.powi(2) + self.matrices * self.width * self.middle)
    }
}

impl Writing {
    /// Numbers of the layers that a token passes through.
    pub(crate) fn active(&self) -> f64 {
        let attention = 2.0 * self.hidden * (self.queries + self.keys);
        self.layers * (attention + 3.0 * self.hidden * self.middle + self.hidden * self.experts)
    }

    /// Numbers of one of the mergers.
    pub(crate) fn merger(&self) -> f64 {
        let four = 4.0 * self.tower.width;
        four.powi(2) + four * self.hidden
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that a token passes through, in billions, as the papers' sizes give them.
    #[test]
    fn active_numbers_of_known_models() {
        for (name, billions) in [
            ("Qwen/Qwen3-VL-2B-Instruct", 1.41),
            ("Qwen/Qwen3-VL-4B-Instruct", 3.63),
            ("Qwen/Qwen3-VL-8B-Instruct", 6.95),
            ("Qwen/Qwen3-VL-32B-Instruct", 31.2),
            ("Qwen/Qwen3-VL-30B-A3B-Instruct", 2.73),
            ("Qwen/Qwen3-VL-235B-A22B-Instruct", 20.9),
        ] {
            let Some(Kind::Writing(model)) = Shape::known(name).map(|shape| shape.kind) else {
                panic!("{name}")
            };
            let found = model.active() / 1e9;
            assert!((found / billions - 1.0).abs() < 0.005, "{name}: {found}");
        }
        let Some(Kind::Vision(giant)) = Shape::known("facebook/dinov2-giant").map(|shape| shape.kind) else {
            panic!("giant")
        };
        assert!((giant.active() / 1.1324e9 - 1.0).abs() < 0.001, "{}", giant.active());
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
            assert!((found / stored - 1.0).abs() < 0.02, "{name}: {found} of {stored}");
        }
        assert!(Shape::read(Path::new("nowhere")).is_none());
    }

    /// 2B at rank 32: 34.9 million numbers in the decoder's seven linear layers.
    #[test]
    fn adapters_are_counted_by_their_targets() {
        let targets = [
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ];
        let mut lora = Lora {
            targets: targets.map(String::from).into(),
            rank: 32,
            alpha: 32.0,
            experts: ExpertLora::Shared,
        };
        // 3·(2048 + 128·768) of experts, by layer and rank; 8 of the 128 are a token's.
        let mixed = Shape::known("qwen3-vl-30b-a3b").unwrap().adapted(&lora);
        let attention = 2.0 * (2048.0 + 4096.0) + 2.0 * (2048.0 + 512.0);
        assert_eq!(
            mixed.numbers,
            48.0 * 32.0 * (attention + 3.0 * (2048.0 + 128.0 * 768.0))
        );
        assert_eq!(mixed.active, 48.0 * 32.0 * (attention + 3.0 * (2048.0 + 8.0 * 768.0)));
        lora.experts = ExpertLora::Each;
        let own = Shape::known("qwen3-vl-30b-a3b").unwrap().adapted(&lora).numbers;
        assert!((own / 1.285e9 - 1.0).abs() < 0.01, "{own}");
        let shape = Shape::known("qwen3-vl-2b").unwrap();
        let adapted = shape.adapted(&lora);
        assert!((adapted.numbers / 34.9e6 - 1.0).abs() < 0.01, "{adapted:?}");
        assert!((adapted.weights / 1.41e9 - 1.0).abs() < 0.01 && adapted.largest == 2048.0 * 6144.0);
        lora.targets = vec!["visual.blocks.*.attn.qkv".into()];
        assert_eq!(shape.adapted(&lora).weights, 24.0 * 3.0 * 1024.0 * 1024.0);
    }
}
