//! Readings of a model that runs here: against transformers, and of a model that was taught names.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use image::{Rgb, RgbImage};
use kshot::backend::{Backend, LocalBackend, Sampler, Weights};
use kshot::config::ExpertLora;
use kshot::engine::{AdamParams, AdapterConfig, SamplingParams, Settings};
use kshot::example::{Datum, Grid, ModelInput, PatchProcessor, Picture, Renderer};
use kshot::learner::reading::{Answer, Answers};
use kshot::models::lora::Lora;
use kshot::models::qwen3_vl::Qwen3Vl;
use kshot::nn::DeviceSpec;
use kshot::prediction::Reading;

use crate::goldens::{self, Golden, tolerance};
use crate::qwen_support::Greedy as _;

const LOG_PROB: f64 = 3e-4;
const ALL: [Reading; 3] = [Reading::Free, Reading::Trie, Reading::Likelihood];

/// What `tests/slow/readings.py` writes.
fn readings(golden: &Golden) -> PathBuf {
    golden.expected.join("readings.json")
}

/// The fixtures whose readings are known: of the committed ones the first.
fn known() -> Vec<Golden> {
    let mut all = goldens::qwen3_vl();
    if !all.iter().any(|golden| readings(golden).is_file()) {
        all = goldens::committed_qwen3_vl();
    }
    all.retain(|golden| readings(golden).is_file());
    assert!(!all.is_empty());
    all
}

fn backend(model: &Path) -> LocalBackend {
    LocalBackend::load(model, &DeviceSpec::cpu(), Settings::default()).unwrap()
}

/// Reads prompts one at a time.
fn one_by_one(
    answers: &Answers,
    sampler: &mut dyn Sampler,
    prompts: &[ModelInput],
    hints: Option<&[u32]>,
) -> Vec<Answer> {
    let one = |(i, prompt): (usize, &ModelInput)| {
        let (prompt, readings) = (
            std::slice::from_ref(prompt),
            &ALL[..if hints.is_some() { 1 } else { 3 }],
        );
        answers
            .read(sampler, prompt, readings, hints.map(|hints| &hints[i..=i]))
            .unwrap()
            .remove(0)
    };
    prompts.iter().enumerate().map(one).collect()
}

#[test]
fn log_probabilities_and_greedy_text_equal_those_of_transformers() {
    for golden in known() {
        let expected: serde_json::Value = serde_json::from_slice(&std::fs::read(readings(&golden)).unwrap()).unwrap();
        let names: Vec<String> = serde_json::from_value(expected["names"].clone()).unwrap();
        let renderer = Renderer::load(&golden.model, None).unwrap();
        let answers = Answers::new(&renderer, &names, "").unwrap();
        let (mut prompts, mut log_probs, mut greedy) = (Vec::new(), Vec::new(), Vec::new());
        for read in expected["pictures"].as_array().unwrap() {
            let [width, height] = serde_json::from_value(read["size"].clone()).unwrap();
            let number = read["number"].as_u64().unwrap() as u32;
            let level =
                |x: u32, y: u32, channel: u32| ((x * (5 + number) + y * 3 * (number + 1) + channel * 90) % 256) as u8;
            let image = RgbImage::from_fn(width, height, |x, y| Rgb([0, 1, 2].map(|channel| level(x, y, channel))));
            let picture = renderer.picture(&image, &number.to_string(), false).unwrap();
            let prompt = renderer.question(Some(&picture)).unwrap();
            assert_eq!(prompt.positions() as u64, read["positions"].as_u64().unwrap());
            prompts.push(prompt);
            log_probs.push(serde_json::from_value::<Vec<f64>>(read["log_probs"].clone()).unwrap());
            greedy.push(serde_json::from_value::<Vec<u32>>(read["greedy"].clone()).unwrap());
        }
        assert!(prompts.len() > 1 && log_probs.iter().all(|log_probs| log_probs.len() == names.len()));
        let mut sampler = backend(&golden.model).sampler(&Weights::Base).unwrap();
        let allowed = tolerance(LOG_PROB, &golden.notes()["checks"]["noise_fp32_logits_max_abs"]);
        let matches = |found: Vec<Vec<f32>>, how: &str| {
            for (found, expected) in found.iter().flatten().zip(log_probs.iter().flatten()) {
                let error = (f64::from(*found) - expected).abs();
                assert!(error <= allowed, "{} {how}: {found} is not {expected}", golden.name);
            }
        };
        let likelihoods = |answers: Vec<Answer>| answers.into_iter().map(|answer| answer.log_probs.unwrap()).collect();
        matches(
            likelihoods(one_by_one(&answers, &mut *sampler, &prompts, None)),
            "by the tree",
        );
        let batched = answers.read(&mut *sampler, &prompts, &ALL, None).unwrap();
        matches(likelihoods(batched), "by trees, batched");
        let single = |prompt: &ModelInput| {
            let one = |name: &Vec<u32>| {
                let prompt = std::slice::from_ref(prompt);
                let scores = sampler.compute_logprobs(prompt, &[std::slice::from_ref(name)]).unwrap();
                scores[0][0].iter().map(|score| score.logprob).sum()
            };
            answers.tokens().iter().map(one).collect()
        };
        matches(prompts.iter().map(single).collect(), "name by name");
        let params = SamplingParams::greedy(greedy[0].len(), vec![renderer.prompter().end()]);
        let said = sampler.sample(&prompts, &params).unwrap();
        assert_eq!(said.into_iter().map(|said| said.tokens).collect::<Vec<_>>(), greedy);
    }
}

/// A model that has learned, not too well, to write names for patterns.
struct Pupil {
    renderer: Renderer,
    model: PathBuf,
    pictures: Vec<Picture>,
    truth: Vec<u32>,
    names: Vec<String>,
    adapter: tempfile::TempDir,
}

const STEPS: usize = 60;
const NAMES: [&str; 5] = ["cat", "cat fish", "red_fox", "red", "Dog"];

impl Pupil {
    fn teach() -> (Self, Box<dyn Sampler>) {
        let mut fixtures = goldens::committed_qwen3_vl();
        fixtures.retain(|golden| golden.model.join("tokenizer.json").is_file());
        let model = fixtures.remove(0).model;
        let renderer = Renderer::load(&model, Some(64)).unwrap();
        let names: Vec<String> = NAMES.iter().map(|&name| name.to_owned()).collect();
        let answers = Answers::new(&renderer, &names, "").unwrap();
        // One colour a class, from clear to faint.
        let picture = |i: u32| {
            let (class, faint) = (i % 5, (i / 5) as u8 * 10);
            let (width, height) = (64 + 16 * (i % 3), 64);
            let mut image = RgbImage::from_pixel(width, height, Rgb([128, 128, 128]));
            for (x, y, pixel) in image.enumerate_pixels_mut() {
                let level = if (x / 8 + y / 8 * class) % 2 == 0 {
                    250 - faint
                } else {
                    5 + faint
                };
                *pixel = Rgb([0, 1, 2].map(|channel| if (class + 1) >> channel & 1 == 1 { level } else { 128 }));
            }
            renderer.picture(&image, &format!("picture {i}"), false).unwrap()
        };
        let pictures: Vec<Picture> = (0..60).map(picture).collect();
        let truth: Vec<u32> = (0..60).map(|i| i % 5).collect();
        let datum = |i: usize| {
            let answer = &answers.tokens()[truth[i] as usize];
            Datum::answered(renderer.question(Some(&pictures[i])).unwrap(), answer, 0.1)
        };
        let data: Vec<Datum> = (0..10).map(datum).collect();
        let backend = backend(&model);
        let targets = [
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ];
        let config = AdapterConfig {
            lora: Lora {
                targets: targets.map(str::to_owned).to_vec(),
                rank: 8,
                alpha: 16.0,
                experts: ExpertLora::Each,
            },
            seed: 1,
            start: None,
        };
        let mut trainer = backend.trainer(&config).unwrap();
        let params = AdamParams {
            learning_rate: 1e-2,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.0,
            grad_clip_norm: Some(1.0),
        };
        for _ in 0..STEPS {
            trainer.train_step(&data, &params).unwrap();
        }
        let adapter = tempfile::tempdir().unwrap();
        let folder = adapter.path().join("adapter");
        trainer.save_weights_for_sampler(folder.to_str().unwrap()).unwrap();
        let pupil = Self {
            renderer,
            model,
            pictures,
            truth,
            names,
            adapter,
        };
        (pupil, trainer.sampler().unwrap())
    }
}

#[test]
fn a_taught_model_is_read_the_same_in_every_way() {
    let (pupil, mut sampler) = Pupil::teach();
    let base = Qwen3Vl::load(&pupil.model, &DeviceSpec::cpu()).unwrap();
    let taught = base.load_adapter(&pupil.adapter.path().join("adapter")).unwrap();
    assert!(read_in_every_way(&pupil, &mut *sampler, &taught) > 10);
    // What has learned nothing writes no names: everything is decoded.
    let mut sampler = backend(&pupil.model).sampler(&Weights::Base).unwrap();
    assert!(read_in_every_way(&pupil, &mut *sampler, &base) < 10);
}

/// Compares what is read all at once, one by one, free only with all kinds of hints, and by the model itself;
/// gives how many of the 60 free answers are names.
fn read_in_every_way(pupil: &Pupil, sampler: &mut dyn Sampler, model: &Qwen3Vl) -> usize {
    let answers = Answers::new(&pupil.renderer, &pupil.names, "").unwrap();
    let question = |picture: &Picture| pupil.renderer.question(Some(picture)).unwrap();
    let prompts: Vec<ModelInput> = pupil.pictures.iter().map(question).collect();
    let all = answers.read(sampler, &prompts, &ALL, None).unwrap();
    for (found, batched) in one_by_one(&answers, sampler, &prompts, None).iter().zip(&all) {
        let pairs = found.log_probs.iter().flatten().zip(batched.log_probs.iter().flatten());
        for (found, batched) in pairs {
            assert!(
                (found - batched).abs() <= 1e-5 * batched.abs().max(1.0),
                "{found} {batched}"
            );
        }
        assert_eq!(
            (&found.free_text, found.free_class),
            (&batched.free_text, batched.free_class)
        );
        assert_eq!(found.trie_class, batched.trie_class);
    }

    let mut shuffled = pupil.truth.clone();
    shuffled.rotate_left(7);
    for hints in [None, Some(&pupil.truth), Some(&shuffled)] {
        let hints = hints.map(Vec::as_slice);
        let free = answers.read(sampler, &prompts, &[Reading::Free], hints).unwrap();
        let alone = hints.map(|hints| one_by_one(&answers, sampler, &prompts, Some(hints)));
        for (free, all) in free.iter().chain(alone.iter().flatten()).zip(all.iter().cycle()) {
            assert_eq!((&free.free_text, free.free_class), (&all.free_text, all.free_class));
            assert_eq!((free.trie_class, &free.log_probs), (None, &None));
        }
    }

    // The model itself, asked without sampler, scores or shortcut, writes the same.
    let processor = PatchProcessor::load(&pupil.model).unwrap();
    let (prompter, end) = (pupil.renderer.prompter(), pupil.renderer.prompter().end());
    let longest = answers.tokens().iter().map(Vec::len).max().unwrap();
    for (picture, answer) in pupil.pictures.iter().zip(&all) {
        let patches = processor.patches(&picture.pixels, false).unwrap();
        let grid: Grid = patches.grid;
        let values = Tensor::from_vec(patches.values, (grid.patches(), processor.patch_width()), &Device::Cpu).unwrap();
        let features = model.image_features(&values, &[grid]).unwrap();
        let sequence = prompter.question(grid).unwrap();
        let said = model
            .generate(&[sequence], Some(&features), longest + 8, &[end])
            .unwrap()
            .remove(0);
        let text = prompter.tokenizer().decode(&said).unwrap();
        assert_eq!(answer.free_text.as_deref(), Some(text.trim()));
        assert!(answer.free_class.is_none() || said.last() == Some(&end));
    }
    all.iter().filter(|answer| answer.free_class.is_some()).count()
}
