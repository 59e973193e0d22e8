//! How much a learner has to compute for one image, and what it keeps in memory.
//!
//! A product with a matrix of P numbers is 2·P operations a token. Training LoRA on a frozen base is a forward pass and a
//! backward pass to the inputs only, 4·P; the tower runs once an image (and once for its mirror image).

use super::shape::{Blocks, Shape, Writing};
use crate::config::{Learner, Qwen3VlLora};

/// Text of a prompt in tokens: the chat's frame, the question, the prefill.
const PROMPT: f64 = 28.0;
/// Tokens of an answer: a class name and the end.
pub(super) const ANSWER: f64 = 8.0;
/// Bytes that training keeps for each trained number: itself, its gradient, two moments, a copy in half precision (14).
const TRAINED: f64 = 14.0;

/// Operations for one image.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Work {
    /// One pass in training.
    pub(super) trained: f64,
    /// One answer to a test image.
    pub(super) tested: f64,
    /// Seeing an image for the first time.
    pub(super) seen: f64,
}

/// Work of `learner` on a model, for images of so many tokens: of the decoder, or of the vision model.
pub(super) fn work(learner: &Learner, shape: &Shape, tokens: f64) -> Work {
    match (learner, shape) {
        (Learner::Qwen3VlLora(config), Shape::Writing(model)) => {
            let forward = model.forward(tokens);
            let again = if config.checkpointing { forward } else { 0.0 };
            let adapters = 6.0 * model.adapters(config) * model.length(tokens);
            Work {
                trained: model.backward(tokens) + forward + again + adapters,
                tested: forward * config.readings.len() as f64,
                seen: model.see(tokens),
            }
        }
        (Learner::Dinov2Lora(_), Shape::Vision(blocks)) => {
            let forward = blocks.forward(tokens);
            Work {
                trained: 2.2 * forward,
                tested: forward,
                seen: 0.0,
            }
        }
        // Probes look at frozen features; the rest is small beside them.
        (_, Shape::Vision(blocks)) => Work {
            seen: blocks.forward(tokens),
            ..Work::default()
        },
        _ => Work::default(),
    }
}

/// Bytes on the device while `learner` trains, with numbers of `bytes` bytes each.
pub(super) fn memory(learner: &Learner, shape: &Shape, tokens: f64, bytes: f64) -> f64 {
    let weights = bytes * shape.parameters();
    match (learner, shape) {
        (Learner::Qwen3VlLora(config), Shape::Writing(model)) => {
            let (batch, length) = (config.batch as f64, model.length(tokens));
            let layer = 4.0 * model.hidden + 3.0 * model.queries + 3.0 * model.keys + 3.0 * model.middle;
            let kept = if config.checkpointing {
                layer + model.layers * model.hidden
            } else {
                model.layers * layer
            };
            let logits = 3.0 * 4.0 * model.vocabulary * ANSWER;
            weights + batch * (bytes * kept * length + logits) + TRAINED * model.adapters(config)
        }
        (Learner::Dinov2Lora(config), Shape::Vision(blocks)) => {
            let layer = 8.0 * blocks.width + 3.0 * blocks.middle;
            weights + bytes * config.batch as f64 * tokens * blocks.depth * layer
        }
        _ => weights,
    }
}

impl Blocks {
    fn forward(&self, tokens: f64) -> f64 {
        2.0 * self.parameters() * tokens + 4.0 * tokens.powi(2) * self.width * self.depth
    }
}

impl Writing {
    /// Tokens of a sequence with its answer.
    fn length(&self, tokens: f64) -> f64 {
        PROMPT + tokens + ANSWER
    }

    fn attention_work(&self, length: f64) -> f64 {
        2.0 * self.queries * length.powi(2) * self.layers
    }

    fn head_work(&self) -> f64 {
        2.0 * self.hidden * self.vocabulary * ANSWER
    }

    fn forward(&self, tokens: f64) -> f64 {
        let length = self.length(tokens);
        2.0 * self.active() * length + self.attention_work(length) + self.head_work()
    }

    fn backward(&self, tokens: f64) -> f64 {
        let length = self.length(tokens);
        2.0 * self.active() * length + 2.5 * self.attention_work(length) + self.head_work()
    }

    /// The tower on an image of so many merged tokens, of four patches each, and the mergers.
    fn see(&self, tokens: f64) -> f64 {
        self.tower.forward(4.0 * tokens) + 2.0 * self.mergers * self.merger() * tokens
    }

    /// Numbers of the adapters: of all seven linear layers of each layer, as the default targets are.
    fn adapters(&self, config: &Qwen3VlLora) -> f64 {
        let sides =
            2.0 * (self.hidden + self.queries) + 2.0 * (self.hidden + self.keys) + 3.0 * (self.hidden + self.middle);
        config.rank as f64 * self.layers * sides
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learner(method: &str, model: &str) -> Learner {
        Learner::parse(method, std::path::Path::new(model), &[]).unwrap()
    }

    /// Counted by hand for the sizes of the published models, 165 image tokens: 10¹² operations.
    #[test]
    fn work_of_an_image_is_that_of_the_published_sizes() {
        for (name, train, eval, see) in [
            ("Qwen/Qwen3-VL-2B-Instruct", 1.19, 0.57, 0.48),
            ("Qwen/Qwen3-VL-4B-Instruct", 3.02, 1.46, 0.48),
            ("Qwen/Qwen3-VL-8B-Instruct", 5.68, 2.78, 0.65),
        ] {
            let shape = Shape::known(name).unwrap();
            let found = work(&learner("qwen3-vl-lora", name), &shape, 165.0);
            for (what, found, expected) in [
                ("train", found.trained, train),
                ("eval", found.tested / 3.0, eval),
                ("see", found.seen, see),
            ] {
                assert!((found / 1e12 / expected - 1.0).abs() < 0.08, "{name} {what}: {found:e}");
            }
        }
        let dino = Shape::known("facebook/dinov2-base").unwrap();
        let found = work(&learner("dinov2-lora", "facebook/dinov2-base"), &dino, 257.0);
        assert!((found.trained / 0.096e12 - 1.0).abs() < 0.08 && (found.tested / 0.046e12 - 1.0).abs() < 0.08);
        assert_eq!(work(&learner("knn", "facebook/dinov2-base"), &dino, 257.0).trained, 0.0);
    }

    /// 8B: 16 GiB of weights, 30 of activations at batch 32, 1 of adapters.
    #[test]
    fn memory_is_weights_activations_and_adapters() {
        let shape = Shape::known("Qwen/Qwen3-VL-8B-Instruct").unwrap();
        let mut learner = learner("qwen3-vl-lora", "m");
        let gib = |learner: &Learner| memory(learner, &shape, 165.0, 2.0) / f64::from(1 << 30);
        assert!((46.0..52.0).contains(&gib(&learner)), "{}", gib(&learner));
        let Learner::Qwen3VlLora(config) = &mut learner else {
            panic!()
        };
        config.checkpointing = true;
        assert!(gib(&learner) < 21.0);
    }
}
