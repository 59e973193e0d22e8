//! The micro model for tests: an engine, questions about pictures, lessons.

use std::path::PathBuf;
use std::sync::Arc;

use image::{Rgb, RgbImage};

use super::{AdapterConfig, Engine, Settings};
use crate::example::{Chunk, Datum, ModelInput, PatchProcessor, Picture, PictureKey, Renderer};
use crate::models::lora::Lora;
use crate::nn::DeviceSpec;

pub(super) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("datasets/mini/models/micro-qwen3-vl")
}

pub(super) fn engine() -> Arc<Engine> {
    Arc::new(Engine::load(&folder(), &DeviceSpec::cpu(), Settings::default()).unwrap())
}

pub(super) fn adapter(seed: u64) -> AdapterConfig {
    let targets = [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ];
    AdapterConfig {
        lora: Lora {
            targets: targets.map(str::to_owned).to_vec(),
            rank: 4,
            alpha: 8.0,
            ..Lora::default()
        },
        seed,
        start: None,
    }
}

/// A picture that is another one for each number.
pub(super) fn picture(number: u32) -> Picture {
    let shade = |x: u32, y: u32, channel: u32| ((x * (5 + number) + y * 3 * (number + 1) + channel * 90) % 256) as u8;
    let pixels = RgbImage::from_fn(48, 48, |x, y| Rgb([0, 1, 2].map(|channel| shade(x, y, channel))));
    let processor = PatchProcessor::load(&folder()).unwrap();
    Picture {
        tokens: processor.grid(&pixels).unwrap().tokens(processor.merge()),
        pixels: Arc::new(pixels),
        key: PictureKey {
            sha256: format!("picture {number}").into(),
            mirrored: false,
        },
    }
}

/// Questions of different lengths: about a picture, about two, about none.
pub(super) fn questions(count: u32) -> Vec<ModelInput> {
    let renderer = Renderer::load(&folder(), None).unwrap();
    let question = |number: u32| {
        let extra: Vec<u32> = (0..number % 5).map(|i| 40 + 7 * i).collect();
        let mut question = renderer.question(Some(&picture(number))).unwrap();
        match number % 3 {
            0 => {}
            1 => question
                .chunks
                .splice(0..0, [Chunk::Picture(picture(number + 50)), Chunk::Tokens(extra)])
                .for_each(drop),
            _ => question = renderer.question(None).unwrap().followed_by(&extra),
        }
        question
    };
    (0..count).map(question).collect()
}

/// Questions with answers.
pub(super) fn lessons(count: u32) -> Vec<Datum> {
    let answer = |number: u32| [60 + number, 61 + 2 * number, 940];
    let lesson = |(question, number): (ModelInput, u32)| Datum::answered(question, &answer(number), 0.25);
    questions(count).into_iter().zip(0..).map(lesson).collect()
}
