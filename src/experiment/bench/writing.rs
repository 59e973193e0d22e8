//! A Qwen3-VL at work, through the engine.

use std::collections::HashMap;
use std::iter::repeat_n;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use rand::Rng as _;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::{Benchmark, Dataset, Request, Work};
use crate::cost::fit::fitting;
use crate::cost::memory::{Use, answering, training};
use crate::cost::operations::Pass;
use crate::cost::shape::{Kind, Shape, Writing};
use crate::engine::{AdamParams, AdapterConfig, AdapterId, Engine, SamplingParams, Settings, Snapshot};
use crate::error::Result;
use crate::example::{Chunk, Datum, ModelInput, PatchProcessor, Picture, PictureKey, shrink};
use crate::formats::image::decode;
use crate::learner::qwen3_vl_lora::Qwen3VlLora;
use crate::models::lora::Lora;
use crate::models::qwen3_vl::{Config, PrefixTree};
use crate::seed;

/// Of the free answers, the share that is no class name and has to be decoded.
const DECODED: f64 = 0.15;

pub(super) struct WritingBenchmark {
    engine: Engine,
    adapter: AdapterId,
    snapshot: Option<Snapshot>,
    processor: PatchProcessor,
    dataset: Dataset,
    model: Writing,
    shape: Shape,
    placeholder: u32,
    /// JPEG files.
    photographs: Vec<Vec<u8>>,
    /// Pixels that a picture's longest side is shrunk to.
    longest_side: u32,
    pictures: Vec<Picture>,
    names: Vec<Vec<u32>>,
    /// Tokens of text are below it.
    vocabulary: u32,
    how: Use,
    /// Counts what has been shown, so that something new can be.
    round: usize,
}

impl WritingBenchmark {
    pub(super) fn load(request: &Request, shape: Shape) -> Result<Self> {
        let Kind::Writing(model) = shape.kind else {
            return Err(super::unknown(request));
        };
        let dir = &request.checkpoint;
        let learner: Qwen3VlLora = super::defaults()?;
        let lora = Lora::from(&learner).of_rank(request.rank.unwrap_or(learner.rank));
        let dataset = request.dataset;
        let processor = PatchProcessor::load(dir)?;
        let config = Config::load(dir)?.0;
        let vocabulary = config.image_token_id.min(config.text_config.vocab_size as u32);
        let photographs = dataset.photographs(request.batch)?;
        let pictures = pictures(&photographs, learner.longest_side, &processor)?;
        let names = dataset.names(vocabulary);
        let default = Settings::default();
        let mean = names.iter().map(Vec::len).sum::<usize>() as f64 / names.len() as f64;
        let mut how = Use {
            micro_batch: default.micro_batch as f64,
            checkpointing: default.checkpointing,
            visual: pictures.first().map_or(0, |picture| picture.tokens) as f64,
            text: dataset.around.iter().sum::<usize>() as f64 + mean,
            answer: mean,
            names: PrefixTree::new(&names)?.tokens().len() as f64,
            ..super::usage(request, &lora)
        };
        let settings = fitting(&shape, &how, default, &request.place, dir)?;
        how.micro_batch = settings.micro_batch as f64;
        how.checkpointing = settings.checkpointing;
        let engine = Engine::load(dir, &request.place, settings)?;
        let (seed, start) = (0, None);
        let adapter = engine.add(&AdapterConfig { lora, seed, start })?;
        Ok(Self {
            engine,
            adapter,
            snapshot: None,
            processor,
            dataset,
            model,
            shape,
            placeholder: config.image_token_id,
            photographs,
            longest_side: learner.longest_side,
            pictures,
            names,
            vocabulary,
            how,
            round: 0,
        })
    }

    /// Questions about pictures that were never shown.
    fn new_questions(&mut self) -> Vec<ModelInput> {
        self.round += 1;
        questions(&self.dataset, &unseen(&self.pictures, self.round), self.vocabulary)
    }

    fn lessons(&self) -> Vec<Datum> {
        lessons(&questions(&self.dataset, &self.pictures, self.vocabulary), &self.names)
    }

    fn train(&mut self, data: &[Datum]) -> Result<()> {
        // What was trained since is not in it.
        self.snapshot = None;
        self.engine.forward_backward(self.adapter, data)?;
        self.engine.optim_step(self.adapter, &step(1e-4))?;
        Ok(())
    }

    /// The adapter as it is now.
    fn asked(&mut self) -> Result<Snapshot> {
        let snapshot = match &mut self.snapshot {
            Some(snapshot) => snapshot,
            none => none.insert(self.engine.snapshot(self.adapter)?),
        };
        Ok(snapshot.clone())
    }

    /// The true name of every image is scored, and some answers are decoded: as long as names are, since random weights
    /// never end one.
    fn free(&mut self) -> Result<()> {
        let prompts = self.new_questions();
        let snapshot = self.asked()?;
        let hints: Vec<&[Vec<u32>]> = (0..prompts.len())
            .map(|i| std::slice::from_ref(&self.names[i % self.names.len()]))
            .collect();
        self.engine.compute_logprobs(&snapshot, &prompts, &hints)?;
        let params = SamplingParams::greedy(self.decoded_tokens(), vec![self.vocabulary - 1]);
        self.engine.sample(&snapshot, &prompts[..self.decoded()], &params)?;
        Ok(())
    }

    /// Images of a batch whose answers are decoded.
    fn decoded(&self) -> usize {
        ((DECODED * self.pictures.len() as f64).round() as usize).max(1)
    }

    fn decoded_tokens(&self) -> usize {
        self.how.answer.round() as usize
    }

    fn pass(&self, length: f64, answers: f64) -> f64 {
        self.model.forward(Pass { length, answers })
    }
}

/// A step of AdamW as training takes it.
fn step(rate: f64) -> AdamParams {
    AdamParams {
        learning_rate: rate,
        grad_clip_norm: Some(1.0),
        ..AdamParams::default()
    }
}

impl Benchmark for WritingBenchmark {
    fn phases(&self) -> &'static [&'static str] {
        &[
            "train",
            "train, new pictures",
            "answer freely",
            "answer by trie",
            "answer by likelihood",
            "from JPEG",
            "answer from JPEG",
        ]
    }

    fn work(&self, phase: &str) -> Work {
        let images = self.pictures.len() as f64;
        let (visual, answer) = (self.how.visual, self.how.answer);
        let prompt = visual + self.dataset.around.iter().sum::<usize>() as f64;
        let read = prompt + answer - 1.0;
        let adapters = self.shape.adapted(&self.how.lora).active;
        let (length, answers) = (read, answer);
        let lesson = self.model.train(Pass { length, answers }, adapters);
        let see = self.model.see(visual);
        let decoded = self.decoded() as f64 / images;
        let written = self.pass(prompt, 1.0) + (self.decoded_tokens() as f64 - 1.0) * self.pass(1.0, 1.0);
        let free = see + self.pass(read, answer) + decoded * written;
        let (tokens, operations) = match phase {
            "train" => (read, lesson),
            "train, new pictures" => (read, lesson + see),
            "answer freely" | "answer from JPEG" => (read + decoded * (prompt + self.decoded_tokens() as f64), free),
            "from JPEG" => (0.0, 0.0),
            _ => (
                prompt + self.how.names,
                see + self.pass(prompt + self.how.names, self.how.names + 1.0),
            ),
        };
        let shown = if phase == "train" { 1 } else { 1 + self.round };
        let how = Use {
            pictures: images * shown as f64,
            names: match phase.starts_with("answer by") {
                true => self.how.names,
                false => answer,
            },
            ..self.how.clone()
        };
        let estimate = match phase {
            "train" | "train, new pictures" => Some(training(&self.shape, &how).total()),
            "from JPEG" => None,
            _ => Some(answering(&self.shape, &how).total()),
        };
        Work {
            images: self.pictures.len(),
            tokens: images * tokens,
            operations: images * operations,
            estimate,
        }
    }

    fn repeat(&mut self, phase: &str) -> Result<()> {
        match phase {
            "train" => self.train(&self.lessons())?,
            "train, new pictures" => {
                let data = lessons(&self.new_questions(), &self.names);
                self.train(&data)?;
            }
            "answer freely" => self.free()?,
            "from JPEG" => {
                let shown = pictures(&self.photographs, self.longest_side, &self.processor)?;
                let cut = |picture: &Picture| self.processor.patches(&picture.pixels, false).map(drop);
                shown.par_iter().map(cut).collect::<Result<()>>()?;
            }
            "answer from JPEG" => {
                self.pictures = pictures(&self.photographs, self.longest_side, &self.processor)?;
                self.free()?;
            }
            // Both readings are taken from the scores of all names.
            _ => {
                let snapshot = self.asked()?;
                let prompts = self.new_questions();
                let all = vec![&self.names[..]; prompts.len()];
                self.engine.compute_logprobs(&snapshot, &prompts, &all)?;
            }
        }
        self.engine.synchronize()
    }

    fn trained(&self) -> u64 {
        self.shape.adapted(&self.how.lora).numbers as u64
    }

    fn tokens(&self) -> [f64; 3] {
        [self.how.visual, self.how.text, self.how.answer]
    }

    fn exchange(&mut self, dir: &Path) -> Result<Value> {
        // A fresh adapter changes nothing, and half of its gradients are zero.
        let data = self.lessons();
        self.engine.forward_backward(self.adapter, &data)?;
        self.engine.optim_step(self.adapter, &step(1e-2))?;
        self.engine
            .save_weights_for_sampler(self.adapter, &dir.join("adapter"))?;
        let loss = self.engine.forward_backward(self.adapter, &data)?.loss_sum;
        let mut tensors: HashMap<String, Tensor> = HashMap::new();
        for (name, gradient) in self.engine.gradients(self.adapter)? {
            tensors.insert(format!("grad.{name}"), gradient.to_device(&Device::Cpu)?);
        }
        self.engine.optim_step(self.adapter, &step(0.0))?;
        let longest = data.iter().map(|datum| datum.input.positions()).max().unwrap_or(0);
        let image = i64::from(self.placeholder);
        let (mut ids, mut mask, mut targets, mut weights) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for datum in &data {
            let padding = longest - datum.input.positions();
            for chunk in &datum.input.chunks {
                match chunk {
                    Chunk::Tokens(tokens) => ids.extend(tokens.iter().map(|&id| i64::from(id))),
                    Chunk::Picture(picture) => ids.extend(repeat_n(image, picture.tokens)),
                }
            }
            mask.extend(repeat_n(1i64, datum.input.positions()));
            targets.extend(datum.target_tokens.iter().map(|&id| i64::from(id)));
            weights.extend(&datum.weights);
            for list in [&mut ids, &mut mask, &mut targets] {
                list.extend(repeat_n(0, padding));
            }
            weights.extend(repeat_n(0f32, padding));
        }
        let rows = (data.len(), longest);
        let integers = |values: Vec<i64>| Tensor::from_vec(values, rows, &Device::Cpu);
        for (name, values) in [("input_ids", ids), ("attention_mask", mask), ("targets", targets)] {
            tensors.insert(name.into(), integers(values)?);
        }
        tensors.insert("weights".into(), Tensor::from_vec(weights, rows, &Device::Cpu)?);
        let (mut values, mut grids) = (Vec::new(), Vec::new());
        for picture in &self.pictures {
            let patches = self.processor.patches(&picture.pixels, false)?;
            grids.extend([1, patches.grid.rows as i64, patches.grid.columns as i64]);
            values.extend(patches.values);
        }
        let width = self.processor.patch_width();
        let patches = values.len() / width;
        let values = Tensor::from_vec(values, (patches, width), &Device::Cpu)?;
        tensors.insert("pixel_values".into(), values);
        let grids = Tensor::from_vec(grids, (self.pictures.len(), 3), &Device::Cpu)?;
        tensors.insert("image_grid_thw".into(), grids);
        super::save(&tensors, dir)?;
        Ok(json!({
            "kind": "qwen3_vl",
            "loss": loss,
            "images": self.pictures.len(),
            "prompt_tokens": self.dataset.around.iter().sum::<usize>() + self.how.visual as usize,
            "decoded": self.decoded(),
            "decoded_tokens": self.decoded_tokens(),
        }))
    }
}

/// JPEG files as a Qwen3-VL is shown them.
fn pictures(files: &[Vec<u8>], longest_side: u32, processor: &PatchProcessor) -> Result<Vec<Picture>> {
    let one = |(number, bytes): (usize, &Vec<u8>)| {
        let whole = decode(bytes, "a photograph")?;
        let pixels = shrink(&whole, longest_side);
        let tokens = processor.grid(&pixels)?.tokens(processor.merge());
        Ok(Picture {
            pixels: Arc::new(pixels),
            key: PictureKey {
                sha256: format!("{number}").into(),
                mirrored: false,
            },
            tokens,
        })
    };
    files.par_iter().enumerate().map(one).collect()
}

/// The same pictures under names that no model has met: what is kept of them is of no use.
fn unseen(pictures: &[Picture], round: usize) -> Vec<Picture> {
    let renamed = |(number, picture): (usize, &Picture)| Picture {
        key: PictureKey {
            sha256: format!("{round}/{number}").into(),
            mirrored: false,
        },
        ..picture.clone()
    };
    pictures.iter().enumerate().map(renamed).collect()
}

/// The questions about pictures, texts of tokens below `vocabulary`.
fn questions(dataset: &Dataset, pictures: &[Picture], vocabulary: u32) -> Vec<ModelInput> {
    let mut rng = seed::rng(0, "bench/question");
    let [before, after] = dataset.around.map(|count| -> Vec<u32> {
        let token = |_| rng.random_range(0..vocabulary - 1);
        (0..count).map(token).collect()
    });
    let question = |picture: &Picture| ModelInput {
        chunks: vec![
            Chunk::Tokens(before.clone()),
            Chunk::Picture(picture.clone()),
            Chunk::Tokens(after.clone()),
        ],
    };
    pictures.iter().map(question).collect()
}

/// The same with the names of classes in turn, to be learned: the loss is the mean over their tokens.
fn lessons(questions: &[ModelInput], names: &[Vec<u32>]) -> Vec<Datum> {
    let named: Vec<(&ModelInput, &Vec<u32>)> = questions.iter().zip(names.iter().cycle()).collect();
    let tokens: usize = named.iter().map(|(_, name)| name.len()).sum();
    let weight = 1.0 / tokens.max(1) as f32;
    let lesson = |(question, name): (&ModelInput, &Vec<u32>)| Datum::answered(question.clone(), name, weight);
    named.into_iter().map(lesson).collect()
}
