//! How much a learner has to compute for one image.
//!
//! A product with a matrix of P numbers is 2·P operations a token. Training LoRA on a frozen base is a forward pass and a
//! backward pass to the inputs only, 4·P, the adapters' own products, 6·P_lora, and the head at the answers; the tower runs
//! once an image (and once for its mirror image).

use super::shape::{Blocks, Kind, Shape, Writing};
use crate::config::Learner;

/// Text of a prompt in tokens: the chat's frame, the question, the prefill.
pub(super) const PROMPT: f64 = 28.0;
/// Tokens of an answer: a class name and the end.
pub(super) const ANSWER: f64 = 8.0;

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
    match (learner, shape.kind) {
        (Learner::Qwen3VlLora(config), Kind::Writing(model)) => {
            let pass = Pass {
                length: PROMPT + tokens + ANSWER,
                answers: ANSWER,
            };
            let forward = model.forward(pass);
            let again = if config.checkpointing { forward } else { 0.0 };
            let adapters = shape.adapted(&config.into()).active;
            Work {
                trained: model.train(pass, adapters) + again,
                tested: forward * config.readings.len() as f64,
                seen: model.see(tokens),
            }
        }
        (Learner::Dinov2Lora(config), Kind::Vision(blocks)) => {
            let adapters = shape.adapted(&config.into());
            Work {
                trained: blocks.train(tokens, adapters.active),
                tested: blocks.forward(tokens),
                seen: 0.0,
            }
        }
        // Probes look at frozen features; the rest is small beside them.
        (_, Kind::Vision(blocks)) => Work {
            seen: blocks.forward(tokens),
            ..Work::default()
        },
        _ => Work::default(),
    }
}

/// One sequence in one pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pass {
    /// Tokens read.
    pub(crate) length: f64,
    /// Positions at which logits are computed.
    pub(crate) answers: f64,
}

impl Blocks {
    /// Operations of a forward pass over so many tokens that see each other: products with the weights, 2·P a token, and
    /// attention, 4·T²·D a block.
    pub(crate) fn forward(&self, tokens: f64) -> f64 {
        let embedding = 2.0 * self.patch_numbers * self.width * tokens;
        2.0 * self.active() * tokens + embedding + self.attention(tokens)
    }

    /// Operations of a training pass with adapters of so many numbers: the forward pass, the way back to the inputs (the
    /// same products, 2.5 times the attention, which is computed again), 6 for each trained number and token.
    pub(crate) fn train(&self, tokens: f64, adapters: f64) -> f64 {
        let back = 2.0 * self.active() * tokens + 2.5 * self.attention(tokens);
        self.forward(tokens) + back + 6.0 * adapters * tokens
    }

    fn attention(&self, tokens: f64) -> f64 {
        4.0 * tokens.powi(2) * self.width * self.depth
    }
}

impl Writing {
    /// Operations of the decoder's forward pass over one sequence: 2·P_act a token, causal attention 2·H·K·T² a layer,
    /// the head 2·D·V an answer.
    pub(crate) fn forward(&self, pass: Pass) -> f64 {
        2.0 * self.active() * pass.length + self.attention(pass.length) + self.head(pass.answers)
    }

    /// Operations of one sequence in training with adapters of so many numbers: forward; back to the inputs, with 2.5
    /// times the attention; 6 for each trained number and token (2 each for the output, its input and the gradient).
    pub(crate) fn train(&self, pass: Pass, adapters: f64) -> f64 {
        let back = 2.0 * self.active() * pass.length + 2.5 * self.attention(pass.length) + self.head(pass.answers);
        self.forward(pass) + back + 6.0 * adapters * pass.length
    }

    /// Operations of the tower and its mergers for an image of so many merged tokens, of four patches each.
    pub(crate) fn see(&self, tokens: f64) -> f64 {
        self.tower.forward(4.0 * tokens) + 2.0 * self.mergers * self.merger() * tokens
    }

    fn attention(&self, length: f64) -> f64 {
        2.0 * self.queries * length.powi(2) * self.layers
    }

    fn head(&self, answers: f64) -> f64 {
        2.0 * self.hidden * self.vocabulary * answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learner(method: &str, model: &str) -> Learner {
        Learner::parse(method, std::path::Path::new(model), &[]).unwrap()
    }

    /// Counted by hand for the sizes of the published models: 165 image tokens, 198 in all, loss on 13; 10¹² operations.
    #[test]
    fn operations_of_a_pass_are_those_of_the_published_sizes() {
        let pass = Pass {
            length: 198.0,
            answers: 13.0,
        };
        for (name, adapters, train, eval, see) in [
            ("qwen3-vl-2b", 34.9e6, 1.19, 0.57, 0.48),
            ("qwen3-vl-4b", 66e6, 3.02, 1.46, 0.48),
            ("qwen3-vl-8b", 87e6, 5.68, 2.78, 0.65),
            ("qwen3-vl-32b", 268e6, 25.2, 12.4, 0.66),
            // With the experts' adapters that a token passes through.
            (
                "qwen3-vl-30b-a3b",
                64e6 + 3.0 * 8.0 * 768.0 * 32.0 * 48.0,
                2.39,
                1.11,
                0.64,
            ),
        ] {
            let Some(Kind::Writing(model)) = Shape::known(name).map(|shape| shape.kind) else {
                panic!("{name}")
            };
            for (what, found, expected) in [
                ("train", model.train(pass, adapters), train),
                ("eval", model.forward(pass), eval),
                ("see", model.see(165.0), see),
            ] {
                assert!((found / 1e12 / expected - 1.0).abs() < 0.02, "{name} {what}: {found:e}");
            }
        }
    }

    #[test]
    fn learners_pass_once_a_reading_and_probes_only_look() {
        let name = "Qwen/Qwen3-VL-2B-Instruct";
        let found = work(&learner("qwen3-vl-lora", name), &Shape::known(name).unwrap(), 165.0);
        assert!((found.tested / 3.0 / 0.57e12 - 1.0).abs() < 0.05, "{found:?}");
        let dino = Shape::known("facebook/dinov2-base").unwrap();
        let found = work(&learner("dinov2-lora", "facebook/dinov2-base"), &dino, 257.0);
        assert!((found.trained / 0.096e12 - 1.0).abs() < 0.06 && (found.tested / 0.046e12 - 1.0).abs() < 0.02);
        assert_eq!(work(&learner("knn", "facebook/dinov2-base"), &dino, 257.0).trained, 0.0);
    }
}
