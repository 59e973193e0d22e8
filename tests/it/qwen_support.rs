//! The batches of the Qwen3-VL goldens.

use candle_core::{D, DType, Device, Tensor};
use kshot::error::Result;
use kshot::example::{Grid, Sequence};
use kshot::models::qwen3_vl::{Batch, Config, Features, Qwen3Vl};
use kshot::nn::cross_entropy;
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::goldens::{self, Golden, Tensors};

/// A golden batch, loaded.
pub struct Reference {
    pub model: Qwen3Vl,
    pub tensors: Tensors,
    /// Tokens of each sequence without padding.
    pub lengths: Vec<usize>,
    pub sequences: Vec<Sequence>,
    pub grids: Vec<Grid>,
    /// (N, patch numbers) of all images.
    pub patches: Tensor,
}

/// A model of this shape with random weights.
pub fn random(config: &Config, rng: &mut ChaCha8Rng, device: &Device) -> Result<Qwen3Vl> {
    Qwen3Vl::build(config.clone(), "random", "random weights", &mut |name, shape| {
        let fan_in: usize = match *shape {
            [_, inputs, _] => inputs, // experts
            _ => shape[1..].iter().product(),
        };
        let norm = name.ends_with("norm.weight") || name.ends_with("norm1.weight") || name.ends_with("norm2.weight");
        let (centre, width) = match shape.len() {
            1 if norm || name.ends_with("layernorm.weight") => (1.0, 0.1),
            1 => (0.0, 0.1),
            _ => (0.0, (3.0 / fan_in as f32).sqrt()),
        };
        let values = uniform(shape.iter().product(), centre, width, rng.random());
        Ok(Tensor::from_vec(values, shape, device)?)
    })
}

/// Values in `centre` ± `width` from a counter and a mixing function (SplitMix64's): the layers of large models have
/// billions, and each piece can be filled by its own thread.
fn uniform(count: usize, centre: f32, width: f32, seed: u64) -> Vec<f32> {
    let at = |i: usize| {
        let mut z = seed.wrapping_add((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // 24 bits: what an f32 between 0 and 1 holds.
        let share = (z >> 40) as f32 / (1u32 << 24) as f32;
        centre + width * (2.0 * share - 1.0)
    };
    (0..count).into_par_iter().map(at).collect()
}

/// Generation of the likeliest tokens.
pub trait Greedy {
    /// As [`Qwen3Vl::generate_by`].
    fn generate(
        &self,
        sequences: &[Sequence],
        features: Option<&Features>,
        limit: usize,
        stop: &[u32],
    ) -> Result<Vec<Vec<u32>>>;
}

impl Greedy for Qwen3Vl {
    fn generate(
        &self,
        sequences: &[Sequence],
        features: Option<&Features>,
        limit: usize,
        stop: &[u32],
    ) -> Result<Vec<Vec<u32>>> {
        let mut answers = vec![Vec::new(); sequences.len()];
        self.generate_by(sequences, features, limit, |logits, open| {
            let tokens = logits.argmax(D::Minus1)?.to_vec1()?;
            let next = |(&token, &sequence): (&u32, &usize)| {
                answers[sequence].push(token);
                (!stop.contains(&token)).then_some(token)
            };
            Ok(tokens.iter().zip(open).map(next).collect())
        })?;
        Ok(answers)
    }
}

pub fn grids(tensor: &Tensor) -> Vec<Grid> {
    let sides = tensor.to_vec2::<i64>().unwrap();
    sides
        .iter()
        .map(|thw| Grid {
            rows: thw[1] as usize,
            columns: thw[2] as usize,
        })
        .collect()
}

/// Normalised patches; the committed goldens keep their 8-bit levels, to save space.
pub fn patches(tensor: &Tensor) -> Tensor {
    if tensor.dtype() != DType::U8 {
        return tensor.clone();
    }
    let levels = tensor.to_dtype(DType::F64).unwrap();
    levels.affine(2.0 / 255.0, -1.0).unwrap().to_dtype(DType::F32).unwrap()
}

impl Reference {
    pub fn load(golden: &Golden) -> Self {
        let model = Qwen3Vl::load(&golden.model, &goldens::place()).unwrap();
        let tensors = golden.tensors("batch.safetensors");
        let numbers = |name: &str| tensors[name].to_vec2::<i64>().unwrap();
        let to_u32 = |row: Vec<i64>| row.into_iter().map(|id| id as u32).collect();
        let ids: Vec<Vec<u32>> = numbers("input_ids").into_iter().map(to_u32).collect();
        let lengths: Vec<usize> = numbers("attention_mask")
            .iter()
            .map(|row| row.iter().sum::<i64>() as usize)
            .collect();
        let grids = grids(&tensors["image_grid_thw"]);
        let merge = model.config().vision_config.spatial_merge_size;
        let image = model.config().image_token_id;
        let mut left = grids.iter();
        let mut sequences = Vec::new();
        for (ids, &length) in ids.iter().zip(&lengths) {
            let mut placeholders = ids[..length].iter().filter(|&&id| id == image).count();
            let mut images = Vec::new();
            while placeholders > 0 {
                let grid = left.next().unwrap();
                placeholders -= grid.tokens(merge);
                images.push(*grid);
            }
            sequences.push(Sequence {
                ids: ids[..length].to_vec(),
                images,
            });
        }
        let patches = match tensors.get("pixel_values") {
            Some(pixels) => patches(pixels),
            None => {
                let processed = golden.tensors("processor.safetensors");
                let names = golden.notes()["images_per_sample"].clone();
                let names: Vec<Vec<String>> = serde_json::from_value(names).unwrap();
                let of = |name: &String| patches(&processed[&format!("{name}.fast")]);
                Tensor::cat(&names.iter().flatten().map(of).collect::<Vec<_>>(), 0).unwrap()
            }
        };
        Self {
            model,
            tensors,
            lengths,
            sequences,
            grids,
            patches,
        }
    }

    pub fn batch(&self) -> Batch {
        self.model.batch(&self.sequences).unwrap()
    }

    /// Rows of the golden answer positions.
    pub fn answer_rows(&self) -> Vec<u32> {
        let batch = self.batch();
        let positions = self.tensors["answer_positions"].to_vec2::<i64>().unwrap();
        positions
            .iter()
            .map(|at| batch.row(at[0] as usize, at[1] as usize).unwrap())
            .collect()
    }

    /// Rows that predict a label, and the labels.
    pub fn labels(&self, name: &str) -> (Vec<u32>, Tensor) {
        let batch = self.batch();
        let (mut rows, mut labels) = (Vec::new(), Vec::new());
        for (i, row) in self.tensors[name].to_vec2::<i64>().unwrap().iter().enumerate() {
            for (at, &label) in row.iter().enumerate().filter(|(_, label)| **label >= 0) {
                rows.push(batch.row(i, at - 1).unwrap());
                labels.push(label as u32);
            }
        }
        let count = labels.len();
        (rows, Tensor::from_vec(labels, count, &goldens::place().device).unwrap())
    }

    /// Mean loss over the labels.
    pub fn loss(&self, model: &Qwen3Vl, states: &Tensor, name: &str) -> Tensor {
        let (rows, labels) = self.labels(name);
        cross_entropy(&model.logits(states, &rows).unwrap(), &labels).unwrap()
    }

    /// The rows of a right-padded (B, T, D) tensor that are not padding: (R, D).
    pub fn unpadded(&self, tensor: &Tensor) -> Tensor {
        let rows = self
            .lengths
            .iter()
            .enumerate()
            .map(|(i, &length)| tensor.get(i).unwrap().narrow(0, 0, length).unwrap());
        Tensor::cat(&rows.collect::<Vec<_>>(), 0).unwrap()
    }
}
