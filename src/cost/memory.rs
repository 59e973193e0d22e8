//! Memory that a learner takes, part by part, while it trains and while it answers.
//!
//! Counted are the tensors that our layers keep alive: on the CPU every state is f32 and each custom operation keeps its
//! inputs, so that a decoder layer of width D with queries of Q, keys of K and a middle of I keeps
//! 6·D + 4·Q + 4·K + 3·I numbers a token in training. `kshot bench` prints this beside what it measures.

use super::shape::{Adapted, Blocks, Kind, Shape, Writing};
use crate::engine::{FEATURE_BYTES, SCORED_AT_ONCE};
use crate::models::lora::Lora;
use crate::models::qwen3_vl::LOGITS_AT_ONCE;

/// Bytes of a state.
pub(crate) const STATE: f64 = 4.0;
/// Tensors as large as the logits at the end of a forward pass and the begin of the way back: logits, shifted, exponents,
/// log-probabilities, and their gradients.
const LOGITS: f64 = 7.0;
/// Copies of a weight while an update is merged into it: product, scaled, sum.
const MERGING: f64 = 3.0;
/// Rows of a pass in which continuations are scored, and bytes of logits at a time.
const SCORED_ROWS: f64 = SCORED_AT_ONCE as f64;
const SCORED_LOGITS: f64 = STATE * LOGITS_AT_ONCE as f64;
/// Share that the allocator holds beyond what is in use: pages of freed tensors of other sizes.
const HELD: f64 = 0.1;
/// The same of a tower's blocks where no gradient is wanted: freed states of one block are still there when the next one asks
/// for other sizes. Measured with `kshot bench --shape dinov2-base` at batches of 4 and 16.
const HELD_OF_BLOCKS: f64 = 0.6;

/// Use of a model, as far as memory depends on it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Use {
    /// Linear layers that are trained.
    pub(crate) lora: Lora,
    /// Adapters that are kept at once, each with its optimiser.
    pub(crate) adapters: f64,
    /// Bytes of a frozen number.
    pub(crate) weight_bytes: f64,
    /// True if the device runs our fused operations, which keep their inputs alone; else everything on the way is kept.
    pub(crate) fused: bool,
    /// True if an adapted layer is one operation there, which keeps its result alone.
    pub(crate) fused_adapters: bool,
    /// Images a step, or asked about at once.
    pub(crate) batch: f64,
    /// Sequences of a pass.
    pub(crate) micro_batch: f64,
    /// True if states between layers alone are kept.
    pub(crate) checkpointing: bool,
    /// Tokens of a picture: merged ones of a Qwen3-VL, patches of a DINOv2.
    pub(crate) visual: f64,
    /// Tokens of the text around it, with those of an answer.
    pub(crate) text: f64,
    /// Of these, the tokens of an answer.
    pub(crate) answer: f64,
    /// Tokens of the tree of all class names.
    pub(crate) names: f64,
    /// Different pictures whose features are kept.
    pub(crate) pictures: f64,
    /// Threads that see one picture each.
    pub(crate) threads: f64,
}

/// Bytes, by what takes them.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Demand {
    /// Frozen weights.
    pub(crate) weights: u64,
    /// Trained numbers, their gradients and the optimiser's moments; copies of weights with an update merged in.
    pub(crate) adapters: u64,
    /// States of the layers.
    pub(crate) activations: u64,
    /// Logits, and what is computed from them.
    pub(crate) logits: u64,
    /// Features of pictures, kept and gathered, and the tower at work on new ones.
    pub(crate) features: u64,
    /// Keys and values while answers are written.
    pub(crate) cache: u64,
}

impl Demand {
    /// The same with so many bytes a state, as devices with half precision have them.
    #[must_use]
    pub(crate) fn of_states(self, bytes: f64) -> Self {
        let scaled = |part: u64| (part as f64 * bytes / STATE) as u64;
        Self {
            activations: scaled(self.activations),
            features: scaled(self.features),
            cache: scaled(self.cache),
            ..self
        }
    }

    /// All of it, with what the allocator holds beyond.
    #[must_use]
    pub(crate) fn total(&self) -> u64 {
        let passing = self.activations + self.logits + self.features + self.cache;
        self.weights + self.adapters + ((1.0 + HELD) * passing as f64) as u64
    }
}

/// The most at any moment of training.
pub(crate) fn training(shape: &Shape, how: &Use) -> Demand {
    let adapted = shape.adapted(&how.lora);
    let passes = (how.batch / how.micro_batch).ceil();
    // Value, two moments, gradient; a second gradient where several passes add up.
    let copies = if passes > 1.0 { 5.0 } else { 4.0 };
    let adapters = copies * STATE * adapted.numbers + waiting(&adapted, how);
    let (activations, logits, features) = match shape.kind {
        Kind::Writing(model) => {
            let sequences = how.micro_batch.min(how.batch);
            let rows = sequences * (how.visual + how.text - 1.0);
            let logits = LOGITS * STATE * model.vocabulary * sequences * how.answer;
            let back = rows * model.backward_of_layer() + merging(&adapted, how) / STATE;
            let layer = model.kept_by_layer(how) + beside(&adapted, how) / model.layers;
            let states = if how.checkpointing {
                // What is at work in one layer is gone before the next one is.
                model.layers * model.hidden + layer
            } else {
                model.layers * layer
            };
            // The way back begins at the logits and frees them before it reaches a layer.
            let at_work = (STATE * back - logits).max(0.0);
            let states = STATE * rows * (states + 3.0 * model.hidden) + at_work;
            (states, logits, model.all_features(how, sequences))
        }
        Kind::Vision(blocks) => {
            let rows = how.batch * (how.visual + blocks.extra);
            let pixels = 3.0 * how.batch * how.visual * blocks.patch_numbers;
            let back = rows * blocks.backward_of_block() + merging(&adapted, how) / STATE;
            let states = blocks.depth * blocks.kept_by_block(how) + beside(&adapted, how);
            let states = STATE * (rows * (states + 3.0 * blocks.width) + back);
            (states, 0.0, STATE * pixels)
        }
    };
    demand(shape, how, [adapters, activations, logits, features, 0.0])
}

/// The most at any moment of answering, by all readings, after training or with an adapter.
pub(crate) fn answering(shape: &Shape, how: &Use) -> Demand {
    let adapted = shape.adapted(&how.lora);
    // Value and two moments; for asking, a copy of the weights with the update merged in, or of the update.
    let copies = if how.weight_bytes == STATE {
        adapted.weights
    } else {
        adapted.numbers
    };
    let adapters = STATE * (3.0 * adapted.numbers + copies) + waiting(&adapted, how);
    let merging = merging(&adapted, how);
    let (activations, logits, features, cache) = match shape.kind {
        Kind::Writing(model) => {
            let sequences = how.micro_batch.min(how.batch);
            let length = how.visual + how.text;
            let tree = length + how.names;
            let together = (SCORED_ROWS / tree).floor().max(1.0).min(sequences);
            let rows = (together * tree).max(sequences * length);
            let scored = STATE * model.vocabulary * together * (how.names + 1.0);
            let written = 4.0 * STATE * model.vocabulary * sequences;
            let logits = scored.min(SCORED_LOGITS).max(written);
            let cache = sequences * length * 2.0 * model.keys * model.layers * STATE;
            let at_work = STATE * rows * model.at_work_in_layer();
            let features = model.all_features(how, sequences);
            (at_work.max(merging), logits, features, cache)
        }
        Kind::Vision(blocks) => {
            let rows = how.batch * (how.visual + blocks.extra);
            let pixels = 3.0 * how.batch * how.visual * blocks.patch_numbers;
            let at_work = (1.0 + HELD_OF_BLOCKS) * STATE * rows * blocks.at_work_in_block();
            (at_work.max(merging), 0.0, STATE * pixels, 0.0)
        }
    };
    demand(shape, how, [adapters, activations, logits, features, cache])
}

/// Bytes of the adapters that wait while one is at work: value and two moments.
fn waiting(adapted: &Adapted, how: &Use) -> f64 {
    (how.adapters - 1.0) * 3.0 * STATE * adapted.numbers
}

/// Numbers a token that adapters keep in all layers: where the update is an operation of candle's own beside the frozen product,
/// that product, and the update's before and after scaling.
fn beside(adapted: &Adapted, how: &Use) -> f64 {
    let outputs = if how.fused_adapters { 0.0 } else { 3.0 * adapted.outputs };
    outputs + 3.0 * adapted.expert_outputs
}

/// Bytes at work while an update is merged into the largest weight; narrow weights are widened part by part instead.
fn merging(adapted: &Adapted, how: &Use) -> f64 {
    if how.weight_bytes == STATE {
        MERGING * STATE * adapted.largest
    } else {
        0.0
    }
}

fn demand(shape: &Shape, how: &Use, parts: [f64; 5]) -> Demand {
    let [adapters, activations, logits, features, cache] = parts.map(|bytes| bytes as u64);
    Demand {
        weights: (how.weight_bytes * shape.parameters()) as u64,
        adapters,
        activations,
        logits,
        features,
        cache,
    }
}

impl Writing {
    /// Numbers a token that a layer keeps for the way back: two norms, the outputs of attention and of the MLP, two
    /// sums; queries and keys projected, normed and turned; values; what attention gives; gate, up and their product.
    /// With experts also what is gathered for them, what comes of it before and after weighting, and the router's rows.
    fn kept_by_layer(&self, how: &Use) -> f64 {
        let experts = 3.0 * self.chosen * self.hidden + 4.0 * self.experts;
        let fused = 6.0 * self.hidden + 4.0 * self.queries + 4.0 * self.keys + 3.0 * self.middle + experts;
        if how.fused {
            return fused;
        }
        // Norms and rotation by candle's operations, and every step of the softmax.
        let scores = 6.0 * self.heads * (how.visual + how.text);
        fused + 4.0 * self.hidden + 8.0 * self.queries + 8.0 * self.keys + self.middle + scores
    }

    /// Numbers a token at work on the way back through a layer's MLP: gradients of its product, of gate and up, of its
    /// input by both ways, and what arrived.
    fn backward_of_layer(&self) -> f64 {
        4.0 * self.hidden + 3.0 * self.middle
    }

    /// Numbers a token at work in a layer where nothing is kept.
    fn at_work_in_layer(&self) -> f64 {
        let attention = 2.0 * self.queries + 3.0 * self.keys;
        3.0 * self.hidden + attention.max(self.hidden + 3.0 * self.middle)
    }

    /// Bytes of the features of so many merged tokens.
    fn features(&self, tokens: f64) -> f64 {
        STATE * tokens * self.hidden * self.mergers
    }

    /// Bytes of the features that are kept, and of those that are gathered for so many sequences or made.
    fn all_features(&self, how: &Use, sequences: f64) -> f64 {
        let kept = self.features(how.pictures * how.visual).min(FEATURE_BYTES as f64);
        let gathered = 2.0 * self.features(sequences * how.visual);
        kept + gathered.max(self.looking(how))
    }

    /// Bytes while pictures are seen, one a thread: patches, and a block of the tower at work.
    fn looking(&self, how: &Use) -> f64 {
        let tower = &self.tower;
        let block = (7.0 * tower.width).max(2.0 * tower.width + 2.0 * tower.middle) + 2.0 * tower.patch_numbers;
        STATE * how.threads.min(how.batch) * 4.0 * how.visual * (block + 2.0 * tower.width)
    }
}

impl Blocks {
    /// Numbers a token that a block keeps: two norms, queries, keys, values, what attention gives and its output, two
    /// sums, the output of the MLP; its middle before and after the activation.
    fn kept_by_block(&self, how: &Use) -> f64 {
        let fused = 10.0 * self.width + self.matrices * self.middle;
        if how.fused {
            return fused;
        }
        // Norms and scales by candle's operations, and every step of the softmax of heads of 64.
        let scores = 5.0 * self.width / 64.0 * (how.visual + self.extra);
        fused + 10.0 * self.width + 2.0 * self.middle + scores
    }

    fn backward_of_block(&self) -> f64 {
        4.0 * self.width + self.matrices * self.middle
    }

    fn at_work_in_block(&self) -> f64 {
        3.0 * self.width + (4.0 * self.width).max(self.matrices * self.middle + self.width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn how(shape: &Shape) -> Use {
        let targets: &[&str] = match shape.kind {
            Kind::Writing(_) => &[
                "q_proj",
                "k_proj",
                "v_proj",
                "o_proj",
                "gate_proj",
                "up_proj",
                "down_proj",
            ],
            Kind::Vision(_) => &["query", "key", "value", "output.dense", "fc1", "fc2"],
        };
        Use {
            lora: Lora {
                targets: targets.iter().map(ToString::to_string).collect(),
                rank: 32,
                alpha: 32.0,
                ..Lora::default()
            },
            adapters: 1.0,
            weight_bytes: 4.0,
            fused: true,
            fused_adapters: true,
            batch: 32.0,
            micro_batch: 32.0,
            checkpointing: false,
            visual: 165.0,
            text: 33.0,
            answer: 5.0,
            names: 155.0,
            pictures: 32.0,
            threads: 2.0,
        }
    }

    /// 2B: 2.1 G numbers; 32 x 197 tokens keep 43,008 numbers in each of 28 layers.
    #[test]
    fn parts_are_those_counted_by_hand() {
        let shape = Shape::known("qwen3-vl-2b").unwrap();
        let found = training(&shape, &how(&shape));
        assert!((found.weights as f64 / 8.51e9 - 1.0).abs() < 0.01, "{found:?}");
        assert!((found.adapters as f64 / (16.0 * 34.9e6) - 1.0).abs() < 0.01);
        let kept = 4.0 * 32.0 * 197.0 * 28.0 * 43_008.0;
        assert!((1.0..1.1).contains(&(found.activations as f64 / kept)), "{found:?}");
        assert_eq!(found.logits, (7.0 * 4.0 * 151_936.0 * 160.0) as u64);
        assert!(found.total() > found.weights + found.adapters + found.activations);
    }

    #[test]
    fn smaller_passes_and_checkpointing_take_less() {
        let shape = Shape::known("qwen3-vl-8b").unwrap();
        let whole = how(&shape);
        let of = |micro_batch: f64, checkpointing: bool| {
            let how = Use {
                micro_batch,
                checkpointing,
                ..whole.clone()
            };
            (training(&shape, &how).total(), answering(&shape, &how).total())
        };
        assert!(of(16.0, false).0 < of(32.0, false).0 && of(32.0, true).0 < of(32.0, false).0);
        assert!(of(8.0, true).0 < of(32.0, true).0 && of(1.0, false).1 < of(32.0, false).1);
        let half = Use {
            weight_bytes: 2.0,
            ..whole.clone()
        };
        assert_eq!(2 * training(&shape, &half).weights, training(&shape, &whole).weights);
    }

    #[test]
    fn a_vision_model_keeps_its_batch() {
        let shape = Shape::known("dinov2-base").unwrap();
        let how = Use {
            visual: 256.0,
            ..how(&shape)
        };
        let (train, eval) = (training(&shape, &how), answering(&shape, &how));
        let kept = 4.0 * 32.0 * 257.0 * 12.0 * (10.0 * 768.0 + 2.0 * 3072.0);
        assert!((1.0..1.2).contains(&(train.activations as f64 / kept)), "{train:?}");
        assert!(eval.activations * 2 < train.activations && train.logits + train.cache == 0);
    }
}
