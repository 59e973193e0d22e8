//! Questions about pictures for whatever fixture there is, without its tokenizer.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use image::{Rgb, RgbImage};
use kshot::backend::{LocalBackend, Sampler};
use kshot::config::ExpertLora;
use kshot::engine::{AdamParams, AdapterConfig, Settings};
use kshot::example::{Chunk, Datum, ModelInput, PatchProcessor, Picture, PictureKey};
use kshot::models::lora::Lora;
use kshot::nn::DeviceSpec;
use tempfile::TempDir;

use crate::goldens::{self, Golden};

/// Share by which sums in another order may differ.
pub const ROUNDING: f64 = 1e-5;

pub const LANGUAGE: [&str; 7] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
];

/// The fixture with larger logits: those of random weights are too small for it to be sure of anything.
pub fn outspoken(golden: &Golden) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut tensors = goldens::Tensors::new();
    for entry in fs::read_dir(&golden.model).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "safetensors") {
            tensors.extend(candle_core::safetensors::load(&path, &Device::Cpu).unwrap());
        } else if !path.ends_with("model.safetensors.index.json") {
            fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    let norm = tensors.get_mut("model.language_model.norm.weight").unwrap();
    *norm = (&*norm * 10.0).unwrap();
    candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors")).unwrap();
    folder
}

pub fn local(model: &Path, settings: Settings) -> LocalBackend {
    LocalBackend::load(model, &DeviceSpec::cpu(), settings).unwrap()
}

pub fn adapter(targets: &[&str]) -> AdapterConfig {
    AdapterConfig {
        lora: Lora {
            targets: targets.iter().map(|&target| target.to_owned()).collect(),
            rank: 4,
            alpha: 8.0,
            experts: ExpertLora::Each,
        },
        seed: 3,
        start: None,
    }
}

pub fn adam() -> AdamParams {
    AdamParams {
        learning_rate: 5e-3,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.01,
        grad_clip_norm: Some(1.0),
    }
}

/// A picture of `width` x `height` pixels, different for each `number`, as the model of a folder sees it.
pub fn picture(model: &Path, number: u32, (width, height): (u32, u32)) -> Picture {
    let processor = PatchProcessor::load(model).unwrap();
    let shade = |x: u32, y: u32, channel: u32| ((x * (5 + number) + y * 3 * (number + 1) + channel * 90) % 256) as u8;
    let pixels = RgbImage::from_fn(width, height, |x, y| Rgb([0, 1, 2].map(|channel| shade(x, y, channel))));
    Picture {
        tokens: processor.grid(&pixels).unwrap().tokens(processor.merge()),
        pixels: Arc::new(pixels),
        key: PictureKey {
            sha256: format!("picture {number}").into(),
            mirrored: false,
        },
    }
}

/// Questions about a picture, about two, and about none, with answers of several tokens.
pub fn questions(model: &Path) -> Vec<(ModelInput, Vec<u32>)> {
    let text = |ids: &[u32]| Chunk::Tokens(ids.to_vec());
    let see = |number, size| Chunk::Picture(picture(model, number, size));
    let input = |chunks| ModelInput { chunks };
    vec![
        (
            input(vec![text(&[5, 6]), see(0, (64, 64)), text(&[7, 8, 9])]),
            vec![20, 21, 3],
        ),
        (
            input(vec![
                text(&[5]),
                see(1, (96, 48)),
                text(&[11]),
                see(0, (64, 64)),
                text(&[12]),
            ]),
            vec![22, 3],
        ),
        (input(vec![text(&[13, 14, 15])]), vec![23, 24, 25, 3]),
        (
            input(vec![text(&[5, 6]), see(2, (40, 90)), text(&[7, 8, 9])]),
            vec![26, 3],
        ),
    ]
}

pub fn data(model: &Path) -> Vec<Datum> {
    let answered = |(prompt, answer): (ModelInput, Vec<u32>)| Datum::answered(prompt, &answer, 1.0);
    questions(model).into_iter().map(answered).collect()
}

/// Log-probabilities of the answers' tokens.
pub fn scores(sampler: &mut dyn Sampler, model: &Path) -> Vec<f32> {
    let (prompts, answers): (Vec<_>, Vec<_>) = questions(model).into_iter().unzip();
    let own: Vec<Vec<Vec<u32>>> = answers.into_iter().map(|answer| vec![answer]).collect();
    let own: Vec<&[Vec<u32>]> = own.iter().map(Vec::as_slice).collect();
    let scores = sampler.compute_logprobs(&prompts, &own).unwrap();
    scores.iter().flatten().flatten().map(|score| score.logprob).collect()
}

/// Log-probabilities of the weighted targets.
pub fn weighted(data: &[Datum], logprobs: &[Vec<f32>]) -> Vec<f32> {
    let rows = data.iter().zip(logprobs);
    let of = |(datum, row): (&Datum, &Vec<f32>)| -> Vec<f32> {
        assert_eq!(datum.weights.len(), row.len());
        let pairs = datum.weights.iter().zip(row);
        assert!(pairs.clone().all(|(weight, logprob)| *weight != 0.0 || *logprob == 0.0));
        pairs
            .filter(|(weight, _)| **weight != 0.0)
            .map(|(_, logprob)| *logprob)
            .collect()
    };
    rows.flat_map(of).collect()
}

pub fn close(a: f64, b: f64, share: f64) -> bool {
    (a - b).abs() <= share * b.abs()
}
