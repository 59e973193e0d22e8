//! Whether a learner fits the memory of the device it is to run on, asked before its model is loaded, and how it is to work
//! so that it does.

use std::path::Path;

use candle_core::DType;

use super::memory::{Demand, Use, answering, training};
use super::shape::{Kind, Shape};
use super::work;
use crate::config::{Learner, Qwen3VlLora};
use crate::engine::Settings;
use crate::error::{Error, Result};
use crate::example::{ImageProcessor, PatchProcessor};
use crate::experiment::sweep::TOGETHER;
use crate::learner::features::BATCH;
use crate::models::lora::Lora;
use crate::nn::{DeviceSpec, memory};

/// Tokens of text around a picture, and of these the longest answers of the datasets we know.
const TEXT: f64 = 52.0;
const ANSWER: f64 = 24.0;
/// Tokens of the tree of class names: more are scored in several passes.
const NAMES: f64 = 512.0;
/// Of what is free, the share that is planned with.
const PLANNED: f64 = 0.95;
/// Ways to work, the fastest first: sequences of a pass, and whether layers run twice. Passes of few sequences cost
/// little, running every layer twice a third of the speed.
const WAYS: [(usize, bool); 9] = [
    (32, false),
    (16, false),
    (8, false),
    (4, false),
    (32, true),
    (16, true),
    (8, true),
    (4, true),
    (1, true),
];

/// How an engine is to work for this learner on the model of a folder; what is chosen for want of memory is told in one
/// line. Nothing of it changes what is computed, but for the last bits.
///
/// # Errors
/// [`Error::Memory`] when no way to work fits.
pub(crate) fn settings(config: &Qwen3VlLora, folder: &Path, place: &DeviceSpec) -> Result<Settings> {
    let default = Settings {
        checkpointing: config.checkpointing,
        ..Settings::default()
    };
    let (Some(shape), Ok(processor)) = (Shape::read(folder), PatchProcessor::load(folder)) else {
        // What is wrong with the folder is told by those who load it.
        return Ok(default);
    };
    let side = config.longest_side;
    let Ok((height, width)) = processor.size(side, side) else {
        return Ok(default);
    };
    let visual = f64::from(height) * f64::from(width) / (processor.token_side() as f64).powi(2);
    let how = Use {
        lora: config.into(),
        adapters: TOGETHER as f64,
        weight_bytes: bytes(place),
        fused: place.device.is_cpu(),
        batch: config.batch as f64,
        micro_batch: default.micro_batch as f64,
        checkpointing: config.checkpointing,
        visual,
        text: TEXT,
        answer: ANSWER,
        names: NAMES,
        pictures: config.batch as f64,
        threads: rayon::current_num_threads() as f64,
    };
    fitting(&shape, &how, default, place, folder)
}

/// The same for a use that is known; where nothing tells how much memory there is, as by default.
///
/// # Errors
/// [`Error::Memory`] when no way to work fits.
pub(crate) fn fitting(
    shape: &Shape,
    how: &Use,
    default: Settings,
    place: &DeviceSpec,
    folder: &Path,
) -> Result<Settings> {
    match memory::free(&place.device)? {
        Some(free) => choose(shape, how, default, free, folder),
        None => Ok(default),
    }
}

/// The first way to work whose demand is within `free` bytes.
fn choose(shape: &Shape, how: &Use, default: Settings, free: u64, folder: &Path) -> Result<Settings> {
    let ways = WAYS.iter().filter(|(_, again)| *again || !default.checkpointing);
    let room = (PLANNED * free as f64) as u64;
    let mut least = u64::MAX;
    for (number, &(micro_batch, checkpointing)) in ways.enumerate() {
        let how = Use {
            micro_batch: micro_batch as f64,
            checkpointing,
            ..how.clone()
        };
        let (train, answer) = (training(shape, &how), answering(shape, &how));
        let needed = train.total().max(answer.total());
        if needed <= room {
            if number > 0 {
                tell(folder, &train, needed, free, micro_batch, checkpointing);
            }
            return Ok(Settings {
                micro_batch,
                checkpointing,
                ..default
            });
        }
        least = least.min(needed);
    }
    Err(Error::Memory {
        path: folder.to_path_buf(),
        needed: least,
        free,
    })
}

fn tell(folder: &Path, train: &Demand, needed: u64, free: u64, micro_batch: usize, checkpointing: bool) {
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    tracing::warn!(
        "`{}`: {micro_batch} sequences a pass{}, chosen for {:.1} GB of memory of which {:.1} GB will be needed (weights {:.1}, \
         states {:.1})",
        folder.display(),
        if checkpointing { ", layers run twice" } else { "" },
        gigabytes(free),
        gigabytes(needed),
        gigabytes(train.weights),
        gigabytes(train.activations)
    );
}

/// Images of a pass of a learner on a frozen vision model, `loaded` already or not: as many as it learns from at once, or
/// as there is memory for, which is told.
///
/// # Errors
/// [`Error::Memory`] when not even one image fits, or what is asked about at once does not.
pub(crate) fn images_of_a_pass(learner: &Learner, folder: &Path, place: &DeviceSpec, loaded: bool) -> Result<usize> {
    let trained = match learner {
        Learner::Dinov2Lora(config) => Some(config),
        _ => None,
    };
    let batch = trained.map_or(BATCH, |config| config.batch);
    let (Some(shape), Ok(processor)) = (Shape::read(folder), ImageProcessor::load(folder)) else {
        return Ok(batch);
    };
    let Kind::Vision(blocks) = shape.kind else {
        return Ok(batch);
    };
    let (height, width) = processor.size();
    let visual = (height as f64 / blocks.patch).floor() * (width as f64 / blocks.patch).floor();
    let how = |batch: usize| Use {
        lora: trained.map(Lora::from).unwrap_or_default(),
        adapters: 1.0,
        weight_bytes: bytes(place),
        fused: place.device.is_cpu(),
        batch: batch as f64,
        micro_batch: batch as f64,
        checkpointing: false,
        visual,
        text: 0.0,
        answer: 0.0,
        names: 0.0,
        pictures: 0.0,
        threads: rayon::current_num_threads() as f64,
    };
    let Some(free) = memory::free(&place.device)? else {
        return Ok(batch);
    };
    let answer = answering(&shape, &how(BATCH));
    let free = free + if loaded { answer.weights } else { 0 };
    let needed = |pass: usize| {
        let train = trained.map_or(0, |_| training(&shape, &how(pass)).total());
        train.max(answer.total())
    };
    let pass = pass_within(batch, free, needed).ok_or_else(|| Error::Memory {
        path: folder.to_path_buf(),
        needed: needed(1),
        free,
    })?;
    if pass < batch {
        let (needed, free) = (needed(pass) as f64 / 1e9, free as f64 / 1e9);
        let folder = folder.display();
        tracing::warn!(
            "`{folder}`: {pass} images a pass in training, chosen for {free:.1} GB of memory of which {needed:.1} GB will be needed"
        );
    }
    Ok(pass)
}

/// A batch, or the largest of its halves, that needs no more than `free` bytes.
fn pass_within(batch: usize, free: u64, needed: impl Fn(usize) -> u64) -> Option<usize> {
    let halves = std::iter::successors(Some(batch.max(1)), |pass| (*pass > 1).then(|| pass.div_ceil(2)));
    halves.into_iter().find(|pass| needed(*pass) <= free)
}

fn bytes(place: &DeviceSpec) -> f64 {
    if place.dtype == DType::F32 { 4.0 } else { 2.0 }
}

/// What a learner takes at most, with so many bytes a number of states and weights.
pub(super) fn demand(learner: &Learner, shape: &Shape, tokens: f64, bytes: f64) -> Demand {
    let (lora, adapters, batch, checkpointing) = match learner {
        Learner::Qwen3VlLora(config) => (Some(config.into()), TOGETHER, config.batch, config.checkpointing),
        Learner::Dinov2Lora(config) => (Some(config.into()), 1, config.batch, false),
        _ => (None::<Lora>, 1, BATCH, false),
    };
    let how = Use {
        lora: lora.clone().unwrap_or_default(),
        adapters: adapters as f64,
        weight_bytes: bytes,
        fused: true,
        batch: batch as f64,
        micro_batch: batch as f64,
        checkpointing,
        visual: tokens,
        text: work::PROMPT + work::ANSWER,
        answer: work::ANSWER,
        names: 0.0,
        pictures: batch as f64,
        threads: rayon::current_num_threads() as f64,
    };
    let passing = |demand: Demand| demand.of_states(bytes);
    let answer = passing(answering(shape, &how));
    match lora {
        Some(_) => std::cmp::max_by_key(answer, passing(training(shape, &how)), Demand::total),
        None => answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    fn asked(name: &str, free: u64, checkpointing: bool) -> Result<Settings> {
        let config: Qwen3VlLora = toml::from_str("model = 'm'").unwrap();
        let how = Use {
            lora: (&config).into(),
            adapters: 1.0,
            weight_bytes: 2.0,
            fused: true,
            batch: 32.0,
            micro_batch: 32.0,
            checkpointing,
            visual: 225.0,
            text: TEXT,
            answer: ANSWER,
            names: NAMES,
            pictures: 32.0,
            threads: 2.0,
        };
        let default = Settings {
            checkpointing,
            ..Settings::default()
        };
        choose(&Shape::known(name).unwrap(), &how, default, free, Path::new(name))
    }

    #[test]
    fn less_memory_means_smaller_passes_then_layers_run_twice_then_no() {
        let way = |free: u64| asked("qwen3-vl-8b", free, false).map(|s| (s.micro_batch, s.checkpointing));
        assert_eq!(way(400 * GB).unwrap(), (32, false));
        let mut last = 0;
        for free in (20..400).rev() {
            let place = match way(free * GB) {
                Ok(way) => WAYS.iter().position(|known| *known == way).unwrap(),
                Err(Error::Memory { needed, free, .. }) => {
                    assert!(needed as f64 > 0.95 * free as f64);
                    WAYS.len()
                }
                Err(other) => panic!("{other}"),
            };
            assert!(place >= last, "{free} GB: way {place} after {last}");
            last = place;
        }
        assert_eq!(last, WAYS.len());
        assert!(way(60 * GB).unwrap().0 < 32);
    }

    #[test]
    fn what_the_user_set_is_kept() {
        assert!(asked("qwen3-vl-8b", 400 * GB, true).unwrap().checkpointing);
    }

    /// On this machine, as every test before.
    #[test]
    fn the_micro_model_works_as_ever() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/mini/models/micro-qwen3-vl");
        let config: Qwen3VlLora = toml::from_str("model = 'm'").unwrap();
        assert_eq!(
            settings(&config, &folder, &DeviceSpec::cpu()).unwrap(),
            Settings::default()
        );
    }

    #[test]
    fn a_vision_model_learns_in_passes_that_fit() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/mini/models/micro-dinov2");
        let learner = Learner::parse("dinov2-lora", &folder, &[]).unwrap();
        assert_eq!(
            images_of_a_pass(&learner, &folder, &DeviceSpec::cpu(), false).unwrap(),
            32
        );
        let huge = Learner::parse("dinov2-lora", &folder, &["batch=100000000".into()]).unwrap();
        let pass = images_of_a_pass(&huge, &folder, &DeviceSpec::cpu(), false).unwrap();
        assert!((32..100_000_000).contains(&pass), "{pass}");

        let needed = |pass: usize| 10 * pass as u64;
        let within = |free| pass_within(33, free, needed);
        assert_eq!(
            [1000, 330, 329, 170, 90, 10, 9].map(within),
            [Some(33), Some(33), Some(17), Some(17), Some(9), Some(1), None]
        );
    }
}
