//! Fits a learner into the memory of its device before its model is loaded: the fastest way to work that there is memory for.

use std::path::Path;

use candle_core::DType;

use super::memory::{Demand, STATE, Use, answering, training};
use super::operations::{ANSWER, PROMPT};
use super::shape::{Kind, Shape};
use crate::engine::Settings;
use crate::error::{Error, Result};
use crate::example::ImageProcessor;
use crate::models::lora::Lora;
use crate::nn::{DeviceSpec, memory};

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

/// Settings of an engine under which a use fits the free memory; what is chosen for want of memory is told in one line. Nothing of
/// it changes what is computed, but for the last bits. Where nothing tells how much memory there is, they are the default.
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
                let gigabytes = |bytes: u64| bytes as f64 / 1e9;
                tracing::warn!(
                    "`{}`: {micro_batch} sequences a pass{}, chosen for {:.1} GB of memory of which {:.1} GB will be needed \
                     (weights {:.1}, states {:.1})",
                    folder.display(),
                    if checkpointing { ", layers run twice" } else { "" },
                    gigabytes(free),
                    gigabytes(needed),
                    gigabytes(train.weights),
                    gigabytes(train.activations)
                );
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

/// Images of a pass of a learner on a frozen vision model, `loaded` already or not: as many as it learns from at once, or
/// as there is memory for, which is told. `trained`: adapters and batch of a learner that trains; `asked`: images that are asked
/// about at once.
///
/// # Errors
/// [`Error::Memory`] when not even one image fits, or what is asked about at once does not.
pub(crate) fn images_of_a_pass(
    trained: Option<(&Lora, usize)>,
    asked: usize,
    folder: &Path,
    place: &DeviceSpec,
    loaded: bool,
) -> Result<usize> {
    let batch = trained.map_or(asked, |(_, batch)| batch);
    let (Some(shape), Ok(processor)) = (Shape::read(folder), ImageProcessor::load(folder)) else {
        return Ok(batch);
    };
    let Kind::Vision(blocks) = shape.kind else {
        return Ok(batch);
    };
    let (height, width) = processor.size();
    let visual = (height as f64 / blocks.patch).floor() * (width as f64 / blocks.patch).floor();
    let how = |batch: usize| Use {
        lora: trained.map(|(lora, _)| lora.clone()).unwrap_or_default(),
        adapters: 1.0,
        weight_bytes: bytes(place),
        fused: place.device.is_cpu(),
        fused_adapters: place.device.is_cpu(),
        batch: batch as f64,
        micro_batch: batch as f64,
        visual,
        threads: rayon::current_num_threads() as f64,
        ..Use::default()
    };
    let Some(free) = memory::free(&place.device)? else {
        return Ok(batch);
    };
    let answer = answering(&shape, &how(asked));
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

/// Bytes of a frozen number.
pub(crate) fn bytes(place: &DeviceSpec) -> f64 {
    if place.dtype == DType::F32 { 4.0 } else { 2.0 }
}

/// Settings by which a learner fills memory.
pub(crate) struct Footprint {
    /// Adapters, if it trains.
    pub(crate) lora: Option<Lora>,
    /// Adapters that are kept at once.
    pub(crate) adapters: usize,
    /// Images a step, and asked about at once.
    pub(crate) batch: usize,
    /// Keep states between layers alone.
    pub(crate) checkpointing: bool,
}

impl Footprint {
    /// That of a learner on frozen features of so many images at once.
    pub(crate) fn frozen(batch: usize) -> Self {
        Self {
            lora: None,
            adapters: 1,
            batch,
            checkpointing: false,
        }
    }

    /// Memory at most for images of so many tokens, with so many bytes a number of states and weights.
    pub(crate) fn demand(self, shape: &Shape, tokens: f64, bytes: f64) -> Demand {
        let trains = self.lora.is_some();
        let how = Use {
            lora: self.lora.unwrap_or_default(),
            adapters: self.adapters as f64,
            weight_bytes: bytes,
            fused: true,
            // States are narrow on a GPU, where adapted layers are candle's operations.
            fused_adapters: bytes == STATE,
            batch: self.batch as f64,
            micro_batch: self.batch as f64,
            checkpointing: self.checkpointing,
            visual: tokens,
            text: PROMPT + ANSWER,
            answer: ANSWER,
            pictures: self.batch as f64,
            threads: rayon::current_num_threads() as f64,
            ..Use::default()
        };
        let answer = answering(shape, &how).of_states(bytes);
        if !trains {
            return answer;
        }
        let train = training(shape, &how).of_states(bytes);
        std::cmp::max_by_key(answer, train, Demand::total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    fn lora(targets: &[&str], rank: usize) -> Lora {
        Lora {
            targets: targets.iter().map(ToString::to_string).collect(),
            rank,
            alpha: rank as f64,
            ..Lora::default()
        }
    }

    fn qwen() -> Lora {
        let targets = [
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ];
        lora(&targets, 32)
    }

    fn asked(name: &str, free: u64, checkpointing: bool) -> Result<Settings> {
        let how = Use {
            lora: qwen(),
            adapters: 1.0,
            weight_bytes: 2.0,
            fused: true,
            fused_adapters: true,
            batch: 32.0,
            micro_batch: 32.0,
            checkpointing,
            visual: 225.0,
            text: 52.0,
            answer: 24.0,
            names: 512.0,
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

    #[test]
    fn a_vision_model_learns_in_passes_that_fit() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/mini/models/micro-dinov2");
        let lora = lora(
            &[
                "query",
                "key",
                "value",
                "output.dense",
                "fc1",
                "fc2",
                "weights_in",
                "weights_out",
            ],
            16,
        );
        let passes = |batch| images_of_a_pass(Some((&lora, batch)), 64, &folder, &DeviceSpec::cpu(), false);
        assert_eq!(passes(32).unwrap(), 32);
        let pass = passes(100_000_000).unwrap();
        assert!((32..100_000_000).contains(&pass), "{pass}");

        let needed = |pass: usize| 10 * pass as u64;
        let within = |free| pass_within(33, free, needed);
        assert_eq!(
            [1000, 330, 329, 170, 90, 10, 9].map(within),
            [Some(33), Some(33), Some(17), Some(17), Some(9), Some(1), None]
        );
    }
}
