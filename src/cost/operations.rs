//! Operations that a learner takes for one image.
//!
//! A product with a matrix of P numbers is 2·P operations a token. Training LoRA on a frozen base is a forward pass and a
//! backward pass to the inputs only, 4·P, the adapters' own products, 6·P_lora, and the head at the answers; the tower runs
//! once an image (and once for its mirror image).

use std::path::Path;

use super::shape::{Blocks, Kind, Shape, Writing};
use crate::example::ImageProcessor;

/// Text of a prompt in tokens: the chat's frame, the question, the prefill.
pub(crate) const PROMPT: f64 = 28.0;
/// Tokens of an answer: a class name and the end.
pub(crate) const ANSWER: f64 = 8.0;

/// Operations for one image.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    /// One pass in training.
    pub trained: f64,
    /// One answer to a test image.
    pub tested: f64,
    /// Seeing an image for the first time.
    pub seen: f64,
}

/// Merged tokens of a photograph for a Qwen3-VL where none is at hand: 480 x 352 pixels.
pub(crate) const PHOTOGRAPH_TOKENS: f64 = 165.0;
/// Tokens of 224 x 224 pixels in patches of 14, with [CLS].
const VISION_TOKENS: f64 = 257.0;

/// Work of a probe: it looks at features of the frozen model; the rest is small beside them.
pub(crate) fn of_frozen_features(shape: &Shape, tokens: f64) -> Work {
    match shape.kind {
        Kind::Vision(blocks) => Work {
            seen: blocks.forward(tokens),
            ..Work::default()
        },
        Kind::Writing(_) => Work::default(),
    }
}

/// Tokens of an image for the vision transformer of a folder.
pub(crate) fn vision_tokens(folder: Option<&Path>) -> f64 {
    let size = folder.and_then(|folder| Some((ImageProcessor::load(folder).ok()?, Shape::read(folder)?.kind)));
    match size {
        Some((processor, Kind::Vision(blocks))) => {
            let (height, width) = processor.size();
            1.0 + (height as f64 / blocks.patch).floor() * (width as f64 / blocks.patch).floor()
        }
        _ => VISION_TOKENS,
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
}
